//! A NAT or firewall, with what discovery can find out about it.

use std::net::{IpAddr, SocketAddr};

use punchcast_protocol::behaviour::{Dependence, Ports};
use rand::RngExt;
use rand::rngs::StdRng;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) translates: bool,
    pub(crate) mapping: Dependence,
    pub(crate) filtering: Dependence,
    pub(crate) ports: Ports,
    pub(crate) takes_unsolicited: bool,
    pub(crate) hairpin: bool,
}

impl Kind {
    pub(crate) const fn nat(
        name: &'static str,
        mapping: Dependence,
        filtering: Dependence,
        ports: Ports,
    ) -> Self {
        Self {
            name,
            translates: true,
            mapping,
            filtering,
            ports,
            takes_unsolicited: false,
            hairpin: false,
        }
    }

    pub(crate) const fn firewall(name: &'static str, filtering: Dependence) -> Self {
        let nat = Self::nat(name, Dependence::Independent, filtering, Ports::Preserved);
        Self { translates: false, ..nat }
    }
}

#[derive(Debug)]
struct Binding {
    inner: SocketAddr,
    outer: SocketAddr,
    part: (Option<IpAddr>, Option<u16>),
    sent: Vec<SocketAddr>,
}

#[derive(Debug)]
pub(crate) struct Nat {
    kind: Kind,
    external: IpAddr,
    bindings: Vec<Binding>,
    /// Unsolicited packets taken: where from, and to which port.
    taken: Vec<(SocketAddr, u16)>,
    next_port: u16,
    /// Mappings that others make between two of ours, at most.
    competing: u16,
    rng: StdRng,
}

/// The part of a remote address that counts.
fn part(dependence: Dependence, remote: SocketAddr) -> (Option<IpAddr>, Option<u16>) {
    match dependence {
        Dependence::Independent => (None, None),
        Dependence::Address => (Some(remote.ip()), None),
        Dependence::AddressAndPort => (Some(remote.ip()), Some(remote.port())),
    }
}

impl Nat {
    pub(crate) fn new(kind: Kind, external: IpAddr, competing: u16, mut rng: StdRng) -> Self {
        let next_port = rng.random_range(1024..60_000);
        Self { kind, external, bindings: Vec::new(), taken: Vec::new(), next_port, competing, rng }
    }

    /// The external source of a packet that leaves.
    pub(crate) fn outbound(&mut self, inner: SocketAddr, to: SocketAddr) -> SocketAddr {
        // Such a router keeps a mapping for each destination, all on one port unless it was taken.
        let mapping = if self.kind.takes_unsolicited {
            Dependence::AddressAndPort
        } else {
            self.kind.mapping
        };
        let part = part(mapping, to);
        let known = self.bindings.iter().position(|b| b.inner == inner && b.part == part);
        let index = known.unwrap_or_else(|| {
            let outer = self.choose(inner, to);
            self.bindings.push(Binding { inner, outer, part, sent: Vec::new() });
            self.bindings.len() - 1
        });
        self.bindings[index].sent.push(to);
        self.bindings[index].outer
    }

    /// Where a packet from outside goes inside, if it comes in.
    pub(crate) fn inbound(&mut self, from: SocketAddr, outer: SocketAddr) -> Option<SocketAddr> {
        let Kind { filtering, translates, takes_unsolicited, .. } = self.kind;
        if !translates && filtering == Dependence::Independent {
            return Some(outer);
        }
        let mut bindings = self.bindings.iter().filter(|binding| binding.outer == outer);
        let admitting = bindings.find(|binding| {
            let mut sent = binding.sent.iter();
            filtering == Dependence::Independent
                || sent.any(|to| part(filtering, *to) == part(filtering, from))
        });
        if admitting.is_none() && takes_unsolicited && outer.ip() == self.external {
            self.taken.push((from, outer.port()));
        }
        admitting.map(|binding| binding.inner)
    }

    pub(crate) fn is_own(&self, address: SocketAddr) -> bool {
        self.kind.translates && address.ip() == self.external
    }

    pub(crate) fn hairpins(&self) -> bool {
        self.kind.hairpin
    }

    fn choose(&mut self, inner: SocketAddr, to: SocketAddr) -> SocketAddr {
        if !self.kind.translates {
            return inner;
        }
        let used: Vec<u16> = self.bindings.iter().map(|binding| binding.outer.port()).collect();
        let port = match self.kind.ports {
            Ports::Preserved if !self.taken.contains(&(to, inner.port())) => inner.port(),
            Ports::Preserved | Ports::Other | Ports::Random => loop {
                let port = self.rng.random_range(1024..=u16::MAX);
                if !used.contains(&port) {
                    break port;
                }
            },
            Ports::Sequential { step } => {
                let others = self.rng.random_range(0..=self.competing);
                let steps = step.wrapping_mul(others.cast_signed() + 1);
                self.next_port = self.next_port.wrapping_add_signed(steps);
                self.next_port
            }
        };
        SocketAddr::new(self.external, port)
    }
}
