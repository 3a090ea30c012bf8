//! Token buckets: so many at once, and so many a second in the long run.

use std::time::{Duration, Instant};

/// What a bucket admits.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// So many at once.
    pub burst: u32,
    /// So many a second.
    pub per_second: u32,
}

/// A bucket that starts full. Kept as what was taken out of it, which drains with time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    taken: f64,
    at: Option<Instant>,
}

impl Bucket {
    fn taken(&self, rate: Rate, now: Instant) -> f64 {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        (self.taken - passed.as_secs_f64() * f64::from(rate.per_second)).max(0.0)
    }

    /// Whether nothing is taken out of it.
    pub fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.taken(rate, now) == 0.0
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let taken = self.taken(rate, now) + 1.0;
        let enough = taken <= f64::from(rate.burst);
        if enough {
            *self = Self { taken, at: Some(now) };
        }
        enough
    }
}
