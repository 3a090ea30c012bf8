//! Unauthenticated Binding: asking a STUN server for our external address, and being such a server.

use std::net::SocketAddr;

use rand::Rng;

use super::alternates::{Change, Place};
use super::{Class, HEADER, Message, TransactionId, Writer, attribute, transaction_id};

/// Length of our plain requests, in bytes: that of the longest answer, which has the header and three
/// IPv6 addresses (XOR-MAPPED-ADDRESS, RESPONSE-ORIGIN, OTHER-ADDRESS).
pub const PLAIN_REQUEST: usize = HEADER + 3 * (ATTRIBUTE_HEADER + 20);

const ATTRIBUTE_HEADER: usize = 4;

/// A Binding request for any STUN server, padded to [`PLAIN_REQUEST`] bytes so that it is no use to
/// anybody who wants an answer sent elsewhere to be larger. Any server answers it: the padding is
/// comprehension-optional.
pub fn binding_request(rng: &mut (impl Rng + ?Sized)) -> (TransactionId, Vec<u8>) {
    let transaction = transaction_id(rng);
    (transaction, changed_request(transaction, Change::default()))
}

/// A Binding request, padded to [`PLAIN_REQUEST`] bytes too, whose answer shall come from elsewhere. A
/// server that cannot do that refuses it.
pub fn changed_request(transaction: TransactionId, change: Change) -> Vec<u8> {
    let writer = Writer::new(Class::Request, transaction);
    let (writer, used) = if change.any() {
        let value = change.value();
        (writer.attribute(attribute::CHANGE_REQUEST, &value), ATTRIBUTE_HEADER + value.len())
    } else {
        (writer, 0)
    };
    let padding = [0; PLAIN_REQUEST - HEADER - ATTRIBUTE_HEADER];
    writer.attribute(attribute::PADDING, &padding[used..]).finish()
}

/// Our external address, out of a server's success response to the request with this id. It is not
/// authenticated: whoever saw the request can have sent it.
pub fn mapped_address(response: &[u8], transaction: TransactionId) -> Option<SocketAddr> {
    let message = Message::parse(response).ok()?;
    (message.class() == Class::Success && message.transaction() == transaction)
        .then(|| message.xor_mapped_address())
        .flatten()
}

/// An answer to a plain request. It goes to where the request came from, whatever the request says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The datagram.
    pub bytes: Vec<u8>,
    /// From where it is to leave.
    pub change: Change,
}

/// The answer of a STUN server to a plain Binding request that came from `from`. A server that says
/// where the request came to ([`Place`]), and has another port at least, tells both and obeys
/// CHANGE-REQUEST (RFC 5780): 56 bytes for IPv4, 92 for IPv6, else 32 and 44. A request with unknown
/// comprehension-required attributes gets error 420 (RFC 8489, section 6.3.1), and so does a
/// CHANGE-REQUEST for what the server does not have. Anything that is no plain request, authenticated
/// ones included, gets nothing.
///
/// The source of a request may be a lie, so an answer longer than the request (RFC 8489 clients send
/// as little as 20 bytes) is given only if `may_amplify` says so; a [`PlainLimiter`] is meant to:
///
/// ```
/// use std::time::Instant;
/// use punchcast_protocol::stun::{PlainLimiter, answer_plain_binding};
///
/// let mut limiter = PlainLimiter::default();
/// let from = "192.0.2.1:4000".parse()?;
/// let request = b"\0\x01\0\0\x21\x12\xa4\x42twelve bytes";
/// let answer = answer_plain_binding(request, from, None, || limiter.admit(from, Instant::now()));
/// assert_eq!(answer.map(|answer| answer.bytes.len()), Some(32));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
///
/// [`PlainLimiter`]: super::PlainLimiter
pub fn answer_plain_binding(
    datagram: &[u8],
    from: SocketAddr,
    place: Option<&Place>,
    may_amplify: impl FnOnce() -> bool,
) -> Option<Answer> {
    let request = Message::parse(datagram).ok()?;
    let is_plain = request.class() == Class::Request
        && !request.has_integrity()
        && !request.has(attribute::USERNAME);
    if !is_plain {
        return None;
    }
    let transaction = request.transaction();
    let unknown = request.unknown_required();
    let change = Change::of(&request).filter(|change| {
        !change.any() || place.is_some_and(|place| place.origin(*change).is_some())
    });
    let answer = match change {
        _ if !unknown.is_empty() => refused(transaction, &unknown),
        None => refused(transaction, &[attribute::CHANGE_REQUEST]),
        Some(change) => Answer { bytes: success(transaction, from, place, change), change },
    };
    (answer.bytes.len() <= datagram.len() || may_amplify()).then_some(answer)
}

fn success(
    transaction: TransactionId,
    from: SocketAddr,
    place: Option<&Place>,
    change: Change,
) -> Vec<u8> {
    let mut writer = Writer::new(Class::Success, transaction).xor_mapped_address(from);
    let places = place.and_then(|place| Some((place.origin(change)?, place.other()?)));
    if let Some((origin, other)) = places {
        writer = writer
            .address(attribute::RESPONSE_ORIGIN, origin)
            .address(attribute::OTHER_ADDRESS, other);
    }
    writer.finish()
}

/// Error 420 with as many of the types as a short answer has room for.
fn refused(transaction: TransactionId, unknown: &[u16]) -> Answer {
    const ERROR_CODE: u16 = 0x0009;
    const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
    const MAX_NAMED: usize = 4;
    let named: Vec<u8> =
        unknown.iter().take(MAX_NAMED).flat_map(|value| value.to_be_bytes()).collect();
    let bytes = Writer::new(Class::Error, transaction)
        .attribute(ERROR_CODE, &[0, 0, 4, 20])
        .attribute(UNKNOWN_ATTRIBUTES, &named)
        .finish();
    Answer { bytes, change: Change::default() }
}
