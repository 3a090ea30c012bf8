//! The stored files that other tests play are what they claim to be, and what looks at them sees what is there.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tests::clip;
use tests::stored::{
    self, Codec, Container, DURATION, Expect, FRAMES, RATE, Screen, Stored, access_units, beeps,
    flashes, lip_sync, numbers, try_numbers,
};

/// Matroska has times in milliseconds.
const ROUNDING: Duration = Duration::from_millis(1);

/// How far a beep may seem from where it is, in milliseconds.
const BEEP_ERROR: f64 = 5.0;

struct Clips {
    folder: TempDir,
    files: Vec<Stored>,
}

impl Clips {
    fn make() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let files = stored::make(folder.path());
        Self { folder, files }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str) -> &Stored {
        self.files.iter().find(|file| file.path == name).expect("it is one of the files")
    }

    /// Has ffmpeg make another file of one of them.
    fn convert(&self, from: &str, options: &[&str], to: &str) -> PathBuf {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-y", "-i"]).arg(self.path(from));
        ffmpeg.args(options).arg(self.path(to));
        assert!(ffmpeg.status().expect("ffmpeg runs").success(), "{ffmpeg:?}");
        self.path(to)
    }
}

/// What ffprobe says of a file, word by word.
fn probe(file: &Path, entries: &str) -> Vec<String> {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-show_entries", entries]);
    ffprobe.args(["-of", "default=nokey=1:noprint_wrappers=1"]).arg(file);
    let output = ffprobe.output().expect("ffprobe runs");
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(ToOwned::to_owned).collect()
}

fn codec_name(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "h264",
        Codec::H265 => "hevc",
        Codec::Vp8 => "vp8",
        Codec::Vp9 => "vp9",
        Codec::Av1 => "av1",
        Codec::Mpeg2 => "mpeg2video",
        Codec::MotionJpeg => "mjpeg",
        Codec::ProRes => "prores",
        Codec::Aac => "aac",
        Codec::Opus => "opus",
        Codec::Mp2 => "mp2",
        Codec::Pcm => "pcm_s16le",
    }
}

fn container_name(container: Container) -> &'static str {
    match container {
        Container::Mp4 | Container::Mov => "mov,",
        Container::Matroska | Container::WebM => "matroska,webm",
        Container::Ts => "mpegts",
        Container::Avi => "avi",
        Container::Ogg => "ogg",
        Container::Other => "none",
    }
}

#[test]
fn every_file_holds_what_it_says() {
    let clips = Clips::make();
    for file in clips.files.iter().filter(|file| file.expect == Expect::Plays) {
        let path = clips.path(&file.path);
        let tracks: HashSet<_> = probe(&path, "stream=codec_name").into_iter().collect();
        let codecs = file.video.iter().chain(&file.audio).copied();
        let claimed = codecs.map(|codec| codec_name(codec).to_owned()).collect();
        assert_eq!(tracks, claimed, "{}", file.path);
        let format = probe(&path, "format=format_name").concat();
        assert!(format.starts_with(container_name(file.container)), "{}: {format}", file.path);
        let duration: f64 = probe(&path, "format=duration").concat().parse().expect("a duration");
        let off = duration - file.duration.as_secs_f64();
        assert!(off.abs() < 0.1, "{} plays for {duration} s", file.path);
        if file.video.is_some() {
            assert_pictures(file, &numbers(&path));
            assert_eq!(file.frames as usize, file.times.len(), "{}", file.path);
        }
    }
}

/// Pictures have the numbers and times that the file claims.
fn assert_pictures(file: &Stored, seen: &[(Duration, u16)]) {
    let seen_numbers: Vec<u16> = seen.iter().map(|(_, number)| *number).collect();
    assert_eq!(seen_numbers, file.numbers, "{}", file.path);
    let first = seen.first().expect("it has pictures").0;
    for ((time, number), claimed) in seen.iter().zip(&file.times) {
        let off = (*time - first).abs_diff(*claimed);
        assert!(off <= ROUNDING, "{}: {number} at {time:?}, not {claimed:?}", file.path);
    }
}

