//! What goes to whom, in captures: nothing but opening packets to an address before it has answered
//! one, few of these, and nothing at all to addresses that nobody may be sent to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use protocol::demux::{Class, classify};
use protocol::opening::SEARCH_SOCKETS;
use protocol::opening::{
    ANSWERS_PER_ADDRESS, CHECK_LENGTH, OPENERS_IN_TOTAL, OPENERS_PER_ADDRESS, RENEWALS_PER_WINDOW,
    SCOUTS_IN_TOTAL,
};
use protocol::srtcp;
use tests::lab::{self, Datagram, Nat, Result, eventually};
use tests::stage::{RENDEZVOUS_PORT, Stage};

const SECOND: Duration = Duration::from_secs(1);

/// Delay of each side's link: 40 ms for the round trip between the two sides.
const ONE_WAY: Duration = Duration::from_millis(10);

/// Small, so that many can run at once.
const SMALL: &str = "pipeline:videotestsrc is-live=true ! video/x-raw,width=320,height=180";

/// Ports of the rendezvous that serve: signalling and STUN, STUN alone, the relay.
const SERVING: std::ops::RangeInclusive<u16> = RENDEZVOUS_PORT..=RENDEZVOUS_PORT + 2;

/// The first port of relayed addresses.
const RELAYED: u16 = 49152;

/// Where a router is asked for a mapped port (RFC 6886, UPnP): by our own will, no peer's.
const ROUTER_PORTS: [u16; 2] = [5351, 1900];

/// How often each socket of a search sends to the one address that the rendezvous saw.
const SEARCH_ROUNDS: u32 = 2;

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const ALLOCATE_ERROR: u16 = 0x0113;

/// A refusal for want of credentials, with what it takes to make some.
const REFUSAL_LENGTH: usize = 76;

/// What was sent to one address before it was proved, and whether it was.
#[derive(Debug, Default)]
struct Sent {
    openers: u32,
    answers: u32,
    media: u32,
    quic: u32,
}

/// All that one party sent, by destination.
#[derive(Debug, Default)]
struct Audit {
    sent: BTreeMap<SocketAddr, Sent>,
    proved: HashSet<SocketAddr>,
}

impl Audit {
    /// Goes through what came and went at a party, which has the addresses told by `is_own`, and makes
    /// sure that each datagram was allowed when it went. What goes to `is_server` is the party's own
    /// business with the rendezvous.
    fn of(
        datagrams: &[Datagram],
        is_own: impl Fn(SocketAddr) -> bool,
        is_server: impl Fn(SocketAddr) -> bool,
    ) -> Self {
        let mut audit = Self::default();
        let mut asked = HashMap::new();
        let mut requests = HashMap::new();
        for Datagram { source, destination, payload, .. } in datagrams {
            let stun = stun(payload);
            if is_own(*destination) {
                match stun {
                    Some((BINDING_SUCCESS, id)) if asked.get(&id) == Some(source) => {
                        audit.proved.insert(*source);
                    }
                    Some((BINDING_REQUEST, id)) => {
                        requests.insert((*source, id), payload.len());
                    }
                    _ => {}
                }
            }
            let own_will = ROUTER_PORTS.contains(&destination.port());
            if !is_own(*source) || is_server(*destination) || own_will {
                continue;
            }
            assert!(!is_forbidden(destination.ip()), "{source} sent to {destination}");
            let is_proved = audit.proved.contains(destination);
            let sent = audit.sent.entry(*destination).or_default();
            match (classify(payload), stun) {
                (Class::Stun, Some((BINDING_REQUEST, id))) => {
                    asked.insert(id, *destination);
                    assert!(payload.len() <= CHECK_LENGTH, "{} bytes", payload.len());
                    sent.openers += u32::from(!is_proved);
                }
                (Class::Stun, Some((BINDING_SUCCESS, id))) => {
                    let request = requests.get(&(*destination, id)).copied();
                    assert!(Some(payload.len()) <= request, "an answer longer than its request");
                    sent.answers += u32::from(!is_proved);
                }
                (Class::Media, _) if is_proved => {
                    sent.media += u32::from(srtcp::sender(payload).is_none());
                }
                (Class::Quic, _) if is_proved => sent.quic += 1,
                (class, _) => panic!("{class:?} to {destination}, which has proved nothing"),
            }
        }
        for (address, sent) in &audit.sent {
            assert!(sent.answers <= ANSWERS_PER_ADDRESS, "{address}: {sent:?}");
        }
        audit
    }

    /// Openers to unproved addresses: the most to one of them, and all together.
    fn openers(&self) -> (u32, u32) {
        let openers = self.sent.values().map(|sent| sent.openers);
        (openers.clone().max().unwrap_or(0), openers.sum())
    }

    /// Media datagrams, feedback aside. Both went to proved addresses.
    fn media(&self) -> u32 {
        self.sent.values().map(|sent| sent.media).sum()
    }

