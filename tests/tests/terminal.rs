//! What a viewer shows at a terminal, which is tmux: the steps of joining, then one line of how it goes, which no log
//! tears apart and which is gone in the end. Nothing of it goes anywhere else.
//!
//! With `UPDATE_DOCS=1` the pictures of `docs/watching.md` are drawn anew.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tests::lab::{self, eventually};
use tests::local::{self, PATIENCE};

/// A small picture that costs little to encode.
const SMALL: &str =
    "pipeline:videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=180";

const PROMPT: &str = "ready>";

/// In this order, before anything else is shown.
const STEPS: [&str; 6] = [
    "resolving    looking up the rendezvous",
    "introducing  looking for the broadcaster",
    "opening      opening a path through the firewalls",
    "joining      connected by a host path to 127.0.0.1:",
    "playing      waiting for the first picture",
    "playing      first picture, ",
];

/// What the line has numbers of.
const NUMBERS: [&str; 6] =
    [" rtt ", " latency ", "bit/s ", " loss ", " repaired ", " unrecovered "];

/// A terminal with a shell in it, in a folder of its own.
struct Terminal {
    folder: TempDir,
}

impl Terminal {
    fn open(columns: u32, variables: &[(&str, &str)]) -> Self {
        let terminal = Self { folder: tempfile::tempdir().expect("a folder") };
        let viewer = lab::binary("punchcast-viewer").expect("the programs are built");
        let path = std::env::var("PATH").unwrap_or_default();
        let programs = viewer.parent().expect("a folder").display();
        let mut command = terminal.tmux();
        command.args(["-f", "/dev/null", "new-session", "-d", "-y", "50", "-x"]);
        command
            .arg(columns.to_string())
            .arg("exec bash --norc --noprofile")
            .current_dir(terminal.path());
        // A shell forgets another's prompt, and runs this before each.
        command
            .env("PROMPT_COMMAND", format!("PS1='{PROMPT} '"))
            .env("PATH", format!("{programs}:{path}"));
        command.env("XDG_STATE_HOME", terminal.path()).env_remove("RUST_LOG");
        command.envs(variables.iter().copied());
        assert!(command.status().expect("tmux starts").success());
        terminal.shows("a prompt", |screen| last(screen) == PROMPT);
        terminal
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.path().join("socket"));
        command
    }

    /// Presses keys, by tmux's names.
    fn press(&self, keys: &[&str]) {
        assert!(self.tmux().arg("send-keys").args(keys).status().expect("tmux runs").success());
    }

    /// Has the shell run what is too long to look at.
    fn run(&self, words: &str) {
        fs::write(self.path().join("words"), words).expect("written");
        self.press(&[". ./words", "Enter"]);
    }

    fn screen(&self) -> String {
        let output = self.tmux().args(["capture-pane", "-p"]).output().expect("tmux runs");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Pictures decoded, as the last whole line of statistics has them.
    fn decoded(&self) -> u64 {
        let stats = fs::read_to_string(self.path().join("stats")).unwrap_or_default();
        let whole = stats.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let last: serde_json::Value = serde_json::from_str(last(whole)).unwrap_or_default();
        last["frames_decoded"].as_u64().unwrap_or(0)
    }

    /// Waits for a screen.
    fn shows(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut screen = String::new();
        let is_shown = eventually(PATIENCE, || {
            screen = self.screen();
            wanted(&screen)
        });
        assert!(is_shown, "no {what}:\n{screen}");
        screen
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").status();
    }
}

/// Draws what a terminal shows for the documentation, where that is wanted.
fn document(screen: &str, name: &str) {
    const LETTER: (usize, usize) = (8, 18);
    if std::env::var_os("UPDATE_DOCS").is_none() {
        return;
    }
    let typed = format!("{PROMPT} . ./words");
    let screen = screen.replace(&typed, "$ punchcast-viewer watch 'LINK'");
    let longest = screen.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let (width, height) = ((longest + 2) * LETTER.0, (screen.lines().count() + 1) * LETTER.1);
    let lines = screen.lines().enumerate().map(|(number, line)| {
        let line = line.replace('&', "&amp;").replace('<', "&lt;");
        let below = (number + 1) * LETTER.1;
        let size = line.chars().count() * LETTER.0;
        let place = format!("x='{}' y='{below}' textLength='{size}'", LETTER.0);
        format!("<text {place} xml:space='preserve'>{line}</text>\n")
    });
    let text: String = lines.collect();
    let drawn = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' \
         font-family='monospace' font-size='13' fill='#e6e6e6'>\n\
         <rect width='100%' height='100%' rx='6' fill='#1b1b1b'/>\n{text}</svg>\n"
    );
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images");
    fs::write(images.join(format!("terminal-{name}.svg")), drawn).expect("it is written");
}

