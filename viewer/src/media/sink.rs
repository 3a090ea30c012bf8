//! The pipeline of one muxed output: a source for each track, the muxer, and a file, a UDP
//! receiver or standard output behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use protocol::media::Kind;

use super::codec::Codec;
use super::environment::muxer;
use super::error::PlayerError;
use super::hls::Hls;
use super::output::{Container, Output};
use super::parts;
use super::rtmp::Rtmp;
use super::segments::Segments;
use super::shared::{Part, Shared, chain, clock_time, lock, make, nanoseconds, pad, play};
use super::srt::Srt;

/// How much of an MP4 file is lost if the process dies: one fragment, in ms.
const FRAGMENT: u32 = 1_000;

/// TS packets in one datagram: 1,316 bytes, which every network carries and players expect.
const TS_PACKETS: i32 = 7;

/// History goes to UDP receivers no faster than this, in bits a second, or it would overrun their
/// socket buffers. Far above live media.
const BURST_RATE: u64 = 100_000_000;

/// A segment may be shorter by this part of its time, or one of two keyframes that come at just that distance would
/// be missed at random.
const EARLY: u32 = 20;

/// A running muxer.
#[derive(Debug)]
pub(super) struct Mux {
    pipeline: gst::Pipeline,
    muxer: gst::Element,
    container: Container,
    sources: BTreeMap<usize, gst_app::AppSrc>,
    /// Tracks of which something was queued.
    begun: BTreeSet<usize>,
    /// Taken off all times: files begin at zero, what is paced keeps the running time.
    origin: Duration,
    /// Whether `muxer` writes several files, with a muxer inside.
    is_parted: bool,
    cuts: Option<Cuts>,
}

/// Where to cut into segments.
#[derive(Debug)]
struct Cuts {
    every: Duration,
    /// The track whose keyframes segments begin with.
    pictures: Option<usize>,
    has_pictures: Arc<AtomicBool>,
    last: Option<Duration>,
}

impl Cuts {
    fn new(segment: Duration) -> Self {
        // Times are those of arrival: a keyframe that is due to the moment may seem to come before.
        let every = segment - segment / EARLY;
        Self { every, pictures: None, has_pictures: Arc::default(), last: None }
    }

    fn add(&mut self, track: usize, codec: Codec) {
        if codec.kind() == Kind::Video && self.pictures.is_none() {
            self.pictures = Some(track);
            self.has_pictures.store(true, Relaxed);
        }
    }

    /// Whether this one is the first of another segment.
    fn is_due(&mut self, track: usize, buffer: &gst::BufferRef) -> bool {
        if self.pictures != Some(track) || buffer.flags().contains(gst::BufferFlags::DELTA_UNIT) {
            return false;
        }
        let Some(time) = buffer.pts().map(Duration::from) else { return false };
        let is_due = self.last.is_some_and(|last| time >= last + self.every);
        if is_due || self.last.is_none() {
            self.last = Some(time);
        }
        is_due
    }
}

