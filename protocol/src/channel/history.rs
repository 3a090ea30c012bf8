//! The shared ring of sealed bursts: since the last keyframe, and at least for the repair window.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::seal::{PacketIndex, SealedBurst};

/// How long packets are kept for repair, whatever the keyframes do.
pub(super) const REPAIR_WINDOW: Duration = Duration::from_secs(2);

/// Most bytes kept: 10 s at 50 Mbit/s. A GOP that exceeds it is not kept whole, and viewers wait for
/// the next keyframe.
pub const MOST_BYTES: usize = 64 << 20;

/// Most packets kept: a viewer can tell the index of a packet within half a turn of its sequence
/// number (RFC 3711, section 3.3.1), and must be able to for the whole of a joining burst.
pub const MOST_PACKETS: usize = 30_000;

/// Sealed bursts of all tracks in the order in which they were published. Positions count bursts
/// since the channel began and never move.
#[derive(Debug)]
pub struct History {
    bursts: VecDeque<Kept>,
    /// Position of the front.
    first: u64,
    /// Which rendition each track is; everybody gets the others.
    of_track: Vec<Option<usize>>,
    /// What is known of each rendition; there is one at least.
    renditions: Vec<Pictures>,
    bytes: usize,
    packets: usize,
    window: Duration,
    most_bytes: usize,
}

/// The pictures of one rendition.
#[derive(Debug, Clone, Default)]
struct Pictures {
    /// Position of the last keyframe, if it is still here.
    keyframe: Option<u64>,
}

#[derive(Debug)]
struct Kept {
    burst: Arc<SealedBurst>,
    published_at: Instant,
    /// When it has left for the last of the live viewers.
    left_at: Option<Instant>,
}

impl Default for History {
    fn default() -> Self {
        Self::new(REPAIR_WINDOW, MOST_BYTES)
    }
}

impl History {
    /// A history that keeps at least `window`, and at most `most_bytes`.
    pub fn new(window: Duration, most_bytes: usize) -> Self {
        let bursts = VecDeque::new();
        Self {
            bursts,
            first: 0,
            of_track: Vec::new(),
            renditions: vec![Pictures::default()],
            bytes: 0,
            packets: 0,
            window,
            most_bytes,
        }
    }

    /// Says which rendition each track is. Before anything is kept.
    pub(super) fn set_renditions(&mut self, of_track: &[Option<usize>]) {
        let count = of_track.iter().flatten().max().map_or(1, |last| last + 1);
        self.of_track = of_track.to_vec();
        self.renditions = vec![Pictures::default(); count];
    }

    /// A rendition is not made any more: nobody joins at what there was of it.
    pub(super) fn stops(&mut self, rendition: usize) {
        if let Some(pictures) = self.renditions.get_mut(rendition) {
            pictures.keyframe = None;
        }
    }

    /// The latest burst of a track that is here.
    pub(super) fn latest_of(&self, track: usize) -> Option<&Arc<SealedBurst>> {
        self.bursts.iter().rev().map(|kept| &kept.burst).find(|burst| burst.track == track)
    }

    /// Which rendition a track is, if it is not for everybody.
    pub(super) fn rendition_of(&self, track: usize) -> Option<usize> {
        self.of_track.get(track).copied().flatten()
    }

    /// The track of a rendition.
    pub(super) fn track_of(&self, rendition: usize) -> Option<usize> {
        self.of_track.iter().position(|of| *of == Some(rendition))
    }

    /// How many renditions there are.
    pub(super) fn renditions(&self) -> usize {
        self.renditions.len()
    }

    /// Whether who watches a rendition gets what is of this track.
    pub(super) fn is_for(&self, track: usize, rendition: usize) -> bool {
        self.rendition_of(track).is_none_or(|of| of == rendition)
    }

    /// Keeps one more. What lies at or behind `needed_from` is not let go for its age.
    pub(super) fn push(&mut self, burst: Arc<SealedBurst>, needed_from: Option<u64>, now: Instant) {
        let (end, of) = (self.end(), self.rendition_of(burst.track));
        for (number, pictures) in self.renditions.iter_mut().enumerate() {
            if of.is_none_or(|of| of == number) && burst.keyframe {
                pictures.keyframe = Some(end);
            }
        }
        self.bytes += burst.bytes().len();
        self.packets += burst.len();
        self.bursts.push_back(Kept { burst, published_at: now, left_at: None });
        while let Some(front) = self.bursts.front() {
            let is_needed = |from: Option<u64>| from.is_some_and(|from| self.first >= from);
            let keyframes = self.renditions.iter().filter_map(|pictures| pictures.keyframe);
            let needed_to_join = is_needed(keyframes.min()) || is_needed(needed_from);
            let needed_to_repair = now.saturating_duration_since(front.published_at) < self.window;
            let fits = self.bytes <= self.most_bytes && self.packets <= MOST_PACKETS;
            if fits && (needed_to_join || needed_to_repair) {
                break;
            }
            self.bytes -= front.burst.bytes().len();
            self.packets -= front.burst.len();
            self.bursts.pop_front();
            self.first += 1;
        }
        for pictures in &mut self.renditions {
            pictures.keyframe = pictures.keyframe.filter(|&keyframe| keyframe >= self.first);
        }
    }

