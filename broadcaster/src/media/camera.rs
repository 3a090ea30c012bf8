//! Cameras: which one, and in which of the forms that it offers.

use std::path::Path;
use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::config::VideoConfig;
use super::elements::{caps_filter, make};
use super::error::MediaError;
use super::track::{Live, Timing, cannot_build};

/// Makes a track of a camera: the device named, or the first that is found.
pub(super) fn attach(live: &Arc<Live>, device: Option<&str>) -> Result<(), MediaError> {
    let camera = match device {
        Some(device) if Path::new(device).exists() => {
            make("v4l2src", &[("device", device), ("do-timestamp", "true")])?
        }
        Some(device) => {
            return Err(MediaError::Camera { what: format!("there is no camera {device}") });
        }
        None => first_camera()?,
    };
    live.add(&camera)?;
    let pad = camera.static_pad("src").ok_or_else(|| cannot_build("a camera without a pad"))?;
    // Opens the device, which then tells what it can do.
    if camera.set_state(gst::State::Ready).is_err() {
        let what = format!("camera {} can't be opened; is it in use", device.unwrap_or("found"));
        return Err(MediaError::Camera { what });
    }
    let offered = pad.query_caps(None);
    let wanted = choose(&offered, &live.config().video);
    tracing::debug!(%offered, ?wanted, "camera");
    let Some(wanted) = wanted else {
        let what = "the camera offers neither raw pictures nor JPEG".to_owned();
        return Err(MediaError::Camera { what });
    };
    let filter = caps_filter(&wanted)?;
    live.add(&filter)?;
    camera.link(&filter).map_err(cannot_build)?;
    let pad = filter.static_pad("src").ok_or_else(|| cannot_build("a filter without a pad"))?;
    live.attach(&pad, Timing::Source)?;
    live.gate.complete();
    Ok(())
}

fn first_camera() -> Result<gst::Element, MediaError> {
    let camera = |what: String| MediaError::Camera { what };
    let monitor = gst::DeviceMonitor::new();
    monitor.add_filter(Some("Video/Source"), None);
    let devices = match monitor.start() {
        Ok(()) => monitor.devices(),
        Err(_) => Default::default(),
    };
    monitor.stop();
    let Some(device) = devices.iter().next() else {
        return Err(camera("no camera found".to_owned()));
    };
    tracing::info!(camera = %device.display_name(), "camera found");
    device
        .create_element(None)
        .map_err(|_| camera(format!("camera {} can't be used", device.display_name())))
}

/// Picks the form that gives the configured size at the configured rate, or comes nearest. Many
/// cameras reach their full rate only as JPEG, so rate counts before rawness.
fn choose(offered: &gst::CapsRef, config: &VideoConfig) -> Option<gst::Caps> {
    let side = |side: u32| i32::try_from(side).unwrap_or(i32::MAX);
    let (width, height) = (side(config.width), side(config.height));
    let framerate = gst::Fraction::new(side(config.framerate), 1);
    let system_memory = gst::CapsFeatures::new([gst::CAPS_FEATURE_MEMORY_SYSTEM_MEMORY]);
    offered
        .iter_with_features()
        .filter(|(form, features)| {
            ["video/x-raw", "image/jpeg"].contains(&form.name().as_str())
                && features.is_equal(&system_memory)
        })
        .filter_map(|(form, _)| {
            let mut form = form.to_owned();
            form.fixate_field_nearest_int("width", width);
            form.fixate_field_nearest_int("height", height);
            form.fixate_field_nearest_fraction("framerate", framerate);
            form.fixate();
            let pixels = |(width, height): (i32, i32)| f64::from(width) * f64::from(height);
            let size = (form.get("width").ok()?, form.get("height").ok()?);
            let rate = form.get::<gst::Fraction>("framerate").unwrap_or(framerate);
            let rate_ratio =
                f64::from(rate.numer()) / f64::from(rate.denom()) / f64::from(config.framerate);
            let size_ratio = pixels(size) / pixels((width, height));
            // A form that is too small or too slow loses by as much as it lacks; one that is too
            // large costs a little, for it has to be scaled down.
            let score = size_ratio.min(1.0) * rate_ratio.min(1.0)
                - 0.01 * (size_ratio - 1.0).max(0.0)
                + if form.name() == "video/x-raw" { 0.05 } else { 0.0 };
            Some((score, gst::Caps::from(form)))
        })
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, caps)| caps)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn the_form_nearest_to_the_configuration_is_chosen() {
        gst::init().expect("GStreamer starts");
        const SLOW_RAW: &str = "video/x-raw,format=YUY2,width=1280,height=720,framerate=10/1";
        const SMALL_RAW: &str = "video/x-raw,format=YUY2,width=640,height=480,framerate=30/1";
        const FAST_RAW: &str = "video/x-raw,format=NV12,width=1280,height=720,framerate=30/1";
        const JPEG: &str = "image/jpeg,width=1280,height=720,framerate=30/1";
        const RANGE: &str =
            "video/x-raw,format=RGB,width=[1,4096],height=[1,4096],framerate=[0/1,60/1]";
        const BAYER: &str = "video/x-bayer,width=1280,height=720,framerate=30/1";
        for (offered, expected) in [
            (vec![SLOW_RAW, SMALL_RAW, JPEG], Some(("image/jpeg", 1280))),
            (vec![JPEG, FAST_RAW], Some(("video/x-raw", 1280))),
            (vec![SMALL_RAW], Some(("video/x-raw", 640))),
            (vec![RANGE], Some(("video/x-raw", 1280))),
            (vec![BAYER], None),
        ] {
            let caps = gst::Caps::from_str(&offered.join(";")).expect("legal caps");
            let chosen = choose(&caps, &VideoConfig::default());
            let chosen = chosen.as_ref().and_then(|caps| caps.structure(0));
            let chosen =
                chosen.map(|form| (form.name().as_str(), form.get::<i32>("width").expect("fixed")));
            assert_eq!(chosen, expected, "{offered:?}");
        }
    }
}
