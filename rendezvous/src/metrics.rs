//! What the rendezvous counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use protocol::signalling::Refusal;

/// Counters and gauges of one rendezvous.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) introductions: IntCounter,
    pub(crate) broadcasters: IntGauge,
    pub(crate) connections: IntGauge,
    pub(crate) registrations: IntCounter,
    pub(crate) stun_answers: IntCounter,
    rejected: IntCounterVec,
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

impl Metrics {
    pub(crate) fn new() -> Self {
        let registry = service::metrics::registry("rendezvous");
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("a legal name");
            registry.register(Box::new(counter.clone())).expect("the first of its name");
            counter
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("a legal name");
            registry.register(Box::new(gauge.clone())).expect("the first of its name");
            gauge
        };
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
        let broadcasters =
            gauge("punchcast_rendezvous_broadcasters", "Broadcasters registered now.");
        let connections = gauge(
            "punchcast_rendezvous_connections",
            "QUIC connections open now, broadcasters and viewers.",
        );
        let rejected = IntCounterVec::new(
            Opts::new(
                "punchcast_rendezvous_rejected_total",
                "Requests rejected, by reason; datagrams that are neither STUN nor QUIC are not \
                 counted.",
            ),
            &["reason"],
        )
        .expect("a legal name");
        registry.register(Box::new(rejected.clone())).expect("the first of its name");
        let refusals =
            [Refusal::UnknownBroadcaster, Refusal::NoKey, Refusal::Busy, Refusal::Unexpected];
        let all = refusals.into_iter().map(Rejection::Refused);
        for reason in all.chain([Rejection::Connection, Rejection::Stun]) {
            rejected.with_label_values(&[label(reason)]);
        }
        Self {
            registry,
            introductions,
            broadcasters,
            connections,
            registrations,
            stun_answers,
            rejected,
        }
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
