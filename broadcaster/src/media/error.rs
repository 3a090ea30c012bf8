//! What can go wrong between a source and its packets, each told in one line.

use std::path::PathBuf;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;

/// A source that can't be broadcast, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    /// GStreamer itself does not start.
    #[error("GStreamer does not start: {reason}; reinstall the Debian package libgstreamer1.0-0")]
    Init {
        /// GStreamer's words.
        reason: String,
    },
    /// An element that is needed is not installed.
    #[error("GStreamer element {element} is missing; {remedy}")]
    MissingElement {
        /// The element's name.
        element: String,
        /// What to install.
        remedy: String,
    },
    /// A setting that no encoder could honour.
    #[error("{problem}")]
    Config {
        /// Which setting, what it is and what was expected.
        problem: String,
    },
    /// A source over the network gives nothing.
    #[error("{what}: {reason}; {remedy}")]
    Remote {
        /// Its URL, without secrets.
        what: String,
        /// GStreamer's words.
        reason: String,
        /// What to try.
        remedy: &'static str,
    },
    /// The fragment of a `pipeline:` source can't be made into elements.
    #[error("pipeline fragment can't be used: {reason}; try it with gst-launch-1.0 first")]
    Fragment {
        /// GStreamer's words.
        reason: String,
    },
    /// The source has neither picture nor sound.
    #[error("{source_name} has neither picture nor sound to broadcast; {remedy}")]
    NoTracks {
        /// What was asked for.
        source_name: String,
        /// What to try.
        remedy: &'static str,
    },
    /// A track whose data can't be understood.
    #[error("a track of the source can't be broadcast: {reason}")]
    Track {
        /// What it is and what to do.
        reason: String,
    },
    /// The file can't be read.
    #[error("can't read {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The file is empty.
    #[error("{} is empty; nothing to broadcast", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// The file is no media file, or too broken to play.
    #[error("{} can't be played: {reason}; is it a media file, and whole?", path.display())]
    Unplayable {
        /// The file.
        path: PathBuf,
        /// Why, and what to try.
        reason: String,
    },
    /// Not the playlist that it should be.
    #[error("playlist {} can't be used: {reason}", path.display())]
    Playlist {
        /// The playlist.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A folder or playlist without items.
    #[error("{} holds no media files; nothing to broadcast", path.display())]
    EmptyList {
        /// The folder or playlist.
        path: PathBuf,
    },
    /// An item that is not like those before it.
    #[error("{} doesn't fit the channel: {reason}", path.display())]
    Unfit {
        /// The item.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// No item of a folder or playlist can be played, or none any more.
    #[error("nothing in {} can be played; {last}", path.display())]
    NothingLeft {
        /// The folder or playlist.
        path: PathBuf,
        /// What is wrong with one of its items.
        last: Box<MediaError>,
    },
    /// There is no camera, or not the one named.
    #[error("{what}; {remedy}")]
    Camera {
        /// Which camera and what is wrong with it.
        what: String,
        /// What to try.
        remedy: String,
    },
    /// There is no screen, or not the one named.
    #[error("{what}; {remedy}")]
    Screen {
        /// Which screen and what is wrong with it.
        what: String,
        /// What to try.
        remedy: String,
    },
    /// The desktop's user does not want a screen to be shown.
    #[error(
        "the desktop refused to show its screen; start again, and choose a screen or window where it asks"
    )]
    Refused,
    /// The desktop's user has stopped the showing of a screen.
    #[error("the desktop has stopped showing its screen")]
    Withdrawn,
    /// A device that another program uses.
    #[error(
        "{element} can't use its device: {reason}; close the program that has it open \
         (fuser -v DEVICE names it), or take another one"
    )]
    Busy {
        /// The element's kind.
        element: String,
        /// GStreamer's words.
        reason: String,
    },
    /// A port that cannot be listened on.
    #[error("can't listen on {address}: {reason}; name another address or port of this machine")]
    Listen {
        /// Address and port.
        address: String,
        /// The system's words.
        reason: String,
    },
    /// Something failed while running.
    #[error("{element} failed: {reason}")]
    Pipeline {
        /// The element's kind.
        element: String,
        /// GStreamer's words.
        reason: String,
    },
    /// A source over the network whose sender has gone.
    #[error("{source_name} has ended")]
    Over {
        /// The source, without its secrets.
        source_name: String,
    },
    /// A source over the network that has fallen silent.
    #[error("{source_name} has sent nothing for {seconds} s")]
    Stalled {
        /// The source, without its secrets.
        source_name: String,
        /// How long it has been waited for.
        seconds: u64,
    },
    /// What the process that captures and encodes says.
    #[error("{0}")]
    Apart(String),
    /// The process that captures and encodes is gone.
    #[error("the process of the source {how}")]
    Crashed {
        /// By which signal or with which code it ended, or what it failed to do.
        how: String,
    },
    /// The source gives nothing.
    #[error("the source gave no packets of {what} within {seconds} s; try it with gst-launch-1.0")]
    Silent {
        /// Which tracks.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
}

impl MediaError {
    /// Puts an error message from a pipeline's bus into one line.
    pub(super) fn from_bus(message: &gst::message::Error) -> Self {
        let element = message
            .src()
            .and_then(|source| source.downcast_ref::<gst::Element>())
            .and_then(|element| element.factory())
            .map_or_else(|| "the pipeline".to_owned(), |factory| factory.name().to_string());
        let reason = reason(&message.error(), message.debug().as_deref());
        if message.error().matches(gst::ResourceError::Busy) {
            return Self::Busy { element, reason };
        }
        Self::Pipeline { element, reason }
    }
}

/// An error's text and the tail of its debug text, which often holds the cause, in one line.
pub(super) fn reason(error: &glib::Error, debug: Option<&str>) -> String {
    let mut text = one_line(error.message());
    // The first line of the debug text is a place in GStreamer's source.
    let detail = debug.and_then(|debug| debug.split_once('\n')).map(|(_, detail)| one_line(detail));
    if let Some(detail) = detail.filter(|detail| !detail.is_empty() && !text.contains(detail)) {
        text = format!("{} ({})", text.trim_end_matches('.'), detail.trim_end_matches('.'));
    }
    text
}

/// Text with its line ends and runs of blanks made single spaces.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
