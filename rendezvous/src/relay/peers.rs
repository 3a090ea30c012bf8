//! Whom the relay passes datagrams on to.

use std::net::{IpAddr, SocketAddr};

use protocol::address::{Inadmissible, Policy, admissible, canonical};

/// Rules for peers: what is no ordinary unicast address, and our own server ports, are refused, so that
/// a viewer cannot reach through us what it cannot reach itself.
#[derive(Debug)]
pub(super) struct PeerRules {
    /// Which addresses are ordinary.
    pub(super) policy: Policy,
    /// Our own addresses.
    pub(super) own: Vec<IpAddr>,
    /// UDP ports that we serve ourselves.
    pub(super) ports: Vec<u16>,
}

impl PeerRules {
    /// Whether there may be a permission for an address.
    pub(super) fn admit_ip(&self, ip: IpAddr) -> Result<(), Inadmissible> {
        // A permission has no port; any but 0 does for the question.
        const ANY_PORT: u16 = 9;
        // IPv6 forms of IPv4 addresses are no peers of an IPv6 allocation, even where the IPv4 address
        // may be relayed to: the kernel would send IPv4.
        match ip {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(Inadmissible::Ipv4Compatible),
            ip => admissible(SocketAddr::new(ip, ANY_PORT), &self.policy),
        }
    }

    /// Whether a peer may be sent to.
    pub(super) fn admits(&self, peer: SocketAddr) -> bool {
        let ours = self.ports.contains(&peer.port()) && self.own.contains(&canonical(peer).ip());
        peer.port() != 0 && !ours && self.admit_ip(peer.ip()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_peers_only() {
        let rules = PeerRules {
            policy: Policy::default(),
            own: vec![[203, 0, 113, 1].into()],
            ports: vec![3478, 3480],
        };
        let table = [
            ("198.18.0.1:9", true),
            ("100.64.0.1:9", true),
            ("203.0.113.1:5000", true),
            ("203.0.113.1:3478", false),
            ("203.0.113.1:3480", false),
            ("203.0.113.2:3478", true),
            ("198.18.0.1:0", false),
            ("127.0.0.1:9", false),
            ("0.0.0.0:9", false),
            ("224.0.0.1:9", false),
            ("255.255.255.255:9", false),
            ("169.254.169.254:80", false),
            ("192.168.1.1:9", false),
            ("[2001:db8::1]:9", true),
            ("[::1]:9", false),
            ("[::ffff:127.0.0.1]:9", false),
            ("[::ffff:198.18.0.1]:9", false),
            ("[::127.0.0.1]:9", false),
            ("[64:ff9b::127.0.0.1]:9", false),
            ("[fe80::1]:9", false),
            ("[ff02::1]:9", false),
        ];
        for (peer, admitted) in table {
            assert_eq!(rules.admits(peer.parse().expect("an address")), admitted, "{peer}");
        }
    }
}
