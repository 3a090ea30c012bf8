//! The cameras and microphones of this machine, as GStreamer's device monitor finds them.

use gstreamer as gst;
use gstreamer::prelude::*;
use minicbor::{Decode, Encode};
use serde::Serialize;

use super::elements::init;
use super::error::MediaError;
use super::libcamera;
use super::modes::{self, Mode};

/// A camera that is here.
#[derive(Debug, Clone, Serialize)]
pub struct Camera {
    /// Its place in the list, from 1 on.
    pub number: usize,
    /// What its maker calls it.
    pub name: String,
    /// Its device node, or what libcamera calls it, where it has one.
    pub device: Option<String>,
    /// What it can give; empty where only trying would tell.
    pub modes: Vec<Mode>,
    #[serde(skip)]
    pub(super) found: gst::Device,
}

/// A microphone that is here, or what this machine plays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Microphone {
    /// Its place in the list, from 1 on.
    pub number: usize,
    /// What its maker calls it.
    pub name: String,
    /// Most channels that it gives; none where it does not say.
    pub channels: Option<i32>,
    /// Whether it is what this machine plays.
    pub is_monitor: bool,
    /// The words for a pipeline that begins with it.
    pub pipeline: Option<String>,
}

/// What names a camera wherever it is plugged in again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Identity {
    #[n(0)]
    pub(super) name: String,
    #[n(1)]
    pub(super) device: Option<String>,
}

/// Looks for cameras.
///
/// # Errors
///
/// Where GStreamer does not start.
pub fn cameras() -> Result<Vec<Camera>, MediaError> {
    let number_each = |(index, found): (usize, gst::Device)| {
        let id = libcamera::id(&found);
        let name = match &id {
            Some(id) => libcamera::name_of(id).to_owned(),
            None => found.display_name().to_string(),
        };
        let path = property(&found, &["device.path", "api.v4l2.path", "object.path"]);
        Camera {
            number: index + 1,
            name,
            device: path.or(id),
            modes: found.caps().map(|caps| modes::list(&caps)).unwrap_or_default(),
            found,
        }
    };
    let mut found = find("Video/Source", Hidden::Left)?;
    // libcamera's provider hides V4L2's, also where it has found nothing.
    if found.is_empty() || found.iter().any(|device| libcamera::id(device).is_some()) {
        found = libcamera::merge(found, find("Video/Source", Hidden::Shown)?);
    }
    Ok(found.into_iter().enumerate().map(number_each).collect())
}

/// What becomes of devices whose provider another one hides, for it has them itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hidden {
    Left,
    Shown,
}

/// Looks for microphones.
///
/// # Errors
///
/// Where GStreamer does not start.
pub fn microphones() -> Result<Vec<Microphone>, MediaError> {
    let number_each = |(index, found): (usize, gst::Device)| Microphone {
        number: index + 1,
        name: found.display_name().to_string(),
        channels: found.caps().and_then(|caps| most_channels(&caps)),
        is_monitor: property(&found, &["device.class"]).is_some_and(|class| class == "monitor"),
        pipeline: pipeline(&found),
    };
    Ok(find("Audio/Source", Hidden::Left)?.into_iter().enumerate().map(number_each).collect())
}

impl Camera {
    pub(super) fn identity(&self) -> Identity {
        Identity { name: self.name.clone(), device: self.device.clone() }
    }

    /// In a line, for who has to choose one.
    fn in_words(&self) -> String {
        let device = self.device.as_ref().map(|device| format!(" ({device})")).unwrap_or_default();
        format!("{} {}{device}", self.number, self.name)
    }
}

/// The camera that is meant: by its number in the list, its device node, its name or a part of the name that no
/// other has; the first where none is named.
pub(super) fn choose<'a>(
    cameras: &'a [Camera],
    wanted: Option<&str>,
) -> Result<&'a Camera, MediaError> {
    let Some(wanted) = wanted else { return cameras.first().ok_or_else(none_here) };
    let is_same = |name: &str| name.eq_ignore_ascii_case(wanted);
    let exact = cameras.iter().find(|camera| {
        camera.device.as_deref() == Some(wanted)
            || wanted.parse() == Ok(camera.number)
            || is_same(&camera.name)
    });
    if let Some(camera) = exact {
        return Ok(camera);
    }
    let part = wanted.to_lowercase();
    let mut alike = cameras.iter().filter(|camera| camera.name.to_lowercase().contains(&part));
    match (alike.next(), alike.next()) {
        (Some(camera), None) => Ok(camera),
        (Some(_), Some(_)) => {
            Err(not_that(cameras, format!("more than one camera is called '{wanted}'")))
        }
        (None, _) if cameras.is_empty() => Err(MediaError::Camera {
            what: format!("there is no camera {wanted}, and no other"),
            remedy: what_to_try(),
        }),
        (None, _) => Err(not_that(cameras, format!("there is no camera {wanted}"))),
    }
}

