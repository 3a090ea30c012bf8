//! The client's side of one allocation, without I/O: `turn-client-proto`, and what that does not tell,
//! which is why it was refused and that an allocation is gone.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use turn_client_proto::api::{
    BindChannelError, TurnClientApi, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet,
};
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::types::stun::attribute::ErrorCode;
use turn_client_proto::types::stun::message::{Message, MessageClass, TransactionId};
use turn_client_proto::types::{
    self, AddressFamily, TransportType, TurnCredentials, prelude::DelayedTransmitBuild,
};
use turn_client_proto::udp::TurnClientUdp;

use super::{RelayAccess, RelayError, RelayFamily};

/// First retransmission of a request: most round trips are shorter.
const FIRST_RETRANSMIT: Duration = Duration::from_millis(300);

/// Longest time between transmissions, and after the last one.
const LAST_RETRANSMIT: Duration = Duration::from_secs(1);

/// Transmissions of a request.
const TRANSMISSIONS: u32 = 4;

/// Most peers of an allocation: twice the candidates that a peer may have.
const MOST_PEERS: usize = 32;

/// Tries to bind a peer's channel before the peer is left alone.
const BIND_TRIES: u8 = 3;

/// Requests that an answer may still come to.
const REMEMBERED_REQUESTS: usize = 16;

/// Where an allocation stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Status {
    /// The relay was asked.
    Asking,
    /// There is a relayed address.
    Allocated(SocketAddr),
    /// There is none, or none any more.
    Failed(RelayError),
}

/// The state machine of one allocation.
#[derive(Debug)]
pub(super) struct Client {
    turn: TurnClientUdp,
    server: SocketAddr,
    local: SocketAddr,
    /// Where the crate's clock begins.
    began_at: Instant,
    status: Status,
    peers: Vec<Peer>,
    /// The last requests, oldest first.
    requests: VecDeque<TransactionId>,
    /// The very first request has no credentials, and is refused for that.
    first_request: Option<TransactionId>,
}

#[derive(Debug)]
struct Peer {
    address: SocketAddr,
    tries: u8,
}

impl Client {
    pub(super) fn new(access: &RelayAccess, local: SocketAddr, now: Instant) -> Self {
        let credentials = TurnCredentials::new(&access.username, &access.password);
        let mut config = TurnConfig::new(credentials);
        config.set_request_retransmits(
            FIRST_RETRANSMIT,
            LAST_RETRANSMIT,
            TRANSMISSIONS,
            LAST_RETRANSMIT,
        );
        config.set_address_family(match access.family {
            RelayFamily::V4 => AddressFamily::IPV4,
            RelayFamily::V6 => AddressFamily::IPV6,
        });
        Self {
            turn: TurnClientUdp::allocate(local, access.server, config),
            server: access.server,
            local,
            began_at: now,
            status: Status::Asking,
            peers: Vec::new(),
            requests: VecDeque::new(),
            first_request: None,
        }
    }

    pub(super) fn status(&self) -> &Status {
        &self.status
    }

    /// The relay did not answer in time.
    pub(super) fn give_up(&mut self) {
        if self.status == Status::Asking {
            self.status = Status::Failed(RelayError::NoAnswer { server: self.server });
        }
    }

    /// Wants datagrams to be exchanged with a peer from now on.
    pub(super) fn permit(&mut self, peer: SocketAddr, now: Instant) {
        let known = self.peers.iter().any(|known| known.address == peer);
        if !known && self.peers.len() < MOST_PEERS {
            self.peers.push(Peer { address: peer, tries: 0 });
            self.bind(peer, now);
        }
    }

    /// The datagram that takes `payload` to a peer through the relay; `None` before it is permitted.
    pub(super) fn wrap(&mut self, payload: &[u8], to: SocketAddr, now: Instant) -> Option<Vec<u8>> {
        let now = self.clock(now);
        let wrapped = self.turn.send_to(TransportType::Udp, to, payload, now).ok()??;
        Some(wrapped.data.build())
    }

    /// Takes a datagram of the relay: the peer that it is of, and where in it the payload lies.
    pub(super) fn handle(
        &mut self,
        datagram: &[u8],
        now: Instant,
    ) -> Option<(SocketAddr, Range<usize>)> {
        self.note_refusal(datagram);
        let now = self.clock(now);
        let transmit = Transmit::new(datagram, TransportType::Udp, self.server, self.local);
        match self.turn.recv(transmit, now) {
            TurnRecvRet::PeerData(data) => {
                let payload = data.data();
                let start = payload.as_ptr().addr().checked_sub(datagram.as_ptr().addr())?;
                let range = start..start + payload.len();
                (range.end <= datagram.len()).then_some((data.peer, range))
            }
            TurnRecvRet::Handled | TurnRecvRet::Ignored(_) | TurnRecvRet::PeerIcmp { .. } => None,
        }
    }

