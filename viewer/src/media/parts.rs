//! Recording into files of limited length: `record:PATH?every=10m&size=1G`, each with a number in its name.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::error::PlayerError;
use super::output::Recording;
use super::shared::{make, nanoseconds};

/// When a part ends: before the first GOP with which it would exceed one of these.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Parts {
    /// How long it plays.
    pub every: Option<Duration>,
    /// How large it is, in bytes.
    pub size: Option<u64>,
}

/// An element with pads `video` and `audio_%u` that muxes and writes one file after the other.
pub(super) fn writer(
    recording: &Recording,
    parts: &Parts,
    muxer: &gst::Element,
    file: &gst::Element,
) -> Result<gst::Element, PlayerError> {
    let writer = make("splitmuxsink")?;
    writer.set_property("muxer", muxer);
    writer.set_property("sink", file);
    writer.set_property("max-size-time", parts.every.map_or(0, nanoseconds));
    writer.set_property("max-size-bytes", parts.size.unwrap_or(0));
    let path = recording.path().to_owned();
    let next = AtomicU32::new(number_after(&path));
    writer.connect("format-location", false, move |_| {
        let part = part(&path, next.fetch_add(1, Relaxed));
        Some(part.to_str().unwrap_or_default().to_value())
    });
    Ok(writer)
}

/// The name of a part, with its number before the extension.
fn part(path: &Path, number: u32) -> PathBuf {
    let (stem, extension) = names(path);
    path.with_file_name(format!("{stem}-{number:05}.{extension}"))
}

/// The number after those of parts that are there.
fn number_after(path: &Path) -> u32 {
    let (stem, extension) = names(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = std::fs::read_dir(folder.unwrap_or(Path::new(".")));
    let there = entries.into_iter().flatten().filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let rest = name.strip_prefix(stem)?.strip_prefix('-')?;
        rest.strip_suffix(extension)?.strip_suffix('.')?.parse::<u32>().ok()
    });
    there.max().map_or(0, |last| last.saturating_add(1))
}

/// Stem and extension, which a recording has.
fn names(path: &Path) -> (&str, &str) {
    let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
    name.rsplit_once('.').unwrap_or((name, ""))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn numbers_go_on_after_those_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cam 1.mkv");
        assert_eq!(number_after(&path), 0);
        for name in ["cam 1-00006.mkv", "cam 1-00002.mkv", "cam 1-00009.mp4", "cam-00010.mkv"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(number_after(&path), 7);
        assert_eq!(part(&path, 7), folder.path().join("cam 1-00007.mkv"));
    }
}
