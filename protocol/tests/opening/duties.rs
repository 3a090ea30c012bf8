//! What a stranger, or a peer that lies, cannot make an agent do.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use punchcast_protocol::address::{Inadmissible, Policy};
use punchcast_protocol::candidate::{Candidate, CandidateKind};
use punchcast_protocol::opening::{
    ANSWERS_IN_TOTAL, ANSWERS_PER_ADDRESS, Agent, Config, Credentials, Handled, Ignored,
    IntroductionId, Local, MAX_INTRODUCED, MAX_LOCALS, NotFromPeer, NotRenewed, NotTaken,
    OPENERS_IN_TOTAL, OPENERS_PER_ADDRESS, PairId, RENEWAL_WINDOW, RENEWALS_PER_WINDOW, Renewal,
    Role, SCOUTS_IN_TOTAL, Scouting, Setup, Transmit, username_of,
};
use punchcast_protocol::stun::IntegrityError;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::seed;

const ID: IntroductionId = IntroductionId([3; 8]);

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn agent(role: Role, secret: [u8; 16], remote: &[&str], now: Instant) -> Agent {
    let kind = CandidateKind::Host;
    let setup = Setup {
        role,
        credentials: Credentials { id: ID, secret },
        local: Vec::new(),
        remote: remote.iter().map(|text| Candidate::new(address(text), kind)).collect(),
        seen: remote.first().map(|text| address(text)),
        holds: false,
        hop_limit: None,
        policy: Policy::default(),
        config: Config::for_role(role),
    };
    Agent::new(setup, &mut StdRng::seed_from_u64(seed()), now)
}

fn sent(agent: &mut Agent) -> Vec<Transmit> {
    std::iter::from_fn(|| agent.poll_transmit()).collect()
}

/// Lets an agent run for a minute of its own time, and returns all that it sends.
fn sent_in_a_minute(agent: &mut Agent, start: Instant) -> Vec<Transmit> {
    let mut all = sent(agent);
    while let Some((at, _)) =
        agent.poll_timeout().filter(|(at, _)| *at < start + Duration::from_secs(60))
    {
        agent.handle_timeout(at);
        all.extend(sent(agent));
    }
    all
}

#[test]
fn refused_addresses_get_nothing_by_any_way() {
    let start = Instant::now();
    let refused = [
        "127.0.0.1:9",
        "10.0.0.1:9",
        "224.0.0.1:9",
        "255.255.255.255:9",
        "192.0.2.1:0",
        "[::ffff:127.0.0.1]:9",
        "[ff02::1]:9",
        "169.254.169.254:80",
        "[fe80::1]:9",
    ];
    let mut broadcaster = agent(Role::Broadcaster, [1; 16], &refused, start);
    assert_eq!(broadcaster.tried().refused as usize, refused.len());
    let added =
        broadcaster.add_remote(Candidate::new(address("[::1]:9"), CandidateKind::Host), start);
    assert_eq!(added, Err(NotTaken::Inadmissible(Inadmissible::Loopback)));
    let check = sent(&mut agent(Role::Viewer, [1; 16], &["192.0.2.1:9"], start)).remove(0);
    for from in refused {
        let handled =
            broadcaster.handle_datagram(Local::MAIN, address(from), &check.payload, start);
        assert!(
            matches!(handled, Handled::NotMine(Ignored::Inadmissible(_))),
            "{from}: {handled:?}"
        );
    }
    assert_eq!(sent_in_a_minute(&mut broadcaster, start), []);
}

#[test]
fn a_named_address_gets_a_bounded_number() {
    let start = Instant::now();
    let mut broadcaster = agent(Role::Broadcaster, [1; 16], &["192.0.2.1:9"], start);
    let sent = sent_in_a_minute(&mut broadcaster, start);
    assert!(sent.len() > 20 && sent.len() <= OPENERS_PER_ADDRESS as usize, "{}", sent.len());
}

#[test]
fn many_named_addresses_get_a_bounded_number() {
    let start = Instant::now();
    let named: Vec<_> = (0..100).map(|last| format!("192.0.2.{last}:9")).collect();
    let named: Vec<_> = named.iter().map(String::as_str).collect();
    let mut broadcaster = agent(Role::Broadcaster, [1; 16], &named, start);
    assert_eq!(broadcaster.tried().remotes as usize, MAX_INTRODUCED);
    let sent = sent_in_a_minute(&mut broadcaster, start);
    assert!(sent.len() <= OPENERS_IN_TOTAL as usize, "{}", sent.len());
}

