//! Every encoder that works on this machine gives a stream that plays, at the bitrate and with the keyframes asked for.

use std::fs;
use std::path::Path;
use std::thread;

use serde_json::Value;
use tests::film::{self, PICTURES_PER_SECOND};
use tests::local::{self, program, run};

/// Encoders that are tried at once.
const AT_ONCE: usize = 3;

/// What is asked for.
const BITS_PER_SECOND: f64 = 800_000.0;
const KEYFRAME_EACH: usize = 50;

/// How far from it the mean bitrate may be.
const TOLERANCE: f64 = 0.1;

/// How long it is looked at, and what of it is left out at the beginning, where encoders find their level.
const SECONDS: &str = "12s";
const SETTLING: f64 = 4.0;

#[test]
fn every_encoder_here_keeps_to_its_bitrate_and_its_keyframes() {
    let folder = tempfile::tempdir().expect("a folder");
    let film = film::film(folder.path(), "480x270", 12);
    let mut devices = program("punchcast-broadcaster");
    let devices = run(devices.args(["devices", "--json"]));
    let devices: Value = serde_json::from_str(&devices.stdout).expect("JSON");
    let encoders = devices["encoders"].as_array().expect("a list");
    assert!(encoders.len() >= 6, "{encoders:?}");
    let names: Vec<_> = encoders.iter().filter_map(|encoder| encoder["encoder"].as_str()).collect();
    // Some at the same time: most of what they do is to wait for the next picture.
    for names in names.chunks(AT_ONCE) {
        thread::scope(|scope| {
            for name in names {
                let (folder, film) = (folder.path().join(name), &film);
                scope.spawn(move || keeps_to_its_settings(name, &folder, film));
            }
        });
    }
}

fn keeps_to_its_settings(name: &str, folder: &Path, film: &Path) {
    fs::create_dir(folder).expect("room");
    let config = folder.join("broadcaster.yaml");
    let video = format!("video: {{encoder: {name}, bitrate: 800k, keyframe_interval: 2s}}\n");
    fs::write(&config, video).expect("room");
    let (rendezvous, at) = local::rendezvous();
    let source = format!("pipeline:filesrc location={} ! avidemux ! jpegdec", film.display());
    let config = config.display().to_string();
    let (broadcaster, link) = local::broadcaster(at, folder, &source, &["--config", &config]);
    let recording = folder.join("on.mkv");
    let record = format!("record:{}", recording.display());
    let mut viewer = program("punchcast-viewer");
    viewer.args(["watch", &link, "--output", "null", "--output", &record, "--for", SECONDS]);
    let stats = run(&mut viewer);
    let last = stats.stdout.lines().last().unwrap_or_default().to_owned();
    drop((rendezvous, broadcaster));

    let pictures = film::pictures(&recording);
    assert!(pictures.len() as f64 > 11.0 * PICTURES_PER_SECOND, "{name}: {}", pictures.len());
    assert!(pictures[0].is_keyframe, "{name}: it begins with a keyframe");
    let shown = film::decoded(&recording);
    assert_eq!(shown, pictures.len(), "{name}: all can be shown");
    let keys = film::keyframes(&pictures);
    let apart: Vec<usize> = keys.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(apart.iter().all(|apart| *apart == KEYFRAME_EACH), "{name}: {apart:?}");
    // Of whole GOPs.
    let begin = keys.iter().copied().find(|at| pictures[*at].time >= SETTLING).expect("a GOP");
    let end = keys[keys.len() - 1];
    assert!(end >= begin + 3 * KEYFRAME_EACH, "{name}: {keys:?}");
    let bytes: f64 = pictures[begin..end].iter().map(|one| one.bytes).sum();
    let seconds = pictures[end].time - pictures[begin].time;
    let share = bytes * 8.0 / seconds / BITS_PER_SECOND;
    println!("{name}: {shown} pictures, {:.0}% of the bitrate; {last}", share * 100.0);
    assert!((share - 1.0).abs() <= TOLERANCE, "{name}: {share:.3} of what was asked for");
    let rate = (end - begin) as f64 / seconds;
    assert!((rate / PICTURES_PER_SECOND - 1.0).abs() < 0.01, "{name}: {rate} a second");
}
