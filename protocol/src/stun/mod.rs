//! STUN (RFC 8489) as far as it is needed here: Binding requests and success responses, plain and
//! with a short-term credential. A thin typed layer over `stun-types`.
//!
//! - [`is_stun`] tells a whole STUN datagram from anything else.
//! - [`binding_request`] asks any STUN server for our external address, [`mapped_address`] reads its
//!   answer, and [`answer_plain_binding`] is the other end of it, with a [`PlainLimiter`] for
//!   requests whose answer is larger than they are.
//! - [`Place`] and [`Change`] are what a server with further ports or addresses adds, so that clients
//!   find out what their NAT does (RFC 5780); [`crate::behaviour`] is such a client.
//! - [`Message`] and [`Writer`] are the parts that [`crate::opening`] makes its packets of.
//!
//! Only what came in one whole datagram of at most [`MAX_DATAGRAM`] bytes is looked at. Integrity is
//! MESSAGE-INTEGRITY (HMAC-SHA1, as ICE has it, RFC 8445, section 7.1), compared in constant time:
//! `stun-types` compares through `subtle`. MESSAGE-INTEGRITY-SHA256 is not understood.

mod alternates;
mod key;
mod limit;
mod plain;
mod writer;

use std::net::{IpAddr, SocketAddr};

use stun_types::attribute::{
    Attribute, AttributeStaticType, AttributeType, Fingerprint, MessageIntegrity, XorMappedAddress,
};
use stun_types::message::{BINDING, IntegrityAlgorithm, MessageClass};

pub use alternates::{Change, Place};
pub use key::Key;
pub use limit::PlainLimiter;
pub use plain::{
    Answer, PLAIN_REQUEST, answer_plain_binding, binding_request, changed_request, mapped_address,
};
pub use stun_types::message::TransactionId;
pub use writer::{Writer, transaction_id};

use crate::address::canonical;
use crate::size::MAX_DATAGRAM;

/// The STUN header (RFC 8489, section 5).
pub const HEADER: usize = 20;

/// Attribute types that this project writes (RFC 8489, section 18.3; RFC 8445, section 20.2; RFC 5780,
/// section 9.1). Those from 0x8000 on are comprehension-optional: who does not know them skips them.
pub mod attribute {
    /// CHANGE-REQUEST: the answer shall come from another address or port.
    pub const CHANGE_REQUEST: u16 = 0x0003;
    /// USERNAME.
    pub const USERNAME: u16 = 0x0006;
    /// PRIORITY: what a peer-reflexive candidate made by this request is worth.
    pub const PRIORITY: u16 = 0x0024;
    /// USE-CANDIDATE: the controlling side nominates the pair.
    pub const USE_CANDIDATE: u16 = 0x0025;
    /// RESPONSE-ORIGIN: where the answer was sent from, as the server knows itself.
    pub const RESPONSE_ORIGIN: u16 = 0x802B;
    /// OTHER-ADDRESS: where the server can be asked too.
    pub const OTHER_ADDRESS: u16 = 0x802C;
    /// How manieth nomination of the introduction it is, 32 bits. Later ones win (as in
    /// draft-thatcher-ice-renomination, whose number this is).
    pub const NOMINATION: u16 = 0xC001;
    /// The introduction an answer belongs to: answers carry no USERNAME (RFC 8489, section 9.1.3).
    pub const INTRODUCTION: u16 = 0xC0E1;
    /// Media is wanted at the source of this check: the receiving socket is not the one of the path.
    pub const MEDIA: u16 = 0xC0E3;
    /// Zeros that make a request at least as long as its answer. RFC 5780's PADDING would not do: it
    /// is comprehension-required, and servers that do not know it refuse the request.
    pub const PADDING: u16 = 0xC0E2;
}

/// Whether `datagram` is one whole STUN message, by its header alone: class and method bits, magic
/// cookie, and a length that fits (RFC 8489, section 5).
pub fn is_stun(datagram: &[u8]) -> bool {
    const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    let Some((header, attributes)) = datagram.split_first_chunk::<HEADER>() else {
        return false;
    };
    let [first, _, high, low, cookie @ ..] = header;
    datagram.len() <= MAX_DATAGRAM
        && *first < 4
        && usize::from(u16::from_be_bytes([*high, *low])) == attributes.len()
        && attributes.len().is_multiple_of(4)
        && cookie.starts_with(&MAGIC_COOKIE)
}

/// Why a datagram is no STUN message that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The header says that it is something else.
    #[error("not a STUN message of at most {MAX_DATAGRAM} bytes")]
    NotStun,
    /// An attribute is cut short, or FINGERPRINT does not match.
    #[error("malformed STUN message")]
    Malformed,
}

