//! One allocation: a relayed address and the socket behind it, and the way of datagrams between its
//! client and its peers. Each has a task of its own, so none waits for another.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::address::canonical;
use socket2::{Domain, Protocol, SockRef, Type};
use stun_types::message::{
    IntegrityKey, Message, MessageClass, MessageType, MessageWrite, MessageWriteVec, TransactionId,
};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use turn_types::attribute::{Data, XorPeerAddress};
use turn_types::message::DATA;

use super::bindings::Bindings;
use super::quota::Lease;
use super::server::Shared;
use crate::metrics::RelayRejection;

/// Asked of the kernel for each relayed address, in bytes: a keyframe's burst, or a joining one, arrives
/// at once.
const SOCKET_BUFFER: usize = 4 << 20;

/// ChannelData header (RFC 8656, section 12.4).
pub(super) const CHANNEL_HEADER: usize = 4;

/// How long an allocation lasts unless it is refreshed, whatever its client asks for: the default of RFC
/// 8656, section 7.2, so that what crashed viewers leave behind is soon free.
pub(super) const LIFETIME: Duration = Duration::from_secs(600);

/// Longest datagram that is relayed: what an Ethernet frame holds.
const LONGEST: usize = 1500;

/// Datagrams that are passed on before other tasks have their turn.
const TURN: usize = 64;

/// One relayed address.
#[derive(Debug)]
pub(super) struct Allocation {
    /// Where its client is.
    pub(super) client: SocketAddr,
    /// Whose it is.
    pub(super) username: String,
    /// Key of its client's MESSAGE-INTEGRITY.
    pub(super) key: IntegrityKey,
    /// The request that made it, to know a retransmission by.
    pub(super) transaction: TransactionId,
    /// The relayed address, as peers reach it.
    pub(super) relayed: SocketAddr,
    socket: UdpSocket,
    lease: Lease,
    state: Mutex<State>,
    /// The end was moved.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    expires_at: Instant,
    bindings: Bindings,
}

/// What a new allocation is made of.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) client: SocketAddr,
    pub(super) username: String,
    pub(super) key: IntegrityKey,
    pub(super) transaction: TransactionId,
    pub(super) relayed: SocketAddr,
    pub(super) socket: UdpSocket,
    pub(super) lease: Lease,
    pub(super) expires_at: Instant,
}

impl Allocation {
    pub(super) fn new(grant: Grant) -> Self {
        Self {
            client: grant.client,
            username: grant.username,
            key: grant.key,
            transaction: grant.transaction,
            relayed: grant.relayed,
            socket: grant.socket,
            lease: grant.lease,
            state: Mutex::new(State {
                expires_at: grant.expires_at,
                bindings: Bindings::default(),
            }),
            changed: Notify::new(),
        }
    }

    /// When it ends, unless it is refreshed.
    pub(super) fn expires_at(&self) -> Instant {
        self.state().expires_at
    }

    /// Moves the end.
    pub(super) fn set_expiry(&self, expires_at: Instant) {
        self.state().expires_at = expires_at;
        self.changed.notify_one();
    }

    /// Looks at its permissions and channels, or changes them.
    pub(super) fn with_bindings<R>(&self, look: impl FnOnce(&mut Bindings) -> R) -> R {
        look(&mut self.state().bindings)
    }

    /// Whether a peer is of the relayed address's family.
    pub(super) fn is_family_of(&self, peer: IpAddr) -> bool {
        self.relayed.is_ipv4() == peer.is_ipv4()
    }

    /// A datagram of the client goes to a peer.
    pub(super) fn send(&self, payload: &[u8], peer: SocketAddr, shared: &Shared) {
        let now = Instant::now();
        if !self.state().bindings.permits(peer.ip(), now) {
            shared.metrics.reject_relaying(RelayRejection::Permission);
        } else if !self.lease.take(payload.len(), now) {
            shared.metrics.reject_relaying(RelayRejection::Rate);
        } else {
            // Not through tokio, which would first wait to hear that there is room.
            let sent = SockRef::from(&self.socket).send_to(payload, &peer.into());
            shared.count_relayed(payload.len(), sent.map(drop));
        }
    }

    /// Passes datagrams of peers on to the client until the allocation ends.
    pub(super) async fn forward(self: Arc<Self>, shared: Arc<Shared>) {
        let mut buffer = vec![0; CHANNEL_HEADER + LONGEST + 1];
        loop {
            let expires_at = self.expires_at();
            if expires_at <= Instant::now() {
                break;
            }
            tokio::select! {
                ready = self.socket.readable() => {
                    if let Err(error) = ready {
                        tracing::warn!(%error, relayed = %self.relayed, "a relayed address failed");
                        break;
                    }
                    self.drain(&mut buffer, &shared);
                    tokio::task::yield_now().await;
                }
                () = tokio::time::sleep_until(expires_at.into()) => {}
                () = self.changed.notified() => {}
            }
        }
        shared.forget(&self);
    }

    fn drain(&self, buffer: &mut [u8], shared: &Shared) {
        for _ in 0..TURN {
            match self.socket.try_recv_from(&mut buffer[CHANNEL_HEADER..]) {
                Ok((length, peer)) if length <= LONGEST => {
                    let payload = CHANNEL_HEADER..CHANNEL_HEADER + length;
                    self.receive(buffer, payload, canonical(peer), shared);
                }
                Ok(_) => shared.metrics.reject_relaying(RelayRejection::Congestion),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP error about a datagram that was sent before.
                Err(_) => {}
            }
        }
    }

    /// A datagram of a peer goes to the client. In front of it the buffer has room for a header.
    fn receive(&self, buffer: &mut [u8], payload: Range<usize>, peer: SocketAddr, shared: &Shared) {
        let now = Instant::now();
        let (permitted, channel) = self.with_bindings(|bindings| {
            (bindings.permits(peer.ip(), now), bindings.channel(peer, now))
        });
        let length = payload.len();
        if !permitted {
            shared.metrics.reject_relaying(RelayRejection::Permission);
        } else if !self.lease.take(length, now) {
            shared.metrics.reject_relaying(RelayRejection::Rate);
        } else {
            let sent = match channel {
                Some(number) => {
                    let length = u16::try_from(length).expect("no more than LONGEST");
                    buffer[..2].copy_from_slice(&number.to_be_bytes());
                    buffer[2..CHANNEL_HEADER].copy_from_slice(&length.to_be_bytes());
                    shared.socket.try_send_to(&buffer[..payload.end], self.client)
                }
                None => {
                    let indication = data_indication(&buffer[payload], peer);
                    shared.socket.try_send_to(&indication, self.client)
                }
            };
            shared.count_relayed(length, sent);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Data indication (RFC 8656, section 11.3).
fn data_indication(payload: &[u8], peer: SocketAddr) -> Vec<u8> {
    let transaction = TransactionId::generate();
    let kind = MessageType::from_class_method(MessageClass::Indication, DATA);
    let writer = MessageWriteVec::with_capacity(payload.len() + 64);
    let mut indication = Message::builder(kind, transaction, writer);
    indication.push_attribute_unchecked(&XorPeerAddress::new(peer, transaction));
    indication.push_attribute_unchecked(&Data::new(payload));
    indication.finish()
}

/// A socket for a relayed address.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Refused sizes leave the kernel's default, which works, with less reserve.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}
