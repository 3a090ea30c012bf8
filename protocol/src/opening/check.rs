//! Opening packets and their answers on the wire: authenticated STUN Binding.
//!
//! A request says whose it is in USERNAME: the introduction's id in 16 hexadecimal digits, `:`, and
//! `v` or `b` for the role of its sender, so that a request sent back to its sender is no request to
//! it. An answer has no USERNAME (RFC 8489, section 9.1.3) and names the introduction in an attribute
//! of its own, so that whoever receives for many agents can tell whose it is.

use std::net::SocketAddr;

use super::credentials::{IntroductionId, Role};
use crate::candidate::Priority;
use crate::stun::{
    Class, IntegrityError, Key, Message, ParseError, TransactionId, Writer, attribute,
};

/// Length of every opening packet and check, in bytes. No answer is longer.
pub const CHECK_LENGTH: usize = 96;

/// Length of an answer with an IPv6 address. A check that is shorter is not answered.
const LONGEST_ANSWER: usize = 88;

/// USERNAME's length.
const USERNAME: usize = 18;

/// A connectivity check: an opening packet, and later a keepalive and question for consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) transaction: TransactionId,
    pub(super) sender: Role,
    /// What a peer-reflexive candidate made by this check is worth.
    pub(super) priority: Priority,
    /// Which nomination the check carries. None is 0.
    pub(super) nomination: Option<u32>,
    /// Media is wanted where the check comes from, and nowhere else. Never with a nomination.
    pub(super) wants_media: bool,
}

/// The success response to a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) transaction: TransactionId,
    /// Where the check came from.
    pub(super) seen: SocketAddr,
}

/// An authenticated message of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FromPeer {
    Check(Check),
    Answer(Answer),
}

impl Check {
    pub(super) fn emit(&self, id: IntroductionId, key: &Key) -> Vec<u8> {
        let writer = Writer::new(Class::Request, self.transaction)
            .attribute(attribute::USERNAME, username(id, self.sender).as_bytes())
            .attribute(attribute::PRIORITY, &self.priority.0.to_be_bytes());
        let writer = match self.nomination {
            Some(nomination) => writer
                .attribute(attribute::USE_CANDIDATE, &[])
                .attribute(attribute::NOMINATION, &nomination.to_be_bytes()),
            None if self.wants_media => {
                writer.attribute(attribute::MEDIA, &[]).attribute(attribute::PADDING, &[0; 4])
            }
            None => writer.attribute(attribute::PADDING, &[0; 8]),
        };
        writer.finish_with(key)
    }
}

impl Answer {
    pub(super) fn emit(&self, id: IntroductionId, key: &Key) -> Vec<u8> {
        Writer::new(Class::Success, self.transaction)
            .xor_mapped_address(self.seen)
            .attribute(attribute::INTRODUCTION, &id.0)
            .finish_with(key)
    }
}

fn username(id: IntroductionId, sender: Role) -> String {
    let role = match sender {
        Role::Viewer => 'v',
        Role::Broadcaster => 'b',
    };
    format!("{id}:{role}")
}

fn parse_username(username: &[u8; USERNAME]) -> Option<(IntroductionId, Role)> {
    let text = std::str::from_utf8(username).ok()?;
    let (id, role) = text.split_once(':')?;
    let role = match role {
        "v" => Role::Viewer,
        "b" => Role::Broadcaster,
        _ => return None,
    };
    let is_canonical = id.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let id = u64::from_str_radix(id, 16).ok().filter(|_| is_canonical)?;
    Some((IntroductionId(id.to_be_bytes()), role))
}

/// Which introduction a datagram says that it belongs to, checked by nothing yet: to find the agent
/// to hand it to. `None` for anything but a check or an answer.
pub fn username_of(datagram: &[u8]) -> Option<IntroductionId> {
    let message = Message::parse(datagram).ok()?;
    match message.class() {
        Class::Request => {
            let username = message.attribute::<USERNAME>(attribute::USERNAME)?;
            parse_username(&username).map(|(id, _)| id)
        }
        Class::Success => message.attribute(attribute::INTRODUCTION).map(IntroductionId),
        Class::Error | Class::Indication => None,
    }
}

/// Why a datagram is no message of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotFromPeer {
    /// No STUN message, or a broken one.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// STUN, but neither a check nor an answer to one.
    #[error("neither a connectivity check nor an answer to one")]
    OtherMessage,
    /// It is a check without the padding that keeps answers from being longer than their checks.
    #[error("a check of {actual} bytes; one is as long as an answer, {LONGEST_ANSWER} or more")]
    TooShort {
        /// Bytes of the datagram.
        actual: usize,
    },
    /// It belongs to another introduction.
    #[error("belongs to another introduction")]
    OtherIntroduction,
    /// It is a check of our own that came back.
    #[error("our own check came back")]
    Reflected,
    /// It is not authentic.
    #[error(transparent)]
    Integrity(#[from] IntegrityError),
}

