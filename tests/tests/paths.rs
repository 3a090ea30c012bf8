//! Which paths open, and what is said where none can.

use std::process::Command;
use std::time::Duration;

use tests::lab::{self, Lab, Nat, Result};
use tests::stage::{RENDEZVOUS_PORT, START, Stage, count};

const SECOND: Duration = Duration::from_secs(1);

/// Small, so that many can run at once.
const SMALL: &str = "pipeline:videotestsrc is-live=true ! video/x-raw,width=320,height=180";

#[test]
fn viewers_behind_the_broadcaster_s_own_router_stay_on_the_lan() -> Result<()> {
    let mut stage = Stage::new(0)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    let desk = stage.lab.host_behind(&stage.home, "desk")?;
    stage.viewers.push((stage.home.clone(), desk));
    let viewer = stage.watch(0, &broadcast.link, &["--output", "null"])?;
    let playing = viewer.wait_for(10 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(10));
    assert_eq!(playing["path"], "host", "{playing}");
    assert!(playing["remote"].as_str().is_some_and(|at| at.starts_with("192.168.")), "{playing}");
    viewer.stop()
}

#[test]
fn where_udp_is_blocked_the_viewer_says_so_within_five_seconds() -> Result<()> {
    let mut stage = Stage::new(0)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    let blocked = stage.lab.router("blocked", Nat::UdpBlocked)?;
    let host = stage.lab.host_behind(&blocked, "inside")?;
    stage.viewers.push((blocked, host));
    let viewer = stage.watch(0, &broadcast.link, &["--output", "null"])?;
    let status = viewer.process.wait(5 * SECOND)?;
    let log = viewer.process.stderr().text();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.contains("blocks UDP"), "{log}");
    Ok(())
}

/// Two NATs with random ports for each destination: no direct path is possible.
fn hopeless() -> Result<(Stage, String)> {
    let mut stage = Stage::new(0)?;
    let _rendezvous = stage.start_rendezvous()?;
    let home = stage.lab.router("home-random", Nat::RandomPerDestination)?;
    stage.cam = stage.lab.host_behind(&home, "cam-random")?;
    let broadcast = stage.broadcast("random-cam", SMALL, "")?;
    let random = stage.lab.router("random", Nat::RandomPerDestination)?;
    let host = stage.lab.host_behind(&random, "inside")?;
    stage.viewers.push((random, host));
    Ok((stage, broadcast.link))
}

#[test]
fn where_no_direct_path_can_open_the_relay_carries_the_picture() -> Result<()> {
    let (stage, link) = hopeless()?;
    let viewer = stage.watch(0, &link, &["--output", "null"])?;
    let playing = viewer.wait_for(10 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(60));
    assert_eq!(playing["path"], "relayed", "{playing}");
    assert!(playing["open_ms"].as_f64() < Some(2000.0), "{playing}");
    // It goes on while direct paths are looked for, which there are none.
    let later = viewer.wait_for(20 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(450));
    assert_eq!((&later["path"], count(&later, "reconnects")), (&"relayed".into(), 0), "{later}");
    assert_eq!(count(&later, "packets_lost"), 0, "{later}");
    viewer.stop()
}

#[test]
fn without_a_relay_the_viewer_says_what_was_tried() -> Result<()> {
    let (stage, link) = hopeless()?;
    let config = stage.path("no-relay.yaml");
    std::fs::write(&config, "relay: {enabled: false}\n").expect("the lab's folder can be written");
    let config = config.display().to_string();
    let viewer = stage.watch(0, &link, &["--output", "null", "--config", &config])?;
    let status = viewer.process.wait(15 * SECOND)?;
    let log = viewer.process.stderr().text();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.contains("opening packets to"), "{log}");
    Ok(())
}

#[test]
fn a_viewer_whose_port_changes_with_the_destination_reaches_an_open_broadcaster() -> Result<()> {
    let mut stage = Stage::new(0)?;
    let _rendezvous = stage.start_rendezvous()?;
    let open = stage.lab.router("open", Nat::Unrestricted)?;
    stage.cam = stage.lab.host_behind(&open, "cam-open")?;
    let broadcast = stage.broadcast("open-cam", SMALL, "")?;
    let random = stage.lab.router("random", Nat::RandomPerDestination)?;
    let host = stage.lab.host_behind(&random, "inside")?;
    stage.viewers.push((random, host));
    let viewer = stage.watch(0, &broadcast.link, &["--output", "null"])?;
    viewer.wait_for(10 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(10));
    viewer.stop()
}

#[test]
fn a_flushed_router_costs_a_reconnect_at_most() -> Result<()> {
    let stage = Stage::new(1)?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    let viewer = stage.watch(0, &broadcast.link, &["--output", "null"])?;
    viewer.wait_for(10 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(30));
    stage.viewers[0].0.change_external_address()?;
    let before = count(&viewer.latest(), "frames_decoded");
    viewer.wait_for(30 * SECOND, |stats| stats["frames_decoded"].as_u64() > Some(before + 150));
    viewer.stop()
}

#[test]
fn one_command_is_a_complete_service() -> Result<()> {
    let mut lab = Lab::new()?;
    let server = lab.public_host("server")?;
    let router = lab.router("router", Nat::PortRestricted)?;
    let viewer = lab.host_behind(&router, "viewer")?;
    let state = lab.folder().join("state");
    let mut broadcaster = Command::new(lab::binary("punchcast-broadcaster")?);
    broadcaster.args(["--embedded-rendezvous", "--source", SMALL]).arg("--state").arg(&state);
    let broadcaster = server.spawn("broadcaster", &broadcaster)?;
    let link = broadcaster.wait_for_line(START, |line| line.starts_with("punchcast://"))?;
    let authority = format!("punchcast://{}:{RENDEZVOUS_PORT}/", server.address());
    assert!(link.starts_with(&authority), "{link}");
    let mut watch = Command::new(lab::binary("punchcast-viewer")?);
    watch.args(["watch", &link, "--output", "null", "--for", "5s"]);
    let status = viewer.spawn("watch", &watch)?.wait(20 * SECOND)?;
    assert!(status.success(), "{status}");
    Ok(())
}
