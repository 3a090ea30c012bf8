//! Viewers that were let in and say whatever they have words for: it costs nobody else anything, and nothing stays.

use std::process::Command;
use std::time::Duration;

use tests::lab::{self, Result, eventually};
use tests::offer::Offered;
use tests::stage::{self, Stage, count};

/// Messages of the hostile viewers, behind so many that are not measured; `HOSTILE_MESSAGES` sets the former.
const MESSAGES: u64 = 100_000;
const WARM: u64 = 50_000;

/// What the broadcaster may hold more than before them, in bytes.
const MOST_GROWTH: f64 = 1024.0 * 1024.0;

#[test]
fn hostile_viewers_cost_the_others_nothing_and_leave_nothing() -> Result<()> {
    let messages = std::env::var("HOSTILE_MESSAGES")
        .map_or(MESSAGES, |text| text.parse().expect("HOSTILE_MESSAGES is a number"));
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
    // At what they are heard at once, and as long again for those that have to connect anew.
    let patience = |messages: u64| Duration::from_secs(60 + messages / 1_000);
    let held = |word: &str, messages| -> Result<f64> {
        attack.wait_for_line(patience(messages), |line| line == word)?;
        let is_alone = || stage.metric("punchcast_viewers").is_ok_and(|viewers| viewers == 1.0);
        assert!(eventually(Duration::from_secs(5), is_alone), "some are still there");
        stage.metric("process_resident_memory_bytes")
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
        "{heard} words heard, {dropped} dropped, {takes} takes, {refused} refusals; {before} bytes, then {after}"
    );
    assert!(heard + dropped > 0.5 * (WARM + messages) as f64, "{heard} words, {dropped} dropped");
    assert!(takes > 20.0, "{takes} takes began");

    let log = offered.broadcast.process.stderr().text();
    assert!(!log.contains("panicked"), "{log}");
    let last = viewer.latest();
    assert_eq!((count(&last, "packets_unrecovered"), count(&last, "reconnects")), (0, 0), "{last}");
    viewer.stop()?;
    assert!(after <= before + MOST_GROWTH, "{before} bytes before, {after} after");
    Ok(())
}
