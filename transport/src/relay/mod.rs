//! Being reached through a TURN relay (RFC 8656), from a socket of its own.
//!
//! An [`Allocation`] asks the relay for a relayed address, and keeps it, its permissions and its channels
//! alive from a task of its own. Datagrams that come from the relay's address are given to
//! [`Allocation::handle`] by whoever receives, before they are told apart by their first byte: TURN's
//! channels begin like QUIC. What it yields is a peer's datagram.

mod client;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::stun::{self, Writer};
use tokio::sync::{Notify, watch};

use crate::socket::Socket;
use client::{Client, Status};

/// How long a relay may take to give an address: a few transmissions, and what a user waits for.
const ALLOCATE_TIMEOUT: Duration = Duration::from_millis(2500);

/// After so long without a datagram to the relay one is sent, so that no NAT forgets the way back: half
/// the shortest UDP timeout that was found among home routers.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Shortest time between two looks at the timers.
const TICK: Duration = Duration::from_millis(1);

/// How long the relay is still talked to after an allocation was dropped: for two transmissions.
const RELEASE: Duration = Duration::from_millis(500);

/// A relay, and the credentials for it.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayAccess {
    /// Its UDP address.
    pub server: SocketAddr,
    /// Username of the long-term credential.
    pub username: String,
    /// Its password.
    pub password: String,
    /// IP version of the relayed address, which is that of the peers.
    pub family: RelayFamily,
}

/// IP version of a relayed address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl std::fmt::Debug for RelayAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayAccess")
            .field("server", &self.server)
            .field("username", &self.username)
            .field("family", &self.family)
            .finish_non_exhaustive()
    }
}

/// Why there is no relayed address, or none any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// No answer came in time.
    #[error("the relay at {server} does not answer")]
    NoAnswer {
        /// The relay.
        server: SocketAddr,
    },
    /// The relay said no: 401 for wrong or expired credentials, 486 for a quota, and so on (RFC 8656,
    /// section 19).
    #[error("the relay at {server} refused: {code} {reason}")]
    Refused {
        /// The relay.
        server: SocketAddr,
        /// Its error code.
        code: u16,
        /// Its words.
        reason: String,
    },
    /// There was a relayed address, and the relay knows it no more.
    #[error("the relay at {server} gave the relayed address up")]
    Lost {
        /// The relay.
        server: SocketAddr,
    },
}

/// One allocation. Dropping it frees the relayed address, without waiting for the relay.
#[derive(Debug)]
pub struct Allocation {
    shared: Arc<Shared>,
    status: watch::Receiver<Status>,
}

#[derive(Debug)]
struct Shared {
    socket: Arc<Socket>,
    server: SocketAddr,
    state: Mutex<State>,
    /// There may be something to send, or another time to wait for.
    wake: Notify,
}

#[derive(Debug)]
struct State {
    client: Client,
    sent_at: Instant,
    /// The allocation was dropped.
    released: bool,
}

impl Allocation {
    /// Begins to ask the relay for an address. Must be called within a tokio runtime. From now on
    /// datagrams from the relay must go to [`Allocation::handle`], or there will be none.
    pub fn begin(socket: Arc<Socket>, access: &RelayAccess) -> io::Result<Self> {
        let now = Instant::now();
        let client = Client::new(access, socket.local_addr()?, now);
        let (changes, status) = watch::channel(client.status().clone());
        let state = Mutex::new(State { client, sent_at: now, released: false });
        let shared = Arc::new(Shared { socket, server: access.server, state, wake: Notify::new() });
        tokio::spawn(Arc::clone(&shared).run(changes));
        Ok(Self { shared, status })
    }

    /// The relay's address: what comes from it is for [`Allocation::handle`].
    pub fn server(&self) -> SocketAddr {
        self.shared.server
    }

    /// Waits for the relayed address, 2.5 s at most.
    ///
    /// # Errors
    ///
    /// Where the relay does not answer or refuses.
    pub async fn allocated(&self) -> Result<SocketAddr, RelayError> {
        let mut status = self.status.clone();
        let settled =
            status.wait_for(|status| *status != Status::Asking).await.map(|status| status.clone());
        match settled {
            Ok(Status::Allocated(relayed)) => Ok(relayed),
            Ok(Status::Failed(error)) => Err(error),
            Ok(Status::Asking) | Err(_) => Err(RelayError::NoAnswer { server: self.shared.server }),
        }
    }

