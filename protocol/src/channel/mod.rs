//! A channel: one encoded stream, its sealer, its history, and the viewers that are catching up.
//!
//! A burst is published once: sealed, kept in the [`History`], and handed back for the fan-out to
//! all live viewers. A new viewer first gets the GOP so far out of the history, paced and in order,
//! and turns live the moment it has caught up: no packet is sent to it twice or left out, and the
//! encoder makes no keyframe for it. Only where catching up would take longer than
//! [`LONGEST_CATCH_UP`] is a keyframe asked for instead.
//!
//! A viewer whose path does not carry the stream is sent less of it ([`Channel::limit`]).
//!
//! Where one picture comes in several sizes, a viewer is sent one of these renditions, and goes on with another one at
//! that one's next keyframe ([`Channel::switch`]).
//!
//! What a viewer asks for again comes out of the same history, with repair packets made of it
//! ([`crate::repair`]).
//!
//! Drive it with [`Channel::publish`], [`Channel::join`], [`Channel::ask`]; drain it with
//! [`Channel::poll_step`] until it has nothing due, then wait until [`Channel::poll_timeout`].

mod ask;
mod coded;
mod history;
mod join;
mod renditions;
mod repairs;
mod thin;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
pub use history::{History, MOST_BYTES as HISTORY_BYTES, MOST_PACKETS as HISTORY_PACKETS};
pub use renditions::Switched;
pub use repairs::Condition;
pub use thin::MOST_LAG;

use crate::burst::PlainBurst;
use crate::control::LeftOut;
use crate::pacing::{Pacer, RateMeter};
use crate::repair::margin;
use crate::seal::{Epoch, MasterKey, PacketIndex, SealError, SealedBurst, Sealer};
use crate::size::WIRE_OVERHEAD;
use crate::units::Bitrate;
use crate::volley::Part;
use coded::Coded;
use join::{Beginnings, Joiner};
use renditions::{Keyframe, Watched};
use repairs::{Chunk, Repairs};
use thin::Thinned;

/// How long a viewer may take to reach the live edge before a keyframe is the cheaper way.
pub const LONGEST_CATCH_UP: Duration = Duration::from_secs(2);

/// How long a joining viewer waits for a keyframe that was asked for, before it gets the history
/// after all (a source that is passed through cannot make one).
const KEYFRAME_PATIENCE: Duration = Duration::from_secs(1);

/// Keyframes are asked for at most this often, however many viewers wait.
const KEYFRAME_INTERVAL: Duration = Duration::from_secs(1);

/// What a stream needs of which nothing came so far.
const NO_RATE: Bitrate = Bitrate::bits_per_second(0);

/// Bursts that are further apart belong to a source that pauses.
const LONGEST_SPACING: Duration = Duration::from_millis(200);

/// Names a viewer within a broadcaster process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewerId(pub u32);

impl std::fmt::Display for ViewerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Send these packets of the GOP so far to one viewer, which joins.
    Send {
        /// To whom.
        viewer: ViewerId,
        /// The packets, in order.
        parts: Vec<Part>,
    },
    /// Send these packets to one viewer, which lost some.
    Repair {
        /// To whom.
        viewer: ViewerId,
        /// The sealed packets: first those that are sent again …
        packets: Vec<Bytes>,
        /// … then so many repair packets.
        repair: usize,
    },
    /// Send these packets to one viewer, whose path does not carry all.
    SendLess {
        /// To whom.
        viewer: ViewerId,
        /// The packets, in order.
        parts: Vec<Part>,
        /// What it was not sent. Tell it.
        left_out: Vec<LeftOut>,
    },
    /// A viewer that waited is served from now on: tell it where its tracks stand.
    Begin {
        /// Who.
        viewer: ViewerId,
        /// Where each track stands for it.
        positions: Vec<TrackPosition>,
    },
    /// The viewer has all that was published: from now on it belongs to the fan-out.
    CaughtUp {
        /// Who.
        viewer: ViewerId,
    },
    /// Ask the encoder for a keyframe of this rendition; the only one is number 0.
    RequestKeyframe {
        /// Which.
        rendition: usize,
    },
}

