//! Driving opening agents over the socket: one for each introduction. A path is entered for QUIC the
//! moment it is proved, before anybody is told: the peer's first word may follow at once.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use protocol::candidate::Candidate;
use protocol::opening::{
    Agent, Event, IntroductionId, Local, NotRenewed, PairId, Reason, Renewal, Scouting, Setup,
    State, Transmit, Tried, username_of,
};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use crate::destinations::Destinations;
use crate::paths::{Paths, Peer, Standing};
use crate::ways::Ways;

/// How long QUIC can still reach a peer whose opening ended: for the last words on both sides.
const LINGER: Duration = Duration::from_secs(2);

/// Checks that nothing presses are made in turns, this far apart.
const TURN: Duration = Duration::from_millis(250);

/// All agents of a process.
#[derive(Debug)]
pub struct Openings {
    ways: Arc<Ways>,
    paths: Arc<Paths>,
    agents: DashMap<IntroductionId, Arc<Driven>>,
    destinations: Destinations,
    began_at: Instant,
    /// Many-ports searches that may go on.
    pub(crate) searches: Arc<Semaphore>,
}

/// Many-ports searches of a process at once: each leaves up to [`SEARCHED_PORTS`] entries in the
/// own router's table, for half a minute or so. Other viewers wait, and watch by way of a relay
/// meanwhile.
///
/// [`SEARCHED_PORTS`]: protocol::opening::SEARCHED_PORTS
pub const MOST_SEARCHES: usize = 4;

#[derive(Debug)]
struct Driven {
    core: Mutex<Core>,
    peer: Peer,
    /// The agent's next timeout is sooner than its timer thinks.
    sooner: Notify,
    /// There is an event.
    told: Notify,
    /// Tells everybody of each event.
    turned: Notify,
}

/// An agent with what is known beside it.
#[derive(Debug)]
struct Core {
    agent: Agent,
    /// Not taken yet.
    events: VecDeque<Event>,
    /// When the timer wakes.
    wakes_at: Option<Instant>,
}

impl Core {
    /// When the timer must wake. `began_at` is what turns count from.
    fn due_at(&self, began_at: Instant) -> Option<Instant> {
        let (at, reason) = self.agent.poll_timeout()?;
        let is_unhurried = reason == Reason::Check && self.agent.is_unhurried();
        Some(if is_unhurried { next_turn(began_at, at) } else { at })
    }
}

/// This time or a little later: the same for many agents, so that one wake-up serves them all.
fn next_turn(began_at: Instant, at: Instant) -> Instant {
    let since = at.saturating_duration_since(began_at).as_millis();
    began_at + TURN * u32::try_from(since.div_ceil(TURN.as_millis())).unwrap_or(u32::MAX)
}

impl std::ops::Deref for Core {
    type Target = Agent;

    fn deref(&self) -> &Agent {
        &self.agent
    }
}

impl std::ops::DerefMut for Core {
    fn deref_mut(&mut self) -> &mut Agent {
        &mut self.agent
    }
}

/// One introduction being opened and kept open. Dropping it ends the agent.
#[derive(Debug)]
pub struct Opening {
    handle: Handle,
    timer: JoinHandle<()>,
}

/// What can be done with an opening from anywhere. Holding one does not keep it going.
#[derive(Debug, Clone)]
pub struct Handle {
    id: IntroductionId,
    driven: Arc<Driven>,
    openings: Arc<Openings>,
}

impl Openings {
    /// A driver on these ways out.
    pub fn new(ways: Arc<Ways>, paths: Arc<Paths>) -> Arc<Self> {
        Arc::new(Self {
            ways,
            paths,
            agents: DashMap::new(),
            destinations: Destinations::default(),
            began_at: Instant::now(),
            searches: Arc::new(Semaphore::new(MOST_SEARCHES)),
        })
    }

    /// Begins to open. Must be called within a tokio runtime.
    pub fn start(self: &Arc<Self>, setup: Setup) -> Opening {
        let id = setup.credentials.id;
        let agent = Agent::new(setup, &mut rand::rng(), Instant::now());
        let driven = Arc::new(Driven {
            core: Mutex::new(Core { agent, events: VecDeque::new(), wakes_at: None }),
            peer: self.paths.new_peer(),
            sooner: Notify::new(),
            told: Notify::new(),
            turned: Notify::new(),
        });
        self.agents.insert(id, Arc::clone(&driven));
        self.drain(&driven, &mut driven.lock());
        let timer = tokio::spawn(run_timer(Arc::clone(&driven), Arc::clone(self)));
        Opening { handle: Handle { id, driven, openings: Arc::clone(self) }, timer }
    }

