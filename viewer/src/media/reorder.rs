//! Decoding times, which RTP doesn't carry. Containers want them beside presentation times where
//! pictures are sent in another order than they are shown in.
//!
//! If at most `depth` pictures are sent before one that is shown earlier, then no picture still to
//! come is shown before all but the `depth` last-shown ones that have come. So the time of the
//! next-later one of those is a decoding time: it never goes back, no picture is shown before it,
//! and nothing has to be waited for.

use std::time::Duration;

use super::codec::Codec;
use super::parameter_sets::{MOST_REORDERED, declared_depth};

/// Between the decoding times made up for the first pictures. Any step does; this one is a
/// plausible frame's.
const LEAD_STEP: Duration = Duration::from_millis(20);

/// Decoding times keep at least this distance where the depth has just grown.
const LEAST_STEP: Duration = Duration::from_millis(1);

/// Makes one video track's decoding times.
#[derive(Debug)]
pub(super) struct DecodingTimes {
    codec: Codec,
    /// As the stream's parameter sets say.
    declared: usize,
    /// As seen: parameter sets may be silent, or wrong.
    observed: usize,
    /// The latest presentation times so far, latest first.
    latest: Vec<Duration>,
    last: Option<Duration>,
}

impl DecodingTimes {
    pub(super) fn new(codec: Codec) -> Self {
        Self { codec, declared: 0, observed: 0, latest: Vec::new(), last: None }
    }

    /// The decoding time of the next access unit in the order of sending, an Annex B byte stream
    /// where the codec has one.
    pub(super) fn next(
        &mut self,
        access_unit: &[u8],
        keyframe: bool,
        presentation: Duration,
    ) -> Duration {
        if let Some(depth) = declared_depth(self.codec, access_unit) {
            self.declared = depth;
        }
        let mut later = self.latest.iter().filter(|&&time| time > presentation).count();
        // No picture before a keyframe is shown after it: time itself has stepped back.
        if later > MOST_REORDERED || (keyframe && later > 0) {
            self.latest.clear();
            self.last = None;
            later = 0;
        }
        self.observed = self.observed.max(later);
        self.latest.insert(later, presentation);
        self.latest.truncate(MOST_REORDERED + 1);
        self.decoding_time(presentation)
    }

    fn decoding_time(&mut self, presentation: Duration) -> Duration {
        let depth = self.declared.max(self.observed);
        let ranked = self.latest.get(depth).copied().unwrap_or_else(|| {
            let missing = u32::try_from(depth + 1 - self.latest.len()).unwrap_or_default();
            let earliest = self.latest.last().copied().unwrap_or(presentation);
            earliest.saturating_sub(LEAD_STEP * missing)
        });
        let time = self
            .last
            .map_or(ranked, |last| ranked.max(last + LEAST_STEP).min(presentation.max(last)));
        self.last = Some(time);
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(40);

    /// The decoding times of pictures sent in this order, a frame apart, the first a keyframe.
    fn run(declared: usize, shown: &[u32]) -> Vec<Duration> {
        let mut times = DecodingTimes::new(Codec::H264);
        times.declared = declared;
        let pictures = shown.iter().enumerate();
        pictures.map(|(i, &at)| times.next(&[], i == 0, (100 + at) * FRAME)).collect()
    }

    fn assert_legal(shown: &[u32], times: &[Duration]) {
        assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
        for (&at, &time) in shown.iter().zip(times) {
            assert!(time <= (100 + at) * FRAME, "{shown:?}: {times:?}");
        }
    }

    #[test]
    fn decoding_times_rise_and_come_no_later_than_presentation() {
        let orders: [(usize, &[u32]); 5] = [
            (0, &[0, 1, 2, 3, 4, 5]),
            (1, &[0, 2, 1, 4, 3, 6, 5]),
            (2, &[0, 4, 2, 1, 3, 8, 6, 5, 7, 12, 10, 9, 11]),
            (4, &[0, 16, 8, 4, 2, 1, 3, 6, 5, 7, 12, 10, 9, 11, 14, 13, 15]),
            // Pictures were lost.
            (2, &[0, 4, 1, 3, 8, 5, 7, 30, 29, 34, 32, 31, 33]),
        ];
        for (depth, order) in orders {
            for declared in depth..=MOST_REORDERED {
                assert_legal(order, &run(declared, order));
            }
        }
    }

    #[test]
    fn without_reordering_decoding_and_presentation_are_one() {
        assert_eq!(run(0, &[0, 1, 2, 5]), [0, 1, 2, 5].map(|at| (100 + at) * FRAME));
    }

    #[test]
    fn an_undeclared_depth_is_learnt() {
        let order = [0, 4, 2, 1, 3, 8, 6, 5, 7, 12, 10, 9, 11];
        let times = run(0, &order);
        assert!(times.is_sorted(), "{times:?}");
        assert_legal(&order[5..], &times[5..]);
    }

    #[test]
    fn time_may_step_back_at_a_keyframe() {
        let mut times = DecodingTimes::new(Codec::H264);
        times.next(&[], true, 900 * FRAME);
        times.next(&[], false, 901 * FRAME);
        assert_eq!(times.next(&[], true, 100 * FRAME), 100 * FRAME);
        assert_eq!(times.next(&[], false, 101 * FRAME), 101 * FRAME);
    }
}
