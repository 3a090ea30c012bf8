//! What is counted of stored files.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use service::metrics::{counter, counters, gauge, gauges};

use crate::library::Counts;

/// Whether a file of the library can be played: the `state` label.
const STATES: [&str; 3] = ["playable", "unplayable", "unknown"];

/// What became of a copy: the `result` label.
const RESULTS: [&str; 2] = ["complete", "broken"];

/// Counters of the library.
pub(crate) struct Stored {
    files: IntGaugeVec,
    bytes: IntGauge,
    takes: IntCounter,
    /// Viewers of stored files.
    pub(crate) playouts: IntGauge,
    /// Copies that are being sent.
    pub(crate) fetching: IntGauge,
    fetches: IntCounterVec,
    fetched: IntCounter,
}

impl Stored {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            files: gauges(
                r,
                "punchcast_library_files",
                "Files in the library: those that can be played, those that cannot, and those that nobody has \
                 looked at yet.",
                "state",
                STATES,
            ),
            bytes: gauge(r, "punchcast_library_bytes", "Bytes of all files in the library."),
            takes: counter(
                r,
                "punchcast_takes_total",
                "Takes of stored files begun: each start, seek, going on after a pause or a broken path is one.",
            ),
            playouts: gauge(
                r,
                "punchcast_playouts",
                "Viewers of stored files, paused ones included.",
            ),
            fetching: gauge(r, "punchcast_fetches", "Copies of stored files that are being sent."),
            fetches: counters(
                r,
                "punchcast_fetches_total",
                "Copies of stored files that came to an end: sent completely, or broken off by either side \
                 or by a path. One that is resumed counts again.",
                "result",
                RESULTS,
            ),
            fetched: counter(
                r,
                "punchcast_fetched_bytes_total",
                "Bytes of stored files' contents handed to QUIC.",
            ),
        }
    }

    /// A take begins.
    pub(crate) fn take_begun(&self) {
        self.takes.inc();
    }

    /// Another value when takes were begun, or viewers of stored files came or went.
    pub(crate) fn activity(&self) -> (u64, i64) {
        (self.takes.get(), self.playouts.get())
    }

    /// A copy came to an end.
    pub(crate) fn fetched(&self, is_complete: bool) {
        let [complete, broken] = RESULTS;
        let result = if is_complete { complete } else { broken };
        self.fetches.with_label_values(&[result]).inc();
    }

    /// So many bytes of contents were sent.
    pub(crate) fn sent(&self, bytes: u64) {
        self.fetched.inc_by(bytes);
    }

    /// What the library holds.
    pub(crate) fn set_library(&self, counts: &Counts) {
        let Counts { files, playable, unplayable, bytes, .. } = *counts;
        let unknown = files.saturating_sub(playable + unplayable);
        for (state, count) in STATES.into_iter().zip([playable, unplayable, unknown]) {
            self.files.with_label_values(&[state]).set(count as i64);
        }
        self.bytes.set(bytes as i64);
    }
}
