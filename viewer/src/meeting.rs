//! From a link to a connection: resolving, introducing, opening, joining.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::address::{Policy, Surroundings};
use protocol::control::ALPN;
use protocol::link::Link;
use protocol::opening::{Config, Credentials, Event, IntroductionId, Path, Role, Setup};
use protocol::signalling::{FromRendezvous, Introduction, Refusal, ToRendezvous};
use quinn::Connection;
use service::exit::{Code, Failure};
use tokio::sync::mpsc;
use transport::addresses::host_candidates;
use transport::openings::{Opening, Openings};
use transport::paths::Peer;
use transport::port::{Inbound, KeepAlive, Port};
use transport::signalling::{Signalling, resolve};
use transport::tls::Pin;

use crate::reach;
use crate::stats::State;

/// Feedback goes each second anyway; a broadcaster that says nothing is noticed by the checks of the
/// path long before.
const KEEP_ALIVE: KeepAlive =
    KeepAlive { interval: Duration::from_secs(5), idle_timeout: Duration::from_secs(30) };

/// How long the broadcaster may take to complete the handshake on an open path.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Time for opening when a path was lost: the next try is better than a long wait for this one.
const REOPENING: Duration = Duration::from_secs(3);

/// Media datagrams that may wait to be opened: two seconds at 20 Mbit/s.
const MOST_WAITING: usize = 4096;

/// A received media datagram and where it came from.
pub(crate) type Datagram = (SocketAddr, Vec<u8>);

/// A viewer's port, and the media that arrives on it.
pub(crate) struct Viewer {
    pub(crate) port: Port,
    pub(crate) openings: Arc<Openings>,
    pub(crate) media: mpsc::Receiver<Datagram>,
}

/// A proved path to the broadcaster with a connection on it.
pub(crate) struct Met {
    pub(crate) connection: Connection,
    pub(crate) opening: Opening,
    pub(crate) path: Path,
    /// From the introduction to the open path.
    pub(crate) open: Duration,
}

struct Dispatch {
    openings: Arc<Openings>,
    media: mpsc::Sender<Datagram>,
}

impl Inbound for Dispatch {
    fn stun(&self, from: SocketAddr, datagram: &[u8]) {
        self.openings.handle(from, datagram);
    }

    fn media(&self, from: SocketAddr, datagram: &mut [u8]) {
        // What does not fit is lost as if the network had lost it, and asked for again.
        let _ = self.media.try_send((from, datagram.to_vec()));
    }
}

impl Viewer {
    /// Opens the port.
    pub(crate) fn open() -> Result<Self, Failure> {
        let (sender, media) = mpsc::channel(MOST_WAITING);
        let mut openings = None;
        let port = Port::open(None, None, |socket, paths| {
            let driver = Openings::new(Arc::clone(socket), Arc::clone(paths));
            openings = Some(Arc::clone(&driver));
            Arc::new(Dispatch { openings: driver, media: sender })
        })
        .map_err(|error| Failure::runtime(format!("cannot open a UDP port: {error}")))?;
        let openings = openings.expect("the port makes its inbound side at once");
        Ok(Self { port, openings, media })
    }

    /// Meets the link's broadcaster. `enter` is told each state on the way; `again` says that a path
    /// was lost before.
    pub(crate) async fn meet(
        &self,
        link: &Link,
        allow_private: bool,
        again: bool,
        mut enter: impl FnMut(State),
    ) -> Result<Met, Failure> {
        enter(State::Resolving);
        let servers = resolve(&self.port, &link.host, link.port).await.map_err(|error| {
            Failure::new(Code::RendezvousUnreachable, format!("{error}; check the link"))
        })?;
        enter(State::Introducing);
        let mut signalling = match Signalling::connect(&self.port, &servers, None).await {
            Ok(signalling) => signalling,
            Err(error) => return Err(reach::explain(error, &servers).await),
        };
        let introduced = self.introduce(&mut signalling, link).await?;
        let introduced_at = std::time::Instant::now();
        enter(State::Opening);
        let mut config = Config::for_role(Role::Viewer);
        if again {
            config.deadline = REOPENING;
        }
        let setup = self.setup(introduced, &signalling, config, allow_private)?;
        let mut opening = self.openings.start(setup);
        let path = opened(&mut opening).await?;
        let open = introduced_at.elapsed();
        signalling.close();
        enter(State::Joining);
        let connection = self.connect(opening.peer(), link).await?;
        Ok(Met { connection, opening, path, open })
    }

