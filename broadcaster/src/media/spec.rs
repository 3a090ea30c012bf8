//! What is broadcast: the SOURCE of the command line and the configuration.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::network::{NetworkUrl, redacted};
use super::screen::{self, ScreenSpec};

/// A source as written by the user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SourceSpec {
    /// `test`: a moving picture with a burnt-in clock, and a tone.
    #[default]
    Test,
    /// `camera`: the first camera found, or `camera:DEVICE`: the one of that device node, name or number.
    Camera(Option<String>),
    /// `screen`: the session's screen, or the display or part that is named, with or without sound.
    Screen(ScreenSpec),
    /// `file:PATH`: a stored file, or the files of a folder or playlist in turn, looped live without
    /// a gap.
    File(PathBuf),
    /// `pipeline:FRAGMENT`: a pipeline description in the words of `gst-launch-1.0`; each source
    /// pad that it leaves unlinked is a track.
    Pipeline(String),
    /// `rtsp://`, `rtsps://`, `srt://` or `rtp://`: what other machines send. Shown without its
    /// login and passphrase.
    Network(NetworkUrl),
    /// `none`: nothing live, beside stored files.
    None,
}

/// A source that can't be broadcast as written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseSourceError {
    /// A kind of source that is planned and not there yet.
    #[error("source {given:?} is not supported yet; use {instead}")]
    NotYet {
        /// What the user wrote.
        given: String,
        /// What does the same today.
        instead: String,
    },
    /// A source that lacks its second half.
    #[error("source {given:?} names nothing; write {expected}")]
    Incomplete {
        /// What the user wrote.
        given: String,
        /// The form that was expected.
        expected: &'static str,
    },
    /// A network source that can't be understood.
    #[error("source {given:?} can't be understood; write {expected}")]
    Network {
        /// What the user wrote, without secrets.
        given: String,
        /// The forms that were expected.
        expected: &'static str,
    },
    /// No kind of source at all.
    #[error(
        "unknown source {given:?}; expected test, camera, camera:DEVICE, screen, file:PATH, \
         rtsp://…, srt://…, rtp://…, pipeline:FRAGMENT or none"
    )]
    Unknown {
        /// What the user wrote.
        given: String,
    },
}

impl FromStr for SourceSpec {
    type Err = ParseSourceError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let incomplete =
            |expected| Err(ParseSourceError::Incomplete { given: given.to_owned(), expected });
        let not_yet =
            |instead: String| Err(ParseSourceError::NotYet { given: redacted(given), instead });
        if let Some(screen) = given.strip_prefix("screen") {
            return match screen.parse() {
                Ok(screen) => Ok(Self::Screen(screen)),
                Err(()) => incomplete(screen::FORM),
            };
        }
        let (scheme, rest) = match given.split_once(':') {
            Some((scheme, rest)) => (scheme, Some(rest.trim())),
            None => (given, None),
        };
        match (scheme, rest) {
            ("test", None) => Ok(Self::Test),
            ("none", None) => Ok(Self::None),
            ("camera", None) => Ok(Self::Camera(None)),
            ("camera", Some("")) => incomplete("camera or camera:DEVICE"),
            ("camera", Some(device)) => Ok(Self::Camera(Some(device.to_owned()))),
            ("file", None | Some("")) => incomplete("file:PATH"),
            ("file", Some(path)) => Ok(Self::File(path.into())),
            ("pipeline", None | Some("")) => incomplete("pipeline:FRAGMENT"),
            ("pipeline", Some(fragment)) => Ok(Self::Pipeline(fragment.to_owned())),
            ("rtsp" | "rtsps" | "srt" | "rtp", Some(_)) => given.parse().map(Self::Network),
            ("rtmp" | "rtmps", Some(_)) => {
                not_yet("'pipeline:rtmp2src location=URL ! flvdemux'".to_owned())
            }
            _ => Err(ParseSourceError::Unknown { given: redacted(given) }),
        }
    }
}

impl SourceSpec {
    /// As the user wrote it, with its secrets: for nobody's eyes.
    pub(crate) fn in_full(&self) -> String {
        match self {
            Self::Pipeline(fragment) => format!("pipeline:{fragment}"),
            Self::Network(url) => url.in_full().to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test => f.write_str("test"),
            Self::None => f.write_str("none"),
            Self::Camera(None) => f.write_str("camera"),
            Self::Camera(Some(device)) => write!(f, "camera:{device}"),
            Self::Screen(screen) => write!(f, "screen{screen}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Pipeline(fragment) => write!(f, "pipeline:{}", redacted(fragment)),
            Self::Network(url) => url.fmt(f),
        }
    }
}

impl TryFrom<String> for SourceSpec {
    type Error = ParseSourceError;

    fn try_from(given: String) -> Result<Self, Self::Error> {
        given.parse()
    }
}

impl From<SourceSpec> for String {
    fn from(spec: SourceSpec) -> Self {
        spec.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_come_back_as_written() {
        for written in [
            "test",
            "none",
            "camera",
            "camera:/dev/video2",
            "screen",
            "screen::1,800x600+0+0,sound",
            "file:a b.mp4",
            "pipeline:a ! b name=x:y",
            "rtsp://cam/live#transport=udp",
            "srt://:7001",
            "rtp://:5004?96=H264",
        ] {
            let spec: SourceSpec = written.parse().expect(written);
            assert_eq!(spec.to_string(), written);
        }
    }

    #[test]
    fn wrong_sources_say_what_to_write() {
        for (written, expected) in [
            ("", "unknown source \"\"; expected test"),
            ("tset", "expected test, camera"),
            ("test:1", "unknown source"),
            ("file:", "write file:PATH"),
            ("file", "write file:PATH"),
            ("pipeline: ", "write pipeline:FRAGMENT"),
            ("screen:left", "write screen[:DISPLAY][,WIDTHxHEIGHT+X+Y][,sound]"),
            ("rtsp:h/x", "write rtsp://"),
            ("srt://h", "write srt://"),
            ("rtmp://h/x", "not supported yet"),
            ("rtp://:5004?96=MP3", "write rtp://"),
        ] {
            let error = written.parse::<SourceSpec>().expect_err(written).to_string();
            assert!(error.contains(expected), "{written}: {error}");
            assert!(!error.contains('\n'));
        }
    }
}
