//! `punchcast-viewer check` behind every kind of router: what it says is what is there.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::lab::{self, Host, Lab, Nat, Process, Result};
use tests::local;
use tests::stage::{RENDEZVOUS_PORT, START};

const PATIENCE: Duration = Duration::from_secs(10);

/// Ends of a check in this time whatever happens.
const LONGEST: Duration = Duration::from_secs(5);

/// Mapping, filtering, ports, step and whether unsolicited packets are taken.
type Expected = (&'static str, &'static str, &'static str, Value, Value);

const INDEPENDENT: &str = "endpoint_independent";
const BY_ADDRESS: &str = "address_dependent";
const BY_PORT: &str = "address_and_port_dependent";

/// All that a router can be and be changed into, its kind's name, and what a server with two addresses
/// shows of it.
fn kinds() -> Vec<(Nat, &'static str, Expected)> {
    let nat = |mapping, filtering, ports| (mapping, filtering, ports, Value::Null, json!(false));
    let sequential = |step: i64| (BY_PORT, BY_PORT, "sequential", json!(step), Value::Null);
    let untold = |(mapping, filtering, ports, step, _): Expected| {
        (mapping, filtering, ports, step, Value::Null)
    };
    let refresh = Nat::OutboundRefreshOnly { timeout: Duration::from_secs(30) };
    let restricted = nat(INDEPENDENT, BY_PORT, "preserved");
    vec![
        (Nat::PortRestricted, "port_restricted", restricted.clone()),
        (Nat::PortRestrictedOtherPort, "port_restricted", nat(INDEPENDENT, BY_PORT, "other")),
        (Nat::AddressRestricted, "address_restricted", nat(INDEPENDENT, BY_ADDRESS, "preserved")),
        (
            Nat::AddressRestrictedOtherPort,
            "address_restricted",
            nat(INDEPENDENT, BY_ADDRESS, "other"),
        ),
        (Nat::Unrestricted, "endpoint_independent", nat(INDEPENDENT, INDEPENDENT, "preserved")),
        (Nat::AddressOnly { filtered: false }, "endpoint_independent", {
            nat(INDEPENDENT, INDEPENDENT, "preserved")
        }),
        (Nat::AddressOnly { filtered: true }, "port_restricted", restricted.clone()),
        (refresh, "port_restricted", restricted),
        (Nat::NoDrop, "port_restricted", {
            (INDEPENDENT, BY_PORT, "preserved", Value::Null, json!(true))
        }),
        (Nat::AddressDependentMapping, "address_dependent", {
            untold(nat(BY_ADDRESS, BY_PORT, "random"))
        }),
        (Nat::RandomPerDestination, "random", untold(nat(BY_PORT, BY_PORT, "random"))),
        (Nat::SequentialPerDestination { step: 1 }, "sequential", sequential(1)),
        (Nat::SequentialPerDestination { step: 2 }, "sequential", sequential(2)),
    ]
}

#[track_caller]
fn says(said: &Value, kind: &str, expected: &Expected, what: &dyn std::fmt::Debug) {
    let (mapping, filtering, ports, step, unsolicited) = expected;
    let told = json!([
        said["kind"],
        said["mapping"],
        said["filtering"],
        said["ports"],
        said["port_step"],
        said["takes_unsolicited"]
    ]);
    let expected = json!([kind, mapping, filtering, ports, step, unsolicited]);
    assert_eq!(told, expected, "{what:?}: {said}");
}

/// A rendezvous and a host behind a router.
struct Scene {
    lab: Lab,
    server: Host,
    router: lab::Router,
    inside: Host,
}

impl Scene {
    fn new(nat: Nat, addresses: usize) -> Result<Self> {
        let mut lab = Lab::new()?;
        let server = lab.public_host("server")?;
        if addresses > 1 {
            server.add_address()?;
        }
        let router = lab.router("router", nat)?;
        let inside = lab.host_behind(&router, "inside")?;
        Ok(Self { lab, server, router, inside })
    }

    fn rendezvous(&self, listen: &str) -> Result<Process> {
        let mut command = Command::new(lab::binary("punchcast-rendezvous")?);
        command.args(["--listen", &format!("{listen}:{RENDEZVOUS_PORT}")]);
        let process = self.server.spawn("rendezvous", &command)?;
        process.wait_for_log_line(START, |line| line.contains("listening"))?;
        Ok(process)
    }

    fn check(&self) -> Result<Value> {
        check(&self.inside, self.server.address())
    }
}

fn command(server: Ipv4Addr, flags: &[&str]) -> Result<Command> {
    let mut command = Command::new(lab::binary("punchcast-viewer")?);
    command.args(["check", &format!("{server}:{RENDEZVOUS_PORT}")]).args(flags);
    Ok(command)
}

/// What `check --json` says there.
fn check(host: &Host, server: Ipv4Addr) -> Result<Value> {
    let text = host.run(&command(server, &["--json"])?)?;
    Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")))
}

#[test]
fn every_kind_of_router_is_named_rightly() -> Result<()> {
    let scene = Scene::new(Nat::PortRestricted, 2)?;
    let _rendezvous = scene.rendezvous("0.0.0.0")?;
    for (nat, kind, expected) in kinds() {
        scene.router.set_nat(nat)?;
        let said = scene.check()?;
        says(&said, kind, &expected, &nat);
        assert_eq!((&said["second_address"], &said["translated"]), (&json!(true), &json!(true)));
        let here = format!("{}:", scene.inside.address());
        assert!(said["local"].as_str().is_some_and(|local| local.starts_with(&here)), "{said}");
        if said["ports"] == "sequential" {
            assert!(said["next_port"].as_u64().is_some_and(|port| port > 20_000), "{said}");
        }
        if said["ports"] == "preserved" {
            assert_eq!(said["port_parity"], "preserved");
        }
        // A NAT of addresses alone sends what goes to the outside back in from there.
        if said["mapping"] == INDEPENDENT {
            assert_eq!(said["hairpin"], matches!(nat, Nat::AddressOnly { .. }), "{nat:?}");
        }
    }
    Ok(())
}

#[test]
fn networks_without_translation_are_named_rightly() -> Result<()> {
    for (nat, kind, filtering) in
        [(Nat::Open, "open", INDEPENDENT), (Nat::Firewall, "firewall", BY_PORT)]
    {
        let scene = Scene::new(nat, 2)?;
        let _rendezvous = scene.rendezvous("0.0.0.0")?;
        let said = scene.check()?;
        let expected = (INDEPENDENT, filtering, "preserved", Value::Null, json!(false));
        says(&said, kind, &expected, &nat);
        assert_eq!(said["translated"], false);
        assert_eq!((&said["local"], &said["hairpin"]), (&said["external"], &Value::Null));
    }
    Ok(())
}

#[test]
fn with_one_address_dependence_on_it_cannot_be_told_and_that_is_said() -> Result<()> {
    let scene = Scene::new(Nat::PortRestricted, 1)?;
    let _rendezvous = scene.rendezvous("0.0.0.0")?;
    for (nat, kind, expected) in kinds() {
        let (mapping, filtering, ports, step, unsolicited) = expected;
        let blind = |dependence| if dependence == BY_ADDRESS { INDEPENDENT } else { dependence };
        let (kind, ports, unsolicited) = match nat {
            Nat::AddressRestricted | Nat::AddressRestrictedOtherPort => {
                ("endpoint_independent", ports, unsolicited)
            }
            // It looks like one port for each socket.
            Nat::AddressDependentMapping => ("port_restricted", "other", json!(false)),
            _ => (kind, ports, unsolicited),
        };
        scene.router.set_nat(nat)?;
        let said = scene.check()?;
        let expected = (blind(mapping), blind(filtering), ports, step, unsolicited);
        says(&said, kind, &expected, &nat);
        assert_eq!((&said["second_port"], &said["second_address"]), (&json!(true), &json!(false)));
    }
    scene.router.set_nat(Nat::AddressRestricted)?;
    let text = scene.inside.run(&command(scene.server.address(), &[])?)?;
    assert!(text.contains("the server has one address, and cannot tell them apart"), "{text}");
    Ok(())
}

#[test]
fn two_routers_in_a_row_are_what_they_amount_to() -> Result<()> {
    let mut scene = Scene::new(Nat::RandomPerDestination, 2)?;
    let home = scene.lab.router_behind(&scene.router, "home", Nat::Unrestricted)?;
    scene.inside = scene.lab.host_behind(&home, "at-home")?;
    let _rendezvous = scene.rendezvous("0.0.0.0")?;
    let random = (BY_PORT, BY_PORT, "random", Value::Null, Value::Null);
    says(&scene.check()?, "random", &random, &"random carrier");
    scene.router.set_nat(Nat::PortRestrictedOtherPort)?;
    let other = (INDEPENDENT, BY_PORT, "other", Value::Null, json!(false));
    says(&scene.check()?, "port_restricted", &other, &"independent carrier");
    Ok(())
}

#[test]
fn a_rendezvous_bound_to_one_address_answers_at_the_other_too() -> Result<()> {
    let scene = Scene::new(Nat::AddressRestricted, 2)?;
    let listen = scene.server.address().to_string();
    let rendezvous = scene.rendezvous(&listen)?;
    let expected = (INDEPENDENT, BY_ADDRESS, "preserved", Value::Null, json!(false));
    says(&scene.check()?, "address_restricted", &expected, &"bound");
    drop(rendezvous);
    Ok(())
}

#[test]
fn people_get_a_table_of_what_opens_and_advice() -> Result<()> {
    let scene = Scene::new(Nat::RandomPerDestination, 2)?;
    let _rendezvous = scene.rendezvous("0.0.0.0")?;
    let text = scene.inside.run(&command(scene.server.address(), &[])?)?;
    let external = scene.router.external_address().to_string();
    for words in [
        external.as_str(),
        "Mapping               address-and-port-dependent",
        "Filtering             address-and-port-dependent",
        "a new one for each destination, at random",
        "a usual home router",
        "only through a relay",
        "Forward a UDP port",
    ] {
        assert!(text.contains(words), "'{words}' is not in:\n{text}");
    }
    Ok(())
}

#[test]
fn where_udp_is_blocked_it_says_so_within_five_seconds() -> Result<()> {
    let scene = Scene::new(Nat::UdpBlocked, 2)?;
    let _rendezvous = scene.rendezvous("0.0.0.0")?;
    let began = Instant::now();
    let process = scene.inside.spawn("check", &command(scene.server.address(), &[])?)?;
    let status = process.wait(PATIENCE)?;
    let log = process.stderr().text();
    assert!(began.elapsed() < LONGEST, "{:?}", began.elapsed());
    assert_eq!(status.code(), Some(3), "{log}");
    let server = format!("{}:{RENDEZVOUS_PORT}", scene.server.address());
    for words in [server.as_str(), "requests", "blocks UDP", "allow outgoing UDP"] {
        assert!(log.contains(words), "'{words}' is not in: {log}");
    }
    Ok(())
}

#[test]
fn where_nothing_listens_it_ends_with_5() {
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let address = closed.local_addr().expect("bound").to_string();
    drop(closed);
    let mut command = local::program("punchcast-viewer");
    let ended = local::run(command.args(["check", &address]));
    assert_eq!(ended.code, Some(5), "{ended:#?}");
    assert!(ended.message().contains("nothing listens"), "{ended:#?}");
    assert!(ended.took < LONGEST && ended.stdout.is_empty(), "{ended:#?}");
    let mut command = local::program("punchcast-viewer");
    let ended = local::run(command.args(["check", "no-such-host.invalid:9"]));
    assert_eq!(ended.code, Some(5), "{ended:#?}");
    let mut command = local::program("punchcast-viewer");
    let ended = local::run(command.args(["check", "127.0.0.1"]));
    assert_eq!(ended.code, Some(2), "{ended:#?}");
}

/// Another implementation of both ends: coturn.
#[test]
fn coturn_s_server_shows_us_the_same() -> Result<()> {
    let scene = Scene::new(Nat::PortRestricted, 1)?;
    let second = scene.server.add_address()?;
    let mut turnserver = Command::new("turnserver");
    turnserver.args(["-n", "--no-auth", "--no-tls", "--no-dtls", "--no-cli", "--log-file=stdout"]);
    turnserver.args(["--no-tcp", "--no-tcp-relay", "--simple-log"]);
    turnserver.arg(format!("--pidfile={}", scene.lab.folder().join("turnserver.pid").display()));
    turnserver.arg(format!("--listening-ip={}", scene.server.address()));
    turnserver.arg(format!("--listening-ip={second}"));
    let _turnserver = scene.server.spawn("turnserver", &turnserver)?;
    let listening = format!(":{RENDEZVOUS_PORT} ");
    let all = || {
        let sockets = scene.server.run(Command::new("ss").args(["-lun"])).unwrap_or_default();
        let at = |ip: Ipv4Addr| sockets.contains(&format!("{ip}{listening}"));
        at(scene.server.address()) && at(second)
    };
    assert!(lab::eventually(START, all), "coturn does not listen");
    for (nat, kind, expected) in kinds() {
        scene.router.set_nat(nat)?;
        let said = scene.check()?;
        says(&said, kind, &expected, &nat);
        assert_eq!(said["second_address"], true, "{said}");
    }
    Ok(())
}

#[test]
fn coturn_s_client_finds_the_same_with_our_server() -> Result<()> {
    let scene = Scene::new(Nat::PortRestricted, 2)?;
    let _rendezvous = scene.rendezvous("0.0.0.0")?;
    let server = scene.server.address().to_string();
    // Not address-dependent mapping: this client asks third at the address that it asked first.
    for (nat, mapping, filtering) in [
        (
            Nat::PortRestricted,
            "Endpoint Independent Mapping",
            "Address and Port Dependent Filtering",
        ),
        (Nat::AddressRestricted, "Endpoint Independent Mapping", "Address Dependent Filtering"),
        (Nat::Unrestricted, "Endpoint Independent Mapping", "Endpoint Independent Filtering"),
        (Nat::RandomPerDestination, "Address and Port Dependent Mapping", "Address and Port"),
    ] {
        scene.router.set_nat(nat)?;
        let mut client = Command::new("turnutils_natdiscovery");
        let said = scene.inside.run(client.args(["-m", "-f", &server]))?;
        for words in [mapping, filtering] {
            assert!(said.contains(words), "{nat:?}: '{words}' is not in:\n{said}");
        }
    }
    Ok(())
}
