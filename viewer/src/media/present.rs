//! Showing one decoded track on one output, at its time: `appsrc ! sink` in a pipeline of its own,
//! so that a window that breaks takes nothing else with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use protocol::media::Kind;

use super::error::PlayerError;
use super::output::Output;
use super::pane::Pane;
use super::shared::{Notice, Part, Shared, chain, clock_time, halt, make, pad, play};
use super::{snapshot, v4l2};

/// Decoded pictures that may wait for their time. What comes later waits coded, which is smaller.
const PICTURES_WAITING: u64 = 3;

/// Decoded pieces of sound that may wait, 10 to 60 ms each.
const SOUNDS_WAITING: u64 = 8;

/// The sound device's own buffer, within the latency: short enough to leave room for the path,
/// long enough not to run dry when the machine is busy.
const SOUND_DEVICE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(40)..=Duration::from_millis(100);

/// A picture this much later than its time is history.
const TOO_OLD: Duration = Duration::from_millis(500);

/// A sink for one track.
#[derive(Debug, Clone)]
pub(super) struct Presenter {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    kind: Kind,
    halted: Arc<AtomicBool>,
    /// The window that the pictures go to.
    pane: Option<Arc<Pane>>,
    /// What makes sound louder.
    volume: Option<gst::Element>,
}

impl Presenter {
    /// Starts one. `output` is one for decoded pictures and sound.
    pub(super) fn start(
        shared: &Arc<Shared>,
        part: Part,
        output: &Output,
        track: usize,
        kind: Kind,
        pane: Option<&Arc<Pane>>,
    ) -> Result<Self, PlayerError> {
        if let (Output::Window, Kind::Video, Some(pane)) = (output, kind, pane) {
            let (pipeline, source, sink) = pane.parts();
            watch_release(shared, sink, track, kind)?;
            pane.join(shared, part);
            let (pipeline, source) = (pipeline.clone(), source.clone());
            let (halted, pane) = (Arc::default(), Some(pane.clone()));
            return Ok(Self { pipeline, source, kind, halted, pane, volume: None });
        }
        let pipeline = shared.pipeline(part);
        // Given, and not asked of the elements: the sinks then add nothing of their own.
        pipeline.set_latency(clock_time(shared.latency));
        let waiting = match kind {
            Kind::Video => PICTURES_WAITING,
            Kind::Audio => SOUNDS_WAITING,
        };
        let mut volume = None;
        let source = gst_app::AppSrc::builder()
            .format(gst::Format::Time)
            .is_live(true)
            .max_bytes(0)
            .max_buffers(waiting)
            .block(true)
            .build();
        let (converters, sink) = match (output, kind) {
            (Output::Window, Kind::Audio) => {
                let louder = volume.insert(make("volume")?).clone();
                let converters = vec![make("audioconvert")?, make("audioresample")?, louder];
                (converters, make("autoaudiosink")?)
            }
            (Output::Snapshot(snapshot), Kind::Video) => snapshot::elements(snapshot, &source)?,
            (Output::V4l2(loopback), Kind::Video) => v4l2::elements(loopback, &source)?,
            _ => (Vec::new(), make("fakesink")?),
        };
        sink.set_property("sync", true);
        let device = (shared.latency / 2).clamp(*SOUND_DEVICE.start(), *SOUND_DEVICE.end());
        pipeline.connect_deep_element_added(move |_, _, element| prepare(element, device));
        let mut elements = vec![source.clone().upcast::<gst::Element>()];
        elements.extend(converters);
        elements.push(sink.clone());
        chain(&pipeline, &elements.iter().collect::<Vec<_>>())?;
        watch_release(shared, &sink, track, kind)?;
        let halted = Arc::default();
        let presenter = Self { pipeline, source, kind, halted, pane: None, volume };
        if let Some(pane) = pane {
            presenter.set_volume(pane.volume());
        }
        if *output == Output::Window && kind == Kind::Audio {
            // Looking for a sound device can take seconds, and the picture shouldn't wait.
            let (presenter, shared) = (presenter.clone(), shared.clone());
            let thread = std::thread::Builder::new().name("sound".into());
            let started = thread.spawn(move || presenter.play_later(&shared, part));
            started.map_err(|error| PlayerError::Refused { what: format!("a thread: {error}") })?;
        } else {
            play(&presenter.pipeline, &output.to_string())?;
        }
        Ok(presenter)
    }

