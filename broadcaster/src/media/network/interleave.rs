//! How far apart a sender's pictures and sound of one moment lie in what it sends. ffmpeg gathers 0.36 s of quiet sound
//! into one packet of a transport stream, so sound comes that much later than the pictures that belong to it. Whoever shows
//! both together has to wait for the later one, and whoever is sent both should not have to find out for how long: all is
//! passed on by so much later that each comes in its time.

/// What lies deepest is looked for this long at least, and twice as long at most, in nanoseconds.
const WINDOW: i64 = 30_000_000_000;

/// More than the deepest that was seen, in nanoseconds: depth is told by other packets, which come a picture apart.
const MARGIN: i64 = 40_000_000;

/// No more than this, in nanoseconds. What lies deeper is late still, and is followed where it is shown.
const MOST: i64 = 2_000_000_000;

/// What is earlier by more has other times than what came before, in nanoseconds.
const FARTHEST: i64 = 3_000_000_000;

/// It becomes less by this part of the time that passes, neither heard nor seen.
const SLEW: i64 = 100;

/// By how much all is held back.
#[derive(Debug, Default)]
pub(super) struct Interleave {
    /// The latest time of all tracks, by the sender's clock.
    newest: Option<i64>,
    /// How far behind that something came: in this window, and in the one before; when this one began.
    deepest: [i64; 2],
    began: i64,
    held_back: i64,
    lowered_at: i64,
}

impl Interleave {
    /// Takes what is decoded at this time, by the sender's clock, and came now. Returns by how much what is passed on is to
    /// be held back. All in nanoseconds.
    pub(super) fn take(&mut self, decoded: i64, now: i64) -> i64 {
        let newest = *self.newest.get_or_insert(decoded);
        let depth = newest.saturating_sub(decoded);
        // It is newer, or of another time.
        if !(0..=FARTHEST).contains(&depth) {
            self.newest = Some(decoded);
        }
        let depth = if depth > FARTHEST { 0 } else { depth.clamp(0, MOST) };
        if now - self.began >= WINDOW {
            (self.deepest, self.began) = ([0, self.deepest[0]], now);
        }
        self.deepest[0] = self.deepest[0].max(depth);
        let passed = (now - self.lowered_at).max(0);
        self.lowered_at = now;
        let needed = match self.deepest[0].max(self.deepest[1]) {
            0 => 0,
            deepest => deepest + MARGIN,
        };
        // Less than half of the margin is left before it is more at once.
        if depth + MARGIN / 2 > self.held_back && depth > 0 {
            self.held_back = needed;
        }
        self.held_back = (self.held_back - passed / SLEW).max(needed.min(self.held_back));
        self.held_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    /// Pictures each 40 ms, and sound of so much in one packet, at its end. Returns all that was told.
    fn told(interleave: &mut Interleave, from: i64, seconds: i64, packet: i64) -> Vec<i64> {
        let mut told = Vec::new();
        for number in from * 25..(from + seconds) * 25 {
            let at = number * 40 * MS;
            told.push(interleave.take(at, at));
            if at % packet == 0 && at >= packet {
                told.push(interleave.take(at - packet, at));
            }
        }
        told
    }

    #[test]
    fn all_waits_for_what_comes_last() {
        let mut interleave = Interleave::default();
        let first = told(&mut interleave, 0, 5, 200 * MS);
        assert_eq!(first[0], 0);
        assert!(first[20..].iter().all(|held| *held == 240 * MS), "{first:?}");
        // More at once, and that is all.
        let more = told(&mut interleave, 5, 60, 640 * MS);
        let changes = more.windows(2).filter(|two| two[0] != two[1]).count();
        assert_eq!((changes, more[more.len() - 1]), (1, 680 * MS));
        // Less slowly.
        let less = told(&mut interleave, 65, 120, 200 * MS);
        assert_eq!(less[less.len() - 1], 240 * MS);
        assert!(less.windows(2).all(|two| (0..=MS).contains(&(two[0] - two[1]))));
        assert_eq!(less[25 * 20], 680 * MS, "it is remembered for a while");
    }

    #[test]
    fn one_track_waits_for_nothing() {
        let mut interleave = Interleave::default();
        assert!((0..100).all(|number| interleave.take(number * 40 * MS, number * 40 * MS) == 0));
    }

    #[test]
    fn a_stall_and_times_that_begin_anew_hold_nothing_back() {
        let mut interleave = Interleave::default();
        told(&mut interleave, 0, 5, 200 * MS);
        for (decoded, now) in [(5_000, 9_000), (5_040, 9_000), (-90_000, 9_040), (-89_960, 9_080)] {
            assert_eq!(interleave.take(decoded * MS, now * MS), 240 * MS, "{decoded}");
        }
        let far = interleave.take(i64::MAX, i64::MAX);
        assert!((0..=240 * MS).contains(&far));
        assert!((0..=MOST).contains(&interleave.take(i64::MIN, i64::MAX)));
        assert!((0..=MOST).contains(&interleave.take(i64::MIN + MOST * 2, i64::MAX)));
    }
}
