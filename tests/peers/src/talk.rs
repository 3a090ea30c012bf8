//! How the bench talks with its sender and its receivers: lines over standard input and output. Each says
//! [`READY`] once, answers each command by one line, and ends when its standard input ends.

use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// First line of a process that can be used now.
pub(crate) const READY: &str = "ready";

/// What is asked of the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Say what happened so far.
    Sample,
    /// To the sender: the viewers are there. Matters only where nobody asks for the stream.
    Serve,
}

impl Command {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::Serve => "serve",
        }
    }
}

/// What a sender has done and used.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// Processor time of the process, all its threads, user and kernel, in nanoseconds.
    pub cpu_ns: u64,
    /// Nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// Access units handed to the peer.
    pub frames: u64,
    /// Resident memory.
    pub rss_kib: u64,
}

/// What the receivers have got.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Received {
    /// Packets (messages, with SRT) of all viewers together.
    pub packets: u64,
    /// Viewers that got a packet since they were asked before.
    pub viewers: u64,
}

/// Says that this process is ready, then answers commands until standard input ends.
pub(crate) fn answer<T: Serialize>(mut done: impl FnMut(Command) -> Result<T>) -> Result<()> {
    say(READY)?;
    for line in io::stdin().lines() {
        let line = line.context("reading a command")?;
        let known = [Command::Sample, Command::Serve];
        let command = known.into_iter().find(|command| command.name() == line);
        let command = command.with_context(|| format!("unknown command {line:?}"))?;
        say(&serde_json::to_string(&done(command)?)?)?;
    }
    Ok(())
}

/// Reads one answer.
pub(crate) fn parse<T: DeserializeOwned>(line: &str) -> Result<T> {
    serde_json::from_str(line).with_context(|| format!("not an answer: {line:?}"))
}

fn say(line: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("answering")
}
