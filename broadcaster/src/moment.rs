//! Moments by both clocks: the one that people and time servers set, and the one that only ever goes on.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// One moment, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Seconds since 1970, by the clock that is set, and may jump.
    pub(crate) wall: u64,
    /// Since the machine started, what it slept included: what `Instant` leaves out.
    pub(crate) running: Duration,
}

impl Moment {
    /// This moment.
    pub(crate) fn now() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let running = clock_gettime(ClockId::CLOCK_BOOTTIME);
        Self { wall, running: running.expect("every Linux since 2.6.39 has this clock").into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on() {
        let (first, second) = (Moment::now(), Moment::now());
        assert!(first.running > Duration::ZERO && second.running >= first.running);
        assert!(first.wall > 1_700_000_000, "{first:?}");
    }
}
