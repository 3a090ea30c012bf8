//! IP cameras and other RTSP servers (RFC 2326).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::super::elements::make;
use super::super::error::MediaError;
use super::super::track::{Live, Timing};
use super::REORDERING;
use super::url::Rtsp;

/// How long a server may take to answer, in microseconds: one that is away is asked again soon.
const ANSWER_TIMEOUT: &str = "3000000";

/// Asks the server for its pictures and sound.
pub(super) fn attach(live: &Arc<Live>, rtsp: &Rtsp) -> Result<(), MediaError> {
    let source = make(
        "rtspsrc",
        &[
            ("protocols", if rtsp.over_udp { "udp" } else { "tcp" }),
            ("latency", REORDERING),
            ("tcp-timeout", ANSWER_TIMEOUT),
            ("timeout", ANSWER_TIMEOUT),
        ],
    )?;
    if rtsp.any_certificate {
        source.set_property_from_str("tls-validation-flags", "0");
    }
    source.set_property("location", &rtsp.location);
    if let Some(login) = &rtsp.login {
        source.set_property("user-id", &login.user);
        source.set_property("user-pw", &login.password);
    }
    live.add(&source)?;
    follow(live, &source);
    Ok(())
}

/// Makes a track of each stream. Their pads come in any order; that of the server's description
/// is always the same, so it says which slot is whose.
fn follow(live: &Arc<Live>, source: &gst::Element) {
    let streams = Arc::<Mutex<BTreeMap<u32, usize>>>::default();
    let of_stream = |streams: &Mutex<BTreeMap<u32, usize>>, stream: u32| {
        streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&stream)
    };
    let (selecting, selected) = (live.clone(), streams.clone());
    source.connect("select-stream", false, move |arguments| {
        let stream = arguments.get(1).and_then(|number| number.get::<u32>().ok());
        let caps = arguments.get(2).and_then(|caps| caps.get::<gst::Caps>().ok());
        let media = caps.as_ref().and_then(|caps| caps.structure(0)?.get::<&str>("media").ok());
        // Cameras send what they detect as well, which is neither picture nor sound.
        let is_wanted = matches!(media, Some("video" | "audio"));
        if let Some(stream) = stream.filter(|_| is_wanted)
            && let Some(slot) = selecting.gate.add_slot()
        {
            selected.lock().unwrap_or_else(PoisonError::into_inner).insert(stream, slot);
        }
        Some(is_wanted.to_value())
    });
    let on_pad = live.clone();
    source.connect_pad_added(move |_, pad| {
        let attached = match stream_of(&pad.name()).and_then(|stream| of_stream(&streams, stream)) {
            Some(slot) => on_pad.attach_at(slot, pad, Timing::Network),
            None => on_pad.leave_out(pad),
        };
        if let Err(error) = attached {
            on_pad.fail(error);
        }
    });
    let on_last = live.clone();
    // It may come before the last pad does, from another thread: whose slot is empty is waited for.
    source.connect_no_more_pads(move |_| on_last.gate.complete());
}

/// The stream that a pad is of: `recv_rtp_src_STREAM_SSRC_TYPE`, or `stream_STREAM` where no RTP
/// session is behind it.
fn stream_of(pad: &str) -> Option<u32> {
    let rest = pad.strip_prefix("recv_rtp_src_").or_else(|| pad.strip_prefix("stream_"))?;
    rest.split('_').next()?.parse().ok()
}
