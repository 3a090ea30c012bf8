//! Takes of a stored file laid end to end for an output that passes coded media on.
//!
//! A recording runs by positions in the file: a pause leaves no trace in it, and a take that goes on where the
//! one before ended, after a pause or a broken path, begins with pictures that are there already, which are left
//! out. After a seek the recording goes on with the keyframe that was decoded from. An output that is watched
//! live runs by the clock.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::take::Take;

/// A recording begins here, so that decoding times in front of the first picture are no negative ones.
const BEGIN: i64 = 10_000_000_000;

/// Positions that are this close are one: timestamps are rounded.
const SAME: i64 = 1_000_000;

/// A take that begins no further than this behind what is there goes on with it.
const GAP: i64 = 500_000_000;

/// Positions that are remembered, for each track: more than a long GOP.
const REMEMBERED: usize = 4096;

/// Times of a coded buffer, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) presentation: i64,
    pub(super) decoding: i64,
}

/// Where the takes of a file lie in an output.
#[derive(Debug)]
pub(super) struct Splice {
    /// Whether it runs by the clock.
    by_clock: bool,
    /// The take that is laid down, held so that no other can be mistaken for it.
    take: Option<Arc<Take>>,
    /// What is added to a position, at this rate.
    offset: Option<i64>,
    goes_on: bool,
    tracks: Vec<Track>,
    /// Position and time behind all that there is.
    end: (i64, i64),
}

#[derive(Debug, Default, Clone)]
struct Track {
    there: BTreeSet<i64>,
    decoded: Option<i64>,
}

impl Splice {
    pub(super) fn new(tracks: usize, by_clock: bool) -> Self {
        let tracks = vec![Track::default(); tracks];
        Self { by_clock, take: None, offset: None, goes_on: false, tracks, end: (0, BEGIN) }
    }

    /// Where a buffer goes; `None` where it is there already. `now` is the running time.
    pub(super) fn place(
        &mut self,
        take: &Arc<Take>,
        track: usize,
        position: i64,
        times: Times,
        now: i64,
    ) -> Option<Times> {
        if self.take.as_ref().is_none_or(|before| !Arc::ptr_eq(before, take)) {
            self.begin(take, position);
        }
        let known = self.tracks.get_mut(track)?;
        if self.goes_on && known.there.range(position - SAME..=position + SAME).next().is_some() {
            return None;
        }
        let scaled = if self.by_clock { (position as f64 / take.rate()) as i64 } else { position };
        let begins_at = if self.by_clock { now.max(self.end.1) } else { self.end.1 };
        let offset = *self.offset.get_or_insert(begins_at - scaled);
        let presentation = scaled + offset;
        let decoding = presentation - (times.presentation - times.decoding);
        // In order, and never behind the presentation.
        let decoding = known.decoded.map_or(decoding, |before| decoding.max(before + 1));
        let decoding = decoding.min(presentation);
        known.decoded = Some(decoding);
        known.there.insert(position);
        if known.there.len() > REMEMBERED {
            // Behind a seek back, the lowest may be the newest: that is noticed nowhere but in a long GOP.
            known.there.pop_first();
        }
        self.end = (self.end.0.max(position), self.end.1.max(presentation));
        Some(Times { presentation, decoding })
    }

    fn begin(&mut self, take: &Arc<Take>, position: i64) {
        let is_first = self.take.is_none();
        let (end, _) = self.end;
        self.goes_on = !is_first && position <= end + SAME && take.target() <= end + GAP && {
            let lowest = self.tracks.iter().filter_map(|track| track.there.first()).min();
            lowest.is_some_and(|lowest| *lowest <= position + SAME)
        };
        if !self.goes_on {
            self.tracks.iter_mut().for_each(|track| track.there.clear());
            self.end.0 = 0;
        }
        if !self.goes_on || self.by_clock {
            self.offset = None;
        }
        self.take = Some(Arc::clone(take));
    }
}

#[cfg(test)]
mod tests {
    use super::super::take::TakeTrack;
    use super::*;

    const MS: i64 = 1_000_000;

    fn take(target: i64) -> Arc<Take> {
        let track = TakeTrack { clock_rate: 90_000, rtp_timestamp: 0, position: 0 };
        Arc::new(Take::new(target * MS, 100, &[track]))
    }

    fn lay(splice: &mut Splice, take: &Arc<Take>, positions: &[i64], now: i64) -> Vec<Option<i64>> {
        let times = Times { presentation: 120_000 * MS, decoding: 119_960 * MS };
        let place = |position: &i64| {
            let placed = splice.place(take, 0, position * MS, times, now * MS)?;
            Some((placed.presentation - BEGIN) / MS)
        };
        positions.iter().map(place).collect()
    }

    #[test]
    fn what_goes_on_is_not_laid_down_twice() {
        let mut splice = Splice::new(1, false);
        // I, P, B, B in decoding order.
        assert_eq!(lay(&mut splice, &take(0), &[0, 120, 40, 80], 0), [0, 120, 40, 80].map(Some));
        let again = lay(&mut splice, &take(60), &[0, 120, 40, 80, 240, 160], 70_000);
        assert_eq!(again, [None, None, None, None, Some(240), Some(160)]);
    }

    #[test]
    fn behind_a_seek_it_goes_on_where_it_was() {
        let mut splice = Splice::new(1, false);
        lay(&mut splice, &take(0), &[0, 40, 80], 0);
        let sought = lay(&mut splice, &take(9_000), &[8_960, 9_000], 0);
        assert_eq!(sought, [Some(80), Some(120)]);
        let back = lay(&mut splice, &take(40), &[0, 40], 0);
        assert_eq!(back, [Some(120), Some(160)]);
    }

    #[test]
    fn by_the_clock_a_pause_takes_its_time() {
        let mut splice = Splice::new(1, true);
        let first = lay(&mut splice, &take(0), &[0, 40], 20_000);
        assert_eq!(first, [Some(10_000), Some(10_040)]);
        let on = lay(&mut splice, &take(40), &[0, 40, 80, 120], 90_000);
        assert_eq!(on, [None, None, Some(80_000), Some(80_040)]);
    }
}
