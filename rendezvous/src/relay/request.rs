//! Requests whose sender proved who it is: Allocate, Refresh, CreatePermission and ChannelBind.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::address::canonical;
use rand::RngExt;
use stun_types::attribute::{
    Attribute, AttributeFromRaw, AttributeStaticType, AttributeType, Fingerprint, MessageIntegrity,
    Nonce, Realm, Username, XorMappedAddress,
};
use stun_types::message::{IntegrityKey, Message};
use tokio::net::UdpSocket;
use turn_types::AddressFamily;
use turn_types::attribute::{
    ChannelNumber, Lifetime, RequestedAddressFamily, RequestedTransport, XorPeerAddress,
    XorRelayedAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH};

use super::allocation::{self, Allocation, Grant, LIFETIME};
use super::answer::{Refusal, success};
use super::bindings::BindError;
use super::credentials::User;
use super::quota::Exhausted;
use super::server::Shared;

/// Channel numbers (RFC 8656, section 12; RFC 5766 clients use those from 0x5000 on as well).
const CHANNELS: RangeInclusive<u16> = 0x4000..=0x7fff;

/// Ports that are tried for a relayed address.
const PORT_TRIES: usize = 16;

/// Most peers in one CreatePermission request.
const MOST_PEERS: usize = 16;

/// A request whose sender proved who it is.
pub(super) struct Authenticated<'a> {
    pub(super) message: &'a Message<'a>,
    pub(super) from: SocketAddr,
    pub(super) username: String,
    pub(super) sender: Sender,
}

/// Who sent an authenticated request.
pub(super) enum Sender {
    /// The one whose allocation this is.
    Owner(Arc<Allocation>),
    /// Somebody whose credentials are good, but who has no allocation here.
    User(User),
}

impl Sender {
    /// Key of the sender's MESSAGE-INTEGRITY.
    pub(super) fn key(&self) -> &IntegrityKey {
        match self {
            Self::Owner(allocation) => &allocation.key,
            Self::User(user) => &user.key,
        }
    }
}

impl Shared {
    /// Does what is asked, and gives the answer.
    pub(super) fn carry_out(
        self: &Arc<Self>,
        request: &Authenticated<'_>,
    ) -> Result<Vec<u8>, Refusal> {
        match request.message.method() {
            ALLOCATE => self.allocate(request),
            REFRESH => self.refresh(request),
            CREATE_PERMISSION => self.create_permission(request),
            CHANNEL_BIND => self.bind_channel(request),
            _ => Err(Refusal::BadRequest),
        }
    }

    /// RFC 8656, section 7.2. EVEN-PORT, RESERVATION-TOKEN and DONT-FRAGMENT are not understood.
    fn allocate(self: &Arc<Self>, request: &Authenticated<'_>) -> Result<Vec<u8>, Refusal> {
        let message = request.message;
        let user = match &request.sender {
            Sender::Owner(known) if known.transaction == message.transaction_id() => {
                return Ok(allocated(message, known));
            }
            Sender::User(user) if self.allocation(request.from).is_none() => user,
            _ => return Err(Refusal::AllocationMismatch),
        };
        request.understand(&[
            RequestedTransport::TYPE,
            Lifetime::TYPE,
            RequestedAddressFamily::TYPE,
        ])?;
        let transport =
            message.attribute::<RequestedTransport>().map_err(|_| Refusal::BadRequest)?;
        if transport.protocol() != RequestedTransport::UDP {
            return Err(Refusal::Transport);
        }
        let family = match optional::<RequestedAddressFamily>(message)? {
            Some(asked) => asked.family(),
            None => AddressFamily::IPV4,
        };
        optional::<Lifetime>(message)?;
        let lease = self.quotas.lease(&user.name).map_err(|exhausted| match exhausted {
            Exhausted::Viewer => Refusal::Quota,
            Exhausted::Total => Refusal::Capacity,
        })?;
        let (socket, relayed) = self.open(request.from, family)?;
        let allocation = Arc::new(Allocation::new(Grant {
            client: request.from,
            username: request.username.clone(),
            key: user.key.clone(),
            transaction: message.transaction_id(),
            relayed,
            socket,
            lease,
            expires_at: Instant::now() + LIFETIME,
        }));
        tracing::debug!(client = %request.from, %relayed, "relayed address allocated");
        let replaced = self.allocations().insert(request.from, Arc::clone(&allocation));
        if replaced.is_none() {
            self.metrics.relay_allocations.inc();
        }
        self.metrics.relay_allocations_total.inc();
        tokio::spawn(Arc::clone(&allocation).forward(Arc::clone(self)));
        Ok(allocated(message, &allocation))
    }