/// What a viewer that joins now is told about each track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrackPosition {
    /// Index of the first packet it will be sent.
    pub first_index: u64,
    /// Index of the next packet that will be made.
    pub live_index: u64,
}

/// How fast joining viewers may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinPacing {
    /// For each of them.
    pub each: Bitrate,
    /// For all of them together, where the uplink is known.
    pub total: Option<Bitrate>,
}

impl JoinPacing {
    /// What each of `viewers` gets.
    pub fn rate_among(self, viewers: usize) -> Bitrate {
        let share = |total: Bitrate| total.as_bits_per_second() / viewers.max(1) as u64;
        let share = self.total.map_or(u64::MAX, share);
        Bitrate::bits_per_second(share.min(self.each.as_bits_per_second()))
    }
}

/// One encoded stream with its history and its joining viewers.
pub struct Channel {
    sealer: Sealer,
    history: History,
    joiners: VecDeque<Joiner>,
    beginnings: Beginnings,
    thinned: VecDeque<Thinned>,
    /// Which tracks are sound.
    is_sound: Vec<bool>,
    repairs: Repairs,
    coded: Coded,
    /// Whether more than what is missing may be sent: not while our own uplink is what loses.
    has_margins: bool,
    /// How far apart each track's bursts are, smoothed, and when the last came.
    spacing: Vec<(Duration, Option<Instant>)>,
    /// Whose turn it is.
    is_joining_first: bool,
    pacing: JoinPacing,
    join_pacer: Pacer,
    /// For each rendition, what who watches it is sent, and whether a keyframe is wanted.
    live_rates: Vec<RateMeter>,
    keyframes: Vec<Keyframe>,
    watched: Watched,
    /// Whether keyframes come from a file: none can be asked for.
    is_recorded: bool,
    /// Whether any viewer has joined.
    was_joined: bool,
    tracks: usize,
}

impl Channel {
    /// A channel whose tracks have these SSRCs (which must differ, and have their highest bit clear), sealed
    /// with `key`.
    pub fn new(key: &MasterKey, ssrcs: &[u32], history: History, pacing: JoinPacing) -> Self {
        Self {
            sealer: Sealer::new(key, ssrcs),
            history,
            joiners: VecDeque::new(),
            beginnings: Beginnings::default(),
            thinned: VecDeque::new(),
            is_sound: vec![false; ssrcs.len()],
            repairs: Repairs::default(),
            coded: Coded::default(),
            has_margins: true,
            spacing: vec![(Duration::ZERO, None); ssrcs.len()],
            is_joining_first: false,
            join_pacer: Pacer::default(),
            live_rates: vec![RateMeter::default()],
            keyframes: vec![Keyframe::default()],
            watched: Watched::default(),
            pacing,
            is_recorded: false,
            was_joined: false,
            tracks: ssrcs.len(),
        }
    }

    /// Says which tracks are sound: viewers that cannot have everything get these.
    pub fn set_sound(&mut self, is_sound: Vec<bool>) {
        self.is_sound = is_sound;
    }

    /// Says that what is published is a recording: whoever joins is served from the last keyframe on, however
    /// long it takes to catch up, as no other keyframe comes for the asking.
    pub fn set_recorded(&mut self) {
        self.is_recorded = true;
    }

