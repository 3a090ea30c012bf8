//! What is done with a pad, judged by its caps: pass through, encode, decode first, or leave out.

use gstreamer as gst;
use protocol::media::Kind;

/// An encoding that goes into RTP as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    H264,
    H265,
    Vp8,
    Vp9,
    Av1,
    Opus,
    Aac,
}

impl Codec {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::H264 | Self::H265 | Self::Vp8 | Self::Vp9 | Self::Av1 => Kind::Video,
            Self::Opus | Self::Aac => Kind::Audio,
        }
    }

    /// The usual name, for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::H264 => "H.264",
            Self::H265 => "H.265",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::Av1 => "AV1",
            Self::Opus => "Opus",
            Self::Aac => "AAC",
        }
    }
}

/// What becomes of a pad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// Encoded in a way that viewers know: parse and payload.
    PassThrough(Codec),
    /// Raw: encode.
    Encode(Kind),
    /// Anything that first has to be taken apart or decoded.
    Decode,
    /// Neither picture nor sound: captions, teletext, metadata.
    LeaveOut,
}

impl Plan {
    pub(super) fn for_caps(caps: &gst::CapsRef) -> Self {
        let Some(structure) = caps.structure(0) else { return Self::LeaveOut };
        let integer = |field| structure.get::<i32>(field).ok();
        match structure.name().as_str() {
            "video/x-raw" => Self::Encode(Kind::Video),
            "audio/x-raw" => Self::Encode(Kind::Audio),
            "video/x-h264" => Self::PassThrough(Codec::H264),
            "video/x-h265" => Self::PassThrough(Codec::H265),
            "video/x-vp8" => Self::PassThrough(Codec::Vp8),
            "video/x-vp9" => Self::PassThrough(Codec::Vp9),
            "video/x-av1" => Self::PassThrough(Codec::Av1),
            // More channels are another payload format, which few viewers know.
            "audio/x-opus" if integer("channels").unwrap_or(2) <= 2 => {
                Self::PassThrough(Codec::Opus)
            }
            "audio/mpeg" if integer("mpegversion") == Some(4) && is_plain_aac(structure) => {
                Self::PassThrough(Codec::Aac)
            }
            name if is_neither_picture_nor_sound(name) => Self::LeaveOut,
            _ => Self::Decode,
        }
    }

    /// Whether data of these caps, fresh from a demuxer, parser or decoder, needs no more work
    /// before it is looped: raw, or whole access units with timestamps, or not wanted at all.
    pub(super) fn is_final(caps: &gst::CapsRef) -> bool {
        let Some(structure) = caps.structure(0) else { return false };
        match Self::for_caps(caps) {
            Self::PassThrough(Codec::H264 | Codec::H265) => {
                structure.get::<&str>("alignment") == Ok("au")
            }
            Self::PassThrough(Codec::Av1) => structure.get::<&str>("alignment") == Ok("tu"),
            Self::PassThrough(Codec::Aac) => structure.get::<bool>("framed") == Ok(true),
            Self::PassThrough(_) | Self::Encode(_) | Self::LeaveOut => true,
            Self::Decode => false,
        }
    }
}

/// AAC-LC, which `MPEG4-GENERIC` (RFC 3640) carries and all decoders know: bare, or in ADTS frames
/// that a parser has looked at.
fn is_plain_aac(structure: &gst::StructureRef) -> bool {
    let text = |field| structure.get::<&str>(field).ok();
    match text("stream-format") {
        Some("raw") => has_low_complexity_config(structure),
        Some("adts") => {
            structure.get::<bool>("framed") == Ok(true) && text("profile") == Some("lc")
        }
        _ => false,
    }
}

fn has_low_complexity_config(structure: &gst::StructureRef) -> bool {
    const LOW_COMPLEXITY: u8 = 2;
    structure
        .get::<gst::Buffer>("codec_data")
        .ok()
        .and_then(|config| config.map_readable().ok()?.first().copied())
        // The audio object type is the first five bits (ISO/IEC 14496-3, section 1.6.2.1).
        .is_some_and(|first| first >> 3 == LOW_COMPLEXITY)
}

fn is_neither_picture_nor_sound(name: &str) -> bool {
    const WORDS: [&str; 6] = ["subtitle", "-ssa", "-ass", "-usf", "teletext", "x-kate"];
    ["text/", "subpicture/", "closedcaption/", "meta/"].iter().any(|start| name.starts_with(start))
        || WORDS.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn caps_decide() {
        gst::init().expect("GStreamer starts");
        let video = Plan::Encode(Kind::Video);
        for (caps, plan, is_final) in [
            ("video/x-raw,format=RGB", video, true),
            ("audio/x-raw,rate=44100", Plan::Encode(Kind::Audio), true),
            ("video/x-h264,stream-format=avc,alignment=au", Plan::PassThrough(Codec::H264), true),
            ("video/x-h264,stream-format=byte-stream", Plan::PassThrough(Codec::H264), false),
            ("video/x-vp9", Plan::PassThrough(Codec::Vp9), true),
            ("audio/x-opus,channels=2", Plan::PassThrough(Codec::Opus), true),
            ("audio/x-opus,channels=6", Plan::Decode, false),
            (
                "audio/mpeg,mpegversion=4,stream-format=raw,framed=true,codec_data=(buffer)1190",
                Plan::PassThrough(Codec::Aac),
                true,
            ),
            (
                "audio/mpeg,mpegversion=4,stream-format=raw,codec_data=(buffer)2b11",
                Plan::Decode,
                false,
            ),
            (
                "video/x-av1,stream-format=obu-stream,alignment=tu",
                Plan::PassThrough(Codec::Av1),
                true,
            ),
            ("video/x-av1", Plan::PassThrough(Codec::Av1), false),
            ("audio/mpeg,mpegversion=4,stream-format=adts", Plan::Decode, false),
            (
                "audio/mpeg,mpegversion=4,stream-format=adts,framed=true,profile=lc",
                Plan::PassThrough(Codec::Aac),
                true,
            ),
            (
                "audio/mpeg,mpegversion=4,stream-format=adts,framed=true,profile=he-aac-v1",
                Plan::Decode,
                false,
            ),
            // The parser makes nothing of it that the payloader takes.
            (
                "audio/mpeg,mpegversion=2,stream-format=adts,framed=true,profile=lc",
                Plan::Decode,
                false,
            ),
            ("audio/mpeg,mpegversion=1,layer=3", Plan::Decode, false),
            ("image/jpeg", Plan::Decode, false),
            ("application/x-rtp,media=video", Plan::Decode, false),
            ("text/x-raw,format=utf8", Plan::LeaveOut, true),
            ("application/x-teletext", Plan::LeaveOut, true),
        ] {
            let parsed = gst::Caps::from_str(caps).expect("legal caps");
            assert_eq!(Plan::for_caps(&parsed), plan, "{caps}");
            assert_eq!(Plan::is_final(&parsed), is_final, "{caps}");
        }
    }
}