impl Mux {
    /// Builds the part from the muxer on. `begins_at` is the first picture's decoding time.
    pub(super) fn build(
        shared: &Arc<Shared>,
        part: Part,
        output: &Output,
        container: Container,
        begins_at: Duration,
    ) -> Result<Self, PlayerError> {
        let pipeline = shared.pipeline(part);
        let muxer = make(muxer(container))?;
        match container {
            Container::Matroska => muxer.set_property("offset-to-zero", true),
            Container::Mp4 => {
                muxer.set_property("fragment-duration", FRAGMENT);
            }
            Container::Flv => muxer.set_property("streamable", true),
            Container::MpegTs => {
                // Segments are cut between buffers: for them, each holds what belongs to one picture.
                let is_cut = matches!(output, Output::Hls(_));
                muxer.set_property("alignment", if is_cut { 0 } else { TS_PACKETS });
                // Keeps the running time on what comes out, for pacing by it.
                muxer.set_property_from_str("start-time-selection", "first");
            }
        }
        let cuts = match output {
            Output::Hls(hls) => Some(Cuts::new(hls.segment())),
            _ => None,
        };
        let sink = match (output, &cuts) {
            (Output::Hls(hls), Some(cuts)) => segments(hls, cuts.has_pictures.clone())?,
            _ => end(output, shared.latency)?,
        };
        sink.set_property("async", false);
        let parts = match output {
            Output::Record(recording) => recording.parts().map(|parts| (recording, parts)),
            _ => None,
        };
        let is_parted = parts.is_some();
        let muxer = if let Some((recording, parts)) = parts {
            let writer = parts::writer(recording, parts, &muxer, &sink)?;
            chain(&pipeline, &[&writer])?;
            writer
        } else {
            chain(&pipeline, &[&muxer, &sink])?;
            muxer
        };
        let origin = if paced(output) { Duration::ZERO } else { begins_at };
        Ok(Self {
            pipeline,
            muxer,
            container,
            sources: BTreeMap::new(),
            begun: BTreeSet::new(),
            origin,
            is_parted,
            cuts,
        })
    }

    /// Starts the pipeline, with the tracks added so far.
    pub(super) fn play(&self, output: &Output) -> Result<(), PlayerError> {
        play(&self.pipeline, &output.to_string())
    }

    pub(super) fn pipeline(&self) -> &gst::Pipeline {
        &self.pipeline
    }

    /// Whether tracks can be added while it runs.
    pub(super) fn grows(&self) -> bool {
        self.container == Container::MpegTs && !self.is_parted
    }

    pub(super) fn has(&self, track: usize) -> bool {
        self.sources.contains_key(&track)
    }

    /// Adds a track.
    pub(super) fn add(&mut self, track: usize, codec: Codec) -> Result<(), PlayerError> {
        let refused = |what: &str| PlayerError::Refused { what: what.to_owned() };
        let source = gst_app::AppSrc::builder()
            .format(gst::Format::Time)
            .max_bytes(0)
            .max_buffers(0)
            .block(false)
            .build();
        let mut elements = vec![source.clone().upcast::<gst::Element>()];
        if let (Some(caps), Some(parser)) = (codec.stored(self.container), codec.parser()) {
            let filter = make("capsfilter")?;
            filter.set_property("caps", caps);
            let parser = make(parser)?;
            // What changes within the stream is said there.
            parser.set_property("config-interval", -1);
            elements.extend([parser, filter]);
        }
        for name in codec.encoded_for(self.container) {
            elements.push(make(name)?);
        }
        chain(&self.pipeline, &elements.iter().collect::<Vec<_>>())?;
        let template = match self.container {
            _ if self.is_parted => match codec.kind() {
                Kind::Video => "video".to_owned(),
                Kind::Audio => "audio_%u".to_owned(),
            },
            Container::MpegTs => "sink_%d".to_owned(),
            Container::Flv => codec.kind().to_string(),
            _ => format!("{}_%u", codec.kind()),
        };
        let into = self.muxer.request_pad_simple(&template).ok_or_else(|| refused("a track"))?;
        let last = elements.last().ok_or_else(|| refused("an empty chain"))?;
        keep_description(&pad(last, "src")?);
        pad(last, "src")?.link(&into).map_err(|_| refused("to connect a track to the muxer"))?;
        for element in &elements {
            element.sync_state_with_parent().map_err(|_| refused("to start a track"))?;
        }
        self.sources.insert(track, source);
        if let Some(cuts) = &mut self.cuts {
            cuts.add(track, codec);
        }
        Ok(())
    }

