//! Looking into files, one at a time, and computing digests when there is nothing to look into.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use protocol::library::StoredMedia;
use protocol::media::Kind;

use super::Shared;
use super::contents;
use super::folder::{FileError, Stamp, StoredFile};
use super::shelf::Task;
use crate::media::probe::probe;
use crate::media::thumbnail::thumbnail;

/// How often it is looked whether those who asked for digests have them.
const YIELD_INTERVAL: Duration = Duration::from_millis(20);

/// Works until the library is gone.
pub(super) fn run(shared: &Shared) {
    while let Some(task) = shared.shelf.next() {
        match task {
            Task::Look(path, stamp) => look(shared, path, stamp),
            Task::Digest(path, stamp) => digest(shared, path, stamp),
        }
    }
}

fn look(shared: &Shared, path: String, stamp: Stamp) {
    let shelf = &shared.shelf;
    let file = match shared.folder.file(&path) {
        Ok(file) if file.stamp == stamp => file,
        Err(error @ FileError::Unreadable(_)) => {
            return shelf.looked(&path, stamp, Err(error.to_string()));
        }
        // The next walk sees what has become of it.
        Ok(_) | Err(FileError::Unknown) => return shelf.postpone(path),
    };
    let stopped = || shelf.is_closed();
    let found = match file.length {
        0 => Err("it is empty".to_owned()),
        _ => probe(&file.location(), &stopped),
    };
    if stopped() {
        return;
    }
    if !file.is_unchanged() {
        return shelf.postpone(path);
    }
    match &found {
        Ok(media) => tracing::debug!(path, tracks = media.tracks.len(), "can be played"),
        Err(problem) => tracing::debug!(path, problem, "cannot be played"),
    }
    let media = found.as_ref().ok().cloned();
    shelf.looked(&path, stamp, found);
    if let Some(media) = media {
        picture(shared, &file, &media);
    }
}

fn picture(shared: &Shared, file: &StoredFile, media: &StoredMedia) {
    if media.tracks.iter().any(|track| track.kind == Kind::Video) {
        let duration = media.duration_us.map(Duration::from_micros);
        let jpeg = thumbnail(&file.location(), duration, &|| shared.shelf.is_closed());
        if let Some(jpeg) = jpeg {
            shared.shelf.set_thumbnail(&file.path, file.stamp, jpeg.into());
        }
    }
}

/// Computes a digest that nobody has asked for yet: with half of the time at most, and only while there is
/// nothing better to do.
fn digest(shared: &Shared, path: String, stamp: Stamp) {
    let Ok(file) = shared.folder.file(&path) else { return };
    if file.stamp != stamp {
        return;
    }
    let mut begun = Instant::now();
    let computed = contents::compute(&file, || {
        shared.shelf.rest(begun.elapsed());
        while shared.digests_asked_for.load(Ordering::Acquire) > 0 && !shared.shelf.is_closed() {
            shared.shelf.rest(YIELD_INTERVAL);
        }
        begun = Instant::now();
        !shared.shelf.is_closed() && !shared.shelf.is_look_due()
    });
    match computed {
        Ok(Some(digest)) => contents::remember(shared, &file, digest),
        Ok(None) => shared.shelf.postpone_digest(path),
        Err(error) => tracing::debug!(path, %error, "no digest"),
    }
}
