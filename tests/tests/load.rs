//! Many viewers, and what they cost each other: some that misbehave, many that come at once, more than
//! the uplink carries.

use std::process::Command;
use std::time::{Duration, Instant};

use tests::lab::{Result, Signal, eventually};
use tests::load::{Clip, Load, Second};
use tests::stage::{METRICS, Stage};

const SECOND: Duration = Duration::from_secs(1);

/// Longer than any of these tests.
const LONG: Duration = Duration::from_secs(120);

/// The lab's other half of the benchmarking addresses: its nodes are in 198.18.0.0/16.
const NETWORK: &str = "198.19.0.0/16";

/// A broadcast of the usual 4 Mbit/s that costs no encoding.
fn broadcast(stage: &Stage, settings: &str) -> Result<tests::stage::Broadcast> {
    let clip = Clip::default().make(stage.lab.folder()).expect("ffmpeg is there");
    stage.broadcast("cam", &format!("file:{}", clip.display()), settings)
}

#[test]
fn viewers_that_misbehave_cost_the_others_nothing() -> Result<()> {
    let mut stage = Stage::new(0)?;
    let crowd = stage.lab.public_host("crowd")?;
    crowd.add_network(stage.lab.core(), NETWORK)?;
    let names = ["lossy", "stalled", "flooding", "stopped"];
    let hosts = names.map(|name| stage.lab.public_host(name));
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = broadcast(&stage, "")?;
    let flags = ["--viewers", "46", "--addresses", NETWORK, "--join-rate", "40"];
    let good = Load::start(&crowd, "good", &broadcast.link, LONG, &flags)?;
    good.wait_for(10 * SECOND, |now| now.watching == 46);

    let flags: [&[&str]; 4] =
        [&["--loss", "0.5"], &["--stall-after", "1s"], &["--flood", "10000"], &[]];
    let mut bad = Vec::new();
    for ((host, name), flags) in hosts.into_iter().zip(names).zip(flags) {
        bad.push(Load::start(&host?, name, &broadcast.link, LONG, flags)?);
    }
    for one in &bad {
        one.wait_for(20 * SECOND, |now| now.watching == 1);
    }
    let [lossy, stalled, flooding, stopped] = &bad[..] else { unreachable!("four were started") };
    stopped.process.kill(Signal::SIGSTOP)?;
    let before = good.now();
    let began = Instant::now();
    let good_then = good.wait_for(30 * SECOND, |_| began.elapsed() >= 10 * SECOND);
    let flooded = flooding.now();
    assert_eq!((flooded.broken, flooded.ended), (0, 0), "{flooded:?}");
    // All four did what they were there for: 10,000 words a second of which 250 are opened, nothing read, not
    // a word for longer than media goes on.
    let unopened = stage.metric("punchcast_feedback_packets_dropped_total")?;
    assert!(unopened > 50_000.0, "{unopened} words of the flood were dropped unread");
    let read = stalled.now().packets;
    assert!(eventually(3 * SECOND, || stage
        .metric("punchcast_viewers_paused")
        .is_ok_and(|n| n >= 1.0)));
    assert_eq!(stalled.now().packets, read, "it reads nothing");
    // Half of what comes is lost, and half of what repairs it.
    let lossy = lossy.stop()?;
    assert!(lossy.counts.lost * 5 > lossy.counts.packets, "{lossy:?}");

    let summary = good.stop()?;
    println!("{summary:#?}");
    // 46 viewers, 4 Mbit/s in packets of at most 1,150 bytes.
    let least = 46 * 400 * (good_then.at_us - before.at_us) / 1_000_000;
    assert!(good_then.packets - before.packets > least, "{before:?} {good_then:?}");
    let Second { failed, broken, lost, unrecovered, corrupt, .. } = summary.counts;
    assert_eq!((failed, broken), (0, 0), "{:?}", summary.failures);
    assert_eq!((lost, unrecovered, corrupt), (0, 0, 0), "{summary:?}");
    Ok(())
}

#[test]
fn many_who_come_at_once_cost_those_who_watch_nothing() -> Result<()> {
    const WATCHING: u32 = 20;
    const COMING: u32 = 120;
    let mut stage = Stage::new(0)?;
    let [there, coming] = ["there", "coming"].map(|name| stage.lab.public_host(name));
    let (there, coming) = (there?, coming?);
    there.add_network(stage.lab.core(), "198.19.0.0/17")?;
    coming.add_network(stage.lab.core(), "198.19.128.0/17")?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = broadcast(&stage, "")?;
    let flags = ["--viewers", &WATCHING.to_string(), "--addresses", "198.19.0.0/17"];
    let there = Load::start(&there, "there", &broadcast.link, LONG, &flags)?;
    there.wait_for(10 * SECOND, |now| now.watching == WATCHING);
    let flags = ["--viewers", &COMING.to_string(), "--addresses", "198.19.128.0/17"];
    let flags = [&flags[..], &["--join-rate", "40"]].concat();
    let coming = Load::start(&coming, "coming", &broadcast.link, LONG, &flags)?;
    coming.wait_for(20 * SECOND, |now| now.watching + now.failed == COMING);
    let came = coming.stop()?;
    println!("{came:#?}");
    assert_eq!(came.counts.watching, COMING, "{:?}", came.failures);
    let summary = there.stop()?;
    println!("{summary:#?}");
    assert_eq!((summary.counts.lost, summary.counts.unrecovered), (0, 0), "{summary:?}");
    Ok(())
}

/// At most so many series, whoever comes and whatever they call things.
const MOST_SERIES: usize = 2000;