    /// Queues one buffer.
    pub(super) fn push(&mut self, track: usize, caps: &gst::Caps, buffer: &gst::Buffer) {
        let Some(source) = self.sources.get(&track) else { return };
        let mut buffer = buffer.copy();
        let shift = |time: gst::ClockTime| time.saturating_sub(clock_time(self.origin));
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(buffer.pts().map(shift));
            buffer.set_dts(buffer.dts().map(shift));
            if self.container == Container::Mp4 && self.begun.insert(track) {
                // A fragmented file does not say when a track begins: its first piece lasts up to the second.
                let is_sound = caps.structure(0).is_some_and(|s| s.name().starts_with("audio/"));
                if is_sound {
                    buffer.set_pts(gst::ClockTime::ZERO);
                    buffer.set_dts(gst::ClockTime::ZERO);
                }
            }
        }
        if self.cuts.as_mut().is_some_and(|cuts| cuts.is_due(track, &buffer)) {
            // The muxer repeats its tables in front of that picture, and passes this on before.
            let event = gst_video::DownstreamForceKeyUnitEvent::builder()
                .running_time(buffer.pts())
                .all_headers(true)
                .build();
            source.send_event(event);
        }
        let sample = gst::Sample::builder().caps(caps).buffer(&buffer).build();
        // Refused once the sink has failed, which is reported by its own message.
        let _ = source.push_sample(&sample);
    }

    /// Tells the muxer that a track has nothing between the two times.
    pub(super) fn skip(&self, track: usize, from: Duration, until: Duration) {
        let Some(source) = self.sources.get(&track) else { return };
        let start = from.saturating_sub(self.origin);
        let gap = gst::event::Gap::builder(clock_time(start))
            .duration(clock_time(until.saturating_sub(self.origin).saturating_sub(start)))
            .build();
        source.send_event(gap);
    }

    /// Ends a track.
    pub(super) fn end(&self, track: usize) {
        if let Some(source) = self.sources.get(&track) {
            let _ = source.end_of_stream();
        }
    }

    /// Bytes that wait for the muxer.
    pub(super) fn waiting(&self) -> u64 {
        self.sources.values().map(gst_app::AppSrc::current_level_bytes).sum()
    }
}

/// Makes the first description of a track the only one. Muxers refuse others, though a stream whose
/// pictures change their size begins anew, with parameter sets of its own, at a keyframe.
fn keep_description(pad: &gst::Pad) {
    let first = OnceLock::new();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::PadProbeData::Event(event)) = &mut info.data
            && let gst::EventView::Caps(caps) = event.view()
        {
            let first: &gst::Caps = first.get_or_init(|| caps.caps_owned());
            *event = gst::event::Caps::new(first);
        }
        gst::PadProbeReturn::Ok
    });
}

/// Whether the output sends in real time.
pub(super) fn paced(output: &Output) -> bool {
    matches!(output, Output::Udp { .. } | Output::Srt(_) | Output::Rtmp(_))
}

/// A sink that cuts the stream into files.
fn segments(hls: &Hls, has_pictures: Arc<AtomicBool>) -> Result<gst::Element, PlayerError> {
    let sink = make("fakesink")?;
    sink.set_property("sync", false);
    let segments = Segments::begin(hls).map_err(|error| PlayerError::RecordPath {
        path: hls.folder().to_owned(),
        reason: error.to_string(),
    })?;
    // None once it has failed, which is said once.
    let segments = Mutex::new(Some(segments));
    let what = gst::PadProbeType::BUFFER
        | gst::PadProbeType::BUFFER_LIST
        | gst::PadProbeType::EVENT_DOWNSTREAM;
    let element = sink.downgrade();
    pad(&sink, "sink")?.add_probe(what, move |_, info| {
        let mut segments = lock(&segments);
        let Some(writing) = segments.as_mut() else { return gst::PadProbeReturn::Ok };
        let written = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => write(writing, buffer, &has_pictures),
            Some(gst::PadProbeData::BufferList(list)) => {
                list.iter().try_for_each(|buffer| write(writing, buffer, &has_pictures))
            }
            Some(gst::PadProbeData::Event(event)) => obey(writing, event),
            _ => Ok(()),
        };
        if let Err(error) = written {
            *segments = None;
            if let Some(sink) = element.upgrade() {
                gst::element_error!(sink, gst::ResourceError::Write, ["can't write: {error}"]);
            }
        }
        gst::PadProbeReturn::Ok
    });
    Ok(sink)
}

