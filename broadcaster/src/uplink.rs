//! What the uplink carries: as configured, or as the viewers' reports tell.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use protocol::units::Bitrate;
use protocol::uplink::{Budget, Estimator, REPAIR_SHARE, most_suffer};

use crate::audience::Audience;
use crate::events::Event;
use crate::metrics::Metrics;
use crate::shared::LiveChannel;

/// The uplink as sessions, metrics and the fan-out see it.
#[derive(Debug)]
pub(crate) struct Uplink {
    configured: Option<Bitrate>,
    estimator: Mutex<Estimator>,
    fullness: Mutex<Fullness>,
}

/// Looks after which it is said that the uplink is full, and that it is not any more.
const FULL_LOOKS: u32 = 3;
const FREE_LOOKS: u32 = 10;

/// Whether it was said that the uplink is full, and how long that has been otherwise.
#[derive(Debug, Default)]
struct Fullness {
    is_told: bool,
    otherwise: u32,
}

impl Fullness {
    /// What is to be said, each second that the uplink seems full or not.
    fn turn(&mut self, is_full: bool) -> Option<bool> {
        self.otherwise = if is_full == self.is_told { 0 } else { self.otherwise + 1 };
        if self.otherwise < if is_full { FULL_LOOKS } else { FREE_LOOKS } {
            return None;
        }
        self.is_told = is_full;
        self.otherwise = 0;
        Some(is_full)
    }
}

/// Which share of the uplink each channel may fill, where its viewers need the first of two rates, and with one more of
/// them the second. What viewers need goes first, with what repairs it; the rest is for who joins. All in bits a second.
pub(crate) fn shares(all: u64, channels: &[(u64, u64)]) -> Vec<f64> {
    let repaired = |rate: u64| rate as f64 * (1.0 + REPAIR_SHARE);
    let needed: f64 = channels.iter().map(|(needed, _)| repaired(*needed)).sum();
    let more = |(needed, with_one): &(u64, u64)| repaired(with_one.saturating_sub(*needed));
    let joining: f64 = channels.iter().map(more).sum();
    let all = all as f64;
    let left = (all - needed).max(0.0);
    let one = |channel: &(u64, u64)| {
        // More is needed than there is: all get less alike.
        let own = repaired(channel.0) * (all / needed).min(1.0);
        let of_the_rest = if joining > 0.0 { more(channel) / joining } else { 0.0 };
        if all > 0.0 { ((own + left * of_the_rest) / all).min(1.0) } else { 1.0 }
    };
    match channels {
        // Also where nothing is known of it yet.
        [_] => vec![1.0],
        several => several.iter().map(one).collect(),
    }
}

impl Uplink {
    /// An uplink of this rate; without one it is estimated once it is the limit.
    pub(crate) fn new(configured: Option<Bitrate>) -> Self {
        Self { configured, estimator: Mutex::default(), fullness: Mutex::default() }
    }

    /// Whether the operator said what it carries.
    pub(crate) fn is_configured(&self) -> bool {
        self.configured.is_some()
    }

    /// What it may be filled with; `None` while nothing says that it is the limit.
    pub(crate) fn budget(&self) -> Option<Budget> {
        self.carried().map(Budget::of)
    }

    /// What it carries, as configured or estimated.
    pub(crate) fn carried(&self) -> Option<Bitrate> {
        self.configured.or_else(|| self.estimator().estimate())
    }

    /// Looks at what was sent in the last second, and at how the viewers are. Each second.
    pub(crate) fn observe(&self, metrics: &Metrics, audience: &Audience, running: &[LiveChannel]) {
        let sent = metrics.measure_uplink();
        let healths = audience.healths();
        // Repair cannot help an uplink that is full: it only adds to what is lost.
        let is_full = !running.is_empty() && most_suffer(&healths);
        if !running.is_empty() {
            running.iter().for_each(|channel| channel.fan_out.set_margins(!is_full));
            audience.set_uplink_full(is_full);
            let rate = self.carried();
            match self.fullness.lock().unwrap_or_else(PoisonError::into_inner).turn(is_full) {
                Some(true) => metrics.events.record(Event::UplinkFull { rate }),
                Some(false) => metrics.events.record(Event::UplinkFree),
                None => {}
            }
        }
        if !self.is_configured() {
            let before = self.estimator().estimate();
            let (least, is_dropping) = metrics.uplink_needs();
            self.estimator().observe(sent, least, is_dropping, &healths, Instant::now());
            let now = self.estimator().estimate();
            if now != before {
                match now {
                    Some(rate) => tracing::info!(
                        bits_per_second = rate.as_bits_per_second(),
                        "keeping below what arrives of the uplink's traffic (--uplink sets it for good)"
                    ),
                    None => tracing::info!("the uplink is not the limit any more"),
                }
            }
        }
        metrics.set_uplink(self.carried(), is_full);
    }

    fn estimator(&self) -> MutexGuard<'_, Estimator> {
        self.estimator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_that_nobody_watches_take_nothing_from_others() {
        const CAMERA: u64 = 2_600_000;
        // Six cameras, and two viewers of one: it may need 5.72 of 9.5 Mbit/s.
        let mut channels = [(0, CAMERA); 6];
        channels[2] = (2 * CAMERA, 3 * CAMERA);
        let shares = shares(9_500_000, &channels);
        assert!(shares[2] * 9.5 > 5.72, "{shares:?}");
        assert!(shares[0] > 0.0 && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{shares:?}");
        // One that is over, or has not begun, has no part.
        assert_eq!(super::shares(9_500_000, &[(CAMERA, 2 * CAMERA), (0, 0)]), [1.0, 0.0]);
        assert_eq!(super::shares(0, &[(0, 0)]), [1.0]);
        // More is needed than there is.
        let short = super::shares(1_000_000, &[(CAMERA, CAMERA), (CAMERA, CAMERA)]);
        assert!(short.iter().all(|share| (share - 0.5).abs() < 1e-9), "{short:?}");
    }

    #[test]
    fn a_full_uplink_is_said_once() {
        let mut fullness = Fullness::default();
        let looks = [false, true, false, true, true, true, true].into_iter();
        let looks = looks.chain((0..30).map(|at| at == 5));
        let turns: Vec<_> =
            looks.enumerate().filter_map(|(at, full)| Some((at, fullness.turn(full)?))).collect();
        assert_eq!(turns, [(5, true), (22, false)]);
    }
}