    /// Seals a burst and keeps it. The caller sends it to the live viewers.
    pub fn publish(
        &mut self,
        track: usize,
        keyframe: bool,
        captured_at: Instant,
        burst: PlainBurst,
        now: Instant,
    ) -> Result<Arc<SealedBurst>, SealError> {
        let burst = Arc::new(self.sealer.seal(track, keyframe, captured_at, burst)?);
        // What is read of a file before its viewer joins comes at once, and says nothing about the stream.
        if !self.is_recorded || self.was_joined {
            let bytes = burst.bytes().len() + burst.len() * WIRE_OVERHEAD;
            for (rendition, rate) in self.live_rates.iter_mut().enumerate() {
                if self.history.is_for(track, rendition) {
                    rate.add(bytes, now);
                }
            }
        }
        // Who takes longer to join a live channel may go on at a later keyframe, but of a recording wants to see
        // this part.
        let next = |joiner: &Joiner| joiner.next().map(|(position, _)| position);
        let next_needed = || self.joiners.iter().filter_map(next).min();
        let recorded_from = self.is_recorded.then(next_needed).flatten();
        let needed_from = self.beginnings.oldest(now).into_iter().chain(recorded_from).min();
        self.history.push(Arc::clone(&burst), needed_from, now);
        let (history, watched) = (&self.history, &self.watched);
        let is_for = |viewer| history.is_for(track, watched.of(viewer));
        self.repairs.count(burst.bytes().len(), is_for);
        self.repairs.expire(now);
        self.coded.forget(self.history.start());
        self.note_spacing(track, now);
        self.repair_ahead(&burst, now);
        if keyframe {
            let start = self.history.end() - 1;
            for (rendition, keyframe) in self.keyframes.iter_mut().enumerate() {
                keyframe.wanted &= !self.history.is_for(track, rendition);
            }
            for joiner in &mut self.joiners {
                if self.history.is_for(track, joiner.rendition) {
                    joiner.start_if_waiting(start);
                }
            }
            self.switch_at(&burst, start);
        }
        Ok(burst)
    }

    /// The burst at this position of the history has left for all live viewers by then.
    pub fn left(&mut self, position: u64, at: Instant) {
        self.history.left(position, at);
    }

    /// Begins to serve a viewer. It gets the GOP so far, then [`Step::CaughtUp`]. `None` where it must wait
    /// for a keyframe: then [`Step::Begin`] comes first.
    pub fn join(&mut self, viewer: ViewerId, now: Instant) -> Option<Vec<TrackPosition>> {
        self.join_rendition(viewer, 0, now)
    }

    /// As [`Self::join`], with this rendition.
    pub fn join_rendition(
        &mut self,
        viewer: ViewerId,
        rendition: usize,
        now: Instant,
    ) -> Option<Vec<TrackPosition>> {
        self.leave(viewer);
        self.was_joined = true;
        self.watched.set(viewer, rendition);
        let last = self.history.keyframe(rendition);
        let longest = self.longest_catch_up(rendition, now);
        let is_near = |start: &u64| self.catch_up_time(*start, rendition) <= longest;
        let start = last.filter(|start| self.is_recorded || is_near(start));
        // Of several renditions, one that nobody watched begins at a keyframe once it is made.
        if start.is_none() && (last.is_some() || self.history.renditions() > 1) {
            self.want_keyframe(rendition);
        }
        let start = match (start, last) {
            (Some(start), _) => Some(start),
            // Nothing can be decoded yet: the first keyframe to come reaches the viewer live.
            (None, None) => Some(self.history.end()),
            (None, Some(_)) => None,
        };
        if let Some(start) = start {
            self.beginnings.note(start, now);
        }
        self.joiners.push_back(Joiner::new((viewer, rendition), start, now, KEYFRAME_PATIENCE));
        self.repairs.joins(viewer, self.rate_for(viewer), now);
        start.map(|start| self.positions(start))
    }

    /// Where each track stands at a place in the history: the index of its first packet there or behind.
    pub fn standing(&self, position: u64) -> Vec<PacketIndex> {
        self.positions(position).iter().map(|position| position.first_index).collect()
    }

