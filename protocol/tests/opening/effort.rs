//! What both sides do beside their agents, in simulated time: words by way of the rendezvous,
//! predictions, forecasts, searches, another socket, the relay, and renewal when media stalls. The
//! decisions are the protocol's; this does what they say.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use punchcast_protocol::behaviour::{Behaviour, Dependence, Ports};
use punchcast_protocol::candidate::{Candidate, CandidateKind};
use punchcast_protocol::opening::{
    ATTEMPT_TIME, ATTEMPTS, Agent, Event, FORECAST_TIME, Local, PairId, Plan, Renewal, Role,
    SEARCH_AFTER, SEARCH_SOCKETS, SEARCHED_PORTS, Scouting, Search, TOGETHER, plan, searched_ports,
    window,
};
use punchcast_protocol::signalling::{Forecast, Update};
use rand::RngExt;

use crate::nat::{self, Kind};
use crate::net::{BROADCASTER, RELAY, VIEWER, World};

/// Between two packets of media.
const MEDIA_GAP: Duration = Duration::from_millis(20);
const MEDIA: [u8; 1] = [128];

/// Media that stays away so long stalls; a path that was doubted has so long to answer; and from one
/// renewal to the next.
const STALL: Duration = Duration::from_millis(220);
const PATIENCE: Duration = Duration::from_millis(75);
const RENEWING_AGAIN: Duration = Duration::from_millis(1300);

/// Longest time between a look at the sequence and the openers.
const MOST_LINGERING: Duration = Duration::from_millis(50);

/// A broadcaster keeps its place at the rendezvous.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// Sockets of a search have these numbers, those that only look at a sequence the next, others more.
const FIRST_SAMPLE: u32 = 300;
const FIRST_REBOUND: u32 = 800;

/// Something to do at some time.
#[derive(Debug, Clone)]
pub(crate) enum Post {
    /// The peer's word, by the rendezvous.
    Told(Update),
    /// The rendezvous introduces both again: where it sees them.
    Renewed {
        peer: SocketAddr,
        own: SocketAddr,
    },
    /// The viewer's request for that arrives there.
    Renewing,
    /// The rendezvous sees this side here.
    Observed(SocketAddr),
    Keepalive,
    Media,
    /// Part of a plan; of one that is over, nothing.
    Due(u32, Task),
}

#[derive(Debug, Clone)]
pub(crate) enum Task {
    Window(Vec<Candidate>),
    /// The sequence was seen here, for this try.
    Sampled(u32, SocketAddr),
    Forecast(u32),
    Tried(u32),
    Search,
    AskRelay,
    Relayed,
    Rebind,
    Rebound(Local, SocketAddr),
    UseRebound(Local, SocketAddr),
}

/// One side's.
#[derive(Debug)]
pub(crate) struct Effort {
    own: Behaviour,
    peer: Behaviour,
    pub(crate) has_relay: bool,
    /// Where the rendezvous sees this side, and this side the peer.
    observed: SocketAddr,
    seen: SocketAddr,
    round: u32,
    sockets: u32,
    /// Forecasts of the present try, each with where it was seen.
    forecast: Option<Forecast>,
    theirs: Option<Forecast>,
    external: Option<SocketAddr>,
    media_at: Option<Instant>,
    doubted_at: Option<Instant>,
    renewed_at: Option<Instant>,
    pub(crate) renewals: u32,
    remapped: usize,
    /// Longest time without media, once it had begun.
    pub(crate) longest_gap: Duration,
    pub(crate) packets: u64,
}