/// Why a message is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntegrityError {
    /// There is no MESSAGE-INTEGRITY.
    #[error("STUN message without MESSAGE-INTEGRITY")]
    Missing,
    /// MESSAGE-INTEGRITY was made with another key, or over another message.
    #[error("MESSAGE-INTEGRITY does not match")]
    Mismatch,
}

/// Request, success and the rest (RFC 8489, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Asks for an answer.
    Request,
    /// Answers a request.
    Success,
    /// Refuses a request.
    Error,
    /// Asks for nothing.
    Indication,
}

/// A well-formed Binding message whose FINGERPRINT, if there is one, matches. What it says is not
/// authenticated until [`Message::verify`] succeeded.
pub struct Message<'a> {
    inner: stun_types::message::Message<'a>,
}

impl<'a> Message<'a> {
    /// Reads one datagram.
    ///
    /// # Errors
    ///
    /// Says whether it is no STUN at all, or a broken or different STUN message.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ParseError> {
        if !is_stun(datagram) {
            return Err(ParseError::NotStun);
        }
        match stun_types::message::Message::from_bytes(datagram) {
            Ok(inner) if inner.has_method(BINDING) => Ok(Self { inner }),
            _ => Err(ParseError::Malformed),
        }
    }

    /// What the message is for.
    pub fn class(&self) -> Class {
        match self.inner.class() {
            MessageClass::Request => Class::Request,
            MessageClass::Success => Class::Success,
            MessageClass::Error => Class::Error,
            MessageClass::Indication => Class::Indication,
        }
    }

    /// The number that joins an answer to its request.
    pub fn transaction(&self) -> TransactionId {
        self.inner.transaction_id()
    }

    /// The first attribute of this type, if it is there and exactly `N` bytes long. Attributes behind
    /// MESSAGE-INTEGRITY are not seen.
    pub fn attribute<const N: usize>(&self, attribute: u16) -> Option<[u8; N]> {
        let raw = self.inner.raw_attribute(AttributeType::new(attribute))?;
        <[u8; N]>::try_from(&*raw.value).ok()
    }

    /// Whether there is an attribute of this type.
    pub fn has(&self, attribute: u16) -> bool {
        self.inner.has_attribute(AttributeType::new(attribute))
    }

    /// An attribute in the form of MAPPED-ADDRESS (RFC 8489, section 14.1), in canonical form.
    pub fn address(&self, attribute: u16) -> Option<SocketAddr> {
        /// Zero, then the family.
        const V4: [u8; 2] = [0, 1];
        const V6: [u8; 2] = [0, 2];
        let (ip, port) = if let Some([f, g, high, low, ip @ ..]) = self.attribute::<8>(attribute) {
            ([f, g] == V4).then_some((IpAddr::from(ip), [high, low]))?
        } else {
            let [f, g, high, low, ip @ ..] = self.attribute::<20>(attribute)?;
            ([f, g] == V6).then_some((IpAddr::from(ip), [high, low]))?
        };
        Some(canonical(SocketAddr::new(ip, u16::from_be_bytes(port))))
    }

    /// XOR-MAPPED-ADDRESS in canonical form.
    pub fn xor_mapped_address(&self) -> Option<SocketAddr> {
        let attribute = self.inner.attribute::<XorMappedAddress>().ok()?;
        Some(canonical(attribute.addr(self.transaction())))
    }

    /// Whether the message claims to be authenticated.
    pub fn has_integrity(&self) -> bool {
        self.has(MessageIntegrity::TYPE.value())
    }

    /// Checks MESSAGE-INTEGRITY in constant time.
    ///
    /// # Errors
    ///
    /// Says whether it is missing or wrong.
    pub fn verify(&self, key: &Key) -> Result<(), IntegrityError> {
        if !self.has_integrity() {
            return Err(IntegrityError::Missing);
        }
        match self.inner.validate_integrity_with_key(key.inner()) {
            Ok(IntegrityAlgorithm::Sha1) => Ok(()),
            _ => Err(IntegrityError::Mismatch),
        }
    }

    /// Comprehension-required attributes (below 0x8000) that nobody here understands.
    fn unknown_required(&self) -> Vec<u16> {
        let known = [
            attribute::CHANGE_REQUEST,
            attribute::USERNAME,
            attribute::PRIORITY,
            attribute::USE_CANDIDATE,
            MessageIntegrity::TYPE.value(),
            Fingerprint::TYPE.value(),
        ];
        self.inner
            .iter_attributes()
            .map(|(_, attribute)| attribute.get_type().value())
            .filter(|value| *value < 0x8000 && !known.contains(value))
            .collect()
    }
}

impl std::fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("class", &self.class())
            .field("transaction", &self.transaction())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
