//! The server: its port, its relay, and who may connect.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::bucket::{Bucket, Rate};
use protocol::signalling::{ALPN, FULL};
use quinn::VarInt;
use service::exit::Failure;
use service::listener::{Readiness, Shown};
use transport::identity::Identity;
use transport::port::{self, Inbound, Port};

use crate::config::Config;
use crate::directory::Directory;
use crate::households::Households;
use crate::metrics::{Metrics, Rejection};
use crate::permits::Permits;
use crate::relay::Relay;
use crate::second::Places;
use crate::session::{self, Shared};
use crate::stun::{Answering, Stun};

/// From this many connections on, or handshakes under way, a newcomer must first prove its address (QUIC Retry).
const RETRY_FROM: i64 = 1_000;
const RETRY_FROM_HANDSHAKES: usize = 64;

/// Handshakes that are begun with addresses that are not proved: so many at once, and so many a second. Each costs a
/// key exchange, also one that fails at once.
const UNPROVED: Rate = Rate { burst: 200, per_second: 100 };

/// How long broadcasters take to notice a restart and to register again, and a little more.
const REGISTERING_AGAIN: Duration = Duration::from_secs(6);

/// How long goodbyes may take.
const GOODBYE: Duration = Duration::from_millis(500);

/// A running rendezvous.
#[derive(Debug)]
pub struct Server {
    port: Port,
    local_addr: SocketAddr,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    relay: Option<Arc<Relay>>,
    accepting: tokio::task::JoinHandle<()>,
    /// Held for its end.
    _answering: Answering,
}

impl Server {
    /// Binds and serves. Must be called within a tokio runtime.
    pub fn start(config: &Config, directory: Arc<Directory>) -> Result<Self, Failure> {
        Self::start_beside(config, directory, service::metrics::registry("rendezvous"))
    }

    /// As [`Self::start`], within a program that has a registry already: it counts there.
    pub fn start_beside(
        config: &Config,
        directory: Arc<Directory>,
        registry: prometheus::Registry,
    ) -> Result<Self, Failure> {
        let permits = Permits::new(&config.broadcasters).map_err(Failure::usage)?;
        let metrics = Arc::new(Metrics::new(registry));
        // The rendezvous is trusted with nothing, so its key need not last.
        let identity = Identity::ephemeral();
        let server = port::Server {
            identity: &identity,
            ask_client: true,
            alpn: ALPN,
            strangers: true,
            own_thread: true,
        };
        let stun_metrics = Arc::clone(&metrics);
        let failed = |error: std::io::Error| {
            Failure::runtime(format!(
                "cannot listen on UDP {}: {error}; choose another address with --listen",
                config.listen
            ))
        };
        let mut stun = None;
        let port = Port::open(Some(config.listen), Some(server), |ways, _| {
            let inbound = Arc::new(Stun::new(Arc::clone(ways.main()), stun_metrics));
            Arc::clone(stun.insert(inbound)) as Arc<dyn Inbound>
        })
        .map_err(failed)?;
        metrics.dropped.get_or_init(|| Arc::clone(port.dropped()));
        let local_addr = port.socket().local_addr().map_err(failed)?;
        let relay = Relay::start(&config.relay, config.listen, local_addr, &metrics)?.map(Arc::new);
        let any_port = config.listen.port() == 0;
        let (second_port, second_address) = (config.second_port, config.second_address);
        let places =
            Places::bind(port.socket(), any_port, second_port, second_address).map_err(failed)?;
        places.log();
        let stun = stun.expect("the port makes its inbound side at once");
        let answering = stun.answer_at(places);
        let shared = Arc::new(Shared {
            directory,
            introductions: session::Introductions::default(),
            metrics: Arc::clone(&metrics),
            limits: config.limits.clone(),
            households: Households::new(&config.limits),
            permits,
            relay: relay.clone(),
            complete_at: Instant::now() + REGISTERING_AGAIN,
        });
        let accepting = tokio::spawn(accept(port.endpoint().clone(), shared));
        let readiness = Readiness::default();
        readiness.set(Ok(()));
        Ok(Self { port, local_addr, metrics, readiness, relay, accepting, _answering: answering })
    }

    /// The UDP address listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The relay for viewers without a direct path, unless it is switched off.
    pub fn relay(&self) -> Option<&Arc<Relay>> {
        self.relay.as_ref()
    }

    /// The registry with all that this rendezvous counts.
    pub fn registry(&self) -> prometheus::Registry {
        self.metrics.registry.clone()
    }

    /// Serves the metrics listener.
    pub async fn serve_metrics(&self, address: SocketAddr) -> Result<SocketAddr, Failure> {
        let metrics = Arc::clone(&self.metrics);
        let shown = Shown {
            program: "rendezvous",
            registry: self.registry(),
            readiness: self.readiness.clone(),
            refresh: Box::new(|| {}),
            status: Box::new(move || metrics.facts()),
        };
        service::listener::serve(address, shown).await
    }

    /// Tells everybody and stops.
    pub async fn stop(self) {
        self.accepting.abort();
        self.port.close(0, "the rendezvous stops");
        let _ = tokio::time::timeout(GOODBYE, self.port.endpoint().wait_idle()).await;
    }
}

async fn accept(endpoint: quinn::Endpoint, shared: Arc<Shared>) {
    let handshakes = Arc::new(());
    let mut unproved = Bucket::default();
    while let Some(incoming) = endpoint.accept().await {
        let is_busy = Arc::strong_count(&handshakes) > RETRY_FROM_HANDSHAKES;
        let open = shared.metrics.connections.get();
        let is_full = open >= i64::try_from(shared.limits.connections).unwrap_or(i64::MAX);
        let is_proved = incoming.remote_address_validated();
        if is_full || is_proved && !shared.households.has_room(incoming.remote_address().ip()) {
            shared.metrics.reject(Rejection::Connection);
            incoming.refuse();
        } else if !is_proved
            && (is_busy || open >= RETRY_FROM || !unproved.take(UNPROVED, Instant::now()))
        {
            // The address is proved when the retry comes back; nothing is kept meanwhile.
            let _ = incoming.retry();
        } else {
            let shared = Arc::clone(&shared);
            let handshake = Arc::clone(&handshakes);
            tokio::spawn(async move {
                shared.metrics.connections.inc();
                let connected = incoming.await;
                drop(handshake);
                match connected {
                    Ok(connection) => {
                        let from = connection.remote_address().ip();
                        match shared.households.take_place(from) {
                            Some(_place) => session::serve(connection, &shared).await,
                            None => {
                                shared.metrics.reject(Rejection::Connection);
                                connection
                                    .close(VarInt::from_u32(FULL), b"too many of one network");
                            }
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "handshake failed");
                        shared.metrics.reject(Rejection::Connection);
                    }
                }
                shared.metrics.connections.dec();
            });
        }
    }
}
