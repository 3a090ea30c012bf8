//! The kinds of NAT that are set against each other.

use crate::lab::Nat;

/// A side's way out: one router, or two in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Its name on the command line and in records.
    pub name: &'static str,
    /// What people read.
    pub title: &'static str,
    /// The router that the core sees.
    pub outer: Nat,
    /// The router behind it.
    pub inner: Option<Nat>,
}

const fn kind(name: &'static str, title: &'static str, outer: Nat) -> Kind {
    Kind { name, title, outer, inner: None }
}

const KINDS: [Kind; 17] = [
    kind("open", "open", Nat::Open),
    kind("firewall", "firewall only", Nat::Firewall),
    kind("address-only", "address-only NAT", Nat::AddressOnly { filtered: false }),
    kind(
        "address-only-filtered",
        "address-only NAT, filtered",
        Nat::AddressOnly { filtered: true },
    ),
    kind("full", "EIM/EIF, port kept", Nat::Unrestricted),
    kind("full-other", "EIM/EIF, other port", Nat::UnrestrictedOtherPort),
    kind("by-address", "EIM/ADF, port kept", Nat::AddressRestricted),
    kind("by-address-other", "EIM/ADF, other port", Nat::AddressRestrictedOtherPort),
    kind("restricted", "EIM/APDF, port kept", Nat::PortRestricted),
    kind("restricted-other", "EIM/APDF, other port", Nat::PortRestrictedOtherPort),
    kind("theft", "EIM/APDF, port theft", Nat::NoDrop),
    Kind {
        name: "two-layers",
        title: "two layers",
        outer: Nat::PortRestrictedOtherPort,
        inner: Some(Nat::PortRestricted),
    },
    kind("sequential", "sequential, step 1", Nat::SequentialPerDestination { step: 1 }),
    kind("sequential-2", "sequential, step 2", Nat::SequentialPerDestination { step: 2 }),
    kind("address-dependent", "address-dependent mapping", Nat::AddressDependentMapping),
    kind("random", "random", Nat::RandomPerDestination),
    kind("blocked", "UDP blocked", Nat::UdpBlocked),
];

impl Kind {
    /// All kinds, from what is easily reached to what is not.
    pub fn all() -> &'static [Self] {
        &KINDS
    }

    /// Those that a broadcaster can be behind: where UDP is blocked it reaches no rendezvous, and ends.
    pub fn broadcasters() -> impl Iterator<Item = &'static Self> {
        KINDS.iter().filter(|kind| !kind.is_blocked())
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// Whether a port differs by destination, and no sequence tells which it is.
    pub fn is_random(&self) -> bool {
        matches!(self.outer, Nat::AddressDependentMapping | Nat::RandomPerDestination)
    }

    /// Whether ports differ by destination, in sequence.
    pub fn is_sequential(&self) -> bool {
        matches!(self.outer, Nat::SequentialPerDestination { .. })
    }

    /// Whether everybody gets in, or whoever has an address that was sent to.
    pub fn is_lenient(&self) -> bool {
        matches!(
            self.outer,
            Nat::Open
                | Nat::AddressOnly { filtered: false }
                | Nat::Unrestricted
                | Nat::UnrestrictedOtherPort
                | Nat::AddressRestricted
                | Nat::AddressRestrictedOtherPort
        )
    }

    /// Whether the router may take a port for itself.
    pub fn takes_ports(&self) -> bool {
        self.outer == Nat::NoDrop
    }

    /// Whether no UDP passes.
    pub fn is_blocked(&self) -> bool {
        self.outer == Nat::UdpBlocked
    }
}
