//! Finding out: the questions, in stages. [`super::evidence`] says what their answers mean.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{CryptoRng, SeedableRng};

use super::evidence::Evidence;
use super::probe::{Probe, Purpose, Seen};
use super::{Dependence, Report};
use crate::address::{Policy, admissible, canonical};
use crate::stun::{Change, Class, Message, attribute, transaction_id};

/// How much is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Depth {
    /// Mapping and ports: two round trips, at most [`Discovery::QUICK`].
    Quick,
    /// Also filtering, unsolicited packets and hairpinning: at most [`Discovery::FULL`].
    Full,
}

impl Depth {
    /// Sockets needed. Each is asked from for the first time: an older mapping would tell of the past.
    pub const fn sockets(self) -> usize {
        match self {
            Self::Quick => 4,
            Self::Full => 8,
        }
    }
}

/// What a discovery starts with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The STUN server.
    pub server: SocketAddr,
    /// Our sockets' own addresses, [`Depth::sockets`] of them, of the server's family.
    pub local: Vec<SocketAddr>,
    /// How much to ask.
    pub depth: Depth,
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// From which of the sockets.
    pub socket: usize,
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub payload: Vec<u8>,
}

/// The server did not answer at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer from {server} to {requests} requests within {after:?}")]
pub struct NoAnswer {
    /// The server.
    pub server: SocketAddr,
    /// Requests sent to it.
    pub requests: u32,
    /// How long it was waited for.
    pub after: Duration,
}

/// Finds out what a NAT or firewall does, without doing any I/O itself.
///
/// Drive it with `handle_*`, then drain [`poll_transmit`](Self::poll_transmit), then wait for a
/// datagram on any of the sockets or for [`poll_timeout`](Self::poll_timeout), until there is an
/// [`outcome`](Self::outcome).
#[derive(Debug)]
pub struct Discovery {
    setup: Setup,
    rng: StdRng,
    started_at: Instant,
    stage: Stage,
    /// When the stage ends at the latest.
    until: Instant,
    /// The first of its probes.
    stage_from: usize,
    probes: Vec<Probe>,
    rtt: Duration,
    other_port: Option<u16>,
    other_address: Option<IpAddr>,
    transmits: VecDeque<Transmit>,
    sent: u32,
    outcome: Option<Result<Report, NoAnswer>>,
}

/// What is being found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Whether the server answers, and what else it has.
    Greeting,
    /// From the first socket to everywhere, from the others to the server.
    Mapping,
    /// Answers from elsewhere, and packets to ourselves.
    Filtering,
    /// Whether such an answer stole the port.
    Stealing,
    Over,
}

/// The socket that is asked from first, and those that ask for more than their mapping.
pub(super) const FIRST: usize = 0;
const FILTERED: usize = 4;
pub(super) const STOLEN: usize = 5;
const HAIRPIN: [usize; 2] = [6, 7];

/// Between two tries while the round-trip time is not known, growing by half of it each time.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// Bounds of the time between tries.
const SHORTEST_RETRY: Duration = Duration::from_millis(40);
const LONGEST_RETRY: Duration = Duration::from_millis(120);

/// How long answers are waited for in each stage of a full discovery, at most. That nothing came in
/// must mean more than that a packet was lost.
const GREETING: Duration = Duration::from_millis(1100);
const MAPPING: Duration = Duration::from_millis(700);
const FILTERING: Duration = Duration::from_millis(700);
const STEALING: Duration = Duration::from_millis(450);

impl Discovery {
    /// Longest time that a quick discovery takes.
    pub const QUICK: Duration = Duration::from_millis(600);
    /// Longest time that a full discovery takes.
    pub const FULL: Duration = Duration::from_secs(3);

