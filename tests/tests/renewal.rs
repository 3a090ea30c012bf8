//! Routers that forget or change mid-stream: the same session goes on.

use std::time::Duration;

use tests::lab::{Nat, Result};
use tests::renewal::{MISHAPS, Scene};
use tests::stage::count;

const REFRESH: Duration = Duration::from_secs(10);

const OUTBOUND_REFRESH: Nat = Nat::OutboundRefreshOnly { timeout: REFRESH };

/// Each mishap once, on both sides.
fn picture_resumes(scene: &Scene) -> Result<()> {
    let mut outages = Vec::new();
    for (side, mishap) in MISHAPS {
        outages.extend(scene.strike(side, mishap)?);
    }
    outages.iter().for_each(|outage| println!("{outage}"));
    let bad: Vec<String> =
        outages.iter().filter(|outage| !outage.is_well()).map(ToString::to_string).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    scene.check_viewers()
}

#[test]
fn behind_usual_routers_the_picture_resumes_within_a_second() -> Result<()> {
    let viewers = [Nat::PortRestricted, Nat::PortRestrictedOtherPort, OUTBOUND_REFRESH];
    picture_resumes(&Scene::start(Nat::PortRestricted, &viewers)?)
}

#[test]
fn behind_a_router_with_other_ports_the_picture_resumes_within_a_second() -> Result<()> {
    picture_resumes(&Scene::start(Nat::PortRestrictedOtherPort, &[Nat::PortRestricted])?)
}

#[test]
fn where_routers_take_ports_for_themselves_the_picture_resumes_within_two_seconds() -> Result<()> {
    picture_resumes(&Scene::start(Nat::NoDrop, &[Nat::PortRestricted, Nat::NoDrop])?)
}

#[test]
fn where_only_outbound_packets_refresh_nothing_is_lost() -> Result<()> {
    let scene = Scene::start(OUTBOUND_REFRESH, &[OUTBOUND_REFRESH])?;
    scene.look_on(3 * REFRESH);
    for stats in scene.latest() {
        for counter in ["packets_lost", "packets_unrecovered", "reconnects"] {
            assert_eq!(count(&stats, counter), 0, "{counter} in {stats}");
        }
    }
    scene.check_viewers()
}
