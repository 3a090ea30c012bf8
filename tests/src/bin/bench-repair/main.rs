//! What repair achieves beside SRT and RIST: the real programs of all three, over links of the lab that lose
//! and delay alike, with the same latency budget. Writes a CSV.
//!
//! Each contender has a link of its own with the same impairment in both directions. SRT and RIST carry numbered
//! datagrams of 1,316 bytes at an even rate; ours carries a stored stream of the same rate, in bursts.
//! `docs/benchmarks.md` has results.

mod cell;
mod numbered;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use cell::{Cell, Measured};

/// What repair achieves beside SRT and RIST.
#[derive(Debug, Parser)]
#[command(name = "bench-repair")]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Shares of packets lost in each direction, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "0.01,0.05,0.1,0.2,0.3")]
    losses: Vec<f64>,
    /// Round trips, in milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "20,50,100,200")]
    rtts: Vec<u64>,
    /// Latencies, in round trips.
    #[arg(long, value_delimiter = ',', default_value = "2,4,8")]
    latencies: Vec<u64>,
    /// How long each cell is measured, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Cells at once.
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// Where the results go.
    #[arg(long, default_value = "target/bench/repair.csv")]
    csv: PathBuf,
}

/// What this program does in the lab.
#[derive(Debug, Subcommand)]
enum Part {
    /// Sends numbered datagrams.
    #[command(hide = true)]
    Send { to: SocketAddr, bits_per_second: u64, seconds: u64 },
    /// Receives numbered datagrams, and prints what came, until it is interrupted.
    #[command(hide = true)]
    Receive { at: SocketAddr },
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.part {
        Some(Part::Send { to, bits_per_second, seconds }) => {
            numbered::send(to, bits_per_second, Duration::from_secs(seconds))
        }
        Some(Part::Receive { at }) => numbered::receive(at),
        None => compare(&args),
    }
}

fn compare(args: &Args) -> Result<()> {
    let mut cells = VecDeque::new();
    for &loss in &args.losses {
        for &rtt in &args.rtts {
            for &multiple in &args.latencies {
                let rtt = Duration::from_millis(rtt);
                let seconds = args.seconds;
                cells.push_back(Cell { loss, rtt, latency: rtt * multiple as u32, seconds });
            }
        }
    }
    if let Some(folder) = args.csv.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file =
        File::create(&args.csv).with_context(|| format!("writing {}", args.csv.display()))?;
    writeln!(file, "contender,loss,rtt_ms,latency_ms,sent,missing,residual,overhead")?;
    let (cells, file) = (Mutex::new(cells), Mutex::new(file));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                while let Some(cell) = next(&cells) {
                    match cell.measure() {
                        Ok(measured) => {
                            for one in measured {
                                if let Err(error) = write(&file, &cell, &one) {
                                    failed(&failures, format!("writing results: {error:#}"));
                                }
                            }
                        }
                        Err(error) => failed(&failures, format!("{cell}: {error:#}")),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    if !failures.is_empty() {
        bail!("not all was measured:\n{}", failures.join("\n"));
    }
    Ok(())
}

fn next(cells: &Mutex<VecDeque<Cell>>) -> Option<Cell> {
    cells.lock().ok()?.pop_front()
}

fn failed(failures: &Mutex<Vec<String>>, what: String) {
    eprintln!("{what}");
    if let Ok(mut failures) = failures.lock() {
        failures.push(what);
    }
}

fn write(file: &Mutex<File>, cell: &Cell, measured: &Measured) -> Result<()> {
    let Measured { contender, sent, missing, overhead } = measured;
    let residual = *missing as f64 / (*sent).max(1) as f64;
    let (rtt, latency) = (cell.rtt.as_millis(), cell.latency.as_millis());
    let line = format!(
        "{contender},{},{rtt},{latency},{sent},{missing},{residual:.3e},{overhead:.4}",
        cell.loss
    );
    println!("{line}");
    let mut file = file.lock().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    writeln!(file, "{line}")?;
    Ok(file.flush()?)
}
