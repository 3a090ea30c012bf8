//! Several sizes of one picture: each viewer is sent one of them, and all of what belongs to none.
//!
//! A viewer goes on with another rendition at that one's keyframe: up to there it is sent the one before, from there on
//! the other, and is told both places. So nothing is missing to it, and nothing comes twice.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Channel, JoinPacing, KEYFRAME_INTERVAL, LONGEST_CATCH_UP, Step, ViewerId};
use crate::control::LeftOut;
use crate::pacing::RateMeter;
use crate::seal::{PacketIndex, SealedBurst};
use crate::units::Bitrate;

/// By how much faster than it is made the beginning of one of several renditions is sent, and at least so fast.
const GENTLY: f64 = 2.5;
const LEAST_PACE: Bitrate = Bitrate::bits_per_second(1_000_000);

/// How long it may take until a keyframe is the better beginning.
const SOON: Duration = Duration::from_millis(150);

/// Whether a keyframe of a rendition is wanted, and when one was asked for last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Keyframe {
    pub(super) wanted: bool,
    pub(super) requested_at: Option<Instant>,
}

impl Keyframe {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.wanted && self.requested_at.is_none_or(|at| now >= at + KEYFRAME_INTERVAL)
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        self.requested_at.filter(|_| self.wanted).map(|at| at + KEYFRAME_INTERVAL)
    }
}

/// Who watches which rendition, and is to watch another one.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Those that do not watch the first.
    now: HashMap<ViewerId, usize>,
    soon: BTreeMap<ViewerId, usize>,
    /// The track that each was sent before, and the index behind its last packet.
    before: HashMap<ViewerId, (usize, PacketIndex)>,
    switched: VecDeque<Switched>,
}

impl Watched {
    pub(super) fn of(&self, viewer: ViewerId) -> usize {
        self.now.get(&viewer).copied().unwrap_or(0)
    }

    pub(super) fn set(&mut self, viewer: ViewerId, rendition: usize) {
        if rendition == 0 {
            self.now.remove(&viewer);
        } else {
            self.now.insert(viewer, rendition);
        }
    }

    pub(super) fn leave(&mut self, viewer: ViewerId) {
        self.now.remove(&viewer);
        self.soon.remove(&viewer);
        self.before.remove(&viewer);
    }

    /// Whether a viewer was sent this packet of what it watched before.
    pub(super) fn had(&self, viewer: ViewerId, track: usize, index: PacketIndex) -> bool {
        self.before.get(&viewer).is_some_and(|(of, end)| *of == track && index < *end)
    }

    /// The rendition that a viewer is to go on with.
    pub(super) fn awaits(&self, viewer: ViewerId) -> Option<usize> {
        self.soon.get(&viewer).copied()
    }
}

/// A viewer that goes on with another rendition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switched {
    /// Who.
    pub viewer: ViewerId,
    /// With which.
    pub rendition: usize,
    /// The track that it was sent so far, and the index behind the last packet of it that it will have been sent.
    pub before: (usize, PacketIndex),
    /// The track that it is sent from now on, and the index of its first packet: a keyframe's.
    pub after: (usize, PacketIndex),
    /// What was left out of the one before, and not told so far.
    pub left_out: Vec<LeftOut>,
    /// Where that keyframe is in the history. One that is served with all others gets what lies there or behind.
    pub position: u64,
    /// Whether it is served by itself, as its path does not carry everything.
    pub is_limited: bool,
}

/// How fast one that joins a rendition is served, by what each needs. Of several it gets a small one first, as nobody
/// knows what its path carries: what comes faster than it is let through fills a queue, which live pictures wait behind.
pub(super) fn pace(pacing: JoinPacing, rates: &[RateMeter], rendition: usize) -> Bitrate {
    match (rates.len(), rates.get(rendition)) {
        (2.., Some(rate)) => rate.rate().scaled(GENTLY).max(LEAST_PACE).min(pacing.each),
        _ => pacing.each,
    }
}

impl Channel {
    /// Says which rendition each track is, 0 for the best; everybody gets the others. Before anything is published.
    pub fn set_renditions(&mut self, of_track: &[Option<usize>]) {
        self.history.set_renditions(of_track);
        let count = self.history.renditions();
        self.live_rates = (0..count).map(|_| RateMeter::default()).collect();
        self.keyframes = vec![Keyframe::default(); count];
    }

    /// How many renditions there are: one at least.
    pub fn renditions(&self) -> usize {
        self.history.renditions()
    }

    /// Which rendition a track is, if it is not for everybody.
    pub fn rendition_of(&self, track: usize) -> Option<usize> {
        self.history.rendition_of(track)
    }

    /// The track of a rendition.
    pub fn track_of(&self, rendition: usize) -> Option<usize> {
        self.history.track_of(rendition)
    }

