//! `v4l2:DEVICE`: pictures to a V4L2 device that takes them, as v4l2loopback's do, so that other programs have the stream as
//! a camera.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::error::PlayerError;
use super::options::{OptionError, Options, print};
use super::shared::{make, pad};

/// Forms of pictures, the one that most programs take from a camera first. Where the device says nothing, it is that.
const FORMS: &[&str] = &["YUY2", "I420", "NV12", "UYVY", "YV12", "RGB", "BGR", "BGRx"];

/// What a side may be, in pixels.
const SIDES: std::ops::RangeInclusive<i32> = 16..=8192;

/// What makes such a device where there is none.
const MAKE_ONE: &str = "load v4l2loopback (Debian: v4l2loopback-dkms): modprobe v4l2loopback video_nr=10 \
                        card_label=punchcast exclusive_caps=1";

/// A device that takes pictures, and their size where it was said.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Loopback {
    device: PathBuf,
    size: Option<(i32, i32)>,
}

impl Loopback {
    /// Its node.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// `DEVICE`, perhaps with `?size=1280x720`.
    pub(super) fn parse(text: &str) -> Result<Self, OptionError> {
        let (device, mut options) = Options::split(text)?;
        let size = match options.take("size") {
            None => None,
            Some(value) => Some(parse_size(&value).ok_or_else(|| {
                let expected = "two even numbers of pixels, as in 1280x720".to_owned();
                OptionError::Value { key: "size", expected, value }
            })?),
        };
        options.end("size")?;
        if !device.starts_with('/') || text.contains('\0') {
            let (key, expected) = ("v4l2:", "followed by a device, as in /dev/video10".to_owned());
            return Err(OptionError::Value { key, expected, value: device.to_owned() });
        }
        Ok(Self { device: device.into(), size })
    }
}

fn parse_size(text: &str) -> Option<(i32, i32)> {
    let (width, height) = text.split_once('x')?;
    let side =
        |text: &str| text.parse().ok().filter(|side: &i32| SIDES.contains(side) && side % 2 == 0);
    Some((side(width)?, side(height)?))
}

impl fmt::Display for Loopback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v4l2:{}", self.device.display())?;
        let size = self.size.map(|(width, height)| format!("{width}x{height}"));
        print(f, &[("size", size)])
    }
}

/// Opens the device, and says what it was.
///
/// # Errors
///
/// Where it is not there, cannot be opened, or takes no pictures.
pub(super) fn check(loopback: &Loopback) -> Result<(), PlayerError> {
    let sink = open(loopback)?;
    // Another one opens it to play.
    let _ = sink.set_state(gst::State::Null);
    Ok(())
}

/// A sink that has the device open.
fn open(loopback: &Loopback) -> Result<gst::Element, PlayerError> {
    let device = loopback.device.as_path();
    let unusable = |reason: String| PlayerError::Device { device: device.to_owned(), reason };
    if let Err(error) = std::fs::metadata(device) {
        return Err(unusable(match error.kind() {
            std::io::ErrorKind::NotFound => format!("there is no such device; {MAKE_ONE}"),
            _ => format!("{error}; have this user be in the group video"),
        }));
    }
    let sink = make("v4l2sink")?;
    sink.set_property("device", device.to_str());
    let bus = gst::Bus::new();
    sink.set_bus(Some(&bus));
    let opened = sink.set_state(gst::State::Ready);
    sink.set_bus(None);
    if opened.is_ok() {
        return Ok(sink);
    }
    let said = bus.pop_filtered(&[gst::MessageType::Error]);
    let said = said.and_then(|said| match said.view() {
        gst::MessageView::Error(error) => Some(error.error().to_string()),
        _ => None,
    });
    let _ = sink.set_state(gst::State::Null);
    let said = said.unwrap_or_else(|| "it cannot be opened".to_owned());
    let said = said.trim_end_matches('.');
    Err(unusable(format!(
        "{said}; it has to be a V4L2 device that takes pictures, which this user may open (group video); {MAKE_ONE}"
    )))
}

/// The elements behind a source of raw pictures.
pub(super) fn elements(
    loopback: &Loopback,
    source: &gst_app::AppSrc,
) -> Result<(Vec<gst::Element>, gst::Element), PlayerError> {
    let sink = open(loopback)?;
    let taken = pad(&sink, "sink")?.query_caps(None);
    let form = FORMS.iter().find(|form| taken.can_intersect(&of_form(form)));
    let form = of_form(form.or(FORMS.first()).copied().unwrap_or_default());
    let filter = make("capsfilter")?;
    filter.set_property("caps", &form);
    // Programs that read meanwhile take no other size: all pictures come in that of the first.
    let (size, weak) = (OnceLock::new(), filter.downgrade());
    if let Some(given) = loopback.size {
        let _ = size.set(given);
        filter.set_property("caps", of_size(&form, given));
    }
    let caps = gst::PadProbeType::EVENT_DOWNSTREAM;
    pad(source.upcast_ref(), "src")?.add_probe(caps, move |_, info| {
        if let Some(event) = info.event()
            && let gst::EventView::Caps(caps) = event.view()
            && size.get().is_none()
            && let Some(first) = size_of(caps.caps())
            && let Some(filter) = weak.upgrade()
        {
            let first = *size.get_or_init(|| first);
            filter.set_property("caps", of_size(&form, first));
        }
        gst::PadProbeReturn::Ok
    });
    // Pictures are copied into the device's memory: decoded right into it, they would run out.
    let copied = make("identity")?;
    copied.set_property("drop-allocation", true);
    Ok((vec![make("videoconvert")?, make("videoscale")?, filter, copied], sink))
}

fn of_form(form: &str) -> gst::Caps {
    gst::Caps::builder("video/x-raw").field("format", form).build()
}

/// In square pixels; what has another shape gets borders.
fn of_size(form: &gst::Caps, (width, height): (i32, i32)) -> gst::Caps {
    let mut caps = form.clone();
    let caps_of_size = caps.make_mut();
    caps_of_size.set("width", width);
    caps_of_size.set("height", height);
    caps_of_size.set("pixel-aspect-ratio", gst::Fraction::new(1, 1));
    caps
}

/// The size of pictures, in pixels: even, as pixels of a camera's pictures share their colours.
fn size_of(caps: &gst::CapsRef) -> Option<(i32, i32)> {
    let raw = caps.structure(0)?;
    let side = |field| raw.get::<i32>(field).ok().map(|side| (side & !1).max(2));
    Some((side("width")?, side("height")?))
}
