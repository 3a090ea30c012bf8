//! What the uplink carries: how many viewers are let in, and, where nobody said what it carries, what
//! their reports tell about it.
//!
//! Loss with a growing round trip that **most viewers see at once** is the sender's own uplink: their own
//! access links have nothing in common, and where several are bad no queue grows. What arrived meanwhile is then about what the uplink carries.

use std::time::{Duration, Instant};

use crate::units::Bitrate;

/// Share of the uplink that media may fill: control traffic, checks and rounding take the rest.
const MEDIA_SHARE: f64 = 0.95;

/// What a viewer is reckoned with beyond its stream, for retransmissions, repair packets and joining.
pub const REPAIR_SHARE: f64 = 0.1;

/// Least share of viewers that must suffer at once.
const MOST_SUFFER: f64 = 0.6;

/// Least number of viewers to conclude anything from: one or two may share an access link.
const LEAST_VIEWERS: usize = 3;

/// Loss from which on a viewer suffers: below it, radio links lose as much.
const LOSS: f64 = 0.02;

/// Growth of the round trip over its least that must come with it: an uplink that is full has a queue, a
/// link that is bad has none.
const QUEUE: Duration = Duration::from_millis(10);

/// Growth of the round trip over its least from which on a viewer suffers anyhow.
const DELAY: Duration = Duration::from_millis(150);

/// Observations in a row that make a conclusion.
const CONFIRMATIONS: u32 = 2;

/// Without a sign of congestion for so long, a little more is tried.
const PROBE_AFTER: Duration = Duration::from_secs(20);

/// How much more.
const PROBE: f64 = 1.1;

/// What the uplink may be filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget(Bitrate);

impl Budget {
    /// The budget of an uplink that carries `rate` in all.
    pub fn of(rate: Bitrate) -> Self {
        let share = rate.as_bits_per_second() as f64 * MEDIA_SHARE;
        Self(Bitrate::bits_per_second(share as u64))
    }

    /// What media may fill, headers included.
    pub fn media(self) -> Bitrate {
        self.0
    }

    /// This share of it, 0 to 1.
    pub fn part(self, share: f64) -> Self {
        Self(self.0.scaled(share))
    }

    /// Whether so many viewers of a stream of `each` (headers included) can be served, with what
    /// repairs them.
    pub fn carries(self, viewers: usize, each: Bitrate) -> bool {
        let needed = each.as_bits_per_second() as f64 * (1.0 + REPAIR_SHARE) * viewers as f64;
        needed <= self.0.as_bits_per_second() as f64
    }

    /// What is left for joining bursts and repair beside so many live viewers. At least a repair share.
    pub fn spare(self, viewers: usize, each: Bitrate) -> Bitrate {
        let live = each.as_bits_per_second().saturating_mul(viewers as u64);
        let least = self.0.as_bits_per_second() as f64 * REPAIR_SHARE;
        Bitrate::bits_per_second(self.0.as_bits_per_second().saturating_sub(live).max(least as u64))
    }
}

/// What one viewer reported last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Health {
    /// Share of packets that it lost, 0 to 1.
    pub fraction_lost: f64,
    /// Its round-trip time now.
    pub rtt: Duration,
    /// The least that it ever had.
    pub least_rtt: Duration,
}

impl Health {
    fn suffers(&self) -> bool {
        let grown = self.rtt.saturating_sub(self.least_rtt);
        (self.fraction_lost >= LOSS && grown >= QUEUE) || grown >= DELAY
    }
}

/// Whether so many viewers suffer at once that what they have in common must be the cause.
pub fn most_suffer(viewers: &[Health]) -> bool {
    let suffering = viewers.iter().filter(|viewer| viewer.suffers()).count();
    viewers.len() >= LEAST_VIEWERS && suffering as f64 >= MOST_SUFFER * viewers.len() as f64
}

/// Finds out what the uplink carries, from what viewers report.
#[derive(Debug, Default)]
pub struct Estimator {
    estimate: Option<Bitrate>,
    suffering: u32,
    congested_at: Option<Instant>,
}

impl Estimator {
    /// What the uplink seems to carry; `None` while nothing says that it is the limit.
    pub fn estimate(&self) -> Option<Bitrate> {
        self.estimate
    }

    /// Takes an observation, about one a second: what was sent since the last one, headers included, and
    /// how the viewers are. The estimate never falls below `least`, what one viewer needs. `is_dropping` says
    /// whether the sender itself left packets out: then viewers tell of that, and not of the uplink.
    pub fn observe(
        &mut self,
        sent: Bitrate,
        least: Bitrate,
        is_dropping: bool,
        viewers: &[Health],
        now: Instant,
    ) {
        if is_dropping {
            self.suffering = 0;
            return;
        }
        if !most_suffer(viewers) {
            self.suffering = 0;
            self.probe(sent, now);
            return;
        }
        self.suffering += 1;
        if self.suffering < CONFIRMATIONS {
            return;
        }
        let mut losses: Vec<f64> = viewers.iter().map(|viewer| viewer.fraction_lost).collect();
        losses.sort_by(f64::total_cmp);
        let arrived = sent.as_bits_per_second() as f64 * (1.0 - losses[losses.len() / 2]);
        let arrived = Bitrate::bits_per_second(arrived as u64).max(least);
        // What goes out while the estimate already holds it back says nothing higher.
        self.estimate = Some(self.estimate.map_or(arrived, |estimate| estimate.min(arrived)));
        self.congested_at = Some(now);
        self.suffering = 0;
    }

