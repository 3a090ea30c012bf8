//! Classification of each kind of router, by probes from two addresses and two ports.

use std::{thread, time::Duration};

use tests::lab::{Capture, Host, Lab, Nat, Result, Router};

use crate::probe::{self, ask, serve, tell};

/// RFC 4787's three behaviours, for mapping and for filtering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depends {
    Independent,
    OnAddress,
    OnAddressAndPort,
}

use Depends::{Independent, OnAddress, OnAddressAndPort};

#[derive(Debug, PartialEq, Eq)]
struct Behaviour {
    mapping: Depends,
    filtering: Depends,
    port_kept: bool,
}

/// Two servers, the first with two ports, and a host behind a router.
struct Scene {
    lab: Lab,
    one: Host,
    two: Host,
    router: Router,
    inside: Host,
}

const PORT: u16 = 3478;
const OTHER_PORT: u16 = 3479;

#[test]
fn each_kind_maps_and_filters_as_its_name_says() -> Result<()> {
    let of = |mapping, filtering, port_kept| Behaviour { mapping, filtering, port_kept };
    let refresh = Nat::OutboundRefreshOnly { timeout: Duration::from_secs(30) };
    let expected = [
        (Nat::PortRestricted, of(Independent, OnAddressAndPort, true)),
        (Nat::PortRestrictedOtherPort, of(Independent, OnAddressAndPort, false)),
        (Nat::AddressRestricted, of(Independent, OnAddress, false)),
        (Nat::Unrestricted, of(Independent, Independent, true)),
        (Nat::AddressDependentMapping, of(OnAddress, OnAddressAndPort, false)),
        (Nat::RandomPerDestination, of(OnAddressAndPort, OnAddressAndPort, false)),
        (Nat::SequentialPerDestination { step: 1 }, of(OnAddressAndPort, OnAddressAndPort, false)),
        (Nat::NoDrop, of(Independent, OnAddressAndPort, true)),
        (refresh, of(Independent, OnAddressAndPort, true)),
        (Nat::AddressOnly { filtered: false }, of(Independent, Independent, true)),
        (Nat::AddressOnly { filtered: true }, of(Independent, OnAddressAndPort, true)),
    ];
    let scene = Scene::new(Nat::PortRestricted)?;
    for (nat, behaviour) in expected {
        scene.router.set_nat(nat)?;
        assert_eq!(scene.classify()?, behaviour, "{nat:?}");
    }
    for (nat, behaviour) in [
        (Nat::Open, of(Independent, Independent, true)),
        (Nat::Firewall, of(Independent, OnAddressAndPort, true)),
    ] {
        let scene = Scene::new(nat)?;
        assert_eq!(scene.classify()?, behaviour, "{nat:?}");
        let seen = ask(&scene.inside, 5002, &[(scene.one.address(), PORT)])?.endpoints()?;
        assert_eq!(probe::ipv4(seen[0]), scene.inside.address(), "{nat:?}");
    }
    Ok(())
}

#[test]
fn sequential_ports_have_the_step_asked_for() -> Result<()> {
    for step in [1, 2, 7] {
        let scene = Scene::new(Nat::SequentialPerDestination { step })?;
        let servers = [
            (scene.one.address(), PORT),
            (scene.one.address(), OTHER_PORT),
            (scene.two.address(), PORT),
        ];
        let seen = ask(&scene.inside, 5000, &servers)?.endpoints()?;
        let steps: Vec<u16> = seen.windows(2).map(|pair| pair[1].port() - pair[0].port()).collect();
        assert_eq!(steps, [step, step]);
    }
    Ok(())
}

#[test]
fn blocked_udp_does_not_pass() -> Result<()> {
    let scene = Scene::new(Nat::UdpBlocked)?;
    let server = [(scene.one.address(), PORT)];
    assert_eq!(ask(&scene.inside, 5000, &server)?.endpoints()?, []);
    scene.router.set_nat(Nat::PortRestricted)?;
    assert_eq!(ask(&scene.inside, 5001, &server)?.endpoints()?.len(), 1);
    scene.router.block_udp(true)?;
    assert_eq!(ask(&scene.inside, 5002, &server)?.endpoints()?, []);
    scene.router.block_udp(false)?;
    assert_eq!(ask(&scene.inside, 5003, &server)?.endpoints()?.len(), 1);
    Ok(())
}

#[test]
fn without_a_drop_an_early_packet_takes_the_port() -> Result<()> {
    for (nat, stolen) in [(Nat::NoDrop, true), (Nat::PortRestricted, false)] {
        let scene = Scene::new(nat)?;
        tell(&scene.one, PORT, (scene.router.external_address(), 5000).into(), "early")?;
        let seen = ask(&scene.inside, 5000, &[(scene.one.address(), PORT)])?.endpoints()?;
        assert_eq!(seen[0].port() != 5000, stolen, "{nat:?}");
    }
    Ok(())
}

