//! The folder itself, and opening files in it so that nothing else can be opened.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, Metadata, MetadataExt, OpenOptions, OpenOptionsExt};

use super::path::is_legal;

/// A stored file that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FileError {
    /// There is none of this path, or none that may be had: all alike.
    #[error("no such file")]
    Unknown,
    /// There is one, but it cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
}

/// By what a file is known to be the same as before, contents and all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) length: u64,
    pub(super) modified: SystemTime,
    /// Seconds and nanoseconds: permissions change this and nothing else, and so does who sets `modified` back.
    changed: (i64, i64),
    device: u64,
    inode: u64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            length: metadata.len(),
            modified: modified(metadata),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// An open file of the library.
pub(crate) struct StoredFile {
    /// Its path within the library.
    pub(crate) path: String,
    /// The file, open for reading.
    pub(crate) file: std::fs::File,
    /// Its length in bytes when it was opened.
    pub(crate) length: u64,
    /// When it had been changed last.
    pub(crate) modified: SystemTime,
    pub(super) stamp: Stamp,
}

impl StoredFile {
    /// A path that names exactly this file, for as long as this value lives and in this process only.
    pub(crate) fn location(&self) -> PathBuf {
        let folder = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
        Path::new(folder).join(self.file.as_raw_fd().to_string())
    }

    /// Whether it is still what it was when it was opened.
    pub(super) fn is_unchanged(&self) -> bool {
        let metadata = Metadata::from_file(&self.file);
        metadata.is_ok_and(|metadata| Stamp::of(&metadata) == self.stamp)
    }
}

/// The folder, as it is at its path now: what is mounted there later counts as well.
pub(super) struct Folder {
    path: PathBuf,
    dir: RwLock<Arc<Dir>>,
}

impl Folder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let dir = open(&path)?;
        Ok(Self { path, dir: RwLock::new(Arc::new(dir)) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The open folder.
    pub(super) fn dir(&self) -> Arc<Dir> {
        self.dir.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens the folder again, and tells whether it is another than before.
    pub(super) fn reopen(&self) -> io::Result<bool> {
        let dir = open(&self.path)?;
        let is_another = identity(&dir)? != identity(&self.dir())?;
        if is_another {
            *self.dir.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(dir);
        }
        Ok(is_another)
    }

    /// Opens a file. Links to files within the folder are followed, by relative paths.
    pub(super) fn file(&self, path: &str) -> Result<StoredFile, FileError> {
        if !is_legal(path) {
            return Err(FileError::Unknown);
        }
        let dir = self.dir();
        // Opening a device can do things; that it is none is looked at first, and again when it is open.
        if !dir.metadata(path).map_err(error)?.is_file() {
            return Err(FileError::Unknown);
        }
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = dir.open_with(path, &options).map_err(error)?.into_std();
        let metadata = Metadata::from_file(&file).map_err(error)?;
        if !metadata.is_file() {
            return Err(FileError::Unknown);
        }
        let stamp = Stamp::of(&metadata);
        let Stamp { length, modified, .. } = stamp;
        Ok(StoredFile { path: path.to_owned(), file, length, modified, stamp })
    }
}

/// Opens the folder, and makes sure that it can be listed.
fn open(path: &Path) -> io::Result<Dir> {
    let dir = Dir::open_ambient_dir(path, ambient_authority())?;
    dir.entries()?;
    Ok(dir)
}

fn identity(dir: &Dir) -> io::Result<(u64, u64)> {
    dir.dir_metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Only what the system says of a file that is there is told: an error without a number is the refusal to
/// leave the folder.
fn error(error: io::Error) -> FileError {
    use io::ErrorKind::{NotADirectory, NotFound};
    match (error.kind(), error.raw_os_error()) {
        (NotFound | NotADirectory, _)
        | (_, None | Some(libc::ELOOP | libc::EXDEV | libc::ENXIO)) => FileError::Unknown,
        (_, Some(_)) => FileError::Unreadable(reason(&error)),
    }
}

/// The system's words without its number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn modified(metadata: &Metadata) -> SystemTime {
    let nanoseconds = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    let seconds = metadata.mtime();
    let offset = Duration::new(seconds.unsigned_abs(), 0);
    let second = match seconds < 0 {
        true => UNIX_EPOCH.checked_sub(offset),
        false => UNIX_EPOCH.checked_add(offset),
    };
    let time =
        second.and_then(|second| second.checked_add(Duration::from_nanos(nanoseconds.into())));
    time.unwrap_or(UNIX_EPOCH)
}
