//! The demultiplexer: RFC 7983's table, as RFC 9443 changed it.

use punchcast_protocol::demux::{Class, classify};
use punchcast_protocol::rtp::Header;
use punchcast_protocol::stun::is_stun;

/// Classifies a datagram, and asks whether the parsers behind each class agree.
pub fn run(data: &[u8]) {
    let class = classify(data);
    let expected = match data.first() {
        None => Class::Unknown,
        Some(first) => match first {
            0..4 => Class::Stun,
            20..64 => Class::Dtls,
            64..128 | 192.. => Class::Quic,
            128..192 => Class::Media,
            _ => Class::Unknown,
        },
    };
    assert_eq!(class, expected);
    if is_stun(data) {
        assert_eq!(class, Class::Stun);
    }
    if Header::parse(data).is_ok() {
        assert_eq!(class, Class::Media);
    }
}
