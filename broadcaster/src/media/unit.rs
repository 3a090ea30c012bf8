//! RTP packets gathered into units, each the packets of one access unit.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use protocol::burst::PlainBurst;
use protocol::media::Format;

use super::gate::Gate;
use super::payload;
use super::plan::Codec;
use super::producer::Counters;
use crate::monotonic;

/// The RTP packets of one access unit of one track.
#[derive(Debug)]
pub struct Unit {
    /// Which track: an index into the formats of [`Event::Ready`](super::Event::Ready).
    pub track: usize,
    /// Whether decoding of this track can start here: a video keyframe, or any unit of sound.
    pub keyframe: bool,
    /// The packets' RTP timestamp, in ticks of the format's clock.
    pub rtp_timestamp: u32,
    /// When the picture was taken or its sound began, on the monotonic clock: the unit's
    /// presentation time, so units of one moment have one value on all tracks. For stored files
    /// it is when the looped file would be shown; where pictures are sent before they are shown
    /// (B-frames), it lies in the future by that much.
    pub captured_at: Instant,
    /// The packets in sending order, each with sealing room behind it.
    pub packets: PlainBurst,
}

/// The instant at which the pipeline's running time is zero. GStreamer's system clock and the
/// monotonic clock run alike, so one instant relates them for good.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epoch {
    at: Instant,
    base_time: gst::ClockTime,
    /// RTP timestamps are running time plus this.
    offset: u32,
}

impl Epoch {
    /// Makes now the beginning of a pipeline's running time, once and for all.
    pub(super) fn set(pipeline: &gst::Pipeline) -> Self {
        let base_time = gst::SystemClock::obtain().time();
        // The highest value would ask the payloader to choose for itself.
        let epoch = Self { at: Instant::now(), base_time, offset: rand::random_range(0..u32::MAX) };
        epoch.go_on(pipeline);
        epoch
    }

    /// Has another pipeline's running time, and its RTP timestamps, go on where an earlier one's are.
    pub(super) fn go_on(self, pipeline: &gst::Pipeline) {
        // A sound card's clock would not run as the monotonic clock does.
        pipeline.use_clock(Some(&gst::SystemClock::obtain()));
        // Without a start time the base time stays as it is when the pipeline begins to play.
        pipeline.set_start_time(gst::ClockTime::NONE);
        pipeline.set_base_time(self.base_time);
    }

    /// As numbers that mean the same in any process of the machine: the monotonic clock at running time zero, GStreamer's
    /// clock then, and what is added to RTP timestamps.
    pub(super) fn numbers(self) -> (u64, u64, u32) {
        (monotonic::time_of(self.at), self.base_time.nseconds(), self.offset)
    }

    /// From such numbers.
    pub(super) fn of_numbers((at, base_time, offset): (u64, u64, u32)) -> Self {
        let base_time = gst::ClockTime::from_nseconds(base_time);
        Self { at: monotonic::instant_of(at), base_time, offset }
    }

    /// What is added to RTP timestamps.
    pub(super) fn offset(self) -> u32 {
        self.offset
    }

    /// Running time, in nanoseconds.
    pub(super) fn now(self) -> i64 {
        i64::try_from(self.at.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }

    fn instant_at(self, running_time: gst::ClockTime) -> Instant {
        self.at + Duration::from_nanos(running_time.nseconds())
    }

    /// Running time of an instant, in nanoseconds.
    pub(super) fn running_time_of(self, instant: Instant) -> i64 {
        let since = |later: Instant, earlier: Instant| {
            i64::try_from((later - earlier).as_nanos()).unwrap_or(i64::MAX)
        };
        if instant >= self.at { since(instant, self.at) } else { -since(self.at, instant) }
    }
}

/// What one track's units go through.
pub(super) struct Track {
    pub(super) slot: usize,
    pub(super) codec: Codec,
    /// The rendition that it is, where there are several.
    pub(super) rendition: Option<String>,
    pub(super) gate: Arc<Gate>,
    pub(super) counters: Arc<Counters>,
    pub(super) epoch: Epoch,
}

/// Makes the end of a track: packets of `payloader` become units. The payloader works on the same
/// thread as the sink, so what it is at work on is what the sink gets.
pub(super) fn sink(track: Track, payloader: &gst::Element) -> gst_app::AppSink {
    let keyframe = Arc::new(AtomicBool::new(true));
    let disposable = Arc::new(AtomicBool::new(false));
    if let Some(pad) = payloader.static_pad("sink") {
        let (keyframe, disposable) = (keyframe.clone(), disposable.clone());
        let counters = track.counters.clone();
        let is_video = track.codec.kind() == protocol::media::Kind::Video;
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(buffer) = info.buffer() {
                let starts = !is_video || !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
                keyframe.store(starts, Ordering::Relaxed);
                let droppable = buffer.flags().contains(gst::BufferFlags::DROPPABLE);
                disposable.store(droppable, Ordering::Relaxed);
                if is_video {
                    counters.count_encoded(starts, buffer.size());
                }
            }
            gst::PadProbeReturn::Ok
        });
    }

    let sink = gst_app::AppSink::builder()
        .buffer_list(true)
        .sync(false)
        .async_(false)
        .enable_last_sample(false)
        .max_buffers(1)
        .build();
    if track.codec.kind() == protocol::media::Kind::Audio
        && let Some(pad) = sink.static_pad("sink")
    {
        // Sound is described as soon as it is set up, though the first of it may be far off. A
        // picture's description is complete only with its first packet.
        let (gate, slot) = (track.gate.clone(), track.slot);
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            if let Some(gst::EventView::Caps(event)) = info.event().map(|event| event.view())
                && let Some(format) = payload::format(event.caps())
            {
                gate.describe(slot, format);
            }
            gst::PadProbeReturn::Ok
        });
    }
    let (gate, slot) = (track.gate.clone(), track.slot);
    let mut assembler =
        Assembler { track, keyframe, disposable, pending: None, described: false, warned: false };
    sink.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                assembler.take(&sample);
                Ok(gst::FlowSuccess::Ok)
            })
            .eos(move |_| gate.track_ended(slot))
            .build(),
    );
    sink
}

