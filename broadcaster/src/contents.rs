//! Sending the contents of stored files, no faster than is left of the uplink.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{SendStream, VarInt, WriteError};

/// Read and written at once, in bytes.
const PIECE: usize = 128 * 1024;

/// What may be sent at once after a pause.
const BURST: Duration = Duration::from_millis(50);

/// With which a stream ends whose file turned out to be another.
const CHANGED: u32 = 1;

/// What is to be sent of a file.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The file.
    pub(crate) file: File,
    /// Its length in bytes, as it was announced.
    pub(crate) length: u64,
    /// From which byte on.
    pub(crate) offset: u64,
}

/// Why contents were not sent to their end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is shorter than it was.
    #[error("the file became shorter meanwhile")]
    Changed,
    /// The viewer is gone, or takes no more.
    #[error("the viewer takes no more: {0}")]
    Write(#[from] WriteError),
}

/// Sends a file's contents; `sent` is told of every piece. Ends where the viewer stops it.
pub(crate) async fn send(
    contents: Contents,
    stream: &mut SendStream,
    pace: &Pace,
    sent: impl Fn(usize),
) -> Result<(), SendError> {
    let Contents { file, length, mut offset } = contents;
    let file = Arc::new(file);
    let read = |offset: u64| {
        let file = Arc::clone(&file);
        tokio::task::spawn_blocking(move || {
            let piece = usize::try_from(length - offset).unwrap_or(PIECE).min(PIECE);
            let mut bytes = vec![0; piece];
            file.read_exact_at(&mut bytes, offset).map(|()| Bytes::from(bytes))
        })
    };
    if offset >= length {
        return Ok(());
    }
    // The next piece is read while one is sent.
    let mut next = read(offset);
    loop {
        let piece = match next.await.map_err(io::Error::other)? {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let _ = stream.reset(VarInt::from_u32(CHANGED));
                return Err(SendError::Changed);
            }
            piece => piece?,
        };
        offset += piece.len() as u64;
        let is_last = offset >= length;
        next = read(offset.min(length.saturating_sub(1)));
        pace.take(piece.len()).await;
        let bytes = piece.len();
        stream.write_chunk(piece).await?;
        sent(bytes);
        if is_last {
            next.abort();
            return Ok(());
        }
    }
}

/// How fast all copies together are sent.
#[derive(Debug)]
pub(crate) struct Pace(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    bytes_per_second: Option<u64>,
    /// When all that was taken so far is paid for.
    free_at: Instant,
}

impl Pace {
    /// Without a limit.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Bucket { bytes_per_second: None, free_at: Instant::now() }))
    }

    /// So fast from now on.
    pub(crate) fn set(&self, bytes_per_second: Option<u64>) {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.bytes_per_second = bytes_per_second;
    }

    /// Waits until so many bytes may be sent.
    async fn take(&self, bytes: usize) {
        let wait =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl Bucket {
    /// How long to wait before so many bytes are sent.
    fn take(&mut self, bytes: usize, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let saved = now.checked_sub(BURST).unwrap_or(now);
        let begins_at = self.free_at.max(saved);
        self.free_at = begins_at + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        begins_at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept_whoever_sends() {
        let began = Instant::now();
        let mut bucket = Bucket { bytes_per_second: Some(1_000_000), free_at: began };
        let mut now = began;
        for _ in 0..100 {
            now += bucket.take(10_000, now);
        }
        let took = now - began;
        assert!((Duration::from_millis(940)..=Duration::from_secs(1)).contains(&took), "{took:?}");
        // A pause saves little.
        now += Duration::from_secs(60);
        let before = now;
        for _ in 0..100 {
            now += bucket.take(10_000, now);
        }
        assert!(now - before >= Duration::from_millis(930), "{:?}", now - before);
        bucket.bytes_per_second = None;
        assert_eq!(bucket.take(usize::MAX, now), Duration::ZERO);
    }
}
