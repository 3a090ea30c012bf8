//! One pair of addresses: when it is sent openers, which of our checks were not answered on it, and
//! whether the peer's end proved that it receives.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::budget::Budget;
use super::local::PairId;
use crate::candidate::{CandidateKind, Priority};
use crate::stun::TransactionId;

/// Gaps between the first openers on a pair: sent at 0, 20, 60, 140 and 300 ms. Two sides that
/// start together need one each; the others are for loss, and for a peer that starts a little later.
const FIRST_GAPS: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(160),
];

/// Gaps between later openers, in milliseconds.
const LATER_GAPS: std::ops::RangeInclusive<u64> = 250..=500;

/// Least time between two openers on one pair, however often the peer's own checks ask for one.
const LEAST_GAP: Duration = Duration::from_millis(5);

/// Most unanswered checks that are remembered for a pair; the oldest is forgotten first.
const MOST_PENDING: usize = 48;

/// A check that was sent and not answered yet.
#[derive(Debug, Clone, Copy)]
struct Pending {
    transaction: TransactionId,
    sent_at: Instant,
}

/// An address that echoed one of our nonces.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proof {
    pub(super) at: Instant,
    pub(super) rtt: Duration,
    /// Where the peer sees us.
    pub(super) seen_as: SocketAddr,
}

/// One of our ways out with one address of the peer.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) id: PairId,
    /// The worse end's kind, as far as we know both.
    pub(super) kind: CandidateKind,
    pub(super) priority: Priority,
    pub(super) is_peer_reflexive: bool,
    /// When it became known.
    pub(super) since: Instant,
    pub(super) heard_at: Option<Instant>,
    pub(super) proof: Option<Proof>,
    /// When the next opener is due.
    pub(super) next_at: Option<Instant>,
    sent_at: Option<Instant>,
    step: usize,
    pending: VecDeque<Pending>,
}

impl Pair {
    /// A pair with an introduced address; its first opener is due at once.
    pub(super) fn introduced(
        id: PairId,
        kind: CandidateKind,
        priority: Priority,
        now: Instant,
    ) -> Self {
        Self {
            id,
            kind,
            priority,
            is_peer_reflexive: false,
            since: now,
            heard_at: None,
            proof: None,
            next_at: Some(now),
            sent_at: None,
            step: 0,
            pending: VecDeque::new(),
        }
    }

    /// Makes an opener due now, because a check of the peer shows that its side is open.
    pub(super) fn trigger(&mut self, now: Instant) {
        let soonest = self.sent_at.map_or(now, |at| now.max(at + LEAST_GAP));
        self.next_at = Some(self.next_at.map_or(soonest, |at| at.min(soonest)));
    }

    /// Notes that an opener was sent, and when the next is due.
    pub(super) fn schedule(&mut self, now: Instant, rng: &mut impl Rng) {
        let gap = FIRST_GAPS
            .get(self.step)
            .copied()
            .unwrap_or_else(|| Duration::from_millis(rng.random_range(LATER_GAPS)));
        self.step += 1;
        self.next_at = Some(now + gap);
    }

    /// Whether one more opener may be sent; if so, it is counted. Proved addresses are free.
    pub(super) fn spend_opener(&self, budget: &mut Budget) -> bool {
        self.proof.is_some() || budget.spend_opener(self.id.remote)
    }

    /// Whether one more answer may be sent; if so, it is counted. Proved addresses are free.
    pub(super) fn spend_answer(&self, budget: &mut Budget) -> bool {
        self.proof.is_some() || budget.spend_answer(self.id.remote)
    }

    /// Notes a check that was sent.
    pub(super) fn sent(&mut self, transaction: TransactionId, now: Instant) {
        if self.pending.len() == MOST_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(Pending { transaction, sent_at: now });
        self.sent_at = Some(now);
    }

    /// Whether this check waits for its answer here.
    pub(super) fn awaits(&self, transaction: TransactionId) -> bool {
        self.pending.iter().any(|pending| pending.transaction == transaction)
    }

    /// Takes the answer to one of our checks: the address is proved. What was sent to it before is
    /// given back to the budget. Returns whether the check was one of those waiting.
    pub(super) fn prove(
        &mut self,
        transaction: TransactionId,
        seen_as: SocketAddr,
        budget: &mut Budget,
        now: Instant,
    ) -> bool {
        let found = self.pending.iter().position(|pending| pending.transaction == transaction);
        let Some(pending) = found.and_then(|index| self.pending.remove(index)) else {
            return false;
        };
        let rtt = now.saturating_duration_since(pending.sent_at);
        self.proof = Some(Proof { at: now, rtt, seen_as });
        self.heard_at = Some(now);
        self.next_at = None;
        self.step = 0;
        budget.refund(self.id.remote);
        true
    }

    /// Forgets the proof, so that the address must be proved again.
    pub(super) fn withdraw(&mut self) {
        self.proof = None;
        self.pending.clear();
    }

    /// Starts over with openers, as for a pair that was just introduced.
    pub(super) fn restart(&mut self, now: Instant) {
        self.since = now;
        self.step = 0;
        self.next_at = Some(now);
    }
}