/// More sockets send no more to an address that has proved nothing.
#[test]
fn many_ways_out_share_one_budget() {
    let start = Instant::now();
    let mut viewer = agent(Role::Viewer, [1; 16], &["192.0.2.1:9"], start);
    for number in 1..20 {
        viewer.add_local(Local(number), false, Vec::new(), start);
    }
    let sent = sent_in_a_minute(&mut viewer, start);
    let ways: BTreeSet<Local> = sent.iter().map(|transmit| transmit.local).collect();
    assert!(ways.len() >= MAX_LOCALS, "{}", ways.len());
    assert_eq!(sent.len(), OPENERS_PER_ADDRESS as usize);
}

/// A peer predicts ports of somebody else's address, and of its own without end.
#[test]
fn scouts_go_to_where_the_peer_was_seen_and_end() {
    let start = Instant::now();
    let mut broadcaster = agent(Role::Broadcaster, [1; 16], &["192.0.2.1:9"], start);
    sent(&mut broadcaster);
    let predicted = |ip: &str, port: u16| {
        let address = SocketAddr::new(ip.parse().unwrap(), port);
        Candidate::new(address, CandidateKind::Predicted)
    };
    for ip in ["192.0.2.2", "127.0.0.1", "10.0.0.1", "2001:db8::1"] {
        broadcaster.predicted(&[predicted(ip, 5000)], start);
        assert_eq!(sent(&mut broadcaster), [], "{ip}");
        let remote = SocketAddr::new(ip.parse().unwrap(), 5000);
        let targets = vec![PairId { local: Local::MAIN, remote }];
        assert_eq!(broadcaster.scout(Scouting::search(targets), start), 0);
    }
    let mut scouts = 0;
    for round in 0..1000u16 {
        let ports = (0..48).map(|ahead| predicted("192.0.2.1", 1024 + round * 48 + ahead));
        broadcaster.predicted(&ports.collect::<Vec<_>>(), start);
        scouts += sent(&mut broadcaster).len();
    }
    scouts += sent_in_a_minute(&mut broadcaster, start)
        .iter()
        .filter(|transmit| transmit.to.port() != 9)
        .count();
    assert_eq!(scouts, SCOUTS_IN_TOTAL as usize);
}

/// Somebody renews without end, and names a victim each time.
#[test]
fn renewals_are_few_and_each_has_one_budget() {
    let start = Instant::now();
    let mut broadcaster = agent(Role::Broadcaster, [1; 16], &["192.0.2.1:9"], start);
    let victim = address("192.0.2.66:9");
    let renewal = Renewal {
        remote: vec![Candidate::new(victim, CandidateKind::Host)],
        seen: None,
        policy: Policy::default(),
        holds: false,
    };
    let (mut renewed, mut to_victim) = (0, 0);
    for step in 0..2_000u32 {
        let now = start + RENEWAL_WINDOW * step / 2_000;
        match broadcaster.renew(renewal.clone(), now) {
            Ok(()) => renewed += 1,
            Err(reason) => assert_eq!(reason, NotRenewed::TooMany),
        }
        broadcaster.handle_timeout(now);
        to_victim += sent(&mut broadcaster).iter().filter(|sent| sent.to == victim).count();
        if broadcaster.state().is_over() {
            break;
        }
    }
    assert_eq!(renewed, RENEWALS_PER_WINDOW);
    assert!(to_victim <= (OPENERS_PER_ADDRESS as usize) * RENEWALS_PER_WINDOW, "{to_victim}");
    // Whoever has no path in the end is given up, and then not renewed.
    let later = start + RENEWAL_WINDOW * 2;
    broadcaster.handle_timeout(later);
    assert_eq!(broadcaster.renew(renewal, later), Err(NotRenewed::Over));
    assert_eq!(sent(&mut broadcaster), []);
}

/// A viewer that has the secret repeats its check with forged sources.
#[test]
fn forged_sources_get_a_bounded_number() {
    let start = Instant::now();
    let check = sent(&mut agent(Role::Viewer, [1; 16], &["192.0.2.1:9"], start)).remove(0).payload;
    let mut broadcaster = agent(Role::Broadcaster, [1; 16], &[], start);
    for _ in 0..1000 {
        broadcaster.handle_datagram(Local::MAIN, address("198.51.100.1:53"), &check, start);
    }
    let openers = sent(&mut broadcaster);
    assert!(openers.len() <= (OPENERS_PER_ADDRESS + ANSWERS_PER_ADDRESS) as usize);

    let mut broadcaster = agent(Role::Broadcaster, [1; 16], &[], start);
    let mut all = Vec::new();
    for forged in 0..20_000u32 {
        let now = start + Duration::from_micros(u64::from(forged) * 400);
        let from = SocketAddr::from((Ipv4Addr::from(0xc633_6400 + forged), 53));
        broadcaster.handle_datagram(Local::MAIN, from, &check, now);
        all.extend(sent(&mut broadcaster));
    }
    all.extend(sent_in_a_minute(&mut broadcaster, start));
    let most = OPENERS_IN_TOTAL + ANSWERS_IN_TOTAL;
    assert!(all.len() <= most as usize, "{}", all.len());
    assert!(all.iter().all(|transmit| transmit.payload.len() <= check.len()));
}

