//! The agent of one party of one introduction: the state that everything else here hangs from.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{CryptoRng, SeedableRng};

use super::Role;
use super::check::{self, Answer, Check, FromPeer};
use super::event::{
    Event, Failure, Handled, Ignored, NotTaken, Reason, Setup, State, Transmit, Tried,
};
use super::keeping::Keeping;
use super::remotes::{Remotes, by_importance};
use crate::address::{admissible, canonical};
use crate::candidate::{Candidate, CandidateKind};
use crate::stun::{Key, transaction_id};

/// Opens a path to one peer and keeps it open; the [module](super) says how.
///
/// Drive it with `handle_*`, then drain [`poll_transmit`](Self::poll_transmit) and
/// [`poll_event`](Self::poll_event), then wait for a datagram or [`poll_timeout`](Self::poll_timeout).
pub struct Agent {
    pub(super) setup: Setup,
    key: Key,
    pub(super) rng: StdRng,
    pub(super) started_at: Instant,
    pub(super) state: State,
    pub(super) remotes: Remotes,
    pub(super) path: Option<Keeping>,
    pub(super) opened_at: Option<Instant>,
    /// Number of the latest nomination: at the viewer, ours; at the broadcaster, the highest heard.
    pub(super) nomination: u32,
    /// Broadcaster: where the latest nomination came from.
    pub(super) nominated: Option<SocketAddr>,
    /// Viewer: when our own changed address last made us nominate again.
    pub(super) renominated_at: Option<Instant>,
    tried: Tried,
    transmits: VecDeque<Transmit>,
    pub(super) events: VecDeque<Event>,
}

impl Agent {
    /// Starts opening: the first opening packets are ready to be polled. Candidates that the policy
    /// refuses are dropped and counted; see [`Failure`].
    pub fn new(mut setup: Setup, rng: &mut (impl CryptoRng + ?Sized), now: Instant) -> Self {
        let remote = by_importance(std::mem::take(&mut setup.remote));
        let mut agent = Self {
            key: setup.credentials.key(),
            setup,
            rng: StdRng::from_rng(rng),
            started_at: now,
            state: State::Opening,
            remotes: Remotes::default(),
            path: None,
            opened_at: None,
            nomination: 0,
            nominated: None,
            renominated_at: None,
            tried: Tried::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        for candidate in remote {
            agent.introduce(candidate, now).ok();
        }
        agent.send_openers(now);
        agent
    }

    /// Takes one more candidate of the peer, and sends it an opening packet at once.
    ///
    /// # Errors
    ///
    /// Says why it is not used: the policy refuses it, there are too many, or the agent is over.
    pub fn add_remote(&mut self, candidate: Candidate, now: Instant) -> Result<(), NotTaken> {
        if self.state.is_over() {
            return Err(NotTaken::Over);
        }
        self.introduce(candidate, now)?;
        self.send_openers(now);
        Ok(())
    }

    /// Takes a datagram that came from `from`. Whatever it holds, it changes nothing unless it is an
    /// authentic message of the peer.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Handled {
        let handled = self.take_datagram(canonical(from), datagram, now);
        handled.map_or_else(Handled::NotMine, |()| Handled::Mine)
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.state == State::Opening && now >= self.deadline_at() {
            let failure = Failure { after: now - self.started_at, tried: self.tried };
            self.end(State::Failed, Event::Failed(failure));
        }
        if let Some(reason) = self.path.as_ref().and_then(|path| path.lost(&self.setup.config, now))
        {
            self.end(State::Lost, Event::Lost(reason));
        }
        if !self.state.is_over() {
            self.send_openers(now);
            self.check_path(now);
        }
    }

    /// Notes a word of the peer that arrived over the open path and was authenticated otherwise
    /// (QUIC, or media that was opened): it is consent too (RFC 7675 leaves the means open).
    pub fn handle_authenticated(&mut self, now: Instant) {
        if let Some(path) = &mut self.path {
            path.word(&self.setup.config, &mut self.rng, now);
            self.state = State::Open;
        }
    }

    /// Checks the open path at once: for a caller that misses what should be arriving, or whose own
    /// addresses changed.
    pub fn check_now(&mut self, now: Instant) {
        if let Some(path) = self.path.as_mut().filter(|path| !path.is_waiting()) {
            path.hurry(now);
            self.check_path(now);
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due next, and for what. `None` once the agent
    /// is over.
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        if self.state.is_over() {
            return None;
        }
        let opener = self.remotes.iter().filter_map(|remote| remote.next_at).min();
        let deadline = (self.state == State::Opening).then(|| self.deadline_at());
        let keeping = self.path.as_ref().map(|path| path.next(&self.setup.config));
        [opener.map(|at| (at, Reason::Opener)), deadline.map(|at| (at, Reason::Deadline)), keeping]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// What the agent is doing.
    pub fn state(&self) -> State {
        self.state
    }

    /// Where to send what is for the peer, if there is a path.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.path.as_ref().map(|path| path.address)
    }

    /// Round-trip time of the path's last answered check.
    pub fn rtt(&self) -> Option<Duration> {
        Some(self.remotes.get(self.remote()?)?.proof?.rtt)
    }

    /// Whether this address has echoed a nonce of ours, so that it receives what is sent to it and
    /// wants it.
    pub fn is_proved(&self, address: SocketAddr) -> bool {
        self.remotes.get(canonical(address)).is_some_and(|remote| remote.proof.is_some())
    }

    /// What was tried so far.
    pub fn tried(&self) -> Tried {
        self.tried
    }

    fn deadline_at(&self) -> Instant {
        self.started_at + self.setup.config.deadline
    }

    fn introduce(&mut self, candidate: Candidate, now: Instant) -> Result<(), NotTaken> {
        let known = self.remotes.iter().count();
        let taken = self.remotes.introduce(candidate, &self.setup.policy, now);
        match taken {
            Ok(()) => self.tried.remotes += u32::from(self.remotes.iter().count() > known),
            Err(_) => self.tried.refused += 1,
        }
        taken
    }

    fn take_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), Ignored> {
        if self.state.is_over() {
            return Err(Ignored::Over);
        }
        let Setup { credentials, role, .. } = &self.setup;
        let message = check::parse(datagram, credentials.id, *role, &self.key)?;
        admissible(from, &self.setup.policy)?;
        match message {
            FromPeer::Check(check) => self.take_check(from, check, now),
            FromPeer::Answer(answer) => self.take_answer(from, answer, now),
        }
    }

