//! Programs running in a node.

use std::{
    fs,
    process::{Child, ExitStatus},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{self, Signal},
    unistd::{Pid, SysconfVar, sysconf},
};

use super::{
    error::{Doing, LabError, Result},
    output::Output,
    wait::until,
};

/// How long `nsenter` may take to start the program.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// A program that was started in a node. It runs until it ends, is killed, or the lab is dropped;
/// dropping this handle leaves it running.
#[derive(Debug)]
pub struct Process {
    name: String,
    /// `nsenter`, which waits for the program and ends as the program did.
    wrapper: Mutex<Child>,
    pid: Pid,
    stdout: Output,
    stderr: Output,
}

impl Process {
    /// Takes over a started `nsenter`, and finds the program it started.
    pub(crate) fn adopt(
        name: String,
        mut wrapper: Child,
        stdout: Output,
        stderr: Output,
    ) -> Result<Self> {
        let wrapper_pid = wrapper.id();
        let children = format!("/proc/{wrapper_pid}/task/{wrapper_pid}/children");
        let found = until(START_TIMEOUT, || {
            let child = fs::read_to_string(&children).unwrap_or_default();
            match child.split_whitespace().next().and_then(|pid| pid.parse().ok()) {
                Some(pid) => Some(Some(Pid::from_raw(pid))),
                // A program that has ended already has no PID to be signalled by.
                None => wrapper.try_wait().ok().flatten().map(|_| None),
            }
        });
        let pid = match found {
            Some(Some(pid)) => pid,
            Some(None) => Pid::from_raw(i32::try_from(wrapper_pid).unwrap_or(i32::MAX)),
            None => {
                return Err(LabError::Timeout {
                    what: format!("{name} to start"),
                    waited: START_TIMEOUT,
                    tail: stderr.tail(),
                });
            }
        };
        Ok(Self { name, wrapper: Mutex::new(wrapper), pid, stdout, stderr })
    }

    /// The program's process id, as seen from the test.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// What the program has written to standard output.
    pub fn stdout(&self) -> &Output {
        &self.stdout
    }

    /// What the program has written to standard error.
    pub fn stderr(&self) -> &Output {
        &self.stderr
    }

    /// Waits for a line on standard output, counted from the program's start, and gives it.
    pub fn wait_for_line(
        &self,
        timeout: Duration,
        matches: impl Fn(&str) -> bool,
    ) -> Result<String> {
        self.wait_in(&self.stdout, timeout, matches)
    }

    /// Waits for a line on standard error, where the programs log.
    pub fn wait_for_log_line(
        &self,
        timeout: Duration,
        matches: impl Fn(&str) -> bool,
    ) -> Result<String> {
        self.wait_in(&self.stderr, timeout, matches)
    }

    fn wait_in(
        &self,
        output: &Output,
        timeout: Duration,
        matches: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let what = || format!("a line in {}", output.name());
        let found = until(timeout, || {
            // Asked before reading, so that the last lines of a program that ends are seen.
            let ended = self.try_wait().ok().flatten();
            match output.lines().into_iter().find(|line| matches(line)) {
                Some(line) => Some(Ok(line)),
                None => ended.map(|status| {
                    Err(LabError::Ended {
                        name: format!("{} ({status})", self.name),
                        what: what(),
                        tail: self.tails(),
                    })
                }),
            }
        });
        found.unwrap_or_else(|| {
            Err(LabError::Timeout { what: what(), waited: timeout, tail: self.tails() })
        })
    }

    /// How the program ended, if it has.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        let mut wrapper = self.wrapper.lock().unwrap_or_else(PoisonError::into_inner);
        wrapper.try_wait().doing(format!("waiting for {}", self.name))
    }

    /// Waits for the program's end.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        match until(timeout, || self.try_wait().transpose()) {
            Some(status) => status,
            None => Err(LabError::Timeout {
                what: format!("{} to end", self.name),
                waited: timeout,
                tail: self.tails(),
            }),
        }
    }

    /// Sends a signal to the program itself. It is no error if the program has ended.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        // Holding the lock keeps the wrapper's PID from being freed and used again meanwhile.
        let mut wrapper = self.wrapper.lock().unwrap_or_else(PoisonError::into_inner);
        let what = format!("sending {signal} to {}", self.name);
        if wrapper.try_wait().doing(what.as_str())?.is_some() {
            return Ok(());
        }
        if signal == Signal::SIGCONT {
            // `nsenter` stops itself when the program is stopped.
            let wrapper_pid = Pid::from_raw(i32::try_from(wrapper.id()).unwrap_or(i32::MAX));
            signal::kill(wrapper_pid, signal).doing(what.as_str())?;
        }
        match signal::kill(self.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).doing(what),
        }
    }

    /// Processes that the program has started itself and that still run.
    pub fn children(&self) -> Vec<Pid> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid));
        let tasks = tasks.into_iter().flatten().flatten();
        let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let words =
            texts.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        words.filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
    }

    /// Processor time that the program has used so far, user and system, in steps of 10 ms.
    pub fn cpu_time(&self) -> Result<Duration> {
        let what = format!("reading the processor time of {}", self.name);
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).doing(what.as_str())?;
        // The program's name, in brackets, may hold spaces; utime and stime are fields 14 and 15.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        let ticks_per_second = sysconf(SysconfVar::CLK_TCK).doing(what)?.unwrap_or(100);
        Ok(Duration::from_secs(ticks) / u32::try_from(ticks_per_second).unwrap_or(100))
    }

    /// Bytes of memory that the program occupies.
    pub fn resident_memory(&self) -> Result<u64> {
        let what = format!("reading the memory of {}", self.name);
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).doing(what)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kibibytes.unwrap_or(0) * 1024)
    }

    fn tails(&self) -> String {
        [&self.stdout, &self.stderr]
            .into_iter()
            .map(|output| (output, output.tail()))
            .filter(|(_, tail)| !tail.is_empty())
            .map(|(output, tail)| format!("\n--- {}{tail}", output.name()))
            .collect()
    }
}
