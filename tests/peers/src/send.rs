//! The sender: plays the stream in real time into one of GStreamer's sinks.

mod sinks;
mod stream;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use gstreamer as gst;
use gstreamer::prelude::*;
use nix::time::{ClockId, clock_gettime};

use crate::kind::{self, Kind};
use crate::talk::{self, Command, Sent};

/// Port that viewers connect to, where they do.
pub(crate) const PORT: u16 = 7000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Who sends.
    kind: Kind,
    /// H.264 elementary stream (Annex B), looped.
    #[arg(long)]
    stream: PathBuf,
    /// How many viewers there are; matters to multiudpsink only.
    #[arg(long)]
    viewers: usize,
    /// Address to listen at.
    #[arg(long)]
    near: Ipv4Addr,
    /// Address of the first viewer of multiudpsink; the others have the addresses behind it.
    #[arg(long)]
    far: Ipv4Addr,
    /// Frames sent in a second.
    #[arg(long, default_value_t = 30.0)]
    rate: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    gst::init().context("starting GStreamer")?;
    let stream = stream::Stream::read(&args.stream)?;
    let (pipeline, source) = sinks::pipeline(args.kind, args.near)?;
    source.set_caps(Some(stream.caps()));
    pipeline.set_state(gst::State::Playing).context("starting to send")?;
    let player = stream.play(source, Duration::from_secs_f64(1.0 / args.rate));
    sinks::wait_ready(&pipeline, args.kind)?;
    talk::answer(|command| {
        sinks::check(&pipeline)?;
        if command == Command::Serve {
            let viewers = (0..args.viewers).map(|at| kind::viewer(args.far, at).to_string());
            sinks::serve(&pipeline, args.kind, &viewers.collect::<Vec<_>>());
        }
        Ok(Sent {
            cpu_ns: nanoseconds(ClockId::CLOCK_PROCESS_CPUTIME_ID)?,
            ..sent(player.frames())?
        })
    })?;
    player.stop()?;
    pipeline.set_state(gst::State::Null)?;
    Ok(())
}

fn sent(frames: u64) -> Result<Sent> {
    Ok(Sent {
        cpu_ns: 0,
        at_ns: nanoseconds(ClockId::CLOCK_MONOTONIC)?,
        frames,
        rss_kib: resident_kib()?,
    })
}

fn nanoseconds(clock: ClockId) -> Result<u64> {
    Ok(Duration::from(clock_gettime(clock)?).as_nanos() as u64)
}

/// Resident memory of this process.
fn resident_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
