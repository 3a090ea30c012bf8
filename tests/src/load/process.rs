//! A load process in a lab.

use std::process::Command;
use std::time::Duration;

use super::report::{Line, Second, Summary};
use crate::lab::{self, Host, Process, Result, Signal, eventually};

/// How long it may take to say its goodbyes.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// Load viewers in a process of their own.
#[derive(Debug)]
pub struct Load {
    /// The program.
    pub process: Process,
}

impl Load {
    /// Starts it on a host, for so long at most.
    pub fn start(
        host: &Host,
        name: &str,
        link: &str,
        duration: Duration,
        flags: &[&str],
    ) -> Result<Self> {
        let mut command = Command::new(lab::binary("lab-load")?);
        command.args([link, "--for", &format!("{}s", duration.as_secs())]).args(flags);
        Ok(Self { process: host.spawn(name, &command)? })
    }

    fn lines(&self) -> Vec<Line> {
        let lines = self.process.stdout().lines();
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How it goes.
    pub fn now(&self) -> Second {
        let lines = self.lines().into_iter().rev();
        let mut seconds = lines.filter_map(|line| match line {
            Line::Second(second) => Some(second),
            Line::Summary(_) => None,
        });
        seconds.next().unwrap_or_default()
    }

    /// Waits until it goes as wanted, and gives how.
    pub fn wait_for(&self, timeout: Duration, wanted: impl Fn(&Second) -> bool) -> Second {
        let reached = eventually(timeout, || wanted(&self.now()));
        assert!(reached, "{:?}\n{}", self.now(), self.process.stderr().text());
        self.now()
    }

    /// Ends it, and gives its summary.
    pub fn stop(&self) -> Result<Summary> {
        self.process.kill(Signal::SIGINT)?;
        let status = self.process.wait(END_TIMEOUT)?;
        assert!(status.success(), "{status}: {}", self.process.stderr().text());
        Ok(self.summary().expect("a process that ends well sums up"))
    }

    /// What it summed up, once it has.
    pub fn summary(&self) -> Option<Summary> {
        self.lines().into_iter().find_map(|line| match line {
            Line::Summary(summary) => Some(*summary),
            Line::Second(_) => None,
        })
    }
}
