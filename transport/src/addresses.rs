//! This machine's own addresses: host candidates, and a server's second address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use protocol::address::{Policy, admissible, canonical};
use protocol::candidate::{Candidate, CandidateKind};
use protocol::signalling::MAX_CANDIDATES;

/// Host candidates for a socket bound to `bound`: its own address, or every interface's where it is
/// bound to all. Loopback only where the rendezvous is on loopback, and then nothing else.
pub fn host_candidates(bound: SocketAddr, rendezvous_on_loopback: bool) -> Vec<Candidate> {
    let bound = canonical(bound);
    let ips: Vec<IpAddr> = if bound.ip().is_unspecified() {
        match if_addrs::get_if_addrs() {
            Ok(interfaces) => interfaces.iter().map(if_addrs::Interface::ip).collect(),
            Err(error) => {
                tracing::warn!(%error, "the interfaces cannot be listed; host candidates are missing");
                Vec::new()
            }
        }
    } else {
        vec![bound.ip()]
    };
    let policy = Policy { loopback: rendezvous_on_loopback, private: true };
    let mut candidates: Vec<Candidate> = ips
        .into_iter()
        .filter(|ip| bound.is_ipv6() || ip.is_ipv4())
        .map(|ip| SocketAddr::new(ip, bound.port()))
        .filter(|address| admissible(*address, &policy).is_ok())
        .filter(|address| address.ip().is_loopback() == rendezvous_on_loopback)
        .map(|address| Candidate::new(address, CandidateKind::Host))
        .collect();
    candidates.truncate(MAX_CANDIDATES - 1);
    candidates
}

/// Whether this machine's network leads there at all, as far as the system knows. Nothing is sent: connecting a UDP
/// socket only looks up the route.
pub fn is_routed(to: SocketAddr) -> bool {
    let any: IpAddr = match canonical(to) {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect(canonical(to)).is_ok())
}

/// Two addresses of this machine at which a server can be asked alike, or `None`.
///
/// `first` and `second` are taken where they are given. What is not given is found among the IPv4
/// addresses of one interface: those of several may lead to different networks, and IPv6 addresses come
/// and go. A given `second` must be this machine's, and may be paired with any address of
/// its family.
pub fn pair(first: Option<IpAddr>, second: Option<IpAddr>) -> Option<(IpAddr, IpAddr)> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let known: Vec<_> = interfaces.iter().map(|one| (one.name.as_str(), one.ip())).collect();
    pair_among(&known, first, second)
}

fn pair_among(
    known: &[(&str, IpAddr)],
    first: Option<IpAddr>,
    second: Option<IpAddr>,
) -> Option<(IpAddr, IpAddr)> {
    let policy = Policy { loopback: false, private: true };
    let usable = |ip: &IpAddr| admissible(SocketAddr::new(*ip, 1), &policy).is_ok();
    let candidates = || known.iter().filter(|(_, ip)| usable(ip));
    let beside = |one: IpAddr| {
        let (name, _) = known.iter().find(|(_, ip)| *ip == one)?;
        let mut others = candidates().filter(|(other, ip)| other == name && *ip != one);
        others.find(|(_, ip)| ip.is_ipv4() == one.is_ipv4()).map(|(_, ip)| *ip)
    };
    let pair = match (first, second) {
        (Some(first), Some(second)) => (first, second),
        (Some(first), None) => (first, beside(first).filter(IpAddr::is_ipv4)?),
        (None, Some(second)) => {
            known.iter().find(|(_, ip)| *ip == second)?;
            let mut any = candidates().map(|(_, ip)| *ip);
            let family = |ip: &IpAddr| ip.is_ipv4() == second.is_ipv4() && *ip != second;
            (beside(second).or_else(|| any.find(family))?, second)
        }
        (None, None) => candidates()
            .filter(|(_, ip)| ip.is_ipv4())
            .find_map(|(_, first)| Some((*first, beside(*first)?)))?,
    };
    (pair.0 != pair.1 && pair.0.is_ipv4() == pair.1.is_ipv4()).then_some(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_of_one_interface_unless_asked_for() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let known = [
            ("lo", ip("127.0.0.1")),
            ("docker0", ip("172.17.0.1")),
            ("eth0", ip("198.51.100.2")),
            ("eth0", ip("2001:db8::2")),
            ("eth0", ip("169.254.1.1")),
            ("eth0", ip("198.51.100.3")),
            ("eth0", ip("2001:db8::3")),
        ];
        let [docker, two, three] = ["172.17.0.1", "198.51.100.2", "198.51.100.3"].map(ip);
        let [six, seven] = ["2001:db8::2", "2001:db8::3"].map(ip);
        let lo = ip("127.0.0.1");
        for (first, second, expected) in [
            (None, None, Some((two, three))),
            (Some(three), None, Some((three, two))),
            (Some(docker), None, None),
            (Some(lo), None, None),
            (Some(six), None, None),
            (Some(six), Some(seven), Some((six, seven))),
            (Some(lo), Some(ip("127.0.0.2")), Some((lo, ip("127.0.0.2")))),
            (None, Some(three), Some((two, three))),
            (None, Some(seven), Some((six, seven))),
            (None, Some(docker), Some((two, docker))),
            (None, Some(ip("198.51.100.9")), None),
            (Some(two), Some(seven), None),
            (Some(two), Some(two), None),
        ] {
            assert_eq!(pair_among(&known, first, second), expected, "{first:?} {second:?}");
        }
        assert_eq!(pair_among(&known[..3], None, None), None);
    }

    #[test]
    fn loopback_is_always_routed_and_nothing_is_to_nowhere() {
        assert!(is_routed(SocketAddr::from(([127, 0, 0, 1], 9))));
        assert!(is_routed(SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 9))));
        assert!(!is_routed(SocketAddr::from(([255, 255, 255, 255], 9))));
    }

    #[test]
    fn loopback_stays_at_home() {
        let any = SocketAddr::from(([0, 0, 0, 0], 5000));
        assert!(host_candidates(any, false).iter().all(|c| !c.address.ip().is_loopback()));
        let local = host_candidates(any, true);
        assert_eq!(local.len(), 1);
        assert_eq!(local[0].address, SocketAddr::from(([127, 0, 0, 1], 5000)));
    }

    #[test]
    fn a_bound_address_is_the_only_one() {
        let bound = SocketAddr::from(([198, 18, 0, 7], 5000));
        let candidates = host_candidates(bound, false);
        assert_eq!(candidates, [Candidate::new(bound, CandidateKind::Host)]);
    }
}
