//! Stored files of every kind, played between firewalls: what arrives is what is stored, and what is sought is
//! what is shown.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use protocol::library::Digest;
use rand::RngExt;
use serde_json::Value;
use tests::lab::{self, Impairment, Link, Rate, Result};
use tests::offer::{Commanded, Offered, is_playing_beyond};
use tests::stage::{Stage, Watching, ms};
use tests::stored::{
    self, Container, DURATION, Expect, HEIGHT, RATE, Screen, Stored, WIDTH, access_units, beeps,
    flashes, lip_sync, numbers,
};

/// Files that are played at the same time, each by three viewers.
const AT_ONCE: usize = 8;

/// Where the three begin.
const STARTS: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(3_300), Duration::from_millis(8_500)];

/// How far sound may be from its picture, in milliseconds.
const LIP_SYNC: f64 = 45.0;

/// How long a picture is shown, in milliseconds.
const FRAME_MS: f64 = 1000.0 / RATE as f64;

/// Containers have times in milliseconds, and RTP in its clock's steps.
const ROUNDING: Duration = Duration::from_millis(2);

/// A round trip of 40 ms between viewer and broadcaster.
const ROUND_TRIP: Duration = Duration::from_millis(40);

/// How long a sought picture may take, beside the round trip.
const SEEK: Duration = Duration::from_millis(300);

fn link() -> Option<Link> {
    Some(Link::both(Impairment::delay(ROUND_TRIP / 2)))
}

/// A viewer of a file.
struct Play<'a> {
    file: &'a Stored,
    start: Duration,
    sound: usize,
    watching: Watching,
    recording: PathBuf,
}

impl<'a> Play<'a> {
    fn begin(
        (stage, offered): (&Stage, &Offered),
        viewer: usize,
        file: &'a Stored,
        sound: usize,
    ) -> Result<Self> {
        let start = STARTS[viewer];
        let name = format!("{}-{viewer}-{sound}", file.path.replace(['/', ' '], "_"));
        let recording = stage.path(&format!("{name}.mkv"));
        let mut command = Command::new(lab::binary("punchcast-viewer")?);
        command.arg("watch").arg(offered.link_of(&file.path)).args(["--stats", "json"]);
        command.arg("--output").arg(format!("record:{}", recording.display()));
        command.args(["--start", &format!("{}ms", start.as_millis())]);
        command.args(["--sound-track", &(sound + 1).to_string()]);
        let process = stage.viewers[viewer].1.spawn(&name, &command)?;
        Ok(Self { file, start, sound, watching: Watching { process }, recording })
    }

    fn name(&self) -> String {
        format!("{} from {:?}", self.file.path, self.start)
    }

    /// Waits for its end, and says what was wrong with it.
    fn end(&self) -> Result<()> {
        let status = self.watching.process.wait(DURATION + Duration::from_secs(30))?;
        let (name, last) = (self.name(), self.watching.latest());
        assert!(status.success(), "{name}: {status}: {}", self.watching.process.stderr().text());
        assert_eq!(last["state"], "ended", "{name}: {last}");
        assert_eq!(last["packets_unrecovered"], 0, "{name}: {last}");
        let duration = self.file.duration.as_secs_f64() * 1e3;
        assert!((ms(&last, "duration_ms") - duration).abs() <= FRAME_MS, "{name}: {last}");
        Ok(())
    }

    fn check(&self, units: &Units) {
        let name = self.name();
        if self.file.video.is_some() {
            self.check_pictures();
            let late = lip_sync(&self.recording);
            // At the very beginning, the picture from which is decoded may be before the first sound.
            let expected = flashes(&self.recording).len();
            assert!(late.len() + 1 >= expected, "{name}: {late:?} of {expected}");
            assert!(late.iter().all(|late| late.abs() <= LIP_SYNC), "{name}: {late:?}");
            println!("{name}: sound late by {late:.0?} ms");
        } else {
            let left = (DURATION - self.start).as_secs_f64();
            let heard = beeps(&self.recording).len() as f64;
            assert!((heard - left).abs() <= 1.0, "{name}: {heard} beeps in {left} s");
        }
        if self.file.passes_through {
            self.check_units(units);
        }
    }

