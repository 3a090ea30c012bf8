//! Walking the folder whenever something in it changes.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use cap_std::fs::{Dir, DirEntry, Metadata};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use protocol::library::MAX_PATH;

use super::Shared;
use super::folder::{Folder, Stamp};
use super::path::{MAX_DEPTH, is_shown};
use super::shelf::Shelf;

/// Most files of a library.
const MOST_FILES: usize = 100_000;

/// Changes come in bursts: one is over after so long a silence …
const DEBOUNCE: Duration = Duration::from_millis(300);

/// … and is not waited for longer than this.
const MOST_DEBOUNCE: Duration = Duration::from_millis(700);

/// How often the folder is walked though nothing was told of: network file systems tell nothing.
const WALK_INTERVAL: Duration = Duration::from_secs(30);

/// How often where nothing can be told of.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// How many times as long as a walk took it is rested behind it, so that a large folder whose files grow all
/// the time keeps a fifth of a processor busy, not one …
const REST: u32 = 4;

/// … but no longer than this.
const MOST_REST: Duration = Duration::from_secs(5);

/// Files that are handed over at a time.
const BATCH: usize = 256;

/// Works until the library is gone.
pub(super) fn run(shared: &Shared, nudge: &SyncSender<()>, nudges: &Receiver<()>) {
    let mut once = Once::default();
    let mut watcher = None;
    let mut watched_at = None;
    while !shared.shelf.is_closed() {
        let begun = Instant::now();
        let is_there = match shared.folder.reopen() {
            Ok(is_another) => {
                // To try in vain takes as long as a walk.
                let is_due = watched_at.is_none_or(|at: Instant| at.elapsed() >= WALK_INTERVAL);
                if is_another || (watcher.is_none() && is_due) {
                    // Before the walk, so that nothing is missed in between.
                    watched_at = Some(begun);
                    watcher = watch(&shared.folder, nudge, &mut once);
                }
                true
            }
            Err(error) => {
                once.tell("folder", shared.folder.path().display(), error);
                (watcher, watched_at) = (None, None);
                false
            }
        };
        shared.shelf.begin_walk();
        if is_there {
            Walk::new(&shared.folder, &shared.shelf, &mut once).run();
        }
        if !shared.shelf.is_closed() {
            shared.shelf.end_walk();
        }
        let most = if watcher.is_some() { WALK_INTERVAL } else { POLL_INTERVAL };
        let least = (begun.elapsed() * REST).min(MOST_REST);
        wait(&shared.shelf, nudges, least, most);
    }
}

/// Has changes told of, if the system can.
fn watch(folder: &Folder, nudge: &SyncSender<()>, once: &mut Once) -> Option<RecommendedWatcher> {
    let nudge = nudge.clone();
    let tell = move |event: notify::Result<notify::Event>| {
        // Reading is no change; an error may hide one.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        // One that is not taken yet will do.
        nudge.try_send(()).unwrap_or_default();
    };
    let config = notify::Config::default().with_follow_symlinks(false);
    let watcher = RecommendedWatcher::new(tell, config).and_then(|mut watcher| {
        let path = folder.path().canonicalize().map_err(notify::Error::io)?;
        watcher.watch(&path, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(|error| once.tell("changes are not told of", folder.path().display(), error))
        .ok()
}

/// Waits for a change and until the burst that it belongs to is over, at least and at most so long.
fn wait(shelf: &Shelf, nudges: &Receiver<()>, least: Duration, most: Duration) {
    let begun = Instant::now();
    let mut until = begun + most.max(least);
    let mut changed_at = None;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if nudges.recv_timeout(left).is_err() || shelf.is_closed() {
            return;
        }
        let now = Instant::now();
        let changed_at = *changed_at.get_or_insert(now);
        until = (now + DEBOUNCE).min(changed_at + MOST_DEBOUNCE).max(begun + least);
    }
}

/// One walk through the folder.
struct Walk<'a> {
    root: Arc<Dir>,
    shelf: &'a Shelf,
    once: &'a mut Once,
    batch: Vec<(String, Stamp)>,
    files: usize,
}

impl<'a> Walk<'a> {
    fn new(folder: &Folder, shelf: &'a Shelf, once: &'a mut Once) -> Self {
        Self { root: folder.dir(), shelf, once, batch: Vec::new(), files: 0 }
    }

    fn run(mut self) {
        let root = self.root.clone();
        self.folder(&root, "", 1);
        self.shelf.found(self.batch);
    }

    /// Walks a folder whose files have paths of so many parts, in the order of names.
    fn folder(&mut self, dir: &Dir, path: &str, parts: usize) {
        let mut entries = match self.entries(dir, path) {
            Ok(entries) => entries,
            Err(error) => return self.once.tell("unreadable folder", path, error),
        };
        entries.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        for (name, entry) in entries {
            if self.shelf.is_closed() {
                return;
            }
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            if path.len() > MAX_PATH {
                self.once.tell("path too long", &path, "left out");
                continue;
            }
            if self.files >= MOST_FILES {
                return self.once.tell("too many files", &path, "left out from here on");
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && parts >= MAX_DEPTH => {
                    self.once.tell("folders too deep", &path, "left out");
                }
                // What became a link meanwhile leads no further up than here.
                Ok(kind) if kind.is_dir() => match dir.open_dir(&name) {
                    Ok(dir) => self.folder(&dir, &path, parts + 1),
                    Err(error) => self.once.tell("unreadable folder", &path, error),
                },
                Ok(kind) if kind.is_file() => self.file(path, entry.metadata().ok()),
                Ok(kind) if kind.is_symlink() => {
                    let target = self.root.metadata(&path).ok();
                    match &target {
                        None => {
                            self.once.tell("link that leads outside or nowhere", &path, "left out")
                        }
                        Some(target) if target.is_dir() => {
                            self.once.tell(
                                "link to a folder",
                                &path,
                                "what is in it is not listed",
                            );
                        }
                        Some(_) => {}
                    }
                    self.file(path, target);
                }
                // Pipes, sockets, devices, and what is already gone.
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// What is in a folder and is shown.
    fn entries(&mut self, dir: &Dir, path: &str) -> std::io::Result<Vec<(String, DirEntry)>> {
        let mut shown = Vec::new();
        for entry in dir.entries()? {
            let entry = entry?;
            match entry.file_name().into_string() {
                Ok(name) if is_shown(&name) => shown.push((name, entry)),
                Ok(_) => {}
                Err(name) => {
                    self.once.tell(
                        "name is not UTF-8",
                        format_args!("{path}/{name:?}"),
                        "left out",
                    );
                }
            }
        }
        Ok(shown)
    }

    /// Takes a file up, if it is one.
    fn file(&mut self, path: String, metadata: Option<Metadata>) {
        let Some(metadata) = metadata.filter(Metadata::is_file) else { return };
        self.files += 1;
        self.batch.push((path, Stamp::of(&metadata)));
        if self.batch.len() >= BATCH {
            self.shelf.found(self.batch.drain(..));
        }
    }
}

/// Things that are said once, not at each walk.
#[derive(Default)]
struct Once(std::collections::HashSet<&'static str>);

impl Once {
    fn tell(&mut self, what: &'static str, place: impl Display, why: impl Display) {
        if self.0.insert(what) {
            tracing::warn!(%place, %why, "library: {what}");
        }
    }
}
