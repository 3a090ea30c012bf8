//! Three renditions of one picture, and viewers behind links of 1, 3 and 8 Mbit/s: each gets the best that its link
//! carries, follows when that changes, and loses nothing; what nobody watches is not encoded.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::lab::{Impairment, Link, Meanwhile, Rate, Result};
use tests::stage::{Stage, Watching, count};

const ONE_WAY: Duration = Duration::from_millis(20);

/// How soon each is to be where it belongs.
const SETTLED: Duration = Duration::from_secs(5);

/// Noise takes all bits that it is given.
const SOURCE: &str = "pipeline:videotestsrc is-live=true pattern=snow \
     ! video/x-raw,format=I420,width=640,height=360,framerate=25/1 ! identity \
     audiotestsrc is-live=true samplesperbuffer=960 ! capsfilter caps=audio/x-raw,rate=48000,channels=2";

const SETTINGS: &str = "video:\n  bitrate: 4M\n  keyframe_interval: 2s\n  renditions:\n\
     \x20   - {height: 270, bitrate: 1500k}\n    - {name: small, height: 180, bitrate: 500k}\n";

const BEST: &str = "360p";
const MIDDLE: &str = "270p";
const SMALL: &str = "small";

/// A link of so many kbit/s with a queue of 100 ms and room for a picture, and of others for a while.
fn link(kilobits: u64, meanwhile: Option<(u64, Duration, Duration)>) -> Option<Link> {
    let rate = |kilobits: u64| kilobits * 1000;
    let queue = (rate(kilobits) / 80).max(50_000);
    let meanwhile = meanwhile.map(|(kilobits, from, until)| Meanwhile {
        bits_per_second: rate(kilobits),
        from,
        until,
    });
    let rate = Some(Rate { meanwhile, ..Rate::new(rate(kilobits), queue) });
    let (down, up) = (Impairment::delay(ONE_WAY), Impairment::delay(ONE_WAY));
    Some(Link { down: Impairment { rate, ..down }, up })
}

fn rendition(stats: &Value) -> Option<&str> {
    stats["rendition"].as_str()
}

/// Waits until a viewer gets a rendition; how long that took.
fn settles(viewer: &Watching, wanted: &str, since: Instant) -> Duration {
    viewer.wait_for(Duration::from_secs(20), |stats| rendition(stats) == Some(wanted));
    since.elapsed()
}

#[test]
fn each_link_gets_the_best_that_it_carries_and_what_nobody_watches_costs_nothing() -> Result<()> {
    let links = [link(1_000, None), link(3_000, None), link(8_000, None)];
    let stage = Stage::with_links(&links)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SOURCE, SETTINGS)?;
    let wanted = [SMALL, MIDDLE, BEST];
    let flags = ["--output", "null", "--for", "120s"];
    let mut viewers: Vec<Watching> = Vec::new();
    for (at, wanted) in wanted.into_iter().enumerate() {
        let began = Instant::now();
        let viewer = stage.watch(at, &broadcast.link, &flags)?;
        viewer
            .wait_for(Duration::from_secs(15), |stats| stats["frames_decoded"].as_u64() > Some(0));
        let took = settles(&viewer, wanted, began);
        println!("{wanted} after {took:?}: {}", viewer.latest());
        assert!(took <= SETTLED, "{took:?}");
        viewers.push(viewer);
    }
    let settled: Vec<Value> = viewers.iter().map(Watching::latest).collect();
    std::thread::sleep(Duration::from_secs(10));
    for ((viewer, before), wanted) in viewers.iter().zip(&settled).zip(wanted) {
        let now = viewer.latest();
        println!("{wanted}: {now}");
        assert_eq!(rendition(&now), Some(wanted));
        let grown = |key: &str| count(&now, key) - count(before, key);
        // None, but where this machine itself stands still for a moment.
        assert!(grown("packets_unrecovered") * 100 <= grown("packets_received"), "{now}");
        let frames = grown("frames_decoded");
        assert!((230..280).contains(&frames), "{frames} frames");
        assert_eq!(count(&now, "reconnects"), 0);
    }
    let all = encoding(&stage)?;
    assert_eq!(watched(&stage)?, [(1, true), (1, true), (1, true)]);
    // The best, and no other, and the smallest, and no other.
    for (gone, left) in [(vec![0, 1], 2), (vec![2], 0)] {
        gone.into_iter().try_for_each(|at| viewers[at].stop())?;
        if left == 0 {
            viewers[0] = stage.watch(0, &broadcast.link, &flags)?;
            settles(&viewers[0], SMALL, Instant::now());
        }
        let mut expected = [(0, false); 3];
        expected[2 - left] = (1, true);
        let deadline = Instant::now() + Duration::from_secs(10);
        while watched(&stage)? != expected {
            assert!(Instant::now() < deadline, "{:?}", watched(&stage)?);
            std::thread::sleep(Duration::from_millis(100));
        }
        let one = encoding(&stage)?;
        println!("{} alone is {:.0}% of all three", wanted[left], one / all * 100.0);
        // 9, 5 and 2 of 16 parts of the pictures' area, and what reading them costs.
        assert!(one < all * if left == 2 { 0.9 } else { 0.6 }, "{one} of {all}");
    }
    Ok(())
}

