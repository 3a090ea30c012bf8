//! Whether this machine has what the outputs need, asked before anything is received.

use std::path::Path;
use std::sync::LazyLock;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::codec::{Codec, Track};
use super::error::PlayerError;
use super::output::{Container, Output};
use super::{v4l2, window};

/// Elements that every player needs, whatever the broadcaster sends.
const ALWAYS: &[&str] =
    &["appsrc", "appsink", "queue", "capsfilter", "fakesink", "rtpjitterbuffer"];

/// What most channels carry. Others are asked for once the broadcaster has named them.
const USUAL: &[Codec] = &[Codec::H264, Codec::Opus];

/// Finds out whether the outputs can work here: elements, display, writable
/// files. Formats are checked by [`Player::start`](super::Player::start), when they are known.
pub(crate) fn check_environment(outputs: &[Output]) -> Result<(), PlayerError> {
    initialise()?;
    for (index, output) in outputs.iter().enumerate() {
        let place = output.place();
        let is_same = |other: &Output| other == output || place.is_some() && other.place() == place;
        if outputs[..index].iter().any(is_same) {
            return Err(PlayerError::Twice(output.clone()));
        }
        match output {
            Output::Window => close(&window::open()?),
            Output::Record(recording) => check_writable(recording.path())?,
            Output::Hls(hls) => check_writable(&hls.folder().join(".writable"))?,
            Output::Snapshot(snapshot) => check_writable(snapshot.path())?,
            Output::V4l2(loopback) => v4l2::check(loopback)?,
            _ => {}
        }
    }
    needed(outputs).try_for_each(check_element)
}

/// Loads the plugins that most channels need, so that the first picture doesn't wait for them.
/// Takes up to a second on a cold machine: it is done while the path is being opened.
pub(crate) fn preload(outputs: &[Output]) {
    if initialise().is_err() {
        return;
    }
    let decoders = USUAL.iter().filter(|_| decodes(outputs)).flat_map(|c| c.decoders().first());
    let coded = USUAL.iter().flat_map(|codec| [Some(codec.depayloader()), codec.parser()]);
    for name in needed(outputs).chain(coded.flatten()).chain(decoders.copied()) {
        // Making the element runs its class's set-up too, which is most of the cost.
        let _ = gst::ElementFactory::make(name).build();
    }
}

fn close(sink: &gst::Element) {
    let _ = sink.set_state(gst::State::Null);
}

/// Whether any of the outputs wants decoded pictures and sound.
pub(super) fn decodes(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| output.container().is_none())
}

/// Checks the elements that the tracks and outputs need together.
pub(super) fn check_tracks(tracks: &[Track], outputs: &[Output]) -> Result<(), PlayerError> {
    for track in tracks {
        check_element(track.codec.depayloader())?;
        track.codec.parser().map_or(Ok(()), check_element)?;
        if decodes(outputs) {
            decoder(track.codec)?;
        }
        for output in outputs {
            let advice = output.container().and_then(|c| track.codec.unsuitable(c));
            if let Some(container) = output.container() {
                track
                    .codec
                    .encoded_for(container)
                    .iter()
                    .try_for_each(|name| check_element(name))?;
            }
            if let Some(advice) = advice {
                let (output, encoding) = (output.clone(), track.codec.name());
                return Err(PlayerError::Unsuitable { output, encoding, advice });
            }
        }
    }
    needed(outputs).try_for_each(check_element)
}

/// The best decoder installed for a codec.
pub(super) fn decoder(codec: Codec) -> Result<&'static str, PlayerError> {
    let installed = codec.decoders().iter().find(|name| check_element(name).is_ok());
    installed.copied().ok_or_else(|| missing(codec.decoders().first().copied().unwrap_or_default()))
}

/// The muxer of a container.
pub(super) fn muxer(container: Container) -> &'static str {
    match container {
        Container::Matroska => "matroskamux",
        Container::Mp4 => "mp4mux",
        Container::MpegTs => "mpegtsmux",
        Container::Flv => "flvmux",
    }
}

pub(crate) fn initialise() -> Result<(), PlayerError> {
    static STARTED: LazyLock<Result<(), String>> = LazyLock::new(|| {
        gst::init().map_err(|error| error.to_string())?;
        // The payload format of AV1. What else it brings has names that nothing here asks for.
        gstrsrtp::plugin_register_static().map_err(|error| error.to_string())
    });
    STARTED.clone().map_err(PlayerError::Library)
}

fn needed(outputs: &[Output]) -> impl Iterator<Item = &'static str> {
    let each = outputs.iter().flat_map(|output| {
        let sinks: &[&str] = match output {
            Output::Window => &[
                "videoconvert",
                "videoscale",
                "textoverlay",
                "audioconvert",
                "audioresample",
                "volume",
                "autoaudiosink",
            ],
            Output::Null => &[],
            Output::Snapshot(_) => &["videoconvert", "jpegenc"],
            Output::V4l2(_) => &["videoconvert", "videoscale", "identity", "v4l2sink"],
            Output::Record(recording) if recording.parts().is_some() => {
                &["filesink", "splitmuxsink"]
            }
            Output::Record(_) => &["filesink"],
            Output::Udp { .. } => &["udpsink"],
            Output::Srt(_) => &["srtsink"],
            Output::Rtmp(_) => &["rtmp2sink"],
            Output::Hls(_) => &[],
            Output::Stdout => &["fdsink"],
        };
        sinks.iter().copied().chain(output.container().map(muxer))
    });
    ALWAYS.iter().copied().chain(each.collect::<Vec<_>>())
}

fn check_element(name: &str) -> Result<(), PlayerError> {
    gst::ElementFactory::find(name).map(drop).ok_or_else(|| missing(name))
}

/// The error for an element that isn't there.
pub(super) fn missing(name: &str) -> PlayerError {
    PlayerError::MissingElement { element: name.to_owned(), package: package(name) }
}

/// The Debian package that brings an element.
fn package(name: &str) -> &'static str {
    match name {
        "queue" | "capsfilter" | "identity" | "fakesink" | "filesink" | "fdsink" => {
            "libgstreamer1.0-0"
        }
        "appsrc" | "appsink" | "videoconvert" | "videoscale" | "audioconvert" | "audioresample"
        | "volume" | "opusdec" => "gstreamer1.0-plugins-base",
        "h264parse" | "h265parse" | "vp9parse" | "av1parse" | "av1dec" | "mpegtsmux"
        | "opusparse" | "openh264dec" | "libde265dec" | "faad" | "waylandsink" | "srtsink"
        | "rtmp2sink" => "gstreamer1.0-plugins-bad",
        "xvimagesink" | "textoverlay" => "gstreamer1.0-x",
        _ if name.starts_with("avdec_") || name.starts_with("avenc_") => "gstreamer1.0-libav",
        _ => "gstreamer1.0-plugins-good",
    }
}

/// Opens the file for writing without changing it, and leaves none behind that wasn't there.
fn check_writable(path: &Path) -> Result<(), PlayerError> {
    let existed = path.exists();
    let opened = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
    match opened {
        Ok(_) if existed => Ok(()),
        Ok(_) => std::fs::remove_file(path).or(Ok(())),
        Err(error) => {
            Err(PlayerError::RecordPath { path: path.to_owned(), reason: error.to_string() })
        }
    }
}
