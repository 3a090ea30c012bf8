//! The peers that `make bench` measures punchcast beside: GStreamer's `multiudpsink`, `srtsink` and
//! `webrtcsink`, each sending the same coded H.264 stream to many real receivers.
//!
//! `run` is what benches call. It starts `send` and `receive` as processes of their own, lets
//! them warm up, and prints as one JSON object what the sender's process used between two moments and what
//! the receivers got between the same two.

mod kind;
mod receive;
mod run;
mod send;
mod talk;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// GStreamer's ways of sending to many viewers, measured.
#[derive(Debug, Parser)]
#[command(name = "bench-peer")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure one peer: start a sender and its receivers, and print what sending cost.
    Run(run::Args),
    /// Send to viewers until standard input ends. Each `sample` read there is answered by one JSON object.
    Send(send::Args),
    /// Be the viewers until standard input ends. Each `sample` read there is answered by one JSON object.
    Receive(receive::Args),
}

fn main() -> ExitCode {
    match run(&Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-peer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Send(args) => send::run(args),
        Command::Receive(args) => receive::run(args),
    }
}
