//! What viewer and broadcaster say to each other over their own QUIC connection, on the opened path.
//!
//! A viewer opens one stream for each request. The stream of a [`Request::Watch`] stays open: on it
//! the broadcaster sends [`Notice`]s. Feedback goes beside QUIC, under a key that
//! admission hands over ([`crate::srtcp`]).

use minicbor::{Decode, Encode};

use crate::library::{Digest, FileEntry, Take};
use crate::link::Secret;
use crate::media::Format;
use crate::seal::MasterKey;
use crate::srtcp::FeedbackKey;

/// ALPN of a connection between viewer and broadcaster.
pub const ALPN: &[u8] = b"punchcast/1";

/// QUIC application error codes with which either side closes the connection.
pub mod close {
    /// Nothing more to say.
    pub const DONE: u32 = 0;
    /// The viewer was refused or removed; the reason was said on the stream.
    pub const REFUSED: u32 = 1;
    /// The peer broke the protocol.
    pub const PROTOCOL: u32 = 2;
    /// No authenticated word for longer than consent lasts.
    pub const CONSENT_EXPIRED: u32 = 3;
}

/// The first message on a stream that a viewer opens.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Send me this live channel.
    #[n(0)]
    Watch {
        /// Its name.
        #[n(0)]
        channel: String,
        /// What the link holds behind `#`.
        #[n(1)]
        secret: Option<Secret>,
        /// How long after it was first missed a packet is still of use to the viewer, in milliseconds.
        #[n(2)]
        latency_ms: u32,
    },
    /// What is there to watch?
    #[n(1)]
    List {
        /// What the link holds behind `#`.
        #[n(0)]
        secret: Option<Secret>,
    },
    /// What does the capture clock of the channel show that I watch?
    #[n(2)]
    Clock,
    /// Which stored files are there?
    #[n(3)]
    Files {
        /// What the link holds behind `#`.
        #[n(0)]
        secret: Option<Secret>,
        /// The path behind which to go on; `None` for the beginning.
        #[n(1)]
        after: Option<String>,
    },
    /// Play me this stored file from here on: another take, in place of the one that I have.
    #[n(4)]
    Play {
        /// Its path within the library.
        #[n(0)]
        path: String,
        /// What the link holds behind `#`.
        #[n(1)]
        secret: Option<Secret>,
        /// As with [`Self::Watch`].
        #[n(2)]
        latency_ms: u32,
        /// Where to begin, in microseconds.
        #[n(3)]
        position_us: u64,
        /// How fast, in percent. Sound is sent at 100 only.
        #[n(4)]
        rate_percent: u32,
        /// Which of the file's sound tracks, from 0.
        #[n(5)]
        sound: u32,
        /// How fast what is sent at once may come, in bits a second, as far as the viewer knows what its path
        /// carries.
        #[n(6)]
        pace_bps: Option<u64>,
    },
    /// Send nothing more of this take. It means nothing to one that has begun since.
    #[n(5)]
    Pause {
        /// SSRC of the take's first track.
        #[n(0)]
        ssrc: u32,
    },
    /// Send me the contents of this stored file, on this stream behind the answer.
    #[n(6)]
    Fetch {
        /// Its path within the library.
        #[n(0)]
        path: String,
        /// What the link holds behind `#`.
        #[n(1)]
        secret: Option<Secret>,
        /// From which byte on …
        #[n(2)]
        offset: u64,
        /// … if the contents are still these. Others are sent from their beginning.
        #[n(3)]
        digest: Option<Digest>,
    },
    /// Send me the picture of this stored file.
    #[n(7)]
    Thumbnail {
        /// Its path within the library.
        #[n(0)]
        path: String,
        /// What the link holds behind `#`.
        #[n(1)]
        secret: Option<Secret>,
    },
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Response {
    /// The viewer is admitted; media follows on the path.
    #[n(0)]
    Admitted {
        /// What it needs to receive it.
        #[n(0)]
        admission: Admission,
    },
    /// What the broadcaster offers.
    #[n(1)]
    Catalogue {
        /// Live channels.
        #[n(0)]
        channels: Vec<ChannelEntry>,
    },
    /// No.
    #[n(2)]
    Refused {
        /// Why.
        #[n(0)]
        reason: Refusal,
    },
    /// The capture clock shows this.
    #[n(3)]
    Clock {
        /// In microseconds.
        #[n(0)]
        capture_us: u64,
    },
    /// A page of the catalogue of stored files, ordered by path.
    #[n(4)]
    Files {
        /// The files.
        #[n(0)]
        files: Vec<FileEntry>,
        /// Whether there are more behind the last.
        #[n(1)]
        more: bool,
    },
    /// The take begins; media follows on the path.
    #[n(5)]
    Playing {
        /// What the viewer needs to receive it.
        #[n(0)]
        admission: Admission,
        /// Where it is in the file.
        #[n(1)]
        take: Take,
    },
    /// Nothing more is sent of the take.
    #[n(6)]
    Paused,
    /// The contents follow: all bytes from `offset` to the end.
    #[n(7)]
    Contents {
        /// Length of the whole, in bytes.
        #[n(0)]
        length: u64,
        /// Of the whole.
        #[n(1)]
        digest: Digest,
        /// From which byte on they are sent.
        #[n(2)]
        offset: u64,
    },
    /// A JPEG picture, at most [`MAX_THUMBNAIL`](crate::library::MAX_THUMBNAIL) long.
    #[n(8)]
    Thumbnail {
        /// The picture; `None` where there is none.
        #[cbor(n(0), with = "minicbor::bytes")]
        jpeg: Option<Vec<u8>>,
    },
    /// The stored file cannot be played or read.
    #[n(9)]
    Unplayable {
        /// Why, for people: one line.
        #[n(0)]
        reason: String,
    },
    /// The operator is to let this viewer in first. The answer follows then, on the same stream.
    #[n(10)]
    Knocking,
}

