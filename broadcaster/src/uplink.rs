//! What the uplink carries: as configured, or as the viewers' reports tell.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use protocol::units::Bitrate;
use protocol::uplink::{Budget, Estimator, most_suffer};

use crate::audience::Audience;
use crate::fanout::FanOut;
use crate::metrics::Metrics;

/// The uplink as sessions, metrics and the fan-out see it.
#[derive(Debug)]
pub(crate) struct Uplink {
    configured: Option<Bitrate>,
    estimator: Mutex<Estimator>,
}

impl Uplink {
    /// An uplink of this rate; without one it is estimated once it is the limit.
    pub(crate) fn new(configured: Option<Bitrate>) -> Self {
        Self { configured, estimator: Mutex::default() }
    }

    /// Whether the operator said what it carries.
    pub(crate) fn is_configured(&self) -> bool {
        self.configured.is_some()
    }

    /// What it may be filled with; `None` while nothing says that it is the limit.
    pub(crate) fn budget(&self) -> Option<Budget> {
        self.configured.or_else(|| self.estimator().estimate()).map(Budget::of)
    }

    /// Looks at what was sent in the last second, and at how the viewers are. Each second.
    pub(crate) fn observe(&self, metrics: &Metrics, audience: &Audience, fan_out: Option<&FanOut>) {
        let sent = metrics.measure_uplink();
        let healths = audience.healths();
        if let Some(fan_out) = fan_out {
            // Repair cannot help an uplink that is full: it only adds to what is lost.
            let is_full = most_suffer(&healths);
            fan_out.set_margins(!is_full);
            audience.set_uplink_full(is_full);
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
                        "most viewers suffer at once when the uplink is full: keeping below what \
                         arrives (--uplink sets it for good)"
                    ),
                    None => tracing::info!("the uplink is not the limit any more"),
                }
                if let Some(fan_out) = fan_out {
                    fan_out.set_uplink(self.budget());
                }
            }
        }
        let carried = self.configured.or_else(|| self.estimator().estimate());
        metrics.set_uplink_budget(carried);
    }

    fn estimator(&self) -> MutexGuard<'_, Estimator> {
        self.estimator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
