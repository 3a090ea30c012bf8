//! The modes that a camera has, and which of them is used.

use gstreamer as gst;
use serde::Serialize;

use super::config::VideoConfig;

/// How a camera gives its pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Form {
    /// Bare pictures, to be encoded.
    #[serde(rename = "raw")]
    Raw,
    /// A JPEG image for each, to be decoded and encoded.
    #[serde(rename = "MJPEG")]
    Jpeg,
    /// H.264 of the camera's own, passed through.
    #[serde(rename = "H.264")]
    H264,
}

impl Form {
    fn of(structure: &gst::StructureRef) -> Option<Self> {
        match structure.name().as_str() {
            "video/x-raw" => Some(Self::Raw),
            "image/jpeg" => Some(Self::Jpeg),
            "video/x-h264" => Some(Self::H264),
            _ => None,
        }
    }

    /// The usual name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Jpeg => "MJPEG",
            Self::H264 => "H.264",
        }
    }
}

/// A form, a size and a rate that go together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mode {
    /// The form.
    pub form: Form,
    /// Width in pixels; the greatest where it can be chosen.
    pub width: i32,
    /// Height in pixels, likewise.
    pub height: i32,
    /// Pictures a second, the most that it can be; none where the camera does not say.
    pub framerate: Option<f64>,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}x{}", self.form.name(), self.width, self.height)?;
        match self.framerate {
            Some(rate) => write!(f, " {}/s", (rate * 100.0).round() / 100.0),
            None => Ok(()),
        }
    }
}

/// The modes in these caps, of each form and size the fastest: by form, the largest first.
pub(super) fn list(offered: &gst::CapsRef) -> Vec<Mode> {
    let mut modes: Vec<Mode> = usable(offered).filter_map(|(form, _)| greatest(form)).collect();
    modes.sort_by(|one, other| {
        let size = |mode: &Mode| i64::from(mode.width) * i64::from(mode.height);
        let rate = |mode: &Mode| mode.framerate.unwrap_or(0.0);
        let by_size = size(other).cmp(&size(one)).then(other.width.cmp(&one.width));
        one.form.cmp(&other.form).then(by_size).then(rate(other).total_cmp(&rate(one)))
    });
    modes.dedup_by_key(|mode| (mode.form, mode.width, mode.height));
    modes
}

/// The largest and fastest that is left open here.
pub(super) fn greatest(form: &gst::StructureRef) -> Option<Mode> {
    let mut structure = form.to_owned();
    for side in ["width", "height"] {
        structure.fixate_field_nearest_int(side, i32::MAX);
    }
    if structure.has_field(RATE) {
        structure.fixate_field_nearest_fraction(RATE, gst::Fraction::new(i32::MAX, 1));
    }
    let rate = structure.get::<gst::Fraction>("framerate").ok();
    let rate = rate.map(|rate| f64::from(rate.numer()) / f64::from(rate.denom()));
    Some(Mode {
        form: Form::of(form)?,
        width: structure.get("width").ok()?,
        height: structure.get("height").ok()?,
        // A still picture has 0/1, and some say that anything goes.
        framerate: rate.filter(|rate| (0.01..=1000.0).contains(rate)),
    })
}

/// Picks the mode that gives the configured size at the configured rate, or comes nearest. Many
/// cameras reach their full rate only as JPEG, so rate counts before form. Of forms that do, what the
/// camera has encoded costs nothing here; but it can be neither scaled nor thinned out, so elsewhere it
/// is the last that is taken.
pub(super) fn choose(offered: &gst::CapsRef, config: &VideoConfig) -> Option<gst::Caps> {
    let side = |side: u32| i32::try_from(side).unwrap_or(i32::MAX);
    let (width, height) = (side(config.width), side(config.height));
    let framerate = gst::Fraction::new(side(config.framerate), 1);
    usable(offered)
        .filter_map(|(form, kind)| {
            let mut form = form.to_owned();
            form.fixate_field_nearest_int("width", width);
            form.fixate_field_nearest_int("height", height);
            if form.has_field(RATE) {
                form.fixate_field_nearest_fraction(RATE, framerate);
            }
            form.fixate();
            if kind == Form::H264 && !form.has_field("stream-format") {
                // As devices give it. Where nobody says so, the parser is asked what it likes best.
                form.set("stream-format", "byte-stream");
            }
            let pixels = |(width, height): (i32, i32)| f64::from(width) * f64::from(height);
            let size = (form.get("width").ok()?, form.get("height").ok()?);
            let rate = form.get::<gst::Fraction>("framerate").unwrap_or(framerate);
            let rate_ratio =
                f64::from(rate.numer()) / f64::from(rate.denom()) / f64::from(config.framerate);
            let size_ratio = pixels(size) / pixels((width, height));
            let is_wanted = size == (width, height) && (rate_ratio - 1.0).abs() < SAME_RATE;
            let by_form = match kind {
                Form::Raw => 0.05,
                Form::Jpeg => 0.0,
                Form::H264 if is_wanted => 0.1,
                Form::H264 => -2.0,
            };
            // A form that is too small or too slow loses by as much as it lacks; one that is too
            // large costs a little, for it has to be scaled down.
            let score = size_ratio.min(1.0) * rate_ratio.min(1.0)
                - 0.01 * (size_ratio - 1.0).max(0.0)
                + by_form;
            Some((score, gst::Caps::from(form)))
        })
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, caps)| caps)
}

