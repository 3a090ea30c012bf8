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

/// How often each is fetched to see how long that takes.
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
    let (mut alone_ms, mut look_ms) = (Samples::default(), Samples::default());
    for _ in 0..extent.repetitions {
        let alone = cpu(&broadcast, Duration::from_secs_f64(extent.seconds), None)?;
        // One look after the other, so that what they cost stands out; what the stream takes meanwhile is
        // known.
        let looks = cpu(&broadcast, Duration::from_secs_f64(extent.seconds), Some(FETCHES))?;
        let rest = alone.per_second() * looks.lasted.as_secs_f64();
        alone_ms.add(alone.per_second() * 1e3);
        look_ms.add((looks.cpu.as_secs_f64() - rest) * 1e3 / looks.looks as f64);
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
        alone_ms: (&alone_ms).into(),
        look_ms: (&look_ms).into(),
    })
}

/// What the broadcaster used of its processor in a while.
struct Used {
    cpu: Duration,
    lasted: Duration,
    looks: usize,
}

impl Used {
    /// Seconds of processor time for each second.
    fn per_second(&self) -> f64 {
        self.cpu.as_secs_f64() / self.lasted.as_secs_f64()
    }
}

/// Measures for so long, looking at the broadcaster not at all, or so often, evenly.
fn cpu(broadcast: &Broadcast, time: Duration, looks: Option<usize>) -> Result<Used> {
    let (before, began) = (broadcast.cpu()?, Instant::now());
    let count = looks.unwrap_or(0) * 10;
    for look in 1..=count {
        broadcast.fetch("/metrics")?;
        broadcast.fetch("/api/status")?;
        let due = began + time.mul_f64(look as f64 / count as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    std::thread::sleep((began + time).saturating_duration_since(Instant::now()));
    Ok(Used { cpu: broadcast.cpu()? - before, lasted: began.elapsed(), looks: count })
}
