//! What other ways of sending the same stream cost, over the same veth pair, with real receivers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tests::bench::namespaces::output;
use tests::bench::{Samples, Spread};

use crate::network::{NEAR, Network};
use crate::report::PeerRow;
use crate::{Extent, progress};

/// Kind, viewers, and pictures a second: what each of them carries on two cores in real time.
const PEERS: [(&str, u32, u32); 4] = [
    ("multiudpsink", 1000, 5),
    ("srtsink", 40, 30),
    ("srtsink-encrypted", 40, 30),
    ("webrtcsink", 30, 30),
];

/// The first viewer's address, of as many as there are viewers.
const FIRST_VIEWER: &str = "198.18.1.1";

/// What `bench-peer` prints.
#[derive(Debug, Deserialize)]
struct Measured {
    cpu_us_per_packet: f64,
    viewers_served: u32,
}

/// What could be measured; the rest is entered in `missing`.
pub(crate) fn measure(
    network: &Network,
    extent: Extent,
    missing: &mut Vec<String>,
) -> Vec<PeerRow> {
    let mut samples: BTreeMap<(bool, usize), Samples> = BTreeMap::new();
    for repetition in 1..=extent.repetitions {
        for offload in [true, false] {
            for (at, (kind, viewers, rate)) in PEERS.into_iter().enumerate() {
                progress(&format!("{kind}, {repetition} of {}", extent.repetitions));
                let viewers = extent.viewers(viewers);
                let measured = network
                    .set_offload(offload)
                    .and_then(|()| network.drop_media(false))
                    .and_then(|()| run(kind, viewers, rate, extent.seconds));
                match measured {
                    Ok(cost) => {
                        progress(&format!("… {cost:.2} µs a packet"));
                        samples.entry((offload, at)).or_default().add(cost);
                    }
                    Err(error) => {
                        progress(&format!("… {error:#}"));
                        missing.push(format!("{kind}: {error:#}"));
                    }
                }
            }
        }
    }
    let rows = samples.into_iter().map(|((offload, at), samples)| {
        let (peer, viewers, _) = PEERS[at];
        let viewers = extent.viewers(viewers);
        PeerRow { peer, viewers, offload, cpu_us_per_packet: Spread::from(&samples) }
    });
    rows.collect()
}

/// One measurement: µs of the sender's processor for a delivered packet.
fn run(kind: &str, viewers: u32, rate: u32, seconds: f64) -> Result<f64> {
    let built = built("peers/release/bench-peer")?;
    let stream = built_stream()?;
    let mut command = Command::new(built);
    command.args(["run", kind, "--viewers", &viewers.to_string(), "--rate", &rate.to_string()]);
    command.arg("--stream").arg(stream).args(["--seconds", &seconds.ceil().to_string()]);
    command.args(["--near", &NEAR.to_string(), "--far", FIRST_VIEWER, "--far-namespace", "far"]);
    let printed = output(kind, &mut command)?;
    let measured: Measured = serde_json::from_str(&printed)
        .with_context(|| format!("bench-peer printed '{printed}'"))?;
    ensure!(
        measured.viewers_served == viewers,
        "only {} of {viewers} viewers were served",
        measured.viewers_served
    );
    Ok(measured.cpu_us_per_packet)
}

fn built_stream() -> Result<PathBuf> {
    built("bench/stream.h264")
}

/// What scripts/bench-peers.sh left in the target folder, whose profile this program lies in.
fn built(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    let target = own.ancestors().nth(2).context("this program lies in no target folder")?;
    let path = target.join(name);
    ensure!(path.exists(), "{} is not there: run scripts/bench-peers.sh", path.display());
    Ok(path)
}
