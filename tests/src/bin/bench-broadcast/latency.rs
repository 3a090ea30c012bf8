//! What viewers get: added latency, what joining takes, and how little the others matter.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::load::{Clip, Percentiles, Summary};

use crate::broadcast::Broadcast;
use crate::crowd::{self, Crowd};
use crate::network::{MORE_VIEWERS, Network, VIEWERS};
use crate::report::{IsolationRow, LatencyRow, Storm};
use crate::round::JOIN_RATE;
use crate::{Extent, progress};

/// Audiences whose latency is measured.
const AUDIENCES: [u32; 2] = [100, 1000];

/// Of the storm: who watches, and for how many seconds [`JOIN_RATE`] others come.
const WATCHING: u32 = 100;
const STORM_SECONDS: u32 = 5;

/// Of the isolation: those who behave.
const GOOD: u32 = 46;

/// For all to come, and the joining bursts to be over.
const COMING: Duration = Duration::from_secs(30);

/// A broadcast whose access units are logged, on a veth pair that loses nothing.
fn broadcast(network: &Network, folder: &Path) -> Result<Broadcast> {
    network.set_offload(true)?;
    network.drop_media(false)?;
    let clip = Clip::default().make(folder)?;
    let broadcast = Broadcast::start(folder, &clip, true)?;
    broadcast.scraped_for(Duration::from_secs(1))?;
    Ok(broadcast)
}

/// Viewers whose latency is measured, all of them watching.
fn watching(network: &Network, broadcast: &Broadcast, viewers: u32) -> Result<Crowd> {
    let flags = crowd::flags(viewers, VIEWERS, JOIN_RATE);
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(["--timing", crowd::text(&broadcast.log)?]);
    let mut crowd = Crowd::start(network, &broadcast.link, &flags)?;
    crowd.wait_for("all there", COMING, |now| now.watching + now.failed == viewers)?;
    broadcast.wait_until_joined()?;
    Ok(crowd)
}

fn latency(summary: &Summary) -> Result<Percentiles> {
    summary.latency.context("the load process told no latency")
}

pub(crate) fn measure(network: &Network, folder: &Path, extent: Extent) -> Result<Vec<LatencyRow>> {
    let mut rows = Vec::new();
    for full in AUDIENCES {
        let viewers = extent.viewers(full);
        progress(&format!("latency: {viewers} viewers"));
        let broadcast = broadcast(network, folder)?;
        let crowd = watching(network, &broadcast, viewers)?;
        // What is counted begins two seconds after each viewer's first packet.
        broadcast.scraped_for(Duration::from_secs_f64(extent.seconds + 2.0))?;
        let summary = crowd.stop()?;
        ensure!(summary.failures.is_empty(), "viewers failed: {:?}", summary.failures);
        let added = latency(&summary)?;
        rows.push(LatencyRow { viewers, lost: summary.counts.lost, added });
    }
    Ok(rows)
}

pub(crate) fn storm(network: &Network, folder: &Path, extent: Extent) -> Result<Storm> {
    let (watchers, joiners) = (extent.viewers(WATCHING), extent.viewers(STORM_SECONDS * JOIN_RATE));
    let join_rate = if extent.quick { JOIN_RATE / 10 } else { JOIN_RATE };
    progress(&format!("storm: {joiners} come while {watchers} watch"));
    let broadcast = broadcast(network, folder)?;
    let crowd = watching(network, &broadcast, watchers)?;
    broadcast.scraped_for(Duration::from_secs(3))?;
    let flags = crowd::flags(joiners, MORE_VIEWERS, join_rate);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut coming = Crowd::start(network, &broadcast.link, &flags)?;
    coming.wait_for("all there", COMING, |now| now.watching + now.failed == joiners)?;
    broadcast.scraped_for(Duration::from_secs(2))?;
    let watched = crowd.stop()?;
    let came = coming.stop()?;
    Ok(Storm {
        watching: watchers,
        joining: joiners,
        joins_per_second: join_rate,
        failed: came.counts.failed,
        failures: came.failures.clone(),
        join: came.join,
        open_to_media: came.open_to_media,
        watchers_lost: watched.counts.lost,
        watchers_added: latency(&watched)?,
    })
}

pub(crate) fn isolation(
    network: &Network,
    folder: &Path,
    extent: Extent,
) -> Result<Vec<IsolationRow>> {
    let viewers = if extent.quick { 5 } else { GOOD };
    let bad: [(&str, &[&str]); 4] = [
        ("lossy", &["--loss", "0.5"]),
        ("stalled", &["--stall-after", "1s"]),
        ("flooding", &["--flood", "10000"]),
        ("stopped", &[]),
    ];
    let mut rows = Vec::new();
    for misbehave in [false, true] {
        progress(&format!("isolation: {viewers} viewers, others misbehave: {misbehave}"));
        let broadcast = broadcast(network, folder)?;
        let mut others = Vec::new();
        for (number, (name, flags)) in bad.iter().enumerate().filter(|_| misbehave) {
            // A network of its own for each, within that for others.
            let network_of_one = format!("198.19.{number}.0/24");
            let all = crowd::flags(1, &network_of_one, 1);
            let all: Vec<&str> =
                all.iter().map(String::as_str).chain(flags.iter().copied()).collect();
            let mut one = Crowd::start(network, &broadcast.link, &all)?;
            one.wait_for("there", COMING, |now| now.watching == 1).context(*name)?;
            if *name == "stopped" {
                one.freeze()?;
            }
            others.push(one);
        }
        let crowd = watching(network, &broadcast, viewers)?;
        broadcast.scraped_for(Duration::from_secs_f64(extent.seconds + 2.0))?;
        let summary = crowd.stop()?;
        ensure!(summary.failures.is_empty(), "viewers failed: {:?}", summary.failures);
        let misbehaving = others.len();
        let added = latency(&summary)?;
        rows.push(IsolationRow { viewers, misbehaving, lost: summary.counts.lost, added });
    }
    Ok(rows)
}
