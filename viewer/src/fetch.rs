//! Copying stored files' contents: several at once over one connection, resumed wherever they broke off, and
//! verified to the last byte.
//!
//! What has come of a file lies beside its target as `.NAME.DIGEST.part`, with the whole digest in the name: a
//! later try asks for the rest of exactly these contents, and is sent others from their beginning.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use protocol::control::{Refusal, Request, Response, close};
use protocol::library::Digest;
use protocol::link::{Link, Target};
use quinn::{Connection, RecvStream, VarInt};
use service::exit::{Code, Failure};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::asking::{ask_for_long, not_asked, refused, removed};
use crate::config::Fetch;
use crate::meeting::Viewer;

/// Files copied at once.
const AT_ONCE: usize = 3;

/// Most bytes taken off a stream at once, and pieces that may wait to be written.
const PIECE: usize = 256 * 1024;
const WAITING: usize = 32;

/// From a broken path to the first try, growing to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// Without any byte for so long it is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// From one line about progress to the next where standard error is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Most bytes of a file's name that a part file's name repeats: the digest needs room as well.
const MOST_NAME: usize = 120;

/// One file to be copied.
#[derive(Debug, Clone)]
struct Job {
    /// Its path in the library.
    path: String,
    target: PathBuf,
    force: bool,
}

/// What became of a try.
enum Outcome {
    Done,
    /// The path or the connection broke: another try may go on.
    Broken(String),
    Failed(Failure),
}

/// How far a copy is.
#[derive(Debug, Default)]
struct Progress {
    there: AtomicU64,
    length: AtomicU64,
}

/// Copies files, each to its end or to the first failure that trying again does not help.
pub(crate) async fn run(config: Fetch) -> Result<(), Failure> {
    let jobs = jobs(&config)?;
    let board = Arc::new(Board::new(&jobs));
    let telling = tokio::spawn(Arc::clone(&board).tell());
    let (viewer, _media) = Viewer::open(None)?;
    let copying = copy_all(&config, &viewer, &jobs, &board);
    let stopped = service::shutdown::requested();
    let result = tokio::select! {
        result = copying => result,
        stopped = stopped => match stopped {
            Ok(()) => Err(Failure::runtime(format!(
                "stopped at {}%; run the same command to go on",
                board.percent()
            ))),
            Err(error) => Err(Failure::runtime(format!("cannot listen for signals: {error}"))),
        },
    };
    telling.abort();
    board.clear();
    viewer.port.close(close::DONE, "");
    let idle = viewer.port.endpoint().wait_idle();
    let _ = tokio::time::timeout(Duration::from_millis(200), idle).await;
    result
}

/// What is to be copied where. Nothing is overwritten that need not be.
fn jobs(config: &Fetch) -> Result<Vec<Job>, Failure> {
    let mut paths = config.files.clone();
    if let (true, Target::File(path)) = (paths.is_empty(), &config.target.link.target) {
        paths.push(path.clone());
    }
    if paths.is_empty() {
        return Err(Failure::usage("name a FILE; punchcast-viewer list shows what there is"));
    }
    if let Some(output) = &config.output {
        make_folder(output, paths.len() > 1)?;
    }
    let mut jobs: Vec<Job> = Vec::new();
    for path in paths {
        let name = base_name(&path)
            .ok_or_else(|| Failure::usage(format!("'{}' names no file", printable(&path))))?;
        let target = match &config.output {
            Some(output) if output.is_dir() => output.join(name),
            Some(output) => output.clone(),
            None => PathBuf::from(name),
        };
        if jobs.iter().any(|job| job.target == target) {
            return Err(Failure::usage(format!(
                "two files would be copied to {}",
                target.display()
            )));
        }
        jobs.push(Job { path, target, force: config.force });
    }
    let is_there = |job: &Job| !config.force && fs::symlink_metadata(&job.target).is_ok();
    // Of several, the same command goes on with those that it had not copied yet.
    let (there, left): (Vec<_>, Vec<_>) = jobs.into_iter().partition(is_there);
    if let (Some(job), true) = (there.first(), left.is_empty()) {
        return Err(exists(&job.target));
    }
    for job in there {
        let target = printable(&job.target.display().to_string());
        tracing::warn!("{target} exists and is left as it is; --force overwrites it");
    }
    Ok(left)
}

