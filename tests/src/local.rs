//! Programs on this machine's loopback, for what needs no network.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab;

/// How long a program may take for anything asked of it here.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Ended {
    /// The last line of standard error: what the user is told.
    pub fn message(&self) -> &str {
        self.stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default()
    }
}

/// A command for one of the programs.
pub fn program(name: &str) -> Command {
    Command::new(lab::binary(name).unwrap_or_else(|error| panic!("{error}")))
}

/// Runs a program to its end; panics when that takes longer than [`PATIENCE`].
pub fn run(command: &mut Command) -> Ended {
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let pid = Pid::from_raw(child.id().cast_signed());
    let (ended, watch) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let timeout = std::sync::mpsc::RecvTimeoutError::Timeout;
        if watch.recv_timeout(PATIENCE) == Err(timeout) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let status = child.wait().expect("a child can be waited for");
    drop(ended);
    watchdog.join().expect("the watchdog does not panic");
    let text = |reader: Option<std::thread::JoinHandle<String>>| {
        reader.map(|thread| thread.join().expect("readers do not panic")).unwrap_or_default()
    };
    Ended { code: status.code(), stdout: text(stdout), stderr: text(stderr), took: began.elapsed() }
}

fn read_all(mut from: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Watches a link to no output, to the end.
pub fn watch(link: &str, flags: &[&str]) -> Ended {
    run(program("punchcast-viewer").args(["watch", link, "--output", "null"]).args(flags))
}

/// Asserts how a program ended: its code, and words of the one line that it left.
#[track_caller]
pub fn ends(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:#?}");
    let message = ended.message();
    for word in words {
        assert!(message.contains(word), "'{word}' is not in: {message}");
    }
    // Logs begin with their time.
    let said =
        ended.stderr.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("20"));
    let said: Vec<_> = said.collect();
    assert!(said.len() == 1 && said[0].starts_with("punchcast-"), "not one line: {said:#?}");
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

/// A program that runs until it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Running {
    /// Starts a program whose standard output (or, with `log`, standard error) is read by lines.
    pub fn start(command: &mut Command, log: bool) -> Self {
        if log {
            command.stdout(Stdio::null()).stderr(Stdio::piped());
        } else {
            command.stdout(Stdio::piped());
        }
        Self::spawn(command)
    }

    /// Starts a program whose standard output goes there, and whose standard error is read by lines.
    pub fn start_into(command: &mut Command, stdout: impl Into<Stdio>) -> Self {
        Self::spawn(command.stdout(stdout).stderr(Stdio::piped()))
    }

    /// Starts a program that reads this on standard input, and whose standard output is read by lines.
    pub fn start_reading(command: &mut Command, input: impl Into<Stdio>) -> Self {
        Self::spawn_as_is(command.stdin(input).stdout(Stdio::piped()))
    }

    fn spawn(command: &mut Command) -> Self {
        Self::spawn_as_is(command.stdin(Stdio::null()))
    }

    fn spawn_as_is(command: &mut Command) -> Self {
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let (sender, lines) = std::sync::mpsc::channel();
        let stdout = child.stdout.take().map(|out| Box::new(out) as Box<dyn std::io::Read + Send>);
        let stderr = child.stderr.take().map(|err| Box::new(err) as Box<dyn std::io::Read + Send>);
        let from = stdout.or(stderr).expect("one of both is piped");
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                // The test may have seen enough.
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// Waits for a line.
    pub fn line(&self, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no such line ({error}) in {seen:#?}"),
            }
        }
    }

    /// The program's process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Processes that it has started and that are still there, of all its threads.
    pub fn children(&self) -> Vec<Pid> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let listed = threads.into_iter().flatten().flatten();
        let listed = listed
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
        let all = listed.collect::<Vec<_>>().join(" ");
        all.split_whitespace().filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect()
    }

    /// Sends a signal and waits for the end.
    pub fn end_with(&mut self, signal: Signal) -> (ExitStatus, Duration) {
        let began = Instant::now();
        kill(self.pid(), signal).expect("it runs");
        let status = self.child.wait().expect("a child can be waited for");
        (status, began.elapsed())
    }

    /// Resident memory, in bytes.
    pub fn resident_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says so");
        let kilobytes = line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
        kilobytes.expect("a number") * 1024
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a rendezvous on a free loopback port.
pub fn rendezvous() -> (Running, SocketAddr) {
    rendezvous_with(&[])
}

/// As [`rendezvous()`], with further flags.
pub fn rendezvous_with(flags: &[&str]) -> (Running, SocketAddr) {
    let mut command = program("punchcast-rendezvous");
    command.args(["--listen", "127.0.0.1:0"]).args(flags);
    let running = Running::start(&mut command, true);
    let line = running.line(|line| line.contains("listening on "));
    let address = line.rsplit(' ').next().and_then(|word| word.parse().ok());
    (running, address.unwrap_or_else(|| panic!("no address in {line}")))
}

/// Starts a broadcaster of a source, with a folder for its state, and waits for its link.
pub fn broadcaster(
    at: SocketAddr,
    folder: &Path,
    source: &str,
    flags: &[&str],
) -> (Running, String) {
    let mut command = program("punchcast-broadcaster");
    command.args(["--rendezvous", &at.to_string(), "--source", source, "--bind", "127.0.0.1:0"]);
    command.arg("--state").arg(folder).args(flags);
    let running = Running::start(&mut command, false);
    let link = running.line(|line| line.starts_with("punchcast://"));
    (running, link)
}
