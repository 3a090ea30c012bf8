//! Discovery against simulated NATs and firewalls of every kind: what it says is what is there.
//!
//! Runs are deterministic. `PUNCHCAST_SEED` sets the seed (a failure prints it), `PUNCHCAST_RUNS`
//! multiplies the number of runs.

mod nat;
mod net;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nat::Kind;
use net::{Scene, Server, run};
use punchcast_protocol::behaviour::{
    Behaviour, Dependence, Depth, Discovery, Ports, Report, Setup,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use Dependence::{Address, AddressAndPort, Independent};

const OPEN: Kind = Kind::firewall("open", Independent);
const FIREWALL: Kind = Kind::firewall("firewall", AddressAndPort);
const FULL: Kind = Kind::nat("full", Independent, Independent, Ports::Preserved);
const RESTRICTED: Kind = Kind::nat("restricted", Independent, AddressAndPort, Ports::Preserved);
const OTHER_PORT: Kind = Kind::nat("other port", Independent, AddressAndPort, Ports::Other);
const BY_ADDRESS: Kind = Kind::nat("by address", Address, AddressAndPort, Ports::Random);
const RANDOM: Kind = Kind::nat("random", AddressAndPort, AddressAndPort, Ports::Random);
const NO_DROP: Kind = Kind { name: "no drop", takes_unsolicited: true, ..RESTRICTED };

const KINDS: [Kind; 16] = [
    OPEN,
    FIREWALL,
    Kind::firewall("firewall by address", Address),
    FULL,
    Kind::nat("full, other port", Independent, Independent, Ports::Other),
    Kind::nat("address-restricted", Independent, Address, Ports::Preserved),
    Kind::nat("address-restricted, other port", Independent, Address, Ports::Other),
    RESTRICTED,
    OTHER_PORT,
    Kind { name: "hairpin", hairpin: true, ..FULL },
    Kind { name: "restricted hairpin", hairpin: true, ..OTHER_PORT },
    NO_DROP,
    BY_ADDRESS,
    RANDOM,
    Kind::nat("sequential", AddressAndPort, AddressAndPort, Ports::Sequential { step: 1 }),
    Kind::nat("downwards", AddressAndPort, AddressAndPort, Ports::Sequential { step: -2 }),
];

/// What a full discovery should say of a kind, asking a server with two addresses.
fn expected(kind: Kind) -> Behaviour {
    let independent = kind.mapping == Independent;
    Behaviour {
        translated: Some(kind.translates),
        mapping: Some(kind.mapping),
        filtering: Some(kind.filtering),
        ports: Some(kind.ports),
        takes_unsolicited: independent.then_some(kind.takes_unsolicited),
        hairpin: (independent && kind.translates).then_some(kind.hairpin),
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Seeds of as many runs as usual, the first of which is printed.
fn seeds(usual: u64) -> impl Iterator<Item = u64> {
    let seed = number("PUNCHCAST_SEED").unwrap_or(1);
    println!("PUNCHCAST_SEED={seed}");
    (0..usual * number("PUNCHCAST_RUNS").unwrap_or(1)).map(move |at| seed.wrapping_add(at))
}

#[track_caller]
fn found(scene: &Scene, seed: u64) -> Report {
    let ended = run(scene, seed);
    let longest = if scene.depth == Depth::Full { Discovery::FULL } else { Discovery::QUICK };
    let what = || format!("PUNCHCAST_SEED={seed} {scene:?} {ended:?}");
    assert!(ended.took <= longest, "{}", what());
    assert!(ended.datagrams < 100, "{}", what());
    ended.outcome.unwrap_or_else(|_| panic!("{}", what()))
}

#[test]
fn every_kind_is_told_with_two_addresses() {
    for seed in seeds(40) {
        for kind in KINDS {
            let report = found(&Scene::new(&[kind], Server::TwoAddresses), seed);
            assert_eq!(report.behaviour, expected(kind), "seed {seed}: {}", kind.name);
            assert!(report.second_address && report.second_port);
            let sequential = matches!(kind.ports, Ports::Sequential { .. });
            assert_eq!(report.next_port.is_some(), sequential);
        }
    }
}

#[test]
fn with_one_address_what_depends_on_it_looks_independent() {
    for server in [Server::OneAddress, Server::BehindNat] {
        for seed in seeds(20) {
            for kind in KINDS {
                let blind =
                    |dependence| if dependence == Address { Independent } else { dependence };
                let mapping = blind(kind.mapping);
                let seen = Kind { mapping, filtering: blind(kind.filtering), ..kind };
                let mut expected = expected(seen);
                if kind.mapping == Address {
                    // It looks like another port for each socket.
                    expected.ports = Some(Ports::Other);
                }
                let report = found(&Scene::new(&[kind], server), seed);
                assert_eq!(report.behaviour, expected, "seed {seed}: {}", kind.name);
                assert!(!report.second_address && report.second_port);
            }
        }
    }
}

#[test]
fn what_the_server_cannot_show_stays_unknown() {
    for server in [Server::OnePort, Server::SecondPortShut] {
        for seed in seeds(20) {
            for kind in KINDS {
                let report = found(&Scene::new(&[kind], server), seed);
                let Behaviour { translated, mapping, filtering, takes_unsolicited, .. } =
                    report.behaviour;
                assert_eq!(translated, Some(kind.translates));
                assert_eq!(mapping, None, "{}", kind.name);
                // An answer that does come in from elsewhere says so all the same.
                let shown = server == Server::SecondPortShut && kind.filtering != AddressAndPort;
                assert_eq!(filtering.is_some(), shown, "{}", kind.name);
                assert_eq!(takes_unsolicited, shown.then_some(false), "{}", kind.name);
                let kept = kind.ports == Ports::Preserved;
                assert_eq!(report.behaviour.ports == Some(Ports::Preserved), kept);
            }
        }
    }
}

#[test]
fn a_quick_look_takes_two_round_trips() {
    for seed in seeds(40) {
        for kind in KINDS {
            let scene = Scene {
                depth: Depth::Quick,
                one_way: Duration::from_millis(30),
                ..Scene::new(&[kind], Server::TwoAddresses)
            };
            let ended = run(&scene, seed);
            assert_eq!(ended.took, scene.one_way * 4);
            let report = ended.outcome.expect("answers");
            let Behaviour { translated, mapping, ports, .. } = expected(kind);
            let quick = Behaviour { translated, mapping, ports, ..Behaviour::default() };
            assert_eq!(report.behaviour, quick, "seed {seed}: {}", kind.name);
        }
    }
}

#[test]
fn lost_packets_are_made_up_for() {
    let mut wrong = Vec::new();
    let mut unknown = 0;
    let mut runs = 0;
    for seed in seeds(20) {
        for kind in KINDS {
            let scene = Scene { loss: 0.1, ..Scene::new(&[kind], Server::TwoAddresses) };
            let all = |behaviour: Behaviour| {
                let Behaviour { mapping, filtering, takes_unsolicited, hairpin, .. } = behaviour;
                (mapping, filtering, takes_unsolicited, hairpin)
            };
            runs += 1;
            let Ok(report) = run(&scene, seed).outcome else {
                unknown += 1;
                continue;
            };
            let told = all(report.behaviour);
            if told != all(expected(kind)) {
                wrong.push((seed, kind.name, told));
            }
        }
    }
    // Six requests in a row without an answer: one of 20,000.
    assert!(unknown * 1000 <= runs, "{unknown} of {runs} without any answer");
    assert!(wrong.len() * 100 <= runs, "{} of {runs}: {wrong:#?}", wrong.len());
}

#[test]
fn the_household_s_own_mappings_between_ours_are_told_from_the_step() {
    let mut wrong = 0;
    let mut runs = 0;
    for seed in seeds(100) {
        for step in [1, 2, 7, -1] {
            let ports = Ports::Sequential { step };
            let kind = Kind::nat("busy", AddressAndPort, AddressAndPort, ports);
            let scene = Scene {
                competing: 3,
                depth: Depth::Quick,
                ..Scene::new(&[kind], Server::TwoAddresses)
            };
            let report = found(&scene, seed);
            assert!(matches!(report.behaviour.ports, Some(Ports::Sequential { .. })));
            runs += 1;
            wrong += u32::from(report.behaviour.ports != Some(ports));
        }
    }
    // All differences may have a divisor in common by chance.
    assert!(wrong * 20 < runs, "{wrong} of {runs}");
}

#[test]
fn two_in_a_row_are_what_they_amount_to() {
    let independent = Kind { filtering: AddressAndPort, ..OTHER_PORT };
    for (home, carrier, mapping, filtering, taken) in [
        (FULL, RANDOM, AddressAndPort, AddressAndPort, None),
        (RANDOM, independent, AddressAndPort, AddressAndPort, None),
        (RESTRICTED, FULL, Independent, AddressAndPort, Some(false)),
        (FULL, RESTRICTED, Independent, AddressAndPort, Some(false)),
        (FULL, FULL, Independent, Independent, Some(false)),
        (NO_DROP, RESTRICTED, Independent, AddressAndPort, Some(false)),
    ] {
        for seed in seeds(10) {
            let report = found(&Scene::new(&[home, carrier], Server::TwoAddresses), seed);
            let what = format!("seed {seed}: {} behind {}", home.name, carrier.name);
            assert_eq!(report.behaviour.mapping, Some(mapping), "{what}");
            assert_eq!(report.behaviour.filtering, Some(filtering), "{what}");
            assert_eq!(report.behaviour.takes_unsolicited, taken, "{what}");
        }
    }
}

#[test]
fn silence_ends_in_time() {
    for (depth, longest) in
        [(Depth::Quick, Discovery::QUICK), (Depth::Full, Duration::from_millis(1500))]
    {
        let silent = Scene { loss: 1.0, depth, ..Scene::new(&[RESTRICTED], Server::TwoAddresses) };
        let ended = run(&silent, 1);
        let failure = ended.outcome.expect_err("nothing came");
        assert!(ended.took <= longest, "{ended:?}");
        assert_eq!(failure.requests as usize, ended.datagrams);
        assert!((3..=6).contains(&ended.datagrams), "{ended:?}");
    }
}

#[test]
fn strangers_change_nothing() {
    let mut rng = StdRng::seed_from_u64(1);
    let now = Instant::now();
    let server: SocketAddr = "192.0.2.1:3478".parse().expect("an address");
    let local = (0..4).map(|at| SocketAddr::from(([192, 168, 1, 7], 5000 + at))).collect();
    let setup = Setup { server, local, depth: Depth::Quick };
    let mut discovery = Discovery::new(setup, &mut rng, now);
    let request = discovery.poll_transmit().expect("a request").payload;
    let place = None;
    for at in 8..20 {
        let mut forged = request.clone();
        forged[at] ^= 1;
        let answer =
            punchcast_protocol::stun::answer_plain_binding(&forged, server, place, || true);
        let answer = answer.expect("a request").bytes;
        for socket in 0..4 {
            discovery.handle_datagram(socket, server, &answer, now);
        }
    }
    for _ in 0..1000 {
        let length = rng.random_range(0..200);
        let bytes: Vec<u8> = (0..length).map(|_| rng.random()).collect();
        discovery.handle_datagram(0, server, &bytes, now);
    }
    assert_eq!((discovery.poll_transmit(), discovery.outcome()), (None, None));
}