#[test]
fn strangers_get_nothing_and_change_nothing() {
    let start = Instant::now();
    let mut viewer = agent(Role::Viewer, [1; 16], &["192.0.2.1:9"], start);
    let mut stranger = agent(Role::Broadcaster, [2; 16], &["192.0.2.2:9"], start);
    let check = sent(&mut stranger).remove(0).payload;
    let own = sent(&mut viewer).remove(0).payload;
    assert_eq!(username_of(&check), Some(ID));
    let before = (viewer.poll_timeout(), viewer.tried());
    let from = address("192.0.2.1:9");
    for (datagram, reason) in
        [(&check, NotFromPeer::Integrity(IntegrityError::Mismatch)), (&own, NotFromPeer::Reflected)]
    {
        let handled = viewer.handle_datagram(Local::MAIN, from, datagram, start);
        assert_eq!(handled, Handled::NotMine(Ignored::NotFromPeer(reason)));
    }
    assert_eq!(sent(&mut viewer), []);
    assert_eq!((viewer.poll_timeout(), viewer.tried()), before);
}

#[test]
fn only_an_answer_from_the_address_asked_proves() {
    let start = Instant::now();
    let [asked, other] = ["192.0.2.1:9", "192.0.2.2:9"].map(address);
    let mut viewer = agent(Role::Viewer, [1; 16], &["192.0.2.1:9"], start);
    let mut broadcaster = agent(Role::Broadcaster, [1; 16], &[], start);
    let check = sent(&mut viewer).remove(0).payload;
    assert_eq!(broadcaster.handle_datagram(Local::MAIN, other, &check, start), Handled::Mine);
    let answer = sent(&mut broadcaster).remove(0).payload;
    let later = start + Duration::from_millis(5);

    let handled = viewer.handle_datagram(Local::MAIN, other, &answer, later);
    assert_eq!(handled, Handled::NotMine(Ignored::WrongAddress));
    assert!(!viewer.is_proved(asked) && !viewer.is_proved(other));

    assert_eq!(viewer.handle_datagram(Local::MAIN, asked, &answer, later), Handled::Mine);
    assert!(viewer.is_proved(asked) && !viewer.is_proved(other));
    assert_eq!(viewer.rtt(), Some(Duration::from_millis(5)));

    let again = viewer.handle_datagram(Local::MAIN, asked, &answer, later);
    assert_eq!(again, Handled::NotMine(Ignored::UnknownTransaction));
}

/// Someone on the way repeats the viewer's nomination from an address of their own.
#[test]
fn a_replayed_nomination_moves_nothing() {
    let start = Instant::now();
    let [of_viewer, of_thief, of_broadcaster] =
        ["198.51.100.1:5000", "198.51.100.66:5000", "203.0.113.1:6000"].map(address);
    let mut viewer = agent(Role::Viewer, [1; 16], &["203.0.113.1:6000"], start);
    let mut broadcaster = agent(Role::Broadcaster, [1; 16], &["198.51.100.1:5000"], start);
    let mut heard_by_thief = Vec::new();
    for step in 1..20 {
        let now = start + Duration::from_millis(step * 10);
        for transmit in sent(&mut viewer) {
            heard_by_thief.push(transmit.payload.clone());
            broadcaster.handle_datagram(Local::MAIN, of_viewer, &transmit.payload, now);
        }
        for transmit in sent(&mut broadcaster).into_iter().filter(|t| t.to == of_viewer) {
            viewer.handle_datagram(Local::MAIN, of_broadcaster, &transmit.payload, now);
        }
    }
    assert_eq!(broadcaster.remote(), Some(of_viewer));
    let now = start + Duration::from_secs(1);
    for datagram in &heard_by_thief {
        broadcaster.handle_datagram(Local::MAIN, of_thief, datagram, now);
    }
    assert_eq!(broadcaster.remote(), Some(of_viewer));
    assert!(!broadcaster.is_proved(of_thief));
}
