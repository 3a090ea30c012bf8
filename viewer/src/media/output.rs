//! Where the picture and sound go, as people write it after `--output`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::hls::Hls;
use super::options::{OptionError, Options, print, words};
use super::parts::Parts;
use super::rtmp::Rtmp;
use super::snapshot::Snapshot;
use super::srt::Srt;
use super::v4l2::Loopback;

/// How long a part of a recording may be, and how small: one that holds less than a GOP holds one.
const PARTS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
const SMALLEST_PART: u64 = 100_000;

/// One place to play to. Parsed from, and printed as, the words of `--output`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Output {
    /// A window on this machine's display, and its loudspeakers.
    Window,
    /// Decodes at the right pace and shows nothing.
    Null,
    /// The picture of now as a JPEG, replaced again and again.
    Snapshot(Snapshot),
    /// A file, not encoded anew.
    Record(Recording),
    /// MPEG-TS in UDP datagrams, paced, from the first keyframe received: a player that starts at
    /// once is behind the broadcast by what the GOP already held.
    Udp {
        /// Name or address of the receiver, without brackets.
        host: String,
        /// Its UDP port.
        port: u16,
    },
    /// MPEG-TS over SRT, paced as for UDP.
    Srt(Box<Srt>),
    /// H.264 and AAC to an RTMP server, paced as for UDP. Other sound is encoded anew.
    Rtmp(Box<Rtmp>),
    /// MPEG-TS in segments, with a playlist, for a web server.
    Hls(Hls),
    /// Decoded pictures to a V4L2 device, which other programs have as a camera.
    V4l2(Loopback),
    /// MPEG-TS on standard output, as it comes.
    Stdout,
}

/// A file to record into and the container its extension chose.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recording {
    path: PathBuf,
    container: Container,
    parts: Option<Parts>,
}

/// The file formats that can be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Container {
    /// Matroska, `.mkv`.
    Matroska,
    /// Fragmented MP4, `.mp4`.
    Mp4,
    /// MPEG transport stream, `.ts`.
    MpegTs,
    /// Flash video, as RTMP carries it.
    Flv,
}

impl Recording {
    /// Chooses the container by the path's extension.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, OutputError> {
        let path = path.into();
        if path.to_str().is_none_or(|text| text.is_empty() || text.contains('\0')) {
            return Err(OutputError::Path);
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        let container = match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("mkv") => Container::Matroska,
            Some("mp4") => Container::Mp4,
            Some("ts") => Container::MpegTs,
            _ => return Err(OutputError::Extension(path)),
        };
        Ok(Self { path, container, parts: None })
    }

    /// A path, perhaps with `?every=10m&size=1G` behind it. A question mark in a name that is whole stays one.
    fn parse(text: &str) -> Result<Self, OutputError> {
        let whole = Self::new(text);
        if whole.is_ok() || !text.contains('?') {
            return whole;
        }
        let (path, mut options) = Options::split(text)?;
        let every = options.take_duration("every", PARTS)?;
        let size = options.take_size("size", SMALLEST_PART)?;
        options.end("every and size")?;
        Ok(Self { parts: Some(Parts { every, size }), ..Self::new(path)? })
    }

    /// When one file ends and another begins, where it is not one alone.
    pub fn parts(&self) -> Option<&Parts> {
        self.parts.as_ref()
    }

    /// Where the file goes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kind of file it is.
    pub fn container(&self) -> Container {
        self.container
    }
}

impl Output {
    /// What is played to when nothing was asked for: a window where a display exists, else nothing
    /// visible.
    pub fn default_here() -> Self {
        if super::window::has_display() { Self::Window } else { Self::Null }
    }

    /// The container, for outputs that pass coded media on.
    pub fn container(&self) -> Option<Container> {
        match self {
            Self::Window | Self::Null | Self::Snapshot(_) | Self::V4l2(_) => None,
            Self::Record(recording) => Some(recording.container),
            Self::Udp { .. } | Self::Srt(_) | Self::Hls(_) | Self::Stdout => {
                Some(Container::MpegTs)
            }
            Self::Rtmp(_) => Some(Container::Flv),
        }
    }

    /// What is written to on this machine, however its path is put.
    pub(super) fn place(&self) -> Option<PathBuf> {
        let path = match self {
            Self::Record(recording) => recording.path(),
            Self::Snapshot(snapshot) => snapshot.path(),
            Self::Hls(hls) => hls.folder(),
            _ => return None,
        };
        // What is not there yet is told by its folder.
        let of_folder = || {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
            Some(folder.join(path.file_name()?))
        };
        path.canonicalize().ok().or_else(of_folder)
    }

