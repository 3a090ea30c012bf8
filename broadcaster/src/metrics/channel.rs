//! What one channel's fan-out counts. Counters are those of all channels together; what a channel is like at the
//! moment is its own.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use prometheus::{
    Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use protocol::units::Bitrate;
use service::metrics::{counter, counters, gauge, register};
use transport::kernel::Sent;

/// Renditions of one channel, at most.
const MOST_RENDITIONS: usize = 3;

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
    pub history_bytes: Part,
    /// Viewers that are catching up.
    pub joining: Part,
    /// Viewers whose path does not carry the stream.
    pub limited: Part,
    /// Packets that those were not sent.
    pub left_out: IntCounter,
    /// Bytes of the stream so far, and packets.
    pub published: AtomicU64,
    published_packets: AtomicU64,
    /// What the stream needs for each viewer; of several renditions, the largest.
    pub live_rate: Gauge,
    /// What each rendition needs, in bits a second.
    rates: [AtomicU64; MOST_RENDITIONS],
    /// Which are encoded, as bits.
    pub(crate) encoded: AtomicU32,
    /// Viewers that went on with another rendition.
    pub switched: IntCounter,
    /// Media that waits for the uplink.
    pub pacing_queue: Part,
    /// Packets waiting to be sent again.
    pub repair_queue: Part,
    /// Viewers that have a place.
    pub(crate) viewers: IntGauge,
    gop: Gop,
}

/// One channel's part of what a gauge says of all of them together.
#[derive(Debug)]
pub struct Part {
    all: IntGauge,
    own: AtomicI64,
}

impl Part {
    fn of(all: IntGauge) -> Self {
        Self { all, own: AtomicI64::new(0) }
    }

    /// Another channel's.
    fn another(&self) -> Self {
        Self::of(self.all.clone())
    }

    /// This channel's part is so much.
    pub fn set(&self, value: i64) {
        let before = self.own.swap(value, Ordering::Relaxed);
        self.all.add(value - before);
    }

    /// This channel's part.
    pub fn get(&self) -> i64 {
        self.own.load(Ordering::Relaxed)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// What each channel has for its own, by its name: the `channel` label.
#[derive(Debug)]
pub(super) struct ByChannel {
    viewers: IntGaugeVec,
    pub(super) source_live: IntGaugeVec,
    live_rate: GaugeVec,
    gop_seconds: GaugeVec,
    gop_bytes: IntGaugeVec,
    keyframe_age: GaugeVec,
}

impl ByChannel {
    /// Of this one nothing is said any more.
    pub(super) fn over(&self, name: &str) {
        for gauges in [&self.live_rate, &self.gop_seconds, &self.keyframe_age] {
            // It is gone already, each time but the first.
            let _ = gauges.remove_label_values(&[name]);
        }
        for gauges in [&self.viewers, &self.source_live, &self.gop_bytes] {
            let _ = gauges.remove_label_values(&[name]);
        }
    }

    pub(super) fn new(registry: &Registry) -> Self {
        let labels = ["channel"];
        let rates = |name, help| {
            let rates = GaugeVec::new(Opts::new(name, help), &labels);
            register(registry, rates.expect("a legal name"))
        };
        let gauges = |name, help| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), &labels);
            register(registry, gauges.expect("a legal name"))
        };
        Self {
            viewers: gauges("punchcast_channel_viewers", "Viewers of each live channel."),
            source_live: gauges(
                "punchcast_source_live",
                "1 while the channel's source runs; 0 before it first does, and while it is away and started again.",
            ),
            live_rate: rates(
                "punchcast_channel_bytes_per_second",
                "What the channel needs for each viewer, headers included, over the last 2 s.",
            ),
            gop_seconds: rates(
                "punchcast_gop_seconds",
                "Time from the last keyframe but one to the last, of the first track with pictures; 0 before \
                 there were two, and where there is sound alone.",
            ),
            gop_bytes: gauges(
                "punchcast_gop_bytes",
                "Bytes of all tracks in that time: what a viewer may have to get before its first \
                 picture.",
            ),
            keyframe_age: rates(
                "punchcast_keyframe_age_seconds",
                "Time since the last keyframe of the first track with pictures, or, before there was one, since \
                 its first picture; 0 where there is sound alone.",
            ),
        }
    }
}

