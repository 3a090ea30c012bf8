//! Encoders of pictures: which there are, which one is taken, and how each is set for as little delay as it allows.

use std::fmt;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use serde::{Deserialize, Serialize};

use super::elements::missing;
use super::error::MediaError;
use super::plan::Codec;

/// What encodes pictures, as the user names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoder {
    /// H.264 by the first of these that works here: VA-API, NVENC, V4L2, Video Toolbox, x264, OpenH264.
    #[default]
    Auto,
    /// H.264 in software.
    X264,
    /// H.264 in software, by OpenH264.
    Openh264,
    /// H.265 in software.
    X265,
    /// VP8 in software.
    Vp8,
    /// VP9 in software.
    Vp9,
    /// AV1 in software: SVT-AV1, or else libaom.
    Av1,
    /// H.264 by VA-API (Intel, AMD).
    VaH264,
    /// H.265 by VA-API.
    VaH265,
    /// H.264 by NVENC (NVIDIA).
    NvH264,
    /// H.265 by NVENC.
    NvH265,
    /// H.264 by a V4L2 memory-to-memory device (Raspberry Pi and other boards).
    V4l2H264,
    /// H.265 by such a device.
    V4l2H265,
    /// H.264 by Video Toolbox (macOS).
    VtH264,
    /// H.265 by Video Toolbox.
    VtH265,
}

impl fmt::Display for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What an encoder keeps to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Aim {
    pub(super) bits_per_second: u64,
    /// Pictures from one keyframe to the next.
    pub(super) keyframe_distance: u32,
}

/// A way to encode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    encoder: Encoder,
    /// GStreamer's element.
    element: &'static str,
    codec: Codec,
    /// The form of raw pictures that it takes.
    format: &'static str,
    settings: fn(&Aim) -> Settings,
    /// What of the settings gives another bitrate to an encoder that runs; none where it takes no other then.
    rate_alone: Option<fn(&Aim) -> Settings>,
}

