//! Another bitrate while a broadcaster runs: what its viewers get follows within seconds, in pictures of which none is
//! missing, and stays so when the source has to begin again.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use tests::film::{self, PICTURES_PER_SECOND};
use tests::lab::eventually;
use tests::local::{self, Ended, PATIENCE, Running, ends, program, run};

const KEYFRAME_EACH: usize = 50;

/// What is set one after the other.
const RATES: [(&str, f64); 3] = [("2M", 2e6), ("600k", 6e5), ("2M", 2e6)];

/// How far from it two seconds of what comes may be, headers and keyframes included.
const TOLERANCE: f64 = 0.3;

/// How soon it is followed, in lines of statistics, of which there is one a second.
const SOON: usize = 6;

/// How many of these it is then looked at: of two GOPs, as keyframes are large.
const STAYS: usize = 4;

/// Those that take no other while they run.
const CANNOT: [&str; 1] = ["x265"];

/// Those that make a keyframe out of turn at a lower rate.
const MAKE_KEYFRAMES: [&str; 1] = ["openh264"];

#[test]
fn every_encoder_here_follows_another_bitrate_without_a_lost_picture() {
    let folder = tempfile::tempdir().expect("a folder");
    let film = film::film(folder.path(), "320x180", 30);
    let devices = run(program("punchcast-broadcaster").args(["devices", "--json"]));
    let devices: Value = serde_json::from_str(&devices.stdout).expect("JSON");
    let encoders = devices["encoders"].as_array().expect("a list");
    assert!(encoders.len() >= 6, "{encoders:?}");
    let names = encoders.iter().filter_map(|encoder| encoder["encoder"].as_str());
    // At the same time: most of what they do is to wait for the next picture.
    thread::scope(|scope| {
        for name in names {
            let (folder, film) = (folder.path().join(name), &film);
            scope.spawn(move || follows(name, &folder, film));
        }
    });
}

fn follows(name: &str, folder: &Path, film: &Path) {
    fs::create_dir(folder).expect("room");
    let config = folder.join("broadcaster.yaml");
    let video = format!("video: {{encoder: {name}, bitrate: 2M, keyframe_interval: 2s}}\n");
    fs::write(&config, video).expect("room");
    let (_rendezvous, at) = local::rendezvous();
    let source = format!("pipeline:filesrc location={} ! avidemux ! jpegdec", film.display());
    let config = config.display().to_string();
    let (_broadcaster, link) = local::broadcaster(at, folder, &source, &["--config", &config]);
    let recording = folder.join("on.mkv");
    let record = format!("record:{}", recording.display());
    let mut viewer = program("punchcast-viewer");
    viewer.args(["watch", &link, "--output", &record, "--stats", "json"]);
    let mut viewer = Running::start(&mut viewer, false);
    let (mut soon, mut stays) = (Vec::new(), 0.0);
    if CANNOT.contains(&name) {
        ends(&bitrate(folder, &["600k"]), 1, &["takes no other bitrate", "video.encoder"]);
        comes(&viewer, RATES[0].1);
        return;
    }
    for (at, (rate, bits_per_second)) in RATES.into_iter().enumerate() {
        if at > 0 {
            let said = bitrate(folder, &[rate]);
            assert_eq!(said.code, Some(0), "{said:#?}");
            assert!(said.stdout.contains(rate), "{said:#?}");
        }
        soon.push(comes(&viewer, bits_per_second));
        if at == 1 {
            let share = mean(&viewer, STAYS) / bits_per_second;
            assert!((share - 1.0).abs() <= TOLERANCE / 2.0, "{name}: {share} of {rate}");
            stays = share;
        }
    }
    let (status, _) = viewer.end_with(Signal::SIGINT);
    assert_eq!(status.code(), Some(0), "{name}");

    let pictures = film::pictures(&recording);
    let steps = pictures.windows(2).map(|pair| pair[1].time - pair[0].time);
    let longest = steps.fold(0.0, f64::max);
    assert!(longest < 1.5 / PICTURES_PER_SECOND, "{name}: {longest} s between two");
    let last = viewer.line(|line| line.contains("\"ended\""));
    assert_eq!(stats(&last)["packets_unrecovered"], 0, "{name}: {last}");
    assert_eq!(film::decoded(&recording), pictures.len(), "{name}: all can be shown");
    let keyframes = film::keyframes(&pictures);
    let apart: Vec<_> = keyframes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    println!("{name}: seconds {soon:?}, {:.0}% of the lower, keyframes {apart:?}", stays * 100.0);
    let odd = apart.iter().filter(|apart| **apart != KEYFRAME_EACH);
    let may_be = if MAKE_KEYFRAMES.contains(&name) { RATES.len() - 1 } else { 0 };
    assert!(odd.count() <= may_be, "{name}: {apart:?}");
    assert!(soon.iter().all(|soon| *soon <= SOON), "{name}: {soon:?}");
}

