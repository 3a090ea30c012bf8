//! Paths that do not carry the stream: the viewer behind one is sent less, and goes on seeing something; nobody
//! else notices, and others on that path are left room.

use std::process::Command;
use std::time::Duration;

use protocol::demux::{Class, classify};
use serde_json::Value;
use tests::clip;
use tests::lab::pcap::Datagram;
use tests::lab::{Impairment, Link, Meanwhile, Rate, Result};
use tests::load::Clip;
use tests::stage::{Stage, count};

const ONE_WAY: Duration = Duration::from_millis(25);

/// What a link carries, and for a while.
const WIDE: u64 = 8_000_000;
const NARROW: u64 = 2_000_000;

/// For 100 ms at the rate of a wide link.
const QUEUE: u64 = 100_000;

/// When a link is narrow, since its first packet.
const FROM: Duration = Duration::from_secs(10);
const UNTIL: Duration = Duration::from_secs(22);

const SECONDS: u64 = 50;

/// How long the sender has to find out.
const FINDING_OUT: Duration = Duration::from_secs(2);

fn link(meanwhile: Option<Meanwhile>) -> Link {
    let rate = Some(Rate { meanwhile, ..Rate::new(WIDE, QUEUE) });
    Link { down: Impairment { rate, ..Impairment::delay(ONE_WAY) }, up: Impairment::delay(ONE_WAY) }
}

fn source(stage: &Stage) -> Result<String> {
    let clip = Clip { has_sound: true, ..Clip::default() };
    Ok(format!("file:{}", clip.make(stage.lab.folder()).expect("ffmpeg encodes").display()))
}

/// Bits a second of media and repair between two times.
fn rate<'a>(datagrams: impl Iterator<Item = &'a Datagram>, from: Duration, until: Duration) -> f64 {
    let media = datagrams.filter(|datagram| {
        (from..until).contains(&datagram.at) && classify(&datagram.payload) == Class::Media
    });
    let bytes: usize = media.map(|datagram| datagram.payload.len() + 28).sum();
    bytes as f64 * 8.0 / (until - from).as_secs_f64()
}

