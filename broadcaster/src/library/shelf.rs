//! What is known of the files, and what is still to be found out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use protocol::library::{Digest, FileEntry, StoredMedia};

use super::folder::{Stamp, StoredFile};

/// A file that was changed less long ago may still be growing.
const STILL: Duration = Duration::from_secs(2);

/// Files longer than this are digested once somebody asks.
const MOST_DIGESTED: u64 = 4 << 30;

/// Bytes of thumbnails that are kept: those of about 10,000 files.
const MOST_THUMBNAILS: usize = 64 << 20;

/// How many files there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All.
    pub(crate) files: usize,
    /// Those that can be played.
    pub(crate) playable: usize,
    /// Those that cannot. Nobody has looked yet at the ones that are neither.
    pub(crate) unplayable: usize,
    /// The length of all together.
    pub(crate) bytes: u64,
    /// Whether the folder is being walked.
    pub(crate) is_scanning: bool,
}

/// The next thing to find out.
pub(super) enum Task {
    /// What is in this file, which looked like this from outside.
    Look(String, Stamp),
    /// What its digest is.
    Digest(String, Stamp),
}

#[derive(Default)]
pub(super) struct Shelf {
    state: Mutex<State>,
    /// Something is to do, or it is over.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    items: BTreeMap<String, Item>,
    /// Files to look into, and from when on.
    waiting: BTreeMap<String, Instant>,
    undigested: BTreeSet<String>,
    thumbnail_bytes: usize,
    /// Of which walk through the folder an item was seen last.
    walk: u64,
    is_idle: bool,
    is_closed: bool,
    has_told_of_thumbnails: bool,
}

struct Item {
    entry: FileEntry,
    stamp: Stamp,
    walk: u64,
    thumbnail: Option<Bytes>,
}

impl Shelf {
    pub(super) fn page(
        &self,
        after: Option<&str>,
        most: usize,
        most_bytes: usize,
    ) -> (Vec<FileEntry>, bool) {
        let state = self.lock();
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut items = state.items.range::<str, _>((begin, Bound::Unbounded)).peekable();
        let mut page = Vec::new();
        let mut bytes = 0;
        while let Some((_, item)) = items.peek() {
            bytes += minicbor::to_vec(&item.entry).map_or(0, |encoded| encoded.len());
            if page.len() >= most || (bytes > most_bytes && !page.is_empty()) {
                break;
            }
            page.push(item.entry.clone());
            items.next();
        }
        (page, items.peek().is_some())
    }

    pub(super) fn entry(&self, path: &str) -> Option<FileEntry> {
        self.lock().items.get(path).map(|item| item.entry.clone())
    }

    pub(super) fn thumbnail(&self, path: &str) -> Option<Bytes> {
        self.lock().items.get(path)?.thumbnail.clone()
    }

    /// The digest of a file, if it is known of what is open.
    pub(super) fn digest(&self, file: &StoredFile) -> Option<Digest> {
        self.lock().items.get(&file.path).filter(|item| item.stamp == file.stamp)?.entry.digest
    }

    pub(super) fn counts(&self) -> Counts {
        let state = self.lock();
        let mut counts = Counts { is_scanning: !state.is_idle, ..Counts::default() };
        for Item { entry, .. } in state.items.values() {
            counts.files += 1;
            counts.playable += usize::from(entry.media.is_some());
            counts.unplayable += usize::from(entry.problem.is_some());
            counts.bytes = counts.bytes.saturating_add(entry.bytes);
        }
        counts
    }

    /// A walk through the folder begins.
    pub(super) fn begin_walk(&self) {
        let mut state = self.lock();
        state.walk += 1;
        state.is_idle = false;
    }

