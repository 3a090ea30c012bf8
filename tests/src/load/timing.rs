//! Added latency: from when the broadcaster's payloader handed an access unit over, by its log, to when
//! its packets arrived.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::histogram::Histogram;
use super::tap::{Arrivals, Clock};

/// Target of the broadcaster's log lines about access units.
const TARGET: &str = "punchcast::timing";

/// A line of a log in JSON; those of other targets have other fields.
#[derive(Deserialize)]
struct Logged {
    target: String,
    #[serde(flatten)]
    unit: Unit,
}

/// One access unit.
#[derive(Debug, Deserialize)]
struct Unit {
    ssrc: u32,
    first_index: u64,
    packets: u64,
    /// Microseconds since 1970.
    handed_over_us: u64,
}

/// When packets were handed over, by SSRC and index, in microseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct HandedOver(HashMap<(u32, u64), u64>);

impl HandedOver {
    /// Reads a broadcaster's log.
    pub(super) fn read(log: &Path) -> std::io::Result<Self> {
        let mut units = HashMap::new();
        for line in BufReader::new(std::fs::File::open(log)?).lines() {
            let line = line?;
            let Some(unit) = parse(&line) else { continue };
            for index in unit.first_index..unit.first_index.saturating_add(unit.packets.min(4096)) {
                units.insert((unit.ssrc, index), unit.handed_over_us);
            }
        }
        Ok(Self(units))
    }

    /// Packets that are known.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds what one viewer's packets took.
    pub(super) fn add_latencies(&self, arrivals: &Arrivals, clock: Clock, all: &mut Histogram) {
        let streams = arrivals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for stream in streams.iter() {
            for (index, &at) in (stream.first..).zip(&stream.at).filter(|(_, at)| **at > 0) {
                if let Some(handed_over) = self.0.get(&(stream.ssrc, index)) {
                    let taken = clock.unix_micros(at).saturating_sub(*handed_over);
                    all.add(Duration::from_micros(taken));
                }
            }
        }
    }
}

fn parse(line: &str) -> Option<Unit> {
    // Other lines are many and long.
    if !line.contains(TARGET) {
        return None;
    }
    let logged: Logged = serde_json::from_str(line).ok()?;
    (logged.target == TARGET).then_some(logged.unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_target_are_read() {
        let line = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"TRACE","message":"access unit","ssrc":7,"first_index":40,"packets":3,"handed_over_us":1700000000000000,"target":"punchcast::timing"}"#;
        let unit = parse(line).expect("a unit");
        assert_eq!((unit.ssrc, unit.first_index, unit.packets), (7, 40, 3));
        assert!(parse(&line.replace(TARGET, "broadcaster")).is_none());
        assert!(parse("punchcast::timing, but no JSON").is_none());
    }
}