fn last(screen: &str) -> &str {
    screen.lines().last().unwrap_or_default()
}

/// Pictures decoded, as the line has them, if it is there whole and once.
fn frames(screen: &str) -> Option<u64> {
    let line = last(screen).strip_prefix("playing ")?;
    let is_whole = NUMBERS.iter().all(|number| line.contains(number)) && line.contains(" host ");
    let is_alone = screen.matches(" frames ").count() == 1;
    let count = line.split(" frames ").nth(1)?.split(' ').next()?.parse().ok()?;
    (is_whole && is_alone).then_some(count)
}

#[test]
fn the_steps_then_one_line_and_in_the_end_a_clean_prompt() {
    let (_rendezvous, at) = local::rendezvous();
    let state = tempfile::tempdir().expect("a folder");
    let (mut broadcaster, link) = local::broadcaster(at, state.path(), SMALL, &[]);
    let terminal = Terminal::open(130, &[]);
    terminal.run(&format!(
        "punchcast-viewer watch '{link}' --output null --stats json >stats; echo \"ended with $?\""
    ));
    let first = terminal.shows("line", |screen| frames(screen).is_some_and(|frames| frames > 0));
    let lines: Vec<_> = first.lines().skip(1).collect();
    for (line, step) in lines.iter().zip(STEPS) {
        assert!(line.starts_with(step), "'{step}' is not shown:\n{first}");
    }
    assert_eq!(lines.len(), STEPS.len() + 1, "{first}");
    println!("{first}");
    let so_far = frames(&first).unwrap_or_default();
    let later = |screen: &str| frames(screen).is_some_and(|frames| frames > so_far + 25);
    let stopped = terminal.shows("later line", later);
    document(&stopped, "playing");

    // A terminal that is stopped stops the drawing alone.
    terminal.press(&["C-s"]);
    let far = frames(&stopped).unwrap_or_default() + 75;
    assert!(eventually(PATIENCE, || terminal.decoded() > far), "it stands still");
    let screen = terminal.screen();
    assert!(frames(&screen).is_some_and(|frames| frames < far - 25), "it is drawn:\n{screen}");
    terminal.press(&["C-q"]);
    terminal.shows("line again", |screen| frames(screen).is_some_and(|frames| frames > far));

    broadcaster.end_with(Signal::SIGKILL);
    let lost = |screen: &str| last(screen).starts_with("reconnecting ") && frames(screen).is_none();
    let gone = terminal.shows("reconnecting", lost);
    println!("{gone}");
    document(&gone, "reconnecting");
    let (_broadcaster, same) = local::broadcaster(at, state.path(), SMALL, &[]);
    assert_eq!(same, link);
    let is_back =
        |screen: &str| screen.contains("playing      back after ") && frames(screen).is_some();
    println!("{}", terminal.shows("new line", is_back));

    terminal.press(&["C-c"]);
    let ended = terminal.shows("prompt", |screen| last(screen) == PROMPT);
    println!("{ended}");
    assert!(!ended.contains(" frames ") && ended.contains("ended with 0"), "{ended}");
    assert!(STEPS.iter().all(|step| ended.contains(step)), "{ended}");
    let stats = fs::read_to_string(terminal.path().join("stats")).expect("statistics");
    let state = |line: &str| {
        let object: serde_json::Value = serde_json::from_str(line).expect("an object each line");
        object["state"].as_str().expect("a state").to_owned()
    };
    let states: Vec<_> = stats.lines().map(state).collect();
    assert_eq!(states.last().map(String::as_str), Some("ended"), "{states:?}");
}

