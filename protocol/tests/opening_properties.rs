//! Whatever arrives, nothing panics, and what is written is read back.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use punchcast_protocol::address::{Policy, admissible, canonical};
use punchcast_protocol::candidate::{Candidate, CandidateKind};
use punchcast_protocol::opening::{
    Agent, Config, Credentials, Handled, IntroductionId, Local, Role, Setup, State, username_of,
};
use punchcast_protocol::stun::{
    PLAIN_REQUEST, Place, answer_plain_binding, binding_request, is_stun, mapped_address,
    transaction_id,
};
use rand::SeedableRng;
use rand::rngs::StdRng;

const OURS: &str = "198.51.100.1:5000";
const PEERS: &str = "203.0.113.1:6000";

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}

fn candidate() -> impl Strategy<Value = Candidate> {
    (address(), prop::sample::select(&CandidateKind::ALL[..]))
        .prop_map(|(address, kind)| Candidate::new(address, kind))
}

fn agent(role: Role, remote: &str, now: Instant) -> Agent {
    let setup = Setup {
        role,
        credentials: Credentials { id: IntroductionId([3; 8]), secret: [4; 16] },
        local: Vec::new(),
        remote: vec![Candidate::new(remote.parse().unwrap(), CandidateKind::Reflexive)],
        seen: None,
        holds: false,
        hop_limit: None,
        policy: Policy::default(),
        config: Config::for_role(role),
    };
    Agent::new(setup, &mut StdRng::seed_from_u64(role as u64), now)
}

/// Real messages: a check, its answer, a nomination, a plain request and its answer.
fn messages(now: Instant) -> Vec<Vec<u8>> {
    let [ours, peers] = [OURS, PEERS].map(|text| text.parse::<SocketAddr>().unwrap());
    let mut viewer = agent(Role::Viewer, PEERS, now);
    let mut broadcaster = agent(Role::Broadcaster, OURS, now);
    let check = viewer.poll_transmit().unwrap().payload;
    let other_check = broadcaster.poll_transmit().unwrap().payload;
    broadcaster.handle_datagram(Local::MAIN, ours, &check, now);
    let answer = broadcaster.poll_transmit().unwrap().payload;
    viewer.handle_datagram(Local::MAIN, peers, &answer, now);
    let nomination = viewer.poll_transmit().unwrap().payload;
    let (_, plain) = binding_request(&mut StdRng::seed_from_u64(1));
    let plain_answer = answer_plain_binding(&plain, ours, None, || false).unwrap().bytes;
    vec![check, other_check, answer, nomination, plain, plain_answer]
}

/// Changes to a message: bytes set, then cut, then bytes behind it, then perhaps an honest length.
type Changes = (Vec<(usize, u8)>, usize, Vec<u8>, bool);

fn changes() -> impl Strategy<Value = Changes> {
    let bytes = prop::collection::vec((0..140usize, any::<u8>()), 0..8);
    (bytes, 0..24usize, prop::collection::vec(any::<u8>(), 0..24), any::<bool>())
}

fn change(message: &[u8], (bytes, cut, more, mends_length): Changes) -> Vec<u8> {
    let mut changed = message.to_vec();
    for (at, byte) in bytes {
        let at = at % changed.len();
        changed[at] = byte;
    }
    changed.truncate(changed.len() - cut.min(changed.len()));
    changed.extend(more);
    if mends_length && changed.len() >= 20 {
        changed.truncate(changed.len() / 4 * 4);
        let length = (changed.len() - 20) as u16;
        changed[2..4].copy_from_slice(&length.to_be_bytes());
    }
    changed
}