/// Makes the folder that files are to be copied into. A single one may be given a name instead, in a folder that
/// is there.
fn make_folder(output: &Path, holds_several: bool) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::usage(format!("{}: {error}", output.display()));
    let is_folder = output.as_os_str().as_encoded_bytes().ends_with(b"/");
    if output.is_dir() {
        return Ok(());
    }
    if holds_several && fs::symlink_metadata(output).is_ok() {
        return Err(Failure::usage("several files are copied into a folder; -o names none"));
    }
    if is_folder || holds_several {
        return fs::create_dir_all(output).map_err(failed);
    }
    let folder = folder(output);
    match folder.is_dir() {
        true => Ok(()),
        false => {
            Err(Failure::usage(format!("there is no folder {}; make it first", folder.display())))
        }
    }
}

fn exists(target: &Path) -> Failure {
    Failure::usage(format!("{} exists; --force overwrites it", target.display()))
}

/// The last part of a path, where it is a name that a file can have.
fn base_name(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    let legal = !["", ".", ".."].contains(&name) && !name.contains(['\0', '\\', '/']);
    legal.then_some(name)
}

/// A stranger's text, fit for a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

async fn copy_all(
    config: &Fetch,
    viewer: &Viewer,
    jobs: &[Job],
    board: &Arc<Board>,
) -> Result<(), Failure> {
    let mut left: Vec<usize> = (0..jobs.len()).collect();
    let (mut wait, mut again) = (FIRST_RETRY, false);
    let mut progress = (board.there(), Instant::now());
    let mut failure: Option<Failure> = None;
    while !left.is_empty() {
        let broken = match viewer.meet(&config.target, again, |_| {}).await {
            Ok(mut met) => {
                let connection = met.connection.clone();
                let these = left.clone();
                let trying = copy_some(&connection, &config.target.link, jobs, &these, board);
                tokio::pin!(trying);
                let outcomes = loop {
                    tokio::select! {
                        outcomes = &mut trying => break outcomes,
                        event = met.opening.event() => {
                            use protocol::opening::Event;
                            if matches!(event, None | Some(Event::Lost(_) | Event::Failed(_))) {
                                connection.close(VarInt::from_u32(close::CONSENT_EXPIRED), b"");
                            }
                        }
                    }
                };
                if let Some(failure) = removed(&connection) {
                    return Err(failure);
                }
                connection.close(VarInt::from_u32(close::DONE), b"");
                let mut broken = None;
                for (at, outcome) in outcomes {
                    match outcome {
                        Outcome::Done => left.retain(|other| *other != at),
                        Outcome::Broken(reason) => broken = Some(reason),
                        Outcome::Failed(why) => {
                            left.retain(|other| *other != at);
                            failure.get_or_insert(why);
                        }
                    }
                }
                broken
            }
            Err(why) if again && super::watch::is_passing(&why) => Some(why.to_string()),
            Err(why) => return Err(why),
        };
        let Some(reason) = broken else { continue };
        let there = board.there();
        if there > progress.0 {
            progress = (there, Instant::now());
            wait = FIRST_RETRY;
        } else if progress.1.elapsed() >= PATIENCE {
            return Err(Failure::runtime(format!("{reason}; run the same command to go on")));
        }
        tracing::info!("{reason}; going on");
        again = true;
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_RETRY);
    }
    failure.map_or(Ok(()), Err)
}

