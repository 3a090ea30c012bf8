//! Staying known to the rendezvous: registers, takes introductions, and registers again whenever the
//! connection breaks. Running streams never notice. Several rendezvous are kept at once; any one of them
//! suffices.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use protocol::candidate::{Candidate, CandidateKind};
use protocol::opening::{IntroductionId, Local};
use protocol::signalling::{
    FromRendezvous, Introduction, Party, Refusal, ToRendezvous, Token, Update,
};
use service::exit::{Code, Failure};
use service::listener::Readiness;
use tokio::sync::{mpsc, watch};
use transport::addresses::is_routed;
use transport::identity::Identity;
use transport::port::Port;
use transport::signalling::{Signalling, SignallingError, resolve};

use crate::events::{Event, Events};
use crate::surroundings::{Seen, Surroundings};

/// From a broken connection to the next try, growing to the longest: nobody new gets in meanwhile, nor anybody who lost
/// us. That a connection broke is noticed by its silence, so not all of a rendezvous's broadcasters come at once.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// How often the rendezvous is asked how it sees us: while viewers watch, who will soon ask for a changed
/// address, and otherwise.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
const IDLE_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long after its introduction a viewer is told of a new external address of ours: it opens a path,
/// and knows the former one only.
const TOLD_OF_CHANGES: Duration = Duration::from_secs(3);

/// What viewers and rendezvous tell that may wait for the session starter, at most.
const MOST_WAITING: usize = 1024;

/// Updates on their way to viewers by one rendezvous, at most.
const MOST_UPDATES: usize = 256;

/// What comes from a rendezvous.
#[derive(Debug)]
pub(crate) enum Told {
    /// A viewer, new or known.
    Introduced(Box<Introduced>),
    /// More from a viewer.
    Update { introduction: IntroductionId, update: Update },
}

/// An introduction and what it needs besides.
#[derive(Debug)]
pub(crate) struct Introduced {
    pub(crate) introduction: Introduction,
    /// The candidates that the viewer was told of us.
    pub(crate) own: Vec<Candidate>,
    /// Where we and the viewer met.
    pub(crate) rendezvous: SocketAddr,
    /// Updates for the viewer.
    pub(crate) updates: mpsc::Sender<(IntroductionId, Update)>,
}

/// Registrations that are kept until this is dropped.
pub(crate) struct Registrations {
    pub(crate) told: mpsc::Receiver<Told>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Registrations {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Where to register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) number: u16,
}

impl Server {
    /// Whether it is named by a loopback address: then everything happens on this machine.
    pub(crate) fn is_on_loopback(&self) -> bool {
        let ip = self.host.parse::<std::net::IpAddr>();
        ip.is_ok_and(|ip| ip.to_canonical().is_loopback()) || self.host == "localhost"
    }
}

/// As whom, and what the registrations have in common.
#[derive(Clone)]
pub(crate) struct Registrar {
    pub(crate) port: Arc<Port>,
    pub(crate) identity: Identity,
    pub(crate) readiness: Readiness,
    pub(crate) surroundings: Arc<Surroundings>,
    /// Whether there are viewers.
    pub(crate) is_busy: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Where a rendezvous sees us: the latest word.
    pub(crate) seen: watch::Sender<Option<Seen>>,
    /// Where it is told what happens.
    pub(crate) events: Arc<Events>,
    /// How many registrations stand.
    pub(crate) standing: Arc<AtomicUsize>,
    /// What a rendezvous is shown that takes not everybody.
    pub(crate) token: Option<Token>,
}

