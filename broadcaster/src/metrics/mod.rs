//! What the broadcaster counts. Every metric is described where it is made; docs/metrics.md is the same
//! text, made by a test.

mod channel;
mod stored;
mod viewers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{
    CounterVec, Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};
use protocol::behaviour::{Behaviour, Dependence, Kind, Ports};
use protocol::candidate::CandidateKind;
use protocol::control::Refusal;
use protocol::feedback::Totals;
use protocol::size::WIRE_OVERHEAD;
use protocol::units::Bitrate;
use service::metrics::{
    counted, counter, counters, gauge, gauges, histogram, raise, rate, register,
};
use transport::port::Dropped;

use channel::ByChannel;
pub use channel::ChannelMetrics;
use stored::Stored;
pub(crate) use viewers::{Distributions, PerViewer, Row, STATES, worst};

use crate::apart::Usage;
use crate::events::Events;
use crate::media::EncoderStats;

/// All that a broadcaster counts.
pub(crate) struct Metrics {
    /// Where the metrics listener reads.
    pub registry: Registry,
    /// What happened, beside the numbers.
    pub events: Arc<Events>,
    /// What the fan-outs of the live channels count, in the order of their names; one at least.
    pub channels: Vec<Arc<ChannelMetrics>>,
    /// What each live channel is like.
    by_channel: ByChannel,
    /// Viewers that are admitted now.
    pub viewers: IntGauge,
    /// Viewers that lose more than a little.
    pub lossy: IntGauge,
    by_path: IntGaugeVec,
    path_moves: IntCounter,
    nat: IntGaugeVec,
    path_open: Histogram,
    path_attempts: IntCounterVec,
    path_openings: IntCounterVec,
    first_packet: Histogram,
    admissions: IntCounter,
    refusals: IntCounterVec,
    /// Keys that took over from another.
    pub(crate) key_changes: IntCounter,
    departures: IntCounterVec,
    encoder: Encoder,
    source: SourceProcess,
    uplink: Uplink,
    lost: IntCounter,
    unrecovered: IntCounter,
    /// What else became of packets, as [`BECAME`] names it.
    became: [IntCounter; BECAME.len()],
    /// Feedback packets that were authentic.
    pub feedback: IntCounter,
    feedback_dropped: [IntCounter; Unheard::ALL.len()],
    /// How reception is, over all viewers.
    pub distributions: Distributions,
    /// Series of single viewers.
    pub per_viewer: PerViewer,
    /// Viewers whose media is paused for want of feedback.
    pub paused: IntGauge,
    /// Stored files.
    pub stored: Stored,
    allocated: IntGauge,
    /// What the port dropped, once it is open.
    pub(crate) dropped: Arc<OnceLock<Arc<Dropped>>>,
}

/// What became of the encoders' work, by channel.
struct Encoder {
    frames_in: IntCounterVec,
    frames_encoded: IntCounterVec,
    frames_dropped: IntCounterVec,
    keyframes: IntCounterVec,
    seconds: Histogram,
    info: IntGaugeVec,
    /// By rendition.
    watched: IntGaugeVec,
    rates: GaugeVec,
    set_to: GaugeVec,
    /// The element that encodes a channel's pictures.
    names: Mutex<BTreeMap<String, String>>,
}

/// What the processes that capture and encode use, by channel.
struct SourceProcess {
    cpu: CounterVec,
    cpu_before: Mutex<BTreeMap<String, f64>>,
    resident: GaugeVec,
}

/// What of the uplink is used.
struct Uplink {
    budget: Gauge,
    used: Gauge,
    is_full: IntGauge,
    used_before: Mutex<Option<(Instant, u64)>>,
    late_before: AtomicU64,
}

/// What viewers report of packets beside those lost and those unrecovered: the `what` label.
const BECAME: [&str; 6] =
    ["received", "recovered_nack", "recovered_fec", "duplicate", "late", "corrupt"];

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

/// Why an admitted viewer is gone: the `reason` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It said goodbye.
    Left,
    /// Its path or its connection was lost.
    Lost,
    /// The broadcast ended.
    Ended,
    /// It was sent away.
    Removed,
}

