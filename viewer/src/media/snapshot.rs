//! `snapshot:PATH.jpg`: the picture of now as a JPEG, replaced again and again, for web pages and home automation.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::error::PlayerError;
use super::options::{OptionError, Options, print, words};
use super::shared::{lock, make, pad};

/// How often there is a new one.
const EVERY: Duration = Duration::from_secs(10);
const MAY_BE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(86_400);

/// Of 100.
const QUALITY: i32 = 85;

/// A JPEG, and how often it is replaced.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    path: PathBuf,
    every: Duration,
}

impl Snapshot {
    /// Where it goes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How often it is replaced.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// `PATH.jpg`, perhaps with `?every=10s`.
    pub(super) fn parse(text: &str) -> Result<Self, OptionError> {
        let (path, mut options) = Options::split(text)?;
        let every = options.take_duration("every", MAY_BE)?.unwrap_or(EVERY);
        options.end("every")?;
        let path = PathBuf::from(path);
        let extension = path.extension().and_then(|extension| extension.to_str());
        let is_jpeg = extension.is_some_and(|extension| {
            ["jpg", "jpeg"].iter().any(|known| extension.eq_ignore_ascii_case(known))
        });
        if !is_jpeg || text.contains('\0') {
            let (key, expected) = ("snapshot:", "followed by a path that ends in .jpg".to_owned());
            return Err(OptionError::Value { key, expected, value: path.display().to_string() });
        }
        Ok(Self { path, every })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "snapshot:{}", self.path.display())?;
        let every = (self.every != EVERY).then(|| words(self.every));
        print(f, &[("every", every)])
    }
}

/// The elements behind a source of raw pictures, of which those pass that are due.
pub(super) fn elements(
    snapshot: &Snapshot,
    source: &gst_app::AppSrc,
) -> Result<(Vec<gst::Element>, gst::Element), PlayerError> {
    let (every, last) = (snapshot.every, Mutex::<Option<Duration>>::default());
    pad(source.upcast_ref(), "src")?.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(time) = info.buffer().and_then(|buffer| buffer.pts()).map(Duration::from) else {
            return gst::PadProbeReturn::Drop;
        };
        let mut last = lock(&last);
        // After a seek times may go back.
        let is_due = last.is_none_or(|last| time >= last + every || time < last);
        if is_due {
            *last = Some(time);
        }
        if is_due { gst::PadProbeReturn::Ok } else { gst::PadProbeReturn::Drop }
    });
    let encoder = make("jpegenc")?;
    encoder.set_property("quality", QUALITY);
    let path = snapshot.path.clone();
    let failing = Mutex::new(false);
    let write = move |sink: &gst_app::AppSink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        let picture = sample.buffer().and_then(|buffer| buffer.map_readable().ok());
        let Some(picture) = picture else { return Ok(gst::FlowSuccess::Ok) };
        let written = replace(&path, &picture);
        let mut failing = lock(&failing);
        // A disk may have room again for the next one.
        if let (Err(error), false) = (&written, *failing) {
            tracing::warn!(
                "no snapshot in {}: {error}; trying again with the next",
                path.display()
            );
        }
        *failing = written.is_err();
        Ok(gst::FlowSuccess::Ok)
    };
    let callbacks = gst_app::AppSinkCallbacks::builder().new_sample(write).build();
    let sink = gst_app::AppSink::builder().callbacks(callbacks).build();
    let sink: gst::Element = sink.upcast();
    // A JPEG's luma has the whole range of a byte; the encoder converts RGB to that, and takes other pictures' as it is.
    let whole = make("capsfilter")?;
    whole.set_property("caps", gst::Caps::builder("video/x-raw").field("format", "RGB").build());
    Ok((vec![make("videoconvert")?, whole, encoder], sink))
}

/// Puts a file into the place of the one before, so that whoever reads finds a whole one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, path)).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("now.jpg");
        for picture in ["one", "another"] {
            replace(&path, picture.as_bytes()).expect("room");
            assert_eq!(fs::read_to_string(&path).expect("it is there"), picture);
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
        assert!(replace(&folder.path().join("no/now.jpg"), b"x").is_err());
    }
}
