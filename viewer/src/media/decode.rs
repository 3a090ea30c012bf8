//! Decoding, once for all outputs that show or sound: `queue ! decoder ! appsink`.
//!
//! Everything is decoded as fast as the machine can. A frame whose time has passed is then not
//! shown, so that joining with a burst of history ends at the live picture instead of running
//! through the past. The very first frame is shown whatever its age; and where play has kept up, one that is a
//! little late is shown all the same, and told.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use protocol::media::Kind;

use super::codec::Codec;
use super::environment;
use super::error::PlayerError;
use super::present::Presenter;
use super::receive::Destinations;
use super::shared::{Notice, Shared, chain, clock_time, lock, make, pad};
use super::take::Take;

/// Later than this is late. Under a frame's duration at 30 a second.
const TOLERANCE: Duration = Duration::from_millis(20);

/// A machine too slow to decode in time still shows a picture this often.
const STILL_ALIVE: Duration = Duration::from_secs(2);

/// Coded media waiting for the decoder, in bytes. Half a minute at 16 Mbit/s; beyond it the decoder
/// has lost, and pictures are left out up to the next keyframe.
const MOST_WAITING: usize = 64 << 20;

/// The coded media between the tap and the decoder.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: AtomicUsize,
    /// Presentation time of the newest keyframe, in ns: late pictures before it needn't be decoded.
    keyframe: AtomicU64,
    overrun: Mutex<bool>,
}

impl Backlog {
    /// Whether the buffer may join the queue.
    pub(super) fn admit(&self, buffer: &gst::Buffer, keyframe: bool) -> bool {
        let mut overrun = lock(&self.overrun);
        let full = self.waiting.load(Relaxed) > MOST_WAITING;
        if full && !*overrun {
            tracing::warn!("decoding can't keep up; leaving out pictures up to the next keyframe");
        }
        *overrun = full || (*overrun && !keyframe);
        if *overrun {
            return false;
        }
        self.waiting.fetch_add(buffer.size(), Relaxed);
        if let (true, Some(time)) = (keyframe, buffer.pts()) {
            self.keyframe.store(time.nseconds(), Relaxed);
        }
        true
    }

    /// Takes the buffer off the queue; false if decoding it would show nothing any more.
    fn leave(&self, shared: &Shared, buffer: &gst::Buffer) -> bool {
        let size = buffer.size();
        let _ = self
            .waiting
            .fetch_update(Relaxed, Relaxed, |waiting| Some(waiting.saturating_sub(size)));
        let Some(time) = buffer.pts() else { return true };
        time.nseconds() >= self.keyframe.load(Relaxed) || lateness(shared, time.into()) <= TOLERANCE
    }
}

/// Adds the decoder behind `from` and hands what it makes to the presenters.
pub(super) fn add(
    pipeline: &gst::Pipeline,
    shared: &Arc<Shared>,
    codec: Codec,
    from: &gst::Element,
    backlog: Arc<Backlog>,
    to: Destinations,
) -> Result<(), PlayerError> {
    let queue = make("queue")?;
    for limit in ["max-size-buffers", "max-size-bytes"] {
        queue.set_property(limit, 0_u32);
    }
    queue.set_property("max-size-time", 0_u64);
    let decoder = make(environment::decoder(codec)?)?;
    let sink = gst_app::AppSink::builder().sync(false).async_(false).qos(false).build();
    chain(pipeline, &[&queue, &decoder, sink.upcast_ref()])?;
    from.link(&queue).map_err(|e| PlayerError::Refused { what: format!("to decode: {e}") })?;

    let skip_shared = shared.clone();
    let is_stored = to.take.is_some();
    pad(&queue, "src")?.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let shows = info.buffer().is_none_or(|buffer| backlog.leave(&skip_shared, buffer));
        // Of a stored file, nothing is left out for being late.
        if shows || is_stored {
            return gst::PadProbeReturn::Ok;
        }
        skip_shared.counters.frames_dropped.fetch_add(1, Relaxed);
        gst::PadProbeReturn::Drop
    });
    let release = Release {
        shared: shared.clone(),
        kind: codec.kind(),
        leads: to.leads,
        presenters: to.presenters,
        live: Mutex::default(),
        take: to.take,
    };
    if codec.kind() == Kind::Video {
        let (shared, caps) = (shared.clone(), gst::PadProbeType::EVENT_DOWNSTREAM);
        pad(sink.upcast_ref(), "sink")?.add_probe(caps, move |_, info| {
            if let Some(event) = info.event()
                && let gst::EventView::Caps(caps) = event.view()
                && let Ok(info) = gst_video::VideoInfo::from_caps(caps.caps())
            {
                shared.counters.has_size(info.width(), info.height());
            }
            gst::PadProbeReturn::Ok
        });
    }
    let ends = release.take.clone();
    sink.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                release.decoded(&sample);
                Ok(gst::FlowSuccess::Ok)
            })
            .eos(move |_| {
                if let Some((take, _)) = &ends {
                    take.track_ended();
                }
            })
            .build(),
    );
    Ok(())
}

