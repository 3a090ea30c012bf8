//! Noticing that media stalls, and telling a broken path from a source that pauses.

use std::time::{Duration, Instant};

/// Media that stays away for so long stalls: several times the usual gap between packets, within these
/// bounds. The lower one lies above what jitter and a scheduler do, and leaves time to open a path again
/// within a second; a source with less than a picture in the upper one is checked often, no more.
const SOONEST: Duration = Duration::from_millis(220);
const LATEST: Duration = Duration::from_millis(1500);
const GAPS: u32 = 4;

/// How fast a long gap is forgotten, for each packet.
const FORGETTING: f64 = 0.995;

/// From the doubt to the first renewal: for the check to be answered, if the path works.
const LEAST_PATIENCE: Duration = Duration::from_millis(60);

/// From one renewal to the next.
const RENEWING_AGAIN: Duration = Duration::from_millis(1300);

/// Packets that must be missing behind a stall for it to have been the path's fault.
const MISSING: u64 = 3;

/// What to do about a stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Put the path in doubt: check it.
    Doubt,
    /// Renew the introduction.
    Renew,
}

/// How media arrives, and the outage under way.
#[derive(Debug)]
pub(crate) struct Outage {
    heard_at: Instant,
    /// A long gap between packets, as of late.
    gap: Duration,
    stalled: Option<Stalled>,
}

#[derive(Debug)]
struct Stalled {
    since: Instant,
    /// When the next step is due, and whether the path was doubted already.
    next_at: Instant,
    doubted: bool,
    /// The path itself is known to have failed.
    broken: bool,
}

impl Outage {
    /// Media begins now.
    pub(crate) fn new(now: Instant) -> Self {
        Self { heard_at: now, gap: Duration::from_millis(100), stalled: None }
    }

    /// A packet came, with so many missing in front of it. If that ends an outage of the path, says how
    /// long it was.
    pub(crate) fn heard(&mut self, missing: u64, now: Instant) -> Option<Duration> {
        let gap = now.saturating_duration_since(self.heard_at);
        self.heard_at = now;
        match self.stalled.take() {
            // An outage says nothing about the source's usual gaps.
            Some(stalled) if stalled.broken || missing >= MISSING => Some(now - stalled.since),
            _ => {
                self.gap = gap.max(self.gap.mul_f64(FORGETTING));
                None
            }
        }
    }

    /// The path failed, whatever media does: it moved, or we are seen at another address.
    pub(crate) fn broke(&mut self) {
        if let Some(stalled) = &mut self.stalled {
            stalled.broken = true;
        }
    }

    /// Whether the path is known to have failed, and no media came since.
    pub(crate) fn is_broken(&self) -> bool {
        self.stalled.as_ref().is_some_and(|stalled| stalled.broken)
    }

    /// When [`Self::step`] is due next.
    pub(crate) fn due_at(&self) -> Instant {
        let stalls_at = self.heard_at + (self.gap * GAPS).clamp(SOONEST, LATEST);
        self.stalled.as_ref().map_or(stalls_at, |stalled| stalled.next_at)
    }

    /// What is due now. `answered` says whether the path has been proved again since it was doubted.
    pub(crate) fn step(&mut self, answered: bool, rtt: Duration, now: Instant) -> Option<Step> {
        if now < self.due_at() {
            return None;
        }
        let patience = (rtt * 3 / 2).max(LEAST_PATIENCE);
        let stalled = self.stalled.get_or_insert(Stalled {
            since: self.heard_at,
            next_at: now,
            doubted: false,
            broken: false,
        });
        if !stalled.doubted {
            stalled.doubted = true;
            stalled.next_at = now + patience;
            return Some(Step::Doubt);
        }
        if answered {
            // A path that answers is well: its source pauses. It is asked again now and then.
            stalled.doubted = false;
            stalled.next_at = now + LATEST;
            return None;
        }
        stalled.broken = true;
        stalled.next_at = now + RENEWING_AGAIN.max(rtt * 8);
        Some(Step::Renew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    /// Packets each 20 ms for two seconds.
    fn flowing(start: Instant) -> (Outage, Instant) {
        let mut outage = Outage::new(start);
        let mut now = start;
        for _ in 0..100 {
            now += Duration::from_millis(20);
            assert_eq!(outage.heard(0, now), None);
        }
        (outage, now)
    }

    #[test]
    fn a_dead_path_is_doubted_then_renewed_again_and_again() {
        let (mut outage, last) = flowing(Instant::now());
        assert!(outage.due_at() <= last + Duration::from_millis(300));
        let mut steps = Vec::new();
        while steps.len() < 4 {
            let now = outage.due_at();
            steps.extend(outage.step(false, RTT, now).map(|step| (step, now - last)));
        }
        let kinds: Vec<Step> = steps.iter().map(|(step, _)| *step).collect();
        assert_eq!(kinds, [Step::Doubt, Step::Renew, Step::Renew, Step::Renew]);
        assert!(steps[1].1 < Duration::from_millis(400), "{steps:?}");
        assert!(outage.is_broken());
        let after = outage.heard(0, last + Duration::from_secs(5));
        assert_eq!(after, Some(Duration::from_secs(5)));
        assert!(!outage.is_broken());
    }

    #[test]
    fn a_source_that_pauses_is_no_outage() {
        let (mut outage, last) = flowing(Instant::now());
        let now = outage.due_at();
        assert_eq!(outage.step(false, RTT, now), Some(Step::Doubt));
        for _ in 0..5 {
            let now = outage.due_at();
            assert_ne!(outage.step(true, RTT, now), Some(Step::Renew));
        }
        assert_eq!(outage.heard(0, last + Duration::from_secs(20)), None);
    }

    #[test]
    fn what_is_missing_behind_a_stall_was_the_path() {
        let (mut outage, last) = flowing(Instant::now());
        let now = outage.due_at();
        outage.step(false, RTT, now);
        let after = last + Duration::from_millis(350);
        assert_eq!(outage.heard(12, after), Some(Duration::from_millis(350)));
    }

    #[test]
    fn slow_sources_get_more_time() {
        let start = Instant::now();
        let mut outage = Outage::new(start);
        let mut now = start;
        for _ in 0..20 {
            now += Duration::from_millis(250);
            outage.heard(0, now);
        }
        assert!(outage.due_at() >= now + Duration::from_millis(900));
    }
}
