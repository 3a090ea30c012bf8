//! How many answers longer than their requests are given to strangers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::bucket::{Bucket, Rate};

/// Token buckets for answers to unpadded plain Binding requests: one for each source, one for all.
///
/// A source is an IPv4 address or an IPv6 /56, the least that a household gets. Memory is bounded
/// by [`PlainLimiter::MAX_SOURCES`]: an entry exists only for a source that was answered and whose
/// bucket has not filled up again since, and the bucket for all limits how many can be answered in
/// that time.
#[derive(Debug)]
pub struct PlainLimiter {
    source: Rate,
    sources: BTreeMap<Source, Bucket>,
    total: Bucket,
    swept_at: Option<Instant>,
}

impl PlainLimiter {
    /// Answers that one source gets at once: a client that tries a few servers' ports and retransmits.
    pub const SOURCE_BURST: u32 = 10;
    /// Answers a second that one source gets in the long run.
    pub const SOURCE_RATE: u32 = 2;
    /// Answers that all sources get at once.
    pub const TOTAL_BURST: u32 = 400;
    /// Answers a second that all sources get in the long run. The longest, of 56 bytes (IPv4) or 92 (IPv6),
    /// is 36 or 72 bytes longer than the shortest request: whoever lies about sources gains 14.4 kB/s in all.
    pub const TOTAL_RATE: u32 = 200;
    /// Most sources that are remembered.
    pub const MAX_SOURCES: usize = 4096;

    const TOTAL: Rate = Rate { burst: Self::TOTAL_BURST, per_second: Self::TOTAL_RATE };

    /// With other numbers for one source: so many answers at once, and so many a second (at least 1).
    pub fn with_source_rate(burst: u32, per_second: u32) -> Self {
        Self {
            source: Rate { burst, per_second: per_second.max(1) },
            sources: BTreeMap::new(),
            total: Bucket::default(),
            swept_at: None,
        }
    }

    /// Whether one more answer may go to `from`, which is then counted.
    pub fn admit(&mut self, from: SocketAddr, now: Instant) -> bool {
        self.sweep(now);
        let source = Source::of(from.ip());
        let mut bucket = self.sources.get(&source).copied().unwrap_or_default();
        let mut total = self.total;
        let admitted = bucket.take(self.source, now) && total.take(Self::TOTAL, now);
        let remembered =
            self.sources.contains_key(&source) || self.sources.len() < Self::MAX_SOURCES;
        if admitted && remembered {
            self.sources.insert(source, bucket);
            self.total = total;
        }
        admitted && remembered
    }

    /// How many sources are remembered.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Forgets, now and then, the sources whose buckets are full again.
    fn sweep(&mut self, now: Instant) {
        let since = self.swept_at.get_or_insert(now);
        // By then an empty bucket is full.
        let refill = Duration::from_secs(u64::from(self.source.burst / self.source.per_second));
        if now.saturating_duration_since(*since) >= refill {
            self.swept_at = Some(now);
            self.sources.retain(|_, bucket| !bucket.is_full(self.source, now));
        }
    }
}

impl Default for PlainLimiter {
    fn default() -> Self {
        Self::with_source_rate(Self::SOURCE_BURST, Self::SOURCE_RATE)
    }
}

/// What one limit applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    V4(Ipv4Addr),
    V6Prefix([u8; 7]),
}

impl Source {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, ..] = ip.octets();
                Self::V6Prefix([a, b, c, d, e, f, g])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_source_gets_a_burst_then_the_rate() {
        let mut limiter = PlainLimiter::default();
        let start = Instant::now();
        let from = source("192.0.2.1:1000");
        let burst = (0..50).filter(|_| limiter.admit(from, start)).count();
        assert_eq!(burst, PlainLimiter::SOURCE_BURST as usize);
        let later = (1..=1000u64)
            .filter(|tenth| limiter.admit(from, start + Duration::from_millis(tenth * 100)))
            .count();
        assert_eq!(later, 100 * PlainLimiter::SOURCE_RATE as usize);
    }

    #[test]
    fn sources_are_addresses_and_ipv6_prefixes() {
        let mut limiter = PlainLimiter::default();
        let now = Instant::now();
        for from in ["192.0.2.1:1", "192.0.2.1:2", "[::ffff:192.0.2.1]:3"] {
            limiter.admit(source(from), now);
        }
        assert_eq!(limiter.sources(), 1);
        for from in ["[2001:db8:0:ff00::1]:1", "[2001:db8:0:ff01::2]:1", "[2001:db8:0:fe00::1]:1"] {
            limiter.admit(source(from), now);
        }
        assert_eq!(limiter.sources(), 3);
    }

    #[test]
    fn all_sources_together_are_limited_in_answers_and_memory() {
        let mut limiter = PlainLimiter::default();
        let start = Instant::now();
        let mut admitted = 0usize;
        let mut most = 0;
        for flood in 0..200_000u32 {
            let now = start + Duration::from_micros(u64::from(flood) * 100);
            let ip = Ipv4Addr::from(0x0b00_0000 + flood);
            admitted += usize::from(limiter.admit(SocketAddr::from((ip, 9)), now));
            most = most.max(limiter.sources());
        }
        let seconds = 20;
        let allowed = PlainLimiter::TOTAL_BURST + seconds * PlainLimiter::TOTAL_RATE;
        assert!(admitted <= allowed as usize && admitted + 2 > allowed as usize, "{admitted}");
        assert!(most <= PlainLimiter::MAX_SOURCES / 2, "{most} sources");
    }
}
