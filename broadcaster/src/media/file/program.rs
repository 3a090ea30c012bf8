//! Which item comes next, and whether it can be played: the list is read again each time it has been
//! gone through, and what can't be played is left out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lineup::{Lineup, Look};
use super::listing::{Listing, is_remote};
use super::reader::{Reader, TrackInfo};
use crate::media::config::VideoConfig;
use crate::media::error::MediaError;

/// How long looking at all items of a list may take before the first is played. Those that have not been
/// looked at by then are looked at when they are due.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a file may take to open, on which all depends.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an item of a list may take to open. That is about as long as what is read ahead of the item
/// before it lasts.
const ITEM_TIMEOUT: Duration = Duration::from_secs(4);

/// How many items are looked at together.
const LOOKS_AT_ONCE: usize = 4;

/// Items in order, and from the beginning again behind the last.
pub(super) struct Program {
    listing: Listing,
    lineup: Arc<Lineup>,
    /// The list as it was read last.
    items: Vec<PathBuf>,
    /// What of it is still to be played.
    rest: VecDeque<PathBuf>,
    /// Whether any of it could be opened.
    is_fruitful: bool,
    /// Why items have been left out, as it has been said.
    told: HashMap<PathBuf, MediaError>,
}

/// An item that can be played.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) reader: Reader,
    pub(super) tracks: Vec<TrackInfo>,
    /// Which of the lineup's lines each of the tracks belongs to.
    pub(super) lines: Vec<usize>,
    /// How many items there are.
    pub(super) of: usize,
}

impl Program {
    /// Looks at what a path names, and gives the first item that can be played.
    pub(super) fn begin(path: &Path, config: &VideoConfig) -> Result<(Self, Opened), MediaError> {
        let listing = Listing::open(path)?;
        let items = listing.items()?;
        let mut program = Self {
            listing,
            lineup: Arc::default(),
            rest: items.clone().into(),
            items,
            is_fruitful: false,
            told: HashMap::new(),
        };
        if program.listing.is_list() {
            let looks = program.look();
            if looks.is_empty() {
                return Err(program.nothing_left());
            }
            program.lineup = Arc::new(Lineup::for_items(&looks, config));
            let first = program.next(&|| false)?;
            return first.map(|first| (program, first)).ok_or_else(|| unopened(path));
        }
        let first = program.open(path, &|| false)?;
        program.rest.clear();
        program.is_fruitful = true;
        program.lineup = Arc::new(Lineup::of(&first.tracks));
        let lines = program.fit(path, &first.tracks)?;
        Ok((program, Opened { lines, ..first }))
    }

    pub(super) fn lineup(&self) -> Arc<Lineup> {
        self.lineup.clone()
    }

    /// Opens the next item that can be played. None if `stopped`.
    pub(super) fn next(
        &mut self,
        stopped: &impl Fn() -> bool,
    ) -> Result<Option<Opened>, MediaError> {
        while !stopped() {
            let Some(path) = self.rest.pop_front() else {
                self.begin_again()?;
                continue;
            };
            match self.open(&path, stopped) {
                Ok(opened) => {
                    self.is_fruitful = true;
                    self.told.remove(&path);
                    return Ok(Some(opened));
                }
                Err(_) if stopped() => {}
                Err(error) => self.leave_out(path, error),
            }
        }
        Ok(None)
    }

    /// Reads the list again.
    fn begin_again(&mut self) -> Result<(), MediaError> {
        if !self.is_fruitful {
            return Err(self.nothing_left());
        }
        self.is_fruitful = false;
        match self.listing.items() {
            Ok(items) => self.items = items,
            Err(error @ MediaError::EmptyList { .. }) => return Err(error),
            // Somebody is just writing it, perhaps.
            Err(error) => {
                tracing::warn!(%error, "list can't be read again; going on with what it held");
            }
        }
        self.rest = self.items.clone().into();
        self.told.retain(|path, _| self.items.contains(path));
        Ok(())
    }

