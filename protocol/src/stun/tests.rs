use super::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// RFC 5769's short-term password.
const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

/// RFC 5769, section 2.1.
const REQUEST: &[u8] =
    b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
\x80\x22\x00\x10STUN test client\
\x00\x24\x00\x04\x6e\x00\x01\xff\
\x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\
\x00\x06\x00\x09\x65\x76\x74\x6a\x3a\x68\x36\x76\x59\x20\x20\x20\
\x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\
\x80\x28\x00\x04\xe5\x7a\x3b\xcf";

/// RFC 5769, section 2.2.
const RESPONSE_V4: &[u8] =
    b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
\x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\
\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\
\x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\
\x80\x28\x00\x04\xc0\x7d\x4c\x96";

/// RFC 5769, section 2.3.
const RESPONSE_V6: &[u8] =
    b"\x01\x01\x00\x48\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
\x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\
\x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9\
\x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\x82\x92\xc2\x75\xbf\xe3\xed\x41\
\x80\x28\x00\x04\xc8\xfb\x0b\x4c";

#[test]
fn rfc_5769_vectors() {
    let key = Key::short_term(PASSWORD);
    let wrong = Key::short_term("VOkJxbRl1RmTxUk/WvJxBu");
    for vector in [REQUEST, RESPONSE_V4, RESPONSE_V6] {
        assert!(is_stun(vector));
        let message = Message::parse(vector).expect("published vector");
        assert_eq!(message.verify(&key), Ok(()));
        assert_eq!(message.verify(&wrong), Err(IntegrityError::Mismatch));
        assert_eq!(message.transaction(), 0xb7e7_a701_bc34_d686_fa87_dfae_u128.into());
    }
    let request = Message::parse(REQUEST).expect("published vector");
    assert_eq!(request.class(), Class::Request);
    assert_eq!(request.attribute(attribute::USERNAME), Some(*b"evtj:h6vY"));
    assert_eq!(request.attribute(attribute::PRIORITY), Some([0x6e, 0, 1, 0xff]));
    for (vector, mapped) in [
        (RESPONSE_V4, "192.0.2.1:32853"),
        (RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"),
    ] {
        let response = Message::parse(vector).expect("published vector");
        assert_eq!(response.class(), Class::Success);
        assert_eq!(response.xor_mapped_address(), mapped.parse().ok());
    }
}

#[test]
fn one_changed_bit_is_noticed() {
    let key = Key::short_term(PASSWORD);
    // FINGERPRINT lies behind what MESSAGE-INTEGRITY covers, and may be missing.
    const FINGERPRINT: usize = 8;
    for bit in 0..(RESPONSE_V4.len() - FINGERPRINT) * 8 {
        let mut changed = RESPONSE_V4.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        let verified = Message::parse(&changed).is_ok_and(|message| message.verify(&key).is_ok());
        assert!(!verified, "bit {bit}");
    }
}

#[test]
fn other_datagrams_are_not_stun() {
    let mut longer = REQUEST.to_vec();
    longer.extend([0; 4]);
    let mut cookie = REQUEST.to_vec();
    cookie[5] ^= 1;
    let mut first = REQUEST.to_vec();
    first[0] = 0x80;
    for (what, datagram) in [
        ("nothing", &[][..]),
        ("a header cut short", &REQUEST[..19]),
        ("a message cut short", &REQUEST[..REQUEST.len() - 4]),
        ("bytes behind the message", &longer),
        ("another cookie", &cookie),
        ("RTP", &first),
    ] {
        assert!(!is_stun(datagram), "{what}");
        assert_eq!(Message::parse(datagram).err(), Some(ParseError::NotStun), "{what}");
    }
}

#[test]
fn sha256_integrity_is_not_taken_for_ours() {
    use stun_types::message::{
        BINDING, IntegrityAlgorithm, MessageClass, MessageType, MessageWrite, MessageWriteExt,
        MessageWriteVec, ShortTermCredentials,
    };
    let credentials = ShortTermCredentials::new(PASSWORD.to_owned()).into();
    let mut writer = stun_types::message::Message::builder(
        MessageType::from_class_method(MessageClass::Request, BINDING),
        1.into(),
        MessageWriteVec::new(),
    );
    writer.add_message_integrity(&credentials, IntegrityAlgorithm::Sha256).expect("first one");
    let datagram = writer.finish();
    let message = Message::parse(&datagram).expect("well formed");
    assert_eq!(message.verify(&Key::short_term(PASSWORD)), Err(IntegrityError::Missing));
}

#[test]
fn plain_request_and_answer() {
    let mut rng = StdRng::seed_from_u64(7);
    for from in ["192.0.2.1:9", "[2001:db8::1]:9", "[::ffff:192.0.2.1]:9"] {
        let from: SocketAddr = from.parse().expect("an address");
        let (transaction, request) = binding_request(&mut rng);
        assert_eq!(request.len(), PLAIN_REQUEST);
        let answer = answer_plain_binding(&request, from, None, || false).expect("padded request");
        assert!(answer.bytes.len() <= request.len());
        assert_eq!(mapped_address(&answer.bytes, transaction), Some(canonical(from)));
        assert_eq!(mapped_address(&answer.bytes, 1.into()), None);
    }
}

#[test]
fn short_requests_are_answered_within_limits() {
    let from = "192.0.2.1:9".parse().expect("an address");
    let request = Writer::new(Class::Request, 5.into()).finish();
    assert_eq!(request.len(), HEADER);
    for (place, length) in [(None, 32), (Some(two_by_two("192.0.2.9")), 56)] {
        assert_eq!(answer_plain_binding(&request, from, place.as_ref(), || false), None);
        let answer = answer_plain_binding(&request, from, place.as_ref(), || true);
        assert_eq!(answer.expect("allowed").bytes.len(), length);
    }
}

#[test]
fn unknown_required_attributes_are_named() {
    let from = "192.0.2.1:9".parse().expect("an address");
    // RESPONSE-PORT of RFC 5780.
    let request = Writer::new(Class::Request, 5.into()).attribute(0x27, &[0, 9, 0, 0]).finish();
    assert_eq!(refused(&request, from, Some(&two_by_two("192.0.2.9"))), Some([0, 0x27]));
}

/// The types named by an error 420.
fn refused(request: &[u8], from: SocketAddr, place: Option<&Place>) -> Option<[u8; 2]> {
    let answer = answer_plain_binding(request, from, place, || true).expect("an answer");
    let message = Message::parse(&answer.bytes).expect("well formed");
    assert!(!answer.change.any() || message.class() == Class::Success);
    (message.class() == Class::Error).then(|| {
        assert_eq!(message.attribute(0x0009), Some([0, 0, 4, 20]));
        message.attribute(0x000a).expect("one type")
    })
}

/// A server with two addresses and two ports, asked at the first of each.
fn two_by_two(ip: &str) -> Place {
    let ip: IpAddr = ip.parse().expect("an address");
    let other = match ip {
        IpAddr::V4(_) => "203.0.113.9",
        IpAddr::V6(_) => "2001:db8::9",
    };
    Place {
        here: SocketAddr::new(ip, 3478),
        other_address: Some(other.parse().expect("an address")),
        other_port: Some(3479),
    }
}

const ALL_CHANGES: [Change; 4] = [
    Change { address: false, port: false },
    Change { address: true, port: false },
    Change { address: false, port: true },
    Change { address: true, port: true },
];

#[test]
fn answers_come_from_where_they_are_asked_to() {
    for (ip, from) in [("192.0.2.9", "192.0.2.1:9"), ("2001:db8::8", "[2001:db8::1]:9")] {
        let from = from.parse().expect("an address");
        let place = two_by_two(ip);
        for change in ALL_CHANGES {
            let request = changed_request(5.into(), change);
            assert_eq!(request.len(), PLAIN_REQUEST);
            let answer = answer_plain_binding(&request, from, Some(&place), || false);
            let answer = answer.expect("a padded request");
            assert!(answer.bytes.len() <= request.len());
            assert_eq!(answer.change, change);
            let message = Message::parse(&answer.bytes).expect("well formed");
            assert_eq!(message.address(attribute::RESPONSE_ORIGIN), place.origin(change));
            assert_eq!(message.address(attribute::OTHER_ADDRESS), place.origin(ALL_CHANGES[3]));
            assert_eq!(message.xor_mapped_address(), Some(from));
        }
    }
}

#[test]
fn what_a_server_does_not_have_is_refused() {
    let from = "192.0.2.1:9".parse().expect("an address");
    let both = two_by_two("192.0.2.9");
    let one_address = Place { other_address: None, ..both };
    let one_port = Place { other_port: None, ..one_address };
    let [none, address, port, all] = ALL_CHANGES;
    for (place, taken) in [
        (Some(&both), &[none, address, port, all][..]),
        (Some(&one_address), &[none, port]),
        (Some(&one_port), &[none]),
        (None, &[none]),
    ] {
        for change in ALL_CHANGES {
            let refused = refused(&changed_request(5.into(), change), from, place);
            let expected = (!taken.contains(&change)).then_some([0, 3]);
            assert_eq!(refused, expected, "{change:?} of {place:?}");
        }
    }
    let broken =
        Writer::new(Class::Request, 5.into()).attribute(attribute::CHANGE_REQUEST, &[6]).finish();
    assert_eq!(refused(&broken, from, Some(&both)), Some([0, 3]));
}

#[test]
fn only_plain_requests_are_answered() {
    let from = "192.0.2.1:9".parse().expect("an address");
    let indication = Writer::new(Class::Indication, 5.into()).finish();
    let with_user =
        Writer::new(Class::Request, 5.into()).attribute(attribute::USERNAME, b"user").finish();
    for datagram in [REQUEST, RESPONSE_V4, &indication, &with_user, b"", b"\x16\xfe\xfd"] {
        let place = two_by_two("192.0.2.9");
        assert_eq!(answer_plain_binding(datagram, from, Some(&place), || true), None);
    }
}
