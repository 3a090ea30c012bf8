//! Digests of whole files.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use protocol::library::Digest;

use super::Shared;
use super::folder::StoredFile;

/// How much is read at a time.
const PIECE: u64 = 1 << 20;

/// A file that was changed less long ago may be changed again without its time telling.
const SETTLED: Duration = Duration::from_secs(2);

/// The digest of a file that somebody waits for.
pub(super) fn digest_asked_for(
    shared: &Shared,
    file: &StoredFile,
    stopped: &dyn Fn() -> bool,
) -> io::Result<Option<Digest>> {
    if let Some(digest) = shared.shelf.digest(file)
        && file.is_unchanged()
    {
        return Ok(Some(digest));
    }
    let _asked = Asked::new(&shared.digests_asked_for);
    let digest = compute(file, || !stopped())?;
    match digest {
        Some(digest) => remember(shared, file, digest),
        // Whoever asks again finds it known, or at least has not lost what others waited for.
        None => shared.shelf.postpone_digest(file.path.clone()),
    }
    Ok(digest)
}

/// Keeps a digest, if it is certain that the file is still what was read.
pub(super) fn remember(shared: &Shared, file: &StoredFile, digest: Digest) {
    let age = SystemTime::now().duration_since(file.modified);
    // A time to come tells of any change until it has come.
    if age.unwrap_or_else(|ahead| ahead.duration()) >= SETTLED && file.is_unchanged() {
        shared.shelf.set_digest(file, digest);
    }
}

/// Reads a file and computes its digest; `go_on` is asked before each piece.
pub(super) fn compute(
    file: &StoredFile,
    mut go_on: impl FnMut() -> bool,
) -> io::Result<Option<Digest>> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE.min(file.length) as usize];
    let mut offset = 0;
    while offset < file.length {
        if !go_on() {
            return Ok(None);
        }
        let wanted = PIECE.min(file.length - offset) as usize;
        file.file.read_exact_at(&mut piece[..wanted], offset)?;
        hasher.update(&piece[..wanted]);
        offset += wanted as u64;
    }
    Ok(Some(Digest(*hasher.finalize().as_bytes())))
}

/// Counted among those that wait for a digest, for as long as it lives.
struct Asked<'a>(&'a AtomicUsize);

impl<'a> Asked<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
