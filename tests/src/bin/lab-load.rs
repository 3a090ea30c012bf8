//! Load viewers in a process of their own: see [`tests::load`]. Prints one JSON object a line: one each
//! second, and a summary at the end.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use service::exit::{Failure, finish};
use service::log::LogFormat;
use tests::load::{self, Addresses, Line, Misbehaviour, Plan};
use viewer::config::Target;

/// Watches a link as many viewers, each with a socket of its own.
#[derive(Debug, Parser)]
struct Args {
    /// The link, as the broadcaster printed it.
    link: String,
    /// How many viewers.
    #[arg(long, default_value_t = 1)]
    viewers: u32,
    /// Where they are, one after the other: a network as in 198.18.0.0/16. Any of its addresses must be
    /// one to bind to.
    #[arg(long, value_name = "NETWORK")]
    addresses: Option<Addresses>,
    /// How many begin to join in each second.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 100.0)]
    join_rate: f64,
    /// End after this time, counted from the start.
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Each leaves so long after it began to join; without, all stay until the end.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    stay: Option<Duration>,
    /// How long a missing packet is of use.
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// Lose this share of incoming datagrams before looking at them, and of feedback, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    loss: f64,
    /// Read nothing more so long after the first media packet.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    stall_after: Option<Duration>,
    /// Send so many more reports a second, each viewer.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0)]
    flood: u32,
    /// The broadcaster's log in JSON, with RUST_LOG=warn,punchcast::timing=trace: tells added latency.
    #[arg(long, value_name = "FILE")]
    timing: Option<PathBuf>,
    /// Added latency is that of packets so long after a viewer's first.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    settle: Duration,
    /// Write down the first viewer's messages: time, bytes, bytes of the longest datagram, packets.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Threads that receive.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    service::log::init(LogFormat::Text);
    let mut builder = match args.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return finish("lab-load", Err(Failure::runtime(error))),
    };
    let result = plan(args).and_then(|plan| runtime.block_on(load::run(plan, say)));
    runtime.shutdown_background();
    finish("lab-load", result)
}

fn plan(args: Args) -> Result<Plan, Failure> {
    if !(0.0..=1.0).contains(&args.loss) || args.join_rate <= 0.0 {
        return Err(Failure::usage("--loss is a share from 0 to 1, and --join-rate above 0"));
    }
    let link = args.link.parse().map_err(|error| Failure::usage(format!("bad link: {error}")))?;
    let target = Target {
        by_hand: None,
        receive_port: None,
        link,
        allow_private: false,
        port_mapping: false,
        use_relay: false,
        relay: None,
        log_format: LogFormat::Text,
    };
    let misbehaviour =
        Misbehaviour { loss: args.loss, stalls_after: args.stall_after, flood: args.flood };
    Ok(Plan {
        target,
        viewers: args.viewers,
        addresses: args.addresses,
        join_rate: args.join_rate,
        duration: args.duration,
        stay: args.stay,
        latency: args.latency,
        misbehaviour,
        timing: args.timing,
        settle: args.settle,
        record: args.record,
    })
}

/// At once, whoever reads.
fn say(line: &Line) {
    let mut out = std::io::stdout().lock();
    let line = serde_json::to_string(line).expect("numbers and texts");
    // Whoever reads may have seen enough.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
