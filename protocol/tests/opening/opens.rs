//! A path opens if and only if one is possible, soon, and both sides agree on it.

use std::time::Duration;

use punchcast_protocol::candidate::CandidateKind;
use punchcast_protocol::opening::{Config, Event, Role, State};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::nat::Dependence::{self, Address, AddressAndPort, Independent};
use crate::nat::{Kind, Ports};
use crate::net::{BROADCASTER, Scenario, VIEWER, World};
use crate::{runs, seed};

/// Longest that anything takes: the broadcaster's deadline, and what is on the way then.
fn long_enough() -> Duration {
    Config::for_role(Role::Broadcaster).deadline + Duration::from_secs(2)
}

fn settle(world: &mut World) {
    world.run_until(world.start + long_enough(), |world| {
        world.sides.iter().all(|side| side.agent.as_ref().is_some_and(|a| a.state().is_over()))
    });
}

/// Runs one world to its end, and checks what holds for all.
fn check_outcome(world: &mut World) {
    settle(world);
    let what = format!("{:?}", world.scenario);
    let open = world.sides.each_ref().map(|side| side.is_open());
    assert_eq!(open, [world.possible; 2], "open, and possible: {what}");
    if world.possible {
        assert!(world.agree(), "both sides use one path: {what}");
        let [viewer, broadcaster] = world.sides.each_ref().map(|side| side.path().unwrap());
        assert_eq!(viewer.kind, broadcaster.kind, "both name one kind: {what}");
    } else {
        for side in &world.sides {
            assert_eq!(side.agent().state(), State::Failed);
            let [(_, Event::Failed(failure))] = &side.events[..] else {
                panic!("one event: {:?}", side.events)
            };
            assert!(failure.tried.openers > 0 && failure.tried.remotes > 0, "{failure}");
        }
    }
}

/// The kinds of the table, by class: lets anybody in; port-restricted; destination-dependent.
fn classes() -> [Vec<Option<Kind>>; 3] {
    let open = [
        None,
        Some(Kind::firewall(Independent)),
        Some(Kind::nat(Independent, Independent, Ports::Preserved)),
        Some(Kind::nat(Independent, Independent, Ports::Random)),
        Some(Kind::nat(Independent, Address, Ports::Random)),
    ];
    let restricted = [
        Some(Kind::firewall(AddressAndPort)),
        Some(Kind::nat(Independent, AddressAndPort, Ports::Preserved)),
        Some(Kind::nat(Independent, AddressAndPort, Ports::Random)),
    ];
    let dependent = [
        Some(Kind::nat(Address, AddressAndPort, Ports::Random)),
        Some(Kind::nat(AddressAndPort, AddressAndPort, Ports::Random)),
        Some(Kind::nat(AddressAndPort, AddressAndPort, Ports::Sequential(1))),
    ];
    [open.to_vec(), restricted.to_vec(), dependent.to_vec()]
}

#[test]
fn table_of_what_opens() {
    let seed = seed();
    let opens = [[true, true, true], [true, true, false], [true, false, false]];
    let classes = classes();
    for (broadcasters, row) in classes.iter().zip(opens) {
        for (viewers, expected) in classes.iter().zip(row) {
            for (broadcaster, viewer) in
                broadcasters.iter().flat_map(|b| viewers.iter().map(move |v| (b, v)))
            {
                let mut world = World::new(Scenario::apart(*viewer, *broadcaster), seed);
                assert_eq!(world.possible, expected, "{viewer:?} with {broadcaster:?}");
                check_outcome(&mut world);
                if !expected {
                    continue;
                }
                // One round trip where both addresses are known; half of one more for the side that
                // has to be found out.
                let known = [viewer, broadcaster]
                    .iter()
                    .all(|kind| kind.is_none_or(|kind| kind.is_independent()));
                let most = if known { world.rtt() } else { world.rtt() * 3 / 2 };
                for side in &world.sides {
                    let took = side.opened().unwrap().took;
                    assert!(
                        took <= most + Duration::from_millis(10),
                        "{took:?}: {viewer:?} {broadcaster:?}"
                    );
                }
            }
        }
    }
}

fn any_kind(rng: &mut StdRng) -> Option<Kind> {
    let mut any = || Dependence::ALL[rng.random_range(0..3)];
    let (mapping, filtering) = (any(), any());
    let ports = [Ports::Preserved, Ports::Sequential(1), Ports::Random][rng.random_range(0..3)];
    match rng.random_range(0..8) {
        0 => None,
        1 => Some(Kind::firewall(filtering)),
        _ => Some(Kind {
            inbound_refreshes: rng.random(),
            hairpin: rng.random(),
            expiry: Duration::from_secs(rng.random_range(10..120)),
            ..Kind::nat(mapping, filtering, ports)
        }),
    }
}

fn any_scenario(rng: &mut StdRng) -> Scenario {
    let mut scenario = match any_kind(rng) {
        Some(kind) if rng.random_bool(0.1) && kind.mapping.is_some() => Scenario::together(kind),
        kind => Scenario::apart(kind, any_kind(rng)),
    };
    if rng.random_bool(0.2) {
        for (side, inner) in
            ["[2001:db8:1::1]:5000", "[2001:db8:2::1]:6000"].into_iter().enumerate()
        {
            let inner = inner.parse().unwrap();
            scenario.attach(side, inner, Some(Kind::firewall(AddressAndPort)), inner.ip());
        }
    }
    scenario.one_way = Duration::from_millis(rng.random_range(1..200));
    scenario.skew = Duration::from_millis(rng.random_range(0..1500));
    scenario
}