    /// All from the one on from which the first that was asked for is decoded, each in its time.
    fn check_pictures(&self) {
        let (file, name) = (self.file, self.name());
        let seen = numbers(&self.recording);
        let numbers: Vec<u16> = seen.iter().map(|(_, number)| *number).collect();
        let first = numbers.first().unwrap_or_else(|| panic!("{name}: no pictures"));
        let first = file.numbers.iter().position(|number| number == first);
        let first = first.unwrap_or_else(|| panic!("{name}: {numbers:?}"));
        assert_eq!(numbers, file.numbers[first..], "{name}");
        let asked = file.times.iter().rposition(|time| *time <= self.start).expect("there is one");
        let gop = if file.path.contains("long-gop") { 10 } else { 2 };
        let since = file.times[asked].checked_sub(file.times[first]);
        assert!(since.is_some_and(|since| since < Duration::from_secs(gop)), "{name}: {since:?}");
        for ((time, number), claimed) in seen.iter().zip(&file.times[first..]) {
            let (time, claimed) = (*time - seen[0].0, *claimed - file.times[first]);
            let off = time.abs_diff(claimed);
            assert!(off <= ROUNDING, "{name}: {number} at {time:?}, not {claimed:?}");
        }
    }

    /// What arrives is a part of the file, up to its end, bit for bit.
    fn check_units(&self, units: &Units) {
        let tracks = [self.file.video.map(|_| "v:0"), self.file.audio.first().map(|_| "a:0")];
        for track in tracks.into_iter().flatten() {
            let stored = match track {
                "a:0" => units.of(self.file, &format!("a:{}", self.sound)),
                track => units.of(self.file, track),
            };
            let arrived = access_units(&self.recording, track);
            // GStreamer ends an MP4 where its pictures end, which may be within the last frame of sound.
            let is_mp4 = matches!(self.file.container, Container::Mp4 | Container::Mov);
            let may_lack = usize::from(track == "a:0" && is_mp4);
            let end = (stored.len() - may_lack..=stored.len())
                .rfind(|end| stored[..*end].ends_with(&arrived));
            let (name, units) = (self.name(), (arrived.len(), stored.len()));
            let end = end.unwrap_or_else(|| panic!("{name}: {track} differs, {units:?} units"));
            let first = end - arrived.len();
            if self.start.is_zero() {
                // An encoder's run-up is in front of what there is to hear.
                let run_up = usize::from(track == "a:0");
                assert!(first <= run_up, "{name}: {track} lacks {first} units");
            }
        }
    }
}

/// Access units of the files, each track looked at once.
struct Units {
    folder: PathBuf,
    known: Mutex<HashMap<(String, String), Vec<Digest>>>,
}

impl Units {
    fn of(&self, file: &Stored, track: &str) -> Vec<Digest> {
        let of_file = || {
            let mut units = access_units(&self.folder.join(&file.path), track);
            if let (Expect::PlaysUpTo(_), "v:0") = (file.expect, track) {
                units.truncate(file.frames as usize);
            }
            units
        };
        let key = (file.path.clone(), track.to_owned());
        self.known.lock().expect("nobody panicked").entry(key).or_insert_with(of_file).clone()
    }
}

#[test]
fn every_file_plays_to_its_end_at_three_viewers() -> Result<()> {
    let stage = Stage::with_links(&[link(), link(), link()])?;
    let mut files = Vec::new();
    let offered = Offered::new(&stage, |folder| files = stored::make(folder))?;
    let units = Units { folder: offered.folder.clone(), known: Mutex::default() };
    let playable: Vec<_> = files.iter().filter(|file| file.expect != Expect::Unplayable).collect();
    let only = std::env::var("ONLY").unwrap_or_default();
    let playable: Vec<_> = playable.into_iter().filter(|file| file.path.contains(&only)).collect();
    assert!(!playable.is_empty(), "no file's name has {only:?} in it");
    // What is encoded anew takes the processor for itself.
    let (as_they_are, anew): (Vec<_>, Vec<_>) =
        playable.into_iter().partition(|file| file.passes_through);
    for files in as_they_are.chunks(AT_ONCE).chain(anew.chunks(1)) {
        let mut plays = Vec::new();
        for file in files {
            for viewer in 0..STARTS.len() {
                plays.push(Play::begin((&stage, &offered), viewer, file, 0)?);
            }
            if file.audio.len() > 1 {
                plays.push(Play::begin((&stage, &offered), 0, file, 1)?);
            }
        }
        for play in &plays {
            play.end()?;
        }
        // Two at a time, as the machine has two processors at least.
        let (some, others) = plays.split_at(plays.len() / 2);
        std::thread::scope(|scope| {
            scope.spawn(|| some.iter().for_each(|play| play.check(&units)));
            others.iter().for_each(|play| play.check(&units));
        });
    }
    Ok(())
}

