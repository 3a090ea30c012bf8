//! One turn of a file: opened, taken apart, and decoded where that is needed.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use protocol::media::Kind;

use super::shelf::{Frame, Shelf};
use super::timeline::Shape;
use crate::media::elements::make;
use crate::media::encode::opus_input;
use crate::media::error::{MediaError, reason};
use crate::media::plan::Plan;
use crate::media::track::{cannot_build, stop_at_final_form};

/// How long a file may take to open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a track of a file is.
#[derive(Debug, Clone)]
pub(super) struct TrackInfo {
    pub(super) shape: Shape,
    pub(super) caps: gst::Caps,
}

/// A file being read from its beginning to its end, once.
pub(super) struct Reader {
    pipeline: gst::Pipeline,
    pub(super) shelf: Arc<Shelf>,
    tracks: Arc<Mutex<Vec<TrackInfo>>>,
}

impl Reader {
    /// Starts reading; only as much is read ahead as the shelf holds.
    pub(super) fn start(path: &Path) -> Result<Self, MediaError> {
        let pipeline = gst::Pipeline::new();
        let source = make("filesrc", &[])?;
        source.set_property("location", path);
        let decoder = make("decodebin", &[("force-sw-decoders", "true")])?;
        stop_at_final_form(&decoder);
        pipeline.add_many([&source, &decoder]).map_err(cannot_build)?;
        source.link(&decoder).map_err(cannot_build)?;

        let reader = Self { pipeline, shelf: Arc::default(), tracks: Arc::default() };
        let (shelf, tracks) = (reader.shelf.clone(), reader.tracks.clone());
        let weak_pipeline = reader.pipeline.downgrade();
        decoder.connect_pad_added(move |_, pad| {
            if let Some(pipeline) = weak_pipeline.upgrade()
                && let Err(error) = add_track(&pipeline, pad, &shelf, &tracks)
            {
                shelf.fail(error.to_string());
            }
        });
        let shelf = reader.shelf.clone();
        decoder.connect_no_more_pads(move |_| shelf.complete());
        let shelf = reader.shelf.clone();
        let bus = reader.pipeline.bus().ok_or_else(|| cannot_build("a pipeline without a bus"))?;
        bus.set_sync_handler(move |_, message| {
            if let gst::MessageView::Error(error) = message.view() {
                shelf.fail(reason(&error.error(), error.debug().as_deref()));
            }
            gst::BusSyncReply::Drop
        });
        // A failure is on the shelf by now.
        if let Err(error) = reader.pipeline.set_state(gst::State::Playing) {
            reader.shelf.fail(error.to_string());
        }
        Ok(reader)
    }

    /// Waits until the file's tracks are known.
    pub(super) fn tracks(&self) -> Result<Vec<TrackInfo>, String> {
        self.shelf.wait_for_tracks(Instant::now() + OPEN_TIMEOUT)?;
        Ok(self.tracks.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shelf.close();
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::debug!("a file's reader did not stop in order");
        }
    }
}

/// Leads the first track of each kind onto the shelf and all others nowhere.
fn add_track(
    pipeline: &gst::Pipeline,
    pad: &gst::Pad,
    shelf: &Arc<Shelf>,
    tracks: &Mutex<Vec<TrackInfo>>,
) -> Result<(), MediaError> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let (shape, caps, mut chain) = match Plan::for_caps(&caps) {
        Plan::PassThrough(codec) => {
            let shape = match codec.kind() {
                Kind::Video => Shape::Pictures,
                Kind::Audio => Shape::SoundFrames,
            };
            (Some(shape), caps, Vec::new())
        }
        Plan::Encode(Kind::Video) => (Some(Shape::Pictures), caps, Vec::new()),
        Plan::Encode(Kind::Audio) => {
            let caps = opus_input(&caps);
            let channels = caps.structure(0).and_then(|raw| raw.get::<i32>("channels").ok());
            let channels = channels.and_then(|channels| channels.try_into().ok()).unwrap_or(2);
            let chain = vec![make("audioconvert", &[])?, make("audioresample", &[])?];
            (Some(Shape::Samples { channels }), caps, chain)
        }
        Plan::Decode | Plan::LeaveOut => (None, caps, Vec::new()),
    };
    let track = shape.and_then(|shape| Some((shelf.add_track(shape.kind())?, shape)));
    match track {
        Some((track, shape)) => {
            chain.push(sink(track, &caps, shelf).upcast());
            tracks.lock().unwrap_or_else(PoisonError::into_inner).push(TrackInfo { shape, caps });
        }
        None => {
            tracing::info!(%caps, "track of the file left out");
            chain = vec![make("fakesink", &[("sync", "false"), ("async", "false")])?];
        }
    }
    pipeline.add_many(&chain).map_err(cannot_build)?;
    gst::Element::link_many(&chain).map_err(cannot_build)?;
    for element in chain.iter().rev() {
        element.sync_state_with_parent().map_err(cannot_build)?;
    }
    let entry = chain.first().and_then(|element| element.static_pad("sink"));
    pad.link(&entry.ok_or_else(|| cannot_build("a sink without a pad"))?).map_err(cannot_build)?;
    Ok(())
}

fn sink(track: usize, caps: &gst::Caps, shelf: &Arc<Shelf>) -> gst_app::AppSink {
    let sink = gst_app::AppSink::builder()
        .sync(false)
        .async_(false)
        .enable_last_sample(false)
        .max_buffers(1)
        .build();
    if caps.structure(0).is_some_and(|structure| structure.name() == "audio/x-raw") {
        sink.set_caps(Some(caps));
    }
    let (on_sample, on_end) = (shelf.clone(), shelf.clone());
    sink.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                match frame(&sample).is_none_or(|frame| on_sample.put(track, frame)) {
                    true => Ok(gst::FlowSuccess::Ok),
                    false => Err(gst::FlowError::Flushing),
                }
            })
            .eos(move |_| on_end.end(track))
            .build(),
    );
    sink
}

/// A sample with its times in running time. One without any time can't be placed; a picture that
/// only lacks its presentation time (some TS, AVI) is shown when it is decoded.
fn frame(sample: &gst::Sample) -> Option<Frame> {
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    let buffer = sample.buffer_owned()?;
    let running = |time: Option<gst::ClockTime>| {
        let time: gst::Signed<gst::ClockTime> = segment.to_running_time_full(time?)?;
        Some(match time {
            gst::Signed::Positive(time) => time.nseconds() as i64,
            gst::Signed::Negative(time) => -(time.nseconds() as i64),
        })
    };
    let dts = running(buffer.dts());
    let pts = running(buffer.pts()).or(dts)?;
    let duration = buffer.duration().map(|duration| duration.nseconds() as i64);
    Some(Frame { buffer, pts, dts, duration })
}
