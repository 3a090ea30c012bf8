//! Classification of each kind of router, by probes from two addresses and two ports.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use tests::lab::{Capture, Host, Lab, Nat, Result, Router, eventually};

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
        (Nat::AddressRestricted, of(Independent, OnAddress, true)),
        (Nat::AddressRestrictedOtherPort, of(Independent, OnAddress, false)),
        (Nat::Unrestricted, of(Independent, Independent, true)),
        (Nat::UnrestrictedOtherPort, of(Independent, Independent, false)),
        (Nat::UnrestrictedHairpin, of(Independent, Independent, true)),
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
fn flows_of_others_take_sequential_ports() -> Result<()> {
    let mut scene = Scene::new(Nat::SequentialPerDestination { step: 1 })?;
    let neighbour = scene.lab.host_behind(&scene.router, "neighbour")?;
    let server = (scene.one.address(), PORT);
    let before = ask(&scene.inside, 5000, &[server])?.endpoints()?[0].port();
    let flows = neighbour.open_flows((scene.two.address(), PORT).into(), 500, 40)?;
    assert!(flows.wait(probe::LONG)?.success());
    let after = ask(&scene.inside, 5001, &[server])?.endpoints()?[0];
    assert_eq!(after.port() - before, 41);

    let elapsed = Instant::now();
    let slow = neighbour.open_flows((scene.one.address(), PORT).into(), 20, 21)?;
    assert!(slow.wait(probe::LONG)?.success());
    assert!(elapsed.elapsed() >= Duration::from_secs(1), "{:?}", elapsed.elapsed());
    Ok(())
}

#[test]
fn only_hairpins_lead_back_into_the_lan() -> Result<()> {
    for (nat, turns) in
        [(Nat::UnrestrictedHairpin, true), (Nat::Unrestricted, false), (Nat::PortRestricted, false)]
    {
        let mut scene = Scene::new(nat)?;
        let neighbour = scene.lab.host_behind(&scene.router, "neighbour")?;
        let server = (scene.one.address(), PORT);
        serve(&neighbour, &[6000])?;
        let external = scene.router.external_address();
        let mapped = (external, 6000);
        // The neighbour's server makes a mapping of its own, by sending where nobody answers.
        let open = || -> Result<()> {
            scene.one.count_flows()?;
            tell(&neighbour, 6000, (scene.one.address(), 9).into(), "open")?;
            assert!(eventually(probe::LONG, || scene.one.flows().is_ok_and(|all| all.len() == 1)));
            Ok(())
        };
        // One asks from a mapping that it has, the other from one that the hairpin makes.
        for asked in [vec![server, mapped], vec![mapped]] {
            scene.router.flush_mappings()?;
            open()?;
            let seen = ask(&scene.inside, 5000, &asked)?;
            let expected = asked.len() - usize::from(!turns);
            assert_eq!(seen.endpoints()?, vec![(external, 5000).into(); expected], "{nat:?}");
            seen.close()?;
        }
    }
    Ok(())
}

#[test]
fn ipv6_firewalls_open_from_both_sides() -> Result<()> {
    let mut lab = Lab::dual_stack()?;
    let ipv6 = |host: &Host, port: u16| {
        let address = host.ipv6_address().expect("the lab is a dual-stack one");
        SocketAddr::from((address, port))
    };
    let server = lab.public_host("server")?;
    serve(&server, &[PORT])?;
    let home = lab.router("home", Nat::PortRestricted)?;
    let cam = lab.host_behind(&home, "cam")?;
    let carrier = lab.router("carrier", Nat::RandomPerDestination)?;
    let office = lab.router_behind(&carrier, "office", Nat::Unrestricted)?;
    let desk = lab.host_behind(&office, "desk")?;
    let open = lab.router("open", Nat::Open)?;
    let free = lab.host_behind(&open, "free")?;
    serve(&desk, &[PORT])?;
    serve(&free, &[PORT])?;

    // Nobody's address is translated, and the time to live counts hops.
    let at_server = server.capture()?;
    for host in [&cam, &desk, &free] {
        let seen = ask(host, 5000, &[ipv6(&server, PORT)])?;
        assert_eq!(seen.endpoints()?, [ipv6(host, 5000)]);
        seen.close()?;
    }
    let hops: Vec<u8> = at_server
        .stop()?
        .iter()
        .filter(|datagram| datagram.destination == ipv6(&server, PORT))
        .map(|datagram| 64 - datagram.ttl)
        .collect();
    assert_eq!(hops, [2, 3, 2]);

    // From one side only an unfiltered host is reached.
    let asked = ask(&cam, 5001, &[ipv6(&desk, PORT), ipv6(&free, PORT)])?;
    assert_eq!(asked.endpoints()?, [ipv6(&cam, 5001)]);
    // The desk sends too, from another port at first.
    tell(&desk, PORT, ipv6(&cam, 5002), "unasked")?;
    tell(&desk, PORT, ipv6(&cam, 5001), "asked")?;
    tell(&free, PORT, ipv6(&cam, 5001), "end")?;
    assert_eq!(asked.received_until("end")?, ["asked", "end"]);
    asked.close()?;
    let asked = ask(&cam, 5001, &[ipv6(&desk, PORT)])?;
    assert_eq!(asked.endpoints()?, [ipv6(&cam, 5001)]);
    asked.close()?;

    // IPv4 goes on beside it, and what a test does to a router concerns both.
    let expected = home.change_external_address()?;
    let seen = ask(&cam, 5003, &[(server.address(), PORT)])?;
    assert_eq!(seen.endpoints()?, [(expected, 5003).into()]);
    seen.close()?;
    let arriving = cam.capture()?;
    tell(&desk, PORT, ipv6(&cam, 5001), "after the flush")?;
    let end = ask(&cam, 5004, &[ipv6(&desk, PORT), ipv6(&free, PORT)])?;
    assert_eq!(end.endpoints()?, [ipv6(&cam, 5004)]);
    assert!(!texts(arriving)?.iter().any(|text| text == "after the flush"));
    home.block_udp(true)?;
    assert_eq!(ask(&cam, 5005, &[ipv6(&server, PORT)])?.endpoints()?, []);
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
