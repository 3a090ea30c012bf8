//! What a load process tells, each second and at its end.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use protocol::feedback::Totals;
use serde::{Deserialize, Serialize};

use super::histogram::Percentiles;

/// One line of output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Line {
    /// Each second.
    Second(Second),
    /// At the end.
    Summary(Box<Summary>),
}

/// How it goes now. Counts are since the beginning, over all viewers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Microseconds since 1970.
    pub at_us: u64,
    /// Viewers that began to join.
    pub begun: u32,
    /// Viewers that were admitted.
    pub admitted: u32,
    /// Viewers that a media packet came to.
    pub watching: u32,
    /// Viewers that did not get in.
    pub failed: u32,
    /// Viewers that were in, and lost their path or connection.
    pub broken: u32,
    /// Viewers that were told the end of the broadcast.
    pub ended: u32,
    /// Genuine packets, duplicates not counted.
    pub packets: u64,
    /// Packets lost before repair.
    pub lost: u64,
    /// Packets that were missing at their deadline.
    pub unrecovered: u64,
    /// Packets that came more than once.
    pub duplicates: u64,
    /// Packets that were not genuine.
    pub corrupt: u64,
    /// Processor time of this process, in microseconds.
    pub cpu_us: u64,
    /// Resident memory of this process, in bytes.
    pub resident: u64,
}

/// How it went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The last counts.
    #[serde(flatten)]
    pub counts: Second,
    /// Why viewers did not get in, or fell out: exit code and message, and how many.
    pub failures: BTreeMap<String, u32>,
    /// Over single viewers.
    pub extremes: Extremes,
    /// From the start of the meeting to the first media packet.
    pub join: Percentiles,
    /// From the open path to the first media packet.
    pub open_to_media: Percentiles,
    /// From the payloader to the viewer, where the broadcaster's log was named.
    pub latency: Option<Percentiles>,
}

/// What single viewers got, at least or at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Extremes {
    /// Fewest packets.
    pub least_packets: u64,
    /// Most packets.
    pub most_packets: u64,
    /// Most packets lost before repair.
    pub most_lost: u64,
    /// Most packets missing at their deadline.
    pub most_unrecovered: u64,
    /// Most packets that came more than once.
    pub most_duplicates: u64,
}

impl Second {
    /// Adds what one viewer counted.
    pub(super) fn add(&mut self, totals: &Totals) {
        self.packets += totals.received;
        self.lost += totals.lost;
        self.unrecovered += totals.unrecovered;
        self.duplicates += totals.duplicates;
        self.corrupt += totals.corrupt;
    }

    /// Enters what this process uses.
    pub(super) fn add_usage(&mut self) {
        let used = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from);
        self.cpu_us = used.unwrap_or_default().as_micros() as u64;
        self.resident = resident();
    }
}

impl Extremes {
    /// Over all these.
    pub(super) fn of(all: &[Totals]) -> Self {
        let most = |of: fn(&Totals) -> u64| all.iter().map(of).max().unwrap_or(0);
        Self {
            least_packets: all.iter().map(|totals| totals.received).min().unwrap_or(0),
            most_packets: most(|totals| totals.received),
            most_lost: most(|totals| totals.lost),
            most_unrecovered: most(|totals| totals.unrecovered),
            most_duplicates: most(|totals| totals.duplicates),
        }
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
