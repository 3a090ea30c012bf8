//! Stored files, played in turn and looped, live and without a gap: each turn of an item is stamped to
//! follow the one before, and pushed into the live pipeline a little ahead of the clock.

mod lineup;
mod listing;
mod opener;
mod program;
mod reader;
mod shelf;
mod timeline;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use self::lineup::Lineup;
use self::opener::Opener;
use self::program::{Opened, Program, unplayable};
use self::timeline::Timeline;
use super::error::MediaError;
use super::track::{Live, Timing, cannot_build};

/// From the moment a frame is stamped until it is sent, at the beginning and after a standstill.
const LEAD: i64 = 100_000_000;

/// A file that is this late (the machine stood still) goes on from now rather than catching up in
/// one burst.
const STANDSTILL: i64 = 500_000_000;

/// How far ahead of the clock frames are pushed.
const AHEAD: gst::ClockTime = gst::ClockTime::from_mseconds(500);

/// How long before an item's end the next one is opened.
const OPEN_AHEAD: i64 = 3_000_000_000;

/// Files whose tracks are in the live pipeline, not yet running.
pub(super) struct Looped {
    path: PathBuf,
    live: Arc<Live>,
    program: Program,
    first: Opened,
    lineup: Arc<Lineup>,
    /// One for each of the lineup's lines.
    sources: Vec<gst_app::AppSrc>,
}

/// The thread that feeds looped files.
pub(super) struct Looper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Opens a file, folder or playlist and makes its pictures and its sound tracks.
pub(super) fn attach(live: &Arc<Live>, path: &Path) -> Result<Looped, MediaError> {
    let (program, first) = Program::begin(path, &live.config().video)?;
    let lineup = program.lineup();
    let mut sources: Vec<gst_app::AppSrc> = Vec::new();
    for line in lineup.lines() {
        let source = gst_app::AppSrc::builder()
            .format(gst::Format::Time)
            .caps(&line.info.caps)
            .block(true)
            .max_bytes(64 << 20)
            .max_time(AHEAD)
            .build();
        live.add(&source)?;
        sources.push(source);
    }
    for source in &sources {
        let pad = source.static_pad("src");
        live.attach(&pad.ok_or_else(|| cannot_build("a source without a pad"))?, Timing::Stamped)?;
    }
    live.gate.complete();
    Ok(Looped { path: path.to_owned(), live: live.clone(), program, first, lineup, sources })
}

impl Looped {
    /// Begins to feed the live pipeline, which must be running.
    pub(super) fn start(self) -> Result<Looper, MediaError> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let opener = Opener::start(self.program, stop.clone()).map_err(cannot_build)?;
        let shapes: Vec<_> = self.lineup.lines().iter().map(|line| line.info.shape).collect();
        let feeder = Feeder {
            path: self.path,
            live: self.live,
            sources: self.sources,
            timeline: Timeline::new(&shapes, 0),
            begun: false,
            opener,
            damaged: HashSet::new(),
        };
        let thread = thread::Builder::new().name("media-file".to_owned());
        let first = self.first;
        let thread = thread.spawn(move || feeder.run(first, &stopped)).map_err(cannot_build)?;
        Ok(Looper { stop, thread: Some(thread) })
    }
}

/// What feeds the live pipeline.
struct Feeder {
    path: PathBuf,
    live: Arc<Live>,
    sources: Vec<gst_app::AppSrc>,
    timeline: Timeline,
    /// Whether the timeline has its beginning.
    begun: bool,
    opener: Opener,
    /// Items of which only a part could be played.
    damaged: HashSet<PathBuf>,
}

/// How a turn of an item ended.
enum Turn {
    Played,
    /// There was nothing in it.
    Empty(MediaError),
    Stopped,
}

impl Feeder {
    fn run(mut self, first: Opened, stop: &AtomicBool) {
        let stopped = || stop.load(Ordering::Acquire);
        let mut item = first;
        // How many items in a row had nothing in them.
        let mut empty = 0;
        loop {
            match self.play(&item, stopped) {
                Turn::Played => empty = 0,
                Turn::Stopped => return,
                Turn::Empty(error) => {
                    empty += 1;
                    let is_list = item.path != self.path;
                    if empty >= item.of {
                        self.live.fail(program::nothing_left(is_list, &self.path, error));
                        return;
                    }
                    tracing::warn!(%error, "item left out");
                }
            }
            item = match self.opener.take() {
                Ok(Some(next)) => next,
                Ok(None) => return,
                Err(error) => {
                    self.live.fail(error);
                    return;
                }
            };
        }
    }

    /// Sends one turn of an item.
    fn play(&mut self, item: &Opened, stopped: impl Fn() -> bool + Copy) -> Turn {
        let shelf = &item.reader.shelf;
        let Some(origin) = shelf.origin(stopped) else {
            return if stopped() { Turn::Stopped } else { empty(item) };
        };
        self.begin_turn(item, origin);
        let ends_at = item.reader.duration().map(|duration| origin + duration);
        while let Some(mut taken) = shelf.take(stopped) {
            let due = taken.due;
            taken.track = item.lines[taken.track];
            let late = self.live.epoch.now() - self.timeline.due(due);
            if late > STANDSTILL {
                tracing::warn!(late_ms = late / 1_000_000, "stood still; going on from now");
                self.timeline.postpone(late + LEAD);
            }
            self.timeline.place(taken);
            if !self.push() {
                return Turn::Stopped;
            }
            // The next item is opened while the last frames of this one are sent.
            if shelf.is_ending() || ends_at.is_some_and(|ends_at| due + OPEN_AHEAD >= ends_at) {
                self.opener.request();
            }
        }
        if stopped() {
            return Turn::Stopped;
        }
        if self.timeline.end_turn().is_err() {
            return empty(item);
        }
        if !self.push() {
            return Turn::Stopped;
        }
        if let Some(reason) = shelf.failure()
            && self.damaged.insert(item.path.clone())
        {
            let path = item.path.display();
            tracing::warn!(%path, reason, "file is damaged; looping what can be played");
        }
        Turn::Played
    }

    fn begin_turn(&mut self, item: &Opened, origin: i64) {
        if !std::mem::replace(&mut self.begun, true) {
            self.timeline.begin(self.live.epoch.now() + LEAD);
        }
        self.timeline.begin_turn(origin);
        for (track, &line) in item.tracks.iter().zip(&item.lines) {
            // Sizes and parameter sets may be others than those of the item before.
            self.sources[line].set_caps(Some(&track.caps));
        }
        tracing::debug!(path = %item.path.display(), "playing");
    }

    /// Pushes what has been placed and waits for room. False when the pipeline takes no more.
    fn push(&mut self) -> bool {
        let sources = &self.sources;
        self.timeline.drain().all(|placed| sources[placed.track].push_buffer(placed.buffer).is_ok())
    }
}

fn empty(item: &Opened) -> Turn {
    let reason = item.reader.shelf.failure();
    let reason = reason.unwrap_or_else(|| "nothing in it can be played".to_owned());
    Turn::Empty(unplayable(&item.path, reason))
}

impl Looper {
    /// Makes the thread end as soon as it looks.
    pub(super) fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

impl Drop for Looper {
    fn drop(&mut self) {
        self.ask_to_stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that feeds the file panicked");
        }
    }
}
