//! What every part of one player shares: the clock, the latency, the counters and the way to
//! report. The parts are separate pipelines, so that one that breaks stops none of the others;
//! one clock and one base time make their running times equal.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::counters::Counters;
use super::error::PlayerError;
use super::supervise::PlayerEvent;

/// Running time at which a player starts. History may have arrived that long before, and running
/// times are never negative.
pub(crate) const BASE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(super) struct Shared {
    clock: gst::Clock,
    base_time: gst::ClockTime,
    /// From arrival to release.
    pub(super) latency: Duration,
    pub(super) counters: Counters,
    /// What comes later than its time by no more than this is shown, in ns.
    borne: AtomicU64,
    /// Running time when what follows was last made to come later, in ns.
    delayed_at: AtomicU64,
    notices: Sender<Notice>,
}

/// Which pipeline a message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Depayloading and decoding.
    Receiver,
    /// A presenter, by its place in the player's list.
    Presenter(usize),
    /// A muxer, by its place in the player's list.
    Muxer(usize),
}

/// Something for the supervisor to act on.
#[derive(Debug)]
pub(super) enum Notice {
    Message(Part, gst::Message),
    Broke(Part, PlayerError),
    FirstFrame,
    /// For whoever watches.
    Told(PlayerEvent),
    /// The player is stopping: errors from here on are consequences.
    Stop,
    /// A muxer has ended without ever having begun.
    NothingWritten(Part),
    /// Every pipeline is gone.
    Gone,
}

impl Shared {
    /// Running time is zero where the monotonic clock stands at `base_time`, in nanoseconds; [`BASE`] ago without.
    pub(super) fn new(base_time: Option<u64>, latency: Duration, notices: Sender<Notice>) -> Self {
        let clock = gst::SystemClock::obtain();
        // The monotonic clock may stand below BASE on a machine that has just started; as base
        // times can't be negative, running time then starts lower by that much.
        let before = || clock.time().nseconds().saturating_sub(nanoseconds(BASE));
        let base_time = gst::ClockTime::from_nseconds(base_time.unwrap_or_else(before));
        Self {
            clock,
            base_time,
            latency,
            counters: Counters::default(),
            borne: AtomicU64::new(0),
            delayed_at: AtomicU64::new(0),
            notices,
        }
    }

    /// The clock's time at running time zero.
    pub(super) fn base_time(&self) -> gst::ClockTime {
        self.base_time
    }

    /// From now on, what is late by no more than that is shown, and told.
    pub(super) fn bear(&self, late: Duration) {
        self.borne.store(nanoseconds(late), Relaxed);
    }

    /// What follows comes later: what is under way already says nothing new.
    pub(super) fn delayed(&self) {
        self.delayed_at.store(nanoseconds(self.running_time()), Relaxed);
    }

    /// Whether what was to be shown at that running time, without the latency, may be so late. Tells of it.
    pub(super) fn bears(&self, late: Duration, time: Duration) -> bool {
        let is_borne = nanoseconds(late) <= self.borne.load(Relaxed);
        if is_borne && nanoseconds(time) > self.delayed_at.load(Relaxed) {
            self.notify(Notice::Told(PlayerEvent::Late(late)));
        }
        is_borne
    }

    pub(super) fn running_time(&self) -> Duration {
        self.clock.time().saturating_sub(self.base_time).into()
    }

    pub(super) fn notify(&self, notice: Notice) {
        // The supervisor outlives every pipeline; once it has gone, nobody is left to tell.
        let _ = self.notices.send(notice);
    }

    /// An empty pipeline on the common clock that reports as `part`.
    pub(super) fn pipeline(&self, part: Part) -> gst::Pipeline {
        let pipeline = gst::Pipeline::new();
        pipeline.use_clock(Some(&self.clock));
        pipeline.set_start_time(gst::ClockTime::NONE);
        pipeline.set_base_time(self.base_time);
        if let Some(bus) = pipeline.bus() {
            let notices = self.notices.clone();
            bus.set_sync_handler(move |_, message| {
                if matches!(
                    message.type_(),
                    gst::MessageType::Error | gst::MessageType::Warning | gst::MessageType::Eos
                ) {
                    let _ = notices.send(Notice::Message(part, message.clone()));
                }
                gst::BusSyncReply::Drop
            });
        }
        pipeline
    }
}

/// The clock that everything is played by, in nanoseconds.
#[cfg(test)]
pub(crate) fn clock() -> u64 {
    gst::init().expect("GStreamer starts");
    gst::SystemClock::obtain().time().nseconds()
}

/// Starts a pipeline; what goes wrong later comes as a message.
pub(super) fn play(pipeline: &gst::Pipeline, what: &str) -> Result<(), PlayerError> {
    match pipeline.set_state(gst::State::Playing) {
        Ok(_) => Ok(()),
        Err(_) => {
            halt(pipeline);
            Err(PlayerError::Refused { what: format!("to start {what}") })
        }
    }
}

/// Stops a pipeline and frees what it holds. Never called from one of its own threads.
pub(super) fn halt(pipeline: &gst::Pipeline) {
    if let Err(error) = pipeline.set_state(gst::State::Null) {
        tracing::debug!(%error, "a pipeline didn't stop cleanly");
    }
}

/// Makes an element, or tells which package would bring it.
pub(super) fn make(name: &str) -> Result<gst::Element, PlayerError> {
    gst::ElementFactory::make(name).build().map_err(|_| super::environment::missing(name))
}

/// Adds the elements to the pipeline and links them in their order.
pub(super) fn chain(bin: &gst::Pipeline, elements: &[&gst::Element]) -> Result<(), PlayerError> {
    bin.add_many(elements.iter().copied())
        .and_then(|()| gst::Element::link_many(elements.iter().copied()))
        .map_err(|error| PlayerError::Refused { what: format!("to connect: {error}") })
}

/// An element's pad that always exists.
pub(super) fn pad(element: &gst::Element, name: &str) -> Result<gst::Pad, PlayerError> {
    let what = || PlayerError::Refused { what: format!("the pad {name} of {}", element.name()) };
    element.static_pad(name).ok_or_else(what)
}

pub(super) fn clock_time(time: Duration) -> gst::ClockTime {
    gst::ClockTime::from_nseconds(nanoseconds(time))
}

/// Saturates far beyond any running time, and below GStreamer's mark for "none".
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX >> 2)
}

/// The value behind a lock; a thread that panicked holding it has not left it half-changed.
pub(super) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