/// Properties and their values as in `gst-launch-1.0`. Those that an element here does not know are left out.
type Settings = Vec<(&'static str, String)>;

/// All ways, in the order in which [`Encoder::Auto`] tries those with H.264.
const WAYS: &[Way] = &[
    Way::new(Encoder::VaH264, "vah264enc", Codec::H264, "NV12", va, Some(kilobits_alone)),
    Way::new(Encoder::VaH264, "vah264lpenc", Codec::H264, "NV12", va, Some(kilobits_alone)),
    Way::new(Encoder::NvH264, "nvh264enc", Codec::H264, "NV12", nvenc, Some(kilobits_alone)),
    Way::new(Encoder::V4l2H264, "v4l2h264enc", Codec::H264, "NV12", v4l2, Some(v4l2_alone)),
    Way::new(Encoder::VtH264, "vtenc_h264", Codec::H264, "NV12", toolbox, Some(kilobits_alone)),
    Way::new(Encoder::X264, "x264enc", Codec::H264, "I420", x264, Some(kilobits_alone)),
    Way::new(Encoder::Openh264, "openh264enc", Codec::H264, "I420", openh264, Some(bits_alone)),
    Way::new(Encoder::VaH265, "vah265enc", Codec::H265, "NV12", va, Some(kilobits_alone)),
    Way::new(Encoder::VaH265, "vah265lpenc", Codec::H265, "NV12", va, Some(kilobits_alone)),
    Way::new(Encoder::NvH265, "nvh265enc", Codec::H265, "NV12", nvenc, Some(kilobits_alone)),
    Way::new(Encoder::V4l2H265, "v4l2h265enc", Codec::H265, "NV12", v4l2, Some(v4l2_alone)),
    Way::new(Encoder::VtH265, "vtenc_h265", Codec::H265, "NV12", toolbox, Some(kilobits_alone)),
    // Its property begins a new encoder within, which keeps the bounds of the former.
    Way::new(Encoder::X265, "x265enc", Codec::H265, "I420", x265, None),
    Way::new(Encoder::Vp8, "vp8enc", Codec::Vp8, "I420", vpx, Some(target_bits_alone)),
    Way::new(Encoder::Vp9, "vp9enc", Codec::Vp9, "I420", vpx, Some(target_bits_alone)),
    Way::new(Encoder::Av1, "svtav1enc", Codec::Av1, "I420", svt_av1, None),
    Way::new(Encoder::Av1, "av1enc", Codec::Av1, "I420", aom, Some(target_kilobits_alone)),
];

impl Way {
    const fn new(
        encoder: Encoder,
        element: &'static str,
        codec: Codec,
        format: &'static str,
        settings: fn(&Aim) -> Settings,
        rate_alone: Option<fn(&Aim) -> Settings>,
    ) -> Self {
        Self { encoder, element, codec, format, settings, rate_alone }
    }

    fn serves(&self, wanted: Encoder) -> bool {
        match wanted {
            Encoder::Auto => self.codec == Codec::H264,
            named => self.encoder == named,
        }
    }

    /// The element, if it is installed and its device, if it needs one, can be opened.
    fn make(&self, aim: &Aim) -> Option<gst::Element> {
        let element = gst::ElementFactory::make(self.element).build().ok()?;
        self.set(&element, aim);
        let opened = element.set_state(gst::State::Ready).is_ok();
        let closed = element.set_state(gst::State::Null).is_ok();
        (opened && closed).then_some(element)
    }

    /// Sets an element that does not run.
    pub(super) fn set(&self, element: &gst::Element, aim: &Aim) {
        set(element, (self.settings)(aim));
    }

    /// Gives an element that runs another bitrate. False where it takes no other then.
    pub(super) fn set_rate(&self, element: &gst::Element, aim: &Aim) -> bool {
        self.rate_alone.is_some_and(|settings| set(element, settings(aim)))
    }
}

/// Sets what there is to set; whether that was all.
fn set(element: &gst::Element, settings: Settings) -> bool {
    let mut is_all = true;
    for (property, value) in settings {
        // Versions and drivers differ in what there is to set.
        let known = element.find_property(property);
        let read = |known| glib::Value::deserialize_with_pspec(&value, &known).ok();
        match known.and_then(read) {
            Some(value) => element.set_property_from_value(property, &value),
            None => {
                tracing::debug!(element = %element.name(), property, "not to be set here");
                is_all = false;
            }
        }
    }
    is_all
}

/// An encoder that was picked.
#[derive(Debug)]
pub(super) struct Picked {
    pub(super) element: gst::Element,
    /// The element's name.
    pub(super) name: &'static str,
    pub(super) codec: Codec,
    /// The form of raw pictures that it takes.
    pub(super) format: &'static str,
    /// How it is set.
    pub(super) way: &'static Way,
}

/// Picks the encoder, and sets it.
///
/// # Errors
///
/// Where it is not installed, or has no device here.
pub(super) fn pick(wanted: Encoder, aim: &Aim) -> Result<Picked, MediaError> {
    let ways = || WAYS.iter().filter(|way| way.serves(wanted));
    for way in ways() {
        if let Some(element) = way.make(aim) {
            let (name, codec, format) = (way.element, way.codec, way.format);
            return Ok(Picked { element, name, codec, format, way });
        }
    }
    let installed = |way: &&Way| gst::ElementFactory::find(way.element).is_some();
    match (ways().find(installed), ways().next()) {
        (Some(way), _) => Err(MediaError::Config {
            problem: format!(
                "video.encoder is {wanted}, but its device cannot be used here ({} does not start); \
                 punchcast-broadcaster devices lists what can",
                way.element
            ),
        }),
        // The one that every machine can have.
        (None, _) if wanted == Encoder::Auto => Err(missing("x264enc")),
        (None, Some(way)) => Err(missing(way.element)),
        (None, None) => Err(MediaError::Config { problem: format!("no encoder {wanted}") }),
    }
}

/// An encoder that works here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Present {
    /// How `video.encoder` names it.
    pub encoder: Encoder,
    /// GStreamer's element.
    pub element: &'static str,
    /// What it makes, as people call it.
    pub codec: &'static str,
}

