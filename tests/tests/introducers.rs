//! Who introduces the two, and what else leads to a direct path: several rendezvous, one of somebody
//! else's, IPv6, mapped ports, and routers that both sides share.

use std::process::Command;
use std::time::Duration;

use tests::coturn;
use tests::lab::{self, Lab, Link, Nat, Process, Result, Signal};
use tests::stage::{RENDEZVOUS_PORT, START, Stage, Watching, count, start_rendezvous};
use transport::mapping::MappingProtocol;

const SECOND: Duration = Duration::from_secs(1);

/// Delay of each side's link: 40 ms for the round trip between the two sides.
const ONE_WAY: Duration = Duration::from_millis(10);

/// Small, so that many can run at once.
const SMALL: &str = "pipeline:videotestsrc is-live=true ! video/x-raw,width=320,height=180";

const RANDOM: Nat = Nat::RandomPerDestination;

/// A stage with routers of these kinds.
fn stage(home: Nat, viewer: Nat) -> Result<Stage> {
    Stage::with_kinds(home, &[viewer], ONE_WAY)
}

/// Watches until the picture runs, and a little on, where better paths show; gives the statistics.
fn watch(stage: &Stage, link: &str) -> Result<(Watching, serde_json::Value)> {
    let viewer = stage.watch(0, link, &["--output", "null"])?;
    viewer.wait_for(20 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(30));
    let before = viewer.stats().len();
    let playing = viewer.wait_for(20 * SECOND, |_| viewer.stats().len() >= before + 3);
    println!("{playing}");
    Ok((viewer, playing))
}

/// A second rendezvous beside the stage's, and the addresses of both.
fn second(stage: &mut Stage) -> Result<(Process, [String; 2])> {
    let host = stage.lab.public_host("second")?;
    let config = stage.path("second.yaml");
    std::fs::write(&config, "{}\n").expect("the lab's folder can be written");
    let process = start_rendezvous(&host, &config)?;
    let address = format!("{}:{RENDEZVOUS_PORT}", host.address());
    Ok((process, [stage.rendezvous_address(), address]))
}

#[test]
fn a_viewer_comes_in_by_the_rendezvous_that_is_left() -> Result<()> {
    let mut stage = stage(Nat::PortRestricted, Nat::PortRestricted)?;
    let first = stage.start_rendezvous()?;
    let (_second, addresses) = second(&mut stage)?;
    let broadcast = stage.broadcast_by(&addresses, "cam", SMALL, "")?;
    assert!(broadcast.link.contains(&format!("//{}/", addresses.join(","))), "{}", broadcast.link);
    first.kill(Signal::SIGKILL)?;
    first.wait(5 * SECOND)?;
    let (viewer, playing) = watch(&stage, &broadcast.link)?;
    assert_eq!(playing["path"], "reflexive", "{playing}");
    viewer.stop()
}

#[test]
fn a_rendezvous_that_does_not_know_the_broadcaster_is_not_the_last_word() -> Result<()> {
    let mut stage = stage(Nat::PortRestricted, Nat::PortRestricted)?;
    let _first = stage.start_rendezvous()?;
    let (_second, addresses) = second(&mut stage)?;
    // The broadcaster does not reach the first, and the viewer does.
    stage.lab.part(stage.home.external_address(), stage.rendezvous.address())?;
    let broadcast = stage.broadcast_by(&addresses, "cam", SMALL, "")?;
    let (viewer, playing) = watch(&stage, &broadcast.link)?;
    assert_eq!(playing["path"], "reflexive", "{playing}");
    viewer.stop()
}

#[test]
fn another_broadcaster_introduces_viewers_that_are_not_its_own() -> Result<()> {
    let mut stage = stage(Nat::PortRestricted, Nat::PortRestricted)?;
    let peer = stage.lab.public_host("peer")?;
    let state = stage.path("peer-state");
    let mut command = Command::new(lab::binary("punchcast-broadcaster")?);
    command.args(["--embedded-rendezvous", "--source", SMALL]).arg("--state").arg(&state);
    let introducing = peer.spawn("peer", &command)?;
    introducing.wait_for_line(START, |line| line.starts_with("punchcast://"))?;
    let address = format!("{}:{RENDEZVOUS_PORT}", peer.address());
    let broadcast = stage.broadcast_by(&[address], "cam", SMALL, "")?;
    let (viewer, playing) = watch(&stage, &broadcast.link)?;
    assert_eq!(playing["path"], "reflexive", "{playing}");
    assert_eq!(stage.metric("punchcast_viewers")?, 1.0);
    viewer.stop()
}

#[test]
fn where_ipv4_leads_nowhere_ipv6_does() -> Result<()> {
    let link = || Some(Link::delay(ONE_WAY));
    let stage = Stage::build(Lab::dual_stack()?, (RANDOM, link()), &[(RANDOM, link())])?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    let (viewer, playing) = watch(&stage, &broadcast.link)?;
    assert_eq!(playing["path"], "host", "{playing}");
    let cam = stage.cam.ipv6_address().expect("a dual-stack lab");
    let remote = playing["remote"].as_str().expect("an address");
    assert!(remote.starts_with(&format!("[{cam}]:")), "{playing}");
    viewer.stop()
}

