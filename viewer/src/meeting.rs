//! From a link to a connection: resolving, introducing, opening, joining.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use protocol::address::{Policy, Surroundings};
use protocol::behaviour::Behaviour;
use protocol::candidate::{Candidate, CandidateKind};
use protocol::control::ALPN;
use protocol::link::Link;
use protocol::offer::Answer;
use protocol::opening::{Config, Credentials, Event, Local, Path, Role, Setup};
use quinn::Connection;
use service::exit::{Code, Failure};
use tokio::sync::mpsc;
use transport::addresses::host_candidates;
use transport::echo;
use transport::effort::{Effort, Means};
use transport::mapping::PortMapping;
use transport::openings::{Opening, Openings};
use transport::paths::Peer;
use transport::port::{Arrival, Inbound, Port};
use transport::tls::Pin;

use crate::config::{ByHand, Target};
use crate::contact::{self, Ask};
use crate::lifeline::{Lifeline, RelayChoice};
use crate::renewal::Renewer;
use crate::stats::State;
use crate::terminal;

/// Expected of the path's round trip at least: a machine that lets many in answers later than it is far
/// away.
const LEAST_RTT: Duration = Duration::from_millis(10);

/// How long the broadcaster may take to complete the handshake on an open path.
const HANDSHAKE: Duration = Duration::from_secs(8);

/// Time for opening when a path was lost: the next try is better than a long wait for this one.
const REOPENING: Duration = Duration::from_secs(4);

/// Hops that an opener makes which is to open our own router and reach nobody else's.
const OWN_FIREWALL: u8 = 2;

/// How often a STUN server is asked while an answer is carried to the broadcaster.
const HOLDING: Duration = Duration::from_secs(4);

/// Media datagrams that may wait to be opened: as many as a stored file's take may begin with at once.
const MOST_WAITING: usize = protocol::channel::HISTORY_PACKETS;

/// A received media packet.
#[derive(Debug)]
pub(crate) struct Datagram {
    /// Where it came from.
    pub(crate) from: SocketAddr,
    /// When.
    pub(crate) at: Instant,
    pub(crate) bytes: Vec<u8>,
}

/// What becomes of media as it arrives. Called on the receiving task: be quick.
pub(crate) trait Media: Send + Sync + 'static {
    /// One packet. It may be opened in place.
    fn take(&self, from: SocketAddr, packet: &mut [u8]);

    /// The datagrams since the last such word came from the kernel as one message.
    fn message_ends(&self) {}

    /// Whether a datagram that is no media gets through.
    fn passes(&self) -> bool {
        true
    }
}

/// Media waits for whoever holds the other end.
struct Queue(mpsc::Sender<Datagram>);

impl Media for Queue {
    fn take(&self, from: SocketAddr, datagram: &mut [u8]) {
        // What does not fit is lost as if the network had lost it, and asked for again.
        let _ = self.0.try_send(Datagram { from, at: Instant::now(), bytes: datagram.to_vec() });
    }
}

/// A viewer's port.
pub(crate) struct Viewer {
    pub(crate) port: Arc<Port>,
    pub(crate) openings: Arc<Openings>,
    /// What our NAT does, where that need not be found out.
    pub(crate) behaviour: Option<Behaviour>,
    /// A port that the router maps to ours, once one was asked for.
    pub(crate) mapping: Arc<OnceLock<PortMapping>>,
    /// The socket that media is wanted at, if it is not the main one.
    pub(crate) receiving: Option<Local>,
}

/// A proved path to the broadcaster with a connection on it.
pub(crate) struct Met {
    pub(crate) connection: Connection,
    pub(crate) opening: Opening,
    pub(crate) path: Path,
    /// From the introduction to the open path.
    pub(crate) open: Duration,
    pub(crate) renewer: Renewer,
}

/// How far meeting a broadcaster is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'a> {
    Resolving,
    Introducing,
    Opening,
    /// A path is open.
    Joining(&'a Path),
}

impl Step<'_> {
    /// The state that begins with it.
    pub(crate) fn state(self) -> State {
        match self {
            Self::Resolving => State::Resolving,
            Self::Introducing => State::Introducing,
            Self::Opening => State::Opening,
            Self::Joining(_) => State::Joining,
        }
    }
}

struct Dispatch {
    openings: Arc<Openings>,
    media: Arc<dyn Media>,
}

impl Inbound for Dispatch {
    fn stun(&self, arrival: Arrival, datagram: &[u8]) {
        if self.media.passes() {
            self.openings.handle(arrival.local, arrival.from, datagram);
        }
    }

    fn media(&self, from: SocketAddr, datagram: &mut [u8]) {
        self.media.take(from, datagram);
    }

