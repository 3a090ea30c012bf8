//! How fast the path brings what is sent at once: the pictures that the first one of a take is decoded from.
//!
//! Such a burst leaves the broadcaster with a known pace. Where it arrives more slowly, it shows what the path
//! carries, as packets leave a narrow link no closer together than it lets them through. The next take is asked for with a
//! pace that fits.

use std::time::{Duration, Instant};

use protocol::units::Bitrate;

/// Shorter bursts say nothing: networks hold single packets back and hand several over at once.
const LEAST_BYTES: u64 = 64 * 1024;

/// A burst that arrives with less than this share of its pace met a narrow link.
const NARROW: f64 = 0.85;

/// What arrived shows that a link is wider than was believed from so much on.
const WIDER: f64 = 1.1;

/// Which share of what a link carries is asked for.
const BELOW: f64 = 0.95;

/// How much faster the next burst may come, as long as no link was too narrow, and once that is long ago.
const FASTER: f64 = 2.0;
const SLOWLY_FASTER: f64 = 1.25;

/// How long a link that was too narrow is believed to be it still. To try again may lose packets.
const BELIEVED: Duration = Duration::from_secs(60);

/// Never slower than this.
const LEAST_PACE: Bitrate = Bitrate::bits_per_second(2_000_000);

/// What was learnt of bursts.
#[derive(Debug, Default)]
pub(crate) struct Bursts {
    current: Option<Burst>,
    /// How fast the next may come.
    pace: Option<Bitrate>,
    /// What a link carried that was too narrow, and until when that is believed.
    narrow: Option<(Bitrate, Instant)>,
}

/// A burst that arrives.
#[derive(Debug)]
struct Burst {
    pace: Bitrate,
    /// When its first and its latest packet came.
    times: Option<(Instant, Instant)>,
    /// Bytes of all packets but the first.
    bytes: u64,
    /// Bytes of those right behind another one, and the time between: loss is no want of room.
    paired: (u64, Duration),
}

impl Bursts {
    /// A burst begins that is sent with this pace.
    pub(crate) fn begin(&mut self, pace: Bitrate, now: Instant) {
        self.learn(now);
        self.current = Some(Burst { pace, times: None, bytes: 0, paired: (0, Duration::ZERO) });
    }

    /// A packet of it came for the first time, in turn, with so many missing right in front of it.
    pub(crate) fn arrived(&mut self, bytes: u64, missing: u64, at: Instant) {
        let Some(burst) = &mut self.current else { return };
        match &mut burst.times {
            None => burst.times = Some((at, at)),
            Some((_, last)) => {
                if missing == 0 {
                    let (paired, time) = burst.paired;
                    burst.paired = (paired + bytes, time + at.saturating_duration_since(*last));
                }
                *last = at.max(*last);
                burst.bytes += bytes;
            }
        }
    }

    /// How fast the next burst should come; `None` while nothing is known.
    pub(crate) fn pace(&mut self, now: Instant) -> Option<Bitrate> {
        self.learn(now);
        self.pace
    }

    fn learn(&mut self, now: Instant) {
        let Some(Burst { pace, times, bytes, paired }) = self.current.take() else { return };
        let whole = (bytes, times.map_or(Duration::ZERO, |(first, last)| last - first));
        // Where hardly two packets came in a row, the link is so narrow that it drops every other one.
        let (bytes, took) = if paired.0 >= LEAST_BYTES { paired } else { whole };
        if bytes < LEAST_BYTES || took.is_zero() {
            self.pace = self.pace.or(Some(pace));
            return;
        }
        let arrived = Bitrate::bits_per_second((bytes as f64 * 8.0 / took.as_secs_f64()) as u64);
        tracing::debug!(
            bytes,
            pace_bps = pace.as_bits_per_second(),
            arrived_bps = arrived.as_bits_per_second(),
            "what a take begins with came"
        );
        let next = if arrived < pace.scaled(NARROW) {
            self.narrow = Some((arrived, now + BELIEVED));
            arrived.scaled(BELOW)
        } else {
            match self.narrow {
                Some((carried, until)) if now < until => carried.scaled(BELOW),
                Some((carried, _)) if arrived < carried.scaled(WIDER) => pace.scaled(SLOWLY_FASTER),
                _ => {
                    self.narrow = None;
                    pace.scaled(FASTER)
                }
            }
        };
        self.pace = Some(next.max(LEAST_PACE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A burst of so many bytes over a link that carries so much, and the pace that is asked for then, in Mbit/s.
    fn burst(bursts: &mut Bursts, pace: f64, (link, bytes): (f64, u64), now: Instant) -> f64 {
        let [pace, link] = [pace, link].map(|rate| Bitrate::bits_per_second((rate * 1e6) as u64));
        let rate = pace.min(link);
        bursts.begin(pace, now);
        for at in 0..bytes / 1000 {
            bursts.arrived(1000, 0, now + rate.time_for(1000) * at as u32);
        }
        bursts.pace(now).expect("known").as_bits_per_second() as f64 / 1e6
    }

    #[test]
    fn the_pace_follows_what_the_path_carries() {
        let mut bursts = Bursts::default();
        let now = Instant::now();
        assert_eq!(bursts.pace(now), None);
        let near = |pace: f64, expected: f64| {
            assert!((pace / expected - 1.0).abs() < 0.02, "{pace} Mbit/s, not {expected}");
        };
        // A wide link: twice as fast each time.
        near(burst(&mut bursts, 40.0, (1000.0, 500_000), now), 80.0);
        near(burst(&mut bursts, 80.0, (1000.0, 500_000), now), 160.0);
        // What is short says nothing.
        near(burst(&mut bursts, 160.0, (10.0, 20_000), now), 160.0);
        // A narrow one: below what it carries, and no more than that for a while.
        near(burst(&mut bursts, 160.0, (20.0, 500_000), now), 19.0);
        near(burst(&mut bursts, 19.0, (20.0, 500_000), now), 19.0);
        let later = now + BELIEVED;
        near(burst(&mut bursts, 19.0, (1000.0, 500_000), later), 19.0 * SLOWLY_FASTER);
        // It is still as narrow.
        near(burst(&mut bursts, 19.0 * SLOWLY_FASTER, (20.0, 500_000), later), 19.0);
        near(burst(&mut bursts, 19.0, (1000.0, 500_000), later), 19.0);
        // Or wider than was believed.
        let later = later + BELIEVED;
        near(burst(&mut bursts, 25.0, (1000.0, 500_000), later), 50.0);
        near(burst(&mut bursts, 50.0, (1000.0, 500_000), later), 100.0);
    }

    #[test]
    fn loss_is_no_want_of_room() {
        let mut bursts = Bursts::default();
        let now = Instant::now();
        let pace = Bitrate::bits_per_second(40_000_000);
        bursts.begin(pace, now);
        let mut missing = 0;
        for at in 0..1000 {
            if at % 5 == 2 {
                missing += 1;
                continue;
            }
            bursts.arrived(1000, std::mem::take(&mut missing), now + pace.time_for(1000) * at);
        }
        assert!(bursts.pace(now) > Some(pace), "a fifth was lost");
        // Every other one.
        bursts.begin(pace, now);
        for at in 0..1000 {
            bursts.arrived(1000, 1, now + pace.time_for(2000) * at);
        }
        let half = bursts.pace(now).expect("known").as_bits_per_second();
        assert!((18_000_000..20_000_000).contains(&half), "{half}");
    }
}
