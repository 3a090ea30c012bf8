//! A NAT or firewall in the words of RFC 4787: mapping × filtering × ports × expiry.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::{StdRng, Xoshiro256PlusPlus};
use rand::{RngExt, SeedableRng};

/// What mapping or filtering depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    Sequential,
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
        }
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

#[derive(Debug, Clone)]
pub(crate) struct Nat {
    pub(crate) kind: Kind,
    /// Its external address; without meaning for a firewall.
    pub(crate) external: IpAddr,
    bindings: Vec<Binding>,
    next_port: u16,
    rng: Xoshiro256PlusPlus,
}

impl Nat {
    pub(crate) fn new(kind: Kind, external: IpAddr, rng: &mut StdRng) -> Self {
        let next_port = rng.random_range(1024..60_000);
        Self {
            kind,
            external,
            bindings: Vec::new(),
            next_port,
            rng: Xoshiro256PlusPlus::from_rng(rng),
        }
    }

    /// Loses all its state, as when it is switched off and on.
    pub(crate) fn flush(&mut self) {
        self.bindings.clear();
    }

    /// The external source address of a packet that leaves.
    pub(crate) fn outbound(
        &mut self,
        inner: SocketAddr,
        to: SocketAddr,
        now: Instant,
    ) -> SocketAddr {
        self.expire(now);
        let part = self.kind.mapping.unwrap_or(Dependence::Independent).part(to);
        let known = self.bindings.iter().position(|b| b.inner == inner && b.part == part);
        let index = known.unwrap_or_else(|| {
            let outer = self.choose(inner);
            self.bindings.push(Binding { inner, part, outer, used_at: now, sent: Vec::new() });
            self.bindings.len() - 1
        });
        let binding = &mut self.bindings[index];
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

    fn expire(&mut self, now: Instant) {
        let expiry = self.kind.expiry;
        let fresh = |at: Instant| now.saturating_duration_since(at) < expiry;
        self.bindings.retain_mut(|binding| {
            binding.sent.retain(|(_, at)| fresh(*at));
            fresh(binding.used_at)
        });
    }

    fn choose(&mut self, inner: SocketAddr) -> SocketAddr {
        if self.kind.mapping.is_none() {
            return inner;
        }
        let taken = |port| self.bindings.iter().any(|binding| binding.outer.port() == port);
        let mut port = match self.kind.ports {
            Ports::Preserved => inner.port(),
            Ports::Sequential => {
                self.next_port = self.next_port.wrapping_add(1).max(1024);
                self.next_port
            }
            Ports::Random => self.rng.random_range(1024..=u16::MAX),
        };
        while taken(port) {
            port = port.wrapping_add(1).max(1024);
        }
        self.next_port = if self.kind.ports == Ports::Sequential { port } else { self.next_port };
        SocketAddr::new(self.external, port)
    }
}
