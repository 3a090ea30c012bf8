//! Programs that die, and what the others make of it.

use std::time::{Duration, Instant};

use protocol::demux::{Class, classify};
use tests::clip;
use tests::lab::{Result, Signal, eventually};
use tests::stage::{self, Stage, count, count_of};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_rendezvous_that_dies_and_returns_costs_running_viewers_nothing() -> Result<()> {
    let stage = Stage::new(2)?;
    let rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", "test", "")?;
    let first = stage.watch(0, &broadcast.link, &["--output", "null"])?;
    first.wait_for(10 * SECOND, |stats| count_of(stats, "frames_decoded") > 30);

    rendezvous.kill(Signal::SIGKILL)?;
    rendezvous.wait(5 * SECOND)?;
    let before = count_of(&first.latest(), "frames_decoded");
    first.wait_for(20 * SECOND, |stats| count_of(stats, "frames_decoded") > before + 240);

    let _returned = stage.start_rendezvous()?;
    let second = stage.watch(1, &broadcast.link, &["--output", "null", "--for", "20s"])?;
    second.wait_for(15 * SECOND, |stats| count_of(stats, "frames_decoded") > 30);
    second.stop()?;
    first.stop()?;
    let last = first.latest();
    assert_eq!(count(&last, "packets_lost"), 0, "{last}");
    assert_eq!(count(&last, "packets_unrecovered"), 0, "{last}");
    assert_eq!(count(&last, "reconnects"), 0, "{last}");
    Ok(())
}

#[test]
fn a_viewer_that_dies_is_sent_nothing_after_a_while() -> Result<()> {
    let stage = Stage::new(2)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", "test", "")?;
    let viewers = [0, 1].map(|at| stage.watch(at, &broadcast.link, &["--output", "null"]));
    let [dying, staying] = viewers;
    let (dying, staying) = (dying?, staying?);
    for viewer in [&dying, &staying] {
        viewer.wait_for(10 * SECOND, |stats| count_of(stats, "frames_decoded") > 30);
    }
    let at_home = stage.cam.capture()?;
    let so_far = count_of(&dying.latest(), "frames_decoded");
    dying.wait_for(10 * SECOND, |stats| count_of(stats, "frames_decoded") > so_far + 60);
    dying.process.kill(Signal::SIGKILL)?;
    dying.process.wait(5 * SECOND)?;
    let died = Instant::now();
    // 35 s after its last word, and as long again as it takes to see that nothing follows.
    assert!(eventually(60 * SECOND, || died.elapsed() > 45 * SECOND));
    staying.stop()?;

    let gone = stage.viewers[0].0.external_address();
    let datagrams = at_home.stop()?;
    let last_word = datagrams
        .iter()
        .filter(|datagram| datagram.source.ip() == gone)
        .map(|datagram| datagram.at)
        .max()
        .expect("the viewer said something while it lived");
    let to_it = || datagrams.iter().filter(|datagram| datagram.destination.ip() == gone);
    let last_media = to_it()
        .filter(|datagram| classify(&datagram.payload) == Class::Media)
        .map(|datagram| datagram.at)
        .max()
        .expect("media was sent to it");
    let last_datagram = to_it().map(|datagram| datagram.at).max().expect("as above");
    let media_for = last_media.saturating_sub(last_word);
    let anything_for = last_datagram.saturating_sub(last_word);
    println!("media for {media_for:?}, anything for {anything_for:?} after the last word");
    assert!(media_for <= 5 * SECOND, "{media_for:?}");
    assert!(anything_for <= 35 * SECOND, "{anything_for:?}");
    assert_eq!(count(&staying.latest(), "packets_lost"), 0);
    Ok(())
}

#[test]
fn viewers_come_back_by_themselves_to_a_broadcaster_that_died() -> Result<()> {
    let stage = Stage::new(2)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", "test", "")?;
    let recording = stage.path("through.mkv");
    let record = format!("record:{}", recording.display());
    let first = stage.watch(0, &broadcast.link, &["--output", "null", "--output", &record])?;
    let second = stage.watch(1, &broadcast.link, &["--output", "null"])?;
    for viewer in [&first, &second] {
        viewer.wait_for(10 * SECOND, |stats| count_of(stats, "frames_decoded") > 60);
    }
    broadcast.process.kill(Signal::SIGKILL)?;
    broadcast.process.wait(5 * SECOND)?;
    let again = stage.broadcast("cam", "test", "")?;
    assert_eq!(again.link, broadcast.link, "the same key, the same link");
    let restarted = Instant::now();
    for viewer in [&first, &second] {
        let back = viewer.wait_for(30 * SECOND, |stats| count_of(stats, "reconnects") == 1);
        println!("back {:?} after the restart", restarted.elapsed());
        let before = count(&back, "frames_decoded");
        viewer.wait_for(10 * SECOND, |stats| count_of(stats, "frames_decoded") > before + 60);
    }
    second.stop()?;
    first.stop()?;
    // One playable file with both parts in it, and the true time between.
    let frames = clip::frames(&recording).len();
    assert!(frames > 110, "{frames} frames recorded");
    let times = clip::times(&recording, "v:0");
    assert!(times.windows(2).all(|pair| pair[1] > pair[0]), "times go back: {times:?}");
    Ok(())
}

