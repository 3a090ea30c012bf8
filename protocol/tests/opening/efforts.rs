//! What opens when both sides make every effort: directly where both are known or one is lenient, by
//! prediction, by search, or with another socket; by the relay otherwise; and how often.

use std::time::Duration;

use punchcast_protocol::behaviour;
use punchcast_protocol::candidate::CandidateKind;
use punchcast_protocol::opening::{Event, Path, SEARCH_SOCKETS, SEARCHED_PORTS, search_chance};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::effort::behaviour;
use crate::nat::Dependence::{Address, AddressAndPort, Independent};
use crate::nat::{Kind, Ports};
use crate::net::{BROADCASTER, Scenario, VIEWER, World};
use crate::{runs, seed};

const RESTRICTED: Kind = Kind::nat(Independent, AddressAndPort, Ports::Random);
const RANDOM: Kind = Kind::nat(AddressAndPort, AddressAndPort, Ports::Random);

const fn sequential(step: i16) -> Kind {
    Kind::nat(AddressAndPort, AddressAndPort, Ports::Sequential(step))
}

/// Two sides that start at about the same time, as the rendezvous tells both.
fn scenario(viewer: Kind, broadcaster: Kind, rng: &mut StdRng) -> Scenario {
    let mut scenario = Scenario::apart(Some(viewer), Some(broadcaster));
    scenario.one_way = Duration::from_millis(rng.random_range(5..80));
    scenario.skew = Duration::from_millis(rng.random_range(0..30));
    scenario
}

fn is_direct(world: &World) -> bool {
    let direct = |side: usize| world.sides[side].agent.as_ref().is_some_and(|a| a.is_direct());
    direct(VIEWER) && direct(BROADCASTER)
}

/// How many of so many worlds open directly within a time, and how long the slowest took. Both sides
/// then agree.
fn direct(
    what: &str,
    total: u64,
    within: Duration,
    mut make: impl FnMut(&mut StdRng) -> (Scenario, bool),
) -> u64 {
    let seed = seed();
    let mut times = Vec::new();
    for run in 0..total {
        let mut rng = StdRng::seed_from_u64(seed ^ run << 32);
        let (scenario, has_relay) = make(&mut rng);
        let mut world = World::new(scenario, seed ^ run << 32).with_efforts(has_relay);
        if world.run_until(world.start + within, is_direct) {
            times.push(world.now - world.start);
            world.run_for(Duration::from_secs(3));
            assert!(is_direct(&world) && world.agree(), "{what}, run {run}");
        } else if std::env::var_os("PUNCHCAST_TELL").is_some() {
            println!("{what}: run {run} does not open: {:?}", world.scenario);
        }
    }
    times.sort();
    let part = |of: usize| times.get(times.len() * of / 100).copied().unwrap_or_default();
    println!(
        "{what}: {} of {total} direct; 50% within {:?}, 95% {:?}, 99% {:?}",
        times.len(),
        part(50),
        part(95),
        part(99)
    );
    times.len() as u64
}

#[test]
fn quiet_sequences_are_predicted_always() {
    let total = runs(1000);
    let hits = direct("sequential, quiet", total, Duration::from_secs(2), |rng| {
        let kind = sequential([1, 2, 4, -1, -2][rng.random_range(0..5)]);
        let (viewer, broadcaster) =
            if rng.random() { (kind, RESTRICTED) } else { (RESTRICTED, kind) };
        (scenario(viewer, broadcaster, rng), false)
    });
    assert_eq!(hits, total);
}

#[test]
fn sequences_are_predicted_among_other_flows() {
    let total = runs(1000);
    let hits = direct("sequential, 20 flows a second", total, Duration::from_secs(3), |rng| {
        let kind = Kind { competing: 20, ..sequential([1, 2][rng.random_range(0..2)]) };
        let (viewer, broadcaster) =
            if rng.random() { (kind, RESTRICTED) } else { (RESTRICTED, kind) };
        (scenario(viewer, broadcaster, rng), false)
    });
    assert!(hits * 100 >= total * 95, "{hits} of {total}");
}

/// Where guessing ends: windows hold 20 ports, and two sequences among other flows seldom meet.
#[test]
fn busy_networks_spoil_guesses() {
    let total = runs(200);
    let hits = |what: &str, competing: u32, both: bool| {
        direct(
            &format!("{what}, {competing} flows a second"),
            total,
            Duration::from_secs(6),
            |rng| {
                let kind = Kind { competing, ..sequential(1) };
                let scenario = scenario(kind, if both { kind } else { RESTRICTED }, rng);
                (scenario, false)
            },
        )
    };
    let predicted = [100, 1000].map(|rate| hits("sequential", rate, false));
    let together = [2, 20, 100].map(|rate| hits("sequential with sequential", rate, true));
    assert!(predicted[0] * 100 >= total * 95, "{predicted:?}");
    assert!(predicted[1] < total, "{predicted:?}");
    assert!(together[0] * 100 >= total * 90 && together[2] < together[0], "{together:?}");
}