    /// Lets go of an estimate little by little, as far as it is used at all.
    fn probe(&mut self, sent: Bitrate, now: Instant) {
        let (Some(estimate), Some(at)) = (self.estimate, self.congested_at) else { return };
        if now.saturating_duration_since(at) < PROBE_AFTER {
            return;
        }
        let more = estimate.as_bits_per_second() as f64 * PROBE;
        // An uplink that carries much more than is asked of it is no limit any more.
        let unused = more >= 2.0 * sent.as_bits_per_second() as f64;
        self.estimate = (!unused).then_some(Bitrate::bits_per_second(more as u64));
        self.congested_at = self.estimate.map(|_| now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mbit(rate: f64) -> Bitrate {
        Bitrate::bits_per_second((rate * 1e6) as u64)
    }

    fn health(fraction_lost: f64, rtt: u64) -> Health {
        let least_rtt = Duration::from_millis(20);
        Health { fraction_lost, rtt: Duration::from_millis(rtt), least_rtt }
    }

    #[test]
    fn four_viewers_of_4_mbit_fit_20_and_a_fifth_does_not() {
        let budget = Budget::of(mbit(20.0));
        let each = mbit(4.15);
        assert!(budget.carries(4, each));
        assert!(!budget.carries(5, each));
        assert_eq!(budget.spare(3, each), mbit(19.0 - 12.45));
        assert_eq!(budget.spare(5, each), mbit(1.9));
    }

    #[test]
    fn loss_of_most_viewers_at_once_is_the_uplink() {
        let mut estimator = Estimator::default();
        let now = Instant::now();
        let viewers = vec![health(0.2, 35), health(0.22, 40), health(0.18, 35), health(0.0, 25)];
        estimator.observe(mbit(25.0), mbit(4.0), false, &viewers, now);
        assert_eq!(estimator.estimate(), None, "once may be chance");
        estimator.observe(mbit(25.0), mbit(4.0), false, &viewers, now + Duration::from_secs(1));
        assert_eq!(estimator.estimate(), Some(mbit(20.0)));
    }

    #[test]
    fn a_queue_that_fills_is_the_uplink_too() {
        let mut estimator = Estimator::default();
        let now = Instant::now();
        for second in 0..2 {
            let viewers = vec![health(0.0, 400); 3];
            estimator.observe(
                mbit(10.0),
                mbit(4.0),
                false,
                &viewers,
                now + Duration::from_secs(second),
            );
        }
        assert_eq!(estimator.estimate(), Some(mbit(10.0)));
    }

    #[test]
    fn viewers_with_bad_links_of_their_own_say_nothing() {
        let mut estimator = Estimator::default();
        let now = Instant::now();
        let some = vec![health(0.5, 900), health(0.0, 25), health(0.01, 30), health(0.0, 25)];
        let few = vec![health(0.5, 900), health(0.5, 900)];
        // Many bad links, and no queue.
        estimator.observe(mbit(10.0), mbit(4.0), false, &[health(0.3, 22); 9], now);
        estimator.observe(mbit(10.0), mbit(4.0), false, &[health(0.3, 22); 9], now);
        assert_eq!(estimator.estimate(), None);
        for second in 0..20 {
            let at = now + Duration::from_secs(second);
            estimator.observe(
                mbit(10.0),
                mbit(4.0),
                false,
                if second % 2 == 0 { &some } else { &few },
                at,
            );
        }
        assert_eq!(estimator.estimate(), None);
    }

    #[test]
    fn what_the_sender_leaves_out_itself_says_nothing() {
        let mut estimator = Estimator::default();
        let now = Instant::now();
        let viewers = [health(0.5, 35); 10];
        for second in 0..2 {
            estimator.observe(
                mbit(40.0),
                mbit(4.0),
                false,
                &viewers,
                now + Duration::from_secs(second),
            );
        }
        assert_eq!(estimator.estimate(), Some(mbit(20.0)));
        for second in 2..60 {
            estimator.observe(
                mbit(19.0),
                mbit(4.0),
                true,
                &viewers,
                now + Duration::from_secs(second),
            );
        }
        assert_eq!(estimator.estimate(), Some(mbit(20.0)));
        // Nothing arrives at all: still what one viewer needs, so that one can try.
        for second in 60..62 {
            let gone = [health(1.0, 35); 10];
            estimator.observe(
                mbit(19.0),
                mbit(4.0),
                false,
                &gone,
                now + Duration::from_secs(second),
            );
        }
        assert_eq!(estimator.estimate(), Some(mbit(4.0)));
        estimator.observe(mbit(0.0), mbit(4.0), false, &[], now + Duration::from_secs(100));
        assert_eq!(estimator.estimate(), None);
    }

    #[test]
    fn an_estimate_is_let_go_of_when_nothing_suffers() {
        let mut estimator = Estimator::default();
        let mut now = Instant::now();
        for _ in 0..2 {
            estimator.observe(mbit(10.0), mbit(2.0), false, &[health(0.1, 35); 3], now);
        }
        assert_eq!(estimator.estimate(), Some(mbit(9.0)));
        let mut last = mbit(9.0);
        for _ in 0..1000 {
            now += Duration::from_secs(1);
            // Fewer viewers now, all well.
            estimator.observe(mbit(6.0), mbit(2.0), false, &[health(0.0, 25); 3], now);
            let Some(estimate) = estimator.estimate() else { return };
            assert!(estimate >= last && estimate <= last.max(mbit(12.1)));
            last = estimate;
        }
        panic!("never let go");
    }
}