    /// Waits until the relayed address is gone, or there will be none, and says why.
    pub async fn ended(&self) -> RelayError {
        let mut status = self.status.clone();
        let failed = |status: &Status| matches!(status, Status::Failed(_));
        let ended = status.wait_for(failed).await.map(|status| status.clone());
        match ended {
            Ok(Status::Failed(error)) => error,
            _ => RelayError::Lost { server: self.shared.server },
        }
    }

    /// The relayed address, while there is one.
    pub fn relayed(&self) -> Option<SocketAddr> {
        match *self.status.borrow() {
            Status::Allocated(relayed) => Some(relayed),
            Status::Asking | Status::Failed(_) => None,
        }
    }

    /// Lets a peer in, and keeps it so: a channel for it, and a permission for its IP address. May be
    /// called before there is a relayed address. The first 32 peers count.
    pub fn permit(&self, peer: SocketAddr) {
        self.shared.state().client.permit(peer, Instant::now());
        self.shared.wake.notify_one();
    }

    /// Sends `payload` to a peer through the relay. Never blocks.
    ///
    /// # Errors
    ///
    /// `NotConnected` where the peer is not permitted yet; otherwise the socket's, `WouldBlock` included.
    pub fn send(&self, payload: &[u8], to: SocketAddr) -> io::Result<()> {
        let now = Instant::now();
        let mut state = self.shared.state();
        let datagram = state.client.wrap(payload, to, now).ok_or(io::ErrorKind::NotConnected)?;
        state.sent_at = now;
        drop(state);
        self.shared.socket.try_send_to(&datagram, self.shared.server)
    }

    /// Takes a datagram that came from the relay's address: if it carries one of a peer, that peer and
    /// where in it the payload lies. Quick: meant for the receiving task.
    pub fn handle(&self, datagram: &[u8]) -> Option<(SocketAddr, Range<usize>)> {
        let received = self.shared.state().client.handle(datagram, Instant::now());
        if received.is_none() {
            self.shared.wake.notify_one();
        }
        received
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.shared.state();
        state.released = true;
        state.client.delete(now);
        // At once, as the process may be about to end.
        self.shared.transmit(&mut state, now);
        drop(state);
        self.shared.wake.notify_one();
    }
}

impl Shared {
    /// Keeps the allocation until it is dropped or lost.
    async fn run(self: Arc<Self>, status: watch::Sender<Status>) {
        let mut give_up_at = Some(Instant::now() + ALLOCATE_TIMEOUT);
        let mut release_at = None;
        loop {
            let now = Instant::now();
            let (wait, current) = {
                let mut state = self.state();
                if give_up_at.take_if(|at| *at <= now).is_some() {
                    state.client.give_up();
                }
                if state.released {
                    release_at.get_or_insert(now + RELEASE);
                }
                let wait = self.advance(&mut state, now);
                (wait, state.client.status().clone())
            };
            status.send_if_modified(|known| {
                let changed = *known != current;
                *known = current;
                changed
            });
            let over = release_at.is_some_and(|at| at <= now);
            let Some(mut wait) = wait.filter(|_| !over) else { break };
            for at in [give_up_at, release_at].into_iter().flatten() {
                wait = wait.min(at.saturating_duration_since(now));
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Sends what is due, and says when there is more. `None`: it is over.
    fn advance(&self, state: &mut State, now: Instant) -> Option<Duration> {
        self.transmit(state, now);
        let mut wait = state.client.poll(now)?;
        // Events may have led to requests.
        self.transmit(state, now);
        if let Status::Allocated(_) = state.client.status() {
            let idle = now.saturating_duration_since(state.sent_at);
            if idle >= KEEPALIVE_INTERVAL && !state.released {
                // A Binding indication needs no answer (RFC 8489, section 2).
                let transaction = stun::transaction_id(&mut rand::rng());
                let keepalive = Writer::new(stun::Class::Indication, transaction).finish();
                self.transmit_one(state, &keepalive, now);
            }
            wait = wait.min(KEEPALIVE_INTERVAL.saturating_sub(idle));
        }
        Some(wait.max(TICK))
    }

    fn transmit(&self, state: &mut State, now: Instant) {
        while let Some(datagram) = state.client.poll_transmit(now) {
            self.transmit_one(state, &datagram, now);
        }
    }

    fn transmit_one(&self, state: &mut State, datagram: &[u8], now: Instant) {
        state.sent_at = now;
        // What is lost here is sent again.
        if let Err(error) = self.socket.try_send_to(datagram, self.server) {
            tracing::debug!(%error, server = %self.server, "cannot send to the relay");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