    /// Where each track stands for a viewer that is served from a place in the history on.
    fn positions(&self, start: u64) -> Vec<TrackPosition> {
        let position = |track| {
            let live_index = self.sealer.next_index(track).unwrap_or(0);
            let first = self.history.first_index(track, start);
            TrackPosition { first_index: first.unwrap_or(live_index), live_index }
        };
        (0..self.tracks).map(position).collect()
    }

    /// Forgets a viewer: nothing more is sent to it from here.
    pub fn leave(&mut self, viewer: ViewerId) {
        self.joiners.retain(|joiner| joiner.viewer != viewer);
        self.thinned.retain(|thinned| thinned.viewer != viewer);
        self.repairs.leave(viewer);
        self.watched.leave(viewer);
    }

    /// The path of a viewer carries only so much from now on, or everything again. One that belonged to the
    /// fan-out, and had everything before position `from`, must be taken off it; [`Step::CaughtUp`] puts it
    /// back. False for one that waits for a keyframe, which goes on waiting.
    pub fn limit(
        &mut self,
        viewer: ViewerId,
        rate: Option<Bitrate>,
        from: u64,
        now: Instant,
    ) -> bool {
        if let Some(thinned) = self.thinned.iter_mut().find(|thinned| thinned.viewer == viewer) {
            thinned.set_rate(rate);
            let repair =
                thinned.repair_rate(margin::allowance(self.repairs.condition(viewer).loss));
            self.repairs.limit(viewer, repair, now);
            return true;
        }
        let Some(rate) = rate else { return true };
        let joining = self.joiners.iter().position(|joiner| joiner.viewer == viewer);
        let next = match joining.map(|at| self.joiners[at].next()) {
            Some(None) => return false,
            Some(Some(next)) => next,
            None => (from, 0),
        };
        if let Some(at) = joining {
            self.joiners.remove(at);
        }
        if let Some(rendition) = self.watched.awaits(viewer) {
            // Of one that joined, the keyframe may have gone by.
            self.want_keyframe(rendition);
        }
        let reached = self.reached(next);
        let thinned = Thinned::new((viewer, self.rendition(viewer)), rate, next, reached);
        self.repairs.limit(viewer, thinned.repair_rate(self.allowance(viewer)), now);
        self.thinned.push_back(thinned);
        true
    }

    /// What repair may take of a viewer, as a share of its media.
    fn allowance(&self, viewer: ViewerId) -> f64 {
        margin::allowance(self.repairs.condition(viewer).loss)
    }

    /// Index of the next packet of each track for who is sent the history from a place on, by SSRC.
    fn reached(&self, (position, packet): (u64, usize)) -> BTreeMap<u32, PacketIndex> {
        let next = |track| {
            let index = self.history.first_index(track, position);
            index.or_else(|| self.sealer.next_index(track))
        };
        let ssrcs = self.sealer.ssrcs().enumerate();
        let mut reached: BTreeMap<_, _> =
            ssrcs.filter_map(|(track, ssrc)| Some((ssrc, next(track)?))).collect();
        if let Some(burst) = self.history.get(position) {
            reached.insert(burst.ssrc, burst.first_index + packet as u64);
        }
        reached
    }

    /// How many viewers are sent less than everything.
    pub fn limited(&self) -> usize {
        self.thinned.len()
    }

    /// Whether a viewer is sent less than everything.
    pub fn is_limited(&self, viewer: ViewerId) -> bool {
        self.thinned.iter().any(|thinned| thinned.viewer == viewer)
    }

    /// Whether a viewer was sent a packet of the history.
    fn was_sent(
        &self,
        viewer: ViewerId,
        position: u64,
        burst: &SealedBurst,
        packet: usize,
    ) -> bool {
        let index = burst.first_index + packet as u64;
        let is_watched = self.history.is_for(burst.track, self.rendition(viewer));
        if !is_watched && !self.watched.had(viewer, burst.track, index) {
            return false;
        }
        if let Some(joiner) = self.joiners.iter().find(|joiner| joiner.viewer == viewer) {
            return joiner.has_sent(position, packet);
        }
        let thinned = self.thinned.iter().find(|thinned| thinned.viewer == viewer);
        thinned.is_none_or(|thinned| thinned.has_sent(position, burst, packet))
    }

