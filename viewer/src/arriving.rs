//! From an opened packet to the jitter buffer.

use std::time::{Duration, Instant};

use protocol::receiver::Arrived;
use protocol::reception::Verdict;
use protocol::timeline::Timeline;

use crate::bursts::Bursts;
use crate::hold::{Hold, Packet};
use crate::outage::Outage;
use crate::slots::Slots;
use crate::stats::{State, Stats};
use crate::trains::Trains;

/// How a datagram came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram {
    /// When it was taken from the kernel.
    pub(crate) at: Instant,
    pub(crate) bytes: u64,
    /// The player's running time now.
    pub(crate) running_time: Duration,
    /// Whether it came from where the broadcaster is reached.
    pub(crate) is_on_path: bool,
}

/// What is done with the packets of one datagram, or of those that waited for their key.
pub(crate) struct Arriving<'a> {
    pub(crate) now: Instant,
    /// `None` for what came earlier: it tells nothing about now.
    pub(crate) datagram: Option<Datagram>,
    pub(crate) is_limited: bool,
    pub(crate) is_stored: bool,
    pub(crate) outage: &'a mut Outage,
    pub(crate) timeline: &'a mut Timeline,
    pub(crate) slots: &'a Slots,
    pub(crate) holds: &'a mut [Hold],
    pub(crate) bursts: &'a mut Bursts,
    /// Where the picture comes in one size only, nobody wants to know.
    pub(crate) trains: Option<&'a mut Trains>,
    pub(crate) stats: &'a mut Stats,
}

impl Arriving<'_> {
    /// Takes a packet.
    pub(crate) fn take(&mut self, arrived: Arrived<'_>) {
        let Arrived { track, index, timestamp, verdict, is_newest, is_live, hole, rtp } = arrived;
        self.stats.first_packet_at.get_or_insert(self.now);
        // Where pictures are left out, a hole is none.
        let hole = if self.is_limited { 0 } else { hole };
        let is_on_path = self.datagram.is_some_and(|datagram| datagram.is_on_path);
        if is_on_path && let Some(outage) = self.outage.heard(hole, self.now) {
            let after_ms = outage.as_millis() as u64;
            tracing::info!(event = "picture_resumed", after_ms, "picture resumes");
            self.stats.reconnects += 1;
            self.stats.enter(State::Playing);
        }
        if verdict != Verdict::Fresh {
            return;
        }
        if let Some(Datagram { at, bytes, running_time, .. }) = self.datagram {
            if self.is_stored && is_newest && !is_live {
                self.bursts.arrived(bytes, hole, at);
            }
            if is_newest && let Some(trains) = &mut self.trains {
                trains.arrived((track, timestamp), rtp.len() as u64, at);
            }
            // Renditions have one clock.
            let track = self.slots.of(track);
            self.timeline.learn(track, timestamp, running_time);
            // The sender keeps the time of a stored file. Following the path would move pictures in time.
            if is_newest && is_live && !self.is_stored {
                self.timeline.observe(track, timestamp, running_time);
            }
        }
        if let Some(hold) = self.holds.get_mut(track) {
            hold.add(Packet { index, timestamp, bytes: rtp.to_vec() });
        }
    }
}