/// The encoders that work here, those that [`Encoder::Auto`] takes first in front.
///
/// # Errors
///
/// Where GStreamer does not start.
pub fn present() -> Result<Vec<Present>, MediaError> {
    super::elements::init()?;
    let aim = Aim { bits_per_second: 1_000_000, keyframe_distance: 60 };
    let mut all: Vec<Present> = Vec::new();
    for way in WAYS {
        let is_new = all.iter().all(|known| known.encoder != way.encoder);
        if is_new && way.make(&aim).is_some() {
            let codec = way.codec.name();
            all.push(Present { encoder: way.encoder, element: way.element, codec });
        }
    }
    Ok(all)
}

fn kilobits(aim: &Aim) -> String {
    aim.bits_per_second.div_ceil(1000).to_string()
}

fn kilobits_alone(aim: &Aim) -> Settings {
    vec![("bitrate", kilobits(aim))]
}

fn bits_alone(aim: &Aim) -> Settings {
    vec![("bitrate", aim.bits_per_second.to_string())]
}

fn target_bits_alone(aim: &Aim) -> Settings {
    vec![("target-bitrate", aim.bits_per_second.to_string())]
}

fn target_kilobits_alone(aim: &Aim) -> Settings {
    vec![("target-bitrate", kilobits(aim))]
}

fn v4l2_alone(aim: &Aim) -> Settings {
    vec![("extra-controls", format!("controls,video_bitrate={}", aim.bits_per_second))]
}

/// A picture comes out as soon as it went in, as one slice (so that its packets have one size), and keyframes come at
/// the configured interval only.
fn x264(aim: &Aim) -> Settings {
    vec![
        ("tune", "zerolatency".into()),
        ("speed-preset", "superfast".into()),
        // More threads would mean slices, or a picture of delay for each.
        ("threads", "1".into()),
        ("sliced-threads", "false".into()),
        ("aud", "false".into()),
        ("byte-stream", "true".into()),
        ("bitrate", kilobits(aim)),
        ("key-int-max", aim.keyframe_distance.to_string()),
        ("option-string", "scenecut=0".into()),
    ]
}

fn openh264(aim: &Aim) -> Settings {
    vec![
        ("usage-type", "camera".into()),
        ("complexity", "low".into()),
        ("rate-control", "bitrate".into()),
        ("bitrate", aim.bits_per_second.to_string()),
        ("enable-frame-skip", "false".into()),
        ("gop-size", aim.keyframe_distance.to_string()),
        ("scene-change-detection", "false".into()),
        ("slice-mode", "n-slices".into()),
        ("num-slices", "1".into()),
    ]
}

/// Half a second of bits may come at once, as x264enc has it.
fn x265(aim: &Aim) -> Settings {
    let kilobits = aim.bits_per_second.div_ceil(1000);
    vec![
        ("tune", "zerolatency".into()),
        ("speed-preset", "ultrafast".into()),
        ("bitrate", kilobits.to_string()),
        ("key-int-max", aim.keyframe_distance.to_string()),
        (
            "option-string",
            format!(
                "scenecut=0:bframes=0:rc-lookahead=0:frame-threads=1:repeat-headers=1:\
                 vbv-maxrate={kilobits}:vbv-bufsize={}",
                kilobits / 2
            ),
        ),
    ]
}

/// VP8 and VP9, as for calls.
fn vpx(aim: &Aim) -> Settings {
    vec![
        ("deadline", "1".into()),
        ("cpu-used", "8".into()),
        ("end-usage", "cbr".into()),
        ("target-bitrate", aim.bits_per_second.to_string()),
        ("keyframe-max-dist", aim.keyframe_distance.to_string()),
        ("lag-in-frames", "0".into()),
        ("buffer-size", "600".into()),
        ("buffer-initial-size", "400".into()),
        ("buffer-optimal-size", "500".into()),
        ("static-threshold", "0".into()),
        ("threads", "2".into()),
        ("row-mt", "true".into()),
    ]
}