    /// Starts: the first request is ready to be polled.
    pub fn new(mut setup: Setup, rng: &mut (impl CryptoRng + ?Sized), now: Instant) -> Self {
        debug_assert_eq!(setup.local.len(), setup.depth.sockets(), "a socket for each question");
        setup.server = canonical(setup.server);
        for local in &mut setup.local {
            *local = canonical(*local);
        }
        let greeting = if setup.depth == Depth::Full { GREETING } else { Self::QUICK };
        let mut discovery = Self {
            setup,
            rng: StdRng::from_rng(rng),
            started_at: now,
            stage: Stage::Greeting,
            until: now + greeting,
            stage_from: 0,
            probes: Vec::new(),
            rtt: FIRST_RETRY,
            other_port: None,
            other_address: None,
            transmits: VecDeque::new(),
            sent: 0,
            outcome: None,
        };
        let server = discovery.setup.server;
        discovery.ask(FIRST, server, Purpose::Mapping, now);
        discovery.send_due(now);
        discovery
    }

    /// Takes a datagram that came to one of the sockets. Whoever does not know a request's transaction
    /// id cannot change anything.
    pub fn handle_datagram(
        &mut self,
        socket: usize,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) {
        let Ok(message) = Message::parse(datagram) else { return };
        let asked = |probe: &&mut Probe| probe.transaction == message.transaction();
        let Some(probe) = self.probes.iter_mut().find(asked) else { return };
        let to_ourselves = probe.purpose == Purpose::Hairpin;
        let seen = Seen { mapped: message.xor_mapped_address(), from: canonical(from) };
        match message.class() {
            Class::Request if to_ourselves && probe.socket != socket => {
                probe.settle(seen, now);
            }
            Class::Success if !to_ourselves && probe.socket == socket && seen.mapped.is_some() => {
                let rtt = probe.settle(seen, now);
                if self.stage == Stage::Greeting {
                    self.rtt = rtt;
                    self.take_alternates(&message);
                }
            }
            Class::Error if !to_ourselves && probe.socket == socket => probe.refuse(),
            _ => return,
        }
        self.advance(now);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due next; `None` once there is an outcome.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tries = self.probes.iter().filter_map(|probe| probe.next_at);
        (self.stage != Stage::Over).then(|| tries.chain([self.until]).min().unwrap_or(self.until))
    }

    /// What was found, once all is done.
    pub fn outcome(&self) -> Option<Result<Report, NoAnswer>> {
        self.outcome
    }

    /// Another address and port that the server says it has. One that is of use only in a network
    /// that the server is in, and we are not, is left aside: it sits behind a NAT itself.
    fn take_alternates(&mut self, answer: &Message<'_>) {
        let Some(other) = answer.address(attribute::OTHER_ADDRESS) else { return };
        let server = self.setup.server;
        self.other_port = Some(other.port()).filter(|port| *port != server.port() && *port != 0);
        let public = Policy { loopback: true, private: false };
        let policy = Policy {
            loopback: server.ip().is_loopback(),
            private: admissible(server, &public).is_err(),
        };
        let usable = other.ip() != server.ip()
            && other.is_ipv4() == server.is_ipv4()
            && admissible(other, &policy).is_ok();
        self.other_address = usable.then(|| other.ip());
    }

    fn advance(&mut self, now: Instant) {
        while self.stage != Stage::Over {
            let answered = self.probes[self.stage_from..].iter().all(Probe::is_settled);
            if !answered && now < self.until {
                break;
            }
            self.next_stage(now);
        }
        self.send_due(now);
    }

