//! The agent of one party of one introduction: the state that everything else here hangs from.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{CryptoRng, SeedableRng};

use super::Role;
use super::check::{self, Answer, Check, FromPeer};
use super::event::{
    Event, Failure, Handled, Ignored, NotRenewed, NotTaken, Purpose, Reason, Renewal, Setup, State,
    Transmit, Tried,
};
use super::keeping::Keeping;
use super::local::{Local, PairId, Way};
use super::pair::Pair;
use super::pairs::{Pairs, by_importance};
use super::renewal::Renewals;
use super::scout::{SCOUTS_IN_TOTAL, Scouting, Scouts};
use crate::address::{admissible, canonical, household};
use crate::candidate::{Candidate, CandidateKind};
use crate::stun::{Key, transaction_id};

/// From one opener with a hop limit to the next: often enough for the shortest bindings.
const NEAR_OPENER_INTERVAL: Duration = Duration::from_millis(2500);

/// Datagrams that are made at once while a path is open, at most: room for more is given back, since
/// a broadcaster has thousands of agents.
const SELDOM_MORE: usize = 4;

/// Opens a path to one peer and keeps it open; the [module](super) says how.
///
/// Drive it with `handle_*`, then drain [`poll_transmit`](Self::poll_transmit) and
/// [`poll_event`](Self::poll_event), then wait for a datagram or [`poll_timeout`](Self::poll_timeout).
pub struct Agent {
    pub(super) setup: Setup,
    key: Key,
    pub(super) rng: StdRng,
    pub(super) started_at: Instant,
    /// When the present round of opening began.
    round_at: Instant,
    pub(super) state: State,
    pub(super) pairs: Pairs,
    scouts: Vec<Scouts>,
    renewals: Renewals,
    pub(super) path: Option<Keeping>,
    pub(super) opened_at: Option<Instant>,
    /// Number of the latest nomination: at the viewer, ours; at the broadcaster, the highest heard.
    pub(super) nomination: u32,
    /// Broadcaster: where the latest nomination came from.
    pub(super) nominated: Option<PairId>,
    /// Viewer: the socket that media is wanted at, if it is not the path's.
    pub(super) media_local: Option<Local>,
    /// Broadcaster: where media is wanted, once that is proved.
    media: Option<PairId>,
    media_told: bool,
    /// Viewer: when our own changed address last made us nominate again.
    pub(super) renominated_at: Option<Instant>,
    heard: bool,
    tried: Tried,
    transmits: VecDeque<Transmit>,
    pub(super) events: VecDeque<Event>,
}

