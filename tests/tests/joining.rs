//! Joining in the middle of a long GOP.

use std::time::{Duration, Instant};

use tests::lab::{Link, Result, eventually};
use tests::stage::{Stage, count, ms};

/// 40 ms round trip between viewer and everybody else.
const ONE_WAY: Duration = Duration::from_millis(20);

const FRAMES_PER_GOP: f64 = 300.0;

#[test]
fn seven_seconds_into_a_gop_the_picture_comes_within_one_second() -> Result<()> {
    let stage = Stage::with_links(&[Some(Link::delay(ONE_WAY))])?;
    let _rendezvous = stage.start_rendezvous()?;
    let settings = "video:\n  bitrate: 1M\n  keyframe_interval: 10s\n  framerate: 30\n";
    let broadcast = stage.broadcast("cam", "test", settings)?;
    let frames = || stage.metric("punchcast_encoder_frames_encoded_total");
    let into_gop = |frames: f64| frames % FRAMES_PER_GOP;
    let seven_seconds_in = || frames().is_ok_and(|f| (210.0..240.0).contains(&into_gop(f)));
    assert!(eventually(Duration::from_secs(15), seven_seconds_in));
    let keyframes_before = stage.metric("punchcast_encoder_keyframes_total")?;

    let began = Instant::now();
    let viewer = stage.watch(0, &broadcast.link, &["--output", "null"])?;
    let caught_up = || {
        stage.metric("punchcast_viewers").is_ok_and(|viewers| viewers == 1.0)
            && stage.metric("punchcast_viewers_joining").is_ok_and(|joining| joining == 0.0)
    };
    assert!(eventually(Duration::from_secs(5), caught_up));
    let caught_up_after = began.elapsed();
    let playing = viewer.wait_for(Duration::from_secs(5), |stats| stats["first_frame_ms"].is_f64());
    let first_frame = ms(&playing, "first_frame_ms");

    // At the live edge nothing is late any more: each frame is shown at its time.
    viewer.wait_for(Duration::from_secs(5), |_| began.elapsed().as_secs_f64() >= 2.0);
    // What was printed last by then may be a second old.
    let before = viewer.stats().len();
    let at_two = viewer.wait_for(Duration::from_secs(5), |_| viewer.stats().len() > before);
    let dropped_at_two = count(&at_two, "frames_dropped");
    // Where the machine was busy as the first packets came, pictures are shown later at first, and catch up.
    let at_live_edge = |stats: &serde_json::Value| {
        let latency = stats["latency_ms"].as_f64();
        began.elapsed().as_secs() >= 8 && latency.is_some_and(|ms| (200.0..260.0).contains(&ms))
    };
    let last = viewer.wait_for(Duration::from_secs(25), at_live_edge);
    viewer.stop()?;
    println!(
        "path open {} ms, first packet {} ms, first frame {first_frame} ms, caught up after \
         {caught_up_after:?}, latency {} ms: {last}",
        ms(&playing, "open_ms"),
        ms(&playing, "first_packet_ms"),
        ms(&last, "latency_ms"),
    );
    assert!(first_frame < 1000.0, "first frame after {first_frame} ms");
    assert!(caught_up_after < Duration::from_secs(2), "live edge after {caught_up_after:?}");
    // The GOP so far was decoded, and not shown.
    assert!(count(&last, "frames_dropped") > 150, "{last}");
    let late_after_two = count(&last, "frames_dropped") - dropped_at_two;
    assert!(late_after_two <= 3, "{late_after_two} late frames after two seconds: {last}");
    assert_eq!(count(&last, "packets_unrecovered"), 0, "{last}");

    // No keyframe but those that the encoder makes by itself, one each 300 frames.
    assert_eq!(stage.metric("punchcast_keyframes_requested_total")?, 0.0);
    let by_itself = (frames()? / FRAMES_PER_GOP).ceil();
    let keyframes = stage.metric("punchcast_encoder_keyframes_total")?;
    assert!(keyframes >= keyframes_before);
    assert!((keyframes - by_itself).abs() < 0.5, "{keyframes} keyframes, {by_itself} expected");
    Ok(())
}