#[test]
fn whole_clips_have_all_pictures_and_variable_ones_some() {
    let clips = Clips::make();
    let usual = clips.file("h264-aac.mp4");
    assert_eq!(usual.numbers, (0..FRAMES).collect::<Vec<_>>());
    let variable = clips.file("variable.mkv");
    let steps: HashSet<_> = variable.times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(steps.len() >= 5, "{steps:?}");
    assert!(variable.frames > u32::from(FRAMES) / 2 && variable.frames < u32::from(FRAMES));
}

#[test]
fn cut_files_end_where_they_say() {
    let clips = Clips::make();
    let (mut up_to, mut never) = (0, 0);
    for file in clips.files.iter().filter(|file| file.expect != Expect::Plays) {
        let seen = try_numbers(&clips.path(&file.path));
        match file.expect {
            Expect::Plays => unreachable!("it is left out"),
            Expect::PlaysUpTo(share) => {
                up_to += 1;
                assert!((0.5..0.7).contains(&share), "{}: {share}", file.path);
                let seen = seen.expect("some of it plays");
                // Half a picture may show its number as well.
                assert!(seen.len() <= file.frames as usize + 1, "{}: {}", file.path, seen.len());
                assert_pictures(file, &seen[..file.frames as usize]);
            }
            Expect::Unplayable if file.path == "still.png" => {
                assert_eq!(probe(&clips.path(&file.path), "stream=codec_name"), ["png"]);
            }
            Expect::Unplayable => {
                never += 1;
                assert!(seen.is_err(), "{}: {seen:?}", file.path);
            }
        }
    }
    assert_eq!((up_to, never), (2, 3));
}

#[test]
fn flashes_and_beeps_come_together_once_a_second() {
    let clips = Clips::make();
    let seconds = DURATION.as_secs() as usize;
    for file in clips.files.iter().filter(|file| file.expect == Expect::Plays) {
        let path = clips.path(&file.path);
        if file.video.is_none() {
            assert_eq!(beeps(&path).len(), seconds, "{}", file.path);
            continue;
        }
        let late = lip_sync(&path);
        println!("{}: beeps late by {late:.1?} ms", file.path);
        assert_eq!(late.len(), seconds, "{}: {late:?}", file.path);
        assert!(late.iter().all(|late| late.abs() < BEEP_ERROR), "{}: {late:?}", file.path);
    }
}

#[test]
fn flashes_are_where_the_numbers_say() {
    let clips = Clips::make();
    for name in ["h264-opus.ts", "variable.mkv", "b-frames.mp4"] {
        let path = clips.path(name);
        let flashing = |number: &u16| u32::from(*number).is_multiple_of(RATE);
        let claimed = numbers(&path).into_iter().filter(|(_, number)| flashing(number));
        let claimed: Vec<f64> = claimed.map(|(time, _)| time.as_secs_f64()).collect();
        let seen = flashes(&path);
        assert_eq!(seen.len(), claimed.len(), "{name}: {seen:?}");
        let off = seen.iter().zip(claimed).map(|(seen, claimed)| (seen - claimed).abs());
        assert!(off.fold(0.0, f64::max) < 1e-6, "{name}: {seen:?}");
    }
}

#[test]
fn sound_that_is_late_or_has_a_hole_is_noticed() {
    let clips = Clips::make();
    let original = clips.path("h264-aac.mkv").display().to_string();
    let shifted = |seconds: &str, to| {
        let options =
            ["-itsoffset", seconds, "-i", &original, "-map", "0:v", "-map", "1:a", "-c", "copy"];
        clips.convert("h264-aac.mkv", &options, to)
    };
    for (seconds, milliseconds, to) in [("0.12", 120.0, "late.mkv"), ("-0.08", -80.0, "early.mkv")]
    {
        let seen = lip_sync(&shifted(seconds, to));
        assert!(seen.len() >= 11, "{seen:?}");
        let is_off = |late: &f64| (late - milliseconds).abs() < BEEP_ERROR;
        assert!(seen.iter().all(is_off), "{to}: {seen:?}");
    }

    // Sound from 3.3 s to 6.6 s lacks, and what follows stays where it is.
    let hole = ["-c", "copy", "-bsf:a", "noise=drop='between(pts*tb,3.3,6.6)'"];
    let seen = beeps(&clips.convert("h264-aac.mkv", &hole, "hole.mkv"));
    let heard: Vec<_> = seen.iter().map(|beep| beep.round() as u32).collect();
    assert_eq!(heard, [0, 1, 2, 3, 7, 8, 9, 10, 11]);
    let late = lip_sync(&clips.path("hole.mkv"));
    assert!(late.iter().all(|late| late.abs() < BEEP_ERROR), "{late:?}");
}