    async fn introduce(
        &self,
        signalling: &mut Signalling,
        link: &Link,
    ) -> Result<Introduction, Failure> {
        let broken = |error: transport::signalling::SignallingError| {
            Failure::new(Code::RendezvousUnreachable, format!("{error}; try again"))
        };
        let candidates = self.candidates(signalling)?;
        let ask = ToRendezvous::Introduce { broadcaster: link.broadcaster, candidates };
        signalling.send(&ask).await.map_err(broken)?;
        match signalling.receive().await.map_err(broken)? {
            FromRendezvous::Introduction { introduction } => Ok(introduction),
            FromRendezvous::Refused { reason: Refusal::UnknownBroadcaster } => Err(Failure::new(
                Code::Unknown,
                format!(
                    "the rendezvous at {} knows no broadcaster {}; is it running, and is the link \
                     whole?",
                    signalling.server(),
                    link.broadcaster
                ),
            )),
            FromRendezvous::Refused { reason } => Err(Failure::new(
                Code::RendezvousUnreachable,
                format!("the rendezvous refused ({}); try again later", reason.as_str()),
            )),
            FromRendezvous::Registered { .. } => {
                Err(Failure::runtime("the rendezvous answered what was not asked"))
            }
        }
    }

    fn candidates(
        &self,
        signalling: &Signalling,
    ) -> Result<Vec<protocol::candidate::Candidate>, Failure> {
        let bound = self.port.socket().local_addr().map_err(Failure::runtime)?;
        Ok(host_candidates(bound, signalling.server().ip().is_loopback()))
    }

    fn setup(
        &self,
        introduction: Introduction,
        signalling: &Signalling,
        config: Config,
        allow_private: bool,
    ) -> Result<Setup, Failure> {
        let peer_reflexive: Vec<_> =
            introduction.peer.last().map(|seen| seen.address.ip()).into_iter().collect();
        let policy = Policy::for_introduction(Surroundings {
            rendezvous: signalling.server().ip(),
            own_reflexive: &[introduction.observed.address.ip()],
            peer_reflexive: &peer_reflexive,
            allow_private,
        });
        let own = self.candidates(signalling)?;
        Ok(Setup {
            role: Role::Viewer,
            credentials: Credentials {
                id: IntroductionId(introduction.id),
                secret: introduction.secret,
            },
            local: own.into_iter().chain([introduction.observed]).collect(),
            remote: introduction.peer,
            policy,
            config,
        })
    }

    async fn connect(&self, peer: Peer, link: &Link) -> Result<Connection, Failure> {
        let pin = Pin::to(link.broadcaster);
        let connecting = self
            .port
            .connect_peer(peer, Arc::clone(&pin), ALPN, KEEP_ALIVE)
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
    match opening.event().await {
        Some(Event::Opened(path) | Event::Moved(path)) => Ok(path),
        Some(Event::Failed(failure)) => Err(Failure::new(
            Code::NoPath,
            format!(
                "{failure}; the firewalls on both sides let no direct path through: try another \
                 network, or forward a UDP port to the broadcaster and set it with --bind"
            ),
        )),
        Some(Event::Lost(reason)) => Err(Failure::new(Code::NoPath, reason)),
        None => Err(Failure::runtime("opening ended without a result")),
    }
}