impl Registrar {
    /// Registers for the first time, and stays registered from then on.
    ///
    /// # Errors
    ///
    /// When no rendezvous can be reached at first: somebody should look at the addresses.
    pub(crate) async fn start(self, servers: &[Server]) -> Result<Registrations, Failure> {
        let (sender, told) = mpsc::channel(MOST_WAITING);
        let mut registrations = Registrations { told, tasks: Vec::new() };
        let (first_in, mut first) = mpsc::channel(servers.len().max(1));
        for server in servers {
            let (registrar, server) = (self.clone(), server.clone());
            let (first_in, sender) = (first_in.clone(), sender.clone());
            registrations.tasks.push(tokio::spawn(async move {
                let registered = registrar.register(&server).await;
                let said = registered.as_ref().map(|_| ()).map_err(|error| match error {
                    SignallingError::NotListed { .. } => error.to_string(),
                    _ => {
                        let port = server.number;
                        format!("{error}; check --rendezvous and that UDP port {port} is open")
                    }
                });
                if let Err(error) = &said {
                    tracing::warn!(rendezvous = %server.host, "not registered: {error}");
                }
                let _ = first_in.send(said).await;
                drop(first_in);
                registrar.stay(&server, registered.ok(), sender).await;
            }));
        }
        drop(first_in);
        let mut failure = None;
        while let Some(said) = first.recv().await {
            match said {
                Ok(()) => return Ok(registrations),
                Err(error) => failure = Some(error),
            }
        }
        let failure = failure.unwrap_or_else(|| "no rendezvous is named".into());
        Err(Failure::new(Code::RendezvousUnreachable, failure))
    }

    async fn stay(&self, server: &Server, first: Option<Registered>, told: mpsc::Sender<Told>) {
        let mut registered = first;
        let mut wait = FIRST_RETRY;
        loop {
            if let Some(registered) = registered.take() {
                wait = FIRST_RETRY;
                self.readiness.set(Ok(()));
                self.standing.fetch_add(1, Ordering::Relaxed);
                let (server, external) = (registered.signalling.server(), registered.observed);
                self.seen.send_replace(Some(Seen { server, external }));
                let result = self.listen(registered, &told).await;
                let others = self.standing.fetch_sub(1, Ordering::Relaxed) - 1;
                let lost = Err("no rendezvous knows us; the log says why");
                self.readiness.set(if others > 0 { Ok(()) } else { lost });
                let Err(error) = result else { return };
                if matches!(error, SignallingError::Replaced) {
                    // Taking the registration back would go on for ever between the two.
                    tracing::error!("{error}; viewers go on watching, new ones go to the other");
                    return;
                }
                self.events.record(Event::RendezvousLost { reason: error.to_string() });
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_RETRY);
            match self.register(server).await {
                Ok(again) => registered = Some(again),
                Err(error) => tracing::debug!(%error, "not registered"),
            }
        }
    }

    fn party(&self, server: SocketAddr) -> Result<Party, SignallingError> {
        let candidates = self
            .surroundings
            .candidates(&self.port, server)
            .map_err(|error| SignallingError::Broken(error.to_string()))?;
        Ok(Party { candidates, behaviour: self.surroundings.behaviour() })
    }

    async fn register(&self, server: &Server) -> Result<Registered, SignallingError> {
        let addresses = resolve(&self.port, &server.host, server.number).await?;
        let mut signalling =
            Signalling::connect(&self.port, &addresses, Some(&self.identity)).await?;
        let party = self.party(signalling.server())?;
        let token = self.token.clone();
        signalling.send(&ToRendezvous::Register { party: party.clone(), token }).await?;
        match signalling.receive().await? {
            FromRendezvous::Registered { observed } => {
                let (rendezvous, external) = (signalling.server(), observed.address);
                self.events.record(Event::RendezvousRegistered { rendezvous, external });
                Ok(Registered { signalling, party, observed: observed.address })
            }
            FromRendezvous::Refused { reason: Refusal::Busy } => {
                Err(SignallingError::Broken("it has too many broadcasters".into()))
            }
            FromRendezvous::Refused { reason: Refusal::NotListed } => {
                Err(SignallingError::NotListed { id: self.identity.id() })
            }
            other => Err(SignallingError::Broken(format!("unexpected answer {other:?}"))),
        }
    }

