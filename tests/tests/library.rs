//! Stored files on demand, between two firewalls, with real programs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::clip::{self, SAME_PICTURE};
use tests::lab::{self, Impairment, Link, Rate, Result, Signal};
use tests::offer::{Commanded, Offered, is_playing_beyond};
use tests::stage::{Stage, ms};

/// Frames a second of all that is made here.
const RATE: usize = 25;

/// A round trip of 40 ms between viewer and broadcaster, half of it at each viewer's link.
fn link() -> Option<Link> {
    Some(Link::both(Impairment::delay(Duration::from_millis(20))))
}

/// Makes a clip of so many seconds with pictures that all differ, B-frames and a keyframe every two seconds.
fn make(path: &Path, seconds: usize, more: &[&str]) {
    let picture = format!("testsrc2=size=320x180:rate={RATE}:duration={seconds}");
    let sound = format!("sine=frequency=440:sample_rate=48000:duration={seconds}");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &sound]);
    ffmpeg.args(["-c:v", "libx264", "-preset", "veryfast", "-g", "50", "-bf", "3"]);
    ffmpeg.args(["-c:a", "aac", "-shortest"]).args(more).arg(path);
    let status = ffmpeg.status().expect("Debian's ffmpeg is installed");
    assert!(status.success(), "{ffmpeg:?}: {status}");
}

/// Every frame of a recording is the source's frame, from `first` on, in turn.
fn assert_frames(recording: &Path, source: &[Vec<u8>], first: usize) {
    let recorded = clip::frames(recording);
    assert_eq!(recorded.len(), source.len() - first, "frames in {}", recording.display());
    for (at, (recorded, sent)) in recorded.iter().zip(&source[first..]).enumerate() {
        let psnr = clip::psnr(recorded, sent);
        assert!(psnr > SAME_PICTURE, "frame {at} of {}: {psnr} dB", recording.display());
    }
}

#[test]
fn three_viewers_play_a_file_from_where_each_wants() -> Result<()> {
    let stage = Stage::with_links(&[link(), link(), link()])?;
    let offered = Offered::new(&stage, |folder| {
        make(&folder.join("sub/ä #1.mp4"), 12, &[]);
    })?;
    let file = offered.folder.join("sub/ä #1.mp4");
    let link = offered.link("sub/%C3%A4%20%231.mp4");
    let mut viewers = Vec::new();
    for (at, start) in ["0s", "3s", "0:08.5"].iter().enumerate() {
        let recording = stage.path(&format!("{at}.mkv"));
        let record = format!("record:{}", recording.display());
        let flags = ["--output", "null", "--output", &record, "--start", start];
        viewers.push((stage.watch(at, &link, &flags)?, recording));
    }
    let source = clip::frames(&file);
    // A recording begins at the keyframe that the first picture is decoded from.
    for ((viewer, recording), first) in viewers.iter().zip([0, 50, 200]) {
        let status = viewer.process.wait(Duration::from_secs(40))?;
        let last = viewer.latest();
        assert!(status.success(), "{status}: {last}");
        assert_eq!(last["state"], "ended", "{last}");
        assert!((ms(&last, "duration_ms") - 12_000.0).abs() <= 40.0, "{last}");
        assert_eq!(last["packets_unrecovered"], 0, "{last}");
        assert_eq!(last["frames_dropped"], 0, "{last}");
        assert_frames(recording, &source, first);
        let sound = clip::times(recording, "a:0");
        let expected = (source.len() - first) as f64 / RATE as f64;
        let heard = sound.last().expect("there is sound") - sound[0];
        assert!((heard - expected).abs() < 0.1, "{heard} s of sound, {expected} s of pictures");
        assert!(clip::longest_gap(&sound) < 0.03, "sound has a gap");
    }
    Ok(())
}

/// How long a viewer stands still: `make soak` has it stand for an hour.
fn pause() -> Duration {
    let seconds = std::env::var("PAUSE_SECONDS").map(|seconds| seconds.parse());
    Duration::from_secs(seconds.unwrap_or(Ok(70)).expect("PAUSE_SECONDS is a number"))
}

