//! Stored files: what a broadcaster's library says of them, and how one is played or copied.
//!
//! A viewer pages through the catalogue ([`Request::Files`](crate::control::Request::Files)), plays a file
//! from where it wants ([`Request::Play`](crate::control::Request::Play)), or copies its contents
//! ([`Request::Fetch`](crate::control::Request::Fetch)).
//!
//! Playing is done in **takes**. A take is a channel made for one viewer: it begins at the last keyframe at
//! or before the position asked for, so that the very frame can be decoded, and runs until the file ends or
//! the viewer asks for something else. A seek, going on after a pause, another rate, and going on after a
//! path broke are all further takes. Each has a key and SSRCs of its own, so nothing of one take can be
//! mistaken for another's. Within a take everything is as in a live channel, save that the broadcaster sends
//! as far ahead of time as the viewer's latency is long: what arrives first can be shown at once, and there
//! is still that much time to repair what follows.

use minicbor::{Decode, Encode};

use crate::media::Kind;

/// Longest path within a library, in bytes of UTF-8.
pub const MAX_PATH: usize = 1024;

/// Most bytes of a thumbnail: it fits into one message.
pub const MAX_THUMBNAIL: usize = 32 * 1024;

/// Rates at which a file can be played, in percent of its own.
pub const RATES: std::ops::RangeInclusive<u32> = 25..=400;

/// BLAKE3 of a file's contents.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Digest(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A stored file as listed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FileEntry {
    /// Its path within the library: parts joined by slashes, never empty, never `.` or `..`.
    #[n(0)]
    pub path: String,
    /// Its length in bytes.
    #[n(1)]
    pub bytes: u64,
    /// When it was changed last, in seconds since 1970.
    #[n(2)]
    pub modified: u64,
    /// What can be played; `None` while nobody has looked yet, and for what cannot be played.
    #[n(3)]
    pub media: Option<StoredMedia>,
    /// Why it cannot be played.
    #[n(4)]
    pub problem: Option<String>,
    /// Of its contents, once that is known.
    #[n(5)]
    pub digest: Option<Digest>,
    /// Whether there is a picture of it.
    #[n(6)]
    pub has_thumbnail: bool,
}

/// What a stored file holds.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StoredMedia {
    /// How long it plays, in microseconds, where the file says so.
    #[n(0)]
    pub duration_us: Option<u64>,
    /// Its tracks, in the file's order.
    #[n(1)]
    pub tracks: Vec<StoredTrack>,
}

/// One track of a stored file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StoredTrack {
    /// Picture or sound.
    #[n(0)]
    pub kind: Kind,
    /// The codec's usual name: `H.264`, `AAC`.
    #[n(1)]
    pub codec: String,
    /// Size and frame rate, or channels and sample rate, for people.
    #[n(2)]
    pub detail: String,
    /// Whether it is sent as it is stored; what is not is encoded anew.
    #[n(3)]
    pub passes_through: bool,
    /// Language, as the file has it.
    #[n(4)]
    pub language: Option<String>,
}

/// A take, as the viewer that asked for it is told.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Take {
    /// Position of the first frame to show, in microseconds: the one that is shown at the position that was
    /// asked for. What comes before it is there for decoding it.
    #[n(0)]
    pub position_us: u64,
    /// When that frame was captured, as it were, on the channel's capture clock, in microseconds.
    #[n(1)]
    pub captured_us: u64,
    /// How fast positions go by, in percent.
    #[n(2)]
    pub rate_percent: u32,
    /// How long the file plays, in microseconds, where that is known.
    #[n(3)]
    pub duration_us: Option<u64>,
    /// How fast is sent what the first frame needs, in bits a second.
    #[n(4)]
    pub pace_bps: u64,
    /// What is encoded anew, for people: empty where all is sent as it is stored.
    #[n(5)]
    pub transcoded: String,
}
