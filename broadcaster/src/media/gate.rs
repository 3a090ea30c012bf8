//! Keeps the order of events: every track described first, then units, then at most one end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use protocol::media::Format;

use super::error::MediaError;
use super::producer::{Event, EventSink};
use super::unit::Unit;

/// How long a source may take until all its tracks give packets.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How long after the newest track a source that never says "no more" is taken to have no more.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Units kept while tracks are still missing: about 10 s of picture and sound.
const MAX_HELD: usize = 1024;

/// What a track is before it has an index.
#[derive(Debug)]
enum Slot {
    Waiting,
    Described(Format),
    LeftOut,
}

#[derive(Debug)]
struct Opening {
    slots: Vec<Slot>,
    /// Whether all tracks are known.
    complete: bool,
    newest_at: Instant,
    held: VecDeque<Unit>,
    /// Slots of which nothing follows.
    ended: Vec<usize>,
}

pub(super) struct Gate {
    events: EventSink,
    source_name: String,
    started_at: Instant,
    opening: Mutex<Opening>,
    /// Each slot's track index, once the gate is open.
    tracks: OnceLock<Vec<usize>>,
    finished: AtomicBool,
}

impl Gate {
    pub(super) fn new(events: EventSink, source_name: String, now: Instant) -> Self {
        let opening = Opening {
            slots: Vec::new(),
            complete: false,
            newest_at: now,
            held: VecDeque::new(),
            ended: Vec::new(),
        };
        Self {
            events,
            source_name,
            started_at: now,
            opening: Mutex::new(opening),
            tracks: OnceLock::new(),
            finished: AtomicBool::new(false),
        }
    }

    /// Announces a track, unless all are known already. Its units carry the slot in the index's
    /// place.
    pub(super) fn add_slot(&self) -> Option<usize> {
        let mut opening = self.opening();
        if opening.complete {
            return None;
        }
        opening.newest_at = Instant::now();
        opening.slots.push(Slot::Waiting);
        Some(opening.slots.len() - 1)
    }

    /// Says what a track's packets are. Only the first word counts.
    pub(super) fn describe(&self, slot: usize, format: Format) {
        self.settle(slot, Slot::Described(format));
    }

    /// Takes a track back that is neither picture nor sound.
    pub(super) fn leave_out(&self, slot: usize) {
        self.settle(slot, Slot::LeftOut);
    }

    fn settle(&self, slot: usize, outcome: Slot) {
        let mut opening = self.opening();
        if let Some(known @ Slot::Waiting) = opening.slots.get_mut(slot) {
            *known = outcome;
            self.try_open(opening);
        }
    }

    /// Says that there are no more tracks than those announced.
    pub(super) fn complete(&self) {
        let mut opening = self.opening();
        opening.complete = true;
        self.try_open(opening);
    }

    /// Hands a unit on, or holds it until all tracks are described.
    pub(super) fn unit(&self, mut unit: Unit) {
        if self.tracks.get().is_none() {
            let mut opening = self.opening();
            // It may have opened while this thread waited for the lock.
            if self.tracks.get().is_none() {
                opening.ended.retain(|slot| *slot != unit.track);
                if opening.held.len() == MAX_HELD {
                    opening.held.pop_front();
                }
                opening.held.push_back(unit);
                return;
            }
        }
        if self.finished.load(Ordering::Acquire) {
            return;
        }
        if let Some(&track) = self.tracks.get().and_then(|tracks| tracks.get(unit.track)) {
            unit.track = track;
            (self.events)(Event::Unit(unit));
        }
    }

    /// Says that nothing of a track follows.
    pub(super) fn track_ended(&self, slot: usize) {
        if self.tracks.get().is_none() {
            let mut opening = self.opening();
            if self.tracks.get().is_none() {
                opening.ended.push(slot);
                return;
            }
        }
        if self.finished.load(Ordering::Acquire) {
            return;
        }
        if let Some(&track) = self.tracks.get().and_then(|tracks| tracks.get(slot)) {
            (self.events)(Event::TrackEnded(track));
        }
    }

    /// Hands the end on, if it is the first.
    pub(super) fn finish(&self, end: Event) {
        if !self.finished.swap(true, Ordering::AcqRel) {
            (self.events)(end);
        }
    }

    /// Whether nothing is waited for any more.
    pub(super) fn is_settled(&self) -> bool {
        self.tracks.get().is_some() || self.finished.load(Ordering::Acquire)
    }

    /// Gives up on what has not come in time.
    pub(super) fn handle_timeout(&self, now: Instant) {
        if self.is_settled() {
            return;
        }
        let mut opening = self.opening();
        if !opening.slots.is_empty() && now >= opening.newest_at + SETTLE_TIMEOUT {
            opening.complete = true;
        }
        if now >= self.started_at + START_TIMEOUT {
            let waiting = |(index, slot): (usize, &Slot)| {
                matches!(slot, Slot::Waiting).then(|| format!("track {index}"))
            };
            let missing: Vec<_> = opening.slots.iter().enumerate().filter_map(waiting).collect();
            let what = if missing.is_empty() { "any track".to_owned() } else { missing.join(", ") };
            drop(opening);
            let seconds = START_TIMEOUT.as_secs();
            self.finish(Event::Failed(MediaError::Silent { what, seconds }));
            return;
        }
        self.try_open(opening);
    }

