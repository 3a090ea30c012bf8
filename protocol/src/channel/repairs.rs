//! What viewers asked for, waiting to be sent: in turns over the viewers, each at its own pace, so that
//! one that asks for everything takes nothing from the others.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ViewerId;
use crate::pacing::Pacer;
use crate::repair::margin;
use crate::schedule::CHUNK;
use crate::seal::PacketIndex;
use crate::size::MAX_DATAGRAM;
use crate::units::Bitrate;

/// Packets waiting for one viewer, at most. What exceeds it is asked for again.
pub(super) const MOST_EACH: usize = 512;

/// Packets waiting in all, at most.
pub(super) const MOST: usize = 16_384;

/// What a viewer may get at once: what a short outage took.
const SLACK: Duration = Duration::from_millis(250);

/// Least rate for one viewer, where the stream itself is slower.
const LEAST_RATE: Bitrate = Bitrate::bits_per_second(500_000);

/// A packet is sent to a viewer again after this share of its round trip: an earlier request cannot know
/// what became of it.
const ROUND: f64 = 0.9;

/// How long it is remembered at least what a viewer was sent.
const MEMORY: Duration = Duration::from_secs(2);

/// A viewer that lost nothing for so long is forgotten.
const FORGETTING: Duration = Duration::from_secs(10);

/// How often those are looked for.
const EXPIRING: Duration = Duration::from_secs(1);

/// For how long after it began to join a viewer gets what it lost as fast as it gets the rest: what it lacks of
/// the history keeps it from seeing anything.
pub(super) const JOINING: Duration = Duration::from_secs(3);

/// How much of the media's time its budget covers then.
const JOINING_BUDGET: Duration = Duration::from_millis(500);

/// A stream of less than this may spend on repair what this one may, but so many times its own share at most.
const THICK: Bitrate = Bitrate::bits_per_second(4_000_000);
const MOST_THIN: f64 = 2.0;

/// No path is shorter than this, whatever a viewer says.
const LEAST_RTT: Duration = Duration::from_millis(5);

/// How much of the media's time its budget covers.
const BUDGETED: Duration = Duration::from_secs(1);

/// Least budget to begin with, in bytes.
const LEAST_BUDGET: f64 = 40.0 * MAX_DATAGRAM as f64;

/// How a viewer is, as far as repair is concerned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    /// Share of packets that it loses, 0 to 1.
    pub loss: f64,
    /// Its round-trip time.
    pub rtt: Duration,
    /// How long a packet that was missed is of use to it.
    pub latency: Duration,
}

impl Default for Condition {
    fn default() -> Self {
        Self { loss: 0.0, rtt: Duration::from_millis(50), latency: Duration::from_millis(200) }
    }
}

/// What a packet is for: copies must not leave in one datagram, nor be queued again while they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    /// This packet of a track.
    Source(usize, PacketIndex),
    /// A repair packet, of the block that begins with this packet of a track.
    Repair(usize, PacketIndex),
}

impl Name {
    fn is_repair(self) -> bool {
        matches!(self, Self::Repair(..))
    }

    fn key(self) -> (usize, PacketIndex) {
        let (Self::Source(track, index) | Self::Repair(track, index)) = self;
        (track, index)
    }
}

/// All that was asked for.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    viewers: HashMap<ViewerId, Viewer>,
    /// Viewers with something waiting, in the order of their turns.
    turns: VecDeque<ViewerId>,
    waiting: usize,
    expired_at: Option<Instant>,
}

/// What one viewer is sent at its turn.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) viewer: ViewerId,
    pub(super) packets: Vec<Bytes>,
    /// How many of them are repair packets.
    pub(super) repair: usize,
}

/// One viewer that lost something lately.
#[derive(Debug)]
pub(super) struct Viewer {
    pub(super) condition: Condition,
    /// What waits, by when it must have left to be of use. What is most urgent leaves first, and what waited
    /// for too long not at all: else one long queue would make all that comes after it late, and asked for
    /// once more.
    queue: BTreeMap<(Instant, u64), (Name, Bytes)>,
    queued: u64,
    pacer: Pacer,
    serials: Serials,
    sent: HashMap<(usize, PacketIndex), SentAgain>,
    /// The number of the next repair packet of each block, by position and first packet.
    next_repair: BTreeMap<(u64, usize), usize>,
    /// Bytes that may be spent, and bytes of media that it was sent since that was worked out.
    left: f64,
    media: u64,
    asked_at: Instant,
    joined_at: Option<Instant>,
    /// The most that it may be sent of this, where its path does not carry the stream.
    limit: Option<Bitrate>,
}

