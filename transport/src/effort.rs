//! What is done for one introduction beside sending openers to known addresses: predicting ports,
//! trying both sides' sequences together, and searching many ports, as the
//! [`plan`] says; and passing on what the peer tells meanwhile.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::address::{Policy, Surroundings};
use protocol::behaviour::{Behaviour, Ports};
use protocol::candidate::{Candidate, CandidateKind};
use protocol::opening::{
    ATTEMPT_TIME, ATTEMPTS, Config, Credentials, FORECAST_TIME, IntroductionId, Local, PairId,
    Plan, Renewal, Role, SEARCH_AFTER, SEARCH_SOCKETS, SEARCHED_PORTS, Scouting, Search, Setup,
    TOGETHER, plan, searched_ports, window,
};
use protocol::signalling::{Forecast, Introduction, Update};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinHandle;

use crate::openings::{Handle, Opening, Openings};
use crate::port::Port;
use crate::sample::sample;

/// How long the sockets of a search stay open: the other side may have searches in front of this one.
const SEARCH_TIME: Duration = Duration::from_secs(10);

/// How long the side that tries the ports takes for it: all of them, and the last answer. The next
/// search may begin then.
const PROBING_TIME: Duration = Duration::from_millis(SEARCHED_PORTS as u64 * 2 + 600);

/// Through our own router, and not as far as another one.
const NEAR: u8 = 2;

/// Words of the peer and renewals that may wait.
const MOST_WORDS: usize = 32;

/// What reaches an effort from outside.
#[derive(Debug)]
pub enum Word {
    /// The peer tells something more.
    Update(Update),
    /// A rendezvous introduced the two again.
    Renewal {
        /// What it says.
        introduction: Box<Introduction>,
        /// Where it is.
        server: SocketAddr,
        /// Updates for the peer by it.
        updates: mpsc::Sender<(IntroductionId, Update)>,
    },
}

/// Where words for an effort go. It takes no memory while nothing waits, which is nearly always.
#[derive(Debug, Clone, Default)]
pub struct Words(Arc<Inbox>);

#[derive(Debug, Default)]
struct Inbox {
    waiting: Mutex<VecDeque<Word>>,
    came: Notify,
}

impl Words {
    /// Passes on a word. False where too much waits.
    pub fn tell(&self, word: Word) -> bool {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = waiting.len() < MOST_WORDS;
        if has_room {
            waiting.push_back(word);
            drop(waiting);
            self.0.came.notify_one();
        }
        has_room
    }

    async fn next(&self) -> Word {
        loop {
            {
                let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(word) = waiting.pop_front() {
                    return word;
                }
                *waiting = VecDeque::new();
            }
            self.0.came.notified().await;
        }
    }
}

/// What an effort works with.
#[derive(Clone)]
pub struct Means {
    /// Ours.
    pub port: Arc<Port>,
    /// Which side we are.
    pub role: Role,
    /// What our own NAT does.
    pub own: Behaviour,
    /// The rendezvous, which tells how it sees our sockets.
    pub server: SocketAddr,
    /// Private addresses are used in other networks too.
    pub allow_private: bool,
    /// Updates for the peer.
    pub updates: mpsc::Sender<(IntroductionId, Update)>,
}

/// An effort under way. Dropping it ends it.
#[derive(Debug)]
pub struct Effort {
    words: Words,
    task: JoinHandle<()>,
}

