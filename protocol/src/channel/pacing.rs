//! Spreading bytes over time, and measuring what a stream needs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::units::Bitrate;

/// How much time may be made up for at once by whoever was late: covers a scheduler's slice.
const BURST: Duration = Duration::from_millis(10);

/// Window over which a stream's rate is measured: longer than most GOPs' keyframe spikes matter.
const RATE_WINDOW: Duration = Duration::from_secs(2);

/// How fast joining viewers may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinPacing {
    /// For each of them.
    pub each: Bitrate,
    /// For all of them together, where the uplink is known.
    pub total: Option<Bitrate>,
}

impl JoinPacing {
    /// What each of `viewers` gets.
    pub fn rate_among(self, viewers: usize) -> Bitrate {
        let share = |total: Bitrate| total.as_bits_per_second() / viewers.max(1) as u64;
        let share = self.total.map_or(u64::MAX, share);
        Bitrate::bits_per_second(share.min(self.each.as_bits_per_second()))
    }
}

/// Says when the next bytes may go.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    due_at: Option<Instant>,
}

impl Pacer {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due_at.is_none_or(|at| at <= now)
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        self.due_at
    }

    pub(super) fn spend(&mut self, bytes: usize, rate: Bitrate, now: Instant) {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = self.due_at.unwrap_or(now).max(earliest);
        self.due_at = Some(from + rate.time_for(bytes));
    }
}

/// Bytes over the last [`RATE_WINDOW`].
#[derive(Debug, Default)]
pub(super) struct RateMeter {
    bursts: VecDeque<(Instant, usize)>,
    bytes: usize,
}

impl RateMeter {
    pub(super) fn add(&mut self, bytes: usize, now: Instant) {
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

    pub(super) fn rate(&self) -> Bitrate {
        // A young stream has not filled the window yet, but what is too short says nothing.
        let span = match (self.bursts.front(), self.bursts.back()) {
            (Some((first, _)), Some((last, _))) => last.saturating_duration_since(*first),
            _ => RATE_WINDOW,
        };
        let span = span.clamp(RATE_WINDOW / 4, RATE_WINDOW);
        Bitrate::bits_per_second((self.bytes as f64 * 8.0 / span.as_secs_f64()) as u64)
    }
}
