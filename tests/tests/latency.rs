//! How late viewers see what was captured: what they say of it, what `auto` makes of a path, and a viewer that was
//! stopped for a while.

use std::thread::sleep;
use std::time::Duration;

use tests::lab::{Impairment, Link, Result, Signal};
use tests::stage::{self, Stage, Watching, count, ms};

const SECOND: Duration = Duration::from_secs(1);

/// What a frame takes besides path and latency: sending, decoding, and the time to the next frame.
const BESIDES: f64 = 60.0;

fn link(one_way: Duration, loss: f64) -> Link {
    Link::both(Impairment { delay: one_way, ..Impairment::loss(loss) })
}

/// Waits until a viewer has printed so many further statistics, after those that it is late with.
fn pass(viewer: &Watching, seconds: usize) {
    sleep(SECOND);
    let wanted = viewer.stats().len() + seconds;
    let patience = SECOND * (seconds as u32 + 10);
    viewer.wait_for(patience, |_| viewer.stats().len() >= wanted);
}

#[test]
fn latency_is_that_from_capture_to_output_and_follows_the_path_where_it_may() -> Result<()> {
    let near = Duration::from_millis(10);
    let far = Duration::from_millis(100);
    let links = [link(far, 0.0), link(near, 0.0), link(far, 0.1)].map(Some);
    let stage = Stage::with_links(&links)?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "")?;
    let watch = |at: usize, latency: &str| {
        stage.watch(at, &broadcast.link, &["--output", "null", "--latency", latency])
    };
    let [fixed, quick, lossy] = [watch(0, "300ms")?, watch(1, "auto")?, watch(2, "auto")?];
    for viewer in [&fixed, &quick, &lossy] {
        viewer.wait_for(20 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(150));
    }
    let known = lossy.latest();
    pass(&lossy, 10);
    let [fixed, quick, lossy] = [&fixed, &quick, &lossy].map(Watching::latest);
    println!("{fixed}\n{quick}\n{lossy}");
    let (told, least) = (ms(&fixed, "latency_ms"), 100.0 + 300.0);
    assert!((least - 10.0..least + BESIDES).contains(&told), "{told} ms: {fixed}");
    // A round and what jitter there is.
    let told = ms(&quick, "latency_ms");
    assert!((100.0..110.0 + BESIDES).contains(&told), "{told} ms: {quick}");
    // Three rounds of more than 200 ms each.
    let told = ms(&lossy, "latency_ms");
    assert!((700.0..1_100.0).contains(&told), "{told} ms: {lossy}");
    let since = |key| count(&lossy, key) - count(&known, key);
    assert!(since("packets_lost") > 100, "{lossy}");
    assert_eq!(since("packets_unrecovered"), 0, "{lossy}");
    assert!(since("frames_decoded") >= 240, "{lossy}");
    Ok(())
}

/// A queue that fills within a moment, as a download's beginning does: no picture is left out for it. With `auto`,
/// what follows comes later; where the latency was fixed, pictures are late by as much as is borne, until the longer
/// path is taken for what it is.
#[test]
fn a_path_that_grows_longer_at_once_drops_no_picture() -> Result<()> {
    let near = Duration::from_millis(10);
    let stage = Stage::with_links(&[Some(link(near, 0.0)), Some(link(near, 0.0))])?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "")?;
    let watch = |at: usize, latency: &str| {
        stage.watch(at, &broadcast.link, &["--output", "null", "--latency", latency])
    };
    let viewers = [watch(0, "auto")?, watch(1, "100ms")?];
    for viewer in &viewers {
        viewer.wait_for(20 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(150));
    }
    let before = viewers.each_ref().map(Watching::latest);
    for (router, _) in &stage.viewers {
        router.impair(&link(near + Duration::from_millis(150), 0.0))?;
    }
    for viewer in &viewers {
        pass(viewer, 6);
    }
    let after = viewers.each_ref().map(Watching::latest);
    println!("{}\n{}", after[0], after[1]);
    let since = |at: usize, key| count(&after[at], key) - count(&before[at], key);
    for at in [0, 1] {
        assert_eq!(since(at, "frames_dropped"), 0, "{}", after[at]);
        assert!(since(at, "frames_decoded") >= 140, "{}", after[at]);
        let later = ms(&after[at], "latency_ms") - ms(&before[at], "latency_ms");
        assert!(later >= 100.0, "{later} ms: {}", after[at]);
    }
    Ok(())
}

#[test]
fn a_viewer_that_was_stopped_goes_on_at_the_live_edge() -> Result<()> {
    let stage = Stage::new(1)?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "")?;
    let viewer = stage.watch(0, &broadcast.link, &["--output", "null"])?;
    viewer.wait_for(20 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(100));
    let before = ms(&viewer.latest(), "latency_ms");
    viewer.process.kill(Signal::SIGSTOP)?;
    // Longer than its media goes on without a word from it.
    sleep(6 * SECOND);
    let paused = stage.metric("punchcast_viewers_paused")?;
    let stopped = count(&viewer.latest(), "frames_decoded");
    viewer.process.kill(Signal::SIGCONT)?;
    // What its socket had no room for is gone: pictures go on with the next keyframe, the clip's length later at
    // most.
    viewer.wait_for(8 * SECOND, |stats| count(stats, "frames_decoded") >= stopped + 60);
    let resumed = viewer.latest();
    pass(&viewer, 4);
    let after = viewer.latest();
    println!("{resumed}\n{after}");
    assert_eq!(paused, 1.0);
    let frames = count(&after, "frames_decoded") - count(&resumed, "frames_decoded");
    assert!(frames >= 90, "{frames} frames in four seconds");
    let told = ms(&after, "latency_ms");
    assert!((told - before).abs() < 100.0, "{before} ms before, {told} ms after");
    viewer.stop()
}