    /// Hands a STUN datagram to the agent that it names. False where there is none.
    pub fn handle(&self, local: Local, from: SocketAddr, datagram: &[u8]) -> bool {
        let Some(id) = username_of(datagram) else { return false };
        let Some(driven) = self.agents.get(&id).map(|entry| Arc::clone(&entry)) else {
            return false;
        };
        let mut core = driven.lock();
        let handled = core.handle_datagram(local, from, datagram, Instant::now());
        tracing::trace!(introduction = %id, ?local, %from, ?handled, "opening packet");
        self.drain(&driven, &mut core);
        true
    }

    /// Does what the agent wants done.
    fn drain(&self, driven: &Driven, core: &mut Core) {
        while let Some(transmit) = core.poll_transmit() {
            let Transmit { local, to, hop_limit, purpose, payload } = transmit;
            if !self.destinations.may_send(to, purpose, Instant::now()) {
                // As if the network had lost it.
                tracing::debug!(%to, "opening packet not sent: too many went there, and nobody answers");
            } else if let Err(error) = self.ways.send(local, &payload, to, hop_limit) {
                // As if the network had lost it; the agent repeats what matters.
                tracing::debug!(%error, %to, "opening packet not sent");
            }
        }
        while let Some(event) = core.poll_event() {
            if let Event::Opened(path) | Event::Moved(path) = &event {
                self.paths.set(driven.peer, path.local, path.remote);
                self.destinations.answered(path.remote, Instant::now());
            }
            core.events.push_back(event);
            driven.told.notify_one();
            driven.turned.notify_waiters();
        }
        let is_sooner = match core.due_at(self.began_at) {
            Some(due_at) => core.wakes_at.is_none_or(|wakes_at| due_at < wakes_at),
            // The timer ends.
            None => true,
        };
        if is_sooner {
            driven.sooner.notify_one();
        }
    }

    pub(crate) fn ways(&self) -> &Arc<Ways> {
        &self.ways
    }

    /// How many agents there are.
    pub fn len(&self) -> usize {
        self.agents.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }
}

impl Opening {
    /// What happens next; `None` when the agent is over and all was told.
    pub async fn event(&mut self) -> Option<Event> {
        let driven = &self.handle.driven;
        loop {
            {
                let mut core = driven.lock();
                if let Some(event) = core.events.pop_front() {
                    return Some(event);
                }
                // Few come after the first.
                core.events.shrink_to_fit();
                if core.state().is_over() {
                    return None;
                }
            }
            driven.told.notified().await;
        }
    }

    /// What can be done with it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl std::ops::Deref for Opening {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Handle {
    /// Which introduction this is.
    pub fn id(&self) -> IntroductionId {
        self.id
    }

    /// The peer at the path's other end, as QUIC sees it.
    pub fn peer(&self) -> Peer {
        self.driven.peer
    }