/// Copies over one connection, until all are done or it breaks.
async fn copy_some(
    connection: &Connection,
    link: &Link,
    jobs: &[Job],
    left: &[usize],
    board: &Arc<Board>,
) -> Vec<(usize, Outcome)> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut copies = JoinSet::new();
    for &at in left {
        let (connection, link, job) = (connection.clone(), link.clone(), jobs[at].clone());
        let (board, turns) = (Arc::clone(board), Arc::clone(&turns));
        copies.spawn(async move {
            // Never closed.
            let _turn = turns.acquire().await;
            let outcome = match copy(&connection, &link, &job, &board.progress[at]).await {
                Ok(()) => {
                    board.finish(at);
                    let _ = writeln!(io::stdout(), "{}", job.target.display());
                    Outcome::Done
                }
                Err(outcome) => outcome,
            };
            (at, outcome)
        });
    }
    let mut outcomes = Vec::new();
    while let Some(joined) = copies.join_next().await {
        outcomes.extend(joined);
    }
    outcomes
}

/// The file with what has come so far.
struct Part {
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    there: u64,
}

async fn copy(
    connection: &Connection,
    link: &Link,
    job: &Job,
    progress: &Progress,
) -> Result<(), Outcome> {
    let failed = |error: io::Error| Outcome::Failed(disk(&job.target, &error));
    let target = job.target.clone();
    let known = blocking(move || find_part(&target)).await.map_err(failed)?;
    let (digest, part) = known.map_or((None, None), |(digest, part)| (Some(digest), Some(part)));
    let offset = part.as_ref().map_or(0, |part| part.there);
    let request =
        Request::Fetch { path: job.path.clone(), secret: link.secret.clone(), offset, digest };
    let takes_long = || {
        let path = printable(&job.path);
        tracing::info!("{path}: the broadcaster reads it through first, to tell its digest");
    };
    let asked = ask_for_long(connection, &request, takes_long).await;
    let (_send, receive, response) = asked.map_err(|failure| match failure.code {
        Code::Runtime => Outcome::Broken(failure.to_string()),
        _ => Outcome::Failed(failure),
    })?;
    let (length, whole, from) = match response {
        Response::Contents { length, digest, offset } => (length, digest, offset),
        Response::Refused { reason } => {
            let failure = refused(reason, &printable(&job.path));
            return Err(match reason {
                // Others end.
                Refusal::Full | Refusal::TooMany => Outcome::Broken(failure.to_string()),
                _ => Outcome::Failed(failure),
            });
        }
        Response::Unplayable { reason } => {
            let path = printable(&job.path);
            let text = format!("'{path}' cannot be read: {}", printable(&reason));
            return Err(Outcome::Failed(Failure::runtime(text)));
        }
        _ => return Err(Outcome::Failed(not_asked())),
    };
    let goes_on = part.as_ref().is_some_and(|part| part.there == from && digest == Some(whole));
    let part = match part {
        Some(part) if goes_on => part,
        former => {
            if from != 0 {
                let text = "the broadcaster sends what was not asked for";
                return Err(Outcome::Failed(Failure::runtime(text)));
            }
            if let Some(former) = former {
                let target = job.target.display();
                tracing::info!("{target}: the file has changed; beginning again");
                fs::remove_file(&former.path).map_err(failed)?;
            }
            let target = job.target.clone();
            blocking(move || new_part(&target, whole)).await.map_err(failed)?
        }
    };
    progress.length.store(length, Ordering::Relaxed);
    progress.there.store(part.there, Ordering::Relaxed);
    let part = receive_contents(receive, part, length, progress).await;
    let part = part.map_err(|error| match error {
        Receiving::Broken(reason) => Outcome::Broken(reason),
        Receiving::Disk(error) => failed(error),
    })?;
    if part.there != length || *part.hasher.finalize().as_bytes() != whole.0 {
        let _ = fs::remove_file(&part.path);
        return Err(Outcome::Failed(Failure::runtime(format!(
            "{}: the file changed while it was copied, or was damaged on its way; fetch it again",
            job.target.display()
        ))));
    }
    let job = job.clone();
    let placed = blocking(move || place(&part, &job)).await;
    placed.map_err(failed)?.map_err(Outcome::Failed)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Why contents stop coming.
enum Receiving {
    Broken(String),
    Disk(io::Error),
}

/// Takes what comes, and writes it beside.
async fn receive_contents(
    mut stream: RecvStream,
    part: Part,
    length: u64,
    progress: &Progress,
) -> Result<Part, Receiving> {
    let (pieces, mut waiting) = mpsc::channel::<bytes::Bytes>(WAITING);
    let writing = tokio::task::spawn_blocking(move || {
        let mut part = part;
        while let Some(piece) = waiting.blocking_recv() {
            part.file.write_all(&piece)?;
            part.hasher.update(&piece);
            part.there += piece.len() as u64;
        }
        Ok::<_, io::Error>(part)
    });
    let broken = loop {
        match stream.read_chunk(PIECE, true).await {
            Ok(Some(chunk)) => {
                let bytes = chunk.bytes.len() as u64;
                let there = progress.there.fetch_add(bytes, Ordering::Relaxed) + bytes;
                // More than was announced is nobody's file; an error means that the disk is full.
                if there > length || pieces.send(chunk.bytes).await.is_err() {
                    break None;
                }
            }
            Ok(None) => break None,
            Err(error) => break Some(error.to_string()),
        }
    };
    drop(pieces);
    let part = writing.await.map_err(|error| Receiving::Broken(error.to_string()))?;
    let part = part.map_err(Receiving::Disk)?;
    match broken {
        Some(reason) => Err(Receiving::Broken(format!("the connection broke ({reason})"))),
        None if part.there < length => {
            Err(Receiving::Broken("the broadcaster broke off".to_owned()))
        }
        None => Ok(part),
    }
}

/// What a part file's name begins with.
fn part_front(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default();
    format!(".{}.", short_name(&name.to_string_lossy(), MOST_NAME))
}

/// A name of at most so many bytes, of which 17 tell those apart that had to be cut.
pub(crate) fn short_name(name: &str, most: usize) -> String {
    if name.len() <= most {
        return name.to_owned();
    }
    let ends = name.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = ends.take_while(|end| *end <= most.saturating_sub(17)).last().unwrap_or(0);
    let digest = blake3::hash(name.as_bytes()).to_hex();
    format!("{}~{}", &name[..end], &digest[..16])
}

fn folder(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The digest in a part file's name.
fn digest_in(name: &str, front: &str) -> Option<Digest> {
    let hex = name.strip_prefix(front)?.strip_suffix(".part")?;
    let digest = blake3::Hash::from_hex(hex).ok()?;
    (hex.len() == 64).then_some(Digest(*digest.as_bytes()))
}

/// Finds what an earlier try left, and reads it through.
fn find_part(target: &Path) -> io::Result<Option<(Digest, Part)>> {
    let front = part_front(target);
    for entry in fs::read_dir(folder(target))? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(digest) = name.to_str().and_then(|name| digest_in(name, &front)) else { continue };
        if !entry.file_type()?.is_file() {
            continue;
        }
        let mut part = open_part(entry.path(), OpenOptions::new().read(true).append(true))?;
        let mut buffer = vec![0; PIECE];
        loop {
            match part.file.read(&mut buffer)? {
                0 => break,
                read => {
                    part.hasher.update(&buffer[..read]);
                    part.there += read as u64;
                }
            }
        }
        return Ok(Some((digest, part)));
    }
    Ok(None)
}

fn new_part(target: &Path, digest: Digest) -> io::Result<Part> {
    let path = folder(target).join(format!("{}{digest}.part", part_front(target)));
    open_part(path, OpenOptions::new().write(true).create_new(true))
}

fn open_part(path: PathBuf, how: &OpenOptions) -> io::Result<Part> {
    let file = how.open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(Part { path, file, hasher: blake3::Hasher::new(), there: 0 }),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::other("another punchcast-viewer is copying it; wait for that one"))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Gives a whole file its name. The inner failure: something of that name is there.
fn place(part: &Part, job: &Job) -> io::Result<Result<(), Failure>> {
    part.file.sync_all()?;
    if job.force {
        fs::rename(&part.path, &job.target)?;
        return Ok(Ok(()));
    }
    // Unlike renaming, this takes nobody's place.
    match fs::hard_link(&part.path, &job.target) {
        Ok(()) => fs::remove_file(&part.path)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Ok(Err(exists(&job.target)));
        }
        // Some file systems know no second name.
        Err(_) if fs::symlink_metadata(&job.target).is_err() => {
            fs::rename(&part.path, &job.target)?;
        }
        Err(_) => return Ok(Err(exists(&job.target))),
    }
    Ok(Ok(()))
}

