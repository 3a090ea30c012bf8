//! The screen: what an X server shows, and on request what this machine plays.

use std::collections::BTreeSet;
use std::env;
use std::fmt;
use std::fs;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::str::FromStr;
use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use serde::Serialize;

use super::elements::{caps_filter, init, make, missing};
use super::error::MediaError;
use super::track::{Live, Timing, cannot_build};

/// Which part of which screen, and whether with sound: `[DISPLAY][,WIDTHxHEIGHT+X+Y][,sound]`, or `portal[,sound]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ScreenSpec {
    /// The X display, as `:1`; the session's where none is named.
    pub display: Option<String>,
    /// The part that is broadcast; all of it where none is named.
    pub region: Option<Region>,
    /// Whatever the desktop's portal gives, which asks its user.
    pub portal: bool,
    /// With what this machine plays.
    pub sound: bool,
}

/// A part of a screen, in pixels from its left upper corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Region {
    width: u32,
    height: u32,
    left: u32,
    top: u32,
}

/// The way a screen is written.
pub(super) const FORM: &str =
    "screen[:DISPLAY][,WIDTHxHEIGHT+X+Y][,sound] or screen:portal[,sound]";

impl FromStr for Region {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (size, place) = text.split_once('+').ok_or(())?;
        let (width, height) = size.split_once('x').ok_or(())?;
        let (left, top) = place.split_once('+').ok_or(())?;
        let number = |text: &str| text.parse::<u32>().ok().filter(|&pixels| pixels <= 32_767);
        let side = |text: &str| number(text).filter(|&pixels| pixels >= 16).ok_or(());
        let at = |text: &str| number(text).ok_or(());
        Ok(Self { width: side(width)?, height: side(height)?, left: at(left)?, top: at(top)? })
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}+{}+{}", self.width, self.height, self.left, self.top)
    }
}

impl FromStr for ScreenSpec {
    type Err = ();

    /// Reads what comes behind `screen`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut spec = Self::default();
        let (display, others) = match text.strip_prefix(':') {
            Some(rest) => {
                let (display, others) = rest.split_once(',').unwrap_or((rest, ""));
                (Some(display), others)
            }
            None if text.is_empty() => (None, ""),
            None => (None, text.strip_prefix(',').ok_or(())?),
        };
        let mut parts: Vec<&str> = others.split(',').filter(|part| !part.is_empty()).collect();
        match display {
            // `screen:1` is display `:1`; what else has a colon names a display, too.
            Some(number) if number.parse::<u16>().is_ok() => {
                spec.display = Some(format!(":{number}"));
            }
            Some(display) if display.contains(':') => spec.display = Some(display.to_owned()),
            Some(part) => parts.insert(0, part),
            None => {}
        }
        for part in parts {
            match part {
                "sound" => spec.sound = true,
                "portal" => spec.portal = true,
                region => spec.region = Some(region.parse()?),
            }
        }
        // The portal's user chooses what is shown.
        let is_named = spec.display.is_some() || spec.region.is_some();
        if spec.portal && is_named { Err(()) } else { Ok(spec) }
    }
}

impl fmt::Display for ScreenSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = self.region.map(|region| region.to_string());
        let sound = self.sound.then(|| "sound".to_owned());
        let portal = self.portal.then(|| "portal".to_owned());
        let parts = self.display.clone().into_iter().chain(portal).chain(region).chain(sound);
        let parts: Vec<_> = parts.collect();
        f.write_str(if parts.is_empty() { "" } else { ":" })?;
        f.write_str(&parts.join(","))
    }
}

/// A screen or window that the desktop shows to this program.
#[derive(Debug)]
pub struct Shown {
    /// A connection to PipeWire that has nothing else.
    pub remote: OwnedFd,
    /// The number of PipeWire's node.
    pub node: u32,
}

impl ScreenSpec {
    /// Whether the desktop's portal must be asked for it: where that is written, or nothing else is and the session is
    /// one of Wayland.
    pub fn is_portals(&self) -> bool {
        self.portal || self.display.is_none() && self.region.is_none() && is_wayland()
    }
}

/// Whether this session's desktop is one of Wayland, whose X server, where it has one, shows X programs at most.
pub fn is_wayland() -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    is_set("WAYLAND_DISPLAY") || env::var_os("XDG_SESSION_TYPE").is_some_and(|it| it == "wayland")
}

