//! Making GStreamer elements, and saying what to install when one is missing.

use std::sync::LazyLock;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::error::{MediaError, one_line};

/// Elements that the `test` source and most others go through. Which encoder of pictures, is chosen among those there are.
const REQUIRED: [&str; 15] = [
    "queue",
    "capsfilter",
    "clocksync",
    "decodebin",
    "videotestsrc",
    "audiotestsrc",
    "timeoverlay",
    "videoconvert",
    "videoscale",
    "audioconvert",
    "audioresample",
    "h264parse",
    "opusenc",
    "rtph264pay",
    "rtpopuspay",
];

/// Debian's packages and the elements of each that a broadcaster is likely to miss.
const PACKAGES: [(&str, &[&str]); 8] = [
    ("gstreamer1.0-pipewire", &["pipewiresrc"]),
    ("gstreamer1.0-plugins-ugly", &["x264enc", "asfdemux", "mpeg2dec", "a52dec"]),
    (
        "gstreamer1.0-plugins-bad",
        &[
            "h264parse",
            "h265parse",
            "vp9parse",
            "av1parse",
            "openh264enc",
            "x265enc",
            "srtsrc",
            "tsdemux",
            "mpegtsmux",
            "rtmp2src",
            "opusparse",
            "faad",
            "webrtcbin",
            "ivfparse",
        ],
    ),
    (
        "gstreamer1.0-plugins-good",
        &[
            "v4l2src",
            "rtph264pay",
            "rtph265pay",
            "rtpvp8pay",
            "rtpvp9pay",
            "rtpopuspay",
            "rtpmp4gpay",
            "rtspsrc",
            "udpsrc",
            "qtdemux",
            "matroskademux",
            "flvdemux",
            "vp8enc",
            "vp9enc",
            "aacparse",
            "deinterlace",
            "jpegdec",
            "ximagesrc",
            "rtpjitterbuffer",
            "rtph264depay",
            "rtpmp2tdepay",
            "capssetter",
        ],
    ),
    (
        "gstreamer1.0-plugins-base",
        &[
            "decodebin",
            "videotestsrc",
            "audiotestsrc",
            "videoconvert",
            "videoscale",
            "videorate",
            "audioconvert",
            "audioresample",
            "opusenc",
            "appsrc",
            "appsink",
        ],
    ),
    ("gstreamer1.0-x", &["timeoverlay", "clockoverlay", "textoverlay"]),
    ("gstreamer1.0-libav", &["avdec_h264", "avdec_aac", "avenc_aac"]),
    (
        "libgstreamer1.0-0",
        &["queue", "capsfilter", "clocksync", "filesrc", "fakesink", "identity", "tee"],
    ),
];

/// Starts GStreamer and looks for every element that broadcasting needs.
pub fn check_environment() -> Result<(), MediaError> {
    init()?;
    match REQUIRED.into_iter().find(|name| gst::ElementFactory::find(name).is_none()) {
        Some(name) => Err(missing(name)),
        None => Ok(()),
    }
}

/// Starts GStreamer; again is fine.
pub(super) fn init() -> Result<(), MediaError> {
    static STARTED: LazyLock<Result<(), MediaError>> = LazyLock::new(|| {
        gst::init().map_err(|error| MediaError::Init { reason: one_line(error.message()) })?;
        // The payload format of AV1. What else it brings has names that nothing here asks for, and
        // ranks no higher than what is installed.
        gstrsrtp::plugin_register_static()
            .map_err(|error| MediaError::Init { reason: one_line(&error.message) })
    });
    STARTED.clone()
}

/// The error for an element that is not installed.
pub(super) fn missing(element: &str) -> MediaError {
    let package =
        PACKAGES.iter().find(|(_, elements)| elements.contains(&element)).map(|(name, _)| *name);
    let remedy = match package {
        Some(package) => format!("install the Debian package {package}"),
        None => "check its name, or install the Debian package that holds it".to_owned(),
    };
    MediaError::MissingElement { element: element.to_owned(), remedy }
}

/// Makes an element with properties as they are written in `gst-launch-1.0`.
pub(super) fn make(name: &str, properties: &[(&str, &str)]) -> Result<gst::Element, MediaError> {
    let factory = gst::ElementFactory::find(name).ok_or_else(|| missing(name))?;
    let mut builder = factory.create();
    for (property, value) in properties {
        builder = builder.property_from_str(property, value);
    }
    builder.build().map_err(|_| missing(name))
}

/// Makes an element that lets only these caps by.
pub(super) fn caps_filter(caps: &gst::Caps) -> Result<gst::Element, MediaError> {
    let filter = make("capsfilter", &[])?;
    filter.set_property("caps", caps);
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_is_here() {
        check_environment().expect("every plugin package is installed");
    }

    #[test]
    fn a_missing_element_names_its_package() {
        init().expect("GStreamer starts");
        let error = missing("x264enc").to_string();
        assert!(
            error.contains("x264enc") && error.contains("gstreamer1.0-plugins-ugly"),
            "{error}"
        );
        let error = make("no-such-element", &[]).expect_err("no element has this name").to_string();
        assert!(error.contains("no-such-element"), "{error}");
    }

    #[test]
    fn every_required_element_has_a_package() {
        for element in REQUIRED {
            assert!(PACKAGES.iter().any(|(_, elements)| elements.contains(&element)), "{element}");
        }
    }
}