impl Agent {
    /// Starts opening: the first opening packets are ready to be polled. Candidates that the policy
    /// refuses are dropped and counted; see [`Failure`].
    pub fn new(mut setup: Setup, rng: &mut (impl CryptoRng + ?Sized), now: Instant) -> Self {
        let remote = by_importance(std::mem::take(&mut setup.remote));
        let told = std::mem::take(&mut setup.local);
        let mut agent = Self {
            key: setup.credentials.key(),
            setup,
            rng: StdRng::from_rng(rng),
            started_at: now,
            round_at: now,
            state: State::Opening,
            pairs: Pairs::default(),
            scouts: Vec::new(),
            renewals: Renewals::default(),
            path: None,
            opened_at: None,
            nomination: 0,
            nominated: None,
            media_local: None,
            media: None,
            media_told: false,
            renominated_at: None,
            heard: false,
            tried: Tried::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        agent.pairs.add_way(Way { id: Local::MAIN, is_relay: false, told }, None, now);
        for candidate in remote {
            agent.introduce(candidate, now).ok();
        }
        agent.send_openers(now);
        agent
    }

    /// Takes one more candidate of the peer, and sends it an opening packet at once. A known one that
    /// is not proved gets openers as if it were new.
    ///
    /// # Errors
    ///
    /// Says why it is not used: the policy refuses it, there are too many, or the agent is over.
    pub fn add_remote(&mut self, candidate: Candidate, now: Instant) -> Result<(), NotTaken> {
        if self.state.is_over() {
            return Err(NotTaken::Over);
        }
        self.introduce(candidate, now)?;
        self.pairs.revive(canonical(candidate.address), now);
        self.send_openers(now);
        Ok(())
    }

    /// Takes one more way out of ours, with the candidates that the peer is told of it, and sends
    /// openers on it to all that is known of the peer.
    pub fn add_local(&mut self, local: Local, is_relay: bool, told: Vec<Candidate>, now: Instant) {
        if self.state.is_over() {
            return;
        }
        let in_use = self.path_pair();
        self.pairs.add_way(Way { id: local, is_relay, told }, in_use, now);
        self.send_openers(now);
    }

    /// Takes a socket that media is wanted at, and nothing else: the path stays on others. As
    /// [`add_local`](Self::add_local) otherwise.
    pub fn add_media_local(&mut self, local: Local, told: Vec<Candidate>, now: Instant) {
        self.media_local = Some(local);
        self.add_local(local, false, told, now);
    }

    /// Forgets a way out that is closed, unless the path uses it.
    pub fn remove_local(&mut self, local: Local) {
        if self.path_pair().is_none_or(|pair| pair.local != local) {
            self.pairs.remove_way(local);
        }
    }

    /// Notes candidates of one of our ways out that the peer is told only now.
    pub fn told(&mut self, local: Local, candidates: &[Candidate]) {
        self.pairs.told(local, candidates);
    }

    /// Sends openers in numbers, as [`Scouting`] says, until there is a path that is not relayed.
    /// Targets at addresses that the rendezvous did not see are left out; returns how many are taken,
    /// which is none where no scouts are wanted.
    pub fn scout(&mut self, mut plan: Scouting, now: Instant) -> usize {
        let seen = self.setup.seen.map(|seen| canonical(seen).ip());
        let Setup { policy, .. } = &self.setup;
        plan.targets.retain(|pair| {
            Some(pair.remote.ip()) == seen && admissible(pair.remote, policy).is_ok()
        });
        let taken = plan.targets.len();
        if taken == 0 || !self.wants_scouts() {
            return 0;
        }
        self.scouts.push(Scouts::new(plan, now));
        self.send_scouts(now);
        taken
    }

    /// Takes external ports of the peer that it predicts for its next mappings, and sends openers to
    /// all of them.
    pub fn predicted(&mut self, candidates: &[Candidate], now: Instant) {
        let addresses: Vec<_> =
            candidates.iter().map(|candidate| canonical(candidate.address)).collect();
        self.pairs.predict(&addresses);
        let pair = |remote| PairId { local: Local::MAIN, remote };
        self.scout(Scouting::prediction(addresses.into_iter().map(pair).collect()), now);
    }

    /// Begins a new round on the same introduction, with what the rendezvous says of the peer now and
    /// a fresh budget: the path is in doubt, or a better one is looked for. The path in use stays in
    /// use until another one is proved.
    ///
    /// # Errors
    ///
    /// Where rounds come too fast, or the agent is over.
    pub fn renew(&mut self, renewal: Renewal, now: Instant) -> Result<(), NotRenewed> {
        if self.state.is_over() {
            return Err(NotRenewed::Over);
        }
        if !self.renewals.admit(now) {
            return Err(NotRenewed::TooMany);
        }
        let Renewal { remote, seen, policy, holds } = renewal;
        self.setup.policy = policy;
        self.setup.seen = seen;
        self.setup.holds = holds;
        self.round_at = now;
        self.scouts.clear();
        self.pairs.restart(self.path_pair());
        for candidate in by_importance(remote) {
            self.introduce(candidate, now).ok();
        }
        for address in self.pairs.iter().map(|pair| pair.id.remote).collect::<Vec<_>>() {
            if self.pairs.is_known(address) {
                self.pairs.revive(address, now);
            }
        }
        if let Some(path) = &mut self.path {
            path.give_time(now);
        }
        self.send_openers(now);
        Ok(())
    }

    /// Takes a datagram that came to `local` from `from`. Whatever it holds, it changes nothing unless
    /// it is an authentic message of the peer.
    pub fn handle_datagram(
        &mut self,
        local: Local,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Handled {
        let pair = PairId { local, remote: canonical(from) };
        let handled = self.take_datagram(pair, datagram, now);
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
            self.send_scouts(now);
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

    /// Checks the open path at once: for a caller whose own addresses changed, say.
    pub fn check_now(&mut self, now: Instant) {
        if let Some(path) = self.path.as_mut().filter(|path| !path.is_waiting()) {
            path.hurry(now);
            self.check_path(now);
        }
    }

    /// Puts the open path in doubt: what should be arriving is missing. It is checked at once, with
    /// every other proved address, and whatever answers first is the path from then on.
    pub fn doubt(&mut self, now: Instant) {
        if let Some(path) = self.path.as_mut().filter(|path| !path.is_doubtful()) {
            path.doubt(now);
            self.check_path(now);
        }
    }

    /// The mapping of our end was found to be gone after the usual time between checks: they come
    /// more often from now on, but not more than once in half a second.
    pub fn shorten_checks(&mut self) {
        let interval = &mut self.setup.config.check_interval;
        *interval = (*interval / 2).max(Duration::from_millis(500)).min(*interval);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = self.transmits.pop_front();
        if transmit.is_none() && self.transmits.capacity() > SELDOM_MORE {
            self.transmits = VecDeque::new();
        }
        transmit
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
        let opener = self.pairs.iter().filter_map(|pair| pair.next_at).min();
        let scout = self.scouts.iter().filter_map(Scouts::next_at).min();
        let deadline = (self.state == State::Opening).then(|| self.deadline_at());
        let keeping = self.path.as_ref().map(|path| path.next(&self.setup.config));
        [
            opener.map(|at| (at, Reason::Opener)),
            scout.map(|at| (at, Reason::Scout)),
            deadline.map(|at| (at, Reason::Deadline)),
            keeping,
        ]
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
        self.path_pair().map(|pair| pair.remote)
    }

    /// Whether there is a path that needs no relay, and is not in doubt.
    pub fn is_direct(&self) -> bool {
        self.state == State::Open && !self.wants_scouts()
    }

    /// Whether the next check of the path may as well come a little later: the peer's words are
    /// consent, and nothing is amiss.
    pub fn is_unhurried(&self) -> bool {
        let is_waiting = self.path.as_ref().is_none_or(Keeping::is_waiting);
        self.state == State::Open && !self.setup.config.always_checks && !is_waiting
    }

    /// Both ends of the path, if there is one.
    pub fn path_pair(&self) -> Option<PairId> {
        self.path.as_ref().map(|path| path.pair)
    }

    /// Round-trip time of the path's last answered check.
    pub fn rtt(&self) -> Option<Duration> {
        Some(self.pairs.get(self.path_pair()?)?.proof?.rtt)
    }

    /// Whether this address has echoed a nonce of ours, so that it receives what is sent to it and
    /// wants it.
    pub fn is_proved(&self, address: SocketAddr) -> bool {
        let address = canonical(address);
        self.pairs.iter().any(|pair| pair.id.remote == address && pair.proof.is_some())
    }

    /// What was tried so far.
    pub fn tried(&self) -> Tried {
        self.tried
    }

    fn deadline_at(&self) -> Instant {
        self.round_at + self.setup.config.deadline
    }

    fn introduce(&mut self, candidate: Candidate, now: Instant) -> Result<(), NotTaken> {
        let known = self.pairs.addresses();
        let taken = self.pairs.introduce(candidate, &self.setup.policy, now);
        match taken {
            Ok(_) => self.tried.remotes += u32::from(self.pairs.addresses() > known),
            Err(_) => self.tried.refused += 1,
        }
        taken.map(drop)
    }

    fn take_datagram(
        &mut self,
        pair: PairId,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), Ignored> {
        if self.state.is_over() {
            return Err(Ignored::Over);
        }
        let Setup { credentials, role, .. } = &self.setup;
        let message = check::parse(datagram, credentials.id, *role, &self.key)?;
        admissible(pair.remote, &self.setup.policy)?;
        if !std::mem::replace(&mut self.heard, true) && self.setup.hop_limit.take().is_some() {
            // The peer has begun: from now on openers are meant to arrive.
            self.round_at = now;
            for address in self.pairs.iter().map(|pair| pair.id.remote).collect::<Vec<_>>() {
                self.pairs.revive(address, now);
            }
        }
        match message {
            FromPeer::Check(check) => self.take_check(pair, check, now),
            FromPeer::Answer(answer) => self.take_answer(pair, answer, now),
        }
    }

    /// Answers a check of the peer, and checks the address that it came from if that is not proved.
    fn take_check(&mut self, id: PairId, check: Check, now: Instant) -> Result<(), Ignored> {
        self.tried.checks_received += 1;
        let in_use = self.path_pair();
        let is_new_address = !self.pairs.iter().any(|pair| pair.id.remote == id.remote);
        if self.pairs.heard(id, check.priority, in_use, now) {
            self.tried.remotes += u32::from(is_new_address);
            self.tried.peer_reflexive += 1;
        }
        let Some((pair, budget)) = self.pairs.get_with_budget(id) else {
            return Err(Ignored::OverBudget);
        };
        if !pair.spend_answer(budget) {
            return Err(Ignored::OverBudget);
        }
        let answer = Answer { transaction: check.transaction, seen: id.remote };
        let payload = answer.emit(self.setup.credentials.id, &self.key);
        self.tried.answers += 1;
        self.transmits.push_back(Transmit {
            local: id.local,
            to: id.remote,
            hop_limit: None,
            purpose: Purpose::Known,
            payload,
        });

        if check.wants_media && self.setup.role == Role::Broadcaster {
            self.take_media(id);
        }
        if let Some(nomination) = check.nomination.filter(|_| self.setup.role == Role::Broadcaster)
        {
            self.take_nomination(id, nomination, now);
        }
        if let Some(pair) = self.pairs.get_mut(id).filter(|pair| pair.proof.is_none()) {
            pair.trigger(now);
        }
        self.send_openers(now);
        Ok(())
    }

    /// Matches an answer to the check that it answers.
    fn take_answer(&mut self, id: PairId, answer: Answer, now: Instant) -> Result<(), Ignored> {
        let Answer { transaction, seen } = answer;
        let Some((pair, budget)) =
            self.pairs.get_with_budget(id).filter(|(pair, _)| pair.awaits(transaction))
        else {
            let is_elsewhere = self.pairs.iter().any(|pair| pair.awaits(transaction));
            return Err(if is_elsewhere {
                Ignored::WrongAddress
            } else {
                Ignored::UnknownTransaction
            });
        };
        let seen_before = pair.proof.map(|proof| proof.seen_as);
        pair.prove(transaction, seen, budget, now);
        if self.path_pair() == Some(id) {
            if let Some(path) = &mut self.path {
                path.answered(&self.setup.config, &mut self.rng, now);
            }
            self.state = State::Open;
            if seen_before.is_some_and(|before| before != seen) {
                self.events.push_back(Event::Remapped(seen));
                self.renominate(now);
            }
        } else if self.media_local == Some(id.local) {
            // Media's way is not the path.
        } else if self.media == Some(id) {
            self.take_media(id);
        } else {
            self.consider(id, now);
        }
        Ok(())
    }

    /// Media is wanted on this pair: it goes there once the peer's end is proved.
    fn take_media(&mut self, id: PairId) {
        let is_proved = self.pairs.get(id).is_some_and(|pair| pair.proof.is_some());
        let was_told = self.media == Some(id) && self.media_told;
        self.media = Some(id);
        self.media_told = is_proved;
        if is_proved && !was_told {
            self.events.push_back(Event::Media(id.remote));
        }
    }

    /// Sends the openers that are due.
    fn send_openers(&mut self, now: Instant) {
        let is_near = self.setup.hop_limit.is_some();
        for id in self.pairs.due(now) {
            let wanted = self.wants_opener(id, now);
            let Some((pair, budget)) = self.pairs.get_with_budget(id) else { continue };
            // What is not meant to arrive is sent slowly and for long, until the peer begins.
            if wanted && (is_near || pair.spend_opener(budget)) {
                if is_near {
                    pair.next_at = Some(now + NEAR_OPENER_INTERVAL);
                } else {
                    pair.schedule(now, &mut self.rng);
                }
                self.tried.openers += 1;
                self.send_check(id, now);
            } else {
                pair.next_at = None;
            }
        }
    }

    /// Whether openers in numbers may still lead to something better than there is.
    fn wants_scouts(&self) -> bool {
        let kind = self.path_pair().and_then(|pair| self.pairs.get(pair)).map(|pair| pair.kind);
        !self.state.is_over()
            && (self.state == State::Doubtful
                || kind.is_none_or(|kind| kind == CandidateKind::Relayed))
    }

    /// Sends the scouts that are due.
    fn send_scouts(&mut self, now: Instant) {
        if self.scouts.is_empty() {
            return;
        }
        if !self.wants_scouts() {
            self.scouts.clear();
            return;
        }
        let mut due = Vec::new();
        for scouts in &mut self.scouts {
            due.extend(std::iter::from_fn(|| scouts.poll(now)));
        }
        self.scouts.retain(|scouts| scouts.next_at().is_some());
        for id in due {
            if self.tried.scouts == SCOUTS_IN_TOTAL {
                self.scouts.clear();
                return;
            }
            self.tried.scouts += 1;
            let transaction = transaction_id(&mut self.rng);
            self.transmit_check(id, Purpose::Scout, transaction, None);
        }
    }

    /// Checks the path if a check is due, and the other proved addresses too if it is in doubt.
    pub(super) fn check_path(&mut self, now: Instant) {
        let rtt = self.rtt().unwrap_or_default();
        let Some(path) = self.path.as_mut().filter(|path| path.is_check_due(now)) else { return };
        let current = path.pair;
        let doubtful = path.is_doubtful();
        path.checked(&self.setup.config, rtt, now);
        self.send_check(current, now);
        // Media's own socket is checked with the path: that holds its binding, and shows a new one.
        let at_media =
            |pair: &&Pair| Some(pair.id.local) == self.media_local && pair.proof.is_some();
        let media: Vec<_> = self.pairs.iter().filter(at_media).map(|pair| pair.id).collect();
        media.into_iter().for_each(|id| self.send_check(id, now));
        if doubtful {
            self.state = State::Doubtful;
            if self.setup.role == Role::Viewer {
                let others = self.pairs.iter().filter(|pair| pair.proof.is_some());
                let others: Vec<_> = others.map(|pair| pair.id).collect();
                for other in others.into_iter().filter(|other| *other != current) {
                    self.send_check(other, now);
                }
            }
        }
    }

    fn send_check(&mut self, id: PairId, now: Instant) {
        let transaction = transaction_id(&mut self.rng);
        let nominates = self.setup.role == Role::Viewer && self.path_pair() == Some(id);
        let is_seen = |seen: SocketAddr| {
            household(canonical(seen).ip()) == household(canonical(id.remote).ip())
        };
        let where_seen = self.setup.seen.is_some_and(is_seen);
        if let Some(pair) = self.pairs.get_mut(id) {
            pair.sent(transaction, now);
            let purpose = match pair.proof {
                Some(_) => Purpose::Known,
                None if where_seen => Purpose::OpenerWhereSeen,
                None => Purpose::Opener,
            };
            let nomination = nominates.then_some(self.nomination);
            self.transmit_check(id, purpose, transaction, nomination);
        }
    }

    fn transmit_check(
        &mut self,
        id: PairId,
        purpose: Purpose,
        transaction: crate::stun::TransactionId,
        nomination: Option<u32>,
    ) {
        let is_relayed = self.pairs.way(id.local).is_some_and(|way| way.is_relay);
        let kind = if is_relayed { CandidateKind::Relayed } else { CandidateKind::Reflexive };
        let check = Check {
            transaction,
            sender: self.setup.role,
            priority: Candidate::new(id.remote, kind).priority(),
            nomination,
            wants_media: self.media_local == Some(id.local),
        };
        let payload = check.emit(self.setup.credentials.id, &self.key);
        let hop_limit = self.setup.hop_limit;
        let PairId { local, remote: to } = id;
        self.transmits.push_back(Transmit { local, to, hop_limit, purpose, payload });
    }

    /// Nothing is proved, sent or waited for any more.
    fn end(&mut self, state: State, event: Event) {
        self.state = state;
        self.path = None;
        self.pairs.clear();
        self.scouts.clear();
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
            .field("path", &self.path_pair())
            .finish_non_exhaustive()
    }
}