    fn try_open(&self, mut opening: MutexGuard<'_, Opening>) {
        let waiting = opening.slots.iter().any(|slot| matches!(slot, Slot::Waiting));
        if !opening.complete || waiting || self.is_settled() {
            return;
        }
        let mut formats = Vec::new();
        let mut tracks = Vec::new();
        for slot in &opening.slots {
            tracks.push(formats.len());
            if let Slot::Described(format) = slot {
                formats.push(format.clone());
            }
        }
        if formats.is_empty() {
            drop(opening);
            self.finish(Event::Failed(MediaError::NoTracks {
                source_name: self.source_name.clone(),
                remedy: "leave a source pad unlinked for each track",
            }));
            return;
        }
        (self.events)(Event::Ready(formats));
        for mut unit in opening.held.drain(..) {
            unit.track = tracks[unit.track];
            (self.events)(Event::Unit(unit));
        }
        for slot in std::mem::take(&mut opening.ended) {
            (self.events)(Event::TrackEnded(tracks[slot]));
        }
        // Set under the lock: units of other threads come behind those that were held.
        if self.tracks.set(tracks).is_err() {
            tracing::error!("a source was ready twice");
        }
    }

    fn opening(&self) -> MutexGuard<'_, Opening> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use protocol::burst::PlainBurst;
    use protocol::media::Kind;

    use super::*;

    #[test]
    fn units_wait_for_all_tracks_and_left_out_ones_have_no_index() {
        let (gate, seen) = gate();
        let (first, left_out, last) = (slot(&gate), slot(&gate), slot(&gate));
        gate.describe(last, format("OPUS"));
        gate.unit(unit(last, 1));
        gate.track_ended(last);
        gate.leave_out(left_out);
        gate.complete();
        assert_eq!(log(&seen), [""; 0]);
        gate.describe(first, format("H264"));
        gate.unit(unit(first, 2));
        gate.unit(unit(last, 3));
        gate.track_ended(first);
        gate.finish(Event::Ended);
        gate.finish(Event::Ended);
        gate.track_ended(last);
        gate.unit(unit(last, 4));
        assert_eq!(
            log(&seen),
            [
                "ready H264 OPUS",
                "unit 1 of 1",
                "no more of 1",
                "unit 2 of 0",
                "unit 3 of 1",
                "no more of 0",
                "ended"
            ]
        );
    }

    #[test]
    fn a_silent_track_is_named() {
        let (gate, seen) = gate();
        let now = Instant::now();
        let first = slot(&gate);
        slot(&gate);
        gate.describe(first, format("H264"));
        gate.handle_timeout(now + START_TIMEOUT / 2);
        assert_eq!(log(&seen), [""; 0]);
        gate.handle_timeout(now + START_TIMEOUT * 2);
        assert!(gate.is_settled());
        assert!(log(&seen)[0].contains("track 1"), "{:?}", log(&seen));
    }

    #[test]
    fn a_source_that_never_says_no_more_opens_after_a_while() {
        let (gate, seen) = gate();
        let only = slot(&gate);
        gate.describe(only, format("H264"));
        gate.handle_timeout(Instant::now() + SETTLE_TIMEOUT);
        assert_eq!(log(&seen), ["ready H264"]);
        assert_eq!(gate.add_slot(), None, "too late");
    }

    #[test]
    fn nothing_but_left_out_tracks_is_an_error() {
        let (gate, seen) = gate();
        gate.leave_out(slot(&gate));
        gate.complete();
        assert!(log(&seen)[0].contains("neither picture nor sound"), "{:?}", log(&seen));
    }

    type Seen = Arc<Mutex<Vec<String>>>;

    fn gate() -> (Gate, Seen) {
        let seen = Seen::default();
        let to = seen.clone();
        let events = move |event| {
            let line = match event {
                Event::Ready(formats) => formats
                    .iter()
                    .fold("ready".to_owned(), |line, format| line + " " + &format.encoding_name),
                Event::Unit(unit) => format!("unit {} of {}", unit.rtp_timestamp, unit.track),
                Event::TrackEnded(track) => format!("no more of {track}"),
                Event::Ended => "ended".to_owned(),
                Event::Failed(error) => error.to_string(),
            };
            to.lock().expect("not poisoned").push(line);
        };
        (Gate::new(Arc::new(events), "test".to_owned(), Instant::now()), seen)
    }

    fn log(seen: &Seen) -> Vec<String> {
        seen.lock().expect("not poisoned").clone()
    }

    fn slot(gate: &Gate) -> usize {
        gate.add_slot().expect("not complete yet")
    }

    fn format(name: &str) -> Format {
        Format {
            kind: Kind::Video,
            encoding_name: name.to_owned(),
            payload_type: 96,
            clock_rate: 90_000,
            channels: None,
            parameters: Default::default(),
        }
    }

    fn unit(track: usize, rtp_timestamp: u32) -> Unit {
        let packets = PlainBurst::default();
        Unit { track, keyframe: true, rtp_timestamp, captured_at: Instant::now(), packets }
    }
}
