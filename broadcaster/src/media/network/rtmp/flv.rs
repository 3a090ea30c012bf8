//! What publishers send: pictures and sound in the words of FLV (Adobe's FLV 10.1, annex E), and those of Enhanced
//! RTMP for H.265.

use super::super::super::plan::Codec;

/// One message of a publisher.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tag<'a> {
    /// Decoding time in milliseconds, which wraps around.
    pub(super) timestamp: u32,
    pub(super) content: Content<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// What a decoder has to know before the first access unit (`avcC`, `hvcC`, `AudioSpecificConfig`).
    Config(Codec, &'a [u8]),
    /// A coded picture.
    Picture {
        /// From decoding to presentation, in milliseconds.
        delay: i32,
        data: &'a [u8],
    },
    /// A frame of sound.
    Sound(&'a [u8]),
    /// Metadata, ends of sequences.
    Nothing,
}

/// Why a message is of no use, in words for whoever set the publisher up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("the publisher's video is neither H.264 nor H.265; set its encoder to H.264")]
    Video,
    #[error("the publisher's audio is not AAC; set its encoder to AAC")]
    Audio,
    #[error("the publisher sends damaged messages")]
    Damaged,
}

/// Sizes in bytes of a file's header with the size of no tag behind it, of a tag's header, and of the size behind it.
const FILE_HEADER: usize = 13;
const TAG_HEADER: usize = 11;
const SIZE_BEHIND: usize = 4;

/// Kinds of tags.
const AUDIO: u8 = 8;
const VIDEO: u8 = 9;

/// Codecs' numbers, and H.264's and H.265's names.
const AVC: u8 = 7;
const AAC: u8 = 10;
const NAMES: [(&[u8; 4], Codec); 2] = [(b"avc1", Codec::H264), (b"hvc1", Codec::H265)];

/// A picture of no picture: a command of the publisher's.
const COMMAND: u8 = 5;

impl<'a> Tag<'a> {
    /// Reads one tag, which may have a file's header before it.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Unusable> {
        let begin = if bytes.starts_with(b"FLV") { FILE_HEADER } else { 0 };
        let tag = bytes.get(begin..).ok_or(Unusable::Damaged)?;
        let (header, rest) = tag.split_first_chunk::<TAG_HEADER>().ok_or(Unusable::Damaged)?;
        let (payload, _) = rest.split_last_chunk::<SIZE_BEHIND>().ok_or(Unusable::Damaged)?;
        let timestamp = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
        let content = match header[0] {
            VIDEO => video(payload)?,
            AUDIO => audio(payload)?,
            _ => Content::Nothing,
        };
        Ok(Self { timestamp, content })
    }
}

fn video(payload: &[u8]) -> Result<Content<'_>, Unusable> {
    match payload {
        [] => Ok(Content::Nothing),
        [first, rest @ ..] if first & 0x80 != 0 => enhanced_video(*first, rest),
        [first, ..] if first >> 4 == COMMAND => Ok(Content::Nothing),
        [first, kind, a, b, c, data @ ..] if first & 0xf == AVC => Ok(match kind {
            0 => Content::Config(Codec::H264, data),
            1 => Content::Picture { delay: signed([*a, *b, *c]), data },
            _ => Content::Nothing,
        }),
        [first, ..] if first & 0xf == AVC => Err(Unusable::Damaged),
        _ => Err(Unusable::Video),
    }
}

fn enhanced_video(first: u8, rest: &[u8]) -> Result<Content<'_>, Unusable> {
    if first >> 4 & 7 == COMMAND {
        return Ok(Content::Nothing);
    }
    let (name, rest) = rest.split_first_chunk::<4>().ok_or(Unusable::Damaged)?;
    let codec = NAMES.iter().find(|(known, _)| *known == name).map(|(_, codec)| *codec);
    let codec = codec.ok_or(Unusable::Video)?;
    match (first & 0xf, rest) {
        (0, config) => Ok(Content::Config(codec, config)),
        (1, [a, b, c, data @ ..]) => Ok(Content::Picture { delay: signed([*a, *b, *c]), data }),
        (1, _) => Err(Unusable::Damaged),
        (3, data) => Ok(Content::Picture { delay: 0, data }),
        _ => Ok(Content::Nothing),
    }
}