    /// Sends a datagram to the peer, on the path as it is now. What the kernel has no room for is lost.
    ///
    /// # Errors
    ///
    /// Where there is no path, or its socket fails.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let path = self.openings.paths.outbound(self.driven.peer.address());
        let (local, to) = path.ok_or(io::ErrorKind::NotConnected)?;
        self.openings.ways.send(local, datagram, to, None)
    }

    /// What an address is to the peer.
    pub fn standing(&self, from: SocketAddr) -> Option<Standing> {
        self.openings.paths.standing(from, self.driven.peer)
    }

    /// The peer said something authentic on this path: its consent goes on.
    pub fn authenticated(&self) {
        self.driven.lock().handle_authenticated(Instant::now());
    }

    /// The path is checked at once rather than at its next turn.
    pub fn check_now(&self) {
        self.drive(|agent, now| agent.check_now(now));
    }

    /// Media stalls: see [`Agent::doubt`].
    pub fn doubt(&self) {
        self.drive(|agent, now| agent.doubt(now));
    }

    /// See [`Agent::shorten_checks`].
    pub fn shorten_checks(&self) {
        self.drive(|agent, _| agent.shorten_checks());
    }

    /// One more candidate of the peer; see [`Agent::add_remote`].
    pub fn add_remote(&self, candidate: Candidate) {
        self.drive(|agent, now| {
            if let Err(reason) = agent.add_remote(candidate, now) {
                tracing::debug!(%candidate, %reason, "candidate not used");
            }
        });
    }

    /// One more way out; see [`Agent::add_local`].
    pub fn add_local(&self, local: Local, is_relay: bool, told: Vec<Candidate>) {
        self.drive(|agent, now| agent.add_local(local, is_relay, told, now));
    }

    /// A socket that media is wanted at; see [`Agent::add_media_local`].
    pub fn add_media_local(&self, local: Local, told: Vec<Candidate>) {
        self.drive(|agent, now| agent.add_media_local(local, told, now));
    }

    /// One way out less; see [`Agent::remove_local`].
    pub fn remove_local(&self, local: Local) {
        self.drive(|agent, _| agent.remove_local(local));
    }

    /// Candidates that the peer is told later; see [`Agent::told`].
    pub fn told(&self, local: Local, candidates: &[Candidate]) {
        self.drive(|agent, _| agent.told(local, candidates));
    }

    /// Openers in numbers; see [`Agent::scout`].
    pub fn scout(&self, plan: Scouting) -> usize {
        self.drive(|agent, now| agent.scout(plan, now))
    }

    /// A new round on the same introduction; see [`Agent::renew`].
    pub fn renew(&self, renewal: Renewal) -> Result<(), NotRenewed> {
        self.drive(|agent, now| agent.renew(renewal, now))
    }

    /// Both ends of the path, if there is one.
    pub fn path_pair(&self) -> Option<PairId> {
        self.driven.lock().path_pair()
    }

    /// Ports that the peer predicts of itself; see [`Agent::predicted`].
    pub fn predicted(&self, candidates: &[Candidate]) {
        self.drive(|agent, now| agent.predicted(candidates, now));
    }

    /// Whether there is a path that needs no relay, and is not in doubt.
    pub fn is_direct(&self) -> bool {
        self.driven.lock().is_direct()
    }

    /// Resolves once [`Self::is_direct`], or the opening is over.
    pub async fn direct(&self) {
        loop {
            let mut turned = std::pin::pin!(self.driven.turned.notified());
            // An event between the look and the wait counts.
            turned.as_mut().enable();
            {
                let core = self.driven.lock();
                if core.is_direct() || core.state().is_over() {
                    return;
                }
            }
            turned.await;
        }
    }

    pub(crate) fn openings(&self) -> &Arc<Openings> {
        &self.openings
    }

    /// Does something with the agent, and what follows from it.
    fn drive<R>(&self, action: impl FnOnce(&mut Agent, Instant) -> R) -> R {
        let mut core = self.driven.lock();
        let result = action(&mut core, Instant::now());
        self.openings.drain(&self.driven, &mut core);
        result
    }

    /// Round-trip time of the last check of the path.
    pub fn rtt(&self) -> Option<Duration> {
        self.driven.lock().rtt()
    }

    /// What the agent is doing.
    pub fn state(&self) -> State {
        self.driven.lock().state()
    }

    /// What was tried so far.
    pub fn tried(&self) -> Tried {
        self.driven.lock().tried()
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.timer.abort();
        let Handle { id, driven, openings } = &self.handle;
        openings.agents.remove_if(id, |_, known| Arc::ptr_eq(known, driven));
        let (paths, peer) = (Arc::clone(&openings.paths), driven.peer);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    tokio::time::sleep(LINGER).await;
                    paths.remove(peer);
                });
            }
            Err(_) => paths.remove(peer),
        }
    }
}

impl Driven {
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run_timer(driven: Arc<Driven>, openings: Arc<Openings>) {
    loop {
        let due = {
            let mut core = driven.lock();
            let due = core.due_at(openings.began_at);
            core.wakes_at = due;
            due
        };
        let Some(at) = due else { return };
        tokio::select! {
            () = tokio::time::sleep_until(at.into()) => {
                let mut core = driven.lock();
                core.handle_timeout(Instant::now());
                openings.drain(&driven, &mut core);
            }
            () = driven.sooner.notified() => {}
        }
    }
}
