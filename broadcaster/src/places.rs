//! Places that viewers, encoders and copies take, so that those who come at once cannot all take the last one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::units::Bitrate;

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
pub(crate) struct Bookings(Arc<Mutex<Booked>>);

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
    needed: Bitrate,
}

impl Bookings {
    /// What is booked.
    pub(crate) fn booked(&self) -> Booked {
        *self.lock()
    }

    /// Books for one more viewer, where `fits` says so of what would be booked then.
    pub(crate) fn book(
        &self,
        needed: Bitrate,
        fits: impl FnOnce(Booked) -> bool,
    ) -> Option<Booking> {
        let mut booked = self.lock();
        let with = Booked {
            viewers: booked.viewers + 1,
            bits_per_second: booked.bits_per_second.saturating_add(needed.as_bits_per_second()),
        };
        if !fits(with) {
            return None;
        }
        *booked = with;
        Some(Booking { all: self.clone(), needed })
    }

    fn lock(&self) -> MutexGuard<'_, Booked> {
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
        let mut booked = self.all.lock();
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
        let mut booked = self.all.lock();
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
    fn what_is_booked_is_what_all_need_now() {
        let bookings = Bookings::default();
        let fits = |with: Booked| with.bits_per_second <= 10_000_000;
        let mut first = bookings.book(mbit(4), fits).expect("there is room");
        let second = bookings.book(mbit(5), fits).expect("there is room");
        assert!(bookings.book(mbit(2), fits).is_none());
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
