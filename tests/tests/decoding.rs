//! What plays does so apart: it may do little, and where it crashes, is killed or finds no room, only that ends.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use tests::clip;
use tests::lab::{Result, Signal, eventually};
use tests::stage::{self, Stage, count, count_of};

const PATIENCE: Duration = Duration::from_secs(20);

/// A second of frames.
const SECOND: usize = 25;

/// Whether a process runs: nobody may have asked yet how it ended.
fn is_there(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// The frames of a recording that plays, in order and without a gap.
fn playable(recording: &Path) -> usize {
    clip::whole_frames(recording, &stage::clip())
}

#[test]
fn a_decoder_that_crashes_ends_what_it_shows_and_nothing_else() -> Result<()> {
    let stage = Stage::new(2)?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "")?;
    let recording = stage.path("goes-on.mkv");
    let record = format!("record:{}", recording.display());
    let flags = ["--output", "null", "--output", &record];
    let both = stage.watch(0, &broadcast.link, &flags)?;
    let one = stage.watch(1, &broadcast.link, &["--output", "null"])?;
    for viewer in [&both, &one] {
        viewer.wait_for(PATIENCE, |stats| count_of(stats, "frames_decoded") > 2 * SECOND as u64);
        let decodes = viewer.player(true);
        // Sent from outside, the first only disarms Rust's own look at it.
        assert!(
            eventually(PATIENCE, || kill(decodes, Signal::SIGSEGV).is_err() || !is_there(decodes))
        );
    }
    assert_eq!(one.process.wait(PATIENCE)?.code(), Some(1));
    let said = one.process.stderr().text();
    assert!(said.contains("decoding crashed (SIGSEGV)"), "{said}");
    // The other one records on.
    let before = count(&both.latest(), "packets_received");
    both.wait_for(PATIENCE, |stats| count(stats, "packets_received") > before + 500);
    let said = both.process.stderr().text();
    assert!(said.contains("decoding crashed (SIGSEGV)") && said.contains("output=null"), "{said}");
    both.stop()?;
    let frames = playable(&recording);
    assert!(frames > 5 * SECOND, "{frames} frames");
    Ok(())
}

#[test]
fn what_plays_is_kept_in_and_the_viewer_loads_no_decoder() -> Result<()> {
    let stage = Stage::new(1)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", "test", "")?;
    let record = format!("record:{}", stage.path("a.mkv").display());
    let flags = ["--output", "null", "--output", &record];
    let viewer = stage.watch(0, &broadcast.link, &flags)?;
    viewer.wait_for(PATIENCE, |stats| count_of(stats, "frames_decoded") > 10);
    let players = [viewer.player(true), viewer.player(false)];
    for pid in players {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
        for thread in threads {
            let thread = thread.expect("it runs").path();
            let status = fs::read_to_string(thread.join("status")).expect("it runs");
            for word in ["Seccomp:\t2", "NoNewPrivs:\t1"] {
                assert!(status.contains(word), "{word}: {status}");
            }
        }
    }
    // Both have what the viewer itself has nothing of.
    let maps = |pid: Pid| fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs");
    assert!(
        maps(players[0]).contains("libgstlibav") && maps(players[1]).contains("libgstmatroska")
    );
    let own = maps(viewer.process.pid());
    assert!(!own.contains("/gstreamer-1.0/") && !own.contains("libavcodec"), "{own}");
    viewer.stop()?;
    assert!(eventually(PATIENCE, || players.iter().all(|pid| !is_there(*pid))));
    Ok(())
}

#[test]
fn a_recording_outlives_whoever_is_killed() -> Result<()> {
    let stage = Stage::new(3)?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "")?;
    // The viewer, or what records for it.
    for kills_viewer in [true, false] {
        let names = ["a.mkv", "a.mp4", "a.ts"].map(|name| format!("{kills_viewer}-{name}"));
        let watch = |at: usize| {
            let record = format!("record:{}", stage.path(&names[at]).display());
            stage.watch(at, &broadcast.link, &["--output", &record])
        };
        let viewers: Vec<_> = (0..names.len()).map(watch).collect::<Result<_>>()?;
        let mut decoded = Vec::new();
        for viewer in &viewers {
            let enough =
                |stats: &serde_json::Value| count_of(stats, "frames_decoded") > 6 * SECOND as u64;
            let last = viewer.wait_for(PATIENCE, enough);
            decoded.push(count(&last, "frames_decoded") as usize);
            let records = viewer.player(false);
            let killed = if kills_viewer { viewer.process.pid() } else { records };
            kill(killed, Signal::SIGKILL).expect("it runs");
            let status = viewer.process.wait(PATIENCE)?;
            assert!(!status.success(), "{status}");
            assert!(eventually(PATIENCE, || !is_there(records)), "it is left behind");
        }
        for (name, decoded) in names.iter().zip(decoded) {
            let frames = playable(&stage.path(name));
            println!("{name}: {frames} of at least {decoded} frames");
            assert!(frames + SECOND >= decoded, "{name}: {frames} of {decoded}");
        }
    }
    Ok(())
}

#[test]
fn a_full_disk_ends_the_recording_and_live_goes_on() -> Result<()> {
    let stage = Stage::new(1)?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "")?;
    let small = stage.path("small");
    fs::create_dir(&small).expect("room");
    for name in ["full.mkv", "full.mp4", "full.ts"] {
        let file = small.join(name);
        let record = format!("record:{}", file.display());
        let flags = ["--output", "null", "--output", &record];
        let viewer = stage.watch_on_a_small_disk(0, &broadcast.link, &small, &flags)?;
        let is_told = || viewer.process.stderr().text().contains("output failed");
        assert!(eventually(2 * PATIENCE, is_told), "{}", viewer.process.stderr().text());
        let said = viewer.process.stderr().text();
        assert!(said.contains(name) && said.to_lowercase().contains("space"), "{said}");
        let before = count(&viewer.latest(), "frames_decoded");
        viewer.wait_for(PATIENCE, |stats| count_of(stats, "frames_decoded") > before + 50);
        assert_eq!(count(&viewer.latest(), "packets_lost"), 0);
        let copy = stage.path(name);
        let seen = format!("/proc/{}/root{}", viewer.process.pid(), file.display());
        fs::copy(seen, &copy).expect("it is there");
        viewer.stop()?;
        let frames = playable(&copy);
        println!("{name}: {frames} frames had room");
        assert!(frames > 2 * SECOND, "{frames} frames");
    }
    Ok(())
}
