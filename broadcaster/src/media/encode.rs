//! Raw pictures to what the [encoder](super::encoders) makes and raw sound to Opus, with as little delay as they allow.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::config::{AudioConfig, RenditionConfig, VideoConfig};
use super::elements::{caps_filter, make};
use super::encoders::{self, Aim, Picked};
use super::error::MediaError;
use super::payload;
use super::plan::Codec;
use super::tuning::Tuned;

/// Elements to be linked in order, the last of which encodes.
pub(super) type Chain = Vec<gst::Element>;

/// The encoder whose pictures need no parser.
const X264: &str = "x264enc";

/// Opus works at 48 kHz inside, whatever it is given (RFC 7587, section 4.1).
pub(super) const OPUS_RATE: i32 = 48_000;

/// The picture that is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Picture {
    width: i32,
    height: i32,
    framerate: gst::Fraction,
    /// Whether pictures come too fast, or at a rate that is not known or changes.
    regulate: bool,
}

/// What makes a track of pictures that [`tidy`] has gone over.
pub(super) struct Pictures {
    pub(super) chain: Chain,
    /// The one of the chain that encodes, and its name.
    pub(super) encoder: gst::Element,
    pub(super) name: &'static str,
    /// What gives it another bitrate.
    pub(super) tuned: Arc<Tuned>,
    pub(super) codec: Codec,
}

/// Brings raw pictures of these caps into a form that can be scaled and encoded, and no more of them than are wanted.
/// `pace` makes them wait for their time.
pub(super) fn tidy(
    caps: &gst::CapsRef,
    config: &VideoConfig,
    pace: Option<gst::Element>,
) -> Result<Chain, MediaError> {
    let picture = fit(caps, config);
    let mut chain = Chain::new();
    let interlace = caps.structure(0).and_then(|raw| raw.get::<String>("interlace-mode").ok());
    if interlace.is_some_and(|mode| mode != "progressive") {
        // It knows few formats, and lets the others by as they are.
        chain.push(make("videoconvert", &[])?);
        chain.push(make("deinterlace", &[("fields", "top")])?);
    }
    if picture.regulate {
        // Each picture waits until the next one is there. Without that (drop-only) what is left
        // of 60 pictures a second comes at uneven steps.
        let regulator = make("videorate", &[("skip-to-first", "true")])?;
        if let Some(pad) = regulator.static_pad("sink") {
            give_durations(&pad, picture.framerate);
            give_rates(&pad);
        }
        chain.push(regulator);
    }
    chain.extend(pace);
    chain.push(make("videoconvert", &[("n-threads", "1")])?);
    Ok(chain)
}

/// The renditions of pictures of these raw caps, best first: their names, and how each is encoded.
pub(super) fn renditions(caps: &gst::CapsRef, config: &VideoConfig) -> Vec<(String, VideoConfig)> {
    let mut renditions: Vec<(String, VideoConfig)> = Vec::new();
    let names = std::iter::once(None).chain(config.renditions.iter().map(|one| one.name.clone()));
    for (name, one) in names.zip(config.all()) {
        let height = fit(caps, &one).height;
        let name = name.unwrap_or_else(|| format!("{height}p"));
        let is_taken = |name: &str| renditions.iter().any(|(other, _)| other == name);
        let mut others = (2..).map(|number| format!("{name}-{number}"));
        let name = if is_taken(&name) { others.find(|other| !is_taken(other)) } else { Some(name) };
        let name = name.unwrap_or_default();
        renditions.push((name, one));
    }
    renditions
}

/// The renditions but the first, best first, of pictures whose size is not known yet.
pub(super) fn smaller(config: &VideoConfig) -> Vec<(String, VideoConfig)> {
    let named = |(one, config): (&RenditionConfig, VideoConfig)| {
        (one.name.clone().unwrap_or_else(|| format!("{}p", one.height)), config)
    };
    config.renditions.iter().zip(config.all().into_iter().skip(1)).map(named).collect()
}

/// What pictures are encoded as that are encoded here.
///
/// # Errors
///
/// Where there is no such encoder.
pub(super) fn codec(config: &VideoConfig) -> Result<Codec, MediaError> {
    let aim = Aim { bits_per_second: config.bitrate.as_bits_per_second(), keyframe_distance: 1 };
    Ok(encoders::pick(config.encoder, &aim)?.codec)
}

/// Scales and encodes pictures of these raw caps that were made [tidy] as another configuration says.
pub(super) fn video(
    caps: &gst::CapsRef,
    config: &VideoConfig,
    tidied: &VideoConfig,
) -> Result<Pictures, MediaError> {
    let picture = fit(caps, config);
    let pictures_per_second =
        f64::from(picture.framerate.numer()) / f64::from(picture.framerate.denom());
    let keyframe_distance = config.keyframe_interval.as_secs_f64() * pictures_per_second;
    let aim = Aim {
        bits_per_second: config.bitrate.as_bits_per_second(),
        keyframe_distance: keyframe_distance.round().max(1.0) as u32,
    };
    let Picked { element: encoder, name, codec, format, way } =
        encoders::pick(config.encoder, &aim)?;
    let mut chain = Chain::new();
    if picture.framerate < fit(caps, tidied).framerate {
        chain.push(make("videorate", &[("drop-only", "true"), ("skip-to-first", "true")])?);
    }
    chain.push(make("videoscale", &[])?);
    let target = gst::Caps::builder("video/x-raw")
        .field("format", format)
        .field("width", picture.width)
        .field("height", picture.height)
        .field("framerate", picture.framerate)
        .field("interlace-mode", "progressive")
        .build();
    chain.push(caps_filter(&target)?);
    tracing::info!(
        event = "encoder_picked",
        encoder = name,
        codec = codec.name(),
        bits_per_second = aim.bits_per_second,
        width = picture.width,
        height = picture.height,
        framerate = %picture.framerate,
        "encoding with {name}"
    );
    chain.push(encoder.clone());
    // As x264enc gives them, the payloader takes them.
    if name != X264 {
        chain.extend(payload::parser(codec)?);
    }
    let tuned = Arc::new(Tuned::new(&encoder, way, aim));
    Ok(Pictures { chain, encoder, name, tuned, codec })
}

