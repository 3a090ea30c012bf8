//! Places that viewers, encoders and copies take, so that those who come at once cannot all take the last one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::control::Refusal;
use protocol::units::Bitrate;

/// Viewers of stored files at once, at most: each has threads and a file open.
const MOST_ON_DEMAND: usize = 256;

/// Those of one household, at most: so nobody alone takes all places.
const MOST_OF_ONE: usize = MOST_ON_DEMAND / 4;

/// Counts what is taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Arc<AtomicUsize>);

/// One place, free again when dropped.
#[derive(Debug)]
pub(crate) struct Place(Places);

impl Places {
    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes one more, where there is room beside those that are taken.
    pub(crate) fn reserve(&self, room: impl Fn(usize) -> bool) -> Option<Place> {
        let more = |taken| room(taken).then_some(taken + 1);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Place(self.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Places of viewers of stored files, and what these need of the uplink, each its own.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bookings(Arc<Mutex<Book>>);

/// Who has a place: the viewers of each household, those of an unknown one together; and what all of them need.
#[derive(Debug, Default)]
struct Book {
    households: BTreeMap<Option<IpAddr>, usize>,
    booked: Booked,
}

/// What is booked, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Booked {
    /// Viewers.
    pub(crate) viewers: usize,
    /// What they need, in bits a second.
    pub(crate) bits_per_second: u64,
}

/// One viewer's place and what it needs, free again when dropped.
#[derive(Debug)]
pub(crate) struct Booking {
    all: Bookings,
    household: Option<IpAddr>,
    needed: Bitrate,
}

impl Bookings {
    /// What is booked.
    pub(crate) fn booked(&self) -> Booked {
        self.lock().booked
    }

    /// Books for one more viewer of this household, where `fits` says so of what would be booked then.
    ///
    /// # Errors
    ///
    /// [`Refusal::TooMany`] where this household has its share of the places, [`Refusal::Full`] where all are taken or
    /// it does not fit.
    pub(crate) fn book(
        &self,
        household: Option<IpAddr>,
        needed: Bitrate,
        fits: impl FnOnce(Booked) -> bool,
    ) -> Result<Booking, Refusal> {
        let mut book = self.lock();
        let booked = book.booked;
        let with = Booked {
            viewers: booked.viewers + 1,
            bits_per_second: booked.bits_per_second.saturating_add(needed.as_bits_per_second()),
        };
        if book.households.get(&household).is_some_and(|viewers| *viewers >= MOST_OF_ONE) {
            return Err(Refusal::TooMany);
        }
        if with.viewers > MOST_ON_DEMAND || !fits(with) {
            return Err(Refusal::Full);
        }
        book.booked = with;
        *book.households.entry(household).or_default() += 1;
        Ok(Booking { all: self.clone(), household, needed })
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Booking {
    /// What it needs.
    pub(crate) fn needed(&self) -> Bitrate {
        self.needed
    }

    /// It needs so much from now on, where that is not more, or `fits` says so. False where nothing changes.
    pub(crate) fn change(&mut self, needed: Bitrate, fits: impl FnOnce(Booked) -> bool) -> bool {
        let booked = &mut self.all.lock().booked;
        let others = booked.bits_per_second.saturating_sub(self.needed.as_bits_per_second());
        let with = Booked {
            bits_per_second: others.saturating_add(needed.as_bits_per_second()),
            ..*booked
        };
        let is_granted = needed <= self.needed || fits(with);
        if is_granted {
            *booked = with;
            self.needed = needed;
        }
        is_granted
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        let mut book = self.all.lock();
        if let Some(viewers) = book.households.get_mut(&self.household) {
            *viewers -= 1;
            if *viewers == 0 {
                book.households.remove(&self.household);
            }
        }
        let booked = &mut book.booked;
        booked.viewers -= 1;
        booked.bits_per_second =
            booked.bits_per_second.saturating_sub(self.needed.as_bits_per_second());
    }
}

/// The place that an admitted viewer holds.
#[derive(Debug)]
pub(crate) enum Held {
    /// Of the live channel.
    Live {
        /// Free again when dropped.
        _place: Place,
    },
    /// Of stored files.
    OnDemand(Booking),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mbit(rate: u64) -> Bitrate {
        Bitrate::bits_per_second(rate * 1_000_000)
    }

    #[test]
    fn who_come_at_once_do_not_all_take_the_last_place() {
        let places = Places::default();
        let taken: Vec<_> = (0..5).filter_map(|_| places.reserve(|taken| taken < 3)).collect();
        assert_eq!((taken.len(), places.taken()), (3, 3));
        drop(taken);
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn no_household_takes_more_than_a_quarter_of_the_places() {
        let bookings = Bookings::default();
        let home = |number: usize| (number > 0).then(|| IpAddr::from([192, 0, 2, number as u8]));
        let book = |number| bookings.book(home(number), mbit(1), |_| true);
        // Those of nobody knows where count as one.
        let mut all = Vec::new();
        for number in 0..4 {
            all.extend((0..MOST_OF_ONE).map(|_| book(number).expect("its share")));
            assert_eq!(book(number).map(drop), Err(Refusal::TooMany));
        }
        assert_eq!(bookings.booked().viewers, MOST_ON_DEMAND);
        assert_eq!(book(4).map(drop), Err(Refusal::Full));
        // A place that is free again is anybody's who has not got a share.
        all.truncate(MOST_ON_DEMAND - 1);
        assert_eq!(book(0).map(drop), Err(Refusal::TooMany));
        all.push(book(4).expect("it is free"));
        all.clear();
        assert!(bookings.lock().households.is_empty());
        assert_eq!(bookings.booked(), Booked::default());
    }

    #[test]
    fn what_is_booked_is_what_all_need_now() {
        let bookings = Bookings::default();
        let fits = |with: Booked| with.bits_per_second <= 10_000_000;
        let mut first = bookings.book(None, mbit(4), fits).expect("there is room");
        let second = bookings.book(None, mbit(5), fits).expect("there is room");
        assert_eq!(bookings.book(None, mbit(2), fits).map(drop), Err(Refusal::Full));
        assert!(!first.change(mbit(6), fits), "faster than there is room for");
        assert_eq!(first.needed(), mbit(4));
        assert!(first.change(mbit(5), fits));
        assert_eq!(bookings.booked(), Booked { viewers: 2, bits_per_second: 10_000_000 });
        // Less is granted always, though the uplink became narrower.
        assert!(first.change(mbit(1), |_| false));
        drop(second);
        assert_eq!(bookings.booked(), Booked { viewers: 1, bits_per_second: 1_000_000 });
        drop(first);
        assert_eq!(bookings.booked(), Booked::default());
    }
}