    /// Files that the walk came by.
    pub(super) fn found(&self, files: impl IntoIterator<Item = (String, Stamp)>) {
        let mut state = self.lock();
        for (path, stamp) in files {
            state.found(path, stamp);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The walk is through: what it did not come by is no longer there.
    pub(super) fn end_walk(&self) {
        let mut state = self.lock();
        let walk = state.walk;
        let gone: Vec<_> = state.items.extract_if(.., |_, item| item.walk != walk).collect();
        for (path, item) in gone {
            state.forget(&path, &item);
        }
        state.is_idle = true;
    }

    /// Waits for something to do; `None` when it is over.
    pub(super) fn next(&self) -> Option<Task> {
        let mut state = self.lock();
        while !state.is_closed {
            if let Some(task) = state.next() {
                return Some(task);
            }
            let due = state.waiting.values().min().copied();
            let until_due = due.map(|due| due.saturating_duration_since(Instant::now()));
            state = self.wait(state, until_due.unwrap_or(Duration::from_secs(60)));
        }
        None
    }

    /// Whether something more urgent than a digest is to do.
    pub(super) fn is_look_due(&self) -> bool {
        let now = Instant::now();
        self.lock().waiting.values().any(|due| *due <= now)
    }

    /// A file is to be looked into later, as it changes.
    pub(super) fn postpone(&self, path: String) {
        let mut state = self.lock();
        if state.items.contains_key(&path) {
            state.waiting.insert(path, Instant::now() + STILL);
        }
    }

    /// A digest was not finished.
    pub(super) fn postpone_digest(&self, path: String) {
        let mut state = self.lock();
        if state.items.get(&path).is_some_and(|item| item.entry.digest.is_none()) {
            state.undigested.insert(path);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// What was found in a file, if it still looks as it did.
    pub(super) fn looked(&self, path: &str, stamp: Stamp, found: Result<StoredMedia, String>) {
        let mut state = self.lock();
        let Some(item) = state.unchanged(path, stamp) else { return };
        (item.entry.media, item.entry.problem) = match found {
            Ok(media) => (Some(media), None),
            Err(problem) => (None, Some(problem)),
        };
        let is_digest_wanted = item.entry.digest.is_none() && stamp.length <= MOST_DIGESTED;
        if is_digest_wanted {
            state.undigested.insert(path.to_owned());
        }
    }

    pub(super) fn set_thumbnail(&self, path: &str, stamp: Stamp, jpeg: Bytes) {
        let mut state = self.lock();
        let bytes = state.thumbnail_bytes + jpeg.len();
        if bytes > MOST_THUMBNAILS {
            if !std::mem::replace(&mut state.has_told_of_thumbnails, true) {
                tracing::warn!(most_bytes = MOST_THUMBNAILS, "no more pictures of files are kept");
            }
            return;
        }
        let Some(item) = state.unchanged(path, stamp) else { return };
        item.entry.has_thumbnail = true;
        item.thumbnail = Some(jpeg);
        state.thumbnail_bytes = bytes;
    }

    /// The digest of a file, if it still looks as it did.
    pub(super) fn set_digest(&self, file: &StoredFile, digest: Digest) {
        let mut state = self.lock();
        if let Some(item) = state.unchanged(&file.path, file.stamp) {
            item.entry.digest = Some(digest);
            state.undigested.remove(&file.path);
        }
    }

    /// It is over: whoever waits goes home.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Lets others have their turn for this long, or until it is over.
    pub(super) fn rest(&self, duration: Duration) {
        let until = Instant::now() + duration;
        let mut state = self.lock();
        while !state.is_closed && Instant::now() < until {
            state = self.wait(state, until.saturating_duration_since(Instant::now()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl State {
    fn found(&mut self, path: String, stamp: Stamp) {
        let walk = self.walk;
        if let Some(item) = self.unchanged(&path, stamp) {
            item.walk = walk;
            return;
        }
        let entry = FileEntry {
            path: path.clone(),
            bytes: stamp.length,
            modified: stamp.modified.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            media: None,
            problem: None,
            digest: None,
            has_thumbnail: false,
        };
        let age = SystemTime::now().duration_since(stamp.modified).unwrap_or_default();
        let before = self.items.insert(path.clone(), Item { entry, stamp, walk, thumbnail: None });
        if let Some(before) = &before {
            self.forget(&path, before);
        }
        // What has just changed under our eyes may go on changing, whatever its time says.
        let is_still = before.is_none() && age >= STILL;
        let due = if is_still { Instant::now() } else { Instant::now() + STILL };
        self.waiting.insert(path, due);
    }

    /// Takes away what belongs to an item that is no longer there.
    fn forget(&mut self, path: &str, item: &Item) {
        self.thumbnail_bytes -= item.thumbnail.as_ref().map_or(0, Bytes::len);
        self.waiting.remove(path);
        self.undigested.remove(path);
    }

    fn unchanged(&mut self, path: &str, stamp: Stamp) -> Option<&mut Item> {
        self.items.get_mut(path).filter(|item| item.stamp == stamp)
    }

    fn next(&mut self) -> Option<Task> {
        let now = Instant::now();
        let due = self.waiting.iter().find(|(_, due)| **due <= now).map(|(path, _)| path.clone());
        if let Some(path) = due {
            self.waiting.remove(&path);
            let stamp = self.items.get(&path)?.stamp;
            return Some(Task::Look(path, stamp));
        }
        let path = self.undigested.pop_first()?;
        let stamp = self.items.get(&path)?.stamp;
        Some(Task::Digest(path, stamp))
    }
}
