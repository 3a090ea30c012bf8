//! One question of discovery, repeated until it is answered.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::stun::{Change, TransactionId, changed_request};

/// What a question is to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The external address and port towards its destination.
    Mapping,
    /// Whether an answer from elsewhere comes in.
    Filtering(Change),
    /// As [`Purpose::Filtering`], and whether the router takes the answer as its own.
    Unsolicited(Change),
    /// Whether it arrives at another socket of ours.
    Hairpin,
}

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// Our external address, as the answer says.
    pub(super) mapped: Option<SocketAddr>,
    /// Where the answer came from.
    pub(super) from: SocketAddr,
}

#[derive(Debug)]
pub(super) struct Probe {
    pub(super) socket: usize,
    pub(super) to: SocketAddr,
    pub(super) purpose: Purpose,
    pub(super) transaction: TransactionId,
    pub(super) seen: Option<Seen>,
    /// The server said that it cannot.
    pub(super) refused: bool,
    tries: u32,
    sent_at: Instant,
    /// When to ask again.
    pub(super) next_at: Option<Instant>,
}

impl Probe {
    /// Most transmissions of one question: at 20% loss on each way, one of 450 is lost altogether.
    const TRIES: u32 = 6;

    pub(super) fn new(
        socket: usize,
        to: SocketAddr,
        purpose: Purpose,
        transaction: TransactionId,
        now: Instant,
    ) -> Self {
        let next_at = Some(now);
        Self {
            socket,
            to,
            purpose,
            transaction,
            seen: None,
            refused: false,
            tries: 0,
            sent_at: now,
            next_at,
        }
    }

    /// The request, if it is due. It comes again after this time.
    pub(super) fn due(&mut self, now: Instant, again: Duration) -> Option<Vec<u8>> {
        let due = self.next_at.is_some_and(|at| at <= now);
        due.then(|| {
            self.tries += 1;
            self.sent_at = now;
            // At the first socket's first question nothing is known of the network: back off.
            self.next_at = (self.tries < Self::TRIES).then(|| now + again * (self.tries + 1) / 2);
            let change = match self.purpose {
                Purpose::Filtering(change) | Purpose::Unsolicited(change) => change,
                Purpose::Mapping | Purpose::Hairpin => Change::default(),
            };
            changed_request(self.transaction, change)
        })
    }

    /// Takes what came; gives the round-trip time.
    pub(super) fn settle(&mut self, seen: Seen, now: Instant) -> Duration {
        self.next_at = None;
        self.seen.get_or_insert(seen);
        now.saturating_duration_since(self.sent_at)
    }

    pub(super) fn refuse(&mut self) {
        self.next_at = None;
        self.refused = true;
    }

    pub(super) fn is_settled(&self) -> bool {
        self.seen.is_some() || self.refused
    }

    pub(super) fn mapped(&self) -> Option<SocketAddr> {
        self.seen?.mapped
    }
}
