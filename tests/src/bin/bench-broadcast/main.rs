//! What a whole broadcast costs, and what its viewers get: the real broadcaster and rendezvous, with
//! thousands of real viewers that decode nothing, over a veth pair of the bench's own.
//!
//! The broadcaster sends a stored stream, so that nothing is encoded. It is measured with everything
//! that it does for its viewers, and against a bare loop that sends the same messages. `--help` has the
//! options; `docs/benchmarks.md` has results.

mod bare;
mod broadcast;
mod cost;
mod crowd;
mod growth;
mod latency;
mod network;
mod observed;
mod peers;
mod playouts;
mod report;
mod round;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tests::bench::{environment, namespaces};

use network::Network;
use report::Report;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Scenario {
    /// What 1,000 viewers cost, against a bare loop: with and without segmentation offload and sound.
    Cost,
    /// What multiudpsink, srtsink and webrtcsink cost.
    Peers,
    /// What 10 to 10,000 viewers cost each, in processor time and memory.
    Growth,
    /// Added latency with 100 and 1,000 viewers.
    Latency,
    /// 200 a second who join while 100 watch.
    Storm,
    /// Added latency of 46 viewers, without and with four that misbehave.
    Isolation,
    /// What it costs to be looked at by Prometheus and by a status page, with 1,000 viewers.
    Observed,
    /// What 50 viewers of one stored file cost, against GStreamer's share of it alone, and in memory.
    Playouts,
}

/// What a whole broadcast costs, and what its viewers get.
#[derive(Debug, Parser)]
#[command(name = "bench-broadcast")]
struct Args {
    /// What to measure; all of it by default. May be given several times.
    #[arg(long, value_enum)]
    scenario: Vec<Scenario>,
    /// How often each cost is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// How long each measurement lasts, in seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Few viewers, once and for a short time: to see that all of it works.
    #[arg(long)]
    quick: bool,
    /// Of the scenario growth, audiences of this many at least.
    #[arg(long, default_value_t = 0, value_name = "VIEWERS")]
    from: u32,
    /// Print the result as one JSON object, all samples included.
    #[arg(long)]
    json: bool,
    /// Write the same JSON object to this file, too, as scripts/plot-fanout.py takes it.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Set on the run inside the bench's own namespaces.
    #[arg(long, hide = true)]
    inside: bool,
    /// Be the bare loop for this list of messages.
    #[arg(long, hide = true, value_name = "FILE")]
    bare: Option<PathBuf>,
    /// Be GStreamer alone, with this file.
    #[arg(long, hide = true, value_name = "FILE")]
    reference: Option<PathBuf>,
    #[arg(long, hide = true, default_value_t = 1)]
    viewers: u32,
    #[arg(long, hide = true, default_value = network::VIEWERS)]
    network: String,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Extent {
    repetitions: u32,
    seconds: f64,
    quick: bool,
}

impl Extent {
    /// As many viewers, or a few of them.
    fn viewers(self, full: u32) -> u32 {
        if self.quick { (full / 20).max(2) } else { full }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench-broadcast: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    if let Some(list) = &args.bare {
        println!("{}", serde_json::to_string(&bare::be(list, args.viewers, &args.network)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = &args.reference {
        println!("{}", serde_json::to_string(&playouts::be_reference(file)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    if !args.inside {
        ensure!(args.seconds > 0.0, "--seconds must be more than 0");
        return namespaces::reenter(&["--inside"]);
    }
    let report = measure(args)?;
    if let Some(file) = &args.save {
        std::fs::write(file, serde_json::to_vec(&report)?)
            .with_context(|| format!("writing {}", file.display()))?;
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(if report.missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(args: &Args) -> Result<Report> {
    let extent = if args.quick {
        Extent { repetitions: 1, seconds: args.seconds.min(3.0), quick: true }
    } else {
        Extent { repetitions: args.repetitions, seconds: args.seconds, quick: false }
    };
    let network = Network::new()?;
    let folder = tempfile::tempdir()?;
    let wanted = |scenario| args.scenario.is_empty() || args.scenario.contains(&scenario);
    let mut report = Report::new(environment::describe(), extent);
    let mut missing = Vec::new();
    // What fails in one scenario says nothing about the others.
    let mut note = |error: anyhow::Error| missing.push(format!("{error:#}"));
    if wanted(Scenario::Latency) {
        let measured = latency::measure(&network, folder.path(), extent).map_err(&mut note);
        report.latency = measured.unwrap_or_default();
    }
    if wanted(Scenario::Storm) {
        report.storm = latency::storm(&network, folder.path(), extent).map_err(&mut note).ok();
    }
    if wanted(Scenario::Isolation) {
        let measured = latency::isolation(&network, folder.path(), extent).map_err(&mut note);
        report.isolation = measured.unwrap_or_default();
    }
    if wanted(Scenario::Observed) {
        let measured = observed::measure(&network, folder.path(), extent).map_err(&mut note);
        report.observed = measured.ok();
    }
    if wanted(Scenario::Playouts) {
        let measured = playouts::measure(&network, folder.path(), extent).map_err(&mut note);
        report.playouts = measured.ok();
    }
    if wanted(Scenario::Cost) {
        report.cost = cost::measure(&network, folder.path(), extent, &mut missing);
    }
    if wanted(Scenario::Peers) {
        report.peers = peers::measure(&network, extent, &mut missing);
    }
    if wanted(Scenario::Growth) {
        report.growth = growth::measure(&network, folder.path(), extent, args.from, &mut missing);
    }
    report.missing = missing;
    Ok(report)
}

/// A run takes long, and what it has found so far is of use where it is ended early.
fn progress(what: &str) {
    eprintln!("{what}");
}
