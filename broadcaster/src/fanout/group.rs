//! The live viewers of one rendition: what leaves for them leaves together.

use protocol::channel::ViewerId;

use super::live::Live;
use super::riders::Riders;

/// Viewers, and what waits to be sent to all of them.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) live: Live,
    pub(super) entering: Vec<Entering>,
    pub(super) riders: Riders,
}

/// A viewer that has all before this place in the history, but not what waits to ride behind it.
#[derive(Debug)]
pub(super) struct Entering {
    pub(super) viewer: ViewerId,
    pub(super) position: u64,
}

impl Group {
    /// Whether nobody is here, nor about to be.
    pub(super) fn is_empty(&self) -> bool {
        self.live.len() == 0 && self.entering.is_empty()
    }

    /// The place in the history from which on a viewer has not been sent anything yet, where something waits.
    pub(super) fn has_from(&self, viewer: ViewerId) -> Option<u64> {
        let entering = self.entering.iter().find(|entering| entering.viewer == viewer);
        entering.map(|entering| entering.position).or_else(|| self.riders.first())
    }

    pub(super) fn remove(&mut self, viewer: ViewerId) {
        self.live.remove(viewer);
        self.entering.retain(|entering| entering.viewer != viewer);
    }
}
