//! A take of a stored file, as the player sees it: where its media lies in the file, which of it is shown,
//! and by how much later than planned.
//!
//! What comes before the position that was asked for is decoded and not shown. The first picture that is
//! shown sets the pace: if it was decoded late, everything is shown later by that. So nothing of a stored file
//! is left out for being late, and sound stays with the picture.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use minicbor::{Decode, Encode};

use super::shared::lock;

/// RTP packets whose places are remembered, for each track: more than a GOP.
const PLACES: usize = 2048;

/// Positions are compared with this tolerance: timestamps are rounded on their way.
const ROUNDING: i64 = 2_000_000;

/// A picture this late is still shown at its time; one that is later moves all that follow.
const LATE: i64 = 25_000_000;

/// How long sound waits for the first picture.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where one track of a take stands: this RTP timestamp has that position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct TakeTrack {
    /// Rate of the RTP clock, in Hz.
    #[n(0)]
    pub clock_rate: u32,
    /// An RTP timestamp …
    #[n(1)]
    pub rtp_timestamp: u32,
    /// … and its position in the file, in nanoseconds.
    #[n(2)]
    pub position: i64,
}

/// What a take is to be.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TakePlan {
    /// Position of the first picture to show, in nanoseconds.
    #[n(0)]
    pub target: i64,
    /// How fast positions go by.
    #[n(1)]
    pub rate_percent: u32,
    /// Whether only its first picture is shown.
    #[n(2)]
    pub stands: bool,
    /// Where its tracks stand.
    #[n(3)]
    pub tracks: Vec<TakeTrack>,
}

/// One take.
#[derive(Debug)]
pub struct Take {
    /// Position of the first picture to show, in nanoseconds.
    target: i64,
    /// How fast positions go by.
    rate: f64,
    tracks: Vec<Mutex<Places>>,
    /// By how much all is shown later than it arrived plus the latency, in nanoseconds, once that is known.
    later: Mutex<Option<i64>>,
    known: Condvar,
    is_over: AtomicBool,
    /// Whether it stands still at its first picture.
    stands: bool,
    ended: AtomicUsize,
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    first_at: Option<Instant>,
    /// Position of the last picture that went to the outputs, and the running time at which it arrived, as
    /// it were.
    last: Option<(i64, i64)>,
    /// The furthest of all tracks: position, and running time of arrival.
    reached: Option<(i64, i64)>,
}

#[derive(Debug)]
struct Places {
    track: TakeTrack,
    /// Running time at which packets were placed, and their positions.
    places: VecDeque<(i64, i64)>,
}

impl Take {
    /// A take as planned.
    pub fn of(plan: &TakePlan) -> Self {
        let mut take = Self::new(plan.target, plan.rate_percent, &plan.tracks);
        take.stands = plan.stands;
        take
    }

    /// A take whose first picture to show is at `target` nanoseconds.
    pub fn new(target: i64, rate_percent: u32, tracks: &[TakeTrack]) -> Self {
        let places =
            |track: &TakeTrack| Mutex::new(Places { track: *track, places: VecDeque::new() });
        Self {
            target,
            rate: f64::from(rate_percent.max(1)) / 100.0,
            tracks: tracks.iter().map(places).collect(),
            later: Mutex::new(None),
            known: Condvar::new(),
            is_over: AtomicBool::new(false),
            stands: false,
            ended: AtomicUsize::new(0),
            shown: Mutex::default(),
        }
    }

    /// Whether nothing more is to be shown than what was.
    pub(super) fn stands_still(&self, leads: bool) -> bool {
        self.stands && (!leads || self.shown_at().is_some())
    }

    /// Position of the first picture to show, in nanoseconds.
    pub(super) fn target(&self) -> i64 {
        self.target
    }

    /// How fast positions go by.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// Nothing of it is shown any more.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        drop(lock(&self.later));
        self.known.notify_all();
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// A packet with this timestamp is played at this running time.
    pub(super) fn note(&self, track: usize, rtp_timestamp: u32, placed: Duration) {
        let Some(places) = self.tracks.get(track) else { return };
        let mut places = lock(places);
        let position = places.position(rtp_timestamp, self.rate);
        let placed = nanoseconds(placed);
        if places.places.back() == Some(&(placed, position)) {
            return;
        }
        if places.places.len() >= PLACES {
            places.places.pop_front();
        }
        places.places.push_back((placed, position));
    }

    /// Position of what is played at this running time.
    pub(super) fn position(&self, track: usize, placed: Duration) -> Option<i64> {
        let places = lock(self.tracks.get(track)?);
        let placed = nanoseconds(placed);
        let distance = |(at, _): &&(i64, i64)| (at - placed).abs();
        let (at, position) = places.places.iter().rev().min_by_key(distance)?;
        Some(position + ((placed - at) as f64 * self.rate) as i64)
    }

    /// Whether a picture at this position, or sound that ends there, is only there for what follows.
    pub(super) fn is_before(&self, position: i64) -> bool {
        position < self.target - ROUNDING
    }

