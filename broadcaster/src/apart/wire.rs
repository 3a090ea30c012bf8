//! What a broadcaster and the process of its source say to each other, in [`frames`]. Units stand in their frames as
//! they are; all else is CBOR.

use std::io::{self, Read};

use minicbor::{Decode, Encode};
use protocol::burst::PlainBurst;
use protocol::media::Format;
use service::frames::{self, nonsense};

use crate::media::{Continuation, Unit};
use crate::monotonic;

/// Longest body, in bytes: a keyframe of the largest pictures has room many times.
const MOST: usize = 64 << 20;

const WORDS: u8 = 0;
const UNIT: u8 = 1;

/// What stands in front of a unit's packets: its track (4 bytes), flags (1), RTP timestamp (4), and time of capture in
/// nanoseconds of the monotonic clock (8). Each packet has its length (2) in front.
const UNIT_HEADER: usize = 4 + 1 + 4 + 8;
const KEYFRAME: u8 = 1;
const DISPOSABLE: u8 = 2;

/// What is to be captured and encoded.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Start {
    /// The source in full, with its secrets.
    #[n(0)]
    pub(super) source: String,
    /// How pictures and sound are encoded, as JSON.
    #[n(1)]
    pub(super) video: String,
    #[n(2)]
    pub(super) audio: String,
    /// Where one that was there before got to.
    #[n(3)]
    pub(super) before: Option<Continuation>,
    /// What PipeWire calls the screen that the desktop shows.
    #[n(4)]
    pub(super) node: Option<u32>,
}