/// The field of pictures a second. libcamera does not say what a camera can do.
const RATE: &str = "framerate";

/// The same mode, at the configured rate where its camera does that when asked, though it has not said what it can do.
pub(super) fn at_rate(wanted: &gst::Caps, config: &VideoConfig) -> gst::Caps {
    let rate = gst::Fraction::new(i32::try_from(config.framerate).unwrap_or(i32::MAX), 1);
    let Some(mode) = wanted.structure(0).filter(|mode| !mode.has_field(RATE)) else {
        return wanted.clone();
    };
    let mut asked = mode.to_owned();
    asked.set(RATE, rate);
    [asked, mode.to_owned()].into_iter().collect()
}

/// Rates that differ by less are the same: 30000/1001 and 30.
const SAME_RATE: f64 = 0.01;

/// What is known here, in memory that can be read.
fn usable(offered: &gst::CapsRef) -> impl Iterator<Item = (&gst::StructureRef, Form)> {
    let system_memory = gst::CapsFeatures::new([gst::CAPS_FEATURE_MEMORY_SYSTEM_MEMORY]);
    offered
        .iter_with_features()
        .filter(move |(_, features)| features.is_equal(&system_memory))
        .filter_map(|(structure, _)| Some((structure, Form::of(structure)?)))
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    const SLOW_RAW: &str = "video/x-raw,format=YUY2,width=1280,height=720,framerate=10/1";
    const SMALL_RAW: &str = "video/x-raw,format=YUY2,width=640,height=480,framerate=30/1";
    const FAST_RAW: &str = "video/x-raw,format=NV12,width=1280,height=720,framerate=30/1";
    const JPEG: &str = "image/jpeg,width=1280,height=720,framerate=30/1";
    const RANGE: &str =
        "video/x-raw,format=RGB,width=[1,4096],height=[1,4096],framerate=[0/1,60/1]";
    const BAYER: &str = "video/x-bayer,width=1280,height=720,framerate=30/1";
    const H264: &str = "video/x-h264,width=1280,height=720,framerate={15/1,30000/1001}";
    const LARGE_H264: &str = "video/x-h264,width=1920,height=1080,framerate=30/1";
    const SLOW_H264: &str = "video/x-h264,width=1280,height=720,framerate=15/1";

    #[test]
    fn the_form_nearest_to_the_configuration_is_chosen() {
        gst::init().expect("GStreamer starts");
        for (offered, expected) in [
            (vec![SLOW_RAW, SMALL_RAW, JPEG], Some(("image/jpeg", 1280))),
            (vec![JPEG, FAST_RAW], Some(("video/x-raw", 1280))),
            (vec![SMALL_RAW], Some(("video/x-raw", 640))),
            (vec![RANGE], Some(("video/x-raw", 1280))),
            (vec![BAYER], None),
            (vec![FAST_RAW, H264, JPEG], Some(("video/x-h264", 1280))),
            (vec![LARGE_H264, SMALL_RAW], Some(("video/x-raw", 640))),
            (vec![SLOW_H264, JPEG], Some(("image/jpeg", 1280))),
            (vec![BAYER, SLOW_H264], Some(("video/x-h264", 1280))),
        ] {
            let caps = gst::Caps::from_str(&offered.join(";")).expect("legal caps");
            let chosen = choose(&caps, &VideoConfig::default());
            let chosen = chosen.as_ref().and_then(|caps| caps.structure(0));
            let chosen =
                chosen.map(|form| (form.name().as_str(), form.get::<i32>("width").expect("fixed")));
            assert_eq!(chosen, expected, "{offered:?}");
        }
    }

    #[test]
    fn a_camera_that_says_no_rate_is_asked_for_the_configured_one() {
        gst::init().expect("GStreamer starts");
        let offered =
            gst::Caps::from_str("video/x-raw,format=NV12,width=[16,3280],height=[16,2464]");
        let wanted = choose(&offered.expect("legal caps"), &VideoConfig::default());
        let asked = at_rate(&wanted.expect("one is chosen"), &VideoConfig::default());
        let mode = "video/x-raw,format=NV12,width=1280,height=720";
        let expected = gst::Caps::from_str(&format!("{mode},framerate=30/1;{mode}"));
        assert_eq!(asked, expected.expect("legal caps"));
        assert_eq!(at_rate(&asked, &VideoConfig::default()), asked);
    }

    #[test]
    fn modes_are_listed_by_form_and_size() {
        gst::init().expect("GStreamer starts");
        let offered = [SMALL_RAW, H264, SLOW_RAW, FAST_RAW, BAYER, JPEG].join(";");
        let modes = list(&gst::Caps::from_str(&offered).expect("legal caps"));
        let modes: Vec<_> = modes.iter().map(Mode::to_string).collect();
        let expected = [
            "raw 1280x720 30/s",
            "raw 640x480 30/s",
            "MJPEG 1280x720 30/s",
            "H.264 1280x720 29.97/s",
        ];
        assert_eq!(modes, expected);
        let open = list(&gst::Caps::from_str(RANGE).expect("legal caps"));
        assert_eq!(open[0].to_string(), "raw 4096x4096 60/s");
    }
}
