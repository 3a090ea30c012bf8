//! Networks that change, and what hard ones do to packets.

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use tests::clip;
use tests::lab::{Host, Impairment, Lab, Link, Nat};
use tests::stage::{self, RENDEZVOUS_PORT, Stage, Watching, count_of};

use crate::scene::{PATIENCE, Scene, clip_source, go_on, recovery, some_moment};

pub(crate) fn mtu(rng: &mut StdRng) -> Result<Option<Duration>> {
    let scene = Scene::start("recording.mkv")?;
    some_moment(rng);
    for (router, _) in &scene.stage.viewers {
        let mut set = Command::new("/usr/sbin/ip");
        set.args(["link", "set", "dev", router.uplink(), "mtu", "1280"]);
        router.run(&set)?;
    }
    scene.viewers.iter().for_each(|viewer| go_on(viewer, 125));
    scene.another_joins()?;
    scene.viewers.iter().try_for_each(|viewer| scene.is_untouched(viewer))?;
    Ok(None)
}

/// It has addresses of both kinds, and links have its name.
const RENDEZVOUS: &str = "rendezvous.example";

/// Who moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mover {
    Viewer,
    Broadcaster,
}

/// From a network with IPv4 alone to one with IPv6 alone, as a telephone moves; the other side has both.
pub(crate) fn moves_to_ipv6(rng: &mut StdRng, mover: Mover) -> Result<Option<Duration>> {
    let kind = (Nat::PortRestricted, None);
    let stage = Stage::build(Lab::dual_stack()?, kind.clone(), &[kind])?;
    let host = match mover {
        Mover::Viewer => &stage.viewers[0].1,
        Mover::Broadcaster => &stage.cam,
    };
    ip(host, "-6 address flush dev eth0")?;
    let _rendezvous = stage.start_rendezvous()?;
    stage.lab.name(RENDEZVOUS, &stage.rendezvous)?;
    let server = format!("{RENDEZVOUS}:{RENDEZVOUS_PORT}");
    let broadcast = stage.broadcast_by(&[server], "cam", &clip_source(), "")?;
    let viewer = [stage.watch_closely(0, &broadcast.link, &["--output", "null"])?];
    go_on(&viewer[0], 50);
    ensure!(!is_ipv6(&viewer[0]), "{}", viewer[0].latest());
    some_moment(rng);

    let address = host.ipv6_address().context("a dual-stack lab")?;
    let mut gateway = address.segments();
    gateway[7] = 1;
    let gateway = IpAddr::from(gateway);
    ip(host, "-4 address flush dev eth0")?;
    ip(host, &format!("-6 address add {address}/64 dev eth0 nodad"))?;
    ip(host, &format!("-6 route replace default via {gateway}"))?;
    let took = recovery(&viewer, SystemTime::now())?;
    ensure!(is_ipv6(&viewer[0]), "{}", viewer[0].latest());
    Ok(Some(took))
}

fn ip(host: &Host, words: &str) -> Result<()> {
    let mut command = Command::new("/usr/sbin/ip");
    command.args(words.split(' '));
    host.run(&command)?;
    Ok(())
}

/// Whether a viewer's path is one of IPv6.
fn is_ipv6(viewer: &Watching) -> bool {
    viewer.latest()["remote"].as_str().is_some_and(|remote| remote.starts_with('['))
}

/// A path that does this to packets, both ways.
pub(crate) fn hard_path(rng: &mut StdRng, impairment: Impairment) -> Result<Option<Duration>> {
    let delay = Duration::from_millis(20);
    let link = Link::both(Impairment { delay, ..impairment });
    let stage = Stage::with_links(&[Some(link)])?;
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", &clip_source(), "")?;
    some_moment(rng);
    let path = stage.path("whole.mkv");
    let record = format!("record:{}", path.display());
    let flags = ["--output", &record, "--for", "9s", "--latency", "500ms"];
    let viewer = stage.watch(0, &broadcast.link, &flags)?;
    let status = viewer.process.wait(PATIENCE)?;
    let last = viewer.latest();
    ensure!(status.success(), "{status}: {last}");
    ensure!(count_of(&last, "packets_unrecovered") == 0, "{last}");
    let recorded = clip::frames(&path);
    let whole = recorded.len().saturating_sub(15);
    ensure!(whole > 25 * 5, "{whole} frames");
    let (_, worst) = clip::compare_looped(&recorded[..whole], &clip::frames(&stage::clip()));
    ensure!(worst > clip::SAME_PICTURE, "{worst} dB");
    Ok(None)
}