/// Decides over each decoded buffer.
struct Release {
    shared: Arc<Shared>,
    kind: Kind,
    leads: bool,
    presenters: Vec<Presenter>,
    live: Mutex<Live>,
    /// The take, of a stored file, and the track's place in it.
    take: Option<(Arc<Take>, usize)>,
}

/// How a live track has come lately.
#[derive(Debug, Default)]
struct Live {
    /// Running time at which the last buffer went to the presenters.
    shown_at: Option<Duration>,
    /// What was decoded last came in its time, or as late as is borne: a joining viewer has not caught up yet, and
    /// one whose media stood still has something to leave out.
    keeps_up: bool,
}

impl Release {
    fn decoded(&self, sample: &gst::Sample) {
        let counters = &self.shared.counters;
        match self.kind {
            Kind::Video => counters.frames_decoded.fetch_add(1, Relaxed),
            Kind::Audio => counters.audio_buffers_decoded.fetch_add(1, Relaxed),
        };
        if self.leads && counters.first_frame() {
            self.shared.notify(Notice::FirstFrame);
        }
        let Some(time) = sample.buffer().and_then(gst::BufferRef::pts) else { return };
        if let Some((take, track)) = &self.take {
            self.stored(take, *track, sample, time.into());
            return;
        }
        if self.in_time(time.into()) {
            for presenter in &self.presenters {
                presenter.present(sample);
            }
        } else if self.kind == Kind::Video {
            counters.frames_dropped.fetch_add(1, Relaxed);
        }
    }

    /// Shows what belongs to a take, however late it is.
    fn stored(&self, take: &Take, track: usize, sample: &gst::Sample, time: Duration) {
        let (Some(position), Some(buffer)) = (take.position(track, time), sample.buffer_owned())
        else {
            return;
        };
        let lasts = match (self.kind, buffer.duration()) {
            (Kind::Audio, Some(duration)) => (duration.nseconds() as f64 * take.rate()) as i64,
            _ => 0,
        };
        let is_wanted = !take.is_before(position + lasts) && !take.stands_still(self.leads);
        if take.is_over() || !is_wanted {
            return;
        }
        let nanoseconds = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let later = if self.leads {
            let due = nanoseconds(time + self.shared.latency);
            Some(take.picture_later(nanoseconds(self.shared.running_time()) - due))
        } else {
            take.sound_later()
        };
        let Some(later) = later else { return };
        let at = nanoseconds(time).saturating_add(later).max(0);
        let at = Duration::from_nanos(at.cast_unsigned());
        let mut buffer = buffer.copy();
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(clock_time(at));
        }
        let Some(caps) = sample.caps_owned() else { return };
        let moved = gst::Sample::builder().buffer(&buffer).caps(&caps).build();
        if self.leads {
            take.shows(position, nanoseconds(at));
        }
        take.reaches(position + lasts, nanoseconds(at));
        for presenter in &self.presenters {
            if take.is_over() {
                return;
            }
            presenter.present(&moved);
        }
    }

    fn in_time(&self, time: Duration) -> bool {
        let mut live = lock(&self.live);
        let now = self.shared.running_time();
        let waited = live.shown_at.is_none_or(|at| now > at + STILL_ALIVE);
        let late = lateness(&self.shared, time);
        let borne = late > TOLERANCE && live.keeps_up && self.shared.bears(late, time);
        live.keeps_up = late <= TOLERANCE || borne;
        let show = live.keeps_up || (self.kind == Kind::Video && waited);
        if show {
            live.shown_at = Some(now);
        }
        show
    }
}

/// How long ago the buffer should have been released; zero if it is still to come.
fn lateness(shared: &Shared, time: Duration) -> Duration {
    shared.running_time().saturating_sub(time).saturating_sub(shared.latency)
}
