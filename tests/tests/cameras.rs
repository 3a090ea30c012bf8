//! A camera from the device to the viewer: its own H.264 passed through, and its going and coming back in one
//! channel, in another place and with other modes. The camera is a test's own, found by GStreamer's device monitor.

use std::fs;
use std::path::Path;
use std::process::Command;

use test_camera::{Camera, Cameras, KEYFRAME_DISTANCE};
use tests::lab::eventually;
use tests::local::{self, PATIENCE, Running, program};

const RAW: &str = "video/x-raw,format=I420,width=320,height=180,framerate=25/1";
const JPEG: &str = "image/jpeg,width=640,height=360,framerate=25/1";
// As V4L2 tells it.
const H264: &str =
    "video/x-h264,stream-format=byte-stream,alignment=au,width=320,height=180,framerate=25/1";
const SIZE: &str = "video: {width: 320, height: 180, framerate: 25, keyframe_interval: 2s}\n";

#[test]
fn what_a_camera_has_encoded_is_not_encoded_again() {
    let cameras = Cameras::new().expect("a folder");
    cameras.plug(&[front("/dev/video-a", &[RAW, H264])]).expect("plugged in");
    let folder = tempfile::tempdir().expect("a folder");
    let (_rendezvous, at) = local::rendezvous();
    let (broadcaster, link) = broadcast(&cameras, at, folder.path());
    broadcaster.line(|line| line.contains("mode=\"H.264 320x180 25/s\""));
    let recording = folder.path().join("own.mkv");
    let record = format!("record:{}", recording.display());
    let ended = local::watch(&link, &["--output", &record, "--for", "4s"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let keyframes = keyframes(&recording);
    let distances: Vec<_> = keyframes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(distances.len() >= 3, "{keyframes:?}");
    // Our own encoder would make one each 50 pictures.
    assert!(distances.iter().all(|&distance| distance == KEYFRAME_DISTANCE), "{keyframes:?}");
}

#[test]
fn a_camera_that_is_unplugged_comes_back_in_the_same_channel() {
    let cameras = Cameras::new().expect("a folder");
    let other = Camera::new("Other", "/dev/video-other", &[RAW]);
    let plug = |camera: Option<Camera>| {
        let all: Vec<_> = camera.into_iter().chain([other.clone()]).collect();
        cameras.plug(&all).expect("plugged in");
    };
    plug(Some(front("/dev/video-a", &[H264])));
    let folder = tempfile::tempdir().expect("a folder");
    let (_rendezvous, at) = local::rendezvous();
    let (broadcaster, link) = broadcast(&cameras, at, folder.path());
    let used = |expected: &str| {
        let line = broadcaster.line(|line| line.contains("camera="));
        assert!(line.contains(expected), "{line}");
    };
    used("camera=Front (/dev/video-a) mode=\"H.264 320x180 25/s\"");
    let mut command = program("punchcast-viewer");
    command.args(["watch", &link, "--output", "null", "--stats", "json"]);
    let viewer = Running::start(&mut command, false);
    let decoded = |more_than: u64| {
        let has_more = |line: &str| count(line, "frames_decoded") > more_than;
        let line = viewer.line(has_more);
        assert_eq!(count(&line, "reconnects"), 0, "{line}");
        assert_eq!(count(&line, "packets_unrecovered"), 0, "{line}");
        count(&line, "frames_decoded")
    };
    let mut so_far = decoded(25);
    // Unplugged, while another one is there; back at another place. Then other modes, while it runs.
    plug(None);
    broadcaster.line(|line| line.contains("event=\"source_lost\""));
    plug(Some(front("/dev/video-b", &[H264])));
    used("camera=Front (/dev/video-b) mode=\"H.264 320x180 25/s\"");
    broadcaster.line(|line| line.contains("event=\"source_back\""));
    so_far = decoded(so_far + 50);
    for (modes, mode) in [(RAW, "raw 320x180 25/s"), (JPEG, "MJPEG 640x360 25/s")] {
        plug(Some(front("/dev/video-b", &[modes])));
        broadcaster.line(|line| line.contains("event=\"source_lost\""));
        used(&format!("camera=Front (/dev/video-b) mode=\"{mode}\""));
        broadcaster.line(|line| line.contains("event=\"source_back\""));
        so_far = decoded(so_far + 50);
    }
}

fn front(path: &str, modes: &[&str]) -> Camera {
    Camera::new("Front", path, modes)
}

/// Broadcasts the first camera in a small size. Its log is read by lines.
fn broadcast(cameras: &Cameras, at: std::net::SocketAddr, folder: &Path) -> (Running, String) {
    let config = folder.join("broadcaster.yaml");
    fs::write(&config, SIZE).expect("written");
    let links = folder.join("links");
    let mut command = program("punchcast-broadcaster");
    cameras.show_to(&mut command);
    command.args(["--rendezvous", &at.to_string(), "--bind", "127.0.0.1:0"]);
    command.args(["--source", "camera", "--config"]).arg(&config);
    command.arg("--state").arg(folder).arg("--link-file").arg(&links);
    let running = Running::start(&mut command, true);
    let link = || fs::read_to_string(&links).ok().filter(|text| text.ends_with('\n'));
    assert!(eventually(PATIENCE, || link().is_some()), "no link");
    (running, link().expect("as above").trim().to_owned())
}

/// A number in a line of statistics; none is 0.
fn count(line: &str, key: &str) -> u64 {
    let stats: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    stats[key].as_u64().unwrap_or(0)
}

/// Which pictures of a recording are keyframes.
fn keyframes(recording: &Path) -> Vec<usize> {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-select_streams", "v:0", "-show_entries", "packet=flags"]);
    let output = ffprobe.args(["-of", "csv=p=0"]).arg(recording).output().expect("ffprobe runs");
    let flags = String::from_utf8(output.stdout).expect("text");
    let is_key = |(index, flags): (usize, &str)| flags.starts_with('K').then_some(index);
    flags.lines().enumerate().filter_map(is_key).collect()
}
