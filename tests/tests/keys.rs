//! Keys that take over from each other, and viewers that are sent away, with real programs.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tests::clip::{self, SAME_PICTURE};
use tests::lab::{self, Impairment, Link, Result, Signal};
use tests::local;
use tests::stage::{self, Broadcast, Stage, Watching, count, operator};
use tests::traffic::{epochs, sealed};

/// Half of a round trip of 40 ms.
const ONE_WAY: Duration = Duration::from_millis(20);

/// What is on its way when a viewer ends is missing from its recording, in frames.
const LAST: usize = 15;

fn clean() -> Option<Link> {
    Some(Link::both(Impairment::delay(ONE_WAY)))
}

/// A tenth of all packets is lost, each way.
fn lossy() -> Option<Link> {
    Some(Link::both(Impairment { delay: ONE_WAY, ..Impairment::loss(0.1) }))
}

/// A viewer that records for so many seconds.
fn record(stage: &Stage, at: usize, broadcast: &Broadcast, seconds: u32) -> Result<Watching> {
    let record = format!("record:{}", stage.path(&format!("{at}.mkv")).display());
    let flags = ["--output", &record, "--for", &format!("{seconds}s"), "--latency", "300ms"];
    stage.watch(at, &broadcast.link, &flags)
}

/// It ended well, and every frame of its recording is there.
fn assert_whole(stage: &Stage, at: usize, viewer: &Watching, seconds: u32) -> Result<()> {
    let status = viewer.process.wait(Duration::from_secs(u64::from(seconds) + 20))?;
    let last = viewer.latest();
    assert!(status.success(), "viewer {at}: {status}: {last}");
    assert_eq!(count(&last, "packets_unrecovered"), 0, "viewer {at}: {last}");
    let path = stage.path(&format!("{at}.mkv"));
    let recorded = clip::frames(&path);
    let whole = recorded.len().saturating_sub(LAST);
    assert!(whole >= 25 * (seconds as usize - 4), "viewer {at}: {whole} frames");
    let (_, worst) = clip::compare_looped(&recorded[..whole], &clip::frames(&stage::clip()));
    let gap = clip::longest_gap(&clip::times(&path, "v:0")[..whole]);
    assert!(worst > SAME_PICTURE && gap < 0.045, "viewer {at}: {worst} dB, a gap of {gap} s");
    Ok(())
}

#[test]
fn keys_take_over_and_nobody_misses_a_picture() -> Result<()> {
    let stage = Stage::with_links(&[clean(), lossy(), lossy()])?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "key_interval: 1s\n")?;
    let at_cam = stage.cam.capture()?;
    let first = [0, 1].map(|at| record(&stage, at, &broadcast, 16).map(|viewer| (at, viewer)));
    let first: Vec<_> = first.into_iter().collect::<Result<_>>()?;
    // One that comes later needs the keys of what was sent before.
    let (_, watching) = &first[0];
    watching
        .wait_for(Duration::from_secs(20), |stats| stats["frames_decoded"].as_u64() > Some(100));
    let late = record(&stage, 2, &broadcast, 9)?;
    for (at, viewer) in &first {
        assert_whole(&stage, *at, viewer, 16)?;
    }
    assert_whole(&stage, 2, &late, 9)?;
    let changes = stage.metric("punchcast_key_changes_total")?;
    let captured = at_cam.stop()?;
    let sent: BTreeSet<u32> = captured.iter().flat_map(epochs).collect();
    let packets = sealed(&captured);
    println!("{changes} keys took over, {packets} packets of {} epochs", sent.len());
    assert!(packets > 2_000, "{packets} packets were sealed");
    assert!(changes >= 10.0, "{changes} keys took over");
    assert!(sent.len() >= 10, "{sent:?}");
    Ok(())
}

