//! The viewers: real receivers that count what they get and throw it away.

mod gstreamer_sources;
mod udp;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::kind::Kind;
use crate::talk::{self, Received};

/// How long viewers may take to get their first packet.
const LONGEST_JOINING: Duration = Duration::from_secs(50);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// From whom is received.
    kind: Kind,
    /// How many viewers there are.
    #[arg(long)]
    viewers: usize,
    /// Address that the sender is reached at.
    #[arg(long)]
    near: Ipv4Addr,
    /// Address of the first viewer of multiudpsink; the others have the addresses behind it.
    #[arg(long)]
    far: Ipv4Addr,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let counters = Counters::new(args.viewers);
    match args.kind {
        // Nobody tells the sender that somebody listens, so that nothing comes yet.
        Kind::Multiudpsink => {
            udp::start(args.far, &counters)?;
            counters.answer()
        }
        Kind::Srtsink | Kind::SrtsinkEncrypted | Kind::Webrtcsink => {
            let pipeline = gstreamer_sources::start(args.kind, args.near, &counters)?;
            counters.wait_for_all()?;
            counters.answer()?;
            gstreamer_sources::stop(&pipeline)
        }
    }
}

/// Packets that each viewer got.
#[derive(Debug, Clone)]
struct Counters(Arc<[AtomicU64]>);

impl Counters {
    fn new(viewers: usize) -> Self {
        Self((0..viewers).map(|_| AtomicU64::new(0)).collect())
    }

    fn viewers(&self) -> usize {
        self.0.len()
    }

    fn add(&self, viewer: usize, packets: u64) {
        self.0[viewer].fetch_add(packets, Ordering::Relaxed);
    }

    fn now(&self) -> Vec<u64> {
        self.0.iter().map(|packets| packets.load(Ordering::Relaxed)).collect()
    }

    /// Until each viewer got something.
    fn wait_for_all(&self) -> Result<()> {
        let deadline = Instant::now() + LONGEST_JOINING;
        while self.now().contains(&0) {
            let served = self.now().iter().filter(|packets| **packets > 0).count();
            let all = self.viewers();
            ensure!(Instant::now() < deadline, "only {served} of {all} viewers got something");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn answer(&self) -> Result<()> {
        let mut before = vec![0; self.viewers()];
        talk::answer(|_| {
            let now = self.now();
            let viewers =
                now.iter().zip(&before).filter(|(now, before)| now > before).count() as u64;
            let packets = now.iter().sum();
            before = now;
            Ok(Received { packets, viewers })
        })
    }
}