/// Gives a datagram to everything that takes one.
fn give(datagram: &[u8], from: SocketAddr) -> Result<(), TestCaseError> {
    let now = Instant::now();
    is_stun(datagram);
    username_of(datagram);
    mapped_address(datagram, transaction_id(&mut StdRng::seed_from_u64(1)));
    let here = "[2001:db8::1]:3478".parse().unwrap();
    let other_address = Some("2001:db8::2".parse().unwrap());
    let place = Place { here, other_address, other_port: Some(3479) };
    for place in [None, Some(&place)] {
        if let Some(answer) = answer_plain_binding(datagram, from, place, || false) {
            prop_assert!(answer.bytes.len() <= datagram.len());
        }
        if let Some(answer) = answer_plain_binding(datagram, from, place, || true) {
            prop_assert!(answer.bytes.len() <= PLAIN_REQUEST);
        }
    }
    for role in [Role::Viewer, Role::Broadcaster] {
        let mut agent = agent(role, PEERS, now);
        while agent.poll_transmit().is_some() {}
        let handled = agent.handle_datagram(Local::MAIN, from, datagram, now);
        let first = agent.poll_transmit();
        match handled {
            Handled::Mine => {
                let answer = first.filter(|first| first.payload[0] == 1);
                prop_assert!(answer.is_none_or(|answer| answer.payload.len() <= datagram.len()));
            }
            Handled::NotMine(_) => {
                prop_assert_eq!(first, None);
                prop_assert_eq!(agent.state(), State::Opening);
                prop_assert_eq!(agent.tried().checks_received, 0);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn arbitrary_bytes(datagram in prop::collection::vec(any::<u8>(), 0..1500), from in address()) {
        give(&datagram, from)?;
    }

    #[test]
    fn arbitrary_attributes(
        kind in prop::sample::select(vec![[0u8, 1], [1, 1], [1, 0x11], [0, 0x11], [0, 3]]),
        attributes in prop::collection::vec(
            (
                prop::sample::select(vec![
                    1u16, 3, 6, 8, 0x1c, 0x20, 0x24, 0x25, 0x8028, 0xc001, 0xc0e1, 0xc0e2,
                ]),
                prop::collection::vec(any::<u8>(), 0..40),
                -2i32..3,
            ),
            0..8,
        ),
        from in address(),
    ) {
        let mut datagram = vec![kind[0], kind[1], 0, 0, 0x21, 0x12, 0xa4, 0x42];
        datagram.extend([7; 12]);
        for (attribute, value, lie) in attributes {
            datagram.extend(attribute.to_be_bytes());
            datagram.extend(((value.len() as i32 + lie) as u16).to_be_bytes());
            datagram.extend(&value);
            datagram.resize(datagram.len().next_multiple_of(4), 0);
        }
        let length = (datagram.len() - 20) as u16;
        datagram[2..4].copy_from_slice(&length.to_be_bytes());
        give(&datagram, from)?;
    }

    #[test]
    fn changed_messages(which in 0..6usize, changes in changes(), from in address()) {
        let message = &messages(Instant::now())[which];
        let changed = change(message, changes);
        give(&changed, from)?;
        give(&changed, PEERS.parse().unwrap())?;
    }

    /// Messages in any order, from anywhere, at any time, with timeouts between them.
    #[test]
    fn any_order(
        steps in prop::collection::vec((0..8usize, 0..3usize, 0..2000u64), 0..60),
        role in prop::sample::select(vec![Role::Viewer, Role::Broadcaster]),
    ) {
        let start = Instant::now();
        let messages = messages(start);
        let from = [OURS, PEERS, "192.0.2.77:7"].map(|text| text.parse::<SocketAddr>().unwrap());
        let mut agent = agent(role, if role == Role::Viewer { PEERS } else { OURS }, start);
        let mut now = start;
        for (what, source, millis) in steps {
            now += Duration::from_millis(millis);
            match messages.get(what) {
                Some(message) => {
                    agent.handle_datagram(Local::MAIN, from[source], message, now);
                }
                None if what == 6 => agent.handle_timeout(now),
                None => agent.handle_authenticated(now),
            }
            while agent.poll_transmit().is_some() {}
            while agent.poll_event().is_some() {}
            prop_assert_eq!(agent.poll_timeout().is_none(), agent.state().is_over());
            if let Some(remote) = agent.remote() {
                prop_assert!(agent.is_proved(remote));
            }
        }
    }

    #[test]
    fn candidates_travel(candidate in candidate()) {
        let bytes = minicbor::to_vec(candidate).unwrap();
        prop_assert!(bytes.len() <= 21);
        prop_assert_eq!(minicbor::decode::<Candidate>(&bytes).unwrap(), candidate);
        prop_assert_eq!(canonical(candidate.address), candidate.address);
    }

    #[test]
    fn arbitrary_candidates_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(candidate) = minicbor::decode::<Candidate>(&bytes) {
            prop_assert_eq!(canonical(candidate.address), candidate.address);
        }
    }

    /// A policy that allows more refuses no more, and the form of an address makes no difference.
    #[test]
    fn policies_are_monotonic(address in address()) {
        let all = Policy { loopback: true, private: true };
        if admissible(address, &Policy::default()).is_ok() {
            prop_assert!(admissible(address, &all).is_ok());
        }
        prop_assert_eq!(
            admissible(address, &Policy::default()),
            admissible(canonical(address), &Policy::default())
        );
        if let IpAddr::V4(ip) = address.ip() {
            let mapped = SocketAddr::from((ip.to_ipv6_mapped(), address.port()));
            prop_assert_eq!(admissible(mapped, &all), admissible(address, &all));
        }
    }

    #[test]
    fn plain_answers_are_read_back(from in address(), seed: u64) {
        let (transaction, request) = binding_request(&mut StdRng::seed_from_u64(seed));
        let answer = answer_plain_binding(&request, from, None, || false).unwrap();
        prop_assert_eq!(mapped_address(&answer.bytes, transaction), Some(canonical(from)));
    }
}
