//! The pipelines behind the stream.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app::AppSrc;

use super::PORT;
use crate::kind::Kind;

/// Longest RTP packet, as long as punchcast's.
const RTP_PACKET: u32 = 1150;

/// Send buffer, as the broadcaster asks for its socket.
const SEND_BUFFER: i32 = 4 << 20;

/// MPEG-TS packets in one SRT message, as is usual: 1,316 bytes.
const TS_PACKETS: i32 = 7;

/// Access units that may wait for a peer: the one that it works on and the next.
const QUEUED_UNITS: u64 = 2;

/// How long webrtcsink may take to know its stream.
const LONGEST_START: Duration = Duration::from_secs(20);

/// Name of the last element.
const SINK: &str = "sink";

/// A pipeline that sends, and where its stream goes in.
pub(super) fn pipeline(kind: Kind, near: Ipv4Addr) -> Result<(gst::Pipeline, AppSrc)> {
    let source = AppSrc::builder()
        .is_live(true)
        .do_timestamp(true)
        .format(gst::Format::Time)
        .max_buffers(QUEUED_UNITS)
        .max_bytes(0)
        .block(true)
        .build();
    let behind = match kind {
        Kind::Multiudpsink => vec![payloader()?, multiudpsink()?],
        Kind::Srtsink | Kind::SrtsinkEncrypted => vec![muxer()?, srtsink(near, kind.passphrase())?],
        Kind::Webrtcsink => vec![webrtcsink(near)?],
    };
    let pipeline = gst::Pipeline::new();
    pipeline.add(&source)?;
    pipeline.add_many(&behind)?;
    let chain = std::iter::once(source.upcast_ref()).chain(&behind);
    gst::Element::link_many(chain)?;
    Ok((pipeline, source))
}

/// Waits until the sink can be asked for the stream.
pub(super) fn wait_ready(pipeline: &gst::Pipeline, kind: Kind) -> Result<()> {
    let sink = pipeline.by_name(SINK).context("the pipeline has a sink")?;
    let deadline = Instant::now() + LONGEST_START;
    // webrtcsink looks at the stream first. Once the signalling server has given it a name, its
    // offer is on the way there, ahead of what any viewer asks.
    let is_ready = || {
        let signaller: glib::Object = sink.property("signaller");
        signaller.property::<Option<String>>("client-id").is_some()
    };
    while kind == Kind::Webrtcsink && !is_ready() {
        check(pipeline)?;
        ensure!(Instant::now() < deadline, "webrtcsink did not start within {LONGEST_START:?}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Tells the sink who the viewers are, where they do not ask for the stream themselves.
pub(super) fn serve(pipeline: &gst::Pipeline, kind: Kind, viewers: &[String]) {
    if kind == Kind::Multiudpsink
        && let Some(sink) = pipeline.by_name(SINK)
    {
        sink.set_property("clients", viewers.join(","));
    }
}

/// Fails if the pipeline has.
pub(super) fn check(pipeline: &gst::Pipeline) -> Result<()> {
    let bus = pipeline.bus().context("a pipeline has a bus")?;
    while let Some(message) = bus.pop_filtered(&[gst::MessageType::Error]) {
        if let gst::MessageView::Error(error) = message.view() {
            bail!("{}: {}", error.error(), error.debug().unwrap_or_default());
        }
    }
    Ok(())
}

fn payloader() -> Result<gst::Element> {
    let payloader = gst::ElementFactory::make("rtph264pay").property("mtu", RTP_PACKET);
    Ok(payloader.property_from_str("aggregate-mode", "zero-latency").build()?)
}

fn multiudpsink() -> Result<gst::Element> {
    let sink = gst::ElementFactory::make("multiudpsink").name(SINK);
    sink.property("sync", false)
        .property("async", false)
        .property("buffer-size", SEND_BUFFER)
        .build()
        .context("multiudpsink is missing: apt-get install gstreamer1.0-plugins-good")
}

fn muxer() -> Result<gst::Element> {
    Ok(gst::ElementFactory::make("mpegtsmux").property("alignment", TS_PACKETS).build()?)
}

fn srtsink(near: Ipv4Addr, passphrase: Option<&str>) -> Result<gst::Element> {
    let mut sink = gst::ElementFactory::make("srtsink")
        .name(SINK)
        .property("uri", format!("srt://{near}:{PORT}?mode=listener"))
        .property("wait-for-connection", false)
        .property("sync", false)
        .property("async", false);
    if let Some(passphrase) = passphrase {
        sink = sink.property("passphrase", passphrase).property_from_str("pbkeylen", "16");
    }
    sink.build().context("srtsink is missing: apt-get install gstreamer1.0-plugins-bad")
}

fn webrtcsink(near: Ipv4Addr) -> Result<gst::Element> {
    gstrswebrtc::plugin_register_static().context("registering webrtcsink")?;
    let sink = gst::ElementFactory::make("webrtcsink")
        .name(SINK)
        .property("run-signalling-server", true)
        .property("signalling-server-host", near.to_string())
        .property("signalling-server-port", u32::from(PORT))
        .property("stun-server", None::<&str>)
        .property("do-fec", false)
        .property("do-retransmission", false)
        .property_from_str("congestion-control", "disabled")
        .build()
        .context("building webrtcsink")?;
    Ok(sink)
}
