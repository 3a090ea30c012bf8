//! What a viewer counts, for Prometheus: the statistics of [`crate::stats`] under their metric names.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGaugeVec, Registry};
use protocol::candidate::CandidateKind;
use serde_json::{Map, Value, json};
use service::listener::Readiness;
use service::metrics::{counter, counters, gauges, raise, rate};

use crate::stats::{State, Stats};

/// What became of packets: the `what` label.
const WHAT: [&str; 8] = [
    "received",
    "lost",
    "recovered_nack",
    "recovered_fec",
    "unrecovered",
    "duplicate",
    "late",
    "corrupt",
];

/// All that a viewer counts. It is brought up to date each second.
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
    state: IntGaugeVec,
    path: IntGaugeVec,
    packets: IntCounterVec,
    bytes: IntCounter,
    decoded: IntCounter,
    dropped: IntCounter,
    reconnects: IntCounter,
    rtt: Gauge,
    jitter: Gauge,
    latency: Gauge,
    open: Gauge,
    first_packet: Gauge,
    first_frame: Gauge,
    carries: Gauge,
    /// For the status page.
    facts: Mutex<Vec<(&'static str, String)>>,
}

impl Metrics {
    pub(crate) fn new() -> Arc<Self> {
        let registry = service::metrics::registry("viewer");
        let r = &registry;
        let seconds = |name: &str, help: &str| rate(r, name, help);
        Arc::new(Self {
            readiness: Readiness::default(),
            state: gauges(
                r,
                "punchcast_watch_state",
                "1 for the state that the viewer is in, 0 for all others.",
                "state",
                State::ALL.map(State::as_str),
            ),
            path: gauges(
                r,
                "punchcast_watch_path_info",
                "1 for the worse end's kind of candidate of the path in use, 0 for all others.",
                "path",
                CandidateKind::ALL.map(CandidateKind::as_str),
            ),
            packets: counters(
                r,
                "punchcast_watch_packets_total",
                "Media packets by what became of them: arrived (received; recovered ones are among them), \
                 lost on the network, brought back in time by a retransmission or a repair packet, \
                 missing at their deadline, arrived twice, too late, or not authentic. Repair packets \
                 are not counted.",
                "what",
                WHAT,
            ),
            bytes: counter(
                r,
                "punchcast_watch_bytes_received_total",
                "Bytes of UDP payload of media received, repair packets included.",
            ),
            decoded: counter(r, "punchcast_watch_frames_decoded_total", "Pictures decoded."),
            dropped: counter(
                r,
                "punchcast_watch_frames_dropped_total",
                "Pictures that were not shown: they came too late, or could not be decoded.",
            ),
            reconnects: counter(
                r,
                "punchcast_watch_reconnects_total",
                "Times that media stood still for more than 300 ms, or a new session was begun, after \
                 the path was lost.",
            ),
            rtt: seconds(
                "punchcast_watch_rtt_seconds",
                "Round-trip time to the broadcaster; 0: not known.",
            ),
            jitter: seconds(
                "punchcast_watch_jitter_seconds",
                "Interarrival jitter of the video (RFC 3550); 0: not known.",
            ),
            latency: seconds(
                "punchcast_watch_latency_seconds",
                "From capture to output, estimated; 0: not known.",
            ),
            open: seconds(
                "punchcast_watch_open_seconds",
                "From introduction to open path, of this session; 0: not open yet.",
            ),
            first_packet: seconds(
                "punchcast_watch_first_packet_seconds",
                "From process start to the first media packet; 0: none yet.",
            ),
            first_frame: seconds(
                "punchcast_watch_first_frame_seconds",
                "From process start to the first picture; 0: none yet.",
            ),
            carries: rate(
                r,
                "punchcast_watch_path_carries_bytes_per_second",
                "What the path carries, where that is less than the stream; 0 where it carries all.",
            ),
            facts: Mutex::default(),
            registry,
        })
    }

    /// Brings everything up to date.
    pub(crate) fn update(&self, stats: &Stats) {
        let totals = stats.totals();
        let counts = [
            totals.received,
            totals.lost,
            totals.recovered_nack,
            totals.recovered_fec,
            totals.unrecovered,
            totals.duplicates,
            totals.late,
            totals.corrupt,
        ];
        for (what, count) in WHAT.into_iter().zip(counts) {
            raise(&self.packets.with_label_values(&[what]), count);
        }
        raise(&self.bytes, stats.bytes);
        raise(&self.decoded, stats.player.frames_decoded);
        raise(&self.dropped, stats.player.frames_dropped);
        raise(&self.reconnects, stats.reconnects);
        for state in State::ALL {
            self.state.with_label_values(&[state.as_str()]).set((state == stats.state).into());
        }
        for kind in CandidateKind::ALL.map(CandidateKind::as_str) {
            self.path.with_label_values(&[kind]).set((stats.path == Some(kind)).into());
        }
        let since_start = |at: Option<Instant>| at.map(|at| at - stats.started_at());
        let times = [
            (&self.rtt, stats.rtt),
            (&self.jitter, stats.jitter),
            (&self.latency, stats.latency()),
            (&self.open, stats.open),
            (&self.first_packet, since_start(stats.first_packet_at)),
            (&self.first_frame, since_start(stats.player.first_frame_at)),
        ];
        for (gauge, time) in times {
            gauge.set(time.unwrap_or_default().as_secs_f64());
        }
        self.carries.set(stats.carries.unwrap_or_default() as f64 / 8.0);
        let is_playing = stats.state == State::Playing;
        self.readiness.set(if is_playing { Ok(()) } else { Err("not playing now") });
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = facts(stats);
    }

    /// What the status page tells.
    pub(crate) fn shown(&self) -> Map<String, Value> {
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Map::from_iter([("facts".to_owned(), json!(facts))])
    }
}

fn facts(stats: &Stats) -> Vec<(&'static str, String)> {
    let totals = stats.totals();
    let ms = |time: Option<Duration>| {
        time.map_or("not known".into(), |time| format!("{:.1} ms", time.as_secs_f64() * 1e3))
    };
    vec![
        ("State", stats.state.as_str().into()),
        ("Path", stats.path.unwrap_or("none yet").into()),
        ("Round trip", ms(stats.rtt)),
        ("Latency", ms(stats.latency())),
        ("Packets received", totals.received.to_string()),
        ("Packets lost on the network", totals.lost.to_string()),
        ("Packets recovered", (totals.recovered_nack + totals.recovered_fec).to_string()),
        ("Packets missing at their deadline", totals.unrecovered.to_string()),
        ("Pictures decoded", stats.player.frames_decoded.to_string()),
        ("Reconnects", stats.reconnects.to_string()),
    ]
}

/// All metrics of a viewer, for the documentation.
pub fn described_metrics() -> Vec<prometheus::proto::MetricFamily> {
    Metrics::new().registry.gather()
}
