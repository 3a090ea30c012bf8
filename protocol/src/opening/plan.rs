//! What is worth trying, given what both sides' NATs do.
//!
//! Openers to the candidates that are known always go out. What else helps depends on the two
//! mappings:
//!
//! | ours \ the peer's | not by destination | sequential by destination | random by destination |
//! |---|---|---|---|
//! | **not by destination** | known addresses do; after a while another socket of ours, in case a router took our port for itself | the peer predicts, we send to its window | the peer opens many sockets, we search its ports |
//! | **sequential by destination** | we predict, and tell the peer our window | both [forecast](crate::signalling::Forecast), and send to each other's next port at once | relay |
//! | **random by destination** | we open many sockets, the peer searches | relay | relay |
//!
//! Where the side that does not map by destination also lets in packets from any port of a known
//! address, its peer needs no more than its known address: the openers arrive, and show where from.

use std::time::Duration;

use super::Role;
use crate::behaviour::{Behaviour, Dependence, Ports};

/// A part of a many-ports search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// Opens many sockets towards the peer.
    OpensSockets,
    /// Probes the ports of the peer's external address.
    ProbesPorts,
}

/// What one side does besides sending openers to what it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Our own next ports are predicted and told to the peer.
    pub predicts: bool,
    /// Both sides forecast, try by try.
    pub forecasts: bool,
    /// Our part in a search, begun after [`SEARCH_AFTER`].
    pub search: Option<Search>,
    /// When the viewer asks for a relayed address, if there is no path by then.
    pub relay_after: Duration,
    /// When the viewer tries another socket, if there is no path by then.
    pub rebind_after: Option<Duration>,
}

/// A search begins when openers to known addresses had their time: the peer may let us in after all.
pub const SEARCH_AFTER: Duration = Duration::from_millis(250);

/// Where a direct path is expected: longer than one takes to open from another continent, and short
/// enough for a relayed picture within two seconds.
const RELAY_AFTER: Duration = Duration::from_millis(500);

/// Where a direct path takes a prediction that may miss.
const RELAY_SOON: Duration = Duration::from_millis(250);

/// A path that should have opened and did not within this time: some router may have taken our port.
const REBIND_AFTER: Duration = Duration::from_millis(700);

/// How one side's external ports behave towards a destination that it has not spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mapping {
    Known,
    Sequential,
    Random,
}

fn mapping(behaviour: &Behaviour) -> Mapping {
    match (behaviour.mapping, behaviour.ports) {
        (None | Some(Dependence::Independent), _) => Mapping::Known,
        (Some(_), Some(Ports::Sequential { .. })) => Mapping::Sequential,
        (Some(_), Some(Ports::Preserved)) => Mapping::Known,
        (Some(_), _) => Mapping::Random,
    }
}

/// Whether packets from any port of an address that was sent to get in.
fn is_lenient(behaviour: &Behaviour) -> bool {
    let admits = matches!(behaviour.filtering, Some(Dependence::Independent | Dependence::Address));
    admits && mapping(behaviour) == Mapping::Known
}

/// What this side does, given both behaviours.
pub fn plan(role: Role, own: &Behaviour, peer: &Behaviour) -> Plan {
    let direct = Plan {
        predicts: false,
        forecasts: false,
        search: None,
        relay_after: RELAY_AFTER,
        rebind_after: (role == Role::Viewer).then_some(REBIND_AFTER),
    };
    if is_lenient(own) || is_lenient(peer) {
        return direct;
    }
    let indirect = Plan { rebind_after: None, relay_after: RELAY_SOON, ..direct };
    match (mapping(own), mapping(peer)) {
        (Mapping::Known, Mapping::Known) => direct,
        (Mapping::Sequential, Mapping::Known) => Plan { predicts: true, ..indirect },
        (Mapping::Known, Mapping::Sequential) => indirect,
        (Mapping::Sequential, Mapping::Sequential) => {
            Plan { forecasts: true, relay_after: Duration::ZERO, ..indirect }
        }
        (Mapping::Random, Mapping::Known) => {
            Plan { search: Some(Search::OpensSockets), relay_after: Duration::ZERO, ..indirect }
        }
        (Mapping::Known, Mapping::Random) => {
            Plan { search: Some(Search::ProbesPorts), relay_after: Duration::ZERO, ..indirect }
        }
        (Mapping::Random | Mapping::Sequential, Mapping::Random)
        | (Mapping::Random, Mapping::Sequential) => {
            Plan { relay_after: Duration::ZERO, ..indirect }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Dependence::{Address, AddressAndPort, Independent};

    fn nat(mapping: Dependence, filtering: Option<Dependence>, ports: Ports) -> Behaviour {
        Behaviour { mapping: Some(mapping), filtering, ports: Some(ports), ..Behaviour::default() }
    }

    #[test]
    fn both_sides_play_their_parts() {
        let unknown = Behaviour::default();
        let restricted = nat(Independent, Some(AddressAndPort), Ports::Preserved);
        let open = nat(Independent, Some(Address), Ports::Other);
        let step = nat(AddressAndPort, Some(AddressAndPort), Ports::Sequential { step: 2 });
        let random = nat(AddressAndPort, None, Ports::Random);
        let by_address = nat(Address, Some(AddressAndPort), Ports::Random);
        let viewer = |own: &Behaviour, peer: &Behaviour| plan(Role::Viewer, own, peer);
        let broadcaster = |own: &Behaviour, peer: &Behaviour| plan(Role::Broadcaster, own, peer);

        for (own, peer) in [(&unknown, &unknown), (&restricted, &restricted), (&random, &open)] {
            let plan = viewer(own, peer);
            assert!(!plan.predicts && !plan.forecasts && plan.search.is_none(), "{plan:?}");
            assert_eq!(plan.rebind_after, Some(REBIND_AFTER));
            assert_eq!(broadcaster(own, peer).rebind_after, None);
        }
        assert!(viewer(&step, &restricted).predicts && !broadcaster(&restricted, &step).predicts);
        assert!(viewer(&step, &step).forecasts && broadcaster(&step, &step).forecasts);
        for dependent in [&random, &by_address] {
            for known in [&restricted, &unknown] {
                assert_eq!(viewer(dependent, known).search, Some(Search::OpensSockets));
                assert_eq!(broadcaster(known, dependent).search, Some(Search::ProbesPorts));
                assert_eq!(broadcaster(dependent, known).search, Some(Search::OpensSockets));
            }
            for both in [&random, &by_address, &step] {
                let plan = viewer(dependent, both);
                assert_eq!((plan.search, plan.relay_after), (None, Duration::ZERO));
            }
        }
    }
}
