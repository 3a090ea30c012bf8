//! The formats that can be played: how each is described in RTP, taken apart, decoded, and which
//! containers hold it.

use gstreamer as gst;
use protocol::media::{Format, Kind};

use super::error::PlayerError;
use super::output::Container;

/// More tracks than this are refused: each costs threads.
const MOST_TRACKS: usize = 16;

/// Parameter sets and codec configurations are far shorter; a longer value is no description.
const LONGEST_PARAMETER: usize = 4096;

/// A payload format this viewer can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    /// RFC 6184.
    H264,
    /// RFC 7798.
    H265,
    /// RFC 7741.
    Vp8,
    /// RFC 9628.
    Vp9,
    /// RTP Payload Format For AV1, of the Alliance for Open Media.
    Av1,
    /// RFC 7587.
    Opus,
    /// RFC 3640.
    Aac,
}

/// A track's description after checking: its codec and the caps its RTP packets carry.
#[derive(Debug, Clone)]
pub(super) struct Track {
    pub(super) codec: Codec,
    pub(super) clock_rate: u32,
    pub(super) payload_type: u8,
    pub(super) caps: gst::Caps,
}

impl Codec {
    const ALL: [Self; 7] =
        [Self::H264, Self::H265, Self::Vp8, Self::Vp9, Self::Av1, Self::Opus, Self::Aac];
    const NAMES: &'static str = "H264, H265, VP8, VP9, AV1, OPUS and MPEG4-GENERIC (AAC)";