/// When a packet was last sent again, or asked for, and how many copies of it wait.
#[derive(Debug)]
struct SentAgain {
    at: Instant,
    waiting: usize,
}

impl Repairs {
    /// Counts media sent to all these.
    pub(super) fn count(&mut self, bytes: usize, is_for: impl Fn(ViewerId) -> bool) {
        for (viewer, known) in &mut self.viewers {
            if is_for(*viewer) {
                known.media += bytes as u64;
            }
        }
    }

    /// The viewer, known from now on.
    pub(super) fn viewer(&mut self, viewer: ViewerId, now: Instant) -> &mut Viewer {
        self.viewers.entry(viewer).or_insert_with(|| Viewer::new(now))
    }

    /// The viewer, if it is known.
    pub(super) fn known(&mut self, viewer: ViewerId) -> Option<&mut Viewer> {
        self.viewers.get_mut(&viewer)
    }

    /// Says how a viewer is.
    pub(super) fn tell(&mut self, viewer: ViewerId, condition: Condition, now: Instant) {
        if condition.loss > 0.0 {
            let known = self.viewer(viewer, now);
            known.condition = condition;
            known.asked_at = now;
        } else if let Some(known) = self.viewers.get_mut(&viewer) {
            known.condition = condition;
        }
    }

    /// Forgets those that lost nothing for a while. Looks now and then.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.expired_at.is_some_and(|at| now < at + EXPIRING) {
            return;
        }
        self.expired_at = Some(now);
        self.viewers.retain(|_, known| known.is_needed(now));
        self.viewers.values_mut().for_each(|known| known.forget(now));
    }

    /// Packets that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether more can be queued for a viewer.
    pub(super) fn has_room(&self, viewer: ViewerId) -> bool {
        let queued = self.viewers.get(&viewer).map_or(0, |known| known.queue.len());
        queued < MOST_EACH && self.waiting < MOST
    }

    /// Viewers that are known, with how they are.
    pub(super) fn conditions(&self) -> impl Iterator<Item = (ViewerId, Condition)> {
        self.viewers.iter().map(|(viewer, known)| (*viewer, known.condition))
    }

    /// Queues a packet that is of use until then; false where there is no room.
    pub(super) fn push(
        &mut self,
        viewer: ViewerId,
        name: Name,
        packet: Bytes,
        until: Instant,
    ) -> bool {
        let Some(known) = self.viewers.get_mut(&viewer) else { return false };
        if known.queue.len() >= MOST_EACH || self.waiting >= MOST || known.gets_nothing() {
            return false;
        }
        if known.queue.is_empty() {
            self.turns.push_back(viewer);
        }
        known.left = (known.left - packet.len() as f64).max(0.0);
        known.queue.insert((until, known.queued), (name, packet));
        known.queued += 1;
        if let Some(sent) = known.sent.get_mut(&name.key()) {
            sent.waiting += 1;
        }
        self.waiting += 1;
        true
    }

    /// Forgets a viewer.
    pub(super) fn leave(&mut self, viewer: ViewerId) {
        if let Some(known) = self.viewers.remove(&viewer) {
            self.waiting -= known.queue.len();
            self.turns.retain(|other| *other != viewer);
        }
    }

    /// What may still be spent on a viewer, as a share of what may be at most, for a stream of this rate.
    pub(super) fn left(&mut self, viewer: ViewerId, stream: Bitrate, now: Instant) -> f64 {
        let Some(known) = self.viewers.get_mut(&viewer) else { return 0.0 };
        let share = margin::allowance(known.condition.loss) * thinness(stream);
        let most = stream.as_bytes_per_second() * BUDGETED.as_secs_f64() * share;
        let most = most.max(LEAST_BUDGET);
        known.left += std::mem::take(&mut known.media) as f64 * share;
        if !known.joins(now) {
            known.left = known.left.min(most);
        }
        (known.left / most).min(1.0)
    }

    /// All that waits for a viewer gets so much at most, from now on.
    pub(super) fn limit(&mut self, viewer: ViewerId, limit: Option<Bitrate>, now: Instant) {
        let known = self.viewer(viewer, now);
        if known.limit != limit {
            known.limit = limit;
            // What was spent under another limit says nothing about this one.
            known.pacer = Pacer::with_slack(SLACK);
        }
        if known.gets_nothing() {
            let waiting = std::mem::take(&mut known.queue).len();
            known.sent.clear();
            self.waiting -= waiting;
            self.turns.retain(|other| *other != viewer);
        }
    }

    /// How a viewer is, as far as that is known.
    pub(super) fn condition(&self, viewer: ViewerId) -> Condition {
        self.viewers.get(&viewer).map_or_else(Condition::default, |known| known.condition)
    }

    /// A viewer begins to join a stream of this rate. What it loses then is much at once, and spoils the
    /// first picture.
    pub(super) fn joins(&mut self, viewer: ViewerId, stream: Bitrate, now: Instant) {
        let known = self.viewer(viewer, now);
        known.joined_at = Some(now);
        let budget = stream.as_bytes_per_second() * JOINING_BUDGET.as_secs_f64();
        known.left = LEAST_BUDGET.max(budget);
    }

    /// The next packets that are due, where each viewer's stream has this rate, and each that joins gets so much.
    pub(super) fn poll(
        &mut self,
        (stream, joining): (impl Fn(ViewerId) -> Bitrate, impl Fn(ViewerId) -> Bitrate),
        now: Instant,
    ) -> Option<Chunk> {
        loop {
            let due = |viewer: &ViewerId| {
                self.viewers.get(viewer).is_some_and(|known| known.pacer.is_due(now))
            };
            let at = self.turns.iter().position(due)?;
            let viewer = self.turns.remove(at)?;
            let known = self.viewers.get_mut(&viewer)?;
            let waiting = known.queue.len();
            let leaving = known.next_chunk(now);
            self.waiting -= waiting - known.queue.len();
            if !known.queue.is_empty() {
                self.turns.push_back(viewer);
            }
            if leaving.is_empty() {
                continue;
            }
            // Those that are sent again come first: they share a message.
            let (again, repair): (Vec<_>, Vec<_>) =
                leaving.into_iter().partition(|(name, _)| !name.is_repair());
            let repair_packets = repair.len();
            let packets: Vec<Bytes> =
                again.into_iter().chain(repair).map(|(_, packet)| packet).collect();
            let bytes = packets.iter().map(Bytes::len).sum();
            let least = if known.joins(now) { joining(viewer) } else { LEAST_RATE };
            let stream = stream(viewer);
            let pace = stream.scaled(thinness(stream)).max(least);
            known.pacer.spend(bytes, known.limit.unwrap_or(pace), now);
            return Some(Chunk { viewer, packets, repair: repair_packets });
        }
    }

    /// When [`Self::poll`] will have something.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let waiting = self.turns.iter().filter_map(|viewer| self.viewers.get(viewer));
        // One that was sent nothing yet is due since it asked.
        waiting.map(|known| known.pacer.due_at().unwrap_or(known.asked_at)).min()
    }
}