/// What discovery says of boxes in a row, the inner first.
pub(crate) fn behaviour(kinds: &[Kind]) -> Behaviour {
    let word = |dependence| match dependence {
        nat::Dependence::Independent => Dependence::Independent,
        nat::Dependence::Address => Dependence::Address,
        nat::Dependence::AddressAndPort => Dependence::AddressAndPort,
    };
    let independent = nat::Dependence::Independent;
    let (mut mapping, mut filtering) = (independent, independent);
    let mut ports = Ports::Preserved;
    for kind in kinds {
        filtering = filtering.max(kind.filtering);
        mapping = mapping.max(kind.mapping.unwrap_or(independent));
        // The outer box has the last word, unless it keeps what it gets.
        ports = match kind.ports {
            nat::Ports::Preserved => ports,
            nat::Ports::Sequential(step) => Ports::Sequential { step },
            nat::Ports::Random => Ports::Random,
        };
    }
    Behaviour {
        mapping: Some(word(mapping)),
        filtering: Some(word(filtering)),
        ports: Some(ports),
        ..Behaviour::default()
    }
}

impl World {
    /// Both sides make every effort, with a relay or without.
    pub(crate) fn with_efforts(mut self, has_relay: bool) -> Self {
        let server = self.server();
        let now = self.now;
        let observed = [VIEWER, BROADCASTER]
            .map(|side| self.routes.send(side, Local::MAIN, server, now).expect("reachable").from);
        let known = [VIEWER, BROADCASTER].map(|side| behaviour(&self.scenario.kinds(side)));
        for side in [VIEWER, BROADCASTER] {
            self.sides[side].effort = Some(Effort {
                own: known[side],
                peer: known[1 - side],
                has_relay,
                observed: observed[side],
                seen: observed[1 - side],
                round: 0,
                sockets: 0,
                forecast: None,
                theirs: None,
                external: None,
                media_at: None,
                doubted_at: None,
                renewed_at: None,
                renewals: 0,
                remapped: 0,
                longest_gap: Duration::ZERO,
                packets: 0,
            });
        }
        self.post(KEEPALIVE, BROADCASTER, Post::Keepalive);
        self.post(MEDIA_GAP, BROADCASTER, Post::Media);
        self.post(MEDIA_GAP, VIEWER, Post::Media);
        self
    }

    pub(crate) fn effort(&mut self, side: usize) -> &mut Effort {
        self.sides[side].effort.as_mut().expect("sides with efforts")
    }

    fn agent(&mut self, side: usize) -> &mut Agent {
        self.sides[side].agent.as_mut().expect("started")
    }

    /// From one side to the rendezvous.
    fn to_server(&self) -> Duration {
        self.scenario.one_way
    }

    fn due(&mut self, after: Duration, side: usize, task: Task) {
        let round = self.effort(side).round;
        self.post(after, side, Post::Due(round, task));
    }

    fn tell(&mut self, side: usize, update: Update) {
        self.post(self.to_server() * 2, 1 - side, Post::Told(update));
    }

    /// Where a fresh socket is seen: known a round trip later.
    fn sample(&mut self, side: usize) -> SocketAddr {
        let number = self.effort(side).sockets % 400;
        self.effort(side).sockets += 1;
        let (server, now) = (self.server(), self.now);
        let local = Local(FIRST_SAMPLE + number);
        self.routes.send(side, local, server, now).expect("reachable").from
    }

    pub(crate) fn start(&mut self, side: usize) {
        self.bracketed(side, |world| {
            let setup = world.sides[side].setup.take();
            let mut setup = setup.expect("started once");
            setup.holds = world.plan(side).forecasts;
            let agent = Agent::new(setup, &mut world.rng, world.now);
            world.sides[side].agent = Some(agent);
        });
    }

    /// A busy machine takes a while from one call to the next.
    fn linger(&mut self, side: usize) {
        let time = MOST_LINGERING.mul_f64(self.rng.random());
        let before = self.scenario.sides[side][0].behind;
        if let Some(index) = before {
            self.routes.boxes[index].let_others(time);
        }
    }

    fn plan(&mut self, side: usize) -> Plan {
        let role = if side == VIEWER { Role::Viewer } else { Role::Broadcaster };
        let effort = self.effort(side);
        plan(role, &effort.own, &effort.peer)
    }

