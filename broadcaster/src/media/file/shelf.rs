//! Frames between the threads that read a file and the one that sends them: bounded, and taken in
//! the order in which they are due, however the file has them interleaved.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;
use protocol::media::Kind;

/// A frame as the file has it. Times are running time of the reader, in nanoseconds; they may be
/// negative.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) buffer: gst::Buffer,
    pub(super) pts: i64,
    pub(super) dts: Option<i64>,
    pub(super) duration: Option<i64>,
}

/// A frame with what is known of those behind it.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) track: usize,
    pub(super) frame: Frame,
    /// When it has to be sent: its decoding time, or where the file has none, the earliest
    /// presentation time among it and the frames behind it.
    pub(super) due: i64,
    /// Whether no picture comes any more.
    pub(super) pictures_ended: bool,
}

/// A track is full with this many bytes (but never with one frame)…
const FULL_BYTES: usize = 16 << 20;

/// …or with frames over this time.
const FULL_TIME: i64 = 1_000_000_000;

/// While another track has nothing, it may grow to this: the file is badly interleaved.
const UNEVEN_FACTOR: usize = 4;

/// Pictures that may be out of presentation order (H.264 and H.265 allow 16).
const REORDERED: usize = 16;

/// How often a waiting taker looks whether it should stop.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Track {
    kind: Kind,
    frames: VecDeque<Frame>,
    bytes: usize,
    ended: bool,
}