/// Ends the process that captures and encodes as a crash does, again and again. The channel goes on.
fn survives_crashes(source: &str) -> Result<()> {
    let stage = Stage::new(1)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", source, "")?;
    let recording = stage.path("on.mkv");
    let record = format!("record:{}", recording.display());
    let viewer = stage.watch(0, &broadcast.link, &["--output", "null", "--output", &record])?;
    viewer.wait_for(stage::START, |stats| stats["frames_decoded"].as_u64() > Some(50));
    let log = || broadcast.process.stderr().text();
    for (signal, by_then) in [(Signal::SIGABRT, 1), (Signal::SIGKILL, 2)] {
        nix::sys::signal::kill(broadcast.source(), signal).expect("it is ours");
        let is_back = || log().matches("event=\"source_back\"").count() == by_then;
        assert!(eventually(5 * SECOND, is_back), "{}", log());
        assert!(log().contains(&format!("was ended by {signal}")), "{}", log());
        let shown = count(&viewer.latest(), "frames_decoded");
        viewer.wait_for(5 * SECOND, |stats| count(stats, "frames_decoded") > shown + 50);
    }
    let last = viewer.latest();
    assert_eq!((count(&last, "reconnects"), count(&last, "packets_unrecovered")), (0, 0), "{last}");
    let encoded = stage.metric("punchcast_encoder_frames_encoded_total")?;
    assert!(encoded > 130.0, "counters go on: {encoded}");
    viewer.stop()?;
    let times = clip::times(&recording, "v:0");
    let gap = clip::longest_gap(&times);
    println!("{source}: {} frames, the longest gap {gap:.2} s", times.len());
    assert!(times.windows(2).all(|pair| pair[1] > pair[0]), "times go back: {times:?}");
    assert!(times.len() > 150 && gap < 2.0, "{} frames, a gap of {gap} s", times.len());

    // The source goes with its broadcaster, however that ends.
    let encoder = broadcast.source();
    broadcast.process.kill(Signal::SIGKILL)?;
    // What is dead and not buried yet has no program any more.
    let is_gone = || std::fs::read_link(format!("/proc/{encoder}/exe")).is_err();
    assert!(eventually(3 * SECOND, is_gone), "the source is left behind");
    Ok(())
}

#[test]
fn an_encoder_that_crashes_is_started_again_and_viewers_stay() -> Result<()> {
    survives_crashes("test")
}

#[test]
fn a_file_whose_reader_crashes_goes_on_in_the_same_channel() -> Result<()> {
    survives_crashes(&format!("file:{}", stage::clip().display()))
}

#[test]
fn a_file_that_crashes_its_reader_again_and_again_ends_the_broadcast() -> Result<()> {
    let stage = Stage::new(0)?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "")?;
    // It was well for so long that a first crash counts as one, and none before.
    let began = Instant::now();
    assert!(eventually(12 * SECOND, || began.elapsed() > 11 * SECOND), "time stands still");
    let ended = eventually(20 * SECOND, || {
        for reader in broadcast.process.children() {
            let _ = nix::sys::signal::kill(reader, Signal::SIGKILL);
        }
        broadcast.process.try_wait().is_ok_and(|status| status.is_some())
    });
    let said = broadcast.process.stderr().text();
    assert!(ended, "{said}");
    assert!(
        said.contains("punchcast-broadcaster: the process of the source was ended by"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_source_that_fails_is_started_again_and_viewers_stay() -> Result<()> {
    let stage = Stage::new(1)?;
    let _rendezvous = stage.start_rendezvous()?;
    // A camera that is pulled out each four seconds.
    let source = "pipeline:videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=25/1 \
                  ! identity error-after=100 ! x264enc tune=zerolatency key-int-max=25";
    let broadcast = stage.broadcast("cam", source, "")?;
    let recording = stage.path("on.mkv");
    let record = format!("record:{}", recording.display());
    let flags = ["--output", "null", "--output", &record, "--for", "16s"];
    let viewer = stage.watch(0, &broadcast.link, &flags)?;
    let status = viewer.process.wait(30 * SECOND)?;
    let last = viewer.latest();
    assert!(status.success(), "{status}: {last}");
    assert_eq!((count(&last, "reconnects"), count(&last, "packets_unrecovered")), (0, 0), "{last}");
    let log = broadcast.process.stderr().text();
    let told = |event: &str| log.matches(&format!("event=\"{event}\"")).count();
    assert!(told("source_lost") >= 3 && told("source_back") >= 3, "{log}");
    // It is back within two seconds, and time goes on.
    let times = clip::times(&recording, "v:0");
    let gap = clip::longest_gap(&times);
    println!("{} frames, the longest gap {gap:.2} s", times.len());
    assert!(times.windows(2).all(|pair| pair[1] > pair[0]), "times go back: {times:?}");
    assert!(times.len() > 200 && gap < 2.0, "{} frames, a gap of {gap} s", times.len());
    Ok(())
}
