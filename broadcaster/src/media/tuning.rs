//! Another bitrate for an encoder that runs, where it takes one meanwhile.

use std::sync::{Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;

use super::encoders::{Aim, Way};

/// An encoder in a pipeline, and what it keeps to.
#[derive(Debug)]
pub(super) struct Tuned {
    encoder: glib::WeakRef<gst::Element>,
    way: &'static Way,
    aim: Mutex<Aim>,
}

impl Tuned {
    /// An encoder that was set to this aim.
    pub(super) fn new(encoder: &gst::Element, way: &'static Way, aim: Aim) -> Self {
        Self { encoder: encoder.downgrade(), way, aim: Mutex::new(aim) }
    }

    /// From the next picture on it makes so many bits a second. False where it takes no other rate while it runs.
    pub(super) fn set_bitrate(&self, bits_per_second: u64) -> bool {
        let Some(encoder) = self.encoder.upgrade() else { return false };
        let mut aim = self.aim.lock().unwrap_or_else(PoisonError::into_inner);
        if aim.bits_per_second == bits_per_second {
            return true;
        }
        let wanted = Aim { bits_per_second, ..*aim };
        let takes_it = self.way.set_rate(&encoder, &wanted);
        if takes_it {
            *aim = wanted;
        }
        takes_it
    }
}
