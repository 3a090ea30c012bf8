//! What a viewer's window shows, on an X server that tests can see: it is there at once and says what is being done,
//! its keys do what they should, and what stands still says why. What is written is read off the screen.
//!
//! With `UPDATE_DOCS=1` the pictures of `docs/watching.md` are written anew.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::lab::eventually;
use tests::local::{self, PATIENCE, Running, program};
use tests::stage;
use tests::stored::Screen;

use Place::{Corner, Middle};

/// How long a window says why it ends.
const LINGERING: Duration = Duration::from_secs(2);

/// A viewer that is asked to end does so within this.
const ENDING: Duration = Duration::from_secs(2);

/// A picture of one colour, on which words are easily read, and silence.
const PLAIN: &str = "pipeline:videotestsrc is-live=true pattern=solid-color foreground-color=0xff305030 \
                     ! video/x-raw,width=1280,height=720,framerate=25/1 ! identity \
                     audiotestsrc is-live=true wave=silence";

fn watch(screen: &Screen, link: &str) -> Command {
    let mut viewer = program("punchcast-viewer");
    viewer.args(["watch", link, "--output", "window"]).env("DISPLAY", screen.display());
    viewer
}

fn signal(running: &Running, signal: Signal) {
    kill(running.pid(), signal).expect("it runs");
}

/// Signals a process that may be gone already.
fn tell(pid: Pid, signal: Signal) {
    let _ = kill(pid, signal);
}

/// Where words stand.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In the middle of the window.
    Middle,
    /// In its left upper corner.
    Corner,
}

/// What is written there.
fn text(screen: &Screen, place: Place) -> String {
    let Some([left, top, width, height]) = screen.window() else { return String::new() };
    screen.text(match place {
        Place::Middle => [left + width / 6, top + height * 2 / 5, width * 2 / 3, height / 5],
        Place::Corner => [left, top, width * 5 / 8, height * 3 / 5],
    })
}

/// Waits until all that is written there, and nothing that is not to be.
#[track_caller]
fn reads(screen: &Screen, place: Place, words: &[&str], others: &[&str]) {
    reads_while(screen, place, (words, others), || {});
}

#[track_caller]
fn reads_while(screen: &Screen, place: Place, words: (&[&str], &[&str]), act: impl Fn()) {
    let close = |words: &[&str]| words.iter().map(|word| word.replace(' ', "")).collect();
    let (wanted, unwanted): (Vec<_>, Vec<_>) = (close(words.0), close(words.1));
    let mut read = String::new();
    let is_there = eventually(PATIENCE, || {
        act();
        read = text(screen, place);
        let has = |word: &String| read.contains(word);
        wanted.iter().all(has) && !unwanted.iter().any(has)
    });
    assert!(is_there, "expected {wanted:?} and not {unwanted:?}, read: {read}");
    println!("{place:?}: {read}");
}

/// Whether pictures of the documentation are wanted.
fn is_documented() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some()
}

/// Writes a picture of the documentation, where that is wanted, of the window as it is.
fn document(screen: &Screen, name: &str) {
    let Some(window) = screen.window() else { panic!("no window for {name}") };
    if is_documented() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images");
        screen.save(window, &images.join(format!("window-{name}.png")));
    }
}