/// By how much more than its share a stream may spend: a thin one has few packets to each picture, and needs more
/// of them.
fn thinness(stream: Bitrate) -> f64 {
    let rate = stream.as_bits_per_second().max(1) as f64;
    (THICK.as_bits_per_second() as f64 / rate).clamp(1.0, MOST_THIN)
}

impl Viewer {
    fn new(now: Instant) -> Self {
        Self {
            condition: Condition::default(),
            queue: BTreeMap::new(),
            queued: 0,
            pacer: Pacer::rested(SLACK, now),
            serials: Serials::default(),
            sent: HashMap::new(),
            next_repair: BTreeMap::new(),
            left: LEAST_BUDGET,
            media: 0,
            asked_at: now,
            joined_at: None,
            limit: None,
        }
    }

    /// Whether nothing may be sent to it at all.
    fn gets_nothing(&self) -> bool {
        self.limit.is_some_and(|limit| limit.as_bits_per_second() == 0)
    }

    /// Forgets what was sent to it long ago.
    fn forget(&mut self, now: Instant) {
        self.sent.retain(|_, sent| sent.waiting > 0 || sent.at + MEMORY > now);
    }

    fn is_needed(&self, now: Instant) -> bool {
        !self.queue.is_empty() || self.limit.is_some() || now < self.asked_at + FORGETTING
    }

