//! How soon a viewer that joins has a picture, and is at the live edge: short and long GOPs, small and
//! large streams, uplinks that carry whatever comes and uplinks that carry hardly more than the viewer.
//!
//! `bench-joining [JOINS [CASE]]` (10 for each case; all cases) prints a table, and ends with status 1 where a
//! figure is not what `docs/benchmarks.md` promises.

use std::env;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use serde_json::Value;
use tests::lab::{self, Link, eventually};
use tests::stage::{Stage, count, ms};

/// A round trip of 40 ms between the viewer and everybody else.
const ONE_WAY: Duration = Duration::from_millis(20);

/// How long a picture may take from the open path, in milliseconds, in 95 of 100 joins.
const FIRST_PICTURE_MS: f64 = 500.0;

/// When every viewer must be at the live edge.
const LIVE_EDGE: Duration = Duration::from_secs(2);

/// The queue of a common router.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

struct Case {
    gop_seconds: u32,
    stream: &'static str,
    /// In Mbit/s; `None` for one that carries whatever comes.
    uplink: Option<u32>,
}

const CASES: [Case; 8] = [
    Case { gop_seconds: 2, stream: "1M", uplink: None },
    Case { gop_seconds: 2, stream: "1M", uplink: Some(3) },
    Case { gop_seconds: 2, stream: "4M", uplink: None },
    Case { gop_seconds: 2, stream: "4M", uplink: Some(10) },
    Case { gop_seconds: 10, stream: "1M", uplink: None },
    Case { gop_seconds: 10, stream: "1M", uplink: Some(3) },
    Case { gop_seconds: 10, stream: "4M", uplink: None },
    Case { gop_seconds: 10, stream: "4M", uplink: Some(10) },
];

/// What one viewer saw.
struct Join {
    picture_ms: f64,
    live: Duration,
    /// Frames shown late or not at all after two seconds.
    late: u64,
    unrecovered: u64,
}

