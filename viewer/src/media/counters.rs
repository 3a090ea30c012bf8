//! What has been played so far.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a player has done since it started. Counts never go down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlayerStats {
    /// Pictures that came out of a decoder, shown or not. Where no output decodes (`record:`,
    /// `udp://` and `stdout` alone), coded pictures handed to the outputs.
    pub frames_decoded: u64,
    /// Pictures not shown because their time had passed.
    pub frames_dropped: u64,
    /// Pieces of sound that came out of a decoder, or were handed to outputs that don't decode.
    pub audio_buffers_decoded: u64,
    /// When the first picture was ready, or the first sound where the channel has no picture.
    pub first_frame_at: Option<Instant>,
    /// From a picture's arrival on an even path to its release by the output, averaged over the
    /// last half second or so, without the first picture's age. Add the path's delay for the time since it was captured.
    pub latency: Option<Duration>,
    /// Width and height of the last picture that was decoded, in pixels.
    pub size: Option<(u32, u32)>,
}

/// The live form of [`PlayerStats`], shared by all streaming threads.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) frames_decoded: AtomicU64,
    pub(super) frames_dropped: AtomicU64,
    pub(super) audio_buffers_decoded: AtomicU64,
    first_frame_at: OnceLock<Instant>,
    /// Nanoseconds; 0 before the first picture.
    latency: AtomicU64,
    /// Of the last picture: its width in the upper half, its height in the lower one.
    size: AtomicU64,
    /// Presentation and release of each buffer, both on the running time.
    #[cfg(test)]
    pub(super) releases: std::sync::Mutex<Vec<Release>>,
}

/// One buffer leaving an output.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Release {
    pub(super) track: usize,
    pub(super) presentation: Duration,
    pub(super) at: Duration,
}

impl Counters {
    /// True for the first call only.
    pub(super) fn first_frame(&self) -> bool {
        self.first_frame_at.set(Instant::now()).is_ok()
    }

    /// Takes a picture's time from arrival to release into the average, a sixteenth of it.
    pub(super) fn released_after(&self, latency: Duration) {
        let new = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).clamp(1, 1 << 56);
        let old = self.latency.load(Relaxed);
        let mean = if old == 0 { new } else { old - old / 16 + new / 16 };
        self.latency.store(mean, Relaxed);
    }

    /// Takes note of how large pictures are.
    pub(super) fn has_size(&self, width: u32, height: u32) {
        self.size.store(u64::from(width) << 32 | u64::from(height), Relaxed);
    }

    #[cfg(test)]
    pub(super) fn released(&self, track: usize, presentation: Duration, at: Duration) {
        super::shared::lock(&self.releases).push(Release { track, presentation, at });
    }

    pub(super) fn stats(&self) -> PlayerStats {
        let latency = self.latency.load(Relaxed);
        let size = self.size.load(Relaxed);
        PlayerStats {
            frames_decoded: self.frames_decoded.load(Relaxed),
            frames_dropped: self.frames_dropped.load(Relaxed),
            audio_buffers_decoded: self.audio_buffers_decoded.load(Relaxed),
            first_frame_at: self.first_frame_at.get().copied(),
            latency: (latency > 0).then(|| Duration::from_nanos(latency)),
            size: (size > 0).then_some(((size >> 32) as u32, size as u32)),
        }
    }
}
