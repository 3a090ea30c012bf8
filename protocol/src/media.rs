//! How a track's media is described, in the words of SDP (RFC 8866): what the broadcaster's
//! payloader made and the viewer's depayloader needs.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

/// Picture or sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Kind {
    /// Coded pictures.
    #[n(0)]
    Video,
    /// Coded sound.
    #[n(1)]
    Audio,
}

impl Kind {
    /// The name used in logs, metrics and GStreamer caps.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Audio => "audio",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An RTP payload format with its parameters: what SDP says in `a=rtpmap` and `a=fmtp`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Format {
    /// Picture or sound.
    #[n(0)]
    pub kind: Kind,
    /// Registered payload format name in upper case: `H264`, `OPUS`, `MPEG4-GENERIC`, …
    #[n(1)]
    pub encoding_name: String,
    /// RTP payload type, 0–127.
    #[n(2)]
    pub payload_type: u8,
    /// RTP clock, in Hz.
    #[n(3)]
    pub clock_rate: u32,
    /// SDP's encoding parameters: the number of channels of a sound track where the format has it.
    #[n(4)]
    pub channels: Option<u8>,
    /// Format parameters (`a=fmtp`), such as `packetization-mode` or `sprop-parameter-sets`.
    #[n(5)]
    pub parameters: BTreeMap<String, String>,
    /// The rendition that this is, where one picture comes in several sizes: each viewer is sent one of them. Best
    /// first, in the order of the tracks.
    #[n(6)]
    pub rendition: Option<String>,
}

impl Format {
    /// Whether who receives this one can go on with the other, whose parameters come in band.
    pub fn is_like(&self, other: &Self) -> bool {
        let essentials =
            |format: &Self| (format.kind, format.clock_rate, format.channels, format.payload_type);
        essentials(self) == essentials(other)
            && self.encoding_name == other.encoding_name
            && self.rendition == other.rendition
    }

    /// For each track, which rendition it is, 0 for the best; `None` for what every viewer gets.
    pub fn renditions(formats: &[Self]) -> Vec<Option<usize>> {
        let mut next = 0..;
        formats.iter().map(|format| format.rendition.as_ref().and_then(|_| next.next())).collect()
    }

    /// As [`Self::is_like`], track by track.
    pub fn are_like(these: &[Self], others: &[Self]) -> bool {
        these.len() == others.len()
            && these.iter().zip(others).all(|(this, other)| this.is_like(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_nothing_else_may_change_in_band() {
        let format = Format {
            kind: Kind::Audio,
            encoding_name: "OPUS".to_owned(),
            payload_type: 97,
            clock_rate: 48_000,
            channels: Some(2),
            parameters: [("stereo".to_owned(), "1".to_owned())].into(),
            rendition: None,
        };
        let alike = Format { parameters: [].into(), ..format.clone() };
        assert!(format.is_like(&alike) && format != alike);
        for other in [
            Format { kind: Kind::Video, ..format.clone() },
            Format { encoding_name: "L16".to_owned(), ..format.clone() },
            Format { payload_type: 98, ..format.clone() },
            Format { clock_rate: 44_100, ..format.clone() },
            Format { channels: None, ..format.clone() },
            Format { rendition: Some("360p".to_owned()), ..format.clone() },
        ] {
            assert!(!format.is_like(&other), "{other:?}");
            assert!(!Format::are_like(std::slice::from_ref(&format), &[other]));
        }
        assert!(Format::are_like(
            &[format.clone(), alike.clone()],
            &[alike.clone(), format.clone()]
        ));
        assert!(!Format::are_like(&[format.clone(), alike], &[format]), "one more track");
        assert!(Format::are_like(&[], &[]));
    }
}
