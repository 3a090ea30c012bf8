//! An IP camera on the broadcaster's LAN: its pictures reach viewers as they left it, and it may go away and come back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use protocol::library::Digest;
use tests::lab::{Host, Process, Result, Signal, eventually};
use tests::stage::{START, Stage, count, count_of};
use tests::stored::access_units;

const SECOND: Duration = Duration::from_secs(1);

/// Where cameras listen.
const PORT: &str = "8554";

#[test]
fn pictures_arrive_bit_for_bit_and_come_back_to_the_same_viewer() -> Result<()> {
    let h264 = "x264enc speed-preset=superfast key-int-max=25 bframes=0 ! h264parse";
    let h265 = "x265enc speed-preset=ultrafast key-int-max=25 ! h265parse";
    for (encoder, payload) in [(h264, "h264parse ! rtph264pay"), (h265, "h265parse ! rtph265pay")] {
        let mut stage = Stage::new(1)?;
        let _rendezvous = stage.start_rendezvous()?;
        let film = film(&stage, encoder);
        let camera_host = stage.lab.host_behind(&stage.home, "ipcam")?;
        let pipeline = served(&film, payload);
        let camera = camera(&camera_host, &pipeline)?;
        let source = format!("rtsp://ann:hush@{}:{PORT}/live", camera_host.address());
        let broadcast = stage.broadcast("cam", &source, "")?;
        let recordings = [stage.path("before.mkv"), stage.path("through.mkv")];
        let record = recordings.each_ref().map(|path| format!("record:{}", path.display()));
        let watch = |record: &str| {
            stage.watch_closely(0, &broadcast.link, &["--output", "null", "--output", record])
        };
        let before = watch(&record[0])?;
        before.wait_for(20 * SECOND, |stats| count_of(stats, "frames_decoded") > 60);
        before.stop()?;
        assert_same(&access_units(&film, "v:0"), &access_units(&recordings[0], "v:0"));

        let through = watch(&record[1])?;
        through.wait_for(20 * SECOND, |stats| count_of(stats, "frames_decoded") > 60);
        camera.kill(Signal::SIGKILL)?;
        camera.wait(5 * SECOND)?;
        let log = || broadcast.process.stderr().text();
        assert!(eventually(10 * SECOND, || log().contains("event=\"source_lost\"")), "{}", log());
        // Another camera at its address, without sound, is not what viewers came for.
        let other =
            "( videotestsrc is-live=true ! x264enc tune=zerolatency ! rtph264pay name=pay0 )";
        let other = self::camera(&camera_host, other)?;
        assert!(eventually(10 * SECOND, || log().contains("with other tracks")), "{}", log());
        other.kill(Signal::SIGKILL)?;
        other.wait(5 * SECOND)?;
        let _again = self::camera(&camera_host, &pipeline)?;
        let listens_at = SystemTime::now();
        let shown_since = || through.shown().into_iter().find(|at| *at > listens_at);
        assert!(eventually(10 * SECOND, || shown_since().is_some()), "{}", log());
        let back = shown_since().and_then(|at| at.duration_since(listens_at).ok());
        let back = back.expect("it was awaited");
        println!("{payload}: the picture is back {back:?} after the camera");
        assert!(back <= 3 * SECOND, "{back:?}");
        let is_back = || log().contains("event=\"source_back\"");
        assert!(eventually(5 * SECOND, is_back), "{}", log());
        assert_eq!(log().matches("event=\"source_lost\"").count(), 2, "ended, and unlike");
        let last = through.latest();
        for key in ["reconnects", "packets_unrecovered"] {
            assert_eq!(count(&last, key), 0, "{key}: {last}");
        }
        through.stop()?;

        // What opens the camera is nowhere to be read.
        assert!(!log().contains("hush"), "{}", log());
        let line = std::fs::read_to_string(format!("/proc/{}/cmdline", broadcast.process.pid()));
        let line = line.expect("it runs");
        assert!(!line.contains("hush") && line.contains("rtsp://***@"), "{line}");
    }
    Ok(())
}

/// Twenty seconds of pictures and G.711, with a keyframe each second.
fn film(stage: &Stage, encoder: &str) -> PathBuf {
    let film = stage.path("film.mkv");
    let mut make = Command::new("gst-launch-1.0");
    let description = format!(
        "videotestsrc num-buffers=500 pattern=ball \
         ! video/x-raw,format=I420,width=320,height=180,framerate=25/1 ! {encoder} ! queue ! m. \
         audiotestsrc num-buffers=1000 samplesperbuffer=160 ! audio/x-raw,rate=8000,channels=1 \
         ! alawenc ! queue ! m. matroskamux name=m ! filesink location={}",
        film.display()
    );
    make.arg("-q").args(description.split_whitespace());
    let status = make.status().expect("gst-launch-1.0 runs; see scripts/install.sh");
    assert!(status.success(), "{status}");
    film
}

/// What a camera runs to send the film from its beginning to each who asks.
fn served(film: &Path, payload: &str) -> String {
    format!(
        "( filesrc location={} ! matroskademux name=d \
         d.video_0 ! queue ! {payload} name=pay0 pt=96 config-interval=-1 \
         d.audio_0 ! queue ! rtppcmapay name=pay1 pt=8 )",
        film.display()
    )
}

/// A camera that opens to one login.
fn camera(host: &Host, pipeline: &str) -> Result<Process> {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/ip-camera.py"));
    command.args([PORT, pipeline, "ann", "hush"]);
    let camera = host.spawn("camera", &command)?;
    camera.wait_for_line(START, |line| line == PORT)?;
    Ok(camera)
}

/// What was recorded is a piece of the film, whole and in order.
fn assert_same(film: &[Digest], recorded: &[Digest]) {
    assert!(recorded.len() > 50, "{} pictures", recorded.len());
    let begin = film.iter().position(|unit| *unit == recorded[0]).expect("a picture of the film");
    let piece = &film[begin..begin + recorded.len()];
    assert!(piece == recorded, "from picture {begin} on, one of {} differs", recorded.len());
}