    /// Passes on what the rendezvous says until the connection breaks; `Ok` when nobody wants it any
    /// more.
    async fn listen(
        &self,
        mut registered: Registered,
        told: &mpsc::Sender<Told>,
    ) -> Result<(), SignallingError> {
        let rendezvous = registered.signalling.server();
        let (updates, mut outgoing) = mpsc::channel(MOST_UPDATES);
        let (seen_in, mut seen) = watch::channel(registered.observed);
        let looking = tokio::spawn(look(self.clone(), rendezvous, seen_in));
        let _ended = Ended(looking.abort_handle());
        let mut changes = self.surroundings.changes();
        let mut introduced = VecDeque::new();
        loop {
            let message = tokio::select! {
                message = registered.signalling.receive() => message?,
                Some((introduction, update)) = outgoing.recv() => {
                    let update = ToRendezvous::Update { introduction, update };
                    registered.signalling.send(&update).await?;
                    continue;
                }
                changed = seen.changed() => {
                    if changed.is_err() {
                        let reason = "nothing leads there any more from our network";
                        return Err(SignallingError::Broken(reason.into()));
                    }
                    let external = *seen.borrow_and_update();
                    tracing::info!(%external, before = %registered.observed, "our external address changed");
                    registered.observed = external;
                    self.seen.send_replace(Some(Seen { server: rendezvous, external }));
                    self.tell_again(&mut registered, true).await?;
                    tell_viewers(&mut registered.signalling, &mut introduced, external).await?;
                    continue;
                }
                Ok(()) = changes.changed() => {
                    self.tell_again(&mut registered, false).await?;
                    continue;
                }
            };
            match message {
                FromRendezvous::Introduction { introduction } => {
                    introduced.truncate(MOST_WAITING - 1);
                    introduced.push_front((introduction.id, Instant::now()));
                    let own = registered.party.candidates.clone();
                    let introduced = Box::new(Introduced {
                        introduction,
                        own,
                        rendezvous,
                        updates: updates.clone(),
                    });
                    match told.try_send(Told::Introduced(introduced)) {
                        Ok(()) => {}
                        Err(mpsc::error::TrySendError::Full(_)) => {
                            tracing::warn!("too many viewers join at once; one must try again");
                        }
                        Err(mpsc::error::TrySendError::Closed(_)) => return Ok(()),
                    }
                }
                FromRendezvous::Update { introduction, update } => {
                    // The viewer repeats what matters.
                    let _ = told.try_send(Told::Update { introduction, update });
                }
                FromRendezvous::Registered { .. } => {}
                FromRendezvous::Refused { reason } => {
                    return Err(SignallingError::Broken(format!(
                        "the rendezvous refused: {}",
                        reason.as_str()
                    )));
                }
            }
        }
    }

    /// Describes ourselves again where that changed: another network, another lease, a mapping of the
    /// router's. Saying anything at all shows the rendezvous a new external address.
    async fn tell_again(
        &self,
        registered: &mut Registered,
        always: bool,
    ) -> Result<(), SignallingError> {
        let party = self.party(registered.signalling.server())?;
        if always || party != registered.party {
            if party.candidates != registered.party.candidates {
                tracing::info!("our own addresses changed; telling the rendezvous");
            }
            registered.party.clone_from(&party);
            registered.signalling.send(&ToRendezvous::Register { party, token: None }).await?;
        }
        Ok(())
    }
}

/// Tells the viewers that were introduced lately of our new external address.
async fn tell_viewers(
    signalling: &mut Signalling,
    introduced: &mut VecDeque<(IntroductionId, Instant)>,
    external: SocketAddr,
) -> Result<(), SignallingError> {
    introduced.retain(|(_, at)| at.elapsed() < TOLD_OF_CHANGES);
    for (introduction, _) in introduced {
        let candidates = vec![Candidate::new(external, CandidateKind::Reflexive)];
        let update = Update { candidates, ..Update::default() };
        signalling.send(&ToRendezvous::Update { introduction: *introduction, update }).await?;
    }
    Ok(())
}

struct Registered {
    signalling: Signalling,
    party: Party,
    /// Where the rendezvous sees us.
    observed: SocketAddr,
}

struct Ended(tokio::task::AbortHandle);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks again and again how the rendezvous sees our main socket. That is cheap for it, holds our
/// binding, and shows a new external address long before a connection misses its keepalives. Ends where our
/// network leads there no more: we moved to another.
async fn look(registrar: Registrar, server: SocketAddr, seen: watch::Sender<SocketAddr>) {
    loop {
        let interval = if (registrar.is_busy)() { LOOK_INTERVAL } else { IDLE_LOOK_INTERVAL };
        tokio::time::sleep(interval).await;
        if !is_routed(server) {
            return;
        }
        if let Some(external) = registrar.port.bindings().ask(Local::MAIN, server).await {
            let set = |known: &mut SocketAddr| std::mem::replace(known, external) != external;
            seen.send_if_modified(set);
        }
    }
}
