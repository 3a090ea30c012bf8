//! What strangers can make our programs send to others: every message of the fuzzers' corpora from addresses that are
//! not the sender's, to every port, against the table in docs/protocol.md.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use protocol::demux::{Class, classify};
use tests::lab::pcap::Datagram;
use tests::lab::{self, Lab, Nat, Result};
use tests::stage::Stage;

const SECOND: Duration = Duration::from_secs(1);
/// Open homes of the lab have the lower half.
const NOBODYS: &str = "198.19.128.0/17";

/// Datagrams a second: few enough that nothing is lost.
const RATE: u32 = 2_000;

/// What QUIC may answer to an address that it has not proved, for each byte (RFC 9000, section 8.1).
const QUIC: usize = 3;

/// Answers longer than their plain requests, at once and then each second, and by how much each may be longer.
const LONGER_AT_ONCE: f64 = 400.0;
const LONGER_A_SECOND: f64 = 200.0;
const LONGER_BY: usize = 56;

/// Sent by nobody, and what came back to that address.
#[derive(Debug, Default)]
struct Exchange {
    /// What came first.
    sent: Vec<u8>,
    /// Of all that came.
    bytes: usize,
    answers: Vec<Vec<u8>>,
}

fn exchanges(datagrams: &[Datagram]) -> HashMap<SocketAddr, Exchange> {
    let is_nobodys = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if matches!(ip.octets(), [198, 19, third, _] if third >= 128));
    let mut all: HashMap<_, Exchange> = HashMap::new();
    for Datagram { source, destination, payload, .. } in datagrams {
        if is_nobodys(source.ip()) {
            let exchange = all.entry(*source).or_default();
            exchange.bytes += payload.len();
            if exchange.sent.is_empty() {
                exchange.sent.clone_from(payload);
            }
        } else if is_nobodys(destination.ip()) {
            all.entry(*destination).or_default().answers.push(payload.clone());
        }
    }
    all
}

#[test]
fn nobody_gets_more_than_was_sent_in_its_name() -> Result<()> {
    let open = (Nat::Open, None);
    let mut stage = Stage::build(Lab::new()?, open.clone(), &[open])?;
    let spoofing = stage.lab.public_host("spoofing")?;
    // Where the answers arrive.
    spoofing.add_network(stage.lab.core(), NOBODYS)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", "test", "")?;
    let viewer = stage.watch(0, &broadcast.link, &["--output", "null"])?;
    let enough = |stats: &serde_json::Value| stats["frames_decoded"].as_u64() > Some(30);
    let playing = viewer.wait_for(20 * SECOND, enough);
    let broadcaster = playing["remote"].as_str().expect("a path").to_owned();
    let port = playing["local"].as_str().and_then(|at| at.rsplit_once(':')).expect("a port").1;
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/fuzz/corpus");
    let corpus = format!("corpus:{}", corpus.display());
    let server = stage.rendezvous.address();
    let targets = [
        ("rendezvous", format!("{server}:3478")),
        ("its second port", format!("{server}:3479")),
        ("its relay", format!("{server}:3480")),
        ("broadcaster", broadcaster),
        ("viewer", format!("{}:{port}", stage.viewers[0].1.address())),
    ];
    for (name, target) in targets {
        let capture = spoofing.capture()?;
        let mut replay = Command::new(lab::binary("lab-flood")?);
        replay.args([&target, &corpus, &RATE.to_string(), "5", NOBODYS]);
        let said = spoofing.run(&replay)?;
        // A program that answers twice, or later, is caught as well.
        let before = viewer.stats().len();
        viewer.wait_for(10 * SECOND, |_| viewer.stats().len() >= before + 3);
        let datagrams = capture.stop()?;
        let times = datagrams.iter().map(|datagram| datagram.at);
        let lasted = times.clone().max().unwrap_or_default() - times.min().unwrap_or_default();
        let all = exchanges(&datagrams);
        let (mut sent, mut answered, mut longer) = (0, 0, 0);
        for (at, Exchange { sent: message, bytes: came, answers }) in &all {
            let bytes: usize = answers.iter().map(Vec::len).sum();
            sent += came;
            answered += bytes;
            // A Version Negotiation packet begins with any byte, and version 0.
            let is_media = |answer: &Vec<u8>| {
                classify(answer) == Class::Media && answer.get(1..5) != Some(&[0; 4][..])
            };
            let is_media = answers.iter().any(is_media);
            assert!(!is_media, "{name} sends media to {at}: {answers:02x?} for {message:02x?}");
            match classify(message) {
                Class::Quic => {
                    assert!(bytes <= QUIC * came, "{name}: {bytes} for {came}")
                }
                Class::Stun if bytes > message.len() => {
                    longer += 1;
                    assert!(
                        bytes <= message.len() + LONGER_BY,
                        "{name}: {bytes} for {}",
                        message.len()
                    );
                }
                Class::Stun => {}
                Class::Media | Class::Dtls | Class::Unknown => {
                    assert_eq!(bytes, 0, "{name}: {message:02x?}")
                }
            }
        }
        println!(
            "{name}: {} messages of {sent} bytes ({}), {answered} bytes back, {longer} answers longer than asked",
            all.len(),
            said.lines().last().unwrap_or_default(),
        );
        assert!(all.len() > 250, "{} messages came out", all.len());
        assert!(f64::from(longer) <= LONGER_AT_ONCE + LONGER_A_SECOND * lasted.as_secs_f64());
        match name {
            "broadcaster" | "viewer" => assert_eq!(answered, 0, "{name} answers strangers"),
            _ => assert!(answered > 0, "{name} answers nobody"),
        }
    }
    viewer.stop()
}
