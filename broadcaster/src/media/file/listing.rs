//! Which files a `file:` source plays: the one that it names, those of a folder, or those of a playlist.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use gstreamer::glib;

use crate::media::error::MediaError;

/// Playlists are far shorter.
const LONGEST_PLAYLIST: u64 = 4 << 20;

/// How the names of media files end. What else lies in a folder (subtitles, covers) is no item of it.
const MEDIA: [&str; 44] = [
    "3g2", "3gp", "aac", "ac3", "aif", "aiff", "asf", "au", "avi", "dv", "f4v", "flac", "flv",
    "h264", "h265", "hevc", "ivf", "m2t", "m2ts", "m2v", "m4a", "m4v", "mka", "mkv", "mov", "mp2",
    "mp3", "mp4", "mpeg", "mpg", "mts", "mxf", "obu", "oga", "ogg", "ogm", "ogv", "opus", "ts",
    "vob", "wav", "webm", "wma", "wmv",
];

/// What a source's path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
    Playlist(Syntax),
}

/// How a playlist is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    /// A path on each line.
    Lines,
    /// `FileN=PATH` (PLS).
    Numbered,
}

/// Where a source's items are listed.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    path: PathBuf,
    kind: Kind,
}

impl Listing {
    /// Finds out what a path names.
    pub(super) fn open(path: &Path) -> Result<Self, MediaError> {
        let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        let kind = match extension(path).as_deref() {
            _ if metadata.is_dir() => Kind::Folder,
            Some("m3u" | "m3u8" | "txt") => Kind::Playlist(Syntax::Lines),
            Some("pls") => Kind::Playlist(Syntax::Numbered),
            _ => Kind::File,
        };
        Ok(Self { path: path.to_owned(), kind })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there may be other items than the path itself.
    pub(super) fn is_list(&self) -> bool {
        self.kind != Kind::File
    }

    /// The items as they are listed now: at least one.
    pub(super) fn items(&self) -> Result<Vec<PathBuf>, MediaError> {
        let items = match self.kind {
            Kind::File => return Ok(vec![self.path.clone()]),
            Kind::Folder => self.in_folder()?,
            Kind::Playlist(syntax) => self.in_playlist(syntax)?,
        };
        if items.is_empty() {
            return Err(MediaError::EmptyList { path: self.path.clone() });
        }
        Ok(items)
    }

    fn in_folder(&self) -> Result<Vec<PathBuf>, MediaError> {
        let entries = fs::read_dir(&self.path).map_err(|error| unreadable(&self.path, &error))?;
        let mut items = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| unreadable(&self.path, &error))?.path();
            let is_hidden = path.file_name().is_none_or(|name| name.as_bytes().starts_with(b"."));
            let is_media = extension(&path).is_some_and(|end| MEDIA.contains(&end.as_str()));
            if is_media && !is_hidden && path.is_file() {
                items.push(path);
            } else {
                tracing::debug!(path = %path.display(), "not an item of the folder");
            }
        }
        items.sort_unstable();
        Ok(items)
    }

    fn in_playlist(&self, syntax: Syntax) -> Result<Vec<PathBuf>, MediaError> {
        let mut text = Vec::new();
        fs::File::open(&self.path)
            .and_then(|file| file.take(LONGEST_PLAYLIST + 1).read_to_end(&mut text))
            .map_err(|error| unreadable(&self.path, &error))?;
        let unusable =
            |reason: &'static str| MediaError::Playlist { path: self.path.clone(), reason };
        if text.len() as u64 > LONGEST_PLAYLIST {
            return Err(unusable("it is longer than 4 MiB"));
        }
        if text.contains(&0) {
            return Err(unusable("it is no text"));
        }
        let entries = match syntax {
            Syntax::Lines if lines(&text).any(|line| line.starts_with(b"#EXT-X-")) => {
                return Err(unusable(
                    "it is an HLS playlist, not a list of files; write 'pipeline:uridecodebin uri=…'",
                ));
            }
            Syntax::Lines => lines(&text).filter(|line| !line.starts_with(b"#")).collect(),
            Syntax::Numbered => numbered(&text),
        };
        let folder = self.path.parent().unwrap_or(Path::new(""));
        Ok(entries.into_iter().map(|entry| item(folder, entry)).collect())
    }
}

/// A path as a playlist has it. What is no local file stays as it is written; see [`is_remote`].
fn item(folder: &Path, entry: &[u8]) -> PathBuf {
    let written = || PathBuf::from(OsString::from_vec(entry.to_vec()));
    if entry.starts_with(b"file:") {
        let uri = String::from_utf8_lossy(entry);
        return match glib::filename_from_uri(&uri) {
            Ok((path, host)) if host.as_ref().is_none_or(|host| host == "localhost") => path,
            _ => written(),
        };
    }
    let written = written();
    if is_remote(&written) { written } else { folder.join(written) }
}