    /// The registered payload format name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::H264 => "H264",
            Self::H265 => "H265",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::Av1 => "AV1",
            Self::Opus => "OPUS",
            Self::Aac => "MPEG4-GENERIC",
        }
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::H264 | Self::H265 | Self::Vp8 | Self::Vp9 | Self::Av1 => Kind::Video,
            Self::Opus | Self::Aac => Kind::Audio,
        }
    }

    pub(super) fn depayloader(self) -> &'static str {
        match self {
            Self::H264 => "rtph264depay",
            Self::H265 => "rtph265depay",
            Self::Vp8 => "rtpvp8depay",
            Self::Vp9 => "rtpvp9depay",
            Self::Av1 => "rtpav1depay",
            Self::Opus => "rtpopusdepay",
            Self::Aac => "rtpmp4gdepay",
        }
    }

    /// What finds keyframes, sizes and durations in the coded media. VP8 needs nothing.
    pub(super) fn parser(self) -> Option<&'static str> {
        match self {
            Self::H264 => Some("h264parse"),
            Self::H265 => Some("h265parse"),
            Self::Vp8 => None,
            Self::Vp9 => Some("vp9parse"),
            Self::Av1 => Some("av1parse"),
            Self::Opus => Some("opusparse"),
            Self::Aac => Some("aacparse"),
        }
    }

    /// Decoders in the order of preference; the first one installed is used.
    pub(super) fn decoders(self) -> &'static [&'static str] {
        match self {
            Self::H264 => &["avdec_h264", "openh264dec"],
            Self::H265 => &["avdec_h265", "libde265dec"],
            Self::Vp8 => &["vp8dec", "avdec_vp8"],
            Self::Vp9 => &["vp9dec", "avdec_vp9"],
            Self::Av1 => &["av1dec", "dav1ddec", "avdec_av1"],
            Self::Opus => &["opusdec", "avdec_opus"],
            Self::Aac => &["avdec_aac", "fdkaacdec", "faad"],
        }
    }

    /// The caps between the depayloader and everything after it. Whole access units, so that the
    /// end of a picture is known from the marker and not only when the next one begins.
    pub(super) fn access_units(self) -> Option<gst::Caps> {
        let name = match self {
            Self::H264 => "video/x-h264",
            Self::H265 => "video/x-h265",
            Self::Vp8 | Self::Vp9 | Self::Av1 | Self::Opus | Self::Aac => return None,
        };
        let builder = gst::Caps::builder(name).field("stream-format", "byte-stream");
        Some(builder.field("alignment", "au").build())
    }

    /// The caps that a container wants where they differ from [`Self::access_units`].
    pub(super) fn stored(self, container: Container) -> Option<gst::Caps> {
        let (name, format) = match (self, container) {
            (_, Container::MpegTs) => return None,
            (Self::H264, _) => ("video/x-h264", "avc"),
            (Self::H265, _) => ("video/x-h265", "hvc1"),
            _ => return None,
        };
        Some(
            gst::Caps::builder(name)
                .field("stream-format", format)
                .field("alignment", "au")
                .build(),
        )
    }

    /// What encodes it anew for a container that knows another format only, in order; nothing where it stays as it is.
    pub(super) fn encoded_for(self, container: Container) -> &'static [&'static str] {
        match (self, container) {
            (Self::Opus, Container::Flv) => {
                &["opusdec", "audioconvert", "audioresample", "avenc_aac", "aacparse"]
            }
            _ => &[],
        }
    }

    /// What to use instead if the container can't hold this format.
    pub(super) fn unsuitable(self, container: Container) -> Option<&'static str> {
        match (self, container) {
            // mp4mux of GStreamer 1.22 crashes on some VP9 streams, and knows no VP8.
            (Self::Vp8 | Self::Vp9, Container::Mp4 | Container::MpegTs) => {
                Some("record to a .mkv file instead")
            }
            (Self::H265 | Self::Vp8 | Self::Vp9 | Self::Av1, Container::Flv) => {
                Some("RTMP carries H.264 alone; use srt:// or another encoder at the broadcaster")
            }
            // No transport stream that GStreamer 1.22 writes holds AV1.
            (Self::Av1, Container::MpegTs) => Some("record to a .mkv or .mp4 file instead"),
            _ => None,
        }
    }

    /// The `a=fmtp` parameters that depayloaders read; others are left out of the caps.
    fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::H264 => &["packetization-mode", "profile-level-id", "sprop-parameter-sets"],
            Self::H265 => &["sprop-vps", "sprop-sps", "sprop-pps"],
            Self::Vp8 | Self::Vp9 | Self::Av1 => &[],
            Self::Opus => &["sprop-stereo", "sprop-maxcapturerate"],
            Self::Aac => &[
                "streamtype",
                "mode",
                "config",
                "sizelength",
                "indexlength",
                "indexdeltalength",
                "constantduration",
                "profile-level-id",
            ],
        }
    }

    fn allows_clock_rate(self, rate: u32) -> bool {
        match self {
            Self::H264 | Self::H265 | Self::Vp8 | Self::Vp9 | Self::Av1 => rate == 90_000,
            Self::Opus => rate == 48_000,
            Self::Aac => (7_350..=96_000).contains(&rate),
        }
    }
}

/// Checks every track's description.
pub(super) fn tracks(formats: &[Format]) -> Result<Vec<Track>, PlayerError> {
    if formats.is_empty() || formats.len() > MOST_TRACKS {
        return Err(PlayerError::TrackCount { offered: formats.len(), most: MOST_TRACKS });
    }
    formats.iter().enumerate().map(|(index, format)| track(index, format)).collect()
}

