//! The listening side of the embedded relay: tells datagrams apart, and finds out who asks.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use protocol::stun::{PlainLimiter, answer_plain_binding};
use stun_types::attribute::{
    AttributeStaticType, Fingerprint, MessageIntegrity, Nonce, Realm, Username,
};
use stun_types::message::{BINDING, Message, MessageClass};
use transport::socket::Socket;
use turn_types::attribute::{Data, XorPeerAddress};
use turn_types::message::SEND;

use super::allocation::{Allocation, CHANNEL_HEADER};
use super::answer::Refusal;
use super::credentials::Minter;
use super::nonce::Nonces;
use super::peers::PeerRules;
use super::quota::Quotas;
use super::request::{Authenticated, Sender, unknown};
use crate::metrics::{Metrics, RelayRejection};

/// What the listener and all allocations share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) socket: Arc<Socket>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) minter: Minter,
    pub(super) nonces: Nonces,
    pub(super) quotas: Arc<Quotas>,
    pub(super) rules: PeerRules,
    pub(super) external: Option<IpAddr>,
    pub(super) ports: RangeInclusive<u16>,
    /// Answers to who has not proved its address.
    pub(super) limiter: Mutex<PlainLimiter>,
    /// By client.
    pub(super) allocations: Mutex<HashMap<SocketAddr, Arc<Allocation>>>,
}

impl Shared {
    /// A datagram that came to the listening socket.
    pub(super) fn deliver(self: &Arc<Self>, from: SocketAddr, datagram: &[u8]) {
        match datagram.first() {
            Some(0x40..=0x7f) => self.channel_data(from, datagram),
            Some(0..=3) => self.stun(from, datagram),
            _ => {}
        }
    }

    /// Counts a datagram that was passed on, or was not for want of room.
    pub(super) fn count_relayed(&self, bytes: usize, sent: io::Result<()>) {
        match sent {
            Ok(()) => self.metrics.relay_bytes.inc_by(bytes as u64),
            Err(error) => {
                tracing::trace!(%error, "a datagram was not relayed");
                self.metrics.reject_relaying(RelayRejection::Congestion);
            }
        }
    }

    /// An allocation has ended.
    pub(super) fn forget(&self, ended: &Arc<Allocation>) {
        let mut allocations = self.allocations();
        if allocations.get(&ended.client).is_some_and(|known| Arc::ptr_eq(known, ended)) {
            allocations.remove(&ended.client);
            self.metrics.relay_allocations.dec();
            tracing::debug!(client = %ended.client, relayed = %ended.relayed, "relayed address freed");
        }
    }

    /// Ends all allocations.
    pub(super) fn end(&self) {
        let ended: Vec<Arc<Allocation>> = self.allocations().values().cloned().collect();
        let now = Instant::now();
        for allocation in ended {
            allocation.set_expiry(now);
        }
    }

