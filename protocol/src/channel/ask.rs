//! Answering what viewers ask for, and, where there is no time to ask, what they will lack.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::repairs::{Condition, Name};
use super::{Channel, ViewerId};
use crate::feedback::{Ask, MOST_NAMED, What, Wish};
use crate::repair::{block_of, margin, most_repair};
use crate::seal::{PacketIndex, SealedBurst};

/// Packets that leave at one time arrive within this.
const TOGETHER: Duration = Duration::from_millis(2);

/// How long it takes a viewer to notice that a packet is missing, beyond the time to the next one.
const NOTICING: Duration = Duration::from_millis(10);

/// Below this loss nothing is sent ahead of any request.
const LEAST_LOSS: f64 = 0.002;

/// A burst in the history, and packets of one block of it.
struct Missing {
    burst: Arc<SealedBurst>,
    numbers: Vec<usize>,
}

/// What may be sent beyond what is missing.
#[derive(Clone, Copy)]
struct Terms {
    loss: f64,
    risk: f64,
    takes_repair: bool,
    /// When it must have left to be of use.
    until: Instant,
}

impl Channel {
    /// Queues what a viewer asks for, as far as the history has it and it was sent before, and more where
    /// few rounds are left. Returns how many packets were queued.
    pub fn ask(&mut self, viewer: ViewerId, wish: &Wish, now: Instant) -> usize {
        let known = self.repairs.viewer(viewer, now);
        // What it says now is newer than its last report.
        known.condition.loss = f64::from(wish.loss) / 256.0;
        let loss = known.condition.loss;
        known.asks(now);
        let mut queued = 0;
        for Ask { serial, ssrc, rounds_left, what } in &wish.asks {
            // What does not fit is asked for again.
            if !self.repairs.has_room(viewer) {
                break;
            }
            if !self.repairs.viewer(viewer, now).is_new(*serial) {
                continue;
            }
            let left = self.repairs.left(viewer, self.rate_for(viewer), now);
            let risk = if self.has_margins { margin::risk(*rounds_left, left) } else { 1.0 };
            let until = self.repairs.viewer(viewer, now).useful_until(*rounds_left, now);
            let terms = Terms { loss, risk, takes_repair: wish.takes_repair, until };
            queued += match what {
                What::Packets { first, others } => {
                    let others = others.iter().map(|behind| first.saturating_add((*behind).into()));
                    let named: Vec<_> = std::iter::once(*first).chain(others).collect();
                    self.send_named(viewer, *ssrc, &named, terms, now)
                }
                What::Behind { index, newest, silence_us } => {
                    let silence = Duration::from_micros((*silence_us).into());
                    // Who joins is sent everything in turn, later than it left for the others.
                    let behind = if self.is_alone(viewer) {
                        Vec::new()
                    } else {
                        self.behind(*ssrc, *index, *newest, silence)
                    };
                    self.send_named(viewer, *ssrc, &behind, terms, now)
                }
                What::Block { base, lacks } => {
                    self.send_block(viewer, (*ssrc, *base), usize::from(*lacks), terms, now)
                }
            };
        }
        queued
    }

    /// Says how a viewer is, from its reports.
    pub fn tell(&mut self, viewer: ViewerId, condition: Condition, now: Instant) {
        self.repairs.tell(viewer, condition, now);
    }

    /// Whether more than what is missing may be sent. Not while the sender's own uplink is what loses:
    /// repair would add to what it cannot carry.
    pub fn set_margins(&mut self, allowed: bool) {
        self.has_margins = allowed;
    }

    /// What should be with the viewer behind packet `index`, if `newest` came `silence` ago.
    fn behind(
        &self,
        ssrc: u32,
        index: PacketIndex,
        newest: PacketIndex,
        silence: Duration,
    ) -> Vec<PacketIndex> {
        let Some((position, ..)) = self.history.find(ssrc, newest) else { return Vec::new() };
        let Some(sent_at) = self.history.left_at(position) else { return Vec::new() };
        let until = sent_at + silence.saturating_sub(TOGETHER);
        self.history.behind(ssrc, index, until).take(MOST_NAMED).collect()
    }