    /// The next datagram for the relay.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        let now = self.clock(now);
        let datagram = self.turn.poll_transmit(now)?.data.to_vec();
        if let Ok(message) = Message::from_bytes(&datagram)
            && message.has_class(MessageClass::Request)
        {
            let transaction = message.transaction_id();
            self.first_request.get_or_insert(transaction);
            if self.requests.back() != Some(&transaction) {
                if self.requests.len() == REMEMBERED_REQUESTS {
                    self.requests.pop_front();
                }
                self.requests.push_back(transaction);
            }
        }
        Some(datagram)
    }

    /// Moves on, and says for how long there is nothing to do. `None`: it is over.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Duration> {
        while let Some(event) = self.turn.poll_event() {
            self.note(event, now);
        }
        let clock = self.clock(now);
        let wait = match self.turn.poll(clock) {
            TurnPollRet::WaitUntil(at) => Some(at.saturating_duration_since(clock)),
            // The rest is about TCP.
            _ => None,
        };
        if wait.is_none() {
            self.fail(RelayError::Lost { server: self.server });
        }
        wait.filter(|_| !matches!(self.status, Status::Failed(_)))
    }

    /// Frees the relayed address; what [`Client::poll_transmit`] gives then must still be sent.
    pub(super) fn delete(&mut self, now: Instant) {
        // An error means that there is nothing to free.
        let _ = self.turn.delete(self.clock(now));
    }

    fn note(&mut self, event: TurnEvent, now: Instant) {
        tracing::debug!(?event, server = %self.server, "relay");
        match event {
            TurnEvent::AllocationCreated(_, relayed) => {
                self.status = Status::Allocated(relayed);
                let peers: Vec<_> = self.peers.iter().map(|peer| peer.address).collect();
                peers.into_iter().for_each(|peer| self.bind(peer, now));
            }
            TurnEvent::AllocationCreateFailed(_) => {
                self.fail(RelayError::NoAnswer { server: self.server });
            }
            TurnEvent::ChannelCreated(_, peer) => {
                let bound = self.peers.iter_mut().filter(|known| known.address == peer);
                bound.for_each(|known| known.tries = 0);
            }
            TurnEvent::ChannelCreateFailed(_, peer) => self.bind(peer, now),
            _ => {}
        }
    }

    /// Binds a channel, which installs a permission as well (RFC 8656, section 12.2).
    fn bind(&mut self, peer: SocketAddr, now: Instant) {
        let clock = self.clock(now);
        let Status::Allocated(_) = self.status else { return };
        let Some(known) = self.peers.iter_mut().find(|known| known.address == peer) else { return };
        if known.tries >= BIND_TRIES {
            return;
        }
        known.tries += 1;
        let bound = self.turn.bind_channel(TransportType::Udp, peer, clock);
        // A channel that has just expired may not be bound again yet; indications do as well.
        if let Err(BindChannelError::ExpiredChannelExists(_)) = bound {
            let _ = self.turn.create_permission(TransportType::Udp, peer.ip(), clock);
        }
    }

    /// Looks for errors that the crate keeps to itself. Only answers to our own requests are believed.
    fn note_refusal(&mut self, datagram: &[u8]) {
        // Channels, which most datagrams are, begin otherwise.
        if datagram.first().is_none_or(|first| *first > 3) {
            return;
        }
        let Ok(message) = Message::from_bytes(datagram) else { return };
        let transaction = message.transaction_id();
        if !message.has_class(MessageClass::Error) || !self.requests.contains(&transaction) {
            return;
        }
        let Ok(error) = message.attribute::<ErrorCode>() else { return };
        let code = error.code();
        tracing::debug!(code, server = %self.server, "the relay refused a request");
        let challenge = code == ErrorCode::UNAUTHORIZED && self.first_request == Some(transaction);
        match self.status {
            Status::Asking if !challenge && code != ErrorCode::STALE_NONCE => {
                let reason = error.reason().to_owned();
                self.fail(RelayError::Refused { server: self.server, code, reason });
            }
            // The relay knows the allocation no more, or us: it has started again.
            Status::Allocated(_)
                if [
                    ErrorCode::UNAUTHORIZED,
                    ErrorCode::ALLOCATION_MISMATCH,
                    ErrorCode::WRONG_CREDENTIALS,
                ]
                .contains(&code)
                    && !challenge =>
            {
                self.fail(RelayError::Lost { server: self.server });
            }
            _ => {}
        }
    }

    fn fail(&mut self, error: RelayError) {
        if !matches!(self.status, Status::Failed(_)) {
            self.status = Status::Failed(error);
        }
    }

    fn clock(&self, now: Instant) -> types::Instant {
        let since = now.saturating_duration_since(self.began_at);
        types::Instant::from_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