    fn next_stage(&mut self, now: Instant) {
        // Answers on their way still count; nothing is asked again.
        for probe in &mut self.probes {
            probe.next_at = None;
        }
        self.stage_from = self.probes.len();
        let full = self.setup.depth == Depth::Full;
        let (stage, longest) = match self.stage {
            Stage::Greeting if self.probes[FIRST].mapped().is_some() => {
                self.ask_for_mappings(now);
                (Stage::Mapping, MAPPING)
            }
            Stage::Mapping if full => {
                self.ask_for_filtering(now);
                (Stage::Filtering, FILTERING)
            }
            Stage::Filtering => {
                self.ask_whether_stolen(now);
                (Stage::Stealing, STEALING)
            }
            Stage::Greeting | Stage::Mapping | Stage::Stealing | Stage::Over => {
                self.outcome = Some(self.evidence().report().ok_or(NoAnswer {
                    server: self.setup.server,
                    requests: self.sent,
                    after: now.saturating_duration_since(self.started_at),
                }));
                (Stage::Over, Duration::ZERO)
            }
        };
        self.stage = stage;
        self.until = now + longest;
        if stage == Stage::Filtering {
            // What is filtered never comes: five tries, and time for the answer to the last.
            let enough = self.retry() * 7 + self.rtt * 3 / 2 + Duration::from_millis(50);
            self.until = now + enough.min(longest);
        }
        if !full {
            self.until = self.until.min(self.started_at + Self::QUICK);
        }
    }

    /// From the first socket to all that the server has, from the others to the server: in this order,
    /// quickly, so that few mappings of others come between.
    fn ask_for_mappings(&mut self, now: Instant) {
        let server = self.setup.server;
        let ports = [Some(server.port()), self.other_port].into_iter().flatten();
        let addresses = [Some(server.ip()), self.other_address].into_iter().flatten();
        let all = addresses.flat_map(|ip| ports.clone().map(move |port| SocketAddr::new(ip, port)));
        for to in all.filter(|to| *to != server).collect::<Vec<_>>() {
            self.ask(FIRST, to, Purpose::Mapping, now);
        }
        for socket in FIRST + 1..self.setup.local.len() {
            self.ask(socket, server, Purpose::Mapping, now);
        }
    }

    fn ask_for_filtering(&mut self, now: Instant) {
        let server = self.setup.server;
        let other_port = Change { address: false, port: true };
        let elsewhere = Change { address: self.other_address.is_some(), port: true };
        if self.other_port.is_some() {
            self.ask(FILTERED, server, Purpose::Filtering(other_port), now);
            if elsewhere.address {
                self.ask(FILTERED, server, Purpose::Filtering(elsewhere), now);
            }
            self.ask(STOLEN, server, Purpose::Unsolicited(elsewhere), now);
        }
        let evidence = self.evidence();
        let independent = evidence.mapping() == Some(Dependence::Independent);
        if independent && evidence.translated() == Some(true) {
            let [one, two] = HAIRPIN.map(|socket| evidence.first_mapped(socket));
            for (socket, to) in [(HAIRPIN[0], two), (HAIRPIN[1], one)] {
                if let Some(to) = to {
                    self.ask(socket, to, Purpose::Hairpin, now);
                }
            }
        }
    }

    /// Asks the place from which an answer did not come in.
    fn ask_whether_stolen(&mut self, now: Instant) {
        if let Some(place) = self.evidence().unsolicited_from() {
            self.ask(STOLEN, place, Purpose::Mapping, now);
        }
    }

    fn ask(&mut self, socket: usize, to: SocketAddr, purpose: Purpose, now: Instant) {
        let transaction = transaction_id(&mut self.rng);
        self.probes.push(Probe::new(socket, to, purpose, transaction, now));
    }

    fn send_due(&mut self, now: Instant) {
        let again = self.retry();
        for probe in &mut self.probes {
            if let Some(payload) = probe.due(now, again) {
                self.sent += 1;
                self.transmits.push_back(Transmit { socket: probe.socket, to: probe.to, payload });
            }
        }
    }

    fn retry(&self) -> Duration {
        match self.stage {
            Stage::Greeting => FIRST_RETRY,
            _ => (self.rtt * 3 / 2).clamp(SHORTEST_RETRY, LONGEST_RETRY),
        }
    }

    fn evidence(&self) -> Evidence<'_> {
        Evidence {
            probes: &self.probes,
            local: &self.setup.local,
            server: self.setup.server,
            other_address: self.other_address,
            other_port: self.other_port,
            rtt: self.rtt,
        }
    }
}
