//! What the rendezvous counts.

use std::sync::{Arc, OnceLock};

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};
use protocol::signalling::Refusal;
use serde_json::{Map, Value};
use transport::port::Dropped;

/// Counters and gauges of one rendezvous.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) introductions: IntCounter,
    pub(crate) broadcasters: IntGauge,
    pub(crate) connections: IntGauge,
    pub(crate) registrations: IntCounter,
    pub(crate) stun_answers: IntCounter,
    pub(crate) relay_allocations: IntGauge,
    pub(crate) relay_allocations_total: IntCounter,
    pub(crate) relay_bytes: IntCounter,
    rejected: IntCounterVec,
    relay_rejected: IntCounterVec,
    /// What the port dropped, once it is open.
    pub(crate) dropped: Arc<OnceLock<Arc<Dropped>>>,
}

/// Why something was rejected: the labels of `punchcast_rendezvous_rejected_total`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rejection {
    /// Answered with a refusal.
    Refused(Refusal),
    /// A QUIC connection beyond the limit, or one that never completed.
    Connection,
    /// A STUN request beyond the rate, or none that is answered.
    Stun,
}

/// Why the relay rejected something: the labels of `punchcast_relay_rejected_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RelayRejection {
    /// Wrong or expired credentials (401, 441).
    Unauthorized,
    /// A peer that is not relayed to (403), asked for or sent to.
    Forbidden,
    /// As many allocations as one viewer may hold (486).
    Quota,
    /// As many allocations, permissions or channels as there may be (508).
    Capacity,
    /// A request that does not fit (any other code).
    Request,
    /// A stranger's request beyond the rate of answers.
    Stranger,
    /// A datagram beyond the rate of its viewer, or of all.
    Rate,
    /// A datagram from or to a peer without a permission.
    Permission,
    /// A datagram that the kernel had no room or no way for.
    Congestion,
}

impl RelayRejection {
    const ALL: [Self; 9] = [
        Self::Unauthorized,
        Self::Forbidden,
        Self::Quota,
        Self::Capacity,
        Self::Request,
        Self::Stranger,
        Self::Rate,
        Self::Permission,
        Self::Congestion,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Quota => "quota",
            Self::Capacity => "capacity",
            Self::Request => "request",
            Self::Stranger => "stranger",
            Self::Rate => "rate",
            Self::Permission => "permission",
            Self::Congestion => "congestion",
        }
    }
}

impl Metrics {
    /// Metrics in this registry.
    pub(crate) fn new(registry: Registry) -> Self {
        let counter = |name: &str, help: &str| service::metrics::counter(&registry, name, help);
        let gauge = |name: &str, help: &str| service::metrics::gauge(&registry, name, help);
        let dropped = Arc::<OnceLock<Arc<Dropped>>>::default();
        let of_port = Arc::clone(&dropped);
        service::metrics::counted(
            &registry,
            "punchcast_rendezvous_datagrams_dropped_total",
            "Datagrams that the port dropped unread, by reason: QUIC beyond what may wait (overflow), or a first \
             byte of nothing that is spoken there (unknown). No QUIC is a stranger's here.",
            "reason",
            move || {
                of_port.get().map_or_else(|| Dropped::default().by_reason(), |at| at.by_reason())
            },
        );
        let introductions = counter(
            "punchcast_rendezvous_introductions_total",
            "Introductions sent to both parties; whether their path opened is not known here.",
        );
        let registrations = counter(
            "punchcast_rendezvous_registrations_total",
            "Registrations taken, those of returning broadcasters included.",
        );
        let stun_answers = counter(
            "punchcast_rendezvous_stun_answers_total",
            "STUN Binding requests answered with the requester's address.",
        );
        let relay_allocations_total = counter(
            "punchcast_relay_allocations_total",
            "Relayed addresses given out by the embedded relay; refreshing one does not count again.",
        );
        let relay_bytes = counter(
            "punchcast_relay_bytes_total",
            "UDP payload that the embedded relay passed on in either direction, without its framing.",
        );
        let relay_allocations = gauge(
            "punchcast_relay_allocations",
            "Relayed addresses that the embedded relay holds now.",
        );
        let broadcasters =
            gauge("punchcast_rendezvous_broadcasters", "Broadcasters registered now.");
        let connections = gauge(
            "punchcast_rendezvous_connections",
            "QUIC connections open now, broadcasters and viewers.",
        );
        let refusals = [
            Refusal::UnknownBroadcaster,
            Refusal::NoKey,
            Refusal::Busy,
            Refusal::Unexpected,
            Refusal::NotListed,
        ];
        let reasons = refusals.into_iter().map(Rejection::Refused);
        let rejected = service::metrics::counters(
            &registry,
            "punchcast_rendezvous_rejected_total",
            "Requests rejected, by reason; datagrams that are neither STUN nor QUIC are not counted.",
            "reason",
            reasons.chain([Rejection::Connection, Rejection::Stun]).map(label),
        );
        let relay_rejected = service::metrics::counters(
            &registry,
            "punchcast_relay_rejected_total",
            "Requests and datagrams that the embedded relay rejected, by reason; the challenges that \
             begin every allocation are not counted.",
            "reason",
            RelayRejection::ALL.map(RelayRejection::as_str),
        );
        Self {
            registry,
            introductions,
            broadcasters,
            connections,
            registrations,
            stun_answers,
            relay_allocations,
            relay_allocations_total,
            relay_bytes,
            rejected,
            relay_rejected,
            dropped,
        }
    }

    /// What the status page tells.
    pub(crate) fn facts(&self) -> Map<String, Value> {
        let facts = [
            ("Broadcasters", self.broadcasters.get().to_string()),
            ("Connections", self.connections.get().to_string()),
            ("Introductions", self.introductions.get().to_string()),
            ("STUN answers", self.stun_answers.get().to_string()),
            ("Relayed addresses", self.relay_allocations.get().to_string()),
            ("Bytes relayed", self.relay_bytes.get().to_string()),
        ];
        Map::from_iter([("facts".to_owned(), serde_json::json!(facts))])
    }

    pub(crate) fn reject_relaying(&self, reason: RelayRejection) {
        self.relay_rejected.with_label_values(&[reason.as_str()]).inc();
    }

    #[cfg(test)]
    pub(crate) fn relay_rejected(&self, reason: RelayRejection) -> u64 {
        self.relay_rejected.with_label_values(&[reason.as_str()]).get()
    }

    pub(crate) fn reject(&self, reason: Rejection) {
        self.rejected.with_label_values(&[label(reason)]).inc();
    }
}

fn label(reason: Rejection) -> &'static str {
    match reason {
        Rejection::Refused(refusal) => refusal.as_str(),
        Rejection::Connection => "connection",
        Rejection::Stun => "stun",
    }
}

/// All metrics of a rendezvous, for the documentation.
pub fn described_metrics() -> Vec<prometheus::proto::MetricFamily> {
    Metrics::new(service::metrics::registry("rendezvous")).registry.gather()
}
