//! Keeps the order of events: every track described first, then units, then at most one end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use protocol::media::{Format, Kind};

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
    /// When the first of a source that waits for others came.
    begun_at: Option<Instant>,
    held: VecDeque<Unit>,
    /// Slots of which nothing follows.
    ended: Vec<usize>,
}

/// What is expected of a source's way with time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manners {
    /// Whether it begins when others send, however late.
    pub(super) waits: bool,
    /// How long it may be silent once it has begun; of a source with pictures, without one.
    pub(super) longest_silence: Option<Duration>,
}

/// A slot whose track is known.
#[derive(Debug, Clone, Copy)]
struct Placed {
    /// Its index.
    track: usize,
    /// Whether the source is silent when nothing of this comes.
    counts: bool,
}

pub(super) struct Gate {
    events: EventSink,
    source_name: String,
    manners: Manners,
    started_at: Instant,
    opening: Mutex<Opening>,
    /// Each slot's track, once the gate is open.
    tracks: OnceLock<Vec<Placed>>,
    /// When the latest unit that counts came, in milliseconds since the start.
    heard_at: AtomicU64,
    finished: AtomicBool,
}

impl Gate {
    pub(super) fn new(
        events: EventSink,
        source_name: String,
        manners: Manners,
        now: Instant,
    ) -> Self {
        let opening = Opening {
            slots: Vec::new(),
            complete: false,
            newest_at: now,
            begun_at: None,
            held: VecDeque::new(),
            ended: Vec::new(),
        };
        Self {
            events,
            source_name,
            manners,
            started_at: now,
            opening: Mutex::new(opening),
            tracks: OnceLock::new(),
            heard_at: AtomicU64::new(0),
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

    /// Announces a track that is made of the same pictures as one that was announced before and is not described yet.
    pub(super) fn add_beside(&self) -> Option<usize> {
        let mut opening = self.opening();
        if self.tracks.get().is_some() {
            return None;
        }
        opening.slots.push(Slot::Waiting);
        Some(opening.slots.len() - 1)
    }

    /// Says that others have begun to send.
    pub(super) fn begin(&self) {
        self.opening().begun_at.get_or_insert_with(Instant::now);
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
        let placed = self.tracks.get().and_then(|tracks| tracks.get(unit.track));
        if let Some(&Placed { track, counts }) = placed {
            if counts && self.manners.longest_silence.is_some() {
                self.hear(Instant::now());
            }
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
        let placed = self.tracks.get().and_then(|tracks| tracks.get(slot));
        if let Some(&Placed { track, .. }) = placed {
            (self.events)(Event::TrackEnded(track));
        }
    }

    /// Hands the end on, if it is the first.
    pub(super) fn finish(&self, end: Event) {
        if !self.finished.swap(true, Ordering::AcqRel) {
            (self.events)(end);
        }
    }

    /// Whether it has to be looked at whether the source is late.
    pub(super) fn is_watched(&self) -> bool {
        let silence_counts = self.manners.longest_silence.is_some();
        !self.finished.load(Ordering::Acquire) && (silence_counts || self.tracks.get().is_none())
    }

    fn hear(&self, now: Instant) {
        let since = now.saturating_duration_since(self.started_at).as_millis();
        self.heard_at.store(since.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn handle_silence(&self, now: Instant) {
        let heard_at =
            self.started_at + Duration::from_millis(self.heard_at.load(Ordering::Relaxed));
        if let Some(longest) = self.manners.longest_silence
            && now >= heard_at + longest
        {
            let (source_name, seconds) = (self.source_name.clone(), longest.as_secs());
            self.finish(Event::Failed(MediaError::Stalled { source_name, seconds }));
        }
    }

    /// Whether nothing is waited for any more.
    fn is_settled(&self) -> bool {
        self.tracks.get().is_some() || self.finished.load(Ordering::Acquire)
    }

    /// Gives up on what has not come in time.
    pub(super) fn handle_timeout(&self, now: Instant) {
        if self.tracks.get().is_some() {
            self.handle_silence(now);
            return;
        }
        if self.is_settled() {
            return;
        }
        let mut opening = self.opening();
        let started_at = if self.manners.waits { opening.begun_at } else { Some(self.started_at) };
        let Some(started_at) = started_at else { return };
        if !opening.slots.is_empty() && now >= opening.newest_at + SETTLE_TIMEOUT {
            opening.complete = true;
        }
        if now >= started_at + START_TIMEOUT {
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
        let is_video =
            |slot: &Slot| matches!(slot, Slot::Described(format) if format.kind == Kind::Video);
        let has_video = opening.slots.iter().any(is_video);
        let mut formats = Vec::new();
        let mut tracks = Vec::new();
        for slot in &opening.slots {
            let counts = is_video(slot) || !has_video;
            tracks.push(Placed { track: formats.len(), counts });
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
        self.hear(Instant::now());
        (self.events)(Event::Ready(formats));
        for mut unit in opening.held.drain(..) {
            unit.track = tracks[unit.track].track;
            (self.events)(Event::Unit(unit));
        }
        for slot in std::mem::take(&mut opening.ended) {
            (self.events)(Event::TrackEnded(tracks[slot].track));
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

    use super::*;
    use protocol::burst::PlainBurst;

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
    fn a_source_that_waits_is_not_late_before_it_begins() {
        let (gate, seen) = gate_with(Manners { waits: true, longest_silence: None });
        gate.handle_timeout(Instant::now() + START_TIMEOUT * 100);
        slot(&gate);
        gate.handle_timeout(Instant::now() + START_TIMEOUT * 100);
        assert_eq!(log(&seen), [""; 0]);
        gate.begin();
        gate.handle_timeout(Instant::now() + START_TIMEOUT);
        assert!(log(&seen)[0].contains("track 0"), "{:?}", log(&seen));
    }

    #[test]
    fn sound_alone_does_not_hide_that_pictures_stay_away() {
        let longest = 3 * START_TIMEOUT;
        let (gate, seen) = gate_with(Manners { waits: false, longest_silence: Some(longest) });
        let (picture, sound) = (slot(&gate), slot(&gate));
        gate.describe(picture, format("H264"));
        gate.describe(sound, Format { kind: Kind::Audio, ..format("OPUS") });
        gate.complete();
        gate.handle_timeout(Instant::now() + longest / 2);
        gate.hear(gate.started_at + longest);
        gate.unit(unit(sound, 1));
        gate.handle_timeout(gate.started_at + 2 * longest - Duration::from_millis(1));
        assert_eq!(log(&seen), ["ready H264 OPUS", "unit 1 of 1"]);
        assert!(gate.is_watched());
        gate.handle_timeout(gate.started_at + 2 * longest);
        assert_eq!(log(&seen)[2], "test has sent nothing for 30 s");
        assert!(!gate.is_watched());
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
        gate_with(Manners::default())
    }

    fn gate_with(manners: Manners) -> (Gate, Seen) {
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
        (Gate::new(Arc::new(events), "test".to_owned(), manners, Instant::now()), seen)
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
            rendition: None,
        }
    }

    fn unit(track: usize, rtp_timestamp: u32) -> Unit {
        let packets = PlainBurst::default();
        Unit { track, keyframe: true, rtp_timestamp, captured_at: Instant::now(), packets }
    }
}
