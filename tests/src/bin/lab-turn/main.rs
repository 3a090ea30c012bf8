//! Both ends of TURN, for trying a relay out in the lab.
//!
//! - `serve CONFIG METRICS NAME…` runs a rendezvous with this configuration, and prints credentials of its
//!   relay for each name: `good NAME USERNAME PASSWORD`, and the same with `expired`; then `ready`.
//! - `probe SERVER USERNAME PASSWORD STEP…` sends one request after the other by hand, and prints each
//!   step and the error code of its answer, or 0; see [`probe`] for the steps.
//! - `carry SERVER USERNAME PASSWORD PEER PINGS` uses our own client: prints `relayed ADDRESS`, sends
//!   pings to PEER through the relay until so many are answered, then `pinged`, and from then on
//!   `got SOURCE LENGTH` for each datagram. On SIGTERM it frees the relayed address.

mod carry;
mod probe;

use std::env;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use rendezvous::{Args, Config, Directory, Server};
use tokio::signal::unix::{SignalKind, signal};

/// How old the credentials are that have expired.
const LONG_AGO: Duration = Duration::from_secs(24 * 3600);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match &words[..] {
        ["serve", config, metrics, names @ ..] => {
            runtime.block_on(serve(Path::new(config), metrics, names))
        }
        ["probe", server, username, password, steps @ ..] => {
            probe::run(server.parse()?, username, password, steps)
        }
        ["carry", server, username, password, peer, pings] => {
            let peer = peer.parse()?;
            runtime.block_on(carry::run(server.parse()?, username, password, peer, pings.parse()?))
        }
        _ => bail!("unknown arguments {words:?}"),
    }
}

async fn serve(config: &Path, metrics: &str, names: &[&str]) -> anyhow::Result<()> {
    let args = Args { config: Some(config.to_owned()), ..Args::default() };
    let config = Config::load(args)?;
    let server = Server::start(&config, Arc::new(Directory::default()))?;
    server.serve_metrics(metrics.parse()?).await?;
    let relay = server.relay().context("there is no relay")?;
    for name in names {
        let now = SystemTime::now();
        for (kind, at) in [("good", now), ("expired", now - LONG_AGO)] {
            let offer = relay.credentials(name, at);
            println!("{kind} {name} {} {}", offer.username, offer.password);
        }
    }
    println!("ready");
    terminated().await?;
    server.stop().await;
    Ok(())
}

async fn terminated() -> anyhow::Result<()> {
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}
