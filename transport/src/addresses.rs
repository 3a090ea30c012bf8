//! The host candidates of this machine.

use std::net::{IpAddr, SocketAddr};

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

#[cfg(test)]
mod tests {
    use super::*;

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
