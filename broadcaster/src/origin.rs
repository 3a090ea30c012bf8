//! Where a viewer comes from, as far as addresses tell viewers apart, and whose viewers were sent away.
//!
//! What kind of path it is, the viewer says itself: one at a relay, whose address it shares with others, can pass for
//! one at home. So its word is only ever taken against it. A path's address counts as the viewer's own where the
//! rendezvous saw it there, too, or where it is of a network that only neighbours reach.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::address::{household, is_local};
use protocol::candidate::CandidateKind;
use protocol::opening::Path;

/// Where a viewer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// By which it is counted: its path's where that is its own, else where the rendezvous saw it.
    pub(crate) household: IpAddr,
    /// Its path's, which it proved to us. It may be a relay's all the same, unless it is `household`. `None` where
    /// the viewer says that it is a relay's.
    proven: Option<IpAddr>,
    /// Where the rendezvous saw it.
    seen: Option<IpAddr>,
}

impl Origin {
    /// By the path, and by where the rendezvous saw the viewer, if one did.
    pub(crate) fn of(path: &Path, observed: Option<SocketAddr>) -> Option<Self> {
        let seen = observed.map(|address| household(address.ip()));
        let remote = path.remote.ip();
        let proven = (path.kind != CandidateKind::Relayed).then(|| household(remote));
        let is_neighbour = |seen| is_local(remote) && !is_local(seen);
        let is_own = |home: &IpAddr| seen.is_none_or(|seen| seen == *home || is_neighbour(seen));
        let household = proven.filter(is_own).or(seen)?;
        Some(Self { household, proven, seen })
    }

    /// What it is known by at the door. A rendezvous that lies must not open that, so that a household which nothing
    /// but its word names is none; and a path's that may be a relay's is none without that word.
    pub(crate) fn known_by(&self) -> Option<Known> {
        self.proven.map(|proven| Known { proven, household: self.household })
    }

    /// All households that it is of.
    fn all(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(self.household), self.proven, self.seen].into_iter().flatten()
    }
}

/// What a viewer that was let in is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Known {
    proven: IpAddr,
    household: IpAddr,
}

impl Known {
    /// Whether a viewer from there may have been known by this.
    pub(crate) fn is_of(&self, origin: &Origin) -> bool {
        origin.all().any(|home| home == self.proven || home == self.household)
    }
}

/// Households that viewers were sent away from.
#[derive(Debug, Default)]
pub(crate) struct Barred {
    households: Mutex<HashSet<IpAddr>>,
}

impl Barred {
    /// Whoever comes from where this one does is sent away from now on.
    pub(crate) fn bar(&self, origin: &Origin) {
        self.lock().extend(origin.all());
    }

    /// Whether viewers from there were sent away.
    pub(crate) fn bars(&self, origin: &Origin) -> bool {
        let households = self.lock();
        // A neighbour is not refused for others behind the same router.
        let homes = [Some(origin.household), origin.proven];
        homes.into_iter().flatten().any(|home| households.contains(&home))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<IpAddr>> {
        self.households.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::opening::Local;

    use super::*;

    /// A relay's address, which all of its viewers share, and homes.
    const RELAY: &str = "203.0.113.9:50000";
    const HOME: &str = "198.51.100.7:5000";
    const OTHER: &str = "198.51.100.8:5000";
    const NEIGHBOUR: &str = "192.168.1.7:5000";
    const V6: &str = "[2001:db8:1:2::7]:5000";

    fn from(kind: CandidateKind, remote: &str, observed: Option<&str>) -> Option<Origin> {
        let path = Path {
            local: Local::MAIN,
            remote: at(remote),
            kind,
            seen_as: at("192.0.2.1:1"),
            rtt: Duration::ZERO,
            took: Duration::ZERO,
            is_repair: false,
        };
        Origin::of(&path, observed.map(at))
    }

    fn direct(remote: &str, observed: &str) -> Origin {
        from(CandidateKind::Host, remote, Some(observed)).expect("it was seen")
    }

    fn relayed(observed: &str) -> Origin {
        from(CandidateKind::Relayed, RELAY, Some(observed)).expect("it was seen")
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn only_an_own_address_is_an_origin() {
        let home = |address: &str| household(at(address).ip());
        let table = [
            // Where the rendezvous saw it, by whatever port.
            (direct("198.51.100.7:6000", HOME), HOME),
            (direct("[2001:db8:1:3::8]:1", V6), V6),
            // On the LAN: seen as its router's.
            (direct(NEIGHBOUR, HOME), NEIGHBOUR),
            // Another family, another network, or a relay's by another name: as the rendezvous says.
            (direct(V6, HOME), HOME),
            (direct("192.168.1.1:5000", NEIGHBOUR), NEIGHBOUR),
            (direct(RELAY, HOME), HOME),
            (relayed(HOME), HOME),
        ];
        for (origin, expected) in table {
            assert_eq!(origin.household, home(expected), "{origin:?}");
        }
        // Two at one relay are two, for links' uses too.
        assert_ne!(direct(RELAY, HOME).household, direct(RELAY, OTHER).household);
        // An answer that was carried by hand: nobody saw it, and there is no relay.
        let by_hand = from(CandidateKind::Reflexive, HOME, None).expect("it has an address");
        assert_eq!(by_hand.household, home(HOME));
        assert_eq!(from(CandidateKind::Relayed, RELAY, None), None);
    }

    #[test]
    fn who_is_sent_away_does_not_come_back_by_a_relay_that_it_calls_its_own() {
        let barred = Barred::default();
        let ways = [direct(HOME, HOME), relayed(HOME), direct(RELAY, HOME), direct(V6, HOME)];
        barred.bar(&direct(HOME, HOME));
        assert!(ways.iter().all(|way| barred.bars(way)), "whatever it says");
        let barred = Barred::default();
        barred.bar(&direct(RELAY, HOME));
        assert!(ways.iter().all(|way| barred.bars(way)), "whatever it said");
        // Others at the relay are none of it.
        assert!(!barred.bars(&relayed(OTHER)) && !barred.bars(&direct(OTHER, OTHER)));
        // By IPv6 it is known where the rendezvous sees it by that, too.
        let barred = Barred::default();
        barred.bar(&direct(V6, HOME));
        assert!(barred.bars(&direct(V6, V6)) && barred.bars(&direct(V6, OTHER)));
        assert!(barred.bars(&relayed(HOME)) && !barred.bars(&direct(OTHER, OTHER)));
        // Of a LAN it is the one, by a relay too, and not its neighbours.
        let barred = Barred::default();
        barred.bar(&direct(NEIGHBOUR, HOME));
        assert!(barred.bars(&direct(NEIGHBOUR, HOME)) && barred.bars(&direct(RELAY, HOME)));
        assert!(!barred.bars(&direct("192.168.1.8:5000", HOME)));
    }
}
