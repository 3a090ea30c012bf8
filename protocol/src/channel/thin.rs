//! A viewer whose path does not carry the stream: it is sent less, at its own pace.
//!
//! It leaves the live viewers, and walks through the history behind them, at the rate that its path carries.
//! When it falls too far behind, pictures are left out that no other needs; then, as all others do need the
//! one before, the rest of the GOP. Sound goes on. What is left out is told, or the viewer would take it for
//! lost and ask for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ViewerId;
use super::history::History;
use crate::control::LeftOut;
use crate::pacing::Pacer;
use crate::seal::{PacketIndex, SealedBurst};
use crate::units::Bitrate;
use crate::volley::Part;

/// How far behind the live edge it may fall before pictures are left out. Less would leave the path idle: a
/// keyframe alone takes longer than a picture's time.
pub const MOST_LAG: Duration = Duration::from_millis(900);

/// Pictures that no other needs are left out from here on.
const DISPOSABLE_LAG: Duration = Duration::from_millis(150);

/// Packets at once: where the queue is nearly full, most of a larger chunk would get lost.
const FEW: usize = 4;

/// Share of the rate that repair has at least.
const REPAIR_SHARE: f64 = 0.1;

/// Ranges that are remembered as left out, at most.
const MOST_RANGES: usize = 256;

#[derive(Debug)]
pub(super) struct Thinned {
    pub(super) viewer: ViewerId,
    /// Which rendition it is sent, and the place from which on it is another one.
    rendition: usize,
    upcoming: Option<(u64, usize)>,
    /// What its path carries; `None` once that is everything again.
    rate: Option<Bitrate>,
    pacer: Pacer,
    /// Next burst and packet.
    next: (u64, usize),
    /// Whether pictures are left out until the next keyframe.
    skips: bool,
    /// Index behind the last packet of each track that it was sent, or not, by SSRC.
    reached: BTreeMap<u32, PacketIndex>,
    /// What was left out, oldest first; the last ones were not told yet.
    left_out: VecDeque<LeftOut>,
    untold: usize,
}

impl Thinned {
    pub(super) fn new(
        (viewer, rendition): (ViewerId, usize),
        rate: Bitrate,
        next: (u64, usize),
        reached: BTreeMap<u32, PacketIndex>,
    ) -> Self {
        Self {
            viewer,
            rendition,
            upcoming: None,
            rate: Some(rate),
            pacer: Pacer::default(),
            next,
            skips: false,
            reached,
            left_out: VecDeque::new(),
            untold: 0,
        }
    }

    pub(super) fn set_rate(&mut self, rate: Option<Bitrate>) {
        // Pictures go on at a keyframe only, once there was a pause.
        self.skips |= rate.is_some_and(is_nothing);
        self.rate = rate;
    }

    /// It goes on with another rendition, whose keyframe with this SSRC and index lies at this place: no more pictures
    /// of the one before it are sent. Returns the index behind its last packet, and what was left out of it and not
    /// told.
    pub(super) fn switch(
        &mut self,
        history: &History,
        (rendition, position): (usize, u64),
        (ssrc, first): (u32, PacketIndex),
        before: u32,
    ) -> (Option<PacketIndex>, Vec<LeftOut>) {
        let of = |burst: &Arc<SealedBurst>| history.rendition_of(burst.track);
        if history.get(self.next.0).and_then(of).is_some() {
            // The rest of a picture is no use without the rest of its GOP.
            self.next = (self.next.0 + u64::from(self.next.1 > 0), 0);
        }
        self.upcoming = Some((position, rendition));
        self.skips = false;
        self.reached.insert(ssrc, first);
        (self.reached.get(&before).copied(), self.told())
    }

    /// What repair for it may take, where it needs such a share of the media.
    pub(super) fn repair_rate(&self, repair: f64) -> Option<Bitrate> {
        self.rate.map(|rate| rate.scaled(1.0 - media_share(repair)))
    }

    /// Whether it has everything, and may have everything.
    pub(super) fn has_caught_up(&self, history: &History) -> bool {
        self.rate.is_none() && !self.skips && self.next.0 >= history.end()
    }

    /// Whether it was sent a packet of the history.
    pub(super) fn has_sent(&self, position: u64, burst: &SealedBurst, packet: usize) -> bool {
        let index = burst.first_index + packet as u64;
        let is_left_out =
            |range: &LeftOut| range.ssrc == burst.ssrc && range.packets().contains(&index);
        (position, packet) < self.next && !self.left_out.iter().any(is_left_out)
    }

    pub(super) fn is_due(&self, history: &History, now: Instant) -> bool {
        self.waits(history) && self.pacer.is_due(now)
    }

