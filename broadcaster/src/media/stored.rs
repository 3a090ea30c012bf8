//! What is asked of a stored file that anybody may have put there: which tracks pass through, and that
//! nothing but the file itself is opened while it is taken apart.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::plan::Plan;
use super::transport_stream;

/// By so much, or a quarter, a demultiplexer's guess may be off.
const MOST_OFF: Duration = Duration::from_secs(2);

/// Containers and tags whose media types do not say picture or sound.
const CONTAINERS: [&str; 6] = [
    "application/gxf",
    "application/mxf",
    "application/ogg",
    "application/vnd.rn-realmedia",
    "application/x-apetag",
    "application/x-id3",
];

/// Whether data of these caps is sent as it is stored.
pub(crate) fn passes_through(caps: &gst::CapsRef) -> bool {
    matches!(Plan::for_caps(caps), Plan::PassThrough(_))
}

/// How long a file plays, whose demultiplexer says, or guesses, that it plays so long.
pub(crate) fn duration(file: &Path, said: Option<Duration>) -> Option<Duration> {
    let Some(exact) = transport_stream::duration(file) else { return said };
    let is_near = |said: Duration| said.abs_diff(exact) <= MOST_OFF.max(said / 4);
    // Where a stream was put together from several, its times begin anew within it.
    if said.is_none_or(is_near) { Some(exact) } else { said }
}

/// Keeps a `decodebin` or `parsebin` from following what a file only points at.
///
/// Playlists, manifests (HLS, DASH) and session descriptions are files too, of any name; the elements that
/// read them open other files, hosts and ports. What is neither container, picture nor sound is left as it is.
/// So is a file that is a single picture by itself: there is nothing to play.
pub(crate) fn keep_to_the_file(bin: &gst::Element) {
    let is_file = AtomicBool::new(true);
    bin.connect("autoplug-continue", false, move |arguments| {
        let caps = arguments.get(2).and_then(|caps| caps.get::<gst::Caps>().ok());
        let is_file = is_file.swap(false, Ordering::AcqRel);
        let goes_on =
            caps.is_some_and(|caps| is_self_contained(&caps) && !(is_file && is_picture(&caps)));
        Some(goes_on.to_value())
    });
}

fn is_picture(caps: &gst::CapsRef) -> bool {
    caps.structure(0).is_some_and(|structure| structure.name().starts_with("image/"))
}

/// Whether data of these caps holds all that it needs.
fn is_self_contained(caps: &gst::CapsRef) -> bool {
    caps.structure(0).is_some_and(|structure| {
        let name = structure.name().as_str();
        ["video/", "audio/", "image/"].iter().any(|start| name.starts_with(start))
            || CONTAINERS.contains(&name)
    })
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn caps_decide() {
        gst::init().expect("GStreamer starts");
        for (caps, passes, is_kept) in [
            ("video/x-h264,stream-format=avc,alignment=au", true, true),
            ("video/mpeg,mpegversion=2", false, true),
            ("audio/x-opus,channels=6", false, true),
            ("video/quicktime", false, true),
            ("application/ogg", false, true),
            ("application/x-hls", false, false),
            ("application/dash+xml", false, false),
            ("application/vnd.ms-sstr+xml", false, false),
            ("application/sdp", false, false),
            ("application/x-rtp,media=video", false, false),
            ("text/uri-list", false, false),
        ] {
            let parsed = gst::Caps::from_str(caps).expect("legal caps");
            assert_eq!(passes_through(&parsed), passes, "{caps}");
            assert_eq!(is_self_contained(&parsed), is_kept, "{caps}");
        }
    }
}