    /// Whether a viewer is served by itself, not with all others.
    fn is_alone(&self, viewer: ViewerId) -> bool {
        self.joiners.iter().any(|joiner| joiner.viewer == viewer) || self.is_limited(viewer)
    }

    /// What is due at `now`, if anything.
    pub fn poll_step(&mut self, now: Instant) -> Option<Step> {
        // Neither those who join nor those who lost something wait for all of the others.
        self.is_joining_first ^= true;
        if self.is_joining_first {
            self.poll_joining(now)
                .or_else(|| self.poll_repair(now))
                .or_else(|| self.poll_thinned(now))
        } else {
            self.poll_thinned(now)
                .or_else(|| self.poll_repair(now))
                .or_else(|| self.poll_joining(now))
        }
    }

    fn poll_thinned(&mut self, now: Instant) -> Option<Step> {
        let caught_up = |thinned: &Thinned| thinned.has_caught_up(&self.history);
        if let Some(at) = self.thinned.iter().position(caught_up) {
            let viewer = self.thinned.remove(at)?.viewer;
            return Some(Step::CaughtUp { viewer });
        }
        loop {
            let due = |thinned: &Thinned| thinned.is_due(&self.history, now);
            let at = self.thinned.iter().position(due)?;
            let mut thinned = self.thinned.remove(at)?;
            let viewer = thinned.viewer;
            // Not as fast as one that joins: its path was full a moment ago.
            let unlimited = self.rate_for(viewer).scaled(1.25);
            let repair = self.allowance(viewer);
            let (parts, left_out) =
                thinned.next_packets(&self.history, &self.is_sound, (unlimited, repair), now);
            self.thinned.push_back(thinned);
            if !parts.is_empty() || !left_out.is_empty() {
                return Some(Step::SendLess { viewer, parts, left_out });
            }
        }
    }

    fn poll_repair(&mut self, now: Instant) -> Option<Step> {
        let (rates, watched) = (&self.live_rates, &self.watched);
        let rate = |viewer| rates.get(watched.of(viewer)).map_or(NO_RATE, RateMeter::rate);
        let (pacing, joiners) = (self.pacing, self.joiners.len());
        let pace = |rendition| renditions::pace(pacing, rates, rendition);
        let joining = |viewer| pacing.rate_among(joiners).min(pace(watched.of(viewer)));
        let Chunk { viewer, packets, repair } = self.repairs.poll((rate, joining), now)?;
        // What is sent again shares the pace of one that joins: its path carries no more because of it.
        if let Some(joiner) = self.joiners.iter_mut().find(|joiner| joiner.viewer == viewer) {
            let bytes = packets.iter().map(Bytes::len).sum();
            joiner.pacer.spend(bytes, pace(joiner.rendition), now);
        }
        Some(Step::Repair { viewer, packets, repair })
    }