fn main() -> Result<ExitCode> {
    let number = |at, default| match env::args().nth(at) {
        Some(number) => number.parse().context("usage: bench-joining [JOINS [CASE]]"),
        None => Ok(default),
    };
    let (joins, only): (usize, usize) = (number(1, 10)?, number(2, 0)?);
    ensure!(joins > 0, "no joins, nothing to tell");
    println!(
        "| GOP | stream | uplink | first picture median | p95 | live edge median | worst | late frames | \
         unrecovered | keyframes asked for |"
    );
    println!("|----:|-------:|-------:|---:|---:|---:|---:|---:|---:|---:|");
    let mut all_well = true;
    let wanted = |at: usize| only == 0 || only == at + 1;
    for (_, case) in CASES.iter().enumerate().filter(|(at, _)| wanted(*at)) {
        all_well &= run(case, joins)?;
    }
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One broadcast, and viewers that come one after the other at any point of its GOP.
fn run(case: &Case, joins: usize) -> Result<bool> {
    let Case { gop_seconds, stream, uplink } = case;
    let stage = Stage::with_links(&[Some(Link::delay(ONE_WAY))])?;
    let _rendezvous = stage.start_rendezvous()?;
    let mut settings = format!(
        "video:\n  bitrate: {stream}\n  keyframe_interval: {gop_seconds}s\n  framerate: 30\n"
    );
    if let Some(mbit) = uplink {
        settings += &format!("uplink: {mbit}M\n");
        stage.home.limit_uplink(u64::from(*mbit) * 1_000_000, LONGEST_WAIT)?;
    }
    let broadcast = stage.broadcast("cam", "test", &settings)?;
    let frames = || stage.metric("punchcast_encoder_frames_encoded_total");
    let whole_gop = f64::from(gop_seconds * 30 + 30);
    ensure!(eventually(Duration::from_secs(30), || frames().is_ok_and(|f| f > whole_gop)));
    let began = Instant::now();
    let mut seen = Vec::new();
    for _ in 0..joins {
        let pause = rand::rng().random_range(0..gop_seconds * 1000);
        let wait_for = frames()? + f64::from(pause) * 0.03;
        ensure!(eventually(Duration::from_secs(30), || frames().is_ok_and(|f| f >= wait_for)));
        seen.push(join(&stage, &broadcast.link)?);
    }
    let asked = stage.metric("punchcast_keyframes_requested_total")?;
    let sorted = |figure: fn(&Join) -> f64| {
        let mut figures: Vec<f64> = seen.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures
    };
    let pictures = sorted(|join| join.picture_ms);
    let live = sorted(|join| join.live.as_secs_f64());
    let p95 = pictures[(pictures.len() * 95).div_ceil(100) - 1];
    let worst_live = live[live.len() - 1];
    let late: u64 = seen.iter().map(|join| join.late).sum();
    let unrecovered: u64 = seen.iter().map(|join| join.unrecovered).sum();
    println!(
        "| {gop_seconds} s | {stream} | {} | {:.0} ms | {p95:.0} ms | {:.2} s | {worst_live:.2} s | {late} | \
         {unrecovered} | {asked} in {joins} joins |",
        uplink.map_or("wide".into(), |mbit| format!("{mbit}M")),
        pictures[pictures.len() / 2],
        live[live.len() / 2],
    );
    let history_serves = uplink.is_none();
    Ok(p95 <= FIRST_PICTURE_MS
        && worst_live <= LIVE_EDGE.as_secs_f64()
        && unrecovered == 0
        && (!history_serves || asked == 0.0)
        && asked <= began.elapsed().as_secs_f64())
}

fn join(stage: &Stage, link: &str) -> Result<Join> {
    let mut command = Command::new(lab::binary("punchcast-viewer")?);
    command.args(["watch", link, "--stats", "json", "--output", "null", "--for", "5s"]);
    command.args(["--log-format", "json"]);
    let process = stage.viewers[0].1.spawn("watch", &command)?;
    let logged_at = |message: &str| -> Option<f64> {
        let lines = process.stderr().lines();
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut found = events.filter(|event| event["message"] == message);
        milliseconds_of_day(found.next()?["timestamp"].as_str()?)
    };
    let patience = Duration::from_secs(15);
    ensure!(eventually(patience, || logged_at("path open").is_some()), "no path opened");
    let opened = Instant::now();
    let admitted = || stage.metric("punchcast_viewers").is_ok_and(|viewers| viewers >= 1.0);
    let caught_up =
        || stage.metric("punchcast_viewers_joining").is_ok_and(|joining| joining == 0.0);
    ensure!(eventually(patience, || admitted() && caught_up()), "never caught up");
    let live = opened.elapsed();
    let stats = || -> Vec<Value> {
        let lines = process.stdout().lines();
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    ensure!(eventually(patience, || opened.elapsed() >= LIVE_EDGE));
    let before = stats().len();
    ensure!(eventually(patience, || stats().len() > before), "the viewer says nothing");
    let at_two = stats().pop().unwrap_or_default();
    let status = process.wait(patience)?;
    ensure!(status.success(), "{status}: {}", process.stderr().text());
    let last = stats().pop().unwrap_or_default();
    let picture = logged_at("first picture").context("no picture")?;
    let opened = logged_at("path open").context("no path")?;
    ensure!(ms(&last, "first_frame_ms") > 0.0);
    Ok(Join {
        picture_ms: picture - opened,
        live,
        late: count(&last, "frames_dropped") - count(&at_two, "frames_dropped"),
        unrecovered: count(&last, "packets_unrecovered"),
    })
}

/// The time of day in an RFC 3339 timestamp.
fn milliseconds_of_day(timestamp: &str) -> Option<f64> {
    let time = timestamp.split_once('T')?.1.trim_end_matches('Z');
    let mut fields = time.split(':').map(|field| field.parse::<f64>().ok());
    let (hours, minutes, seconds) = (fields.next()??, fields.next()??, fields.next()??);
    Some(((hours * 60.0 + minutes) * 60.0 + seconds) * 1000.0)
}
