//! How viewers receive: distributions over all of them, and series of the worst ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Histogram, Registry};
use protocol::channel::ViewerId;
use protocol::feedback::Totals;
use service::metrics::histogram;

/// Buckets of shares of packets.
const SHARES: [f64; 12] = [0.0, 0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0];

/// Buckets of times on the network, in seconds.
const NETWORK: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0];

/// Buckets of latencies, in seconds.
const LATENCY: [f64; 12] = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0];

/// What is done for a viewer: the `state` label.
pub(crate) const STATES: [&str; 4] = ["joining", "playing", "paused", "limited"];

/// How reception is, over all viewers: each is looked at once a second.
pub(crate) struct Distributions {
    loss: Histogram,
    unrecovered: Histogram,
    rtt: Histogram,
    jitter: Histogram,
    latency: Histogram,
}

impl Distributions {
    pub(super) fn new(r: &Registry) -> Self {
        let each = "One observation a second for each viewer that reports.";
        let shares =
            |name: &str, help: &str| histogram(r, name, &format!("{help} {each}"), &SHARES);
        let times = |name: &str, help: &str, buckets: &[f64]| {
            histogram(r, name, &format!("{help} {each}"), buckets)
        };
        Self {
            loss: shares(
                "punchcast_loss_ratio",
                "Share of packets that viewers lost on the network, before repair, 0 to 1.",
            ),
            unrecovered: shares(
                "punchcast_unrecovered_ratio",
                "Share of packets that viewers missed at their deadline, 0 to 1.",
            ),
            rtt: times("punchcast_rtt_seconds", "Round-trip times to viewers.", &NETWORK),
            jitter: times(
                "punchcast_jitter_seconds",
                "Interarrival jitter of viewers' video (RFC 3550).",
                &NETWORK,
            ),
            latency: times(
                "punchcast_latency_seconds",
                "From capture to output, as viewers estimate it.",
                &LATENCY,
            ),
        }
    }

    /// One viewer, over the last second: shares of packets lost and missing, where any were expected, and
    /// times.
    pub(crate) fn observe(
        &self,
        shares: Option<(f64, f64)>,
        (rtt, jitter): (Duration, Duration),
        latency: Option<Duration>,
    ) {
        if let Some((loss, unrecovered)) = shares {
            self.loss.observe(loss);
            self.unrecovered.observe(unrecovered);
        }
        self.rtt.observe(rtt.as_secs_f64());
        self.jitter.observe(jitter.as_secs_f64());
        if let Some(latency) = latency {
            self.latency.observe(latency.as_secs_f64());
        }
    }
}

/// One viewer as its series show it.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Who.
    pub viewer: ViewerId,
    /// The kind of its path.
    pub path: &'static str,
    /// What is done for it.
    pub state: &'static str,
    /// Its loss over half a minute, by which the worst are found.
    pub standing: f64,
    /// Share of packets lost since the report before its last one, 0 to 1, where it reports.
    pub fraction_lost: Option<f64>,
    /// Round-trip time, once it is known.
    pub rtt: Option<Duration>,
    /// Interarrival jitter of its video, once it is known.
    pub jitter: Option<Duration>,
    /// From capture to output.
    pub latency: Option<Duration>,
    /// Its totals.
    pub totals: Totals,
}

/// Series of single viewers: those with the worst loss. Who they are is known at the scrape only, so they
/// are made then.
#[derive(Clone)]
pub(crate) struct PerViewer {
    rows: Arc<Mutex<Vec<Row>>>,
    most: usize,
    descriptions: Arc<Vec<Desc>>,
}

/// Name, help, and labels beside `viewer`.
const SERIES: [(&str, &str, &[&str]); 6] = [
    (
        "punchcast_viewer_fraction_lost",
        "Share of packets lost before repair by the viewer's last report, 0 to 1; none while its media is \
         paused. Like all series of single viewers, for those with the worst loss over the last half minute \
         only.",
        &[],
    ),
    (
        "punchcast_viewer_rtt_seconds",
        "Round-trip time to the viewer; the viewers with the worst loss only.",
        &[],
    ),
    (
        "punchcast_viewer_jitter_seconds",
        "Interarrival jitter of the viewer's video; the viewers with the worst loss only.",
        &[],
    ),
    (
        "punchcast_viewer_latency_seconds",
        "From capture to output, as the viewer estimates it; the viewers with the worst loss only.",
        &[],
    ),
    (
        "punchcast_viewer_reported_packets_total",
        "Packets by the viewer's reports: received (recovered ones are among them), lost on the network, \
         recovered in time, missing at their deadline; the viewers with the worst loss only.",
        &["what"],
    ),
    (
        "punchcast_viewer_info",
        "Always 1; its labels name the kind of the viewer's path and what is done for it; the viewers \
         with the worst loss only.",
        &["path", "state"],
    ),
];