    /// Whether it is begun anew where it breaks, as others may come back.
    pub(super) fn is_tried_again(&self) -> bool {
        matches!(self, Self::Rtmp(_))
    }

    /// As it was asked for, with secrets, which [`Display`](fmt::Display) leaves out.
    pub(crate) fn in_full(&self) -> String {
        match self {
            Self::Srt(srt) => srt.in_full(),
            Self::Rtmp(rtmp) => rtmp.in_full(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window => f.write_str("window"),
            Self::Null => f.write_str("null"),
            Self::Record(Recording { path, parts, .. }) => {
                write!(f, "record:{}", path.display())?;
                let parts = parts.as_ref();
                let every = parts.and_then(|parts| parts.every).map(words);
                let size = parts.and_then(|parts| parts.size).map(|size| size.to_string());
                print(f, &[("every", every), ("size", size)])
            }
            Self::Udp { host, port } => {
                f.write_str("udp://")?;
                print_host_and_port(f, host, *port)
            }
            Self::Srt(srt) => srt.fmt(f),
            Self::Rtmp(rtmp) => rtmp.fmt(f),
            Self::Hls(hls) => hls.fmt(f),
            Self::Snapshot(snapshot) => snapshot.fmt(f),
            Self::V4l2(loopback) => loopback.fmt(f),
            Self::Stdout => f.write_str("stdout"),
        }
    }
}

impl FromStr for Output {
    type Err = OutputError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "window" => return Ok(Self::Window),
            "null" => return Ok(Self::Null),
            "stdout" | "-" => return Ok(Self::Stdout),
            _ => {}
        }
        if let Some(path) = text.strip_prefix("record:") {
            return Recording::parse(path).map(Self::Record);
        }
        if let Some(address) = text.strip_prefix("udp://") {
            let found = host_and_port(address).map(|(host, port)| Self::Udp { host, port });
            return found.ok_or_else(|| OutputError::Udp(text.to_owned()));
        }
        if let Some(address) = text.strip_prefix("srt://") {
            let found = Srt::parse(address)?.map(|srt| Self::Srt(Box::new(srt)));
            return found.ok_or(OutputError::Srt);
        }
        if let Some(server) = text.strip_prefix("rtmp://") {
            let found = Rtmp::parse(server).map(|rtmp| Self::Rtmp(Box::new(rtmp)));
            return found.ok_or(OutputError::Rtmp);
        }
        if let Some(folder) = text.strip_prefix("hls:") {
            return Ok(Self::Hls(Hls::parse(folder)?));
        }
        if let Some(path) = text.strip_prefix("snapshot:") {
            return Ok(Self::Snapshot(Snapshot::parse(path)?));
        }
        if let Some(device) = text.strip_prefix("v4l2:") {
            return Ok(Self::V4l2(Loopback::parse(device)?));
        }
        Err(OutputError::Unknown(text.to_owned()))
    }
}

/// HOST:PORT, where an IPv6 address stands in brackets.
pub(super) fn host_and_port(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|&port| port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
        None => host.to_owned(),
    };
    let plausible = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    let bare_ipv6 = host.contains(':') && !address.starts_with('[');
    (!host.is_empty() && host.chars().all(plausible) && !bare_ipv6).then_some((host, port))
}

/// As [`host_and_port`] takes it.
pub(super) fn print_host_and_port(
    f: &mut fmt::Formatter<'_>,
    host: &str,
    port: u16,
) -> fmt::Result {
    if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
}