impl Departure {
    const ALL: [Self; 4] = [Self::Left, Self::Lost, Self::Ended, Self::Removed];

    /// The label's value.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Lost => "lost",
            Self::Ended => "ended",
            Self::Removed => "removed",
        }
    }
}

/// How an attempt to open a path ended: the `result` label.
const RESULTS: [&str; 2] = ["opened", "failed"];

/// Buckets of times from an introduction on, in seconds.
const OPENING: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 15.0];

/// Buckets of times that encoding takes, in seconds: a picture has 33 ms at 30 a second.
const ENCODING: [f64; 10] = [0.001, 0.002, 0.004, 0.008, 0.012, 0.016, 0.024, 0.033, 0.05, 0.1];

impl Metrics {
    /// Metrics of live channels of these names in this registry, with series of single viewers for at most so many.
    /// Where there are no such channels, the first name stands for stored files.
    pub(crate) fn new(registry: Registry, viewer_series: usize, channels: &[&str]) -> Self {
        let r = &registry;
        let by_channel = ByChannel::new(r);
        let [first, others @ ..] = channels else { panic!("no channel has a name") };
        let first = ChannelMetrics::new(r, &by_channel, first);
        let others = others.iter().map(|name| first.another(&by_channel, name));
        let others: Vec<_> = others.map(Arc::new).collect();
        let became = counters(
            r,
            "punchcast_viewer_packets_total",
            "What became of packets by the reports of all viewers: those that arrived (received; \
             recovered ones are among them), lost ones that a retransmission or a repair packet brought \
             back, duplicates, ones that came after their deadline, and ones that were not authentic.",
            "what",
            BECAME,
        );
        let unheard = counters(
            r,
            "punchcast_feedback_packets_dropped_total",
            "Datagrams dropped that begin like feedback, by reason.",
            "reason",
            Unheard::ALL.map(Unheard::as_str),
        );
        let dropped = Arc::<OnceLock<Arc<Dropped>>>::default();
        let of_port = Arc::clone(&dropped);
        counted(
            r,
            "punchcast_datagrams_dropped_total",
            "Datagrams that the port dropped unread, by reason: QUIC from an address that nobody was introduced \
             at (stranger), QUIC beyond what may wait (overflow), or a first byte of nothing that is spoken \
             there (unknown).",
            "reason",
            move || {
                of_port.get().map_or_else(|| Dropped::default().by_reason(), |at| at.by_reason())
            },
        );
        let refusals = Refusal::ALL.map(Refusal::as_str);
        let paths = CandidateKind::ALL.map(CandidateKind::as_str);
        Self {
            events: Arc::default(),
            stored: Stored::new(r),
            allocated: gauge(
                r,
                "punchcast_heap_allocated_bytes",
                "Bytes of the heap that hold something, as the C library counts them; 0 where it does not.",
            ),
            channels: [Arc::new(first)].into_iter().chain(others).collect(),
            by_channel,
            viewers: gauge(r, "punchcast_viewers", "Viewers admitted now."),
            lossy: gauge(
                r,
                "punchcast_viewers_lossy",
                "Viewers that lost more than 2% of their packets, before repair, in the last seconds.",
            ),
            by_path: gauges(
                r,
                "punchcast_viewers_by_path",
                "Viewers admitted now, by the worse end's kind of candidate of their path.",
                "path",
                paths,
            ),
            path_moves: counter(
                r,
                "punchcast_path_moves_total",
                "Times that a viewer's path moved: a better one was found, or an address changed.",
            ),
            nat: nat_info(r),
            path_open: histogram(
                r,
                "punchcast_path_open_seconds",
                "From introduction received to path proved, of paths that opened.",
                &OPENING,
            ),
            path_attempts: counters(
                r,
                "punchcast_path_attempts_total",
                "Introductions that came to an end of opening, by result. A viewer that goes away before \
                 is not counted.",
                "result",
                RESULTS,
            ),
            path_openings: path_openings(r),
            first_packet: histogram(
                r,
                "punchcast_first_packet_seconds",
                "From introduction received to the viewer's place in the stream, from where on media is \
                 sent to it at once.",
                &OPENING,
            ),
            key_changes: counter(
                r,
                "punchcast_key_changes_total",
                "Times that another key took over in a live channel.",
            ),
            admissions: counter(
                r,
                "punchcast_admissions_total",
                "Viewers admitted. One that comes back with a new introduction counts again; one whose \
                 path was renewed does not.",
            ),
            refusals: counters(
                r,
                "punchcast_refusals_total",
                "Requests of viewers refused, by reason; one viewer may ask several times.",
                "reason",
                refusals,
            ),
            departures: counters(
                r,
                "punchcast_departures_total",
                "Admitted viewers that are gone: they said goodbye (left), their path or connection was \
                 lost, the broadcast ended, or they were removed (reserved).",
                "reason",
                Departure::ALL.map(Departure::as_str),
            ),
            encoder: Encoder::new(r, channels),
            source: SourceProcess::new(r, channels),
            uplink: Uplink::new(r),
            became: BECAME.map(|what| became.with_label_values(&[what])),
            lost: counter(
                r,
                "punchcast_viewer_packets_lost_total",
                "Packets that viewers reported as lost on the network, before repair, over all \
                 viewers.",
            ),
            unrecovered: counter(
                r,
                "punchcast_viewer_packets_unrecovered_total",
                "Packets that viewers reported as missing at their deadline, over all viewers.",
            ),
            feedback: counter(
                r,
                "punchcast_feedback_packets_total",
                "Authentic feedback packets of all viewers: reports and requests for repair.",
            ),
            feedback_dropped: Unheard::ALL
                .map(|reason| unheard.with_label_values(&[reason.as_str()])),
            distributions: Distributions::new(r),
            per_viewer: register(r, PerViewer::new(viewer_series)),
            paused: gauge(
                r,
                "punchcast_viewers_paused",
                "Viewers whose media is paused because they have said nothing for 3 s.",
            ),
            dropped,
            registry,
        }
    }

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

