//! Mappings by PCP, and by its predecessor NAT-PMP, which lives on the same port.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{
    GatewayAddress, InternetProtocol, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp,
    pcp,
};

use super::{Mapped, MappingProtocol, Refusal, gateway::Route, prefer, usable};

/// A router on the LAN answers within milliseconds, or after a lost datagram: 1.75 s in all. The
/// RFCs' own schedules last for minutes.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: Some(Duration::from_secs(1)),
};

/// How far a router's clock may fall behind ours before it counts as set back: RFC 6886, section
/// 3.6, allows an eighth of the time passed and 2 s.
const EPOCH_TOLERANCE: u32 = 2;

/// A mapping held by a router.
#[derive(Debug)]
pub(super) struct PortControl {
    mapping: crab_nat::PortMapping,
    external: SocketAddr,
    route: Route,
}

impl PortControl {
    /// Asks by PCP, and where that fails by NAT-PMP, of which only the harmless question for the
    /// external address is asked at once.
    pub(super) async fn ask(
        route: Route,
        local_port: NonZeroU16,
        lifetime: Duration,
    ) -> Result<Self, Vec<Refusal>> {
        let options = options(Some(local_port), lifetime);
        let by_pcp = pcp::port_mapping(base(route, local_port), None, None, options);
        let address = natpmp::external_address(route.gateway.into(), Some(PATIENCE));
        let (refusal, address) = match prefer(by_pcp, address).await {
            Ok(mapping) => {
                return Self::judge(mapping, route).await.map_err(|refusal| vec![refusal]);
            }
            Err(both) => both,
        };
        let held = Self::ask_by_nat_pmp(address, route, local_port, options).await;
        held.map_err(|other| vec![refusal.into(), other])
    }

    async fn ask_by_nat_pmp(
        address: Result<std::net::Ipv4Addr, natpmp::Failure>,
        route: Route,
        local_port: NonZeroU16,
        options: PortMappingOptions,
    ) -> Result<Self, Refusal> {
        let external = usable(IpAddr::V4(address?), local_port)?.ip();
        let mapping = map_by_nat_pmp(route, local_port, options).await?;
        let external = SocketAddr::new(external, mapping.external_port().get());
        Ok(Self { mapping, external, route })
    }

    /// Keeps a mapping made by PCP only if it is of use.
    async fn judge(mapping: crab_nat::PortMapping, route: Route) -> Result<Self, Refusal> {
        match pcp_external(&mapping) {
            Ok(external) => Ok(Self { mapping, external, route }),
            Err(refusal) => {
                give_back(mapping).await;
                Err(refusal)
            }
        }
    }

    pub(super) fn mapped(&self) -> Mapped {
        let protocol = match self.mapping.mapping_type() {
            PortMappingType::NatPmp => MappingProtocol::NatPmp,
            PortMappingType::Pcp { .. } => MappingProtocol::Pcp,
        };
        Mapped { external: self.external, protocol }
    }

    pub(super) fn lifetime(&self) -> Duration {
        Duration::from_secs(self.mapping.lifetime().into())
    }

    /// Asks for the same mapping again, which renews it, makes it anew in a router that has
    /// forgotten it, and tells the external address.
    pub(super) async fn renew(&mut self, lifetime: Duration) -> Result<(), Refusal> {
        let local_port = self.mapping.internal_port();
        let options = options(Some(self.mapping.external_port()), lifetime);
        let (renewed, external) = match self.mapping.mapping_type() {
            PortMappingType::Pcp { nonce, external_ip, .. } => {
                let base = base(self.route, local_port);
                let renewed =
                    pcp::port_mapping(base, Some(nonce), Some(external_ip), options).await?;
                let external = pcp_external(&renewed)?;
                (renewed, external)
            }
            PortMappingType::NatPmp => {
                let address =
                    natpmp::external_address(self.route.gateway.into(), Some(PATIENCE)).await?;
                let renewed = map_by_nat_pmp(self.route, local_port, options).await?;
                let external = usable(IpAddr::V4(address), renewed.external_port())?;
                (renewed, external)
            }
        };
        if renewed.gateway_epoch().saturating_add(EPOCH_TOLERANCE) < self.mapping.gateway_epoch() {
            tracing::info!("the router has restarted and was asked for our port again");
        }
        self.mapping = renewed;
        self.external = external;
        Ok(())
    }

    pub(super) async fn give_back(self) {
        give_back(self.mapping).await;
    }
}

async fn map_by_nat_pmp(
    route: Route,
    local_port: NonZeroU16,
    options: PortMappingOptions,
) -> Result<crab_nat::PortMapping, Refusal> {
    let gateway = route.gateway.into();
    let mapping = natpmp::port_mapping(gateway, InternetProtocol::Udp, local_port, options).await?;
    if mapping.lifetime() == 0 { Err(Refusal::NoTime) } else { Ok(mapping) }
}

fn pcp_external(mapping: &crab_nat::PortMapping) -> Result<SocketAddr, Refusal> {
    match mapping.mapping_type() {
        _ if mapping.lifetime() == 0 => Err(Refusal::NoTime),
        PortMappingType::Pcp { external_ip, .. } => usable(external_ip, mapping.external_port()),
        PortMappingType::NatPmp => Err(Refusal::NoTime),
    }
}

async fn give_back(mapping: crab_nat::PortMapping) {
    if let Err((failure, _)) = mapping.try_drop().await {
        tracing::debug!(%failure, "the router did not take the port mapping back");
    }
}

fn base(route: Route, local_port: NonZeroU16) -> pcp::BaseMapRequest {
    let gateway = GatewayAddress::from(route.gateway);
    pcp::BaseMapRequest::new(gateway, route.local.into(), InternetProtocol::Udp, local_port)
}

fn options(external_port: Option<NonZeroU16>, lifetime: Duration) -> PortMappingOptions {
    // A lifetime of zero would ask for the mapping's end.
    let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).max(1);
    PortMappingOptions {
        external_port,
        lifetime_seconds: Some(seconds),
        timeout_config: Some(PATIENCE),
    }
}
