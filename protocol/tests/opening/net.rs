//! Two hosts with several ways out, the boxes before them, a relay, and a network that loses and delays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punchcast_protocol::address::{Policy, Surroundings, admissible};
use punchcast_protocol::candidate::{Candidate, CandidateKind};
use punchcast_protocol::opening::{
    ANSWERS_PER_ADDRESS, Agent, CHECK_LENGTH, Config, Credentials, Event, Handled, Local,
    OPENERS_PER_ADDRESS, PairId, Path, Role, SCOUTS_IN_TOTAL, Setup, State,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::effort::{Effort, Post};
use crate::nat::{Kind, Nat};
use crate::oracle;

pub(crate) const VIEWER: usize = 0;
pub(crate) const BROADCASTER: usize = 1;
const RENDEZVOUS_PORT: u16 = 3478;

/// The viewer's relayed address, its way out there, and where the relay is.
pub(crate) const RELAY: Local = Local(5000);
const RELAYED: ([u8; 4], u16) = ([192, 0, 2, 200], 50_000);

/// Sockets of a host have ports that follow that of its first.
const MOST_SOCKETS: u32 = 900;

/// How one side is attached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attachment {
    pub(crate) inner: SocketAddr,
    /// Index of the box that it sits behind; none if it is in the open.
    pub(crate) behind: Option<usize>,
}

/// What a run looks like.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) boxes: Vec<(Kind, IpAddr)>,
    /// Boxes that themselves are behind one.
    pub(crate) layers: BTreeMap<usize, usize>,
    /// Attachments of the viewer and of the broadcaster, one for each address family.
    pub(crate) sides: [Vec<Attachment>; 2],
    pub(crate) rendezvous: IpAddr,
    pub(crate) one_way: Duration,
    /// Between two hosts behind one box.
    pub(crate) lan_one_way: Duration,
    pub(crate) jitter: Duration,
    /// Part of the packets lost on each way.
    pub(crate) loss: f64,
    /// How much later one side starts: the broadcaster, or who is said to be late.
    pub(crate) skew: Duration,
    pub(crate) is_late: [bool; 2],
    pub(crate) allow_private: bool,
}

impl Scenario {
    /// Two sides in different networks, each behind such a box, or in the open.
    pub(crate) fn apart(viewer: Option<Kind>, broadcaster: Option<Kind>) -> Self {
        let mut scenario = Self {
            boxes: Vec::new(),
            layers: BTreeMap::new(),
            sides: [Vec::new(), Vec::new()],
            rendezvous: "192.0.2.9".parse().expect("an address"),
            one_way: Duration::from_millis(25),
            lan_one_way: Duration::from_micros(200),
            jitter: Duration::ZERO,
            loss: 0.0,
            skew: Duration::ZERO,
            is_late: [false; 2],
            allow_private: false,
        };
        let nets = [("192.168.1.7:5000", "198.51.100.1"), ("10.0.0.7:6000", "203.0.113.1")];
        for (side, (kind, (inner, external))) in
            [viewer, broadcaster].into_iter().zip(nets).enumerate()
        {
            let private: SocketAddr = inner.parse().expect("an address");
            let external: IpAddr = external.parse().expect("an address");
            let translates = kind.is_some_and(|kind| kind.mapping.is_some());
            let inner =
                if translates { private } else { SocketAddr::new(external, private.port()) };
            scenario.attach(side, inner, kind, external);
        }
        scenario
    }

    /// Two sides behind one box.
    pub(crate) fn together(kind: Kind) -> Self {
        let mut scenario = Self::apart(None, None);
        scenario.boxes = vec![(kind, "198.51.100.1".parse().expect("an address"))];
        for (side, inner) in ["192.168.1.7:5000", "192.168.1.8:5000"].into_iter().enumerate() {
            let inner = inner.parse().expect("an address");
            scenario.sides[side] = vec![Attachment { inner, behind: Some(0) }];
        }
        scenario
    }

