//! Captures the packets of one interface into a file, with tcpdump.
//!
//! `lab-capture INTERFACE FILE` prints `listening` once packets are being captured. When its
//! standard input ends it stops tcpdump, prints what tcpdump has to say, and ends.
//!
//! tcpdump gives up root by `setgroups`, which the kernel forbids in a user namespace that an
//! ordinary user made, and then refuses to work. There is nothing to give up there, so a seccomp
//! filter makes that one call succeed without doing anything.

use std::{
    env,
    io::{self, BufRead, BufReader, Read},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, bail};
use nix::{
    libc::SYS_setgroups,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// More than the lab's links carry.
const LONGEST_FRAME: &str = "2048";

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [interface, file] = &arguments[..] else {
        bail!("expected INTERFACE FILE, got {arguments:?}");
    };
    excuse_setgroups().context("installing a seccomp filter")?;
    let mut tcpdump = Command::new("tcpdump")
        // Packets go to the file one by one.
        .args(["--immediate-mode", "-U", "-n", "-Z", "root"])
        // 32 MiB between kernel and tcpdump: about half a second of 40,000 packets/s.
        // The kernel sets the longest length aside for each packet, so that must not be huge.
        .args(["-B", "32768", "-s", LONGEST_FRAME, "-i", interface, "-w", file])
        // A pipe, because a security profile may keep tcpdump from files of any other name.
        .stderr(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .context("starting tcpdump")?;
    let mut messages =
        BufReader::new(tcpdump.stderr.take().context("tcpdump has no standard error")?);
    loop {
        let mut line = String::new();
        if messages.read_line(&mut line)? == 0 {
            bail!("tcpdump ended: {}", tcpdump.wait()?);
        }
        if line.contains("listening on") {
            break;
        }
        eprint!("{line}");
    }
    println!("listening");
    let summary = thread::spawn(move || {
        let mut summary = String::new();
        messages.read_to_string(&mut summary).map(|_| summary)
    });
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    kill(Pid::from_raw(i32::try_from(tcpdump.id())?), Signal::SIGTERM)?;
    tcpdump.wait()?;
    if let Ok(summary) = summary.join() {
        print!("{}", summary?);
    }
    Ok(())
}

/// For this process and its children.
fn excuse_setgroups() -> anyhow::Result<()> {
    let calls = [(SYS_setgroups, Vec::new())].into_iter().collect();
    let filter = SeccompFilter::new(
        calls,
        SeccompAction::Allow,
        SeccompAction::Errno(0),
        env::consts::ARCH.try_into()?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    Ok(apply_filter(&program)?)
}
