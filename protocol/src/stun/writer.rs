//! Writes Binding messages.

use std::net::{IpAddr, SocketAddr};

use rand::{Rng, RngExt};
use stun_types::attribute::{AttributeType, RawAttribute, XorMappedAddress};
use stun_types::message::{
    BINDING, IntegrityAlgorithm, MessageClass, MessageType, MessageWrite, MessageWriteExt,
    MessageWriteVec,
};

use super::{Class, Key, TransactionId};
use crate::address::canonical;
use crate::size::MAX_DATAGRAM;

/// A fresh transaction id: 96 unpredictable bits, so that only who received the request can answer.
pub fn transaction_id(rng: &mut (impl Rng + ?Sized)) -> TransactionId {
    rng.random::<u128>().into()
}

/// A Binding message under construction; [`Writer::finish`] or [`Writer::finish_with`] ends it.
pub struct Writer {
    inner: MessageWriteVec,
    transaction: TransactionId,
}

impl Writer {
    /// An empty message.
    pub fn new(class: Class, transaction: TransactionId) -> Self {
        let class = match class {
            Class::Request => MessageClass::Request,
            Class::Success => MessageClass::Success,
            Class::Error => MessageClass::Error,
            Class::Indication => MessageClass::Indication,
        };
        let kind = MessageType::from_class_method(class, BINDING);
        let writer = MessageWriteVec::with_capacity(128);
        Self {
            inner: stun_types::message::Message::builder(kind, transaction, writer),
            transaction,
        }
    }

    /// Adds one attribute. Values here are short constants of this crate, at most
    /// [`MAX_DATAGRAM`] bytes.
    pub fn attribute(mut self, attribute: u16, value: &[u8]) -> Self {
        debug_assert!(value.len() < MAX_DATAGRAM, "attribute {attribute:#06x} fits a datagram");
        self.inner
            .push_attribute_unchecked(&RawAttribute::new(AttributeType::new(attribute), value));
        self
    }

    /// Adds an attribute in the form of MAPPED-ADDRESS (RFC 8489, section 14.1), in canonical form.
    pub fn address(self, attribute: u16, address: SocketAddr) -> Self {
        let address = canonical(address);
        let mut value = vec![0, if address.is_ipv4() { 1 } else { 2 }];
        value.extend(address.port().to_be_bytes());
        match address.ip() {
            IpAddr::V4(ip) => value.extend(ip.octets()),
            IpAddr::V6(ip) => value.extend(ip.octets()),
        }
        self.attribute(attribute, &value)
    }

    /// Adds XOR-MAPPED-ADDRESS, in canonical form.
    pub fn xor_mapped_address(mut self, address: SocketAddr) -> Self {
        let attribute = XorMappedAddress::new(canonical(address), self.transaction);
        self.inner.push_attribute_unchecked(&attribute);
        self
    }

    /// The message without authentication.
    pub fn finish(self) -> Vec<u8> {
        self.inner.finish()
    }

    /// The message with MESSAGE-INTEGRITY and FINGERPRINT.
    pub fn finish_with(mut self, key: &Key) -> Vec<u8> {
        self.inner
            .add_message_integrity_with_key(key.inner(), IntegrityAlgorithm::Sha1)
            .expect("no integrity was added before, and a vector has room");
        self.inner.add_fingerprint().expect("no fingerprint was added before");
        self.inner.finish()
    }
}