/// Every mapping × filtering on both sides, whatever the ports, start times, families and networks.
#[test]
fn opens_if_and_only_if_possible() {
    let seed = seed();
    let mut possible = 0;
    let total = runs(3000);
    for run in 0..total {
        let mut rng = StdRng::seed_from_u64(seed ^ run << 32);
        let mut world = World::new(any_scenario(&mut rng), seed ^ run << 32);
        possible += u64::from(world.possible);
        println!("run {run}");
        check_outcome(&mut world);
    }
    println!("{possible} of {total} possible");
    assert!(possible > total / 2 && possible < total * 19 / 20);
}

#[test]
fn loss_and_jitter_only_delay() {
    let seed = seed();
    let total = runs(2000);
    let mut times = Vec::new();
    let mut found = 0;
    for run in 0..total {
        let mut rng = StdRng::seed_from_u64(seed ^ run << 32);
        let mut scenario = any_scenario(&mut rng);
        scenario.loss = 0.2;
        scenario.jitter = Duration::from_millis(30);
        let mut world = World::new(scenario, seed ^ run << 32);
        if !world.possible {
            continue;
        }
        found += 1;
        let end = world.start + Duration::from_secs(5);
        let open = world.run_until(end, |world| world.sides.iter().all(|side| side.is_open()));
        if open {
            times.push(world.now - world.start - world.scenario.skew);
        }
    }
    times.sort();
    let percentile = |part: usize| times[times.len() * part / 100];
    println!(
        "20% loss each way: {} of {found} within 5 s; 50% {:?}, 95% {:?}, 99% {:?}",
        times.len(),
        percentile(50),
        percentile(95),
        percentile(99)
    );
    assert!(times.len() * 100 >= found * 95, "{} of {found}", times.len());
}

#[test]
fn heavy_loss_still_ends_in_agreement() {
    let seed = seed();
    let total = runs(300);
    let mut kept = 0;
    for run in 0..total {
        let kind = Kind::nat(Independent, AddressAndPort, Ports::Random);
        let mut scenario = Scenario::apart(Some(kind), Some(kind));
        scenario.loss = 0.4;
        let mut world = World::new(scenario, seed ^ run << 32);
        settle(&mut world);
        if world.sides.iter().all(|side| !side.agent().state().is_over()) {
            kept += 1;
            assert!(world.agree(), "run {run}");
        }
    }
    println!("40% loss each way: {kept} of {total} have a path after {:?}", long_enough());
    assert!(kept * 100 >= total * 90, "{kept} of {total}");
}

#[test]
fn neighbours_use_their_host_addresses() {
    for (hairpin, filtering) in [(false, AddressAndPort), (true, Independent)] {
        let kind = Kind { hairpin, ..Kind::nat(Independent, filtering, Ports::Random) };
        let mut world = World::new(Scenario::together(kind), seed());
        check_outcome(&mut world);
        assert_eq!(world.sides[VIEWER].path().unwrap().kind, CandidateKind::Host);
        assert!(world.sides[VIEWER].opened().unwrap().took < Duration::from_millis(10));
    }
}

#[test]
fn a_lan_without_any_nat_works() {
    let mut scenario = Scenario::apart(None, None);
    scenario.rendezvous = "192.168.1.2".parse().unwrap();
    scenario.sides[VIEWER][0].inner = "192.168.1.3:5000".parse().unwrap();
    scenario.sides[BROADCASTER][0].inner = "192.168.1.4:6000".parse().unwrap();
    let mut world = World::new(scenario, seed());
    check_outcome(&mut world);
    assert_eq!(world.sides[VIEWER].path().unwrap().kind, CandidateKind::Host);
}

#[test]
fn one_machine_works() {
    let mut scenario = Scenario::apart(None, None);
    scenario.rendezvous = "127.0.0.1".parse().unwrap();
    scenario.sides[VIEWER][0].inner = "127.0.0.1:5000".parse().unwrap();
    scenario.sides[BROADCASTER][0].inner = "127.0.0.1:6000".parse().unwrap();
    let mut world = World::new(scenario, seed());
    check_outcome(&mut world);
}

#[test]
fn a_better_path_proved_later_is_moved_to() {
    let kind = Kind { hairpin: true, ..Kind::nat(Independent, Independent, Ports::Random) };
    let mut world = World::new(Scenario::together(kind), seed());
    world.lan_cut = true;
    world.run_for(Duration::from_millis(200));
    for side in &world.sides {
        assert_eq!(side.path().unwrap().kind, CandidateKind::Reflexive);
    }
    world.lan_cut = false;
    world.run_for(Duration::from_secs(2));
    assert!(world.agree());
    for side in &world.sides {
        let path = side.path().unwrap();
        assert_eq!(path.kind, CandidateKind::Host);
        assert!(matches!(side.events.last(), Some((_, Event::Moved(_)))));
        assert!(side.agent().is_proved(path.remote));
    }
}
