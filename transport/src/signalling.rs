//! Talking to the rendezvous, from the media socket itself (steps 1–6).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use protocol::link::BroadcasterId;
use protocol::signalling::{ALPN, FULL, FromRendezvous, REPLACED, ToRendezvous};
use tokio::task::JoinSet;

use protocol::address::canonical;

use crate::addresses::is_routed;
use crate::identity::Identity;
use crate::port::{KeepAlive, Port};
use crate::stream::{self, ReadError, Reader};

/// A rendezvous that restarted knows nobody, and cannot say so to connections of its former life: it
/// is noticed by its silence. Frequent enough for the shortest UDP timeouts of home routers, too.
const KEEP_ALIVE: KeepAlive =
    KeepAlive { interval: Duration::from_secs(1), idle_timeout: Duration::from_secs(4) };

/// How long a rendezvous may take to answer: three transmissions of the first packet.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(3500);

/// How much earlier IPv4 is tried. By it the rendezvous sees our external address, which nobody else can tell; IPv6
/// addresses of ours are known without.
const HEAD_START: Duration = Duration::from_millis(200);

/// Most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 4;

/// Why there is no connection to the rendezvous.
#[derive(Debug, thiserror::Error)]
pub enum SignallingError {
    /// The name leads nowhere.
    #[error("the rendezvous's name '{host}' cannot be resolved: {source}")]
    Name {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No answer came in time.
    #[error("the rendezvous at {server} does not answer")]
    NoAnswer {
        /// Where it should be.
        server: SocketAddr,
    },
    /// Something answered, and no connection came of it.
    #[error("the rendezvous at {server} refused the connection: {reason}")]
    Rejected {
        /// Where.
        server: SocketAddr,
        /// What QUIC said.
        reason: String,
    },
    /// It has no room, in all or for our network.
    #[error(
        "the rendezvous at {server} takes no more connections from here now; try again in a while, or by another rendezvous"
    )]
    Full {
        /// Where.
        server: SocketAddr,
    },
    /// Another broadcaster with the same key registered.
    #[error(
        "another broadcaster registered with the same key; stop one of them, or give it a --state \
         folder of its own"
    )]
    Replaced,
    /// It takes listed broadcasters only.
    #[error(
        "the rendezvous does not take this broadcaster; have its operator list the id {id}, or set a rendezvous_token \
         that it knows"
    )]
    NotListed {
        /// Ours.
        id: BroadcasterId,
    },
    /// The connection broke later.
    #[error("the connection to the rendezvous broke: {0}")]
    Broken(String),
}

impl From<ReadError> for SignallingError {
    fn from(error: ReadError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<quinn::WriteError> for SignallingError {
    fn from(error: quinn::WriteError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// A connection to the rendezvous with its one stream.
#[derive(Debug)]
pub struct Signalling {
    server: SocketAddr,
    connection: quinn::Connection,
    send: quinn::SendStream,
    receive: Reader,
}

/// Whether a server says that it takes no more connections.
fn refuses(error: &quinn::ConnectionError) -> bool {
    use quinn::ConnectionError::{ApplicationClosed, ConnectionClosed};
    match error {
        ConnectionClosed(close) => {
            close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED
        }
        ApplicationClosed(close) => close.error_code == FULL.into(),
        _ => false,
    }
}

/// The addresses of a rendezvous that this socket can reach.
pub async fn resolve(
    port: &Port,
    host: &str,
    number: u16,
) -> Result<Vec<SocketAddr>, SignallingError> {
    let error = |source| SignallingError::Name { host: host.to_owned(), source };
    let found = tokio::net::lookup_host((host, number)).await.map_err(error)?;
    let mut addresses: Vec<_> =
        found.filter(|address| port.socket().is_v6() || address.is_ipv4()).collect();
    addresses.truncate(MOST_ADDRESSES);
    if addresses.is_empty() {
        return Err(error(io::Error::other("no address of a usable family")));
    }
    Ok(addresses)
}

impl Signalling {
    /// Connects to whichever of the addresses answers first, of those that our network leads to; IPv4 has a head start.
    pub async fn connect(
        port: &Port,
        servers: &[SocketAddr],
        identity: Option<&Identity>,
    ) -> Result<Self, SignallingError> {
        let mut tries = JoinSet::new();
        let mut failure = None;
        let mut begin = |servers: Vec<SocketAddr>, tries: &mut JoinSet<_>| {
            for server in servers {
                match port.connect_server(server, identity, ALPN, KEEP_ALIVE) {
                    Ok(connecting) => {
                        tries.spawn(async move {
                            let result = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
                            (server, result)
                        });
                    }
                    Err(error) => {
                        let reason = error.to_string();
                        failure = Some(SignallingError::Rejected { server, reason });
                    }
                }
            }
        };
        let routed = || servers.iter().copied().filter(|server| is_routed(*server));
        let (first, later): (Vec<_>, Vec<_>) = match routed().next() {
            Some(_) => routed().partition(|server| canonical(*server).is_ipv4()),
            // The system may be wrong; and how that fails says more.
            None => (servers.to_vec(), Vec::new()),
        };
        begin(first, &mut tries);
        let mut early = if later.is_empty() {
            None
        } else {
            tokio::time::timeout(HEAD_START, tries.join_next()).await.ok().flatten()
        };
        if !matches!(early, Some(Ok((_, Ok(Ok(_)))))) {
            begin(later, &mut tries);
        }
        while let Some(joined) = match early.take() {
            Some(joined) => Some(joined),
            None => tries.join_next().await,
        } {
            let Ok((server, result)) = joined else { continue };
            match result {
                Ok(Ok(connection)) => {
                    let (send, receive) = connection
                        .open_bi()
                        .await
                        .map_err(|error| SignallingError::Broken(error.to_string()))?;
                    return Ok(Self { server, connection, send, receive: Reader::new(receive) });
                }
                Ok(Err(error)) => {
                    let reason = error.to_string();
                    failure = Some(match refuses(&error) {
                        true => SignallingError::Full { server },
                        false => SignallingError::Rejected { server, reason },
                    });
                }
                Err(_) => {
                    failure = failure.or(Some(SignallingError::NoAnswer { server }));
                }
            }
        }
        Err(failure.unwrap_or(SignallingError::Broken("no address to connect to".into())))
    }

    /// Where the rendezvous is.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Says something.
    pub async fn send(&mut self, message: &ToRendezvous) -> Result<(), SignallingError> {
        Ok(stream::write(&mut self.send, message).await?)
    }

    /// Waits for what the rendezvous says next. A wait that is given up loses nothing.
    pub async fn receive(&mut self) -> Result<FromRendezvous, SignallingError> {
        match self.receive.next().await {
            Ok(message) => Ok(message),
            Err(error) => match self.connection.close_reason() {
                Some(quinn::ConnectionError::ApplicationClosed(close))
                    if close.error_code == REPLACED.into() =>
                {
                    Err(SignallingError::Replaced)
                }
                Some(reason) if refuses(&reason) => {
                    Err(SignallingError::Full { server: self.server })
                }
                _ => Err(error.into()),
            },
        }
    }

    /// Says goodbye.
    pub fn close(self) {
        self.connection.close(quinn::VarInt::from_u32(0), b"done");
    }
}
