//! A sender's timestamps on our clock. They tell how its pictures and its sound lie to each other; when all of it
//! happened, the quickest messages tell, for those were held up least. What they tell moves pictures and sound alike, and so
//! slowly that nobody sees or hears it.

/// How long the quickest message is looked for, in nanoseconds: this long at least, and twice as long at most. Two clocks
/// drift apart by two milliseconds meanwhile at most.
const WINDOW: i64 = 10_000_000_000;

/// What comes later than this has other timestamps than what was before, in nanoseconds.
const FARTHEST: i64 = 3_000_000_000;

/// And so has what comes quicker than everything before by more than this, in nanoseconds.
const MOST_AHEAD: i64 = 1_000_000_000;

/// In how long what is off its place by a little would be on it, in nanoseconds, if it went on as fast as it begins.
const APPROACH: i64 = 10_000_000_000;

/// What is placed moves by this part of the time that passes at most: 10 ms a second, neither heard nor seen.
const SLEW: i64 = 100;

/// No more time than this has passed since the last message, for that, in nanoseconds.
const LONGEST_STEP: i64 = 100_000_000;

/// Where a sender's time lies.
#[derive(Debug, Default)]
pub(super) struct Arrival {
    anchor: Option<Anchor>,
    /// The latest timestamp, in milliseconds.
    timestamp: u32,
    is_settled: bool,
}

#[derive(Debug)]
struct Anchor {
    /// The sender's time of the latest message, in nanoseconds since the first one. A sender that makes it jump for long
    /// can have it wrap around.
    time: i64,
    /// Running time at `time` zero when this timeline began, in nanoseconds.
    base: i64,
    /// By how much later messages are placed than that.
    shift: i64,
    /// And how much it would be by the quickest message of this window and by that of the window before; when this one began.
    quickest: [i64; 2],
    began: i64,
    /// Up to when the shift has moved.
    moved_at: i64,
}

impl Anchor {
    /// The sender's time `time` is now.
    fn new(time: i64, now: i64) -> Self {
        let base = now.wrapping_sub(time);
        Self { time, base, shift: 0, quickest: [0, i64::MAX], began: now, moved_at: now }
    }
}

