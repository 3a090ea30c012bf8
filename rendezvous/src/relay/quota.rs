//! How many allocations there may be, and how much they may carry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::units::Bitrate;

/// How much may pass at once: a keyframe's burst, or the packets that join a stream.
const DEPTH: Duration = Duration::from_millis(500);

/// Bounds on allocations and on what they carry.
#[derive(Debug)]
pub(super) struct Quotas {
    per_viewer: usize,
    total: usize,
    rate_per_viewer: Bitrate,
    all: Mutex<Meter>,
    holders: Mutex<HashMap<String, Holder>>,
}

#[derive(Debug)]
struct Holder {
    allocations: usize,
    meter: Arc<Mutex<Meter>>,
}

/// Why there is no further allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exhausted {
    /// The viewer has as many as one may have.
    Viewer,
    /// All viewers together have as many as there may be.
    Total,
}

/// The right to hold one allocation. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Lease {
    quotas: Arc<Quotas>,
    name: String,
    meter: Arc<Mutex<Meter>>,
}

impl Quotas {
    pub(super) fn new(
        per_viewer: usize,
        total: usize,
        rate_per_viewer: Bitrate,
        rate: Bitrate,
    ) -> Self {
        Self {
            per_viewer,
            total,
            rate_per_viewer,
            all: Mutex::new(Meter::new(rate)),
            holders: Mutex::default(),
        }
    }

    /// One more allocation for this viewer.
    pub(super) fn lease(self: &Arc<Self>, name: &str) -> Result<Lease, Exhausted> {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = holders.values().map(|holder| holder.allocations).sum();
        let own = holders.get(name).map_or(0, |holder| holder.allocations);
        if own >= self.per_viewer {
            return Err(Exhausted::Viewer);
        }
        if held >= self.total {
            return Err(Exhausted::Total);
        }
        let holder = holders.entry(name.to_owned()).or_insert_with(|| Holder {
            allocations: 0,
            meter: Arc::new(Mutex::new(Meter::new(self.rate_per_viewer))),
        });
        holder.allocations += 1;
        let meter = Arc::clone(&holder.meter);
        Ok(Lease { quotas: Arc::clone(self), name: name.to_owned(), meter })
    }
}

impl Lease {
    /// Whether so many bytes more may pass now; they are counted then.
    pub(super) fn take(&self, bytes: usize, now: Instant) -> bool {
        let mut own = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.quotas.all.lock().unwrap_or_else(PoisonError::into_inner);
        if own.has(bytes, now) && all.has(bytes, now) {
            own.left -= bytes as f64;
            all.left -= bytes as f64;
            return true;
        }
        false
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut holders = self.quotas.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = holders.get_mut(&self.name) {
            holder.allocations -= 1;
            if holder.allocations == 0 {
                holders.remove(&self.name);
            }
        }
    }
}

/// A bucket of bytes that fills at a rate.
#[derive(Debug)]
struct Meter {
    bytes_per_second: f64,
    left: f64,
    filled_at: Option<Instant>,
}

impl Meter {
    fn new(rate: Bitrate) -> Self {
        let bytes_per_second = rate.as_bytes_per_second();
        Self { bytes_per_second, left: bytes_per_second * DEPTH.as_secs_f64(), filled_at: None }
    }

    fn has(&mut self, bytes: usize, now: Instant) -> bool {
        let filled_at = self.filled_at.unwrap_or(now);
        let passed = now.saturating_duration_since(filled_at).as_secs_f64();
        let most = self.bytes_per_second * DEPTH.as_secs_f64();
        self.left = (self.left + passed * self.bytes_per_second).min(most);
        self.filled_at = Some(filled_at.max(now));
        self.left >= bytes as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_counted_by_viewer_and_in_all() {
        let rate = Bitrate::bits_per_second(8_000);
        let quotas = Arc::new(Quotas::new(2, 3, rate, rate));
        let first = quotas.lease("a").expect("room");
        let _second = quotas.lease("a").expect("room");
        assert_eq!(quotas.lease("a").expect_err("a has two"), Exhausted::Viewer);
        let _third = quotas.lease("b").expect("room");
        assert_eq!(quotas.lease("b").expect_err("three in all"), Exhausted::Total);
        drop(first);
        let _fourth = quotas.lease("a").expect("room again");
    }

    #[test]
    fn nothing_is_kept_of_who_holds_nothing() {
        let rate = Bitrate::bits_per_second(8_000);
        let quotas = Arc::new(Quotas::new(2, 3, rate, rate));
        for name in 0..100 {
            drop(quotas.lease(&name.to_string()).expect("room"));
        }
        assert!(quotas.holders.lock().expect("not poisoned").is_empty());
    }

    #[test]
    fn rates_hold_for_a_viewer_and_for_all() {
        let one = Bitrate::bits_per_second(16_000);
        let all = Bitrate::bits_per_second(24_000);
        let quotas = Arc::new(Quotas::new(2, 9, one, all));
        let now = Instant::now();
        let first = quotas.lease("a").expect("room");
        let same = quotas.lease("a").expect("room");
        let other = quotas.lease("b").expect("room");
        assert!(first.take(1000, now), "half a second's worth at once");
        assert!(!same.take(1, now), "both allocations share the viewer's rate");
        assert!(other.take(500, now));
        assert!(!other.take(1, now), "all share the rate of all");
        let later = now + Duration::from_millis(100);
        assert!(first.take(200, later));
        assert!(!first.take(1, later));
        assert!(other.take(100, later));
        assert!(!other.take(1, later));
    }
}
