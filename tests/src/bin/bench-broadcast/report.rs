//! The results, as tables for people or as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use tests::bench::Spread;
use tests::load::Percentiles;

use crate::Extent;

/// All that was measured; empty where nothing of that kind was wanted.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    environment: String,
    repetitions: u32,
    seconds: f64,
    quick: bool,
    /// What could not be measured, and why.
    pub(crate) missing: Vec<String>,
    pub(crate) cost: Vec<CostRow>,
    pub(crate) peers: Vec<PeerRow>,
    pub(crate) growth: Vec<GrowthRow>,
    pub(crate) latency: Vec<LatencyRow>,
    pub(crate) storm: Option<Storm>,
    pub(crate) isolation: Vec<IsolationRow>,
    pub(crate) observed: Option<Observed>,
    pub(crate) playouts: Option<Playouts>,
}

/// What one sender costs.
#[derive(Debug, Serialize)]
pub(crate) struct CostRow {
    pub(crate) sender: &'static str,
    pub(crate) viewers: u32,
    pub(crate) offload: bool,
    pub(crate) has_sound: bool,
    /// Whether packets came to viewers, or ended at the far interface.
    pub(crate) is_delivered: bool,
    /// Microseconds of the sender's processor for one packet to one viewer.
    pub(crate) cpu_us_per_packet: Spread,
    /// Against the bare loop of the same repetition.
    pub(crate) to_bare: Spread,
    /// Further runs, that were void because packets were lost.
    pub(crate) void_runs: u32,
}

/// What another way of sending costs.
#[derive(Debug, Serialize)]
pub(crate) struct PeerRow {
    pub(crate) peer: &'static str,
    pub(crate) viewers: u32,
    pub(crate) offload: bool,
    /// Microseconds of the sender's processor for one packet delivered to one viewer.
    pub(crate) cpu_us_per_packet: Spread,
}

/// What so many viewers cost each.
#[derive(Debug, Serialize)]
pub(crate) struct GrowthRow {
    pub(crate) viewers: u32,
    pub(crate) framerate: u32,
    pub(crate) cpu_us_per_packet: Spread,
    pub(crate) bare_us_per_packet: Spread,
    /// Without what the broadcast takes when nobody watches.
    pub(crate) marginal_us_per_packet: Spread,
    pub(crate) cpu_us_per_viewer_second: Spread,
    pub(crate) resident_kib_per_viewer: Spread,
    /// Further runs, that were void because packets were lost.
    pub(crate) void_runs: u32,
}

/// What being looked at costs.
#[derive(Debug, Serialize)]
pub(crate) struct Observed {
    pub(crate) viewers: u32,
    /// Lines with values in the metrics.
    pub(crate) series: usize,
    /// Fetching the metrics, in milliseconds.
    pub(crate) scrape_ms: Spread,
    pub(crate) status_bytes: usize,
    /// Fetching what the status page shows, in milliseconds.
    pub(crate) status_ms: Spread,
    /// Processor time each second while nothing is fetched, in milliseconds.
    pub(crate) alone_ms: Spread,
    /// Processor time of one scrape and one look by a status page, in milliseconds.
    pub(crate) look_ms: Spread,
}

/// What viewers of one stored file cost.
#[derive(Debug, Serialize)]
pub(crate) struct Playouts {
    pub(crate) viewers: u32,
    /// Microseconds of the broadcaster's processor for one packet, without what its channel takes.
    pub(crate) cpu_us_per_packet: Spread,
    /// Of GStreamer's, which demultiplexes, parses and payloads the file and sends nothing.
    pub(crate) reference_us_per_packet: Spread,
    pub(crate) ratio: Spread,
    /// Resident memory for each viewer, in MiB.
    pub(crate) resident_mib: Spread,
}

/// From the payloader to the viewers' sockets.
#[derive(Debug, Serialize)]
pub(crate) struct LatencyRow {
    pub(crate) viewers: u32,
    pub(crate) lost: u64,
    pub(crate) added: Percentiles,
}

/// Many who join while others watch.
#[derive(Debug, Serialize)]
pub(crate) struct Storm {
    pub(crate) watching: u32,
    pub(crate) joining: u32,
    pub(crate) joins_per_second: u32,
    pub(crate) failed: u32,
    pub(crate) failures: BTreeMap<String, u32>,
    pub(crate) join: Percentiles,
    pub(crate) open_to_media: Percentiles,
    pub(crate) watchers_lost: u64,
    pub(crate) watchers_added: Percentiles,
}

