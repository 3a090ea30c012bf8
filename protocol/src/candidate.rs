//! Ways to reach a peer: addresses with the kind of knowledge behind each (RFC 8445, section 5.1).

use std::net::SocketAddr;

use minicbor::{Decode, Encode};

use crate::address::{self, canonical};

/// How an address came to be a candidate. The order is that of preference: the least is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum CandidateKind {
    /// An address of one of the peer's own interfaces.
    #[n(0)]
    Host,
    /// An external address that the peer's router mapped on request (UPnP, NAT-PMP, PCP).
    #[n(1)]
    Mapped,
    /// An external address that somebody saw: the rendezvous (server-reflexive), or we ourselves in
    /// a datagram of the peer (peer-reflexive).
    #[n(2)]
    Reflexive,
    /// An external address deduced from the peer's mapping scheme.
    #[n(3)]
    Predicted,
    /// An address at a relay.
    #[n(4)]
    Relayed,
}

impl CandidateKind {
    /// All kinds, best first.
    pub const ALL: [Self; 5] =
        [Self::Host, Self::Mapped, Self::Reflexive, Self::Predicted, Self::Relayed];

    /// The name that statistics, logs and metrics use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Mapped => "mapped",
            Self::Reflexive => "reflexive",
            Self::Predicted => "predicted",
            Self::Relayed => "relayed",
        }
    }

    /// Type preference, 0–126 (RFC 8445, section 5.1.2.2): the recommended values where the RFC has
    /// any. A mapped address lies between host and reflexive, because it goes through the NAT but
    /// needs no luck; a predicted one below reflexive, because it needs much.
    const fn preference(self) -> u32 {
        match self {
            Self::Host => 126,
            Self::Mapped => 118,
            Self::Reflexive => 100,
            Self::Predicted => 80,
            Self::Relayed => 0,
        }
    }
}

impl std::fmt::Display for CandidateKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One way to reach a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Candidate {
    /// Where to send, in canonical form.
    #[n(0)]
    #[cbor(with = "address::cbor")]
    pub address: SocketAddr,
    /// How the address is known.
    #[n(1)]
    pub kind: CandidateKind,
}

/// Priority of a candidate, in the form of RFC 8445, section 5.1.2.1; the greater is the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u32);

impl Priority {
    /// What is less than this is a relayed address.
    pub const LEAST_DIRECT: Self = Self(1 << 24);
}

impl Candidate {
    /// A candidate; the address is brought into canonical form.
    pub fn new(address: SocketAddr, kind: CandidateKind) -> Self {
        Self { address: canonical(address), kind }
    }

    /// Kind first, then IPv6 above IPv4: the former usually has a firewall at most, the latter a NAT.
    pub fn priority(&self) -> Priority {
        /// Local preference, 16 bits. The IPv4 value leaves room between the two.
        const IPV6: u32 = 65_535;
        const IPV4: u32 = 32_767;
        /// 256 minus the component id, which is 1: media and control share one component.
        const COMPONENT: u32 = 255;
        let family = if canonical(self.address).is_ipv6() { IPV6 } else { IPV4 };
        Priority(self.kind.preference() << 24 | family << 8 | COMPONENT)
    }
}

impl std::fmt::Display for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.address, self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_order_kind_then_family() {
        let v4 = "192.0.2.1:9".parse().expect("an address");
        let v6 = "[2001:db8::1]:9".parse().expect("an address");
        let order: Vec<_> = CandidateKind::ALL
            .into_iter()
            .flat_map(|kind| [Candidate::new(v6, kind), Candidate::new(v4, kind)])
            .map(|candidate| candidate.priority())
            .collect();
        assert!(order.is_sorted_by(|better, worse| better > worse), "{order:?}");
        assert!(CandidateKind::ALL.is_sorted());
        for (at, priority) in order.iter().enumerate() {
            assert_eq!(*priority < Priority::LEAST_DIRECT, at >= order.len() - 2);
        }
    }

    #[test]
    fn rfc_8445_host_priority() {
        // Section 5.1.2.1 with type preference 126, local preference 65535, component 1.
        let v6 = "[2001:db8::1]:9".parse().expect("an address");
        assert_eq!(Candidate::new(v6, CandidateKind::Host).priority(), Priority(2_130_706_431));
    }
}