    fn check_openers(&self, introductions: u32) {
        let (most, all) = self.openers();
        let searching = SEARCH_ROUNDS * u32::from(SEARCH_SOCKETS);
        let per_address = OPENERS_PER_ADDRESS + searching;
        assert!(most <= per_address * introductions, "{most} to one address");
        let scouted = OPENERS_IN_TOTAL + SCOUTS_IN_TOTAL;
        assert!(all <= scouted * introductions, "{all} in all");
    }
}

/// Message type and transaction id of a STUN message (RFC 8489, section 5).
fn stun(datagram: &[u8]) -> Option<(u16, [u8; 12])> {
    if classify(datagram) != Class::Stun {
        return None;
    }
    let kind = u16::from_be_bytes([*datagram.first()?, *datagram.get(1)?]);
    Some((kind, datagram.get(8..20)?.try_into().ok()?))
}

fn is_forbidden(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.octets()[0] == 0
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
        }
    }
}

/// Nothing but the search for a router uses loopback, and that in one process.
fn check_loopback(datagrams: &[Datagram]) {
    let opening: Vec<_> = datagrams.iter().filter(|d| stun(&d.payload).is_some()).collect();
    assert!(opening.is_empty(), "{opening:?}");
}

/// Makes sure that no answer of a server to whoever asks was longer than its request, but for the
/// relay's first refusals, which have one length.
fn check_answers(datagrams: &[Datagram], server: IpAddr) {
    let mut requests = HashMap::new();
    let is_serving = |at: &SocketAddr| at.ip() == server && SERVING.contains(&at.port());
    for Datagram { source, destination, payload, .. } in datagrams {
        let Some((kind, id)) = stun(payload) else { continue };
        if is_serving(destination) {
            requests.insert((*source, id), payload.len());
        } else if is_serving(source) {
            let request = requests.get(&(*destination, id)).copied().unwrap_or(0);
            let length = payload.len();
            match kind {
                BINDING_SUCCESS | BINDING_ERROR => {
                    assert!(length <= request, "{length} bytes for {request}");
                }
                ALLOCATE_ERROR => assert!(length <= request.max(REFUSAL_LENGTH), "{length} bytes"),
                // The rest only viewers with credentials get.
                _ => {}
            }
        }
    }
}

/// Lets a viewer behind each of these routers join, one after the other, until it plays by one of the
/// paths given for it; then audits both sides, and what relayed addresses sent.
fn joins_are_clean(home: Nat, viewers: &[(Nat, &[&str])]) -> Result<()> {
    let kinds: Vec<Nat> = viewers.iter().map(|(nat, _)| *nat).collect();
    let stage = Stage::with_kinds(home, &kinds, ONE_WAY)?;
    let at_rendezvous = stage.rendezvous.capture()?;
    let _rendezvous = stage.start_rendezvous()?;
    let at_cam = stage.cam.capture()?;
    let on_loopback = stage.cam.capture_on("lo")?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    let mut watching = Vec::new();
    for (at, (_, paths)) in viewers.iter().enumerate() {
        let capture = stage.viewers[at].1.capture()?;
        let viewer = stage.watch(at, &broadcast.link, &["--output", "null"])?;
        let playing = viewer.wait_for(30 * SECOND, |stats| {
            stats["frames_decoded"].as_u64() > Some(30)
                && stats["path"].as_str().is_some_and(|path| paths.contains(&path))
        });
        println!("viewer {at}: {}", playing["path"]);
        viewer.stop()?;
        watching.push(capture);
    }
    let server: IpAddr = stage.rendezvous.address().into();
    let is_server = |at: SocketAddr| at.ip() == server && SERVING.contains(&at.port());
    let introductions = viewers.len() as u32;

    let cam: IpAddr = stage.cam.address().into();
    let audit = Audit::of(&at_cam.stop()?, |at| at.ip() == cam, is_server);
    println!("broadcaster: {:?} openers, {} media", audit.openers(), audit.media());
    assert!(audit.media() > 0);
    audit.check_openers(introductions);
    check_loopback(&on_loopback.stop()?);
    for (capture, (_, host)) in watching.into_iter().zip(&stage.viewers) {
        let own: IpAddr = host.address().into();
        let audit = Audit::of(&capture.stop()?, |at| at.ip() == own, is_server);
        println!("{}: {:?} openers", host.name(), audit.openers());
        assert_eq!(audit.media(), 0, "a viewer sends none");
        audit.check_openers(1);
    }
    let at_rendezvous = at_rendezvous.stop()?;
    let is_relayed = |at: SocketAddr| at.ip() == server && at.port() >= RELAYED;
    let audit = Audit::of(&at_rendezvous, is_relayed, |_| false);
    println!("relayed addresses: {:?} openers", audit.openers());
    audit.check_openers(introductions);
    check_answers(&at_rendezvous, server);
    Ok(())
}

#[test]
fn direct_predicted_and_searched_joins_send_only_what_they_may() -> Result<()> {
    let viewers: [(Nat, &[&str]); 3] = [
        (Nat::PortRestricted, &["reflexive"]),
        (Nat::SequentialPerDestination { step: 1 }, &["predicted", "reflexive"]),
        (Nat::RandomPerDestination, &["predicted", "reflexive"]),
    ];
    joins_are_clean(Nat::PortRestricted, &viewers)
}

