//! Sealing against the RFC, and opening against everything else.

use proptest::prelude::*;

use super::keys::SessionKey;
use super::*;
use crate::size::SRTCP_OVERHEAD;

/// Session key and salt of RFC 7714, section 17.
const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const SALT: [u8; 12] = *b"Quid pro quo";

/// "Mars", the sender in RFC 7714, section 17.
const SSRC: u32 = 0x4d61_7273;

/// The packet of RFC 7714, section 17.1, and what it becomes at index 0x5d4.
const PLAIN: &str = "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61\
                     deadbeefdeadbeefdeadbeefdeadbeefdeadbeef";
const SEALED: &str = "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32d\
                      c676a5f1730d6fda4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf872\
                      45d9eade800005d4";

fn hex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digit).collect()
}

fn key() -> FeedbackKey {
    FeedbackKey::from_parts([5; 16], [6; 12])
}

fn packet(body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, 201, 0, 1, 0, 0, 0, 0];
    packet.extend_from_slice(body);
    packet
}

fn sealed(sealer: &mut Sealer, body: &[u8]) -> Vec<u8> {
    let mut packet = packet(body);
    sealer.seal(&mut packet).expect("seals");
    packet
}

#[test]
fn seals_and_opens_what_the_rfc_says() {
    let mut packet = hex(PLAIN);
    let session = || SessionKey::new(&KEY, SALT);
    Sealer::with(session(), SSRC, 0x5d4).seal(&mut packet).expect("seals");
    assert_eq!(packet, hex(SEALED));
    let opened = Opener::with(session(), SSRC).open(&mut packet).map(<[u8]>::to_vec);
    assert_eq!(opened, Ok(hex(PLAIN)));
}

#[test]
fn each_packet_opens_once() {
    let mut sealer = Sealer::new(&key(), 7);
    let mut opener = Opener::new(&key(), 7);
    let packets: Vec<_> = (0..3).map(|_| sealed(&mut sealer, b"word")).collect();
    for at in [1, 0, 2] {
        assert_eq!(sender(&packets[at]), Some(7));
        assert!(opener.open(&mut packets[at].clone()).is_ok());
        let again = opener.open(&mut packets[at].clone()).map(<[u8]>::to_vec);
        assert_eq!(again, Err(OpenError::Replayed { index: at as u32 }));
    }
}

#[test]
fn needs_the_right_key_and_sender() {
    let packet = sealed(&mut Sealer::new(&key(), 7), b"word");
    let other = FeedbackKey::from_parts([5; 16], [7; 12]);
    let opened = |mut opener: Opener| opener.open(&mut packet.clone()).map(<[u8]>::to_vec);
    assert_eq!(opened(Opener::new(&other, 7)), Err(OpenError::Forged));
    let wrong = OpenError::WrongSender { expected: 8, actual: 7 };
    assert_eq!(opened(Opener::new(&key(), 8)), Err(wrong));
}

#[test]
fn indices_end() {
    let mut sealer = Sealer::with(SessionKey::new(&KEY, SALT), 7, (1 << 31) - 1);
    let mut opener = Opener::with(SessionKey::new(&KEY, SALT), 7);
    assert!(opener.open(&mut sealed(&mut sealer, b"last")).is_ok());
    assert_eq!(sealer.seal(&mut packet(b"one more")), Err(SealError::Exhausted));
    assert_eq!(sealer.seal(&mut vec![0; 7]), Err(SealError::Truncated { actual: 7 }));
}

#[test]
fn debug_hides_the_key() {
    let shown = format!("{:?}", FeedbackKey::from_parts([0xab; 16], [0xcd; 12]));
    assert_eq!(shown, "FeedbackKey { .. }");
}

proptest! {
    #[test]
    fn what_was_sealed_opens(body in proptest::collection::vec(any::<u8>(), 0..300), ssrc: u32) {
        let packet = sealed(&mut Sealer::new(&key(), ssrc), &body);
        prop_assert_eq!(packet.len(), HEADER + body.len() + SRTCP_OVERHEAD);
        let mut bytes = packet.clone();
        let mut opener = Opener::new(&key(), ssrc);
        let opened = opener.open(&mut bytes).map(<[u8]>::to_vec);
        let mut expected = self::packet(&body);
        expected[4..8].copy_from_slice(&ssrc.to_be_bytes());
        prop_assert_eq!(opened, Ok(expected));
    }

    #[test]
    fn altered_packets_never_open(at in 0usize..100, bit in 0u8..8) {
        let mut packet = sealed(&mut Sealer::new(&key(), 7), b"how reception goes");
        let at = at % packet.len();
        packet[at] ^= 1 << bit;
        prop_assert!(Opener::new(&key(), 7).open(&mut packet).is_err());
    }

    #[test]
    fn any_bytes_fail_quietly(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = sender(&bytes);
        prop_assert!(Opener::new(&key(), 7).open(&mut bytes).is_err());
    }
}
