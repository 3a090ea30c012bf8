//! Retransmissions waiting to be sent: in turns over the viewers that asked, each at its own pace, so
//! that one that asks for everything takes nothing from the others.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::ViewerId;
use crate::pacing::Pacer;
use crate::schedule::CHUNK;
use crate::units::Bitrate;
use crate::volley::Part;

/// Retransmissions waiting for one viewer, at most. What exceeds it is asked for again.
pub(super) const MOST_EACH: usize = 512;

/// Retransmissions waiting in all, at most.
pub(super) const MOST: usize = 16_384;

/// What a viewer may get at once: what a short outage took.
const SLACK: Duration = Duration::from_millis(250);

/// Least rate for one viewer, where the stream itself is slower.
const LEAST_RATE: Bitrate = Bitrate::bits_per_second(500_000);

/// All that was asked for.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    queues: HashMap<ViewerId, Queue>,
    /// Viewers with something waiting, in the order of their turns.
    turns: VecDeque<ViewerId>,
    waiting: usize,
}

#[derive(Debug)]
struct Queue {
    packets: VecDeque<Part>,
    pacer: Pacer,
}

impl Repairs {
    /// Queues a packet; false where there is no room.
    pub(super) fn push(&mut self, viewer: ViewerId, packet: Part) -> bool {
        let queue = self
            .queues
            .entry(viewer)
            .or_insert_with(|| Queue { packets: VecDeque::new(), pacer: Pacer::with_slack(SLACK) });
        if queue.packets.len() >= MOST_EACH || self.waiting >= MOST {
            return false;
        }
        if queue.packets.is_empty() {
            self.turns.push_back(viewer);
        }
        queue.packets.push_back(packet);
        self.waiting += 1;
        true
    }

    /// Forgets a viewer.
    pub(super) fn leave(&mut self, viewer: ViewerId) {
        if let Some(queue) = self.queues.remove(&viewer) {
            self.waiting -= queue.packets.len();
            self.turns.retain(|other| *other != viewer);
        }
    }

    /// The next packets that are due, for a stream of this rate.
    pub(super) fn poll(&mut self, stream: Bitrate, now: Instant) -> Option<(ViewerId, Vec<Part>)> {
        let due = |viewer: &ViewerId| {
            self.queues.get(viewer).is_some_and(|queue| queue.pacer.is_due(now))
        };
        let at = self.turns.iter().position(due)?;
        let viewer = self.turns.remove(at)?;
        let queue = self.queues.get_mut(&viewer)?;
        let count = queue.packets.len().min(CHUNK);
        let packets: Vec<Part> = queue.packets.drain(..count).collect();
        self.waiting -= count;
        let bytes = packets.iter().map(Part::len).sum();
        queue.pacer.spend(bytes, stream.max(LEAST_RATE), now);
        if !queue.packets.is_empty() {
            self.turns.push_back(viewer);
        }
        Some((viewer, packets))
    }

    /// When [`Self::poll`] will have something.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let queues = self.turns.iter().filter_map(|viewer| self.queues.get(viewer));
        queues.filter_map(|queue| queue.pacer.due_at()).min()
    }
}
