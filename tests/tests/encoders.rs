//! Every encoder that works on this machine gives a stream that plays, at the bitrate and with the keyframes asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::local::{self, program, run};

/// What is asked for.
const BITS_PER_SECOND: f64 = 800_000.0;
const KEYFRAME_EACH: usize = 50;
const PICTURES_PER_SECOND: f64 = 25.0;

/// How far from it the mean bitrate may be.
const TOLERANCE: f64 = 0.1;

/// How long it is looked at, and what of it is left out at the beginning, where encoders find their level.
const SECONDS: &str = "12s";
const SETTLING: f64 = 4.0;

/// A film that is as hard to encode as what cameras see: it moves, and has noise. Motion JPEG, so that it is encoded
/// anew.
fn film(folder: &Path) -> PathBuf {
    let film = folder.join("film.avi");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-f", "lavfi", "-i"]);
    ffmpeg.arg("testsrc2=s=480x270:r=25:d=40,noise=alls=12:allf=t");
    ffmpeg.args(["-c:v", "mjpeg", "-q:v", "4", "-pix_fmt", "yuvj420p"]).arg(&film);
    let output = ffmpeg.output().expect("scripts/install.sh test installs ffmpeg");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    film
}

/// Time in seconds, bytes and whether it is a keyframe, of each coded picture.
fn pictures(recording: &Path) -> Vec<(f64, f64, bool)> {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-select_streams", "v:0", "-show_entries"]);
    ffprobe.args(["packet=pts_time,size,flags", "-of", "json"]).arg(recording);
    let output = ffprobe.output().expect("ffprobe comes with ffmpeg");
    let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packets = all["packets"].as_array().expect("a list");
    let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    let picture = |packet: &Value| {
        let (time, bytes) = (number(&packet["pts_time"]), number(&packet["size"]));
        let is_key = packet["flags"].as_str().is_some_and(|flags| flags.starts_with('K'));
        (time.expect("a time"), bytes.expect("a size"), is_key)
    };
    packets.iter().map(picture).collect()
}

/// Pictures that a decoder makes of it, without a complaint.
fn decoded(recording: &Path) -> usize {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(recording);
    ffmpeg.args(["-map", "0:v", "-fps_mode", "passthrough", "-f", "framecrc", "-"]);
    let output = ffmpeg.stderr(Stdio::piped()).output().expect("ffmpeg");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| !line.starts_with('#')).count()
}

#[test]
fn every_encoder_here_keeps_to_its_bitrate_and_its_keyframes() {
    let folder = tempfile::tempdir().expect("a folder");
    let film = film(folder.path());
    let mut devices = program("punchcast-broadcaster");
    let devices = run(devices.args(["devices", "--json"]));
    let devices: Value = serde_json::from_str(&devices.stdout).expect("JSON");
    let encoders = devices["encoders"].as_array().expect("a list");
    assert!(encoders.len() >= 6, "{encoders:?}");
    for encoder in encoders {
        let name = encoder["encoder"].as_str().expect("a name");
        let folder = folder.path().join(name);
        fs::create_dir(&folder).expect("room");
        let config = folder.join("broadcaster.yaml");
        let video = format!("video: {{encoder: {name}, bitrate: 800k, keyframe_interval: 2s}}\n");
        fs::write(&config, video).expect("room");
        let (rendezvous, at) = local::rendezvous();
        let source = format!("pipeline:filesrc location={} ! avidemux ! jpegdec", film.display());
        let config = config.display().to_string();
        let (broadcaster, link) = local::broadcaster(at, &folder, &source, &["--config", &config]);
        let recording = folder.join("on.mkv");
        let record = format!("record:{}", recording.display());
        let mut viewer = program("punchcast-viewer");
        viewer.args(["watch", &link, "--output", "null", "--output", &record, "--for", SECONDS]);
        let stats = run(&mut viewer);
        let last = stats.stdout.lines().last().unwrap_or_default().to_owned();
        drop((rendezvous, broadcaster));

        let pictures = pictures(&recording);
        assert!(pictures.len() as f64 > 11.0 * PICTURES_PER_SECOND, "{name}: {}", pictures.len());
        assert!(pictures[0].2, "{name}: it begins with a keyframe");
        let shown = decoded(&recording);
        assert_eq!(shown, pictures.len(), "{name}: all can be shown");
        let is_key = |(_, (_, _, is_key)): &(usize, &(f64, f64, bool))| *is_key;
        let keys: Vec<usize> =
            pictures.iter().enumerate().filter(is_key).map(|(at, _)| at).collect();
        let apart: Vec<usize> = keys.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(apart.iter().all(|apart| *apart == KEYFRAME_EACH), "{name}: {apart:?}");
        // Of whole GOPs.
        let begin = keys.iter().copied().find(|at| pictures[*at].0 >= SETTLING).expect("a GOP");
        let end = keys[keys.len() - 1];
        assert!(end >= begin + 3 * KEYFRAME_EACH, "{name}: {keys:?}");
        let bytes: f64 = pictures[begin..end].iter().map(|(_, bytes, _)| bytes).sum();
        let seconds = pictures[end].0 - pictures[begin].0;
        let share = bytes * 8.0 / seconds / BITS_PER_SECOND;
        println!("{name}: {shown} pictures, {:.0}% of the bitrate; {last}", share * 100.0);
        assert!((share - 1.0).abs() <= TOLERANCE, "{name}: {share:.3} of what was asked for");
        let rate = (end - begin) as f64 / seconds;
        assert!((rate / PICTURES_PER_SECOND - 1.0).abs() < 0.01, "{name}: {rate} a second");
    }
}
