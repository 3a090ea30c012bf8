//! How much each household may ask of a rendezvous: connections, and introductions.
//!
//! An address is no person: behind a carrier's router there may be hundreds. So the shares are large, and only keep
//! one of them from taking all, and from having broadcasters send to whom it likes without end.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use protocol::address::household;
use protocol::bucket::{Bucket, Rate};

use crate::config::Limits;

/// The share of all connections that one household may hold, and what it may hold however few there are.
const SHARE: usize = 4;
const LEAST_CONNECTIONS: usize = 16;

/// Of the introductions that a household may ask for at once, so many come back each second: a tenth.
const BACK: u32 = 10;

/// Households that are remembered before those are forgotten that ask for nothing.
const FEW: usize = 1024;

/// What households hold and have asked for.
#[derive(Debug)]
pub(crate) struct Households {
    all: Mutex<HashMap<IpAddr, Household>>,
    most_connections: usize,
    introductions: Rate,
}

#[derive(Debug, Default)]
struct Household {
    connections: usize,
    introductions: Bucket,
}

/// A connection's place among those of its household; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    households: Arc<Households>,
    household: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(household) = self.households.lock().get_mut(&self.household) {
            household.connections = household.connections.saturating_sub(1);
        }
    }
}

impl Households {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        let burst = limits.introductions_per_household;
        Arc::new(Self {
            all: Mutex::default(),
            most_connections: (limits.connections / SHARE).max(LEAST_CONNECTIONS),
            introductions: Rate { burst, per_second: burst.div_ceil(BACK) },
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Household>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a household may hold one connection more.
    pub(crate) fn has_room(&self, from: IpAddr) -> bool {
        let all = self.lock();
        all.get(&household(from)).is_none_or(|one| one.connections < self.most_connections)
    }

    /// A place for one connection more, if there is one. The address must be proved: others could take it in
    /// somebody's name.
    pub(crate) fn take_place(self: &Arc<Self>, from: IpAddr, now: Instant) -> Option<Place> {
        let household = household(from);
        let mut all = self.lock();
        self.forget(&mut all, now);
        let one = all.entry(household).or_default();
        if one.connections >= self.most_connections {
            return None;
        }
        one.connections += 1;
        drop(all);
        Some(Place { households: Arc::clone(self), household })
    }

    /// Whether a household may have one introduction more now, which is then counted.
    pub(crate) fn may_be_introduced(&self, from: IpAddr, now: Instant) -> bool {
        let mut all = self.lock();
        all.entry(household(from)).or_default().introductions.take(self.introductions, now)
    }

    /// Forgets those of whom there is nothing to remember, where they may be many.
    fn forget(&self, all: &mut HashMap<IpAddr, Household>, now: Instant) {
        if all.len() >= FEW && all.len() == all.capacity() {
            all.retain(|_, one| {
                one.connections > 0 || !one.introductions.is_full(self.introductions, now)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn households(connections: usize, introductions_per_household: u32) -> Arc<Households> {
        Households::new(&Limits { connections, introductions_per_household, ..Limits::default() })
    }

    #[test]
    fn one_household_leaves_room_for_others() {
        let households = households(100, 10);
        let now = Instant::now();
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut places: Vec<_> =
            (0..25).map(|_| households.take_place(one, now).expect("a quarter")).collect();
        assert!(!households.has_room(one) && households.take_place(one, now).is_none());
        assert!(households.has_room(other) && households.take_place(other, now).is_some());
        places.pop();
        assert!(households.take_place(one, now).is_some());
        // One home has many addresses of IPv6.
        let ipv6 =
            |last: u16| IpAddr::from([0x2001, 0xdb8, 1, 0x0200 + (last & 0xff), 0, 0, 0, last]);
        let places: Vec<_> =
            (0..100).filter_map(|at| households.take_place(ipv6(at), now)).collect();
        assert_eq!(places.len(), 25);
    }

    #[test]
    fn introductions_come_back_with_time() {
        let households = households(100, 100);
        let now = Instant::now();
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let granted =
            |from, now| (0..1_000).filter(|_| households.may_be_introduced(from, now)).count();
        assert_eq!(granted(one, now), 100);
        assert_eq!(granted(other, now), 100);
        assert_eq!(granted(one, now + Duration::from_secs(2)), 20);
    }

    #[test]
    fn who_asks_for_nothing_is_forgotten() {
        let households = households(10_000, 10);
        let began = Instant::now();
        for number in 0..100_000u32 {
            let now = began + Duration::from_millis(number.into());
            let from = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            let place = households.take_place(from, now);
            assert!(place.is_some() && households.may_be_introduced(from, now));
        }
        assert!(households.lock().len() < 4 * FEW, "{}", households.lock().len());
    }
}