impl Drop for Effort {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Effort {
    /// Begins to open a path as the introduction says, and does all that the plan holds beside it.
    /// `told` are the candidates that the peer knows of us. `None` for an introduction without a
    /// secret: a renewal of something unknown.
    pub fn start(
        means: Means,
        openings: &Arc<Openings>,
        introduction: &Introduction,
        told: Vec<Candidate>,
        config: Config,
    ) -> Option<(Opening, Self)> {
        let secret = introduction.secret?;
        let plan = plan(means.role, &means.own, &introduction.peer.behaviour);
        let setup = Setup {
            role: means.role,
            credentials: Credentials { id: introduction.id, secret },
            local: told.into_iter().chain([introduction.observed]).collect(),
            remote: introduction.remote(),
            seen: Some(introduction.peer_observed.address),
            policy: policy(introduction, &means),
            holds: plan.forecasts,
            hop_limit: hop_limit(&means.own, &introduction.peer.behaviour),
            config,
        };
        let (opening, window) = means.bracketed(&plan, || openings.start(setup));
        let words = Words::default();
        let worker = Worker {
            handle: opening.handle().clone(),
            peer: introduction.peer_observed.address,
            plan,
            forecasts: watch::Sender::new(None),
            probing: None,
            means,
        };
        let task = tokio::spawn(worker.run(words.clone(), window));
        Some((opening, Self { words, task }))
    }

    /// Where words for it go.
    pub fn words(&self) -> Words {
        self.words.clone()
    }
}

/// A peer's router that takes unsolicited packets for itself must not see ours before the peer's own
/// openers left: a port once taken spoils the peer's mapping towards everybody, for minutes. Not on
/// both sides, or neither would ever be heard.
fn hop_limit(own: &Behaviour, peer: &Behaviour) -> Option<u8> {
    let spares = peer.takes_unsolicited == Some(true) && own.takes_unsolicited != Some(true);
    spares.then_some(NEAR)
}

/// Which addresses may be sent to for an introduction.
fn policy(introduction: &Introduction, means: &Means) -> Policy {
    Policy::for_introduction(Surroundings {
        rendezvous: means.server.ip(),
        own_reflexive: &[introduction.observed.address.ip()],
        peer_reflexive: &[introduction.peer_observed.address.ip()],
        allow_private: means.allow_private,
    })
}

type Window = Pin<Box<dyn Future<Output = Vec<Candidate>> + Send>>;

impl Means {
    /// Does `begin`, which sends openers, between two looks at our router's sequence of ports, if the
    /// plan is to predict: the openers' mapping lies between the two.
    fn bracketed<R>(&self, plan: &Plan, begin: impl FnOnce() -> R) -> (R, Option<Window>) {
        let Some(Ports::Sequential { step }) = self.own.ports.filter(|_| plan.predicts) else {
            return (begin(), None);
        };
        let before = sample(self.server);
        let result = begin();
        let after = sample(self.server);
        let window: Window = Box::pin(async move {
            let (Ok(before), Ok(after)) = (before, after) else { return Vec::new() };
            let (Some(before), after) = tokio::join!(before, after) else { return Vec::new() };
            let after = after.map(|after| after.port());
            let ports = window(before.port(), after, step);
            let candidate =
                |port| Candidate::new(SocketAddr::new(before.ip(), port), CandidateKind::Predicted);
            ports.into_iter().map(candidate).collect()
        });
        (result, Some(window))
    }
}

struct Worker {
    means: Means,
    handle: Handle,
    /// Where the rendezvous sees the peer.
    peer: SocketAddr,
    plan: Plan,
    forecasts: watch::Sender<Option<Forecast>>,
    /// Our part of a search that the peer asked for; one at a time.
    probing: Option<JoinHandle<()>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(probing) = &self.probing {
            probing.abort();
        }
    }
}

impl Worker {
    async fn run(mut self, inbox: Words, window: Option<Window>) {
        let mut stage = self.stage(window);
        loop {
            tokio::select! {
                word = inbox.next() => match word {
                    Word::Update(update) => self.take(update),
                    Word::Renewal { introduction, server, updates } => {
                        self.means.server = server;
                        self.means.updates = updates;
                        if let Some(next) = self.renew(&introduction) {
                            stage = next;
                        }
                    }
                },
                () = &mut stage => stage = Box::pin(std::future::pending()),
            }
        }
    }

