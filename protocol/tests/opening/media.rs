//! A socket of the viewer's that only media is wanted at, beside the path; and openers that only open the
//! own firewall until the peer begins.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punchcast_protocol::address::Policy;
use punchcast_protocol::candidate::{Candidate, CandidateKind};
use punchcast_protocol::opening::{
    Agent, Config, Credentials, Event, IntroductionId, Local, OPENERS_PER_ADDRESS, Role, Setup,
    State, Transmit,
};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::seed;

/// The viewer's socket for media.
const MEDIA: Local = Local(1);

const WAY: Duration = Duration::from_millis(10);

/// A viewer and a broadcaster with nothing between them that translates or filters.
struct Pair {
    viewer: Agent,
    broadcaster: Agent,
    /// The viewer's addresses, by way out.
    viewer_at: [SocketAddr; 2],
    now: Instant,
    /// What the broadcaster told.
    events: Vec<Event>,
}

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], port))
}

fn agent(role: Role, remote: SocketAddr, hop_limit: Option<u8>, now: Instant) -> Agent {
    let setup = Setup {
        role,
        credentials: Credentials { id: IntroductionId([3; 8]), secret: [4; 16] },
        local: Vec::new(),
        remote: vec![Candidate::new(remote, CandidateKind::Reflexive)],
        seen: Some(remote),
        holds: false,
        hop_limit,
        policy: Policy::default(),
        config: Config::for_role(role),
    };
    Agent::new(setup, &mut StdRng::seed_from_u64(seed()), now)
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let viewer_at = [at(1, 1000), at(1, 1001)];
        let viewer = agent(Role::Viewer, at(2, 2000), None, now);
        let broadcaster = agent(Role::Broadcaster, viewer_at[0], None, now);
        Self { viewer, broadcaster, viewer_at, now, events: Vec::new() }
    }

    /// Lets both talk for a while.
    fn run(&mut self, lasts: Duration) {
        let until = self.now + lasts;
        while self.now < until {
            self.now += WAY;
            let from_viewer: Vec<_> = std::iter::from_fn(|| self.viewer.poll_transmit()).collect();
            let back: Vec<_> = std::iter::from_fn(|| self.broadcaster.poll_transmit()).collect();
            for Transmit { local, payload, .. } in from_viewer {
                let from = self.viewer_at[local.0 as usize];
                self.broadcaster.handle_datagram(Local::MAIN, from, &payload, self.now);
            }
            for Transmit { to, payload, .. } in back {
                let Some(local) = self.viewer_at.iter().position(|at| *at == to) else { continue };
                let local = Local(local as u32);
                self.viewer.handle_datagram(local, at(2, 2000), &payload, self.now);
            }
            self.viewer.handle_timeout(self.now);
            self.broadcaster.handle_timeout(self.now);
            self.events.extend(std::iter::from_fn(|| self.broadcaster.poll_event()));
        }
    }

    /// Where the broadcaster was told to send media since it was asked last.
    fn media(&mut self) -> Vec<SocketAddr> {
        let events = std::mem::take(&mut self.events).into_iter();
        let media = events.filter_map(|event| match event {
            Event::Media(to) => Some(to),
            _ => None,
        });
        media.collect()
    }
}

#[test]
fn media_goes_to_its_own_socket_and_the_path_stays() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    let path = pair.viewer.path_pair();
    assert_eq!((pair.viewer.state(), pair.broadcaster.state()), (State::Open, State::Open));
    assert_eq!(pair.media(), [], "nothing was asked for");

    pair.viewer.add_media_local(MEDIA, Vec::new(), pair.now);
    pair.run(Duration::from_secs(20));
    assert_eq!(
        pair.media(),
        [pair.viewer_at[1]],
        "told once, though it is checked again and again"
    );
    assert_eq!(pair.viewer.path_pair(), path);
    assert_eq!(pair.broadcaster.remote(), Some(pair.viewer_at[0]));

    // Its mapping ends; checks come from another address then, and media follows.
    pair.viewer_at[1].set_port(1999);
    pair.run(Duration::from_secs(20));
    assert_eq!(pair.media(), [pair.viewer_at[1]]);
    assert_eq!(pair.broadcaster.remote(), Some(pair.viewer_at[0]), "the path stays");
    assert_eq!(pair.viewer.path_pair(), path);
}

#[test]
fn media_is_not_sent_where_nobody_proved_to_be() {
    let mut pair = Pair::new();
    pair.run(Duration::from_secs(1));
    pair.media();
    pair.viewer.add_media_local(MEDIA, Vec::new(), pair.now);
    // The check is authentic and wants media, but whoever is there answers nothing.
    let check = std::iter::from_fn(|| pair.viewer.poll_transmit())
        .find(|transmit| transmit.local == MEDIA)
        .expect("a check on the new socket");
    let victim = at(77, 7);
    pair.broadcaster.handle_datagram(Local::MAIN, victim, &check.payload, pair.now);
    let told: Vec<_> = std::iter::from_fn(|| pair.broadcaster.poll_event()).collect();
    assert_eq!(told, []);
    assert!(!pair.broadcaster.is_proved(victim));
}

#[test]
fn near_openers_open_the_own_firewall_until_the_peer_begins() {
    let start = Instant::now();
    let mut broadcaster = agent(Role::Broadcaster, at(1, 1000), Some(3), start);
    let mut now = start;
    let mut near = 0;
    while now < start + Duration::from_secs(7) {
        while let Some(transmit) = broadcaster.poll_transmit() {
            assert_eq!(transmit.hop_limit, Some(3));
            near += 1;
        }
        let (due, _) = broadcaster.poll_timeout().expect("it goes on");
        now = due;
        broadcaster.handle_timeout(now);
    }
    assert!((2..=4).contains(&near), "{near} within 7 s");

    let mut viewer = agent(Role::Viewer, at(2, 2000), None, now);
    let check = viewer.poll_transmit().expect("an opener").payload;
    broadcaster.handle_datagram(Local::MAIN, at(1, 1000), &check, now);
    broadcaster.handle_timeout(now);
    let sent: Vec<_> = std::iter::from_fn(|| broadcaster.poll_transmit()).collect();
    let far: Vec<_> = sent.iter().filter(|transmit| transmit.hop_limit.is_none()).collect();
    // The answer, and an opener that is meant to arrive.
    assert!(far.iter().any(|transmit| transmit.payload[0] == 1), "{sent:?}");
    assert!(far.iter().any(|transmit| transmit.payload[0] == 0), "{sent:?}");
    assert!(broadcaster.tried().openers <= OPENERS_PER_ADDRESS);
}

#[test]
fn what_is_well_needs_no_hurry() {
    let mut pair = Pair::new();
    assert!(!pair.broadcaster.is_unhurried(), "there is no path yet");
    pair.run(Duration::from_secs(1));
    assert!(pair.broadcaster.is_unhurried());
    assert!(!pair.viewer.is_unhurried(), "its checks hold its binding");
    pair.broadcaster.doubt(pair.now);
    assert!(!pair.broadcaster.is_unhurried());
    assert!(format!("{:?}", pair.viewer).contains("Open"));
}
