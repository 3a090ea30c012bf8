//! A sender's timestamps on our clock. They tell how its pictures and its sound lie to each other; when all of it
//! happened, the quickest messages tell, for those were held up least.

/// How long the quickest message is looked for, in nanoseconds. Two clocks drift apart by a millisecond meanwhile at most.
const WINDOW: i64 = 10_000_000_000;

/// What comes later than this has other timestamps than what was before, in nanoseconds.
const FARTHEST: i64 = 3_000_000_000;

/// Where a sender's time lies.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    anchor: Option<Anchor>,
    /// The latest timestamp, in milliseconds.
    timestamp: u32,
}

#[derive(Debug)]
struct Anchor {
    /// The sender's time of the latest message, in nanoseconds since the first one.
    time: i64,
    /// Running time at `time` zero, in nanoseconds.
    offset: i64,
    /// By how much the quickest message of this window was late, and when the window began.
    least: i64,
    began: i64,
}

impl Arrival {
    /// Running time of what has this timestamp, in milliseconds, and came now, at this running time. Both running times
    /// are in nanoseconds. The result is never later than now.
    pub(super) fn place(&mut self, timestamp: u32, now: i64) -> i64 {
        // Timestamps wrap around, and those of pictures and sound overtake each other.
        let step = timestamp.wrapping_sub(self.timestamp).cast_signed();
        self.timestamp = timestamp;
        let time = self.advance(i64::from(step) * 1_000_000, now);
        self.at(time)
    }

    /// Takes what is later by this than what came before, by the sender's clock, and came now. Returns the sender's time
    /// since the first that came. All in nanoseconds.
    pub(super) fn advance(&mut self, step: i64, now: i64) -> i64 {
        let Some(anchor) = &mut self.anchor else {
            self.anchor = Some(Anchor { time: 0, offset: now, least: 0, began: now });
            return 0;
        };
        anchor.time = anchor.time.saturating_add(step);
        let late = now - anchor.time.saturating_add(anchor.offset);
        if !(0..=FARTHEST).contains(&late) {
            anchor.offset += late;
            (anchor.least, anchor.began) = (0, now);
        } else {
            anchor.least = anchor.least.min(late);
            if now - anchor.began >= WINDOW {
                anchor.offset += anchor.least;
                (anchor.least, anchor.began) = (i64::MAX, now);
            }
        }
        anchor.time
    }

    /// Running time of the sender's time, as far as is known, in nanoseconds.
    pub(super) fn at(&self, time: i64) -> i64 {
        self.anchor.as_ref().map_or(time, |anchor| time.saturating_add(anchor.offset))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: i64 = 1_000_000;

    #[test]
    fn the_quickest_message_tells_when_it_was() {
        let mut arrival = Arrival::default();
        let mut place =
            |timestamp: u32, now: i64| arrival.place(timestamp, now * MILLISECOND) / MILLISECOND;
        assert_eq!(place(5_000, 40_000), 40_000, "the first one may have been held up");
        assert_eq!(place(5_040, 40_010), 40_010, "as this one shows");
        assert_eq!(place(5_080, 40_090), 40_050, "this one is late by 40 ms");
        assert_eq!(place(5_060, 40_091), 40_030, "sound behind pictures");
    }

    #[test]
    fn another_clock_is_followed_and_wraps_around() {
        let mut arrival = Arrival::default();
        let begin = u32::MAX - 100_000;
        // A clock that is slow by 100 ppm, for an hour.
        for frame in 0..90_000_u32 {
            let now = i64::from(frame) * (40 * MILLISECOND + 4_000);
            let late = now - arrival.place(begin.wrapping_add(frame * 40), now);
            assert!((0..=2 * MILLISECOND).contains(&late), "picture {frame} is late by {late} ns");
        }
    }

    #[test]
    fn timestamps_that_begin_anew_are_now() {
        let mut arrival = Arrival::default();
        arrival.place(1_000_000, 0);
        for (timestamp, now) in [(0, 40), (900_000, 80), (3, 120)] {
            let now = now * MILLISECOND;
            assert_eq!(arrival.place(timestamp, now), now);
        }
    }

    proptest! {
        #[test]
        fn nothing_comes_from_the_future_or_from_long_ago(
            messages in proptest::collection::vec((any::<u32>(), 0..5_000_i64), 1..50),
        ) {
            let (mut arrival, mut now) = (Arrival::default(), 0);
            for (timestamp, wait) in messages {
                now += wait * MILLISECOND;
                let at = arrival.place(timestamp, now);
                prop_assert!(at <= now && at >= now - FARTHEST);
            }
        }
    }
}
