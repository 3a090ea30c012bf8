//! One host behind boxes, a server with one or two addresses and ports, and what lies between.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use punchcast_protocol::behaviour::{Depth, Discovery, NoAnswer, Report, Setup};
use punchcast_protocol::stun::{Place, PlainLimiter, answer_plain_binding};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::nat::{Kind, Nat};

/// What the server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// One port: STUN as it always was.
    OnePort,
    /// Two ports at one address.
    OneAddress,
    /// Two ports at each of two addresses.
    TwoAddresses,
    /// As `TwoAddresses`, behind a NAT that maps one public address to each.
    BehindNat,
    /// Two ports, but a firewall before the second one.
    SecondPortShut,
}

#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) kinds: Vec<Kind>,
    pub(crate) server: Server,
    pub(crate) one_way: Duration,
    pub(crate) loss: f64,
    pub(crate) competing: u16,
    pub(crate) depth: Depth,
}

impl Scene {
    pub(crate) fn new(kinds: &[Kind], server: Server) -> Self {
        Self {
            kinds: kinds.to_vec(),
            server,
            one_way: Duration::from_millis(20),
            loss: 0.0,
            competing: 0,
            depth: Depth::Full,
        }
    }
}

/// A run's end.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Result<Report, NoAnswer>,
    pub(crate) took: Duration,
    pub(crate) datagrams: usize,
}

const PUBLIC: [&str; 2] = ["192.0.2.1", "203.0.113.2"];
const PRIVATE: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
const PORTS: [u16; 2] = [3478, 3479];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A packet at the host or on the server's side of all boxes.
#[derive(Debug)]
enum Arriving {
    Host { socket: usize, from: SocketAddr, bytes: Vec<u8> },
    Server { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    Boxes { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
}

struct Net {
    scene: Scene,
    boxes: Vec<Nat>,
    local: Vec<SocketAddr>,
    flying: BTreeMap<(Instant, u64), Arriving>,
    count: u64,
    rng: StdRng,
    limiter: PlainLimiter,
}

pub(crate) fn run(scene: &Scene, seed: u64) -> Ended {
    let mut rng = StdRng::seed_from_u64(seed);
    let translates = scene.kinds.iter().any(|kind| kind.translates);
    let inner = ip(if translates { "192.168.1.7" } else { "198.51.100.7" });
    let mut local = Vec::new();
    while local.len() < scene.depth.sockets() {
        let address = SocketAddr::new(inner, rng.random_range(32_768..=60_999));
        if !local.contains(&address) {
            local.push(address);
        }
    }
    let outer = ["100.64.9.9", "198.51.100.1"];
    let first = outer.len() - scene.kinds.len();
    let boxes = scene.kinds.iter().zip(&outer[first..]);
    let boxes = boxes
        .map(|(kind, outer)| {
            Nat::new(*kind, ip(outer), scene.competing, StdRng::seed_from_u64(rng.random()))
        })
        .collect();
    let server = SocketAddr::new(ip(PUBLIC[0]), PORTS[0]);
    let start = Instant::now();
    let setup = Setup { server, local: local.clone(), depth: scene.depth };
    let mut discovery = Discovery::new(setup, &mut StdRng::seed_from_u64(seed), start);
    let mut net = Net {
        scene: scene.clone(),
        boxes,
        local,
        flying: BTreeMap::new(),
        count: 0,
        rng,
        limiter: PlainLimiter::default(),
    };
    let mut now = start;
    let mut datagrams = 0;
    loop {
        while let Some(transmit) = discovery.poll_transmit() {
            datagrams += 1;
            let from = net.local[transmit.socket];
            net.leave(from, transmit.to, transmit.payload, now);
        }
        if let Some(outcome) = discovery.outcome() {
            return Ended { outcome, took: now - start, datagrams };
        }
        let timeout = discovery.poll_timeout().expect("it is not over");
        let arriving = net.flying.first_key_value().map(|((at, _), _)| *at);
        match arriving.filter(|at| *at <= timeout) {
            Some(at) => {
                now = at;
                let (_, packet) = net.flying.pop_first().expect("there is one");
                if let Some((socket, from, bytes)) = net.arrive(packet, now) {
                    discovery.handle_datagram(socket, from, &bytes, now);
                }
            }
            None => {
                assert!(timeout >= now, "time goes back");
                now = timeout;
                discovery.handle_timeout(now);
            }
        }
    }
}

impl Net {
    fn fly(&mut self, packet: Arriving, after: Duration, now: Instant) {
        self.count += 1;
        if self.rng.random::<f64>() >= self.scene.loss {
            self.flying.insert((now + after, self.count), packet);
        }
    }

    /// A packet of the host goes out through all boxes, or turns back at the outermost.
    fn leave(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>, now: Instant) {
        let from = self.boxes.iter_mut().fold(from, |from, one| one.outbound(from, to));
        if self.boxes.last().is_some_and(|last| last.is_own(to)) {
            if self.boxes.last().is_some_and(Nat::hairpins) {
                self.fly(Arriving::Boxes { from, to, bytes }, Duration::from_millis(1), now);
            }
            return;
        }
        let one_way = self.scene.one_way;
        self.fly(Arriving::Server { from, to, bytes }, one_way, now);
    }

    fn arrive(&mut self, packet: Arriving, now: Instant) -> Option<(usize, SocketAddr, Vec<u8>)> {
        match packet {
            Arriving::Host { socket, from, bytes } => return Some((socket, from, bytes)),
            Arriving::Server { from, to, bytes } => self.serve(from, to, &bytes, now),
            Arriving::Boxes { from, to, bytes } => {
                let through = |to, one: &mut Nat| one.inbound(from, to);
                let inside = self.boxes.iter_mut().rev().try_fold(to, through);
                let socket = inside.and_then(|at| self.local.iter().position(|own| *own == at));
                if let Some(socket) = socket {
                    self.fly(Arriving::Host { socket, from, bytes }, Duration::ZERO, now);
                }
            }
        }
        None
    }

    fn serve(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8], now: Instant) {
        let server = self.scene.server;
        let [first, second] = PUBLIC.map(ip);
        let has_two = matches!(server, Server::TwoAddresses | Server::BehindNat);
        let open = match server {
            Server::OnePort | Server::SecondPortShut => to.port() == PORTS[0],
            _ => PORTS.contains(&to.port()),
        };
        if !open || !(to.ip() == first || to.ip() == second && has_two) {
            return;
        }
        // As the server knows itself.
        let known = if server == Server::BehindNat { PRIVATE.map(ip) } else { [first, second] };
        let (here, other) = if to.ip() == first { (0, 1) } else { (1, 0) };
        let other_port = if to.port() == PORTS[0] { PORTS[1] } else { PORTS[0] };
        let place = Place {
            here: SocketAddr::new(known[here], to.port()),
            other_address: has_two.then(|| known[other]),
            other_port: (server != Server::OnePort).then_some(other_port),
        };
        let limiter = &mut self.limiter;
        let answer = answer_plain_binding(bytes, from, Some(&place), || limiter.admit(from, now));
        let answer = answer.expect("requests are padded");
        assert!(answer.bytes.len() <= bytes.len());
        let origin = place.origin(answer.change).expect("it was checked");
        // And as it is known outside.
        let at = known.iter().position(|ip| *ip == origin.ip()).expect("one of its own");
        let from_server = SocketAddr::new([first, second][at], origin.port());
        let back = Arriving::Boxes { from: from_server, to: from, bytes: answer.bytes };
        self.fly(back, self.scene.one_way, now);
    }
}
