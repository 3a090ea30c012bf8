//! Registries, and metrics put into them.
//!
//! A metric that cannot be registered is a mistake in its name, which the first start shows: the functions
//! here panic on it.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// A registry that names the program and its version, and holds what the process takes of the machine.
pub fn registry(program: &str) -> Registry {
    let registry = Registry::new();
    let labels = [("program", program), ("version", env!("CARGO_PKG_VERSION"))];
    let opts = labels.into_iter().fold(
        Opts::new("punchcast_build_info", "Always 1; its labels name program and version."),
        |opts, (name, value)| opts.const_label(name, value),
    );
    register(&registry, IntGauge::with_opts(opts).expect("the name is legal")).set(1);
    #[cfg(target_os = "linux")]
    {
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process)).expect("the first of its names");
    }
    registry
}

/// Puts a metric into the registry.
pub fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> C {
    registry.register(Box::new(metric.clone())).expect("the first of its name");
    metric
}

/// A counter.
pub fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help).expect("a legal name"))
}

/// A counter for each of these values of its label, all of them there from the start.
pub fn counters<'a>(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: impl IntoIterator<Item = &'a str>,
) -> IntCounterVec {
    let vec = IntCounterVec::new(Opts::new(name, help), &[label]).expect("a legal name");
    for value in values {
        vec.with_label_values(&[value]);
    }
    register(registry, vec)
}

/// A counter for each value of its label, brought up to what was counted elsewhere whenever somebody looks.
pub fn counted<const N: usize>(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    counts: impl Fn() -> [(&'static str, u64); N] + Send + Sync + 'static,
) {
    let counters = IntCounterVec::new(Opts::new(name, help), &[label]).expect("a legal name");
    registry.register(Box::new(Counted { counters, counts })).expect("the first of its name");
}

struct Counted<F> {
    counters: IntCounterVec,
    counts: F,
}

impl<const N: usize, F> Collector for Counted<F>
where
    F: Fn() -> [(&'static str, u64); N] + Send + Sync,
{
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        self.counters.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (value, count) in (self.counts)() {
            raise(&self.counters.with_label_values(&[value]), count);
        }
        self.counters.collect()
    }
}

/// A gauge of whole numbers.
pub fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help).expect("a legal name"))
}

/// A gauge for each of these values of its label, all of them there from the start.
pub fn gauges<'a>(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: impl IntoIterator<Item = &'a str>,
) -> IntGaugeVec {
    let vec = IntGaugeVec::new(Opts::new(name, help), &[label]).expect("a legal name");
    for value in values {
        vec.with_label_values(&[value]);
    }
    register(registry, vec)
}

/// A gauge of fractions.
pub fn rate(registry: &Registry, name: &str, help: &str) -> Gauge {
    register(registry, Gauge::new(name, help).expect("a legal name"))
}

/// A histogram.
pub fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, Histogram::with_opts(opts).expect("a legal name"))
}

/// Brings a counter up to what was counted elsewhere.
pub fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

/// What the documentation says of the metrics in a registry, as rows of a table in Markdown: name, type,
/// labels, meaning. Labels whose values are fixed are told with them.
pub fn describe(families: &[MetricFamily]) -> String {
    let mut rows: Vec<String> = families.iter().map(row).collect();
    rows.sort();
    format!("| metric | type | labels | what it says |\n|---|---|---|---|\n{}\n", rows.join("\n"))
}

/// Labels with values of a kind, not from a fixed set.
const OPEN_LABELS: [&str; 2] = ["version", "viewer"];

fn row(family: &MetricFamily) -> String {
    let mut labels: Vec<(String, Vec<String>)> = Vec::new();
    for metric in family.get_metric() {
        for label in metric.get_label() {
            let (name, value) = (label.name().to_owned(), label.value().to_owned());
            match labels.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) if values.contains(&value) => {}
                Some((_, values)) => values.push(value),
                None => labels.push((name, vec![value])),
            }
        }
    }
    let labels: Vec<String> = labels
        .into_iter()
        .map(|(name, values)| {
            let is_open = OPEN_LABELS.contains(&name.as_str()) || values.len() < 2;
            if is_open { format!("`{name}`") } else { format!("`{name}`: {}", values.join(", ")) }
        })
        .collect();
    let kind = format!("{:?}", family.get_field_type()).to_lowercase();
    let help = family.help().replace('|', "\\|");
    format!("| `{}` | {kind} | {} | {help} |", family.name(), labels.join("; "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn what_is_counted_elsewhere_is_shown_as_it_stands() {
        let registry = Registry::new();
        let elsewhere = Arc::new([0, 0].map(AtomicU64::new));
        let looked_at = Arc::clone(&elsewhere);
        counted(&registry, "lost_total", "What was lost.", "where", move || {
            let [here, there] = looked_at.each_ref().map(|count| count.load(Ordering::Relaxed));
            [("here", here), ("there", there)]
        });
        let shown = || {
            let families = registry.gather();
            let [family] = &families[..] else { panic!("{families:?}") };
            let metrics = family.get_metric().iter();
            metrics.map(|metric| metric.get_counter().get_value() as u64).collect::<Vec<_>>()
        };
        assert_eq!(shown(), [0, 0], "both are there from the start");
        elsewhere[1].store(7, Ordering::Relaxed);
        assert_eq!(shown(), [0, 7]);
        elsewhere[0].store(1, Ordering::Relaxed);
        assert_eq!(shown(), [1, 7]);
    }
}
