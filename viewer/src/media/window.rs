//! Choosing what draws the window. GStreamer's own choice (`autovideosink`) also tries sinks that
//! take over the console or crash where a display is named but gone.

use gstreamer as gst;
use gstreamer::prelude::*;

use super::environment::missing;
use super::error::PlayerError;

/// Sinks that draw on X11, best first: the X server scales for the first two.
const X11: &[&str] = &["xvimagesink", "glimagesink", "ximagesink"];

/// Sinks that draw on Wayland, best first.
const WAYLAND: &[&str] = &["waylandsink", "glimagesink"];

/// Whether a window could open: displays announce themselves in the environment.
pub(super) fn has_display() -> bool {
    named("DISPLAY") || named("WAYLAND_DISPLAY")
}

/// A sink that has opened the display.
pub(super) fn open() -> Result<gst::Element, PlayerError> {
    if !has_display() {
        return Err(PlayerError::NoDisplay);
    }
    // X11 first where both exist: there the window gets a frame from every window manager.
    let x11 = X11.iter().filter(|_| named("DISPLAY"));
    let wayland = WAYLAND.iter().filter(|_| named("WAYLAND_DISPLAY"));
    let mut any = false;
    for name in x11.chain(wayland) {
        let Ok(sink) = gst::ElementFactory::make(name).build() else { continue };
        any = true;
        if sink.set_state(gst::State::Ready).is_ok() {
            return Ok(sink);
        }
        tracing::debug!(name, "can't draw on this display");
        let _ = sink.set_state(gst::State::Null);
    }
    let wanted = if named("DISPLAY") { X11[0] } else { WAYLAND[0] };
    Err(if any { PlayerError::NoDisplay } else { missing(wanted) })
}

fn named(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}
