//! What a program loads.

use gstreamer as gst;

use crate::{provider, source};

fn plugin_init(plugin: &gst::Plugin) -> Result<(), gst::glib::BoolError> {
    source::register(plugin)?;
    provider::register(plugin)
}

gst::plugin_define!(
    testcamera,
    "Cameras that tests plug in and out",
    plugin_init,
    env!("CARGO_PKG_VERSION"),
    "MIT/X11",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    "https://example.invalid"
);