    /// A path to a viewer behind such a NAT opened after this time; or none did.
    pub(crate) fn attempt(&self, nat: Kind, opened: Option<Duration>) {
        let [success, failure] = RESULTS;
        if let Some(took) = opened {
            self.path_open.observe(took.as_secs_f64());
        }
        let result = if opened.is_some() { success } else { failure };
        self.path_attempts.with_label_values(&[result]).inc();
        self.path_openings.with_label_values(&[nat.as_str(), result]).inc();
    }

    /// A viewer was admitted, so long after it was introduced.
    pub(crate) fn admit(&self, after: Duration) {
        self.viewers.inc();
        self.admissions.inc();
        self.first_packet.observe(after.as_secs_f64());
    }

    /// An admitted viewer is gone.
    pub(crate) fn depart(&self, why: Departure) {
        self.viewers.dec();
        self.departures.with_label_values(&[why.as_str()]).inc();
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
            (now.received, before.received),
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

    /// Whether the channel's source runs.
    pub(crate) fn source_live(&self, channel: &str, is_live: bool) {
        self.by_channel.source_live.with_label_values(&[channel]).set(is_live.into());
    }

    /// Of a channel that is over nothing is said any more: what stands still would look like a fault.
    pub(crate) fn over(&self, channel: &str) {
        self.by_channel.over(channel);
        self.encodes_with(channel, None);
        let Encoder { frames_in, frames_encoded, frames_dropped, keyframes, .. } = &self.encoder;
        for counters in [frames_in, frames_encoded, frames_dropped, keyframes] {
            // It is gone already, each time but the first.
            let _ = counters.remove_label_values(&[channel]);
        }
        let _ = self.source.resident.remove_label_values(&[channel]);
    }

    /// What the channel's encoder did so far, and how long the latest pictures took.
    pub(crate) fn encoded(&self, channel: &str, stats: &EncoderStats, times: &[Duration]) {
        let encoder = &self.encoder;
        for (counter, count) in [
            (&encoder.frames_in, stats.frames_in),
            (&encoder.frames_encoded, stats.frames_encoded),
            (&encoder.frames_dropped, stats.frames_dropped),
            (&encoder.keyframes, stats.keyframes),
        ] {
            raise(&counter.with_label_values(&[channel]), count);
        }
        times.iter().for_each(|time| encoder.seconds.observe(time.as_secs_f64()));
    }

    /// The element that encodes the channel's pictures, where one does.
    pub(crate) fn encodes_with(&self, channel: &str, encoder: Option<&str>) {
        let known = &self.encoder.info;
        let mut names = self.encoder.names.lock().unwrap_or_else(PoisonError::into_inner);
        let before = names.get(channel);
        if before.map(String::as_str) == encoder {
            return;
        }
        if let Some(before) = before {
            // It was set when the name was kept.
            let _ = known.remove_label_values(&[channel, before]);
        }
        names.remove(channel);
        if let Some(encoder) = encoder {
            known.with_label_values(&[channel, encoder]).set(1);
            names.insert(channel.to_owned(), encoder.to_owned());
        }
    }

    /// What the encoder of each of the channel's renditions is set to, by its name; of the only one, none.
    pub(crate) fn is_set_to(&self, channel: &str, rates: &[(Option<Arc<str>>, Bitrate)]) {
        for (name, rate) in rates {
            let name = name.as_deref().unwrap_or_default();
            self.encoder.set_to.with_label_values(&[channel, name]).set(rate.as_bytes_per_second());
        }
    }

    /// For each rendition of the channel, by its name: how many watch it, and what it needs, which is nothing where it
    /// is not encoded.
    pub(crate) fn renditions<'a>(
        &self,
        channel: &str,
        all: impl Iterator<Item = (&'a str, usize, Bitrate)>,
    ) {
        for (name, viewers, rate) in all {
            self.encoder.watched.with_label_values(&[channel, name]).set(viewers as i64);
            let rate = rate.as_bytes_per_second();
            self.encoder.rates.with_label_values(&[channel, name]).set(rate);
        }
    }

    /// What the process of the channel's source has used so far; another one's begins at nothing.
    pub(crate) fn source_uses(&self, channel: &str, usage: Usage) {
        let seconds = usage.cpu.as_secs_f64();
        let mut known = self.source.cpu_before.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.insert(channel.to_owned(), seconds).unwrap_or(0.0);
        drop(known);
        let used = if seconds >= before { seconds - before } else { seconds };
        self.source.cpu.with_label_values(&[channel]).inc_by(used);
        self.source.resident.with_label_values(&[channel]).set(usage.resident as f64);
    }

    /// Those of a channel that is made for one viewer.
    pub(crate) fn for_playout(&self) -> ChannelMetrics {
        let [any, ..] = &self.channels[..] else { return ChannelMetrics::default() };
        any.for_playout()
    }

    /// Media packets handed to the kernel so far, and bytes of UDP payload of them: of all channels.
    fn sent(&self) -> (u64, u64) {
        self.channels.first().map_or((0, 0), |channel| channel.sent())
    }

    /// Measures the uplink's use since the call before. Once a second, whoever scrapes.
    pub(crate) fn measure_uplink(&self) -> Bitrate {
        let now = Instant::now();
        let (packets, bytes) = self.sent();
        let bytes = bytes + packets * WIRE_OVERHEAD as u64;
        let mut used = self.uplink.used_before.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, before)) = used.replace((now, bytes)) {
            let seconds = now.duration_since(at).as_secs_f64().max(0.001);
            self.uplink.used.set((bytes - before) as f64 / seconds);
        }
        self.uplink_used()
    }

    /// What was sent in the last second.
    pub(crate) fn uplink_used(&self) -> Bitrate {
        Bitrate::bits_per_second((self.uplink.used.get() * 8.0) as u64)
    }

    /// What one viewer needs of the uplink, and whether packets were dropped since this was asked last because
    /// they had waited too long for it.
    pub(crate) fn uplink_needs(&self) -> (Bitrate, bool) {
        let late = self.channels.first().map_or(0, |channel| channel.late());
        let before = self.uplink.late_before.swap(late, Ordering::Relaxed);
        let streams = self.channels.iter().map(|channel| channel.stream());
        (streams.max().unwrap_or(Bitrate::bits_per_second(0)), late > before)
    }

    /// What the uplink carries, if that is known, and whether most viewers suffer at once.
    pub(crate) fn set_uplink(&self, rate: Option<Bitrate>, is_full: bool) {
        self.uplink.budget.set(rate.map_or(0.0, Bitrate::as_bytes_per_second));
        self.uplink.is_full.set(is_full.into());
    }

    /// Sets what is not counted as it happens. Before each scrape.
    pub(crate) fn refresh(&self) {
        let now = Instant::now();
        self.channels.iter().for_each(|channel| channel.refresh(now));
        self.allocated.set(transport::kernel::allocated().unwrap_or_default() as i64);
    }

    /// For the status page: packets sent, bytes sent, lost, recovered, unrecovered, admitted, refused,
    /// openings that failed.
    pub(crate) fn totals(&self) -> serde_json::Value {
        let (packets_sent, bytes_sent) = self.sent();
        let [_, nack, fec, ..] = &self.became;
        let refused: u64 =
            Refusal::ALL.iter().map(|r| self.refusals.with_label_values(&[r.as_str()]).get()).sum();
        serde_json::json!({
            "packets_sent": packets_sent,
            "bytes_sent": bytes_sent,
            "lost": self.lost.get(),
            "recovered": nack.get() + fec.get(),
            "unrecovered": self.unrecovered.get(),
            "admitted": self.admissions.get(),
            "refused": refused,
            "openings_failed": self.path_attempts.with_label_values(&[RESULTS[1]]).get(),
        })
    }
}

