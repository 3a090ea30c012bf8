//! What it costs a broadcaster to be looked at: by Prometheus, and by a status page.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::bench::Samples;
use tests::load::Clip;

use crate::broadcast::Broadcast;
use crate::crowd::{self, Crowd};
use crate::network::{Network, VIEWERS};
use crate::report::Observed;
use crate::round::JOIN_RATE;
use crate::{Extent, progress};

/// Who watches.
const AUDIENCE: u32 = 1000;

/// For all to come.
const COMING: Duration = Duration::from_secs(30);

/// How often it is looked at, a Prometheus and a page each: five times as often as Prometheus is told to.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often a page alone, or the metrics alone, are fetched to see how long that takes.
const FETCHES: usize = 50;

pub(crate) fn measure(network: &Network, folder: &Path, extent: Extent) -> Result<Observed> {
    let viewers = extent.viewers(AUDIENCE);
    progress(&format!("observed: {viewers} viewers"));
    network.set_offload(true)?;
    network.drop_media(false)?;
    let clip = Clip::default().make(folder)?;
    let broadcast = Broadcast::start(folder, &clip, false)?;
    let flags = crowd::flags(viewers, VIEWERS, JOIN_RATE);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut crowd = Crowd::start(network, &broadcast.link, &flags)?;
    crowd.wait_for("all there", COMING, |now| now.watching + now.failed == viewers)?;
    broadcast.wait_until_joined()?;
    std::thread::sleep(Duration::from_secs(3));
    let mut to_alone = Samples::default();
    for repetition in 0..extent.repetitions {
        // Whatever drifts counts for both alike.
        let mut costs = [0.0; 2];
        let orders = [[false, true], [true, false]];
        for is_observed in orders[repetition as usize % 2] {
            costs[usize::from(is_observed)] = cost(&broadcast, is_observed, extent.seconds)?;
        }
        to_alone.add(costs[1] / costs[0]);
    }
    let (mut scrape_ms, mut status_ms) = (Samples::default(), Samples::default());
    let (mut series, mut status_bytes) = (0, 0);
    for _ in 0..FETCHES {
        let began = Instant::now();
        let metrics = broadcast.fetch("/metrics")?;
        scrape_ms.add(began.elapsed().as_secs_f64() * 1e3);
        series = metrics.lines().filter(|line| line.starts_with("p") && line.contains(' ')).count();
        let began = Instant::now();
        status_bytes = broadcast.fetch("/api/status")?.len();
        status_ms.add(began.elapsed().as_secs_f64() * 1e3);
    }
    let summary = crowd.stop()?;
    ensure!(summary.failures.is_empty(), "viewers failed: {:?}", summary.failures);
    Ok(Observed {
        viewers,
        series,
        scrape_ms: (&scrape_ms).into(),
        status_bytes,
        status_ms: (&status_ms).into(),
        to_alone: (&to_alone).into(),
    })
}

/// Microseconds of processor time for each packet.
fn cost(broadcast: &Broadcast, is_observed: bool, seconds: f64) -> Result<f64> {
    let before = broadcast.usage()?;
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < until {
        std::thread::sleep(until.saturating_duration_since(Instant::now()).min(INTERVAL));
        if is_observed {
            broadcast.fetch("/metrics")?;
            broadcast.fetch("/api/status")?;
        }
    }
    let after = broadcast.usage()?;
    let packets = after.packets - before.packets;
    ensure!(packets > 0, "nothing was sent");
    Ok((after.cpu - before.cpu).as_secs_f64() * 1e6 / packets as f64)
}
