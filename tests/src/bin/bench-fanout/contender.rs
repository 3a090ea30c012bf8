//! The contenders: each sends the same access units to the same viewers, at the same times, and
//! says what that cost its process.

mod bare;
mod fan_out;
mod multiudpsink;
mod sealing;

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use protocol::tag::TAG;
use serde::{Deserialize, Serialize};

use crate::stream;

/// Size asked of each contender's send buffer, as the broadcaster asks for its socket.
const SEND_BUFFER: usize = 4 << 20;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// A loop of `sendmmsg` with segmentation offload over sealed bytes.
    Bare,
    /// The broadcaster's fan-out thread: sealing, history and sending, with each viewer's tags.
    FanOut,
    /// The same without tags.
    Untagged,
    /// GStreamer's element, behind an `appsrc`.
    Multiudpsink,
    /// Only sealing.
    Sealing,
}

impl Contender {
    /// Those that send.
    pub(crate) const SENDING: [Self; 4] =
        [Self::Bare, Self::FanOut, Self::Untagged, Self::Multiudpsink];

    /// As it is called on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::FanOut => "fan-out",
            Self::Untagged => "untagged",
            Self::Multiudpsink => "multiudpsink",
            Self::Sealing => "sealing",
        }
    }

    /// Bytes of datagrams that an access unit is to one viewer.
    pub(crate) fn unit_bytes(self) -> usize {
        let tags = if self == Self::FanOut { stream::UNIT_PACKETS * TAG } else { 0 };
        stream::UNIT_BYTES + tags
    }

    /// Whether anything is sent.
    pub(crate) fn sends(self) -> bool {
        Self::SENDING.contains(&self)
    }

    /// Does the task and says what it cost.
    pub(crate) fn run(self, task: &Task) -> Result<Cost> {
        match self {
            Self::Bare => bare::run(task),
            Self::FanOut => fan_out::run(task, true),
            Self::Untagged => fan_out::run(task, false),
            Self::Multiudpsink => multiudpsink::run(task),
            Self::Sealing => sealing::run(task),
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bare => "bare sendmmsg+GSO",
            Self::FanOut => "punchcast fan-out",
            Self::Untagged => "… without tags",
            Self::Multiudpsink => "multiudpsink",
            Self::Sealing => "sealing",
        })
    }
}

/// What a contender is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    /// How many viewers there are.
    pub viewers: usize,
    /// Access units sent before the measurement.
    pub warm_up_units: usize,
    /// Access units measured.
    pub units: usize,
    /// From one to the next.
    pub interval: Duration,
}

impl Task {
    /// All access units, those before the measurement included.
    fn all_units(&self) -> usize {
        self.warm_up_units + self.units
    }

    /// Calls `send` with each of `prepared` when its time has come. Returns the time that the
    /// process had used when the measurement began; the caller takes the time at its end, when
    /// nothing is left to be sent.
    fn play<T>(
        &self,
        prepared: Vec<T>,
        mut send: impl FnMut(usize, T) -> Result<()>,
    ) -> Result<CpuTime> {
        let mut began = CpuTime::now()?;
        let mut due_at = Instant::now();
        for (unit, payload) in prepared.into_iter().enumerate() {
            thread::sleep(due_at.saturating_duration_since(Instant::now()));
            if unit == self.warm_up_units {
                began = CpuTime::now()?;
            }
            send(unit, payload)?;
            due_at += self.interval;
        }
        Ok(began)
    }

    /// What it cost from `began` until now.
    fn cost_since(&self, began: CpuTime) -> Result<Cost> {
        let used = CpuTime::now()?.0.saturating_sub(began.0);
        let packets = (self.viewers * self.units * stream::UNIT_PACKETS) as u64;
        Ok(Cost { cpu_ns: used.as_nanos() as u64, packets })
    }
}

/// Processor time of this process, all its threads, user and kernel, since it began.
#[derive(Debug, Clone, Copy)]
struct CpuTime(Duration);

impl CpuTime {
    fn now() -> Result<Self> {
        Ok(Self(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into()))
    }
}

/// What sending cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Processor time of the whole process, in nanoseconds.
    pub cpu_ns: u64,
    /// Packets sent, to all viewers together.
    pub packets: u64,
}

impl Cost {
    /// Microseconds of processor time for one packet to one viewer.
    pub(crate) fn per_packet(self) -> f64 {
        self.cpu_ns as f64 / 1e3 / self.packets as f64
    }
}
