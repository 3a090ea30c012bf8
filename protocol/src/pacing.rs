//! Spreading bytes over time, and measuring what a stream needs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::units::Bitrate;

/// How much time may be made up for at once by whoever was late: covers a scheduler's slice.
const SLACK: Duration = Duration::from_millis(10);

/// Window over which a stream's rate is measured: longer than most GOPs' keyframe spikes matter.
const RATE_WINDOW: Duration = Duration::from_secs(2);

/// Says when the next bytes may go.
#[derive(Debug)]
pub(crate) struct Pacer {
    due_at: Option<Instant>,
    slack: Duration,
}

impl Default for Pacer {
    fn default() -> Self {
        Self::with_slack(SLACK)
    }
}

impl Pacer {
    /// A pacer that lets so much time's worth of bytes go at once after a rest.
    pub(crate) fn with_slack(slack: Duration) -> Self {
        Self { due_at: None, slack }
    }

    /// The same, behind a rest that was long enough.
    pub(crate) fn rested(slack: Duration, now: Instant) -> Self {
        Self { due_at: now.checked_sub(slack), slack }
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due_at.is_none_or(|at| at <= now)
    }

    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.due_at
    }

    pub(crate) fn spend(&mut self, bytes: usize, rate: Bitrate, now: Instant) {
        let earliest = now.checked_sub(self.slack).unwrap_or(now);
        let from = self.due_at.unwrap_or(now).max(earliest);
        self.due_at = Some(from + rate.time_for(bytes));
    }
}

/// Bytes over the last [`RATE_WINDOW`].
#[derive(Debug, Default)]
pub(crate) struct RateMeter {
    bursts: VecDeque<(Instant, usize)>,
    bytes: usize,
}

impl RateMeter {
    pub(crate) fn add(&mut self, bytes: usize, now: Instant) {
        self.bursts.push_back((now, bytes));
        self.bytes += bytes;
        while let Some(&(at, bytes)) = self.bursts.front() {
            if now.saturating_duration_since(at) <= RATE_WINDOW {
                break;
            }
            self.bursts.pop_front();
            self.bytes -= bytes;
        }
    }

    pub(crate) fn rate(&self) -> Bitrate {
        // A young stream has not filled the window yet, but what is too short says nothing.
        let span = match (self.bursts.front(), self.bursts.back()) {
            (Some((first, _)), Some((last, _))) => last.saturating_duration_since(*first),
            _ => RATE_WINDOW,
        };
        let span = span.clamp(RATE_WINDOW / 4, RATE_WINDOW);
        Bitrate::bits_per_second((self.bytes as f64 * 8.0 / span.as_secs_f64()) as u64)
    }
}