/// Why a text names no output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    /// Not one of the words.
    #[error(
        "expected window, null, record:PATH, udp://HOST:PORT, srt://HOST:PORT, srt://:PORT, \
         rtmp://HOST/APP/KEY, hls:DIR, snapshot:PATH.jpg, v4l2:DEVICE or stdout as the output, got {0:?}"
    )]
    Unknown(String),
    /// The extension chooses the container, and this one chooses none.
    #[error("expected a recording's name to end in .mkv, .mp4 or .ts, got {:?}", .0.display().to_string())]
    Extension(PathBuf),
    /// The path is empty or can't be passed on.
    #[error("expected record: to be followed by a path in UTF-8")]
    Path,
    /// Not an address.
    #[error("expected udp://HOST:PORT with an IPv6 address in brackets, got {0:?}")]
    Udp(String),
    /// Not an address. It isn't repeated, as it may hold a passphrase.
    #[error(
        "expected srt://HOST:PORT to call, or srt://:PORT to be called, with an IPv6 address in brackets"
    )]
    Srt,
    /// Not a server and a stream. It isn't repeated, as it may hold a key.
    #[error(
        "expected rtmp://HOST/APP/KEY, perhaps with :PORT behind the host, and an IPv6 address in brackets"
    )]
    Rtmp,
    /// What follows the question mark.
    #[error(transparent)]
    Option(#[from] OptionError),
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn outputs_print_as_they_parse() {
        for text in [
            "window",
            "null",
            "stdout",
            "record:/tmp/a b.mkv",
            "record:x.mp4",
            "record:x.TS",
            "record:what?.mkv",
            "record:x.mkv?every=10m&size=1000000",
            "udp://127.0.0.1:5000",
            "udp://localhost:1",
            "udp://[::1]:65535",
            "srt://127.0.0.1:9000",
            "srt://:9000",
            "srt://[::1]:9000?latency=200ms&streamid=a/b%26c",
            "rtmp://live.example:1935/app/**********",
            "hls:/srv/www/live",
            "hls:live?segment=4s&keep=10",
            "snapshot:/srv/www/now.jpg",
            "snapshot:now.JPEG?every=1s",
            "v4l2:/dev/video10",
            "v4l2:/dev/v4l/by-id/x?size=1280x720",
        ] {
            assert_eq!(text.parse::<Output>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_words_are_refused_with_what_was_expected() {
        for (text, word) in [
            ("", "record:PATH"),
            ("screen", "record:PATH"),
            ("record:", "path"),
            ("record:x.avi", ".mkv"),
            ("record:mkv", ".mkv"),
            ("record:x.mkv?every=1ms", "from 1s"),
            ("record:x.mkv?size=9k", "100000"),
            ("record:x.mkv?at=1", "every and size"),
            ("record:a\0b.mkv", "UTF-8"),
            ("udp://host", "HOST:PORT"),
            ("udp://:5", "HOST:PORT"),
            ("udp://a:0", "HOST:PORT"),
            ("udp://a:70000", "HOST:PORT"),
            ("udp://::1:5", "brackets"),
            ("udp://[::1:5", "brackets"),
            ("udp://a b:5", "HOST:PORT"),
            ("srt://host", "srt://:PORT"),
            ("srt://:0", "srt://:PORT"),
            ("srt://::1:5", "brackets"),
            ("srt://h:5?passphrase=short", "10 to 79"),
            ("srt://h:5?mode=caller", "streamid"),
            ("srt://h:5?latency=1h", "30s"),
            ("rtmp://h/key", "rtmp://HOST/APP/KEY"),
            ("rtmp://::1/app/key", "brackets"),
            ("hls:", "folder"),
            ("hls:a?segment=0s", "500ms"),
            ("hls:a?keep=1", "from 3"),
            ("hls:a?b", "key=value"),
            ("snapshot:now.png", ".jpg"),
            ("snapshot:", ".jpg"),
            ("snapshot:a.jpg?every=1ms", "100ms"),
            ("v4l2:", "/dev/video10"),
            ("v4l2:video10", "/dev/video10"),
            ("v4l2:/dev/video10?size=641x360", "even"),
            ("v4l2:/dev/video10?size=640", "1280x720"),
            ("v4l2:/dev/video10?form=YUY2", "size"),
        ] {
            let error = text.parse::<Output>().unwrap_err().to_string();
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_passphrase_is_told_to_nobody_but_the_process_that_needs_it() {
        let text = "srt://h:1?passphrase=correct%20horse%26";
        let output: Output = text.parse().unwrap();
        let Output::Srt(srt) = &output else { panic!("{output}") };
        assert_eq!(srt.passphrase(), Some("correct horse&"));
        assert_eq!(output.in_full(), text);
        for seen in [output.to_string(), format!("{output:?}")] {
            assert!(!seen.contains("horse"), "{seen}");
        }
        let seen: Output = output.to_string().parse().unwrap();
        assert_ne!(seen, output);
    }

    #[test]
    fn one_place_is_one_however_it_is_put() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("sub")).expect("a folder");
        let place = |output: String| output.parse::<Output>().expect("an output").place();
        let at = folder.path().display();
        let first = place(format!("record:{at}/a.mkv")).expect("it is somewhere");
        for same in [
            format!("record:{at}/./a.mkv"),
            format!("record:{at}/sub/../a.mkv"),
            format!("record:{at}/a.mkv?every=3s"),
        ] {
            assert_eq!(place(same.clone()).as_ref(), Some(&first), "{same}");
        }
        assert_ne!(place(format!("record:{at}/b.mkv")), Some(first));
        assert_eq!(place(format!("hls:{at}/sub")), place(format!("hls:{at}/./sub/")));
        assert_eq!(place("null".to_owned()), None);
    }
}
