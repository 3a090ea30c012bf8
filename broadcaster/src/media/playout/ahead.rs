//! What was read of a file and is not due yet, bounded in time and bytes for each track, taken in the order in which it
//! is due.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::media::{Format, Kind};

use super::super::unit::Unit;
use super::{Next, Placed, lock};

/// A track is far enough ahead with so much time, and never goes further than so many bytes …
pub(super) const AHEAD: i64 = 1_000_000_000;
const MOST_BYTES: i64 = 4 << 20;

/// … and it is read on once half of that is left: waking threads costs more than what they read.
const LOW: i64 = 2;

/// … or so much more while another track has nothing: the file is badly interleaved.
const UNEVEN_FACTOR: i64 = 8;

/// Pictures that may be out of presentation order (H.264 and H.265 allow 16).
pub(super) const REORDERED: usize = 16;

/// How often a waiting taker looks whether it should stop.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Units that were read and not taken yet.
#[derive(Default)]
pub(super) struct Ahead {
    state: Mutex<State>,
    /// There is more to take or to know.
    more: Condvar,
    /// There is room for more.
    room: Condvar,
}

#[derive(Default)]
struct State {
    formats: Option<Vec<Format>>,
    tracks: Vec<Waiting>,
    tracks_known: bool,
    /// Kinds of the tracks that are read, and of those of which something was, where that is.
    expected: Vec<Kind>,
    begun: Vec<(Kind, i64)>,
    ended: Option<Option<String>>,
    closed: bool,
    /// Whether the pipeline has been set going, and readers may be made to wait.
    flows: bool,
    /// Whether the taker waits. Waking nobody costs as much as waking somebody.
    is_awaited: bool,
}

#[derive(Default)]
struct Waiting {
    is_video: bool,
    /// With the time at which each is shown.
    units: VecDeque<(i64, Unit)>,
    bytes: usize,
    /// Whether its reader waits for room.
    is_full: bool,
    /// Whether no more comes.
    has_ended: bool,
}

impl Ahead {
    /// The pipeline has been set going: readers may be made to wait.
    pub(super) fn flows(&self) {
        self.change(|state| state.flows = true);
    }

    /// Whether it is known what is due next.
    pub(super) fn is_known(&self) -> bool {
        self.lock().is_known()
    }

    pub(super) fn ready(&self, formats: Vec<Format>) {
        self.change(|state| {
            let waiting = |format: &Format| Waiting {
                is_video: format.kind == Kind::Video,
                ..Waiting::default()
            };
            state.tracks = formats.iter().map(waiting).collect();
            state.formats = Some(formats);
        });
    }

    pub(super) fn tracks_known(&self) {
        self.change(|state| state.tracks_known = true);
    }

    /// A track of this kind is read.
    pub(super) fn expect(&self, kind: Kind) {
        self.change(|state| state.expected.push(kind));
    }

    /// The first that was read of such a track is stamped with this time.
    pub(super) fn begun(&self, kind: Kind, time: i64) {
        self.change(|state| state.begun.push((kind, time)));
    }

    /// Time of the first picture, or of the first sound where there are no pictures.
    pub(super) fn begins_at(&self) -> i64 {
        self.lock().beginning().unwrap_or(0)
    }

    /// Nothing of this track follows.
    pub(super) fn track_ended(&self, track: usize) {
        self.change(|state| {
            if let Some(waiting) = state.tracks.get_mut(track) {
                waiting.has_ended = true;
            }
        });
    }

    /// Whether nothing of this track follows but what was read already.
    pub(super) fn has_ended(&self, track: usize) -> bool {
        self.lock().tracks.get(track).is_some_and(|waiting| waiting.has_ended)
    }

    pub(super) fn end(&self, damaged: Option<String>) {
        self.change(|state| {
            state.ended.get_or_insert(damaged);
        });
    }

    pub(super) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    /// Why reading failed, if it did.
    pub(super) fn failure(&self) -> Option<String> {
        self.lock().ended.clone().flatten()
    }

