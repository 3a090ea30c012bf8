//! A process's port: one UDP socket, and all that shares its external mapping.
//!
//! Every datagram is told apart by its first byte and handed on: STUN and media to the program's
//! [`Inbound`], QUIC to quinn.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protocol::address::canonical;
use protocol::demux::{Class, classify};
use protocol::opening::Local;
use quinn::{Endpoint, VarInt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::bindings::Bindings;
use crate::connection_ids::{self, ConnectionIds};
use crate::identity::Identity;
use crate::kernel::Sender;
use crate::paths::{Paths, Peer};
pub use crate::quic::KeepAlive;
use crate::quic::{self, QuicSocket, USUAL_RTT};
use crate::relay::{Allocation, RelayAccess};
use crate::slow_start;
use crate::socket::{Message, Socket};
use crate::tls::{self, Pin, SERVER_NAME};
use crate::ways::Ways;

/// For how long a peer that still says something is told again that its connection was ended.
const HANGING_UP: Duration = Duration::from_secs(2);

/// How a datagram came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// By which of our ways.
    pub local: Local,
    /// From where.
    pub from: SocketAddr,
    /// To which of this machine's addresses, if the system tells.
    pub at: Option<IpAddr>,
}

/// What a program does with datagrams that are not QUIC. Called on the receiving task: be quick.
pub trait Inbound: Send + Sync + 'static {
    /// A datagram that begins like STUN.
    fn stun(&self, arrival: Arrival, datagram: &[u8]);

    /// A datagram that begins like RTP or RTCP. It may be opened in place.
    fn media(&self, from: SocketAddr, datagram: &mut [u8]);

    /// The datagrams since the last such word came from the kernel as one message, and media was among
    /// them.
    fn media_message_ends(&self) {}
}

/// Takes QUIC alone: a port that opens no path and gets no media.
#[derive(Debug, Clone, Copy)]
pub struct Deaf;

impl Inbound for Deaf {
    fn stun(&self, _arrival: Arrival, _datagram: &[u8]) {}

    fn media(&self, _from: SocketAddr, _datagram: &mut [u8]) {}
}

/// The server side of a port's QUIC endpoint.
#[derive(Debug)]
pub struct Server<'a> {
    /// Shown to clients.
    pub identity: &'a Identity,
    /// Whether clients may show a key of theirs.
    pub ask_client: bool,
    /// The protocol served.
    pub alpn: &'static [u8],
    /// Whether QUIC from addresses that are no known peer's is taken.
    pub strangers: bool,
    /// Whether a thread of its own receives: for many peers.
    pub own_thread: bool,
}

/// Datagrams that a port dropped, by reason.
///
/// ```
/// use punchcast_transport::port::Dropped;
///
/// let dropped = Dropped::default();
/// assert_eq!(dropped.by_reason(), [("unknown", 0), ("stranger", 0), ("overflow", 0)]);
/// ```
#[derive(Debug, Default)]
pub struct Dropped {
    /// First byte of no known standard, or of one not spoken.
    pub unknown: AtomicU64,
    /// QUIC from addresses that nobody introduced.
    pub strangers: AtomicU64,
    /// QUIC beyond what may wait.
    pub overflow: AtomicU64,
}

impl Dropped {
    /// How many there were for each reason, with its name in metrics.
    pub fn by_reason(&self) -> [(&'static str, u64); 3] {
        let reasons = [
            ("unknown", &self.unknown),
            ("stranger", &self.strangers),
            ("overflow", &self.overflow),
        ];
        reasons.map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
    }
}

/// Datagrams that the main socket and others take from the kernel at once: a joining burst, or one
/// access unit by a way that is one of many.
const MAIN_BATCH: usize = quinn_udp::BATCH_SIZE;
const OTHER_BATCH: usize = 1;

/// One UDP socket with everything on it, and others beside it where a path needs them. Dropping it
/// ends all.
pub struct Port {
    ways: Arc<Ways>,
    paths: Arc<Paths>,
    bindings: Arc<Bindings>,
    endpoint: Endpoint,
    dropped: Arc<Dropped>,
    dispatcher: Arc<Dispatcher>,
    receiver: Receiver,
}

/// What receives on the main socket. Ends when dropped.
enum Receiver {
    Task(JoinHandle<()>),
    Thread { _stop: oneshot::Sender<()> },
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // A thread ends when its sender goes.
        if let Self::Task(task) = self {
            task.abort();
        }
    }
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").field("ways", &self.ways).finish_non_exhaustive()
    }
}

