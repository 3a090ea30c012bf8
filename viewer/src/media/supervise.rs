//! One thread that hears what the player's pipelines say, and decides whom it concerns.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use protocol::media::Kind;

use super::error::PlayerError;
use super::mux::Muxer;
use super::output::Output;
use super::present::Presenter;
use super::shared::{Notice, Part};

/// What a player tells its owner, from a thread of its own. Blocking in it delays later events,
/// not play.
#[derive(Debug, Clone)]
pub enum PlayerEvent {
    /// The first picture is ready; the first sound where the channel has no picture.
    FirstFrame,
    /// The window is there, dark.
    WindowOpened,
    /// The person watching closed the window.
    WindowClosed,
    /// A key was pressed in the window: its X name.
    Key(String),
    /// The seek bar was clicked at this share of its length, 0 to 1.
    Bar(f64),
    /// The pointer moved over the window.
    Motion,
    /// A picture, or a piece of sound, was shown so much later than its time: see [`Player::bear_lateness`].
    ///
    /// [`Player::bear_lateness`]: super::Player::bear_lateness
    Late(Duration),
    /// Nothing can be played any more.
    Failed(PlayerError),
    /// One output broke; the others go on.
    OutputFailed {
        /// The one.
        output: Output,
        /// Why.
        error: PlayerError,
    },
}

/// Receives a player's events.
pub type Events = Arc<dyn Fn(PlayerEvent) + Send + Sync>;

pub(super) struct Supervisor {
    pub(super) events: Events,
    /// Each with the output that it belongs to.
    pub(super) presenters: Vec<(Output, Presenter)>,
    pub(super) muxers: Arc<[Muxer]>,
    /// Outputs that still work.
    pub(super) alive: Vec<Output>,
    /// Told each muxer whose file is closed.
    pub(super) finished: Sender<usize>,
    pub(super) failed: bool,
    /// Whether the lack of a sound device has been told.
    pub(super) mute: bool,
}

impl Supervisor {
    /// Works until the player stops and every pipeline is gone.
    pub(super) fn run(mut self, notices: &Receiver<Notice>) {
        let mut stopping = false;
        while let Ok(notice) = notices.recv() {
            match notice {
                Notice::Stop => stopping = true,
                Notice::FirstFrame => (self.events)(PlayerEvent::FirstFrame),
                Notice::Told(event) => (self.events)(event),
                Notice::Broke(part, error) if !stopping => self.broke(part, error, false),
                Notice::Broke(part, error) => self.broke_at_the_end(part, &error),
                Notice::NothingWritten(part) => self.finished(part),
                Notice::Gone => return,
                Notice::Message(part, message) => self.message(part, &message, stopping),
            }
        }
    }

    fn message(&mut self, part: Part, message: &gst::Message, stopping: bool) {
        let element = message.src().map(|object| object.name().to_string()).unwrap_or_default();
        match message.view() {
            gst::MessageView::Eos(_) => {
                self.finished(part);
            }
            gst::MessageView::Warning(warning) => {
                let (text, details) = (warning.error().to_string(), warning.debug());
                tracing::debug!(element, text, ?details, "media warning");
                if self.is_window_sound(part) && !std::mem::replace(&mut self.mute, true) {
                    tracing::warn!("no sound from the loudspeakers: {text}");
                }
            }
            gst::MessageView::Error(error) => {
                let (text, details) = (error.error(), error.debug());
                tracing::debug!(element, %text, ?details, "media error");
                let closed = text.matches(gst::ResourceError::NotFound);
                let reason = text.to_string();
                let error = match part {
                    Part::Receiver => PlayerError::Stream { element, reason },
                    _ => PlayerError::OutputBroke { element, reason },
                };
                if stopping {
                    self.broke_at_the_end(part, &error);
                } else {
                    self.broke(part, error, closed);
                }
            }
            _ => {}
        }
    }

    fn broke(&mut self, part: Part, error: PlayerError, closed: bool) {
        match part {
            Part::Receiver => self.fail(error),
            Part::Presenter(_) if self.is_window_sound(part) => {
                tracing::warn!(%error, "no sound from here on");
                self.halt(part);
            }
            Part::Presenter(index) => {
                let Some((output, _)) = self.presenters.get(index).cloned() else { return };
                self.halt(part);
                if output == Output::Window && closed {
                    (self.events)(PlayerEvent::WindowClosed);
                }
                self.lose(output, error, closed);
            }
            Part::Muxer(index) => {
                let Some(output) = self.muxers.get(index).map(|m| m.output().clone()) else {
                    return;
                };
                if output.is_tried_again() {
                    if let Some(rest) = self.muxers[index].rest() {
                        let seconds = rest.as_secs();
                        tracing::warn!(%output, %error, "broken; trying again in {seconds} s");
                    }
                    return;
                }
                self.halt(part);
                self.lose(output, error, false);
            }
        }
    }

    /// An output is gone; told once for each, and once more if it was the last.
    fn lose(&mut self, output: Output, error: PlayerError, quietly: bool) {
        let before = self.alive.len();
        self.alive.retain(|other| *other != output);
        if self.alive.len() == before {
            return;
        }
        if !quietly {
            (self.events)(PlayerEvent::OutputFailed { output, error });
        }
        if self.alive.is_empty() && !quietly {
            self.fail(PlayerError::NoOutputLeft);
        }
    }

    fn fail(&mut self, error: PlayerError) {
        if !std::mem::replace(&mut self.failed, true) {
            (self.events)(PlayerEvent::Failed(error));
        }
    }

    /// While stopping, a broken muxer counts as finished, so that nobody waits for it.
    fn broke_at_the_end(&self, part: Part, error: &PlayerError) {
        tracing::debug!(?part, %error, "while stopping");
        self.finished(part);
    }

    fn finished(&self, part: Part) {
        if let Part::Muxer(index) = part {
            let _ = self.finished.send(index);
        }
    }

    fn halt(&self, part: Part) {
        match part {
            Part::Receiver => {}
            Part::Presenter(index) => {
                if let Some((_, presenter)) = self.presenters.get(index) {
                    presenter.halt();
                }
            }
            Part::Muxer(index) => {
                if let Some(muxer) = self.muxers.get(index) {
                    muxer.halt();
                }
            }
        }
    }

    fn is_window_sound(&self, part: Part) -> bool {
        let Part::Presenter(index) = part else { return false };
        self.presenters
            .get(index)
            .is_some_and(|(o, presenter)| *o == Output::Window && presenter.kind() == Kind::Audio)
    }
}
