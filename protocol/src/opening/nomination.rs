//! Which of the proved addresses is the path: the viewer decides, the broadcaster follows.

use std::time::{Duration, Instant};

use super::agent::Agent;
use super::event::{Event, Path, State};
use super::keeping::Keeping;
use super::local::PairId;
use super::{IMPROVEMENT_TIME, Role};
use crate::candidate::CandidateKind;

impl Agent {
    /// Our own address on the path changed, as the peer sees it: the viewer tells the broadcaster to
    /// follow. Not again within a second, lest a mapping that changes with each packet make a storm.
    pub(super) fn renominate(&mut self, now: Instant) {
        const LEAST_TIME: Duration = Duration::from_secs(1);
        if self.setup.role == Role::Broadcaster {
            return;
        }
        self.nomination += 1;
        if self.renominated_at.is_none_or(|at| now - at >= LEAST_TIME) {
            self.renominated_at = Some(now);
            self.check_now(now);
        }
    }

    /// Decides whether a newly proved pair becomes the path. The viewer takes the first, then
    /// every better one, and any if its path is in doubt. The broadcaster takes the first, so that it
    /// can send as early as it may, then what was nominated.
    pub(super) fn consider(&mut self, proved: PairId, now: Instant) {
        let priority = |id| self.pairs.get(id).map(|pair| pair.priority);
        let takes = match (self.path_pair(), self.setup.role) {
            (None, _) => true,
            (Some(current), Role::Viewer) => {
                self.state == State::Doubtful || priority(proved) > priority(current)
            }
            (Some(_), Role::Broadcaster) => self.nominated == Some(proved),
        };
        if takes {
            self.follow(proved, now);
        }
    }

    /// Makes a proved pair the path.
    fn follow(&mut self, id: PairId, now: Instant) {
        let Some(pair) = self.pairs.get(id) else { return };
        let Some(proof) = pair.proof else { return };
        let is_repair = self.state == State::Doubtful;
        let path = Path {
            local: id.local,
            remote: id.remote,
            kind: pair.kind.max(self.pairs.own_kind(id.local, proof.seen_as)),
            seen_as: proof.seen_as,
            rtt: proof.rtt,
            took: now - self.started_at,
            is_repair,
        };
        if is_repair && let Some(doubted) = self.path_pair().and_then(|at| self.pairs.get_mut(at)) {
            doubted.withdraw();
        }
        self.events.push_back(match self.opened_at {
            None => Event::Opened(path),
            Some(_) => Event::Moved(path),
        });
        self.opened_at.get_or_insert(now);
        self.state = State::Open;
        let mut keeping = Keeping::new(id, &self.setup.config, &mut self.rng, now);
        if self.setup.role == Role::Viewer {
            self.nomination += 1;
            keeping.hurry(now);
        }
        self.path = Some(keeping);
        self.check_path(now);
    }

    /// Follows the viewer's latest nomination, at once if the address is proved, else when it is.
    pub(super) fn take_nomination(&mut self, from: PairId, nomination: u32, now: Instant) {
        if nomination <= self.nomination {
            return;
        }
        self.nomination = nomination;
        self.nominated = Some(from);
        if self.path_pair() == Some(from) {
            return;
        }
        let stale_after = self.setup.config.consent_timeout;
        let Some(pair) = self.pairs.get_mut(from) else { return };
        match pair.proof {
            Some(proof) if now - proof.at < stale_after => self.follow(from, now),
            Some(_) => pair.withdraw(),
            None => {}
        }
    }

    /// Whether an unproved pair is still worth trying. Once there is a path, the viewer looks for
    /// better ones for a while, and the broadcaster opens its side for that.
    pub(super) fn wants_opener(&self, id: PairId, now: Instant) -> bool {
        let Some(pair) = self.pairs.get(id).filter(|pair| pair.proof.is_none()) else {
            return false;
        };
        let is_held = self.setup.holds && pair.kind == CandidateKind::Reflexive;
        if is_held && pair.heard_at.is_none() {
            return false;
        }
        if self.media_local == Some(id.local) {
            return true;
        }
        let (Some(opened_at), Some(current)) = (self.opened_at, self.path_pair()) else {
            return true;
        };
        let in_time = now < opened_at.max(pair.since) + IMPROVEMENT_TIME;
        let is_nominated = self.nominated == Some(id);
        let current = self.pairs.get(current).map(|current| current.priority);
        let may_help = self.setup.role == Role::Broadcaster
            || pair.is_peer_reflexive
            || Some(pair.priority) > current;
        is_nominated || self.state == State::Doubtful || (in_time && may_help)
    }
}
