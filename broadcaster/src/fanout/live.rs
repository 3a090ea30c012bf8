//! The viewers at the live edge, as a list that sending threads may hold while it goes on changing.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use protocol::channel::ViewerId;
use transport::kernel::{BATCH, Destination};

/// Viewers and where they are. Lies in chunks of one system call's messages each: whoever comes or goes
/// changes one or two of them, and whoever holds a [`Listing`] keeps what it saw.
#[derive(Debug, Default)]
pub(super) struct Live {
    chunks: Vec<Arc<Vec<Destination>>>,
    viewers: Vec<ViewerId>,
    places: HashMap<ViewerId, usize>,
    /// The list as it was given out last, if nothing changed since.
    listing: Option<Listing>,
}

/// Who was live at one moment.
#[derive(Debug, Clone)]
pub(super) struct Listing(Arc<[Arc<Vec<Destination>>]>);

impl Live {
    /// Adds a viewer, or says where it is now.
    pub(super) fn set(&mut self, viewer: ViewerId, destination: Destination) {
        self.listing = None;
        let known = self.places.get(&viewer).copied();
        let at = known.unwrap_or(self.viewers.len());
        if at / BATCH == self.chunks.len() {
            self.chunks.push(Arc::new(Vec::with_capacity(BATCH)));
        }
        let chunk = Arc::make_mut(&mut self.chunks[at / BATCH]);
        if known.is_some() {
            chunk[at % BATCH] = destination;
        } else {
            chunk.push(destination);
            self.viewers.push(viewer);
            self.places.insert(viewer, at);
        }
    }

    /// Takes a viewer off; false where it was not on.
    pub(super) fn remove(&mut self, viewer: ViewerId) -> bool {
        let Some(at) = self.places.remove(&viewer) else { return false };
        self.listing = None;
        self.viewers.swap_remove(at);
        let last = self.chunks.last_mut().and_then(|chunk| Arc::make_mut(chunk).pop());
        if let (Some(moved), Some(last)) = (self.viewers.get(at), last) {
            self.places.insert(*moved, at);
            Arc::make_mut(&mut self.chunks[at / BATCH])[at % BATCH] = last;
        }
        self.chunks.pop_if(|chunk| chunk.is_empty());
        true
    }

    pub(super) fn contains(&self, viewer: ViewerId) -> bool {
        self.places.contains_key(&viewer)
    }

    pub(super) fn len(&self) -> usize {
        self.viewers.len()
    }

    /// The list as it is.
    pub(super) fn listing(&mut self) -> Listing {
        let chunks = &self.chunks;
        self.listing.get_or_insert_with(|| Listing(chunks.iter().map(Arc::clone).collect())).clone()
    }
}

impl Listing {
    /// The viewers with these numbers, as slices of at most [`BATCH`].
    pub(super) fn parts(&self, viewers: Range<usize>) -> impl Iterator<Item = &[Destination]> {
        let first = viewers.start / BATCH;
        self.0.iter().enumerate().skip(first).map_while(move |(at, chunk)| {
            let before = at * BATCH;
            let from = viewers.start.saturating_sub(before);
            let to = viewers.end.saturating_sub(before).min(chunk.len());
            chunk.get(from..to).filter(|part| !part.is_empty())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn destination(at: u32) -> Destination {
        Destination::new(SocketAddr::from((at.to_be_bytes(), 9)), false)
    }

    fn all(listing: &Listing, viewers: Range<usize>) -> Vec<SocketAddr> {
        let parts = listing.parts(viewers);
        parts.flat_map(|part| part.iter().map(Destination::address)).collect()
    }

    #[test]
    fn whoever_comes_goes_or_moves_shows_in_the_next_listing_only() {
        let mut live = Live::default();
        let mut expected: HashMap<u32, SocketAddr> = HashMap::new();
        let mut seed = 1u32;
        for step in 0..5_000u32 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let viewer = seed >> 22;
            let before = live.listing();
            let seen = all(&before, 0..usize::MAX);
            if seed & 0x300 == 0 {
                assert_eq!(live.remove(ViewerId(viewer)), expected.remove(&viewer).is_some());
            } else {
                live.set(ViewerId(viewer), destination(step));
                expected.insert(viewer, destination(step).address());
            }
            assert_eq!(all(&before, 0..usize::MAX), seen, "what was given out stays");
            assert_eq!(live.len(), expected.len());
        }
        let mut listed = all(&live.listing(), 0..live.len());
        let mut expected: Vec<_> = expected.into_values().collect();
        listed.sort();
        expected.sort();
        assert_eq!(listed, expected);
    }

    #[test]
    fn parts_are_what_was_asked_for() {
        let mut live = Live::default();
        for at in 0..300 {
            live.set(ViewerId(at), destination(at));
        }
        let listing = live.listing();
        let everybody = all(&listing, 0..300);
        for range in [0..300, 0..1, 127..129, 128..256, 250..300, 299..300, 300..300, 5..5] {
            assert_eq!(all(&listing, range.clone()), everybody[range]);
        }
    }
}
