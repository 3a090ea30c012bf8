//! Which address a peer is reached at now.
//!
//! QUIC sees one made-up address for each peer, for as long as the peer is known; here it is mapped
//! to the path proved at the moment. So a path can move without QUIC noticing.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::{DashMap, DashSet};
use protocol::address::canonical;
use protocol::opening::Local;

/// The discard-only prefix (RFC 6666): no real peer ever has an address in it.
const PREFIX: [u16; 4] = [0x0100, 0, 0, 0];

/// A peer as QUIC sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer(u64);

impl Peer {
    /// The made-up address.
    pub fn address(self) -> SocketAddr {
        let parts = [48, 32, 16, 0].map(|shift| (self.0 >> shift) as u16);
        let [a, b, c, d] = PREFIX;
        let [e, f, g, h] = parts;
        SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::new(a, b, c, d, e, f, g, h), 1, 0, 0))
    }

    /// The peer that an address stands for, if it is a made-up one.
    pub fn from_address(address: SocketAddr) -> Option<Self> {
        let SocketAddr::V6(address) = address else { return None };
        let segments = address.ip().segments();
        let id = segments[4..].iter().fold(0u64, |id, &part| (id << 16) | u64::from(part));
        (segments[..4] == PREFIX).then_some(Self(id))
    }
}

/// Paths that a peer was reached at before, of which late datagrams are still taken, at most.
const MOST_FORMER: usize = 4;

/// What an address is to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Where it is reached now.
    Path,
    /// Where it was before.
    Former,
}

#[derive(Debug)]
struct Route {
    local: Local,
    path: SocketAddr,
    former: Vec<SocketAddr>,
    /// Until when what QUIC sends is repeated, however short the exchange.
    urgent_until: Option<Instant>,
}

/// Paths to all peers of a process, and the servers it talks to under their real address.
#[derive(Debug, Default)]
pub struct Paths {
    next: AtomicU64,
    routes: DashMap<Peer, Route>,
    peers: DashMap<SocketAddr, Peer>,
    servers: DashSet<SocketAddr>,
}

