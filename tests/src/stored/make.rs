//! Making the files, once for all tests.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use super::catalogue::{AUDIO, How, OFFSETS, Recipe, Stored, VIDEO, recipes};
use super::{run, source};

/// What was made goes by this name; another for files that are made in another way.
const SHELF: &str = "stored-v2";

/// Where the parts of what is made are, within it.
const FILES: &str = "files";
const WHOLE: &str = "whole";

/// Pitches of the tones that never end, of the first and the second track of sound.
const TONES: [(&str, f64); 2] = [("sound.pcm", 220.0), ("other.pcm", 440.0)];

/// How many programs encode at once.
const AT_ONCE: usize = 2;

/// Fills a folder with all files and says what they are. They are made when that was never done, and copied, so that
/// tests may change theirs.
///
/// # Panics
///
/// Where they cannot be made or copied.
pub fn make(folder: &Path) -> Vec<Stored> {
    let shelf = shelf().unwrap_or_else(|error| panic!("no stored files: {error}"));
    let mut files = Vec::new();
    for recipe in recipes() {
        let to = folder.join(&recipe.stored.path);
        let from = shelf.join(FILES).join(&recipe.stored.path);
        make_room(&to).and_then(|()| fs::copy(&from, &to)).unwrap_or_else(|error| {
            panic!("{} is not copied to {}: {error}", from.display(), to.display())
        });
        files.push(described(recipe, &shelf));
    }
    files
}

/// Says of a cut file what is left of it.
fn described(recipe: Recipe, shelf: &Path) -> Stored {
    let mut stored = recipe.stored;
    if let How::Cut { of, share } = recipe.how {
        let whole = shelf.join(WHOLE).join(&of.stored.path);
        stored.cut_to(frames_before(&whole, share).unwrap_or_else(|problem| panic!("{problem}")));
    }
    stored
}

/// How many pictures a file has whose last byte is in the first part of it. None, where without the rest it
/// cannot be known where they are.
fn frames_before(whole: &Path, share: f64) -> Result<usize, String> {
    let end = cut_at(whole, share).map_err(|error| format!("{}: {error}", whole.display()))?;
    if index_at(whole).is_some_and(|index| index >= end) {
        return Ok(0);
    }
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-select_streams", "v:0", "-show_entries", "packet=size,pos"]);
    ffprobe.args(["-of", "default=nokey=1:noprint_wrappers=1"]).arg(whole);
    let output = run(&mut ffprobe)?;
    let numbers: Vec<u64> = output.text().lines().filter_map(|line| line.parse().ok()).collect();
    Ok(numbers.chunks_exact(2).filter(|packet| packet[0] + packet[1] <= end).count())
}

/// Where a file is cut of which that share is to remain, in bytes.
fn cut_at(whole: &Path, share: f64) -> io::Result<u64> {
    Ok((fs::metadata(whole)?.len() as f64 * share) as u64)
}

/// Where an MP4 has its index, in bytes.
fn index_at(file: &Path) -> Option<u64> {
    let bytes = fs::read(file).ok()?;
    let mut at = 0;
    loop {
        let head = bytes.get(at..at + 8)?;
        let length = u32::from_be_bytes(head[..4].try_into().ok()?);
        match &head[4..] {
            b"moov" => return Some(at as u64),
            b"ftyp" | b"free" | b"mdat" if length >= 8 => at += length as usize,
            _ => return None,
        }
    }
}

/// Where all files are. Whoever comes first makes them, and all others wait.
fn shelf() -> io::Result<PathBuf> {
    let target = target();
    fs::create_dir_all(&target)?;
    let shelf = target.join(SHELF);
    let lock = File::create(target.join(format!("{SHELF}.lock")))?;
    lock.lock()?;
    if !shelf.exists() {
        let bench = tempfile::Builder::new().prefix(SHELF).tempdir_in(&target)?;
        fill(bench.path()).map_err(io::Error::other)?;
        fs::rename(bench.keep(), &shelf)?;
    }
    Ok(shelf)
}

