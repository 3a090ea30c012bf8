//! A relayed viewer goes on looking for a direct path, and moves to it without losing a picture.

use std::time::{Duration, Instant};

use tests::clip;
use tests::lab::{Nat, Result};
use tests::stage::{Stage, count};

const SECOND: Duration = Duration::from_secs(1);

/// Delay of each side's link: 40 ms for the round trip between the two sides.
const ONE_WAY: Duration = Duration::from_millis(10);

const SOURCE: &str =
    "pipeline:videotestsrc is-live=true ! video/x-raw,width=320,height=180,framerate=30/1";

/// A picture and a half: in a longer gap one is missing.
const LONGEST_GAP: f64 = 0.050;

/// The longest time between two looks, and the introduction.
const LOOKS: Duration = Duration::from_secs(33);

#[test]
fn a_relayed_viewer_moves_to_a_direct_path_without_losing_a_picture() -> Result<()> {
    let stage = Stage::with_kinds(Nat::PortRestricted, &[Nat::PortRestricted], ONE_WAY)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SOURCE, "")?;
    // What no NAT kind does: the relayed path stays as it is when a direct one becomes possible.
    let ends = [stage.home.external_address(), stage.viewers[0].0.external_address()];
    stage.lab.part(ends[0], ends[1])?;
    let recording = stage.path("all.mkv");
    let record = format!("record:{}", recording.display());
    let viewer = stage.watch(0, &broadcast.link, &["--output", "null", "--output", &record])?;
    let relayed = viewer.wait_for(20 * SECOND, |stats| {
        stats["path"] == "relayed" && stats["frames_decoded"].as_u64() > Some(60)
    });
    // One look in vain before.
    let later = count(&relayed, "frames_decoded") + 6 * 30;
    viewer.wait_for(20 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(later));

    stage.lab.unite()?;
    let united = Instant::now();
    let moved = viewer.wait_for(LOOKS, |stats| stats["path"] != "relayed");
    println!("direct {:?} after it became possible", united.elapsed());
    assert_eq!(moved["path"], "reflexive", "{moved}");
    let later = count(&moved, "frames_decoded") + 3 * 30;
    viewer.wait_for(20 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(later));
    viewer.stop()?;
    let last = viewer.latest();
    println!("{last}");
    for counter in ["packets_lost", "packets_unrecovered", "reconnects"] {
        assert_eq!(count(&last, counter), 0, "{counter} in {last}");
    }
    // Some of the joining burst come too late to be shown, and none later.
    let dropped = |stats| count(stats, "frames_dropped");
    assert_eq!(dropped(&last), dropped(&relayed), "{last}");
    let gap = clip::longest_gap(&clip::times(&recording, "v:0"));
    assert!(gap < LONGEST_GAP, "{gap} s between two pictures");
    assert_eq!(stage.metric("punchcast_viewers")?, 0.0);
    let log = broadcast.process.stderr().text();
    assert_eq!(log.matches("viewer_joined").count(), 1, "{log}");
    Ok(())
}