fn disk(target: &Path, error: &io::Error) -> Failure {
    let what = match error.kind() {
        io::ErrorKind::StorageFull => {
            "the disk is full; make room and run the same command to go on".to_owned()
        }
        _ => error.to_string(),
    };
    Failure::runtime(format!("{}: {what}", target.display()))
}

/// What is told of progress: bars on a terminal, else a line now and then.
struct Board {
    progress: Vec<Progress>,
    names: Vec<String>,
    bars: Option<(MultiProgress, Vec<ProgressBar>)>,
}

impl Board {
    fn new(jobs: &[Job]) -> Self {
        let names: Vec<String> =
            jobs.iter().map(|job| printable(&job.target.display().to_string())).collect();
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let bar = if is_plain { "{bar:24}" } else { "{bar:24.cyan/blue}" };
        let template =
            format!("{{msg:24!}} {bar} {{bytes}}/{{total_bytes}} {{bytes_per_sec}} {{eta}}");
        let bars = io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let style = ProgressStyle::with_template(&template);
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = |name: &String| {
                all.add(ProgressBar::new(0).with_style(style.clone()).with_message(name.clone()))
            };
            let bars = names.iter().map(bar).collect();
            (all, bars)
        });
        let progress = jobs.iter().map(|_| Progress::default()).collect();
        Self { progress, names, bars }
    }

    /// Tells for as long as it is polled.
    async fn tell(self: Arc<Self>) {
        let interval = if self.bars.is_some() { Duration::from_millis(100) } else { LINE_INTERVAL };
        let mut ticks = tokio::time::interval(interval);
        ticks.tick().await;
        let mut before: Vec<u64> = self.progress.iter().map(Progress::there).collect();
        loop {
            ticks.tick().await;
            for (at, progress) in self.progress.iter().enumerate() {
                let (there, length) = (progress.there(), progress.length.load(Ordering::Relaxed));
                if let Some((_, bars)) = &self.bars {
                    bars[at].set_length(length);
                    bars[at].set_position(there);
                } else if there > before[at] && there < length {
                    let rate = (there - before[at]) as f64 / interval.as_secs_f64();
                    let left = Duration::from_secs(((length - there) as f64 / rate) as u64);
                    let mib = |bytes: f64| bytes / f64::from(1 << 20);
                    eprintln!(
                        "{}: {:.1} of {:.1} MiB, {:.1} MiB/s, {} left",
                        self.names[at],
                        mib(there as f64),
                        mib(length as f64),
                        mib(rate),
                        humantime::format_duration(left)
                    );
                }
                before[at] = there;
            }
        }
    }

    fn finish(&self, at: usize) {
        if let Some((_, bars)) = &self.bars {
            bars[at].finish_and_clear();
        }
    }

    fn clear(&self) {
        if let Some((all, _)) = &self.bars {
            // A terminal that is gone needs no clearing.
            let _ = all.clear();
        }
    }

    fn there(&self) -> u64 {
        self.progress.iter().map(Progress::there).sum()
    }

    /// How far all of it is.
    fn percent(&self) -> u64 {
        let length: u64 = self.progress.iter().map(|p| p.length.load(Ordering::Relaxed)).sum();
        (self.there() * 100).checked_div(length).unwrap_or(0)
    }
}