impl Port {
    /// Binds and begins to receive. Must be called within a tokio runtime.
    pub fn open(
        bind: Option<SocketAddr>,
        server: Option<Server<'_>>,
        inbound: impl FnOnce(&Arc<Ways>, &Arc<Paths>) -> Arc<dyn Inbound>,
    ) -> io::Result<Self> {
        let own_thread = server.as_ref().is_some_and(|server| server.own_thread);
        let runtime = own_thread.then(receiving_runtime).transpose()?;
        let socket = {
            // Whoever waits for the socket is woken by the runtime that it is made in.
            let _entered = runtime.as_ref().map(tokio::runtime::Runtime::enter);
            Socket::bind(bind)
        };
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                // Dropping it would wait, which the caller's own runtime does not allow.
                if let Some(runtime) = runtime {
                    runtime.shutdown_background();
                }
                return Err(error);
            }
        };
        let socket = Arc::new(if own_thread { socket.gathering() } else { socket });
        let ways = Ways::new(Arc::clone(&socket));
        let bindings = Bindings::new(Arc::clone(&ways));
        let paths = Arc::<Paths>::default();
        let dropped = Arc::<Dropped>::default();
        let quic = QuicSocket::new(Arc::clone(&ways), Arc::clone(&paths), server.is_some());
        let strangers = server.as_ref().is_some_and(|server| server.strangers);
        let config = server.map(|server| {
            let tls = tls::server(server.identity, server.ask_client, server.alpn);
            let idle_timeout = server.strangers.then_some(quic::IDLE_TIMEOUT);
            quic::server_config(tls, idle_timeout, quic.insistence())
        });
        let ids = ConnectionIds::default();
        let endpoint = Endpoint::new_with_abstract_socket(
            quic::endpoint_config(&ids),
            config,
            Arc::clone(&quic) as Arc<dyn quinn::AsyncUdpSocket>,
            Arc::new(quinn::TokioRuntime),
        )?;
        let inbound = inbound(&ways, &paths);
        let dispatcher = Arc::new(Dispatcher {
            paths: Arc::clone(&paths),
            bindings: Arc::clone(&bindings),
            quic,
            inbound,
            strangers,
            ids,
            dropped: Arc::clone(&dropped),
        });
        let receiving = receive(socket, Local::MAIN, Arc::clone(&dispatcher));
        let receiver = match runtime {
            Some(runtime) => on_own_thread(runtime, receiving)?,
            None => Receiver::Task(tokio::spawn(receiving)),
        };
        Ok(Self { ways, paths, bindings, endpoint, dropped, dispatcher, receiver })
    }

    /// The socket, for single datagrams.
    pub fn socket(&self) -> &Arc<Socket> {
        self.ways.main()
    }

    /// A sender of bursts on the socket.
    pub fn sender(&self) -> io::Result<Sender> {
        self.socket().sender()
    }

    /// All ways out.
    pub fn ways(&self) -> &Arc<Ways> {
        &self.ways
    }

    /// How STUN servers see our sockets.
    pub fn bindings(&self) -> &Arc<Bindings> {
        &self.bindings
    }

    /// Reads nothing more from the main socket, which stays open: for viewers that misbehave.
    pub fn stop_receiving(&self) {
        if let Receiver::Task(task) = &self.receiver {
            task.abort();
        }
    }

    /// Opens one more socket, on any port or on that one, and receives on it as on the main one. It
    /// lasts until [`Ways::remove`].
    pub fn add_socket(&self, number: u16) -> io::Result<Local> {
        let address = SocketAddr::new(self.unspecified()?, number);
        let socket = Arc::new(Socket::bind(Some(address))?);
        let local = self.ways.number();
        let receiver =
            tokio::spawn(receive(Arc::clone(&socket), local, Arc::clone(&self.dispatcher)));
        self.ways.add_socket(local, socket, receiver.abort_handle());
        Ok(local)
    }

    /// Asks a relay for a relayed address, which is a way out from then on, with a socket of its own:
    /// TURN's channels begin like QUIC, and a relay knows an allocation by the socket's address. It
    /// lasts until [`Ways::remove`].
    pub fn add_relay(&self, access: &RelayAccess) -> io::Result<(Local, Arc<Allocation>)> {
        let address = SocketAddr::new(self.unspecified()?, 0);
        let socket = Arc::new(Socket::bind(Some(address))?);
        let relay = Arc::new(Allocation::begin(Arc::clone(&socket), access)?);
        let local = self.ways.number();
        let receiver = tokio::spawn(receive_relayed(
            socket,
            local,
            Arc::clone(&relay),
            Arc::clone(&self.dispatcher),
        ));
        self.ways.add_relay(local, Arc::clone(&relay), receiver.abort_handle());
        Ok((local, relay))
    }

    /// The address that stands for all of this machine's, in the main socket's family.
    fn unspecified(&self) -> io::Result<IpAddr> {
        let bound = self.socket().local_addr()?.ip();
        Ok(match bound {
            bound if !bound.is_unspecified() => bound,
            IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        })
    }

    /// Where peers are reached.
    pub fn paths(&self) -> &Arc<Paths> {
        &self.paths
    }

    /// Ends all connections. What is sent from now on is repeated: nobody answers a process's last words, so that
    /// nothing would tell that they got lost.
    pub fn close(&self, code: u32, why: &str) {
        self.dispatcher.quic.insist();
        self.endpoint.close(VarInt::from_u32(code), why.as_bytes());
    }

    /// Ends a peer's connection, and sees to it that the peer learns so: though it does not answer that, and though
    /// more is on its way to it already than the network takes.
    pub fn hang_up(&self, peer: Peer, connection: &quinn::Connection, code: u32, why: &str) {
        self.paths.urge(peer, HANGING_UP);
        slow_start::lift(connection);
        connection.close(VarInt::from_u32(code), why.as_bytes());
    }

    /// The QUIC endpoint, for its server side.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What was dropped.
    pub fn dropped(&self) -> &Arc<Dropped> {
        &self.dropped
    }

    /// Begins a QUIC connection to a server at its real address. A client without an identity shows
    /// a key made for this connection: TLS lets a server ask for raw keys only of clients that have
    /// one.
    pub fn connect_server(
        &self,
        server: SocketAddr,
        identity: Option<&Identity>,
        alpn: &[u8],
        keep_alive: KeepAlive,
    ) -> Result<quinn::Connecting, quinn::ConnectError> {
        self.paths.allow_server(server);
        let throwaway = identity.is_none().then(Identity::ephemeral);
        let tls = tls::client(Pin::none(), identity.or(throwaway.as_ref()), alpn);
        let all_end = self.dispatcher.quic.insistence();
        let config = quic::client_config(tls, Some(keep_alive), USUAL_RTT, all_end);
        self.endpoint.connect_with(config, server, SERVER_NAME)
    }

    /// Begins a QUIC connection to a peer that has a path, and pins its key. It ends with the path, which
    /// is for the caller to see to: QUIC itself gives up nothing, not even the handshake. A first packet that
    /// is not answered is sent again after three times `rtt`.
    pub fn connect_peer(
        &self,
        peer: Peer,
        pin: Arc<Pin>,
        alpn: &[u8],
        rtt: Duration,
    ) -> Result<quinn::Connecting, quinn::ConnectError> {
        let all_end = self.dispatcher.quic.insistence();
        let config = quic::client_config(tls::client(pin, None, alpn), None, rtt, all_end);
        self.endpoint.connect_with(config, peer.address(), SERVER_NAME)
    }
}

