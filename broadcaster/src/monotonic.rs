//! The monotonic clock as a number, which means the same in all processes of a machine.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// The two readings of one clock are made as close to each other as a few tries give.
const TRIES: usize = 8;

/// One moment, as both forms show it.
fn anchor() -> (Instant, u64) {
    static ANCHOR: OnceLock<(Instant, u64)> = OnceLock::new();
    *ANCHOR.get_or_init(|| {
        let reading = || {
            let before = Instant::now();
            let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Into::into);
            (before.elapsed(), before, nanoseconds(time))
        };
        let closest = (0..TRIES).map(|_| reading()).min_by_key(|(took, ..)| *took);
        let (_, at, time) = closest.unwrap_or_else(reading);
        (at, time)
    })
}

/// Nanoseconds of the monotonic clock at an instant.
pub(crate) fn time_of(instant: Instant) -> u64 {
    let (at, time) = anchor();
    match instant.checked_duration_since(at) {
        Some(since) => time.saturating_add(nanoseconds(since)),
        None => time.saturating_sub(nanoseconds(at.duration_since(instant))),
    }
}

/// The instant at which the monotonic clock showed so many nanoseconds.
pub(crate) fn instant_of(nanoseconds: u64) -> Instant {
    let (at, time) = anchor();
    let instant = match nanoseconds.checked_sub(time) {
        Some(since) => at.checked_add(Duration::from_nanos(since)),
        None => at.checked_sub(Duration::from_nanos(time - nanoseconds)),
    };
    // Only nonsense is out of reach.
    instant.unwrap_or(at)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_and_numbers_are_the_same_moments() {
        let now = Instant::now();
        for instant in [now, now + Duration::from_secs(5), now - Duration::from_millis(3)] {
            assert_eq!(instant_of(time_of(instant)), instant);
        }
        assert_eq!(time_of(now + Duration::from_secs(1)) - time_of(now), 1_000_000_000);
        let shown = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).expect("a clock");
        assert!(nanoseconds(shown).abs_diff(time_of(Instant::now())) < 1_000_000_000);
        instant_of(u64::MAX);
        instant_of(0);
    }
}