#[test]
fn a_narrow_terminal_has_all_of_it_and_what_is_typed_is_drawn_over() {
    let (_rendezvous, at) = local::rendezvous();
    let state = tempfile::tempdir().expect("a folder");
    let films = Path::new(env!("CARGO_MANIFEST_DIR")).join("media");
    let library = ["--library", films.to_str().expect("text")];
    let (_broadcaster, link) = local::broadcaster(at, state.path(), "none", &library);
    let film = link.replace("/live", "/library/bigbuckbunny.mp4");
    let terminal = Terminal::open(80, &[]);
    terminal.run(&format!("punchcast-viewer watch '{film}' --output null; echo \"ended with $?\""));
    let status = |screen: &str| {
        let lines: Vec<_> = screen.lines().collect();
        let from = lines.iter().rposition(|line| line.starts_with("playing       host  at 0:"))?;
        let text = lines[from..].join(" ");
        let is_whole = NUMBERS.iter().all(|number| text.contains(number.trim()));
        let is_alone =
            screen.matches("rtt ").count() == 1 && screen.matches("frames ").count() == 1;
        (is_whole && is_alone && last(screen).starts_with("              ")).then_some(text)
    };
    terminal.shows("two lines", |screen| status(screen).is_some());
    terminal.press(&["pause", "Enter"]);
    let is_paused = |screen: &str| status(screen).is_some_and(|text| text.contains(", paused "));
    let paused = terminal.shows("two lines", is_paused);
    assert!(!paused.contains("pause\n") && !paused.contains("pause "), "{paused}");
    println!("{paused}");
    terminal.press(&["C-c"]);
    let ended = terminal.shows("prompt", |screen| last(screen) == PROMPT);
    assert!(!ended.contains("frames ") && !ended.contains("rtt "), "{ended}");
    assert!(ended.contains("ended with 0"), "{ended}");
}

#[test]
fn logs_do_not_tear_the_line_apart() {
    let (_rendezvous, at) = local::rendezvous();
    let state = tempfile::tempdir().expect("a folder");
    let (_broadcaster, link) = local::broadcaster(at, state.path(), SMALL, &[]);
    // This program's, and those of the one that plays, several for each line that is drawn.
    let terminal = Terminal::open(1000, &[("RUST_LOG", "viewer=trace")]);
    terminal
        .run(&format!("punchcast-viewer watch '{link}' --output null --output record:film.mkv"));
    let mut so_far = 0;
    for _ in 0..4 {
        let later = |screen: &str| frames(screen).is_some_and(|frames| frames > so_far);
        let screen = terminal.shows("line below the logs", later);
        so_far = frames(&screen).unwrap_or_default();
        for line in screen.lines().rev().skip(1) {
            let is_log = line.starts_with("20") && line.contains('Z');
            let is_step = STEPS.iter().any(|step| line.starts_with(step));
            assert!(is_log || is_step || line.starts_with(PROMPT), "'{line}' is torn in\n{screen}");
        }
    }
    terminal.press(&["C-c"]);
    let ended = terminal.shows("prompt", |screen| last(screen) == PROMPT);
    assert!(!ended.contains(" frames "), "{ended}");
}

#[test]
fn who_wants_it_quiet_or_is_no_terminal_is_shown_nothing() {
    let (_rendezvous, at) = local::rendezvous();
    let state = tempfile::tempdir().expect("a folder");
    let (_broadcaster, link) = local::broadcaster(at, state.path(), SMALL, &[]);
    let watch = format!("punchcast-viewer watch '{link}' --output null --for 2s");
    let terminal = Terminal::open(130, &[("RUST_LOG", "off")]);
    terminal.run(&format!("{watch}; echo \"ended with $?\""));
    let quiet = terminal.shows("prompt", |screen| screen.contains("ended with"));
    let expected = format!("{PROMPT} . ./words\nended with 0\n{PROMPT}");
    assert!(expected.starts_with(&quiet), "{quiet}");

    // What a shell has in the background logs, and draws nothing over what is typed meanwhile.
    let terminal = Terminal::open(130, &[]);
    terminal.run(&format!("{watch} & wait; echo \"ended with $?\""));
    let behind = terminal.shows("prompt", |screen| screen.contains("ended with"));
    assert!(behind.contains("path open") && behind.contains("first picture"), "{behind}");
    assert!(!behind.contains(STEPS[0]) && !behind.contains(" frames "), "{behind}");

    let ended = local::watch(&link, &["--for", "2s"]);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert!(ended.stdout.is_empty(), "{ended:#?}");
    let is_log = |line: &str| line.starts_with("20") && !line.contains('\x1b');
    assert!(ended.stderr.lines().all(is_log), "{ended:#?}");
    for told in ["path open", "playing", "first picture"] {
        assert!(ended.stderr.contains(told), "{ended:#?}");
    }
}