impl Paths {
    /// A peer that is reached nowhere yet.
    pub fn new_peer(&self) -> Peer {
        Peer(self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// From now on the peer is reached at `path`, by `local`, which it has proved to be at. What still
    /// arrives from its former paths is taken as its own.
    pub fn set(&self, peer: Peer, local: Local, path: SocketAddr) {
        let path = canonical(path);
        self.peers.insert(path, peer);
        let mut route = self.routes.entry(peer).or_insert_with(|| Route {
            local,
            path,
            former: Vec::new(),
            urgent_until: None,
        });
        route.local = local;
        let before = std::mem::replace(&mut route.path, path);
        route.former.retain(|former| *former != path);
        if before != path {
            route.former.insert(0, before);
        }
        let kept = MOST_FORMER.min(route.former.len());
        let forgotten = route.former.split_off(kept);
        drop(route);
        forgotten.iter().for_each(|former| self.disown(*former, peer));
    }

    /// Repeats what QUIC sends to this peer within so long: words that must not be late, or the last ones, which
    /// nobody answers, so that nothing would tell that they got lost.
    pub fn urge(&self, peer: Peer, within: Duration) {
        if let Some(mut route) = self.routes.get_mut(&peer) {
            let until = Instant::now() + within;
            route.urgent_until = Some(route.urgent_until.map_or(until, |at| at.max(until)));
        }
    }

    /// Whether a datagram for an address that QUIC knows is to be repeated.
    pub(crate) fn is_urgent(&self, to: SocketAddr, now: Instant) -> bool {
        let route = Peer::from_address(to).and_then(|peer| self.routes.get(&peer));
        route.and_then(|route| route.urgent_until).is_some_and(|until| now < until)
    }

    /// Forgets a peer.
    pub fn remove(&self, peer: Peer) {
        if let Some((_, route)) = self.routes.remove(&peer) {
            self.disown(route.path, peer);
            route.former.iter().for_each(|former| self.disown(*former, peer));
        }
    }

    fn disown(&self, path: SocketAddr, peer: Peer) {
        self.peers.remove_if(&path, |_, owner| *owner == peer);
    }

    /// Whether what comes from this address is the peer's.
    pub fn is_from(&self, from: SocketAddr, peer: Peer) -> bool {
        self.peers.get(&from).is_some_and(|owner| *owner == peer)
    }

    /// What an address is to this peer; `None` if what comes from there is not the peer's.
    pub fn standing(&self, from: SocketAddr, peer: Peer) -> Option<Standing> {
        let route = self.routes.get(&peer)?;
        if route.path == from {
            return Some(Standing::Path);
        }
        route.former.contains(&from).then_some(Standing::Former)
    }

    /// Where a peer is reached.
    pub fn path(&self, peer: Peer) -> Option<SocketAddr> {
        self.routes.get(&peer).map(|route| route.path)
    }

    /// Lets QUIC datagrams from a server's real address pass.
    pub fn allow_server(&self, server: SocketAddr) {
        self.servers.insert(canonical(server));
    }

    /// Whether QUIC's address for someone is of a peer with a path, or of a server that we chose to talk to.
    pub(crate) fn is_known(&self, to: SocketAddr) -> bool {
        Peer::from_address(to).is_some() || self.is_server(to)
    }

    /// Whether this is a server's address.
    pub(crate) fn is_server(&self, to: SocketAddr) -> bool {
        self.servers.contains(&canonical(to))
    }

    /// Which way and where a datagram for an address that QUIC knows must go; `None` drops it.
    pub(crate) fn outbound(&self, to: SocketAddr) -> Option<(Local, SocketAddr)> {
        match Peer::from_address(to) {
            Some(peer) => self.routes.get(&peer).map(|route| (route.local, route.path)),
            None => Some((Local::MAIN, canonical(to))),
        }
    }

    /// The address under which QUIC knows the sender of a datagram; `None` for a stranger.
    pub(crate) fn inbound(&self, from: SocketAddr) -> Option<SocketAddr> {
        match self.peers.get(&from) {
            Some(peer) => Some(peer.address()),
            None => self.servers.contains(&from).then_some(from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([198, 18, 0, 1], port))
    }

    #[test]
    fn a_moved_path_is_the_same_peer() {
        let paths = Paths::default();
        let peer = paths.new_peer();
        assert_eq!(paths.outbound(peer.address()), None, "reached nowhere yet");
        paths.set(peer, Local::MAIN, at(1));
        assert_eq!(paths.inbound(at(1)), Some(peer.address()));
        paths.set(peer, Local::MAIN, at(2));
        assert_eq!(paths.outbound(peer.address()), Some((Local::MAIN, at(2))));
        assert_eq!(paths.inbound(at(1)), Some(peer.address()), "what was still under way");
        assert_eq!(paths.inbound(at(2)), Some(peer.address()));
        assert!(paths.is_from(at(1), peer) && paths.is_from(at(2), peer));
        assert_eq!(paths.standing(at(1), peer), Some(Standing::Former));
        assert_eq!(paths.standing(at(2), peer), Some(Standing::Path));
        assert_eq!(paths.standing(at(3), peer), None);
        for port in 3..20 {
            paths.set(peer, Local::MAIN, at(port));
        }
        assert_eq!(paths.inbound(at(2)), None, "forgotten by now");
        paths.remove(peer);
        assert!((1..20).all(|port| paths.inbound(at(port)).is_none()));
    }

    #[test]
    fn what_is_urgent_is_so_to_one_peer_and_for_a_time() {
        let paths = Paths::default();
        let peers = [1, 2].map(|port| {
            let peer = paths.new_peer();
            paths.set(peer, Local::MAIN, at(port));
            peer
        });
        let (second, now) = (Duration::from_secs(1), Instant::now());
        paths.urge(peers[0], 10 * second);
        paths.urge(peers[0], second);
        let is_urgent = |peer: &Peer, now| paths.is_urgent(peer.address(), now);
        assert_eq!(peers.each_ref().map(|peer| is_urgent(peer, now)), [true, false]);
        // Wherever it goes meanwhile.
        paths.set(peers[0], Local::MAIN, at(3));
        assert!(is_urgent(&peers[0], now + 9 * second) && !paths.is_urgent(at(3), now));
        assert!(!is_urgent(&peers[0], now + 12 * second));
        paths.remove(peers[0]);
        assert!(!is_urgent(&peers[0], now));
    }

    #[test]
    fn the_newest_peer_at_an_address_has_it() {
        let paths = Paths::default();
        let (old, new) = (paths.new_peer(), paths.new_peer());
        paths.set(old, Local::MAIN, at(1));
        paths.set(new, Local::MAIN, at(1));
        paths.remove(old);
        assert_eq!(paths.inbound(at(1)), Some(new.address()));
    }

    #[test]
    fn strangers_stay_outside_and_servers_pass() {
        let paths = Paths::default();
        assert_eq!(paths.inbound(at(9)), None);
        paths.allow_server(at(9));
        assert_eq!(paths.inbound(at(9)), Some(at(9)));
        assert_eq!(paths.outbound(at(7)), Some((Local::MAIN, at(7))));
    }
}