#[test]
fn the_window_says_how_it_is_and_its_keys_work() {
    let screen = Screen::sized(800, 500).expect("Xvfb starts");
    let whole = [0, 0, 800, 500];
    let (rendezvous, at) = local::rendezvous();
    let state = tempfile::tempdir().expect("a folder");
    let film = format!("file:{}", stage::clip().display());
    let source = if is_documented() { &film } else { PLAIN };
    let (mut broadcaster, link) = local::broadcaster(at, state.path(), source, &[]);

    // Nobody answers yet.
    signal(&rendezvous, Signal::SIGSTOP);
    screen.hand(&["mousemove", "100", "100"]);
    let mut viewer = Running::start(&mut watch(&screen, &link), true);
    let joining = ["live", "introducing", "looking for the broadcaster"];
    reads(&screen, Middle, &joining, &[]);
    document(&screen, "before");
    signal(&rendezvous, Signal::SIGCONT);
    let plays = |line: &str| line.contains("event=\"playing\"");
    viewer.line(plays);
    reads(&screen, Middle, &[], &["live", "looking for", "waiting"]);
    // It has the picture's shape, and as much of its size as the screen has room for.
    let fitted = [0, 0, 720, 405];
    assert!(eventually(PATIENCE, || screen.window() == Some(fitted)), "{:?}", screen.window());
    document(&screen, "playing");

    screen.press(&["i"]);
    let listed = ["playing", "path", "host", "loss", "after repair", "1280x720", "bit/s"];
    reads(&screen, Corner, &listed, &[]);
    document(&screen, "stats");
    screen.press(&["question"]);
    reads(&screen, Corner, &["mute", "full screen", "volume"], &["after repair"]);
    document(&screen, "keys");
    screen.press(&["h"]);
    reads(&screen, Corner, &[], &["mute", "full screen"]);
    screen.press(&["minus", "Down"]);
    reads(&screen, Middle, &["80%"], &[]);
    screen.press(&["m"]);
    reads(&screen, Middle, &["muted"], &[]);

    let becomes = |size| eventually(PATIENCE, || screen.window() == Some(size));
    screen.press(&["f"]);
    assert!(becomes(whole), "{:?}", screen.window());
    // It is there to the edge, and drawn at that size.
    let is_drawn = || (0..500).any(|line| screen.gray_at(799, line).is_some_and(|gray| gray > 40));
    assert!(eventually(PATIENCE, is_drawn), "nothing is drawn at the edge");
    screen.press(&["Escape"]);
    assert!(becomes(fitted), "{:?}", screen.window());
    // On a busy machine, two clicks may come too far apart.
    let clicks = ["mousemove", "300", "100", "click", "--repeat", "2", "--delay", "50", "1"];
    let is_full = (0..3).any(|_| {
        screen.hand(&clicks);
        eventually(Duration::from_secs(3), || screen.window() == Some(whole))
    });
    assert!(is_full, "{:?}", screen.window());
    screen.press(&["f"]);
    assert!(becomes(fitted), "{:?}", screen.window());

    // The path is well, and nothing is sent: what reads the film stands still, and what replaces it.
    let stop = || broadcaster.children().into_iter().for_each(|it| tell(it, Signal::SIGSTOP));
    reads_while(&screen, Middle, (&["source is away"], &["reconnecting"]), stop);
    document(&screen, "away");
    broadcaster.children().into_iter().for_each(|it| tell(it, Signal::SIGCONT));
    reads(&screen, Middle, &[], &["source", "away"]);

    broadcaster.end_with(Signal::SIGKILL);
    reads(&screen, Middle, &["connecti"], &[]);
    if is_documented() {
        // Some seconds look more like it.
        let since = Instant::now();
        assert!(eventually(PATIENCE, || since.elapsed() > Duration::from_secs(3)));
    }
    document(&screen, "reconnecting");
    let (mut broadcaster, same) = local::broadcaster(at, state.path(), source, &[]);
    assert_eq!(same, link);
    viewer.line(plays);
    reads(&screen, Middle, &[], &["connecti"]);

    broadcaster.end_with(Signal::SIGTERM);
    reads(&screen, Middle, &["broadcast is over"], &[]);
    document(&screen, "ended");
    let is_gone = || viewer.try_wait().is_some_and(|status| status.success());
    assert!(eventually(LINGERING + ENDING, is_gone), "it stays");
    assert_eq!(screen.window(), None);
}

#[test]
fn a_window_ends_when_told_to_and_says_why_it_cannot_begin() {
    let screen = Screen::sized(640, 360).expect("Xvfb starts");
    screen.hand(&["mousemove", "100", "100"]);
    let (rendezvous, at) = local::rendezvous();
    let state = tempfile::tempdir().expect("a folder");
    let (_broadcaster, link) = local::broadcaster(at, state.path(), PLAIN, &[]);
    let unknown = link.replace("/live", "/other");

    // By a key while it still joins.
    signal(&rendezvous, Signal::SIGSTOP);
    let mut viewer = Running::start(&mut watch(&screen, &link), true);
    reads(&screen, Middle, &["looking for the broadcaster"], &[]);
    screen.press(&["q"]);
    let ended = |viewer: &mut Running| viewer.try_wait().map(|status| status.code());
    assert!(eventually(ENDING, || ended(&mut viewer) == Some(Some(0))), "it stays");
    signal(&rendezvous, Signal::SIGCONT);

    // What cannot be watched says so, until a key is pressed. The code is as ever.
    let mut viewer = Running::start(&mut watch(&screen, &unknown), true);
    assert!(eventually(PATIENCE, || screen.window().is_some()), "no window");
    let reason = "no channel";
    reads(&screen, Middle, &["ended", reason], &[]);
    screen.press(&["space"]);
    assert!(
        eventually(PATIENCE, || ended(&mut viewer) == Some(Some(6))),
        "{:?}",
        ended(&mut viewer)
    );

    // A script that waits for the end waits no longer than it asked for, and a signal ends it at once.
    let mut brief = watch(&screen, &unknown);
    let brief = local::run(brief.args(["--for", "10s"]));
    assert!(brief.code == Some(6) && brief.took < LINGERING, "{brief:?}");
    let mut viewer = Running::start(&mut watch(&screen, &link), true);
    assert!(eventually(PATIENCE, || screen.window() == Some([0, 0, 576, 324])), "no picture");
    let (status, took) = viewer.end_with(Signal::SIGINT);
    assert!(status.success() && took < ENDING, "{status} after {took:?}");
}