/// A screen that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Screen {
    /// Its X display.
    pub display: String,
    /// Width in pixels.
    pub width: i32,
    /// Height in pixels.
    pub height: i32,
}

/// Looks for screens: the session's, and those of other X servers that let this user look.
///
/// # Errors
///
/// Where GStreamer does not start.
pub fn screens() -> Result<Vec<Screen>, MediaError> {
    init()?;
    let sockets = fs::read_dir("/tmp/.X11-unix").into_iter().flatten().flatten();
    let number = |name: String| name.strip_prefix('X').and_then(|name| name.parse::<u16>().ok());
    let numbers = sockets.filter_map(|entry| number(entry.file_name().to_string_lossy().into()));
    let numbers: BTreeSet<_> = numbers.collect();
    let mut displays: Vec<_> = env::var("DISPLAY").into_iter().collect();
    let others = numbers.into_iter().map(|number| format!(":{number}"));
    for display in others {
        if !displays.contains(&display) {
            displays.push(display);
        }
    }
    Ok(displays.into_iter().filter_map(|display| look(&display)).collect())
}

fn look(display: &str) -> Option<Screen> {
    let source = make("ximagesrc", &[("display-name", display)]).ok()?;
    let opened = source.set_state(gst::State::Ready).is_ok();
    let caps = opened.then(|| source.static_pad("src").map(|pad| pad.query_caps(None))).flatten();
    let _ = source.set_state(gst::State::Null);
    let caps = caps?;
    let side = |field| caps.structure(0).and_then(|form| form.get::<i32>(field).ok());
    Some(Screen { display: display.to_owned(), width: side("width")?, height: side("height")? })
}

/// Makes a track of the screen, and one of the sound if that is wanted and there is any.
pub(super) fn attach(
    live: &Arc<Live>,
    spec: &ScreenSpec,
    shown: Option<Shown>,
) -> Result<(), MediaError> {
    match shown {
        Some(shown) => attach_shown(live, shown)?,
        None => attach_display(live, spec)?,
    }
    if spec.sound {
        attach_sound(live)?;
    }
    live.gate.complete();
    Ok(())
}

/// Whether what a desktop shows can be taken here.
///
/// # Errors
///
/// Where a package is missing.
pub(crate) fn can_show() -> Result<(), MediaError> {
    init()?;
    gst::ElementFactory::find("pipewiresrc").map(drop).ok_or_else(|| missing("pipewiresrc"))
}

/// What the desktop shows, by PipeWire.
fn attach_shown(live: &Arc<Live>, Shown { remote, node }: Shown) -> Result<(), MediaError> {
    let rate = i32::try_from(live.config().video.framerate).unwrap_or(i32::MAX).max(1);
    let source = make(
        "pipewiresrc",
        &[
            ("path", &node.to_string()),
            // PipeWire's own times are of another clock.
            ("do-timestamp", "true"),
            // Desktops give what changes only; viewers that join need pictures all the time.
            ("keepalive-time", &(1000 / rate).to_string()),
            // The desktop draws on in what it has lent.
            ("always-copy", "true"),
        ],
    )?;
    // It makes a copy of its own each time that it connects, as long as this process lives.
    source.set_property("fd", remote.into_raw_fd());
    live.add(&source)?;
    // Left to choose from anything, the two ends find nothing.
    let filter = caps_filter(&gst::Caps::new_empty_simple("video/x-raw"))?;
    live.add(&filter)?;
    source.link(&filter).map_err(cannot_build)?;
    let (entry, pad) = (filter.static_pad("sink"), filter.static_pad("src"));
    let (Some(entry), Some(pad)) = (entry, pad) else {
        return Err(cannot_build("a filter without a pad"));
    };
    // It would connect anew where something is linked behind it, and may be given nothing then.
    entry.add_probe(gst::PadProbeType::EVENT_UPSTREAM, |_, info| {
        let is_anew =
            info.event().is_some_and(|event| event.type_() == gst::EventType::Reconfigure);
        if is_anew { gst::PadProbeReturn::Drop } else { gst::PadProbeReturn::Ok }
    });
    live.attach(&pad, Timing::Live)
}

