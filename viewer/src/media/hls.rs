//! `hls:DIR`: a playlist and segments for any web server (RFC 8216), as people write it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::options::{OptionError, Options, print, words};

/// A segment ends with the first keyframe after this time. Three of them are what players keep in front of them.
const SEGMENT: Duration = Duration::from_secs(2);
const SEGMENTS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(500)..=Duration::from_secs(60);

/// Segments in the playlist.
const KEPT: u32 = 6;
/// A playlist holds three times its target duration at least (RFC 8216, 6.2.2).
const MAY_BE_KEPT: std::ops::RangeInclusive<u32> = 3..=100_000;

/// A folder that a web server offers, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hls {
    folder: PathBuf,
    segment: Duration,
    keep: u32,
}

impl Hls {
    /// The name of the playlist in the folder.
    pub const PLAYLIST: &str = "live.m3u8";

    /// Where playlist and segments go.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How long a segment lasts, and from then on to the next keyframe.
    pub fn segment(&self) -> Duration {
        self.segment
    }

    /// How many segments are in the playlist.
    pub fn keep(&self) -> usize {
        self.keep as usize
    }

    /// `DIR`, perhaps with `?segment=2s&keep=6`.
    pub(super) fn parse(text: &str) -> Result<Self, OptionError> {
        let (folder, mut options) = Options::split(text)?;
        let segment = options.take_duration("segment", SEGMENTS)?.unwrap_or(SEGMENT);
        let keep = options.take_number("keep", MAY_BE_KEPT)?.unwrap_or(KEPT);
        options.end("segment and keep")?;
        if folder.is_empty() || folder.contains('\0') {
            let (key, expected) = ("hls:", "followed by a folder".to_owned());
            return Err(OptionError::Value { key, expected, value: folder.to_owned() });
        }
        Ok(Self { folder: folder.into(), segment, keep })
    }
}

impl fmt::Display for Hls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hls:{}", self.folder.display())?;
        let segment = (self.segment != SEGMENT).then(|| words(self.segment));
        let keep = (self.keep != KEPT).then(|| self.keep.to_string());
        print(f, &[("segment", segment), ("keep", keep)])
    }
}