fn nat_info(registry: &Registry) -> IntGaugeVec {
    let opts = Opts::new(
        "punchcast_nat_info",
        "1 for what the NAT or firewall before this broadcaster does, as far as it is known.",
    );
    let labels = ["kind", "mapping", "filtering", "ports"];
    let info = register(registry, IntGaugeVec::new(opts, &labels).expect("a legal name"));
    info.with_label_values(&["unknown"; 4]).set(1);
    info
}

fn path_openings(registry: &Registry) -> IntCounterVec {
    let opts = Opts::new(
        "punchcast_path_openings_total",
        "Introductions that came to an end of opening, by the kind of the viewer's NAT, as far as the \
         viewer knew it, and by result.",
    );
    let openings = IntCounterVec::new(opts, &["nat", "result"]).expect("a legal name");
    for nat in Kind::KNOWN.into_iter().chain([Kind::Unknown]) {
        for result in RESULTS {
            openings.with_label_values(&[nat.as_str(), result]);
        }
    }
    register(registry, openings)
}

impl Encoder {
    fn new(r: &Registry, channels: &[&str]) -> Self {
        let counter = |name, help| counters(r, name, help, "channel", channels.iter().copied());
        let info = IntGaugeVec::new(
            Opts::new(
                "punchcast_encoder_info",
                "1 for the GStreamer element that encodes pictures; nothing where the source comes \
                 encoded.",
            ),
            &["channel", "encoder"],
        );
        let watched = IntGaugeVec::new(
            Opts::new(
                "punchcast_rendition_viewers",
                "Viewers of each rendition, where the picture comes in several sizes.",
            ),
            &["channel", "rendition"],
        );
        let rates = GaugeVec::new(
            Opts::new(
                "punchcast_rendition_bytes_per_second",
                "What each viewer of a rendition is sent, sound and headers included; 0 where nobody watches it, so \
                 that it is not encoded.",
            ),
            &["channel", "rendition"],
        );
        let set_to = GaugeVec::new(
            Opts::new(
                "punchcast_encoder_bitrate_bytes_per_second",
                "What the encoder of pictures is set to make, headers and sound not included: as configured, or as \
                 `punchcast-broadcaster bitrate` has set it; nothing where the source comes encoded. The rendition is \
                 empty where the picture comes in one size.",
            ),
            &["channel", "rendition"],
        );
        Self {
            set_to: register(r, set_to.expect("a legal name")),
            watched: register(r, watched.expect("a legal name")),
            rates: register(r, rates.expect("a legal name")),
            frames_in: counter(
                "punchcast_encoder_frames_in_total",
                "Pictures given to the encoder since the start; of a source that comes encoded, its \
                 coded pictures.",
            ),
            frames_encoded: counter(
                "punchcast_encoder_frames_encoded_total",
                "Coded pictures since the start.",
            ),
            frames_dropped: counter(
                "punchcast_encoder_frames_dropped_total",
                "Pictures of a live source that were dropped because the encoder was behind. Those left \
                 out because the source gives more a second than is encoded are not among them.",
            ),
            keyframes: counter("punchcast_encoder_keyframes_total", "Keyframes since the start."),
            seconds: histogram(
                r,
                "punchcast_encoder_seconds",
                "From a picture's way into the encoder to its way out, coded; nothing where the source \
                 comes encoded.",
                &ENCODING,
            ),
            info: register(r, info.expect("a legal name")),
            names: Mutex::default(),
        }
    }
}