    /// Puts a carrier's box before the one of a side.
    pub(crate) fn carry(mut self, side: usize, carrier: Kind) -> Self {
        let index = self.sides[side][0].behind.expect("a side behind a box");
        let external = self.boxes[index].1;
        self.boxes[index].1 = IpAddr::from([100, 64, 0, 1 + side as u8]);
        self.boxes.push((carrier, external));
        self.layers.insert(index, self.boxes.len() - 1);
        self
    }

    /// What is known of the boxes before a side.
    pub(crate) fn kinds(&self, side: usize) -> Vec<Kind> {
        let first = self.sides[side][0].behind;
        let boxes = std::iter::successors(first, |index| self.layers.get(index).copied());
        boxes.map(|index| self.boxes[index].0).collect()
    }

    /// Adds an attachment.
    pub(crate) fn attach(
        &mut self,
        side: usize,
        inner: SocketAddr,
        kind: Option<Kind>,
        external: IpAddr,
    ) {
        let behind = kind.map(|kind| {
            self.boxes.push((kind, external));
            self.boxes.len() - 1
        });
        self.sides[side].push(Attachment { inner, behind });
    }
}

/// Where packets go: the boxes with their state.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    pub(crate) boxes: Vec<Nat>,
    layers: BTreeMap<usize, usize>,
    sides: [Vec<Attachment>; 2],
    /// Whom the viewer's relay takes packets from (RFC 8656, section 9).
    permitted: BTreeSet<IpAddr>,
}

/// A packet past the sender's box.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// It never leaves the network of one box.
    pub(crate) is_local: bool,
}

impl Routes {
    pub(crate) fn send(
        &mut self,
        side: usize,
        local: Local,
        to: SocketAddr,
        now: Instant,
    ) -> Option<Sent> {
        if local == RELAY {
            self.permitted.insert(to.ip());
            return Some(Sent { from: RELAYED.into(), to, is_local: false });
        }
        let Attachment { mut inner, behind } =
            *self.sides[side].iter().find(|a| a.inner.is_ipv4() == to.is_ipv4())?;
        assert!(local.0 < MOST_SOCKETS, "{local:?}");
        inner.set_port(inner.port() + local.0 as u16);
        if behind.is_none() {
            return Some(Sent { from: inner, to, is_local: false });
        }
        let is_neighbour = |a: &Attachment| a.behind == behind && a.inner.ip() == to.ip();
        if self.sides.iter().flatten().any(is_neighbour) {
            return Some(Sent { from: inner, to, is_local: true });
        }
        let mut from = inner;
        let mut next = behind;
        while let Some(index) = next {
            let nat = &mut self.boxes[index];
            from = nat.outbound(from, to, now);
            if to.ip() == nat.external && !nat.kind.hairpin {
                return None;
            }
            next = self.layers.get(&index).copied();
        }
        Some(Sent { from, to, is_local: false })
    }

    /// The side that a packet reaches, and the way that it comes in by.
    pub(crate) fn arrive(&mut self, packet: Sent, now: Instant) -> Option<(usize, Local)> {
        let Sent { from, to, is_local } = packet;
        if to == RELAYED.into() {
            return self.permitted.contains(&from.ip()).then_some((VIEWER, RELAY));
        }
        let mut inner = to;
        if !is_local {
            let outermost =
                |index| std::iter::successors(Some(index), |i| self.layers.get(i).copied());
            let reached =
                self.sides.iter().flatten().find_map(|attachment| match attachment.behind {
                    None => (attachment.inner.ip() == to.ip()).then(Vec::new),
                    Some(index) => {
                        let boxes: Vec<usize> = outermost(index).collect();
                        let last = &self.boxes[*boxes.last()?];
                        let address = match last.kind.mapping {
                            Some(_) => last.external,
                            None => attachment.inner.ip(),
                        };
                        (address == to.ip()).then_some(boxes)
                    }
                })?;
            for index in reached.into_iter().rev() {
                inner = self.boxes[index].inbound(from, inner, now)?;
            }
        }
        self.sides.iter().enumerate().find_map(|(side, attachments)| {
            let mut ports = attachments.iter().filter(|a| a.inner.ip() == inner.ip());
            let local = ports.find_map(|a| {
                let local = u32::from(inner.port().checked_sub(a.inner.port())?);
                (local < MOST_SOCKETS).then_some(Local(local))
            });
            local.map(|local| (side, local))
        })
    }
}

