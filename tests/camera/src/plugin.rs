//! What a program loads.

use gstreamer as gst;

use crate::{device, provider, source};

fn plugin_init(plugin: &gst::Plugin) -> Result<(), gst::glib::BoolError> {
    if std::env::var_os(crate::DEVICES).is_some() {
        return device::register(plugin);
    }
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