    /// Puts a unit behind the others of its track, and waits until there is room for more.
    pub(super) fn put(&self, shown_at: i64, unit: Unit) {
        let mut state = self.lock();
        let track = unit.track;
        let Some(waiting) = state.tracks.get_mut(track) else { return };
        waiting.bytes += unit.packets.bytes();
        // Behind a seek, more comes.
        waiting.has_ended = false;
        waiting.units.push_back((shown_at, unit));
        if std::mem::take(&mut state.is_awaited) {
            self.more.notify_all();
        }
        // Who sets the pipeline going waits for this thread, and takes nothing yet.
        if !state.flows || !state.is_full(track) {
            return;
        }
        state.tracks[track].is_full = true;
        while !state.closed && state.has_enough(track) {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.tracks[track].is_full = false;
    }

    /// Waits until all tracks are known.
    pub(super) fn wait_for_tracks(&self, is_late: impl Fn() -> bool) -> Result<(), String> {
        self.known(is_late, |state| state.tracks_known.then_some(()))
    }

    /// Waits until the first picture was read, or the first sound where there are no pictures.
    pub(super) fn wait_for_data(&self, is_late: impl Fn() -> bool) -> Result<i64, String> {
        self.known(is_late, |state| state.beginning())
    }

    /// Waits until all tracks are described.
    pub(super) fn formats(&self, is_late: impl Fn() -> bool) -> Result<Vec<Format>, String> {
        self.known(is_late, |state| state.formats.clone())
    }

    /// Waits until something is known of the file, unless it ends before.
    fn known<T>(
        &self,
        is_late: impl Fn() -> bool,
        look: impl Fn(&State) -> Option<T>,
    ) -> Result<T, String> {
        self.wait(is_late, |state| match (look(state), &state.ended) {
            (Some(found), _) => Some(Ok(found)),
            (None, Some(reason)) => {
                Some(Err(reason.clone().unwrap_or_else(|| "nothing is in it".to_owned())))
            }
            (None, None) => None,
        })
        .unwrap_or_else(|| Err("it takes too long to open".to_owned()))
    }

    pub(super) fn take(&self, stopped: impl Fn() -> bool) -> Next {
        let next = self.wait(stopped, |state| {
            if !state.is_known() {
                return None;
            }
            let due = |track: &usize| state.tracks[*track].due();
            let first =
                (0..state.tracks.len()).filter(|track| due(track).is_some()).min_by_key(due);
            let Some(track) = first else {
                return state.ended.clone().map(Next::End);
            };
            let waiting = &mut state.tracks[track];
            let due_at = waiting.due()?;
            let (shown_at, unit) = waiting.units.pop_front()?;
            waiting.bytes -= unit.packets.bytes();
            let has_room = |track: usize| state.tracks[track].is_full && !state.has_enough(track);
            if (0..state.tracks.len()).any(has_room) {
                self.room.notify_all();
            }
            Some(Next::Unit(Placed { unit, shown_at, due_at }))
        });
        next.unwrap_or(Next::Stopped)
    }

    fn wait<T>(
        &self,
        stopped: impl Fn() -> bool,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let mut state = self.lock();
        loop {
            if stopped() {
                return None;
            }
            if let Some(found) = look(&mut state) {
                return Some(found);
            }
            state.is_awaited = true;
            (state, _) = self
                .more
                .wait_timeout(state, STOP_CHECK_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.more.notify_all();
        self.room.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn beginning(&self) -> Option<i64> {
        let leading = match self.expected.contains(&Kind::Video) {
            true => Kind::Video,
            false => Kind::Audio,
        };
        self.begun.iter().find(|(kind, _)| *kind == leading).map(|(_, position)| *position)
    }

    /// Whether it is known what is due next.
    fn is_known(&self) -> bool {
        self.ended.is_some()
            || self.tracks.iter().all(Waiting::is_ready)
            // Its reader waits, and others may wait for it: nothing comes before something is taken.
            || (0..self.tracks.len())
                .any(|track| self.tracks[track].is_full && self.has_enough(track))
    }

    fn is_full(&self, track: usize) -> bool {
        self.tracks[track].exceeds(self.factor(), 1)
    }

    fn has_enough(&self, track: usize) -> bool {
        self.tracks[track].exceeds(self.factor(), LOW)
    }

    fn factor(&self) -> i64 {
        let is_starving =
            self.ended.is_none() && self.tracks.iter().any(|other| other.is_starving());
        if is_starving { UNEVEN_FACTOR } else { 1 }
    }
}

impl Waiting {
    /// Whether more waits than so often what is far enough, or that part of it.
    fn exceeds(&self, factor: i64, part: i64) -> bool {
        let span = match (self.units.front(), self.units.back()) {
            (Some((first, _)), Some((last, _))) => last - first,
            _ => 0,
        };
        let long = self.units.len() > REORDERED && span > AHEAD * factor / part;
        long || self.bytes as i64 > MOST_BYTES * factor / part
    }

    /// Whether it is known what is due next.
    fn is_ready(&self) -> bool {
        self.has_ended || self.units.len() > if self.is_video { REORDERED } else { 0 }
    }

    /// Whether something of it must still come, and nothing is there.
    fn is_starving(&self) -> bool {
        self.units.is_empty() && !self.has_ended
    }

    fn due(&self) -> Option<i64> {
        let reordered = if self.is_video { REORDERED } else { 0 };
        self.units.iter().take(reordered + 1).map(|(shown_at, _)| *shown_at).min()
    }
}
