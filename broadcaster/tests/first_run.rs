//! The first run: what is told at a terminal and elsewhere, and where the port is taken. Each broadcaster has a network
//! of its own, which is loopback alone, so that its rendezvous's port is free.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use test_camera::{Camera, Cameras};

const PROGRAM: &str = env!("CARGO_BIN_EXE_punchcast-broadcaster");

const PICTURE: &str =
    "pipeline:videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=180";

/// How long anything asked of a broadcaster here may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Runs a shell's words, in which `$0` is the broadcaster, in a network of their own.
fn alone(words: &str, state: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c"]);
    command.arg(format!("ip link set lo up && {words}")).arg(PROGRAM);
    command.env("XDG_STATE_HOME", state).env_remove("STATE_DIRECTORY").env_remove("RUST_LOG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(mut command: Command) -> Child {
    command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}

/// Waits for what comes of a file's text.
fn await_text<T>(path: &Path, wanted: impl Fn(&str) -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if let Some(found) = wanted(&text) {
            return found;
        }
        assert!(Instant::now() < deadline, "not yet what was waited for: {text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ended(child: Child) -> Output {
    child.wait_with_output().expect("a child can be waited for")
}

#[test]
fn at_a_terminal_a_bare_run_draws_the_link_and_says_what_to_do_next() {
    let cameras = Cameras::new().expect("a folder");
    let raw = "video/x-raw,format=I420,width=320,height=180,framerate=25/1";
    cameras.plug(&[Camera::new("Front Camera", "/dev/video-front", &[raw])]).expect("plugged in");
    let state = folder();
    // No shell stays between the two: it would hear Ctrl-C as well, and may end by it.
    let words = "exec script --quiet --flush --return --command 'exec \"$PROGRAM\" >link' screen";
    let mut command = alone(words, state.path());
    cameras.show_to(&mut command);
    command.env("PROGRAM", PROGRAM).env_remove("NO_COLOR").current_dir(state.path());
    let mut child = start(command);
    let mut keyboard = child.stdin.take().expect("it is piped");
    let whole = |text: &str| text.strip_suffix('\n').map(ToOwned::to_owned);
    let link = await_text(&state.path().join("link"), whole);
    assert!(link.starts_with("punchcast://127.0.0.1:3478/") && !link.contains('\n'), "{link}");
    let told = |text: &str| text.contains("Ctrl-C ends").then(|| text.to_owned());
    let screen = await_text(&state.path().join("screen"), told);
    assert!(screen.contains("Front Camera (/dev/video-front)"), "{screen}");
    assert!(screen.contains(&format!("punchcast-viewer watch '{link}'")), "{screen}");
    let drawn = screen.lines().filter(|line| line.contains(['▀', '▄', '█'])).count();
    assert!((15..40).contains(&drawn), "{screen}");
    // Ctrl-C, as the terminal takes it.
    keyboard.write_all(&[3]).expect("it listens");
    let ended = ended(child);
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn elsewhere_the_link_is_told_alone_and_in_no_log() {
    let state = folder();
    let secret = "secret: c2VjcmV0LXdvcmQ\n";
    fs::write(state.path().join("secret.yaml"), secret).expect("written");
    let words = format!(
        "exec \"$0\" --embedded-rendezvous --source '{PICTURE}' --config secret.yaml >link 2>log"
    );
    let mut command = alone(&words, state.path());
    let child = start({
        command.current_dir(state.path());
        command
    });
    let whole = |text: &str| text.ends_with('\n').then(|| text.to_owned());
    let link = await_text(&state.path().join("link"), whole);
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
    let ended = ended(child);
    assert!(ended.status.success(), "{ended:?}");
    assert!(link.starts_with("punchcast://127.0.0.1:3478/"), "{link}");
    assert!(link.ends_with("/live#c2VjcmV0LXdvcmQ\n") && link.lines().count() == 1, "{link}");
    let log = fs::read_to_string(state.path().join("log")).expect("a log");
    assert!(!log.contains("c2VjcmV0LXdvcmQ") && !log.contains('█'), "{log}");
}

#[test]
fn a_port_that_is_taken_is_told_with_what_to_name() {
    let state = folder();
    let words = format!(
        "\"$0\" --embedded-rendezvous --source '{PICTURE}' --state one >link 2>/dev/null & \
         until test -s link; do kill -0 $! && sleep 0.05; done; \
         \"$0\" --embedded-rendezvous --source '{PICTURE}' --state two; \
         code=$?; kill $!; wait $!; exit $code"
    );
    let mut command = alone(&words, state.path());
    command.current_dir(state.path());
    let ended = ended(start(command));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains("3478") && last.contains("--embedded-rendezvous '[::]:PORT'"), "{said}");
    assert!(!last.contains("--listen"), "{said}");
}
