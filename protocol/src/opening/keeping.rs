//! When the open path is checked, and when it is given up (RFC 7675).

use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::config::Config;
use super::event::{LostReason, Reason};
use super::local::PairId;

/// Unanswered checks in a row from which on the path is in doubt.
pub(super) const DOUBTED_AFTER: u32 = 3;

/// Least time to wait for an answer before a check is repeated.
const LEAST_WAIT: Duration = Duration::from_millis(100);

/// The state of keeping one path.
#[derive(Debug)]
pub(super) struct Keeping {
    /// Both ends of the path.
    pub(super) pair: PairId,
    /// Last authenticated word of the peer.
    word_at: Instant,
    next_check_at: Instant,
    checked_at: Instant,
    unanswered: Option<Unanswered>,
}

/// Checks in a row without an answer.
#[derive(Debug, Clone, Copy)]
struct Unanswered {
    since: Instant,
    count: u32,
}

impl Keeping {
    /// Keeps a path that was just proved. The first check is due after an interval.
    pub(super) fn new(pair: PairId, config: &Config, rng: &mut impl Rng, now: Instant) -> Self {
        Self {
            pair,
            word_at: now,
            next_check_at: now + jittered(config.check_interval, rng),
            checked_at: now,
            unanswered: None,
        }
    }

    /// Makes a check due now.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next_check_at = now;
    }

    /// Puts the path in doubt at once, and makes a check due.
    pub(super) fn doubt(&mut self, now: Instant) {
        let unanswered = self.unanswered.get_or_insert(Unanswered { since: now, count: 0 });
        unanswered.count = unanswered.count.max(DOUBTED_AFTER);
        self.next_check_at = now;
    }

    /// Waits for answers as if the first unanswered check had been sent now: a renewal is under way.
    pub(super) fn give_time(&mut self, now: Instant) {
        if let Some(unanswered) = &mut self.unanswered {
            unanswered.since = now;
        }
    }

    pub(super) fn is_check_due(&self, now: Instant) -> bool {
        self.next_check_at <= now
    }

    /// Whether the next check repeats one that was not answered.
    pub(super) fn is_waiting(&self) -> bool {
        self.unanswered.is_some()
    }

    /// Whether several checks in a row went unanswered by now, when another is due.
    pub(super) fn is_doubtful(&self) -> bool {
        self.unanswered.is_some_and(|unanswered| unanswered.count >= DOUBTED_AFTER)
    }

    /// Notes that a check was sent.
    pub(super) fn checked(&mut self, config: &Config, rtt: Duration, now: Instant) {
        let unanswered = self.unanswered.get_or_insert(Unanswered { since: now, count: 0 });
        unanswered.count += 1;
        self.checked_at = now;
        self.next_check_at = now
            + match unanswered.count {
                1 => (rtt * 2).max(LEAST_WAIT).min(config.check_interval),
                _ => config.retry.interval,
            };
    }

    /// Notes an answer to a check.
    pub(super) fn answered(&mut self, config: &Config, rng: &mut impl Rng, now: Instant) {
        self.word_at = now;
        self.unanswered = None;
        self.next_check_at = now + jittered(config.check_interval, rng);
    }

    /// Notes an authenticated word that is no answer to a check. It is consent as well, and ends the
    /// quick repetition of a check, but not the checks of a party that always checks.
    pub(super) fn word(&mut self, config: &Config, rng: &mut impl Rng, now: Instant) {
        self.word_at = now;
        let was_waiting = self.unanswered.take().is_some();
        if !config.always_checks {
            self.next_check_at = now + jittered(config.check_interval, rng);
        } else if was_waiting {
            self.next_check_at = self.checked_at + jittered(config.check_interval, rng);
        }
    }

    /// Whether the path is to be given up.
    pub(super) fn lost(&self, config: &Config, now: Instant) -> Option<LostReason> {
        if self.unanswered_at(config).is_some_and(|at| at <= now) {
            Some(LostReason::Unanswered)
        } else if self.consent_at(config) <= now {
            Some(LostReason::ConsentExpired)
        } else {
            None
        }
    }

    /// What is due next.
    pub(super) fn next(&self, config: &Config) -> (Instant, Reason) {
        let check = (self.next_check_at, Reason::Check);
        let consent = (self.consent_at(config), Reason::Consent);
        let unanswered = self.unanswered_at(config).map(|at| (at, Reason::Unanswered));
        let soonest = if consent.0 < check.0 { consent } else { check };
        unanswered.filter(|unanswered| unanswered.0 < soonest.0).unwrap_or(soonest)
    }

    fn consent_at(&self, config: &Config) -> Instant {
        self.word_at + config.consent_timeout
    }

    fn unanswered_at(&self, config: &Config) -> Option<Instant> {
        Some(self.unanswered?.since + config.retry.timeout)
    }
}

/// The interval times 0.8 to 1.2 (RFC 7675, section 5.1).
fn jittered(interval: Duration, rng: &mut impl Rng) -> Duration {
    interval.mul_f64(rng.random_range(0.8..1.2))
}