fn write(
    segments: &mut Segments,
    buffer: &gst::BufferRef,
    has_pictures: &AtomicBool,
) -> std::io::Result<()> {
    let packets = buffer.map_readable().map_err(std::io::Error::other)?;
    segments.write(&packets, buffer.pts().map(Duration::from), has_pictures.load(Relaxed))
}

fn obey(segments: &mut Segments, event: &gst::Event) -> std::io::Result<()> {
    if let gst::EventView::Eos(_) = event.view() {
        return segments.finish();
    }
    let cut = gst_video::DownstreamForceKeyUnitEvent::parse(event).ok();
    let at = cut.and_then(|cut| cut.running_time).map(Duration::from);
    at.map_or(Ok(()), |at| segments.cut(at))
}

/// A sink that calls, or takes calls.
fn srt_sink(srt: &Srt) -> Result<gst::Element, PlayerError> {
    let sink = make("srtsink")?;
    let port = srt.port();
    match srt.host() {
        Some(host) if host.contains(':') => {
            sink.set_property("uri", format!("srt://[{host}]:{port}?mode=caller"));
        }
        Some(host) => sink.set_property("uri", format!("srt://{host}:{port}?mode=caller")),
        None => {
            sink.set_property("uri", format!("srt://:{port}?mode=listener"));
            // Who calls later gets what is sent then.
            sink.set_property("wait-for-connection", false);
        }
    }
    let latency = i32::try_from(srt.latency().as_millis()).unwrap_or(i32::MAX);
    sink.set_property("latency", latency);
    if let Some(passphrase) = srt.passphrase() {
        sink.set_property("passphrase", passphrase);
        sink.set_property_from_str("pbkeylen", "32");
    }
    if let Some(stream_id) = srt.stream_id() {
        sink.set_property("streamid", stream_id);
    }
    Ok(sink)
}

/// A sink that publishes.
fn rtmp_sink(rtmp: &Rtmp) -> Result<gst::Element, PlayerError> {
    let sink = make("rtmp2sink")?;
    sink.set_property("host", rtmp.host());
    sink.set_property("port", i32::from(rtmp.port()));
    sink.set_property("application", rtmp.application());
    sink.set_property("stream", rtmp.key());
    Ok(sink)
}

/// The last element.
fn end(output: &Output, latency: Duration) -> Result<gst::Element, PlayerError> {
    match output {
        Output::Record(recording) => {
            let sink = make("filesink")?;
            sink.set_property("location", recording.path().to_str());
            // What was written is in the file, should the process die.
            sink.set_property_from_str("buffer-mode", "unbuffered");
            Ok(sink)
        }
        Output::Udp { host, port } => {
            let sink = make("udpsink")?;
            sink.set_property("host", host);
            sink.set_property("port", i32::from(*port));
            pace(&sink, latency);
            Ok(sink)
        }
        Output::Srt(srt) => {
            let sink = srt_sink(srt)?;
            pace(&sink, latency);
            Ok(sink)
        }
        Output::Rtmp(rtmp) => {
            let sink = rtmp_sink(rtmp)?;
            pace(&sink, latency);
            Ok(sink)
        }
        Output::Stdout => {
            let sink = make("fdsink")?;
            sink.set_property("fd", 1_i32);
            sink.set_property("sync", false);
            Ok(sink)
        }
        Output::Window | Output::Null | Output::Snapshot(_) | Output::V4l2(_) | Output::Hls(_) => {
            Err(PlayerError::Refused { what: format!("to pass coded media to {output}") })
        }
    }
}

/// Sends in real time, and what comes at once no faster than receivers take it.
fn pace(sink: &gst::Element, latency: Duration) {
    sink.set_property("sync", true);
    sink.set_property("ts-offset", nanoseconds(latency).cast_signed());
    sink.set_property("max-bitrate", BURST_RATE);
}
