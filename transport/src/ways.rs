//! The ways out of a process: its sockets, and its relays, by the numbers that opening agents know
//! them by.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dashmap::DashMap;
use protocol::opening::Local;
use tokio::task::AbortHandle;

use crate::relay::Allocation;
use crate::socket::Socket;

/// All ways out. The main socket is always there; others come and go.
#[derive(Debug)]
pub struct Ways {
    main: Arc<Socket>,
    others: DashMap<Local, Way>,
    next: AtomicU32,
}

#[derive(Debug)]
enum Way {
    Socket { socket: Arc<Socket>, receiver: AbortHandle },
    Relay { relay: Arc<Allocation>, receiver: AbortHandle },
}

impl Drop for Way {
    fn drop(&mut self) {
        let (Self::Socket { receiver, .. } | Self::Relay { receiver, .. }) = self;
        receiver.abort();
    }
}

impl Ways {
    pub(crate) fn new(main: Arc<Socket>) -> Arc<Self> {
        Arc::new(Self { main, others: DashMap::new(), next: AtomicU32::new(1) })
    }

    /// The socket that everything begins on.
    pub fn main(&self) -> &Arc<Socket> {
        &self.main
    }

    /// A number that no way has had.
    pub(crate) fn number(&self) -> Local {
        Local(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn add_socket(&self, local: Local, socket: Arc<Socket>, receiver: AbortHandle) {
        self.others.insert(local, Way::Socket { socket, receiver });
    }

    pub(crate) fn add_relay(&self, local: Local, relay: Arc<Allocation>, receiver: AbortHandle) {
        self.others.insert(local, Way::Relay { relay, receiver });
    }

    /// Closes a socket, or gives back a relayed address.
    pub fn remove(&self, local: Local) {
        self.others.remove(&local);
    }

    /// All but the main one.
    pub fn locals(&self) -> Vec<Local> {
        self.others.iter().map(|entry| *entry.key()).collect()
    }

    /// How many there are besides the main one.
    pub fn others(&self) -> usize {
        self.others.len()
    }

    /// The socket of a way; `None` for a relay, or a way that is gone.
    pub fn socket(&self, local: Local) -> Option<Arc<Socket>> {
        if local == Local::MAIN {
            return Some(Arc::clone(&self.main));
        }
        match &*self.others.get(&local)? {
            Way::Socket { socket, .. } => Some(Arc::clone(socket)),
            Way::Relay { .. } => None,
        }
    }

    /// Sends one datagram. What goes by a relay keeps the usual hop limit: its own router is long open.
    pub fn send(
        &self,
        local: Local,
        bytes: &[u8],
        to: SocketAddr,
        hop_limit: Option<u8>,
    ) -> io::Result<()> {
        let by = |socket: &Socket| match hop_limit {
            Some(hop_limit) => socket.try_send_near(bytes, to, hop_limit),
            None => socket.try_send_to(bytes, to),
        };
        if local == Local::MAIN {
            return by(&self.main);
        }
        match self.others.get(&local).as_deref() {
            Some(Way::Socket { socket, .. }) => by(socket),
            Some(Way::Relay { relay, .. }) => relay.send(bytes, to),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Sends what QUIC wants to send.
    pub(crate) fn transmit(
        &self,
        local: Local,
        to: SocketAddr,
        transmit: &quinn_udp::Transmit<'_>,
    ) -> io::Result<()> {
        let by = |socket: &Socket| {
            let transmit = quinn_udp::Transmit {
                destination: socket.native(to),
                ecn: transmit.ecn,
                contents: transmit.contents,
                segment_size: transmit.segment_size,
                src_ip: None,
            };
            socket.try_transmit(&transmit)
        };
        if local == Local::MAIN {
            return by(&self.main);
        }
        match self.others.get(&local).as_deref() {
            Some(Way::Socket { socket, .. }) => by(socket),
            Some(Way::Relay { relay, .. }) => {
                let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
                transmit.contents.chunks(segment).try_for_each(|bytes| relay.send(bytes, to))
            }
            None => Ok(()),
        }
    }
}
