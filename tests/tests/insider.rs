//! A viewer that turns against another: it has the channel's key, and sends from the broadcaster's address.

use std::process::Command;
use std::time::Duration;

use tests::clip::{self, SAME_PICTURE};
use tests::lab::{self, Result};
use tests::stage::{self, Stage, count};

const SECONDS: u32 = 14;

/// Datagrams that the insider sends, and how many a second.
const HOSTILE: u64 = 60_000;
const RATE: u64 = 10_000;

/// What is on its way when a viewer ends is missing from its recording, in frames.
const LAST: usize = 15;

#[test]
fn an_insider_with_the_broadcasters_address_is_not_believed() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "")?;
    let path = stage.path("victim.mkv");
    let record = format!("record:{}", path.display());
    let flags = ["--output", &record, "--for", &format!("{SECONDS}s")];
    let victim = stage.watch(0, &broadcast.link, &flags)?;
    let playing = victim
        .wait_for(Duration::from_secs(20), |stats| stats["frames_decoded"].as_u64() > Some(25));
    let broadcaster = playing["remote"].as_str().expect("a path").to_owned();
    let log = broadcast.process.stderr().text();
    let joined = log.lines().find(|line| line.contains("viewer_joined")).expect("it joined");
    let viewer = joined.split_once("remote=").expect("an address").1;
    let viewer = viewer.split(' ').next().expect("an address");

    let insider = stage.lab.public_host("insider")?;
    let address = broadcaster.rsplit_once(':').expect("a port").0;
    let mut address_of_another = Command::new("/usr/sbin/ip");
    address_of_another.args(["address", "add", &format!("{address}/32"), "dev", "lo"]);
    insider.run(&address_of_another)?;
    let mut attack = Command::new(lab::binary("lab-insider")?);
    attack.args([&broadcaster, viewer]).arg(broadcast.folder.join("keys"));
    attack.args([HOSTILE.to_string(), RATE.to_string()]);
    let sent: u64 = insider.run(&attack)?.trim().parse().expect("a number");
    assert!(sent >= HOSTILE);

    let status = victim.process.wait(Duration::from_secs(u64::from(SECONDS) + 20))?;
    let last = victim.latest();
    println!("{last}");
    assert!(status.success(), "{status}: {last}");
    // All of it came, and was told from the broadcaster's.
    let corrupt = count(&last, "packets_corrupt");
    assert!(corrupt * 100 >= sent * 99, "{corrupt} of {sent} came: {last}");
    assert!(count(&last, "packets_received") < 10_000, "{last}");
    assert_eq!(count(&last, "packets_unrecovered"), 0, "{last}");
    let recorded = clip::frames(&path);
    let whole = recorded.len().saturating_sub(LAST);
    assert!(whole >= 25 * (SECONDS as usize - 4), "{whole} frames");
    let (_, worst) = clip::compare_looped(&recorded[..whole], &clip::frames(&stage::clip()));
    let gap = clip::longest_gap(&clip::times(&path, "v:0")[..whole]);
    assert!(worst > SAME_PICTURE && gap < 0.045, "{worst} dB, a gap of {gap} s");
    Ok(())
}
