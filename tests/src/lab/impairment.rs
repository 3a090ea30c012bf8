//! What a bad link does to packets. Pure: time and the seed are passed in, and packets come out
//! when their time has come.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// What happens to the packets of one direction of a link. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Impairment {
    /// Added to each packet.
    pub delay: Duration,
    /// Up to so much more delay, evenly spread. It never lets packets overtake each other.
    pub jitter: Duration,
    /// Standard deviation of a normal delay that is added, packet by packet: they overtake each other.
    pub scatter: Duration,
    /// Which packets get lost.
    pub loss: Loss,
    /// Which packets are held back so that later ones overtake them.
    pub reorder: Option<Reorder>,
    /// The share of packets that arrive twice, 0 to 1.
    pub duplicate: f64,
    /// The share of UDP datagrams with one bit of the payload inverted, 0 to 1. Their checksum is
    /// removed, as otherwise the receiver's kernel would drop them unseen.
    pub bit_flips: f64,
    /// How much goes through.
    pub rate: Option<Rate>,
}

impl Impairment {
    /// A fixed delay.
    pub fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// Independent loss of a share of the packets, 0 to 1.
    pub fn loss(share: f64) -> Self {
        Self { loss: Loss::Independent(share), ..Self::default() }
    }
}

/// A model of packet loss; all numbers are probabilities, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Loss {
    /// Nothing is lost.
    #[default]
    None,
    /// Each packet is lost or not, whatever happens to the others.
    Independent(f64),
    /// So many in a row, of each so many.
    Bursts {
        /// Lost.
        lost: u64,
        /// Of so many.
        each: u64,
    },
    /// Everything for some time, each so often.
    Outages {
        /// For how long.
        lasts: Duration,
        /// From the beginning of one to that of the next.
        each: Duration,
    },
    /// Loss in bursts: a link that is good or bad, and may change with each packet (Gilbert 1960,
    /// Elliott 1963). It starts good.
    GilbertElliott {
        /// That a good link turns bad, for each packet.
        to_bad: f64,
        /// That a bad link turns good, for each packet; its inverse is the mean length of a burst.
        to_good: f64,
        /// That a packet is lost while the link is good.
        loss_good: f64,
        /// That a packet is lost while the link is bad.
        loss_bad: f64,
    },
}

/// Packets held back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reorder {
    /// The share of packets, 0 to 1.
    pub share: f64,
    /// How long each of them is held.
    pub hold: Duration,
}

/// A bottleneck with a queue that drops what does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Bits per second, IP headers included.
    pub bits_per_second: u64,
    /// Bytes that may wait.
    pub queue_bytes: u64,
    /// For a while it is another one.
    pub meanwhile: Option<Meanwhile>,
}

impl Rate {
    /// A rate that stays.
    pub fn new(bits_per_second: u64, queue_bytes: u64) -> Self {
        Self { bits_per_second, queue_bytes, meanwhile: None }
    }
}

/// Another rate of a bottleneck for a while.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meanwhile {
    /// Bits per second, IP headers included.
    pub bits_per_second: u64,
    /// From when on, since the first packet.
    pub from: Duration,
    /// Until when.
    pub until: Duration,
}

/// One direction of a link at work.
#[derive(Debug)]
pub struct Direction {
    impairment: Impairment,
    rng: StdRng,
    /// Of the Gilbert-Elliott model.
    bad: bool,
    /// Packets so far, and when the first came.
    seen: u64,
    began: Option<Instant>,
    bottleneck_free_at: Option<Instant>,
    /// When the last packet that keeps its place comes out.
    last_release_at: Option<Instant>,
    accepted: u64,
    waiting: BinaryHeap<Reverse<Waiting>>,
}

/// Ordered by time, then by arrival.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    release_at: Instant,
    number: u64,
    frame: Vec<u8>,
}

/// Bytes of an Ethernet header, which a rate does not count.
const ETHERNET_HEADER: usize = 14;

