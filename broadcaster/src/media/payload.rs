//! Encoded access units into RTP packets, and the description of the packets in SDP's words.

use std::collections::BTreeMap;
use std::str::FromStr;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_base as gst_base;
use gstreamer_base::prelude::*;
use protocol::media::{Format, Kind};
use protocol::size::MAX_RTP_PACKET;

use super::elements::{caps_filter, make};
use super::error::{MediaError, one_line};
use super::plan::Codec;
use super::{nal, obu};

/// First dynamic payload type (RFC 3551, section 6); each track has its own.
const FIRST_PAYLOAD_TYPE: usize = 96;

/// How many dynamic payload types there are.
pub(super) const MAX_TRACKS: usize = 32;

/// Bytes that tell how long a frame of AAC is (ISO/IEC 14496-3, 1.A.3.2), with those of its checksum and of what the parser looks
/// at besides.
const ADTS_HEADER: u32 = 10;

/// What brings data of any source into the form that [`payloader`] wants.
pub(super) fn parser(codec: Codec) -> Result<Vec<gst::Element>, MediaError> {
    // Parameter sets before each keyframe, so that a viewer can join at any of them.
    let repeat: &[(&str, &str)] = &[("config-interval", "-1")];
    let (parser, caps) = match codec {
        Codec::H264 => (make("h264parse", repeat)?, "video/x-h264,stream-format=avc,alignment=au"),
        Codec::H265 => (make("h265parse", repeat)?, "video/x-h265,stream-format=hvc1,alignment=au"),
        Codec::Av1 => (make("av1parse", &[])?, "video/x-av1,stream-format=obu-stream,alignment=tu"),
        Codec::Vp8 | Codec::Vp9 => return Ok(Vec::new()),
        Codec::Opus => return Ok(vec![make("opusparse", &[])?]),
        Codec::Aac => (make("aacparse", &[])?, "audio/mpeg,mpegversion=4,stream-format=raw"),
    };
    let caps = gst::Caps::from_str(caps)
        .map_err(|error| MediaError::Track { reason: one_line(&error.to_string()) })?;
    let filter = caps_filter(&caps)?;
    if codec == Codec::Aac {
        part_at_once(&parser);
    }
    if let Some(pad) = filter.static_pad("src") {
        match codec {
            Codec::H264 | Codec::H265 => nal::tidy(codec, &pad),
            Codec::Av1 => obu::complete(&pad),
            _ => {}
        }
    }
    Ok(vec![parser, filter])
}

/// Has `aacparse` part sound into frames as it comes. It waits for as many bytes as one of the first frames had, from then on:
/// frames of silence are much smaller, and came by the second.
fn part_at_once(parser: &gst::Element) {
    let Some(pad) = parser.static_pad("sink") else { return };
    pad.add_probe(gst::PadProbeType::BUFFER, |pad, _| {
        if let Some(parser) = pad.parent().and_downcast::<gst_base::BaseParse>() {
            parser.set_min_frame_size(ADTS_HEADER);
        }
        gst::PadProbeReturn::Ok
    });
}

/// The same, for what a `decodebin` takes for it.
pub(super) fn part_at_once_within(decoder: &gst::Element) {
    decoder.connect("deep-element-added", false, |arguments| {
        let element = arguments.get(2).and_then(|element| element.get::<gst::Element>().ok())?;
        if element.factory().is_some_and(|factory| factory.name() == "aacparse") {
            part_at_once(&element);
        }
        None
    });
}

/// Makes the payloader of a track. RTP timestamps are running time in clock ticks plus an offset.
pub(super) fn payloader(
    codec: Codec,
    slot: usize,
    offset: u32,
) -> Result<gst::Element, MediaError> {
    // Small NAL units wait for the slice behind them and no longer.
    const NAL_UNITS: Option<(&str, &str)> = Some(("aggregate-mode", "zero-latency"));
    const PICTURES: Option<(&str, &str)> = Some(("picture-id-mode", "15-bit"));
    // Otherwise timestamps count bytes. AV1's payloader knows no such mode.
    const TRUE_TIME: Option<(&str, &str)> = Some(("perfect-rtptime", "false"));
    let (name, own) = match codec {
        Codec::H264 => ("rtph264pay", [TRUE_TIME, NAL_UNITS]),
        Codec::H265 => ("rtph265pay", [TRUE_TIME, NAL_UNITS]),
        Codec::Vp8 => ("rtpvp8pay", [TRUE_TIME, PICTURES]),
        Codec::Vp9 => ("rtpvp9pay", [TRUE_TIME, PICTURES]),
        Codec::Av1 => ("rtpav1pay", [None, None]),
        Codec::Opus => ("rtpopuspay", [TRUE_TIME, None]),
        Codec::Aac => ("rtpmp4gpay", [TRUE_TIME, None]),
    };
    let mtu = MAX_RTP_PACKET.to_string();
    let payload_type = (FIRST_PAYLOAD_TYPE + slot % MAX_TRACKS).to_string();
    let offset = offset.to_string();
    let mut properties =
        vec![("mtu", mtu.as_str()), ("pt", &payload_type), ("timestamp-offset", &offset)];
    properties.extend(own.into_iter().flatten());
    make(name, &properties)
}

