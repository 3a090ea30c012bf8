//! A process's port: one UDP socket, and all that shares its external mapping.
//!
//! Every datagram is told apart by its first byte and handed on: STUN and media to the program's
//! [`Inbound`], QUIC to quinn.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::demux::{Class, classify};
use quinn::Endpoint;
use tokio::task::JoinHandle;

use crate::identity::Identity;
use crate::kernel::Sender;
use crate::paths::{Paths, Peer};
pub use crate::quic::KeepAlive;
use crate::quic::{self, QuicSocket};
use crate::socket::Socket;
use crate::tls::{self, Pin, SERVER_NAME};

/// What a program does with datagrams that are not QUIC. Called on the receiving task: be quick.
pub trait Inbound: Send + Sync + 'static {
    /// A datagram that begins like STUN.
    fn stun(&self, from: SocketAddr, datagram: &[u8]);

    /// The same, for who must know at which of this machine's addresses it arrived.
    fn stun_at(&self, from: SocketAddr, _at: Option<IpAddr>, datagram: &[u8]) {
        self.stun(from, datagram);
    }

    /// A datagram that begins like RTP or RTCP. It may be opened in place.
    fn media(&self, from: SocketAddr, datagram: &mut [u8]);
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
}

/// Datagrams that a port dropped, by reason.
#[derive(Debug, Default)]
pub struct Dropped {
    /// First byte of no known standard, or of one not spoken.
    pub unknown: AtomicU64,
    /// QUIC from addresses that nobody introduced.
    pub strangers: AtomicU64,
    /// QUIC beyond what may wait.
    pub overflow: AtomicU64,
}

/// One UDP socket with everything on it. Dropping it ends all.
#[derive(Debug)]
pub struct Port {
    socket: Arc<Socket>,
    paths: Arc<Paths>,
    endpoint: Endpoint,
    dropped: Arc<Dropped>,
    receiver: JoinHandle<()>,
}

impl Port {
    /// Binds and begins to receive. Must be called within a tokio runtime.
    pub fn open(
        bind: Option<SocketAddr>,
        server: Option<Server<'_>>,
        inbound: impl FnOnce(&Arc<Socket>, &Arc<Paths>) -> Arc<dyn Inbound>,
    ) -> io::Result<Self> {
        let socket = Arc::new(Socket::bind(bind)?);
        let paths = Arc::<Paths>::default();
        let dropped = Arc::<Dropped>::default();
        let quic = QuicSocket::new(Arc::clone(&socket), Arc::clone(&paths));
        let strangers = server.as_ref().is_some_and(|server| server.strangers);
        let config = server.map(|server| {
            quic::server_config(tls::server(server.identity, server.ask_client, server.alpn))
        });
        let endpoint = Endpoint::new_with_abstract_socket(
            quic::endpoint_config(),
            config,
            Arc::clone(&quic) as Arc<dyn quinn::AsyncUdpSocket>,
            Arc::new(quinn::TokioRuntime),
        )?;
        let inbound = inbound(&socket, &paths);
        let dispatcher = Dispatcher {
            paths: Arc::clone(&paths),
            quic,
            inbound,
            strangers,
            dropped: Arc::clone(&dropped),
        };
        let receiving = Arc::clone(&socket);
        let receiver = tokio::spawn(async move {
            let error = receiving
                .receive(|from, at, datagram| dispatcher.dispatch(from, at, datagram))
                .await;
            tracing::error!(%error, "the UDP socket failed; nothing is received any more");
        });
        Ok(Self { socket, paths, endpoint, dropped, receiver })
    }

    /// The socket, for single datagrams.
    pub fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// A sender of bursts on the socket.
    pub fn sender(&self) -> io::Result<Sender> {
        self.socket.sender()
    }

    /// Where peers are reached.
    pub fn paths(&self) -> &Arc<Paths> {
        &self.paths
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
        let config = quic::client_config(tls, keep_alive);
        self.endpoint.connect_with(config, server, SERVER_NAME)
    }

    /// Begins a QUIC connection to a peer that has a path, and pins its key.
    pub fn connect_peer(
        &self,
        peer: Peer,
        pin: Arc<Pin>,
        alpn: &[u8],
        keep_alive: KeepAlive,
    ) -> Result<quinn::Connecting, quinn::ConnectError> {
        let config = quic::client_config(tls::client(pin, None, alpn), keep_alive);
        self.endpoint.connect_with(config, peer.address(), SERVER_NAME)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

struct Dispatcher {
    paths: Arc<Paths>,
    quic: Arc<QuicSocket>,
    inbound: Arc<dyn Inbound>,
    strangers: bool,
    dropped: Arc<Dropped>,
}

impl Dispatcher {
    fn dispatch(&self, from: SocketAddr, at: Option<IpAddr>, datagram: &mut [u8]) {
        match classify(datagram) {
            Class::Media => self.inbound.media(from, datagram),
            Class::Stun => self.inbound.stun_at(from, at, datagram),
            Class::Quic => {
                let known = self.paths.inbound(from).or(self.strangers.then_some(from));
                match known {
                    Some(known) if self.quic.deliver(known, datagram) => {}
                    Some(_) => count(&self.dropped.overflow),
                    None => count(&self.dropped.strangers),
                }
            }
            Class::Dtls | Class::Unknown => count(&self.dropped.unknown),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
