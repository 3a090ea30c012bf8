//! The made-up addresses that QUIC sees, told apart from real ones.

use std::net::{Ipv6Addr, SocketAddr};

use punchcast_transport::paths::{Paths, Peer};

/// Reads 18 bytes as an IPv6 address and port. Only addresses in the discard-only prefix (RFC 6666)
/// are peers, and a peer's own address leads back to it.
pub fn run(data: &[u8]) {
    let Some((ip, rest)) = data.split_first_chunk::<16>() else { return };
    let Some(port) = rest.first_chunk().map(|port| u16::from_be_bytes(*port)) else { return };
    let address = SocketAddr::from((Ipv6Addr::from(*ip), port));
    let peer = Peer::from_address(address);
    assert_eq!(peer.is_some(), ip[..8] == [1, 0, 0, 0, 0, 0, 0, 0], "{address}");
    if let Some(peer) = peer {
        assert_eq!(Peer::from_address(peer.address()), Some(peer));
        assert_eq!(Paths::default().path(peer), None, "nobody is reached before it proved a path");
    }

    // A real address never collides with a made-up one, and leads to its newest owner.
    let paths = Paths::default();
    let peers = [paths.new_peer(), paths.new_peer()];
    let mut owner = None;
    for step in &rest[2..] {
        let port = u16::from(step >> 2);
        let peer = peers[usize::from(step & 1)];
        let at = SocketAddr::from(([192, 0, 2, 1], port));
        if step & 2 == 0 {
            paths.set(peer, punchcast_protocol::opening::Local::MAIN, at);
            owner = Some((peer, at));
            assert_eq!(paths.path(peer), Some(at));
        } else {
            paths.remove(peer);
            assert_eq!(paths.path(peer), None);
            owner = owner.filter(|(of, _)| *of != peer);
        }
        if let Some((of, at)) = owner {
            assert!(paths.is_from(at, of));
        }
    }
}
