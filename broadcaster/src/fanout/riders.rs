//! Sound that waits for the next picture, to leave in the same message.
//!
//! A lone packet of sound costs the kernel nearly as much as a picture in fifteen datagrams, and there are
//! more of them than pictures. So it waits for the next picture, as long as the viewers' latency allows;
//! where pictures stay away, it goes alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::seal::SealedBurst;

/// Longest wait: a picture comes within it at 25 frames a second.
const LONGEST: Duration = Duration::from_millis(42);

/// Share of a viewer's latency that the wait may take.
const SHARE: u32 = 4;

/// Without a picture for so long, none is waited for.
const PICTURES_STOPPED: Duration = Duration::from_millis(200);

/// Bursts of sound that may wait.
const MOST: usize = 8;

/// Sound that waits.
#[derive(Debug)]
pub(super) struct Riders {
    waiting: Vec<Rider>,
    leave_at: Option<Instant>,
    picture_at: Option<Instant>,
    patience: Duration,
}

/// A burst of sound, and its place in the history.
#[derive(Debug, Clone)]
pub(super) struct Rider {
    pub(super) position: u64,
    pub(super) burst: Arc<SealedBurst>,
}

impl Default for Riders {
    fn default() -> Self {
        Self { waiting: Vec::new(), leave_at: None, picture_at: None, patience: LONGEST }
    }
}

impl Riders {
    /// The least latency of all viewers is this now.
    pub(super) fn allow(&mut self, latency: Option<Duration>) {
        self.patience = latency.map_or(LONGEST, |latency| (latency / SHARE).min(LONGEST));
    }

    /// A picture leaves.
    pub(super) fn picture(&mut self, now: Instant) {
        self.picture_at = Some(now);
    }

    /// Takes a burst of sound if it may wait; gives it back otherwise.
    pub(super) fn take(&mut self, rider: Rider, now: Instant) -> Result<(), Rider> {
        let pictures_go_on = self.picture_at.is_some_and(|at| now < at + PICTURES_STOPPED);
        if !pictures_go_on || self.waiting.len() >= MOST {
            return Err(rider);
        }
        self.leave_at.get_or_insert(now + self.patience);
        self.waiting.push(rider);
        Ok(())
    }

    /// When those that wait leave without a picture.
    pub(super) fn leave_at(&self) -> Option<Instant> {
        self.leave_at
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// All that wait, in order. They leave now.
    pub(super) fn leave(&mut self) -> Vec<Rider> {
        self.leave_at = None;
        std::mem::take(&mut self.waiting)
    }
}