impl SourceProcess {
    fn new(r: &Registry, channels: &[&str]) -> Self {
        let cpu = Opts::new(
            "punchcast_source_cpu_seconds_total",
            "Processor time of the process that captures and encodes, which process_cpu_seconds_total \
             leaves out; of all such processes since the start.",
        );
        let resident = Opts::new(
            "punchcast_source_resident_memory_bytes",
            "Memory of the process that captures and encodes; 0 while there is none.",
        );
        let labels = ["channel"];
        let cpu = CounterVec::new(cpu, &labels).expect("a legal name");
        let resident = GaugeVec::new(resident, &labels).expect("a legal name");
        for channel in channels {
            cpu.with_label_values(&[channel]);
            resident.with_label_values(&[channel]);
        }
        Self {
            cpu: register(r, cpu),
            cpu_before: Mutex::default(),
            resident: register(r, resident),
        }
    }
}

impl Uplink {
    fn new(r: &Registry) -> Self {
        Self {
            budget: rate(
                r,
                "punchcast_uplink_budget_bytes_per_second",
                "What the uplink carries: as --uplink says, or as estimated; 0 while nothing says that \
                 it is the limit.",
            ),
            used: rate(
                r,
                "punchcast_uplink_used_bytes_per_second",
                "Media bytes handed to the kernel, headers included, over the last second.",
            ),
            is_full: gauge(
                r,
                "punchcast_uplink_full",
                "1 while most viewers suffer at once: then it is our uplink, and not their paths.",
            ),
            used_before: Mutex::new(None),
            late_before: AtomicU64::new(0),
        }
    }
}

/// All metrics of a broadcaster, each with a sample, for the documentation.
pub fn described_metrics() -> Vec<prometheus::proto::MetricFamily> {
    let metrics = Metrics::new(service::metrics::registry("broadcaster"), 1, &["live"]);
    let rows = CandidateKind::ALL.map(|kind| Row {
        viewer: protocol::channel::ViewerId(1),
        path: kind.as_str(),
        state: viewers::STATES[kind as usize % viewers::STATES.len()],
        standing: 0.0,
        fraction_lost: Some(0.0),
        rtt: Some(Duration::ZERO),
        jitter: Some(Duration::ZERO),
        latency: Some(Duration::ZERO),
        totals: Totals::default(),
    });
    metrics.per_viewer.show_all(rows.into());
    metrics.source_live("live", true);
    metrics.encodes_with("live", Some("x264enc"));
    metrics.renditions("live", [("480p", 0, Bitrate::bits_per_second(0))].into_iter());
    metrics.is_set_to("live", &[(Some("480p".into()), Bitrate::bits_per_second(0))]);
    metrics.registry.gather()
}
