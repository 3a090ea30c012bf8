//! A small picture of a stored file.

use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use protocol::library::MAX_THUMBNAIL;

use super::elements::{init, make};
use super::error::MediaError;
use super::stored::keep_to_the_file;
use super::track::cannot_build;

/// How long making a picture may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The size that a picture fits into, in pixels.
const BOX: (u32, u32) = (240, 135);

/// How often whoever asked is asked whether the picture is still wanted.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// Decodes the picture at a tenth of a file, or its first if that one does not come, and makes it a JPEG of at
/// most [`MAX_THUMBNAIL`] bytes. `None` where there is none in 5 s, or `stopped` said yes.
pub(crate) fn thumbnail(
    location: &Path,
    duration: Option<Duration>,
    stopped: &dyn Fn() -> bool,
) -> Option<Vec<u8>> {
    let deadline = Instant::now() + TIMEOUT;
    let decoder = match Decoder::start(location) {
        Ok(decoder) => decoder,
        Err(error) => {
            tracing::debug!(%error, "no picture of a file");
            return None;
        }
    };
    let first = decoder.sample(deadline, stopped)?;
    let chosen = duration.and_then(|duration| {
        decoder.seek(duration / 10)?;
        decoder.sample(deadline, stopped)
    });
    if stopped() {
        return None;
    }
    jpeg(&chosen.unwrap_or(first), deadline)
}

/// What a running decoder tells.
enum Step {
    Sample(gst::Sample),
    Over,
}

struct Decoder {
    pipeline: gst::Pipeline,
    steps: Receiver<Step>,
}

impl Decoder {
    fn start(location: &Path) -> Result<Self, MediaError> {
        init()?;
        let pipeline = gst::Pipeline::new();
        let source = make("filesrc", &[])?;
        source.set_property("location", location);
        let decoder = make("decodebin", &[("force-sw-decoders", "true")])?;
        keep_to_the_file(&decoder);
        leave_sound(&decoder);
        let (to, steps) = mpsc::channel();
        let sink = sink(&to);
        let sink_element = sink.upcast_ref::<gst::Element>();
        pipeline.add_many([&source, &decoder, sink_element]).map_err(cannot_build)?;
        source.link(&decoder).map_err(cannot_build)?;
        let entry = sink.static_pad("sink").ok_or_else(|| cannot_build("a sink without a pad"))?;
        decoder.connect_pad_added(move |_, pad| {
            // Only the first picture track fits.
            if !entry.is_linked() && pad.link(&entry).is_err() {
                tracing::trace!(pad = %pad.name(), "not a picture");
            }
        });
        let bus = pipeline.bus().ok_or_else(|| cannot_build("a pipeline without a bus"))?;
        bus.set_sync_handler(move |_, message| {
            if matches!(message.type_(), gst::MessageType::Error | gst::MessageType::Eos) {
                to.send(Step::Over).unwrap_or_default();
            }
            gst::BusSyncReply::Drop
        });
        let decoder = Self { pipeline, steps };
        decoder.pipeline.set_state(gst::State::Paused).map_err(cannot_build)?;
        Ok(decoder)
    }

    /// The picture that the pipeline stands at.
    fn sample(&self, deadline: Instant, stopped: &dyn Fn() -> bool) -> Option<gst::Sample> {
        while !stopped() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.steps.recv_timeout(left.min(STOP_INTERVAL)) {
                Ok(Step::Sample(sample)) => return Some(sample),
                Err(RecvTimeoutError::Timeout) if left > Duration::ZERO => {}
                Ok(Step::Over) | Err(_) => return None,
            }
        }
        None
    }

    fn seek(&self, position: Duration) -> Option<()> {
        let position = gst::ClockTime::try_from(position).ok()?;
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
        self.pipeline.seek_simple(flags, position).ok()
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::debug!("a thumbnail's decoder did not stop in order");
        }
    }
}