    /// A socket for a relayed address, and that address as peers reach it.
    fn open(
        &self,
        client: SocketAddr,
        family: AddressFamily,
    ) -> Result<(UdpSocket, SocketAddr), Refusal> {
        let v4 = family == AddressFamily::IPV4;
        let towards = if client.is_ipv4() == v4 {
            client
        } else if v4 {
            // Documentation addresses (RFC 5737, RFC 3849), which nothing is sent to: any public one
            // tells the address that we are reached at in the other family.
            SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9))
        } else {
            SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9))
        };
        let listened = canonical(self.socket.local_addr().map_err(|_| Refusal::Capacity)?).ip();
        let own = if !listened.is_unspecified() && listened.is_ipv4() == v4 {
            listened
        } else {
            source_towards(towards).map_err(|_| Refusal::Family)?
        };
        let told = self.external.filter(|external| external.is_ipv4() == v4).unwrap_or(own);
        for _ in 0..PORT_TRIES {
            let port = rand::rng().random_range(self.ports.clone());
            if let Ok(socket) = allocation::bind(SocketAddr::new(own, port)) {
                return Ok((socket, SocketAddr::new(told, port)));
            }
        }
        Err(Refusal::Capacity)
    }

    /// RFC 8656, section 8.
    fn refresh(&self, request: &Authenticated<'_>) -> Result<Vec<u8>, Refusal> {
        let (message, allocation) = (request.message, request.allocation(self)?);
        request.understand(&[Lifetime::TYPE, RequestedAddressFamily::TYPE])?;
        if let Some(family) = optional::<RequestedAddressFamily>(message)?
            && (family.family() == AddressFamily::IPV4) != allocation.relayed.is_ipv4()
        {
            return Err(Refusal::PeerFamily);
        }
        let asked = optional::<Lifetime>(message)?.map(|lifetime| lifetime.seconds());
        let lifetime = if asked == Some(0) { Duration::ZERO } else { LIFETIME };
        allocation.set_expiry(Instant::now() + lifetime);
        if lifetime.is_zero() {
            self.forget(allocation);
        }
        Ok(success(message, &[&lifetime_attribute(lifetime)], &allocation.key))
    }

    /// RFC 8656, section 10.2.
    fn create_permission(&self, request: &Authenticated<'_>) -> Result<Vec<u8>, Refusal> {
        let (message, allocation) = (request.message, request.allocation(self)?);
        request.understand(&[XorPeerAddress::TYPE])?;
        let mut peers = Vec::new();
        for (_, raw) in message.iter_attributes() {
            if raw.get_type() == XorPeerAddress::TYPE {
                let peer = XorPeerAddress::from_raw_ref(&raw).map_err(|_| Refusal::BadRequest)?;
                let ip = peer.addr(message.transaction_id()).ip();
                self.admit(allocation, ip)?;
                peers.push(ip);
            }
        }
        match peers.len() {
            0 => Err(Refusal::BadRequest),
            1..=MOST_PEERS => {
                allocation
                    .with_bindings(|bindings| bindings.permit(&peers, Instant::now()))
                    .map_err(bind_refusal)?;
                Ok(success(message, &[], &allocation.key))
            }
            _ => Err(Refusal::Capacity),
        }
    }

    /// RFC 8656, section 12.2.
    fn bind_channel(&self, request: &Authenticated<'_>) -> Result<Vec<u8>, Refusal> {
        let (message, allocation) = (request.message, request.allocation(self)?);
        request.understand(&[XorPeerAddress::TYPE, ChannelNumber::TYPE])?;
        let number = message.attribute::<ChannelNumber>().map_err(|_| Refusal::BadRequest)?;
        let peer = message.attribute::<XorPeerAddress>().map_err(|_| Refusal::BadRequest)?;
        let (number, peer) = (number.channel(), peer.addr(message.transaction_id()));
        if !CHANNELS.contains(&number) {
            return Err(Refusal::BadRequest);
        }
        self.admit(allocation, peer.ip())?;
        if !self.rules.admits(peer) {
            return Err(Refusal::Forbidden);
        }
        allocation
            .with_bindings(|bindings| bindings.bind(number, peer, Instant::now()))
            .map_err(bind_refusal)?;
        Ok(success(message, &[], &allocation.key))
    }

    fn admit(&self, allocation: &Allocation, ip: IpAddr) -> Result<(), Refusal> {
        if !allocation.is_family_of(ip) {
            return Err(Refusal::PeerFamily);
        }
        self.rules.admit_ip(ip).map_err(|inadmissible| {
            tracing::debug!(%ip, %inadmissible, "peer refused");
            Refusal::Forbidden
        })
    }
}