/// From keyframe to keyframe.
#[derive(Debug)]
struct Gop {
    seconds: Gauge,
    bytes: IntGauge,
    age: Gauge,
    latest: Mutex<Option<Latest>>,
}

impl Gop {
    fn new(by_channel: &ByChannel, name: &str) -> Self {
        Self {
            seconds: by_channel.gop_seconds.with_label_values(&[name]),
            bytes: by_channel.gop_bytes.with_label_values(&[name]),
            age: by_channel.keyframe_age.with_label_values(&[name]),
            latest: Mutex::new(None),
        }
    }
}

/// The latest keyframe, or the first picture before there was one, and the bytes since then.
#[derive(Debug)]
struct Latest {
    at: Instant,
    sum: u64,
    is_keyframe: bool,
}

impl Default for ChannelMetrics {
    /// Counters that nobody scrapes.
    fn default() -> Self {
        let registry = Registry::new();
        Self::new(&registry, &ByChannel::new(&registry), "")
    }
}

impl ChannelMetrics {
    /// Counters of the channel of this name, and of all that are made of it.
    pub(super) fn new(registry: &Registry, by_channel: &ByChannel, name: &str) -> Self {
        let errors = counters(
            registry,
            "punchcast_send_errors_total",
            "Packets that the kernel did not take (blocked: its buffer stayed full; failed: another \
             reason), or that waited too long for the uplink (late); not sent again by us.",
            "reason",
            ["blocked", "failed", "late"],
        );
        let part = |name, help| Part::of(gauge(registry, name, help));
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
            history_bytes: part(
                "punchcast_history_bytes",
                "Bytes of sealed packets kept for joining and repair.",
            ),
            joining: part(
                "punchcast_viewers_joining",
                "Viewers that are catching up with the live edge.",
            ),
            limited: part(
                "punchcast_viewers_limited",
                "Viewers whose path does not carry the stream, so that they are sent less of it.",
            ),
            left_out: counter(
                registry,
                "punchcast_packets_left_out_total",
                "Packets that viewers were not sent because their path does not carry them.",
            ),
            published: AtomicU64::new(0),
            published_packets: AtomicU64::new(0),
            rates: Default::default(),
            encoded: AtomicU32::new(0),
            switched: counter(
                registry,
                "punchcast_rendition_switches_total",
                "Times that a viewer went on with another rendition, as its path carries more or less.",
            ),
            pacing_queue: part(
                "punchcast_pacing_queue_bytes",
                "Live media, to all viewers, that waits for the uplink. What waits longer than 1 s is \
                 dropped (late).",
            ),
            repair_queue: part(
                "punchcast_repair_queue_packets",
                "Packets of all viewers waiting to be sent again, or as repair packets.",
            ),
            live_rate: by_channel.live_rate.with_label_values(&[name]),
            viewers: by_channel.viewers.with_label_values(&[name]),
            gop: Gop::new(by_channel, name),
        }
    }

    /// Those of another live channel.
    pub(super) fn another(&self, by_channel: &ByChannel, name: &str) -> Self {
        Self {
            keyframes_requested: self.keyframes_requested.clone(),
            history_bytes: self.history_bytes.another(),
            joining: self.joining.another(),
            limited: self.limited.another(),
            live_rate: by_channel.live_rate.with_label_values(&[name]),
            switched: self.switched.clone(),
            pacing_queue: self.pacing_queue.another(),
            repair_queue: self.repair_queue.another(),
            viewers: by_channel.viewers.with_label_values(&[name]),
            gop: Gop::new(by_channel, name),
            ..self.for_playout()
        }
    }

    /// For a channel made for one viewer: what it sends counts with the live channels', and what it is like at
    /// the moment is its own.
    pub fn for_playout(&self) -> Self {
        let own = Self::default();
        Self {
            packets: self.packets.clone(),
            bytes: self.bytes.clone(),
            errors: self.errors.clone(),
            retransmitted: self.retransmitted.clone(),
            repair_packets: self.repair_packets.clone(),
            repair_bytes: self.repair_bytes.clone(),
            join_bytes: self.join_bytes.clone(),
            bursts_dropped: self.bursts_dropped.clone(),
            requests_dropped: self.requests_dropped.clone(),
            left_out: self.left_out.clone(),
            ..own
        }
    }

    /// Notes an access unit of so many bytes and packets: whether it is of the track whose GOPs are measured, or counts
    /// with them, and whether it is a keyframe.
    pub fn published(
        &self,
        (bytes, packets): (usize, usize),
        (is_picture, is_counted): (bool, bool),
        keyframe: bool,
        now: Instant,
    ) {
        let bytes = bytes as u64;
        self.published.fetch_add(bytes, Ordering::Relaxed);
        self.published_packets.fetch_add(packets as u64, Ordering::Relaxed);
        let mut latest = self.gop.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match latest.as_mut() {
            Some(Latest { sum, .. }) if !(is_picture && keyframe) => {
                *sum += if is_counted { bytes } else { 0 };
            }
            Some(Latest { at, sum, is_keyframe }) => {
                if *is_keyframe {
                    self.gop.seconds.set(now.saturating_duration_since(*at).as_secs_f64());
                    self.gop.bytes.set(*sum as i64);
                }
                *latest = Some(Latest { at: now, sum: bytes, is_keyframe: true });
            }
            // Pictures that no keyframe came before are waited with from here on.
            None if is_picture => {
                *latest = Some(Latest { at: now, sum: bytes, is_keyframe: keyframe })
            }
            None => {}
        }
    }

    /// Packets of the stream so far.
    pub fn published_packets(&self) -> u64 {
        self.published_packets.load(Ordering::Relaxed)
    }

    /// Length of the last GOP and age of the last keyframe, in seconds, where there were any.
    pub(crate) fn gop(&self, now: Instant) -> (Option<f64>, Option<f64>) {
        let latest = self.gop.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let age =
            latest.as_ref().map(|latest| now.saturating_duration_since(latest.at).as_secs_f64());
        (Some(self.gop.seconds.get()).filter(|seconds| *seconds > 0.0), age)
    }

    /// Sets what grows by itself. Before each scrape.
    pub(super) fn refresh(&self, now: Instant) {
        self.gop.age.set(self.gop(now).1.unwrap_or(0.0));
    }

    /// Packets handed to the kernel so far, and bytes of UDP payload of them.
    pub fn sent(&self) -> (u64, u64) {
        (self.packets.get(), self.bytes.get())
    }

    /// Packets dropped so far because they had waited too long for the uplink.
    pub(super) fn late(&self) -> u64 {
        self.errors.with_label_values(&["late"]).get()
    }

    /// What who watches this rendition needs now. Beyond the most that there may be, nothing is kept.
    pub fn set_rate(&self, rendition: usize, rate: Bitrate) {
        if let Some(kept) = self.rates.get(rendition) {
            kept.store(rate.as_bits_per_second(), Ordering::Relaxed);
        }
    }

    /// What who watches this rendition needs.
    pub fn stream_of(&self, rendition: usize) -> Bitrate {
        let rate = self.rates.get(rendition).map(|rate| rate.load(Ordering::Relaxed));
        Bitrate::bits_per_second(rate.unwrap_or(0))
    }

    /// What the stream needs for each viewer; of several renditions, the largest.
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
