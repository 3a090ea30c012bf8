//! Another bitrate for an encoder that runs: told to it where it takes one meanwhile, and else by beginning it anew in its
//! place, which costs a keyframe.

use std::sync::{Arc, Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;

use super::encoders::{Aim, Way};

/// An encoder in a pipeline, and what it keeps to.
#[derive(Debug)]
pub(super) struct Tuned {
    encoder: glib::WeakRef<gst::Element>,
    way: &'static Way,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    aim: Aim,
    /// Whether it is to begin anew with the next picture.
    is_awaited: bool,
}

impl Tuned {
    /// An encoder that was set to this aim.
    pub(super) fn new(encoder: &gst::Element, way: &'static Way, aim: Aim) -> Self {
        let state = Mutex::new(State { aim, is_awaited: false });
        Self { encoder: encoder.downgrade(), way, state }
    }

    /// From the next picture on it makes so many bits a second. `failed` is told, from the thread that gives it pictures,
    /// where it does not begin anew.
    pub(super) fn set_bitrate(
        self: &Arc<Self>,
        bits_per_second: u64,
        failed: impl Fn() + Send + Sync + 'static,
    ) {
        let Some(encoder) = self.encoder.upgrade() else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.aim.bits_per_second == bits_per_second {
            return;
        }
        state.aim.bits_per_second = bits_per_second;
        if self.way.set_rate(&encoder, &state.aim) || state.is_awaited {
            return;
        }
        // Between two pictures nothing is within it.
        let before = encoder.static_pad("sink").and_then(|pad| pad.peer());
        let Some(before) = before else { return };
        state.is_awaited = true;
        let tuned = Arc::clone(self);
        before.add_probe(gst::PadProbeType::BUFFER, move |before, _| {
            let aim = {
                let mut state = tuned.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.is_awaited = false;
                state.aim
            };
            if tuned.begin_anew(before, &aim).is_none() {
                failed();
            }
            gst::PadProbeReturn::Remove
        });
    }

    /// Begins anew behind a pad whose thread is here, so that nothing goes in meanwhile.
    fn begin_anew(&self, before: &gst::Pad, aim: &Aim) -> Option<()> {
        let encoder = self.encoder.upgrade()?;
        let sink = encoder.static_pad("sink")?;
        // Linked again, it is told again what comes.
        before.unlink(&sink).ok()?;
        encoder.set_state(gst::State::Ready).ok()?;
        self.way.set(&encoder, aim);
        before.link(&sink).ok()?;
        encoder.sync_state_with_parent().ok()
    }
}
