//! The simulated network: one direction of a path, seeded.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What one direction of a path does to datagrams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Impairment {
    /// The usual one-way delay.
    pub(crate) delay: Duration,
    /// Standard deviation of the delay, which is normal, datagram by datagram.
    pub(crate) jitter: Duration,
    /// Loss.
    pub(crate) loss: Loss,
    /// Share of datagrams that come twice.
    pub(crate) duplicates: f64,
    /// Share of datagrams that come up to 20 ms later.
    pub(crate) reordered: f64,
    /// Share of datagrams of which a bit is flipped.
    pub(crate) flipped: f64,
}

/// How datagrams get lost.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Loss {
    /// Each with this probability.
    Independent(f64),
    /// So many in a row, of each so many.
    Burst(u64, u64),
    /// All within this time, each so often.
    Outage(Duration, Duration),
    /// Gilbert-Elliott: probabilities to enter and leave the bad state, in which half are lost.
    Gilbert(f64, f64),
}

impl Impairment {
    /// Half of a round trip, and nothing else.
    pub(crate) fn clean(rtt: Duration) -> Self {
        let loss = Loss::Independent(0.0);
        let jitter = Duration::ZERO;
        Self { delay: rtt / 2, jitter, loss, duplicates: 0.0, reordered: 0.0, flipped: 0.0 }
    }
}

/// One direction of a path.
pub(crate) struct Direction {
    impairment: Impairment,
    rng: StdRng,
    sent: u64,
    is_bad: bool,
    pub(crate) lost: u64,
}

impl Direction {
    pub(crate) fn new(impairment: Impairment, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { impairment, rng, sent: 0, is_bad: false, lost: 0 }
    }

    /// When what is sent at a time since the start arrives; each time it does.
    pub(crate) fn send(&mut self, at: Duration, datagram: &mut [u8]) -> Vec<Duration> {
        self.sent += 1;
        let Impairment { delay, jitter, duplicates, reordered, flipped, .. } = self.impairment;
        if self.loses(at) {
            self.lost += 1;
            return Vec::new();
        }
        if self.chance(flipped) {
            let at = self.rng.random_range(0..datagram.len());
            datagram[at] ^= 1 << self.rng.random_range(0..8);
        }
        let copies = 1 + usize::from(self.chance(duplicates));
        let one = |direction: &mut Self| {
            let late = if direction.chance(reordered) {
                direction.rng.random_range(0.0..0.02)
            } else {
                0.0
            };
            let wobble = direction.normal() * jitter.as_secs_f64() + late;
            at + Duration::from_secs_f64((delay.as_secs_f64() + wobble).max(0.0))
        };
        (0..copies).map(|_| one(self)).collect()
    }

    fn loses(&mut self, at: Duration) -> bool {
        match self.impairment.loss {
            Loss::Independent(share) => self.chance(share),
            Loss::Burst(lost, each) => self.sent % each < lost,
            Loss::Outage(lasts, each) => {
                let into = at.as_nanos() % each.as_nanos();
                into >= each.as_nanos() - lasts.as_nanos()
            }
            Loss::Gilbert(enter, leave) => {
                let changes = if self.is_bad { leave } else { enter };
                self.is_bad ^= self.chance(changes);
                self.is_bad && self.chance(0.5)
            }
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.random_bool(probability)
    }

    /// A standard normal variable (Box and Muller).
    fn normal(&mut self) -> f64 {
        let (a, b): (f64, f64) = (self.rng.random_range(f64::EPSILON..1.0), self.rng.random());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }
}