/// The camera that was used before, also where it is plugged in elsewhere now. No other takes its place.
pub(super) fn find_again<'a>(cameras: &'a [Camera], before: &Identity) -> Option<&'a Camera> {
    let exact = cameras.iter().find(|camera| camera.identity() == *before);
    // A module is called after its sensor, of which there may be two, and stays in its place.
    let is_module = |id: &String| id.starts_with('/') && libcamera::name_of(id) == before.name;
    if before.device.as_ref().is_some_and(is_module) {
        return exact;
    }
    exact.or_else(|| cameras.iter().find(|camera| camera.name == before.name))
}

fn not_that(cameras: &[Camera], what: String) -> MediaError {
    let all: Vec<_> = cameras.iter().map(Camera::in_words).collect();
    MediaError::Camera {
        what: format!("{what}; here are: {}", all.join(", ")),
        remedy: "name one by number, device or name, as in --source camera:1".to_owned(),
    }
}

fn none_here() -> MediaError {
    MediaError::Camera { what: "no camera found".to_owned(), remedy: what_to_try() }
}

/// What helps where there is no camera.
fn what_to_try() -> String {
    let mut tries = vec!["plug one in and look with 'punchcast-broadcaster devices'".to_owned()];
    if gst::ElementFactory::find("v4l2src").is_none() {
        tries.push("install the Debian package gstreamer1.0-plugins-good".to_owned());
    }
    if gst::ElementFactory::find("libcamerasrc").is_none() {
        tries.push("install gstreamer1.0-libcamera for a camera module".to_owned());
    }
    tries.push("have this user be in the group video".to_owned());
    format!(
        "try: {}; or another source: --source screen, test, file:PATH or pipeline:FRAGMENT",
        tries.join(", ")
    )
}

fn find(class: &str, hidden: Hidden) -> Result<Vec<gst::Device>, MediaError> {
    init()?;
    leave_out_pipewire();
    let monitor = gst::DeviceMonitor::new();
    monitor.set_show_all_devices(hidden == Hidden::Shown);
    monitor.add_filter(Some(class), None);
    let is_started = monitor.start().is_ok();
    // Without any provider that watches, they are asked once.
    let devices = monitor.devices();
    if is_started {
        monitor.stop();
    }
    Ok(devices.into_iter().collect())
}

/// PipeWire's provider spoils the memory of the process that asks it twice (0.3.65), and hides the kernel's own cameras.
/// What it has is told by the providers of V4L2, libcamera and PulseAudio, too.
fn leave_out_pipewire() {
    if let Some(provider) = gst::DeviceProviderFactory::find("pipewiredeviceprovider") {
        provider.set_rank(gst::Rank::NONE);
    }
}

fn property(device: &gst::Device, names: &[&str]) -> Option<String> {
    let properties = device.properties()?;
    names.iter().find_map(|name| properties.get::<String>(*name).ok())
}

fn most_channels(caps: &gst::CapsRef) -> Option<i32> {
    let most = |structure: &gst::StructureRef| {
        let mut structure = structure.to_owned();
        structure.fixate_field_nearest_int("channels", i32::MAX);
        structure.get::<i32>("channels").ok()
    };
    caps.iter().filter_map(most).max()
}

/// The element that a device is used by, as a pipeline is written.
fn pipeline(device: &gst::Device) -> Option<String> {
    let element = device.create_element(None).ok()?;
    let factory = element.factory()?.name();
    let has_device = element.find_property("device").is_some();
    let device = has_device.then(|| element.property_value("device").get::<String>().ok());
    Some(match device.flatten() {
        Some(device) => format!("{factory} device={device}"),
        None => factory.to_string(),
    })
}
