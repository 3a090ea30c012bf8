//! An external UDP port that the router maps to ours because we asked for it: by PCP (RFC 6887),
//! NAT-PMP (RFC 6886) or UPnP-IGD. Whoever knows it gets in, so it is worth more than any other
//! candidate of a host behind a NAT.
//!
//! Routers are neither trusted nor reliable. Only the default gateway is asked, every answer has a
//! limit in time and size, and an external address that no peer could reach is not used. Routers
//! also forget: mappings live for an hour at most, and are asked for again all the time, so that
//! one which restarted, or got another address, has told so within half a minute.

mod gateway;
mod port_control;
mod search;
mod upnp;

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::pin::pin;
use std::time::{Duration, Instant};

use protocol::address::{Inadmissible, Policy, admissible};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use gateway::Route;
use port_control::PortControl;
use upnp::Upnp;

/// What a router is asked for, in case we end without giving it back.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Between two looks at router, mapping and own address.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// A router that grants next to no time is not asked more often than this.
const SHORTEST_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Where nobody answers, the pause until the next try starts at this many check intervals (a minute),
/// doubles with each, and ends at this many (32 minutes).
const FIRST_RETRY: u32 = 2;
const LAST_RETRY: u32 = 64;

/// How long a clean exit waits for the router.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// A way to ask a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MappingProtocol {
    /// Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device, version 1 or 2.
    Upnp,
}

impl fmt::Display for MappingProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        })
    }
}

/// An external address that leads to our port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapped {
    /// Where peers send to.
    pub external: SocketAddr,
    /// How the router was asked.
    pub protocol: MappingProtocol,
}

/// How often a router is asked, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The lifetime asked for, in whole seconds; the router may grant another.
    pub lifetime: Duration,
    /// Between two looks at router, mapping and own address, except where half of the lifetime that
    /// the router grants is less.
    pub check_interval: Duration,
}

impl Default for Timing {
    /// An hour, looked at every half minute.
    fn default() -> Self {
        Self { lifetime: LIFETIME, check_interval: CHECK_INTERVAL }
    }
}

/// Keeps an external UDP port mapped to ours for as long as it lives. Dropping it gives the mapping
/// back, without waiting and only if the runtime goes on for that long.
#[derive(Debug)]
pub struct PortMapping {
    changes: watch::Receiver<Option<Mapped>>,
    /// Closing it ends the task.
    lifeline: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl PortMapping {
    /// Starts asking for a mapping to a UDP port of this machine. Port 0 is never mapped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(local_port: u16) -> Self {
        Self::start_with(local_port, Timing::default())
    }

    /// As [`PortMapping::start`], with another timing.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start_with(local_port: u16, timing: Timing) -> Self {
        let (sender, changes) = watch::channel(None);
        let (lifeline, ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            if let Some(local_port) = NonZeroU16::new(local_port) {
                Keeper::new(local_port, timing, sender).run(ended).await;
            }
        });
        Self { changes, lifeline, task }
    }

    /// The mapped external address now, and changes of it.
    pub fn watch(&self) -> watch::Receiver<Option<Mapped>> {
        self.changes.clone()
    }

    /// Gives the mapping back, and waits a second at most for that.
    pub async fn release(self) {
        drop(self.lifeline);
        if tokio::time::timeout(RELEASE_TIMEOUT, self.task).await.is_err() {
            tracing::debug!("the router did not take the port mapping back in time");
        }
    }
}