#[test]
fn relayed_joins_send_only_what_they_may() -> Result<()> {
    joins_are_clean(Nat::RandomPerDestination, &[(Nat::RandomPerDestination, &["relayed"])])
}

/// A viewer that names others' addresses, introduced once and so often renewed.
fn a_liar_gains_little(renewals: usize) -> Result<()> {
    let mut stage = Stage::with_kinds(Nat::PortRestricted, &[], ONE_WAY)?;
    let victim = stage.lab.public_host("victim")?;
    let liar = stage.lab.public_host("liar")?;
    let _rendezvous = stage.start_rendezvous()?;
    let at_cam = stage.cam.capture()?;
    let on_loopback = stage.cam.capture_on("lo")?;
    let at_victim = victim.capture()?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    let mut command = Command::new(lab::binary("lab-liar")?);
    command.args([stage.rendezvous_address(), broadcast.link.clone()]);
    command.args([format!("{}:9000", victim.address()), renewals.to_string()]);
    let process = liar.spawn("liar", &command)?;
    process.wait_for_line(30 * SECOND, |line| line == "lied")?;
    // The broadcaster's patience for a path, and some more.
    let quiet = || {
        let before = at_victim.datagrams().map_or(0, |datagrams| datagrams.len());
        !eventually(12 * SECOND, || {
            at_victim.datagrams().map_or(0, |datagrams| datagrams.len()) > before
        })
    };
    assert!(eventually(60 * SECOND, quiet), "it never ends");

    let server: IpAddr = stage.rendezvous.address().into();
    let cam: IpAddr = stage.cam.address().into();
    let is_server = |at: SocketAddr| at.ip() == server;
    let audit = Audit::of(&at_cam.stop()?, |at| at.ip() == cam, is_server);
    let times = 1 + renewals.min(RENEWALS_PER_WINDOW) as u32;
    println!("{:?} openers after {renewals} renewals", audit.openers());
    audit.check_openers(times);
    assert!(audit.proved.is_empty(), "{audit:?}");
    // To its own external address it sends to learn whether the router turns packets around.
    let ordinary: [IpAddr; 3] =
        [victim.address(), liar.address(), stage.home.external_address()].map(IpAddr::from);
    let others: Vec<_> = audit.sent.keys().filter(|at| !ordinary.contains(&at.ip())).collect();
    assert!(others.is_empty(), "{others:?}");
    check_loopback(&on_loopback.stop()?);

    let received = at_victim.stop()?;
    assert!(!received.is_empty(), "the victim is an ordinary address, and gets openers");
    let bytes: usize = received.iter().map(|datagram| datagram.payload.len()).sum();
    let ports: HashSet<_> = received.iter().map(|datagram| datagram.destination.port()).collect();
    println!("the victim got {} datagrams, {bytes} bytes, at {ports:?}", received.len());
    assert!(received.iter().all(|datagram| datagram.payload.len() <= CHECK_LENGTH));
    assert!(received.len() <= ports.len() * (OPENERS_PER_ADDRESS * times) as usize);
    Ok(())
}

#[test]
fn many_introductions_do_not_help_a_liar() -> Result<()> {
    const INTRODUCTIONS: usize = 200;
    let mut stage = Stage::with_kinds(Nat::PortRestricted, &[], ONE_WAY)?;
    let (victim, liar) = (stage.lab.public_host("victim")?, stage.lab.public_host("liar")?);
    let _rendezvous = stage.start_rendezvous()?;
    let broadcast = stage.broadcast("cam", SMALL, "")?;
    let at_victim = victim.capture()?;
    let mut command = Command::new(lab::binary("lab-liar")?);
    command.args([stage.rendezvous_address(), broadcast.link.clone()]);
    command.args([format!("{}:9000", victim.address()), "0".into(), INTRODUCTIONS.to_string()]);
    let process = liar.spawn("liar", &command)?;
    process.wait_for_line(30 * SECOND, |line| line == "lied")?;
    // Until the broadcaster has given up all of them.
    let opening = || broadcast.process.stderr().text().matches("path_failed").count();
    assert!(eventually(40 * SECOND, || opening() >= INTRODUCTIONS), "{}", opening());
    let received = at_victim.stop()?;
    let times = received.iter().map(|datagram| datagram.at);
    let (first, last) = (times.clone().min(), times.max());
    let lasted = first.zip(last).map_or(SECOND, |(first, last)| last.saturating_sub(first));
    println!("{INTRODUCTIONS} introductions: {} datagrams in {lasted:.1?}", received.len());
    // 400 to somebody who never answers, and 20 more a second.
    let most = 400.0 + 20.0 * (lasted + SECOND).as_secs_f64();
    assert!(received.len() >= 300 && (received.len() as f64) <= most, "{}", received.len());
    Ok(())
}

#[test]
fn who_names_others_addresses_has_few_opening_packets_sent_there() -> Result<()> {
    a_liar_gains_little(0)
}

#[test]
fn renewing_does_not_help_a_liar_beyond_the_bound() -> Result<()> {
    a_liar_gains_little(RENEWALS_PER_WINDOW + 4)
}
