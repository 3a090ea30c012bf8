//! RTP packets that others send to a port here (RFC 3550): a transport stream (RFC 2250), or
//! pictures and sound by their payload types.

use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::super::elements::{caps_filter, make};
use super::super::error::MediaError;
use super::super::fragment;
use super::super::track::{Live, Timing, cannot_build};
use super::url::{Payload, Rtp};
use super::{REORDERING, steady};

/// The kernel's room for datagrams, in bytes: a keyframe comes at once.
const RECEIVE_BUFFER: &str = "2097152";

/// A transport stream's payload type (RFC 3551, table 5).
const TRANSPORT_STREAM: i32 = 33;

/// Listens for packets.
pub(super) fn attach(live: &Arc<Live>, rtp: &Rtp) -> Result<(), MediaError> {
    let source = make("udpsrc", &[("buffer-size", RECEIVE_BUFFER)])?;
    source.set_property("port", i32::from(rtp.port));
    if !rtp.host.is_empty() {
        source.set_property("address", &rtp.host);
    }
    live.add(&source)?;
    if rtp.payloads.is_empty() {
        return attach_transport_stream(live, &source);
    }
    source.set_property("caps", gst::Caps::new_empty_simple("application/x-rtp"));
    ask_nobody_for_room(&source)?;
    let all = make("tee", &[])?;
    live.add(&all)?;
    source.link(&all).map_err(cannot_build)?;
    // Each has its track from the beginning, so that their order is always the same.
    for payload in &rtp.payloads {
        attach_payload(live, &all, payload)?;
    }
    live.gate.complete();
    Ok(())
}

/// Makes a track of the packets of one payload type.
fn attach_payload(
    live: &Arc<Live>,
    all: &gst::Element,
    payload: &Payload,
) -> Result<(), MediaError> {
    let only = make("capssetter", &[("replace", "true"), ("join", "false")])?;
    only.set_property("caps", caps(payload));
    let sink = only.static_pad("sink").ok_or_else(|| cannot_build("a filter without a pad"))?;
    let (payload_type, gate) = (payload.payload_type, live.gate.clone());
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if !info.buffer().is_some_and(|packet| is_of_type(packet, payload_type)) {
            return gst::PadProbeReturn::Handled;
        }
        gate.begin();
        gst::PadProbeReturn::Ok
    });
    let order = make("rtpjitterbuffer", &[("latency", REORDERING)])?;
    live.add(&only)?;
    live.add(&order)?;
    gst::Element::link_many([all, &only, &order]).map_err(cannot_build)?;
    let pad = order.static_pad("src").ok_or_else(|| cannot_build("a buffer without a pad"))?;
    live.attach(&pad, Timing::Network)
}

/// Whether this is an RTP packet of this payload type.
fn is_of_type(packet: &gst::BufferRef, payload_type: u8) -> bool {
    let mut header = [0; 2];
    packet.copy_to_slice(0, &mut header).is_ok()
        && header[0] >> 6 == 2
        && header[1] & 0x7f == payload_type
}

/// Answers the source's question where to put packets. It waits in line behind packets, and one
/// track that has not begun would hold up the packets of all.
fn ask_nobody_for_room(source: &gst::Element) -> Result<(), MediaError> {
    let pad = source.static_pad("src").ok_or_else(|| cannot_build("a source without a pad"))?;
    pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, info| match info.query() {
        Some(query) if query.type_() == gst::QueryType::Allocation => gst::PadProbeReturn::Drop,
        _ => gst::PadProbeReturn::Ok,
    });
    Ok(())
}

fn attach_transport_stream(live: &Arc<Live>, source: &gst::Element) -> Result<(), MediaError> {
    let caps = gst::Caps::builder("application/x-rtp")
        .field("media", "video")
        .field("clock-rate", 90_000)
        .field("encoding-name", "MP2T")
        .field("payload", TRANSPORT_STREAM)
        .build();
    let chain = [
        caps_filter(&caps)?,
        make("rtpjitterbuffer", &[("latency", REORDERING)])?,
        make("rtpmp2tdepay", &[])?,
        make("tsdemux", &[])?,
    ];
    source.set_property("caps", &caps);
    let mut before = source;
    for element in &chain {
        live.add(element)?;
        before.link(element).map_err(cannot_build)?;
        before = element;
    }
    steady::steady(live, before)?;
    fragment::attach_late(live, &[before], Timing::Interleaved);
    Ok(())
}

fn caps(payload: &Payload) -> gst::Caps {
    let (name, clock_rate) = payload.encoding.name_and_rate();
    gst::Caps::builder("application/x-rtp")
        .field("media", if payload.encoding.is_video() { "video" } else { "audio" })
        .field("clock-rate", clock_rate)
        .field("encoding-name", name)
        .field("payload", i32::from(payload.payload_type))
        .build()
}