/// The workspace's folder for what is built.
fn target() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    workspace.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Makes all files.
fn fill(shelf: &Path) -> Result<(), String> {
    let parts = shelf.join("parts");
    let fail = |error: io::Error| format!("{}: {error}", shelf.display());
    fs::create_dir(&parts).map_err(fail)?;
    source::write_pictures(&parts.join("pictures.y4m")).map_err(fail)?;
    for (name, hertz) in TONES {
        source::write_sound(&parts.join(name), hertz).map_err(fail)?;
    }
    let encoders =
        VIDEO.iter().map(|part| (part, true)).chain(AUDIO.iter().map(|part| (part, false)));
    all_at_once(encoders.collect(), |((part, options), is_video)| {
        let source = match (is_video, *part) {
            (true, _) => "pictures.y4m",
            (false, "other.m4a") => "other.pcm",
            (false, _) => "sound.pcm",
        };
        encode(&parts, source, part, options)
    })?;
    all_at_once(recipes(), |recipe| write(&recipe, &parts, shelf))?;
    fs::remove_dir_all(&parts).map_err(fail)
}

fn encode(parts: &Path, source: &str, part: &str, options: &str) -> Result<(), String> {
    let mut ffmpeg = ffmpeg();
    if source.ends_with(".pcm") {
        ffmpeg.args(["-f", "s16le", "-ar", "48000", "-ac", "2"]);
    }
    ffmpeg.arg("-i").arg(parts.join(source)).args(options.split_whitespace());
    exact(&mut ffmpeg).arg(parts.join(part));
    run(&mut ffmpeg).map(drop)
}

/// Makes one file.
fn write(recipe: &Recipe, parts: &Path, shelf: &Path) -> Result<(), String> {
    let file = shelf.join(FILES).join(&recipe.stored.path);
    let fail = |error: io::Error| format!("{}: {error}", file.display());
    make_room(&file).map_err(fail)?;
    match &recipe.how {
        How::Mux { parts: tracks, options } => mux(parts, tracks, options, &file),
        How::Cut { of, share } => {
            let How::Mux { parts: tracks, options } = &of.how else {
                return Err(format!("{} is not made of tracks", of.stored.path));
            };
            let whole = shelf.join(WHOLE).join(&of.stored.path);
            make_room(&whole).map_err(fail)?;
            mux(parts, tracks, options, &whole)?;
            let bytes = fs::read(&whole).map_err(fail)?;
            let end = cut_at(&whole, *share).map_err(fail)? as usize;
            fs::write(&file, &bytes[..end]).map_err(fail)
        }
        How::Bytes(bytes) => fs::write(&file, bytes).map_err(fail),
        How::Still => {
            let mut ffmpeg = ffmpeg();
            ffmpeg.arg("-i").arg(parts.join("pictures.y4m")).args(["-frames:v", "1"]).arg(&file);
            run(&mut ffmpeg).map(drop)
        }
    }
}

/// Puts tracks together as they are, each of a file of its own.
fn mux(parts: &Path, tracks: &[String], options: &[&str], file: &Path) -> Result<(), String> {
    let mut ffmpeg = ffmpeg();
    for track in tracks {
        if let Some((_, offset)) = OFFSETS.iter().find(|(part, _)| part == track) {
            ffmpeg.args(["-itsoffset", offset]);
        }
        ffmpeg.arg("-i").arg(parts.join(track));
    }
    for input in 0..tracks.len() {
        ffmpeg.args(["-map", &input.to_string()]);
    }
    ffmpeg.args(["-c", "copy"]).args(options);
    exact(&mut ffmpeg).arg(file);
    run(&mut ffmpeg).map(drop)
}

fn ffmpeg() -> Command {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-y"]);
    ffmpeg
}

/// Asks for the same bytes each time, on each machine.
fn exact(ffmpeg: &mut Command) -> &mut Command {
    ffmpeg.args([
        "-fflags",
        "+bitexact",
        "-flags",
        "+bitexact",
        "-map_metadata",
        "-1",
        "-threads",
        "1",
    ])
}

/// Makes the folders that a file is to be in.
fn make_room(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Does all jobs, some of them at once, and says what went wrong first.
fn all_at_once<T: Send>(
    jobs: Vec<T>,
    job: impl Fn(T) -> Result<(), String> + Sync,
) -> Result<(), String> {
    let jobs = Mutex::new(jobs.into_iter());
    let next = || jobs.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
    let work = || {
        while let Some(todo) = next() {
            job(todo)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(|worker| worker.join());
        results
            .map(|result| result.unwrap_or_else(|_| Err("a worker panicked".to_owned())))
            .fold(Ok(()), Result::and)
    })
}
