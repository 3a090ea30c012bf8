//! The relay of last resort: TURN (RFC 8656) over UDP, for viewers whose NAT lets no direct path open.
//!
//! A viewer allocates a relayed address with credentials that came with its introduction, and the
//! broadcaster sends to that address as to any other. The relay runs in this process ([`RelayMode`]),
//! on a UDP port of its own, as TURN's channels and QUIC begin alike; or it is a TURN server elsewhere,
//! such as coturn with `use-auth-secret`, that shares a secret with us. Either way [`Relay::credentials`]
//! makes what a viewer needs.
//!
//! The embedded one holds to these bounds:
//!
//! - nothing is kept of who is not authenticated, nonces included, and such requests are answered at a
//!   bounded rate for each source and in total;
//! - peers are ordinary unicast addresses, never loopback, link-local, multicast, this server itself, or
//!   (unless configured) private ones;
//! - each viewer, and all together, hold a bounded number of allocations and get a bounded rate;
//! - each allocation has a task and a socket of its own.
//!
//! Not supported: TCP or TLS to the relay, TCP allocations (RFC 6062), EVEN-PORT, RESERVATION-TOKEN,
//! DONT-FRAGMENT, ADDITIONAL-ADDRESS-FAMILY, MESSAGE-INTEGRITY-SHA256, and telling of ICMP errors.

mod allocation;
mod answer;
mod bindings;
mod credentials;
mod nonce;
mod peers;
mod quota;
mod request;
mod server;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use protocol::address::Policy;
use protocol::link::parse_host_port;
use protocol::signalling::{RelayOffer, RelayServer};
use protocol::stun::PlainLimiter;
use service::exit::Failure;
use tokio::task::JoinHandle;
use transport::addresses::host_candidates;
use transport::socket::Socket;

use crate::config::{self, RelayMode};
use crate::metrics::Metrics;
use credentials::Minter;
use nonce::Nonces;
use peers::PeerRules;
use quota::Quotas;
use server::Shared;

pub use credentials::REALM;

/// Datagrams that are taken from the kernel at once.
const RECEIVE_BATCH: usize = 32;

/// How far the relay's port is from the rendezvous's where none is configured: 3480.
const PORT_DISTANCE: u16 = 2;

/// Answers to who is not authenticated yet: for one source at once, and a second. Every allocation begins
/// with such an answer, and many viewers may share the address of a carrier's NAT. With 76 bytes each, who
/// lies about a source sends it 0.6 kB/s.
const SOURCE_BURST: u32 = 64;
const SOURCE_RATE: u32 = 8;

/// A relay that viewers may use. Dropping it ends the embedded one.
#[derive(Debug)]
pub struct Relay {
    server: RelayServer,
    credential_lifetime: Duration,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Embedded { shared: Arc<Shared>, local_addr: SocketAddr, receiving: JoinHandle<()> },
    External(Box<Minter>),
}

impl Relay {
    /// Starts the relay that is configured, if any is, beside a rendezvous that is bound to `rendezvous`
    /// and was to listen on `listen`. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// Where the embedded relay's port cannot be bound, or the external relay is named incompletely.
    pub(crate) fn start(
        config: &config::Relay,
        listen: SocketAddr,
        rendezvous: SocketAddr,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Self>, Failure> {
        let policy = Policy { loopback: false, private: config.allow_private_peers };
        match config.mode {
            RelayMode::Off => Ok(None),
            RelayMode::External => Self::external(config).map(Some),
            RelayMode::Embedded => {
                let listen = SocketAddr::new(listen.ip(), port(config, listen));
                Self::embedded(config, listen, rendezvous.port(), policy, metrics).map(Some)
            }
        }
    }

    /// What a viewer needs to use the relay. `name` is whom quotas are counted by: the same for all that
    /// one viewer does, and up to 256 bytes of it count.
    pub fn credentials(&self, name: &str, now: SystemTime) -> RelayOffer {
        let minter = match &self.kind {
            Kind::Embedded { shared, .. } => &shared.minter,
            Kind::External(minter) => minter,
        };
        let (username, password) = minter.mint(name, now, self.credential_lifetime);
        RelayOffer { server: self.server.clone(), username, password }
    }

    /// The UDP address that the embedded relay listens on.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Embedded { local_addr, .. } => Some(*local_addr),
            Kind::External(_) => None,
        }
    }

    fn external(config: &config::Relay) -> Result<Self, Failure> {
        let server = config.server.as_deref().and_then(parse_host_port);
        match (server, &config.secret) {
            (Some((host, port)), Some(secret)) => Ok(Self {
                server: RelayServer::At { host, port },
                credential_lifetime: config.credential_lifetime,
                kind: Kind::External(Box::new(Minter::new(secret.as_bytes()))),
            }),
            _ => Err(Failure::usage(
                "relay.mode is external: set relay.server to its HOST:PORT and relay.secret to its \
                 static-auth-secret",
            )),
        }
    }

    fn embedded(
        config: &config::Relay,
        listen: SocketAddr,
        rendezvous_port: u16,
        policy: Policy,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, Failure> {
        if config.first_port == 0 || config.first_port > config.last_port {
            return Err(Failure::usage(format!(
                "relay.first_port to relay.last_port must be a range of ports, not {} to {}",
                config.first_port, config.last_port
            )));
        }
        let failed = |error: std::io::Error| {
            Failure::runtime(format!(
                "the relay cannot listen on UDP {listen}: {error}; choose another port with relay.port, \
                 or switch it off with relay.mode: off"
            ))
        };
        let socket = Arc::new(Socket::bind(Some(listen)).map_err(failed)?);
        let local_addr = socket.local_addr().map_err(failed)?;
        let hosts = host_candidates(local_addr, policy.loopback);
        let own = hosts.iter().map(|host| host.address.ip()).chain(config.external_address);
        let shared = Arc::new(Shared {
            socket: Arc::clone(&socket),
            metrics: Arc::clone(metrics),
            minter: Minter::random(),
            nonces: Nonces::random(),
            quotas: Arc::new(Quotas::new(
                config.allocations_per_viewer,
                config.allocations,
                config.rate_per_viewer,
                config.rate,
            )),
            rules: PeerRules {
                policy,
                own: own.map(|ip| ip.to_canonical()).collect(),
                ports: vec![rendezvous_port, local_addr.port()],
            },
            external: config.external_address.map(|ip| ip.to_canonical()),
            ports: config.first_port..=config.last_port,
            limiter: Mutex::new(PlainLimiter::with_source_rate(SOURCE_BURST, SOURCE_RATE)),
            allocations: Mutex::default(),
        });
        let listener = Arc::clone(&shared);
        let receiving = tokio::spawn(async move {
            let error = socket
                .receive(RECEIVE_BATCH, |from, _, datagram| listener.deliver(from, datagram))
                .await;
            tracing::error!(%error, "the relay's UDP socket failed; nothing is relayed any more");
        });
        Ok(Self {
            server: RelayServer::SameHost { port: local_addr.port() },
            credential_lifetime: config.credential_lifetime,
            kind: Kind::Embedded { shared, local_addr, receiving },
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Kind::Embedded { shared, receiving, .. } = &self.kind {
            receiving.abort();
            shared.end();
        }
    }
}

/// The embedded relay's port. Beside a rendezvous on a port of the system's choice it is one as well.
fn port(config: &config::Relay, listen: SocketAddr) -> u16 {
    let beside = match listen.port() {
        0 => 0,
        port => port.checked_add(PORT_DISTANCE).unwrap_or(0),
    };
    config.port.unwrap_or(beside)
}