    pub(super) fn allocations(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Allocation>>> {
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client's allocation, if it has one that has not expired.
    pub(super) fn allocation(&self, client: SocketAddr) -> Option<Arc<Allocation>> {
        let found = self.allocations().get(&client).cloned()?;
        (found.expires_at() > Instant::now()).then_some(found)
    }

    fn channel_data(&self, from: SocketAddr, datagram: &[u8]) {
        let Some((&[a, b, c, d], rest)) = datagram.split_first_chunk::<CHANNEL_HEADER>() else {
            return;
        };
        let Some(payload) = rest.get(..usize::from(u16::from_be_bytes([c, d]))) else { return };
        let Some(allocation) = self.allocation(from) else { return };
        let number = u16::from_be_bytes([a, b]);
        let peer = allocation.with_bindings(|bindings| bindings.peer(number, Instant::now()));
        match peer {
            Some(peer) => allocation.send(payload, peer, self),
            None => self.metrics.reject_relaying(RelayRejection::Permission),
        }
    }

    fn stun(self: &Arc<Self>, from: SocketAddr, datagram: &[u8]) {
        let Ok(message) = Message::from_bytes(datagram) else { return };
        match (message.class(), message.method()) {
            (MessageClass::Request, BINDING) => {
                let answer = answer_plain_binding(datagram, from, None, || self.may_answer(from));
                let answer = answer.map(|answer| answer.bytes);
                self.send_answer(answer, from);
            }
            (MessageClass::Request, _) => self.request(&message, from),
            (MessageClass::Indication, SEND) => self.send_indication(&message, from),
            _ => {}
        }
    }

    fn send_indication(&self, message: &Message<'_>, from: SocketAddr) {
        let Some(allocation) = self.allocation(from) else { return };
        let known = [XorPeerAddress::TYPE, Data::TYPE, Fingerprint::TYPE];
        let peer = message.attribute::<XorPeerAddress>();
        let payload = message.attribute::<Data<'_>>();
        let (Ok(peer), Ok(payload), true) = (peer, payload, unknown(message, &known).is_empty())
        else {
            return;
        };
        let peer = peer.addr(message.transaction_id());
        if allocation.is_family_of(peer.ip()) && self.rules.admits(peer) {
            allocation.send(payload.data(), peer, self);
        } else {
            self.metrics.reject_relaying(RelayRejection::Forbidden);
        }
    }

    fn request(self: &Arc<Self>, message: &Message<'_>, from: SocketAddr) {
        let now = SystemTime::now();
        let answer = match self.authenticate(message, from, now) {
            Ok(request) => Some(self.carry_out(&request).unwrap_or_else(|refusal| {
                self.count(&refusal, from);
                refusal.authenticated(message, request.sender.key())
            })),
            // Who asks may lie about its address, and the answer may be larger than the question.
            Err(refusal) => {
                self.count(&refusal, from);
                let admitted = self.may_answer(from);
                admitted.then(|| refusal.unauthenticated(message, &self.nonces.current(from, now)))
            }
        };
        self.send_answer(answer, from);
    }

    fn count(&self, refusal: &Refusal, from: SocketAddr) {
        if let Some(rejection) = refusal.rejection() {
            tracing::debug!(%from, code = refusal.code(), "relay request refused");
            self.metrics.reject_relaying(rejection);
        }
    }

    fn may_answer(&self, from: SocketAddr) -> bool {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.admit(from, Instant::now())
    }

    fn send_answer(&self, answer: Option<Vec<u8>>, from: SocketAddr) {
        match answer {
            Some(answer) => {
                // A lost answer is asked for again.
                let _ = self.socket.try_send_to(&answer, from);
            }
            None => self.metrics.reject_relaying(RelayRejection::Stranger),
        }
    }

    /// The long-term credential mechanism (RFC 8489, section 9.2.4).
    fn authenticate<'a>(
        &self,
        message: &'a Message<'a>,
        from: SocketAddr,
        now: SystemTime,
    ) -> Result<Authenticated<'a>, Refusal> {
        if !message.has_attribute(MessageIntegrity::TYPE) {
            return Err(Refusal::Challenge);
        }
        let username = message.attribute::<Username>().map_err(|_| Refusal::BadRequest)?;
        let nonce = message.attribute::<Nonce>().map_err(|_| Refusal::BadRequest)?;
        message.attribute::<Realm>().map_err(|_| Refusal::BadRequest)?;
        if !self.nonces.is_fresh(nonce.nonce(), from, now) {
            return Err(Refusal::StaleNonce);
        }
        let username = username.username().to_owned();
        // Credentials expire for new allocations; those that there are go on (as with coturn).
        let sender = match self.allocation(from).filter(|known| known.username == username) {
            Some(allocation) => Sender::Owner(allocation),
            None => Sender::User(self.minter.user(&username, now).ok_or(Refusal::Unauthorized)?),
        };
        message.validate_integrity_with_key(sender.key()).map_err(|_| Refusal::Unauthorized)?;
        Ok(Authenticated { message, from, username, sender })
    }
}
