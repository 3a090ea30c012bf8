//! Packet captures of running nodes.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    build::binary,
    error::{Doing, LabError, Result},
    node::Node,
    pcap::{self, Datagram},
};

/// A capture is stopped once its file has not grown for this long, so that packets which tcpdump
/// has not fetched from the kernel yet are not lost. Where traffic goes on, only [`SETTLE_LIMIT`]
/// ends that.
const SETTLE_INTERVAL: Duration = Duration::from_millis(60);
const SETTLE_LIMIT: Duration = Duration::from_millis(600);

/// A running capture of one interface. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    /// Closing it ends the capture.
    control: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    path: PathBuf,
}

impl Capture {
    pub(crate) fn start(node: &Node, interface: &str) -> Result<Self> {
        let name = format!("{}-{interface}-capture", node.name());
        let (log, log_file) = node.keeper().add_log(&format!("{name}.stderr"))?;
        let path = log.path().with_extension("pcap");
        let mut child = node
            .keeper()
            .command(Some(node.name()), binary("lab-capture")?)
            .arg(interface)
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .doing(format!("starting {name}"))?;
        let (Some(control), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(LabError::Capture(format!("{name} has no control line")));
        };
        let mut answers = BufReader::new(stdout);
        let mut greeting = String::new();
        answers.read_line(&mut greeting).doing(name.as_str())?;
        if greeting.trim() != "listening" {
            return Err(LabError::Command { what: name, output: log.text() });
        }
        Ok(Self { child, control: Some(control), answers, path })
    }

    /// The UDP datagrams captured so far.
    pub fn datagrams(&self) -> Result<Vec<Datagram>> {
        let bytes = fs::read(&self.path).doing("reading a capture")?;
        pcap::read(&bytes)
    }

    /// Ends the capture and gives its UDP datagrams. It is an error if the kernel dropped packets
    /// because tcpdump was too slow.
    pub fn stop(mut self) -> Result<Vec<Datagram>> {
        self.settle();
        drop(self.control.take());
        let mut summary = String::new();
        self.answers.read_to_string(&mut summary).doing("ending a capture")?;
        self.child.wait().doing("ending a capture")?;
        let dropped = summary.lines().find(|line| line.contains("dropped by kernel"));
        match dropped {
            Some(line) if line.starts_with("0 ") => self.datagrams(),
            Some(line) => Err(LabError::Capture(format!("tcpdump says: {line}"))),
            None => Err(LabError::Capture(format!("tcpdump ended early: {summary}"))),
        }
    }

    /// The file, in pcap format; it goes with the lab.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn settle(&self) {
        let size = || fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        let limit_at = Instant::now() + SETTLE_LIMIT;
        let mut before = size();
        while Instant::now() < limit_at {
            thread::sleep(SETTLE_INTERVAL);
            let now = size();
            if now == before {
                return;
            }
            before = now;
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        drop(self.control.take());
        // Reaps it; one that has ended already is no concern here.
        let _ = self.child.wait();
    }
}
