//! How much each household may ask of a rendezvous: connections, and introductions.
//!
//! An address is no person: behind a carrier's router there may be hundreds. So the shares are large, and only keep
//! one of them from taking all, and from having broadcasters send to whom it likes without end.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use protocol::address::household;
use protocol::bucket::{Bucket, Rate};
use transport::households::{self, Held};

use crate::config::Limits;

/// The share of all connections that one household may hold, and what it may hold however few there are.
const SHARE: usize = 4;
const LEAST_CONNECTIONS: usize = 16;

/// Of the introductions that a household may ask for at once, so many come back each second: a tenth.
const BACK: u32 = 10;

/// Households whose introductions are remembered before those are forgotten that asked for none of late.
const FEW: usize = 1024;

/// What households hold and have asked for.
#[derive(Debug)]
pub(crate) struct Households {
    connections: households::Households,
    most_connections: usize,
    introductions: Mutex<Introductions>,
    rate: Rate,
}

#[derive(Debug, Default)]
struct Introductions {
    of: HashMap<IpAddr, Bucket>,
    forget_at: usize,
}

impl Households {
    pub(crate) fn new(limits: &Limits) -> Self {
        let burst = limits.introductions_per_household;
        Self {
            connections: households::Households::default(),
            most_connections: (limits.connections / SHARE).max(LEAST_CONNECTIONS),
            introductions: Mutex::default(),
            rate: Rate { burst, per_second: burst.div_ceil(BACK) },
        }
    }

    /// Whether a household may hold one connection more.
    pub(crate) fn has_room(&self, from: IpAddr) -> bool {
        self.connections.count(from) < self.most_connections
    }

    /// A place for one connection more, if there is one. The address must be proved: others could take it in
    /// somebody's name.
    pub(crate) fn take_place(&self, from: IpAddr) -> Option<Held> {
        self.connections.place(from, self.most_connections)
    }

    /// Whether a household may have one introduction more now, which is then counted.
    pub(crate) fn may_be_introduced(&self, from: IpAddr, now: Instant) -> bool {
        let mut introductions = self.introductions.lock().unwrap_or_else(PoisonError::into_inner);
        let Introductions { of, forget_at } = &mut *introductions;
        if of.len() >= (*forget_at).max(FEW) {
            of.retain(|_, bucket| !bucket.is_full(self.rate, now));
            *forget_at = of.len() * 2;
        }
        of.entry(household(from)).or_default().take(self.rate, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn households(connections: usize, introductions_per_household: u32) -> Households {
        Households::new(&Limits { connections, introductions_per_household, ..Limits::default() })
    }

    #[test]
    fn one_household_leaves_room_for_others() {
        let households = households(100, 10);
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut places: Vec<_> =
            (0..25).map(|_| households.take_place(one).expect("a quarter")).collect();
        assert!(!households.has_room(one) && households.take_place(one).is_none());
        assert!(households.has_room(other) && households.take_place(other).is_some());
        places.pop();
        assert!(households.take_place(one).is_some());
        // One home has many addresses of IPv6.
        let ipv6 =
            |last: u16| IpAddr::from([0x2001, 0xdb8, 1, 0x0200 + (last & 0xff), 0, 0, 0, last]);
        let places: Vec<_> = (0..100).filter_map(|at| households.take_place(ipv6(at))).collect();
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
            let place = households.take_place(from);
            assert!(place.is_some() && households.may_be_introduced(from, now));
        }
        let kept = households.introductions.lock().expect("nobody panicked").of.len();
        assert!(kept < 4 * FEW, "{kept}");
    }
}
