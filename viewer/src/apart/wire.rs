//! What a viewer and the processes that play for it say to each other, in [`frames`]. Media stands in its frame as it
//! is; all else is CBOR.

use std::io::{self, Read};

use bytes::Bytes;
use minicbor::{Decode, Encode};
use protocol::media::Format;
use service::frames::{self, nonsense};

use crate::media::TakePlan;

/// Longest body, in bytes: of an order or a packet; and of what a process that plays says, which is not to be trusted
/// with more memory than that.
pub(super) const MOST_ORDERED: usize = 1 << 20;
pub(super) const MOST_SAID: usize = 1 << 14;

/// Longest text that is said, in bytes: two of them have room.
const MOST_TEXT: usize = MOST_SAID / 2 - 64;

const WORDS: u8 = 0;
const MEDIA: u8 = 1;

/// What stands in front of a packet: its track (4 bytes) and arrival (8 bytes).
const MEDIA_HEADER: usize = 12;

/// What is to be played, and how. Times are nanoseconds.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(super) struct Start {
    #[n(0)]
    pub(super) tracks: Vec<Format>,
    #[n(1)]
    pub(super) latency: u64,
    /// The monotonic clock's time at running time zero.
    #[n(2)]
    pub(super) base_time: u64,
    #[n(3)]
    pub(super) take: Option<TakePlan>,
}

