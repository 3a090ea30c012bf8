//! Programs that are killed or stand still, and what the system withholds from them.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use tests::clip;
use tests::lab::{self, Signal, eventually};
use tests::stage::{Stage, Watching, count_of};

use crate::RECOVERY;
use crate::scene::{
    PATIENCE, Scene, Who, clip_source, frames, go_on, look_on, recovery, some_moment,
};

/// libfaketime, of the Debian package of that name.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Kills one of them. A broadcaster is started again, and the recovery is from the moment at which it prints its link
/// until pictures go on; a rendezvous is, too, and the recovery is from when it listens until somebody new gets in.
pub(crate) fn killed(rng: &mut StdRng, who: Who) -> Result<Option<Duration>> {
    let scene = Scene::start("recording.mkv")?;
    some_moment(rng);
    let since = SystemTime::now();
    scene.signal(who, Signal::SIGKILL)?;
    match who {
        Who::Rendezvous => {
            scene.rendezvous.wait(PATIENCE)?;
            scene.viewers.iter().for_each(|viewer| go_on(viewer, 75));
            let _again = scene.stage.start_rendezvous()?;
            let took = scene.joins_since(SystemTime::now())?;
            scene.viewers.iter().try_for_each(|viewer| scene.is_untouched(viewer))?;
            Ok(Some(took))
        }
        Who::Broadcaster => {
            scene.broadcast.process.wait(PATIENCE)?;
            let again = scene.stage.broadcast("cam", &clip_source(), "")?;
            let since = SystemTime::now();
            ensure!(again.link == scene.broadcast.link, "another link");
            recovery(&scene.viewers, since).map(Some)
        }
        Who::Viewer => {
            scene.viewers[1].process.wait(PATIENCE)?;
            scene.is_untouched(&scene.viewers[0])?;
            let decoded = frames(&scene.viewers[1]) as usize;
            has_recorded(&scene, decoded)?;
            Ok(None)
        }
        Who::Decoder => {
            let says = || scene.viewers[1].process.stderr().text();
            ensure!(eventually(PATIENCE, || says().contains("output=null")), "{}", says());
            // The recording goes on without it.
            let received = || count_of(&scene.viewers[1].latest(), "packets_received");
            let before = received();
            ensure!(eventually(PATIENCE, || received() > before + 300), "{}", says());
            scene.is_untouched(&scene.viewers[0])?;
            scene.viewers[1].stop()?;
            has_recorded(&scene, frames(&scene.viewers[1]) as usize)?;
            Ok(None)
        }
        Who::Encoder => {
            let took = recovery(&scene.viewers, since)?;
            scene.viewers.iter().try_for_each(|viewer| scene.is_untouched(viewer))?;
            Ok(Some(took))
        }
    }
}

/// What captures and encodes stands still for good. The recovery is from when that is noticed.
pub(crate) fn hangs(rng: &mut StdRng) -> Result<Option<Duration>> {
    /// As `SILENCE` in the broadcaster's `apart`.
    const NOTICED: Duration = Duration::from_secs(5);
    let scene = Scene::start("recording.mkv")?;
    some_moment(rng);
    let since = SystemTime::now();
    scene.signal(Who::Encoder, Signal::SIGSTOP)?;
    let took = recovery(&scene.viewers, since)?;
    let said = scene.broadcast.process.stderr().text();
    ensure!(said.contains("said nothing for 5 s"), "{said}");
    scene.viewers.iter().try_for_each(|viewer| scene.is_untouched(viewer))?;
    Ok(Some(took.saturating_sub(NOTICED)))
}

/// A recording is there but for its last second.
fn has_recorded(scene: &Scene, decoded: usize) -> Result<()> {
    let path = scene.stage.path("recording.mkv");
    let recorded = || clip::times(&path, "v:0").len();
    ensure!(eventually(RECOVERY, || recorded() + 25 >= decoded), "{} of {decoded}", recorded());
    Ok(())
}

/// One of them stands still, and goes on. The recovery is from then until pictures go on, or, of a rendezvous, until
/// somebody new gets in: those who watch may not notice.
pub(crate) fn stopped(rng: &mut StdRng, who: Who, seconds: u64) -> Result<Option<Duration>> {
    let scene = Scene::start("recording.mkv")?;
    some_moment(rng);
    scene.signal(who, Signal::SIGSTOP)?;
    look_on(Duration::from_secs(seconds));
    let since = SystemTime::now();
    scene.signal(who, Signal::SIGCONT)?;
    if who == Who::Rendezvous {
        let took = scene.joins_since(since)?;
        scene.viewers.iter().try_for_each(|viewer| scene.is_untouched(viewer))?;
        return Ok(Some(took));
    }
    let took = recovery(&scene.viewers, since)?;
    if !matches!(who, Who::Broadcaster | Who::Encoder) {
        scene.is_untouched(&scene.viewers[0])?;
    }
    Ok(Some(took))
}

/// The wall clocks of all programs jump while they run.
pub(crate) fn clocks(rng: &mut StdRng, by: &str) -> Result<Option<Duration>> {
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
    let dropped = || count_of(&first.latest(), "frames_dropped");
    let before = dropped();
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
    // Whoever joins within a GOP leaves some out, and did before.
    ensure!(dropped() - before < 10, "{before} dropped before: {}", first.latest());
    Ok(None)
}

/// The broadcaster may open nothing more for a while.
pub(crate) fn descriptors(rng: &mut StdRng) -> Result<Option<Duration>> {
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
