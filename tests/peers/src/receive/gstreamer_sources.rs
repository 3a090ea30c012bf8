//! Receivers of SRT and WebRTC: GStreamer's own, up to where packets are decrypted and in hand.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use gstreamer as gst;
use gstreamer::prelude::*;

use super::Counters;
use crate::kind::Kind;
use crate::send::PORT;

/// Starts a receiver for each viewer, all in one pipeline.
pub(super) fn start(kind: Kind, near: Ipv4Addr, counters: &Counters) -> Result<gst::Pipeline> {
    gst::init().context("starting GStreamer")?;
    if kind == Kind::Webrtcsink {
        gstrswebrtc::plugin_register_static().context("registering webrtcsrc")?;
    }
    let pipeline = gst::Pipeline::new();
    for viewer in 0..counters.viewers() {
        match kind {
            Kind::Webrtcsink => add_webrtcsrc(&pipeline, near, viewer, counters)?,
            _ => add_srtsrc(&pipeline, kind, near, viewer, counters)?,
        }
    }
    pipeline.set_state(gst::State::Playing).context("starting the receivers")?;
    Ok(pipeline)
}

pub(super) fn stop(pipeline: &gst::Pipeline) -> Result<()> {
    pipeline.set_state(gst::State::Null).context("stopping the receivers")?;
    Ok(())
}

fn add_srtsrc(
    pipeline: &gst::Pipeline,
    kind: Kind,
    near: Ipv4Addr,
    viewer: usize,
    counters: &Counters,
) -> Result<()> {
    let mut source = gst::ElementFactory::make("srtsrc")
        .property("uri", format!("srt://{near}:{PORT}?mode=caller"));
    if let Some(passphrase) = kind.passphrase() {
        source = source.property("passphrase", passphrase).property_from_str("pbkeylen", "16");
    }
    let source =
        source.build().context("srtsrc is missing: apt-get install gstreamer1.0-plugins-bad")?;
    let sink = gst::ElementFactory::make("fakesink")
        .property("sync", false)
        .property("async", false)
        .build()?;
    pipeline.add_many([&source, &sink])?;
    source.link(&sink)?;
    count(&source, "src", viewer, counters)
}

fn add_webrtcsrc(
    pipeline: &gst::Pipeline,
    near: Ipv4Addr,
    viewer: usize,
    counters: &Counters,
) -> Result<()> {
    let source = gst::ElementFactory::make("webrtcsrc")
        .property("stun-server", None::<&str>)
        .property("do-retransmission", false)
        .build()
        .context("building webrtcsrc")?;
    let signaller: gst::glib::Object = source.property("signaller");
    signaller.set_property("uri", format!("ws://{near}:{PORT}?connect-to-first-producer=true"));
    let bin = source.downcast_ref::<gst::Bin>().context("webrtcsrc is a bin")?;
    let counters = counters.clone();
    bin.connect_deep_element_added(move |_, _, element| {
        // Its input is the first place behind decryption that has RTP alone.
        if element.factory().is_some_and(|factory| factory.name() == "rtpjitterbuffer")
            && let Err(error) = count(element, "sink", viewer, &counters)
        {
            eprintln!("bench-peer: viewer {viewer} can't be counted: {error:#}");
        }
    });
    pipeline.add(&source)?;
    Ok(())
}

/// Counts and drops what passes a pad: what is behind it is no part of what is measured.
fn count(element: &gst::Element, pad: &str, viewer: usize, counters: &Counters) -> Result<()> {
    let counters = counters.clone();
    let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    let probe = element.static_pad(pad).context("no such pad")?.add_probe(mask, move |_, info| {
        let packets = match info.data.take() {
            Some(gst::PadProbeData::BufferList(list)) => list.len() as u64,
            _ => 1,
        };
        counters.add(viewer, packets);
        info.flow_res = Ok(gst::FlowSuccess::Ok);
        gst::PadProbeReturn::Handled
    });
    ensure!(probe.is_some(), "no probe on the pad");
    Ok(())
}
