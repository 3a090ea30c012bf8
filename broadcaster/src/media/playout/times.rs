//! What the times mean with which a demultiplexer stamps what it reads: positions in the file, by one way or another.

use std::sync::{Arc, Mutex, OnceLock};

use gstreamer as gst;
use gstreamer::prelude::*;
use protocol::media::Kind;

use super::ahead::Ahead;
use super::lock;

/// Running time and position of one moment, in nanoseconds, and positions per running time in percent.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Line {
    running: i64,
    position: i64,
    of_pictures: bool,
}

impl Line {
    fn learn(&mut self, segment: &Segment, kind: Kind) {
        let Some(start) = segment.start() else { return };
        let (position, running) = (segment.to_stream_time(start), segment.to_running_time(start));
        let counts = kind == Kind::Video || !self.of_pictures;
        if let (true, Some(position), Some(running)) = (counts, position, running) {
            *self = Self {
                running: running.nseconds().cast_signed(),
                position: position.nseconds().cast_signed(),
                of_pictures: kind == Kind::Video,
            };
        }
    }

    pub(super) fn position(self, running: i64, rate_percent: u32) -> i64 {
        self.position + (running - self.running) * i64::from(rate_percent) / 100
    }
}

/// Parsers are this exact with times that they count up themselves.
const ROUNDED: gst::ClockTime = gst::ClockTime::from_useconds(10);

/// Containers whose demultiplexers have times of their own kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Matroska,
    /// MPEG transport and program streams, which begin at any time.
    Mpeg,
}

impl Container {
    pub(super) fn of_demultiplexer(name: &str) -> Option<Self> {
        match name {
            "matroskademux" => Some(Self::Matroska),
            "tsdemux" | "mpegpsdemux" => Some(Self::Mpeg),
            _ => None,
        }
    }
}

/// Time of the first picture, where a file may begin at any; in nanoseconds.
pub(super) fn begins_at(container: &OnceLock<Container>, ahead: &Ahead) -> i64 {
    match container.get() {
        Some(Container::Mpeg) => ahead.begins_at(),
        Some(Container::Matroska) | None => 0,
    }
}

/// Tells of a pad's first buffer.
pub(super) fn watch_beginning(pad: &gst::Pad, kind: Kind, ahead: &Arc<Ahead>) {
    ahead.expect(kind);
    let ahead = Arc::clone(ahead);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(gst::PadProbeData::Buffer(buffer)) = &info.data else {
            return gst::PadProbeReturn::Ok;
        };
        let Some(time) = buffer.pts() else { return gst::PadProbeReturn::Ok };
        ahead.begun(kind, time.nseconds().cast_signed());
        gst::PadProbeReturn::Remove
    });
}

/// What a demultiplexer's times are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Times {
    /// Segments say how running times relate to positions.
    OfSegments,
    /// Buffers are stamped with positions, and segments mean nothing. Demultiplexers take what they meet first for
    /// the beginning, and that may be a picture behind the first sound: then that of Matroska changes its mind, and
    /// what it said of running times before, and that of MPEG leaves the sound in front of the segment.
    Raw,
}

type Segment = gst::FormattedSegment<gst::ClockTime>;

/// Notes how running times relate to positions, by pictures where there are any. What lies outside of what
/// the file wants to be played is dropped.
pub(super) fn watch_segment(pad: &gst::Pad, kind: Kind, times: Times, line: &Arc<Mutex<Line>>) {
    let line = line.clone();
    let wanted = gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::BUFFER;
    let segment_of =
        |event: &gst::event::Segment| event.segment().downcast_ref::<gst::ClockTime>().cloned();
    pad.add_probe(wanted, move |pad, info| match &info.data {
        Some(gst::PadProbeData::Event(event)) => {
            let gst::EventView::Segment(event) = event.view() else {
                return gst::PadProbeReturn::Ok;
            };
            let Some(segment) = segment_of(event) else { return gst::PadProbeReturn::Ok };
            match times {
                Times::OfSegments => lock(&line).learn(&segment, kind),
                Times::Raw => {
                    let mut whole = Segment::new();
                    whole.set_rate(segment.rate());
                    lock(&line).learn(&whole, kind);
                    let seqnum = event.seqnum();
                    let event = gst::event::Segment::builder(&whole).seqnum(seqnum).build();
                    info.data = Some(gst::PadProbeData::Event(event));
                }
            }
            gst::PadProbeReturn::Ok
        }
        Some(gst::PadProbeData::Buffer(buffer)) if times == Times::OfSegments => {
            let event = pad.sticky_event::<gst::event::Segment>(0);
            let segment = event.as_ref().and_then(|event| segment_of(event));
            let starts = segment.and_then(|segment| segment.start());
            match (starts, buffer.pts()) {
                (Some(start), Some(pts)) if pts + ROUNDED < start => gst::PadProbeReturn::Drop,
                _ => gst::PadProbeReturn::Ok,
            }
        }
        _ => gst::PadProbeReturn::Ok,
    });
}
