//! One track's way from RTP packets to whole coded pictures or sounds:
//! `appsrc ! rtpjitterbuffer ! depayloader ! parser`, and from there to the muxers and the decoder.
//!
//! The jitter buffer owns order and loss time-outs. It hands on at once whatever is in order; play
//! time is kept by the outputs.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use protocol::media::Kind;

use super::codec::{Codec, Track};
use super::decode::{self, Backlog};
use super::error::PlayerError;
use super::mux::Muxer;
use super::present::Presenter;
use super::reorder::DecodingTimes;
use super::shared::{Notice, Shared, chain, clock_time, lock, make, pad};
use super::take::Take;
use super::temporal_units;
use super::timeline::Timeline;

/// Kept back from the latency for depayloading and decoding after a loss time-out, so that the
/// picture after a lost packet still makes its time. At most an eighth of the latency.
const RESERVE: Duration = Duration::from_millis(10);

/// How long a missing packet is waited for, and so is of use, of this latency.
pub(crate) fn patience(latency: Duration) -> Duration {
    latency - RESERVE.min(latency / 8)
}

/// The jitter buffer takes a missing packet's time to lie between those of its neighbours, though it may have been
/// sent with the later one: so much earlier, at usual frame rates, it would give up what the receiver still
/// waits for.
const UNCERTAINTY: Duration = Duration::from_millis(30);

/// RTP's fixed header (RFC 3550, section 5.1).
const RTP_HEADER: usize = 12;

/// Where the timestamp is in there.
const RTP_TIMESTAMP: usize = 4;

/// The entrance of one track.
#[derive(Debug)]
pub(super) struct Receiver {
    source: gst_app::AppSrc,
    payload_type: u8,
    timeline: Mutex<Timeline>,
    places: Arc<Mutex<Places>>,
    take: Option<(Arc<Take>, usize)>,
}

/// Where a track's packets were placed lately.
#[derive(Debug)]
struct Places {
    clock_rate: u32,
    /// An RTP timestamp and its running time.
    last: Option<(u32, Duration)>,
}

impl Places {
    /// The running time of a timestamp near the last one.
    fn place(&self, timestamp: u32) -> Option<Duration> {
        let (last, placed) = self.last?;
        let ticks = timestamp.wrapping_sub(last).cast_signed();
        let apart = Duration::from_secs(ticks.unsigned_abs().into()) / self.clock_rate.max(1);
        if ticks < 0 { placed.checked_sub(apart) } else { placed.checked_add(apart) }
    }
}