    /// Begins a round, between two looks at the sequence where one is predicted.
    fn bracketed(&mut self, side: usize, begin: impl FnOnce(&mut Self)) {
        let plan = self.plan(side);
        self.effort(side).round += 1;
        let sequence = match self.effort(side).own.ports {
            Some(Ports::Sequential { step }) if plan.predicts => Some(step),
            _ => None,
        };
        let before = sequence.map(|_| self.sample(side));
        self.linger(side);
        begin(self);
        self.drain(side);
        self.linger(side);
        if let (Some(before), Some(step)) = (before, sequence) {
            let after = self.sample(side).port();
            let ports = window(before.port(), Some(after), step).into_iter();
            let window = ports.map(|port| predicted(SocketAddr::new(before.ip(), port)));
            self.due(self.to_server() * 2, side, Task::Window(window.collect()));
        }
        if plan.forecasts {
            self.effort(side).theirs = None;
            self.attempt(side, 0);
        }
        if plan.search == Some(Search::OpensSockets) {
            self.due(SEARCH_AFTER, side, Task::Search);
        }
        if side == VIEWER && self.effort(side).has_relay {
            self.due(plan.relay_after, side, Task::AskRelay);
        }
        if let Some(after) = plan.rebind_after {
            self.due(after, side, Task::Rebind);
        }
    }

    pub(crate) fn take_post(&mut self, side: usize, post: Post) {
        match post {
            Post::Told(update) if self.sides[side].agent.is_some() => self.take(side, update),
            // An update overtook the introduction: the rendezvous holds it until then.
            Post::Told(update) => self.post(MEDIA_GAP, side, Post::Told(update)),
            Post::Renewed { peer, own } => self.renew(side, peer, own),
            Post::Renewing => {
                let observed = [VIEWER, BROADCASTER].map(|side| self.effort(side).observed);
                for side in [VIEWER, BROADCASTER] {
                    let (peer, own) = (observed[1 - side], observed[side]);
                    self.post(self.to_server(), side, Post::Renewed { peer, own });
                }
            }
            Post::Observed(address) => self.effort(side).observed = address,
            Post::Keepalive => {
                self.be_seen(side);
                self.post(KEEPALIVE, side, Post::Keepalive);
            }
            Post::Media if side == BROADCASTER => {
                let path = self.sides[side].agent.as_ref().and_then(Agent::path_pair);
                if let Some(PairId { local, remote }) = path {
                    self.launch(side, local, remote, MEDIA.to_vec());
                }
                self.post(MEDIA_GAP, side, Post::Media);
            }
            Post::Media => {
                self.watch();
                self.post(MEDIA_GAP, side, Post::Media);
            }
            Post::Due(round, task) if round == self.effort(side).round => self.work(side, task),
            Post::Due(..) => {}
        }
        if self.sides[side].agent.is_some() {
            self.drain(side);
        }
    }

    /// Sends to the rendezvous, which sees where from.
    fn be_seen(&mut self, side: usize) {
        let (server, now) = (self.server(), self.now);
        let from = self.routes.send(side, Local::MAIN, server, now).expect("reachable").from;
        self.post(self.to_server(), side, Post::Observed(from));
    }

    /// Media came in.
    pub(crate) fn take_media(&mut self, side: usize, _local: Local) {
        let now = self.now;
        let effort = self.effort(side);
        let gap = effort.media_at.map_or(Duration::ZERO, |at| now - at);
        effort.longest_gap = effort.longest_gap.max(gap);
        effort.media_at = Some(now);
        effort.packets += 1;
        (effort.doubted_at, effort.renewed_at) = (None, None);
    }

