//! How often one introduction may be renewed: each renewal brings a fresh budget of openers to
//! unproved addresses, so the number of renewals bounds what a peer can make us send.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most renewals within [`RENEWAL_WINDOW`]: some for a path that breaks, with a rebind and a retry,
/// and some for a relayed viewer that goes on looking for a direct path.
pub const RENEWALS_PER_WINDOW: usize = 10;

/// Time over which renewals are counted.
pub const RENEWAL_WINDOW: Duration = Duration::from_secs(30);

/// The latest renewals.
#[derive(Debug, Default)]
pub(super) struct Renewals(VecDeque<Instant>);

impl Renewals {
    /// Whether one more may be had now, which is then counted.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        while self.0.front().is_some_and(|at| now - *at >= RENEWAL_WINDOW) {
            self.0.pop_front();
        }
        let admitted = self.0.len() < RENEWALS_PER_WINDOW;
        if admitted {
            self.0.push_back(now);
        }
        admitted
    }
}