#[test]
fn two_quiet_sequences_meet() {
    let total = runs(1000);
    let hits = direct("sequential with sequential, quiet", total, Duration::from_secs(6), |rng| {
        let mut any = || sequential([1, 2, -1][rng.random_range(0..3)]);
        let (viewer, broadcaster) = (any(), any());
        (scenario(viewer, broadcaster, rng), false)
    });
    assert!(hits * 100 >= total * 90, "{hits} of {total}");
}

/// The search finds its port as often as theory says: within four standard deviations.
#[test]
fn searches_succeed_as_often_as_theory_says() {
    let total = runs(100);
    let hits = direct("random with restricted", total, Duration::from_secs(10), |rng| {
        let (viewer, broadcaster) =
            if rng.random() { (RANDOM, RESTRICTED) } else { (RESTRICTED, RANDOM) };
        (scenario(viewer, broadcaster, rng), true)
    });
    let chance = search_chance(SEARCH_SOCKETS, SEARCHED_PORTS);
    let deviation = (total as f64 * chance * (1.0 - chance)).sqrt();
    let least = total as f64 * chance - 4.0 * deviation - 1.0;
    assert!(hits as f64 >= least, "{hits} of {total}, expected {:.2}%", chance * 100.0);
}

/// Ports as they come, until one of the sockets is found: after 64512/256 = 252 on average, and half
/// of the searches need 175 or fewer.
#[test]
fn half_the_searches_take_no_more_ports_than_theory_says() {
    let seed = seed();
    let total = runs(60);
    let mut few = 0;
    for run in 0..total {
        let mut rng = StdRng::seed_from_u64(seed ^ run << 32);
        let mut scenario = scenario(RANDOM, RESTRICTED, &mut rng);
        // Far enough away that all sockets are open when the first port is tried.
        scenario.one_way = Duration::from_millis(80);
        let mut world = World::new(scenario, seed ^ run << 32).with_efforts(true);
        let end = world.start + Duration::from_secs(10);
        world.run_until(end, is_direct);
        let tried = world.sides[BROADCASTER].agent().tried().scouts;
        // What was on its way when the hit was answered: two round trips' worth at 500 a second.
        let flying = (world.rtt() * 2).as_millis() as u32 / 2;
        few += u64::from(tried.saturating_sub(flying) <= 175);
    }
    println!("{few} of {total} searches found a socket with the first 175 ports");
    let spread = 2.0 * (total as f64).sqrt();
    assert!((few as f64 - total as f64 / 2.0).abs() <= spread, "{few} of {total}");
}

/// The side that starts late loses its port; another socket opens the path.
#[test]
fn stolen_ports_are_replaced() {
    for (what, thieves) in
        [("the viewer's", [true, false]), ("the broadcaster's", [false, true]), ("both", [true; 2])]
    {
        let total = runs(400);
        let what = format!("port theft, {what} router, skew up to 300 ms");
        let opened = direct(&what, total, Duration::from_secs(3), |rng| {
            let kinds = thieves.map(|steals| if steals { Kind::thief() } else { RESTRICTED });
            let mut scenario = scenario(kinds[VIEWER], kinds[BROADCASTER], rng);
            scenario.skew = Duration::from_millis(rng.random_range(0..=300));
            scenario.is_late[rng.random_range(0..2)] = true;
            (scenario, false)
        });
        assert_eq!(opened, total, "{what}");
    }
}

/// Why another socket waits until the peer is told of it: openers that leave at once are there before
/// the peer's own, and its router takes the next port as well.
#[test]
fn another_socket_in_a_hurry_is_robbed_again() {
    let seed = seed();
    let total = runs(100);
    let opens = |waits: bool| {
        let opened = (0..total).filter(|run| {
            let mut scenario = Scenario::apart(Some(RESTRICTED), Some(Kind::thief()));
            scenario.skew = Duration::from_millis(200);
            let mut world = World::new(scenario, seed ^ run << 32).with_efforts(false);
            world.rebound_after = (!waits).then_some(Duration::ZERO);
            world.run_until(world.start + Duration::from_secs(3), is_direct)
        });
        opened.count() as u64
    };
    let (waiting, hurrying) = (opens(true), opens(false));
    println!("of {total}: {waiting} open where the other socket waits, {hurrying} where not");
    assert_eq!((waiting, hurrying), (total, 0));
}

