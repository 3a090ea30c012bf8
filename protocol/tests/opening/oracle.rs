//! Says whether a direct path is possible, from what the boxes let through alone: both sides send to
//! every address that they know, learn the sources of what arrives, and go on until nothing new is
//! learnt. A path is possible if then some packet of each side arrives from where the other's went.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use punchcast_protocol::address::{Policy, admissible};
use punchcast_protocol::candidate::Candidate;
use punchcast_protocol::opening::Local;

use crate::net::Routes;

const ROUNDS: usize = 6;

pub(crate) fn is_direct_path_possible(
    routes: &Routes,
    candidates: &[Vec<Candidate>; 2],
    policy: &[Policy; 2],
    now: Instant,
) -> bool {
    let mut routes = routes.clone();
    let usable = |side: usize, address: &SocketAddr| admissible(*address, &policy[side]).is_ok();
    let mut known = [0, 1].map(|side: usize| {
        let told = candidates[1 - side].iter().map(|candidate| candidate.address);
        told.filter(|address| usable(side, address)).collect::<BTreeSet<_>>()
    });
    let mut arrived = [BTreeMap::new(), BTreeMap::new()];
    for _ in 0..ROUNDS {
        let mut flying = Vec::new();
        for side in [0, 1] {
            for to in &known[side] {
                flying
                    .extend(routes.send(side, Local::MAIN, *to, now).map(|packet| (side, packet)));
            }
        }
        for (side, packet) in flying {
            if routes.arrive(packet, now) == Some((1 - side, Local::MAIN)) {
                arrived[side].insert(packet.to, packet.from);
                if usable(1 - side, &packet.from) {
                    known[1 - side].insert(packet.from);
                }
            }
        }
    }
    let [there, back] = arrived;
    there.iter().any(|(to, from)| back.get(from) == Some(to))
}
