//! What the broadcaster counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};
use protocol::behaviour::{Behaviour, Dependence, Ports};
use protocol::candidate::CandidateKind;
use protocol::channel::ViewerId;
use protocol::control::Refusal;
use protocol::feedback::Totals;
use protocol::size::WIRE_OVERHEAD;
use protocol::units::Bitrate;
use transport::kernel::Sent;

/// Most viewers with series of their own, the worst loss first.
const VIEWER_SERIES: usize = 100;

/// All that a broadcaster counts.
pub(crate) struct Metrics {
    /// Where the metrics listener reads.
    pub registry: Registry,
    /// The channel's own counters.
    pub channel: Arc<ChannelMetrics>,
    /// Viewers that are admitted now.
    pub viewers: IntGauge,
    by_path: IntGaugeVec,
    path_moves: IntCounter,
    nat: IntGaugeVec,
    /// Introductions received to path proved.
    pub path_open: Histogram,
    path_attempts: IntCounterVec,
    refusals: IntCounterVec,
    /// Frames and keyframes of the encoder, set before each scrape.
    pub encoder: Encoder,
    uplink_budget: Gauge,
    uplink_used: Gauge,
    used_before: Mutex<Option<(std::time::Instant, u64)>>,
    late_before: AtomicU64,
    lost: IntCounter,
    unrecovered: IntCounter,
    /// What else became of packets, as [`BECAME`] names it.
    became: [IntCounter; BECAME.len()],
    /// Feedback packets that were authentic.
    pub feedback: IntCounter,
    feedback_dropped: [IntCounter; Unheard::ALL.len()],
    worst: Worst,
    /// Viewers whose media is paused for want of feedback.
    pub paused: IntGauge,
}

/// What became of the encoder's work.
pub(crate) struct Encoder {
    /// Pictures given to it.
    pub frames_in: IntCounter,
    /// Pictures coded.
    pub frames_encoded: IntCounter,
    /// Keyframes among them.
    pub keyframes: IntCounter,
}

/// Counters of one channel's fan-out.
#[derive(Debug)]
pub struct ChannelMetrics {
    packets: IntCounter,
    bytes: IntCounter,
    errors: IntCounterVec,
    /// Packets sent again on request.
    pub retransmitted: IntCounter,
    /// Repair packets sent.
    pub repair_packets: IntCounter,
    /// Bytes of these and of packets sent again.
    pub repair_bytes: IntCounter,
    /// Bytes of joining bursts.
    pub join_bytes: IntCounter,
    /// Access units dropped before sealing.
    pub bursts_dropped: IntCounter,
    /// Requests of viewers dropped.
    pub requests_dropped: IntCounter,
    /// Keyframes asked of the encoder.
    pub keyframes_requested: IntCounter,
    /// Bytes in the history.
    pub history_bytes: IntGauge,
    /// Viewers that are catching up.
    pub joining: IntGauge,
    /// Viewers whose path does not carry the stream.
    pub limited: IntGauge,
    /// Packets that those were not sent.
    pub left_out: IntCounter,
    /// Bytes of the stream so far.
    pub published: AtomicU64,
    /// What the stream needs for each viewer.
    pub live_rate: Gauge,
}

/// What viewers report of packets beside those lost and those unrecovered: the `what` label.
const BECAME: [&str; 5] = ["recovered_nack", "recovered_fec", "duplicate", "late", "corrupt"];

/// One viewer's reception, from its reports.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ViewerSample {
    /// Share of packets lost since its last report, 0–1.
    pub fraction_lost: f64,
    /// Round-trip time of its connection.
    pub rtt: Duration,
    /// Interarrival jitter of its video.
    pub jitter: Duration,
    /// Its totals.
    pub totals: Totals,
}

/// Series of single viewers: those with the worst loss.
struct Worst {
    fraction_lost: GaugeVec,
    rtt: GaugeVec,
    jitter: GaugeVec,
}

