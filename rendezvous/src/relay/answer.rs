//! Answers to requests: successes, and refusals with their error codes (RFC 8489, section 14.8; RFC 8656,
//! section 19).

use stun_types::attribute::{AttributeType, ErrorCode, Nonce, Realm, UnknownAttributes};
use stun_types::message::{
    IntegrityAlgorithm, IntegrityKey, Message, MessageWrite, MessageWriteExt, MessageWriteVec,
};
use stun_types::prelude::AttributeWrite;

use super::credentials::REALM;
use crate::metrics::RelayRejection;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 400.
    BadRequest,
    /// 401 for a request without credentials, as the first one of every client is.
    Challenge,
    /// 401 for wrong or expired credentials.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 420, with the attributes that are not understood.
    UnknownAttributes(Vec<AttributeType>),
    /// 437.
    AllocationMismatch,
    /// 438.
    StaleNonce,
    /// 440.
    Family,
    /// 441.
    WrongCredentials,
    /// 442.
    Transport,
    /// 443.
    PeerFamily,
    /// 486.
    Quota,
    /// 508.
    Capacity,
}

impl Refusal {
    /// The error code.
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::BadRequest => ErrorCode::BAD_REQUEST,
            Self::Challenge | Self::Unauthorized => ErrorCode::UNAUTHORIZED,
            Self::Forbidden => ErrorCode::FORBIDDEN,
            Self::UnknownAttributes(_) => ErrorCode::UNKNOWN_ATTRIBUTE,
            Self::AllocationMismatch => ErrorCode::ALLOCATION_MISMATCH,
            Self::StaleNonce => ErrorCode::STALE_NONCE,
            Self::Family => ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED,
            Self::WrongCredentials => ErrorCode::WRONG_CREDENTIALS,
            Self::Transport => ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL,
            Self::PeerFamily => ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH,
            Self::Quota => ErrorCode::ALLOCATION_QUOTA_REACHED,
            Self::Capacity => ErrorCode::INSUFFICIENT_CAPACITY,
        }
    }

    /// What is counted. Challenges and fresh nonces belong to the course of things.
    pub(super) fn rejection(&self) -> Option<RelayRejection> {
        match self {
            Self::Challenge | Self::StaleNonce => None,
            Self::Unauthorized | Self::WrongCredentials => Some(RelayRejection::Unauthorized),
            Self::Forbidden => Some(RelayRejection::Forbidden),
            Self::Quota => Some(RelayRejection::Quota),
            Self::Capacity => Some(RelayRejection::Capacity),
            Self::BadRequest
            | Self::UnknownAttributes(_)
            | Self::AllocationMismatch
            | Self::Family
            | Self::Transport
            | Self::PeerFamily => Some(RelayRejection::Request),
        }
    }

    /// The answer to a request whose sender has not proved who it is. `nonce` is for the next try.
    pub(super) fn unauthenticated(&self, request: &Message<'_>, nonce: &str) -> Vec<u8> {
        let mut answer = self.begin(request);
        if matches!(self, Self::Challenge | Self::Unauthorized | Self::StaleNonce) {
            let realm = Realm::new(REALM).expect("a short realm");
            let nonce = Nonce::new(nonce).expect("a short nonce");
            answer.push_attribute_unchecked(&realm);
            answer.push_attribute_unchecked(&nonce);
        }
        answer.finish()
    }

    /// The answer to a request that this key authenticated.
    pub(super) fn authenticated(&self, request: &Message<'_>, key: &IntegrityKey) -> Vec<u8> {
        let mut answer = self.begin(request);
        if let Self::UnknownAttributes(types) = self {
            answer.push_attribute_unchecked(&UnknownAttributes::new(types));
        }
        sign(answer, key)
    }

    fn begin(&self, request: &Message<'_>) -> MessageWriteVec {
        let mut answer = Message::builder_error(request, MessageWriteVec::with_capacity(128));
        let code = ErrorCode::builder(self.code()).build().expect("a code between 300 and 699");
        answer.push_attribute_unchecked(&code);
        answer
    }
}

/// The answer to a request that was done.
pub(super) fn success(
    request: &Message<'_>,
    attributes: &[&dyn AttributeWrite],
    key: &IntegrityKey,
) -> Vec<u8> {
    let mut answer = Message::builder_success(request, MessageWriteVec::with_capacity(128));
    for attribute in attributes {
        answer.push_attribute_unchecked(*attribute);
    }
    sign(answer, key)
}

fn sign(mut answer: MessageWriteVec, key: &IntegrityKey) -> Vec<u8> {
    answer
        .add_message_integrity_with_key(key, IntegrityAlgorithm::Sha1)
        .expect("no integrity was added before, and a vector has room");
    answer.finish()
}
