//! A viewer without a player: meets a link's broadcaster by the viewer's own code, and says what path
//! that took.
//!
//! Prints one JSON object a line: `{"event":"open", …}` once there is a path, `{"event":"moved", …}`
//! for each other path after it, with `--watch` `{"event":"watching", …}` once a genuine media packet
//! came, and `{"event":"end", …}` at last. Times are in milliseconds, from the introduction's arrival;
//! `total_ms` is from the start of the program.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use protocol::opening::Path;
use serde_json::{Value, json};
use service::exit::{Failure, finish};
use service::log::LogFormat;
use viewer::config::Target;
use viewer::opener::{Happening, Opener, Options};

/// Meets a link's broadcaster.
#[derive(Debug, Parser)]
struct Args {
    /// The link, as the broadcaster printed it.
    link: String,
    /// Stay for so many seconds after the path opened.
    #[arg(long, default_value_t = 0.0)]
    hold: f64,
    /// Use no relay.
    #[arg(long)]
    no_relay: bool,
    /// Ask to watch the link's channel.
    #[arg(long)]
    watch: bool,
}

fn main() -> ExitCode {
    let started_at = Instant::now();
    let args = Args::parse();
    service::log::init(LogFormat::Text);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return finish("lab-opener", Err(Failure::runtime(error))),
    };
    let result = runtime.block_on(run(args, started_at));
    runtime.shutdown_background();
    finish("lab-opener", result)
}

async fn run(args: Args, started_at: Instant) -> Result<(), Failure> {
    let link = args.link.parse().map_err(|error| Failure::usage(format!("bad link: {error}")))?;
    let target = Target {
        by_hand: None,
        receive_port: None,
        link,
        allow_private: false,
        port_mapping: true,
        use_relay: !args.no_relay,
        relay: None,
        log_format: LogFormat::Text,
    };
    let mut opener = Opener::meet(&target, Options::default()).await?;
    let mut open = told("open", opener.path(), opener.open());
    open["total_ms"] = ms(started_at.elapsed());
    say(&open);
    let staying = async {
        if args.watch {
            opener.watch(&target).await?;
        }
        loop {
            match opener.next().await? {
                Happening::Moved(path) => {
                    say(&told("moved", path, opener.since_introduction()));
                }
                Happening::Watching => say(&json!({
                    "event": "watching",
                    "after_ms": ms(opener.since_introduction()),
                    "total_ms": ms(started_at.elapsed()),
                })),
                Happening::Ended => return Ok(()),
            }
        }
    };
    let result = tokio::select! {
        result = staying => result,
        () = tokio::time::sleep(Duration::from_secs_f64(args.hold)) => Ok(()),
        _ = service::shutdown::requested() => Ok(()),
    };
    say(&json!({ "event": "end", "packets": opener.totals().received }));
    opener.close().await;
    result
}

fn told(event: &str, path: Path, after: Duration) -> Value {
    json!({
        "event": event,
        "kind": path.kind.as_str(),
        "after_ms": ms(after),
        "rtt_ms": ms(path.rtt),
        "remote": path.remote,
        "local": format!("{:?}", path.local),
    })
}

fn ms(time: Duration) -> Value {
    json!((time.as_secs_f64() * 10_000.0).round() / 10.0)
}

/// At once, whoever reads.
fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