/// Sound need not be decoded.
fn leave_sound(decoder: &gst::Element) {
    decoder.connect("autoplug-continue", false, |arguments| {
        let caps = arguments.get(2).and_then(|caps| caps.get::<gst::Caps>().ok());
        let is_sound = caps.as_ref().and_then(|caps| caps.structure(0)).is_some_and(|structure| {
            // Tracks, not containers such as `audio/x-m4a`: those have no rate.
            structure.name().starts_with("audio/") && structure.has_field("rate")
        });
        Some((!is_sound).to_value())
    });
}

/// A sink that tells of the picture it prerolls with.
fn sink(to: &Sender<Step>) -> gst_app::AppSink {
    let sink = gst_app::AppSink::builder()
        .caps(&gst::Caps::new_empty_simple("video/x-raw"))
        .sync(false)
        .max_buffers(1)
        .build();
    let sender = to.clone();
    sink.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_preroll(move |sink| {
                let sample = sink.pull_preroll().map_err(|_| gst::FlowError::Eos)?;
                sender.send(Step::Sample(sample)).unwrap_or_default();
                Ok(gst::FlowSuccess::Ok)
            })
            .build(),
    );
    sink
}

/// As a JPEG that fits: made smaller until it does.
fn jpeg(sample: &gst::Sample, deadline: Instant) -> Option<Vec<u8>> {
    let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
    let (mut width, mut height) = fit(&info);
    while width >= 16 && height >= 16 {
        let caps = gst::Caps::builder("image/jpeg")
            .field("width", width as i32)
            .field("height", height as i32)
            .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
            .build();
        let left = deadline.saturating_duration_since(Instant::now());
        let left = gst::ClockTime::try_from(left).ok()?;
        let made = gst_video::convert_sample(sample, &caps, Some(left)).ok()?;
        let bytes = made.buffer()?.map_readable().ok()?.to_vec();
        if bytes.len() <= MAX_THUMBNAIL {
            return Some(bytes);
        }
        (width, height) = (width / 2, height / 2);
    }
    None
}

/// The size of a picture that fits the box and keeps its shape on a screen of square pixels.
fn fit(info: &gst_video::VideoInfo) -> (u32, u32) {
    let par = info.par();
    let shape = f64::from(info.width()) * f64::from(par.numer())
        / (f64::from(info.height().max(1)) * f64::from(par.denom().max(1)));
    let (most_width, most_height) = (f64::from(BOX.0), f64::from(BOX.1));
    let width = most_width.min(most_height * shape);
    let height = (width / shape).min(most_height);
    // Extremely long or high pictures are made less so.
    (width.round().max(16.0) as u32, height.round().max(16.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_fit_and_keep_their_shape() {
        init().expect("GStreamer starts");
        for (width, height, par, expected) in [
            (640, 360, (1, 1), (240, 135)),
            (320, 240, (1, 1), (180, 135)),
            (1080, 1920, (1, 1), (76, 135)),
            (720, 576, (64, 45), (240, 135)),
            (4000, 100, (1, 1), (240, 16)),
        ] {
            let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, width, height)
                .par(par)
                .build()
                .expect("legal");
            assert_eq!(fit(&info), expected, "{width}x{height}");
        }
    }

    #[test]
    fn the_worst_picture_is_small_enough() {
        init().expect("GStreamer starts");
        let (width, height) = (240, 135);
        let format = gst_video::VideoFormat::Rgb;
        let info = gst_video::VideoInfo::builder(format, width, height).build().expect("legal");
        // Noise in every colour, the same every time.
        let noise = |index: usize| ((index as u32).wrapping_mul(2_654_435_761) >> 11) as u8;
        let buffer = gst::Buffer::from_slice((0..info.size()).map(noise).collect::<Vec<_>>());
        let caps = info.to_caps().expect("caps");
        let sample = gst::Sample::builder().buffer(&buffer).caps(&caps).build();
        let jpeg = jpeg(&sample, Instant::now() + TIMEOUT).expect("a picture");
        assert!(jpeg.starts_with(&[0xff, 0xd8]) && jpeg.len() <= MAX_THUMBNAIL, "{}", jpeg.len());
    }
}