    fn media_message_ends(&self) {
        self.media.message_ends();
    }
}

impl Viewer {
    /// Opens the port, and another one to receive media on, if that is wanted.
    pub(crate) fn open(
        receive_port: Option<u16>,
    ) -> Result<(Self, mpsc::Receiver<Datagram>), Failure> {
        let (sender, media) = mpsc::channel(MOST_WAITING);
        let mut viewer = Self::open_at(None, Arc::new(Queue(sender)))?;
        let receiving = receive_port.map(|number| {
            viewer.port.add_socket(number).map_err(|error| {
                Failure::runtime(format!(
                    "cannot open UDP port {number}: {error}; choose another with --receive-port"
                ))
            })
        });
        viewer.receiving = receiving.transpose()?;
        Ok((viewer, media))
    }

    /// Opens the port at this address, or at any, with `media` to take what arrives.
    pub(crate) fn open_at(
        bind: Option<SocketAddr>,
        media: Arc<dyn Media>,
    ) -> Result<Self, Failure> {
        let mut openings = None;
        let port = Port::open(bind, None, |ways, paths| {
            let driver = Openings::new(Arc::clone(ways), Arc::clone(paths));
            openings = Some(Arc::clone(&driver));
            Arc::new(Dispatch { openings: driver, media })
        })
        .map_err(|error| Failure::runtime(format!("cannot open a UDP port: {error}")))?;
        Ok(Self {
            port: Arc::new(port),
            openings: openings.expect("the port makes its inbound side at once"),
            behaviour: None,
            mapping: Arc::default(),
            receiving: None,
        })
    }