/// What a source is to do.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum Order {
    /// Begin. Answered with [`Word::Begun`] or [`Word::Refused`].
    #[n(0)]
    Start(#[n(0)] Box<Start>),
    /// Encode a keyframe of this rendition.
    #[n(1)]
    Keyframe(#[n(0)] u32),
    /// Encode those renditions whose bits are set, and no others.
    #[n(2)]
    Encode(#[n(0)] u32),
    /// Encode this rendition with so many bits a second. Answered with [`Word::Tuned`].
    #[n(3)]
    Tune(#[n(0)] u32, #[n(1)] u64),
}

/// What a source says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum Word {
    /// It runs.
    #[n(0)]
    Begun,
    /// It does not, and why.
    #[n(1)]
    Refused(#[n(0)] String),
    /// Its tracks.
    #[n(2)]
    Ready(#[n(0)] Vec<Format>),
    /// No more comes of a track.
    #[n(3)]
    TrackEnded(#[n(0)] u32),
    /// It came to its end.
    #[n(4)]
    Ended,
    /// It failed, and why.
    #[n(5)]
    Failed(#[n(0)] String),
    /// How far it is, and how long the latest pictures were within their encoder, in microseconds.
    #[n(6)]
    Stands(#[n(0)] Continuation, #[n(1)] Vec<u64>),
    /// Whether the encoder whose bitrate was to change takes that while it runs; nothing where there is none.
    #[n(7)]
    Tuned(#[n(0)] Option<bool>),
}

/// What came in a frame.
#[derive(Debug)]
pub(super) enum Frame<T> {
    Words(T),
    Unit(Unit),
}

/// A frame with words.
pub(super) fn words<T: Encode<()>>(words: &T) -> Vec<u8> {
    frames::words(WORDS, words)
}

/// A frame with a unit.
pub(super) fn unit(unit: &Unit) -> Vec<u8> {
    let Unit { track, keyframe, rtp_timestamp, captured_at, packets } = unit;
    let mut frame = frames::Frame::with_capacity(UNIT_HEADER + packets.bytes());
    let body = frame.body();
    let keyframe = if *keyframe { KEYFRAME } else { 0 };
    let disposable = if packets.is_disposable() { DISPOSABLE } else { 0 };
    body.extend((*track as u32).to_be_bytes());
    body.push(keyframe | disposable);
    body.extend(rtp_timestamp.to_be_bytes());
    body.extend(monotonic::time_of(*captured_at).to_be_bytes());
    for packet in packets.packets() {
        // A packet fits a datagram.
        body.extend((packet.len() as u16).to_be_bytes());
        body.extend(packet);
    }
    frame.finish(UNIT)
}

/// The next frame; `None` at the end.
///
/// # Errors
///
/// Where reading fails, or what was read makes no sense.
pub(super) fn read<T: for<'b> Decode<'b, ()>>(
    from: &mut impl Read,
) -> io::Result<Option<Frame<T>>> {
    let Some((kind, body)) = frames::read(from, MOST)? else { return Ok(None) };
    match kind {
        WORDS => {
            let words = minicbor::decode(&body).map_err(|error| nonsense(&error.to_string()))?;
            Ok(Some(Frame::Words(words)))
        }
        UNIT => {
            let unit = read_unit(&body).ok_or_else(|| nonsense("a unit that is none"))?;
            Ok(Some(Frame::Unit(unit)))
        }
        _ => Err(nonsense("a frame of an unknown kind")),
    }
}

fn read_unit(body: &[u8]) -> Option<Unit> {
    let (track, rest) = body.split_first_chunk()?;
    let (&[flags], rest) = rest.split_first_chunk()?;
    let (rtp_timestamp, rest) = rest.split_first_chunk()?;
    let (captured_at, mut rest) = rest.split_first_chunk()?;
    let mut packets = PlainBurst::with_capacity(rest.len() / 1000 + 1);
    packets.set_disposable(flags & DISPOSABLE != 0);
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (packet, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        packets.push([packet]).ok()?;
        rest = behind;
    }
    Some(Unit {
        track: u32::from_be_bytes(*track) as usize,
        keyframe: flags & KEYFRAME != 0,
        rtp_timestamp: u32::from_be_bytes(*rtp_timestamp),
        captured_at: monotonic::instant_of(u64::from_be_bytes(*captured_at)),
        packets,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn picture() -> Unit {
        let mut packets = PlainBurst::with_capacity(3);
        for length in [1100, 1000, 20] {
            packets.push([&[0x80, 0xe0][..], &vec![length as u8; length]]).expect("it fits");
        }
        packets.set_disposable(true);
        let captured_at = Instant::now() + Duration::from_millis(80);
        Unit { track: 1, keyframe: true, rtp_timestamp: u32::MAX, captured_at, packets }
    }

    #[test]
    fn what_is_said_is_what_is_heard() {
        let mut continuation = Continuation::default();
        continuation.encoded.packets = 7;
        let said = [
            Word::Begun,
            Word::Stands(continuation, vec![1, 2]),
            Word::Tuned(Some(true)),
            Word::Failed("unplugged".into()),
        ];
        let mut bytes: Vec<u8> = said.iter().flat_map(words).collect();
        let sent = picture();
        bytes.extend(unit(&sent));
        let mut from = &bytes[..];
        for word in said {
            let heard = read::<Word>(&mut from).expect("whole");
            assert!(matches!(heard, Some(Frame::Words(heard)) if heard == word));
        }
        let heard = read::<Word>(&mut from).expect("whole");
        let Some(Frame::Unit(heard)) = heard else { panic!("{heard:?}") };
        assert_eq!((heard.track, heard.keyframe, heard.rtp_timestamp), (1, true, u32::MAX));
        assert_eq!(heard.captured_at, sent.captured_at);
        assert!(heard.packets.is_disposable());
        assert!(heard.packets.packets().eq(sent.packets.packets()));
        assert!(read::<Word>(&mut from).expect("the end").is_none());
    }

    #[test]
    fn nonsense_is_an_error() {
        let whole = unit(&picture());
        let mut cut = whole[..whole.len() - 1].to_vec();
        let length = (cut.len() - 5) as u32;
        cut[..4].copy_from_slice(&length.to_be_bytes());
        let mut unknown = whole.clone();
        unknown[4] = 9;
        for bytes in [cut, unknown, whole[..20].to_vec()] {
            assert!(read::<Word>(&mut &bytes[..]).is_err());
        }
    }
}
