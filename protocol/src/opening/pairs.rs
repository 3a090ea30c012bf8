//! All pairs of one introduction: our ways out, the peer's addresses, and what they make together.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use super::budget::Budget;
use super::event::NotTaken;
use super::local::{Introduced, Local, PairId, Way};
use super::pair::Pair;
use crate::address::{Policy, admissible, canonical};
use crate::candidate::{Candidate, CandidateKind, Priority};

/// Most introduced addresses of one peer; a rendezvous passes on 16 named ones and what it saw.
pub const MAX_INTRODUCED: usize = 20;

/// Most peer-reflexive addresses of one peer. The one that was heard from least recently makes room
/// for the next, except that one with the path is kept.
pub const MAX_PEER_REFLEXIVE: usize = 8;

/// Most predicted addresses that are remembered.
const MAX_PREDICTED: usize = 128;

/// Most ways out that one agent pairs with the peer's addresses. Those of a search are not among them.
pub const MAX_LOCALS: usize = 8;

/// The pairs; the peer's end of each admissible, each once.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    list: Vec<Pair>,
    ways: Vec<Way>,
    introduced: Vec<Introduced>,
    /// Addresses that the peer predicted of itself, the latest last.
    predicted: VecDeque<SocketAddr>,
    pub(super) budget: Budget,
}

impl Pairs {
    /// Takes one more way out, and pairs it with what is known of the peer. The oldest but the main
    /// one and the one in use makes room. Returns false where it is known already.
    pub(super) fn add_way(&mut self, way: Way, in_use: Option<PairId>, now: Instant) -> bool {
        if self.ways.iter().any(|known| known.id == way.id) {
            return false;
        }
        if self.ways.len() >= MAX_LOCALS {
            let used = in_use.map(|pair| pair.local);
            let oldest = self
                .ways
                .iter()
                .find(|known| known.id != Local::MAIN && !known.is_relay && Some(known.id) != used);
            if let Some(oldest) = oldest.map(|way| way.id) {
                self.remove_way(oldest);
            }
        }
        let reached: Vec<Introduced> =
            self.introduced.iter().filter(|introduced| way.reaches(introduced)).copied().collect();
        for introduced in reached {
            self.pair(&way, introduced.candidate, now);
        }
        self.ways.push(way);
        true
    }

    /// Forgets a way out with all its pairs.
    pub(super) fn remove_way(&mut self, local: Local) {
        self.ways.retain(|way| way.id != local);
        self.list.retain(|pair| pair.id.local != local);
    }

    /// Takes an introduced candidate. One that is known under a worse kind becomes the better.
    /// Returns whether it is new.
    pub(super) fn introduce(
        &mut self,
        candidate: Candidate,
        policy: &Policy,
        now: Instant,
    ) -> Result<bool, NotTaken> {
        let mut told = Introduced::new(candidate);
        let address = told.candidate.address;
        admissible(address, policy)?;
        let is_full = self.introduced.len() >= MAX_INTRODUCED;
        match self.introduced.iter_mut().find(|known| known.candidate.address == address) {
            Some(known) => {
                if !known.merge(told) {
                    return Ok(false);
                }
                told = *known;
            }
            None if is_full => return Err(NotTaken::TooMany),
            None => self.introduced.push(told),
        }
        let ways: Vec<Way> = self.ways.iter().filter(|way| way.reaches(&told)).cloned().collect();
        let mut is_new = false;
        for way in &ways {
            is_new |= self.pair(way, told.candidate, now);
        }
        Ok(is_new)
    }

    /// Whether there are pairs to which openers of this introduction go.
    pub(super) fn is_known(&self, address: SocketAddr) -> bool {
        self.introduced.iter().any(|known| known.candidate.address == address)
    }

    fn pair(&mut self, way: &Way, candidate: Candidate, now: Instant) -> bool {
        let id = PairId { local: way.id, remote: candidate.address };
        let kind = if way.is_relay { CandidateKind::Relayed } else { candidate.kind };
        let priority = Candidate::new(candidate.address, kind).priority();
        match self.get_mut(id) {
            Some(known) => {
                // What only a check showed may be a relay's address: the peer knows.
                let is_corrected = known.is_peer_reflexive && kind == CandidateKind::Relayed;
                known.kind = if is_corrected { kind } else { known.kind.min(kind) };
                known.priority = known.priority.max(priority);
                known.is_peer_reflexive = false;
                false
            }
            None => {
                self.list.push(Pair::introduced(id, kind, priority, now));
                true
            }
        }
    }

    /// The pair that an authentic check came on, made known if it was not. The caller has found
    /// the address admissible. Returns whether it is new.
    pub(super) fn heard(
        &mut self,
        id: PairId,
        claimed: Priority,
        in_use: Option<PairId>,
        now: Instant,
    ) -> bool {
        if let Some(known) = self.get_mut(id) {
            known.heard_at = Some(now);
            return false;
        }
        let peer_reflexive = self.list.iter().filter(|pair| pair.is_peer_reflexive);
        if peer_reflexive.clone().count() >= MAX_PEER_REFLEXIVE {
            let oldest = peer_reflexive
                .filter(|pair| Some(pair.id) != in_use)
                .min_by_key(|pair| pair.heard_at)
                .map(|pair| pair.id);
            self.list.retain(|pair| Some(pair.id) != oldest);
        }
        // An address that only the check showed is worth what the check says (RFC 8445, section
        // 7.3.1.3), and at most as much as the rendezvous' word.
        let is_relay = self.way(id.local).is_some_and(|way| way.is_relay);
        // A peer's relay has no other mark, until the peer tells of it.
        let kind = if is_relay || claimed < Priority::LEAST_DIRECT {
            CandidateKind::Relayed
        } else if self.predicted.contains(&id.remote) {
            CandidateKind::Predicted
        } else {
            CandidateKind::Reflexive
        };
        let most = Candidate::new(id.remote, kind).priority();
        let mut pair = Pair::introduced(id, kind, claimed.min(most), now);
        pair.is_peer_reflexive = true;
        pair.heard_at = Some(now);
        self.list.push(pair);
        true
    }

