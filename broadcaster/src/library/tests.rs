//! A whole library: what it shows, and that it opens nothing else.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use protocol::library::{Digest, FileEntry, MAX_PATH, MAX_THUMBNAIL};
use tempfile::TempDir;

use super::folder::Folder;
use super::*;

/// Nothing here takes as long, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const INSIDE: &[u8] = b"inside";
const OUTSIDE: &[u8] = b"outside";

#[test]
fn what_cannot_be_a_library_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, INSIDE).expect("written");
    for (path, expected) in
        [(folder.path().join("missing"), "No such file"), (file, "Not a directory")]
    {
        let error = Library::open(&path).err().expect("refused").to_string();
        assert!(error.contains(expected) && error.contains(&path.display().to_string()), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn files_are_listed_and_looked_into() {
    let tree = Tree::new();
    let clip = fs::read(clip()).expect("the clip");
    for (path, content) in [
        ("film.mp4", &clip[..]),
        ("ä ö ü/日本語 & #1%.mp4", &clip),
        ("half.mp4", &clip[..clip.len() / 2]),
        ("empty.mp4", b""),
        ("notes.txt", b"Nothing to see here.\n"),
        (".hidden.mp4", &clip),
        (".hidden/film.mp4", &clip),
    ] {
        tree.write_old(path, content);
    }
    symlink("film.mp4", tree.inside("link.mp4")).expect("linked");
    symlink("..", tree.inside("ä ö ü/circle")).expect("linked");
    symlink("../outside", tree.inside("out")).expect("linked");
    symlink("../outside/secret", tree.inside("out.mp4")).expect("linked");
    symlink(tree.inside("film.mp4"), tree.inside("absolute.mp4")).expect("linked");

    let library = tree.library();
    await_that("all are looked into", || {
        let counts = library.counts();
        counts.files > 0
            && !counts.is_scanning
            && counts.playable + counts.unplayable == counts.files
    });
    let (files, more) = library.page(None, 100, 1 << 20);
    assert!(!more);
    let shown: Vec<_> =
        files.iter().map(|file| (file.path.as_str(), file.problem.as_deref())).collect();
    assert_eq!(
        shown,
        [
            ("empty.mp4", Some("it is empty")),
            ("film.mp4", None),
            ("half.mp4", Some("damaged: its index is missing or broken")),
            ("link.mp4", None),
            ("notes.txt", Some("not a video")),
            ("ä ö ü/日本語 & #1%.mp4", None),
        ]
    );
    let counts = library.counts();
    assert_eq!((counts.files, counts.playable, counts.unplayable), (6, 3, 3));
    assert_eq!(counts.bytes, files.iter().map(|file| file.bytes).sum::<u64>());

    let film = library.entry("film.mp4").expect("listed");
    assert_eq!(film.bytes, clip.len() as u64);
    let media = film.media.expect("playable");
    let tracks: Vec<_> =
        media.tracks.iter().map(|track| (track.codec.as_str(), track.passes_through)).collect();
    assert_eq!(tracks, [("H.264", true), ("AAC", true)]);
    await_that("there is a picture", || {
        library.entry("film.mp4").is_some_and(|film| film.has_thumbnail)
    });
    let jpeg = library.thumbnail("film.mp4").expect("a picture");
    assert!(jpeg.starts_with(&[0xff, 0xd8]) && jpeg.len() <= MAX_THUMBNAIL);
    assert_eq!(library.thumbnail("notes.txt"), None);

    let digest = Digest(*blake3::hash(&clip).as_bytes());
    await_that("digests are there", || {
        library.page(None, 100, 1 << 20).0.iter().all(|file| file.digest.is_some())
    });
    assert_eq!(library.entry("link.mp4").and_then(|film| film.digest), Some(digest));
}

#[test]
fn pages_follow_each_other() {
    let tree = Tree::new();
    let mut all: Vec<_> = (0..100).map(|index| format!("{}/{index}", index % 7)).collect();
    all.sort_unstable();
    for path in &all {
        tree.write(path, INSIDE);
    }
    let library = tree.library();
    await_that("all are there", || library.counts().files == 100);
    for (most, most_bytes) in [(100, 1 << 20), (7, 1 << 20), (100, 200), (100, 0)] {
        let mut seen: Vec<String> = Vec::new();
        loop {
            let (page, more) = library.page(seen.last().map(String::as_str), most, most_bytes);
            assert!(page.len() <= most && (more || page.len() + seen.len() == 100));
            let bytes: usize = page.iter().map(encoded).sum();
            assert!(page.len() == 1 || bytes <= most_bytes, "{bytes}");
            seen.extend(page.into_iter().map(|file| file.path));
            if !more {
                break;
            }
        }
        assert_eq!(seen, all);
    }
    assert_eq!(library.page(Some("zzz"), 10, 1000), (Vec::new(), false));
}

#[test]
fn changes_show_while_it_runs() {
    let tree = Tree::new();
    tree.write_old("first", INSIDE);
    let library = tree.library();
    await_that("the first is there", || {
        library.entry("first").is_some_and(|file| file.problem.is_some())
    });

    // Told of by the system: it would take 30 s otherwise.
    let begun = Instant::now();
    tree.write_old("new/folder/film.mp4", &fs::read(clip()).expect("the clip"));
    await_that("the new one is there", || library.entry("new/folder/film.mp4").is_some());
    tree.write("first", b"more than before");
    await_that("the change is there", || {
        library.entry("first").is_some_and(|file| file.bytes == 16)
    });
    await_that("the new one is looked into", || {
        library.entry("new/folder/film.mp4").is_some_and(|file| file.media.is_some())
    });
    fs::rename(tree.inside("new"), tree.inside("renamed")).expect("renamed");
    await_that("it moved", || {
        library.entry("new/folder/film.mp4").is_none()
            && library.entry("renamed/folder/film.mp4").is_some()
    });
    fs::remove_file(tree.inside("first")).expect("removed");
    await_that("the first is gone", || library.entry("first").is_none());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_file_that_grows_is_looked_into_when_it_is_whole() {
    let tree = Tree::new();
    let clip = fs::read(clip()).expect("the clip");
    let (begin, end) = clip.split_at(clip.len() / 2);
    let begun = Instant::now();
    tree.write("film.mp4", begin);
    let library = tree.library();
    await_that("it is there", || library.entry("film.mp4").is_some());
    let entry = library.entry("film.mp4").expect("listed");
    // Two seconds later it would be right to judge.
    if begun.elapsed() < Duration::from_millis(1900) {
        assert_eq!((entry.media, entry.problem), (None, None), "judged while it may be growing");
    }
    tree.write("film.mp4", &[begin, end].concat());
    await_that("it can be played", || {
        library.entry("film.mp4").is_some_and(|film| film.media.is_some())
    });
}

#[test]
fn a_folder_that_comes_back_is_seen_again() {
    let tree = Tree::new();
    tree.write("one", INSIDE);
    let library = tree.library();
    await_that("it is there", || library.entry("one").is_some());
    fs::rename(tree.inside(""), tree.folder.path().join("away")).expect("moved");
    fs::create_dir(tree.inside("")).expect("made");
    tree.write("two", INSIDE);
    // Nobody need tell of this: that is what the walk in between is for.
    library.nudge.try_send(()).unwrap_or_default();
    await_that("it is another", || {
        library.entry("two").is_some() && library.entry("one").is_none()
    });
    assert!(library.file("two").is_ok());
    assert_eq!(library.file("one").err(), Some(FileError::Unknown));
    tree.write("three", INSIDE);
    await_that("it is watched", || library.entry("three").is_some());
}

#[test]
fn digests_are_of_what_is_there_now() {
    let tree = Tree::new();
    let long = vec![7; 3 << 20];
    tree.write_old("file", &long);
    let library = tree.library();
    let of = |content: &[u8]| Ok(Some(Digest(*blake3::hash(content).as_bytes())));
    let digest = |file: &StoredFile| library.digest(file, || false).map_err(|error| error.kind());

    let file = library.file("file").expect("opens");
    assert_eq!(contents::compute(&file, || false).expect("stopped"), None);
    assert_eq!(digest(&file), of(&long));
    await_that("it is remembered", || {
        library.entry("file").is_some_and(|file| file.digest.is_some())
    });
    assert_eq!(library.digest(&file, || true).expect("from memory"), of(&long).expect("a digest"));

    // Of the same length, with its time set back.
    let other = vec![8; 3 << 20];
    tree.write_old("file", &other);
    assert_eq!(digest(&library.file("file").expect("opens")), of(&other));
    assert_eq!(digest(&file), of(&other), "the open file is the changed one");

    tree.write("file", &other[..100]);
    assert_eq!(digest(&file), Err(std::io::ErrorKind::UnexpectedEof));
}

#[test]
fn a_location_names_the_open_file() {
    let tree = Tree::new();
    tree.write("file", INSIDE);
    let library = tree.library();
    let file = library.file("file").expect("opens");
    fs::remove_file(tree.inside("file")).expect("removed");
    tree.write("file", OUTSIDE);
    assert_eq!(fs::read(file.location()).expect("read"), INSIDE);
    assert_eq!((file.length, file.path.as_str()), (INSIDE.len() as u64, "file"));
}

#[test]
fn pipes_and_devices_are_not_opened() {
    let tree = Tree::new();
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&tree.inside("pipe.mp4"), mode).expect("a pipe");
    symlink("pipe.mp4", tree.inside("link.mp4")).expect("linked");
    symlink("/dev/zero", tree.inside("zero.mp4")).expect("linked");
    let _socket =
        std::os::unix::net::UnixListener::bind(tree.inside("socket.mp4")).expect("a socket");
    tree.write("file", INSIDE);
    let library = tree.library();
    await_that("the file is there", || library.entry("file").is_some());
    await_that("it is through", || !library.counts().is_scanning);
    assert_eq!(library.counts().files, 1);
    for path in ["pipe.mp4", "link.mp4", "zero.mp4", "socket.mp4", ""] {
        assert_eq!(library.file(path).err(), Some(FileError::Unknown), "{path}");
    }
}

#[test]
fn a_folder_swapped_for_a_link_leads_nowhere() {
    let tree = Tree::new();
    tree.write("folder/secret", INSIDE);
    let library = tree.library();
    let is_over = Arc::new(AtomicBool::new(false));
    let stop = is_over.clone();
    let (folder, aside) = (tree.inside("folder"), tree.inside("aside"));
    let swapper = thread::spawn(move || {
        while !stop.load(Ordering::Acquire) {
            fs::rename(&folder, &aside).expect("aside");
            symlink("../outside", &folder).expect("linked");
            fs::remove_file(&folder).expect("unlinked");
            fs::rename(&aside, &folder).expect("back");
        }
    });
    let (mut opened, mut refused) = (0, 0);
    let begun = Instant::now();
    while opened < 2000 || refused < 2000 {
        match library.file("folder/secret") {
            Ok(mut file) => {
                let mut content = Vec::new();
                file.file.read_to_end(&mut content).expect("read");
                assert_eq!(content, INSIDE);
                opened += 1;
            }
            Err(error) => {
                assert_eq!(error, FileError::Unknown);
                refused += 1;
            }
        }
        assert!(begun.elapsed() < PATIENCE, "{opened} opened, {refused} refused");
    }
    is_over.store(true, Ordering::Release);
    swapper.join().expect("swapped");
    assert!(
        !library.page(None, 100, 1 << 20).0.iter().any(|file| file.bytes == OUTSIDE.len() as u64)
    );
}

#[test]
fn its_threads_end_with_it() {
    let tree = Tree::new();
    tree.write_old("film.mp4", &fs::read(clip()).expect("the clip"));
    let library = tree.library();
    await_that("it is there", || library.entry("film.mp4").is_some());
    let shared = Arc::downgrade(&library.shared);
    drop(library);
    await_that("nobody has it", || shared.strong_count() == 0);
}

/// Parts that are there, and parts that might lead astray.
fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(vec![
            "folder", "file", "secret", "outside", "library", "link", "up", "root", "within", "deep", "circle",
        ]).prop_map(str::to_owned),
        4 => prop::sample::select(vec![
            "", ".", "..", "...", ".hidden", "~", "\0", "\\", "..\\", "\\..", "%2e%2e", "%2f", "..\0", "\u{2025}",
            "\u{ff0e}\u{ff0e}", "\u{2215}", "C:", "NUL", " ", "\n", "..;", "proc", "etc", "passwd", "self",
        ]).prop_map(str::to_owned),
        1 => "[./\\\\\0a-c]{0,6}",
        1 => any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_path_opens_anything_outside(parts in prop::collection::vec(part(), 0..7), root in any::<bool>()) {
        let path = format!("{}{}", if root { "/" } else { "" }, parts.join("/"));
        if let Ok(mut file) = NASTY.1.file(&path) {
            let mut content = Vec::new();
            file.file.read_to_end(&mut content).expect("read");
            prop_assert_eq!(content, INSIDE, "{}", path);
            prop_assert!(path.len() <= MAX_PATH && path.split('/').all(|part| !part.starts_with('.')));
        }
    }
}

#[test]
fn the_nasty_folder_has_files_that_open() {
    for path in ["file", "folder/file", "folder/deep/file", "folder/link", "within", "circle/file"]
    {
        assert!(NASTY.1.file(path).is_ok(), "{path}");
    }
    for path in
        ["secret", "up/secret", "root/etc/passwd", "folder/up/outside/secret", "folder/deep/secret"]
    {
        assert_eq!(NASTY.1.file(path).err(), Some(FileError::Unknown), "{path}");
    }
}

/// Links that lead in and out of every folder, beside a file that must never be opened.
static NASTY: LazyLock<(Tree, Folder)> = LazyLock::new(|| {
    let tree = Tree::new();
    tree.write("file", INSIDE);
    tree.write("folder/file", INSIDE);
    tree.write("folder/deep/file", INSIDE);
    tree.write(".hidden/file", INSIDE);
    for (target, link) in [
        ("folder/file", "within"),
        ("deep/../../file", "folder/link"),
        ("folder/..", "circle"),
        ("..", "folder/circle"),
        ("../outside/secret", "secret"),
        ("../../outside/secret", "folder/secret"),
        ("../outside", "outside"),
        ("..", "up"),
        ("../..", "folder/up"),
        ("/", "root"),
        ("/", "folder/root"),
        ("../secret", "folder/deep/secret"),
        ("/proc/self/root", "folder/deep/root"),
        ("circle", "link"),
    ] {
        symlink(target, tree.inside(link)).expect("linked");
    }
    let folder = Folder::open(&tree.inside("")).expect("opens");
    (tree, folder)
});

/// A folder for a library beside one with a secret.
struct Tree {
    folder: TempDir,
}

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["library", "outside"] {
            fs::create_dir(folder.path().join(name)).expect("made");
        }
        fs::write(folder.path().join("outside/secret"), OUTSIDE).expect("written");
        Self { folder }
    }

    fn inside(&self, path: &str) -> PathBuf {
        let library = self.folder.path().join("library");
        if path.is_empty() { library } else { library.join(path) }
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.inside(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, content).expect("written");
    }

    /// Writes a file that looks as if it had been there for long, so that it is looked into at once.
    fn write_old(&self, path: &str, content: &[u8]) {
        self.write(path, content);
        let file = File::options().write(true).open(self.inside(path)).expect("opens");
        file.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("set back");
    }

    fn library(&self) -> Arc<Library> {
        Library::open(&self.inside("")).expect("opens")
    }
}

fn clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/media/bigbuckbunny.mp4")
}

fn encoded(file: &FileEntry) -> usize {
    minicbor::to_vec(file).expect("encodes").len()
}

/// Asks again and again until something is so.
fn await_that(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::park_timeout(Duration::from_millis(10));
    }
}