/// What one side sent to one address before it was proved.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Unproved {
    pub(crate) openers: u32,
    pub(crate) answers: u32,
}

pub(crate) struct Side {
    pub(crate) agent: Option<Agent>,
    pub(crate) setup: Option<Setup>,
    start_at: Instant,
    pub(crate) events: Vec<(Instant, Event)>,
    /// Since the last renewal.
    pub(crate) unproved: BTreeMap<SocketAddr, Unproved>,
    /// Addresses that somebody told this side, or that it heard from. Others only get scouts.
    pub(crate) known: BTreeSet<SocketAddr>,
    /// Where the rendezvous sees the peer, over time.
    pub(crate) seen: BTreeSet<IpAddr>,
    pub(crate) effort: Option<Effort>,
}

impl Side {
    pub(crate) fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("the side has started")
    }

    pub(crate) fn opened(&self) -> Option<Path> {
        self.events.iter().find_map(|(_, event)| match event {
            Event::Opened(path) => Some(*path),
            _ => None,
        })
    }

    /// The path in use after the last event.
    pub(crate) fn path(&self) -> Option<Path> {
        self.events.iter().rev().find_map(|(_, event)| match event {
            Event::Opened(path) | Event::Moved(path) => Some(*path),
            _ => None,
        })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.state() == State::Open)
    }
}

pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) routes: Routes,
    pub(crate) sides: [Side; 2],
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    /// Whether a direct path is possible, by what the boxes do.
    pub(crate) possible: bool,
    /// Nothing gets through.
    pub(crate) cut: bool,
    /// Packets between neighbours are lost.
    pub(crate) lan_cut: bool,
    pub(crate) policy: [Policy; 2],
    flying: BTreeMap<(Instant, u64), (Sent, Vec<u8>)>,
    /// How long openers from another socket wait after the peer is told of it; none: a round trip to the
    /// rendezvous.
    pub(crate) rebound_after: Option<Duration>,
    /// Words of the rendezvous on their way, and things to do.
    pub(crate) posts: BTreeMap<(Instant, u64), (usize, Post)>,
    serial: u64,
    pub(crate) rng: StdRng,
}