#[test]
fn only_outgoing_packets_refresh_where_asked() -> Result<()> {
    let scene = Scene::new(Nat::OutboundRefreshOnly { timeout: Duration::from_secs(2) })?;
    let asked = ask(&scene.inside, 5000, &[(scene.one.address(), PORT)])?;
    let mapped = asked.endpoints()?[0];
    let arriving = scene.inside.capture()?;
    // Incoming packets all along do not help.
    for _ in 0..6 {
        tell(&scene.one, PORT, mapped, "in time")?;
        thread::sleep(Duration::from_millis(500));
    }
    tell(&scene.one, PORT, mapped, "too late")?;
    asked.close()?;
    let again = ask(&scene.inside, 5000, &[(scene.one.address(), PORT)])?;
    tell(&scene.one, PORT, mapped, "again")?;
    assert_eq!(again.received_until("again")?, ["again"]);
    let texts = texts(arriving)?;
    assert!(texts.iter().any(|text| text == "in time"));
    assert!(!texts.iter().any(|text| text == "too late"));
    Ok(())
}

#[test]
fn a_router_forgets_and_moves() -> Result<()> {
    let scene = Scene::new(Nat::PortRestricted)?;
    let server = [(scene.one.address(), PORT)];
    let asked = ask(&scene.inside, 5000, &server)?;
    let mapped = asked.endpoints()?[0];
    scene.router.flush_mappings()?;
    let arriving = scene.inside.capture()?;
    tell(&scene.one, PORT, mapped, "lost")?;
    asked.close()?;
    let asked = ask(&scene.inside, 5000, &server)?;
    tell(&scene.one, PORT, mapped, "end")?;
    assert_eq!(asked.received_until("end")?, ["end"]);
    assert!(!texts(arriving)?.iter().any(|text| text == "lost"));
    asked.close()?;

    let old = scene.router.external_address();
    for nat in [Nat::PortRestricted, Nat::Unrestricted] {
        scene.router.set_nat(nat)?;
        let new = scene.router.change_external_address()?;
        let asked = ask(&scene.inside, 5000, &server)?;
        assert_ne!(new, old);
        assert_eq!(asked.endpoints()?, [(new, 5000).into()], "{nat:?}");
        asked.close()?;
    }
    Ok(())
}

#[test]
fn mappings_expire_when_told() -> Result<()> {
    let scene = Scene::new(Nat::PortRestricted)?;
    let second = Duration::from_secs(1);
    scene.router.set_udp_timeouts(second, second)?;
    let asked = ask(&scene.inside, 5001, &[(scene.one.address(), PORT)])?;
    let mapped = asked.endpoints()?[0];
    let arriving = scene.inside.capture()?;
    thread::sleep(3 * second);
    tell(&scene.one, PORT, mapped, "late")?;
    asked.close()?;
    let asked = ask(&scene.inside, 5001, &[(scene.one.address(), PORT)])?;
    tell(&scene.one, PORT, asked.endpoints()?[0], "end")?;
    assert_eq!(asked.received_until("end")?, ["end"]);
    assert!(!texts(arriving)?.iter().any(|text| text == "late"));
    Ok(())
}

#[test]
fn a_carrier_in_front_decides() -> Result<()> {
    let mut scene = Scene::new(Nat::RandomPerDestination)?;
    let home = scene.lab.router_behind(&scene.router, "home", Nat::Unrestricted)?;
    scene.inside = scene.lab.host_behind(&home, "cam")?;
    assert_eq!(scene.classify()?.mapping, OnAddressAndPort);
    scene.router.set_nat(Nat::PortRestrictedOtherPort)?;
    assert_eq!(scene.classify()?.mapping, Independent);
    Ok(())
}

/// What the datagrams of a capture say.
fn texts(capture: Capture) -> Result<Vec<String>> {
    let datagrams = capture.stop()?;
    Ok(datagrams
        .iter()
        .map(|datagram| String::from_utf8_lossy(&datagram.payload).into_owned())
        .collect())
}

impl Scene {
    fn new(nat: Nat) -> Result<Self> {
        let mut lab = Lab::new()?;
        let one = lab.public_host("one")?;
        let two = lab.public_host("two")?;
        let router = lab.router("router", nat)?;
        let inside = lab.host_behind(&router, "inside")?;
        serve(&one, &[PORT, OTHER_PORT])?;
        serve(&two, &[PORT])?;
        Ok(Self { lab, one, two, router, inside })
    }

    fn classify(&self) -> Result<Behaviour> {
        let first = (self.one.address(), PORT);
        let asked = ask(
            &self.inside,
            5000,
            &[first, (self.one.address(), OTHER_PORT), (self.two.address(), PORT)],
        )?;
        let seen = asked.endpoints()?;
        assert_eq!(seen.len(), 3, "servers answered");
        let mapping = if seen[0] == seen[1] && seen[1] == seen[2] {
            Independent
        } else if seen[0] == seen[1] {
            OnAddress
        } else {
            OnAddressAndPort
        };
        asked.close()?;

        let asked = ask(&self.inside, 5001, &[first])?;
        let mapped = asked.endpoints()?[0];
        tell(&self.one, OTHER_PORT, mapped, "other port")?;
        tell(&self.two, PORT, mapped, "other address")?;
        tell(&self.one, PORT, mapped, "end")?;
        let received = asked.received_until("end")?;
        let got = |text: &str| received.iter().any(|received| received == text);
        let filtering = match (got("other port"), got("other address")) {
            (true, true) => Independent,
            (true, false) => OnAddress,
            (false, false) => OnAddressAndPort,
            (false, true) => panic!("filters its own peer: {received:?}"),
        };
        asked.close()?;
        Ok(Behaviour { mapping, filtering, port_kept: seen[0].port() == 5000 })
    }
}