    fn poll_joining(&mut self, now: Instant) -> Option<Step> {
        if let Some(rendition) = self.keyframes.iter().position(|keyframe| keyframe.is_due(now)) {
            self.keyframes[rendition] = Keyframe { wanted: false, requested_at: Some(now) };
            return Some(Step::RequestKeyframe { rendition });
        }
        let end = self.history.end();
        for joiner in &mut self.joiners {
            // Without a keyframe in the history, the next one reaches the viewer live.
            joiner.lose_patience(self.history.keyframe(joiner.rendition).unwrap_or(end), now);
        }
        if let Some((viewer, start)) = self.joiners.iter_mut().find_map(Joiner::begin) {
            self.beginnings.note(start, now);
            return Some(Step::Begin { viewer, positions: self.positions(start) });
        }
        // Whoever has caught up leaves first, paced or not: it must not miss the next burst.
        if let Some(at) = self.joiners.iter().position(|joiner| joiner.has_caught_up(end)) {
            let joiner = self.joiners.remove(at)?;
            return Some(self.caught_up(joiner.viewer));
        }
        if !self.join_pacer.is_due(now) {
            return None;
        }
        let at = self.joiners.iter().position(|joiner| joiner.is_due(now))?;
        // To the back of the queue, so that all who join take turns.
        let mut joiner = self.joiners.remove(at)?;
        let viewer = joiner.viewer;
        let parts = joiner.next_packets(&self.history);
        if parts.is_empty() {
            return Some(self.caught_up(viewer));
        }
        let bytes = parts.iter().map(Part::len).sum();
        let pace = renditions::pace(self.pacing, &self.live_rates, joiner.rendition);
        joiner.pacer.spend(bytes, pace, now);
        if let Some(total) = self.pacing.total {
            self.join_pacer.spend(bytes, total, now);
        }
        self.joiners.push_back(joiner);
        Some(Step::Send { viewer, parts })
    }

    /// When [`Self::poll_step`] will have something to do, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let all_at = self.join_pacer.due_at();
        let joiners = self.joiners.iter().filter_map(|joiner| joiner.wakes_at(all_at));
        let keyframes = self.keyframes.iter().filter_map(Keyframe::due_at);
        let thinned = self.thinned.iter().filter_map(|thinned| thinned.wakes_at(&self.history));
        joiners.chain(keyframes).chain(thinned).chain(self.repairs.poll_timeout()).min()
    }

    /// All joining viewers together get this much from now on.
    pub fn set_join_total(&mut self, total: Option<Bitrate>) {
        self.pacing.total = total;
    }

    /// The packets kept.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What the stream has needed lately, headers included; of several renditions, the largest.
    pub fn live_rate(&self) -> Bitrate {
        self.live_rates.iter().map(RateMeter::rate).max().unwrap_or(NO_RATE)
    }

    /// What a rendition and all that goes with it have needed lately, headers included.
    pub fn live_rate_of(&self, rendition: usize) -> Bitrate {
        self.live_rates.get(rendition).map_or(NO_RATE, RateMeter::rate)
    }

    /// Packets waiting to be sent again, or as repair packets.
    pub fn repairs_waiting(&self) -> usize {
        self.repairs.waiting()
    }

    /// How many viewers are catching up.
    pub fn joining(&self) -> usize {
        self.joiners.len()
    }

    /// The epoch of the oldest packets kept, or of those to come where none are.
    pub fn oldest_epoch(&self) -> Epoch {
        let oldest = self.history.get(self.history.start());
        oldest.map_or_else(|| self.sealer.epoch(), |burst| burst.epoch)
    }

    /// Seals with another key from now on.
    pub fn rekey(&mut self, key: &MasterKey) {
        self.sealer.rekey(key);
    }

    fn note_spacing(&mut self, track: usize, now: Instant) {
        if let Some((spacing, last)) = self.spacing.get_mut(track)
            && let Some(last) = last.replace(now)
        {
            let apart = now.saturating_duration_since(last).min(LONGEST_SPACING);
            *spacing = if spacing.is_zero() { apart } else { (*spacing * 7 + apart) / 8 };
        }
    }

    /// How long a viewer of a rendition needs from `start` to the live edge, which moves on meanwhile.
    fn catch_up_time(&self, start: u64, rendition: usize) -> Duration {
        let pace = renditions::pace(self.pacing, &self.live_rates, rendition);
        let rate = self.pacing.rate_among(self.joiners.len() + 1).min(pace);
        let live = self.live_rate_of(rendition);
        let gain = rate.as_bytes_per_second() - live.as_bytes_per_second();
        let bytes = self.history.bytes_since(start, rendition) as f64;
        if gain <= 0.0 {
            return Duration::MAX;
        }
        Duration::try_from_secs_f64(bytes / gain).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests;
