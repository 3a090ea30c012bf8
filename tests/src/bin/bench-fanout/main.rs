//! What sending one packet to one viewer costs the sender's processor: our fan-out against
//! GStreamer's `multiudpsink` and against a bare `sendmmsg` loop with segmentation offload, the
//! least that the kernel asks; and what of it goes into proving to each viewer who sent it. Ends with status 1 where
//! that is more than [`MOST_FOR_TAGS`].
//!
//! All contenders send the same stream over the same veth pair in the same run, each in a process
//! of its own, in turns. `--help` has the options; `docs/benchmarks.md` has results.

mod contender;
mod network;
mod report;
mod stream;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use contender::{Contender, Cost};
use network::Network;
use report::Report;
use tests::bench::{Samples, environment, namespaces};

/// What viewers' tags may add.
const MOST_FOR_TAGS: f64 = 0.15;

/// How many viewers are sent to.
const AUDIENCES: [usize; 3] = [10, 100, 1000];

/// Most viewers that are sent to in real time. The peer needs about 60 ms for one access unit to
/// 1,000 viewers, so that above this all contenders get [`SLOW_INTERVAL`] between units.
const MOST_IN_REAL_TIME: usize = 100;

/// Between two access units where real time is too fast for one of the contenders.
const SLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Access units sent before the measurement begins: routes, caches and buffers are then as they are
/// in a running broadcast.
const WARM_UP_UNITS: usize = 6;

/// Sender CPU per packet: punchcast's fan-out, multiudpsink, and a bare sendmmsg+GSO loop.
#[derive(Debug, Parser)]
#[command(name = "bench-fanout")]
struct Args {
    /// How often each contender is measured for each number of viewers.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// How long each measurement sends, in seconds.
    #[arg(long, default_value_t = 2.5)]
    seconds: f64,
    /// Print the result as one JSON object, all samples included.
    #[arg(long)]
    json: bool,
    /// Set on the run inside the bench's own namespaces.
    #[arg(long, hide = true)]
    inside: bool,
    /// Be one contender, print its cost, and end.
    #[arg(long, hide = true, value_name = "CONTENDER")]
    contend: Option<Contender>,
    #[arg(long, hide = true, default_value_t = 1)]
    viewers: usize,
    #[arg(long, hide = true, default_value_t = 1)]
    units: usize,
    #[arg(long, hide = true, default_value_t = 0)]
    interval_us: u64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench-fanout: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    if let Some(contender) = args.contend {
        let interval = Duration::from_micros(args.interval_us);
        let task = contender::Task {
            viewers: args.viewers,
            warm_up_units: if contender.sends() { WARM_UP_UNITS } else { 0 },
            units: args.units,
            interval,
        };
        println!("{}", serde_json::to_string(&contender.run(&task)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    if !args.inside {
        ensure!(args.seconds > 0.0, "--seconds must be more than 0");
        return namespaces::reenter(&["--inside"]);
    }
    let report = measure(args)?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    let is_cheap = report.most_for_tags() <= MOST_FOR_TAGS;
    Ok(if is_cheap { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All measurements, in turns, so that what disturbs the machine for a while disturbs all alike.
fn measure(args: &Args) -> Result<Report> {
    let network = Network::new()?;
    let mut packet_costs: BTreeMap<(usize, Contender), Samples> = BTreeMap::new();
    let mut seal_costs = Samples::default();
    for repetition in 1..=args.repetitions {
        progress(&format!("repetition {repetition} of {}", args.repetitions));
        let sealing = contend(Contender::Sealing, 1, SEALED_UNITS, Duration::ZERO)?;
        seal_costs.add(sealing.per_packet());
        for viewers in AUDIENCES {
            let real_time = stream::UNIT_INTERVAL;
            let interval = if viewers > MOST_IN_REAL_TIME { SLOW_INTERVAL } else { real_time };
            let units = (args.seconds / interval.as_secs_f64()).ceil() as usize;
            for contender in Contender::SENDING {
                let before = network.arrived()?;
                let cost = contend(contender, viewers, units, interval)
                    .with_context(|| format!("{contender} with {viewers} viewers"))?;
                let arrived = network.arrived()? - before;
                let expected = (viewers * (units + WARM_UP_UNITS) * contender.unit_bytes()) as u64;
                // A contender that leaves packets out must not look good for it.
                ensure!(
                    arrived.payload_bytes() == expected,
                    "{contender} with {viewers} viewers: {} bytes of datagrams arrived, expected \
                     {expected}: result void",
                    arrived.payload_bytes()
                );
                packet_costs.entry((viewers, contender)).or_default().add(cost.per_packet());
            }
        }
    }
    Ok(Report::new(environment::describe(), &packet_costs, &seal_costs))
}

/// Access units sealed in one repetition of the sealing measurement.
const SEALED_UNITS: usize = 2000;

/// Runs one contender in a process of its own.
fn contend(contender: Contender, viewers: usize, units: usize, interval: Duration) -> Result<Cost> {
    let output = Command::new(std::env::current_exe().context("finding this program")?)
        .args(["--contend", contender.name()])
        .args(["--viewers", &viewers.to_string()])
        .args(["--units", &units.to_string()])
        .args(["--interval-us", &interval.as_micros().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting a contender")?;
    if !output.status.success() {
        bail!("the contender ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("reading the contender's cost")
}

fn progress(what: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{what}");
    }
}
