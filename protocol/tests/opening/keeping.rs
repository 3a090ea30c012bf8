//! An open path stays open, follows changed addresses, and is given up when it is dead.

use std::time::Duration;

use punchcast_protocol::opening::{Event, LostReason, Reason, State};

use crate::nat::Dependence::{AddressAndPort, Independent};
use crate::nat::{Kind, Ports};
use crate::net::{BROADCASTER, Scenario, VIEWER, World};
use crate::{runs, seed};

const RESTRICTED: Kind = Kind::nat(Independent, AddressAndPort, Ports::Random);
const FULL_CONE: Kind = Kind::nat(Independent, Independent, Ports::Random);

fn opened(viewer: Kind, broadcaster: Kind) -> World {
    let mut world = World::new(Scenario::apart(Some(viewer), Some(broadcaster)), seed());
    world.run_for(Duration::from_secs(3));
    assert!(world.agree());
    world
}

fn events_of(world: &World, side: usize) -> usize {
    world.sides[side].events.len()
}

#[test]
fn short_lived_bindings_are_held() {
    let kind = Kind { expiry: Duration::from_secs(10), inbound_refreshes: false, ..RESTRICTED };
    let mut world = opened(kind, kind);
    world.run_for(Duration::from_secs(600));
    assert!(world.agree());
    assert_eq!([events_of(&world, VIEWER), events_of(&world, BROADCASTER)], [1, 1]);
}

#[test]
fn loss_is_no_reason_to_give_up() {
    let mut lost = 0;
    let hours = runs(20);
    for run in 0..hours {
        let mut scenario = Scenario::apart(Some(RESTRICTED), Some(RESTRICTED));
        scenario.loss = 0.1;
        let mut world = World::new(scenario, seed() ^ run << 32);
        world.run_for(Duration::from_secs(3600));
        lost += u64::from(!world.sides.iter().all(|side| side.is_open()));
    }
    println!("10% loss each way: {lost} paths given up in {hours} hours");
    assert_eq!(lost, 0);
}

#[test]
fn a_cut_path_is_noticed() {
    for run in 0..runs(50) {
        let mut scenario = Scenario::apart(Some(RESTRICTED), Some(RESTRICTED));
        scenario.skew = Duration::from_millis(run * 17);
        let mut world = World::new(scenario, seed() ^ run << 32);
        world.run_for(Duration::from_millis(10_000 + run * 100));
        assert!(world.agree());
        world.cut = true;
        let cut_at = world.now;
        let is_lost =
            |side: usize| move |world: &World| world.sides[side].agent().state() == State::Lost;
        let viewer = world.run_until(cut_at + Duration::from_millis(6_100), is_lost(VIEWER));
        assert!(viewer, "after {:?}", world.now - cut_at);
        let lost = (world.now, Event::Lost(LostReason::Unanswered));
        assert_eq!(world.sides[VIEWER].events.last(), Some(&lost));

        let broadcaster = world.run_until(cut_at + Duration::from_secs(31), is_lost(BROADCASTER));
        assert!(broadcaster, "after {:?}", world.now - cut_at);
        assert!(world.now > cut_at + Duration::from_secs(23), "patient");
        let lost = (world.now, Event::Lost(LostReason::ConsentExpired));
        assert_eq!(world.sides[BROADCASTER].events.last(), Some(&lost));
        for side in &world.sides {
            assert_eq!((side.agent().poll_timeout(), side.agent().remote()), (None, None));
        }
    }
}

#[test]
fn a_hint_makes_the_loss_known_sooner() {
    let mut world = opened(RESTRICTED, RESTRICTED);
    world.cut = true;
    let cut_at = world.now;
    world.sides[VIEWER].agent.as_mut().unwrap().check_now(cut_at);
    world.drain(VIEWER);
    let state = |state: State| move |world: &World| world.sides[VIEWER].agent().state() == state;
    assert!(world.run_until(cut_at + Duration::from_secs(1), state(State::Doubtful)));
    assert!(world.run_until(cut_at + Duration::from_secs(3), state(State::Lost)));
}

#[test]
fn an_interruption_is_survived() {
    let mut world = opened(RESTRICTED, RESTRICTED);
    world.cut = true;
    world.run_for(Duration::from_millis(2_500));
    world.cut = false;
    world.run_for(Duration::from_secs(10));
    assert!(world.agree());
    assert_eq!([events_of(&world, VIEWER), events_of(&world, BROADCASTER)], [1, 1]);
}

#[test]
fn other_authenticated_words_are_consent() {
    let mut world = opened(RESTRICTED, RESTRICTED);
    world.cut = true;
    for _ in 0..120 {
        world.run_for(Duration::from_millis(500));
        let now = world.now;
        for side in &mut world.sides {
            side.agent.as_mut().unwrap().handle_authenticated(now);
        }
    }
    assert!(world.sides.iter().all(|side| side.is_open()));
}

#[test]
fn a_new_external_address_of_the_viewer_is_followed() {
    // The broadcaster's box must let the new address in.
    let mut world = opened(RESTRICTED, FULL_CONE);
    let before = world.sides[BROADCASTER].agent().remote();
    world.routes.boxes[VIEWER].flush();
    world.run_for(Duration::from_secs(4));
    assert_ne!(world.sides[BROADCASTER].agent().remote(), before);
    assert!(world.agree());
    assert!(matches!(world.sides[BROADCASTER].events.last(), Some((_, Event::Moved(_)))));
    assert_eq!(events_of(&world, VIEWER), 2);
    let seen = world.sides[VIEWER].events.last();
    assert!(matches!(seen, Some((_, Event::Remapped(_)))), "its path is the same: {seen:?}");
}

#[test]
fn a_new_external_address_of_the_broadcaster_is_followed() {
    let mut world = opened(FULL_CONE, RESTRICTED);
    let before = world.sides[VIEWER].agent().remote();
    world.routes.boxes[BROADCASTER].flush();
    world.run_for(Duration::from_secs(12));
    assert_ne!(world.sides[VIEWER].agent().remote(), before);
    assert!(world.agree());
    assert!(matches!(world.sides[VIEWER].events.last(), Some((_, Event::Moved(_)))));
}

#[test]
fn timeouts_say_what_they_are_for() {
    let mut world = World::new(Scenario::apart(Some(RESTRICTED), Some(RESTRICTED)), seed());
    world.run_for(Duration::from_millis(1));
    let reason =
        |world: &World| world.sides[VIEWER].agent().poll_timeout().map(|(_, reason)| reason);
    assert_eq!(reason(&world), Some(Reason::Opener));
    world.run_for(Duration::from_secs(5));
    assert_eq!(reason(&world), Some(Reason::Check));
    world.cut = true;
    let end = world.now + Duration::from_secs(10);
    assert!(world.run_until(end, |world| reason(world) == Some(Reason::Unanswered)));
}