    /// By how much a picture is shown later that is late by so much (or early, where negative).
    pub(super) fn picture_later(&self, late: i64) -> i64 {
        let mut later = lock(&self.later);
        let by = match *later {
            Some(by) if late <= by + LATE => by,
            // The first one is shown at once, even where the answer that told of it was held up.
            _ => late,
        };
        *later = Some(by);
        self.known.notify_all();
        by
    }

    /// By how much sound is shown later: waits until a picture has told. `None` where nothing is shown any more.
    pub(super) fn sound_later(&self) -> Option<i64> {
        let deadline = Instant::now() + PATIENCE;
        let mut later = lock(&self.later);
        loop {
            if self.is_over() {
                return None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if later.is_some() || left.is_zero() {
                return Some(later.unwrap_or(0));
            }
            (later, _) =
                self.known.wait_timeout(later, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A picture went to the outputs, to be shown as if it had arrived at this running time.
    pub(super) fn shows(&self, position: i64, arrival: i64) {
        let mut shown = lock(&self.shown);
        shown.first_at.get_or_insert_with(Instant::now);
        shown.last = Some((position, arrival));
    }

    /// Something of any track went to the outputs, that ends at this position and running time.
    pub(super) fn reaches(&self, position: i64, arrival: i64) {
        let mut shown = lock(&self.shown);
        let furthest = shown
            .reached
            .map_or((position, arrival), |(before, at)| (before.max(position), at.max(arrival)));
        shown.reached = Some(furthest);
    }

    /// The furthest position that went to the outputs, in nanoseconds.
    pub(super) fn reached(&self) -> i64 {
        lock(&self.shown).reached.map_or(self.target, |(position, _)| position)
    }

    /// When the first picture went to the outputs.
    pub fn shown_at(&self) -> Option<Instant> {
        lock(&self.shown).first_at
    }

    /// Position of what is shown at this running time, where the latency is that long; in nanoseconds.
    pub(super) fn showing(&self, now: Duration, latency: Duration) -> i64 {
        let Some((position, arrival)) = lock(&self.shown).last else { return self.target };
        let early = arrival + nanoseconds(latency) - nanoseconds(now);
        (position - (early.max(0) as f64 * self.rate) as i64).max(self.target)
    }

    /// No more comes of a track.
    pub(super) fn track_ended(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether all has been shown by this running time.
    pub(super) fn has_played_out(&self, now: Duration, latency: Duration) -> bool {
        if self.ended.load(Ordering::SeqCst) < self.tracks.len() {
            return false;
        }
        let reached = lock(&self.shown).reached;
        reached.is_none_or(|(_, arrival)| nanoseconds(now) >= arrival + nanoseconds(latency) + LATE)
    }
}

impl Places {
    fn position(&mut self, rtp_timestamp: u32, rate: f64) -> i64 {
        let ticks = rtp_timestamp.wrapping_sub(self.track.rtp_timestamp).cast_signed();
        let clock_rate = f64::from(self.track.clock_rate.max(1));
        let position = self.track.position + (f64::from(ticks) * 1e9 / clock_rate * rate) as i64;
        // Long before the difference would wrap.
        if ticks > 1 << 29 {
            self.track = TakeTrack { rtp_timestamp, position, ..self.track };
        }
        position
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn take() -> Take {
        let video =
            TakeTrack { clock_rate: 90_000, rtp_timestamp: u32::MAX - 10, position: 7_000 * MS };
        Take::new(7_000 * MS, 100, &[video])
    }

    #[test]
    fn places_give_positions_back() {
        let take = take();
        for frame in 0..100_000u32 {
            let placed =
                Duration::from_millis(120_000 + u64::from(frame) * 40 + u64::from(frame) % 3);
            take.note(0, (u32::MAX - 10).wrapping_add(frame * 3_600), placed);
            assert_eq!(take.position(0, placed), Some((7_000 + i64::from(frame) * 40) * MS));
        }
        assert_eq!(take.position(1, Duration::ZERO), None);
    }

    #[test]
    fn what_is_late_moves_all_that_follows() {
        let take = take();
        assert_eq!(take.picture_later(-5 * MS), -5 * MS);
        assert_eq!(take.picture_later(20 * MS), -5 * MS);
        assert_eq!(take.picture_later(300 * MS), 300 * MS);
        assert_eq!(take.picture_later(310 * MS), 300 * MS);
        assert_eq!(take.sound_later(), Some(300 * MS));
        take.end();
        assert_eq!(take.sound_later(), None);
    }

    #[test]
    fn the_position_shown_follows_the_clock() {
        let (take, latency) = (take(), Duration::from_millis(200));
        let at = |ms: u64| Duration::from_millis(ms);
        assert_eq!(take.showing(at(0), latency), 7_000 * MS);
        take.shows(7_400 * MS, 120_000 * MS);
        take.reaches(7_400 * MS, 120_000 * MS);
        assert_eq!(take.showing(at(120_150), latency), 7_350 * MS);
        assert_eq!(take.showing(at(120_500), latency), 7_400 * MS);
        take.track_ended();
        assert!(!take.has_played_out(at(120_200), latency));
        assert!(take.has_played_out(at(120_300), latency));
    }
}