/// Why a broadcaster refuses a viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Refusal {
    /// No such channel.
    #[n(0)]
    UnknownChannel,
    /// The link's secret is wrong or missing.
    #[n(1)]
    Secret,
    /// As many viewers as allowed watch already.
    #[n(2)]
    Full,
    /// The operator removed this viewer.
    #[n(3)]
    Removed,
    /// The source has not started yet; try again soon.
    #[n(4)]
    NotReady,
    /// A request that makes no sense.
    #[n(5)]
    Malformed,
    /// No such stored file.
    #[n(6)]
    UnknownFile,
    /// More at once than one viewer may have.
    #[n(7)]
    TooMany,
}

impl Request {
    /// What is shown in a request that asks to come in; `None` for one of who is in already.
    pub fn shown(&self) -> Option<Option<&Secret>> {
        match self {
            Self::Watch { secret, .. }
            | Self::List { secret }
            | Self::Files { secret, .. }
            | Self::Play { secret, .. }
            | Self::Fetch { secret, .. }
            | Self::Thumbnail { secret, .. } => Some(secret.as_ref()),
            Self::Clock | Self::Pause { .. } => None,
        }
    }
}

impl Refusal {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::UnknownChannel,
        Self::Secret,
        Self::Full,
        Self::Removed,
        Self::NotReady,
        Self::Malformed,
        Self::UnknownFile,
        Self::TooMany,
    ];

    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownChannel => "unknown_channel",
            Self::Secret => "secret",
            Self::Full => "full",
            Self::Removed => "removed",
            Self::NotReady => "not_ready",
            Self::Malformed => "malformed",
            Self::UnknownFile => "unknown_file",
            Self::TooMany => "too_many",
        }
    }
}

