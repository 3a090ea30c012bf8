//! A mapping that changes in the middle is repaired on the same introduction: never lost, and soon.

use std::time::Duration;

use punchcast_protocol::opening::{Event, RENEWALS_PER_WINDOW, State};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::nat::Dependence::{AddressAndPort, Independent};
use crate::nat::{Kind, Ports};
use crate::net::{BROADCASTER, Scenario, VIEWER, World};
use crate::{runs, seed};

const RESTRICTED: Kind = Kind::nat(Independent, AddressAndPort, Ports::Random);
const SEQUENTIAL: Kind = Kind::nat(AddressAndPort, AddressAndPort, Ports::Sequential(1));

/// Streams, breaks something, and streams on; returns how long media was away, the longest last.
fn broken(
    what: &str,
    total: u64,
    viewer: Kind,
    broadcaster: Kind,
    mut breaks: impl FnMut(&mut World, &mut StdRng),
) -> Vec<Duration> {
    let seed = seed();
    let mut gaps = Vec::new();
    for run in 0..total {
        let mut rng = StdRng::seed_from_u64(seed ^ run << 32);
        let mut scenario = Scenario::apart(Some(viewer), Some(broadcaster));
        scenario.one_way = Duration::from_millis(rng.random_range(5..50));
        let mut world = World::new(scenario, seed ^ run << 32).with_efforts(true);
        world.run_for(Duration::from_millis(rng.random_range(3_000..5_000)));
        assert!(world.agree(), "{what}, run {run}");
        world.effort(VIEWER).longest_gap = Duration::ZERO;
        breaks(&mut world, &mut rng);
        world.run_for(Duration::from_secs(12));
        // A binding that goes on ending may be gone just now.
        let end = world.now + Duration::from_secs(1);
        world
            .run_until(end, |world| world.sides.iter().all(|side| side.is_open()) && world.agree());
        for side in &world.sides {
            assert_eq!(side.agent().state(), State::Open, "{what}, run {run}: {:?}", side.events);
            let ends = side
                .events
                .iter()
                .filter(|(_, event)| matches!(event, Event::Lost(_) | Event::Failed(_)));
            assert_eq!(ends.count(), 0, "{what}, run {run}");
            let opened = side.events.iter().filter(|(_, event)| matches!(event, Event::Opened(_)));
            assert_eq!(opened.count(), 1, "one session: {what}, run {run}");
        }
        let events = world.sides.each_ref().map(|side| &side.events);
        assert!(world.agree(), "{what}, run {run}: {events:?}");
        assert!(world.effort(VIEWER).renewals as usize <= RENEWALS_PER_WINDOW);
        let gap = world.effort(VIEWER).longest_gap;
        if std::env::var_os("PUNCHCAST_TELL").is_some() {
            println!("{what}: run {run}: {gap:?}");
        }
        gaps.push(gap);
    }
    gaps.sort();
    let part = |of: usize| gaps[(gaps.len() * of / 100).min(gaps.len() - 1)];
    println!(
        "{what}: media away for {:?} (50%), {:?} (95%), {:?} (all)",
        part(50),
        part(95),
        part(100)
    );
    gaps
}

/// The bound: the stall is noticed, the rendezvous hears of the new mapping with the next keepalive at
/// the latest, a first renewal may come before that, and a second repairs.
fn assert_soon(gaps: &[Duration]) {
    let longest = gaps.last().unwrap();
    assert!(*longest <= Duration::from_millis(2_500), "{longest:?}");
}

#[test]
fn flushed_tables_are_repaired() {
    for (what, side) in [("the viewer's router", VIEWER), ("the broadcaster's router", BROADCASTER)]
    {
        let gaps =
            broken(&format!("{what} is flushed"), runs(300), RESTRICTED, RESTRICTED, |world, _| {
                world.routes.boxes[side].flush()
            });
        assert_soon(&gaps);
    }
}

#[test]
fn both_tables_at_once_are_repaired() {
    let gaps = broken("both are flushed", runs(300), RESTRICTED, RESTRICTED, |world, _| {
        world.routes.boxes.iter_mut().for_each(|nat| nat.flush());
    });
    assert_soon(&gaps);
}

#[test]
fn new_public_addresses_are_repaired() {
    for (what, side) in [("the viewer", VIEWER), ("the broadcaster", BROADCASTER)] {
        let gaps = broken(
            &format!("{what} has a new public address"),
            runs(300),
            RESTRICTED,
            RESTRICTED,
            |world, rng| {
                let external = [198, 18, side as u8, rng.random_range(1..255)];
                world.routes.boxes[side].external = external.into();
                world.routes.boxes[side].flush();
            },
        );
        assert_soon(&gaps);
    }
}

#[test]
fn bindings_that_end_are_repaired() {
    for side in [VIEWER, BROADCASTER] {
        let gaps =
            broken("bindings end after 2 s", runs(100), RESTRICTED, RESTRICTED, |world, _| {
                let kind = &mut world.routes.boxes[side].kind;
                (kind.expiry, kind.inbound_refreshes) = (Duration::from_secs(2), false);
            });
        assert_soon(&gaps);
    }
}

#[test]
fn predicted_paths_are_repaired() {
    for (viewer, broadcaster) in [(SEQUENTIAL, RESTRICTED), (RESTRICTED, SEQUENTIAL)] {
        for side in [VIEWER, BROADCASTER] {
            let what = format!("sequential, side {side} is flushed");
            let gaps = broken(&what, runs(200), viewer, broadcaster, |world, _| {
                world.routes.boxes[side].flush();
            });
            assert_soon(&gaps);
        }
    }
}

/// After the flush the arriving stream itself takes the viewer's port: another socket repairs it.
#[test]
fn a_stream_that_steals_its_port_is_repaired() {
    let gaps = broken("a flushed thief", runs(300), Kind::thief(), RESTRICTED, |world, _| {
        world.routes.boxes[VIEWER].flush();
    });
    assert_soon(&gaps);
}
