//! Medians, spreads and ratios, as a table for people or as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use tests::bench::{Samples, Spread};

use crate::contender::Contender;
use crate::stream;

#[derive(Debug, Serialize)]
struct Row {
    viewers: usize,
    contender: Contender,
    /// Microseconds of the sender's processor for one packet to one viewer.
    cpu_us_per_packet: Spread,
    /// Against the bare loop: how much more it costs.
    to_bare: f64,
    /// Against the peer: how much more the peer costs.
    peer_to_this: f64,
    /// Against the fan-out without viewers' tags: how much more it costs, as a share.
    tags: f64,
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    environment: String,
    rows: Vec<Row>,
    sealing_us_per_packet: Spread,
}

impl Report {
    pub(crate) fn new(
        environment: String,
        packets: &BTreeMap<(usize, Contender), Samples>,
        sealing: &Samples,
    ) -> Self {
        let median = |viewers: usize, contender: Contender| {
            packets
                .get(&(viewers, contender))
                .map_or(f64::NAN, |samples| Spread::from(samples).median)
        };
        let rows = packets.iter().map(|(&(viewers, contender), samples)| {
            let cpu_us_per_packet = Spread::from(samples);
            Row {
                viewers,
                contender,
                to_bare: cpu_us_per_packet.median / median(viewers, Contender::Bare),
                peer_to_this: median(viewers, Contender::Multiudpsink) / cpu_us_per_packet.median,
                tags: cpu_us_per_packet.median / median(viewers, Contender::Untagged) - 1.0,
                cpu_us_per_packet,
            }
        });
        Self { environment, rows: rows.collect(), sealing_us_per_packet: sealing.into() }
    }

    /// The fan-out's rows.
    fn fan_out(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.contender == Contender::FanOut)
    }

    /// The most that tags add to the fan-out, as a share.
    pub(crate) fn most_for_tags(&self) -> f64 {
        self.fan_out().map(|row| row.tags).fold(f64::NEG_INFINITY, f64::max)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Sender CPU for one packet to one viewer. {}", self.environment)?;
        writeln!(
            f,
            "4 Mbit/s, access units of {} packets, {} bytes; median of {} interleaved runs\n",
            stream::UNIT_PACKETS,
            stream::UNIT_BYTES,
            self.sealing_us_per_packet.samples.len(),
        )?;
        writeln!(
            f,
            "| viewers | sender            | µs per packet | min–max     | ÷ bare loop | multiudpsink ÷ it |"
        )?;
        writeln!(
            f,
            "|--------:|-------------------|--------------:|-------------|------------:|------------------:|"
        )?;
        for row in &self.rows {
            let Spread { median, least, most, .. } = row.cpu_us_per_packet;
            writeln!(
                f,
                "| {:>7} | {:<17} | {median:>13.3} | {:<11} | {:>11.2} | {:>17.2} |",
                row.viewers,
                row.contender.to_string(),
                format!("{least:.3}–{most:.3}"),
                row.to_bare,
                row.peer_to_this,
            )?;
        }
        let Spread { median, least, most, .. } = self.sealing_us_per_packet;
        writeln!(
            f,
            "\nSealing, once for all viewers: {median:.3} µs for a packet ({least:.3}–{most:.3})."
        )?;
        for row in self.fan_out() {
            let per_second = row.cpu_us_per_packet.median * stream::PACKETS_PER_SECOND;
            writeln!(
                f,
                "Fan-out to {} viewers: {per_second:.0} µs of CPU a second for each, {:.2}% of a core \
                 for all; tags are {:.1}% on top of the rest.",
                row.viewers,
                per_second * row.viewers as f64 / 1e4,
                row.tags * 100.0,
            )?;
        }
        Ok(())
    }
}
