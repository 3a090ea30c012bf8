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

/// Share of a viewer's latency that the wait may take, but for so much: one viewer in a hurry must not cost
/// all others their riders.
const SHARE: u32 = 4;
const LEAST: Duration = Duration::from_millis(20);

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
        self.patience = latency.map_or(LONGEST, |latency| (latency / SHARE).clamp(LEAST, LONGEST));
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

    /// The place in the history of the first that waits.
    pub(super) fn first(&self) -> Option<u64> {
        self.waiting.first().map(|rider| rider.position)
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

#[cfg(test)]
mod tests {
    use protocol::burst::PlainBurst;
    use protocol::seal::{Epoch, MasterKey, Sealer};

    use super::*;

    fn rider() -> Rider {
        let key = MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12]);
        let mut burst = PlainBurst::default();
        burst.push([&[0x80; 40][..]]).expect("fits");
        let burst = Sealer::new(&key, &[1]).seal(0, false, Instant::now(), burst).expect("seals");
        Rider { position: 7, burst: Arc::new(burst) }
    }

    #[test]
    fn sound_waits_for_pictures_while_they_come_and_no_longer_than_viewers_allow() {
        let now = Instant::now();
        let mut riders = Riders::default();
        assert!(riders.take(rider(), now).is_err(), "no picture so far");
        riders.picture(now);
        assert!(riders.take(rider(), now).is_ok());
        assert_eq!(riders.leave_at(), Some(now + LONGEST));
        riders.allow(Some(Duration::ZERO));
        assert!(riders.take(rider(), now).is_ok());
        assert_eq!(riders.leave_at(), Some(now + LONGEST), "as the first was promised");
        assert_eq!(riders.leave().len(), 2);
        assert!(riders.is_empty() && riders.leave_at().is_none());
        assert!(riders.take(rider(), now).is_ok());
        assert_eq!(riders.leave_at(), Some(now + LEAST), "whatever a viewer says");
        for _ in 1..MOST {
            assert!(riders.take(rider(), now).is_ok());
        }
        assert!(riders.take(rider(), now).is_err(), "no more may wait");
        riders.leave();
        assert!(riders.take(rider(), now + PICTURES_STOPPED).is_err(), "pictures have stopped");
    }
}
