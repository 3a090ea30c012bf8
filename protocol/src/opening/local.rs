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
    pub(super) fn reaches(&self, candidate: &Candidate) -> bool {
        let is_outside = matches!(candidate.kind, CandidateKind::Mapped | CandidateKind::Reflexive);
        !self.is_relay || (is_outside && candidate.address.is_ipv4())
    }
}