#[test]
fn what_cannot_be_played_says_why() -> Result<()> {
    let stage = Stage::new(1)?;
    let mut files = Vec::new();
    let offered = Offered::new(&stage, |folder| files = stored::make(folder))?;
    let unplayable: Vec<_> =
        files.iter().filter(|file| file.expect == Expect::Unplayable).collect();
    assert!(unplayable.len() >= 3);
    for file in &unplayable {
        let link = offered.link_of(&file.path);
        let viewer = stage.watch(0, &link, &["--output", "null"])?;
        let status = viewer.process.wait(Duration::from_secs(20))?;
        let said = viewer.process.stderr().text();
        assert!(!status.success(), "{}: {said}", file.path);
        assert!(said.contains("cannot be played"), "{}: {said}", file.path);
    }
    let list = || -> Result<Value> {
        let mut list = Command::new(lab::binary("punchcast-viewer")?);
        list.args(["list", &offered.broadcast.link, "--json"]);
        Ok(serde_json::from_str(&stage.viewers[0].1.run(&list)?).expect("one JSON object"))
    };
    let is_known = |entry: &Value| entry["playable"] == true || entry["problem"].is_string();
    let is_whole = |listed: &Value| {
        let listed = listed["files"].as_array();
        listed.is_some_and(|listed| listed.len() == files.len() && listed.iter().all(is_known))
    };
    let whole = lab::eventually(Duration::from_secs(60), || list().is_ok_and(|l| is_whole(&l)));
    let listed = list()?;
    assert!(whole, "{listed}");
    for file in &files {
        let all = listed["files"].as_array().expect("a list");
        let entry = all.iter().find(|entry| entry["path"] == file.path.as_str());
        let entry = entry.unwrap_or_else(|| panic!("{} is not listed", file.path));
        assert_eq!(entry["playable"], file.expect != Expect::Unplayable, "{entry}");
    }
    Ok(())
}

/// Files in which is sought: other containers and codecs, B-frames, a keyframe every ten seconds, and 8 Mbit/s.
const SOUGHT: [&str; 6] =
    ["h264-aac.mp4", "b-frames.ts", "h265-opus.mkv", "vp9-opus.webm", "long-gop.mp4", "heavy.mp4"];

/// Seeks in each of them.
const SEEKS: usize = 20;

/// Nothing that is awaited takes longer, even over the narrow link.
const PATIENCE: Duration = Duration::from_secs(15);

/// Seeks in a file that is played on a screen, every other time while it stands still, and says how long each took.
/// What is shown first is the right picture.
fn seek_about(
    name: &str,
    (screen, viewer): (&mut Screen, &mut Commanded),
    times: impl IntoIterator<Item = usize>,
) -> Vec<Duration> {
    let mut took = Vec::new();
    for seek in times {
        if seek % 2 == 0 {
            viewer.say("pause");
            viewer.watching.wait_for(PATIENCE, |stats| stats["paused"] == true);
        } else {
            viewer.say("play");
            let before = screen.number();
            screen.wait_for(|number| Some(number) != before, PATIENCE).expect("it goes on");
        }
        let shown = screen.number().expect("something is shown");
        // Far from what is shown now, so that one cannot be taken for the other; and some way behind the
        // picture's beginning, as containers put pictures up to 23 ms later, where sound begins before them.
        let (wanted, position) = loop {
            let wanted = rand::rng().random_range(0..288u16);
            if wanted.abs_diff(shown) > 50 {
                break (wanted, u64::from(wanted) * 40 + rand::rng().random_range(24..39));
            }
        };
        let asked_at = Instant::now();
        viewer.say(&format!("seek {position}ms"));
        let is_other = |number: u16| !(shown..shown + 40).contains(&number);
        let first = screen.wait_for(is_other, PATIENCE);
        let first = first.unwrap_or_else(|| panic!("{name}: {position} ms is never shown"));
        took.push(asked_at.elapsed());
        println!("{name}: {position} ms is shown after {:?}", asked_at.elapsed());
        // While it plays, the picture may change between two looks.
        let late = if seek % 2 == 0 { 0 } else { 1 };
        assert!(
            (wanted..=wanted + late).contains(&first),
            "{name}: {first} is shown at {position} ms, not {wanted}"
        );
    }
    took
}

