//! The fuzz targets of `protocol/fuzz` on stable: every committed corpus file, and seeded changes of
//! them. `PUNCHCAST_SEED` sets the seed, `PUNCHCAST_RUNS` how many changed inputs each target gets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use punchcast_protocol::address::Policy;
use punchcast_protocol::behaviour::Behaviour;
use punchcast_protocol::candidate::{Candidate, CandidateKind};
use punchcast_protocol::control::{Admission, ChannelEntry, Notice, Request, Response, Track};
use punchcast_protocol::feedback::{
    Ask, Block, Times, Totals, What, Wish, encode_report, encode_wish,
};
use punchcast_protocol::link::{BroadcasterId, Link, Secret, Target};
use punchcast_protocol::media::{Format, Kind};
use punchcast_protocol::message::{LENGTH_PREFIX, encode};
use punchcast_protocol::opening::{Agent, Config, Credentials, IntroductionId, Role, Setup};
use punchcast_protocol::seal::{Epoch, MasterKey};
use punchcast_protocol::signalling::{
    Forecast, FromRendezvous, Introduction, Party, RelayOffer, RelayServer, ToRendezvous, Update,
};
use punchcast_protocol::srtcp::{FeedbackKey, Sealer};
use punchcast_protocol::stun::{Place, answer_plain_binding, binding_request};
use punchcast_protocol::units::Bitrate;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

#[path = "../fuzz/src/targets/mod.rs"]
pub mod targets;

/// Changed inputs for each target, and the time after which no more are made.
const RUNS: u64 = 10_000;
const LONGEST: Duration = Duration::from_secs(2);

/// Longest input, in bytes: a datagram, and enough choices for a long scene.
const MOST_BYTES: usize = 1500;

#[test]
fn agent() {
    replay("agent");
}

#[test]
fn channel() {
    replay("channel");
}

#[test]
fn control() {
    replay("control");
}

#[test]
fn demux() {
    replay("demux");
}

#[test]
fn feedback() {
    replay("feedback");
}

#[test]
fn link() {
    replay("link");
}

#[test]
fn receiver() {
    replay("receiver");
}

#[test]
fn reception() {
    replay("reception");
}

#[test]
fn rtp() {
    replay("rtp");
}

#[test]
fn seal() {
    replay("seal");
}

#[test]
fn signalling() {
    replay("signalling");
}

#[test]
fn srtcp() {
    replay("srtcp");
}

#[test]
fn stun() {
    replay("stun");
}

#[test]
fn text() {
    replay("text");
}

#[test]
fn timeline() {
    replay("timeline");
}

#[test]
fn volley() {
    replay("volley");
}

/// `paths` needs the transport crate, whose tests replay it.
#[test]
fn no_target_is_left_out() {
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(fuzz_folder().join(folder)).expect("committed");
        let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
        entries.filter_map(|entry| stem(entry.expect("readable").path())).collect()
    };
    let mut known: BTreeSet<_> = targets::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    known.insert("paths".to_owned());
    assert_eq!(names("fuzz_targets"), known);
    assert_eq!(names("corpus"), known);
}

/// Writes genuine messages into the corpus: run it when the wire format changes.
#[test]
#[ignore = "writes files"]
fn write_genuine_messages() {
    for (target, name, bytes) in genuine() {
        let path = fuzz_folder().join("corpus").join(target).join(name);
        std::fs::write(path, bytes).expect("writable");
    }
}

fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut rng = StdRng::seed_from_u64(1);
    let at = |port| SocketAddr::from(([203, 0, 113, 1], port));
    let candidate = Candidate::new(at(5000), CandidateKind::Reflexive);
    let secret = || Secret::new(b"sixteen byte key".to_vec());
    let id = BroadcasterId::new([7; 32]);
    let cbor = |bytes: Vec<u8>| bytes[LENGTH_PREFIX..].to_vec();

    let setup = Setup {
        role: Role::Viewer,
        credentials: Credentials { id: IntroductionId([3; 8]), secret: [4; 16] },
        local: Vec::new(),
        remote: vec![candidate],
        seen: None,
        holds: false,
        hop_limit: None,
        policy: Policy::default(),
        config: Config::for_role(Role::Viewer),
    };
    let check = Agent::new(setup, &mut rng, Instant::now()).poll_transmit().expect("an opener");
    let (_, request) = binding_request(&mut rng);
    let place = Place { here: at(3478), other_address: None, other_port: Some(3479) };
    let answer = answer_plain_binding(&request, at(6000), Some(&place), || true);
    let answer = answer.expect("a plain request").bytes;

    let format = Format {
        kind: Kind::Video,
        encoding_name: "H264".to_owned(),
        payload_type: 96,
        clock_rate: 90_000,
        channels: None,
        parameters: [("packetization-mode".to_owned(), "1".to_owned())].into(),
        rendition: None,
    };
    let track = Track {
        format: format.clone(),
        ssrc: 0x1111_1111,
        first_index: 70_000,
        live_index: 70_100,
        rtp_timestamp: 1,
        captured_us: 2_000_000,
    };
    let key = MasterKey::from_parts(Epoch::FIRST, [5; 16], [6; 12]);
    let admission = Admission {
        viewer: 7,
        tracks: vec![track],
        keys: vec![key.clone()],
        capture_now_us: 3_000_000,
        send_lag_us: 20_000,
        viewer_tag: 0,
        feedback_key: FeedbackKey::from_parts([7; 16], [8; 12]),
    };
    let channels = vec![ChannelEntry { name: "main".to_owned(), formats: vec![format] }];
    let introduction = Introduction {
        id: IntroductionId([3; 8]),
        secret: Some([4; 16]),
        peer: Party { candidates: vec![candidate], behaviour: Behaviour::default() },
        peer_observed: candidate,
        observed: candidate,
        relay: Some(RelayOffer {
            server: RelayServer::SameHost { port: 3480 },
            username: "1:viewer".to_owned(),
            password: "password".to_owned(),
        }),
    };
    let update = Update {
        candidates: vec![Candidate::new(at(5001), CandidateKind::Predicted)],
        forecast: Some(Forecast { attempt: 1, next: 5002, step: -2 }),
        sockets: Some(256),
        is_gone: false,
    };
    let link = Link {
        servers: vec![("rendezvous.example".to_owned(), 3478)],
        broadcaster: id,
        target: Target::File("films/a b.mkv".to_owned()),
        secret: secret(),
    };
    let mut sealed = encode_report(7, &[], &Totals::default(), Times::default());
    let feedback_key = FeedbackKey::from_parts([7; 16], [8; 12]);
    Sealer::new(&feedback_key, 7).seal(&mut sealed).expect("seals");
    let time = Some(Duration::from_millis(40));
    let times = Times {
        rtt: time,
        latency: time,
        shown: time,
        carried: Some(Bitrate::bits_per_second(8_000_000)),
    };
    let ask = |serial, what| Ask { serial, ssrc: 1, rounds_left: 2, what };
    let wish = Wish {
        loss: 26,
        takes_repair: true,
        asks: vec![
            ask(7, What::Packets { first: 70_000, others: vec![1, 35, 65_535] }),
            ask(8, What::Block { base: 70_100, lacks: 3 }),
            ask(9, What::Behind { index: 70_120, newest: 70_119, silence_us: 5_000 }),
        ],
    };
    let block = Block { ssrc: 1, fraction_lost: 3, ..Block::default() };
    let mut rtp = vec![0x91, 0xe0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0xbe, 0xde, 0, 1];
    rtp.extend([0x10, 9, 0, 0, 1, 2, 3, 4]);
    vec![
        ("stun", "check", check.payload.clone()),
        ("stun", "request", request.clone()),
        ("stun", "answer", answer),
        ("demux", "stun", request),
        ("demux", "rtp", rtp.clone()),
        ("rtp", "extension", rtp),
        ("feedback", "report", encode_report(9, &[block; 2], &Totals::default(), times)),
        ("srtcp", "sealed", sealed),
        ("feedback", "wish", encode_wish(9, &wish)),
        (
            "control",
            "watch",
            cbor(encode(&Request::Watch {
                channel: "main".to_owned(),
                secret: secret(),
                latency_ms: 200,
            })),
        ),
        ("control", "admitted", cbor(encode(&Response::Admitted { admission }))),
        ("control", "catalogue", cbor(encode(&Response::Catalogue { channels }))),
        ("control", "key", cbor(encode(&Notice::Key { key }))),
        (
            "signalling",
            "introduce",
            cbor(encode(&ToRendezvous::Introduce {
                broadcaster: id,
                party: Party { candidates: vec![candidate; 2], behaviour: Behaviour::default() },
                renews: Some(IntroductionId([3; 8])),
            })),
        ),
        (
            "signalling",
            "update",
            cbor(encode(&FromRendezvous::Update { introduction: IntroductionId([3; 8]), update })),
        ),
        (
            "signalling",
            "introduction",
            cbor(encode(&FromRendezvous::Introduction { introduction })),
        ),
        ("link", "file", link.to_string().into_bytes()),
        ("link", "channel", b"punchcast://[2001:db8::1]:1/".to_vec()),
        ("text", "rate", b"1.5M".to_vec()),
        ("text", "host", b"[2001:db8::1]:4433".to_vec()),
        ("text", "id", id.to_string().into_bytes()),
    ]
}

