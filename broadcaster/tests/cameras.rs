//! Cameras as the program finds them: its list of them, which one it takes in which mode, and what it says where
//! there is none. They are a test's own, found by GStreamer's device monitor.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_camera::{Camera, Cameras};

/// Nothing here takes as long, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const RAW: &str = "video/x-raw,format=YUY2,width=640,height=480,framerate=30/1";
const JPEG: &str = "image/jpeg,width=1280,height=720,framerate=30/1";
const H264: &str = "video/x-h264,width=1280,height=720,framerate=30/1";
const SLOW: &str = "video/x-raw,format=YUY2,width=1280,height=720,framerate=10/1";

#[test]
fn the_list_has_what_to_write_for_each_camera() {
    let cameras = Cameras::new().expect("a folder");
    cameras.plug(&[front(), side()]).expect("plugged in");
    let output = devices(&cameras, &[]);
    let text = String::from_utf8(output.stdout).expect("text");
    let rows: Vec<_> = text.lines().collect();
    assert!(rows[0].starts_with("--source") && rows[0].contains("MODES"), "{text}");
    assert!(rows[1].starts_with("camera:/dev/video-front "), "{text}");
    assert!(
        rows[1].ends_with("Front Camera             raw: 1280x720 10/s, 640x480 30/s"),
        "{text}"
    );
    assert_eq!(rows[2].trim(), "MJPEG: 1280x720 30/s", "{text}");
    assert_eq!(rows[3].trim(), "H.264: 1280x720 30/s", "{text}");
    assert!(rows[4].starts_with("camera:/dev/video-side "), "{text}");

    let output = devices(&cameras, &["--json"]);
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let first = &all["cameras"][0];
    assert_eq!(first["number"], 1, "{all}");
    assert_eq!(first["name"], "Front Camera", "{all}");
    assert_eq!(first["device"], "/dev/video-front", "{all}");
    let mode = serde_json::json!(
        {"form": "H.264", "width": 1280, "height": 720, "framerate": 30.0});
    assert_eq!(first["modes"][3], mode, "{all}");
    assert_eq!(all["cameras"].as_array().map(Vec::len), Some(2), "{all}");
}

#[test]
fn a_machine_without_cameras_says_so_and_what_to_try() {
    let cameras = Cameras::new().expect("a folder");
    let output = devices(&cameras, &[]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("no camera found\n"), "{text}");

    for source in ["camera", "camera:/dev/video-none", "camera:Front"] {
        let message = refused(&cameras, source);
        for word in ["punchcast-broadcaster devices", "group video", "--source screen", "file:PATH"]
        {
            assert!(message.contains(word), "'{word}' is not in: {message}");
        }
    }
}

#[test]
fn cameras_are_chosen_by_device_number_and_name_in_their_best_mode() {
    let cameras = Cameras::new().expect("a folder");
    cameras.plug(&[front(), side()]).expect("plugged in");
    for (source, expected) in [
        ("camera", "camera=Front Camera (/dev/video-front) mode=\"H.264 1280x720 30/s\""),
        ("camera:2", "camera=Side Camera (/dev/video-side) mode=\"MJPEG 1280x720 30/s\""),
        ("camera:/dev/video-side", "camera=Side Camera"),
        ("camera:front camera", "camera=Front Camera"),
        ("camera:side", "camera=Side Camera"),
    ] {
        let line = started(&cameras, source);
        assert!(line.contains(expected), "{source}: {line}");
    }
    for (source, expected) in [
        ("camera:3", "there is no camera 3; here are: 1 Front Camera (/dev/video-front), 2 Side"),
        ("camera:Camera", "more than one camera is called 'Camera'"),
    ] {
        let message = refused(&cameras, source);
        assert!(message.contains(expected) && message.contains("--source camera:1"), "{message}");
    }
}

#[test]
fn a_camera_that_another_program_uses_is_said_to_be_busy() {
    let cameras = Cameras::new().expect("a folder");
    cameras.plug(&[Camera { is_busy: true, ..front() }]).expect("plugged in");
    let message = refused(&cameras, "camera");
    assert!(message.contains("'/dev/video-front' is busy"), "{message}");
    assert!(message.contains("close the program that has it open"), "{message}");
}

#[test]
fn without_arguments_a_camera_is_found_or_the_sources_are_told() {
    let cameras = Cameras::new().expect("a folder");
    let state = tempfile::tempdir().expect("a folder");
    let output =
        program(&cameras).env("XDG_STATE_HOME", state.path()).output().expect("the program starts");
    let message = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("no camera found") && message.contains("--source"), "{message}");

    cameras.plug(&[side()]).expect("plugged in");
    let line = first_line(program(&cameras).env("XDG_STATE_HOME", state.path()));
    assert!(line.contains("camera=Side Camera (/dev/video-side)"), "{line}");
}

fn front() -> Camera {
    Camera::new("Front Camera", "/dev/video-front", &[SLOW, RAW, JPEG, H264])
}

fn side() -> Camera {
    Camera::new("Side Camera", "/dev/video-side", &[SLOW, JPEG])
}

fn program(cameras: &Cameras) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_punchcast-broadcaster"));
    cameras.show_to(&mut command);
    command
}

fn devices(cameras: &Cameras, flags: &[&str]) -> Output {
    let output = program(cameras).arg("devices").args(flags).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    output
}

/// A broadcast of a source on loopback.
fn broadcast(cameras: &Cameras, state: &tempfile::TempDir, source: &str) -> Command {
    let mut command = program(cameras);
    command.args(["--embedded-rendezvous", "127.0.0.1:0", "--bind", "127.0.0.1:0"]);
    command.args(["--source", source, "--state"]).arg(state.path());
    command
}

/// The one line of a source that can't be broadcast.
fn refused(cameras: &Cameras, source: &str) -> String {
    let state = tempfile::tempdir().expect("a folder");
    let output = broadcast(cameras, &state, source).output().expect("the program starts");
    let text = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{text}");
    text.lines().next_back().unwrap_or_default().to_owned()
}

/// What the log says of the camera once it is broadcast.
fn started(cameras: &Cameras, source: &str) -> String {
    let state = tempfile::tempdir().expect("a folder");
    first_line(&mut broadcast(cameras, &state, source))
}

/// The log's line about the camera, of a program that then tells its link and is asked to end.
fn first_line(command: &mut Command) -> String {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let log = lines(child.stderr.take().expect("it is piped"));
    let links = lines(child.stdout.take().expect("it is piped"));
    let mut seen = Vec::new();
    let line = loop {
        match log.recv_timeout(PATIENCE) {
            Ok(line) if line.contains("camera=") => break line,
            Ok(line) => seen.push(line),
            Err(error) => panic!("no camera ({error}) in {seen:#?}"),
        }
    };
    let link = links.recv_timeout(PATIENCE);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("it runs");
    let status = child.wait().expect("a child can be waited for");
    let log: Vec<_> = log.iter().collect();
    assert!(link.is_ok_and(|link| link.starts_with("punchcast://")), "no link: {log:#?}");
    assert!(status.success(), "{status}: {log:#?}");
    line
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // The test may have seen enough.
            let _ = sender.send(line);
        }
    });
    receiver
}