#[derive(Debug, Default)]
struct State {
    tracks: Vec<Track>,
    /// Whether all tracks are known.
    complete: bool,
    failed: Option<String>,
    closed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Shelf {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shelf {
    /// Adds a track, unless one of its kind is there.
    pub(super) fn add_track(&self, kind: Kind) -> Option<usize> {
        let mut state = self.state();
        if state.complete || state.tracks.iter().any(|track| track.kind == kind) {
            return None;
        }
        state.tracks.push(Track { kind, frames: VecDeque::new(), bytes: 0, ended: false });
        Some(state.tracks.len() - 1)
    }

    /// Says that there are no more tracks.
    pub(super) fn complete(&self) {
        self.change(|state| state.complete = true);
    }

    /// Says that a track has no more frames.
    pub(super) fn end(&self, track: usize) {
        self.change(|state| state.tracks[track].ended = true);
    }

    /// Says that reading failed; what has been read remains.
    pub(super) fn fail(&self, reason: String) {
        self.change(|state| {
            state.failed.get_or_insert(reason);
            state.tracks.iter_mut().for_each(|track| track.ended = true);
        });
    }

    /// Sends away everybody who waits to put something here.
    pub(super) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    /// Puts a frame behind the others of its track, and waits for room first. False if closed.
    pub(super) fn put(&self, track: usize, frame: Frame) -> bool {
        let mut state = self.state();
        while !state.closed && state.is_full(track) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        let shelf = &mut state.tracks[track];
        shelf.bytes += frame.buffer.size();
        shelf.frames.push_back(frame);
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Waits until all tracks are known.
    pub(super) fn wait_for_tracks(
        &self,
        deadline: Instant,
        stopped: impl Fn() -> bool,
    ) -> Result<(), String> {
        let mut state = self.state();
        loop {
            if stopped() {
                return Err("it is not wanted any more".to_owned());
            }
            if let Some(reason) = &state.failed {
                return Err(reason.clone());
            }
            if state.complete {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err("it takes too long to open".to_owned());
            }
            (state, _) = self
                .changed
                .wait_timeout(state, left.min(STOP_CHECK_INTERVAL))
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// When the first picture is shown, or where there are none, the first sound begins. None if
    /// there is nothing, or if `stopped`.
    pub(super) fn origin(&self, stopped: impl Fn() -> bool) -> Option<i64> {
        self.wait(stopped, |state| {
            let first = state
                .tracks
                .iter()
                .filter(|track| !(track.ended && track.frames.is_empty()))
                .min_by_key(|track| track.kind == Kind::Audio)?;
            let known = first.ended
                || first.frames.len() >= REORDERED
                || (!first.frames.is_empty() && (first.kind == Kind::Audio || state.is_stuck()));
            known.then(|| first.earliest())?
        })
    }

    /// Takes the frame that is due first. None at the end, or if `stopped`.
    pub(super) fn take(&self, stopped: impl Fn() -> bool) -> Option<Taken> {
        let taken = self.wait(stopped, |state| {
            let stuck = state.is_stuck();
            if !stuck && !state.tracks.iter().all(Track::is_ready) {
                return None;
            }
            let track = (0..state.tracks.len())
                .filter(|&track| !state.tracks[track].frames.is_empty())
                .min_by_key(|&track| state.tracks[track].due())?;
            let due = state.tracks[track].due()?;
            let frame = state.tracks[track].frames.pop_front()?;
            state.tracks[track].bytes -= frame.buffer.size();
            let pictures_ended = state
                .tracks
                .iter()
                .all(|track| track.kind == Kind::Audio || (track.ended && track.frames.is_empty()));
            Some(Taken { track, frame, due, pictures_ended })
        });
        self.changed.notify_all();
        taken
    }

    /// Whether some track has been read to its end.
    pub(super) fn is_ending(&self) -> bool {
        self.state().tracks.iter().any(|track| track.ended)
    }

    /// Why reading failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.state().failed.clone()
    }

    /// Waits until `look` finds something, everything is used up, or `stopped`.
    fn wait<T>(
        &self,
        stopped: impl Fn() -> bool,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let mut state = self.state();
        loop {
            if stopped() {
                return None;
            }
            if let Some(found) = look(&mut state) {
                return Some(found);
            }
            if state.tracks.iter().all(|track| track.ended && track.frames.is_empty()) {
                return None;
            }
            (state, _) = self
                .changed
                .wait_timeout(state, STOP_CHECK_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_full(&self, track: usize) -> bool {
        let starving = self.tracks.iter().any(|other| !other.ended && other.frames.is_empty());
        let factor = if starving || !self.complete { UNEVEN_FACTOR } else { 1 };
        self.tracks[track].exceeds(factor)
    }

    /// Whether a track that is full keeps the others from getting what they wait for.
    fn is_stuck(&self) -> bool {
        (0..self.tracks.len()).any(|track| self.is_full(track))
    }
}

impl Track {
    fn exceeds(&self, factor: usize) -> bool {
        let span = match (self.frames.front(), self.frames.back()) {
            (Some(first), Some(last)) => last.pts - first.pts,
            _ => 0,
        };
        self.frames.len() > 1
            && (self.bytes >= FULL_BYTES * factor
                || (span >= FULL_TIME * factor as i64 && self.frames.len() >= REORDERED))
    }

    /// Whether its first frame can be told from those that are still to come.
    fn is_ready(&self) -> bool {
        self.ended
            || self.frames.front().is_some_and(|first| {
                self.kind == Kind::Audio || first.dts.is_some() || self.frames.len() >= REORDERED
            })
    }

    fn due(&self) -> Option<i64> {
        let first = self.frames.front()?;
        if self.kind == Kind::Audio {
            Some(first.pts)
        } else {
            first.dts.or_else(|| self.earliest())
        }
    }

    fn earliest(&self) -> Option<i64> {
        self.frames.iter().take(REORDERED).map(|frame| frame.pts).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn frames_are_taken_when_due_though_badly_interleaved() {
        gst::init().expect("GStreamer starts");
        let shelf = Shelf::default();
        let sound = shelf.add_track(Kind::Audio).expect("first of its kind");
        let pictures = shelf.add_track(Kind::Video).expect("first of its kind");
        assert_eq!(shelf.add_track(Kind::Video), None);
        shelf.complete();
        // Presentation order of I, P, B, B without decoding times.
        for pts in [0, 120, 40, 80] {
            assert!(shelf.put(pictures, frame(pts * MS)));
        }
        shelf.end(pictures);
        for pts in [0, 50, 100, 150] {
            assert!(shelf.put(sound, frame(pts * MS)));
        }
        shelf.end(sound);
        assert_eq!(shelf.origin(|| false), Some(0));
        let taken: Vec<_> = std::iter::from_fn(|| shelf.take(|| false))
            .map(|taken| (taken.track, taken.frame.pts / MS, taken.due / MS))
            .collect();
        let (a, v) = (sound, pictures);
        assert_eq!(
            taken,
            [
                (a, 0, 0),
                (v, 0, 0),
                (v, 120, 40),
                (v, 40, 40),
                (a, 50, 50),
                (v, 80, 80),
                (a, 100, 100),
                (a, 150, 150)
            ]
        );
    }

    #[test]
    fn a_full_track_is_taken_from_although_the_other_has_nothing() {
        gst::init().expect("GStreamer starts");
        let shelf = Shelf::default();
        let pictures = shelf.add_track(Kind::Video).expect("first of its kind");
        shelf.add_track(Kind::Audio).expect("first of its kind");
        shelf.complete();
        let mut put = 0;
        while !shelf.state().is_full(pictures) {
            assert!(shelf.put(pictures, frame(put * 40 * MS)));
            put += 1;
        }
        assert!(put > 25, "{put}");
        assert_eq!(shelf.take(|| false).map(|taken| taken.frame.pts), Some(0));
    }

    fn frame(pts: i64) -> Frame {
        let buffer = gst::Buffer::with_size(10).expect("memory");
        Frame { buffer, pts, dts: None, duration: None }
    }
}