/// All that an admitted viewer needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Admission {
    /// The short id that the broadcaster gave this viewer.
    #[n(0)]
    pub viewer: u32,
    /// The channel's tracks.
    #[n(1)]
    pub tracks: Vec<Track>,
    /// Keys of every epoch that the history still holds, the current one last.
    #[n(2)]
    pub keys: Vec<MasterKey>,
    /// The channel's capture clock when this was sent, in microseconds.
    #[n(3)]
    pub capture_now_us: u64,
    /// How far behind capture the slowest track leaves the broadcaster, in microseconds.
    #[n(4)]
    pub send_lag_us: u64,
    /// Bytes of the viewer's tag behind each datagram: [`TAG`](crate::tag::TAG) in this version.
    #[n(5)]
    pub viewer_tag: u8,
    /// What this viewer seals its feedback with, and nothing else.
    #[n(6)]
    pub feedback_key: FeedbackKey,
}

/// In place of a time of capture that is not known.
pub const UNKNOWN_CAPTURE: u64 = u64::MAX;

/// One track of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Track {
    /// What it carries.
    #[n(0)]
    pub format: Format,
    /// Its SSRC.
    #[n(1)]
    pub ssrc: u32,
    /// Index of the first packet that this viewer will be sent: where its joining burst begins.
    #[n(2)]
    pub first_index: u64,
    /// Index of the next packet that will be made: the live edge.
    #[n(3)]
    pub live_index: u64,
    /// A recent RTP timestamp of this track …
    #[n(4)]
    pub rtp_timestamp: u32,
    /// … and when it was captured, on the channel's capture clock, in microseconds; [`UNKNOWN_CAPTURE`] where
    /// nothing of this track has been sent yet.
    #[n(5)]
    pub captured_us: u64,
}

/// A live channel as listed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ChannelEntry {
    /// Its name.
    #[n(0)]
    pub name: String,
    /// Formats of its tracks.
    #[n(1)]
    pub formats: Vec<Format>,
}

/// Later messages from the broadcaster on the stream of a watch request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Notice {
    /// A further epoch's key, sent before packets sealed with it.
    #[n(0)]
    Key {
        /// The key.
        #[n(0)]
        key: MasterKey,
    },
    /// The broadcast is over.
    #[n(1)]
    Ended,
    /// The operator removed this viewer.
    #[n(2)]
    Removed,
    /// The viewer's path carries so much, by its reports; less than the stream where it is said.
    #[n(3)]
    Carries {
        /// `None` for everything, zero where nothing arrives and media is paused.
        #[n(0)]
        bits_per_second: Option<u64>,
        /// How far behind the live edge pictures may come meanwhile, in milliseconds.
        #[n(1)]
        lag_ms: u32,
    },
    /// Packets that the viewer was not sent, as its path does not carry them.
    #[n(4)]
    LeftOut {
        /// Which.
        #[n(0)]
        packets: Vec<LeftOut>,
    },
    /// The take came to the end of the file: all has been sent.
    #[n(5)]
    Finished {
        /// The index behind the last packet of each track.
        #[n(0)]
        ends: Vec<u64>,
        /// Why it ends early, where the file is damaged.
        #[n(1)]
        damaged: Option<String>,
    },
    /// The take was stopped, as nothing was heard of the viewer for a while: it goes on with another one.
    #[n(6)]
    Interrupted,
    /// The viewer goes on with another rendition of the picture.
    #[n(7)]
    Rendition {
        /// Of which it is sent packets from `first_index` on, a keyframe's. Its clock is that of the one before, and so
        /// are its timestamps.
        #[n(0)]
        track: Track,
        /// SSRC of the one before.
        #[n(1)]
        before: u32,
        /// Index behind the last packet of that one.
        #[n(2)]
        end: u64,
    },
    /// The source of the channel is away and is started again, or it is back.
    #[n(8)]
    Source {
        /// For how long it has been away, in milliseconds; `None` where it is there.
        #[n(0)]
        away_ms: Option<u64>,
    },
}

/// Packets of a track that were not sent to a viewer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LeftOut {
    /// The track's SSRC.
    #[n(0)]
    pub ssrc: u32,
    /// Index of the first.
    #[n(1)]
    pub first: u64,
    /// How many they are.
    #[n(2)]
    pub count: u32,
}

impl LeftOut {
    /// Their indices.
    pub fn packets(&self) -> std::ops::Range<u64> {
        self.first..self.first.saturating_add(self.count.into())
    }
}