    /// Looks at all items of a list, as far as time allows, and says which can't be played.
    fn look(&mut self) -> Vec<Look> {
        let deadline = Instant::now() + LOOK_TIMEOUT;
        let mut seen = HashSet::new();
        let items: Vec<_> =
            self.items.iter().filter(|item| seen.insert(item.as_path())).cloned().collect();
        let mut looks = Vec::new();
        for paths in items.chunks(LOOKS_AT_ONCE) {
            if Instant::now() >= deadline {
                let items = items.len();
                tracing::warn!(items, "so many items that not all have been looked at");
                break;
            }
            let started: Vec<_> = paths.iter().map(|path| self.start(path)).collect();
            for (path, reader) in paths.iter().zip(started) {
                match reader.and_then(|reader| tracks(path, &reader, deadline, &|| false)) {
                    Ok(tracks) => looks.push(Look { path: path.clone(), tracks }),
                    Err(error) => self.leave_out(path.clone(), error),
                }
            }
        }
        looks
    }

    fn open(&self, path: &Path, stopped: &impl Fn() -> bool) -> Result<Opened, MediaError> {
        let reader = self.start(path)?;
        let timeout = if self.listing.is_list() { ITEM_TIMEOUT } else { OPEN_TIMEOUT };
        let tracks = tracks(path, &reader, Instant::now() + timeout, stopped)?;
        let lines = match self.lineup.lines() {
            // Not settled yet.
            [] => Vec::new(),
            _ => self.fit(path, &tracks)?,
        };
        Ok(Opened { path: path.to_owned(), reader, tracks, lines, of: self.items.len() })
    }

    fn start(&self, path: &Path) -> Result<Reader, MediaError> {
        check(path)?;
        Reader::start(path, &self.lineup)
    }

    fn fit(&self, path: &Path, tracks: &[TrackInfo]) -> Result<Vec<usize>, MediaError> {
        self.lineup.fit(tracks).map_err(|reason| match self.listing.is_list() {
            true => MediaError::Unfit { path: path.to_owned(), reason },
            false => unplayable(path, "its tracks changed while it was looped; restart".to_owned()),
        })
    }

    /// Goes on without an item, and says so once.
    fn leave_out(&mut self, path: PathBuf, error: MediaError) {
        if self.listing.is_list() && self.told.get(&path) != Some(&error) {
            tracing::warn!(%error, "item left out");
        }
        self.told.insert(path, error);
    }

    fn nothing_left(&self) -> MediaError {
        let last = self.items.iter().rev().find_map(|item| self.told.get(item));
        let last = last.cloned().unwrap_or_else(|| unopened(self.listing.path()));
        nothing_left(self.listing.is_list(), self.listing.path(), last)
    }
}

/// The error for a source of which nothing can be played.
pub(super) fn nothing_left(is_list: bool, path: &Path, last: MediaError) -> MediaError {
    match is_list {
        true => MediaError::NothingLeft { path: path.to_owned(), last: Box::new(last) },
        false => last,
    }
}

/// Waits for an item's tracks, of which there must be some.
fn tracks(
    path: &Path,
    reader: &Reader,
    deadline: Instant,
    stopped: &impl Fn() -> bool,
) -> Result<Vec<TrackInfo>, MediaError> {
    let tracks = reader.tracks(deadline, stopped).map_err(|reason| unplayable(path, reason))?;
    if tracks.is_empty() {
        return Err(MediaError::NoTracks {
            source_name: path.display().to_string(),
            remedy: "choose a file with H.264, H.265, VP8, VP9, AV1 or anything else GStreamer decodes",
        });
    }
    Ok(tracks)
}

/// Finds what is wrong with a file before GStreamer does, which would say it less clearly.
fn check(path: &Path) -> Result<(), MediaError> {
    let unreadable = |reason: String| MediaError::Unreadable { path: path.to_owned(), reason };
    if is_remote(path) {
        return Err(unreadable("it is no file on this machine".to_owned()));
    }
    let metadata = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if metadata.is_dir() {
        return Err(unreadable("it is a directory within a list; name a file in it".to_owned()));
    }
    if !metadata.is_file() {
        return Err(unreadable("it is not a stored file and can't be looped".to_owned()));
    }
    let mut first = [0];
    let read = fs::File::open(path).and_then(|mut file| file.read(&mut first));
    match read.map_err(|error| unreadable(error.to_string()))? {
        0 => Err(MediaError::EmptyFile { path: path.to_owned() }),
        _ => Ok(()),
    }
}

pub(super) fn unplayable(path: &Path, reason: String) -> MediaError {
    MediaError::Unplayable { path: path.to_owned(), reason }
}

fn unopened(path: &Path) -> MediaError {
    unplayable(path, "none of it can be opened".to_owned())
}
