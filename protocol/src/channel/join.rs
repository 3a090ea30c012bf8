//! A viewer on its way to the live edge.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ViewerId;
use super::history::History;
use super::repairs::JOINING;
use crate::pacing::Pacer;
use crate::schedule::CHUNK;
use crate::volley::Part;

/// Where in the history viewers began of late. What lies behind is kept though a newer keyframe is there: else
/// whoever joins shortly before one would never get the rest, nor what it lost of the beginning.
#[derive(Debug, Default)]
pub(super) struct Beginnings(VecDeque<(u64, Instant)>);

impl Beginnings {
    /// A viewer begins at this position.
    pub(super) fn note(&mut self, position: u64, now: Instant) {
        let until = now + JOINING;
        match self.0.back_mut() {
            Some((last, needed_until)) if *last == position => *needed_until = until,
            _ => self.0.push_back((position, until)),
        }
    }

    /// The oldest position that is still needed.
    pub(super) fn oldest(&mut self, now: Instant) -> Option<u64> {
        while self.0.front().is_some_and(|(_, until)| *until <= now) {
            self.0.pop_front();
        }
        // Of several renditions one may have begun before the other that a viewer joined first.
        self.0.iter().map(|(position, _)| *position).min()
    }
}

#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) viewer: ViewerId,
    /// Which rendition it is sent.
    pub(super) rendition: usize,
    pub(super) pacer: Pacer,
    /// Next burst and packet; `None` while waiting for a keyframe.
    next: Option<(u64, usize)>,
    /// Whether the viewer was told where it begins.
    is_told: bool,
    joined_at: Instant,
    patience_ends: Instant,
}

impl Joiner {
    pub(super) fn new(
        (viewer, rendition): (ViewerId, usize),
        start: Option<u64>,
        joined_at: Instant,
        patience: Duration,
    ) -> Self {
        let next = start.map(|start| (start, 0));
        let (is_told, patience_ends) = (start.is_some(), joined_at + patience);
        let pacer = Pacer::default();
        Self { viewer, rendition, pacer, next, is_told, joined_at, patience_ends }
    }

    /// Where a viewer begins that has waited until now. Once.
    pub(super) fn begin(&mut self) -> Option<(ViewerId, u64)> {
        let (position, _) = self.next.filter(|_| !self.is_told)?;
        self.is_told = true;
        Some((self.viewer, position))
    }

    /// Next burst and packet; `None` while it waits for a keyframe, or to be told where it begins.
    pub(super) fn next(&self) -> Option<(u64, usize)> {
        self.next.filter(|_| self.is_told)
    }

    pub(super) fn start_if_waiting(&mut self, position: u64) {
        self.next = self.next.or(Some((position, 0)));
    }

    pub(super) fn lose_patience(&mut self, start: u64, now: Instant) {
        if now >= self.patience_ends {
            self.start_if_waiting(start);
        }
    }

    pub(super) fn has_caught_up(&self, end: u64) -> bool {
        self.next.is_some_and(|(position, _)| position >= end)
    }

    /// Whether the viewer was sent a packet of the history. What it asks for before comes by itself.
    pub(super) fn has_sent(&self, position: u64, packet: usize) -> bool {
        self.next.is_some_and(|next| (position, packet) < next)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next.is_some() && self.pacer.is_due(now)
    }

    /// When something is due for it, where all who join may be served from `all_at` on.
    pub(super) fn wakes_at(&self, all_at: Option<Instant>) -> Option<Instant> {
        match self.next {
            Some(_) => Some(self.pacer.due_at().max(all_at).unwrap_or(self.joined_at)),
            None => Some(self.patience_ends),
        }
    }

    /// The next chunk. A viewer so slow that the history left it behind goes on at the keyframe; without
    /// one the chunk is empty, and the viewer goes on live.
    pub(super) fn next_packets(&mut self, history: &History) -> Vec<Part> {
        let mut parts = Vec::new();
        let Some((mut position, mut packet)) = self.next else { return parts };
        if position < history.start() {
            (position, packet) = (history.keyframe(self.rendition).unwrap_or(history.end()), 0);
        }
        let mut room = CHUNK;
        while let Some(burst) = history.get(position).filter(|_| room > 0) {
            if !history.is_for(burst.track, self.rendition) {
                (position, packet) = (position + 1, 0);
                continue;
            }
            let end = burst.len().min(packet + room);
            room -= end - packet;
            if packet < end {
                parts.push(Part { burst: Arc::clone(burst), packets: packet..end });
            }
            (position, packet) =
                if end == burst.len() { (position + 1, 0) } else { (position, end) };
        }
        self.next = Some((position, packet));
        parts
    }
}
