//! The keeper: one process that holds a lab's namespaces open.
//!
//! It is the first process of a PID namespace, so its end is the end of everything in the lab, and
//! it reads a pipe from the test, so it ends with the test, however that ends.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tempfile::TempDir;

use super::{
    error::{Doing, LabError, Result},
    output::Output,
    wait::until,
};

/// What the lab runs, and where Debian has it.
const PROGRAMS: [(&str, &str); 7] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
    ("tcpdump", "tcpdump"),
];

/// Debian leaves these out of an ordinary user's path, but most of the programs above are there.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Runs inside the new namespaces. A fresh /run keeps named network namespaces apart from the
/// machine's and from other labs'.
const KEEP: &str =
    "mount -t tmpfs tmpfs /run && mkdir /run/netns && echo ready && exec cat >/dev/null";

/// Leaves logs and captures behind if it is set.
const KEEP_VARIABLE: &str = "LAB_KEEP";

/// How long the kernel may take to end all processes of a lab.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Holds a lab's namespaces, its temporary folder and the list of its logs.
#[derive(Debug)]
pub(crate) struct Keeper {
    child: Mutex<Child>,
    /// Closing it ends the lab.
    lifeline: Mutex<Option<ChildStdin>>,
    pid: u32,
    folder: TempDir,
    logs: Mutex<Vec<Output>>,
}

impl Keeper {
    pub(crate) fn start() -> Result<Self> {
        for (program, package) in PROGRAMS {
            require(program, package)?;
        }
        let folder = tempfile::Builder::new()
            .prefix("punchcast-lab-")
            .disable_cleanup(env::var_os(KEEP_VARIABLE).is_some())
            .tempdir()
            .doing("making the lab's temporary folder")?;
        let mut child = tool("unshare")
            .args(["--user", "--map-root-user", "--net", "--mount", "--pid"])
            .args(["--fork", "--mount-proc", "--kill-child", "sh", "-c", KEEP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .doing("starting unshare")?;
        let mut greeting = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut greeting).doing("reading from the keeper")?;
        }
        if greeting.trim() != "ready" {
            let mut output = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                stderr.read_to_string(&mut output).doing("reading from the keeper")?;
            }
            child.wait().doing("waiting for the keeper")?;
            return Err(LabError::NamespacesRefused { output: output.trim().to_owned() });
        }
        Ok(Self {
            pid: child.id(),
            lifeline: Mutex::new(child.stdin.take()),
            child: Mutex::new(child),
            folder,
            logs: Mutex::new(Vec::new()),
        })
    }

    /// Where the lab keeps logs and captures.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command that will run `program` in the lab: in the network namespace of that name, or
    /// outside all nodes.
    pub(crate) fn command(
        &self,
        namespace: Option<&str>,
        program: impl AsRef<std::ffi::OsStr>,
    ) -> Command {
        let of = |kind: &str| format!("/proc/{}/ns/{kind}", self.pid);
        let mut command = tool("nsenter");
        command
            .arg("--preserve-credentials")
            .arg(format!("--user={}", of("user")))
            .arg(format!("--mount={}", of("mnt")))
            .arg(format!("--net={}", of("net")))
            // The keeper itself is outside the PID namespace that it made for its child.
            .arg(format!("--pid={}", of("pid_for_children")))
            .arg("--");
        if let Some(namespace) = namespace {
            command.args(["ip", "netns", "exec", namespace]);
        }
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a shell script outside all nodes; it stops at the first command that fails.
    pub(crate) fn script(&self, what: &str, script: &str) -> Result<()> {
        let mut command = self.command(None, "sh");
        command.args(["-ec", script]);
        finish(command, what, "").map(drop)
    }

    /// Runs a command in a node to its end and gives its standard output.
    pub(crate) fn run(
        &self,
        namespace: &str,
        what: &str,
        words: &[&str],
        input: &str,
    ) -> Result<String> {
        let (program, arguments) = words.split_first().unwrap_or((&"true", &[]));
        let mut command = self.command(Some(namespace), program);
        command.args(arguments);
        finish(command, what, input)
    }

    /// Makes a log file, remembered so that its end can be shown when the lab ends.
    pub(crate) fn add_log(&self, name: &str) -> Result<(Output, std::fs::File)> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.folder().join(format!("{:03}-{name}", logs.len()));
        let file = std::fs::File::create(&path).doing(format!("making {}", path.display()))?;
        let log = Output::new(name.to_owned(), path);
        logs.push(log.clone());
        Ok((log, file))
    }

    /// Ends every process of the lab, and shows how the logs ended. The test harness passes that on
    /// only for tests that fail.
    pub(crate) fn end(&self) {
        drop(self.lifeline.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = until(END_TIMEOUT, || child.try_wait().ok().flatten());
        if ended.is_none() {
            // The kernel ends the PID namespace with it (--kill-child).
            let _already_ended = child.kill();
            let _ = child.wait();
        }
        for log in self.logs.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let tail = log.tail();
            if !tail.is_empty() {
                eprintln!("--- {}{tail}", log.name());
            }
        }
    }
}

/// Makes sure that a program is installed.
pub(crate) fn require(program: &'static str, package: &'static str) -> Result<()> {
    if search_path().any(|folder| folder.join(program).is_file()) {
        Ok(())
    } else {
        Err(LabError::MissingProgram { program, package })
    }
}

/// Runs a command to its end and gives its standard output.
pub(crate) fn finish(mut command: Command, what: &str, input: &str) -> Result<String> {
    let failed = |output: String| LabError::Command { what: what.to_owned(), output };
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().doing(what)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).doing(what)?;
    }
    let output = child.wait_with_output().doing(what)?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(if text.is_empty() { output.status.to_string() } else { text }));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command for one of the lab's programs, found wherever Debian has it.
fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    if let Ok(path) = env::join_paths(search_path()) {
        command.env("PATH", path);
    }
    command
}

fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = env::split_paths(&path).collect();
    folders.into_iter().chain(SYSTEM_FOLDERS.map(PathBuf::from))
}
