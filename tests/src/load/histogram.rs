//! Counting durations by the million.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Steps in each doubling: every value is kept to within 1/64.
const STEPS: u64 = 64;

/// Durations, to within 2%, of up to an hour and more.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    most: u64,
}

/// Percentiles, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many values there are.
    pub count: u64,
    /// Half of them are at most this.
    pub p50_us: u64,
    /// 95% are.
    pub p95_us: u64,
    /// 99% are.
    pub p99_us: u64,
    /// The highest.
    pub max_us: u64,
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, value: Duration) {
        let value = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        let place = place(value);
        if self.counts.len() <= place {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += 1;
        self.count += 1;
        self.most = self.most.max(value);
    }

    /// Where the values lie; all 0 where there is none.
    pub fn percentiles(&self) -> Percentiles {
        Percentiles {
            count: self.count,
            p50_us: self.quantile(0.50),
            p95_us: self.quantile(0.95),
            p99_us: self.quantile(0.99),
            max_us: self.most,
        }
    }

    fn quantile(&self, share: f64) -> u64 {
        let rank = (share * self.count as f64).ceil() as u64;
        let mut seen = 0;
        let place = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank.max(1)
        });
        place.map_or(0, |place| highest_at(place as u64).min(self.most))
    }
}

/// Values below [`STEPS`] have a place each; above, each doubling has as many places.
fn place(value: u64) -> usize {
    let doublings = (value / STEPS).checked_ilog2().map_or(0, |log| u64::from(log) + 1);
    let within = value >> doublings.saturating_sub(1);
    (if doublings == 0 { value } else { STEPS * (doublings - 1) + within }) as usize
}

/// The highest value with this place.
fn highest_at(place: u64) -> u64 {
    if place < 2 * STEPS {
        return place;
    }
    let doublings = place / STEPS - 1;
    let within = place - STEPS * doublings;
    ((within + 1) << doublings) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_hold_neighbours() {
        let values = (0..2000).chain((11..50).map(|log| (1 << log) + 12_345));
        let mut before = 0;
        for value in values {
            let place = place(value);
            let highest = highest_at(place as u64);
            assert!(place >= before && highest >= value, "{value}: {place}, {highest}");
            assert!(highest - value <= value / STEPS, "{value}: {highest}");
            before = place;
        }
    }

    #[test]
    fn percentiles_of_a_line() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentiles(), Percentiles::default());
        (1..=100).for_each(|value| histogram.add(Duration::from_micros(value)));
        let expected = Percentiles { count: 100, p50_us: 50, p95_us: 95, p99_us: 99, max_us: 100 };
        assert_eq!(histogram.percentiles(), expected);
    }
}
