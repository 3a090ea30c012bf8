//! How fast a stored file is copied, against curl over the same link; and what becomes of a copy that is killed half
//! way, and of a live channel that is watched beside it, over that link.
//!
//! `bench-fetch [MIB [ROUNDS]]` (1024 MiB, 2 rounds) prints a table, and ends with status 1 where a figure is not what
//! `docs/benchmarks.md` promises.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tests::lab::{self, Impairment, Link, Rate, Signal};
use tests::offer::Offered;
use tests::stage::{Stage, count};

/// 100 Mbit/s with the queue of a common router, 50 ms, and 10 ms there and back.
const BITS_PER_SECOND: u64 = 100_000_000;
const QUEUE: u64 = 625_000;
const ONE_WAY: Duration = Duration::from_millis(5);

/// Of curl's rate.
const LEAST_SHARE: f64 = 0.85;

const HTTP: &str = "8080";
const NAME: &str = "large.bin";

fn main() -> Result<ExitCode> {
    let number = |at, default| match env::args().nth(at) {
        Some(number) => number.parse().context("usage: bench-fetch [MIB [ROUNDS]]"),
        None => Ok(default),
    };
    let (mib, rounds): (u64, u64) = (number(1, 1024)?, number(2, 2)?);
    ensure!(mib > 0 && rounds > 0, "nothing to copy, nothing to tell");
    let length = mib << 20;
    let limited = Impairment {
        delay: ONE_WAY,
        rate: Some(Rate::new(BITS_PER_SECOND, QUEUE)),
        ..Default::default()
    };
    let stage = Stage::with_links(&[Some(Link::both(limited))])?;
    let mut made = Ok(());
    let offered =
        Offered::beside(&stage, "test", |folder| made = make(&folder.join(NAME), length))?;
    made?;
    let original = offered.folder.join(NAME);
    let mut server = Command::new("/usr/bin/python3");
    server.args(["-m", "http.server", HTTP, "--directory"]).arg(&offered.folder);
    let server = stage.rendezvous.spawn("http", &server)?;
    let url = format!("http://{}:{HTTP}/{NAME}", stage.rendezvous.address());
    let copies = stage.path("copies");
    fs::create_dir_all(&copies)?;

    let rate = |took: Duration| length as f64 * 8.0 / took.as_secs_f64() / 1e6;
    println!("| | Mbit/s |\n|---|---:|");
    let mut shares = Vec::new();
    for _ in 0..rounds {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--retry-connrefused", "--retry", "5"]);
        curl.arg("-o").arg(copies.join("curl.bin")).arg(&url);
        let began = Instant::now();
        stage.viewers[0].1.run(&curl)?;
        let theirs = rate(began.elapsed());
        let began = Instant::now();
        let fetch = fetch(&stage, &offered, &copies)?;
        let status = fetch.wait(Duration::from_secs(900))?;
        ensure!(status.success(), "fetch: {status}: {}", fetch.stderr().text());
        let ours = rate(began.elapsed());
        ensure!(same(&copies.join(NAME), &original)?, "the copy differs");
        fs::remove_file(copies.join(NAME))?;
        println!("| curl | {theirs:.1} |\n| fetch | {ours:.1} |\n| share | {:.3} |", ours / theirs);
        shares.push(ours / theirs);
    }
    server.kill(Signal::SIGTERM)?;
    shares.sort_by(f64::total_cmp);
    let share = shares[shares.len() / 2];

    // Half of it, and the rest beside a live channel, by the same command again.
    let flags = ["--output", "null"];
    let watching = stage.watch(0, &offered.broadcast.link, &flags)?;
    // What is too old when a viewer joins is decoded and not shown.
    let joined = watching
        .wait_for(Duration::from_secs(30), |stats| stats["frames_decoded"].as_u64() > Some(90));
    let first = fetch(&stage, &offered, &copies)?;
    let half = lab::eventually(Duration::from_secs(900), || so_far(&copies) >= length / 2);
    ensure!(half, "{} bytes: {}", so_far(&copies), first.stderr().text());
    first.kill(Signal::SIGKILL)?;
    first.wait(Duration::from_secs(5))?;
    let left = so_far(&copies);
    let before = stage.metric("punchcast_fetched_bytes_total")?;
    let second = fetch(&stage, &offered, &copies)?;
    let status = second.wait(Duration::from_secs(900))?;
    ensure!(status.success(), "fetch: {status}: {}", second.stderr().text());
    let sent = stage.metric("punchcast_fetched_bytes_total")? - before;
    let is_same = same(&copies.join(NAME), &original)?;
    let live = watching.latest();
    watching.stop()?;
    println!(
        "| killed at | {:.1}% |\n| sent again of that | {:.1}% |\n| identical | {is_same} |",
        left as f64 * 100.0 / length as f64,
        (sent - (length - left) as f64).max(0.0) * 100.0 / length as f64,
    );
    let unrecovered = count(&live, "packets_unrecovered");
    let dropped = count(&live, "frames_dropped") - count(&joined, "frames_dropped");
    println!(
        "| live packets received beside it | {} |\n| of them lost and repaired | {} |\n| lost | {unrecovered} |\n\
         | frames dropped | {dropped} |",
        count(&live, "packets_received"),
        count(&live, "packets_lost"),
    );
    let all_well = share >= LEAST_SHARE && is_same && unrecovered == 0 && dropped == 0;
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn fetch(stage: &Stage, offered: &Offered, to: &Path) -> Result<lab::Process> {
    let mut command = Command::new(lab::binary("punchcast-viewer")?);
    command.args(["fetch", &offered.broadcast.link, NAME, "-o"]).arg(to);
    Ok(stage.viewers[0].1.spawn("fetch", &command)?)
}

/// Bytes that cannot be pressed together.
fn make(path: &Path, length: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut random = SmallRng::seed_from_u64(length);
    let mut bytes = vec![0; 1 << 20];
    for _ in 0..length >> 20 {
        random.fill_bytes(&mut bytes);
        file.write_all(&bytes)?;
    }
    Ok(file.sync_all()?)
}

/// Bytes of the copy that is being made.
fn so_far(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let parts = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "part"));
    parts.filter_map(|entry| Some(entry.metadata().ok()?.len())).max().unwrap_or(0)
}

fn same(one: &PathBuf, other: &PathBuf) -> Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = one.read(&mut a)?;
        if read == 0 {
            return Ok(other.read(&mut b)? == 0);
        }
        if other.read_exact(&mut b[..read]).is_err() || a[..read] != b[..read] {
            return Ok(false);
        }
    }
}