/// What comes in so many seconds, in bits a second.
fn mean(viewer: &Running, seconds: usize) -> f64 {
    let bitrate = |_| stats(&viewer.line(|_| true))["bitrate_bps"].as_f64().expect("a number");
    (0..seconds).map(bitrate).sum::<f64>() / seconds as f64
}

/// Waits until so many bits a second come to a viewer, over two seconds; after how many lines of statistics that was.
fn comes(viewer: &Running, bits_per_second: f64) -> usize {
    let began = Instant::now();
    let (mut lines, mut before) = (0, None);
    while began.elapsed() < PATIENCE {
        let stats: Value = serde_json::from_str(&viewer.line(|_| true)).expect("JSON");
        assert_eq!(stats["packets_unrecovered"], 0, "{stats}");
        lines += 1;
        let now = stats["bitrate_bps"].as_f64().expect("a number");
        let mean = before.replace(now).map(|before: f64| f64::midpoint(before, now));
        if mean.is_some_and(|mean| (mean / bits_per_second - 1.0).abs() <= TOLERANCE) {
            return lines;
        }
    }
    panic!("{bits_per_second} bits a second do not come");
}

#[test]
fn one_of_several_renditions_follows_and_the_source_may_begin_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("broadcaster.yaml");
    let video = "metrics: 127.0.0.1:0\nvideo: {bitrate: 2M, renditions: [{name: small, height: 180, bitrate: 300k}]}\n";
    fs::write(&config, video).expect("room");
    let (_rendezvous, at) = local::rendezvous();
    let source = "pipeline:videotestsrc is-live=true pattern=snow \
                  ! video/x-raw,format=I420,width=480,height=270,framerate=25/1";
    let links = folder.path().join("links");
    let mut command = program("punchcast-broadcaster");
    command.args(["--rendezvous", &at.to_string(), "--source", source, "--bind", "127.0.0.1:0"]);
    command.arg("--state").arg(folder.path()).arg("--config").arg(&config);
    command.arg("--link-file").arg(&links);
    let broadcaster = Running::start(&mut command, true);
    assert!(eventually(PATIENCE, || links.exists()), "no link");
    let link = fs::read_to_string(&links).expect("it is there");
    let mut viewer = program("punchcast-viewer");
    viewer.args(["watch", link.trim(), "--output", "null", "--stats", "json"]);
    let viewer = Running::start(&mut viewer, false);
    let is_270p = |line: &str| stats(line)["rendition"] == "270p";
    viewer.line(is_270p);
    for (flags, code, words) in [
        (["900k", "--rendition", "480p"], 2, "270p, small"),
        (["200k", "--rendition", "270p"], 2, "smaller each"),
        (["5k", "--rendition", "small"], 2, "10000 to"),
    ] {
        ends(&bitrate(folder.path(), &flags), code, &[words]);
    }
    assert_eq!(bitrate(folder.path(), &["800k"]).code, Some(0));
    broadcaster.line(|line| line.contains("event=\"bitrate_changed\" rendition=\"270p\""));
    comes(&viewer, 8e5);
    let shown = bitrate(folder.path(), &["--json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let set: Vec<_> = shown["pictures"].as_array().expect("a list").iter().collect();
    assert_eq!((&set[0]["set_bps"], &set[1]["set_bps"]), (&800_000.into(), &300_000.into()));
    let sent = || {
        let shown = bitrate(folder.path(), &["--json"]).stdout;
        stats(&shown)["pictures"][0]["sent_bps"].as_f64().expect("a number")
    };
    assert!(eventually(PATIENCE, || (sent() / 8e5 - 1.0).abs() < TOLERANCE), "{shown}");
    // The process that encodes ends, and another one begins with what was set.
    let encodes = broadcaster.children();
    encodes.into_iter().for_each(|pid| kill(pid, Signal::SIGKILL).expect("it runs"));
    broadcaster.line(|line| line.contains("event=\"source_back\""));
    viewer.line(is_270p);
    comes(&viewer, 8e5);
    let table = bitrate(folder.path(), &[]).stdout;
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[1][0], rows[1][1]), ("270p", "800k"), "{table}");
}

#[test]
fn what_comes_encoded_keeps_its_bitrate_and_that_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_rendezvous, at) = local::rendezvous();
    let source = "pipeline:videotestsrc is-live=true ! x264enc tune=zerolatency";
    let (_broadcaster, link) = local::broadcaster(at, folder.path(), source, &[]);
    assert_eq!(local::watch(&link, &["--for", "2s"]).code, Some(0));
    ends(&bitrate(folder.path(), &["1M"]), 1, &["pass through", "where they are encoded"]);
    let elsewhere = tempfile::tempdir().expect("a folder");
    ends(&bitrate(elsewhere.path(), &["1M"]), 1, &["is it running"]);
}

fn stats(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_default()
}

/// Asks the broadcaster with this state folder.
fn bitrate(state: &Path, flags: &[&str]) -> Ended {
    let mut command: Command = program("punchcast-broadcaster");
    run(command.arg("bitrate").args(flags).arg("--state").arg(state))
}