#[test]
fn each_start_has_keys_and_streams_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("keys");
    let config = folder.path().join("config.yaml");
    std::fs::write(&config, format!("key_log: {}\n", log.display())).expect("room");
    let config = config.display().to_string();
    let (_rendezvous, at) = local::rendezvous();
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let start = local::broadcaster(at, folder.path(), "test", &["--config", &config]);
        let lines = std::fs::read_to_string(&log).expect("it is written");
        let words = lines.lines().flat_map(|line| line.split(' ').step_by(2));
        // The tracks of one start share a key.
        let own: BTreeSet<String> = words.map(Into::into).collect();
        assert!(own.len() >= 3, "SSRCs and a key: {lines}");
        assert!(own.iter().all(|word| seen.insert(word.clone())), "again: {lines}");
        let (mut broadcaster, _) = start;
        // Nothing is put in order before it goes.
        broadcaster.end_with(Signal::SIGKILL);
    }
}

#[test]
fn links_are_minted_and_revoked_while_it_runs() -> Result<()> {
    let stage = Stage::with_links(&[clean(), clean()])?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", "test", "links_only: true\n")?;
    let is_watching = |stats: &serde_json::Value| stats["frames_decoded"].as_u64() > Some(10);
    let refused = |link: &str| -> Result<()> {
        let viewer = stage.watch(1, link, &["--output", "null"])?;
        let status = viewer.process.wait(Duration::from_secs(20))?;
        assert_eq!(status.code(), Some(4), "{}", viewer.process.stderr().text());
        Ok(())
    };
    // Without a link nobody is let in.
    refused(&broadcast.link)?;
    let mint = |more: &[&str]| -> Result<String> {
        let text = operator(&stage, &[&["link", "new"], more].concat())?;
        Ok(text.trim().to_owned())
    };
    let once = mint(&["--name", "grandma", "--uses", "1", "--lasts", "1h"])?;
    let secret = once.rsplit_once('#').expect("a secret").1;
    let first = stage.watch(0, &once, &["--output", "null"])?;
    first.wait_for(Duration::from_secs(20), is_watching);
    refused(&once)?;
    let listed = operator(&stage, &["link", "list"])?;
    let line = listed.lines().find(|line| line.contains("grandma")).expect("it is listed");
    assert!(line.contains("1 of 1") && !listed.contains(secret), "{listed}");
    assert!(operator(&stage, &["viewers", "list"])?.contains("grandma"));
    // Revoked, it opens no more, and who came by it goes.
    operator(&stage, &["link", "revoke", "grandma"])?;
    assert_eq!(first.process.wait(Duration::from_secs(2))?.code(), Some(4));
    refused(&once)?;
    let other = mint(&[])?;
    let second = stage.watch(0, &other, &["--output", "null", "--for", "4s"])?;
    assert!(second.process.wait(Duration::from_secs(20))?.success());
    // Neither log, metrics nor rendezvous know a secret.
    let told = broadcast.process.stderr().text();
    assert!(!told.contains(secret) && !told.contains(other.rsplit_once('#').expect("one").1));
    Ok(())
}

#[test]
fn a_viewer_that_is_sent_away_can_read_nothing_more() -> Result<()> {
    let stage = Stage::with_links(&[clean(), lossy(), clean()])?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "")?;
    let at_cam = stage.cam.capture()?;
    let others = [0, 1].map(|at| record(&stage, at, &broadcast, 14).map(|viewer| (at, viewer)));
    let others: Vec<_> = others.into_iter().collect::<Result<_>>()?;
    let unwanted = stage.watch(2, &broadcast.link, &["--output", "null"])?;
    unwanted
        .wait_for(Duration::from_secs(20), |stats| stats["frames_decoded"].as_u64() > Some(100));
    let listed = operator(&stage, &["viewers", "list"])?;
    let address = stage.viewers[2].0.external_address().to_string();
    let line = listed.lines().find(|line| line.contains(&address));
    let line = line.unwrap_or_else(|| panic!("{address} is not listed: {listed}"));
    let number = line.split_whitespace().next().expect("a number");
    operator(&stage, &["viewers", "remove", number])?;
    let removed_at = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later");
    let status = unwanted.process.wait(Duration::from_secs(2))?;
    let said = unwanted.process.stderr().text();
    assert_eq!(status.code(), Some(4), "{said}");
    assert!(said.contains("removed this viewer"), "{said}");
    // Nor is it let in again.
    let again = stage.watch(2, &broadcast.link, &["--output", "null"])?;
    assert_eq!(again.process.wait(Duration::from_secs(20))?.code(), Some(4));
    for (at, viewer) in &others {
        assert_whole(&stage, *at, viewer, 14)?;
    }
    let second = removed_at + Duration::from_secs(1);
    let sent = at_cam.stop()?;
    let (before, after): (Vec<_>, Vec<_>) = sent.iter().partition(|datagram| datagram.at < second);
    let to = |datagram: &&&lab::pcap::Datagram| {
        datagram.destination.ip() == stage.viewers[2].0.external_address()
    };
    let known: BTreeSet<u32> =
        before.iter().filter(to).flat_map(|datagram| epochs(datagram)).collect();
    let later: BTreeSet<u32> = after.iter().flat_map(|datagram| epochs(datagram)).collect();
    assert!(!known.is_empty() && !later.is_empty(), "{known:?}, {later:?}");
    assert!(known.is_disjoint(&later), "it had {known:?}; {later:?} were sent a second later");
    let sent_to_it = after.iter().filter(to).flat_map(|datagram| epochs(datagram)).count();
    assert_eq!(sent_to_it, 0, "media goes on to it");
    Ok(())
}