/// Those who behave, without and with others who do not.
#[derive(Debug, Serialize)]
pub(crate) struct IsolationRow {
    pub(crate) viewers: u32,
    pub(crate) misbehaving: usize,
    pub(crate) lost: u64,
    pub(crate) added: Percentiles,
}

impl Report {
    pub(crate) fn new(environment: String, extent: Extent) -> Self {
        let Extent { repetitions, seconds, quick } = extent;
        Self {
            environment,
            repetitions,
            seconds,
            quick,
            missing: Vec::new(),
            cost: Vec::new(),
            peers: Vec::new(),
            growth: Vec::new(),
            latency: Vec::new(),
            storm: None,
            isolation: Vec::new(),
            observed: None,
            playouts: None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { environment, repetitions, seconds, .. } = self;
        writeln!(f, "The whole broadcaster. {environment}")?;
        writeln!(f, "4 Mbit/s; costs are medians of {repetitions} runs of {seconds} s")?;
        if self.quick {
            writeln!(f, "A quick run with few viewers: its figures mean nothing")?;
        }
        if !self.cost.is_empty() {
            cost(f, &self.cost)?;
        }
        if !self.peers.is_empty() {
            peers(f, &self.peers, &self.cost)?;
        }
        if !self.growth.is_empty() {
            growth(f, &self.growth)?;
        }
        if !self.latency.is_empty() {
            writeln!(f, "\n| viewers | added latency p50 | p95 | p99 | most | packets lost |")?;
            writeln!(f, "|--------:|------------------:|----:|----:|-----:|-------------:|")?;
            for LatencyRow { viewers, lost, added } in &self.latency {
                writeln!(f, "| {viewers} | {} | {lost} |", times(added))?;
            }
        }
        if let Some(storm) = &self.storm {
            let Storm { watching, joining, joins_per_second, failed, watchers_lost, .. } = storm;
            writeln!(
                f,
                "\n{joining} join, {joins_per_second} a second, while {watching} watch:\n"
            )?;
            writeln!(f, "| what | p50 | p95 | p99 | most |")?;
            writeln!(f, "|------|----:|----:|----:|-----:|")?;
            writeln!(f, "| start of the meeting to first packet | {} |", times(&storm.join))?;
            writeln!(f, "| open path to first packet | {} |", times(&storm.open_to_media))?;
            writeln!(f, "| added latency of those who watch | {} |", times(&storm.watchers_added))?;
            writeln!(
                f,
                "\n{failed} failed to join; those who watch lost {watchers_lost} packets."
            )?;
            for (why, count) in &storm.failures {
                writeln!(f, "{count} × {why}")?;
            }
        }
        if !self.isolation.is_empty() {
            writeln!(
                f,
                "\n| viewers | besides, misbehaving | added latency p50 | p95 | p99 | most | packets lost |"
            )?;
            writeln!(
                f,
                "|--------:|---------------------:|------------------:|----:|----:|-----:|-------------:|"
            )?;
            for IsolationRow { viewers, misbehaving, lost, added } in &self.isolation {
                writeln!(f, "| {viewers} | {misbehaving} | {} | {lost} |", times(added))?;
            }
        }
        if let Some(observed) = &self.observed {
            let Observed { viewers, series, scrape_ms, status_bytes, status_ms, alone_ms, look_ms } =
                observed;
            writeln!(
                f,
                "\nLooked at with {viewers} viewers: {series} series; a scrape takes {:.1} ms (most {:.1}, of {}), \
                 the status page's {status_bytes} bytes {:.1} ms (most {:.1}); one of each costs the broadcaster \
                 {:.2} ms ({:.2}–{:.2}) of its processor, which takes {:.0} ms ({:.0}–{:.0}) each second without: \
                 {:.2}% with one of each a second",
                scrape_ms.median,
                scrape_ms.most,
                scrape_ms.samples.len(),
                status_ms.median,
                status_ms.most,
                look_ms.median,
                look_ms.least,
                look_ms.most,
                alone_ms.median,
                alone_ms.least,
                alone_ms.most,
                look_ms.median / alone_ms.median * 100.0,
            )?;
        }
        if let Some(playouts) = &self.playouts {
            let Playouts {
                viewers,
                cpu_us_per_packet,
                reference_us_per_packet,
                ratio,
                resident_mib,
            } = playouts;
            let of = |Spread { median, least, most, .. }: &Spread| {
                format!("{median:.2} ({least:.2}–{most:.2})")
            };
            writeln!(
                f,
                "\n| playouts of one file | µs a packet | GStreamer alone, µs a packet | ratio | MiB each |\n\
                 |---:|---:|---:|---:|---:|\n| {viewers} | {} | {} | {} | {} |",
                of(cpu_us_per_packet),
                of(reference_us_per_packet),
                of(ratio),
                of(resident_mib),
            )?;
        }
        for what in &self.missing {
            writeln!(f, "\nNot measured: {what}")?;
        }
        Ok(())
    }
}

fn cost(f: &mut fmt::Formatter<'_>, rows: &[CostRow]) -> fmt::Result {
    writeln!(
        f,
        "\n| viewers | offload | sound | delivered | sender | µs per packet | min–max | ÷ bare loop | min–max | void runs |"
    )?;
    writeln!(
        f,
        "|--------:|---------|-------|-----------|--------|--------------:|---------|------------:|---------|----------:|"
    )?;
    for row in rows {
        let yes = |is: bool| if is { "yes" } else { "no" };
        writeln!(
            f,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            row.viewers,
            yes(row.offload),
            yes(row.has_sound),
            yes(row.is_delivered),
            row.sender,
            spread(&row.cpu_us_per_packet, 3),
            spread(&row.to_bare, 2),
            row.void_runs,
        )?;
    }
    Ok(())
}

/// Peers, and how often one packet of theirs pays for one of ours with the same interface.
fn peers(f: &mut fmt::Formatter<'_>, rows: &[PeerRow], cost: &[CostRow]) -> fmt::Result {
    writeln!(
        f,
        "\n| peer | viewers | offload | µs per packet | min–max | ÷ broadcaster | ÷ broadcaster, nothing delivered |"
    )?;
    writeln!(
        f,
        "|------|--------:|---------|--------------:|---------|--------------:|----------------------------------:|"
    )?;
    for PeerRow { peer, viewers, offload, cpu_us_per_packet } in rows {
        let ratio = |is_delivered: bool| {
            let mut rows = cost.iter().filter(|row| row.sender == "broadcaster" && !row.has_sound);
            let ours = rows.find(|row| (row.offload, row.is_delivered) == (*offload, is_delivered));
            ours.map_or("not measured".into(), |ours| {
                format!("{:.1}", cpu_us_per_packet.median / ours.cpu_us_per_packet.median)
            })
        };
        let (delivered, dropped) = (ratio(true), ratio(false));
        let offload = if *offload { "yes" } else { "no" };
        let spread = spread(cpu_us_per_packet, 2);
        writeln!(f, "| {peer} | {viewers} | {offload} | {spread} | {delivered} | {dropped} |")?;
    }
    Ok(())
}

fn growth(f: &mut fmt::Formatter<'_>, rows: &[GrowthRow]) -> fmt::Result {
    writeln!(
        f,
        "\n| viewers | pictures/s | µs per packet | min–max | of it for viewers | min–max | bare loop | min–max | \
         for a viewer, µs/s | KiB per viewer | void runs |"
    )?;
    writeln!(
        f,
        "|--------:|-----------:|--------------:|---------|------------------:|---------|----------:|---------|\
         -------------------:|---------------:|----------:|"
    )?;
    for row in rows {
        writeln!(
            f,
            "| {} | {} | {} | {} | {} | {:.0} | {:.1} | {} |",
            row.viewers,
            row.framerate,
            spread(&row.cpu_us_per_packet, 3),
            spread(&row.marginal_us_per_packet, 3),
            spread(&row.bare_us_per_packet, 3),
            row.cpu_us_per_viewer_second.median,
            row.resident_kib_per_viewer.median,
            row.void_runs,
        )?;
    }
    Ok(())
}

fn spread(Spread { median, least, most, .. }: &Spread, digits: usize) -> String {
    format!("{median:.digits$} | {least:.digits$}–{most:.digits$}")
}

/// In milliseconds.
fn times(Percentiles { p50_us, p95_us, p99_us, max_us, .. }: &Percentiles) -> String {
    let ms = |us: &u64| format!("{:.1} ms", *us as f64 / 1e3);
    [p50_us, p95_us, p99_us, max_us].map(ms).join(" | ")
}
