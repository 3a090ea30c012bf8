//! One measurement: a sender here, its receivers here or in another network namespace.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;

use crate::kind::Kind;
use crate::talk::{self, Received, Sent};

/// Frames of a second of the stream, to which costs are scaled where frames are sent more slowly.
const STREAM_FRAMES_PER_SECOND: f64 = 30.0;

/// How long the sender may take to start, and the viewers to get their first packet.
const LONGEST_START: Duration = Duration::from_secs(60);

/// How long a process may take for an answer, and to end.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Who is measured.
    kind: Kind,
    /// H.264 elementary stream (Annex B, 30 frames a second), looped.
    #[arg(long)]
    stream: PathBuf,
    /// How many viewers there are.
    #[arg(long)]
    viewers: usize,
    /// Address that the sender is reached at.
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    near: Ipv4Addr,
    /// Address of the first viewer of multiudpsink; the others have the addresses behind it.
    #[arg(long, default_value_t = Ipv4Addr::new(127, 1, 0, 1))]
    far: Ipv4Addr,
    /// Network namespace (as `ip netns` names them) for the receivers; without it they are in the sender's.
    #[arg(long)]
    far_namespace: Option<String>,
    /// Frames sent in a second.
    #[arg(long, default_value_t = STREAM_FRAMES_PER_SECOND)]
    rate: f64,
    /// Sent before the measurement, in seconds, after all viewers got something.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Measured, in seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Outcome {
    contender: &'static str,
    viewers: usize,
    /// Viewers that got something while it was measured.
    viewers_served: u64,
    /// How long was measured.
    seconds: f64,
    frames: u64,
    /// Processor time of the sender's process.
    cpu_ns: u64,
    /// Packets that arrived at the receivers.
    packets_delivered: u64,
    cpu_us_per_packet: f64,
    /// For each viewer and each second of the stream.
    cpu_us_per_viewer_second: f64,
    /// What the sender's process grew by since before the first viewer.
    rss_kib_per_viewer: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.viewers > 0, "--viewers must be more than 0");
    let mut sender = Partner::start("the sender", send_command(args)?)?;
    sender.wait_ready(LONGEST_START)?;
    let alone: Sent = sender.ask(talk::Command::Sample)?;
    let mut receivers = Partner::start("the receivers", receive_command(args)?)?;
    receivers.wait_ready(LONGEST_START)?;
    let _: Sent = sender.ask(talk::Command::Serve)?;
    thread::sleep(Duration::from_secs_f64(args.warm_up));
    let began: (Sent, Received) =
        (sender.ask(talk::Command::Sample)?, receivers.ask(talk::Command::Sample)?);
    thread::sleep(Duration::from_secs_f64(args.seconds));
    let ended: (Sent, Received) =
        (sender.ask(talk::Command::Sample)?, receivers.ask(talk::Command::Sample)?);
    receivers.end()?;
    sender.end()?;
    let outcome = outcome(args, &alone, &began, &ended)?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn outcome(
    args: &Args,
    alone: &Sent,
    began: &(Sent, Received),
    ended: &(Sent, Received),
) -> Result<Outcome> {
    let viewers = args.viewers as f64;
    let frames = ended.0.frames - began.0.frames;
    let packets = ended.1.packets - began.1.packets;
    ensure!(frames > 0 && packets > 0, "{frames} frames sent, {packets} packets delivered");
    let cpu_ns = ended.0.cpu_ns - began.0.cpu_ns;
    let cpu_us = cpu_ns as f64 / 1e3;
    Ok(Outcome {
        contender: args.kind.name(),
        viewers: args.viewers,
        viewers_served: ended.1.viewers,
        seconds: (ended.0.at_ns - began.0.at_ns) as f64 / 1e9,
        frames,
        cpu_ns,
        packets_delivered: packets,
        cpu_us_per_packet: cpu_us / packets as f64,
        cpu_us_per_viewer_second: cpu_us / viewers / (frames as f64 / STREAM_FRAMES_PER_SECOND),
        rss_kib_per_viewer: ended.0.rss_kib.saturating_sub(alone.rss_kib) as f64 / viewers,
    })
}

fn send_command(args: &Args) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.args(["send", args.kind.name(), "--stream"]).arg(&args.stream);
    command.args(["--rate", &args.rate.to_string()]);
    common_arguments(&mut command, args);
    // webrtcsink's signalling server writes its log to standard output.
    command.env("WEBRTCSINK_SIGNALLING_SERVER_LOG", "off");
    Ok(command)
}

fn receive_command(args: &Args) -> Result<Command> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = match &args.far_namespace {
        Some(namespace) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(["receive", args.kind.name()]);
    common_arguments(&mut command, args);
    Ok(command)
}

fn common_arguments(command: &mut Command, args: &Args) {
    command.args(["--viewers", &args.viewers.to_string()]);
    command.args(["--near", &args.near.to_string(), "--far", &args.far.to_string()]);
}

/// A process that answers commands. It ends with this one, since its standard input does.
#[derive(Debug)]
struct Partner {
    what: &'static str,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Partner {
    fn start(what: &'static str, mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {what}"))?;
        let output = BufReader::new(child.stdout.take().context("standard output is piped")?);
        let (to_us, lines) = channel();
        // Ends with the process, whose output then ends.
        thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| to_us.send(line))
        });
        let input = child.stdin.take();
        Ok(Self { what, child, input, lines })
    }

    fn wait_ready(&mut self, timeout: Duration) -> Result<()> {
        let line = self.line(timeout)?;
        ensure!(line == talk::READY, "{} said {line:?}", self.what);
        Ok(())
    }

    fn ask<T: serde::de::DeserializeOwned>(&mut self, command: talk::Command) -> Result<T> {
        let input = self.input.as_mut().context("asked after its end")?;
        writeln!(input, "{}", command.name()).with_context(|| format!("asking {}", self.what))?;
        talk::parse(&self.line(LONGEST_ANSWER)?)
    }

    fn line(&self, timeout: Duration) -> Result<String> {
        self.lines.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow!("{} said nothing for {timeout:?}", self.what),
            RecvTimeoutError::Disconnected => anyhow!("{} ended, see above", self.what),
        })
    }

    fn end(mut self) -> Result<()> {
        drop(self.input.take());
        let deadline = Instant::now() + LONGEST_ANSWER;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "{} ended with {status}", self.what);
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("{} did not end within {LONGEST_ANSWER:?}", self.what)
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        // Ended already, usually; there is nobody left to tell if not.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
