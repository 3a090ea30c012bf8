//! Faults of every kind, each again and again at another moment: what is killed, stands still, finds no room or another
//! clock recovers or ends in words, and nobody else notices.
//!
//! `soak-faults [SEEDS [CASE…]]` (20, all) prints each case with the longest recovery, and ends with status 1 where one
//! did not pass. `soak-faults list` names the cases.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tests::clip;
use tests::lab::{self, Impairment, Link, Loss, Process, Reorder, Signal, eventually};
use tests::stage::{self, Broadcast, Stage, Watching, count_of};

const SECOND: Duration = Duration::from_secs(1);

/// How long anything may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

/// Within this all goes on, where it can.
const RECOVERY: Duration = Duration::from_secs(2);

/// libfaketime, of the Debian package of that name.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// A case: how it is called, and what it does. It tells how long the recovery took, where one is due.
type Case = (&'static str, fn(&mut StdRng) -> Result<Option<Duration>>);

const CASES: &[Case] = &[
    ("rendezvous killed", |rng| killed(rng, Who::Rendezvous)),
    ("broadcaster killed", |rng| killed(rng, Who::Broadcaster)),
    ("viewer killed while recording", |rng| killed(rng, Who::Viewer)),
    ("rendezvous stopped for 1 s", |rng| stopped(rng, Who::Rendezvous, 1)),
    ("rendezvous stopped for 10 s", |rng| stopped(rng, Who::Rendezvous, 10)),
    ("rendezvous stopped for 60 s", |rng| stopped(rng, Who::Rendezvous, 60)),
    ("broadcaster stopped for 1 s", |rng| stopped(rng, Who::Broadcaster, 1)),
    ("broadcaster stopped for 10 s", |rng| stopped(rng, Who::Broadcaster, 10)),
    ("broadcaster stopped for 60 s", |rng| stopped(rng, Who::Broadcaster, 60)),
    ("viewer stopped for 1 s", |rng| stopped(rng, Who::Viewer, 1)),
    ("viewer stopped for 10 s", |rng| stopped(rng, Who::Viewer, 10)),
    ("viewer stopped for 60 s", |rng| stopped(rng, Who::Viewer, 60)),
    ("clocks an hour ahead", |rng| clocks(rng, "+3600")),
    ("clocks an hour back", |rng| clocks(rng, "-3600")),
    ("clocks ten years ahead", |rng| clocks(rng, "+315360000")),
    ("clocks ten years back", |rng| clocks(rng, "-315360000")),
    ("descriptors used up", descriptors),
    ("MTU of 1280", mtu),
    ("a tenth twice", |rng| hard_path(rng, Impairment { duplicate: 0.1, ..Impairment::default() })),
    ("overtaken by fifty", |rng| {
        // 50 packets at 150 a second.
        let reorder = Some(Reorder { share: 0.05, hold: Duration::from_millis(330) });
        hard_path(rng, Impairment { reorder, ..Impairment::default() })
    }),
    ("a hundredth with a bit flipped", |rng| {
        hard_path(rng, Impairment { bit_flips: 0.01, ..Impairment::default() })
    }),
    ("all of it, and a tenth lost", |rng| {
        let loss = Loss::Independent(0.1);
        let (duplicate, bit_flips) = (0.1, 0.01);
        hard_path(rng, Impairment { loss, duplicate, bit_flips, ..Impairment::default() })
    }),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Rendezvous,
    Broadcaster,
    Viewer,
}

fn main() -> Result<ExitCode> {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == "list") {
        CASES.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    let seeds: u64 = match arguments.first() {
        Some(_) => arguments.remove(0).parse().context("usage: soak-faults [SEEDS [CASE…]]")?,
        None => 20,
    };
    let is_wanted =
        |name: &str| arguments.is_empty() || arguments.iter().any(|word| name.contains(&**word));
    let mut failed = 0;
    for (name, case) in CASES.iter().filter(|(name, _)| is_wanted(name)) {
        let (mut passed, mut longest) = (0, None);
        for seed in 0..seeds {
            let mut rng = StdRng::seed_from_u64(seed);
            match catch_unwind(AssertUnwindSafe(|| case(&mut rng))) {
                Ok(Ok(recovery)) => {
                    passed += 1;
                    longest = longest.max(recovery);
                }
                Ok(Err(error)) => eprintln!("{name}, seed {seed}: {error:#}"),
                Err(_) => eprintln!("{name}, seed {seed}: see above"),
            }
        }
        failed += u64::from(passed < seeds);
        let longest = longest.map_or("-".to_owned(), |time: Duration| format!("{time:.2?}"));
        println!("{name:34} {passed:>3} of {seeds:<3} longest recovery {longest}");
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn frames(viewer: &Watching) -> u64 {
    count_of(&viewer.latest(), "frames_decoded")
}

fn go_on(viewer: &Watching, by: u64) {
    let before = frames(viewer);
    viewer.wait_for(PATIENCE, |stats| count_of(stats, "frames_decoded") >= before + by);
}

fn clip_source() -> String {
    format!("file:{}", stage::clip().display())
}

/// Some moment of the next two seconds.
fn some_moment(rng: &mut StdRng) {
    let wait = Duration::from_millis(rng.random_range(0..2_000));
    let began = Instant::now();
    assert!(eventually(wait + SECOND, || began.elapsed() >= wait), "time stands still");
}

/// Everything at home, one viewer that plays, and one that plays and records.
struct Scene {
    stage: Stage,
    rendezvous: Process,
    broadcast: Broadcast,
    viewers: Vec<Watching>,
}

impl Scene {
    fn start(name: &str) -> Result<Self> {
        let stage = Stage::new(3)?;
        let rendezvous = stage.start_rendezvous()?;
        let broadcast = stage.broadcast("cam", &clip_source(), "")?;
        let record = format!("record:{}", stage.path(name).display());
        let flags: [&[&str]; 2] =
            [&["--output", "null"], &["--output", "null", "--output", &record]];
        let mut viewers = Vec::new();
        for (at, flags) in flags.into_iter().enumerate() {
            viewers.push(stage.watch(at, &broadcast.link, flags)?);
        }
        viewers.iter().for_each(|viewer| go_on(viewer, 50));
        Ok(Self { stage, rendezvous, broadcast, viewers })
    }

    fn process(&self, who: Who) -> &Process {
        match who {
            Who::Rendezvous => &self.rendezvous,
            Who::Broadcaster => &self.broadcast.process,
            Who::Viewer => &self.viewers[1].process,
        }
    }

    /// Nothing was lost, and no path either.
    fn is_untouched(&self, viewer: &Watching) -> Result<()> {
        let last = viewer.latest();
        for key in ["packets_unrecovered", "reconnects"] {
            ensure!(count_of(&last, key) == 0, "{key}: {last}");
        }
        Ok(())
    }

    /// Somebody new gets in.
    fn another_joins(&self) -> Result<Duration> {
        let began = Instant::now();
        let viewer = self.stage.watch(2, &self.broadcast.link, &["--output", "null"])?;
        viewer.wait_for(PATIENCE, |stats| count_of(stats, "frames_decoded") > 0);
        let took = began.elapsed();
        viewer.stop()?;
        Ok(took)
    }
}

fn killed(rng: &mut StdRng, who: Who) -> Result<Option<Duration>> {
    let scene = Scene::start("recording.mkv")?;
    some_moment(rng);
    scene.process(who).kill(Signal::SIGKILL)?;
    scene.process(who).wait(PATIENCE)?;
    let began = Instant::now();
    match who {
        Who::Rendezvous => {
            scene.viewers.iter().for_each(|viewer| go_on(viewer, 75));
            let _again = scene.stage.start_rendezvous()?;
            scene.another_joins()?;
            scene.viewers.iter().try_for_each(|viewer| scene.is_untouched(viewer))?;
            Ok(None)
        }
        Who::Broadcaster => {
            let _again = scene.stage.broadcast("cam", &clip_source(), "")?;
            let before: Vec<_> = scene.viewers.iter().map(frames).collect();
            for (viewer, before) in scene.viewers.iter().zip(before) {
                viewer.wait_for(PATIENCE, |stats| count_of(stats, "frames_decoded") > before + 5);
            }
            // The statistics come each second.
            Ok(Some(began.elapsed().saturating_sub(SECOND)))
        }
        Who::Viewer => {
            scene.is_untouched(&scene.viewers[0])?;
            let decoded = frames(&scene.viewers[1]) as usize;
            let path = scene.stage.path("recording.mkv");
            let recorded = || clip::times(&path, "v:0").len();
            ensure!(
                eventually(RECOVERY, || recorded() + 25 >= decoded),
                "{} of {decoded}",
                recorded()
            );
            Ok(None)
        }
    }
}

fn stopped(rng: &mut StdRng, who: Who, seconds: u64) -> Result<Option<Duration>> {
    let scene = Scene::start("recording.mkv")?;
    some_moment(rng);
    scene.process(who).kill(Signal::SIGSTOP)?;
    let began = Instant::now();
    let rest = Duration::from_secs(seconds);
    ensure!(eventually(rest + SECOND, || began.elapsed() >= rest), "time stands still");
    let before: Vec<_> = scene.viewers.iter().map(frames).collect();
    scene.process(who).kill(Signal::SIGCONT)?;
    let began = Instant::now();
    for (viewer, before) in scene.viewers.iter().zip(before) {
        viewer.wait_for(PATIENCE, |stats| count_of(stats, "frames_decoded") > before + 5);
    }
    let took = began.elapsed().saturating_sub(SECOND);
    if who == Who::Rendezvous {
        scene.viewers.iter().try_for_each(|viewer| scene.is_untouched(viewer))?;
        scene.another_joins()?;
        return Ok(None);
    }
    if who == Who::Viewer {
        scene.is_untouched(&scene.viewers[0])?;
    }
    ensure!(took <= RECOVERY, "{took:?} until all went on");
    Ok(Some(took))
}

/// The wall clocks of all programs jump while they run.
fn clocks(rng: &mut StdRng, by: &str) -> Result<Option<Duration>> {
    ensure!(fs::exists(FAKETIME)?, "no {FAKETIME}; apt-get install libfaketime");
    let stage = Stage::new(2)?;
    let shift = stage.path("shift");
    fs::write(&shift, "+0")?;
    let faked = |program: &str| -> Result<Command> {
        let mut command = Command::new(lab::binary(program)?);
        command.env("LD_PRELOAD", FAKETIME).env("FAKETIME_TIMESTAMP_FILE", &shift);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command.env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DONT_RESET", "1");
        Ok(command)
    };
    let config = stage.path("rendezvous.yaml");
    fs::write(&config, "")?;
    let mut command = faked("punchcast-rendezvous")?;
    command.args(["--listen", "0.0.0.0:3478", "--config"]).arg(&config);
    let rendezvous = stage.rendezvous.spawn("rendezvous", &command)?;
    rendezvous.wait_for_log_line(PATIENCE, |line| line.contains("listening on"))?;
    let mut command = faked("punchcast-broadcaster")?;
    command.args([
        "--source",
        &clip_source(),
        "--rendezvous",
        &stage.rendezvous_address(),
        "--state",
    ]);
    command.arg(stage.path("cam-state"));
    let broadcaster = stage.cam.spawn("cam", &command)?;
    let link = broadcaster.wait_for_line(PATIENCE, |line| line.starts_with("punchcast://"))?;
    let watch = |at: usize| -> Result<Watching> {
        let mut command = faked("punchcast-viewer")?;
        command.args(["watch", &link, "--stats", "json", "--output", "null"]);
        Ok(Watching { process: stage.viewers[at].1.spawn(&format!("watch{at}"), &command)? })
    };
    let first = watch(0)?;
    go_on(&first, 50);
    some_moment(rng);
    fs::write(&shift, by)?;
    go_on(&first, 125);
    let second = watch(1)?;
    go_on(&second, 25);
    for viewer in [&first, &second] {
        viewer.stop()?;
        let last = viewer.latest();
        for key in ["packets_unrecovered", "reconnects"] {
            ensure!(count_of(&last, key) == 0, "{key}: {last}");
        }
    }
    ensure!(count_of(&first.latest(), "frames_dropped") < 10, "{}", first.latest());
    Ok(None)
}

/// The broadcaster may open nothing more for a while.
fn descriptors(rng: &mut StdRng) -> Result<Option<Duration>> {
    let scene = Scene::start("recording.mkv")?;
    let pid = scene.broadcast.process.pid().to_string();
    let limit = |limit: &str| -> Result<()> {
        let status = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--nofile={limit}:")])
            .status()?;
        ensure!(status.success(), "prlimit: {status}");
        Ok(())
    };
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    some_moment(rng);
    limit(&open.to_string())?;
    let refused =
        scene.stage.watch(2, &scene.broadcast.link, &["--output", "null", "--for", "4s"])?;
    scene.viewers.iter().for_each(|viewer| go_on(viewer, 125));
    refused.process.wait(PATIENCE)?;
    limit("4096")?;
    scene.another_joins()?;
    scene.viewers.iter().try_for_each(|viewer| scene.is_untouched(viewer))?;
    Ok(None)
}

fn mtu(rng: &mut StdRng) -> Result<Option<Duration>> {
    let scene = Scene::start("recording.mkv")?;
    some_moment(rng);
    for (router, _) in &scene.stage.viewers {
        let mut set = Command::new("/usr/sbin/ip");
        set.args(["link", "set", "dev", router.uplink(), "mtu", "1280"]);
        router.run(&set)?;
    }
    scene.viewers.iter().for_each(|viewer| go_on(viewer, 125));
    scene.another_joins()?;
    scene.viewers.iter().try_for_each(|viewer| scene.is_untouched(viewer))?;
    Ok(None)
}

/// A path that does this to packets, both ways.
fn hard_path(rng: &mut StdRng, impairment: Impairment) -> Result<Option<Duration>> {
    let delay = Duration::from_millis(20);
    let link = Link::both(Impairment { delay, ..impairment });
    let stage = Stage::with_links(&[Some(link)])?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", &clip_source(), "")?;
    some_moment(rng);
    let path = stage.path("whole.mkv");
    let record = format!("record:{}", path.display());
    let flags = ["--output", &record, "--for", "9s", "--latency", "500ms"];
    let viewer = stage.watch(0, &broadcast.link, &flags)?;
    let status = viewer.process.wait(PATIENCE)?;
    let last = viewer.latest();
    ensure!(status.success(), "{status}: {last}");
    ensure!(count_of(&last, "packets_unrecovered") == 0, "{last}");
    let recorded = clip::frames(&path);
    let whole = recorded.len().saturating_sub(15);
    ensure!(whole > 25 * 5, "{whole} frames");
    let (_, worst) = clip::compare_looped(&recorded[..whole], &clip::frames(&stage::clip()));
    ensure!(worst > clip::SAME_PICTURE, "{worst} dB");
    Ok(None)
}
