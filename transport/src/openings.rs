//! Driving opening agents over the socket: one for each introduction. A path is entered for QUIC the
//! moment it is proved, before anybody is told: the peer's first word may follow at once.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use protocol::candidate::Candidate;
use protocol::opening::{
    Agent, Event, IntroductionId, Local, NotRenewed, PairId, Renewal, Scouting, Setup, State,
    Transmit, Tried, username_of,
};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use crate::paths::{Paths, Peer, Standing};
use crate::ways::Ways;

/// How long QUIC can still reach a peer whose opening ended: for the last words on both sides.
const LINGER: Duration = Duration::from_secs(2);

/// All agents of a process.
#[derive(Debug)]
pub struct Openings {
    ways: Arc<Ways>,
    paths: Arc<Paths>,
    agents: DashMap<IntroductionId, Arc<Driven>>,
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
    agent: Mutex<Agent>,
    peer: Peer,
    /// The agent's next timeout may have changed.
    changed: Notify,
    events: mpsc::UnboundedSender<Event>,
    /// Changes with each event.
    turns: watch::Sender<()>,
}

/// One introduction being opened and kept open. Dropping it ends the agent.
#[derive(Debug)]
pub struct Opening {
    handle: Handle,
    events: mpsc::UnboundedReceiver<Event>,
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
            searches: Arc::new(Semaphore::new(MOST_SEARCHES)),
        })
    }

    /// Begins to open. Must be called within a tokio runtime.
    pub fn start(self: &Arc<Self>, setup: Setup) -> Opening {
        let id = setup.credentials.id;
        let agent = Agent::new(setup, &mut rand::rng(), Instant::now());
        let (sender, events) = mpsc::unbounded_channel();
        let driven = Arc::new(Driven {
            agent: Mutex::new(agent),
            peer: self.paths.new_peer(),
            changed: Notify::new(),
            events: sender,
            turns: watch::Sender::new(()),
        });
        self.agents.insert(id, Arc::clone(&driven));
        self.drain(&driven, &mut driven.lock());
        let timer = tokio::spawn(run_timer(Arc::clone(&driven), Arc::clone(self)));
        Opening { handle: Handle { id, driven, openings: Arc::clone(self) }, events, timer }
    }

    /// Hands a STUN datagram to the agent that it names. False where there is none.
    pub fn handle(&self, local: Local, from: SocketAddr, datagram: &[u8]) -> bool {
        let Some(id) = username_of(datagram) else { return false };
        let Some(driven) = self.agents.get(&id).map(|entry| Arc::clone(&entry)) else {
            return false;
        };
        let mut agent = driven.lock();
        let handled = agent.handle_datagram(local, from, datagram, Instant::now());
        tracing::trace!(introduction = %id, ?local, %from, ?handled, "opening packet");
        self.drain(&driven, &mut agent);
        drop(agent);
        driven.changed.notify_one();
        true
    }

    fn drain(&self, driven: &Driven, agent: &mut Agent) {
        while let Some(transmit) = agent.poll_transmit() {
            let Transmit { local, to, hop_limit, payload } = transmit;
            if let Err(error) = self.ways.send(local, &payload, to, hop_limit) {
                // As if the network had lost it; the agent repeats what matters.
                tracing::debug!(%error, %to, "opening packet not sent");
            }
        }
        while let Some(event) = agent.poll_event() {
            if let Event::Opened(path) | Event::Moved(path) = &event {
                self.paths.set(driven.peer, path.local, path.remote);
            }
            // An error means that nobody listens any more.
            let _ = driven.events.send(event);
            driven.turns.send_replace(());
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
        self.events.recv().await
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
        let mut turns = self.driven.turns.subscribe();
        loop {
            {
                let agent = self.driven.lock();
                if agent.is_direct() || agent.state().is_over() {
                    return;
                }
            }
            if turns.changed().await.is_err() {
                return;
            }
        }
    }

    pub(crate) fn openings(&self) -> &Arc<Openings> {
        &self.openings
    }

    /// Does something with the agent, and what follows from it.
    fn drive<R>(&self, action: impl FnOnce(&mut Agent, Instant) -> R) -> R {
        let mut agent = self.driven.lock();
        let result = action(&mut agent, Instant::now());
        self.openings.drain(&self.driven, &mut agent);
        drop(agent);
        self.driven.changed.notify_one();
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
    fn lock(&self) -> MutexGuard<'_, Agent> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run_timer(driven: Arc<Driven>, openings: Arc<Openings>) {
    loop {
        let due = driven.lock().poll_timeout();
        let Some((at, _)) = due else { return };
        tokio::select! {
            () = tokio::time::sleep_until(at.into()) => {
                let mut agent = driven.lock();
                agent.handle_timeout(Instant::now());
                openings.drain(&driven, &mut agent);
            }
            () = driven.changed.notified() => {}
        }
    }
}