fn audio(payload: &[u8]) -> Result<Content<'_>, Unusable> {
    match payload {
        [] => Ok(Content::Nothing),
        [first, kind, data @ ..] if first >> 4 == AAC => Ok(match kind {
            0 => Content::Config(Codec::Aac, data),
            1 if !data.is_empty() => Content::Sound(data),
            _ => Content::Nothing,
        }),
        [first] if first >> 4 == AAC => Err(Unusable::Damaged),
        _ => Err(Unusable::Audio),
    }
}

/// 24 bits with a sign.
fn signed([a, b, c]: [u8; 3]) -> i32 {
    i32::from_be_bytes([a, b, c, 0]) >> 8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tag(kind: u8, payload: &[u8]) -> Vec<u8> {
        [&[kind, 0, 0, 0, 2, 3, 4, 1, 0, 0, 0], payload, &[0; 4]].concat()
    }

    #[test]
    fn tags_are_read() {
        let picture = |delay, data| Ok(Content::Picture { delay, data });
        for (kind, payload, expected) in [
            (VIDEO, &[0x17, 0, 0, 0, 0, 1, 2][..], Ok(Content::Config(Codec::H264, &[1, 2]))),
            (VIDEO, &[0x27, 1, 0, 0, 80, 9], picture(80, &[9])),
            (VIDEO, &[0x27, 1, 0xff, 0xff, 0xfe, 9], picture(-2, &[9])),
            (VIDEO, &[0x17, 2, 0, 0, 0], Ok(Content::Nothing)),
            (VIDEO, &[0x57, 0], Ok(Content::Nothing)),
            (VIDEO, &[], Ok(Content::Nothing)),
            (VIDEO, &[0x17, 1, 0], Err(Unusable::Damaged)),
            (VIDEO, &[0x12, 0, 0, 0, 0], Err(Unusable::Video)),
            (VIDEO, b"\x90hvc1\x07", Ok(Content::Config(Codec::H265, &[7]))),
            (VIDEO, b"\xa1hvc1\0\0\x28\x07", picture(40, &[7])),
            (VIDEO, b"\xa3hvc1\x07", picture(0, &[7])),
            (VIDEO, b"\xa2hvc1", Ok(Content::Nothing)),
            (VIDEO, b"\xa1hvc1\0", Err(Unusable::Damaged)),
            (VIDEO, b"\x90av01\0", Err(Unusable::Video)),
            (AUDIO, &[0xaf, 0, 0x12, 0x10], Ok(Content::Config(Codec::Aac, &[0x12, 0x10]))),
            (AUDIO, &[0xaf, 1, 5], Ok(Content::Sound(&[5]))),
            (AUDIO, &[0xaf, 1], Ok(Content::Nothing)),
            (AUDIO, &[0xaf], Err(Unusable::Damaged)),
            (AUDIO, &[0x2f, 1, 2], Err(Unusable::Audio)),
            (18, &[2, 0, 0], Ok(Content::Nothing)),
        ] {
            let bytes = tag(kind, payload);
            let expected = expected.map(|content| Tag { timestamp: 0x0102_0304, content });
            assert_eq!(Tag::read(&bytes), expected, "{kind} {payload:?}");
            let first = [&b"FLV\x01\x05\0\0\0\x09\0\0\0\0"[..], &bytes].concat();
            assert_eq!(Tag::read(&first), expected);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(kind in prop_oneof![Just(AUDIO), Just(VIDEO), any::<u8>()], payload: Vec<u8>) {
            let _ = Tag::read(&payload);
            let _ = Tag::read(&tag(kind, &payload));
        }
    }
}
