//! What opens with what.

use std::fmt;

use super::{Behaviour, Dependence, Ports};

/// How two sides will come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chance {
    /// Opening packets to the addresses that the rendezvous sees are enough.
    Direct,
    /// The port of the next mapping must be predicted, which usually works: always in a quiet network,
    /// less often the more others there open connections.
    Predicted,
    /// One of many ports must be met by trying many.
    Searched,
    /// No direct path can be expected: through a relay.
    Relayed,
    /// Too little is known.
    Unknown,
}

impl Chance {
    /// The name for machines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Predicted => "predicted",
            Self::Searched => "searched",
            Self::Relayed => "relayed",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Predicted => "direct, if its next port is predicted",
            Self::Searched => "direct, if a search over many ports succeeds",
            Self::Relayed => "only through a relay",
            Self::Unknown => "not known",
        })
    }
}

/// Whether a direct path opens between two sides that both send, and answer the address an opening
/// packet came from (peer-reflexive). Which side is which makes no difference.
///
/// Filtering that is not known is taken to be address-and-port-dependent.
pub fn direct(viewer: &Behaviour, broadcaster: &Behaviour) -> Chance {
    if admits_any_port(viewer) || admits_any_port(broadcaster) {
        return Chance::Direct;
    }
    match (external_ports(viewer), external_ports(broadcaster)) {
        (None, _) | (_, None) => Chance::Unknown,
        (Some(External::Known), Some(External::Known)) => Chance::Direct,
        (Some(External::Known | External::Next), Some(External::Known | External::Next)) => {
            Chance::Predicted
        }
        (Some(External::Known), Some(External::Any))
        | (Some(External::Any), Some(External::Known)) => Chance::Searched,
        _ => Chance::Relayed,
    }
}

/// Whether the side can be reached from a port that it does not know: its own external port is known,
/// and its filter looks at addresses at most.
fn admits_any_port(side: &Behaviour) -> bool {
    let by_address = matches!(side.filtering, Some(Dependence::Independent | Dependence::Address));
    side.is_independent() && by_address
}

/// What a peer can know of the external port that opens towards it.
enum External {
    Known,
    /// It follows the latest.
    Next,
    Any,
    /// The address itself is another one, so that trying ports does not help.
    Nowhere,
}

fn external_ports(side: &Behaviour) -> Option<External> {
    if side.is_independent() {
        return Some(External::Known);
    }
    side.mapping.map(|_| match side.ports {
        Some(Ports::Sequential { .. }) => External::Next,
        Some(Ports::Preserved) => External::Nowhere,
        Some(Ports::Random | Ports::Other) | None => External::Any,
    })
}