/// As for calls. Left at its usual bounds, which are none, libaom's rate control aborts the process.
fn aom(aim: &Aim) -> Settings {
    vec![
        ("min-quantizer", "2".into()),
        ("max-quantizer", "58".into()),
        ("usage-profile", "realtime".into()),
        ("cpu-used", "9".into()),
        ("end-usage", "cbr".into()),
        ("target-bitrate", kilobits(aim)),
        ("keyframe-max-dist", aim.keyframe_distance.to_string()),
        ("lag-in-frames", "0".into()),
        ("buf-sz", "600".into()),
        ("buf-initial-sz", "400".into()),
        ("buf-optimal-sz", "500".into()),
        ("row-mt", "true".into()),
        ("threads", "2".into()),
    ]
}

fn svt_av1(aim: &Aim) -> Settings {
    vec![
        ("preset", "12".into()),
        ("target-bitrate", kilobits(aim)),
        ("intra-period-length", (aim.keyframe_distance - 1).to_string()),
        ("parameters-string", "rc=2:pred-struct=1:scd=0:lookahead=0".into()),
    ]
}

fn va(aim: &Aim) -> Settings {
    vec![
        ("rate-control", "cbr".into()),
        ("bitrate", kilobits(aim)),
        ("key-int-max", aim.keyframe_distance.to_string()),
        ("b-frames", "0".into()),
        ("target-usage", "6".into()),
        ("num-slices", "1".into()),
    ]
}

fn nvenc(aim: &Aim) -> Settings {
    vec![
        ("preset", "low-latency-hq".into()),
        ("rc-mode", "cbr".into()),
        ("zerolatency", "true".into()),
        ("bitrate", kilobits(aim)),
        ("gop-size", aim.keyframe_distance.to_string()),
        ("bframes", "0".into()),
        ("rc-lookahead", "0".into()),
    ]
}

fn v4l2(aim: &Aim) -> Settings {
    // Names of the kernel's controls.
    let controls = format!(
        "controls,video_bitrate={},video_bitrate_mode=1,h264_i_frame_period={distance},\
         video_gop_size={distance},repeat_sequence_header=1,video_b_frames=0",
        aim.bits_per_second,
        distance = aim.keyframe_distance
    );
    vec![("extra-controls", controls)]
}

fn toolbox(aim: &Aim) -> Settings {
    vec![
        ("realtime", "true".into()),
        ("allow-frame-reordering", "false".into()),
        ("bitrate", kilobits(aim)),
        ("max-keyframe-interval", aim.keyframe_distance.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const AIM: Aim = Aim { bits_per_second: 800_000, keyframe_distance: 50 };

    #[test]
    fn software_encoders_are_here_and_one_is_picked() {
        let here = present().expect("GStreamer starts");
        for encoder in [
            Encoder::X264,
            Encoder::Openh264,
            Encoder::X265,
            Encoder::Vp8,
            Encoder::Vp9,
            Encoder::Av1,
        ] {
            assert!(here.iter().any(|present| present.encoder == encoder), "{encoder}: {here:?}");
            pick(encoder, &AIM).expect("it is here");
        }
        let picked = pick(Encoder::Auto, &AIM).expect("one is here");
        assert_eq!((picked.codec, picked.name), (Codec::H264, here[0].element));
    }

    #[test]
    fn one_that_is_not_here_says_what_to_do() {
        gst::init().expect("GStreamer starts");
        if gst::ElementFactory::find("vtenc_h264").is_none() {
            let error = pick(Encoder::VtH264, &AIM).expect_err("that is on other systems");
            assert!(error.to_string().contains("vtenc_h264"), "{error}");
        }
    }

    #[test]
    fn names_are_those_of_the_configuration() {
        assert_eq!(Encoder::V4l2H264.to_string(), "v4l2-h264");
        let read: Encoder = serde_json::from_str("\"nv-h265\"").expect("a name");
        assert_eq!(read, Encoder::NvH265);
    }
}
