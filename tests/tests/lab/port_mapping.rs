//! Port mapping against a real daemon on a router, and against routers that lie.

use std::{net::SocketAddr, process::Command, thread, time::Duration};

use tests::lab::{self, Host, Lab, Nat, Process, Result, Router, Signal, eventually};
use transport::mapping::MappingProtocol::{self, NatPmp, Pcp, Upnp};

use crate::probe::{LONG, serve, tell};

/// The port that is mapped.
const LOCAL: u16 = 5000;
/// The stranger's port.
const PORT: u16 = 4000;
/// Of the mappings in these tests.
const LIFETIME: Duration = Duration::from_secs(4);

/// A host behind a router, and a stranger outside that the host never sends to.
struct Scene {
    lab: Lab,
    stranger: Host,
    router: Router,
    inside: Host,
}

#[test]
fn pcp_maps_renews_and_gives_back() -> Result<()> {
    the_life_of_a_mapping(Pcp)
}

#[test]
fn nat_pmp_maps_renews_and_gives_back() -> Result<()> {
    the_life_of_a_mapping(NatPmp)
}

#[test]
fn upnp_maps_renews_and_gives_back() -> Result<()> {
    the_life_of_a_mapping(Upnp)
}

fn the_life_of_a_mapping(protocol: MappingProtocol) -> Result<()> {
    let scene = Scene::new()?;
    let daemon = scene.router.start_port_mapping(&[protocol])?;
    let mapping = scene.map()?;
    let external = mapped(&mapping, protocol)?;
    assert_eq!(external, (scene.router.external_address(), LOCAL).into());
    scene.reach(&mapping, external, "unasked")?;

    thread::sleep(2 * LIFETIME);
    scene.reach(&mapping, external, "renewed")?;

    // It follows the router to another address.
    let moved: SocketAddr = (scene.router.change_external_address()?, LOCAL).into();
    mapping.wait_for_line(LONG, |line| line == format!("mapped {protocol} {moved}"))?;
    scene.reach(&mapping, moved, "moved")?;

    // A router that restarts has forgotten everything.
    daemon.kill(Signal::SIGKILL)?;
    daemon.wait(LONG)?;
    let _daemon = scene.router.start_port_mapping(&[protocol])?;
    assert!(eventually(LONG, || scene.has_mapping()));
    scene.reach(&mapping, moved, "restarted")?;

    mapping.kill(Signal::SIGTERM)?;
    assert!(mapping.wait(LONG)?.success());
    assert!(!scene.has_mapping(), "it was not given back");

    // The same for one that is dropped.
    let mapping = scene.map()?;
    mapped(&mapping, protocol)?;
    assert!(scene.has_mapping());
    mapping.kill(Signal::SIGINT)?;
    mapping.wait_for_line(LONG, |line| line == "none")?;
    assert!(eventually(LIFETIME / 2, || !scene.has_mapping()), "it was not given back");
    mapping.kill(Signal::SIGKILL)?;
    mapping.wait(LONG)?;

    // And one whose owner dies runs out.
    let mapping = scene.map()?;
    mapped(&mapping, protocol)?;
    mapping.kill(Signal::SIGKILL)?;
    mapping.wait(LONG)?;
    assert!(scene.has_mapping());
    assert!(eventually(LONG, || !scene.has_mapping()), "it would have stayed without renewal");
    Ok(())
}

#[test]
fn one_mapping_is_made_where_all_protocols_are_spoken() -> Result<()> {
    let scene = Scene::new()?;
    let mapping = scene.map()?;
    // Nobody answers at first.
    mapping.wait_for_log_line(LONG, |line| line.contains("no port mapping"))?;
    let _daemon = scene.router.start_port_mapping(&[Pcp, NatPmp, Upnp])?;
    let external = mapped(&mapping, Pcp)?;
    scene.reach(&mapping, external, "unasked")?;
    assert_eq!(scene.mappings(), 1);
    // Another host wants the same port.
    let mut scene = scene;
    scene.inside = scene.lab.host_behind(&scene.router, "neighbour")?;
    let other = scene.map()?;
    let other_external = mapped(&other, Pcp)?;
    assert_ne!(other_external.port(), external.port());
    scene.reach(&other, other_external, "neighbour")?;
    scene.reach(&mapping, external, "still there")?;
    Ok(())
}

#[test]
fn a_port_taken_by_another_host_is_not_taken_away_by_upnp() -> Result<()> {
    let mut scene = Scene::new()?;
    let _daemon = scene.router.start_port_mapping(&[Upnp])?;
    let first = scene.map()?;
    let first_external = mapped(&first, Upnp)?;
    scene.inside = scene.lab.host_behind(&scene.router, "neighbour")?;
    let second = scene.map()?;
    let second_external = mapped(&second, Upnp)?;
    assert_ne!(first_external.port(), second_external.port());
    scene.reach(&first, first_external, "first")?;
    scene.reach(&second, second_external, "second")
}

