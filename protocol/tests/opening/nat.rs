//! A NAT or firewall in the words of RFC 4787: mapping × filtering × ports × expiry; with the flows of
//! other hosts behind it, and with the port theft of routers that take in what nobody asked for.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::{StdRng, Xoshiro256PlusPlus};
use rand::{RngExt, SeedableRng};

/// What mapping or filtering depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dependence {
    Independent,
    Address,
    AddressAndPort,
}

impl Dependence {
    pub(crate) const ALL: [Self; 3] = [Self::Independent, Self::Address, Self::AddressAndPort];

    /// The part of a remote address that counts.
    fn part(self, remote: SocketAddr) -> (Option<IpAddr>, Option<u16>) {
        match self {
            Self::Independent => (None, None),
            Self::Address => (Some(remote.ip()), None),
            Self::AddressAndPort => (Some(remote.ip()), Some(remote.port())),
        }
    }
}

/// How external ports are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ports {
    Preserved,
    /// Each mapping so far behind the one before.
    Sequential(i16),
    Random,
}

/// What kind of box it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// `None`: it translates nothing, it is a firewall only.
    pub(crate) mapping: Option<Dependence>,
    pub(crate) filtering: Dependence,
    pub(crate) ports: Ports,
    /// Time without use after which a binding goes.
    pub(crate) expiry: Duration,
    /// Whether packets from outside count as use.
    pub(crate) inbound_refreshes: bool,
    pub(crate) hairpin: bool,
    /// Whether it takes a packet from outside that belongs to nothing for one to itself, and keeps a
    /// state for it: a mapping of a host behind it that would be the same must then have another port.
    pub(crate) steals: bool,
    /// New mappings of other hosts in a second.
    pub(crate) competing: u32,
}

impl Kind {
    pub(crate) const fn nat(mapping: Dependence, filtering: Dependence, ports: Ports) -> Self {
        Self {
            mapping: Some(mapping),
            filtering,
            ports,
            expiry: Duration::from_secs(30),
            inbound_refreshes: true,
            hairpin: false,
            steals: false,
            competing: 0,
        }
    }

    /// A Linux router that keeps ports, and drops nothing that comes in.
    pub(crate) const fn thief() -> Self {
        let kind = Self::nat(Dependence::Independent, Dependence::AddressAndPort, Ports::Preserved);
        Self { steals: true, ..kind }
    }

    pub(crate) const fn firewall(filtering: Dependence) -> Self {
        Self { mapping: None, ..Self::nat(Dependence::Independent, filtering, Ports::Preserved) }
    }

    /// Whether the peer knows our external address from the rendezvous.
    pub(crate) fn is_independent(&self) -> bool {
        !matches!(self.mapping, Some(Dependence::Address | Dependence::AddressAndPort))
    }
}

#[derive(Debug, Clone)]
struct Binding {
    inner: SocketAddr,
    part: (Option<IpAddr>, Option<u16>),
    outer: SocketAddr,
    used_at: Instant,
    /// Where the inner host sent through it, and when last.
    sent: Vec<(SocketAddr, Instant)>,
}

/// What a router keeps that took a packet from outside for one to itself.
#[derive(Debug, Clone, Copy)]
struct Stolen {
    port: u16,
    remote: SocketAddr,
    used_at: Instant,
}

/// A mapping that had to take another port than its host's others.
#[derive(Debug, Clone, Copy)]
struct Evaded {
    inner: SocketAddr,
    remote: SocketAddr,
    outer: SocketAddr,
    used_at: Instant,
}

#[derive(Debug, Clone)]
pub(crate) struct Nat {
    pub(crate) kind: Kind,
    /// Its external address; without meaning for a firewall.
    pub(crate) external: IpAddr,
    bindings: Vec<Binding>,
    stolen: Vec<Stolen>,
    evaded: Vec<Evaded>,
    next_port: u16,
    /// When the next flow of another host begins.
    next_flow_at: Option<Instant>,
    rng: Xoshiro256PlusPlus,
}

impl Nat {
    pub(crate) fn new(kind: Kind, external: IpAddr, rng: &mut StdRng) -> Self {
        let next_port = rng.random_range(1024..60_000);
        Self {
            kind,
            external,
            bindings: Vec::new(),
            stolen: Vec::new(),
            evaded: Vec::new(),
            next_port,
            next_flow_at: None,
            rng: Xoshiro256PlusPlus::from_rng(rng),
        }
    }

    /// As many flows of other hosts as begin within so long.
    pub(crate) fn let_others(&mut self, time: Duration) {
        if let Ports::Sequential(step) = self.kind.ports {
            let mut begins_at = None;
            let now = Instant::now();
            flows(&mut begins_at, self.kind.competing, &mut self.rng, now);
            let count = flows(&mut begins_at, self.kind.competing, &mut self.rng, now + time);
            (0..count).for_each(|_| self.next_port = following(self.next_port, step));
        }
    }

    /// Loses all its state, as when it is switched off and on.
    pub(crate) fn flush(&mut self) {
        self.bindings.clear();
        self.stolen.clear();
        self.evaded.clear();
    }

