//! Stored files, looped live without a gap: read turn after turn, each turn stamped to follow the
//! one before, and pushed into the live pipeline a little ahead of the clock.

mod reader;
mod shelf;
mod timeline;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use self::reader::{Reader, TrackInfo};
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

/// A file whose tracks are in the live pipeline, not yet running.
pub(super) struct Looped {
    path: PathBuf,
    live: Arc<Live>,
    first: Reader,
    tracks: Vec<TrackInfo>,
    sources: Vec<gst_app::AppSrc>,
}

/// The thread that feeds a looped file.
pub(super) struct Looper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Opens a file and makes its first picture track and its first sound track tracks.
pub(super) fn attach(live: &Arc<Live>, path: &Path) -> Result<Looped, MediaError> {
    check(path)?;
    let first = Reader::start(path)?;
    let tracks = first.tracks().map_err(|reason| unplayable(path, reason))?;
    if tracks.is_empty() {
        return Err(MediaError::NoTracks {
            source_name: path.display().to_string(),
            remedy: "choose a file with H.264, H.265, VP8, VP9 or anything else GStreamer decodes",
        });
    }
    let mut sources: Vec<gst_app::AppSrc> = Vec::new();
    // Picture first, whatever the file's order.
    let mut order: Vec<_> = (0..tracks.len()).collect();
    order.sort_by_key(|&track| tracks[track].shape.kind() == protocol::media::Kind::Audio);
    for info in &tracks {
        let source = gst_app::AppSrc::builder()
            .format(gst::Format::Time)
            .caps(&info.caps)
            .block(true)
            .max_bytes(64 << 20)
            .max_time(AHEAD)
            .build();
        live.add(&source)?;
        sources.push(source);
    }
    for track in order {
        let pad = sources[track].static_pad("src");
        live.attach(&pad.ok_or_else(|| cannot_build("a source without a pad"))?, Timing::Stamped)?;
    }
    live.gate.complete();
    Ok(Looped { path: path.to_owned(), live: live.clone(), first, tracks, sources })
}

/// Finds what is wrong with a file before GStreamer does, which would say it less clearly.
fn check(path: &Path) -> Result<(), MediaError> {
    let unreadable = |reason: String| MediaError::Unreadable { path: path.to_owned(), reason };
    let metadata = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
    if metadata.is_dir() {
        return Err(unreadable("it is a directory; name a file in it".to_owned()));
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

fn unplayable(path: &Path, reason: String) -> MediaError {
    MediaError::Unplayable { path: path.to_owned(), reason }
}

impl Looped {
    /// Begins to feed the live pipeline, which must be running.
    pub(super) fn start(self) -> Result<Looper, MediaError> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("media-file".to_owned());
        let thread = thread.spawn(move || self.run(&stopped)).map_err(cannot_build)?;
        Ok(Looper { stop, thread: Some(thread) })
    }

    fn run(self, stop: &AtomicBool) {
        let stopped = || stop.load(Ordering::Acquire);
        let shapes: Vec<_> = self.tracks.iter().map(|track| track.shape).collect();
        let mut timeline: Option<Timeline> = None;
        let mut reader = self.first;
        let fail = |reason: Option<String>| {
            let reason = reason.unwrap_or_else(|| "nothing in it can be played".to_owned());
            self.live.fail(unplayable(&self.path, reason));
        };
        let mut is_first = true;
        loop {
            let Some(origin) = reader.shelf.origin(stopped) else {
                if !stopped() {
                    fail(reader.shelf.failure());
                }
                return;
            };
            let timeline = timeline
                .get_or_insert_with(|| Timeline::new(&shapes, self.live.epoch.now() + LEAD));
            timeline.begin_turn(origin);
            let mut next = None;
            while let Some(taken) = reader.shelf.take(stopped) {
                let late = self.live.epoch.now() - timeline.due(taken.due);
                if late > STANDSTILL {
                    tracing::warn!(late_ms = late / 1_000_000, "stood still; going on from now");
                    timeline.postpone(late + LEAD);
                }
                timeline.place(taken);
                if !push(&self.sources, timeline) {
                    return;
                }
                // The next turn is opened while the last frames of this one are sent.
                if next.is_none() && reader.shelf.is_ending() {
                    next = Some(Reader::start(&self.path));
                }
            }
            if stopped() {
                return;
            }
            let failure = reader.shelf.failure();
            if timeline.end_turn().is_err() {
                fail(failure);
                return;
            }
            if !push(&self.sources, timeline) {
                return;
            }
            if let Some(reason) = failure.filter(|_| is_first) {
                let path = self.path.display();
                tracing::warn!(%path, reason, "file is damaged; looping what can be played");
            }
            is_first = false;

            let opened = next.unwrap_or_else(|| Reader::start(&self.path));
            let opened = opened.and_then(|opened| {
                let tracks = opened.tracks().map_err(|reason| unplayable(&self.path, reason))?;
                Ok((opened, tracks))
            });
            reader = match opened {
                Ok((opened, tracks)) if same_kinds(&tracks, &self.tracks) => opened,
                Ok(_) => {
                    let reason = "its tracks changed while it was looped; restart".to_owned();
                    self.live.fail(unplayable(&self.path, reason));
                    return;
                }
                Err(error) => {
                    self.live.fail(error);
                    return;
                }
            };
        }
    }
}

fn same_kinds(one: &[TrackInfo], other: &[TrackInfo]) -> bool {
    one.iter().map(|track| track.shape).eq(other.iter().map(|track| track.shape))
}

/// Pushes what has been placed and waits for room. False when the pipeline takes no more.
fn push(sources: &[gst_app::AppSrc], timeline: &mut Timeline) -> bool {
    timeline.drain().all(|placed| sources[placed.track].push_buffer(placed.buffer).is_ok())
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