    /// Whether it began to join not long ago.
    fn joins(&self, now: Instant) -> bool {
        self.joined_at.is_some_and(|at| now < at + JOINING)
    }

    /// It asks for something.
    pub(super) fn asks(&mut self, now: Instant) {
        self.asked_at = now;
        if self.sent.len() > MOST_EACH {
            self.forget(now);
        }
    }

    /// Whether a request was not answered before.
    pub(super) fn is_new(&mut self, serial: u32) -> bool {
        self.serials.note(serial)
    }

    /// Whether a source packet may be sent again; it is then.
    pub(super) fn may_send(&mut self, track: usize, index: PacketIndex, now: Instant) -> bool {
        let round = self.condition.rtt.max(LEAST_RTT).mul_f64(ROUND);
        let before = self.sent.get(&(track, index));
        let may = before.is_none_or(|sent| sent.waiting == 0 && sent.at + round <= now);
        if may {
            self.sent.insert((track, index), SentAgain { at: now, waiting: 0 });
        }
        may
    }

    /// Until when the answer to a request may leave, after which so many further ones fit.
    pub(super) fn useful_until(&self, rounds_left: u8, now: Instant) -> Instant {
        let round = self.condition.rtt.mul_f64(1.1) + 2 * LEAST_RTT;
        now + round * (u32::from(rounds_left) + 1)
    }

    /// Takes what leaves next off the queue, and what is of no use any more.
    fn next_chunk(&mut self, now: Instant) -> Vec<(Name, Bytes)> {
        let mut leaving: Vec<(Name, Bytes)> = Vec::with_capacity(CHUNK);
        while leaving.len() < CHUNK {
            let Some(first) = self.queue.first_entry() else { break };
            let (until, _) = *first.key();
            let (name, _) = *first.get();
            // A copy in the same message would be lost with the original.
            if !name.is_repair() && leaving.iter().any(|(other, _)| *other == name) {
                break;
            }
            let waited = first.remove();
            if let Some(sent) = self.sent.get_mut(&name.key()) {
                sent.waiting = sent.waiting.saturating_sub(1);
                if until >= now {
                    sent.at = now;
                }
            }
            if until >= now {
                leaving.push(waited);
            }
        }
        leaving
    }

    /// The next repair packet's number of a block that has so many; blocks before `oldest` are forgotten.
    pub(super) fn next_repair(&mut self, block: (u64, usize), of: usize, oldest: u64) -> usize {
        while self
            .next_repair
            .first_key_value()
            .is_some_and(|(&(position, _), _)| position < oldest)
        {
            self.next_repair.pop_first();
        }
        let next = self.next_repair.entry(block).or_default();
        let number = *next % of.max(1);
        *next = number + 1;
        number
    }
}

/// Which serials came before.
#[derive(Debug, Default)]
struct Serials {
    /// Behind the highest.
    end: u32,
    /// Bit n: `end - 1 - n` came.
    came: u128,
}

impl Serials {
    /// Notes a serial; false where it came before, or is too old to tell.
    fn note(&mut self, serial: u32) -> bool {
        let serial = serial.min(u32::MAX - 1);
        if serial >= self.end {
            let ahead = serial - self.end + 1;
            self.came = self.came.checked_shl(ahead).unwrap_or(0);
            self.end = serial + 1;
        }
        let behind = self.end - 1 - serial;
        let Some(bit) = 1u128.checked_shl(behind) else { return false };
        let is_new = self.came & bit == 0;
        self.came |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_serial_counts_once() {
        let mut serials = Serials::default();
        let noted: Vec<bool> = [0, 0, 5, 3, 3, 5, 4, 200, 60, 72, 73, 73, u32::MAX, u32::MAX]
            .into_iter()
            .map(|serial| serials.note(serial))
            .collect();
        let expected = [
            true, false, true, true, false, false, true, true, false, false, true, false, true,
            false,
        ];
        assert_eq!(noted, expected);
    }
}