impl Arrival {
    /// Running time of what has this timestamp, in milliseconds, and came now, at this running time. Both running times
    /// are in nanoseconds. The result is later than now by a second at most: for a while, where a message came quicker than all
    /// before.
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
            self.anchor = Some(Anchor::new(0, now));
            return 0;
        };
        anchor.time = anchor.time.wrapping_add(step);
        let seen = now.wrapping_sub(anchor.time).wrapping_sub(anchor.base);
        if !(-MOST_AHEAD..=FARTHEST).contains(&seen.saturating_sub(anchor.shift)) {
            *anchor = Anchor::new(anchor.time, now);
            return anchor.time;
        }
        if now - anchor.began >= WINDOW {
            (anchor.quickest, anchor.began) = ([i64::MAX, anchor.quickest[0]], now);
        }
        anchor.quickest[0] = anchor.quickest[0].min(seen);
        let off = anchor.quickest[0].min(anchor.quickest[1]) - anchor.shift;
        let passed = (now - anchor.moved_at).clamp(0, LONGEST_STEP);
        anchor.moved_at = anchor.moved_at.max(now);
        anchor.shift += match self.is_settled {
            // Each is some seconds at most, and their product is far from the end of what can be counted.
            true => (off * passed / APPROACH).clamp(-passed / SLEW, passed / SLEW),
            false => off,
        };
        anchor.time
    }

    /// What is placed is passed on from now on, and moves no more but slowly. What came first is of this time by the
    /// sender's clock, in nanoseconds: it and what follows are placed later where it would lie before running time begins,
    /// as the beginning of a sender that catches up may.
    pub(super) fn settle(&mut self, first: i64) {
        let before = self.at(first);
        if !std::mem::replace(&mut self.is_settled, true)
            && (-MOST_AHEAD..0).contains(&before)
            && let Some(anchor) = &mut self.anchor
        {
            anchor.shift -= before;
        }
    }

    /// Running time of the sender's time, as far as is known, in nanoseconds.
    pub(super) fn at(&self, time: i64) -> i64 {
        self.anchor
            .as_ref()
            .map_or(time, |anchor| time.wrapping_add(anchor.base).wrapping_add(anchor.shift))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: i64 = 1_000_000;

    /// When a message is late by a bit, in nanoseconds, another bit each time; one of eight is not.
    fn jitter(number: i64) -> i64 {
        (number * 7 % 8) * 3 * MILLISECOND
    }

    /// Steps between pictures that are sent each 40 ms and late by so much, as placed, in nanoseconds. From 2 s on the
    /// timeline is settled; those before are left out. And by how much the last one is late as placed.
    fn steps(count: i64, comes: impl Fn(i64) -> i64) -> (Vec<i64>, i64) {
        let mut arrival = Arrival::default();
        let (mut placed, mut late) = (Vec::new(), 0);
        for number in 0..count {
            if number == 50 {
                arrival.settle(0);
            }
            let step = if number == 0 { 0 } else { 40 * MILLISECOND };
            let time = arrival.advance(step, comes(number));
            if number >= 50 {
                placed.push(arrival.at(time));
            }
            late = comes(number) - arrival.at(time);
        }
        (placed.windows(2).map(|two| two[1] - two[0]).collect(), late)
    }

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
        let begin = u32::MAX - 100_000;
        // Clocks that are fast and slow by 200 ppm, for an hour.
        for drift in [-8_000, 8_000] {
            let mut arrival = Arrival::default();
            for frame in 0..90_000_u32 {
                let now = i64::from(frame) * (40 * MILLISECOND + drift);
                let late = now - arrival.place(begin.wrapping_add(frame * 40), now);
                let bound = 7 * MILLISECOND;
                assert!((-bound..=bound).contains(&late), "picture {frame}: {late} ns");
                arrival.settle(0);
            }
        }
    }

    #[test]
    fn pictures_lie_evenly_however_they_come() {
        for drift in [-8_000, 0, 8_000] {
            let (steps, late) =
                steps(30_000, |number| number * (40 * MILLISECOND + drift) + jitter(number));
            // 200 ppm of 40 ms are 8 µs, and what the estimate is off by is made good slowly.
            let most = steps.iter().map(|step| (step - 40 * MILLISECOND).abs()).max();
            assert!(most <= Some(20_000), "{drift}: {most:?} ns");
            assert!(late.abs() <= 30 * MILLISECOND, "{drift}: {late} ns");
        }
    }

    #[test]
    fn a_path_that_becomes_slower_or_quicker_is_followed_slowly() {
        for change in [-300 * MILLISECOND, 300 * MILLISECOND] {
            let (steps, late) = steps(6_000, |number| {
                let late = if number < 1_000 { 0 } else { change };
                number * 40 * MILLISECOND + late
            });
            let most = steps.iter().map(|step| (step - 40 * MILLISECOND).abs()).max();
            assert!(most <= Some(40 * MILLISECOND / SLEW), "{most:?} ns");
            assert!(late.abs() < MILLISECOND, "{late} ns");
        }
    }

    #[test]
    fn what_stood_still_for_a_moment_is_placed_as_if_it_had_not() {
        let (steps, late) = steps(1_000, |number| {
            // For 2 s nothing comes, then all at once.
            let number = if (500..550).contains(&number) { 550 } else { number };
            number * 40 * MILLISECOND
        });
        assert!(steps.iter().all(|step| *step == 40 * MILLISECOND));
        assert_eq!(late, 0);
    }

    #[test]
    fn timestamps_that_begin_anew_are_now() {
        let mut arrival = Arrival::default();
        arrival.place(1_000_000, 0);
        arrival.settle(0);
        for (timestamp, now) in [(0, 40), (900_000, 80), (3, 120)] {
            let now = now * MILLISECOND;
            assert_eq!(arrival.place(timestamp, now), now);
        }
        // A sender that stood still for longer than packets are late.
        assert_eq!(arrival.place(43, 4_000 * MILLISECOND), 4_000 * MILLISECOND);
    }

    #[test]
    fn nothing_lies_before_time_began() {
        let mut arrival = Arrival::default();
        let times = [0, 40, 80].map(|came| arrival.advance(100 * MILLISECOND, came * MILLISECOND));
        assert_eq!(times.map(|time| arrival.at(time) / MILLISECOND), [-120, -20, 80]);
        arrival.settle(times[0]);
        assert_eq!(times.map(|time| arrival.at(time) / MILLISECOND), [0, 100, 200]);
        let later = (1..1_000).fold(0, |_, number| {
            arrival.advance(40 * MILLISECOND, (80 + number * 40) * MILLISECOND)
        });
        let late = (80 + 999 * 40) - arrival.at(later) / MILLISECOND;
        assert!((-5..=0).contains(&late), "{late} ms");
    }

    proptest! {
        #[test]
        fn nothing_comes_from_the_far_future_or_from_long_ago(
            messages in proptest::collection::vec((any::<u32>(), 0..5_000_i64), 1..50),
            settled_at in 0..50_usize,
        ) {
            let (mut arrival, mut now) = (Arrival::default(), 0);
            for (number, (timestamp, wait)) in messages.into_iter().enumerate() {
                if number == settled_at {
                    arrival.settle(0);
                }
                now += wait * MILLISECOND;
                let at = arrival.place(timestamp, now);
                prop_assert!(at <= now + MOST_AHEAD && at >= now - FARTHEST);
            }
        }

        #[test]
        fn no_step_is_too_large(
            steps in proptest::collection::vec((any::<i64>(), 0..i64::MAX / 1_000), 1..50),
        ) {
            let (mut arrival, mut now) = (Arrival::default(), 0);
            for (step, wait) in steps {
                now += wait;
                let time = arrival.advance(step, now);
                prop_assert!((now - FARTHEST..=now + MOST_AHEAD).contains(&arrival.at(time)));
                arrival.settle(0);
            }
        }
    }
}