#[test]
fn a_thousand_viewers_and_hostile_names_make_no_more_series() -> Result<()> {
    const VIEWERS: u32 = 1000;
    let mut stage = Stage::new(1)?;
    let crowd = stage.lab.public_host("crowd")?;
    crowd.add_network(stage.lab.core(), NETWORK)?;
    let _rendezvous = stage.start_rendezvous()?;
    let clip =
        Clip { bits_per_second: 100_000, framerate: 10, keyframe_interval: 20, ..Clip::default() };
    let clip = clip.make(stage.lab.folder()).expect("ffmpeg is there");
    let source = format!("file:{}", clip.display());
    // A channel whose name is written like a label, like markup, and on two lines.
    let hostile = "a\"} 1\\npunchcast_evil{x=\"<img src=x onerror=alert(1)>";
    let settings = format!("channel: {}\n", serde_json::to_string(hostile).expect("text"));
    let broadcast = stage.broadcast("cam", &source, &settings)?;
    let series = || -> Result<usize> {
        let mut get = Command::new("curl");
        get.args(["--silent", "--fail", &format!("http://{METRICS}/metrics")]);
        let text = stage.cam.run(&get)?;
        // Nowhere but where it belongs, in the channel's label, as the exposition format escapes it.
        let escaped = hostile.replace('\\', "\\\\").replace('"', "\\\"");
        let others = text.replace(&format!("channel=\"{escaped}\""), "");
        assert!(others.len() < text.len(), "the channel is named");
        assert!(!others.contains("evil") && !others.contains("img"), "{text}");
        Ok(text.lines().filter(|line| !line.starts_with('#')).count())
    };
    let before = series()?;
    // They ask for channels that nobody has, each with another name.
    let (servers, _) = broadcast.link.rsplit_once('/').expect("a link has a channel");
    for name in ["%22%7D%201%0Aevil", "evil%7Bviewer%3D%22", "%3Cimg%20evil%3E"] {
        let asked = stage.watch(0, &format!("{servers}/{name}"), &["--output", "null"])?;
        assert_eq!(asked.process.wait(20 * SECOND)?.code(), Some(6), "{name}");
    }
    let flags = ["--viewers", &VIEWERS.to_string(), "--addresses", NETWORK, "--join-rate", "80"];
    let load = Load::start(&crowd, "crowd", &broadcast.link, LONG, &flags)?;
    load.wait_for(60 * SECOND, |now| now.watching + now.failed == VIEWERS);
    // All of them have reported.
    let known = |name: &str| stage.metric(name).unwrap_or_default();
    assert!(eventually(20 * SECOND, || known("punchcast_viewer_info") >= 100.0));
    let after = series()?;
    println!("{before} series without viewers, {after} with {VIEWERS}");
    assert_eq!(known("punchcast_viewer_info"), 100.0, "the worst hundred");
    assert_eq!(known("punchcast_refusals_total"), 3.0);
    assert!(after <= MOST_SERIES, "{after} series");
    let summary = load.stop()?;
    assert_eq!(summary.counts.failed, 0, "{:?}", summary.failures);
    Ok(())
}

/// The queue of a common router: what would wait longer is dropped.
const LONGEST_WAIT: Duration = Duration::from_millis(30);

#[test]
fn an_uplink_is_filled_and_never_overrun() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let crowd = stage.lab.public_host("crowd")?;
    crowd.add_network(stage.lab.core(), NETWORK)?;
    stage.home.limit_uplink(20_000_000, LONGEST_WAIT)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = broadcast(&stage, "uplink: 20M\n")?;
    let flags = ["--viewers", "6", "--addresses", NETWORK, "--join-rate", "0.5"];
    let load = Load::start(&crowd, "crowd", &broadcast.link, LONG, &flags)?;
    let all = load.wait_for(30 * SECOND, |now| now.watching + now.failed == 6);
    // Four streams of 4 Mbit/s and their repair fit; the rate is measured, and may leave room for a fifth.
    assert!((4..=5).contains(&all.watching), "{all:?}");

    let refused = stage.watch(0, &broadcast.link, &["--output", "null", "--for", "5s"])?;
    let status = refused.process.wait(10 * SECOND)?;
    let words = refused.process.stderr().text();
    assert_eq!(status.code(), Some(4), "{words}");
    assert!(words.contains("full"), "{words}");

    let watched = watch_for(&load, 10 * SECOND)?;
    let Second { packets, lost, .. } = watched;
    assert!(lost * 10_000 < packets, "{lost} of {packets} lost");
    Ok(())
}

/// What the test above would be worth without this one: the same viewers on the same uplink, whose
/// broadcaster believes in a wide one, and so sends every picture to all at once.
#[test]
fn the_same_uplink_loses_packets_where_nothing_is_paced() -> Result<()> {
    let mut stage = Stage::new(0)?;
    let crowd = stage.lab.public_host("crowd")?;
    crowd.add_network(stage.lab.core(), NETWORK)?;
    stage.home.limit_uplink(20_000_000, LONGEST_WAIT)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = broadcast(&stage, "uplink: 10G\n")?;
    let flags = ["--viewers", "4", "--addresses", NETWORK, "--join-rate", "0.5"];
    let load = Load::start(&crowd, "crowd", &broadcast.link, LONG, &flags)?;
    load.wait_for(30 * SECOND, |now| now.watching == 4);
    let Second { packets, lost, .. } = watch_for(&load, 10 * SECOND)?;
    assert!(lost * 10_000 > packets, "{lost} of {packets} lost");
    Ok(())
}

/// Lets all watch for a while, ends them, and gives the sum.
fn watch_for(load: &Load, duration: Duration) -> Result<Second> {
    let began = Instant::now();
    load.wait_for(duration + 20 * SECOND, |_| began.elapsed() > duration);
    let summary = load.stop()?;
    println!("{summary:#?}");
    assert_eq!(summary.counts.broken, 0, "{:?}", summary.failures);
    Ok(summary.counts)
}