/// Plays a file on a screen.
fn play_on(
    screen: &mut Screen,
    (stage, offered): (&Stage, &Offered),
    name: &str,
) -> Result<Commanded> {
    let flags = ["--output", "window"];
    let display = screen.display().to_owned();
    let viewer = Commanded::start_on(stage, 0, &offered.link_of(name), &flags, Some(&display))?;
    viewer.watching.wait_for(Duration::from_secs(20), is_playing_beyond(0.2));
    screen.wait_for(|number| number > 5, PATIENCE).expect("it is shown");
    Ok(viewer)
}

#[test]
fn what_is_sought_is_shown_soon() -> Result<()> {
    let stage = Stage::with_links(&[link()])?;
    let offered = Offered::new(&stage, |folder| {
        stored::make(folder);
    })?;
    let mut screen = Screen::start().expect("Xvfb starts");
    let mut took = Vec::new();
    for name in SOUGHT {
        let mut viewer = play_on(&mut screen, (&stage, &offered), name)?;
        took.extend(seek_about(name, (&mut screen, &mut viewer), 0..SEEKS));
        // While it stands still, the seek bar says how far it is.
        viewer.say("pause");
        viewer.say("seek 9030ms");
        screen.wait_for(|number| number == 225, PATIENCE).expect("it is shown");
        let is_bright = |line: Vec<u8>| line.iter().filter(|pixel| **pixel > 150).count();
        let bar = || screen.line(HEIGHT - HEIGHT / 20 - 1).map(is_bright).expect("a picture");
        // A picture is drawn from above, and its number is there first.
        let is_right = || bar().abs_diff(WIDTH * 9 / 12) <= 8;
        let drawn = lab::eventually(PATIENCE, is_right);
        assert!(drawn, "{name}: {} pixels at 9 s", bar());
        viewer.say("quit");
        let status = viewer.watching.process.wait(Duration::from_secs(10))?;
        assert!(status.success(), "{name}: {status}");
    }
    took.sort();
    let p95 = took[took.len() * 95 / 100 - 1];
    println!(
        "{} seeks: median {:?}, p95 {p95:?}, most {:?}",
        took.len(),
        took[took.len() / 2],
        took[took.len() - 1]
    );
    assert!(p95 <= SEEK + ROUND_TRIP, "p95 {p95:?}: {took:?}");
    Ok(())
}

/// Up to 10 MB are needed for one picture, which takes four seconds.
#[test]
fn what_is_sought_over_a_narrow_link_is_the_right_picture() -> Result<()> {
    const CARRIES: u64 = 20_000_000;
    let rate = Some(Rate::new(CARRIES, CARRIES / 80));
    let narrow = Impairment { delay: ROUND_TRIP / 2, rate, ..Impairment::default() };
    let stage = Stage::with_links(&[Some(Link::both(narrow))])?;
    let offered = Offered::new(&stage, |folder| {
        stored::make(folder);
    })?;
    let mut screen = Screen::start().expect("Xvfb starts");
    let name = "heavy-long-gop.mp4";
    let mut viewer = play_on(&mut screen, (&stage, &offered), name)?;
    seek_about(name, (&mut screen, &mut viewer), (0..12).step_by(2));
    viewer.say("quit");
    let status = viewer.watching.process.wait(Duration::from_secs(10))?;
    assert!(status.success(), "{status}");
    assert_eq!(viewer.watching.latest()["packets_unrecovered"], 0);
    Ok(())
}
