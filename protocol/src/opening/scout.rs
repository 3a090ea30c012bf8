//! Openers in numbers: to ports that were predicted, and to many ports in search of one.
//!
//! A scouted address is not waited for. What answers is the peer's own check, which an opener that hit
//! lets through, and which makes an ordinary pair; so thousands of openers leave no state here but a
//! count. They go only to addresses that the rendezvous itself saw, at a bounded pace, and a bounded
//! number of them in the life of an introduction.

use std::time::{Duration, Instant};

use super::local::PairId;

/// Most scouts in the life of an introduction: three searches, or far more predictions than help.
pub const SCOUTS_IN_TOTAL: u32 = 8192;

/// Openers to send without waiting for what comes of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scouting {
    /// Where from and to, in this order.
    pub targets: Vec<PairId>,
    /// From one opener to the next. Zero sends a whole round at once.
    pub interval: Duration,
    /// From the end of one round over all targets to the beginning of the next; one round for each
    /// gap, and one.
    pub gaps: Vec<Duration>,
}

impl Scouting {
    /// Five rounds at once and soon after: for a few predicted ports, through loss and a peer that
    /// starts later.
    pub fn prediction(targets: Vec<PairId>) -> Self {
        let gaps = [30, 60, 120, 240].map(Duration::from_millis).to_vec();
        Self { targets, interval: Duration::ZERO, gaps }
    }

    /// One round at a pace that no router's table and no thin uplink minds: 500 openers a second,
    /// 48 kB/s.
    pub fn search(targets: Vec<PairId>) -> Self {
        Self { targets, interval: Duration::from_millis(2), gaps: Vec::new() }
    }
}

/// Scouting under way.
#[derive(Debug)]
pub(super) struct Scouts {
    plan: Scouting,
    at: usize,
    gap: usize,
    next_at: Instant,
}

impl Scouts {
    pub(super) fn new(plan: Scouting, now: Instant) -> Self {
        Self { plan, at: 0, gap: 0, next_at: now }
    }

    /// When the next opener is due; `None` when all were sent.
    pub(super) fn next_at(&self) -> Option<Instant> {
        (self.at < self.plan.targets.len()).then_some(self.next_at)
    }

    /// The next opener that is due.
    pub(super) fn poll(&mut self, now: Instant) -> Option<PairId> {
        if self.next_at > now {
            return None;
        }
        let target = *self.plan.targets.get(self.at)?;
        self.at += 1;
        // From when it was due, so that a late timer does not slow the search down.
        self.next_at += self.plan.interval;
        if self.at == self.plan.targets.len()
            && let Some(gap) = self.plan.gaps.get(self.gap)
        {
            self.gap += 1;
            self.at = 0;
            self.next_at = now + *gap;
        }
        Some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::super::local::Local;
    use super::*;

    fn targets(count: u16) -> Vec<PairId> {
        let pair = |port| PairId { local: Local::MAIN, remote: ([192, 0, 2, 1], port).into() };
        (1..=count).map(pair).collect()
    }

    #[test]
    fn predictions_go_out_at_once_and_again() {
        let start = Instant::now();
        let mut scouts = Scouts::new(Scouting::prediction(targets(3)), start);
        let mut sent = Vec::new();
        while let Some(at) = scouts.next_at() {
            sent.extend(scouts.poll(at).map(|pair| (pair.remote.port(), (at - start).as_millis())));
        }
        assert_eq!(sent.len(), 15);
        assert_eq!(sent[..4], [(1, 0), (2, 0), (3, 0), (1, 30)]);
        assert_eq!(sent[14], (3, 450));
    }

    #[test]
    fn a_search_keeps_its_pace() {
        let start = Instant::now();
        let mut scouts = Scouts::new(Scouting::search(targets(1000)), start);
        let due = std::iter::from_fn(|| scouts.poll(start + Duration::from_secs(1))).count();
        assert_eq!(due, 501);
        let rest = std::iter::from_fn(|| scouts.poll(start + Duration::from_secs(60))).count();
        assert_eq!((rest, scouts.next_at()), (499, None));
    }
}