#[test]
fn a_link_that_narrows_gets_what_it_carries_and_everything_again_later() -> Result<()> {
    let meanwhile = Meanwhile { bits_per_second: NARROW, from: FROM, until: UNTIL };
    let stage = Stage::with_links(&[Some(link(Some(meanwhile))), Some(link(None))])?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", &source(&stage)?, "")?;
    let at_cam = stage.cam.capture()?;
    let duration = format!("{SECONDS}s");
    let mut watching = Vec::new();
    for at in 0..2 {
        let path = stage.path(&format!("{at}.mkv"));
        let record = format!("record:{}", path.display());
        let flags = ["--output", &record, "--for", &duration];
        watching.push((stage.watch(at, &broadcast.link, &flags)?, path));
    }
    let mut ended: Vec<(Vec<Value>, _)> = Vec::new();
    for (viewer, path) in watching {
        let status = viewer.process.wait(Duration::from_secs(SECONDS + 20))?;
        assert!(status.success(), "{status}");
        ended.push((viewer.stats(), path));
    }
    let sent = at_cam.stop()?;
    let to = |at: usize| {
        let address = stage.viewers[at].0.external_address();
        sent.iter().filter(move |datagram| datagram.destination.ip() == address)
    };
    // The link began to count with the first answer to the viewer, about when the broadcaster first sent to it.
    let began = to(0).next().expect("something was sent").at;
    let at = |seconds: f64| {
        rate(
            to(0),
            began + Duration::from_secs_f64(seconds),
            began + Duration::from_secs_f64(seconds + 1.0),
        )
    };
    for second in 0..SECONDS - 2 {
        let frames: Vec<_> = ended
            .iter()
            .map(|(stats, _)| {
                stats.get(second as usize + 1).map_or(0, |stats| count(stats, "frames_decoded"))
            })
            .collect();
        println!("second {second}: {:.2} Mbit/s, frames {frames:?}", at(second as f64) / 1e6);
    }
    for (stats, _) in &ended {
        println!("{}", stats.last().expect("some statistics"));
    }
    let before = rate(to(0), began + FROM - Duration::from_secs(4), began + FROM);
    let narrow = rate(to(0), began + FROM + FINDING_OUT, began + UNTIL);
    let after = Duration::from_secs(SECONDS - 6);
    let restored = rate(to(0), began + after, began + after + Duration::from_secs(4));
    println!("{before:.0} bit/s before, {narrow:.0} on the narrow link, {restored:.0} after it");
    assert!(before > 3.9e6 && restored > 3.9e6, "{before} and {restored} bit/s");
    assert!((0.4 * NARROW as f64..NARROW as f64).contains(&narrow), "{narrow} bit/s");
    let limited = &ended[0].0;
    let decoded = |second: usize| count(&limited[second], "frames_decoded");
    for second in 12..22 {
        let frames = decoded(second + 3) - decoded(second);
        assert!(frames >= 4, "{frames} frames in the three seconds from {second}");
    }
    let last = limited.last().expect("some statistics");
    assert_eq!(count(last, "reconnects"), 0);
    assert!(decoded(SECONDS as usize - 1) - decoded(SECONDS as usize - 5) >= 110, "{last}");
    // What was left out is not taken for lost. A joining burst is too much for a link of 8 Mbit/s, the more the
    // longer ago the keyframe was.
    let lost = count(last, "packets_lost") - count(&limited[5], "packets_lost");
    let left_out = stage.metric("punchcast_packets_left_out_total")?;
    println!("{lost} packets lost until the link was found out, {left_out} left out");
    // Until it is found out, and at each try for more, some are lost.
    assert!((lost as f64) < left_out / 2.0, "{lost} lost, {left_out} left out: {last}");
    let (other, path) = &ended[1];
    let joined = &other[5];
    let other = other.last().expect("some statistics");
    let unrecovered = count(other, "packets_unrecovered") - count(joined, "packets_unrecovered");
    assert_eq!(unrecovered, 0, "{other}");
    let times = clip::times(path, "v:0");
    assert!(clip::longest_gap(&times[150..]) < 0.05);
    assert!(left_out > 1_000.0, "{left_out}");
    Ok(())
}

#[test]
fn a_tcp_connection_on_the_same_link_keeps_a_third() -> Result<()> {
    let stage = Stage::with_links(&[Some(link(None))])?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", &source(&stage)?, "")?;
    let mut server = Command::new("iperf3");
    server.args(["--server", "--one-off", "--forceflush"]);
    let server = stage.rendezvous.spawn("iperf3-server", &server)?;
    server.wait_for_line(Duration::from_secs(5), |line| line.contains("listening"))?;
    let viewer = stage.watch(0, &broadcast.link, &["--output", "null", "--for", "60s"])?;
    viewer.wait_for(Duration::from_secs(15), |stats| stats["frames_decoded"].as_u64() > Some(60));
    let mut client = Command::new("iperf3");
    let address = stage.rendezvous.address().to_string();
    client.args(["--client", &address, "--reverse", "--time", "20", "--json"]);
    let printed = stage.viewers[0].1.run(&client)?;
    let result: Value = serde_json::from_str(&printed).expect("JSON");
    let tcp = result["end"]["sum_received"]["bits_per_second"].as_f64().expect("a rate");
    let stats = viewer.latest();
    println!("TCP got {tcp:.0} bit/s; {stats}");
    assert!(tcp >= WIDE as f64 / 3.0, "{tcp} bit/s");
    assert_eq!(count(&stats, "reconnects"), 0);
    let frames = count(&stats, "frames_decoded");
    assert!(frames > 130, "{frames} frames");
    viewer.stop()
}
