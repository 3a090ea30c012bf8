//! Which of the proved addresses is the path: the viewer decides, the broadcaster follows.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::agent::Agent;
use super::event::{Event, Path, State};
use super::keeping::Keeping;
use super::{IMPROVEMENT_TIME, Role};
use crate::address::canonical;
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

    /// Decides whether a newly proved address becomes the path. The viewer takes the first, then
    /// every better one, and any if its path is in doubt. The broadcaster takes the first, so that it
    /// can send as early as it may, then what was nominated.
    pub(super) fn consider(&mut self, proved: SocketAddr, now: Instant) {
        let priority = |address| self.remotes.get(address).map(|remote| remote.priority);
        let takes = match (self.remote(), self.setup.role) {
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

    /// Makes a proved address the path.
    fn follow(&mut self, address: SocketAddr, now: Instant) {
        let Some(remote) = self.remotes.get(address) else { return };
        let Some(proof) = remote.proof else { return };
        let path = Path {
            remote: address,
            kind: remote.candidate.kind.max(self.local_kind(proof.seen_as)),
            seen_as: proof.seen_as,
            rtt: proof.rtt,
            took: now - self.started_at,
        };
        if self.state == State::Doubtful
            && let Some(doubted) = self.remote().and_then(|at| self.remotes.get_mut(at))
        {
            doubted.withdraw();
        }
        self.events.push_back(match self.opened_at {
            None => Event::Opened(path),
            Some(_) => Event::Moved(path),
        });
        self.opened_at.get_or_insert(now);
        self.state = State::Open;
        let mut keeping = Keeping::new(address, &self.setup.config, &mut self.rng, now);
        if self.setup.role == Role::Viewer {
            self.nomination += 1;
            keeping.hurry(now);
        }
        self.path = Some(keeping);
        self.check_path(now);
    }

    /// How the peer reaches us: by one of the candidates that it was told, or as it found out.
    fn local_kind(&self, seen_as: SocketAddr) -> CandidateKind {
        let told = self.setup.local.iter().filter(|local| canonical(local.address) == seen_as);
        told.map(|local| local.kind).min().unwrap_or(CandidateKind::Reflexive)
    }

    /// Follows the viewer's latest nomination, at once if the address is proved, else when it is.
    pub(super) fn take_nomination(&mut self, from: SocketAddr, nomination: u32, now: Instant) {
        if nomination <= self.nomination {
            return;
        }
        self.nomination = nomination;
        self.nominated = Some(from);
        if self.remote() == Some(from) {
            return;
        }
        let stale_after = self.setup.config.consent_timeout;
        let Some(remote) = self.remotes.get_mut(from) else { return };
        match remote.proof {
            Some(proof) if now - proof.at < stale_after => self.follow(from, now),
            Some(_) => remote.withdraw(),
            None => {}
        }
    }

    /// Whether an unproved address is still worth trying. Once there is a path, the viewer looks for
    /// better ones for a while, and the broadcaster opens its side for that.
    pub(super) fn wants_opener(&self, address: SocketAddr, now: Instant) -> bool {
        let Some(remote) = self.remotes.get(address).filter(|remote| remote.proof.is_none()) else {
            return false;
        };
        let (Some(opened_at), Some(current)) = (self.opened_at, self.remote()) else {
            return true;
        };
        let in_time = now < opened_at.max(remote.since) + IMPROVEMENT_TIME;
        let is_nominated = self.nominated == Some(address);
        let current = self.remotes.get(current).map(|current| current.priority);
        let may_help = self.setup.role == Role::Broadcaster
            || remote.is_peer_reflexive
            || Some(remote.priority) > current;
        is_nominated || self.state == State::Doubtful || (in_time && may_help)
    }
}