    fn play_later(&self, shared: &Shared, part: Part) {
        if let Err(error) = play(&self.pipeline, "sound") {
            shared.notify(Notice::Broke(part, error));
        }
        if self.halted.load(SeqCst) {
            halt(&self.pipeline);
        }
    }

    /// Queues the sample for its time. Blocks while enough wait, until one is shown or the
    /// presenter halts.
    pub(super) fn present(&self, sample: &gst::Sample) {
        match &self.pane {
            Some(pane) => pane.present(sample),
            None => drop(self.source.push_sample(sample)),
        }
    }

    /// Makes sound so loud, in percent, or mutes it.
    pub(super) fn set_volume(&self, (percent, is_muted): (u32, bool)) {
        let Some(volume) = &self.volume else { return };
        // As ears hear it.
        volume.set_property("volume", (f64::from(percent) / 100.0).powi(3));
        volume.set_property("mute", is_muted);
    }

    /// Throws away what waits for its time. What is shown stays.
    pub(super) fn flush(&self) {
        self.source.send_event(gst::event::FlushStart::new());
        self.source.send_event(gst::event::FlushStop::builder(false).build());
    }

    /// Stops showing and releases whoever is blocked in [`Self::present`].
    pub(super) fn halt(&self) {
        self.halted.store(true, SeqCst);
        halt(&self.pipeline);
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }
}

/// Sets what the automatic sinks don't pass on to the sink that they chose: what is late has been
/// dropped already, and the decoder must not leave out frames on the sink's word.
pub(super) fn prepare(element: &gst::Element, device: Duration) {
    for (name, value) in [("async", false), ("qos", false)] {
        if element.has_property_with_type(name, bool::static_type()) {
            element.set_property(name, value);
        }
    }
    if element.has_property_with_type("max-lateness", i64::static_type()) {
        element.set_property("max-lateness", -1_i64);
    }
    if element.has_property_with_type("processing-deadline", u64::static_type()) {
        // The time for processing is in the latency already.
        element.set_property("processing-deadline", 0_u64);
    }
    if element.has_property_with_type("buffer-time", i64::static_type()) {
        element.set_property("buffer-time", i64::try_from(device.as_micros()).unwrap_or(100_000));
        element.set_property("latency-time", 10_000_i64);
    }
}

/// Measures when buffers leave. A sink that shows nothing tells; of the others it is known when a
/// buffer came and when it was due.
fn watch_release(
    shared: &Arc<Shared>,
    sink: &gst::Element,
    track: usize,
    kind: Kind,
) -> Result<(), PlayerError> {
    let told = sink.has_property("signal-handoffs");
    let clock = shared.clone();
    let released = {
        let shared = shared.clone();
        move |presentation: gst::ClockTime, at: Duration| {
            let presentation = Duration::from(presentation);
            let took = at.saturating_sub(presentation);
            // A picture shown in spite of its age says nothing about live play.
            if kind == Kind::Video && took < shared.latency + TOO_OLD {
                shared.counters.released_after(took);
            }
            #[cfg(test)]
            shared.counters.released(track, presentation, at);
            tracing::trace!(track, ?kind, ?presentation, ?at, "released");
        }
    };
    if told {
        sink.set_property("signal-handoffs", true);
        sink.connect("handoff", false, move |values| {
            let buffer = values.get(1).and_then(|value| value.get::<gst::Buffer>().ok());
            if let Some(time) = buffer.and_then(|buffer| buffer.pts()) {
                released(time, clock.running_time());
            }
            None
        });
        return Ok(());
    }
    pad(sink, "sink")?.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(time) = info.buffer().and_then(|buffer| buffer.pts()) {
            released(time, clock.running_time().max(Duration::from(time) + clock.latency));
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}