/// Why a router's answer, or the lack of one, is of no use.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("PCP: {0}")]
    Pcp(#[from] crab_nat::pcp::Failure),
    #[error("NAT-PMP: {0}")]
    NatPmp(#[from] crab_nat::natpmp::Failure),
    #[error("UPnP: {0}")]
    Upnp(#[from] upnp::Failure),
    #[error("the router grants no time")]
    NoTime,
    /// Most often the address is private: the router is itself behind a NAT.
    #[error("the router's external address {external} is of no use to peers: {reason}")]
    Unusable { external: IpAddr, reason: Inadmissible },
}

/// The external address, if peers may be told it.
fn usable(external: IpAddr, port: NonZeroU16) -> Result<SocketAddr, Refusal> {
    let address = SocketAddr::new(external.to_canonical(), port.get());
    match admissible(address, &Policy::default()) {
        Ok(()) => Ok(address),
        Err(reason) => Err(Refusal::Unusable { external, reason }),
    }
}

/// A mapping that a router has granted.
enum Held {
    PortControl(PortControl),
    Upnp(Upnp),
}

impl Held {
    fn mapped(&self) -> Mapped {
        match self {
            Self::PortControl(held) => held.mapped(),
            Self::Upnp(held) => held.mapped(),
        }
    }

    /// The lifetime granted.
    fn lifetime(&self) -> Duration {
        match self {
            Self::PortControl(held) => held.lifetime(),
            Self::Upnp(held) => held.lifetime(),
        }
    }

    /// Makes sure that it is still there, and renews it.
    async fn check(&mut self, lifetime: Duration) -> Result<(), Refusal> {
        match self {
            Self::PortControl(held) => held.renew(lifetime).await,
            Self::Upnp(held) => held.check(lifetime).await,
        }
    }

    async fn give_back(self) {
        match self {
            Self::PortControl(held) => held.give_back().await,
            Self::Upnp(held) => held.give_back().await,
        }
    }
}

/// What runs in the background.
struct Keeper {
    local_port: NonZeroU16,
    timing: Timing,
    changes: watch::Sender<Option<Mapped>>,
    route: Option<Route>,
    held: Option<Held>,
    /// Check intervals until the next try, if that fails too.
    retry: u32,
    retry_at: Instant,
    /// The unusable external address that was spoken of last.
    unusable: Option<IpAddr>,
}

impl Keeper {
    fn new(local_port: NonZeroU16, timing: Timing, changes: watch::Sender<Option<Mapped>>) -> Self {
        Self {
            local_port,
            timing,
            changes,
            route: None,
            held: None,
            retry: FIRST_RETRY,
            retry_at: Instant::now(),
            unusable: None,
        }
    }

    async fn run(mut self, ended: oneshot::Receiver<()>) {
        tokio::select! {
            // Nothing is ever sent: this is the other end's drop.
            _ = ended => {}
            () = self.keep() => {}
        }
        self.changes.send_replace(None);
        if let Some(held) = self.held.take() {
            let _ = tokio::time::timeout(RELEASE_TIMEOUT, held.give_back()).await;
        }
    }

    async fn keep(&mut self) {
        loop {
            self.look().await;
            let interval = match &self.held {
                Some(held) => self.timing.check_interval.min(held.lifetime() / 2),
                None => self.timing.check_interval,
            };
            tokio::time::sleep(interval.max(SHORTEST_CHECK_INTERVAL)).await;
        }
    }

    /// One look at route and mapping, and a try to get one where there is none.
    async fn look(&mut self) {
        let route = Route::find();
        if route != self.route {
            tracing::debug!(?route, "the default gateway or our address towards it");
            // What another network's router holds for us runs out by itself.
            self.held = None;
            self.route = route;
            self.try_soon();
        }
        if let Some(held) = &mut self.held
            && let Err(refusal) = held.check(self.timing.lifetime).await
        {
            tracing::info!(external = %held.mapped().external, %refusal, "the mapped port is lost");
            self.held = None;
            self.try_soon();
        }
        if let Some(route) = self.route
            && self.held.is_none()
            && self.retry_at <= Instant::now()
        {
            match ask(route, self.local_port, self.timing.lifetime).await {
                Ok(held) => self.held = Some(held),
                Err(refusals) => self.put_off(&refusals),
            }
        }
        self.publish();
    }

    fn try_soon(&mut self) {
        self.retry = FIRST_RETRY;
        self.retry_at = Instant::now();
    }

    fn put_off(&mut self, refusals: &[Refusal]) {
        self.retry_at = Instant::now() + self.timing.check_interval * self.retry;
        self.retry = (self.retry * 2).min(LAST_RETRY);
        for refusal in refusals {
            match refusal {
                Refusal::Unusable { external, .. } if self.unusable != Some(*external) => {
                    tracing::info!(
                        "{refusal}; another NAT must be in front of it, so its port mapping is not used"
                    );
                    self.unusable = Some(*external);
                }
                refusal => tracing::debug!(%refusal, "no port mapping"),
            }
        }
    }

    fn publish(&mut self) {
        let mapped = self.held.as_ref().map(Held::mapped);
        let changed = self.changes.send_if_modified(|published| {
            let changed = *published != mapped;
            *published = mapped;
            changed
        });
        if let Some(Mapped { external, protocol }) = mapped
            && changed
        {
            tracing::info!("the router maps {external} to our port (asked by {protocol})");
        }
    }
}

/// Asks a router in every way at once. What it says by PCP counts first, then NAT-PMP, then UPnP:
/// two mappings of one port would be in each other's way, so only one is made.
async fn ask(
    route: Route,
    local_port: NonZeroU16,
    lifetime: Duration,
) -> Result<Held, Vec<Refusal>> {
    let port_control = PortControl::ask(route, local_port, lifetime);
    let (mut refusals, router) = match prefer(port_control, search::search(route)).await {
        Ok(held) => return Ok(Held::PortControl(held)),
        Err(both) => both,
    };
    let held = match router {
        Ok(router) => Upnp::ask(router, route, local_port, lifetime).await,
        Err(failure) => Err(upnp::Failure::from(failure).into()),
    };
    held.map(Held::Upnp).map_err(|refusal| {
        refusals.push(refusal);
        refusals
    })
}

/// Runs both at once, and waits for `other` only where `preferred` fails.
async fn prefer<T, E, U>(
    preferred: impl Future<Output = Result<T, E>>,
    other: impl Future<Output = U>,
) -> Result<T, (E, U)> {
    let (mut preferred, mut other) = (pin!(preferred), pin!(other));
    let mut early = None;
    let error = loop {
        tokio::select! {
            biased;
            result = &mut preferred => match result {
                Ok(value) => return Ok(value),
                Err(error) => break error,
            },
            value = &mut other, if early.is_none() => early = Some(value),
        }
    };
    let value = match early {
        Some(value) => value,
        None => other.await,
    };
    Err((error, value))
}

#[cfg(test)]
mod tests;