impl PerViewer {
    pub(super) fn new(most: usize) -> Self {
        let describe = |(name, help, labels): (&str, &str, &[&str])| {
            let labels = std::iter::once("viewer").chain(labels.iter().copied());
            Desc::new(name.into(), help.into(), labels.map(Into::into).collect(), HashMap::new())
                .expect("legal names")
        };
        let descriptions = Arc::new(SERIES.map(describe).into());
        Self { rows: Arc::default(), most, descriptions }
    }

    /// How many viewers have series.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Sets what the next scrape shows: the worst of these.
    pub(crate) fn publish(&self, rows: Vec<Row>) {
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = worst(rows, self.most);
    }
}

impl PerViewer {
    /// Sets all of these, for the documentation.
    pub(super) fn show_all(&self, rows: Vec<Row>) {
        *self.rows.lock().unwrap_or_else(PoisonError::into_inner) = rows;
    }
}

/// So many of them at most, the worst loss first.
pub(crate) fn worst(mut rows: Vec<Row>, most: usize) -> Vec<Row> {
    let by_loss =
        |a: &Row, b: &Row| b.standing.total_cmp(&a.standing).then(a.viewer.cmp(&b.viewer));
    if rows.len() > most {
        rows.select_nth_unstable_by(most, by_loss);
        rows.truncate(most);
    }
    rows.sort_by(by_loss);
    rows
}

fn label(name: &str, value: String) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value);
    pair
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn counter(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

impl Collector for PerViewer {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let viewer = |row: &Row| label("viewer", row.viewer.to_string());
        let gauges = |value: &dyn Fn(&Row) -> Option<f64>| -> Vec<Metric> {
            rows.iter().filter_map(|row| Some(gauge(vec![viewer(row)], value(row)?))).collect()
        };
        let metrics = [
            gauges(&|row| row.fraction_lost),
            gauges(&|row| Some(row.rtt?.as_secs_f64())),
            gauges(&|row| Some(row.jitter?.as_secs_f64())),
            gauges(&|row| Some(row.latency?.as_secs_f64())),
            rows.iter()
                .flat_map(|row| {
                    let Totals {
                        received, lost, recovered_nack, recovered_fec, unrecovered, ..
                    } = row.totals;
                    let recovered = recovered_nack.saturating_add(recovered_fec);
                    [
                        ("received", received),
                        ("lost", lost),
                        ("recovered", recovered),
                        ("unrecovered", unrecovered),
                    ]
                    .map(|(what, count)| {
                        counter(vec![viewer(row), label("what", what.into())], count)
                    })
                })
                .collect(),
            rows.iter()
                .map(|row| {
                    let labels = vec![
                        viewer(row),
                        label("path", row.path.into()),
                        label("state", row.state.into()),
                    ];
                    gauge(labels, 1.0)
                })
                .collect(),
        ];
        let family = |((name, help, _), metrics): ((&str, &str, _), Vec<Metric>)| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            let is_counter = name.ends_with("_total");
            family.set_field_type(if is_counter { MetricType::COUNTER } else { MetricType::GAUGE });
            family.set_metric(metrics);
            family
        };
        let families = SERIES.into_iter().zip(metrics).map(family);
        families.filter(|family| !family.get_metric().is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(viewer: u32, standing: f64) -> Row {
        Row {
            viewer: ViewerId(viewer),
            path: "reflexive",
            state: "playing",
            standing,
            fraction_lost: Some(0.0),
            rtt: Some(Duration::from_millis(40)),
            jitter: Some(Duration::from_millis(1)),
            latency: None,
            totals: Totals { received: 10, lost: 3, ..Totals::default() },
        }
    }

    #[test]
    fn only_the_worst_have_series() {
        let series = PerViewer::new(2);
        assert!(series.collect().is_empty());
        series.publish((0..50).map(|at| row(at, f64::from(at % 7) / 10.0)).collect());
        let families = series.collect();
        let names: Vec<_> = families.iter().map(|family| family.name().to_owned()).collect();
        assert_eq!(names.len(), 5, "no latency is known: {names:?}");
        let viewers: Vec<_> = families[0]
            .get_metric()
            .iter()
            .map(|metric| metric.get_label()[0].value().to_owned())
            .collect();
        assert_eq!(viewers, ["6", "13"], "those that lose most, the first of equals");
        let counts = families.iter().find(|family| family.name().ends_with("_total"));
        let counts = counts.expect("the counters");
        assert_eq!(counts.get_field_type(), MetricType::COUNTER);
        assert_eq!(counts.get_metric().len(), 2 * 4);
    }
}
