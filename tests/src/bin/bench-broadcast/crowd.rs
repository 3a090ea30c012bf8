//! The viewers: a load process in the far namespace, and what it tells.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::lab;
use tests::load::{Line, Second, Summary};

use crate::network::Network;

/// How long a crowd may take to leave.
const LEAVING: Duration = Duration::from_secs(60);

/// A load process. Dropping it ends it.
pub(crate) struct Crowd {
    child: Child,
    lines: Arc<Mutex<Vec<Line>>>,
    reader: Option<JoinHandle<()>>,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Crowd {
    /// Lets viewers of this link come.
    pub(crate) fn start(network: &Network, link: &str, flags: &[&str]) -> Result<Self> {
        let mut command = network.far(&lab::binary("lab-load")?);
        command.args([link, "--for", "1h"]).args(flags);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .env("RUST_LOG", "error")
            .spawn()
            .context("starting lab-load")?;
        let stdout = child.stdout.take().context("it has an output")?;
        let lines = Arc::<Mutex<Vec<Line>>>::default();
        let told = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str(&line) {
                    told.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            }
        });
        Ok(Self { child, lines, reader: Some(reader) })
    }

    /// How they are, by the latest word.
    pub(crate) fn now(&self) -> Second {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seconds = lines.iter().rev().filter_map(|line| match line {
            Line::Second(second) => Some(second.clone()),
            Line::Summary(_) => None,
        });
        seconds.next().unwrap_or_default()
    }

    /// Waits until they are as wanted.
    pub(crate) fn wait_for(
        &mut self,
        what: &str,
        timeout: Duration,
        wanted: impl Fn(&Second) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !wanted(&self.now()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("lab-load ended with {status}");
            }
            if Instant::now() >= deadline {
                let summary = self.end()?;
                bail!(
                    "not {what} within {timeout:?}: {:?}, {:?}",
                    summary.counts,
                    summary.failures
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Stops the process without its knowing, as a machine that goes to sleep.
    pub(crate) fn freeze(&self) -> Result<()> {
        Ok(kill(self.pid(), Signal::SIGSTOP)?)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Lets them leave, and gives their summary.
    pub(crate) fn stop(mut self) -> Result<Summary> {
        self.end()
    }

    fn end(&mut self) -> Result<Summary> {
        kill(self.pid(), Signal::SIGINT)?;
        let deadline = Instant::now() + LEAVING;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "lab-load does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        if let Some(reader) = self.reader.take() {
            // Nothing in it panics.
            let _ = reader.join();
        }
        ensure!(status.success(), "lab-load ended with {status}");
        let lines = std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        let mut summaries = lines.into_iter().filter_map(|line| match line {
            Line::Summary(summary) => Some(*summary),
            Line::Second(_) => None,
        });
        summaries.next().context("lab-load gave no summary")
    }
}

/// Flags for so many viewers in a network.
pub(crate) fn flags(viewers: u32, network: &str, join_rate: u32) -> Vec<String> {
    let numbers = [viewers.to_string(), join_rate.to_string()];
    let [viewers, join_rate] = numbers;
    ["--viewers", &viewers, "--addresses", network, "--join-rate", &join_rate]
        .map(String::from)
        .into()
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