/// For each rendition, best first: how many watch it, and whether it is encoded.
fn watched(stage: &Stage) -> Result<[(u32, bool); 3]> {
    let of = |name: &str, rendition: &str| {
        stage.metric(&format!(
            "punchcast_rendition_{name}{{channel=\"live\",rendition=\"{rendition}\"}}"
        ))
    };
    let mut all = [(0, false); 3];
    for (one, name) in all.iter_mut().zip([BEST, MIDDLE, SMALL]) {
        *one = (of("viewers", name)? as u32, of("bytes_per_second", name)? > 0.0);
    }
    Ok(all)
}

/// Processor time that capturing and encoding take, per second.
fn encoding(stage: &Stage) -> Result<f64> {
    let used = || stage.metric("punchcast_source_cpu_seconds_total");
    let (before, began) = (used()?, Instant::now());
    std::thread::sleep(Duration::from_secs(6));
    Ok((used()? - before) / began.elapsed().as_secs_f64())
}

#[test]
fn a_link_that_changes_is_followed() -> Result<()> {
    // 8 Mbit/s, 1 Mbit/s for a while, and 8 Mbit/s again.
    let (from, until) = (Duration::from_secs(12), Duration::from_secs(32));
    let stage = Stage::with_links(&[link(8_000, Some((1_000, from, until)))])?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SOURCE, SETTINGS)?;
    let viewer = stage.watch(0, &broadcast.link, &["--output", "null", "--for", "120s"])?;
    let began = Instant::now();
    settles(&viewer, BEST, began);
    std::thread::sleep((began + from).saturating_duration_since(Instant::now()));
    let fell = settles(&viewer, SMALL, began) - from;
    println!("small {fell:?} behind the change: {}", viewer.latest());
    std::thread::sleep((began + until).saturating_duration_since(Instant::now()));
    assert_eq!(rendition(&viewer.latest()), Some(SMALL));
    let rose = settles(&viewer, BEST, began) - until;
    println!("best {rose:?} behind the change: {}", viewer.latest());
    assert!(fell <= SETTLED && rose <= SETTLED, "{fell:?}, {rose:?}");
    assert_eq!(count(&viewer.latest(), "reconnects"), 0);
    Ok(())
}

#[test]
fn what_is_recorded_stays_whole_where_the_picture_changes_its_size() -> Result<()> {
    let stage = Stage::with_links(&[link(8_000, None)])?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SOURCE, SETTINGS)?;
    let recordings = ["all.mkv", "all.mp4", "all.ts"].map(|name| stage.path(name));
    let outputs: Vec<_> =
        recordings.iter().map(|path| format!("record:{}", path.display())).collect();
    let mut flags = vec!["--output", "null", "--for", "60s"];
    outputs.iter().for_each(|output| flags.extend(["--output", output]));
    let viewer = stage.watch(0, &broadcast.link, &flags)?;
    settles(&viewer, BEST, Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    viewer.stop()?;
    for recording in recordings {
        let mut decode = Command::new("ffprobe");
        decode.args(["-v", "error", "-select_streams", "v", "-of", "csv=p=0"]);
        decode.args(["-show_entries", "frame=width"]).arg(&recording);
        let output = decode.output().expect("ffprobe runs");
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaints.is_empty(), "{complaints}");
        let widths = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut runs: Vec<(&str, usize)> = Vec::new();
        for width in widths.lines() {
            match runs.last_mut() {
                Some((before, count)) if *before == width => *count += 1,
                _ => runs.push((width, 1)),
            }
        }
        println!("{}: {runs:?}", recording.display());
        assert_eq!(runs.iter().map(|(width, _)| *width).collect::<Vec<_>>(), ["320", "640"]);
        assert!(runs[1].1 >= 75, "{runs:?}");
    }
    Ok(())
}