    /// Position behind the last burst.
    pub fn end(&self) -> u64 {
        self.first + self.bursts.len() as u64
    }

    /// Position of the last keyframe of a rendition; the only one is number 0.
    pub fn keyframe(&self, rendition: usize) -> Option<u64> {
        self.renditions.get(rendition).and_then(|pictures| pictures.keyframe)
    }

    /// The burst at a position; `None` when it is gone or not there yet.
    pub fn get(&self, position: u64) -> Option<&Arc<SealedBurst>> {
        let at = position.checked_sub(self.first)?;
        self.bursts.get(usize::try_from(at).ok()?).map(|kept| &kept.burst)
    }

    /// When the burst at a position was published.
    pub(super) fn published_at(&self, position: u64) -> Option<Instant> {
        let at = usize::try_from(position.checked_sub(self.first)?).ok()?;
        self.bursts.get(at).map(|kept| kept.published_at)
    }

    /// Position of the oldest burst.
    pub fn start(&self) -> u64 {
        self.first
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes from a position on, for who watches a rendition.
    pub fn bytes_since(&self, position: u64, rendition: usize) -> usize {
        let skip = position.saturating_sub(self.first) as usize;
        let behind = self.bursts.iter().skip(skip).map(|kept| &kept.burst);
        let its = behind.filter(|burst| self.is_for(burst.track, rendition));
        its.map(|burst| burst.bytes().len()).sum()
    }

    /// Index of the first packet of `track` at or behind `position`.
    pub fn first_index(&self, track: usize, position: u64) -> Option<u64> {
        let skip = position.saturating_sub(self.first) as usize;
        let mut behind = self.bursts.iter().skip(skip).map(|kept| &kept.burst);
        behind.find(|burst| burst.track == track).map(|burst| burst.first_index)
    }

    /// The kept packet of a stream with this index: its burst's position, its burst, and its number there.
    pub(super) fn find(
        &self,
        ssrc: u32,
        index: PacketIndex,
    ) -> Option<(u64, &Arc<SealedBurst>, usize)> {
        self.bursts.iter().enumerate().rev().find_map(|(number, Kept { burst, .. })| {
            let at = usize::try_from(index.checked_sub(burst.first_index)?).ok()?;
            let is_here = burst.ssrc == ssrc && at < burst.len();
            is_here.then_some((self.first + number as u64, burst, at))
        })
    }

    /// A burst has left for all live viewers, at that time.
    pub(super) fn left(&mut self, position: u64, at: Instant) {
        let number =
            position.checked_sub(self.first).and_then(|number| usize::try_from(number).ok());
        if let Some(kept) = number.and_then(|number| self.bursts.get_mut(number)) {
            kept.left_at = Some(at);
        }
    }

    /// When a burst has left for all live viewers.
    pub(super) fn left_at(&self, position: u64) -> Option<Instant> {
        let at = usize::try_from(position.checked_sub(self.first)?).ok()?;
        self.bursts.get(at)?.left_at
    }

    /// Indices of a stream's kept packets behind one, oldest first, that had left by some time.
    pub(super) fn behind(
        &self,
        ssrc: u32,
        index: PacketIndex,
        until: Instant,
    ) -> impl Iterator<Item = PacketIndex> + use<> {
        let from = index.saturating_add(1);
        let bursts = self.bursts.iter().rev().take_while(move |kept| {
            let Kept { burst, .. } = kept;
            burst.ssrc != ssrc || burst.first_index + burst.len() as u64 > from
        });
        let newest_first = bursts.filter(move |kept| {
            kept.burst.ssrc == ssrc && kept.left_at.is_some_and(|at| at <= until)
        });
        let mut ranges: Vec<_> = newest_first
            .map(|Kept { burst, .. }| {
                burst.first_index.max(from)..burst.first_index + burst.len() as u64
            })
            .collect();
        ranges.reverse();
        ranges.into_iter().flatten()
    }
}