impl Authenticated<'_> {
    /// The sender's allocation, which requests other than Allocate are about.
    fn allocation(&self, shared: &Shared) -> Result<&Arc<Allocation>, Refusal> {
        match &self.sender {
            Sender::Owner(allocation) => Ok(allocation),
            // RFC 8656, section 5: others keep their hands off somebody's allocation.
            Sender::User(_) if shared.allocation(self.from).is_some() => {
                Err(Refusal::WrongCredentials)
            }
            Sender::User(_) => Err(Refusal::AllocationMismatch),
        }
    }

    /// Refuses attributes that must be understood and are not (RFC 8489, section 6.3.1).
    fn understand(&self, types: &[AttributeType]) -> Result<(), Refusal> {
        let every = [Username::TYPE, Realm::TYPE, Nonce::TYPE, MessageIntegrity::TYPE];
        let unknown = unknown(self.message, &[types, &every, &[Fingerprint::TYPE]].concat());
        if unknown.is_empty() { Ok(()) } else { Err(Refusal::UnknownAttributes(unknown)) }
    }
}

/// The attributes that must be understood and are not among these; some of them, if there are many.
pub(super) fn unknown(message: &Message<'_>, known: &[AttributeType]) -> Vec<AttributeType> {
    const MOST_NAMED: usize = 4;
    message
        .iter_attributes()
        .map(|(_, attribute)| attribute.get_type())
        .filter(|kind| kind.comprehension_required() && !known.contains(kind))
        .take(MOST_NAMED)
        .collect()
}

/// An attribute that may be missing, but not malformed.
fn optional<'a, A: AttributeFromRaw<'a> + AttributeStaticType>(
    message: &'a Message<'a>,
) -> Result<Option<A>, Refusal> {
    if message.has_attribute(A::TYPE) {
        message.attribute::<A>().map(Some).map_err(|_| Refusal::BadRequest)
    } else {
        Ok(None)
    }
}

fn lifetime_attribute(lifetime: Duration) -> Lifetime {
    Lifetime::new(u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX))
}

/// The answer that tells an allocation.
fn allocated(message: &Message<'_>, allocation: &Allocation) -> Vec<u8> {
    let transaction = message.transaction_id();
    let left = allocation.expires_at().saturating_duration_since(Instant::now());
    // Half a second less than asked for is no reason to tell one less.
    let lifetime = lifetime_attribute(left + Duration::from_millis(500));
    let relayed = XorRelayedAddress::new(allocation.relayed, transaction);
    let mapped = XorMappedAddress::new(allocation.client, transaction);
    let key: &IntegrityKey = &allocation.key;
    success(message, &[&relayed, &lifetime, &mapped], key)
}

fn bind_refusal(error: BindError) -> Refusal {
    match error {
        BindError::Conflict => Refusal::BadRequest,
        BindError::Full => Refusal::Capacity,
    }
}

/// The address that this machine sends to `target` from. Nothing is sent.
fn source_towards(target: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}
