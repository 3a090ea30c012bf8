//! What a stranger, or a peer that lies, cannot make an agent do.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use punchcast_protocol::address::{Inadmissible, Policy};
use punchcast_protocol::candidate::{Candidate, CandidateKind};
use punchcast_protocol::opening::{
    ANSWERS_IN_TOTAL, ANSWERS_PER_ADDRESS, Agent, Config, Credentials, Handled, Ignored,
    IntroductionId, Local, MAX_INTRODUCED, NotFromPeer, NotTaken, OPENERS_IN_TOTAL,
    OPENERS_PER_ADDRESS, Role, Setup, Transmit, username_of,
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
        seen: None,
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
