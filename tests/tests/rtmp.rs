//! A publisher on the broadcaster's LAN, who pushes by RTMP as OBS does: what it sends reaches viewers as it left it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use tests::clip;
use tests::lab::{Process, Result, Signal, eventually};
use tests::stage::{START, Stage, count, count_of};
use tests::stored::access_units;

const SECOND: Duration = Duration::from_secs(1);

/// How far sound may be moved against its picture, in milliseconds: mostly, and where the way proves quicker than before, for
/// a picture that is shown after others is sent before its sound.
const LIP_SYNC: f64 = 10.0;
const LIP_SYNC_AT_WORST: f64 = 45.0;

#[test]
fn what_is_published_arrives_bit_for_bit_and_comes_back_to_the_same_viewer() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let _rendezvous = stage.start_rendezvous()?;
    let film = film(&stage);
    let studio = stage.lab.host_behind(&stage.home, "studio")?;
    let rendezvous = [stage.rendezvous_address()];
    let source = "rtmp://:1935/live/hush-1";
    let broadcast = stage.begin_broadcast(&rendezvous, "cam", source, "")?;
    broadcast.process.wait_for_log_line(START, |line| line.contains("waiting for a sender"))?;
    let to = |path: &str| format!("rtmp://{}:1935/{path}", stage.cam.address());
    let publish = |name: &str, path: &str, sound: &[&str]| -> Result<Process> {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-re", "-i"]).arg(&film).args(["-c:v", "copy"]);
        ffmpeg.args(sound).args(["-f", "flv", &to(path)]);
        studio.spawn(name, &ffmpeg)
    };
    const COPY: &[&str] = &["-c:a", "copy"];
    for (name, path) in [("key", "live/hush-2"), ("app", "film/hush-1")] {
        let ended = publish(name, path, COPY)?.wait(START)?;
        assert!(!ended.success(), "{path} is let in");
    }
    // What cannot be understood is said, and ends nothing.
    let useless = publish("mp3", "live/hush-1", &["-c:a", "libmp3lame", "-ar", "44100"])?;
    let is_said =
        |line: &str| line.contains("source_lost") && line.contains("set its encoder to AAC");
    broadcast.process.wait_for_log_line(START, is_said)?;
    assert!(!useless.wait(START)?.success());

    let publisher = publish("publisher", "live/hush-1", COPY)?;
    let broadcast = broadcast.link()?;
    let recordings = [stage.path("before.mkv"), stage.path("through.mkv")];
    let record = recordings.each_ref().map(|path| format!("record:{}", path.display()));
    let watch = |record: &str| {
        stage.watch_closely(0, &broadcast.link, &["--output", "null", "--output", record])
    };
    let before = watch(&record[0])?;
    before.wait_for(START, |stats| count_of(stats, "frames_decoded") > 100);
    before.stop()?;
    assert_same(&film, &recordings[0]);

    let through = watch(&record[1])?;
    through.wait_for(START, |stats| count_of(stats, "frames_decoded") > 60);
    publisher.kill(Signal::SIGKILL)?;
    publisher.wait(5 * SECOND)?;
    let log = || broadcast.process.stderr().text();
    assert!(eventually(5 * SECOND, || log().contains("/live/*** has ended")), "{}", log());
    let _again = publish("again", "live/hush-1", COPY)?;
    let published_at = SystemTime::now();
    // What it had sent before is shown for a moment longer; then nothing is, until what it sends now is.
    let standstill = || {
        let shown = through.shown();
        let gaps = shown.windows(2).filter_map(|pair| {
            Some((pair[1].duration_since(pair[0]).ok()?, pair[1]))
                .filter(|_| pair[1] > published_at)
        });
        gaps.filter(|(gap, _)| *gap > STANDSTILL).map(|(_, at)| at).next()
    };
    assert!(eventually(10 * SECOND, || standstill().is_some()), "{}", log());
    let back = standstill().and_then(|at| at.duration_since(published_at).ok());
    let back = back.expect("it was awaited");
    println!("the picture is back {back:?} after the publisher was started");
    assert!(back <= 3 * SECOND, "{back:?}");
    let shown = through.shown().len();
    assert!(eventually(10 * SECOND, || through.shown().len() > shown + 50), "{}", log());
    let last = through.latest();
    for key in ["reconnects", "packets_unrecovered"] {
        assert_eq!(count(&last, key), 0, "{key}: {last}");
    }
    through.stop()?;

    // The stream key is nowhere to be read.
    assert!(!log().contains("hush-1"), "{}", log());
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", broadcast.process.pid()));
    let line = line.expect("it runs");
    assert!(!line.contains("hush") && line.contains("rtmp://:1935/live/***"), "{line}");
    Ok(())
}

/// Pictures come each 40 ms; after so long without one nobody publishes.
const STANDSTILL: Duration = Duration::from_millis(250);

/// Fifty seconds with a keyframe each second and sound of which no two frames are alike.
fn film(stage: &Stage) -> PathBuf {
    let film = stage.path("film.mkv");
    let mut make = Command::new("ffmpeg");
    make.args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"]);
    make.args(["-f", "lavfi", "-i", "anoisesrc=sample_rate=48000:seed=1", "-t", "50"]);
    make.args(["-c:v", "libx264", "-preset", "superfast", "-g", "25", "-bf", "2"]);
    make.args(["-c:a", "aac"]).arg(&film);
    let status = make.status().expect("ffmpeg runs; see scripts/install.sh");
    assert!(status.success(), "{status}");
    film
}

/// What was recorded is a piece of the film, whole and in order, and sound and pictures lie as they did.
fn assert_same(film: &Path, recorded: &Path) {
    let [pictures, sound] = ["v:0", "a:0"].map(|stream| {
        let (whole, piece) = (access_units(film, stream), access_units(recorded, stream));
        assert!(piece.len() > 100, "{stream}: {} units", piece.len());
        let begin = whole.iter().position(|unit| *unit == piece[0]).expect("a unit of the film");
        let same = whole[begin..].iter().zip(&piece).take_while(|(film, piece)| film == piece);
        assert_eq!(same.count(), piece.len(), "{stream}: from {begin} on, one is another");
        let whole = clip::times(film, stream).into_iter().skip(begin);
        whole.zip(clip::times(recorded, stream)).collect::<Vec<(f64, f64)>>()
    });
    // Where pictures and sound of one moment of the film have gone.
    let mut late: Vec<f64> = sound
        .iter()
        .map(|(film, recorded)| {
            let distance = |(shown, _): &&(f64, f64)| (shown - film).abs();
            let nearest = pictures.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
            let (shown, recorded_picture) = nearest.expect("there are pictures");
            ((recorded - film) - (recorded_picture - shown)) * 1e3
        })
        .collect();
    late.sort_by(f64::total_cmp);
    let (least, median, most) = (late[0], late[late.len() / 2], late[late.len() - 1]);
    println!(
        "{} pictures; sound is late by {median:.1} ms ({least:.1} to {most:.1})",
        pictures.len()
    );
    assert!(median.abs() <= LIP_SYNC, "{late:.1?}");
    assert!(least.abs() <= LIP_SYNC_AT_WORST && most <= LIP_SYNC_AT_WORST, "{late:.1?}");
}
