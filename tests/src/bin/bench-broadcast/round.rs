//! One measurement: a broadcast to so many viewers, and the bare loop to the same sockets after it.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use tests::load::Clip;

use crate::bare;
use crate::broadcast::Broadcast;
use crate::crowd::{self, Crowd};
use crate::network::{Network, VIEWERS};

/// Viewers that join in each second.
pub(crate) const JOIN_RATE: u32 = 200;

/// Those whose cost is measured take their time.
const CALM_RATE: u32 = JOIN_RATE / 2;

/// From when all watch until the measurement begins: joining bursts and the last words with the
/// rendezvous are over.
const SETTLING: Duration = Duration::from_secs(4);

/// For a broadcast to be under way, and for what it costs with nobody there.
const STARTING: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(4);

/// How often a round is tried until one is not void.
const TRIES: u32 = 3;

/// What is measured, of which kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub(crate) viewers: u32,
    pub(crate) clip: Clip,
    /// Whether the interface takes messages of several datagrams whole.
    pub(crate) offload: bool,
    /// Whether viewers' media ends at the far interface.
    pub(crate) drops_media: bool,
    pub(crate) seconds: f64,
}

/// What it came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// The broadcaster's processor time for one packet to one viewer, in microseconds.
    pub(crate) broadcaster_us: f64,
    /// What of it viewers cost: without what the broadcast takes when nobody watches.
    pub(crate) marginal_us: f64,
    /// The bare loop's.
    pub(crate) bare_us: f64,
    /// Packets to each viewer in a second.
    pub(crate) packets_per_second: f64,
    /// The broadcaster's resident memory for each viewer, in bytes.
    pub(crate) resident: f64,
    /// Tries before this one of which a packet was lost, or something else went wrong.
    pub(crate) void: u32,
}

impl Round {
    /// Does it, and again where a packet was lost on the way: such a result would be void.
    ///
    /// # Errors
    ///
    /// Where that happens each time.
    pub(crate) fn measure(&self, network: &Network, folder: &Path) -> Result<Measured> {
        let mut void = 0;
        loop {
            match self.try_measure(network, folder) {
                Ok(measured) => return Ok(Measured { void, ..measured }),
                Err(error) if void + 1 < TRIES => {
                    void += 1;
                    eprintln!("{self:?}, once more: {error:#}");
                }
                Err(error) => return Err(error.context(format!("{self:?}"))),
            }
        }
    }

    fn try_measure(&self, network: &Network, folder: &Path) -> Result<Measured> {
        let clip = self.clip.make(folder)?;
        network.set_offload(true)?;
        network.drop_media(self.drops_media)?;
        let broadcast = Broadcast::start(folder, &clip, false)?;
        broadcast.scraped_for(STARTING)?;
        let idle = broadcast.usage()?.cpu;
        broadcast.scraped_for(IDLE)?;
        let idle = (broadcast.usage()?.cpu - idle).as_secs_f64() / IDLE.as_secs_f64();
        let alone = broadcast.resident()?;
        let record = folder.join("record");
        let flags = crowd::flags(self.viewers, VIEWERS, CALM_RATE);
        let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        flags.extend(["--record", crowd::text(&record)?]);
        let mut crowd = Crowd::start(network, &broadcast.link, &flags)?;
        let joining = Duration::from_secs(u64::from(self.viewers / CALM_RATE) * 3 + 20);
        crowd.wait_for("all there", joining, |now| {
            now.failed > 0
                || now.watching == self.viewers
                || (self.drops_media && now.admitted == self.viewers)
        })?;
        broadcast.wait_until_joined()?;
        network.set_offload(self.offload)?;
        broadcast.scraped_for(SETTLING)?;

        let overflowed = network.overflowed()?;
        // Up to a second old: what was lost since counts as lost in the measurement.
        let lost = crowd.now().lost;
        let (from, used) = (now_us()?, broadcast.usage()?);
        broadcast.scraped_for(Duration::from_secs_f64(self.seconds))?;
        let (to, used_then) = (now_us()?, broadcast.usage()?);
        let resident = broadcast.resident()?.saturating_sub(alone);
        let (failed, lost_then) = (crowd.now().failed, crowd.now().lost);
        broadcast.stop()?;
        let messages = bare::messages(&record, from, to, !self.offload)?;
        let arrived = network.arrived()?;
        let bare = bare::run(folder, &messages, self.viewers, VIEWERS)?;
        let arrived = network.arrived()? - arrived;
        let overflowed = network.overflowed()? - overflowed;
        let summary = crowd.stop()?;

        // Those that were not told in time that the broadcast is over fail once it is.
        ensure!(failed == 0, "{failed} viewers failed: {:?}", summary.failures);
        ensure!(overflowed == 0, "{overflowed} datagrams found no room at their viewers: void");
        let lost = lost_then - lost;
        ensure!(self.drops_media || lost == 0, "{lost} packets were lost: void");
        ensure!(
            arrived >= bare.bytes,
            "{arrived} of the bare loop's {} bytes came: void",
            bare.bytes
        );
        let packets = (used_then.packets - used.packets) as f64;
        let sent_us = (used_then.cpu - used.cpu).as_secs_f64() * 1e6;
        // What the first viewer recorded is what all were sent.
        let alike = bare.packets as f64 / packets;
        ensure!((0.98..1.02).contains(&alike), "the bare loop sent {alike:.3} times as much: void");
        Ok(Measured {
            broadcaster_us: sent_us / packets,
            marginal_us: (sent_us - idle * 1e6 * self.seconds) / packets,
            bare_us: bare.cpu_us / bare.packets as f64,
            packets_per_second: packets / f64::from(self.viewers) / self.seconds,
            resident: resident as f64 / f64::from(self.viewers),
            void: 0,
        })
    }
}

/// Now, in microseconds since 1970.
fn now_us() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64)
}