/// Why a feedback packet was dropped: the `reason` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unheard {
    /// Not RTCP, or nothing that means anything here.
    Malformed,
    /// Of no viewer that is admitted.
    Unknown,
    /// From an address that is not the viewer's.
    Elsewhere,
    /// More than a viewer may send.
    TooMany,
    /// Seen before, or too old to tell.
    Replayed,
    /// Not sealed by the viewer.
    Forged,
}

impl Unheard {
    const ALL: [Self; 6] = [
        Self::Malformed,
        Self::Unknown,
        Self::Elsewhere,
        Self::TooMany,
        Self::Replayed,
        Self::Forged,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown_viewer",
            Self::Elsewhere => "elsewhere",
            Self::TooMany => "too_many",
            Self::Replayed => "replayed",
            Self::Forged => "forged",
        }
    }
}

/// How an attempt to open a path ended: the `result` label.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Attempt {
    /// A path opened.
    Opened,
    /// None did before the deadline.
    Failed,
}

impl Attempt {
    fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Failed => "failed",
        }
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> C {
    registry.register(Box::new(metric.clone())).expect("the first of its name");
    metric
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help).expect("a legal name"))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help).expect("a legal name"))
}

/// A gauge for each of these values of its label, all of them there from the start.
fn gauges<const N: usize>(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    values: [[&'static str; 1]; N],
) -> IntGaugeVec {
    let vec = IntGaugeVec::new(Opts::new(name, help), labels).expect("a legal name");
    for value in &values {
        vec.with_label_values(value);
    }
    register(registry, vec)
}

fn rate(registry: &Registry, name: &str, help: &str) -> Gauge {
    register(registry, Gauge::new(name, help).expect("a legal name"))
}

fn counters(registry: &Registry, name: &str, help: &str, label: &str) -> IntCounterVec {
    let vec = IntCounterVec::new(Opts::new(name, help), &[label]).expect("a legal name");
    register(registry, vec)
}

impl Default for ChannelMetrics {
    /// Counters that nobody scrapes.
    fn default() -> Self {
        Self::new(&Registry::new())
    }
}

impl ChannelMetrics {
    fn new(registry: &Registry) -> Self {
        let errors = counters(
            registry,
            "punchcast_send_errors_total",
            "Packets that the kernel did not take (blocked: its buffer stayed full; failed: another \
             reason), or that waited too long for the uplink (late); not sent again by us.",
            "reason",
        );
        for reason in ["blocked", "failed", "late"] {
            errors.with_label_values(&[reason]);
        }
        Self {
            packets: counter(
                registry,
                "punchcast_packets_sent_total",
                "Media packets handed to the kernel, joining bursts, retransmissions and repair \
                 packets included; control traffic not.",
            ),
            bytes: counter(
                registry,
                "punchcast_bytes_sent_total",
                "Bytes of UDP payload of these packets.",
            ),
            errors,
            retransmitted: counter(
                registry,
                "punchcast_packets_retransmitted_total",
                "Packets sent again because a viewer asked for them.",
            ),
            repair_packets: counter(
                registry,
                "punchcast_repair_packets_sent_total",
                "Reed-Solomon repair packets sent to viewers that lack packets, or would have no time \
                 to ask for them. Packets that are sent again are not among them.",
            ),
            repair_bytes: counter(
                registry,
                "punchcast_repair_bytes_sent_total",
                "Bytes of repair packets and of packets sent again.",
            ),
            join_bytes: counter(
                registry,
                "punchcast_join_bytes_sent_total",
                "Bytes sent to joining viewers from the history.",
            ),
            bursts_dropped: counter(
                registry,
                "punchcast_access_units_dropped_total",
                "Access units dropped before sealing because the fan-out was behind or they were \
                 not sealable.",
            ),
            requests_dropped: counter(
                registry,
                "punchcast_repair_requests_dropped_total",
                "Requests for repair dropped because too many were waiting.",
            ),
            keyframes_requested: counter(
                registry,
                "punchcast_keyframes_requested_total",
                "Keyframes asked of the encoder for joining viewers.",
            ),
            history_bytes: gauge(
                registry,
                "punchcast_history_bytes",
                "Bytes of sealed packets kept for joining and repair.",
            ),
            joining: gauge(
                registry,
                "punchcast_viewers_joining",
                "Viewers that are catching up with the live edge.",
            ),
            limited: gauge(
                registry,
                "punchcast_viewers_limited",
                "Viewers whose path does not carry the stream, so that they are sent less of it.",
            ),
            left_out: counter(
                registry,
                "punchcast_packets_left_out_total",
                "Packets that viewers were not sent because their path does not carry them.",
            ),
            published: AtomicU64::new(0),
            live_rate: rate(
                registry,
                "punchcast_channel_bytes_per_second",
                "What the channel needs for each viewer, headers included, over the last 2 s.",
            ),
        }
    }

    /// What the stream needs for each viewer.
    pub fn stream(&self) -> Bitrate {
        Bitrate::bits_per_second((self.live_rate.get() * 8.0) as u64)
    }

    /// Counts what became of a send of datagrams that hold `packets` packets in each `datagrams`.
    pub fn count(&self, sent: &Sent, packets: usize, datagrams: usize) {
        let packets_in = |sent: u64| sent * packets as u64 / datagrams.max(1) as u64;
        self.packets.inc_by(packets_in(sent.datagrams));
        self.bytes.inc_by(sent.bytes);
        if sent.blocked > 0 {
            self.errors.with_label_values(&["blocked"]).inc_by(packets_in(sent.blocked));
        }
        if sent.failed > 0 {
            self.errors.with_label_values(&["failed"]).inc_by(packets_in(sent.failed));
        }
    }

    /// Counts datagrams that waited for the uplink until they were of no use.
    pub fn count_late(&self, datagrams: u64) {
        if datagrams > 0 {
            self.errors.with_label_values(&["late"]).inc_by(datagrams);
        }
    }
}

impl Metrics {
    /// A viewer's path is of this kind from now on; before, it was of that one.
    pub(crate) fn path(&self, before: Option<CandidateKind>, now: Option<CandidateKind>) {
        if let Some(before) = before {
            self.by_path.with_label_values(&[before.as_str()]).dec();
        }
        if let Some(now) = now {
            self.by_path.with_label_values(&[now.as_str()]).inc();
        }
        if before.is_some() && now.is_some() {
            self.path_moves.inc();
        }
    }

    /// What the NAT here was found to do.
    pub(crate) fn nat(&self, behaviour: &Behaviour) {
        let depends = |on: Option<Dependence>| on.map_or("unknown", Dependence::as_str);
        let ports = behaviour.ports.map_or("unknown", Ports::as_str);
        let (mapping, filtering) = (depends(behaviour.mapping), depends(behaviour.filtering));
        self.nat.reset();
        self.nat.with_label_values(&[behaviour.kind().as_str(), mapping, filtering, ports]).set(1);
    }

    /// Metrics in a registry of their own.
    pub(crate) fn new(uplink_bytes_per_second: Option<f64>) -> Self {
        let registry = service::metrics::registry("broadcaster");
        let path_open = Histogram::with_opts(
            HistogramOpts::new(
                "punchcast_path_open_seconds",
                "From introduction received to path proved, of paths that opened.",
            )
            .buckets(vec![0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4]),
        )
        .expect("a legal name");
        let path_attempts = counters(
            &registry,
            "punchcast_path_attempts_total",
            "Introductions that came to an end of opening, by result.",
            "result",
        );
        for attempt in [Attempt::Opened, Attempt::Failed] {
            path_attempts.with_label_values(&[attempt.as_str()]);
        }
        let refusals = counters(
            &registry,
            "punchcast_refusals_total",
            "Viewers refused, by reason.",
            "reason",
        );
        for reason in [
            Refusal::UnknownChannel,
            Refusal::Secret,
            Refusal::Full,
            Refusal::Removed,
            Refusal::NotReady,
            Refusal::Malformed,
        ] {
            refusals.with_label_values(&[reason.as_str()]);
        }
        let feedback_dropped = counters(
            &registry,
            "punchcast_feedback_packets_dropped_total",
            "Datagrams dropped that begin like feedback, by reason.",
            "reason",
        );
        let became = counters(
            &registry,
            "punchcast_viewer_packets_total",
            "What became of packets by the reports of all viewers: lost ones that a retransmission or a \
             repair packet brought back, duplicates, ones that came after their deadline, and ones that \
             were not authentic.",
            "what",
        );
        let per_viewer = |name: &str, help: &str| {
            let vec = GaugeVec::new(Opts::new(name, help), &["viewer"]).expect("a legal name");
            register(&registry, vec)
        };
        let uplink_budget = rate(
            &registry,
            "punchcast_uplink_budget_bytes_per_second",
            "What the uplink carries: as --uplink says, or as estimated; 0 while nothing says that it \
             is the limit.",
        );
        uplink_budget.set(uplink_bytes_per_second.unwrap_or(0.0));
        Self {
            channel: Arc::new(ChannelMetrics::new(&registry)),
            viewers: gauge(&registry, "punchcast_viewers", "Viewers admitted now."),
            by_path: gauges(
                &registry,
                "punchcast_viewers_by_path",
                "Viewers admitted now, by the worse end's kind of candidate of their path.",
                &["path"],
                CandidateKind::ALL.map(CandidateKind::as_str).map(|kind| [kind]),
            ),
            path_moves: counter(
                &registry,
                "punchcast_path_moves_total",
                "Times that a viewer's path moved: a better one was found, or an address changed.",
            ),
            nat: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "punchcast_nat_info",
                        "1 for what the NAT or firewall before this broadcaster does, as far as it \
                         is known.",
                    ),
                    &["kind", "mapping", "filtering", "ports"],
                )
                .expect("a legal name"),
            ),
            path_open: register(&registry, path_open),
            path_attempts,
            refusals,
            encoder: Encoder {
                frames_in: counter(
                    &registry,
                    "punchcast_encoder_frames_in_total",
                    "Pictures given to the encoder since the start; of a source that comes \
                     encoded, its coded pictures.",
                ),
                frames_encoded: counter(
                    &registry,
                    "punchcast_encoder_frames_encoded_total",
                    "Coded pictures since the start.",
                ),
                keyframes: counter(
                    &registry,
                    "punchcast_encoder_keyframes_total",
                    "Keyframes since the start.",
                ),
            },
            uplink_budget,
            uplink_used: rate(
                &registry,
                "punchcast_uplink_used_bytes_per_second",
                "Media bytes handed to the kernel, headers included, over the last second.",
            ),
            used_before: Mutex::new(None),
            late_before: AtomicU64::new(0),
            became: BECAME.map(|what| became.with_label_values(&[what])),
            lost: counter(
                &registry,
                "punchcast_viewer_packets_lost_total",
                "Packets that viewers reported as lost on the network, before repair, over all \
                 viewers.",
            ),
            unrecovered: counter(
                &registry,
                "punchcast_viewer_packets_unrecovered_total",
                "Packets that viewers reported as missing at their deadline, over all viewers.",
            ),
            feedback: counter(
                &registry,
                "punchcast_feedback_packets_total",
                "Authentic feedback packets of all viewers: reports and requests for repair.",
            ),
            feedback_dropped: Unheard::ALL
                .map(|reason| feedback_dropped.with_label_values(&[reason.as_str()])),
            worst: Worst {
                fraction_lost: per_viewer(
                    "punchcast_viewer_fraction_lost",
                    "Share of packets lost before repair in the viewer's last report, 0 to 1; the \
                     viewers with the worst loss only.",
                ),
                rtt: per_viewer(
                    "punchcast_viewer_rtt_seconds",
                    "Round-trip time to the viewer; the viewers with the worst loss only.",
                ),
                jitter: per_viewer(
                    "punchcast_viewer_jitter_seconds",
                    "Interarrival jitter of the viewer's video; the viewers with the worst loss \
                     only.",
                ),
            },
            paused: gauge(
                &registry,
                "punchcast_viewers_paused",
                "Viewers whose media is paused because they have said nothing for 3 s.",
            ),
            registry,
        }
    }

    /// An attempt to open a path came to its end.
    pub(crate) fn attempt(&self, attempt: Attempt) {
        self.path_attempts.with_label_values(&[attempt.as_str()]).inc();
    }

    /// A viewer was refused.
    pub(crate) fn refuse(&self, reason: Refusal) {
        self.refusals.with_label_values(&[reason.as_str()]).inc();
    }

    /// A viewer's totals became these. They are hostile input: only growth counts.
    pub(crate) fn grown(&self, before: &Totals, now: &Totals) {
        let grown = |now: u64, before: u64| now.saturating_sub(before).min(1 << 24);
        self.lost.inc_by(grown(now.lost, before.lost));
        self.unrecovered.inc_by(grown(now.unrecovered, before.unrecovered));
        let became = [
            (now.recovered_nack, before.recovered_nack),
            (now.recovered_fec, before.recovered_fec),
            (now.duplicates, before.duplicates),
            (now.late, before.late),
            (now.corrupt, before.corrupt),
        ];
        for (counter, (now, before)) in self.became.iter().zip(became) {
            counter.inc_by(grown(now, before));
        }
    }

    /// A feedback packet was dropped.
    pub(crate) fn unheard(&self, reason: Unheard) {
        self.feedback_dropped[reason as usize].inc();
    }

    /// Measures the uplink's use since the call before. Once a second, whoever scrapes.
    pub(crate) fn measure_uplink(&self) -> Bitrate {
        let now = std::time::Instant::now();
        let bytes = self.channel.bytes.get() + self.channel.packets.get() * WIRE_OVERHEAD as u64;
        let mut used = self.used_before.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, before)) = used.replace((now, bytes)) {
            let seconds = now.duration_since(at).as_secs_f64().max(0.001);
            self.uplink_used.set((bytes - before) as f64 / seconds);
        }
        Bitrate::bits_per_second((self.uplink_used.get() * 8.0) as u64)
    }

    /// What one viewer needs of the uplink, and whether packets were dropped since this was asked last because
    /// they had waited too long for it.
    pub(crate) fn uplink_needs(&self) -> (Bitrate, bool) {
        let each = self.channel.live_rate.get() * 8.0;
        let late = self.channel.errors.with_label_values(&["late"]).get();
        let before = self.late_before.swap(late, Ordering::Relaxed);
        (Bitrate::bits_per_second(each as u64), late > before)
    }

    /// What the uplink carries, if that is known.
    pub(crate) fn set_uplink_budget(&self, rate: Option<Bitrate>) {
        self.uplink_budget.set(rate.map_or(0.0, Bitrate::as_bytes_per_second));
    }

    /// Sets the series of single viewers. Before each scrape.
    pub(crate) fn publish(&self, samples: Vec<(ViewerId, ViewerSample)>) {
        self.worst.publish(samples);
    }
}

impl Worst {
    fn publish(&self, mut samples: Vec<(ViewerId, ViewerSample)>) {
        let by_loss = |(id, a): &(ViewerId, ViewerSample),
                       (other, b): &(ViewerId, ViewerSample)| {
            b.fraction_lost.total_cmp(&a.fraction_lost).then(id.cmp(other))
        };
        if samples.len() > VIEWER_SERIES {
            samples.select_nth_unstable_by(VIEWER_SERIES, by_loss);
        }
        for gauges in [&self.fraction_lost, &self.rtt, &self.jitter] {
            gauges.reset();
        }
        for (viewer, sample) in samples.into_iter().take(VIEWER_SERIES) {
            let label = viewer.to_string();
            self.fraction_lost.with_label_values(&[&label]).set(sample.fraction_lost);
            self.rtt.with_label_values(&[&label]).set(sample.rtt.as_secs_f64());
            self.jitter.with_label_values(&[&label]).set(sample.jitter.as_secs_f64());
        }
    }
}
