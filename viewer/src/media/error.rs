//! What can go wrong with playing, in words for the person at the terminal.

use std::path::PathBuf;
use std::time::Duration;

use super::output::Output;

/// Why a player couldn't start, go on or stop.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PlayerError {
    /// GStreamer itself didn't start.
    #[error("GStreamer can't start: {0}")]
    Library(String),
    /// An element that the work needs isn't installed.
    #[error("the GStreamer element {element} is missing; install the Debian package {package}")]
    MissingElement {
        /// GStreamer's name for it.
        element: String,
        /// The Debian package that brings it.
        package: &'static str,
    },
    /// The broadcaster offers no track, or absurdly many.
    #[error("expected 1 to {most} tracks, the broadcaster offers {offered}")]
    TrackCount {
        /// How many were offered.
        offered: usize,
        /// How many are taken.
        most: usize,
    },
    /// A track comes in a format this viewer doesn't know.
    #[error("track {track} is {name}; this viewer plays {known}")]
    UnknownEncoding {
        /// The track's place in the list.
        track: usize,
        /// What the broadcaster called it, made printable.
        name: String,
        /// What is known.
        known: &'static str,
    },
    /// A track's description contradicts itself or its format.
    #[error("track {track}: {what}")]
    BadFormat {
        /// The track's place in the list.
        track: usize,
        /// Which value was wrong, and what was expected.
        what: String,
    },
    /// The output's container has no place for the track's format.
    #[error("{output} can't hold {encoding}; {advice}")]
    Unsuitable {
        /// The output.
        output: Output,
        /// The format's registered name.
        encoding: &'static str,
        /// What to choose instead.
        advice: &'static str,
    },
    /// The recording can't be written where it was asked for.
    #[error("can't write {}: {reason}", path.display())]
    RecordPath {
        /// Where it should have gone.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The device can't be shown on.
    #[error("no pictures can go to {}: {reason}", device.display())]
    Device {
        /// Its node.
        device: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A window was asked for where there is no display, or none that can be drawn on.
    #[error(
        "no window can open on this display; set DISPLAY or WAYLAND_DISPLAY, or use --output null"
    )]
    NoDisplay,
    /// Two outputs want the same place.
    #[error("the output {0} was given twice, or writes where another one does")]
    Twice(Output),
    /// An output broke.
    #[error("{reason} ({element})")]
    OutputBroke {
        /// The element that gave up.
        element: String,
        /// What it said.
        reason: String,
    },
    /// A process that played ended by itself.
    #[error("{work} {how}; what comes may be damaged or made to do harm")]
    Crashed {
        /// What it did.
        work: &'static str,
        /// How it ended.
        how: String,
    },
    /// As a process that plays put it.
    #[error("{0}")]
    Apart(String),
    /// Every output has broken, so nothing is left to play to.
    #[error("no output is left to play to")]
    NoOutputLeft,
    /// The received media couldn't be taken apart or decoded.
    #[error("the received media can't be played: {reason} ({element})")]
    Stream {
        /// The element that gave up.
        element: String,
        /// What it said.
        reason: String,
    },
    /// Elements refused to be put together: a bug, or a mismatched installation.
    #[error("GStreamer refused {what}")]
    Refused {
        /// What was attempted.
        what: String,
    },
    /// An output didn't finish in time; its file may lack its index.
    #[error("{output} wasn't finished within {deadline:?}")]
    Unfinished {
        /// The output.
        output: Output,
        /// How long it was given.
        deadline: Duration,
    },
}