#[test]
fn a_router_behind_another_nat_maps_nothing_of_use() -> Result<()> {
    let mut scene = Scene::new()?;
    let home = scene.lab.router_behind(&scene.router, "home", Nat::PortRestricted)?;
    let _daemon = home.start_port_mapping(&[Pcp, NatPmp, Upnp])?;
    scene.inside = scene.lab.host_behind(&home, "cam")?;
    let mapping = scene.map()?;
    mapping.wait_for_log_line(LONG, |line| line.contains("no port mapping refusal=UPnP"))?;
    mapping.kill(Signal::SIGTERM)?;
    assert!(mapping.wait(LONG)?.success());
    assert_eq!(mapping.stdout().lines(), ["released"]);
    Ok(())
}

#[test]
fn a_private_external_address_is_said_and_not_used() -> Result<()> {
    let scene = Scene::new()?;
    let _router = scene.bad_router("private")?;
    let mapping = scene.map()?;
    mapping.wait_for_log_line(LONG, |line| {
        line.contains("INFO") && line.contains("external address 10.0.0.2 is of no use")
    })?;
    mapping.kill(Signal::SIGTERM)?;
    assert!(mapping.wait(LONG)?.success());
    assert_eq!(mapping.stdout().lines(), ["released"]);
    Ok(())
}

#[test]
fn broken_answers_do_no_harm() -> Result<()> {
    let scene = Scene::new()?;
    let router = scene.bad_router("broken")?;
    let mapping = scene.map()?;
    for document in ["GET /deep", "GET /endless"] {
        router.wait_for_line(LONG, |line| line.contains(document))?;
    }
    // Several rounds of odd bytes.
    let rounds = || {
        let lines = mapping.stderr().lines();
        lines.iter().filter(|line| line.contains("no port mapping refusal=UPnP")).count()
    };
    assert!(eventually(2 * LONG, || rounds() >= 2), "{} rounds", rounds());
    assert!(mapping.resident_memory()? < 100_000_000);
    mapping.kill(Signal::SIGTERM)?;
    assert!(mapping.wait(Duration::from_secs(2))?.success());
    assert_eq!(mapping.stdout().lines(), ["released"]);
    Ok(())
}

#[test]
fn only_the_gateway_is_asked() -> Result<()> {
    let mut scene = Scene::new()?;
    let liar = scene.lab.host_behind(&scene.router, "liar")?;
    let lies =
        liar.spawn("bad-router", Command::new(lab::binary("lab-bad-router")?).arg("broken"))?;
    lies.wait_for_line(LONG, |line| line == "ready")?;
    let on_lan = liar.capture()?;
    let mapping = scene.map()?;
    mapping.wait_for_log_line(LONG, |line| line.contains("no port mapping refusal=UPnP"))?;
    let asked: Vec<SocketAddr> = on_lan
        .stop()?
        .iter()
        .filter(|datagram| datagram.source.ip() == scene.inside.address())
        .map(|datagram| datagram.destination)
        .collect();
    assert!(!asked.is_empty(), "the search is to all of the LAN");
    let group: SocketAddr = "239.255.255.250:1900".parse().expect("a literal");
    assert!(asked.iter().all(|destination| *destination == group), "{asked:?}");
    assert_eq!(lies.stdout().lines(), ["ready"]);
    Ok(())
}

/// The external endpoint that `lab-mapping` got.
fn mapped(mapping: &Process, protocol: MappingProtocol) -> Result<SocketAddr> {
    let start = format!("mapped {protocol} ");
    let line = mapping.wait_for_line(LONG, |line| line.starts_with(&start))?;
    let endpoint = line.strip_prefix(&start).and_then(|text| text.parse().ok());
    Ok(endpoint.unwrap_or_else(|| panic!("lab-mapping wrote `{line}`")))
}

impl Scene {
    fn new() -> Result<Self> {
        let mut lab = Lab::new()?;
        let stranger = lab.public_host("stranger")?;
        serve(&stranger, &[PORT])?;
        let router = lab.router("router", Nat::PortRestricted)?;
        let inside = lab.host_behind(&router, "inside")?;
        Ok(Self { lab, stranger, router, inside })
    }

    fn map(&self) -> Result<Process> {
        let mut program = Command::new(lab::binary("lab-mapping")?);
        program.args([LOCAL.to_string(), LIFETIME.as_secs().to_string(), "1".to_owned()]);
        self.inside.spawn("mapping", &program)
    }

    fn bad_router(&self, kind: &str) -> Result<Process> {
        let mut program = Command::new(lab::binary("lab-bad-router")?);
        let router = self.router.spawn("bad-router", program.arg(kind))?;
        router.wait_for_line(LONG, |line| line == "ready")?;
        Ok(router)
    }

    /// The stranger sends to a mapping, and what it says comes.
    fn reach(&self, mapping: &Process, external: SocketAddr, text: &str) -> Result<()> {
        tell(&self.stranger, PORT, external, text)?;
        let expected = format!("got {}:{PORT} {text}", self.stranger.address());
        mapping.wait_for_line(LONG, |line| line == expected).map(drop)
    }

    fn has_mapping(&self) -> bool {
        self.mappings() > 0
    }

    /// How many ports the router's daemon has mapped.
    fn mappings(&self) -> usize {
        let mut nft = Command::new("nft");
        let listing =
            self.router.run(nft.args(["list", "chain", "inet", "mapping", "daemon_dstnat"]));
        listing.expect("the daemon's chains are there").matches(" dnat ").count()
    }
}