#[test]
fn numbers_outlast_scaling_low_rates_and_lost_pictures() {
    let clips = Clips::make();
    for (size, to) in
        [("160:90", "small.mp4"), ("1280:720", "large.mp4"), ("240:180", "squeezed.mp4")]
    {
        let filter = format!("scale={size},select=not(between(n\\,100\\,149))");
        let options = ["-an", "-vf", &filter, "-fps_mode", "passthrough", "-c:v", "libx264"];
        let options = [&options[..], &["-preset", "veryfast", "-b:v", "60k"]].concat();
        let seen = numbers(&clips.convert("h264-aac.mp4", &options, to));
        let claimed: Vec<_> = (0..FRAMES).filter(|number| !(100..150).contains(number)).collect();
        assert_eq!(seen.iter().map(|(_, number)| *number).collect::<Vec<_>>(), claimed, "{to}");
        for (time, number) in seen {
            let claimed = Duration::from_secs(1) * u32::from(number) / RATE;
            assert!(time.abs_diff(claimed) <= ROUNDING, "{to}: {number} at {time:?}");
        }
    }
    assert!(numbers(&tests::stage::clip()).is_empty(), "a film has no numbers");
}

#[test]
fn access_units_are_the_same_in_all_containers() {
    let clips = Clips::make();
    for (from, endings) in [
        ("h264-aac.mp4", &["mkv", "ts", "mov"][..]),
        ("b-frames.mp4", &["mkv", "ts"]),
        ("h265-opus.mp4", &["mkv", "ts"]),
        ("vp8-opus.mkv", &["webm"]),
        ("vp9-opus.webm", &["mkv", "mp4"]),
        ("av1-aac.mp4", &["mkv"]),
        ("av1-opus.webm", &["mp4"]),
    ] {
        let original = |stream| access_units(&clips.path(from), stream);
        let (pictures, sound) = (original("v:0"), original("a:0"));
        assert_eq!(pictures.len(), usize::from(FRAMES), "{from}");
        assert_eq!(pictures.iter().collect::<HashSet<_>>().len(), pictures.len(), "{from}");
        assert!(sound.len() as u64 >= DURATION.as_secs() * 46, "{from}: {}", sound.len());
        for ending in endings {
            let copy = clips.convert(from, &["-c", "copy"], &format!("copy-{from}.{ending}"));
            assert!(access_units(&copy, "v:0") == pictures, "{from} in {ending}: pictures");
            assert!(access_units(&copy, "a:0") == sound, "{from} in {ending}: sound");
        }
    }
}

#[test]
fn other_access_units_are_others() {
    let clips = Clips::make();
    let units = |file: &str, stream| access_units(&clips.path(file), stream);
    assert!(units("two-sounds.mkv", "a:0") != units("two-sounds.mkv", "a:1"));
    assert!(units("b-frames.mp4", "v:0") != units("h264-aac.mp4", "v:0"));
    // Encoded again, nothing is as it was.
    let again = clips.convert("h264-aac.mp4", &["-c:v", "libx264", "-crf", "30"], "again.mp4");
    let (old, new) = (units("h264-aac.mp4", "v:0"), access_units(&again, "v:0"));
    assert!(old.iter().all(|unit| !new.contains(unit)));
    // A single lost picture is missed.
    let lossy = clips.convert(
        "h264-aac.mp4",
        &["-c", "copy", "-bsf:v", "noise=drop=eq(n\\,70)"],
        "lossy.mp4",
    );
    let left: Vec<_> = [&old[..70], &old[71..]].concat();
    assert!(access_units(&lossy, "v:0") == left);
}

