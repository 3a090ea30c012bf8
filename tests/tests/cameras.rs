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
    // Who watches is told, and who joins meanwhile.
    viewer.line(|line| line.contains("\"source\":\"away\""));
    let mut command = program("punchcast-viewer");
    command.args(["watch", &link, "--output", "null", "--stats", "json"]);
    let late = Running::start(&mut command, false);
    late.line(|line| line.contains("\"source\":\"away\""));
    plug(Some(front("/dev/video-b", &[H264])));
    used("camera=Front (/dev/video-b) mode=\"H.264 320x180 25/s\"");
    broadcaster.line(|line| line.contains("event=\"source_back\""));
    for viewer in [&viewer, &late] {
        viewer.line(|line| line.contains("\"source\":\"live\""));
    }
    drop(late);
    so_far = decoded(so_far + 50);
    for (modes, mode) in [(RAW, "raw 320x180 25/s"), (JPEG, "MJPEG 640x360 25/s")] {
        plug(Some(front("/dev/video-b", &[modes])));
        broadcaster.line(|line| line.contains("event=\"source_lost\""));
        used(&format!("camera=Front (/dev/video-b) mode=\"{mode}\""));
        broadcaster.line(|line| line.contains("event=\"source_back\""));
        so_far = decoded(so_far + 50);
    }
}

#[test]
fn what_libcamera_alone_gives_is_a_camera_like_others_and_none_is_there_twice() {
    // As Raspberry Pi OS has them: a module, whose node gives bare pixels, and a webcam, which both have found.
    const MODULE: &str = "/base/soc/i2c0mux/i2c@1/imx219@10";
    const WEBCAM: &str = "/base/scb/pcie@7d500000/pci@0,0/usb@0,0-1.2:1.0-046d:0825";
    const BARE: &str = "video/x-bayer,format=rggb,width=1640,height=1232,framerate=25/1";
    // It says no rate.
    const MODES: &str = "video/x-raw,format=NV12,width=[16,3280,2],height=[16,2464,2]";
    let cameras = Cameras::new().expect("a folder");
    let webcam = Camera::new("Webcam C270", "/dev/video1", &[RAW, JPEG]);
    let sysfs = "/sys/devices/platform/scb/usb1/1-1/1-1.2/1-1.2:1.0/video4linux/video1";
    let seen = [
        Camera::new("unicam", "/dev/video0", &[BARE]),
        webcam.on_usb(sysfs, "046d", "0825"),
        Camera::of_libcamera(MODULE, &[MODES]),
        Camera::of_libcamera(WEBCAM, &[RAW]),
        Camera::new("Grabber", "/dev/video2", &[RAW]),
    ];
    cameras.plug(&seen).expect("plugged in");
    let listed = || {
        let mut command = program("punchcast-broadcaster");
        cameras.show_to(command.args(["devices", "--json"]));
        let said = local::run(&mut command).stdout;
        let all: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        let camera = |camera: &serde_json::Value| {
            let text = |key: &str| camera[key].as_str().unwrap_or_default().to_owned();
            (text("name"), text("device"))
        };
        all["cameras"].as_array().expect("a list").iter().map(camera).collect::<Vec<_>>()
    };
    let named = |name: &str, device: &str| (name.to_owned(), device.to_owned());
    let (webcam, grabber) = (named("Webcam C270", "/dev/video1"), named("Grabber", "/dev/video2"));
    assert_eq!(listed(), [named("imx219", MODULE), webcam.clone(), grabber.clone()]);
    let folder = tempfile::tempdir().expect("a folder");
    let (_rendezvous, at) = local::rendezvous();
    let (broadcaster, link) = broadcast(&cameras, at, folder.path());
    let used = broadcaster.line(|line| line.contains("camera="));
    let expected = format!("camera=imx219 ({MODULE}) mode=\"raw 320x180 25/s\"");
    assert!(used.contains(&expected), "{used}");
    let ended = local::watch(&link, &["--for", "3s"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    // Where libcamera finds none, its provider still hides the others.
    cameras.plug(&[seen[1].clone(), seen[4].clone()]).expect("plugged in");
    assert_eq!(listed(), [webcam, grabber]);
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
