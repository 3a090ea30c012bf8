//! The screen of a Wayland desktop, from PipeWire to the viewer: the bus, PipeWire and what links its nodes are real; the
//! desktop's portal is a program of this test's, and so is its user.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use tempfile::TempDir;
use tests::clip;
use tests::lab::eventually;
use tests::local::{self, Ended, PATIENCE, Running, ends, program, run};

/// A program that is ended with the test.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The desktop's screen: snow, given to PipeWire as a compositor does, by a process of its own. (PipeWire's own test picture
/// ends the server, 0.3.65, where who takes it is killed.)
const SCREEN: &str = "gst-launch-1.0 -q videotestsrc is-live=true pattern=snow \
    ! video/x-raw,format=BGRx,width=320,height=240,framerate=25/1 ! queue leaky=downstream \
    ! pipewiresink mode=provide stream-properties=props,node.name=screen,media.class=Video/Source";

/// A desktop that shows a screen.
struct Desktop {
    portal: Running,
    user: ChildStdin,
    folder: TempDir,
    _others: Vec<Beside>,
}

impl Desktop {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut others = Vec::new();
        let mut begin = |words: &[&str]| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
            at_home(&mut command, folder.path());
            let child = command.stderr(Stdio::null()).spawn();
            others.push(Beside(child.unwrap_or_else(|error| panic!("{words:?}: {error}"))));
        };
        let there = |name: &str| {
            let path = folder.path().join(name);
            assert!(eventually(PATIENCE, || path.exists()), "no {name}");
        };
        let bus = format!("--address=unix:path={}", folder.path().join("bus").display());
        begin(&["dbus-daemon", "--session", "--nofork", "--nopidfile", &bus]);
        there("bus");
        begin(&["pipewire"]);
        there("pipewire-0");
        begin(&["wireplumber"]);
        begin(&SCREEN.split_whitespace().collect::<Vec<_>>());
        let mut node = None;
        assert!(eventually(PATIENCE, || {
            node = node_called("screen", folder.path());
            node.is_some()
        }));
        let mut command = Command::new("/usr/bin/python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/portal.py"));
        command.arg(node.expect("it was awaited").to_string());
        at_home(&mut command, folder.path());
        let (reads, writes) = std::io::pipe().expect("a pipe");
        let portal = Running::start_reading(&mut command, reads);
        portal.line(|line| line == "ready");
        let user = ChildStdin::from(std::os::fd::OwnedFd::from(writes));
        Self { portal, user, folder, _others: others }
    }

    /// What its user answers from now on.
    fn user(&mut self, answer: &str) {
        writeln!(self.user, "{answer}").expect("the portal reads");
        self.portal.line(|line| line == format!("user: {answer}"));
    }

    /// A broadcaster of this session.
    fn broadcaster(&self, source: &str) -> Command {
        let mut command = program("punchcast-broadcaster");
        command.args(["--source", source, "--bind", "127.0.0.1:0"]);
        command.arg("--state").arg(self.folder.path().join("state"));
        at_home(&mut command, self.folder.path());
        command
    }
}

/// In the session whose folder this is.
fn at_home(command: &mut Command, folder: &Path) {
    for name in ["XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "HOME"] {
        command.env(name, folder);
    }
    command.env_remove("DISPLAY").env("WAYLAND_DISPLAY", "wayland-0");
    command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", folder.join("bus").display()));
}

/// The number of PipeWire's node of this name.
fn node_called(name: &str, folder: &Path) -> Option<u64> {
    let mut dump = Command::new("pw-dump");
    at_home(&mut dump, folder);
    let dumped = run(&mut dump);
    let all: serde_json::Value = serde_json::from_str(&dumped.stdout).ok()?;
    let mut nodes = all.as_array()?.iter();
    nodes.find(|one| one["info"]["props"]["node.name"] == name)?["id"].as_u64()
}

/// Watches for a while: what was shown is snow, each picture another.
fn assert_shown(link: &str, to: &Path) {
    let record = format!("record:{}", to.display());
    let ended = local::watch(link, &["--output", &record, "--for", "3s"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let frames = clip::frames(to);
    assert!(frames.len() >= 25, "{} pictures", frames.len());
    let is_snow = |frame: &[u8]| {
        let light = frame.iter().filter(|&&gray| gray > 100).count();
        (frame.len() / 10..frame.len() * 9 / 10).contains(&light)
    };
    let (first, last) = (&frames[0], &frames[frames.len() - 1]);
    assert!(is_snow(first) && is_snow(last) && first != last, "something else was shown");
}

#[test]
fn a_desktop_shows_its_screen_as_its_user_says() {
    let mut desktop = Desktop::start();
    let (_rendezvous, at) = local::rendezvous();
    let at = at.to_string();
    let film = desktop.folder.path().join("film.mkv");
    let begin = |desktop: &Desktop, source: &str| {
        let mut command = desktop.broadcaster(source);
        Running::start(command.args(["--rendezvous", &at]), false)
    };

    let mut devices = program("punchcast-broadcaster");
    at_home(&mut devices, desktop.folder.path());
    let listed = run(devices.arg("devices"));
    assert!(listed.stdout.contains("\nscreen:portal "), "{}", listed.stdout);

    desktop.user("refuse");
    let refused: Ended = run(desktop.broadcaster("screen:portal").args(["--rendezvous", &at]));
    ends(&refused, 1, &["the desktop refused"]);
    desktop.portal.line(|line| line == "refused");

    // In a Wayland session that is what `screen` means. Nothing is remembered of a refusal.
    desktop.user("allow");
    let mut broadcaster = begin(&desktop, "screen");
    let link = broadcaster.line(|line| line.starts_with("punchcast://"));
    desktop.portal.line(|line| line == "select token=none persist=2 cursor=2");
    desktop.portal.line(|line| line == "start token-1");
    desktop.portal.line(|line| line == "remote");
    assert_shown(&link, &film);
    let token = desktop.folder.path().join("state/screen-token");
    let kept = std::fs::read_to_string(&token).expect("it is remembered");
    assert_eq!(kept, "token-1");
    let mode = std::fs::metadata(&token).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // A source that crashes gets another connection, and nobody is asked.
    let [source] = broadcaster.children()[..] else { panic!("one process captures") };
    nix::sys::signal::kill(source, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    desktop.portal.line(|line| line == "remote");
    assert_shown(&link, &film);
    broadcaster.end_with(nix::sys::signal::Signal::SIGTERM);

    // The next start shows the same by what was remembered.
    let mut broadcaster = begin(&desktop, "screen:portal");
    desktop.portal.line(|line| line == "select token=token-1 persist=2 cursor=2");
    desktop.portal.line(|line| line == "start token-2");
    broadcaster.line(|line| line.starts_with("punchcast://"));
    desktop.user("stop");
    let mut ended = None;
    assert!(eventually(PATIENCE, || {
        ended = broadcaster.try_wait();
        ended.is_some()
    }));
    assert_eq!(ended.and_then(|status| status.code()), Some(0), "what is stopped stays so");
}
