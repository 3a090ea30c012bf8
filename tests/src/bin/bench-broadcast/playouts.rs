//! What fifty viewers of one stored file cost, each of whom is sent it by itself, against what GStreamer takes to
//! demultiplex, parse and payload the same file, with nobody to send it to.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gstreamer as gst;
use gstreamer::prelude::*;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tests::bench::Samples;
use tests::bench::namespaces::output;
use tests::load::Clip;

use crate::broadcast::Broadcast;
use crate::crowd::{self, Crowd};
use crate::network::{Network, VIEWERS};
use crate::report::Playouts;
use crate::{Extent, progress};

const AUDIENCE: u32 = 50;

/// A second; each opens the file for itself.
const JOIN_RATE: u32 = 10;

/// For all to come.
const COMING: Duration = Duration::from_secs(60);

/// What is left out of both: opening the file, and joining.
const SETTLING: Duration = Duration::from_secs(5);

/// Longer than everything that is measured with it.
const FILE_SECONDS: u32 = 180;

/// What GStreamer took for the file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Reference {
    cpu_us: f64,
    packets: u64,
}

pub(crate) fn measure(network: &Network, folder: &Path, extent: Extent) -> Result<Playouts> {
    let viewers = extent.viewers(AUDIENCE);
    network.set_offload(true)?;
    network.drop_media(false)?;
    let live =
        Clip { bits_per_second: 200_000, framerate: 5, keyframe_interval: 10, ..Clip::default() };
    let live = live.make(folder)?;
    let file = Clip { has_sound: true, seconds: FILE_SECONDS, ..Clip::default() }.make(folder)?;
    let library = folder.join("library");
    fs::create_dir_all(&library)?;
    let name = file.file_name().context("a name")?;
    let stored = library.join(name);
    if !stored.exists() {
        fs::hard_link(&file, &stored)?;
    }
    let [mut ours, mut theirs, mut ratio, mut resident] = <[Samples; 4]>::default();
    for repetition in 1..=extent.repetitions {
        progress(&format!("playouts, {repetition} of {}: {viewers} viewers", extent.repetitions));
        let broadcast = Broadcast::start_with(folder, &live, Some(&library), false)?;
        std::thread::sleep(SETTLING);
        let time = Duration::from_secs_f64(extent.seconds);
        // What the channel beside it takes, which nobody watches.
        let before = broadcast.usage()?;
        std::thread::sleep(time);
        let idle = broadcast.usage()?;
        let alone = idle.cpu - before.cpu;
        let resident_before = broadcast.resident()?;

        let (front, _) = broadcast.link.rsplit_once('/').context("a link has slashes")?;
        let link = format!("{front}/library/{}", name.to_str().context("a plain name")?);
        let flags = crowd::flags(viewers, VIEWERS, JOIN_RATE);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut crowd = Crowd::start(network, &link, &flags)?;
        crowd.wait_for("all there", COMING, |now| now.watching + now.failed == viewers)?;
        std::thread::sleep(SETTLING);
        let before = broadcast.usage()?;
        std::thread::sleep(time);
        let after = broadcast.usage()?;
        let each = (broadcast.resident()? - resident_before) / u64::from(viewers);
        let summary = crowd.stop()?;
        broadcast.stop()?;
        ensure!(summary.failures.is_empty(), "viewers failed: {:?}", summary.failures);
        let reference = run_reference(&file)?;

        let cpu = (after.cpu - before.cpu).saturating_sub(alone);
        let our_us = cpu.as_secs_f64() * 1e6 / (after.packets - before.packets) as f64;
        let their_us = reference.cpu_us / reference.packets as f64;
        progress(&format!(
            "… {our_us:.2} µs a packet, GStreamer alone {their_us:.2} µs, {:.2} MiB a viewer",
            each as f64 / f64::from(1 << 20)
        ));
        ours.add(our_us);
        theirs.add(their_us);
        ratio.add(our_us / their_us);
        resident.add(each as f64 / f64::from(1 << 20));
    }
    Ok(Playouts {
        viewers,
        cpu_us_per_packet: (&ours).into(),
        reference_us_per_packet: (&theirs).into(),
        ratio: (&ratio).into(),
        resident_mib: (&resident).into(),
    })
}

/// Has this program measure GStreamer in a process of its own.
fn run_reference(file: &Path) -> Result<Reference> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--reference").arg(file);
    Ok(serde_json::from_str(&output("measuring GStreamer", &mut command)?)?)
}

/// Reads a Matroska file with H.264 and Opus as fast as it goes, and throws its packets away.
pub(crate) fn be_reference(file: &Path) -> Result<Reference> {
    gst::init()?;
    let description = format!(
        "filesrc location=\"{}\" ! matroskademux name=demux \
         demux.video_0 ! queue ! h264parse ! rtph264pay name=video mtu=1200 ! fakesink sync=false \
         demux.audio_0 ! queue ! opusparse ! rtpopuspay name=audio ! fakesink sync=false",
        file.display()
    );
    let pipeline = gst::parse::launch(&description)?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().ok().context("no pipeline")?;
    let packets = std::sync::Arc::<std::sync::atomic::AtomicU64>::default();
    for name in ["video", "audio"] {
        let pad = pipeline.by_name(name).and_then(|element| element.static_pad("src"));
        let counted = packets.clone();
        let both = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
        pad.context("no pad")?.add_probe(both, move |_, info| {
            let count = match &info.data {
                Some(gst::PadProbeData::BufferList(list)) => list.len() as u64,
                _ => 1,
            };
            counted.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
    }
    // What it takes to open the file is left out.
    pipeline.set_state(gst::State::Paused)?;
    pipeline.state(gst::ClockTime::from_seconds(10)).0?;
    let cpu = || clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from);
    let before = cpu()?;
    pipeline.set_state(gst::State::Playing)?;
    let bus = pipeline.bus().context("no bus")?;
    let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(120), &wanted);
    let after = cpu()?;
    pipeline.set_state(gst::State::Null)?;
    match message.as_ref().map(|message| message.view()) {
        Some(gst::MessageView::Eos(_)) => {}
        other => bail!("GStreamer did not come to the file's end: {other:?}"),
    }
    let packets = packets.load(std::sync::atomic::Ordering::Relaxed);
    Ok(Reference { cpu_us: (after - before).as_secs_f64() * 1e6, packets })
}
