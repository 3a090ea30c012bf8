//! Rates of late, for people who look on: of bits, pictures and lost packets.

use std::collections::VecDeque;
use std::time::Instant;

use crate::stats::Stats;

/// Rates are those of so many intervals between two looks.
const SAMPLES: usize = 4;

/// Totals as they were at the last looks.
#[derive(Debug, Default)]
pub(crate) struct Lately(VecDeque<Sample>);

/// Totals at a moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    bytes: u64,
    frames: u64,
    packets: u64,
    lost: u64,
    unrecovered: u64,
}

/// How it went of late.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Rates {
    /// Bits a second.
    pub(crate) bits: f64,
    /// Pictures decoded a second.
    pub(crate) frames: f64,
    /// The share of packets that were lost on the network, 0 to 1.
    pub(crate) lost: f64,
    /// The share of packets that were missing at their deadline, 0 to 1.
    pub(crate) unrecovered: f64,
}

impl Lately {
    /// Takes note of how it is.
    pub(crate) fn look(&mut self, stats: &Stats, at: Instant) {
        let totals = stats.totals();
        let packets = (totals.received + totals.lost).saturating_sub(totals.recovered_nack);
        self.0.push_back(Sample {
            at,
            bytes: stats.bytes,
            frames: stats.player.frames_decoded,
            packets,
            lost: totals.lost,
            unrecovered: totals.unrecovered,
        });
        while self.0.len() > SAMPLES + 1 {
            self.0.pop_front();
        }
    }

    /// How it went between the first and the last of those looks.
    pub(crate) fn rates(&self) -> Rates {
        let (Some(first), Some(last)) = (self.0.front(), self.0.back()) else {
            return Rates::default();
        };
        let seconds = last.at.saturating_duration_since(first.at).as_secs_f64();
        let more = |of: fn(&Sample) -> u64| of(last).saturating_sub(of(first));
        let a_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let packets = more(|sample| sample.packets);
        let share = |lost: u64| lost as f64 / packets.max(lost).max(1) as f64;
        Rates {
            bits: a_second(more(|sample| sample.bytes)) * 8.0,
            frames: a_second(more(|sample| sample.frames)),
            lost: share(more(|sample| sample.lost)),
            unrecovered: share(more(|sample| sample.unrecovered)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_are_those_of_late() {
        let start = Instant::now();
        let mut lately = Lately::default();
        assert_eq!(lately.rates(), Rates::default());
        let mut stats = Stats::new(start);
        for (half_seconds, (bytes, received, lost)) in (0..).zip([
            (0, 0, 0),
            (9, 9, 9),
            (1_000, 90, 10),
            (1_000, 90, 10),
            (1_000, 90, 10),
            (251_009, 99, 19),
        ]) {
            stats.bytes = bytes;
            stats.player.frames_decoded = bytes / 1_000;
            stats.current.received = received;
            stats.current.lost = lost;
            stats.current.unrecovered = lost / 10;
            lately.look(&stats, start + Duration::from_millis(500) * half_seconds);
        }
        let rates = lately.rates();
        let expected = [(rates.bits, 1.004e6), (rates.frames, 125.5), (rates.lost, 0.1)];
        for (is, wanted) in expected.into_iter().chain([(rates.unrecovered, 0.01)]) {
            assert!((is - wanted).abs() < 1e-9, "{rates:?}");
        }
    }
}