/// Reads a payloader's caps.
pub(super) fn format(caps: &gst::CapsRef) -> Option<Format> {
    let structure = caps.structure(0).filter(|rtp| rtp.name() == "application/x-rtp")?;
    let text = |field| structure.get::<&str>(field).ok();
    let kind = match text("media")? {
        "video" => Kind::Video,
        "audio" => Kind::Audio,
        _ => return None,
    };
    // The other texts are the payloader's format parameters, save for attributes of their own.
    let is_parameter = |name: &str| {
        !["media", "encoding-name", "encoding-params", "profile", "level"].contains(&name)
            && !["a-", "x-"].iter().any(|start| name.starts_with(start))
    };
    let parameters: BTreeMap<_, _> = structure
        .iter()
        .filter(|(name, _)| is_parameter(name))
        .filter_map(|(name, value)| Some((name.to_string(), value.get::<String>().ok()?)))
        .collect();
    Some(Format {
        kind,
        encoding_name: text("encoding-name")?.to_ascii_uppercase(),
        payload_type: structure.get::<i32>("payload").ok()?.try_into().ok()?,
        clock_rate: structure.get::<i32>("clock-rate").ok()?.try_into().ok()?,
        channels: text("encoding-params").and_then(|channels| channels.parse().ok()),
        parameters,
        rendition: None,
    })
}

#[cfg(test)]
mod tests {
    use gstreamer_app as gst_app;

    use super::*;

    #[test]
    fn caps_read_as_a_format() {
        gst::init().expect("GStreamer starts");
        let caps = gst::Caps::from_str(
            "application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96,\
             packetization-mode=(string)1,sprop-parameter-sets=(string)\"a,b\",ssrc=(uint)1,\
             a-framerate=(string)25",
        )
        .expect("legal caps");
        let format = format(&caps).expect("an RTP format");
        assert_eq!(
            (format.kind, format.clock_rate, format.payload_type),
            (Kind::Video, 90_000, 96)
        );
        assert_eq!(format.channels, None);
        let parameters = [("packetization-mode", "1"), ("sprop-parameter-sets", "a,b")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(format.parameters, BTreeMap::from(parameters));
    }

    #[test]
    fn frames_of_silence_wait_for_nothing() {
        gst::init().expect("GStreamer starts");
        let caps = gst::Caps::from_str("audio/mpeg,mpegversion=4,stream-format=adts");
        let source = gst_app::AppSrc::builder().caps(&caps.expect("legal caps")).build();
        let sink = gst_app::AppSink::builder().sync(false).build();
        let pipeline = gst::Pipeline::new();
        let parser = parser(Codec::Aac).expect("the parser is there");
        let chain = [&[source.clone().upcast()], &parser[..], &[sink.clone().upcast()]].concat();
        pipeline.add_many(&chain).expect("they are new");
        gst::Element::link_many(&chain).expect("they fit");
        pipeline.set_state(gst::State::Playing).expect("it starts");
        // Two channels of 48 kHz; the first frames are large.
        for size in [300_u16, 200].into_iter().chain([13; 30]) {
            let [high, low] = (size << 5 | 0x1f).to_be_bytes();
            let mut frame = vec![0xff, 0xf1, 0x4c, 0x80, high, low, 0xfc];
            frame.resize(usize::from(size), 0x21);
            source.push_buffer(gst::Buffer::from_slice(frame)).expect("it is taken");
        }
        // The first is believed once the second has come, and nothing more is needed.
        for number in 0..32 {
            let frame = sink.try_pull_sample(gst::ClockTime::from_seconds(10));
            assert!(frame.is_some(), "frame {number} is kept back");
        }
        pipeline.set_state(gst::State::Null).expect("it stops");
    }
}
