//! Driving opening agents over the socket: one for each introduction. A path is entered for QUIC the
//! moment it is proved, before anybody is told: the peer's first word may follow at once.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use protocol::opening::{Agent, Event, IntroductionId, Setup, State, Tried, username_of};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::paths::{Paths, Peer};
use crate::socket::Socket;

/// How long QUIC can still reach a peer whose opening ended: for the last words on both sides.
const LINGER: Duration = Duration::from_secs(2);

/// All agents of a process.
#[derive(Debug)]
pub struct Openings {
    socket: Arc<Socket>,
    paths: Arc<Paths>,
    agents: DashMap<IntroductionId, Arc<Driven>>,
}

#[derive(Debug)]
struct Driven {
    agent: Mutex<Agent>,
    peer: Peer,
    /// The agent's next timeout may have changed.
    changed: Notify,
    events: mpsc::UnboundedSender<Event>,
}

/// One introduction being opened and kept open. Dropping it ends the agent.
#[derive(Debug)]
pub struct Opening {
    id: IntroductionId,
    events: mpsc::UnboundedReceiver<Event>,
    driven: Arc<Driven>,
    openings: Arc<Openings>,
    timer: JoinHandle<()>,
}

impl Openings {
    /// A driver on this socket.
    pub fn new(socket: Arc<Socket>, paths: Arc<Paths>) -> Arc<Self> {
        Arc::new(Self { socket, paths, agents: DashMap::new() })
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
        });
        self.agents.insert(id, Arc::clone(&driven));
        self.drain(&driven, &mut driven.lock());
        let timer = tokio::spawn(run_timer(Arc::clone(&driven), Arc::clone(self)));
        Opening { id, events, driven, openings: Arc::clone(self), timer }
    }

    /// Hands a STUN datagram to the agent that it names. False where there is none.
    pub fn handle(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        let Some(id) = username_of(datagram) else { return false };
        let Some(driven) = self.agents.get(&id).map(|entry| Arc::clone(&entry)) else {
            return false;
        };
        let mut agent = driven.lock();
        let handled = agent.handle_datagram(from, datagram, Instant::now());
        tracing::trace!(introduction = %id, %from, ?handled, "opening packet");
        self.drain(&driven, &mut agent);
        drop(agent);
        driven.changed.notify_one();
        true
    }

    fn drain(&self, driven: &Driven, agent: &mut Agent) {
        while let Some(transmit) = agent.poll_transmit() {
            if let Err(error) = self.socket.try_send_to(&transmit.payload, transmit.to) {
                // As if the network had lost it; the agent repeats what matters.
                tracing::debug!(%error, to = %transmit.to, "opening packet not sent");
            }
        }
        while let Some(event) = agent.poll_event() {
            if let Event::Opened(path) | Event::Moved(path) = &event {
                self.paths.set(driven.peer, path.remote);
            }
            // An error means that nobody listens any more.
            let _ = driven.events.send(event);
        }
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
    /// Which introduction this is.
    pub fn id(&self) -> IntroductionId {
        self.id
    }

    /// The peer at the path's other end, as QUIC sees it.
    pub fn peer(&self) -> Peer {
        self.driven.peer
    }

    /// What happens next; `None` when the agent is over and all was told.
    pub async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The peer said something authentic on this path: its consent goes on.
    pub fn authenticated(&self) {
        self.driven.lock().handle_authenticated(Instant::now());
    }

    /// Media stalls: the path is checked at once rather than at its next turn.
    pub fn check_now(&self) {
        let mut agent = self.driven.lock();
        agent.check_now(Instant::now());
        self.openings.drain(&self.driven, &mut agent);
        drop(agent);
        self.driven.changed.notify_one();
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
        self.openings.agents.remove_if(&self.id, |_, driven| Arc::ptr_eq(driven, &self.driven));
        let (paths, peer) = (Arc::clone(&self.openings.paths), self.driven.peer);
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
