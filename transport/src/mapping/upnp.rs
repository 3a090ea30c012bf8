//! Mappings by UPnP: SOAP over HTTP, to the service that `search` found at the gateway.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use igd_next::aio::tokio::Tokio;
use igd_next::aio::{Gateway, Provider};
use igd_next::{
    AddAnyPortError, AddPortError, GetExternalIpError, PortMappingProtocol, RequestError,
    SearchError,
};

use super::gateway::Route;
use super::{Mapped, MappingProtocol, Refusal, usable};

/// For all requests of one step together. Answers have a limit of 1 MiB and 64 levels in igd.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// What a router's list of mappings shows.
const DESCRIPTION: &str = "punchcast";

/// UPnP's error code NoSuchEntryInArray, as it stands in an answer.
const NO_SUCH_ENTRY: &str = ">714<";

/// Why UPnP did not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no service found: {0}")]
    Search(#[from] SearchError),
    #[error("no external address told: {0}")]
    ExternalAddress(#[from] GetExternalIpError),
    #[error("port refused: {0}")]
    Port(#[from] AddPortError),
    #[error("any port refused: {0}")]
    AnyPort(#[from] AddAnyPortError),
    #[error("the mapping cannot be looked up: {0}")]
    Lookup(#[from] RequestError),
    #[error("the mapping is gone")]
    Gone,
    #[error("a mapping to port 0")]
    PortZero,
    #[error("too slow")]
    TooSlow,
}

/// A mapping held by a router.
pub(super) struct Upnp {
    router: Gateway<Tokio>,
    local: SocketAddr,
    external: SocketAddr,
    renew_at: Instant,
    lease: Lease,
}

/// What a router gives mappings for.
#[derive(Clone, Copy, PartialEq)]
enum Lease {
    Limited(Duration),
    /// Old routers know no other.
    Forever,
}

impl Lease {
    fn seconds(self) -> u32 {
        match self {
            // Zero would be forever.
            Self::Limited(lifetime) => u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).max(1),
            Self::Forever => 0,
        }
    }
}

impl Upnp {
    /// Asks for a mapping, to the same external port if that is free.
    pub(super) async fn ask(
        router: Gateway<Tokio>,
        route: Route,
        local_port: NonZeroU16,
        lifetime: Duration,
    ) -> Result<Self, Refusal> {
        let local = SocketAddr::from((route.local, local_port.get()));
        in_time(async {
            let address = router.get_external_ip().await.map_err(Failure::from)?;
            // Before anything is mapped that would be of no use.
            usable(address, local_port)?;
            let (port, lease) = map(&router, local, lifetime).await?;
            let port = NonZeroU16::new(port).ok_or(Failure::PortZero)?;
            let external = usable(address, port)?;
            let renew_at = Instant::now() + lifetime / 2;
            Ok(Self { router, local, external, renew_at, lease })
        })
        .await
    }

    pub(super) fn mapped(&self) -> Mapped {
        Mapped { external: self.external, protocol: MappingProtocol::Upnp }
    }

    pub(super) fn lifetime(&self) -> Duration {
        match self.lease {
            Lease::Limited(lifetime) => lifetime,
            Lease::Forever => Duration::MAX,
        }
    }

    /// Makes sure that the mapping and the external address are what they were, and renews the
    /// mapping when half its time has passed. Unlike renewing, looking makes routers write nothing.
    pub(super) async fn check(&mut self, lifetime: Duration) -> Result<(), Refusal> {
        in_time(async {
            let address = self.router.get_external_ip().await.map_err(Failure::from)?;
            let external = SocketAddr::new(address, self.external.port());
            self.external =
                usable(external.ip(), NonZeroU16::new(external.port()).ok_or(Failure::PortZero)?)?;
            if Instant::now() >= self.renew_at {
                add(&self.router, external.port(), self.local, self.lease)
                    .await
                    .map_err(Failure::from)?;
                self.renew_at = Instant::now() + lifetime / 2;
            } else if !self.is_there().await? {
                return Err(Failure::Gone.into());
            }
            Ok(())
        })
        .await
    }

    /// Whether the router still has the mapping, as far as it tells.
    async fn is_there(&self) -> Result<bool, Failure> {
        let service = &self.router.service_type;
        let action = format!("\"{service}#GetSpecificPortMappingEntry\"");
        let body = format!(
            "<?xml version=\"1.0\"?>\
             <s:Envelope s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\" \
             xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
             <u:GetSpecificPortMappingEntry xmlns:u=\"{service}\">\
             <NewRemoteHost></NewRemoteHost><NewExternalPort>{}</NewExternalPort>\
             <NewProtocol>UDP</NewProtocol></u:GetSpecificPortMappingEntry></s:Body></s:Envelope>",
            self.external.port()
        );
        let url = self.router.to_string();
        let answer = Tokio::send_async(&url, &action, &body).await?;
        let ours = format!(">{}<", self.local.ip());
        let someone_elses = answer.contains("NewInternalClient") && !answer.contains(&ours);
        Ok(!answer.contains(NO_SUCH_ENTRY) && !someone_elses)
    }

    pub(super) async fn give_back(self) {
        let port = self.external.port();
        if let Err(error) = self.router.remove_port(PortMappingProtocol::UDP, port).await {
            tracing::debug!(%error, "the router did not take the port mapping back");
        }
    }
}

/// The external port that a router agrees to, and for how long.
async fn map(
    router: &Gateway<Tokio>,
    local: SocketAddr,
    lifetime: Duration,
) -> Result<(u16, Lease), Failure> {
    let limited = Lease::Limited(lifetime);
    match add(router, local.port(), local, limited).await {
        Ok(()) => Ok((local.port(), limited)),
        Err(AddPortError::OnlyPermanentLeasesSupported) => {
            add(router, local.port(), local, Lease::Forever).await?;
            Ok((local.port(), Lease::Forever))
        }
        Err(AddPortError::PortInUse) => {
            let protocol = PortMappingProtocol::UDP;
            let seconds = limited.seconds();
            let port = router.add_any_port(protocol, local, seconds, DESCRIPTION).await?;
            Ok((port, limited))
        }
        Err(error) => Err(error.into()),
    }
}

async fn add(
    router: &Gateway<Tokio>,
    external_port: u16,
    local: SocketAddr,
    lease: Lease,
) -> Result<(), AddPortError> {
    let protocol = PortMappingProtocol::UDP;
    router.add_port(protocol, external_port, local, lease.seconds(), DESCRIPTION).await
}

async fn in_time<T>(step: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    match tokio::time::timeout(STEP_TIMEOUT, step).await {
        Ok(result) => result,
        Err(_) => Err(Failure::TooSlow.into()),
    }
}