/// What a player is to do.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(super) enum Order {
    /// Play. Answered with [`Word::Started`] or [`Word::Refused`].
    #[n(0)]
    Start(#[n(0)] Start),
    /// Have all that is pushed come later by so many nanoseconds.
    #[n(1)]
    Delay(#[n(0)] u64),
    /// Bear lateness of so many nanoseconds.
    #[n(2)]
    Bear(#[n(0)] u64),
    /// Play another take. Answered as [`Self::Start`] is.
    #[n(3)]
    BeginTake {
        #[n(0)]
        number: u32,
        #[n(1)]
        tracks: Vec<Format>,
        #[n(2)]
        take: TakePlan,
    },
    /// Leave the last picture standing.
    #[n(4)]
    Freeze,
    /// Show the seek bar, or none.
    #[n(5)]
    ShowBar(#[n(0)] Option<f64>),
    /// No more comes of the take.
    #[n(6)]
    CompleteTake,
    /// Close files, and end, within so many nanoseconds. Answered with [`Word::Stopped`].
    #[n(7)]
    Stop(#[n(0)] u64),
    /// Say this in the middle of the window, and list that in its corner.
    #[n(8)]
    Say(#[n(0)] Caption),
    /// Make the window's sound so loud, in percent, or mute it.
    #[n(9)]
    Volume(#[n(0)] u32, #[n(1)] bool),
}

/// What is said on the picture, in lines. An empty text says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Caption {
    /// In the middle.
    #[n(0)]
    pub(crate) banner: String,
    /// In the corner.
    #[n(1)]
    pub(crate) panel: String,
}

impl Order {
    /// Whether an answer follows.
    pub(super) fn is_answered(&self) -> bool {
        matches!(self, Self::Start(_) | Self::BeginTake { .. } | Self::Stop(_))
    }
}

/// What a player says.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(super) enum Word {
    /// It cannot play here, and ends.
    #[n(0)]
    Unfit(#[n(0)] String),
    /// It plays.
    #[n(1)]
    Started,
    /// It does not, and why.
    #[n(2)]
    Refused(#[n(0)] String),
    /// Something happened.
    #[n(3)]
    Told(#[n(0)] Told),
    /// How far it is.
    #[n(4)]
    State(#[n(0)] State),
    /// It has stopped, and what went wrong with that.
    #[n(5)]
    Stopped(#[n(0)] Option<Unstopped>),
}

/// [`crate::media::PlayerEvent`], as it is said.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(super) enum Told {
    #[n(0)]
    FirstFrame,
    #[n(1)]
    WindowClosed,
    #[n(2)]
    Key(#[n(0)] String),
    #[n(3)]
    Bar(#[n(0)] f64),
    #[n(4)]
    Motion,
    #[n(5)]
    Late(#[n(0)] u64),
    /// Why, and whether it is only that no output is left.
    #[n(6)]
    Failed(#[n(0)] String, #[n(1)] bool),
    /// Which, and why.
    #[n(7)]
    OutputFailed(#[n(0)] String, #[n(1)] String),
    #[n(8)]
    WindowOpened,
}

/// What has been played. Times are nanoseconds of running time, positions nanoseconds of the file.
#[derive(Debug, Clone, Default, PartialEq, Encode, Decode)]
pub(super) struct State {
    /// Which take this is about.
    #[n(0)]
    pub(super) take: u32,
    #[n(1)]
    pub(super) frames_decoded: u64,
    #[n(2)]
    pub(super) frames_dropped: u64,
    #[n(3)]
    pub(super) audio_buffers_decoded: u64,
    #[n(4)]
    pub(super) first_frame_at: Option<u64>,
    #[n(5)]
    pub(super) latency: Option<u64>,
    #[n(6)]
    pub(super) position: Option<u64>,
    #[n(7)]
    pub(super) reached: Option<u64>,
    #[n(8)]
    pub(super) shown_at: Option<u64>,
    #[n(9)]
    pub(super) has_played_out: bool,
    /// Width and height of pictures, in pixels.
    #[n(10)]
    pub(super) size: Option<(u32, u32)>,
}

/// Why a player did not stop well.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(super) enum Unstopped {
    /// This output was not finished.
    #[n(0)]
    Unfinished(#[n(0)] String),
    /// Something else.
    #[n(1)]
    Other(#[n(0)] String),
}

/// What came in a frame.
#[derive(Debug, PartialEq)]
pub(super) enum Frame<T> {
    Words(T),
    Media { track: usize, arrival: u64, packet: Bytes },
}

/// A frame with words.
pub(super) fn words<T: Encode<()>>(words: &T) -> Vec<u8> {
    frames::words(WORDS, words)
}

/// A frame with a packet.
pub(super) fn media(track: usize, arrival: u64, packet: &[u8]) -> Vec<u8> {
    let mut frame = frames::Frame::with_capacity(MEDIA_HEADER + packet.len());
    frame.body().extend((track as u32).to_be_bytes());
    frame.body().extend(arrival.to_be_bytes());
    frame.body().extend(packet);
    frame.finish(MEDIA)
}

/// As much of a text as is said.
pub(super) fn brief(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MOST_TEXT));
    text
}

/// The next frame, with a body of at most so many bytes; `None` at the end.
///
/// # Errors
///
/// Where reading fails, or what was read makes no sense.
pub(super) fn read<T: for<'b> Decode<'b, ()>>(
    from: &mut impl Read,
    most: usize,
) -> io::Result<Option<Frame<T>>> {
    let Some((kind, body)) = frames::read(from, most)? else { return Ok(None) };
    match kind {
        WORDS => {
            let words = minicbor::decode(&body).map_err(|error| nonsense(&error.to_string()))?;
            Ok(Some(Frame::Words(words)))
        }
        MEDIA => {
            let short = || nonsense("a packet that is too short");
            let (track, rest) = body.split_first_chunk::<4>().ok_or_else(short)?;
            let (arrival, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
            let (track, arrival) = (u32::from_be_bytes(*track), u64::from_be_bytes(*arrival));
            let at = body.len() - rest.len();
            let packet = Bytes::from(body).slice(at..);
            Ok(Some(Frame::Media { track: track as usize, arrival, packet }))
        }
        _ => Err(nonsense("a frame of an unknown kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let state = State { take: 3, position: Some(7), shown_at: Some(9), ..State::default() };
        let said = [
            Word::Unfit("no display".into()),
            Word::Told(Told::OutputFailed("null".into(), "broke".into())),
            Word::State(state),
            Word::Stopped(Some(Unstopped::Unfinished("stdout".into()))),
        ];
        let mut bytes: Vec<u8> = said.iter().flat_map(words).collect();
        bytes.extend(media(2, 77, b"a packet"));
        let mut from = &bytes[..];
        for word in said {
            assert_eq!(read(&mut from, MOST_SAID).expect("whole"), Some(Frame::Words(word)));
        }
        let packet = Bytes::from_static(b"a packet");
        let expected = Frame::Media { track: 2, arrival: 77, packet };
        assert_eq!(read::<Word>(&mut from, MOST_SAID).expect("whole"), Some(expected));
        assert_eq!(read::<Word>(&mut from, MOST_SAID).expect("the end"), None);
    }

    #[test]
    fn whatever_a_player_says_is_read_or_refused() {
        use rand::rngs::SmallRng;
        use rand::{Rng, RngExt, SeedableRng};
        let mut rng = SmallRng::seed_from_u64(5);
        let state = State { position: Some(u64::MAX), ..State::default() };
        let genuine = [words(&Word::State(state)), words(&Word::Refused("x".repeat(40)))];
        for round in 0..100_000 {
            let mut bytes = genuine[round % 2].clone();
            for _ in 0..rng.random_range(0..4) {
                let at = rng.random_range(5..bytes.len());
                bytes[at] = rng.random();
            }
            if round % 5 == 0 {
                rng.fill_bytes(&mut bytes[5..]);
            }
            let mut from = &bytes[..];
            while matches!(read::<Word>(&mut from, MOST_SAID), Ok(Some(_))) {}
        }
    }

    #[test]
    fn the_longest_texts_are_heard() {
        let text = || brief("\u{20ac}".repeat(MOST_SAID));
        let word = Word::Told(Told::OutputFailed(text(), text()));
        let bytes = words(&word);
        let heard = read(&mut &bytes[..], MOST_SAID).expect("whole");
        assert_eq!(heard, Some(Frame::Words(word)));
    }

    #[test]
    fn nonsense_is_an_error() {
        let too_long = [&u32::MAX.to_be_bytes()[..], &[WORDS]].concat();
        let cut = words(&Word::Started)[..4].to_vec();
        let frame = |body: &[u8], kind| {
            let mut frame = frames::Frame::with_capacity(body.len());
            frame.body().extend(body);
            frame.finish(kind)
        };
        let (unknown, short) = (frame(&[0; 2], 9), frame(&[0; 4], MEDIA));
        let no_word = frame(b"\xff\xff", WORDS);
        for bytes in [too_long, cut, unknown, short, no_word] {
            assert!(read::<Word>(&mut &bytes[..], MOST_SAID).is_err(), "{bytes:02x?}");
        }
    }
}
