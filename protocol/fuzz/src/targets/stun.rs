//! STUN: messages from anywhere, and plain Binding at both ends.

use std::net::SocketAddr;

use arbitrary::{Result, Unstructured};
use punchcast_protocol::address::canonical;
use punchcast_protocol::opening::username_of;
use punchcast_protocol::stun::{
    Class, Key, Message, PLAIN_REQUEST, Place, TransactionId, Writer, answer_plain_binding,
    attribute, is_stun, mapped_address,
};

use super::choose::{Input, address, few_bytes, several};

/// Gives the bytes to every reader of STUN, then reads a message written from them.
pub fn run(data: &[u8]) {
    read(data, SocketAddr::from(([192, 0, 2, 1], 5000)));
    // An error means that the input ran out.
    let _ = written(&mut Unstructured::new(data));
}

fn read(datagram: &[u8], from: SocketAddr) {
    let parsed = Message::parse(datagram);
    username_of(datagram);
    let here = SocketAddr::from(([203, 0, 113, 1], 3478));
    let place =
        Place { here, other_address: Some([203, 0, 113, 2].into()), other_port: Some(3479) };
    let answer = answer_plain_binding(datagram, from, Some(&place), || true);
    let modest = answer_plain_binding(datagram, from, Some(&place), || false);
    let Ok(message) = parsed else {
        return assert!(answer.is_none() && modest.is_none() && username_of(datagram).is_none());
    };
    assert!(is_stun(datagram));
    let _ = (message.attribute::<4>(attribute::PRIORITY), message.has(attribute::USE_CANDIDATE));
    let other = message.address(attribute::OTHER_ADDRESS);
    assert!(other.is_none_or(|other| canonical(other) == other));
    let mapped = message.xor_mapped_address();
    assert!(mapped.is_none_or(|mapped| canonical(mapped) == mapped));
    if message.class() == Class::Success {
        assert_eq!(mapped_address(datagram, message.transaction()), mapped);
    }
    assert!(message.verify(&Key::short_term("nobody has this one")).is_err());
    if let Some(modest) = modest {
        assert!(modest.bytes.len() <= datagram.len());
    }
    if let Some(answer) = answer {
        assert!(answer.bytes.len() <= PLAIN_REQUEST && !message.has_integrity());
        let origin = place.origin(answer.change).expect("an address and port of the server's");
        let answer = Message::parse(&answer.bytes).expect("an answer is a message");
        assert_eq!(answer.transaction(), message.transaction());
        match answer.class() {
            Class::Success => {
                assert_eq!(answer.xor_mapped_address(), Some(canonical(from)));
                assert_eq!(answer.address(attribute::RESPONSE_ORIGIN), Some(origin));
            }
            class => assert_eq!(class, Class::Error),
        }
    }
}

/// Attributes written are read back, and what stands behind MESSAGE-INTEGRITY is not.
fn written(input: &mut Input<'_>) -> Result<()> {
    const CLASSES: [Class; 4] = [Class::Request, Class::Success, Class::Error, Class::Indication];
    /// Comprehension-optional, and no number that means anything.
    const OURS: u16 = 0xC0F0;
    let class = *input.choose(&CLASSES)?;
    let transaction = TransactionId::from(input.arbitrary::<u128>()?);
    let seen = address(input)?;
    let values = several(input, 6, few_bytes)?;
    let unsigned = || {
        let writer = Writer::new(class, transaction).xor_mapped_address(seen);
        values
            .iter()
            .zip(OURS..)
            .fold(writer, |writer, (value, number)| writer.attribute(number, value))
    };
    let key = Key::short_term("key");
    for (datagram, signed) in [(unsigned().finish(), false), (unsigned().finish_with(&key), true)] {
        read(&datagram, seen);
        let message = Message::parse(&datagram).expect("what was written is a message");
        assert_eq!((message.class(), message.transaction()), (class, transaction));
        assert_eq!(message.xor_mapped_address(), Some(canonical(seen)));
        assert_eq!(message.verify(&key).is_ok(), signed);
        for (value, number) in values.iter().zip(OURS..) {
            assert!(message.has(number));
            assert_eq!(message.attribute(number), <[u8; 4]>::try_from(&value[..]).ok());
        }
    }
    // Without FINGERPRINT, and with what nobody signed.
    let mut longer = unsigned().finish_with(&key);
    longer.truncate(longer.len() - 8);
    longer.extend(attribute::PRIORITY.to_be_bytes());
    longer.extend([0, 4]);
    longer.extend(input.arbitrary::<[u8; 4]>()?);
    let length = (longer.len() - 20) as u16;
    longer[2..4].copy_from_slice(&length.to_be_bytes());
    if let Ok(message) = Message::parse(&longer) {
        assert!(!message.has(attribute::PRIORITY), "an unsigned attribute is seen");
        assert_eq!(message.attribute::<4>(attribute::PRIORITY), None);
    }
    Ok(())
}
