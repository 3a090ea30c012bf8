//! How much a process sends to addresses that have proved nothing, over all introductions together.
//!
//! Each introduction has a budget of its own ([`protocol::opening`]), but whoever asks for many, and names one victim in
//! all of them, would have us send to it as often as there are introductions. So each household that never answered has
//! one bucket of openers, and one of the packets that search many ports. Where the rendezvous saw the peer itself
//! another bucket counts, so that nobody who only names a household takes the openers of the viewers in it. From where
//! a peer was met within the last minutes all may be sent: hundreds of viewers may sit behind one address.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::address::household;
use protocol::bucket::{Bucket, Rate};
use protocol::opening::{Purpose, SEARCHED_PORTS};

/// Openers: what a hundred viewers behind one router need in the first round trip, until one of them has answered.
const OPENERS: Rate = Rate { burst: 400, per_second: 20 };

/// The same where the rendezvous saw the peers: what it introduces of a household at once, and goes on to introduce.
const OPENERS_WHERE_SEEN: Rate = Rate { burst: 2_048, per_second: 240 };

/// What searches: two searches at once, and a further one each half minute.
const SCOUTS: Rate = Rate { burst: 2 * SEARCHED_PORTS as u32, per_second: 64 };

/// How long a household is known from which a peer answered.
const KNOWN: Duration = Duration::from_secs(600);

/// Households that are remembered. Beyond, others are sent nothing until there is room: buckets are full again soon.
const MOST: usize = 16_384;

/// How often those of whom nothing is to be remembered are looked for, where there is no room.
const SWEEPING: Duration = Duration::from_secs(1);

/// What was sent to each household.
#[derive(Debug, Default)]
pub(crate) struct Destinations(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    households: HashMap<IpAddr, Sent>,
    swept_at: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Sent {
    openers: Bucket,
    openers_where_seen: Bucket,
    scouts: Bucket,
    answered_at: Option<Instant>,
}

impl Sent {
    fn is_known(&self, now: Instant) -> bool {
        self.answered_at.is_some_and(|at| now < at + KNOWN)
    }

    fn is_of_no_account(&self, now: Instant) -> bool {
        !self.is_known(now)
            && self.openers.is_full(OPENERS, now)
            && self.openers_where_seen.is_full(OPENERS_WHERE_SEEN, now)
            && self.scouts.is_full(SCOUTS, now)
    }
}

impl All {
    fn get(&mut self, to: SocketAddr, now: Instant) -> Option<&mut Sent> {
        let household = household(to.ip());
        if self.households.len() >= MOST && !self.households.contains_key(&household) {
            if self.swept_at.is_none_or(|at| now >= at + SWEEPING) {
                self.swept_at = Some(now);
                self.households.retain(|_, sent| !sent.is_of_no_account(now));
            }
            if self.households.len() >= MOST {
                return None;
            }
        }
        Some(self.households.entry(household).or_default())
    }
}

impl Destinations {
    /// Whether a packet may be sent there now, which is then counted.
    pub(crate) fn may_send(&self, to: SocketAddr, purpose: Purpose, now: Instant) -> bool {
        if purpose == Purpose::Known {
            return true;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sent) = all.get(to, now) else { return false };
        sent.is_known(now)
            || match purpose {
                Purpose::Scout => sent.scouts.take(SCOUTS, now),
                Purpose::OpenerWhereSeen => sent.openers_where_seen.take(OPENERS_WHERE_SEEN, now),
                Purpose::Opener | Purpose::Known => sent.openers.take(OPENERS, now),
            }
    }

    /// A peer was met there.
    pub(crate) fn answered(&self, at: SocketAddr, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sent) = all.get(at, now) {
            sent.answered_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8, port: u16) -> SocketAddr {
        ([192, 0, 2, last], port).into()
    }

    #[test]
    fn who_never_answers_gets_few_whatever_its_ports() {
        let (destinations, began) = (Destinations::default(), Instant::now());
        let sent = |last, purpose, now| {
            (0..10_000u16)
                .filter(|port| destinations.may_send(at(last, *port), purpose, now))
                .count()
        };
        assert_eq!(sent(1, Purpose::Opener, began), 400);
        assert_eq!(sent(1, Purpose::Scout, began), 2 * SEARCHED_PORTS);
        assert_eq!(sent(2, Purpose::Opener, began), 400, "somebody else");
        assert_eq!(sent(1, Purpose::OpenerWhereSeen, began), 2_048, "not who is only named");
        assert_eq!(sent(1, Purpose::OpenerWhereSeen, began), 0);
        assert_eq!(sent(1, Purpose::Opener, began + Duration::from_secs(3)), 60);
        assert_eq!(sent(1, Purpose::Known, began), 10_000);
        destinations.answered(at(1, 5), began);
        assert_eq!(sent(1, Purpose::Opener, began + Duration::from_secs(4)), 10_000);
        let later = began + KNOWN + Duration::from_secs(60);
        assert_eq!(sent(1, Purpose::Opener, later), 400);
    }

    #[test]
    fn no_more_households_are_remembered_than_that() {
        let (destinations, began) = (Destinations::default(), Instant::now());
        let mut sent = 0;
        for number in 0..200_000u32 {
            let [_, a, b, c] = number.to_be_bytes();
            let now = began + Duration::from_micros(100) * number;
            sent +=
                u32::from(destinations.may_send(([10, a, b, c], 1).into(), Purpose::Opener, now));
        }
        let all = destinations.0.lock().expect("nobody panicked");
        assert!(all.households.len() <= MOST && sent > 100_000, "{sent}");
    }
}
