//! Viewers that join and leave for an hour, one each second: nothing may be left of them, in memory or in open
//! descriptors, and somebody who watches all the time loses nothing.
//!
//! `soak-joins [SECONDS]` (3600) prints what each program occupies, again and again, and ends with status 1 where one
//! occupies more at the end than after the first sixth of the time, or where anybody lost anything.

use std::env;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use tests::lab::eventually;
use tests::load::{Clip, Load, Summary};
use tests::stage::{Stage, count_of};

const SECOND: Duration = Duration::from_secs(1);

/// How long anything may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

/// From one look at the programs to the next, where the time is not too short for sixty looks.
const INTERVAL: Duration = Duration::from_secs(10);

/// How long each viewer stays, so that ten are there at a time.
const STAY: &str = "10s";

/// The lab's other half of the benchmarking addresses: each viewer has one of its own, as at home.
const NETWORK: &str = "198.19.0.0/16";

/// What a program may occupy more at the end: the allocator's pages that are free now and not a moment before, a few
/// for each thread. An hour's 3,000 viewers that left as little as 350 bytes each would be seen.
const MEMORY_TOLERANCE: f64 = MEBIBYTE;

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// A program that is looked at.
struct Watched {
    name: &'static str,
    pid: Pid,
    samples: Vec<Sample>,
}

/// What a program occupies at one time.
struct Sample {
    /// Bytes, resident.
    memory: f64,
    descriptors: usize,
}

fn main() -> Result<ExitCode> {
    let seconds: u64 = match env::args().nth(1) {
        Some(word) => word.parse().context("usage: soak-joins [SECONDS]")?,
        None => 3600,
    };
    ensure!(seconds >= 60, "a minute at least");
    let duration = Duration::from_secs(seconds);

    let mut stage = Stage::new(1)?;
    let crowd = stage.lab.public_host("crowd")?;
    crowd.add_network(stage.lab.core(), NETWORK)?;
    let rendezvous = stage.start_rendezvous()?;
    let clip = Clip { bits_per_second: 500_000, has_sound: true, ..Clip::default() };
    let source = format!("file:{}", clip.make(stage.lab.folder())?.display());
    let broadcast = stage.broadcast("cam", &source, "")?;
    let steady = stage.watch(0, &broadcast.link, &["--output", "null"])?;
    steady.wait_for(PATIENCE, |stats| count_of(stats, "frames_decoded") > 30);
    let player = steady.process.children().into_iter().next().context("nothing plays")?;
    let flags = ["--viewers", &seconds.to_string(), "--join-rate", "1", "--stay", STAY];
    let flags = [&flags[..], &["--addresses", NETWORK]].concat();
    let load = Load::start(&crowd, "crowd", &broadcast.link, duration + PATIENCE, &flags)?;

    let mut programs = [
        ("rendezvous", rendezvous.pid()),
        ("broadcaster", broadcast.process.pid()),
        ("its source", broadcast.source()),
        ("viewer", steady.process.pid()),
        ("its player", player),
    ]
    .map(|(name, pid)| Watched { name, pid, samples: Vec::new() });
    let interval = INTERVAL.min(duration / 60);
    let began = Instant::now();
    while began.elapsed() < duration {
        let next = began.elapsed() + interval;
        ensure!(eventually(interval + SECOND, || began.elapsed() >= next), "time stands still");
        for program in &mut programs {
            program.look()?;
        }
        let figures: Vec<String> = programs.iter().map(Watched::latest).collect();
        println!("{:>5} s  {}", began.elapsed().as_secs(), figures.join("  "));
    }
    let Summary { counts, failures, join, .. } = load.stop()?;
    steady.stop()?;
    let last = steady.latest();
    println!("{} joined of {}, within {join:?}; {last}", counts.watching, counts.begun);

    let mut is_well = true;
    for program in &programs {
        is_well &= program.compare();
    }
    // Those of the last moment were about to.
    ensure!(
        counts.watching + 3 >= counts.begun && counts.begun + 3 >= seconds as u32,
        "{counts:?}"
    );
    ensure!((counts.failed, counts.broken) == (0, 0), "{failures:?}");
    ensure!((counts.lost, counts.unrecovered, counts.corrupt) == (0, 0, 0), "{counts:?}");
    for key in ["packets_lost", "packets_unrecovered", "reconnects"] {
        ensure!(count_of(&last, key) == 0, "{key}: {last}");
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Watched {
    fn look(&mut self) -> Result<()> {
        let folder = format!("/proc/{}", self.pid);
        let status = fs::read_to_string(format!("{folder}/status"))
            .with_context(|| format!("{} is not there any more", self.name))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes: f64 = line
            .and_then(|line| line.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("{} has ended", self.name))?;
        let descriptors = fs::read_dir(format!("{folder}/fd"))?.count();
        self.samples.push(Sample { memory: kibibytes * 1024.0, descriptors });
        Ok(())
    }

    fn latest(&self) -> String {
        let last = self.samples.last().expect("it was looked at");
        let mebibytes = last.memory / MEBIBYTE;
        format!("{} {mebibytes:.2} MiB {} descriptors", self.name, last.descriptors)
    }

    /// Holds the last sixth of the time against the second.
    fn compare(&self) -> bool {
        let sixth = self.samples.len() / 6;
        let before = &self.samples[sixth..2 * sixth];
        let after = &self.samples[self.samples.len() - sixth..];
        let mean = |samples: &[Sample]| {
            samples.iter().map(|sample| sample.memory).sum::<f64>() / samples.len() as f64
        };
        let most = |samples: &[Sample]| samples.iter().map(|sample| sample.descriptors).max();
        let grown = mean(after) - mean(before);
        println!(
            "{}: {:+.0} KiB, at most {:?} descriptors, then {:?}",
            self.name,
            grown / 1024.0,
            most(before).unwrap_or(0),
            most(after).unwrap_or(0)
        );
        grown <= MEMORY_TOLERANCE && most(after) <= most(before)
    }
}