    /// Meets the link's broadcaster. `enter` is told each step on the way; `again` says that a path
    /// was lost before.
    pub(crate) async fn meet(
        &self,
        target: &Target,
        again: bool,
        mut enter: impl FnMut(Step<'_>),
    ) -> Result<Met, Failure> {
        enter(Step::Resolving);
        if let Some(by_hand) = &target.by_hand {
            return self.meet_by_hand(target, by_hand, enter).await;
        }
        let link = Arc::new(target.link.clone());
        let behaviour = self.behaviour;
        let ask = Ask { link: Arc::clone(&link), more: Vec::new(), renews: None, behaviour };
        let (contact, introduction) =
            contact::introduce(&self.port, &ask, || enter(Step::Introducing)).await?;
        let introduced_at = std::time::Instant::now();
        enter(Step::Opening);
        let mut config = Config::for_role(Role::Viewer);
        if again {
            config.deadline = REOPENING;
        }
        let server = contact.server();
        let means = Means {
            port: Arc::clone(&self.port),
            role: Role::Viewer,
            own: contact.behaviour,
            server,
            allow_private: target.allow_private,
            updates: contact.updates.clone(),
        };
        let hosts = contact.hosts.clone();
        let (mut opening, effort) =
            Effort::start(means, &self.openings, &introduction, hosts, config).ok_or_else(
                || Failure::runtime("the rendezvous introduced us without credentials"),
            )?;
        let lifeline = Lifeline {
            port: Arc::clone(&self.port),
            handle: opening.handle().clone(),
            words: effort.words(),
            mapping: target.port_mapping.then(|| Arc::clone(&self.mapping)),
            receiving: self.receiving,
            relay: RelayChoice { own: target.relay.clone(), is_allowed: target.use_relay },
        };
        let renewer = Renewer::start(lifeline, effort, link, contact, introduction);
        let path = opened(&mut opening).await?;
        let open = introduced_at.elapsed();
        tracing::info!(
            target: terminal::STEPS,
            event = "path_opened",
            path = path.kind.as_str(),
            remote = %path.remote,
            after_ms = open.as_millis() as u64,
            "path open"
        );
        enter(Step::Joining(&path));
        let connection = self.connect(opening.peer(), path.rtt, &target.link).await?;
        Ok(Met { connection, opening, path, open, renewer })
    }

    /// Answers an offer: prints the answer, and waits for the broadcaster to take it.
    async fn meet_by_hand(
        &self,
        target: &Target,
        ByHand { offer, stun, wait }: &ByHand,
        mut enter: impl FnMut(Step<'_>),
    ) -> Result<Met, Failure> {
        let seen = echo::ask(&self.port, stun).await.map_err(|error| {
            Failure::new(
                Code::RendezvousUnreachable,
                format!("{error}; name a STUN server that answers with --stun HOST:PORT"),
            )
        })?;
        enter(Step::Introducing);
        let on_loopback = seen.server.ip().is_loopback();
        let bound = self.port.socket().local_addr().map_err(Failure::runtime)?;
        let mut candidates = host_candidates(bound, on_loopback);
        candidates.push(seen.candidate());
        let credentials = Credentials::mint(&mut rand::rng());
        let answer = Answer { credentials: credentials.clone(), candidates: candidates.clone() };
        // A closed standard output leaves no way to carry the answer: the wait below ends then.
        let _ = terminal::aside(|| writeln!(std::io::stdout(), "{answer}"));
        tracing::info!("paste the answer above where the broadcaster runs; waiting for it");
        let reflexive = |candidates: &[Candidate]| {
            let found = candidates.iter().rev().find(|c| c.kind == CandidateKind::Reflexive);
            found.map(|candidate| candidate.address)
        };
        let peer = reflexive(&offer.candidates);
        let policy = Policy::for_introduction(Surroundings {
            rendezvous: seen.server.ip(),
            own_reflexive: &[seen.external.ip()],
            peer_reflexive: &peer.map(|peer| peer.ip()).into_iter().collect::<Vec<_>>(),
            allow_private: target.allow_private,
        });
        // Until the broadcaster begins, openers open our own firewall only: some routers would take the
        // broadcaster's port for themselves. Where our NAT gives each destination another port, its
        // first opener is what shows ours.
        let hop_limit = (seen.agrees != Some(false)).then_some(OWN_FIREWALL);
        let setup = Setup {
            role: Role::Viewer,
            credentials,
            local: candidates,
            remote: offer.candidates.clone(),
            seen: None,
            policy,
            holds: false,
            hop_limit,
            config: Config { deadline: *wait, ..Config::for_role(Role::Viewer) },
        };
        let began_at = std::time::Instant::now();
        enter(Step::Opening);
        let mut opening = self.openings.start(setup);
        let path = {
            let holding = async {
                loop {
                    tokio::time::sleep(HOLDING).await;
                    // The answer does not matter: the question holds our binding.
                    let _ = self.port.bindings().ask(Local::MAIN, seen.server).await;
                }
            };
            tokio::select! {
                path = opened(&mut opening) => path.map_err(|failure| {
                    let unheard = opening.tried().checks_received == 0;
                    let nobody = "nothing was heard of the broadcaster: was the answer pasted where it \
                                  runs, and whole? Else the firewalls on both sides let no path through";
                    if unheard { Failure::new(Code::NoPath, nobody) } else { failure }
                })?,
                () = holding => unreachable!("it goes on for ever"),
            }
        };
        // People carried the introduction: opening began when the broadcaster's first word came.
        let open = path.rtt.min(began_at.elapsed());
        if self.receiving.is_some() {
            tracing::warn!("--receive-port needs a rendezvous; media comes to the usual port");
        }
        enter(Step::Joining(&path));
        let connection = self.connect(opening.peer(), path.rtt, &target.link).await?;
        Ok(Met { connection, opening, path, open, renewer: Renewer::none(&self.port) })
    }

    async fn connect(&self, peer: Peer, rtt: Duration, link: &Link) -> Result<Connection, Failure> {
        let pin = Pin::to(link.broadcaster);
        // Our first packet is lost where it overtakes the broadcaster's proof that we are here, which on
        // a short path happens often.
        let connecting = self
            .port
            .connect_peer(peer, Arc::clone(&pin), ALPN, rtt.max(LEAST_RTT))
            .map_err(Failure::runtime)?;
        let result = tokio::time::timeout(HANDSHAKE, connecting).await;
        if pin.was_mismatched() {
            return Err(Failure::new(
                Code::KeyMismatch,
                "whoever answered does not hold the key in the link: somebody poses as the \
                 broadcaster, or its key was replaced; ask for a new link",
            ));
        }
        match result {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => {
                Err(Failure::runtime(format!("the broadcaster broke off: {error}; try again")))
            }
            Err(_) => Err(Failure::new(
                Code::NoPath,
                "a path opened, and nothing came over it any more; try again",
            )),
        }
    }
}

async fn opened(opening: &mut Opening) -> Result<Path, Failure> {
    loop {
        return match opening.event().await {
            Some(Event::Opened(path) | Event::Moved(path)) => Ok(path),
            Some(Event::Remapped(_) | Event::Media(_)) => continue,
            Some(Event::Failed(failure)) => Err(Failure::new(
                Code::NoPath,
                format!(
                    "{failure}; the firewalls on both sides let no direct path through, and no relay \
                     helped: try another network, allow a relay at the rendezvous, or forward a UDP \
                     port to the broadcaster and set it with --bind"
                ),
            )),
            Some(Event::Lost(reason)) => Err(Failure::new(Code::NoPath, reason)),
            None => Err(Failure::runtime("opening ended without a result")),
        };
    }
}
