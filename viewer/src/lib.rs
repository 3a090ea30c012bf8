//! The viewer: watches a link. It also says what the NAT or firewall here lets through ([`config::Check`]).
//!
//! A viewer's life is one state machine with named states ([`stats::State`]): resolving, introducing,
//! opening, joining, playing, reconnecting, ended; the same names show in logs and stats. [`watch`]
//! walks through them, [`meeting`] gets as far as a proved path and a pinned connection on it, with the
//! rendezvous of [`contact`] and the help of [`lifeline`] and [`renewal`],
//! [`session`] receives, and [`media`] plays, in processes [`apart`]. [`opener`] goes the first half of that way alone, for
//! measuring. What people see of all that is [`terminal`]'s.

mod apart;
mod arriving;
mod asking;
mod bursts;
mod caption;
mod check;
mod clock;
mod commands;
pub mod config;
mod contact;
mod continuity;
pub mod feedback;
mod fetch;
mod hold;
mod lately;
mod latency;
mod lifeline;
mod list;
pub mod media;
mod meeting;
mod metrics;
pub mod opener;
mod outage;
mod printer;
mod reach;
mod renewal;
mod session;
mod slots;
pub mod stats;
mod terminal;
mod trains;
mod watch;

pub use config::{Args, Command};
pub use metrics::described_metrics;

use std::future::Future;
use std::time::Instant;

use service::exit::Failure;

/// Runs one command. `started_at` is when the process began: times in the stats count from it.
pub async fn run(command: Command, started_at: Instant) -> Result<(), Failure> {
    match command {
        Command::Watch(config) => watch::run(*config, started_at).await,
        Command::List(config) => or_interrupted(list::run(*config)).await,
        Command::Fetch(config) => fetch::run(*config).await,
        Command::Check(config) => or_interrupted(check::run(config)).await,
        Command::Play { outputs, .. } => play(&outputs),
    }
}

/// Starts logging for a command: beside the status, where that is shown.
pub fn start_log(command: &Command) {
    match command {
        Command::Watch(config) => terminal::start_log(config.target.log_format),
        _ => service::log::init(command.log_format()),
    }
}

/// Plays what another process of the viewer sends: before any other thread runs here.
///
/// # Errors
///
/// Where standard input is no socket.
pub fn play(outputs: &[media::Output]) -> Result<(), Failure> {
    apart::run(outputs)
}

/// Something short, unless the user asks to stop before its end, which is no failure.
async fn or_interrupted(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::select! {
        result = command => result,
        stopped = service::shutdown::requested() => stopped.map_err(|error| {
            Failure::runtime(format!("cannot listen for signals: {error}"))
        }),
    }
}