/// Reads a message of the peer of `own`, and believes nothing in it before its integrity is checked.
pub(super) fn parse(
    datagram: &[u8],
    id: IntroductionId,
    own: Role,
    key: &Key,
) -> Result<FromPeer, NotFromPeer> {
    let message = Message::parse(datagram)?;
    let transaction = message.transaction();
    match message.class() {
        Class::Request => {
            let (named, sender) = message
                .attribute::<USERNAME>(attribute::USERNAME)
                .and_then(|username| parse_username(&username))
                .ok_or(NotFromPeer::OtherMessage)?;
            if named != id {
                return Err(NotFromPeer::OtherIntroduction);
            }
            if sender == own {
                return Err(NotFromPeer::Reflected);
            }
            if datagram.len() < LONGEST_ANSWER {
                return Err(NotFromPeer::TooShort { actual: datagram.len() });
            }
            message.verify(key)?;
            let number = |of| message.attribute(of).map(u32::from_be_bytes);
            let nomination = number(attribute::NOMINATION)
                .filter(|nomination| *nomination > 0 && message.has(attribute::USE_CANDIDATE));
            let priority = Priority(number(attribute::PRIORITY).unwrap_or_default());
            let wants_media = nomination.is_none() && message.has(attribute::MEDIA);
            Ok(FromPeer::Check(Check { transaction, sender, priority, nomination, wants_media }))
        }
        Class::Success => {
            let named = message.attribute(attribute::INTRODUCTION).map(IntroductionId);
            match named {
                None => return Err(NotFromPeer::OtherMessage),
                Some(named) if named != id => return Err(NotFromPeer::OtherIntroduction),
                Some(_) => message.verify(key)?,
            }
            let seen = message.xor_mapped_address().ok_or(NotFromPeer::OtherMessage)?;
            Ok(FromPeer::Answer(Answer { transaction, seen }))
        }
        Class::Error | Class::Indication => Err(NotFromPeer::OtherMessage),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opening::Credentials;
    use proptest::prelude::*;

    fn credentials() -> Credentials {
        Credentials { id: IntroductionId(*b"\0\x01intro!"), secret: *b"sixteen byte key" }
    }

    fn role() -> impl Strategy<Value = Role> {
        prop_oneof![Just(Role::Viewer), Just(Role::Broadcaster)]
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        (any::<std::net::IpAddr>(), any::<u16>())
            .prop_map(|address| crate::address::canonical(address.into()))
    }

    #[test]
    fn checks_shorter_than_answers_are_refused() {
        let credentials = credentials();
        let (id, key) = (credentials.id, credentials.key());
        let short = Writer::new(Class::Request, 1.into())
            .attribute(attribute::USERNAME, username(id, Role::Viewer).as_bytes())
            .finish_with(&key);
        let refused = Err(NotFromPeer::TooShort { actual: short.len() });
        assert_eq!(parse(&short, id, Role::Broadcaster, &key), refused);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn checks_come_back_as_sent(
            transaction: u128, sender in role(), priority: u32, nomination in 0u32.., media: bool
        ) {
            let check = Check {
                transaction: transaction.into(),
                sender,
                priority: Priority(priority),
                nomination: Some(nomination).filter(|nomination| *nomination > 0 && !media),
                wants_media: media,
            };
            let credentials = credentials();
            let (id, key) = (credentials.id, credentials.key());
            let datagram = check.emit(id, &key);
            prop_assert_eq!(datagram.len(), CHECK_LENGTH);
            prop_assert_eq!(username_of(&datagram), Some(id));
            prop_assert_eq!(parse(&datagram, id, sender.peer(), &key), Ok(FromPeer::Check(check)));
            prop_assert_eq!(parse(&datagram, id, sender, &key), Err(NotFromPeer::Reflected));
            let other = IntroductionId([9; 8]);
            prop_assert_eq!(
                parse(&datagram, other, sender.peer(), &key),
                Err(NotFromPeer::OtherIntroduction)
            );
        }

        #[test]
        fn answers_come_back_as_sent(transaction: u128, seen in address(), own in role()) {
            let answer = Answer { transaction: transaction.into(), seen };
            let credentials = credentials();
            let (id, key) = (credentials.id, credentials.key());
            let datagram = answer.emit(id, &key);
            let shorter = if seen.is_ipv4() { 12 } else { 0 };
            prop_assert_eq!(datagram.len(), LONGEST_ANSWER - shorter);
            prop_assert_eq!(username_of(&datagram), Some(id));
            prop_assert_eq!(parse(&datagram, id, own, &key), Ok(FromPeer::Answer(answer)));
            let wrong = Key::short_term("another");
            prop_assert_eq!(
                parse(&datagram, id, own, &wrong),
                Err(NotFromPeer::Integrity(IntegrityError::Mismatch))
            );
        }
    }
}