    fn send_named(
        &mut self,
        viewer: ViewerId,
        ssrc: u32,
        indices: &[PacketIndex],
        terms: Terms,
        now: Instant,
    ) -> usize {
        let mut missing: BTreeMap<(u64, usize), Missing> = BTreeMap::new();
        for &index in indices {
            let Some((position, burst, at)) = self.history.find(ssrc, index) else { continue };
            let was_sent = self.was_sent(viewer, position, burst, at);
            if !was_sent || !self.repairs.viewer(viewer, now).may_send(burst.track, index, now) {
                continue;
            }
            let key = (position, block_of(burst.len(), at).start);
            let burst = || Missing { burst: Arc::clone(burst), numbers: Vec::new() };
            missing.entry(key).or_insert_with(burst).numbers.push(at);
        }
        let mut queued = 0;
        for ((position, start), Missing { burst, numbers }) in missing {
            let count = margin::packets(numbers.len(), terms.loss, terms.risk);
            let until = terms.until;
            queued += self.send_source(viewer, &burst, &numbers, until);
            let more = count - numbers.len();
            queued += if terms.takes_repair && block_of(burst.len(), start).len() > 1 {
                self.send_repair(viewer, (position, start), &burst, more, until)
            } else {
                let copies: Vec<_> = numbers.iter().copied().cycle().take(more).collect();
                self.send_source(viewer, &burst, &copies, until)
            };
        }
        queued
    }

    fn send_block(
        &mut self,
        viewer: ViewerId,
        (ssrc, base): (u32, PacketIndex),
        lacks: usize,
        terms: Terms,
        now: Instant,
    ) -> usize {
        let Some((position, burst, at)) = self.history.find(ssrc, base) else { return 0 };
        let block = block_of(burst.len(), at);
        let was_sent = self.was_sent(viewer, position, burst, block.end - 1);
        // Asked for as often as any of its packets.
        let name = burst.first_index + block.start as u64;
        let burst = Arc::clone(burst);
        if !was_sent || !self.repairs.viewer(viewer, now).may_send(burst.track, name, now) {
            return 0;
        }
        let lacks = lacks.min(block.len());
        let count = margin::packets(lacks, terms.loss, terms.risk);
        self.send_repair(viewer, (position, block.start), &burst, count, terms.until)
    }

    fn send_source(
        &mut self,
        viewer: ViewerId,
        burst: &SealedBurst,
        numbers: &[usize],
        until: Instant,
    ) -> usize {
        let mut queued = 0;
        for &number in numbers {
            let Some(range) = burst.packet(number) else { continue };
            let name = Name::Source(burst.track, burst.first_index + number as u64);
            let packet = burst.bytes().slice(range);
            queued += usize::from(self.repairs.push(viewer, name, packet, until));
        }
        queued
    }

    fn send_repair(
        &mut self,
        viewer: ViewerId,
        (position, start): (u64, usize),
        burst: &SealedBurst,
        count: usize,
        until: Instant,
    ) -> usize {
        let block = block_of(burst.len(), start);
        let (of, oldest) = (most_repair(block.len()), self.history.start());
        let mut queued = 0;
        for _ in 0..count {
            if !self.repairs.has_room(viewer) {
                break;
            }
            let Some(known) = self.repairs.known(viewer) else { break };
            let number = known.next_repair((position, start), of, oldest);
            let place = (position, burst, block.clone());
            let packet = match self.coded.packet(place, number, &mut self.sealer) {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "repair packet not sealed");
                    break;
                }
            };
            let name = Name::Repair(burst.track, burst.first_index + start as u64);
            queued += usize::from(self.repairs.push(viewer, name, packet, until));
        }
        queued
    }

    /// Sends repair packets right behind a burst to viewers that have no time to ask for anything.
    pub(super) fn repair_ahead(&mut self, burst: &Arc<SealedBurst>, now: Instant) {
        if !self.has_margins {
            return;
        }
        let spacing = self.spacing.get(burst.track).map_or(Duration::ZERO, |(spacing, _)| *spacing);
        // Of a burst of several packets another one tells that one is missing.
        let noticing = if burst.len() > 1 { NOTICING } else { spacing + NOTICING };
        let has_no_time = |condition: &Condition| {
            condition.loss >= LEAST_LOSS && condition.rtt + noticing > condition.latency
        };
        let viewers: Vec<_> = self
            .repairs
            .conditions()
            .filter(|(viewer, condition)| has_no_time(condition) && !self.is_alone(*viewer))
            .filter(|(viewer, _)| self.history.is_for(burst.track, self.rendition(*viewer)))
            .collect();
        let position = self.history.end() - 1;
        for (viewer, condition) in viewers {
            let left = self.repairs.left(viewer, self.rate_for(viewer), now);
            let risk = margin::risk(0, left);
            let until = now + condition.latency;
            let mut start = 0;
            while start < burst.len() {
                let block = block_of(burst.len(), start);
                let more = margin::packets(block.len(), condition.loss, risk) - block.len();
                if block.len() > 1 {
                    self.send_repair(viewer, (position, start), burst, more, until);
                } else {
                    let copies: Vec<usize> = block.clone().cycle().take(more).collect();
                    self.send_source(viewer, burst, &copies, until);
                }
                // A request for them before these can have arrived would be too early.
                for at in block.clone() {
                    let index = burst.first_index + at as u64;
                    self.repairs.viewer(viewer, now).may_send(burst.track, index, now);
                }
                start = block.end;
            }
        }
    }
}