fn track(index: usize, format: &Format) -> Result<Track, PlayerError> {
    let bad = |what: String| PlayerError::BadFormat { track: index, what };
    let codec = Codec::ALL
        .into_iter()
        .find(|codec| codec.name() == format.encoding_name && codec.kind() == format.kind)
        .ok_or_else(|| PlayerError::UnknownEncoding {
            track: index,
            name: printable(&format.encoding_name),
            known: Codec::NAMES,
        })?;
    if format.payload_type > 127 {
        return Err(bad(format!("expected a payload type up to 127, got {}", format.payload_type)));
    }
    if !codec.allows_clock_rate(format.clock_rate) {
        return Err(bad(format!("{} has no clock rate of {}", codec.name(), format.clock_rate)));
    }
    if format.channels.is_some_and(|channels| !(1..=8).contains(&channels)) {
        return Err(bad("expected 1 to 8 channels".to_owned()));
    }
    let clock_rate = format.clock_rate.cast_signed();
    let mut caps = gst::Caps::builder("application/x-rtp")
        .field("media", codec.kind().as_str())
        .field("encoding-name", codec.name())
        .field("payload", i32::from(format.payload_type))
        .field("clock-rate", clock_rate);
    if let Some(channels) = format.channels {
        caps = caps.field("encoding-params", channels.to_string());
    }
    for &name in codec.parameters() {
        let Some(value) = format.parameters.get(name) else { continue };
        if value.len() > LONGEST_PARAMETER || !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(bad(format!("expected {name} to be a short printable text")));
        }
        caps = caps.field(name, value.as_str());
    }
    if codec == Codec::Aac {
        let hex = |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !format.parameters.get("config").is_some_and(hex) {
            return Err(bad("expected config to hold AAC's configuration in hexadecimal".into()));
        }
    }
    let payload_type = format.payload_type;
    Ok(Track { codec, clock_rate: format.clock_rate, payload_type, caps: caps.build() })
}

/// A stranger's text, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().take(32).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn format(kind: Kind, name: &str, clock_rate: u32, parameters: &[(&str, &str)]) -> Format {
        Format {
            kind,
            encoding_name: name.to_owned(),
            payload_type: 96,
            clock_rate,
            channels: None,
            parameters: parameters.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            rendition: None,
        }
    }

    #[test]
    fn known_formats_become_caps_and_strange_parameters_stay_out() {
        gst::init().unwrap();
        let strange = [("packetization-mode", "1"), ("x,y=(int)5;", "1"), ("seqnum-base", "7\0")];
        let checked = tracks(&[format(Kind::Video, "H264", 90_000, &strange)]).unwrap();
        let fields = checked[0].caps.structure(0).unwrap();
        assert_eq!(fields.n_fields(), 5);
        assert_eq!(fields.get::<&str>("packetization-mode"), Ok("1"));
        assert_eq!(fields.get::<i32>("clock-rate"), Ok(90_000));
    }

    #[test]
    fn absurd_formats_are_refused() {
        gst::init().unwrap();
        let long = "a".repeat(LONGEST_PARAMETER + 1);
        let good = format(Kind::Video, "H264", 90_000, &[]);
        let cases = [
            (format(Kind::Video, "JPEG", 90_000, &[]), "JPEG"),
            (format(Kind::Video, "video/x-raw ! filesink\u{1b}[2J", 90_000, &[]), "H265"),
            (format(Kind::Audio, "H264", 90_000, &[]), "plays"),
            (format(Kind::Video, "H264", 0, &[]), "clock rate"),
            (format(Kind::Video, "VP8", u32::MAX, &[]), "clock rate"),
            (format(Kind::Audio, "OPUS", 44_100, &[]), "clock rate"),
            (format(Kind::Audio, "MPEG4-GENERIC", 48_000, &[]), "config"),
            (format(Kind::Audio, "MPEG4-GENERIC", 48_000, &[("config", "zz")]), "config"),
            (format(Kind::Video, "H264", 90_000, &[("sprop-parameter-sets", "a\0b")]), "sprop"),
            (format(Kind::Video, "H264", 90_000, &[("sprop-parameter-sets", &long)]), "sprop"),
            (Format { payload_type: 200, ..good.clone() }, "127"),
            (Format { channels: Some(0), ..good.clone() }, "channels"),
        ];
        for (bad, word) in cases {
            let error = tracks(std::slice::from_ref(&bad)).unwrap_err().to_string();
            assert!(error.contains(word) && error.is_ascii(), "{bad:?}: {error}");
        }
        assert!(tracks(&[]).is_err());
        assert!(tracks(&vec![good; 17]).is_err());
    }
}