    /// The external source address of a packet that leaves.
    pub(crate) fn outbound(
        &mut self,
        inner: SocketAddr,
        to: SocketAddr,
        now: Instant,
    ) -> SocketAddr {
        self.expire(now);
        if let Some(evaded) = self.evaded.iter_mut().find(|e| e.inner == inner && e.remote == to) {
            evaded.used_at = now;
            return evaded.outer;
        }
        let part = self.kind.mapping.unwrap_or(Dependence::Independent).part(to);
        let known = self.bindings.iter().position(|b| b.inner == inner && b.part == part);
        let index = known.unwrap_or_else(|| {
            let outer = self.choose(inner, now);
            self.bindings.push(Binding { inner, part, outer, used_at: now, sent: Vec::new() });
            self.bindings.len() - 1
        });
        let Self { bindings, stolen, .. } = self;
        let binding = &mut bindings[index];
        let is_new = binding.sent.iter().all(|(remote, _)| *remote != to);
        let port = binding.outer.port();
        if is_new && stolen.iter().any(|stolen| stolen.port == port && stolen.remote == to) {
            let outer = SocketAddr::new(self.external, self.rng.random_range(1024..=u16::MAX));
            self.evaded.push(Evaded { inner, remote: to, outer, used_at: now });
            return outer;
        }
        binding.used_at = now;
        match binding.sent.iter_mut().find(|(remote, _)| *remote == to) {
            Some((_, at)) => *at = now,
            None => binding.sent.push((to, now)),
        }
        binding.outer
    }

    /// The inner destination of a packet that arrives, unless it is dropped.
    pub(crate) fn inbound(
        &mut self,
        from: SocketAddr,
        outer: SocketAddr,
        now: Instant,
    ) -> Option<SocketAddr> {
        self.expire(now);
        let Kind { mapping, filtering, inbound_refreshes, .. } = self.kind;
        if mapping.is_none() && filtering == Dependence::Independent {
            return Some(outer);
        }
        let evaded = self.evaded.iter_mut().find(|e| e.outer == outer && e.remote == from);
        if let Some(evaded) = evaded {
            evaded.used_at = now;
            return Some(evaded.inner);
        }
        if self.kind.steals && self.steal(from, outer.port(), now) {
            return None;
        }
        let binding = self.bindings.iter_mut().find(|binding| binding.outer == outer)?;
        let sent = binding
            .sent
            .iter_mut()
            .find(|(remote, _)| filtering.part(*remote) == filtering.part(from));
        if inbound_refreshes {
            binding.used_at = now;
        }
        match sent {
            Some((_, at)) => {
                if inbound_refreshes {
                    *at = now;
                }
                Some(binding.inner)
            }
            None => (filtering == Dependence::Independent).then_some(binding.inner),
        }
    }

    /// Keeps a state for a packet that no host behind here asked for; whether it is such a one.
    fn steal(&mut self, from: SocketAddr, port: u16, now: Instant) -> bool {
        let mut sent = self.bindings.iter().filter(|binding| binding.outer.port() == port);
        if sent.any(|binding| binding.sent.iter().any(|(remote, _)| *remote == from)) {
            return false;
        }
        let known = self.stolen.iter_mut().find(|s| s.port == port && s.remote == from);
        match known {
            Some(stolen) => stolen.used_at = now,
            None => self.stolen.push(Stolen { port, remote: from, used_at: now }),
        }
        true
    }

    fn expire(&mut self, now: Instant) {
        let expiry = self.kind.expiry;
        let fresh = |at: Instant| now.saturating_duration_since(at) < expiry;
        self.stolen.retain(|stolen| fresh(stolen.used_at));
        self.evaded.retain(|evaded| fresh(evaded.used_at));
        self.bindings.retain_mut(|binding| {
            binding.sent.retain(|(_, at)| fresh(*at));
            fresh(binding.used_at)
        });
    }

    fn choose(&mut self, inner: SocketAddr, now: Instant) -> SocketAddr {
        if self.kind.mapping.is_none() {
            return inner;
        }
        let taken = |port| self.bindings.iter().any(|binding| binding.outer.port() == port);
        let mut port = match self.kind.ports {
            Ports::Preserved => inner.port(),
            Ports::Sequential(step) => {
                for _ in 0..=flows(&mut self.next_flow_at, self.kind.competing, &mut self.rng, now)
                {
                    self.next_port = following(self.next_port, step);
                }
                self.next_port
            }
            Ports::Random => self.rng.random_range(1024..=u16::MAX),
        };
        while taken(port) {
            port = match self.kind.ports {
                Ports::Sequential(step) => following(port, step),
                _ => following(port, 1),
            };
        }
        if let Ports::Sequential(_) = self.kind.ports {
            self.next_port = port;
        }
        SocketAddr::new(self.external, port)
    }
}

fn following(port: u16, step: i16) -> u16 {
    match port.checked_add_signed(step) {
        Some(port) if port >= 1024 => port,
        _ if step > 0 => 1024,
        _ => u16::MAX,
    }
}

/// Flows of other hosts that began by now since this was asked last: so many in a second on average,
/// each at any time.
fn flows(
    next_at: &mut Option<Instant>,
    in_a_second: u32,
    rng: &mut Xoshiro256PlusPlus,
    now: Instant,
) -> u32 {
    if in_a_second == 0 {
        return 0;
    }
    let mut gap = || {
        let mean = 1.0 / f64::from(in_a_second);
        Duration::from_secs_f64(-mean * (1.0 - rng.random::<f64>()).ln())
    };
    let mut at = next_at.unwrap_or_else(|| now + gap());
    let mut count = 0;
    while at <= now {
        at += gap();
        count += 1;
    }
    *next_at = Some(at);
    count
}