fn receiving_runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().build()
}

/// Receives on a thread that nothing else runs on: no other thread is woken for what it handles itself.
fn on_own_thread(
    runtime: tokio::runtime::Runtime,
    receiving: impl Future<Output = ()> + Send + 'static,
) -> io::Result<Receiver> {
    let (stop, stopped) = oneshot::channel::<()>();
    std::thread::Builder::new().name("receive".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = receiving => {}
                _ = stopped => {}
            }
        });
    })?;
    Ok(Receiver::Thread { _stop: stop })
}

struct Dispatcher {
    paths: Arc<Paths>,
    bindings: Arc<Bindings>,
    quic: Arc<QuicSocket>,
    inbound: Arc<dyn Inbound>,
    strangers: bool,
    ids: ConnectionIds,
    dropped: Arc<Dropped>,
}

async fn receive(socket: Arc<Socket>, local: Local, dispatcher: Arc<Dispatcher>) {
    let batch = if local == Local::MAIN { MAIN_BATCH } else { OTHER_BATCH };
    let deliver = |Message { from, at, bytes, segment }: Message<'_>| {
        let mut is_media = false;
        for datagram in bytes.chunks_mut(segment) {
            is_media |= dispatcher.deliver(Arrival { local, from, at }, datagram) == Class::Media;
        }
        if is_media {
            dispatcher.inbound.media_message_ends();
        }
    };
    let error = socket.receive_messages(batch, deliver).await;
    tracing::error!(%error, ?local, "a UDP socket failed; nothing is received on it any more");
}