/// Every pair of kinds, one or two layers deep: direct where theory allows it, else relayed, and never
/// without a path.
#[test]
fn everything_opens_or_is_relayed() {
    let seed = seed();
    let total = runs(1500);
    let (mut direct, mut relayed) = (0, 0);
    for run in 0..total {
        let mut rng = StdRng::seed_from_u64(seed ^ run << 32);
        let mut scenario = any_scenario(&mut rng);
        for side in [VIEWER, BROADCASTER] {
            let kind = scenario.boxes[scenario.sides[side][0].behind.unwrap()].0;
            if kind.mapping.is_some() && rng.random_bool(0.2) {
                let carrier = [RESTRICTED, sequential(1), RANDOM][rng.random_range(0..3)];
                scenario = scenario.carry(side, carrier);
            }
        }
        let mut world = World::new(scenario, seed ^ run << 32).with_efforts(true);
        let expected = world.possible || expects_guess(&world);
        let what = format!("run {run}: {:?}", world.scenario);
        // Where a search is part of the plan, the relay carries meanwhile.
        let soon = Duration::from_secs(2);
        world.run_until(world.start + soon, |world| world.sides.iter().all(|side| side.is_open()));
        let events = world.sides.each_ref().map(|side| &side.events);
        assert!(
            world.sides.iter().all(|side| side.is_open()),
            "no path after 2 s, {what}: {events:?}"
        );
        let end = world.start + Duration::from_secs(11);
        let opened = world.run_until(end, is_direct);
        assert_eq!(opened, expected, "direct, {what}");
        // A search may hit twice: both sides then follow the viewer's nomination.
        world.run_for(Duration::from_secs(1));
        assert!(world.agree() && is_direct(&world) == opened, "{what}");
        *(if opened { &mut direct } else { &mut relayed }) += 1;
        if !opened {
            let kinds = world.sides.each_ref().map(|side| side.path().unwrap().kind);
            assert_eq!(kinds, [CandidateKind::Relayed; 2], "{what}");
        }
    }
    println!("{direct} direct, {relayed} relayed");
    assert!(direct > total / 3 && relayed > total / 20);
}

fn any_scenario(rng: &mut StdRng) -> Scenario {
    let kinds = [
        Kind::firewall(AddressAndPort),
        Kind::nat(Independent, Independent, Ports::Preserved),
        Kind::nat(Independent, Address, Ports::Random),
        RESTRICTED,
        sequential(1),
        sequential(-2),
        RANDOM,
        Kind::nat(Address, AddressAndPort, Ports::Random),
    ];
    let mut any = || kinds[rng.random_range(0..kinds.len())];
    let (viewer, broadcaster) = (any(), any());
    scenario(viewer, broadcaster, rng)
}

/// Whether ports that nobody was told are found: one side's are known, or both come in sequence.
fn expects_guess(world: &World) -> bool {
    let [viewer, broadcaster] = [VIEWER, BROADCASTER].map(|side| {
        let behaviour = behaviour(&world.scenario.kinds(side));
        let is_dependent = behaviour.mapping != Some(behaviour::Dependence::Independent);
        behaviour.ports.filter(|_| is_dependent)
    });
    let is_sequence = |ports| matches!(ports, Some(behaviour::Ports::Sequential { .. }));
    viewer.is_none() || broadcaster.is_none() || (is_sequence(viewer) && is_sequence(broadcaster))
}

/// A relayed path gives way to a direct one, at both ends, without a gap in the media.
#[test]
fn relayed_paths_become_direct() {
    let seed = seed();
    for run in 0..runs(200) {
        let mut rng = StdRng::seed_from_u64(seed ^ run << 32);
        let scenario = scenario(RANDOM, RANDOM, &mut rng);
        let mut world = World::new(scenario, seed ^ run << 32).with_efforts(true);
        world.run_for(Duration::from_secs(3));
        let kind =
            |world: &World, side: usize| world.sides[side].path().map(|path: Path| path.kind);
        assert_eq!(kind(&world, VIEWER), Some(CandidateKind::Relayed), "run {run}");
        // The viewer comes into a better network, and asks again after a while.
        world.routes.boxes[VIEWER].kind = Kind::nat(Independent, Independent, Ports::Random);
        world.routes.boxes[VIEWER].flush();
        world.run_for(Duration::from_secs(2));
        let before = world.effort(VIEWER).packets;
        world.effort(VIEWER).longest_gap = Duration::ZERO;
        world.ask_again();
        let asked_at = world.now;
        assert!(world.run_until(asked_at + Duration::from_secs(2), is_direct), "run {run}");
        world.run_for(Duration::from_secs(1));
        assert!(world.agree() && is_direct(&world), "run {run}");
        assert!(world.sides.iter().all(|side| {
            side.events.iter().all(|(_, event)| !matches!(event, Event::Lost(_) | Event::Failed(_)))
        }));
        // The shorter way makes no gap: at most packets that overtake others.
        assert!(world.effort(VIEWER).longest_gap <= Duration::from_millis(21), "run {run}");
        assert!(world.effort(VIEWER).packets > before + 40);
    }
}