/// Gives packets that leave the jitter buffer the running times at which they were placed. Left to itself it evens them out
/// once more, each track at a pace of its own.
fn keep_places(pad: &gst::Pad, places: &Arc<Mutex<Places>>) {
    let places = places.clone();
    let what = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(what, move |_, info| {
        let stamp = |packet: &mut gst::BufferRef| {
            let mut timestamp = [0; 4];
            if packet.copy_to_slice(RTP_TIMESTAMP, &mut timestamp).is_ok()
                && let Some(placed) = lock(&places).place(u32::from_be_bytes(timestamp))
            {
                packet.set_pts(clock_time(placed));
                packet.set_dts(clock_time(placed));
            }
        };
        match &mut info.data {
            Some(gst::PadProbeData::Buffer(packet)) => stamp(packet.make_mut()),
            Some(gst::PadProbeData::BufferList(list)) => {
                list.make_mut().foreach_mut(|mut packet, _| {
                    stamp(packet.make_mut());
                    std::ops::ControlFlow::Continue(Some(packet))
                });
            }
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
}

/// Where a track's coded media goes.
pub(super) struct Destinations {
    /// The track's place in the list.
    pub(super) track: usize,
    pub(super) muxers: Arc<[Muxer]>,
    /// Nothing is decoded if there are none.
    pub(super) presenters: Vec<Presenter>,
    /// Whether this track's first frame is the channel's first frame.
    pub(super) leads: bool,
    /// The take that it is part of, of a stored file, and its place in there.
    pub(super) take: Option<(Arc<Take>, usize)>,
}

impl Receiver {
    /// Adds the track's elements to the pipeline.
    pub(super) fn add(
        pipeline: &gst::Pipeline,
        shared: &Arc<Shared>,
        track: &Track,
        to: Destinations,
    ) -> Result<Self, PlayerError> {
        let source = gst_app::AppSrc::builder()
            .caps(&track.caps)
            .format(gst::Format::Time)
            .is_live(true)
            .do_timestamp(false)
            .build();
        let patience = patience(shared.latency);
        let jitter_buffer = make("rtpjitterbuffer")?;
        let wait = (patience + UNCERTAINTY).as_millis();
        jitter_buffer.set_property("latency", u32::try_from(wait).unwrap_or(1 << 30));
        jitter_buffer.set_property("do-lost", true);
        let depayloader = make(track.codec.depayloader())?;
        if track.codec == Codec::Av1 {
            temporal_units::check(&pad(&depayloader, "sink")?);
            temporal_units::join(&pad(&depayloader, "src")?);
        }
        let places = Arc::new(Mutex::new(Places { clock_rate: track.clock_rate, last: None }));
        keep_places(&pad(&jitter_buffer, "src")?, &places);
        let mut elements = vec![source.clone().upcast(), jitter_buffer, depayloader];
        let caps = track.codec.access_units();
        elements.extend(caps.iter().map(capsfilter).collect::<Result<Vec<_>, _>>()?);
        if let Some(name) = track.codec.parser() {
            let parser = make(name)?;
            if parser.has_property("config-interval") {
                // Parameter sets before every keyframe: each is a place to start.
                parser.set_property("config-interval", -1);
            }
            elements.push(parser);
            elements.extend(caps.iter().map(capsfilter).collect::<Result<Vec<_>, _>>()?);
        }
        chain(pipeline, &elements.iter().collect::<Vec<_>>())?;
        let last = elements.last().ok_or(PlayerError::Refused { what: "an empty chain".into() })?;

        let backlog = Arc::new(Backlog::default());
        let decodes = !to.presenters.is_empty();
        let tap = Tap {
            shared: shared.clone(),
            kind: track.codec.kind(),
            track: to.track,
            leads: to.leads,
            muxers: to.muxers.clone(),
            started: Mutex::new(track.codec.kind() == Kind::Audio),
            backlog: decodes.then(|| backlog.clone()),
            decoding_times: Mutex::new(DecodingTimes::new(track.codec)),
            take: to.take.clone(),
        };
        let take = to.take.clone();
        let wanted = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
        pad(last, "src")?.add_probe(wanted, move |pad, info| tap.pass(pad, info));
        if decodes {
            decode::add(pipeline, shared, track.codec, last, backlog, to)?;
        } else {
            let end = make("fakesink")?;
            end.set_property("sync", false);
            end.set_property("async", false);
            chain(pipeline, &[&end])?;
            last.link(&end).map_err(|e| PlayerError::Refused { what: format!("to end: {e}") })?;
        }
        let timeline = Mutex::new(Timeline::new(track.clock_rate, shared.latency));
        Ok(Self { source, payload_type: track.payload_type, timeline, places, take })
    }

    /// Takes one RTP packet. What isn't one of this track's is dropped.
    pub(super) fn push(&self, packet: bytes::Bytes, arrival: Duration) {
        let header = packet.get(..RTP_HEADER);
        let Some(&[flags, marker_and_type, _, _, t0, t1, t2, t3, ..]) = header else { return };
        if flags >> 6 != 2 || marker_and_type & 0x7f != self.payload_type {
            tracing::trace!(flags, marker_and_type, "not a packet of this track");
            return;
        }
        let timestamp = u32::from_be_bytes([t0, t1, t2, t3]);
        let placed = lock(&self.timeline).place(timestamp, arrival);
        if let Some((take, track)) = &self.take {
            take.note(*track, timestamp, placed);
        }
        lock(&self.places).last = Some((timestamp, placed));
        let mut buffer = gst::Buffer::from_slice(packet);
        if let Some(buffer) = buffer.get_mut() {
            let time = clock_time(placed);
            buffer.set_dts(time);
            buffer.set_pts(time);
        }
        // Refused only while stopping.
        let _ = self.source.push_buffer(buffer);
    }

    /// All packets come later by that much, from now on.
    pub(super) fn delay(&self, by: Duration) {
        lock(&self.timeline).delay(by);
    }

    /// No more packets come: what waits in the jitter buffer goes out, and then the end.
    pub(super) fn end(&self) {
        let _ = self.source.end_of_stream();
    }
}

/// The point where coded media is whole: muxers are served from here, and the decoder behind it.
struct Tap {
    shared: Arc<Shared>,
    kind: Kind,
    track: usize,
    leads: bool,
    muxers: Arc<[Muxer]>,
    /// Pictures before the first keyframe are of no use to anybody.
    started: Mutex<bool>,
    backlog: Option<Arc<Backlog>>,
    decoding_times: Mutex<DecodingTimes>,
    take: Option<(Arc<Take>, usize)>,
}

impl Tap {
    fn pass(&self, pad: &gst::Pad, info: &mut gst::PadProbeInfo<'_>) -> gst::PadProbeReturn {
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => self.buffer(pad, buffer),
            Some(gst::PadProbeData::Event(event)) => {
                if event.type_() == gst::EventType::Eos {
                    // One of many takes says nothing about the last.
                    if self.take.as_ref().is_none_or(|(take, _)| !take.is_over()) {
                        self.muxers.iter().for_each(|muxer| muxer.end(self.track));
                    }
                    if let (Some((take, _)), None) = (&self.take, &self.backlog) {
                        take.track_ended();
                    }
                }
                gst::PadProbeReturn::Ok
            }
            _ => gst::PadProbeReturn::Ok,
        }
    }

    fn buffer(&self, pad: &gst::Pad, buffer: &gst::Buffer) -> gst::PadProbeReturn {
        let keyframe = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        let mut started = lock(&self.started);
        if !*started && !keyframe {
            return gst::PadProbeReturn::Drop;
        }
        *started = true;
        drop(started);
        if let (false, Some(caps)) = (self.muxers.is_empty(), pad.current_caps()) {
            let buffer = self.with_decoding_time(buffer, keyframe);
            let placed = buffer.pts().map(Duration::from);
            let position =
                self.take.as_ref().zip(placed).and_then(|((take, track), placed)| {
                    Some((take, take.position(*track, placed)?))
                });
            for muxer in self.muxers.iter() {
                match position {
                    Some((take, position)) => {
                        muxer.offer_of_take(self.track, &caps, &buffer, (take, position));
                    }
                    None => muxer.offer(self.track, &caps, &buffer),
                }
            }
        }
        match &self.backlog {
            Some(backlog) if !backlog.admit(buffer, keyframe && self.kind == Kind::Video) => {
                self.shared.counters.frames_dropped.fetch_add(1, Relaxed);
                gst::PadProbeReturn::Drop
            }
            Some(_) => gst::PadProbeReturn::Ok,
            None => {
                self.passed_on(buffer);
                gst::PadProbeReturn::Ok
            }
        }
    }

    /// The buffer as muxers need it.
    fn with_decoding_time(&self, buffer: &gst::Buffer, keyframe: bool) -> gst::Buffer {
        let mut buffer = buffer.copy();
        let Some(presentation) = buffer.pts() else { return buffer };
        let time = match (self.kind, buffer.map_readable()) {
            (Kind::Video, Ok(access_unit)) => clock_time(lock(&self.decoding_times).next(
                &access_unit,
                keyframe,
                presentation.into(),
            )),
            _ => presentation,
        };
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_dts(time);
        }
        buffer
    }

    /// Counts what outputs take without decoding.
    fn passed_on(&self, buffer: &gst::Buffer) {
        let counters = &self.shared.counters;
        match self.kind {
            Kind::Video => counters.frames_decoded.fetch_add(1, Relaxed),
            Kind::Audio => counters.audio_buffers_decoded.fetch_add(1, Relaxed),
        };
        if let Some((take, track)) = &self.take
            && let Some(time) = buffer.pts().map(Duration::from)
            && let Some(position) = take.position(*track, time)
            && !take.is_before(position)
        {
            // Passed on is as good as shown.
            let now = self.shared.running_time().saturating_sub(self.shared.latency);
            let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
            take.reaches(position, now);
            if self.leads {
                take.shows(position, now);
            }
        }
        if self.leads {
            if let Some(time) = buffer.pts() {
                let since = self.shared.running_time().saturating_sub(time.into());
                counters.released_after(since);
            }
            if counters.first_frame() {
                self.shared.notify(Notice::FirstFrame);
            }
        }
    }
}

fn capsfilter(caps: &gst::Caps) -> Result<gst::Element, PlayerError> {
    let filter = make("capsfilter")?;
    filter.set_property("caps", caps);
    Ok(filter)
}