struct Assembler {
    track: Track,
    keyframe: Arc<AtomicBool>,
    disposable: Arc<AtomicBool>,
    pending: Option<Unit>,
    described: bool,
    warned: bool,
}

impl Assembler {
    fn take(&mut self, sample: &gst::Sample) {
        if !self.described
            && let Some(format) = sample.caps().and_then(payload::format)
        {
            self.described = true;
            let format = Format { rendition: self.track.rendition.clone(), ..format };
            self.track.gate.describe(self.track.slot, format);
        }
        if let Some(buffer) = sample.buffer() {
            self.push(sample, buffer);
        }
        for buffer in sample.buffer_list().into_iter().flat_map(gst::BufferListRef::iter) {
            self.push(sample, buffer);
        }
    }

    fn push(&mut self, sample: &gst::Sample, buffer: &gst::BufferRef) {
        // A buffer has at most 16 memories; a payloader's has its header in one and the rest of
        // the packet in one or a few. Each is read where it is.
        const MEMORIES: usize = 16;
        let maps: [_; MEMORIES] = array::from_fn(|index| {
            (index < buffer.n_memory())
                .then(|| buffer.peek_memory(index).map_readable().ok())
                .flatten()
        });
        let parts = || maps.iter().flatten().map(|map| map.as_slice());
        let Some((marker, rtp_timestamp)) = parts().next().and_then(read_header) else { return };

        if self.pending.as_ref().is_some_and(|unit| unit.rtp_timestamp != rtp_timestamp) {
            self.emit();
        }
        let unit = self.pending.get_or_insert_with(|| {
            let packets = sample.buffer_list().map_or(1, |list| list.len() + 1);
            let mut packets = PlainBurst::with_capacity(packets);
            packets.set_disposable(self.disposable.load(Ordering::Relaxed));
            Unit {
                track: self.track.slot,
                keyframe: self.keyframe.load(Ordering::Relaxed),
                rtp_timestamp,
                captured_at: captured_at(sample, buffer, self.track.epoch),
                packets,
            }
        });
        if let Err(error) = unit.packets.push(parts())
            && !std::mem::replace(&mut self.warned, true)
        {
            tracing::warn!(track = self.track.slot, %error, "packet left out; lower the bitrate");
        }
        // Opus has one packet to a frame and marks only the first after silence (RFC 7587).
        if marker || self.track.codec == Codec::Opus {
            self.emit();
        }
    }

    fn emit(&mut self) {
        if let Some(unit) = self.pending.take().filter(|unit| !unit.packets.is_empty()) {
            self.track.counters.count_unit(&unit.packets);
            self.track.gate.unit(unit);
        }
    }
}

/// Marker and timestamp of an RTP header (RFC 3550, section 5.1).
fn read_header(bytes: &[u8]) -> Option<(bool, u32)> {
    let timestamp = bytes.get(4..8)?.try_into().ok()?;
    Some((bytes[1] & 0x80 != 0, u32::from_be_bytes(timestamp)))
}

/// The buffer's timestamp on the monotonic clock. Timestamps mean nothing by themselves (x264's
/// begin at 1,000 hours): the segment says what running time they stand for.
fn captured_at(sample: &gst::Sample, buffer: &gst::BufferRef, epoch: Epoch) -> Instant {
    let running_time = sample
        .segment()
        .and_then(|segment| segment.downcast_ref::<gst::ClockTime>())
        .and_then(|segment| segment.to_running_time_full(buffer.pts()?));
    match running_time {
        Some(gst::Signed::Positive(running_time)) => epoch.instant_at(running_time),
        // Parsers round times.
        Some(gst::Signed::Negative(early)) if early < gst::ClockTime::MSECOND => {
            epoch.instant_at(gst::ClockTime::ZERO)
        }
        Some(gst::Signed::Negative(_)) | None => Instant::now(),
    }
}