    /// Begins again with what the rendezvous says now.
    fn renew(&mut self, introduction: &Introduction) -> Option<Stage> {
        let Self { means, handle, .. } = self;
        let plan = plan(means.role, &means.own, &introduction.peer.behaviour);
        let renewal = Renewal {
            remote: introduction.remote(),
            seen: Some(introduction.peer_observed.address),
            policy: policy(introduction, means),
            holds: plan.forecasts,
        };
        let (renewed, window) = means.bracketed(&plan, || handle.renew(renewal));
        if let Err(reason) = renewed {
            tracing::debug!(introduction = %handle.id(), %reason, "not renewed");
            return None;
        }
        handle.told(Local::MAIN, &[introduction.observed]);
        handle.check_now();
        tracing::debug!(introduction = %handle.id(), peer = %introduction.peer_observed.address, "renewed");
        self.peer = introduction.peer_observed.address;
        self.plan = plan;
        self.forecasts.send_replace(None);
        Some(self.stage(window))
    }

    /// Takes what the peer tells.
    fn take(&mut self, update: Update) {
        let (predicted, others): (Vec<Candidate>, Vec<Candidate>) = update
            .candidates
            .into_iter()
            .partition(|candidate| candidate.kind == CandidateKind::Predicted);
        if !predicted.is_empty() {
            self.handle.predicted(&predicted);
        }
        others.into_iter().for_each(|candidate| self.handle.add_remote(candidate));
        if let Some(forecast) = update.forecast {
            self.forecasts.send_replace(Some(forecast));
        }
        let is_probing = self.probing.as_ref().is_some_and(|probing| !probing.is_finished());
        if update.sockets.is_some_and(|sockets| sockets > 0) && !is_probing {
            let (handle, peer) = (self.handle.clone(), self.peer);
            self.probing = Some(tokio::spawn(probe_ports(handle, peer)));
        }
    }

    /// The rest of the plan.
    fn stage(&self, window: Option<Window>) -> Stage {
        let (means, handle, peer) = (self.means.clone(), self.handle.clone(), self.peer);
        if let Some(window) = window {
            return Box::pin(async move {
                let candidates = window.await;
                if !candidates.is_empty() {
                    handle.told(Local::MAIN, &candidates);
                    let update = Update { candidates, ..Update::default() };
                    let _ = means.updates.send((handle.id(), update)).await;
                }
            });
        }
        if self.plan.forecasts {
            let forecasts = self.forecasts.subscribe();
            return Box::pin(try_together(means, handle, peer, forecasts));
        }
        if self.plan.search == Some(Search::OpensSockets) {
            return Box::pin(open_sockets(means, handle, peer));
        }
        // The other part of a search begins when the peer says that its sockets are open.
        Box::pin(std::future::pending())
    }
}

type Stage = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Both routers choose ports in sequence: both sides tell each other where theirs stands, and send at
/// once to where the other's next mapping will be, which thereby is where it was told to be.
async fn try_together(
    means: Means,
    handle: Handle,
    peer: SocketAddr,
    mut forecasts: watch::Receiver<Option<Forecast>>,
) {
    let Some(Ports::Sequential { step }) = means.own.ports else { return };
    let mut attempt = 0;
    while attempt < ATTEMPTS && !handle.is_direct() {
        let Ok(sampling) = sample(means.server) else { return };
        let Some(now_at) = sampling.await else { continue };
        let own = Forecast { attempt, next: now_at.port().wrapping_add_signed(step), step };
        let update = Update { forecast: Some(own), ..Update::default() };
        if means.updates.send((handle.id(), update)).await.is_err() {
            return;
        }
        let wanted = |forecast: &Option<Forecast>| forecast.is_some_and(|f| f.attempt >= attempt);
        let found = tokio::time::timeout(FORECAST_TIME, forecasts.wait_for(wanted)).await;
        let Ok(Ok(theirs)) = found.map(|found| found.map(|theirs| *theirs)) else {
            attempt += 1;
            continue;
        };
        let Some(theirs) = theirs else { continue };
        if theirs.attempt > attempt {
            // The peer is a try ahead: what it sent to our last forecast is gone.
            attempt = theirs.attempt;
            continue;
        }
        let seen = |ip, forecast: &Forecast, ahead| {
            let address = SocketAddr::new(ip, forecast.port(ahead));
            Candidate::new(address, CandidateKind::Predicted)
        };
        let ours: Vec<_> = (0..TOGETHER).map(|ahead| seen(now_at.ip(), &own, ahead)).collect();
        handle.told(Local::MAIN, &ours);
        let targets: Vec<_> = (0..TOGETHER).map(|ahead| seen(peer.ip(), &theirs, ahead)).collect();
        handle.predicted(&targets);
        let _ = tokio::time::timeout(ATTEMPT_TIME, handle.direct()).await;
        attempt += 1;
    }
}

