//! Sources that go away and come back, and recordings without room.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use rand::rngs::StdRng;
use tests::clip;
use tests::lab::{Process, Signal, eventually};
use tests::stage::{self, Stage, Watching, count_of};

use crate::scene::{PATIENCE, clip_source, go_on, look_on, recovery, some_moment};

/// How long a source stays away: a second at least, and longer than any pause between two tries to start it again.
const AWAY_MS: std::ops::Range<u64> = 1_000..8_000;

/// The recording ends in words, what was recorded plays, and the picture goes on.
pub(crate) fn full_disk(rng: &mut StdRng) -> Result<Option<Duration>> {
    let stage = Stage::new(1)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", &clip_source(), "")?;
    let small = stage.path("small");
    fs::create_dir(&small)?;
    let name = ["full.mkv", "full.mp4", "full.ts"][rng.random_range(0..3)];
    let file = small.join(name);
    some_moment(rng);
    let record = format!("record:{}", file.display());
    let flags = ["--output", "null", "--output", &record];
    let viewer = stage.watch_on_a_small_disk(0, &broadcast.link, &small, &flags)?;
    let said = || viewer.process.stderr().text();
    ensure!(eventually(2 * PATIENCE, || said().contains("output failed")), "{}", said());
    ensure!(said().contains(name) && said().to_lowercase().contains("space"), "{}", said());
    go_on(&viewer, 50);
    ensure!(count_of(&viewer.latest(), "packets_unrecovered") == 0, "{}", viewer.latest());
    let copy = stage.path(name);
    fs::copy(format!("/proc/{}/root{}", viewer.process.pid(), file.display()), &copy)?;
    viewer.stop()?;
    let frames = clip::whole_frames(&copy, &stage::clip());
    ensure!(frames > 50, "{frames} frames had room");
    Ok(None)
}

/// A camera is pulled out, and put back after some seconds: viewers stay.
pub(crate) fn unplugged(rng: &mut StdRng) -> Result<Option<Duration>> {
    let stage = Stage::new(1)?;
    let device = stage.path("camera");
    let picture = "video/x-raw,format=I420,width=320,height=180,framerate=25/1";
    let plug = || -> Result<Process> {
        let _ = fs::remove_file(&device);
        let mut camera = Command::new("gst-launch-1.0");
        camera.args(["-q", "videotestsrc", "is-live=true", "!", picture, "!", "shmsink"]);
        camera.arg(format!("socket-path={}", device.display()));
        camera.arg("wait-for-connection=false");
        let camera = stage.cam.spawn("camera", &camera)?;
        ensure!(eventually(PATIENCE, || device.exists()), "no camera");
        Ok(camera)
    };
    let camera = plug()?;
    let source = format!(
        "pipeline:shmsrc socket-path={} is-live=true do-timestamp=true ! {picture}",
        device.display()
    );
    let told = "event=\"source_lost\"";
    goes_away(rng, &stage, &source, Some(told), camera, plug)
}

/// An encoder, another program that sends to the broadcaster, is killed and started again.
pub(crate) fn another_encoder_killed(rng: &mut StdRng) -> Result<Option<Duration>> {
    let stage = Stage::new(1)?;
    let encode = || -> Result<Process> {
        let mut encoder = Command::new("ffmpeg");
        encoder.args(["-v", "error", "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"]);
        encoder.args([
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-tune",
            "zerolatency",
            "-g",
            "25",
        ]);
        encoder.args(["-f", "rtp", "rtp://127.0.0.1:5004"]);
        Ok(stage.cam.spawn("encoder", &encoder)?)
    };
    let encoder = encode()?;
    let source = "pipeline:udpsrc port=5004 caps=application/x-rtp,media=video,clock-rate=90000,\
                  encoding-name=H264 ! rtph264depay ! h264parse";
    goes_away(rng, &stage, source, None, encoder, encode)
}

/// Kills what the source comes from, and starts it again later. The recovery is from then.
fn goes_away(
    rng: &mut StdRng,
    stage: &Stage,
    source: &str,
    told: Option<&str>,
    feeding: Process,
    start: impl Fn() -> Result<Process>,
) -> Result<Option<Duration>> {
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", source, "")?;
    let viewer: [Watching; 1] = [stage.watch_closely(0, &broadcast.link, &["--output", "null"])?];
    go_on(&viewer[0], 50);
    some_moment(rng);
    feeding.kill(Signal::SIGKILL)?;
    feeding.wait(PATIENCE)?;
    if let Some(told) = told {
        let log = || broadcast.process.stderr().text();
        ensure!(eventually(PATIENCE, || log().contains(told)), "{}", log());
    }
    look_on(Duration::from_millis(rng.random_range(AWAY_MS)));
    let _again = start()?;
    let took = recovery(&viewer, SystemTime::now())?;
    let last = viewer[0].latest();
    for key in ["packets_unrecovered", "reconnects"] {
        ensure!(count_of(&last, key) == 0, "{key}: {last}");
    }
    broadcast.process.try_wait()?.is_none().then_some(Some(took)).context("the broadcaster ended")
}
