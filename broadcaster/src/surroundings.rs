//! What a broadcaster knows of its own place in the network: its addresses, and what its NAT does.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::behaviour::{Behaviour, Kind};
use protocol::candidate::{Candidate, CandidateKind};
use tokio::sync::watch;
use transport::addresses::host_candidates;
use transport::discovery::{Depth, Report, discover};
use transport::mapping::{Mapped, PortMapping};
use transport::port::Port;

use crate::metrics::Metrics;

/// How often this machine's own addresses are looked at.
pub(crate) const ADDRESS_INTERVAL: Duration = Duration::from_secs(3);

/// How long the link waits for the first look at the NAT.
const FIRST_LOOK: Duration = Duration::from_millis(1500);

/// Where a rendezvous sees us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The rendezvous.
    pub(crate) server: SocketAddr,
    /// Our external address there.
    pub(crate) external: SocketAddr,
}

/// What is known now. Whoever tells others of it is told when it may have changed.
#[derive(Debug)]
pub(crate) struct Surroundings {
    behaviour: Mutex<Behaviour>,
    /// What the router mapped for us.
    mapped: Mutex<Option<Candidate>>,
    changes: watch::Sender<()>,
}

impl Default for Surroundings {
    fn default() -> Self {
        let changes = watch::Sender::new(());
        Self { behaviour: Mutex::default(), mapped: Mutex::default(), changes }
    }
}

impl Surroundings {
    /// Our own candidates for whoever meets us at this rendezvous.
    pub(crate) fn candidates(&self, port: &Port, server: SocketAddr) -> io::Result<Vec<Candidate>> {
        let bound = port.socket().local_addr()?;
        let hosts = host_candidates(bound, server.ip().is_loopback());
        let mapped = *self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(mapped.into_iter().chain(hosts).collect())
    }

    /// What our NAT does, as far as it is known.
    pub(crate) fn behaviour(&self) -> Behaviour {
        *self.behaviour.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names the port that the router maps for us, for as long as it does.
    pub(crate) async fn watch_mapping(&self, mapping: Option<&PortMapping>) {
        let Some(mapping) = mapping else { return };
        let mut mapped = mapping.watch();
        loop {
            let now = *mapped.borrow_and_update();
            match now {
                Some(Mapped { external, protocol }) => tracing::info!(
                    %external,
                    %protocol,
                    "the router maps a port to us: viewers behind any firewall that lets UDP out \
                     reach this machine directly"
                ),
                None => tracing::debug!("the router maps no port to us"),
            }
            let candidate =
                now.map(|mapped| Candidate::new(mapped.external, CandidateKind::Mapped));
            *self.mapped.lock().unwrap_or_else(PoisonError::into_inner) = candidate;
            self.changes.send_replace(());
            if mapped.changed().await.is_err() {
                return;
            }
        }
    }

    /// Looks for new addresses of this machine now and then.
    pub(crate) async fn watch_addresses(&self, port: &Port) {
        let hosts = || port.socket().local_addr().map(|bound| host_candidates(bound, false)).ok();
        let mut known = hosts();
        loop {
            tokio::time::sleep(ADDRESS_INTERVAL).await;
            let now = hosts();
            if now != known {
                known = now;
                self.changes.send_replace(());
            }
        }
    }

    /// Finds out what the NAT here does, now and whenever the address by which the rendezvous sees us
    /// changes, and says what it means for viewers.
    pub(crate) async fn watch_behaviour(
        &self,
        mut seen: watch::Receiver<Option<Seen>>,
        metrics: &Metrics,
    ) {
        loop {
            let now = *seen.borrow_and_update();
            if let Some(Seen { server, .. }) = now {
                match discover(server, Depth::Full).await {
                    Ok(report) => self.found(&report, metrics),
                    Err(error) => {
                        tracing::info!("nothing was found out about the firewall here: {error}");
                    }
                }
            }
            if seen.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits for the first look at the NAT here, or not much longer than one takes: viewers that come
    /// before it is known are told nothing of it.
    pub(crate) async fn first_look(&self) {
        let mut changes = self.changes();
        let known = async {
            while self.behaviour() == Behaviour::default() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(FIRST_LOOK, known).await;
    }

    fn found(&self, report: &Report, metrics: &Metrics) {
        let behaviour = report.behaviour;
        if behaviour == self.behaviour() {
            return;
        }
        let means = match behaviour.kind() {
            Kind::Open | Kind::EndpointIndependent | Kind::AddressRestricted => {
                "viewers behind any firewall that lets UDP out reach this machine directly"
            }
            Kind::Firewall | Kind::PortRestricted => {
                "viewers behind usual home routers reach it directly; those behind NATs with another \
                 port for each destination need a prediction or a search, and a relay until then"
            }
            Kind::AddressDependent | Kind::Sequential | Kind::Random => {
                "only viewers with an open firewall reach it directly at once, others by a search or \
                 a relay; let the router map a port (UPnP, NAT-PMP, PCP), forward one and set --bind, \
                 or use IPv6"
            }
            Kind::Unknown => "what it means for viewers cannot be said",
        };
        tracing::info!(
            external = %report.external,
            kind = behaviour.kind().as_str(),
            "our firewall is {}: {means}",
            behaviour.kind()
        );
        metrics.nat(&behaviour);
        *self.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
        self.changes.send_replace(());
    }

    /// Tells when something may have changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}