fn replay(name: &str) {
    let (_, body) = targets::ALL.iter().find(|(known, _)| *known == name).expect("a target");
    let corpus = corpus(name);
    for (path, bytes) in &corpus {
        attempt(*body, bytes, &format!("{name}: {}", path.display()));
    }

    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("PUNCHCAST_SEED").unwrap_or(1);
    let runs = number("PUNCHCAST_RUNS");
    let ends_at = Instant::now() + LONGEST;
    let mut rng = StdRng::seed_from_u64(seed);
    for run in 0..runs.unwrap_or(RUNS) {
        let bytes = changed(&corpus, &mut rng);
        attempt(*body, &bytes, &format!("{name}: PUNCHCAST_SEED={seed}, run {run}, {bytes:02x?}"));
        if runs.is_none() && Instant::now() >= ends_at {
            break;
        }
    }
}

/// Runs a body, and says on which input it failed.
fn attempt(body: targets::Body, bytes: &[u8], what: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(bytes))) {
        println!("failed on {what}");
        resume_unwind(panic);
    }
}

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// A target's committed inputs, in one order everywhere.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(fuzz_folder().join("corpus").join(name)).expect("committed");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{name} has no corpus");
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("readable"))).collect()
}

/// One input, or the front of one and the back of another, with some bytes changed.
fn changed(corpus: &[(PathBuf, Vec<u8>)], rng: &mut StdRng) -> Vec<u8> {
    let pick = |rng: &mut StdRng| corpus[rng.random_range(0..corpus.len())].1.clone();
    let mut bytes = pick(rng);
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..7) {
            0 => bytes.truncate(at),
            1 => {
                let other = pick(rng);
                let from = rng.random_range(0..=other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
            2 => bytes.insert(at, rng.random()),
            3 => {
                let mut more = [0; 24];
                rng.fill_bytes(&mut more);
                bytes.splice(at..at, more);
            }
            4 if at < bytes.len() => bytes[at] = *[0, 0x7f, 0x80, 0xff].get(at % 4).expect("four"),
            _ if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            _ => bytes.push(rng.random()),
        }
    }
    bytes.truncate(MOST_BYTES);
    bytes
}