    /// Answers a check of the peer, and checks the address that it came from if that is not proved.
    fn take_check(&mut self, from: SocketAddr, check: Check, now: Instant) -> Result<(), Ignored> {
        self.tried.checks_received += 1;
        let in_use = self.remote();
        if self.remotes.heard(from, check.priority, in_use, now) {
            self.tried.remotes += 1;
            self.tried.peer_reflexive += 1;
        }
        let Some((remote, budget)) = self.remotes.get_with_budget(from) else {
            return Err(Ignored::OverBudget);
        };
        if !remote.spend_answer(budget) {
            return Err(Ignored::OverBudget);
        }
        let answer = Answer { transaction: check.transaction, seen: from };
        let payload = answer.emit(self.setup.credentials.id, &self.key);
        self.tried.answers += 1;
        self.transmits.push_back(Transmit { to: from, payload });

        if let Some(nomination) = check.nomination.filter(|_| self.setup.role == Role::Broadcaster)
        {
            self.take_nomination(from, nomination, now);
        }
        if let Some(remote) = self.remotes.get_mut(from).filter(|remote| remote.proof.is_none()) {
            remote.trigger(now);
        }
        self.send_openers(now);
        Ok(())
    }

    /// Matches an answer to the check that it answers.
    fn take_answer(
        &mut self,
        from: SocketAddr,
        answer: Answer,
        now: Instant,
    ) -> Result<(), Ignored> {
        let Answer { transaction, seen } = answer;
        let Some((remote, budget)) =
            self.remotes.get_with_budget(from).filter(|(remote, _)| remote.awaits(transaction))
        else {
            let is_elsewhere = self.remotes.iter().any(|remote| remote.awaits(transaction));
            return Err(if is_elsewhere {
                Ignored::WrongAddress
            } else {
                Ignored::UnknownTransaction
            });
        };
        let seen_before = remote.proof.map(|proof| proof.seen_as);
        remote.prove(transaction, seen, budget, now);
        if self.remote() == Some(from) {
            if let Some(path) = &mut self.path {
                path.answered(&self.setup.config, &mut self.rng, now);
            }
            self.state = State::Open;
            if seen_before.is_some_and(|before| before != seen) {
                self.renominate(now);
            }
        } else {
            self.consider(from, now);
        }
        Ok(())
    }

    /// Sends the openers that are due.
    fn send_openers(&mut self, now: Instant) {
        for address in self.remotes.due(now) {
            let wanted = self.wants_opener(address, now);
            let Some((remote, budget)) = self.remotes.get_with_budget(address) else { continue };
            if wanted && remote.spend_opener(budget) {
                remote.schedule(now, &mut self.rng);
                self.tried.openers += 1;
                self.send_check(address, now);
            } else {
                remote.next_at = None;
            }
        }
    }

    /// Checks the path if a check is due, and the other proved addresses too if it is in doubt.
    pub(super) fn check_path(&mut self, now: Instant) {
        let rtt = self.rtt().unwrap_or_default();
        let Some(path) = self.path.as_mut().filter(|path| path.is_check_due(now)) else { return };
        let current = path.address;
        let doubtful = path.is_doubtful();
        path.checked(&self.setup.config, rtt, now);
        self.send_check(current, now);
        if doubtful {
            self.state = State::Doubtful;
            if self.setup.role == Role::Viewer {
                let others = self.remotes.iter().filter(|remote| remote.proof.is_some());
                let others: Vec<_> = others.map(|remote| remote.address()).collect();
                for other in others.into_iter().filter(|other| *other != current) {
                    self.send_check(other, now);
                }
            }
        }
    }

    fn send_check(&mut self, to: SocketAddr, now: Instant) {
        let transaction = transaction_id(&mut self.rng);
        let nominates = self.setup.role == Role::Viewer && self.remote() == Some(to);
        let check = Check {
            transaction,
            sender: self.setup.role,
            priority: Candidate::new(to, CandidateKind::Reflexive).priority(),
            nomination: nominates.then_some(self.nomination),
        };
        if let Some(remote) = self.remotes.get_mut(to) {
            remote.sent(transaction, now);
            let payload = check.emit(self.setup.credentials.id, &self.key);
            self.transmits.push_back(Transmit { to, payload });
        }
    }

    /// Nothing is proved, sent or waited for any more.
    fn end(&mut self, state: State, event: Event) {
        self.state = state;
        self.path = None;
        self.remotes.clear();
        self.transmits.clear();
        self.events.push_back(event);
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("introduction", &self.setup.credentials.id)
            .field("role", &self.setup.role)
            .field("state", &self.state)
            .field("remote", &self.remote())
            .finish_non_exhaustive()
    }
}