/// Receives what a relay passes on, which is told apart like anything else.
async fn receive_relayed(
    socket: Arc<Socket>,
    local: Local,
    relay: Arc<Allocation>,
    dispatcher: Arc<Dispatcher>,
) {
    let server = canonical(relay.server());
    let deliver = |from, at, datagram: &mut [u8]| {
        let relayed = if from == server { relay.handle(datagram) } else { None };
        if let Some((from, payload)) = relayed {
            let arrival = Arrival { local, from, at };
            if dispatcher.deliver(arrival, &mut datagram[payload]) == Class::Media {
                dispatcher.inbound.media_message_ends();
            }
        }
    };
    let error = socket.receive(OTHER_BATCH, deliver).await;
    tracing::error!(%error, ?local, "a UDP socket failed; nothing is received on it any more");
}

impl Dispatcher {
    fn deliver(&self, arrival: Arrival, datagram: &mut [u8]) -> Class {
        let from = arrival.from;
        let class = classify(datagram);
        match class {
            Class::Media => self.inbound.media(from, datagram),
            Class::Stun => {
                if !self.bindings.handle(from, datagram) {
                    self.inbound.stun(arrival, datagram);
                }
            }
            Class::Quic => {
                let known =
                    self.paths.inbound(from).filter(|known| self.is_sensible(*known, datagram));
                match known.or(self.strangers.then_some(from)) {
                    Some(known) if self.quic.deliver(known, datagram) => {}
                    Some(_) => count(&self.dropped.overflow),
                    None => count(&self.dropped.strangers),
                }
            }
            Class::Dtls | Class::Unknown => count(&self.dropped.unknown),
        }
        class
    }

    /// Whether QUIC from somebody known is worth a look. A server's address is no secret, and anybody may send in its
    /// name: what it answers to us is for an id of ours, which nobody else knows.
    fn is_sensible(&self, known: SocketAddr, datagram: &[u8]) -> bool {
        Peer::from_address(known).is_some()
            || connection_ids::destination(datagram).is_some_and(|id| self.ids.is_ours(&id))
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
