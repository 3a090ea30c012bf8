//! The peer: GStreamer's `multiudpsink`, given each access unit as one list of sealed packets.

use anyhow::{Context, Result, bail, ensure};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::AppSrc;
use protocol::seal::SealedBurst;

use super::{Cost, SEND_BUFFER, Task};
use crate::stream;

/// How long the last packets may take.
const END_TIMEOUT: gst::ClockTime = gst::ClockTime::from_seconds(60);

pub(super) fn run(task: &Task) -> Result<Cost> {
    gst::init().context("starting GStreamer")?;
    let lists: Vec<gst::BufferList> = stream::sealed(task.all_units())?.iter().map(list).collect();
    let clients: Vec<String> = stream::viewers(task.viewers).map(|at| at.to_string()).collect();
    let source = AppSrc::builder().build();
    let sink = gst::ElementFactory::make("multiudpsink")
        .property("clients", clients.join(","))
        .property("sync", false)
        .property("async", false)
        .property("buffer-size", i32::try_from(SEND_BUFFER)?)
        .build()
        .context("multiudpsink is missing: apt-get install gstreamer1.0-plugins-good")?;
    let pipeline = gst::Pipeline::new();
    pipeline.add_many([source.upcast_ref(), &sink])?;
    source.link(&sink)?;
    pipeline.set_state(gst::State::Playing)?;
    let began = task.play(lists, |_, list| {
        source.push_buffer_list(list).context("multiudpsink took no more")?;
        Ok(())
    })?;
    source.end_of_stream().context("ending the stream")?;
    let bus = pipeline.bus().context("a pipeline has a bus")?;
    let ended = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = bus.timed_pop_filtered(END_TIMEOUT, &ended).context("multiudpsink hangs")?;
    let cost = task.cost_since(began)?;
    if let gst::MessageView::Error(error) = message.view() {
        bail!("multiudpsink failed: {}", error.error());
    }
    let served: u64 = sink.property("bytes-served");
    let expected = (task.viewers * task.all_units() * stream::UNIT_BYTES) as u64;
    ensure!(served == expected, "multiudpsink says it sent {served} bytes, expected {expected}");
    pipeline.set_state(gst::State::Null)?;
    Ok(cost)
}

/// The packets of one access unit, each a buffer that shares the unit's memory.
fn list(unit: &SealedBurst) -> gst::BufferList {
    let ranges = (0..unit.len()).filter_map(|at| unit.packet(at));
    ranges.map(|range| gst::Buffer::from_slice(unit.bytes().slice(range))).collect()
}
