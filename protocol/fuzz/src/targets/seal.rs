//! Opening sealed packets: whatever is not exactly what the sealer made stays shut.

use std::collections::BTreeMap;
use std::time::Instant;

use arbitrary::{Result, Unstructured};
use punchcast_protocol::burst::PlainBurst;
use punchcast_protocol::seal::{Epoch, MasterKey, Opener, Sealer};
use punchcast_protocol::size::MAX_SOURCE_PACKET;

use super::choose::{Input, goes_on, mutate};

const SSRCS: [u32; 2] = [0x1111_1111, 0x2222_2222];

/// Most packets that one input seals.
const MOST_PACKETS: usize = 64;

/// Opens the raw bytes, then packets sealed and changed as the bytes say.
pub fn run(data: &[u8]) {
    let mut opener = Opener::new(SSRCS.map(|ssrc| (ssrc, 0)));
    // Nothing is ever sealed with this one: a fuzzer learns genuine packets by watching them compared.
    opener.add_key(&MasterKey::from_parts(Epoch::FIRST, [0xaa; 16], [0xbb; 12]));
    assert!(opener.open(&mut data.to_vec()).is_err(), "bytes that nobody sealed open");
    // An error means that the input ran out.
    let _ = sealed(&mut Unstructured::new(data));
}

fn key(epoch: Epoch) -> MasterKey {
    let [.., low] = epoch.mki();
    MasterKey::from_parts(epoch, [low ^ 5; 16], [6; 12])
}

struct Genuine {
    track: usize,
    index: u64,
    plain: Vec<u8>,
}

fn sealed(input: &mut Input<'_>) -> Result<()> {
    let mut epoch = Epoch::FIRST;
    let mut sealer = Sealer::new(&key(epoch), &SSRCS);
    let mut opener = Opener::new([(SSRCS[0], input.arbitrary()?), (SSRCS[1], 0)]);
    opener.add_key(&key(epoch));
    let mut genuine = BTreeMap::new();
    while goes_on(input) && genuine.len() < MOST_PACKETS {
        if input.ratio(1, 8)? {
            epoch = epoch.next().unwrap_or(epoch);
            sealer.rekey(&key(epoch));
            opener.add_key(&key(epoch));
        }
        seal_burst(input, &mut sealer, &mut genuine)?;
        for _ in 0..input.int_in_range(0..=4u8)? {
            if !genuine.is_empty() {
                let at = input.choose_index(genuine.len())?;
                let mut packet: Vec<u8> = genuine.keys().nth(at).expect("in range").clone();
                mutate(input, &mut packet)?;
                open(&mut opener, packet, &genuine);
            }
        }
    }
    Ok(())
}

/// Seals a few packets with arbitrary headers.
fn seal_burst(
    input: &mut Input<'_>,
    sealer: &mut Sealer,
    genuine: &mut BTreeMap<Vec<u8>, Genuine>,
) -> Result<()> {
    let track = input.int_in_range(0..=2usize)?;
    let mut burst = PlainBurst::default();
    for _ in 0..input.int_in_range(1..=3u8)? {
        let mut packet = vec![0x80 | input.arbitrary::<u8>()? & 0x1f];
        let length = input.int_in_range(0..=40usize)?.min(input.len());
        packet.extend(input.bytes(length)?);
        // Refused where it is shorter than a header.
        let _ = burst.push([&packet[..]]);
    }
    let count = burst.len();
    let first_index = sealer.next_index(track);
    let Ok(burst) = sealer.seal(track, false, Instant::now(), burst) else { return Ok(()) };
    assert_eq!((burst.len(), Some(burst.first_index)), (count, first_index));
    for at in 0..count {
        let packet = &burst.bytes()[burst.packet(at).expect("counted")];
        assert!(packet.len() <= MAX_SOURCE_PACKET);
        let plain = packet[..packet.len() - 20].to_vec();
        let index = burst.first_index + at as u64;
        genuine.insert(packet.to_vec(), Genuine { track, index, plain });
    }
    let (from, to) = (input.int_in_range(0..=count)?, input.int_in_range(0..=count + 1)?);
    let most = input.int_in_range(0..=4usize)?;
    let runs = burst.segments(from..to, most);
    assert_eq!(
        runs.iter().map(|run| run.count()).sum::<usize>(),
        to.min(count).saturating_sub(from)
    );
    assert!(runs.iter().all(|run| run.count() <= most.max(1)));
    assert!(runs.windows(2).all(|pair| pair[0].range.end == pair[1].range.start));
    Ok(())
}

fn open(opener: &mut Opener, packet: Vec<u8>, genuine: &BTreeMap<Vec<u8>, Genuine>) {
    let mut opened = packet.clone();
    let Ok((track, index, length)) = opener.open(&mut opened) else { return };
    let expected = genuine.get(&packet).expect("nothing but what was sealed opens");
    assert_eq!((track, index, length), (expected.track, expected.index, expected.plain.len()));
    let header = punchcast_protocol::rtp::Header::parse(&opened).expect("was RTP when sealed");
    assert_eq!(opened[..header.length], expected.plain[..header.length]);
}