    /// Notes where the peer predicts to be, so that a path there is known as predicted.
    pub(super) fn predict(&mut self, addresses: &[SocketAddr]) {
        self.predicted.extend(addresses);
        let surplus = self.predicted.len().saturating_sub(MAX_PREDICTED);
        self.predicted.drain(..surplus);
    }

    /// Begins a new round with a fresh budget: what was introduced before is forgotten, and what was
    /// proved must be proved again, except for the pair in use.
    pub(super) fn restart(&mut self, in_use: Option<PairId>) {
        self.introduced.clear();
        self.list.retain(|pair| Some(pair.id) == in_use || pair.proof.is_some());
        for pair in self.list.iter_mut().filter(|pair| Some(pair.id) != in_use) {
            pair.withdraw();
            pair.is_peer_reflexive = true;
        }
        self.budget = Budget::default();
    }

    /// Makes openers on known but unproved pairs with this address due again.
    pub(super) fn revive(&mut self, address: SocketAddr, now: Instant) {
        let pairs = self.list.iter_mut().filter(|pair| pair.id.remote == address);
        pairs.filter(|pair| pair.proof.is_none()).for_each(|pair| pair.restart(now));
    }

    pub(super) fn way(&self, local: Local) -> Option<&Way> {
        self.ways.iter().find(|way| way.id == local)
    }

    /// How the peer reaches us on a way where it sees us as this: by one of the candidates that it
    /// was told, or as it found out.
    pub(super) fn own_kind(&self, local: Local, seen_as: SocketAddr) -> CandidateKind {
        let Some(way) = self.way(local) else { return CandidateKind::Reflexive };
        if way.is_relay {
            return CandidateKind::Relayed;
        }
        let told = way.told.iter().filter(|told| canonical(told.address) == seen_as);
        told.map(|told| told.kind).min().unwrap_or(CandidateKind::Reflexive)
    }

    /// Notes candidates of ours that the peer was told later.
    pub(super) fn told(&mut self, local: Local, candidates: &[Candidate]) {
        if let Some(way) = self.ways.iter_mut().find(|way| way.id == local) {
            way.told.extend_from_slice(candidates);
        }
    }

    pub(super) fn get(&self, id: PairId) -> Option<&Pair> {
        self.list.iter().find(|pair| pair.id == id)
    }

    pub(super) fn get_mut(&mut self, id: PairId) -> Option<&mut Pair> {
        self.list.iter_mut().find(|pair| pair.id == id)
    }

    /// One pair and the budget for all.
    pub(super) fn get_with_budget(&mut self, id: PairId) -> Option<(&mut Pair, &mut Budget)> {
        let Self { list, budget, .. } = self;
        Some((list.iter_mut().find(|pair| pair.id == id)?, budget))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.list.iter()
    }

    /// How many addresses of the peer there are.
    pub(super) fn addresses(&self) -> usize {
        let mut all: Vec<_> = self.list.iter().map(|pair| pair.id.remote).collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.introduced.clear();
    }

    /// The pairs whose next opener is due.
    pub(super) fn due(&self, now: Instant) -> Vec<PairId> {
        self.list
            .iter()
            .filter(|pair| pair.next_at.is_some_and(|at| at <= now))
            .map(|pair| pair.id)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_known_by_its_check_or_by_what_is_told_later() {
        let now = Instant::now();
        let remote: SocketAddr = "9.9.9.9:50000".parse().expect("an address");
        let id = PairId { local: Local::MAIN, remote };
        let of = |kind| Candidate::new(remote, kind);
        let heard = |claimed: CandidateKind| {
            let mut pairs = Pairs::default();
            let way = Way { id: Local::MAIN, is_relay: false, told: Vec::new() };
            assert!(pairs.add_way(way, None, now));
            assert!(pairs.heard(id, of(claimed).priority(), None, now));
            pairs
        };
        let kind = |pairs: &Pairs| pairs.get(id).map(|pair| pair.kind);
        let told = heard(CandidateKind::Relayed);
        assert_eq!(kind(&told), Some(CandidateKind::Relayed));
        let mut later = heard(CandidateKind::Reflexive);
        assert_eq!(kind(&later), Some(CandidateKind::Reflexive));
        let policy = Policy::default();
        later.introduce(of(CandidateKind::Relayed), &policy, now).expect("a public address");
        assert_eq!(kind(&later), Some(CandidateKind::Relayed));
        // What is a relay's by one word and the peer's own by another is the better.
        later.introduce(of(CandidateKind::Host), &policy, now).expect("a public address");
        assert_eq!(kind(&later), Some(CandidateKind::Host));
    }
}
