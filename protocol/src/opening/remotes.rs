//! The addresses of one peer.

use std::net::SocketAddr;
use std::time::Instant;

use super::budget::Budget;
use super::event::NotTaken;
use super::remote::Remote;
use crate::address::{Policy, admissible};
use crate::candidate::{Candidate, CandidateKind, Priority};

/// Most introduced addresses of one peer; a rendezvous passes on 16 named ones and what it saw.
pub const MAX_INTRODUCED: usize = 20;

/// Most peer-reflexive addresses of one peer. The one that was heard from least recently makes room
/// for the next, except that one with the path is kept.
pub const MAX_PEER_REFLEXIVE: usize = 8;

/// The addresses of one peer; all of them admissible, each once.
#[derive(Debug, Default)]
pub(super) struct Remotes {
    list: Vec<Remote>,
    pub(super) budget: Budget,
}

impl Remotes {
    /// Takes an introduced candidate. One that is known under a worse kind becomes the better.
    pub(super) fn introduce(
        &mut self,
        candidate: Candidate,
        policy: &Policy,
        now: Instant,
    ) -> Result<(), NotTaken> {
        let candidate = Candidate::new(candidate.address, candidate.kind);
        admissible(candidate.address, policy)?;
        if let Some(known) = self.get_mut(candidate.address) {
            known.candidate.kind = known.candidate.kind.min(candidate.kind);
            known.priority = known.priority.max(candidate.priority());
            known.is_peer_reflexive = false;
            return Ok(());
        }
        let introduced = self.list.iter().filter(|remote| !remote.is_peer_reflexive).count();
        if introduced == MAX_INTRODUCED {
            return Err(NotTaken::TooMany);
        }
        self.list.push(Remote::introduced(candidate, now));
        Ok(())
    }

    /// The address that an authentic check came from, made known if it was not. The caller has found
    /// it admissible. Returns whether it is new.
    pub(super) fn heard(
        &mut self,
        address: SocketAddr,
        claimed: Priority,
        in_use: Option<SocketAddr>,
        now: Instant,
    ) -> bool {
        if let Some(known) = self.get_mut(address) {
            known.heard_at = Some(now);
            return false;
        }
        let peer_reflexive = self.list.iter().filter(|remote| remote.is_peer_reflexive);
        if peer_reflexive.clone().count() == MAX_PEER_REFLEXIVE {
            let oldest = peer_reflexive
                .filter(|remote| Some(remote.address()) != in_use)
                .min_by_key(|remote| remote.heard_at)
                .map(Remote::address);
            self.list.retain(|remote| Some(remote.address()) != oldest);
        }
        let mut remote = Remote::peer_reflexive(address, claimed, now);
        remote.heard_at = Some(now);
        self.list.push(remote);
        true
    }

    pub(super) fn get(&self, address: SocketAddr) -> Option<&Remote> {
        self.list.iter().find(|remote| remote.address() == address)
    }

    pub(super) fn get_mut(&mut self, address: SocketAddr) -> Option<&mut Remote> {
        self.list.iter_mut().find(|remote| remote.address() == address)
    }

    /// One address and the budget for all.
    pub(super) fn get_with_budget(
        &mut self,
        address: SocketAddr,
    ) -> Option<(&mut Remote, &mut Budget)> {
        let Self { list, budget } = self;
        Some((list.iter_mut().find(|remote| remote.address() == address)?, budget))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Remote> {
        self.list.iter()
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    /// The addresses whose next opener is due.
    pub(super) fn due(&self, now: Instant) -> Vec<SocketAddr> {
        self.list
            .iter()
            .filter(|remote| remote.next_at.is_some_and(|at| at <= now))
            .map(Remote::address)
            .collect()
    }
}

/// Puts first what must not be left out where there are too many: what the rendezvous saw, then the
/// best.
pub(super) fn by_importance(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by_key(|candidate| {
        let is_seen = candidate.kind == CandidateKind::Reflexive;
        std::cmp::Reverse((is_seen, candidate.priority()))
    });
    candidates
}