    fn waits(&self, history: &History) -> bool {
        self.next.0 < history.end() && !self.rate.is_some_and(is_nothing)
    }

    pub(super) fn wakes_at(&self, history: &History) -> Option<Instant> {
        self.waits(history)
            .then(|| self.pacer.due_at().or_else(|| history.published_at(self.next.0)))
            .flatten()
    }

    /// The next packets, and what is left out in front of them. Both may be empty. A viewer that may have
    /// everything again catches up at the rate `unlimited`; repair takes such a share of the media.
    pub(super) fn next_packets(
        &mut self,
        history: &History,
        is_sound: &[bool],
        (unlimited, repair): (Bitrate, f64),
        now: Instant,
    ) -> (Vec<Part>, Vec<LeftOut>) {
        let mut parts: Vec<Part> = Vec::new();
        if self.next.0 < history.start() {
            // Slower than the history is long: whatever is gone was left out.
            self.next = (history.start(), 0);
            self.skips = true;
        }
        let mut room = FEW;
        while let Some(burst) = history.get(self.next.0).filter(|_| room > 0) {
            let (position, packet) = self.next;
            if let Some((from, rendition)) = self.upcoming
                && position >= from
            {
                (self.rendition, self.upcoming) = (rendition, None);
            }
            let of = history.rendition_of(burst.track);
            if of.is_some_and(|of| of != self.rendition || self.upcoming.is_some()) {
                self.next = (position + 1, 0);
                continue;
            }
            if packet == 0 {
                let (first, behind) = (burst.first_index, burst.first_index + burst.len() as u64);
                let reached = self.reached.get(&burst.ssrc).copied().unwrap_or(first);
                self.note(burst.ssrc, reached, first);
                if self.leaves_out(position, burst, history, is_sound, now) {
                    self.note(burst.ssrc, first, behind);
                    self.reached.insert(burst.ssrc, behind);
                    self.next = (position + 1, 0);
                    continue;
                }
            }
            let end = burst.len().min(packet + room);
            room -= end - packet;
            self.reached.insert(burst.ssrc, burst.first_index + end as u64);
            if packet < end {
                parts.push(Part { burst: Arc::clone(burst), packets: packet..end });
            }
            self.next = if end == burst.len() { (position + 1, 0) } else { (position, end) };
        }
        if !parts.is_empty() {
            let bytes = parts.iter().map(Part::len).sum();
            let rate = self.rate.map_or(unlimited, |rate| rate.scaled(media_share(repair)));
            self.pacer.spend(bytes, rate, now);
        }
        (parts, self.told())
    }

    fn leaves_out(
        &mut self,
        position: u64,
        burst: &SealedBurst,
        history: &History,
        is_sound: &[bool],
        now: Instant,
    ) -> bool {
        if is_sound.get(burst.track).copied().unwrap_or(false) {
            // Where there are no pictures, any sound is a place to go on.
            self.skips &= !burst.keyframe;
            return false;
        }
        let published_at = history.published_at(position).unwrap_or(now);
        let lag = now.saturating_duration_since(published_at);
        if burst.keyframe {
            // A later one is better than one that comes late.
            self.skips = lag > MOST_LAG && history.keyframe(self.rendition) > Some(position);
        } else if burst.disposable && !self.skips {
            return lag > DISPOSABLE_LAG;
        } else if lag > MOST_LAG {
            self.skips = true;
        }
        self.skips
    }

    /// Notes that packets are left out.
    fn note(&mut self, ssrc: u32, first: PacketIndex, end: PacketIndex) {
        let count = end.saturating_sub(first) as u32;
        if count == 0 {
            return;
        }
        let open = self.left_out.len() - self.untold;
        let mut untold = self.left_out.range_mut(open..);
        match untold.find(|range| range.ssrc == ssrc && range.packets().end == first) {
            Some(range) => range.count += count,
            None => {
                self.left_out.push_back(LeftOut { ssrc, first, count });
                self.untold += 1;
            }
        }
        while self.left_out.len() > MOST_RANGES {
            self.left_out.pop_front();
            self.untold = self.untold.min(self.left_out.len());
        }
    }

    /// What was left out and not told yet: not before pictures go on, so that one word is enough.
    fn told(&mut self) -> Vec<LeftOut> {
        if self.skips {
            return Vec::new();
        }
        let open = self.left_out.len() - std::mem::take(&mut self.untold);
        self.left_out.range(open..).cloned().collect()
    }
}

/// The share of a rate that media may take, where repair needs such a share of the media.
fn media_share(repair: f64) -> f64 {
    (1.0 / (1.0 + repair)).min(1.0 - REPAIR_SHARE)
}

fn is_nothing(rate: Bitrate) -> bool {
    rate.as_bits_per_second() == 0
}