    /// The viewer watches for media that stalls: it doubts the path, then renews.
    fn watch(&mut self) {
        let now = self.now;
        let events = self.sides[VIEWER].events.iter();
        let remapped = events.filter(|(_, event)| matches!(event, Event::Remapped(_))).count();
        if std::mem::replace(&mut self.effort(VIEWER).remapped, remapped) < remapped {
            self.agent(VIEWER).shorten_checks();
        }
        let effort = self.effort(VIEWER);
        let Some(media_at) = effort.media_at.filter(|at| now - *at >= STALL) else { return };
        let Some(doubted_at) = effort.doubted_at else {
            effort.doubted_at = Some(now);
            self.agent(VIEWER).doubt(now);
            return;
        };
        let is_due = effort.renewed_at.is_none_or(|at| now - at >= RENEWING_AGAIN);
        if is_due && now - doubted_at >= PATIENCE && media_at < doubted_at {
            effort.renewed_at = Some(now);
            self.ask_again();
        }
    }

    /// The viewer asks to be introduced again.
    pub(crate) fn ask_again(&mut self) {
        self.effort(VIEWER).renewals += 1;
        self.be_seen(VIEWER);
        self.post(self.to_server(), VIEWER, Post::Renewing);
    }

    fn renew(&mut self, side: usize, peer: SocketAddr, own: SocketAddr) {
        self.effort(side).seen = peer;
        let remote = vec![Candidate::new(peer, CandidateKind::Reflexive)];
        let this = &mut self.sides[side];
        this.known.insert(peer);
        this.seen.insert(peer.ip());
        this.unproved.clear();
        let policy = self.policy[side];
        let rebinds = side == VIEWER && self.effort(side).renewals > 0;
        self.bracketed(side, |world| {
            let holds = world.plan(side).forecasts;
            let renewal = Renewal { remote, seen: Some(peer), policy, holds };
            let now = world.now;
            // Rounds that come too fast are refused.
            if world.agent(side).renew(renewal, now).is_ok() {
                let own = Candidate::new(own, CandidateKind::Reflexive);
                world.agent(side).told(Local::MAIN, &[own]);
                world.agent(side).check_now(now);
            }
        });
        if rebinds && self.plan(side).rebind_after.is_some() {
            self.due(Duration::ZERO, side, Task::Rebind);
        }
    }

    fn take(&mut self, side: usize, update: Update) {
        let now = self.now;
        let addresses = update.candidates.iter().map(|candidate| candidate.address);
        self.sides[side].known.extend(addresses);
        let (guessed, others): (Vec<_>, Vec<_>) =
            update.candidates.into_iter().partition(|c| c.kind == CandidateKind::Predicted);
        if !guessed.is_empty() {
            self.agent(side).predicted(&guessed, now);
        }
        for candidate in others {
            // Refused where there are too many.
            let _ = self.agent(side).add_remote(candidate, now);
        }
        if let Some(forecast) = update.forecast {
            self.effort(side).theirs = Some(forecast);
            self.meet(side);
        }
        if update.sockets.is_some() {
            let ip = self.effort(side).seen.ip();
            let ports = searched_ports(SEARCHED_PORTS, &mut self.rng);
            let target = |port| PairId { local: Local::MAIN, remote: SocketAddr::new(ip, port) };
            let targets = ports.into_iter().map(target).collect();
            self.agent(side).scout(Scouting::search(targets), now);
        }
    }

