//! From a link to a connection: resolving, introducing, opening, joining.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use protocol::control::ALPN;
use protocol::link::Link;
use protocol::opening::{Config, Event, Path, Role};
use quinn::Connection;
use service::exit::{Code, Failure};
use tokio::sync::mpsc;
use transport::effort::{Effort, Means};
use transport::mapping::PortMapping;
use transport::openings::{Opening, Openings};
use transport::paths::Peer;
use transport::port::{Arrival, Inbound, KeepAlive, Port};
use transport::tls::Pin;

use crate::config::Target;
use crate::contact::{self, Ask};
use crate::lifeline::{Lifeline, RelayChoice};
use crate::renewal::Renewer;
use crate::stats::State;

/// Feedback goes each second anyway; a broadcaster that says nothing is noticed by the checks of the
/// path long before.
const KEEP_ALIVE: KeepAlive =
    KeepAlive { interval: Duration::from_secs(5), idle_timeout: Duration::from_secs(30) };

/// How long the broadcaster may take to complete the handshake on an open path.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Time for opening when a path was lost: the next try is better than a long wait for this one.
const REOPENING: Duration = Duration::from_secs(4);

/// Media datagrams that may wait to be opened: two seconds at 20 Mbit/s.
const MOST_WAITING: usize = 4096;

/// A received media datagram and where it came from.
pub(crate) type Datagram = (SocketAddr, Vec<u8>);

/// A viewer's port, and the media that arrives on it.
pub(crate) struct Viewer {
    pub(crate) port: Arc<Port>,
    pub(crate) openings: Arc<Openings>,
    pub(crate) media: mpsc::Receiver<Datagram>,
    /// A port that the router maps to ours, once one was asked for.
    pub(crate) mapping: Arc<OnceLock<PortMapping>>,
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

struct Dispatch {
    openings: Arc<Openings>,
    media: mpsc::Sender<Datagram>,
}

impl Inbound for Dispatch {
    fn stun(&self, arrival: Arrival, datagram: &[u8]) {
        self.openings.handle(arrival.local, arrival.from, datagram);
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
        let port = Port::open(None, None, |ways, paths| {
            let driver = Openings::new(Arc::clone(ways), Arc::clone(paths));
            openings = Some(Arc::clone(&driver));
            Arc::new(Dispatch { openings: driver, media: sender })
        })
        .map_err(|error| Failure::runtime(format!("cannot open a UDP port: {error}")))?;
        let openings = openings.expect("the port makes its inbound side at once");
        Ok(Self { port: Arc::new(port), openings, media, mapping: Arc::default() })
    }

    /// Meets the link's broadcaster. `enter` is told each state on the way; `again` says that a path
    /// was lost before.
    pub(crate) async fn meet(
        &self,
        target: &Target,
        again: bool,
        mut enter: impl FnMut(State),
    ) -> Result<Met, Failure> {
        enter(State::Resolving);
        let link = Arc::new(target.link.clone());
        let ask = Ask { link: Arc::clone(&link), more: Vec::new(), renews: None, behaviour: None };
        let (contact, introduction) =
            contact::introduce(&self.port, &ask, || enter(State::Introducing)).await?;
        let introduced_at = std::time::Instant::now();
        enter(State::Opening);
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
            relay: RelayChoice { own: target.relay.clone(), is_allowed: target.use_relay },
        };
        let renewer = Renewer::start(lifeline, effort, link, contact, introduction);
        let path = opened(&mut opening).await?;
        let open = introduced_at.elapsed();
        enter(State::Joining);
        let connection = self.connect(opening.peer(), &target.link).await?;
        Ok(Met { connection, opening, path, open, renewer })
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
    loop {
        return match opening.event().await {
            Some(Event::Opened(path) | Event::Moved(path)) => Ok(path),
            Some(Event::Remapped(_)) => continue,
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