#[test]
fn peculiar_clips_are_peculiar() {
    let clips = Clips::make();
    let index_is_first = |name: &str| {
        let bytes = fs::read(clips.path(name)).expect("it can be read");
        let place = |name: &[u8]| bytes.windows(4).position(|word| word == name).expect("an atom");
        place(b"moov") < place(b"mdat")
    };
    assert!(index_is_first("index-first.mp4"));
    assert!(!index_is_first("index-last.mp4"));

    for file in
        clips.files.iter().filter(|file| file.expect == Expect::Plays && file.video.is_some())
    {
        let flags = probe(&clips.path(&file.path), "packet=codec_type,flags");
        let pictures = flags.chunks_exact(2).filter(|packet| packet[0] == "video");
        let keyframes = pictures.filter(|packet| packet[1].starts_with('K')).count();
        let expected = match (file.path.as_str(), file.video) {
            ("long-gop.mp4" | "heavy-long-gop.mp4", _) => 2,
            (_, Some(Codec::MotionJpeg | Codec::ProRes)) => usize::from(FRAMES),
            _ => 6,
        };
        assert_eq!(keyframes, expected, "{}", file.path);
        let is_reordered = !clip::times(&clips.path(&file.path), "v:0").is_sorted();
        assert_eq!(is_reordered, file.path.starts_with("b-frames"), "{}", file.path);
    }
}

#[test]
fn changes_to_a_copy_stay_there() {
    let clips = Clips::make();
    let name = "ä ö ü/日本語 & #1%.mp4";
    let before = fs::read(clips.path(name)).expect("it is there");
    fs::write(clips.path(name), b"spoilt").expect("it can be written");
    // At once, and each goes when it was looked at: they take room.
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let other = Clips::make();
                assert_eq!(other.files, clips.files);
                assert!(fs::read(other.path(name)).expect("it is there") == before);
            });
        }
    });
}

/// A program that ends with its test.
struct Player(Child);

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Player {
    fn start(screen: &Screen, file: &Path, chain: &str) -> Self {
        let mut gst = Command::new("gst-launch-1.0");
        gst.args(["-q", "filesrc"]).arg(format!("location={}", file.display()));
        gst.args(chain.split_whitespace()).env("DISPLAY", screen.display());
        Self(gst.stdout(Stdio::null()).spawn().expect("gst-launch-1.0 runs"))
    }
}

#[test]
fn the_screen_shows_what_a_window_does() {
    const LONG: Duration = Duration::from_secs(30);
    let clips = Clips::make();
    let mut screen = Screen::start().expect("Xvfb starts");
    assert_eq!(screen.number(), None);
    assert_eq!(screen.wait_for(|_| true, Duration::from_millis(50)), None);
    let chain = "! matroskademux ! h264parse ! avdec_h264 ! videoconvert ! ximagesink";
    let player = Player::start(&screen, &clips.path("h264-aac.mkv"), chain);
    let first = screen.wait_for(|_| true, LONG).expect("a picture is shown");
    let (mut last, began_at) = (first, Instant::now());
    let later = screen.wait_for(
        |number| {
            assert!(number >= last, "{number} after {last}");
            last = number;
            number >= first + 50
        },
        LONG,
    );
    let later = later.expect("it plays");
    let took = began_at.elapsed().as_secs_f64();
    let plays_for = f64::from(later - first) / f64::from(RATE);
    assert!((took - plays_for).abs() < 0.5, "{plays_for} s are shown in {took} s");
    drop(player);
    let gone_at = Instant::now();
    while screen.number().is_some() {
        assert!(gone_at.elapsed() < LONG, "the picture stays");
        std::thread::yield_now();
    }

    for (left, top) in [(0, 0), (320, 300), (101, 57), (3, 292)] {
        let (right, bottom) = (320 - left, 300 - top);
        let chain = format!(
            "! pngdec ! videoconvert ! imagefreeze ! videobox left=-{left} top=-{top} right=-{right} \
             bottom=-{bottom} ! videoconvert ! ximagesink"
        );
        let _player = Player::start(&screen, &clips.path("still.png"), &chain);
        assert_eq!(screen.wait_for(|_| true, LONG), Some(0), "at {left}, {top}");
    }
}

#[test]
fn screens_do_not_disturb_each_other() {
    let (one, other) =
        (Screen::start().expect("Xvfb starts"), Screen::start().expect("Xvfb starts"));
    assert_ne!(one.display(), other.display());
}