    fn work(&mut self, side: usize, task: Task) {
        let now = self.now;
        if self.agent(side).is_direct() || self.agent(side).state().is_over() {
            return;
        }
        match task {
            Task::Window(candidates) => {
                self.agent(side).told(Local::MAIN, &candidates);
                self.tell(side, Update { candidates, ..Update::default() });
            }
            Task::Sampled(attempt, seen) => {
                let Some(Ports::Sequential { step }) = self.effort(side).own.ports else { return };
                let next = seen.port().wrapping_add_signed(step);
                let own = Forecast { attempt, next, step };
                self.effort(side).forecast = Some(own);
                self.effort(side).external = Some(seen);
                self.tell(side, Update { forecast: Some(own), ..Update::default() });
                self.due(FORECAST_TIME, side, Task::Forecast(attempt));
                self.meet(side);
            }
            Task::Forecast(attempt) => {
                if self.effort(side).forecast.is_some_and(|own| own.attempt == attempt) {
                    self.attempt(side, attempt + 1);
                }
            }
            Task::Tried(attempt) => self.attempt(side, attempt + 1),
            Task::Search => {
                let remote = self.effort(side).seen;
                let target = |number| PairId { local: Local(u32::from(number)), remote };
                let targets = (1..=SEARCH_SOCKETS).map(target).collect();
                let plan = Scouting {
                    gaps: vec![Duration::from_millis(100)],
                    interval: Duration::from_micros(500),
                    ..Scouting::search(targets)
                };
                self.agent(side).scout(plan, now);
                self.tell(side, Update { sockets: Some(SEARCH_SOCKETS), ..Update::default() });
            }
            Task::AskRelay if self.agent(side).path_pair().is_none_or(|p| p.local != RELAY) => {
                self.due(self.to_server() * 4, side, Task::Relayed);
            }
            Task::AskRelay => {}
            Task::Relayed => {
                let candidates = vec![Candidate::new(World::relayed(), CandidateKind::Relayed)];
                self.agent(side).add_local(RELAY, true, candidates.clone(), now);
                self.tell(side, Update { candidates, ..Update::default() });
            }
            Task::Rebind => {
                let local = Local(FIRST_REBOUND + self.effort(side).sockets % 90);
                self.effort(side).sockets += 1;
                let server = self.server();
                let seen = self.routes.send(side, local, server, now).expect("reachable").from;
                self.due(self.to_server() * 2, side, Task::Rebound(local, seen));
            }
            Task::Rebound(local, seen) => {
                let candidates = vec![Candidate::new(seen, CandidateKind::Reflexive)];
                self.tell(side, Update { candidates, ..Update::default() });
                self.due(self.rebound_after(), side, Task::UseRebound(local, seen));
            }
            Task::UseRebound(local, seen) => {
                let candidates = vec![Candidate::new(seen, CandidateKind::Reflexive)];
                self.agent(side).add_local(local, false, candidates, now);
            }
        }
    }

    /// Openers from another socket leave when the peer is told of it, so that neither reaches the
    /// other's router before that one's host has sent: the round trip to the rendezvous says when.
    fn rebound_after(&self) -> Duration {
        self.rebound_after.unwrap_or(self.to_server() * 2)
    }

    /// Looks where our sequence stands, for one more try together.
    fn attempt(&mut self, side: usize, attempt: u32) {
        self.effort(side).forecast = None;
        if attempt < ATTEMPTS {
            let seen = self.sample(side);
            self.due(self.to_server() * 2, side, Task::Sampled(attempt, seen));
        }
    }

    /// Both sides send to each other's next ports, once both forecasts of a try are known.
    fn meet(&mut self, side: usize) {
        let now = self.now;
        let effort = self.effort(side);
        let (Some(own), Some(theirs)) = (effort.forecast, effort.theirs) else { return };
        let (Some(external), peer) = (effort.external, effort.seen) else { return };
        if theirs.attempt > own.attempt {
            self.attempt(side, theirs.attempt);
        }
        if theirs.attempt != own.attempt {
            return;
        }
        self.effort(side).forecast = None;
        let at =
            |ip, forecast: &Forecast, ahead| predicted(SocketAddr::new(ip, forecast.port(ahead)));
        let ours: Vec<_> = (0..TOGETHER).map(|ahead| at(external.ip(), &own, ahead)).collect();
        let targets: Vec<_> = (0..TOGETHER).map(|ahead| at(peer.ip(), &theirs, ahead)).collect();
        self.sides[side].known.extend(targets.iter().map(|candidate| candidate.address));
        self.agent(side).told(Local::MAIN, &ours);
        self.agent(side).predicted(&targets, now);
        self.drain(side);
        self.due(ATTEMPT_TIME, side, Task::Tried(own.attempt));
    }
}

fn predicted(address: SocketAddr) -> Candidate {
    Candidate::new(address, CandidateKind::Predicted)
}
