//! Short names for what is there.

use std::fmt;

use super::{Behaviour, Dependence, Ports};

/// A short name for a behaviour, as far as it matters to what opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Neither translation nor filtering.
    Open,
    /// No translation; not every packet from outside comes in.
    Firewall,
    /// Endpoint-independent mapping and filtering.
    EndpointIndependent,
    /// Endpoint-independent mapping, address-dependent filtering.
    AddressRestricted,
    /// Endpoint-independent mapping, filtering address-and-port-dependent or not known: the usual home
    /// router.
    PortRestricted,
    /// Address-dependent mapping.
    AddressDependent,
    /// Address-and-port-dependent mapping, ports one after the other.
    Sequential,
    /// Address-and-port-dependent mapping, any ports.
    Random,
    /// Mapping is not known.
    Unknown,
}

impl Kind {
    /// All kinds that can be known, the most open first.
    pub const KNOWN: [Self; 8] = [
        Self::Open,
        Self::Firewall,
        Self::EndpointIndependent,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::AddressDependent,
        Self::Sequential,
        Self::Random,
    ];

    /// The name for machines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Firewall => "firewall",
            Self::EndpointIndependent => "endpoint_independent",
            Self::AddressRestricted => "address_restricted",
            Self::PortRestricted => "port_restricted",
            Self::AddressDependent => "address_dependent",
            Self::Sequential => "sequential",
            Self::Random => "random",
            Self::Unknown => "unknown",
        }
    }

    /// The behaviour that stands for the kind. An address-dependent mapping usually has any port.
    pub fn behaviour(self) -> Behaviour {
        use Dependence::{Address, AddressAndPort, Independent};
        let nat = |mapping, filtering, ports| Behaviour {
            translated: Some(true),
            mapping: Some(mapping),
            filtering: Some(filtering),
            ports: Some(ports),
            ..Behaviour::default()
        };
        let untranslated = |filtering| Behaviour {
            translated: Some(false),
            ..nat(Independent, filtering, Ports::Preserved)
        };
        match self {
            Self::Open => untranslated(Independent),
            Self::Firewall => untranslated(AddressAndPort),
            Self::EndpointIndependent => nat(Independent, Independent, Ports::Preserved),
            Self::AddressRestricted => nat(Independent, Address, Ports::Preserved),
            Self::PortRestricted => nat(Independent, AddressAndPort, Ports::Preserved),
            Self::AddressDependent => nat(Address, AddressAndPort, Ports::Random),
            Self::Sequential => nat(AddressAndPort, AddressAndPort, Ports::Sequential { step: 1 }),
            Self::Random => nat(AddressAndPort, AddressAndPort, Ports::Random),
            Self::Unknown => Behaviour::default(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "no NAT, no firewall",
            Self::Firewall => "a firewall without NAT",
            Self::EndpointIndependent => "a NAT that lets everybody in",
            Self::AddressRestricted => "a NAT that lets in the addresses asked",
            Self::PortRestricted => "a usual home router",
            Self::AddressDependent => "a NAT with another port for each address",
            Self::Sequential => "a NAT with another port for each destination, in sequence",
            Self::Random => "a NAT with another port for each destination, at random",
            Self::Unknown => "not known",
        })
    }
}

impl Behaviour {
    /// The short name.
    pub fn kind(&self) -> Kind {
        use Dependence::{Address, AddressAndPort, Independent};
        if self.translated == Some(false) {
            return match self.filtering {
                Some(Independent) => Kind::Open,
                _ => Kind::Firewall,
            };
        }
        match (self.mapping, self.filtering, self.ports) {
            (Some(Independent), Some(Independent), _) => Kind::EndpointIndependent,
            (Some(Independent), Some(Address), _) => Kind::AddressRestricted,
            (Some(Independent), Some(AddressAndPort) | None, _) => Kind::PortRestricted,
            (Some(Address), ..) => Kind::AddressDependent,
            (Some(AddressAndPort), _, Some(Ports::Sequential { .. })) => Kind::Sequential,
            (Some(AddressAndPort), ..) => Kind::Random,
            (None, ..) => Kind::Unknown,
        }
    }
}