/// Gives pictures without a duration one: `videorate` aborts the process when it meets them, as
/// images and some screens come.
fn give_durations(pad: &gst::Pad, framerate: gst::Fraction) {
    let seconds = f64::from(framerate.denom()) / f64::from(framerate.numer());
    let duration = gst::ClockTime::from_nseconds((seconds * 1e9) as u64);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(buffer) = info.buffer_mut()
            && buffer.duration().is_none()
        {
            buffer.make_mut().set_duration(duration);
        }
        gst::PadProbeReturn::Ok
    });
}

/// Says of pictures without a rate that it is not known: `videorate` refuses them otherwise.
fn give_rates(pad: &gst::Pad) {
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, |_, info| {
        if let Some(gst::PadProbeData::Event(event)) = &mut info.data
            && let gst::EventView::Caps(caps) = event.view()
            && caps.caps().structure(0).is_some_and(|raw| !raw.has_field("framerate"))
        {
            let mut caps = caps.caps_owned();
            caps.make_mut().set("framerate", gst::Fraction::new(0, 1));
            *event = gst::event::Caps::new(&caps);
        }
        gst::PadProbeReturn::Ok
    });
}

/// Resamples and encodes sound of these raw caps.
pub(super) fn audio(
    caps: &gst::CapsRef,
    config: &AudioConfig,
    pace: Option<gst::Element>,
) -> Result<Chain, MediaError> {
    let mut chain = Chain::from_iter(pace);
    chain.push(make("audioconvert", &[])?);
    chain.push(make("audioresample", &[])?);
    chain.push(caps_filter(&opus_input(caps))?);
    chain.push(make(
        "opusenc",
        &[
            ("bitrate", &config.bitrate.as_bits_per_second().to_string()),
            ("bitrate-type", "cbr"),
            ("frame-size", "20"),
        ],
    )?);
    Ok(chain)
}

/// The form in which sound of these raw caps is given to the encoder: at most two channels.
pub(super) fn opus_input(caps: &gst::CapsRef) -> gst::Caps {
    let channels = caps.structure(0).and_then(|raw| raw.get::<i32>("channels").ok()).unwrap_or(2);
    gst::Caps::builder("audio/x-raw")
        .field("format", "S16LE")
        .field("layout", "interleaved")
        .field("rate", OPUS_RATE)
        .field("channels", channels.clamp(1, 2))
        .build()
}

/// The largest picture of the same shape that the configuration allows. 4:2:0 needs even sides.
fn fit(caps: &gst::CapsRef, config: &VideoConfig) -> Picture {
    let raw = caps.structure(0);
    let side = |field| raw.and_then(|raw| raw.get::<i32>(field).ok()).filter(|&side| side > 0);
    let limit = |side: u32| i32::try_from(side).unwrap_or(i32::MAX);
    let (widest, highest) = (limit(config.width), limit(config.height));
    let width = side("width").unwrap_or(widest);
    let height = side("height").unwrap_or(highest);
    let scale =
        (f64::from(widest) / f64::from(width)).min(f64::from(highest) / f64::from(height)).min(1.0);
    let even = |side: i32| ((f64::from(side) * scale / 2.0).round() as i32 * 2).max(2);
    // Rounding up must not add a line that is not there.
    let within = |scaled: i32, original: i32| scaled.min((original & !1).max(2));

    let fastest = gst::Fraction::new(limit(config.framerate), 1);
    let known = raw
        .and_then(|raw| raw.get::<gst::Fraction>("framerate").ok())
        .filter(|rate| rate.numer() > 0);
    Picture {
        width: within(even(width), width),
        height: within(even(height), height),
        framerate: known.map_or(fastest, |rate| rate.min(fastest)),
        regulate: known.is_none_or(|rate| rate > fastest),
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn pictures_fit_the_configuration() {
        gst::init().expect("GStreamer starts");
        for (raw, width, height, framerate, regulate) in [
            ("width=640,height=360,framerate=25/1", 640, 360, (25, 1), false),
            ("width=1920,height=1080,framerate=30000/1001", 1280, 720, (30_000, 1001), false),
            ("width=1080,height=1920,framerate=60/1", 406, 720, (30, 1), true),
            ("width=321,height=241,framerate=0/1", 320, 240, (30, 1), true),
            ("width=1,height=1,framerate=1/1", 2, 2, (1, 1), false),
        ] {
            let caps = gst::Caps::from_str(&format!("video/x-raw,{raw}")).expect("legal caps");
            let framerate = gst::Fraction::new(framerate.0, framerate.1);
            let expected = Picture { width, height, framerate, regulate };
            assert_eq!(fit(&caps, &VideoConfig::default()), expected, "{raw}");
        }
    }

    #[test]
    fn sound_is_mixed_down_to_stereo() {
        gst::init().expect("GStreamer starts");
        for (channels, expected) in [(1, 1), (2, 2), (6, 2)] {
            let caps = gst::Caps::builder("audio/x-raw").field("channels", channels).build();
            let input = opus_input(&caps);
            let structure = input.structure(0).expect("one structure");
            assert_eq!(structure.get::<i32>("channels"), Ok(expected));
        }
    }
}