impl Direction {
    /// A link direction whose chances follow from `seed`.
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            rng: StdRng::seed_from_u64(seed),
            bad: false,
            seen: 0,
            began: None,
            bottleneck_free_at: None,
            last_release_at: None,
            accepted: 0,
            waiting: BinaryHeap::new(),
        }
    }

    /// Treats later packets differently. Packets that wait already come out as planned.
    pub fn set_impairment(&mut self, impairment: Impairment) {
        self.impairment = impairment;
        self.bottleneck_free_at = None;
    }

    /// Takes an Ethernet frame. What is not IP, such as ARP, passes at once and untouched: a lost
    /// ARP reply would stall a link for a second, which no path between routers does.
    pub fn handle_frame(&mut self, now: Instant, mut frame: Vec<u8>) {
        if !is_ip(&frame) {
            self.wait(now, frame);
            return;
        }
        let Some(through_at) = self.pass_bottleneck(now, frame.len()) else {
            return;
        };
        if self.is_lost(now) {
            return;
        }
        if self.happens(self.impairment.bit_flips) {
            self.flip_bit(&mut frame);
        }
        if self.happens(self.impairment.duplicate) {
            let release_at = self.release_at(through_at);
            self.wait(release_at, frame.clone());
        }
        let release_at = self.release_at(through_at);
        self.wait(release_at, frame);
    }

    /// A frame whose time has come, earliest first.
    pub fn poll_frame(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next_release_at()? > now {
            return None;
        }
        self.waiting.pop().map(|Reverse(waiting)| waiting.frame)
    }

    /// When [`Direction::poll_frame`] will have something.
    pub fn next_release_at(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse(waiting)| waiting.release_at)
    }

    /// When the last bit is through the bottleneck, or `None` if the queue is full.
    fn pass_bottleneck(&mut self, now: Instant, frame_length: usize) -> Option<Instant> {
        let Some(rate) = self.impairment.rate else {
            return Some(now);
        };
        let began = *self.began.get_or_insert(now);
        let meanwhile = rate.meanwhile.filter(|meanwhile| {
            (meanwhile.from..meanwhile.until).contains(&now.saturating_duration_since(began))
        });
        let bits_per_second = meanwhile.map_or(rate.bits_per_second, |other| other.bits_per_second);
        let bits_per_second = bits_per_second.max(1) as f64;
        let bytes = frame_length.saturating_sub(ETHERNET_HEADER) as f64;
        let free_at = self.bottleneck_free_at.unwrap_or(now).max(now);
        let queued_bytes = (free_at - now).as_secs_f64() * bits_per_second / 8.0;
        if queued_bytes + bytes > rate.queue_bytes as f64 && free_at > now {
            return None;
        }
        let through_at = free_at + Duration::from_secs_f64(bytes * 8.0 / bits_per_second);
        self.bottleneck_free_at = Some(through_at);
        Some(through_at)
    }

    fn is_lost(&mut self, now: Instant) -> bool {
        self.seen += 1;
        let began = *self.began.get_or_insert(now);
        match self.impairment.loss {
            Loss::None => false,
            Loss::Independent(share) => self.happens(share),
            Loss::Bursts { lost, each } => self.seen % each.max(1) >= each.saturating_sub(lost),
            Loss::Outages { lasts, each } => {
                let each = each.max(Duration::from_millis(1)).as_nanos();
                let into = now.saturating_duration_since(began).as_nanos() % each;
                into >= each.saturating_sub(lasts.as_nanos())
            }
            Loss::GilbertElliott { to_bad, to_good, loss_good, loss_bad } => {
                let change = if self.bad { to_good } else { to_bad };
                self.bad ^= self.happens(change);
                self.happens(if self.bad { loss_bad } else { loss_good })
            }
        }
    }

    fn release_at(&mut self, through_at: Instant) -> Instant {
        let mut release_at = through_at + self.impairment.delay;
        if !self.impairment.jitter.is_zero() {
            release_at += self.impairment.jitter.mul_f64(self.rng.random_range(0.0..1.0));
        }
        release_at = self.last_release_at.map_or(release_at, |last| release_at.max(last));
        if let Some(Reorder { share, hold }) = self.impairment.reorder
            && self.happens(share)
        {
            return release_at + hold;
        }
        if !self.impairment.scatter.is_zero() {
            let scattered = self.normal() * self.impairment.scatter.as_secs_f64();
            let from = release_at.checked_sub(self.impairment.delay).unwrap_or(release_at);
            let delay = self.impairment.delay.as_secs_f64() + scattered;
            return from + Duration::from_secs_f64(delay.max(0.0));
        }
        self.last_release_at = Some(release_at);
        release_at
    }

    /// A standard normal variable (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        let (a, b): (f64, f64) = (self.rng.random_range(f64::EPSILON..1.0), self.rng.random());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    fn wait(&mut self, release_at: Instant, frame: Vec<u8>) {
        self.accepted += 1;
        self.waiting.push(Reverse(Waiting { release_at, number: self.accepted, frame }));
    }

    fn flip_bit(&mut self, frame: &mut [u8]) {
        let Some(udp_at) = ipv4_udp_at(frame) else {
            return;
        };
        let Some(udp) = frame.get_mut(udp_at..) else {
            return;
        };
        // UDP header: ports, length, checksum; 0 stands for no checksum (RFC 768).
        let [_, _, _, _, high, low, checksum @ ..] = udp else {
            return;
        };
        let payload_length = usize::from(u16::from_be_bytes([*high, *low])).saturating_sub(8);
        let Some((checksum, rest)) = checksum.split_at_mut_checked(2) else {
            return;
        };
        let Some(payload) = rest.get_mut(..payload_length).filter(|payload| !payload.is_empty())
        else {
            return;
        };
        let bit = self.rng.random_range(0..payload.len() * 8);
        payload[bit / 8] ^= 1 << (bit % 8);
        checksum.fill(0);
    }

    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.rng.random_bool(share.min(1.0))
    }
}

fn is_ip(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]))
}

/// Where the UDP header of an IPv4 frame starts.
fn ipv4_udp_at(frame: &[u8]) -> Option<usize> {
    let header_length = usize::from(frame.get(ETHERNET_HEADER)? & 0xf) * 4;
    let is_udp = frame.get(12..14)? == [0x08, 0x00] && *frame.get(ETHERNET_HEADER + 9)? == 17;
    is_udp.then_some(ETHERNET_HEADER + header_length)
}

#[cfg(test)]
#[path = "impairment_tests.rs"]
mod tests;