impl World {
    pub(crate) fn new(scenario: Scenario, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        let boxes = scenario.boxes.iter().map(|(kind, ip)| Nat::new(*kind, *ip, &mut rng));
        let mut routes = Routes {
            boxes: boxes.collect(),
            layers: scenario.layers.clone(),
            sides: scenario.sides.clone(),
            permitted: BTreeSet::new(),
        };

        // Steps 1 to 6.
        let server = SocketAddr::new(scenario.rendezvous, RENDEZVOUS_PORT);
        let server6: SocketAddr = "[2001:db8:9::9]:3478".parse().expect("an address");
        let candidates = [VIEWER, BROADCASTER].map(|side| {
            let mut list = Vec::new();
            for attachment in &scenario.sides[side] {
                let via = if attachment.inner.is_ipv4() { server } else { server6 };
                let seen =
                    routes.send(side, Local::MAIN, via, start).expect("servers are reachable").from;
                list.push(Candidate::new(seen, CandidateKind::Reflexive));
                list.push(Candidate::new(attachment.inner, CandidateKind::Host));
            }
            list
        });
        let reflexive = candidates.each_ref().map(|list| {
            let seen = list.iter().filter(|c| c.kind == CandidateKind::Reflexive);
            seen.map(|c| c.address.ip()).collect::<Vec<_>>()
        });
        let credentials = Credentials::mint(&mut rng);
        let policy = [VIEWER, BROADCASTER].map(|side| {
            Policy::for_introduction(Surroundings {
                rendezvous: scenario.rendezvous,
                own_reflexive: &reflexive[side],
                peer_reflexive: &reflexive[1 - side],
                allow_private: scenario.allow_private,
            })
        });
        let possible = oracle::is_direct_path_possible(&routes, &candidates, &policy, start);
        let late = if scenario.is_late[VIEWER] { VIEWER } else { BROADCASTER };
        let sides = [Role::Viewer, Role::Broadcaster].map(|role| {
            let side = role as usize;
            let remote = &candidates[1 - side];
            let seen = remote.first().map(|seen| seen.address);
            Side {
                agent: None,
                setup: Some(Setup {
                    role,
                    credentials: credentials.clone(),
                    local: candidates[side].clone(),
                    remote: remote.clone(),
                    seen,
                    holds: false,
                    hop_limit: None,
                    policy: policy[side],
                    config: Config::for_role(role),
                }),
                start_at: start + if side == late { scenario.skew } else { Duration::ZERO },
                events: Vec::new(),
                unproved: BTreeMap::new(),
                known: remote.iter().map(|candidate| candidate.address).collect(),
                seen: seen.iter().map(SocketAddr::ip).collect(),
                effort: None,
            }
        });
        Self {
            scenario,
            routes,
            sides,
            start,
            now: start,
            possible,
            cut: false,
            lan_cut: false,
            policy,
            flying: BTreeMap::new(),
            rebound_after: None,
            posts: BTreeMap::new(),
            serial: 0,
            rng,
        }
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time, |_| false);
    }

    /// Runs to an instant, or until something is so; returns whether it is.
    pub(crate) fn run_until(&mut self, end: Instant, mut done: impl FnMut(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            let arrival = self.flying.keys().next().map(|(at, _)| *at);
            let due = self.sides.iter().filter_map(|side| match &side.agent {
                None => Some(side.start_at),
                Some(agent) => agent.poll_timeout().map(|(at, _)| at),
            });
            let post = self.posts.keys().next().map(|(at, _)| *at);
            let Some(next) = due.chain(arrival).chain(post).min().filter(|next| *next <= end)
            else {
                self.now = end;
                return false;
            };
            self.now = self.now.max(next);
            self.step();
        }
    }

    fn step(&mut self) {
        let now = self.now;
        if let Some(flight) = self.flying.first_entry().filter(|entry| entry.key().0 <= now) {
            let (packet, payload) = flight.remove();
            match self.routes.arrive(packet, now) {
                Some((side, local)) if payload[0] >= 128 => self.take_media(side, local),
                Some((side, local)) => {
                    self.hand_over(side, local, packet.from, &payload);
                }
                None => {}
            }
            return;
        }
        if let Some(post) = self.posts.first_entry().filter(|entry| entry.key().0 <= now) {
            let (side, post) = post.remove();
            self.take_post(side, post);
            return;
        }
        for side in [VIEWER, BROADCASTER] {
            let this = &mut self.sides[side];
            match &mut this.agent {
                None if this.start_at <= now && this.effort.is_some() => self.start(side),
                None if this.start_at <= now => {
                    let setup = this.setup.take().expect("started once");
                    this.agent = Some(Agent::new(setup, &mut self.rng, now));
                }
                Some(agent) if agent.poll_timeout().is_some_and(|(at, _)| at <= now) => {
                    agent.handle_timeout(now);
                }
                _ => {}
            }
            self.drain(side);
        }
    }

    /// Gives a datagram to a side, from wherever.
    pub(crate) fn hand_over(
        &mut self,
        side: usize,
        local: Local,
        from: SocketAddr,
        payload: &[u8],
    ) -> Option<Handled> {
        let handled =
            self.sides[side].agent.as_mut()?.handle_datagram(local, from, payload, self.now);
        if handled == Handled::Mine {
            self.sides[side].known.insert(from);
        }
        self.drain(side);
        Some(handled)
    }

    /// Takes everything out of an agent, and checks its duties.
    pub(crate) fn drain(&mut self, side: usize) {
        let now = self.now;
        while let Some(agent) = &mut self.sides[side].agent {
            let Some(transmit) = agent.poll_transmit() else { break };
            let is_proved = agent.is_proved(transmit.to);
            assert_eq!(admissible(transmit.to, &self.policy[side]), Ok(()), "{}", transmit.to);
            assert!(transmit.payload.len() <= CHECK_LENGTH);
            let scouts = agent.tried().scouts;
            let this = &mut self.sides[side];
            let is_known = this.known.contains(&transmit.to);
            let is_seen = this.seen.contains(&transmit.to.ip());
            assert!(is_known || (is_seen && scouts > 0), "nobody told of {}", transmit.to);
            assert!(scouts <= SCOUTS_IN_TOTAL, "{scouts}");
            if !is_proved {
                let unproved = this.unproved.entry(transmit.to).or_default();
                let is_answer = transmit.payload[0] == 1;
                *(if is_answer { &mut unproved.answers } else { &mut unproved.openers }) += 1;
                let scouts = if is_seen { scouts } else { 0 };
                assert!(unproved.openers <= OPENERS_PER_ADDRESS + scouts, "{unproved:?}");
                assert!(unproved.answers <= ANSWERS_PER_ADDRESS, "{unproved:?}");
            }
            self.launch(side, transmit.local, transmit.to, transmit.payload);
        }
        let this = &mut self.sides[side];
        if let Some(agent) = &mut this.agent {
            while let Some(event) = agent.poll_event() {
                this.events.push((now, event));
            }
        }
    }

    /// Sends a datagram as it is.
    pub(crate) fn launch(&mut self, side: usize, local: Local, to: SocketAddr, payload: Vec<u8>) {
        let Some(packet) = self.routes.send(side, local, to, self.now) else { return };
        let lost = self.cut
            || (packet.is_local && self.lan_cut)
            || self.rng.random_bool(self.scenario.loss);
        if lost {
            return;
        }
        let way = if packet.is_local { self.scenario.lan_one_way } else { self.scenario.one_way };
        let is_relayed = local == RELAY || to == RELAYED.into();
        let at = self.now
            + way * if is_relayed { 2 } else { 1 }
            + self.scenario.jitter.mul_f64(self.rng.random());
        self.serial += 1;
        self.flying.insert((at, self.serial), (packet, payload));
    }

    /// Whether what each side sends on its path would arrive at the other from where that one sends to.
    pub(crate) fn agree(&self) -> bool {
        let mut routes = self.routes.clone();
        let Some([viewer, broadcaster]) = self.paths() else { return false };
        [(VIEWER, viewer, broadcaster), (BROADCASTER, broadcaster, viewer)].into_iter().all(
            |(side, own, peer)| {
                let sent = routes.send(side, own.local, own.remote, self.now);
                sent.is_some_and(|packet| {
                    routes.arrive(packet, self.now) == Some((1 - side, peer.local))
                        && packet.from == peer.remote
                })
            },
        )
    }

    fn paths(&self) -> Option<[PairId; 2]> {
        let [viewer, broadcaster] =
            self.sides.each_ref().map(|side| side.agent.as_ref()?.path_pair());
        Some([viewer?, broadcaster?])
    }

    /// Where the relay has the viewer.
    pub(crate) fn relayed() -> SocketAddr {
        RELAYED.into()
    }

    /// Where the rendezvous is.
    pub(crate) fn server(&self) -> SocketAddr {
        SocketAddr::new(self.scenario.rendezvous, RENDEZVOUS_PORT)
    }

    /// Does something later.
    pub(crate) fn post(&mut self, after: Duration, side: usize, post: Post) {
        self.serial += 1;
        self.posts.insert((self.now + after, self.serial), (side, post));
    }

    pub(crate) fn rtt(&self) -> Duration {
        self.scenario.one_way * 2
    }
}
