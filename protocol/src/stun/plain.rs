//! Unauthenticated Binding: asking a STUN server for our external address, and being such a server.

use std::net::SocketAddr;

use rand::Rng;

use super::{Class, HEADER, Message, TransactionId, Writer, attribute, transaction_id};

/// Length of our plain requests, in bytes: that of the longest answer, which has the header and one
/// XOR-MAPPED-ADDRESS with an IPv6 address.
pub const PLAIN_REQUEST: usize = HEADER + ATTRIBUTE_HEADER + 20;

const ATTRIBUTE_HEADER: usize = 4;

/// A Binding request for any STUN server, padded to [`PLAIN_REQUEST`] bytes so that it is no use to
/// anybody who wants an answer sent elsewhere to be larger. Any server answers it: the padding is
/// comprehension-optional.
pub fn binding_request(rng: &mut (impl Rng + ?Sized)) -> (TransactionId, Vec<u8>) {
    let transaction = transaction_id(rng);
    let padding = [0; PLAIN_REQUEST - HEADER - ATTRIBUTE_HEADER];
    let request =
        Writer::new(Class::Request, transaction).attribute(attribute::PADDING, &padding).finish();
    (transaction, request)
}

/// Our external address, out of a server's success response to the request with this id. It is not
/// authenticated: whoever saw the request can have sent it.
pub fn mapped_address(response: &[u8], transaction: TransactionId) -> Option<SocketAddr> {
    let message = Message::parse(response).ok()?;
    (message.class() == Class::Success && message.transaction() == transaction)
        .then(|| message.xor_mapped_address())
        .flatten()
}

/// The answer of a STUN server to a plain Binding request that came from `from`: 32 bytes for IPv4,
/// 44 for IPv6. A request with unknown comprehension-required attributes gets error 420
/// (RFC 8489, section 6.3.1). Anything that is no plain request, authenticated ones included, gets
/// nothing.
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
/// let answer = answer_plain_binding(request, from, || limiter.admit(from, Instant::now()));
/// assert_eq!(answer.map(|bytes| bytes.len()), Some(32));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
///
/// [`PlainLimiter`]: super::PlainLimiter
pub fn answer_plain_binding(
    datagram: &[u8],
    from: SocketAddr,
    may_amplify: impl FnOnce() -> bool,
) -> Option<Vec<u8>> {
    let request = Message::parse(datagram).ok()?;
    let is_plain = request.class() == Class::Request
        && !request.has_integrity()
        && !request.has(attribute::USERNAME);
    if !is_plain {
        return None;
    }
    let unknown = request.unknown_required();
    let answer = if unknown.is_empty() {
        Writer::new(Class::Success, request.transaction()).xor_mapped_address(from).finish()
    } else {
        unknown_attributes(request.transaction(), &unknown)
    };
    (answer.len() <= datagram.len() || may_amplify()).then_some(answer)
}

/// Error 420 with as many of the types as a short answer has room for.
fn unknown_attributes(transaction: TransactionId, unknown: &[u16]) -> Vec<u8> {
    const ERROR_CODE: u16 = 0x0009;
    const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
    const MAX_NAMED: usize = 4;
    let named: Vec<u8> =
        unknown.iter().take(MAX_NAMED).flat_map(|value| value.to_be_bytes()).collect();
    Writer::new(Class::Error, transaction)
        .attribute(ERROR_CODE, &[0, 0, 4, 20])
        .attribute(UNKNOWN_ATTRIBUTES, &named)
        .finish()
}