/// What an X server shows.
fn attach_display(live: &Arc<Live>, spec: &ScreenSpec) -> Result<(), MediaError> {
    let session = || env::var("DISPLAY").ok().filter(|display| !display.is_empty());
    // There its X server shows X programs at most.
    let is_meant = |_: &String| !(is_wayland() && spec.region.is_some());
    let Some(display) = spec.display.clone().or_else(|| session().filter(is_meant)) else {
        let what = match env::var_os("WAYLAND_DISPLAY") {
            Some(_) => "a Wayland desktop shows what its user chooses there, and no part of that",
            None => "no screen found: DISPLAY is not set",
        };
        let remedy = format!("log in to a desktop, or name an X display: {FORM}");
        return Err(MediaError::Screen { what: what.to_owned(), remedy });
    };
    // Damage would leave out what has not changed; viewers that join need pictures all the time.
    let source = make(
        "ximagesrc",
        &[("display-name", &display), ("use-damage", "false"), ("show-pointer", "true")],
    )?;
    if let Some(Region { width, height, left, top }) = spec.region {
        for (property, value) in [
            ("startx", left),
            ("starty", top),
            // The last pixel that belongs to it.
            ("endx", left + width - 1),
            ("endy", top + height - 1),
        ] {
            source.set_property(property, value);
        }
    }
    live.add(&source)?;
    let Some(size) = opened_size(&source) else {
        let _ = live.first_error();
        return Err(MediaError::Screen {
            what: format!("X display {display} can't be opened"),
            remedy: "see 'punchcast-broadcaster devices' for those that can".to_owned(),
        });
    };
    let (right, bottom) = spec
        .region
        .map_or((0, 0), |region| (region.left + region.width, region.top + region.height));
    if u64::from(right) > size.0 || u64::from(bottom) > size.1 {
        return Err(MediaError::Screen {
            what: format!("the part reaches beyond the screen, which has {}x{}", size.0, size.1),
            remedy: format!("write it as in {FORM}"),
        });
    }
    let rate = i32::try_from(live.config().video.framerate).unwrap_or(i32::MAX);
    let rate = gst::Caps::builder("video/x-raw").field("framerate", gst::Fraction::new(rate, 1));
    let filter = caps_filter(&rate.build())?;
    live.add(&filter)?;
    source.link(&filter).map_err(cannot_build)?;
    let pad = filter.static_pad("src").ok_or_else(|| cannot_build("a filter without a pad"))?;
    live.attach(&pad, Timing::Source)
}

fn opened_size(source: &gst::Element) -> Option<(u64, u64)> {
    let display = source.property::<Option<String>>("display-name")?;
    let Screen { width, height, .. } = look(&display)?;
    source.set_state(gst::State::Ready).ok()?;
    Some((width.try_into().ok()?, height.try_into().ok()?))
}

/// The default output's monitor: what this machine plays.
fn attach_sound(live: &Arc<Live>) -> Result<(), MediaError> {
    let source =
        make("pulsesrc", &[("device", "@DEFAULT_MONITOR@"), ("client-name", "punchcast")])?;
    if source.set_state(gst::State::Ready).is_err() {
        let _ = source.set_state(gst::State::Null);
        tracing::warn!("the screen comes without sound: there is no PulseAudio or PipeWire server");
        return Ok(());
    }
    live.add(&source)?;
    let pad = source.static_pad("src").ok_or_else(|| cannot_build("sound without a pad"))?;
    live.attach(&pad, Timing::Source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screens_come_back_as_written() {
        for (written, expected) in [
            ("", ""),
            (",sound", ":sound"),
            (":sound", ":sound"),
            (":800x600+10+20", ":800x600+10+20"),
            ("::1", "::1"),
            (":1", "::1"),
            ("::1,800x600+0+0,sound", "::1,800x600+0+0,sound"),
            (":h:0.1", ":h:0.1"),
            (":portal", ":portal"),
            (",portal,sound", ":portal,sound"),
        ] {
            let spec: ScreenSpec = written.parse().expect(written);
            assert_eq!(spec.to_string(), expected);
            assert_eq!(expected.parse(), Ok(spec), "{written}");
        }
    }

    #[test]
    fn what_is_no_screen_is_refused() {
        for written in [
            ":",
            ":left",
            ":1,800x600",
            ":8x8+0+0",
            ":1,800x600+a+0",
            "1",
            ":1,loud",
            "::1,portal",
            ":portal,64x64+0+0",
        ] {
            assert_eq!(written.parse::<ScreenSpec>(), Err(()), "{written}");
        }
    }
}
