//! One turn of an item: opened, taken apart, and decoded where that is needed.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use protocol::media::Kind;

use super::lineup::{Form, Lineup};
use super::shelf::{Frame, Shelf};
use super::timeline::Shape;
use crate::media::elements::{caps_filter, make};
use crate::media::encode::opus_input;
use crate::media::error::{MediaError, reason};
use crate::media::plan::Plan;
use crate::media::track::cannot_build;

/// What a track of a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Starts reading what the lineup wants; only as much is read ahead as the shelf holds.
    pub(super) fn start(path: &Path, lineup: &Arc<Lineup>) -> Result<Self, MediaError> {
        let pipeline = gst::Pipeline::new();
        let source = make("filesrc", &[])?;
        source.set_property("location", path);
        let decoder = make("decodebin", &[("force-sw-decoders", "true")])?;
        stop_decoding(&decoder, lineup.clone());
        let lineup = lineup.clone();
        pipeline.add_many([&source, &decoder]).map_err(cannot_build)?;
        source.link(&decoder).map_err(cannot_build)?;

        let reader = Self { pipeline, shelf: Arc::default(), tracks: Arc::default() };
        let (shelf, tracks) = (reader.shelf.clone(), reader.tracks.clone());
        let weak_pipeline = reader.pipeline.downgrade();
        decoder.connect_pad_added(move |_, pad| {
            if let Some(pipeline) = weak_pipeline.upgrade()
                && let Err(error) = add_track(&pipeline, pad, &lineup, &shelf, &tracks)
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

    /// Waits until the file's tracks are known, but not past `deadline`, and not if `stopped`.
    pub(super) fn tracks(
        &self,
        deadline: Instant,
        stopped: impl Fn() -> bool,
    ) -> Result<Vec<TrackInfo>, String> {
        self.shelf.wait_for_tracks(deadline, stopped)?;
        Ok(self.tracks.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// How long the file plays, in nanoseconds, where it says so.
    pub(super) fn duration(&self) -> Option<i64> {
        let duration = self.pipeline.query_duration::<gst::ClockTime>()?;
        i64::try_from(duration.nseconds()).ok()
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

/// Makes a `decodebin` stop as soon as there is something in the form that is wanted.
fn stop_decoding(decodebin: &gst::Element, lineup: Arc<Lineup>) {
    decodebin.connect("autoplug-continue", false, move |arguments| {
        let caps = arguments.get(2).and_then(|caps| caps.get::<gst::Caps>().ok());
        let goes_on = caps.is_none_or(|caps| {
            let is_unwanted = match Plan::for_caps(&caps) {
                Plan::PassThrough(codec) => matches!(lineup.form(codec.kind()), Form::Raw(_)),
                _ => false,
            };
            is_unwanted || !Plan::is_final(&caps)
        });
        Some(goes_on.to_value())
    });
}

/// Leads the first track of each kind onto the shelf and all others nowhere.
fn add_track(
    pipeline: &gst::Pipeline,
    pad: &gst::Pad,
    lineup: &Lineup,
    shelf: &Arc<Shelf>,
    tracks: &Mutex<Vec<TrackInfo>>,
) -> Result<(), MediaError> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let prepared = prepare(caps.clone(), lineup)?;
    let track = prepared.and_then(|(info, chain)| {
        let track = shelf.add_track(info.shape.kind())?;
        Some((track, info, chain))
    });
    let chain = match track {
        Some((track, info, mut chain)) => {
            chain.push(sink(track, &info.caps, shelf).upcast());
            tracks.lock().unwrap_or_else(PoisonError::into_inner).push(info);
            chain
        }
        None => {
            tracing::info!(%caps, "track of the file left out");
            vec![make("fakesink", &[("sync", "false"), ("async", "false")])?]
        }
    };
    pipeline.add_many(&chain).map_err(cannot_build)?;
    gst::Element::link_many(&chain).map_err(cannot_build)?;
    for element in chain.iter().rev() {
        element.sync_state_with_parent().map_err(cannot_build)?;
    }
    let entry = chain.first().and_then(|element| element.static_pad("sink"));
    pad.link(&entry.ok_or_else(|| cannot_build("a sink without a pad"))?).map_err(cannot_build)?;
    Ok(())
}

/// What a pad of these caps becomes, and the elements that make it that. None for what is left out.
fn prepare(
    caps: gst::Caps,
    lineup: &Lineup,
) -> Result<Option<(TrackInfo, Vec<gst::Element>)>, MediaError> {
    let plan = Plan::for_caps(&caps);
    let kind = match plan {
        Plan::PassThrough(codec) => codec.kind(),
        Plan::Encode(kind) => kind,
        Plan::Decode | Plan::LeaveOut => return Ok(None),
    };
    let (shape, caps, chain) = match (plan, lineup.form(kind)) {
        (_, Form::LeftOut) | (Plan::PassThrough(_), Form::Raw(_)) => return Ok(None),
        (Plan::PassThrough(_), _) if kind == Kind::Video => (Shape::Pictures, caps, Vec::new()),
        (Plan::PassThrough(_), _) => (Shape::SoundFrames, caps, Vec::new()),
        (_, Form::AsFound) if kind == Kind::Video => (Shape::Pictures, caps, Vec::new()),
        (_, Form::Raw(wanted)) if kind == Kind::Video => {
            let chain = one_size(&caps, &wanted)?;
            (Shape::Pictures, wanted, chain)
        }
        (_, form) => {
            let caps = match form {
                Form::Raw(wanted) => wanted,
                _ => opus_input(&caps),
            };
            let channels = caps.structure(0).and_then(|raw| raw.get::<i32>("channels").ok());
            let channels = channels.and_then(|channels| channels.try_into().ok()).unwrap_or(2);
            let chain = vec![make("audioconvert", &[])?, make("audioresample", &[])?];
            (Shape::Samples { channels }, caps, chain)
        }
    };
    Ok(Some((TrackInfo { shape, caps }, chain)))
}

/// Brings raw pictures into the size and format of `wanted`, at whatever rate they come. They keep their
/// shape: what remains is black.
fn one_size(caps: &gst::CapsRef, wanted: &gst::Caps) -> Result<Vec<gst::Element>, MediaError> {
    let mut chain = vec![make("videoconvert", &[])?];
    let interlace = caps.structure(0).and_then(|raw| raw.get::<String>("interlace-mode").ok());
    if interlace.is_some_and(|mode| mode != "progressive") {
        chain.push(make("deinterlace", &[("fields", "top")])?);
        chain.push(make("videoconvert", &[])?);
    }
    chain.push(make("videoscale", &[("add-borders", "true")])?);
    let mut wanted = wanted.clone();
    wanted.make_mut().iter_mut().for_each(|structure| structure.remove_field("framerate"));
    chain.push(caps_filter(&wanted)?);
    Ok(chain)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::lineup::Look;
    use super::*;
    use crate::media::config::VideoConfig;
    use crate::media::elements;

    #[test]
    fn pictures_brought_to_one_size_keep_their_shape() {
        const SIZE: (usize, usize) = (64, 32);
        elements::init().expect("GStreamer starts");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("white");
        // Square, though its pixels are not.
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc num-buffers=2 pattern=white \
             ! video/x-raw,width=128,height=256,pixel-aspect-ratio=2/1,framerate=25/1 \
             ! jpegenc ! matroskamux ! filesink location={}",
            path.display()
        ));
        let pipeline = pipeline.expect("legal description");
        pipeline.set_state(gst::State::Playing).expect("starts");
        let bus = pipeline.bus().expect("a pipeline has a bus");
        bus.timed_pop_filtered(gst::ClockTime::from_seconds(10), &[gst::MessageType::Eos])
            .expect("an end in time");
        pipeline.set_state(gst::State::Null).expect("stops");

        let deadline = Instant::now() + Duration::from_secs(10);
        let found = Reader::start(&path, &Arc::default()).expect("elements");
        let tracks = found.tracks(deadline, || false).expect("tracks");
        let (width, height) = (SIZE.0 as u32, SIZE.1 as u32);
        let config = VideoConfig { width, height, ..VideoConfig::default() };
        let looks = [Look { path: path.clone(), tracks }];
        let lineup = Arc::new(Lineup::for_items(&looks, &config));
        let reader = Reader::start(&path, &lineup).expect("elements");
        let tracks = reader.tracks(deadline, || false).expect("tracks");
        assert_eq!(tracks[0].caps, lineup.lines()[0].info.caps);
        let taken = reader.shelf.take(|| false).expect("a picture");
        let picture = taken.frame.buffer.map_readable().expect("memory");
        assert_eq!(picture.len(), SIZE.0 * SIZE.1 * 3 / 2);
        let row = &picture[SIZE.0 * SIZE.1 / 2..][..SIZE.0];
        let (left, right) = ((SIZE.0 - SIZE.1) / 2, (SIZE.0 + SIZE.1) / 2);
        assert!(row[..left - 1].iter().all(|&luma| luma <= 20), "{row:?}");
        assert!(row[left + 1..right - 1].iter().all(|&luma| luma >= 200), "{row:?}");
        assert!(row[right + 1..].iter().all(|&luma| luma <= 20), "{row:?}");
    }
}
