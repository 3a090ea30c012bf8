//! Broadcasting without a rendezvous: prints an offer, reads viewers' answers from standard input, and
//! opens a path to each.

use std::sync::Arc;
use std::time::Duration;

use protocol::behaviour::Kind;
use protocol::candidate::{Candidate, CandidateKind};
use protocol::offer::{Answer, Offer};
use protocol::opening::{Config as Times, Role};
use protocol::signalling::{Introduction, Party};
use service::exit::{Code, Failure};
use service::listener::Readiness;
use tokio::sync::{mpsc, watch};
use transport::echo::{self, Echo};
use transport::effort::{Effort, Means};

use crate::session;
use crate::shared::Shared;
use crate::surroundings::Seen;

/// How often the STUN servers are asked again: that holds our binding, and shows a new address.
const LOOK_INTERVAL: Duration = Duration::from_secs(4);

/// Lines that may wait.
const MOST_LINES: usize = 16;

/// The lines of standard input, from a thread of its own: nothing waits for it when the process ends.
fn lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(MOST_LINES);
    std::thread::spawn(move || {
        let read = std::io::stdin().lines().map_while(Result::ok);
        for line in read {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Takes a line for people.
pub(crate) type Print = Box<dyn Fn(&str) -> Result<(), Failure> + Send>;

/// What an offer says besides addresses.
pub(crate) struct Offering {
    pub(crate) offer: Offer,
    pub(crate) shared: Arc<Shared>,
    /// Prints a line, and writes it where links are written to.
    pub(crate) print: Print,
    /// Where a STUN server sees us.
    pub(crate) seen: watch::Sender<Option<Seen>>,
    pub(crate) readiness: Readiness,
}

impl Offering {
    /// Offers until the process ends.
    pub(crate) async fn run(mut self) -> Result<(), Failure> {
        let mut seen = self.look().await.map_err(|error| {
            Failure::new(
                Code::RendezvousUnreachable,
                format!("{error}; name one that answers with --stun HOST:PORT"),
            )
        })?;
        self.tell(&seen);
        self.shared.surroundings.first_look().await;
        self.announce(&seen)?;
        self.readiness.set(Ok(()));
        tracing::info!(
            "give the offer to a viewer (punchcast-viewer answer OFFER), and paste its answer here"
        );
        let mut lines = lines();
        let mut changes = self.shared.surroundings.changes();
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(line) = lines.recv() => self.take(line.trim(), &seen),
                _ = look.tick() => {
                    let Ok(now) = self.look().await else { continue };
                    let changed = now.external != seen.external;
                    seen = now;
                    if changed {
                        tracing::info!("our external address changed; here is a new offer");
                        self.tell(&seen);
                        self.announce(&seen)?;
                    }
                }
                Ok(()) = changes.changed() => {
                    // The router maps a port now, say.
                    if self.candidates(&seen) != self.offer.candidates {
                        tracing::info!("our addresses changed; here is a new offer");
                        self.announce(&seen)?;
                    }
                }
            }
        }
    }

    /// Says where we are seen, so that the NAT here is looked at.
    fn tell(&self, seen: &Echo) {
        let Echo { server, external, .. } = *seen;
        self.seen.send_replace(Some(Seen { server, external }));
    }

    async fn look(&self) -> Result<Echo, echo::EchoError> {
        echo::ask(&self.shared.port, &self.offer.stun).await
    }

    fn announce(&mut self, seen: &Echo) -> Result<(), Failure> {
        if seen.agrees == Some(false) {
            tracing::warn!(
                "the NAT here gives another port for each destination: only viewers whose firewall \
                 lets in any port will reach this machine without a rendezvous"
            );
        }
        self.offer.candidates = self.candidates(seen);
        (self.print)(&self.offer.to_string())
    }

    fn candidates(&self, seen: &Echo) -> Vec<Candidate> {
        let own = self.shared.surroundings.candidates(&self.shared.port, seen.server);
        own.unwrap_or_default().into_iter().chain([seen.candidate()]).collect()
    }

    /// Takes a line from standard input.
    fn take(&self, line: &str, seen: &Echo) {
        if line.is_empty() {
            return;
        }
        match line.parse::<Answer>() {
            Ok(answer) => self.open(answer, seen),
            Err(error) => tracing::warn!("that is no viewer's answer: {error}"),
        }
    }

    fn open(&self, answer: Answer, seen: &Echo) {
        let Answer { credentials, candidates } = answer;
        if self.shared.efforts.contains_key(&credentials.id) {
            tracing::warn!("that answer was taken already");
            return;
        }
        let reflexive = candidates.iter().rev().find(|c| c.kind == CandidateKind::Reflexive);
        let Some(reflexive) = reflexive.or(candidates.last()).copied() else {
            tracing::warn!("that answer names no address");
            return;
        };
        let introduction = Introduction {
            id: credentials.id,
            secret: Some(credentials.secret),
            peer: Party { candidates, ..Party::default() },
            peer_observed: reflexive,
            observed: seen.candidate(),
            relay: None,
        };
        // Nobody passes updates on.
        let (updates, _) = mpsc::channel(1);
        let means = Means {
            port: Arc::clone(&self.shared.port),
            role: Role::Broadcaster,
            own: self.shared.surroundings.behaviour(),
            server: seen.server,
            allow_private: self.shared.allow_private,
            updates,
        };
        let times = Times::for_role(Role::Broadcaster);
        let own = self.candidates(seen);
        let started = Effort::start(means, &self.shared.openings, &introduction, own, times);
        let Some((opening, effort)) = started else { return };
        tracing::info!(viewer = %reflexive.address, "opening a path to a viewer that answered");
        tokio::spawn(session::serve(
            introduction.id,
            (opening, Kind::Unknown, None),
            effort,
            None,
            &self.shared,
        ));
    }
}
