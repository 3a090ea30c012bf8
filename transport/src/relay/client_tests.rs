//! An hour with a relay that answers at once, in no time.

use turn_client_proto::types::attribute::{Lifetime, XorRelayedAddress};
use turn_client_proto::types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH};
use turn_client_proto::types::stun::attribute::{MessageIntegrity, Nonce, Realm};
use turn_client_proto::types::stun::message::{
    IntegrityAlgorithm, LongTermKeyCredentials, MessageWriteExt, MessageWriteVec, Method,
};
use turn_client_proto::types::stun::prelude::{AttributeStaticType, MessageWrite};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A relay's lifetimes (RFC 8656): 10 minutes, and 5 for a permission.
const ALLOCATION: Duration = Duration::from_secs(600);
const PERMISSION: Duration = Duration::from_secs(300);

/// What a relay would be, were it only asked good things.
struct Server {
    /// A new one makes the old one stale.
    nonce: String,
    /// It knows nothing of allocations any more.
    forgetful: bool,
    /// Every request answered: when and what.
    done: Vec<(Instant, Method)>,
}

impl Server {
    fn answer(&mut self, request: &[u8], now: Instant) -> Option<Vec<u8>> {
        let request = Message::from_bytes(request).expect("well-formed");
        if !request.has_class(MessageClass::Request) {
            return None;
        }
        let nonce = request.attribute::<Nonce>().map(|nonce| nonce.nonce().to_owned());
        let refusal = if !request.has_attribute(MessageIntegrity::TYPE) {
            ErrorCode::UNAUTHORIZED
        } else if nonce.expect("a nonce") != self.nonce {
            ErrorCode::STALE_NONCE
        } else if self.forgetful {
            ErrorCode::ALLOCATION_MISMATCH
        } else {
            0
        };
        let writer = MessageWriteVec::new();
        let mut answer = if refusal == 0 {
            self.done.push((now, request.method()));
            Message::builder_success(&request, writer)
        } else {
            Message::builder_error(&request, writer)
        };
        if refusal != 0 {
            let error = ErrorCode::builder(refusal).build().expect("a code");
            answer.push_attribute_unchecked(&error);
            answer.push_attribute_unchecked(&Realm::new("r").expect("short"));
            answer.push_attribute_unchecked(&Nonce::new(&self.nonce).expect("short"));
        }
        if request.has_method(ALLOCATE) {
            let relayed = XorRelayedAddress::new(address(9), request.transaction_id());
            answer.push_attribute_unchecked(&relayed);
        }
        if request.has_method(ALLOCATE) || request.has_method(REFRESH) {
            answer.push_attribute_unchecked(&Lifetime::new(600));
        }
        if ![ErrorCode::UNAUTHORIZED, ErrorCode::STALE_NONCE].contains(&refusal) {
            let credentials =
                LongTermKeyCredentials::new("user".into(), "password".into(), "r".into());
            let key = credentials.make_key(IntegrityAlgorithm::Sha1);
            answer.add_message_integrity_with_key(&key, IntegrityAlgorithm::Sha1).expect("room");
        }
        Some(answer.finish())
    }

    /// Longest time without this request being done, from its first on.
    fn longest_gap(&self, method: Method, end: Instant) -> Duration {
        let done = self.done.iter().filter(|(_, done)| *done == method).map(|(at, _)| *at);
        let mut times: Vec<Instant> = done.collect();
        assert!(!times.is_empty(), "{method} was never asked for");
        times.push(end);
        times.windows(2).map(|pair| pair[1] - pair[0]).max().expect("two times")
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

fn client(now: Instant) -> (Client, Server) {
    let access = RelayAccess {
        server: address(3478),
        username: "user".into(),
        password: "password".into(),
        family: RelayFamily::V4,
    };
    let server = Server { nonce: "first".into(), forgetful: false, done: Vec::new() };
    (Client::new(&access, address(1), now), server)
}

/// Lets the two talk until `end`, or until it is over.
fn talk(client: &mut Client, server: &mut Server, mut now: Instant, end: Instant) {
    while now < end {
        while let Some(datagram) = client.poll_transmit(now) {
            if let Some(answer) = server.answer(&datagram, now) {
                assert_eq!(client.handle(&answer, now), None);
            }
        }
        let Some(wait) = client.poll(now) else { return };
        now += wait.max(Duration::from_millis(1));
    }
}

#[test]
fn everything_is_renewed_in_time() {
    let start = Instant::now();
    let (mut client, mut server) = client(start);
    client.permit(address(2), start);
    assert!(client.wrap(b"too early", address(2), start).is_none());
    let mut now = start;
    for minutes in 1..=60 {
        let next = start + minutes * MINUTE;
        talk(&mut client, &mut server, now, next);
        now = next;
        if minutes % 10 == 0 {
            server.nonce = format!("of minute {minutes}");
        }
    }
    assert_eq!(*client.status(), Status::Allocated(address(9)));
    let wrapped = client.wrap(b"word", address(2), now).expect("permitted");
    assert_eq!(wrapped, b"\x40\x00\x00\x04word", "ChannelData");
    assert_eq!(client.handle(&wrapped, now), Some((address(2), 4..8)));
    assert!(client.wrap(b"word", SocketAddr::from(([192, 0, 2, 9], 2)), now).is_none());

    assert!(server.longest_gap(REFRESH, now) < ALLOCATION);
    assert!(server.longest_gap(CHANNEL_BIND, now) < ALLOCATION);
    assert!(server.longest_gap(CREATE_PERMISSION, now) < PERMISSION);
}

#[test]
fn a_relay_that_forgot_is_noticed() {
    let start = Instant::now();
    let (mut client, mut server) = client(start);
    client.permit(address(2), start);
    talk(&mut client, &mut server, start, start + MINUTE);
    assert_eq!(*client.status(), Status::Allocated(address(9)));
    server.forgetful = true;
    server.nonce = "of another life".into();
    talk(&mut client, &mut server, start + MINUTE, start + 10 * MINUTE);
    assert_eq!(*client.status(), Status::Failed(RelayError::Lost { server: address(3478) }));
}

#[test]
fn a_relay_that_was_dropped_is_told() {
    let start = Instant::now();
    let (mut client, mut server) = client(start);
    talk(&mut client, &mut server, start, start + MINUTE);
    let now = start + MINUTE;
    client.delete(now);
    let refresh = client.poll_transmit(now).expect("at once");
    let message = Message::from_bytes(&refresh).expect("well-formed");
    assert!(message.has_method(REFRESH));
    assert_eq!(message.attribute::<Lifetime>().expect("a lifetime").seconds(), 0);
}