/// Our part of a search with random ports on our side: many sockets, each of which our router gives a
/// port of its own towards the peer. The one that the peer finds becomes the path's.
async fn open_sockets(means: Means, handle: Handle, peer: SocketAddr) {
    if tokio::time::timeout(SEARCH_AFTER, handle.direct()).await.is_ok() {
        return;
    }
    let Some(_permit) = search_permit(&handle).await else { return };
    let mut sockets = Sockets { handle: handle.clone(), list: Vec::new() };
    for _ in 0..SEARCH_SOCKETS {
        match means.port.add_socket(0) {
            Ok(local) => sockets.list.push(local),
            Err(error) => {
                tracing::debug!(%error, opened = sockets.list.len(), "no more sockets");
                break;
            }
        }
    }
    let target = |&local: &Local| PairId { local, remote: peer };
    let targets: Vec<_> = sockets.list.iter().map(target).collect();
    // Twice, for loss; then the mappings last for half a minute without traffic.
    let plan = Scouting { gaps: vec![Duration::from_millis(100)], ..Scouting::search(targets) };
    let plan = Scouting { interval: Duration::from_micros(500), ..plan };
    if handle.scout(plan) == 0 {
        return;
    }
    tracing::debug!(introduction = %handle.id(), sockets = sockets.list.len(), "searching");
    let update = Update { sockets: Some(sockets.list.len() as u16), ..Update::default() };
    if means.updates.send((handle.id(), update)).await.is_ok() {
        let _ = tokio::time::timeout(SEARCH_TIME, handle.direct()).await;
    }
}

/// The peer's part: openers to random ports of the address that the rendezvous saw.
async fn probe_ports(handle: Handle, peer: SocketAddr) {
    let Some(_permit) = search_permit(&handle).await else { return };
    let targets: Vec<PairId> = {
        let ports = searched_ports(SEARCHED_PORTS, &mut rand::rng());
        let target = |port| PairId { local: Local::MAIN, remote: SocketAddr::new(peer.ip(), port) };
        ports.into_iter().map(target).collect()
    };
    let taken = handle.scout(Scouting::search(targets));
    tracing::debug!(introduction = %handle.id(), ports = taken, "searching");
    if taken > 0 {
        let _ = tokio::time::timeout(PROBING_TIME, handle.direct()).await;
    }
}

/// Waits until one more search may go on; `None` when there is a direct path by then.
async fn search_permit(handle: &Handle) -> Option<OwnedSemaphorePermit> {
    let searches = Arc::clone(&handle.openings().searches);
    tokio::select! {
        permit = searches.acquire_owned() => permit.ok(),
        () = handle.direct() => None,
    }
}

/// The sockets of a search: all but the one that was found go with it.
struct Sockets {
    handle: Handle,
    list: Vec<Local>,
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let used = self.handle.path_pair().map(|pair| pair.local);
        let ways = self.handle.openings().ways();
        self.list
            .iter()
            .filter(|local| Some(**local) != used)
            .for_each(|local| ways.remove(*local));
    }
}