#[test]
fn a_viewer_seeks_and_stands_still_and_goes_on() -> Result<()> {
    let stage = Stage::with_links(&[link()])?;
    // Shorter than the pause: only what the viewer sends keeps the path open.
    for router in [&stage.home, &stage.viewers[0].0] {
        router.set_udp_timeouts(Duration::from_secs(30), Duration::from_secs(30))?;
    }
    let offered = Offered::new(&stage, |folder| make(&folder.join("clip.mp4"), 60, &[]))?;
    let mut viewer = Commanded::start(&stage, 0, &offered.link("clip.mp4"), &["--output", "null"])?;
    viewer.watching.wait_for(Duration::from_secs(20), is_playing_beyond(0.5));
    viewer.say("seek 41.3s");
    let shown = |stats: &Value| stats["seek_ms"].is_number() && is_playing_beyond(41.29)(stats);
    let stats = viewer.watching.wait_for(Duration::from_secs(5), shown);
    assert!(ms(&stats, "position_ms") < 43_500.0, "{stats}");
    viewer.say("pause");
    let paused = viewer.watching.wait_for(Duration::from_secs(3), |stats| stats["paused"] == true);
    let sent = stage.metric("punchcast_packets_sent_total")?;
    let pausing = Instant::now();
    let pause = pause();
    let still = viewer.watching.wait_for(pause + Duration::from_secs(10), |stats| {
        assert_eq!(stats["paused"], true, "{stats}");
        assert_eq!(stats["position_ms"], paused["position_ms"], "{stats}");
        pausing.elapsed() >= pause
    });
    assert_eq!(stage.metric("punchcast_packets_sent_total")?, sent, "a pause sends nothing");
    assert_eq!(still["reconnects"], 0, "{still}");
    viewer.say("play");
    let resumed = |stats: &Value| stats["paused"] == false && stats["seek_ms"] != still["seek_ms"];
    let stats = viewer.watching.wait_for(Duration::from_secs(5), resumed);
    assert!(ms(&stats, "seek_ms") <= 500.0, "{stats}");
    assert_eq!(stats["reconnects"], 0, "{stats}");
    viewer.say("rate 2");
    viewer.watching.wait_for(Duration::from_secs(9), is_playing_beyond(52.0));
    viewer.say("seek 57s");
    viewer.say("nonsense");
    viewer.watching.process.wait_for_log_line(Duration::from_secs(5), |line| {
        line.contains("'nonsense' is no command")
    })?;
    let status = viewer.watching.process.wait(Duration::from_secs(10))?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
fn a_path_that_breaks_leaves_no_gap_in_a_recording() -> Result<()> {
    let stage = Stage::with_links(&[link()])?;
    let offered = Offered::new(&stage, |folder| make(&folder.join("clip.mkv"), 14, &[]))?;
    let recording = stage.path("whole.mkv");
    let record = format!("record:{}", recording.display());
    let flags = ["--output", "null", "--output", &record];
    let viewer = stage.watch(0, &offered.link("clip.mkv"), &flags)?;
    viewer.wait_for(Duration::from_secs(20), is_playing_beyond(4.0));
    stage.viewers[0].0.block_udp(true)?;
    viewer.wait_for(Duration::from_secs(8), |stats| stats["state"] == "reconnecting");
    stage.viewers[0].0.block_udp(false)?;
    let mended = Instant::now();
    viewer.wait_for(Duration::from_secs(10), |stats| stats["state"] == "playing");
    let after = mended.elapsed();
    println!("goes on {after:?} after the path is back");
    assert!(after <= Duration::from_secs(2), "goes on {after:?} after the path is back");
    let status = viewer.process.wait(Duration::from_secs(40))?;
    let last = viewer.latest();
    assert!(status.success(), "{status}: {last}");
    assert_frames(&recording, &clip::frames(&offered.folder.join("clip.mkv")), 0);
    Ok(())
}

#[test]
fn a_picture_that_is_long_in_coming_is_waited_for() -> Result<()> {
    let stage = Stage::with_links(&[link()])?;
    let offered = Offered::new(&stage, |folder| {
        // Five pictures, none for almost twelve seconds, and another second's.
        let some = ["-vf", "select=lt(n\\,5)+gte(n\\,300)", "-fps_mode", "vfr", "-an"];
        make(&folder.join("sparse.mkv"), 13, &some);
        let sound = ["-vn"];
        make(&folder.join("sound.m4a"), 4, &sound);
    })?;
    let recording = stage.path("sparse.mkv");
    let record = format!("record:{}", recording.display());
    let flags = ["--output", "null", "--output", &record];
    let viewer = stage.watch(0, &offered.link("sparse.mkv"), &flags)?;
    let status = viewer.process.wait(Duration::from_secs(40))?;
    let last = viewer.latest();
    assert!(status.success(), "{status}: {last}");
    assert_eq!(last["reconnects"], 0, "{last}");
    assert_frames(&recording, &clip::frames(&offered.folder.join("sparse.mkv")), 0);
    // What cannot be done is told, and what is done goes on.
    let mut viewer =
        Commanded::start(&stage, 0, &offered.link("sound.m4a"), &["--output", "null"])?;
    viewer.watching.wait_for(Duration::from_secs(20), is_playing_beyond(0.3));
    viewer.say("rate 2");
    viewer.watching.process.wait_for_log_line(Duration::from_secs(5), |line| {
        line.contains("take_refused") && line.contains("sound plays at its own rate only")
    })?;
    let stats = viewer.watching.wait_for(Duration::from_secs(5), is_playing_beyond(1.5));
    assert_eq!((&stats["rate"], &stats["state"]), (&Value::from(1.0), &Value::from("playing")));
    // And it stands still where it stood.
    viewer.say("pause");
    let paused = viewer.watching.wait_for(Duration::from_secs(3), |stats| stats["paused"] == true);
    fs::rename(offered.folder.join("sound.m4a"), offered.folder.join("other.m4a")).expect("there");
    viewer.say("seek 3s");
    viewer.watching.process.wait_for_log_line(Duration::from_secs(5), |line| {
        line.contains("take_refused") && line.contains("no stored file")
    })?;
    let seconds = Instant::now();
    let stats = viewer.watching.wait_for(Duration::from_secs(5), |stats| {
        seconds.elapsed() > Duration::from_millis(1100) && stats["paused"] == true
    });
    assert_eq!(stats["position_ms"], paused["position_ms"], "{stats}");
    fs::rename(offered.folder.join("other.m4a"), offered.folder.join("sound.m4a")).expect("there");
    viewer.say("play");
    let status = viewer.watching.process.wait(Duration::from_secs(15))?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[test]
fn the_uplink_is_shared_out_live_first() -> Result<()> {
    let stage = Stage::with_links(&[link(), link(), link()])?;
    stage.home.limit_uplink(16_000_000, Duration::from_millis(200))?;
    let settings = "uplink: 16M\nvideo: {bitrate: 500k, width: 320, height: 180}\n";
    let offered = Offered::with(&stage, "test", settings, |folder| {
        let rate = ["-b:v", "8M", "-minrate", "8M", "-maxrate", "8M", "-bufsize", "4M"];
        let filled = ["-x264-params", "nal-hrd=cbr:filler=1"];
        make(&folder.join("heavy.mp4"), 12, &[&rate[..], &filled].concat());
    })?;
    // What the file needs is known once it was looked into.
    let mut list = Command::new(lab::binary("punchcast-viewer")?);
    list.args(["list", &offered.broadcast.link, "--json"]);
    let is_known = || {
        let listed = stage.viewers[1].1.run(&list).ok();
        let listed = listed.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        listed.is_some_and(|listed| listed["files"][0]["playable"] == true)
    };
    assert!(lab::eventually(Duration::from_secs(20), is_known), "it is never listed");
    let live = stage.watch(0, &offered.broadcast.link, &["--output", "null"])?;
    // The pictures from before it joined are not all shown.
    let before =
        live.wait_for(Duration::from_secs(20), |stats| stats["frames_decoded"].as_u64() > Some(30));
    let link = offered.link("heavy.mp4");
    let mut one = Commanded::start(&stage, 1, &link, &["--output", "null"])?;
    one.watching.wait_for(Duration::from_secs(20), is_playing_beyond(1.0));
    // There is no room for as much again, whoever asks for it.
    let other = stage.watch(2, &link, &["--output", "null"])?;
    let status = other.process.wait(Duration::from_secs(20))?;
    assert_eq!(status.code(), Some(4), "{}", other.process.stderr().text());
    one.say("rate 2");
    one.watching.process.wait_for_log_line(Duration::from_secs(5), |line| {
        line.contains("take_refused") && line.contains("full")
    })?;
    let status = one.watching.process.wait(Duration::from_secs(30))?;
    let last = one.watching.latest();
    assert!(status.success(), "{status}: {last}");
    assert_eq!((&last["packets_unrecovered"], &last["frames_dropped"]), (&0.into(), &0.into()));
    let last = live.latest();
    let dropped = &before["frames_dropped"];
    assert_eq!((&last["packets_unrecovered"], &last["frames_dropped"]), (&0.into(), dropped));
    // Now there is room.
    let other = stage.watch(2, &link, &["--output", "null", "--start", "10s"])?;
    assert!(other.process.wait(Duration::from_secs(20))?.success());
    live.stop()
}

#[test]
fn nothing_outside_the_library_can_be_named() -> Result<()> {
    let stage = Stage::new(1)?;
    let secret = stage.path("secret.mp4");
    let offered = Offered::new(&stage, |folder| {
        make(&secret, 1, &[]);
        make(&folder.join("inside.mp4"), 1, &[]);
        std::os::unix::fs::symlink(&secret, folder.join("out.mp4")).expect("links can be made");
        std::os::unix::fs::symlink("..", folder.join("up")).expect("links can be made");
        fs::write(folder.join("empty.mp4"), "").expect("files can be made");
    })?;
    let absolute = secret.display().to_string();
    let outside = [
        "../secret.mp4",
        "out.mp4",
        "up/secret.mp4",
        "sub/../../secret.mp4",
        "%2E%2E/secret.mp4",
        &absolute,
        "none.mp4",
    ];
    for path in outside {
        let viewer = stage.watch(0, &offered.link(path), &["--output", "null"])?;
        let status = viewer.process.wait(Duration::from_secs(20))?;
        let said = viewer.process.stderr().text();
        assert_eq!(status.code(), Some(6), "{path}: {said}");
        let lines: Vec<&str> = said.lines().filter(|line| line.contains("stored file")).collect();
        assert_eq!(lines.len(), 1, "{path}: {said}");
    }
    let viewer = stage.watch(0, &offered.link("empty.mp4"), &["--output", "null"])?;
    let status = viewer.process.wait(Duration::from_secs(20))?;
    assert!(!status.success() && viewer.process.stderr().text().contains("cannot be played"));
    let viewer = stage.watch(0, &offered.link("inside.mp4"), &["--output", "null"])?;
    let status = viewer.process.wait(Duration::from_secs(20))?;
    assert!(status.success(), "{status}: {}", viewer.process.stderr().text());
    Ok(())
}

#[test]
fn a_copy_goes_on_where_it_broke_off_and_is_identical() -> Result<()> {
    let limited = Impairment {
        delay: Duration::from_millis(5),
        rate: Some(Rate::new(50_000_000, 250_000)),
        ..Impairment::default()
    };
    let stage = Stage::with_links(&[Some(Link::both(limited))])?;
    let length = 24 << 20;
    let offered = Offered::new(&stage, |folder| {
        // Nothing that could be pressed together.
        let mut state = 1u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(length)
        .collect();
        fs::write(folder.join("sub/a b.bin"), bytes).expect("files can be made");
        make(&folder.join("clip.mp4"), 2, &[]);
    })?;
    let folder = stage.path("copies");
    fs::create_dir_all(&folder).expect("the lab's folder can be written");
    let fetch = |name: &str| {
        let mut command = Command::new(lab::binary("punchcast-viewer")?);
        command.args(["fetch", &offered.broadcast.link, "sub/a b.bin", "clip.mp4", "-o"]);
        command.arg(&folder);
        stage.viewers[0].1.spawn(name, &command)
    };
    let first = fetch("first")?;
    let so_far = || -> u64 {
        let entries = fs::read_dir(&folder).expect("it is there").flatten();
        let parts = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "part"));
        parts.filter_map(|entry| Some(entry.metadata().ok()?.len())).max().unwrap_or(0)
    };
    let half = lab::eventually(Duration::from_secs(40), || so_far() > length as u64 / 3);
    assert!(half, "{} bytes: {}", so_far(), first.stderr().text());
    first.kill(Signal::SIGKILL)?;
    first.wait(Duration::from_secs(5))?;
    let left = so_far();
    assert!(left < length as u64, "it was too quick to be stopped");
    // The clip may have been whole before.
    let _ = fs::remove_file(folder.join("clip.mp4"));
    let before = stage.metric("punchcast_fetched_bytes_total")?;
    let second = fetch("second")?;
    // A path that breaks meanwhile is opened again.
    let more = lab::eventually(Duration::from_secs(40), || so_far() > left);
    assert!(more, "{}", second.stderr().text());
    let status = second.wait(Duration::from_secs(60))?;
    assert!(status.success(), "{status}: {}", second.stderr().text());
    let sent = stage.metric("punchcast_fetched_bytes_total")? - before;
    assert!(sent < (length as u64 - left) as f64 + 3e6, "{sent} bytes sent for the rest");
    for path in ["sub/a b.bin", "clip.mp4"] {
        let name = Path::new(path).file_name().expect("a name");
        let (copy, original) = (fs::read(folder.join(name)), fs::read(offered.folder.join(path)));
        assert!(copy.expect("copied") == original.expect("there"), "{path} differs");
    }
    assert_eq!(so_far(), 0, "nothing is left behind");
    // What is there stays there.
    let third = fetch("third")?;
    assert_eq!(third.wait(Duration::from_secs(20))?.code(), Some(2));
    assert!(third.stderr().text().contains("--force overwrites it"));
    // What is offered is listed, for scripts as well.
    let mut list = Command::new(lab::binary("punchcast-viewer")?);
    list.args(["list", &offered.broadcast.link, "--json"]);
    let listed: Value =
        serde_json::from_str(&stage.viewers[0].1.run(&list)?).expect("one JSON object");
    let clip = &listed["files"][0];
    assert_eq!(clip["path"], "clip.mp4", "{listed}");
    assert_eq!(clip["tracks"][0]["codec"], "H.264", "{listed}");
    assert_eq!(clip["tracks"][0]["passes_through"], true, "{listed}");
    assert_eq!(listed["files"][1]["playable"], false, "{listed}");
    Ok(())
}
