//! A party's own ways out.

use std::net::SocketAddr;

use crate::candidate::{Candidate, CandidateKind};

/// Which of a party's own ways out a datagram takes: one of its sockets, or its relay. The numbers are
/// the driver's; [`Local::MAIN`] is the socket that everything begins on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Local(pub u32);

impl Local {
    /// The socket that spoke to the rendezvous.
    pub const MAIN: Self = Self(0);
}

/// One end of each side: the unit that is checked, proved and nominated (RFC 8445, section 6.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairId {
    /// Our end.
    pub local: Local,
    /// The peer's address.
    pub remote: SocketAddr,
}

/// A way out with what the peer knows of it.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) id: Local,
    pub(super) is_relay: bool,
    /// The candidates that the peer was told.
    pub(super) told: Vec<Candidate>,
}

impl Way {
    /// Whether an opener to this candidate makes sense here. A relay is for peers that are reached by
    /// addresses of their own outside; it knows IPv4 only.
    pub(super) fn reaches(&self, introduced: &Introduced) -> bool {
        !self.is_relay || (introduced.is_outside && introduced.candidate.address.is_ipv4())
    }
}

/// An address of the peer that we were told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Introduced {
    /// With the best kind that it was told as.
    pub(super) candidate: Candidate,
    /// Whether it is the peer's in the network outside: a host that nothing translates is seen there at
    /// an address that it names as its own too.
    pub(super) is_outside: bool,
}

impl Introduced {
    pub(super) fn new(candidate: Candidate) -> Self {
        let is_outside = matches!(candidate.kind, CandidateKind::Mapped | CandidateKind::Reflexive);
        Self { candidate: Candidate::new(candidate.address, candidate.kind), is_outside }
    }

    /// Takes what else the address was told as. Returns whether that says more.
    pub(super) fn merge(&mut self, other: Self) -> bool {
        let says_more =
            other.candidate.kind < self.candidate.kind || (other.is_outside && !self.is_outside);
        self.candidate.kind = self.candidate.kind.min(other.candidate.kind);
        self.is_outside |= other.is_outside;
        says_more
    }
}
