//! Random bytes at every port: nothing happens.

use std::net::{SocketAddr, UdpSocket};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tests::local::{self, Running, program, run};

const SMALL: &str = "pipeline:videotestsrc is-live=true ! video/x-raw,width=320,height=180";

/// Datagrams sent to each port.
const DATAGRAMS: usize = 20_000;

/// What resident memory may grow by meanwhile, in bytes.
const MOST_GROWTH: u64 = 16 << 20;

/// First bytes that lead into each parser, and plausible beginnings behind them.
const BEGINNINGS: [&[u8]; 7] = [
    // A STUN Binding request and success response, with the magic cookie.
    &[0x00, 0x01, 0x00, 0x14, 0x21, 0x12, 0xa4, 0x42],
    &[0x01, 0x01, 0x00, 0x0c, 0x21, 0x12, 0xa4, 0x42],
    // QUIC version 1: Initial, Handshake, and a short header.
    &[0xc0, 0x00, 0x00, 0x00, 0x01, 0x08],
    &[0xe0, 0x00, 0x00, 0x00, 0x01, 0x08],
    &[0x40],
    // RTP, RTCP.
    &[0x80, 0xe0],
    &[0x81, 0xc9],
];

fn bombard(ports: &[SocketAddr], rng: &mut StdRng) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    for at in 0..DATAGRAMS {
        let length = rng.random_range(0..1300);
        let mut datagram = vec![0; length];
        rng.fill_bytes(&mut datagram);
        if at % 4 != 0 {
            let beginning = BEGINNINGS[rng.random_range(0..BEGINNINGS.len())];
            let copied = beginning.len().min(length);
            datagram[..copied].copy_from_slice(&beginning[..copied]);
        }
        for port in ports {
            socket.send_to(&datagram, port).expect("loopback takes it");
        }
    }
}

#[test]
fn nothing_happens() {
    let seed = std::env::var("PUNCHCAST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    println!("PUNCHCAST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);

    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut rendezvous, at) = local::rendezvous();
    let (mut broadcaster, link) = local::broadcaster(at, folder.path(), SMALL, &[]);
    let mut viewer = program("punchcast-viewer");
    viewer.args(["watch", &link, "--output", "null", "--stats", "json"]);
    let mut viewer = Running::start(&mut viewer, false);
    let stats = |line: String| -> serde_json::Value {
        serde_json::from_str(&line).expect("statistics are JSON")
    };
    let playing = stats(viewer.line(|line| line.contains("\"remote\":\"")));
    let address = |key: &str| -> SocketAddr {
        playing[key].as_str().and_then(|text| text.parse().ok()).expect("an address")
    };
    let ports = [at, address("remote"), address("local")];

    let memory = |running: &Running| running.resident_memory();
    let before = [memory(&rendezvous), memory(&broadcaster), memory(&viewer)];
    bombard(&ports, &mut rng);
    let after = [memory(&rendezvous), memory(&broadcaster), memory(&viewer)];
    for (before, after) in before.iter().zip(after) {
        let growth = after.saturating_sub(*before);
        assert!(growth < MOST_GROWTH, "grew by {growth} bytes, from {before}");
    }

    // The stream goes on, and newcomers are served.
    let frames = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).ok()?["frames_decoded"].as_u64()
    };
    let first = frames(&viewer.line(|line| frames(line).is_some())).unwrap_or(0);
    let on = viewer.line(|line| frames(line).is_some_and(|now| now > first + 60));
    assert_eq!(stats(on)["reconnects"], 0);
    let mut newcomer = program("punchcast-viewer");
    let newcomer = run(newcomer.args(["watch", &link, "--output", "null", "--for", "4s"]));
    assert_eq!(newcomer.code, Some(0), "{newcomer:#?}");
    for program in [&mut rendezvous, &mut broadcaster, &mut viewer] {
        assert_eq!(program.try_wait(), None, "a program ended");
    }
}
