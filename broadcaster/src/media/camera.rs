//! Cameras: which one, and in which of the modes that it has.

use std::path::Path;
use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::devices::{self, Identity};
use super::elements::{caps_filter, make};
use super::error::MediaError;
use super::modes;
use super::track::{Live, Timing, cannot_build};

/// Makes a track of a camera: the one that is wanted, or the first that is found. Where one was used before it is
/// that one, whatever else is plugged in now.
pub(super) fn attach(
    live: &Arc<Live>,
    wanted: Option<&str>,
    before: Option<&Identity>,
) -> Result<Identity, MediaError> {
    let Opened { element, identity, modes } = open(wanted, before)?;
    live.add(&element)?;
    let pad = element.static_pad("src").ok_or_else(|| cannot_build("a camera without a pad"))?;
    // Opens the device, which then tells what it can do.
    if element.set_state(gst::State::Ready).is_err() {
        let name = in_words(&identity);
        return Err(match live.first_error() {
            Some(busy @ MediaError::Busy { .. }) => busy,
            reason => MediaError::Camera {
                what: match reason {
                    Some(reason) => format!("camera {name} can't be opened: {reason}"),
                    None => format!("camera {name} can't be opened"),
                },
                remedy: "have this user be in the group video, and no other program use it"
                    .to_owned(),
            },
        });
    }
    let mut offered = pad.query_caps(None);
    // Some only know it once they run; whoever listed them knows more.
    if let Some(modes) = modes.filter(|modes| modes.can_intersect(&offered)) {
        offered = modes.intersect(&offered);
    }
    let wanted = modes::choose(&offered, &live.config().video);
    tracing::debug!(%offered, ?wanted, "camera");
    let Some(wanted) = wanted else {
        return Err(MediaError::Camera {
            what: format!("camera {} gives neither raw pictures, JPEG nor H.264", identity.name),
            remedy: "try it with pipeline:FRAGMENT".to_owned(),
        });
    };
    let wanted = modes::at_rate(&wanted, &live.config().video);
    let mode = wanted.structure(0).and_then(modes::greatest);
    let mode = mode.map(|mode| mode.to_string()).unwrap_or_default();
    tracing::info!(camera = %in_words(&identity), mode, "camera");
    let filter = caps_filter(&wanted)?;
    live.add(&filter)?;
    element.link(&filter).map_err(cannot_build)?;
    let pad = filter.static_pad("src").ok_or_else(|| cannot_build("a filter without a pad"))?;
    live.attach(&pad, Timing::Source)?;
    live.gate.complete();
    Ok(identity)
}

/// A camera, not yet opened.
struct Opened {
    element: gst::Element,
    identity: Identity,
    /// What it can do, as the list has it.
    modes: Option<gst::Caps>,
}

fn open(wanted: Option<&str>, before: Option<&Identity>) -> Result<Opened, MediaError> {
    let cameras = devices::cameras()?;
    let chosen = match before {
        Some(before) => devices::find_again(&cameras, before).ok_or_else(|| MediaError::Camera {
            what: format!("camera {} is away", in_words(before)),
            remedy: "plug it in again".to_owned(),
        }),
        None => devices::choose(&cameras, wanted),
    };
    let named = before.map_or(wanted, |before| before.device.as_deref());
    match (chosen, named) {
        (Ok(camera), _) => Ok(Opened {
            element: camera.found.create_element(None).map_err(cannot_build)?,
            identity: camera.identity(),
            modes: camera.found.caps(),
        }),
        // Not all that can be opened is listed: nobody may watch devices here.
        (Err(_), Some(path)) if path.starts_with('/') && Path::new(path).exists() => Ok(Opened {
            element: make("v4l2src", &[("device", path)])?,
            identity: Identity { name: path.to_owned(), device: Some(path.to_owned()) },
            modes: None,
        }),
        (Err(error), _) => Err(error),
    }
}

fn in_words(Identity { name, device }: &Identity) -> String {
    match device {
        Some(device) if device != name => format!("{name} ({device})"),
        _ => name.clone(),
    }
}