#[test]
fn a_mapped_port_opens_what_no_opening_packet_does() -> Result<()> {
    let stage = stage(RANDOM, RANDOM)?;
    let _daemon = stage.home.start_port_mapping(&[MappingProtocol::Pcp])?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    let told = broadcast.process.wait_for_log_line(START, |line| line.contains("maps a port"))?;
    let mapped = told.split("external=").nth(1).and_then(|rest| rest.split(' ').next());
    let (viewer, playing) = watch(&stage, &broadcast.link)?;
    // The worse end is the viewer's, which the broadcaster saw.
    assert_eq!((&playing["path"], playing["remote"].as_str()), (&"reflexive".into(), mapped));
    assert_eq!(count(&playing, "packets_lost"), 0, "{playing}");
    viewer.stop()
}

#[test]
fn to_a_viewer_in_the_open_the_path_is_the_mapped_port() -> Result<()> {
    let mut stage = stage(Nat::PortRestricted, Nat::PortRestricted)?;
    let _daemon = stage.home.start_port_mapping(&[MappingProtocol::Pcp])?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    broadcast.process.wait_for_log_line(START, |line| line.contains("maps a port"))?;
    stage.viewers[0].1 = stage.lab.public_host("public")?;
    let (viewer, playing) = watch(&stage, &broadcast.link)?;
    assert_eq!(playing["path"], "mapped", "{playing}");
    viewer.stop()
}

/// Broadcaster and viewer behind routers of their own, and both of these behind a carrier's.
fn behind_one_carrier(carrier: Nat) -> Result<Stage> {
    let mut lab = Lab::new()?;
    let rendezvous = lab.public_host("rendezvous")?;
    let carrier = lab.router_with("carrier", carrier, Link::delay(ONE_WAY))?;
    let [home, router] =
        ["home", "router0"].map(|name| lab.router_behind(&carrier, name, Nat::PortRestricted));
    let (home, router) = (home?, router?);
    let cam = lab.host_behind(&home, "cam")?;
    let viewer = lab.host_behind(&router, "viewer0")?;
    Ok(Stage { lab, rendezvous, home, cam, viewers: vec![(router, viewer)] })
}

#[test]
fn a_carrier_that_turns_packets_around_lets_its_customers_meet() -> Result<()> {
    let stage = behind_one_carrier(Nat::UnrestrictedHairpin)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    let (viewer, playing) = watch(&stage, &broadcast.link)?;
    assert_eq!(playing["path"], "reflexive", "{playing}");
    viewer.stop()
}

#[test]
fn a_carrier_that_does_not_leaves_them_the_relay() -> Result<()> {
    let stage = behind_one_carrier(Nat::PortRestricted)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    let (viewer, playing) = watch(&stage, &broadcast.link)?;
    assert_eq!(playing["path"], "relayed", "{playing}");
    viewer.stop()
}

#[test]
fn behind_one_router_that_turns_packets_around_the_path_stays_on_the_lan() -> Result<()> {
    let mut lab = Lab::new()?;
    let rendezvous = lab.public_host("rendezvous")?;
    let home = lab.router_with("home", Nat::UnrestrictedHairpin, Link::delay(ONE_WAY))?;
    let cam = lab.host_behind(&home, "cam")?;
    let desk = lab.host_behind(&home, "desk")?;
    let viewers = vec![(home.clone(), desk)];
    let stage = Stage { lab, rendezvous, home, cam, viewers };
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    let (viewer, playing) = watch(&stage, &broadcast.link)?;
    assert_eq!(playing["path"], "host", "{playing}");
    viewer.stop()
}

#[test]
fn coturn_carries_a_viewer_that_no_direct_path_reaches() -> Result<()> {
    const PORT: u16 = 3478;
    const SECRET: &str = "between-the-two-of-us";
    let mut stage = stage(RANDOM, RANDOM)?;
    let relay = stage.lab.public_host("relay")?;
    let _coturn = coturn::start(&stage.lab, &relay, PORT, SECRET)?;
    let server = format!("{}:{PORT}", relay.address());
    let settings = format!("relay: {{mode: external, server: \"{server}\", secret: {SECRET}}}\n");
    let _rendezvous = stage.start_rendezvous_with(&settings)?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    let (viewer, playing) = watch(&stage, &broadcast.link)?;
    assert_eq!(playing["path"], "relayed", "{playing}");
    let remote = playing["remote"].as_str().expect("an address");
    assert!(remote.starts_with(&stage.home.external_address().to_string()), "{playing}");
    assert_eq!(count(&playing, "packets_unrecovered"), 0, "{playing}");
    viewer.stop()
}
