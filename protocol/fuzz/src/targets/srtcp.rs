//! Opening sealed feedback: what a viewer sealed opens once, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Result, Unstructured};
use punchcast_protocol::feedback;
use punchcast_protocol::size::SRTCP_OVERHEAD;
use punchcast_protocol::srtcp::{FeedbackKey, Opener, Sealer, sender};

use super::choose::{Input, few_bytes, goes_on, mutate};

const SSRC: u32 = 7;

/// Most packets that one input seals: fewer than may be reordered.
const MOST_PACKETS: usize = 60;

/// Opens the raw bytes, then packets sealed and changed as the bytes say.
pub fn run(data: &[u8]) {
    // Nothing is ever sealed with this one: a fuzzer learns genuine packets by watching them compared.
    let unused = FeedbackKey::from_parts([0xaa; 16], [0xbb; 12]);
    let claimed = sender(data).unwrap_or(SSRC);
    let mut opener = Opener::new(&unused, claimed);
    assert!(opener.open(&mut data.to_vec()).is_err(), "bytes that nobody sealed open");
    // An error means that the input ran out.
    let _ = sealed(&mut Unstructured::new(data));
}

fn sealed(input: &mut Input<'_>) -> Result<()> {
    let key = FeedbackKey::from_parts([5; 16], [6; 12]);
    let mut sealer = Sealer::new(&key, SSRC);
    let mut opener = Opener::new(&key, SSRC);
    let mut genuine = BTreeMap::new();
    let mut opened = BTreeSet::new();
    while goes_on(input) && genuine.len() < MOST_PACKETS {
        let mut plain = vec![0x80, input.int_in_range(192..=223u8)?, 0, 0, 0, 0, 0, SSRC as u8];
        plain.extend(few_bytes(input)?);
        let mut packet = plain.clone();
        sealer.seal(&mut packet).expect("longer than a header");
        assert_eq!(packet.len(), plain.len() + SRTCP_OVERHEAD);
        assert_eq!(sender(&packet), Some(SSRC));
        genuine.insert(packet, plain);
        for _ in 0..input.int_in_range(0..=4u8)? {
            let at = input.choose_index(genuine.len())?;
            let mut packet: Vec<u8> = genuine.keys().nth(at).expect("in range").clone();
            mutate(input, &mut packet)?;
            let mut bytes = packet.clone();
            match opener.open(&mut bytes) {
                Ok(plain) => {
                    assert_eq!(genuine.get(&packet).map(Vec::as_slice), Some(plain));
                    assert!(opened.insert(packet), "opened twice");
                    let _ = feedback::parse(plain);
                }
                Err(_) => assert!(!genuine.contains_key(&packet) || opened.contains(&packet)),
            }
        }
    }
    Ok(())
}
