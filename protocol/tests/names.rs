//! Names that logs, metrics and people see: each thing has one of its own.

use std::collections::BTreeSet;
use std::fmt::Display;

use punchcast_protocol::address::Inadmissible;
use punchcast_protocol::behaviour::{Chance, Dependence, Kind, Ports};
use punchcast_protocol::candidate::{Candidate, CandidateKind};
use punchcast_protocol::channel::ViewerId;
use punchcast_protocol::library::Digest;
use punchcast_protocol::media;
use punchcast_protocol::opening::State;
use punchcast_protocol::{control, signalling};

const PORTS: [Ports; 4] =
    [Ports::Preserved, Ports::Other, Ports::Sequential { step: -2 }, Ports::Random];

const CHANCES: [Chance; 5] =
    [Chance::Direct, Chance::Predicted, Chance::Searched, Chance::Relayed, Chance::Unknown];

fn kinds() -> impl Iterator<Item = Kind> {
    Kind::KNOWN.into_iter().chain([Kind::Unknown])
}

/// Values of a label: lower-case words, none twice.
fn are_labels(what: &str, names: impl IntoIterator<Item = &'static str>) {
    let mut known = BTreeSet::new();
    for name in names {
        let is_label = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        assert!(is_label, "{what}: {name:?}");
        assert!(known.insert(name), "{what}: {name} twice");
    }
}

#[test]
fn labels_tell_apart_what_they_name() {
    use control::Refusal as ByBroadcaster;
    use signalling::Refusal as ByRendezvous;
    are_labels("dependence", Dependence::ALL.map(Dependence::as_str));
    are_labels("ports", PORTS.map(Ports::as_str));
    are_labels("kind of NAT", kinds().map(Kind::as_str));
    are_labels("chance", CHANCES.map(Chance::as_str));
    are_labels("candidate", CandidateKind::ALL.map(CandidateKind::as_str));
    are_labels("refusal by the broadcaster", ByBroadcaster::ALL.map(ByBroadcaster::as_str));
    are_labels(
        "refusal by the rendezvous",
        [
            ByRendezvous::UnknownBroadcaster,
            ByRendezvous::NoKey,
            ByRendezvous::Busy,
            ByRendezvous::Unexpected,
            ByRendezvous::NotListed,
        ]
        .map(ByRendezvous::as_str),
    );
    are_labels(
        "state",
        [State::Opening, State::Open, State::Doubtful, State::Failed, State::Lost]
            .map(State::as_str),
    );
    are_labels(
        "address",
        [
            Inadmissible::PortZero,
            Inadmissible::Unspecified,
            Inadmissible::Loopback,
            Inadmissible::Multicast,
            Inadmissible::Broadcast,
            Inadmissible::LinkLocal,
            Inadmissible::Private,
            Inadmissible::Ipv4Compatible,
        ]
        .map(Inadmissible::as_str),
    );
    are_labels("media", [media::Kind::Video, media::Kind::Audio].map(media::Kind::as_str));
}

#[test]
fn people_can_tell_behaviours_apart() {
    fn differ<T: Display>(values: impl IntoIterator<Item = T>) {
        let mut known = BTreeSet::new();
        for value in values {
            let text = value.to_string();
            assert!(!text.is_empty() && known.insert(text.clone()), "{text:?}");
        }
    }
    differ(Dependence::ALL);
    differ(PORTS);
    differ(kinds());
    differ(CHANCES);
    // A step's sign is part of what is said.
    assert!(Ports::Sequential { step: 2 }.to_string().contains("+2"));
    assert!(Ports::Sequential { step: -2 }.to_string().contains("-2"));
}

#[test]
fn things_are_written_the_usual_way() {
    let mut bytes = [0; 32];
    bytes[..3].copy_from_slice(&[0x00, 0x0f, 0xf0]);
    let digest = Digest(bytes);
    assert_eq!(digest.to_string(), format!("000ff0{}", "00".repeat(29)));
    assert_eq!(format!("{digest:?}"), format!("Digest({digest})"));
    let mapped = "[::ffff:192.0.2.1]:9".parse().expect("an address");
    let candidate = Candidate::new(mapped, CandidateKind::Relayed);
    assert_eq!(candidate.to_string(), "192.0.2.1:9 (relayed)");
    assert_eq!(media::Kind::Audio.to_string(), "audio");
    assert_eq!(ViewerId(7).to_string(), "7");
}