    /// Which rendition a viewer is sent.
    pub fn rendition(&self, viewer: ViewerId) -> usize {
        self.watched.of(viewer)
    }

    /// Has a viewer go on with another rendition, at its next keyframe, which is asked for: then
    /// [`Self::poll_switched`] tells so. One that is still catching up does so first.
    pub fn switch(&mut self, viewer: ViewerId, rendition: usize) {
        if rendition >= self.history.renditions() || self.watched.of(viewer) == rendition {
            self.watched.soon.remove(&viewer);
            return;
        }
        self.watched.soon.insert(viewer, rendition);
        self.want_keyframe(rendition);
    }

    /// A rendition is not made any more, as nobody watches it: who comes back to it begins at another keyframe.
    pub fn stops(&mut self, rendition: usize) {
        self.history.stops(rendition);
        if let Some(rate) = self.live_rates.get_mut(rendition) {
            *rate = RateMeter::default();
        }
    }

    /// A viewer that goes on with another rendition at the keyframe that was published last. It must be moved before
    /// that is sent to anybody.
    pub fn poll_switched(&mut self) -> Option<Switched> {
        self.watched.switched.pop_front()
    }

    /// The renditions that viewers are to go on with.
    pub fn awaited(&self) -> impl Iterator<Item = usize> {
        self.watched.soon.values().copied()
    }

    pub(super) fn want_keyframe(&mut self, rendition: usize) {
        if let Some(keyframe) = self.keyframes.get_mut(rendition) {
            keyframe.wanted = true;
        }
    }

    /// How long a viewer may take to reach the live edge before a keyframe is the cheaper way: where there are several
    /// renditions, they are encoded here, and one comes as soon as it may be asked for.
    pub(super) fn longest_catch_up(&self, rendition: usize, now: Instant) -> Duration {
        if self.history.renditions() < 2 {
            return LONGEST_CATCH_UP;
        }
        let requested_at = self.keyframes.get(rendition).and_then(|keyframe| keyframe.requested_at);
        let next = requested_at.map(|at| (at + KEYFRAME_INTERVAL).saturating_duration_since(now));
        next.unwrap_or_default().max(SOON)
    }

    /// What a viewer's stream has needed lately.
    pub(super) fn rate_for(&self, viewer: ViewerId) -> Bitrate {
        self.live_rate_of(self.watched.of(viewer))
    }

    /// A viewer is at the live edge, and may go on with what it waits for.
    pub(super) fn caught_up(&mut self, viewer: ViewerId) -> Step {
        if let Some(rendition) = self.watched.awaits(viewer) {
            self.want_keyframe(rendition);
        }
        Step::CaughtUp { viewer }
    }

    /// A keyframe is there: whoever waits for it goes on with it.
    pub(super) fn switch_at(&mut self, burst: &Arc<SealedBurst>, position: u64) {
        let Some(rendition) = self.history.rendition_of(burst.track) else { return };
        let joins = |viewer: &ViewerId| self.joiners.iter().any(|joiner| joiner.viewer == *viewer);
        let waiting = self.watched.soon.iter().filter(|(_, wanted)| **wanted == rendition);
        let viewers: Vec<_> =
            waiting.map(|(viewer, _)| *viewer).filter(|viewer| !joins(viewer)).collect();
        for viewer in viewers {
            let Some(before) = self.history.track_of(self.watched.of(viewer)) else { continue };
            let shown = self.history.latest_of(before).map(|burst| burst.rtp_timestamp);
            if shown.is_some_and(|shown| burst.rtp_timestamp.wrapping_sub(shown).cast_signed() < 0)
            {
                // An encoder that is slower by a picture: time would go backwards.
                self.want_keyframe(rendition);
                continue;
            }
            self.watched.soon.remove(&viewer);
            self.watched.set(viewer, rendition);
            let after = (burst.track, burst.first_index);
            let mut switched = Switched {
                viewer,
                rendition,
                before: (before, self.sealer.next_index(before).unwrap_or(0)),
                after,
                left_out: Vec::new(),
                position,
                is_limited: false,
            };
            let is_it = |thinned: &&mut super::thin::Thinned| thinned.viewer == viewer;
            if let Some(thinned) = self.thinned.iter_mut().find(is_it) {
                let ssrc = self.sealer.ssrcs().nth(before).unwrap_or(0);
                let place = (rendition, position);
                let first = (burst.ssrc, burst.first_index);
                let (end, left_out) = thinned.switch(&self.history, place, first, ssrc);
                switched.before.1 = end.unwrap_or(switched.before.1);
                (switched.left_out, switched.is_limited) = (left_out, true);
            }
            self.watched.before.insert(viewer, switched.before);
            self.watched.switched.push_back(switched);
        }
    }
}