/// Whether an item is a URI, which no file is behind.
pub(super) fn is_remote(item: &Path) -> bool {
    let text = item.as_os_str().as_bytes();
    let scheme =
        text.iter().take_while(|&&byte| byte.is_ascii_alphanumeric() || byte == b'+').count();
    text.starts_with(b"file:") || (scheme > 1 && text[scheme..].starts_with(b"://"))
}

/// Lines that are not empty, without blanks at their ends and without a byte order mark.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    text.split(|&byte| byte == b'\n' || byte == b'\r')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
}

/// The files of a PLS playlist in the order of their numbers.
fn numbered(text: &[u8]) -> Vec<&[u8]> {
    let mut files: Vec<(u32, &[u8])> = lines(text)
        .filter_map(|line| {
            let equals = line.iter().position(|&byte| byte == b'=')?;
            let (key, value) = (line[..equals].trim_ascii(), line[equals + 1..].trim_ascii());
            let (word, number) = key.split_at_checked(4)?;
            let number = str::from_utf8(number).ok()?.parse().ok()?;
            (word.eq_ignore_ascii_case(b"file") && !value.is_empty()).then_some((number, value))
        })
        .collect();
    files.sort_by_key(|(number, _)| *number);
    files.into_iter().map(|(_, file)| file).collect()
}

fn extension(path: &Path) -> Option<String> {
    path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase)
}

fn unreadable(path: &Path, error: &std::io::Error) -> MediaError {
    MediaError::Unreadable { path: path.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_give_their_media_files_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["b.mp4", "a.MKV", "ä.ts", ".c.mp4", "b.srt", "cover.jpg", "list.m3u"] {
            fs::write(folder.path().join(name), b"x").expect("written");
        }
        fs::create_dir(folder.path().join("d.mp4")).expect("made");
        fs::write(folder.path().join("d.mp4/e.mp4"), b"x").expect("written");
        assert_eq!(names(folder.path(), folder.path()), ["a.MKV", "b.mp4", "ä.ts"]);
    }

    #[test]
    fn playlists_of_every_kind() {
        let folder = tempfile::tempdir().expect("a folder");
        let absolute = folder.path().join("x y.mp4");
        let uri = format!("file://{}", absolute.display()).replace(' ', "%20");
        for (name, text) in [
            ("a.m3u", "#EXTM3U\r\n#EXTINF:1,One\r\nsub/one.mp4\r\n\r\nURI\r\nhttp://h/two.ts\r\n"),
            ("a.M3U8", "\u{feff}sub/one.mp4\n#comment\n  URI  \nhttp://h/two.ts"),
            ("a.txt", "sub/one.mp4\n#no.mp4\nURI\nhttp://h/two.ts\n"),
            (
                "a.pls",
                "[playlist]\nFile10=http://h/two.ts\nTitle1=x=y\nfile1 = sub/one.mp4\nFile2=URI\n\
                 NumberOfEntries=3\nFile=no\nFileX=no\n",
            ),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, text.replace("URI", &uri)).expect("written");
            assert_eq!(
                names(&path, folder.path()),
                ["sub/one.mp4", "x y.mp4", "http://h/two.ts"],
                "{name}"
            );
        }
    }

    #[test]
    fn names_need_not_be_text() {
        let item = item(Path::new("/f"), b"caf\xe9.mp4");
        assert_eq!(item.as_os_str().as_bytes(), b"/f/caf\xe9.mp4");
        for (written, expected) in
            [("rtsp://h", true), ("/a://b", false), ("a:b", false), ("file://h/x", true)]
        {
            assert_eq!(is_remote(Path::new(written)), expected, "{written}");
        }
    }

    #[test]
    fn unusable_lists_say_why() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text, expected) in [
            ("hls.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\na.ts\n", "HLS playlist"),
            ("empty.m3u", "#EXTM3U\n\n", "no media files"),
            ("empty.pls", "[playlist]\n", "no media files"),
            ("binary.txt", "a\0b", "no text"),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("written");
            let error = Listing::open(&path).and_then(|listing| listing.items()).expect_err(name);
            let error = error.to_string();
            assert!(error.contains(expected) && error.contains(name), "{error}");
        }
        let missing = Listing::open(&folder.path().join("missing.m3u")).expect_err("not there");
        assert!(missing.to_string().contains("No such file"), "{missing}");
    }

    /// The items that a path lists, relative to a folder.
    fn names(path: &Path, folder: &Path) -> Vec<String> {
        let listing = Listing::open(path).expect("readable");
        assert!(listing.is_list());
        let items = listing.items().expect("items");
        let relative = |item: &PathBuf| item.strip_prefix(folder).unwrap_or(item).to_owned();
        items.iter().map(|item| relative(item).display().to_string()).collect()
    }
}
