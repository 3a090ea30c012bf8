//! The library: a folder of stored files, what is in each, and opening them.
//!
//! Two threads serve it. One [walks](scan) the folder whenever something in it changes and keeps the
//! [shelf] as the folder is. The other [looks into](look) what is new, one file at a time, and after that
//! computes digests. Whoever asks gets an answer from the shelf at once; its lock is never held while a file
//! is touched.
//!
//! Paths come from strangers, and files from people who need not be the operator. All are opened through one
//! [folder] out of which neither a path nor a link leads.

mod contents;
mod folder;
mod look;
mod path;
mod scan;
mod shelf;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use protocol::library::{Digest, FileEntry};

pub(crate) use self::folder::{FileError, StoredFile};
pub(crate) use self::shelf::Counts;

use self::folder::Folder;
use self::shelf::Shelf;

/// A folder that cannot be a library.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LibraryError {
    /// It is not there, no folder, or may not be read.
    #[error("library {} can't be used: {reason}; name a folder that can be read", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's words.
        reason: std::io::Error,
    },
    /// The system gives no more threads.
    #[error("library can't be looked through: {0}")]
    Threads(std::io::Error),
}

/// A folder of stored files. Its threads end soon after it is dropped.
pub(crate) struct Library {
    shared: Arc<Shared>,
    nudge: SyncSender<()>,
}

/// What the library's threads share with it.
struct Shared {
    folder: Folder,
    shelf: Shelf,
    /// Digests that are being computed because somebody asked.
    digests_asked_for: AtomicUsize,
}

impl Library {
    /// Opens a folder and starts to look through it in threads of its own.
    pub(crate) fn open(folder: &Path) -> Result<Arc<Self>, LibraryError> {
        let folder = Folder::open(folder)
            .map_err(|reason| LibraryError::Folder { path: folder.to_owned(), reason })?;
        let shared = Arc::new(Shared {
            folder,
            shelf: Shelf::default(),
            digests_asked_for: AtomicUsize::new(0),
        });
        let (nudge, nudges) = sync_channel(1);
        let library = Arc::new(Self { shared: shared.clone(), nudge: nudge.clone() });
        let scanned = shared.clone();
        let scan = move || scan::run(&scanned, &nudge, &nudges);
        let look = move || look::run(&shared);
        // Where the second does not start, the drop ends the first.
        thread::Builder::new()
            .name("library-scan".to_owned())
            .spawn(scan)
            .and_then(|_| thread::Builder::new().name("library-look".to_owned()).spawn(look))
            .map_err(LibraryError::Threads)?;
        Ok(library)
    }

    /// A page of the catalogue: entries behind `after` in path order, at most `most`, and about `most_bytes`
    /// encoded, but one at least if there is one. And whether there are more behind them.
    pub(crate) fn page(
        &self,
        after: Option<&str>,
        most: usize,
        most_bytes: usize,
    ) -> (Vec<FileEntry>, bool) {
        self.shared.shelf.page(after, most, most_bytes)
    }

    /// What is known of a file.
    pub(crate) fn entry(&self, path: &str) -> Option<FileEntry> {
        self.shared.shelf.entry(path)
    }

    /// Opens a file. This may block on the file system.
    pub(crate) fn file(&self, path: &str) -> Result<StoredFile, FileError> {
        self.shared.folder.file(path)
    }

    /// A picture of a file: a JPEG of at most [`MAX_THUMBNAIL`](protocol::library::MAX_THUMBNAIL) bytes.
    pub(crate) fn thumbnail(&self, path: &str) -> Option<bytes::Bytes> {
        self.shared.shelf.thumbnail(path)
    }

    /// BLAKE3 of the first [`StoredFile::length`] bytes as they are now: from memory where the file is known to
    /// be what it was, else computed here, which blocks. `None` once `stopped` said yes.
    pub(crate) fn digest(
        &self,
        file: &StoredFile,
        stopped: impl Fn() -> bool,
    ) -> std::io::Result<Option<Digest>> {
        contents::digest_asked_for(&self.shared, file, &stopped)
    }

    /// How many files there are.
    pub(crate) fn counts(&self) -> Counts {
        self.shared.shelf.counts()
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        self.shared.shelf.close();
        // Where there is one already, or the thread is gone, that will do.
        self.nudge.try_send(()).unwrap_or_default();
    }
}