impl Progress {
    fn there(&self) -> u64 {
        self.there.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_written_to() {
        for (path, name) in [("a/b.mp4", Some("b.mp4")), ("ä 1.mkv", Some("ä 1.mkv")), ("a/", None)]
        {
            assert_eq!(base_name(path), name);
        }
        for path in ["", ".", "..", "a/..", "a\\b", "a\0b"] {
            assert_eq!(base_name(path), None, "{path:?}");
        }
        assert_eq!(printable("a\u{1b}[2Jb"), "a?[2Jb");
    }

    #[test]
    fn of_several_only_those_are_copied_that_are_not_there() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("b.mp4"), "there").expect("room");
        let link = format!("punchcast://a.example:1/{}/live", "AQ".repeat(21) + "E");
        let target = |files: &[&str], force| {
            let config = Fetch {
                target: crate::config::Target {
                    link: link.parse().expect("a link"),
                    by_hand: None,
                    receive_port: None,
                    allow_private: false,
                    port_mapping: false,
                    use_relay: false,
                    relay: None,
                    log_format: service::log::LogFormat::Text,
                },
                files: files.iter().map(|file| (*file).to_owned()).collect(),
                output: Some(folder.path().to_owned()),
                force,
            };
            jobs(&config).map(|jobs| jobs.into_iter().map(|job| job.path).collect::<Vec<_>>())
        };
        assert_eq!(
            target(&["a.mp4", "b.mp4", "x/c.mp4"], false).expect("some"),
            ["a.mp4", "x/c.mp4"]
        );
        assert_eq!(target(&["a.mp4", "b.mp4"], true).expect("all"), ["a.mp4", "b.mp4"]);
        let refused = target(&["b.mp4"], false).expect_err("nothing is left").to_string();
        assert!(refused.contains("--force"), "{refused}");
    }

    #[test]
    fn a_folder_is_made_before_anything_is_copied() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = |path: &str, holds_several| {
            let path = folder.path().join(path);
            make_folder(&path, holds_several).map(|()| path.is_dir())
        };
        assert!(made("a/b/", false).expect("it can be made"));
        assert!(made("several", true).expect("it can be made"));
        assert!(!made("a/name", false).expect("its folder is there"));
        let missing = made("none/name", false).expect_err("no such folder").to_string();
        assert!(missing.contains("there is no folder"), "{missing}");
        fs::write(folder.path().join("file"), "mine").expect("room");
        made("file", true).expect_err("that is no folder");
        made("file/", false).expect_err("that is no folder");
    }

    #[test]
    fn what_is_there_is_found_again_and_locked() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("film.mp4");
        assert!(find_part(&target).expect("readable").is_none());
        let digest = Digest([7; 32]);
        let mut part = new_part(&target, digest).expect("a new file");
        part.file.write_all(b"half").expect("room");
        let busy = find_part(&target).err().expect("locked").to_string();
        assert!(busy.contains("another"), "{busy}");
        drop(part);
        let (found, part) = find_part(&target).expect("readable").expect("there");
        assert_eq!((found, part.there), (digest, 4));
        assert_eq!(part.hasher.finalize(), blake3::hash(b"half"));
        // Another file's part is not this one's, however alike their names are.
        let long = |end: char| folder.path().join("n".repeat(140) + &end.to_string());
        new_part(&long('a'), digest).expect("a new file");
        assert!(find_part(&long('b')).expect("readable").is_none());
        assert!(find_part(&long('a')).expect("readable").is_some());
        assert!(find_part(&folder.path().join("film.mp4.x")).expect("readable").is_none());
    }

    #[test]
    fn nobody_s_place_is_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("film.mp4");
        let part = new_part(&target, Digest([1; 32])).expect("a new file");
        fs::write(&target, "mine").expect("room");
        let job = |force| Job { path: "film.mp4".into(), target: target.clone(), force };
        let refused = place(&part, &job(false)).expect("works").expect_err("it is there");
        assert!(refused.to_string().contains("--force"), "{refused}");
        assert_eq!(fs::read(&target).expect("there"), b"mine");
        place(&part, &job(true)).expect("works").expect("forced");
        assert_eq!(fs::read(&target).expect("there"), b"");
    }
}
