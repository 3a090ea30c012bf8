//! Viewers that were let in and say whatever they have words for: it costs nobody else anything, and nothing stays.

use std::process::Command;
use std::time::{Duration, Instant};

use tests::lab::{self, Result, eventually};
use tests::offer::Offered;
use tests::stage::{self, Stage, count};

/// Messages of the hostile viewers, behind so many that are not measured; `HOSTILE_MESSAGES` sets the former.
const MESSAGES: u64 = 100_000;
const WARM: u64 = 50_000;

/// The broadcaster gives memory back each ten seconds.
const SETTLING: Duration = Duration::from_secs(12);

/// What the heap holds, what of that is media for repair, and what of the whole process is in memory.
const HISTORY: &str = "punchcast_history_bytes";
const HELD: &str = "punchcast_heap_allocated_bytes";
const RESIDENT: &str = "process_resident_memory_bytes";

/// What the heap may hold more than before them, in bytes.
const MOST_HELD: f64 = 1024.0 * 1024.0;

/// What may be in memory more than before: what is free lies in pieces between what is held, differently each time.
/// That comes to rest at some 5 MB, also behind a million messages.
const MOST_RESIDENT: f64 = 8.0 * MOST_HELD;

/// So many of them are there at once.
const HOSTILE: f64 = 8.0;

fn messages() -> u64 {
    std::env::var("HOSTILE_MESSAGES")
        .map_or(MESSAGES, |text| text.parse().expect("HOSTILE_MESSAGES is a number"))
}

/// At what they are heard at once, and as long again for those that have to connect anew.
fn patience(messages: u64) -> Duration {
    Duration::from_secs(60 + messages / 1_000)
}

/// What is held and what is in memory when all is at rest: the least of what is seen until memory was given back once.
/// The channel's history is left out: it is one for all, and reaches as far back as the longest latency of a viewer.
fn at_rest(stage: &Stage) -> [f64; 2] {
    let mut least = [f64::INFINITY; 2];
    let began = Instant::now();
    let has_settled = eventually(2 * SETTLING, || {
        let value = |name| stage.metric(name).unwrap_or(f64::INFINITY);
        let history = value(HISTORY);
        for (least, name) in least.iter_mut().zip([HELD, RESIDENT]) {
            *least = least.min(value(name) - history);
        }
        began.elapsed() > SETTLING
    });
    assert!(has_settled, "time stands still");
    least
}

/// The same with what is live alone: what is held for those that are still there.
#[test]
fn hostile_viewers_that_stay_have_little_held_for_them() -> Result<()> {
    let messages = messages();
    let mut stage = Stage::new(1)?;
    let hostile = stage.lab.public_host("hostile")?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "uplink: 100M\n")?;
    let viewer = stage.watch(0, &broadcast.link, &["--output", "null"])?;
    viewer.wait_for(stage::START, |stats| stats["frames_decoded"].as_u64() > Some(25));
    let alone = at_rest(&stage);
    let mut attack = Command::new(lab::binary("lab-hostile")?);
    attack.args(["--stay", &broadcast.link]).args([WARM.to_string(), messages.to_string()]);
    let attack = hostile.spawn("hostile", &attack)?;
    let held = |word: &str, messages| -> Result<[f64; 2]> {
        attack.wait_for_line(patience(messages), |line| line == word)?;
        let are_there = || stage.metric("punchcast_viewers").is_ok_and(|n| n == 1.0 + HOSTILE);
        assert!(eventually(Duration::from_secs(5), are_there), "they are still there");
        Ok(at_rest(&stage))
    };
    let before = held("round 1", WARM)?;
    let after = held("round 2", messages)?;
    let words = stage.metric("punchcast_feedback_packets_total")?
        + stage.metric("punchcast_feedback_packets_dropped_total")?;
    println!("{words} words; {alone:?} bytes without them, {before:?} before, {after:?} after");
    assert!(words > 0.5 * (WARM + messages) as f64, "{words} words");
    let log = broadcast.process.stderr().text();
    assert!(!log.contains("panicked"), "{log}");
    let last = viewer.latest();
    assert_eq!((count(&last, "packets_unrecovered"), count(&last, "reconnects")), (0, 0), "{last}");
    viewer.stop()?;
    assert!(after[0] <= before[0] + MOST_HELD, "{before:?} bytes before, {after:?} after");
    assert!(after[0] <= alone[0] + HOSTILE * MOST_HELD, "{alone:?} without them, {after:?} with");
    Ok(())
}

#[test]
fn hostile_viewers_cost_the_others_nothing_and_leave_nothing() -> Result<()> {
    let messages = messages();
    let mut stage = Stage::new(1)?;
    let hostile = stage.lab.public_host("hostile")?;
    let source = format!("file:{}", stage::clip().display());
    // Copies of files go beside, and not in front of, what is live.
    let offered = Offered::with(&stage, &source, "uplink: 100M\n", |folder| {
        std::fs::copy(stage::clip(), folder.join("clip.mp4")).expect("room");
    })?;
    let link = &offered.broadcast.link;
    let viewer = stage.watch(0, link, &["--output", "null"])?;
    viewer.wait_for(stage::START, |stats| stats["frames_decoded"].as_u64() > Some(25));

    let mut attack = Command::new(lab::binary("lab-hostile")?);
    attack.args([link, "clip.mp4"]).args([WARM.to_string(), messages.to_string()]);
    let attack = hostile.spawn("hostile", &attack)?;
    let held = |word: &str, messages| -> Result<[f64; 2]> {
        attack.wait_for_line(patience(messages), |line| line == word)?;
        let is_alone = || stage.metric("punchcast_viewers").is_ok_and(|viewers| viewers == 1.0);
        assert!(eventually(Duration::from_secs(5), is_alone), "some are still there");
        Ok(at_rest(&stage))
    };
    let before = held("round 1", WARM)?;
    let refused = stage.metric("punchcast_refusals_total")?;
    let after = held("round 2", messages)?;
    let (heard, dropped) = (
        stage.metric("punchcast_feedback_packets_total")?,
        stage.metric("punchcast_feedback_packets_dropped_total")?,
    );
    let takes = stage.metric("punchcast_takes_total")?;
    println!(
        "{heard} words heard, {dropped} dropped, {takes} takes, {refused} refusals; {before:?} bytes, then {after:?}"
    );
    assert!(heard + dropped > 0.5 * (WARM + messages) as f64, "{heard} words, {dropped} dropped");
    assert!(takes > 20.0, "{takes} takes began");

    let log = offered.broadcast.process.stderr().text();
    assert!(!log.contains("panicked"), "{log}");
    let last = viewer.latest();
    assert_eq!((count(&last, "packets_unrecovered"), count(&last, "reconnects")), (0, 0), "{last}");
    viewer.stop()?;
    for ((before, after), most) in before.into_iter().zip(after).zip([MOST_HELD, MOST_RESIDENT]) {
        assert!(after <= before + most, "{before} bytes before, {after} after");
    }
    Ok(())
}