/// What the operator hears of one viewer, by what it is called in the list.
fn listed(stage: &Stage, state: &str) -> Option<u32> {
    let answer = operator(stage, &["viewers", "list", "--json"]).ok()?;
    let answer: serde_json::Value = serde_json::from_str(&answer).ok()?;
    let viewers = answer["viewers"].as_array()?;
    let viewer = viewers.iter().find(|viewer| viewer["state"] == state)?;
    viewer["viewer"].as_str()?.parse().ok()
}

#[test]
fn who_knocks_waits_until_the_operator_says_so() -> Result<()> {
    let stage = Stage::with_links(&[clean(), clean(), clean()])?;
    let _rendezvous = stage.start_rendezvous()?;
    let source = format!("file:{}", stage::clip().display());
    let broadcast = stage.broadcast("cam", &source, "knock: true\nlinks_only: true\n")?;
    let link = operator(&stage, &["link", "new"])?.trim().to_owned();
    let patience = Duration::from_secs(20);

    // Who shows nothing is not heard knocking.
    let stranger = stage.watch(2, &broadcast.link, &["--output", "null"])?;
    assert_eq!(stranger.process.wait(patience)?.code(), Some(4));
    let first = stage.watch(0, &link, &["--output", "null"])?;
    let knocks = || listed(&stage, "knocking");
    assert!(lab::eventually(patience, || knocks().is_some()), "{}", first.process.stderr().text());
    let viewer = knocks().expect("it waits");
    // Longer than any answer is waited for otherwise.
    let waited = first.stats().len() + 13;
    first.wait_for(patience, |_| first.stats().len() >= waited);
    assert_eq!(first.latest()["packets_received"], 0, "it sees nothing yet: {}", first.latest());
    let said = first.process.stderr().text();
    assert!(said.contains("knocked"), "{said}");
    operator(&stage, &["viewers", "admit", &viewer.to_string()])?;
    first.wait_for(patience, |stats| count(stats, "frames_decoded") > 25);
    let again = operator(&stage, &["viewers", "admit", &viewer.to_string()]);
    assert!(again.is_err(), "it knocks no more");

    let second = stage.watch(1, &link, &["--output", "null"])?;
    assert!(lab::eventually(patience, || knocks().is_some()), "{}", second.process.stderr().text());
    let viewer = knocks().expect("it waits");
    operator(&stage, &["viewers", "remove", &viewer.to_string()])?;
    assert_eq!(second.process.wait(patience)?.code(), Some(4));

    // Who was let in comes back without a word.
    first.stop()?;
    let back = stage.watch(0, &link, &["--output", "null", "--for", "3s"])?;
    assert!(back.process.wait(patience)?.success(), "{}", back.process.stderr().text());
    assert!(count(&back.latest(), "frames_decoded") > 25, "{}", back.latest());
    Ok(())
}
