//! A screen from the X server to the viewer: all of it or a part, as the list of devices names it.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tests::clip;
use tests::lab::eventually;
use tests::local::{self, PATIENCE, ends, program, run};
use tests::stored::Screen;

/// A window of this program's covers the left upper corner of a screen that is black elsewhere.
struct Window(Child);

impl Window {
    fn open(display: &str) -> Self {
        let mut gst = Command::new("gst-launch-1.0");
        gst.args(["-q", "videotestsrc", "pattern=white", "is-live=true"]);
        gst.args(["!", "video/x-raw,width=320,height=240,framerate=5/1"]);
        gst.args(["!", "videoconvert", "!", "ximagesink"]).env("DISPLAY", display);
        Self(gst.stdin(Stdio::null()).spawn().expect("gst-launch-1.0 starts"))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_screen_and_its_parts_are_broadcast() {
    let screen = Screen::start().expect("an X server starts");
    let display = screen.display();
    let mut devices = program("punchcast-broadcaster");
    let listed = run(devices.arg("devices").env("DISPLAY", display));
    assert_eq!(listed.code, Some(0), "{listed:#?}");
    let row =
        |line: &str| line.split_whitespace().eq([format!("screen:{display}").as_str(), "640x480"]);
    assert!(listed.stdout.lines().any(row), "{}", listed.stdout);

    let _window = Window::open(display);
    let is_shown = || screen.gray_at(319, 239).is_some_and(|gray| gray > 200);
    assert!(eventually(PATIENCE, is_shown), "no window");
    let folder = tempfile::tempdir().expect("a folder");
    let (_rendezvous, at) = local::rendezvous();
    for (source, size, is_right) in [
        (
            format!("screen:{display},320x240+0+0"),
            "320,240",
            (|gray| gray > 200.0) as fn(f64) -> bool,
        ),
        (format!("screen:{display},160x120+400+300"), "160,120", |gray| gray < 50.0),
        // A quarter of it is white.
        (format!("screen:{display}"), "640,480", |gray| gray > 40.0 && gray < 110.0),
    ] {
        let (_broadcaster, link) = local::broadcaster(at, folder.path(), &source, &[]);
        let recording = folder.path().join("screen.mkv");
        let record = format!("record:{}", recording.display());
        let ended = local::watch(&link, &["--output", &record, "--for", "3s"]);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        assert_eq!(self::size(&recording), size, "{source}");
        let frames = clip::frames(&recording);
        let last = frames.last().expect("frames");
        let gray = last.iter().map(|&gray| f64::from(gray)).sum::<f64>() / last.len() as f64;
        assert!(is_right(gray), "{source}: {gray}");
    }
}

#[test]
fn a_screen_that_is_not_there_is_told() {
    let screen = Screen::start().expect("an X server starts");
    let state = tempfile::tempdir().expect("a folder");
    let broadcast = |source: &str| {
        let mut command = program("punchcast-broadcaster");
        command.args(["--embedded-rendezvous", "127.0.0.1:0", "--source", source]);
        command
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY")
            .arg("--state")
            .arg(state.path());
        run(&mut command)
    };
    ends(&broadcast("screen"), 1, &["DISPLAY is not set", "screen[:DISPLAY]"]);
    ends(&broadcast("screen::9999"), 1, &["X display :9999 can't be opened", "devices"]);
    let beyond = format!("screen:{},640x480+1+0", screen.display());
    ends(&broadcast(&beyond), 1, &["beyond the screen, which has 640x480"]);
}

/// Width and height of a recording's pictures.
fn size(recording: &Path) -> String {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height"]);
    let output = ffprobe.args(["-of", "csv=p=0"]).arg(recording).output().expect("ffprobe runs");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}
