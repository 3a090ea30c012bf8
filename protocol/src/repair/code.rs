//! Reed-Solomon over sealed packets.
//!
//! A repair packet covers of each sealed packet what its place in the stream does not tell: its length
//! (two bytes, big endian), the first two bytes, the timestamp, and everything behind the RTP header's
//! SSRC. Shorter packets are padded with zeros. Whatever comes out of [`decode`] is authenticated as if it
//! had arrived.

use std::collections::BTreeMap;

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use super::{MOST_SOURCE, most_repair};
use crate::rtp;
use crate::seal::PacketIndex;
use crate::size::{MAX_SOURCE_PACKET, RTP_HEADER, SEAL_OVERHEAD};

/// A shard's bytes beside a packet's, and a packet's that are not in its shard: sequence number and SSRC.
const LENGTH: usize = 2;
const TOLD_BY_PLACE: usize = 2 + 4;

/// Longest shard.
pub const MOST_SHARD: usize = MAX_SOURCE_PACKET - TOLD_BY_PLACE + LENGTH;
const _: () = assert!(MOST_SHARD.is_multiple_of(2));

/// Bytes of the shard of a sealed packet of so many bytes: an even number.
fn shard_length(packet: usize) -> usize {
    (packet - TOLD_BY_PLACE + LENGTH).next_multiple_of(2)
}

fn shard(packet: &[u8], length: usize) -> Vec<u8> {
    let mut shard = Vec::with_capacity(length);
    shard.extend_from_slice(&(packet.len() as u16).to_be_bytes());
    shard.extend_from_slice(&packet[..2]);
    shard.extend_from_slice(&packet[4..8]);
    shard.extend_from_slice(&packet[RTP_HEADER..]);
    shard.resize(length, 0);
    shard
}

/// Makes the tables that coding needs, 8 MiB, once and for all: some 20 ms, which the first repair would take longer
/// otherwise.
pub fn prepare() {
    let packet = [0; RTP_HEADER + SEAL_OVERHEAD];
    encode(&[&packet[..]; 2]);
}

/// All repair packets' shards of a block of sealed packets: [`most_repair`] of them, of one length.
/// `None` where this is no block: none or too many packets, or what no sealer made.
pub fn encode(packets: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
    let range = RTP_HEADER + SEAL_OVERHEAD..=MAX_SOURCE_PACKET;
    let are_sealed = packets.iter().all(|packet| range.contains(&packet.len()));
    let longest = packets.iter().map(|packet| packet.len()).max()?;
    if !are_sealed || packets.len() > MOST_SOURCE {
        return None;
    }
    let length = shard_length(longest);
    let mut encoder =
        ReedSolomonEncoder::new(packets.len(), most_repair(packets.len()), length).ok()?;
    for packet in packets {
        encoder.add_original_shard(shard(packet, length)).ok()?;
    }
    let encoded = encoder.encode().ok()?;
    Some(encoded.recovery_iter().map(<[u8]>::to_vec).collect())
}

/// Rebuilds the sealed packets that are missing of a block of `source` packets, which begins at index
/// `base` of stream `ssrc`, from those that are there and repair shards, both by number. `None` where
/// there are too few of them, or they do not fit each other.
pub fn decode(
    (ssrc, base, source): (u32, PacketIndex, usize),
    packets: &BTreeMap<usize, &[u8]>,
    repair: &BTreeMap<usize, Vec<u8>>,
) -> Option<Vec<(PacketIndex, Vec<u8>)>> {
    if !(1..=MOST_SOURCE).contains(&source) || packets.len() + repair.len() < source {
        return None;
    }
    let length = repair.values().next()?.len();
    let mut decoder = ReedSolomonDecoder::new(source, most_repair(source), length).ok()?;
    for (&at, packet) in packets {
        if packet.len() < RTP_HEADER + SEAL_OVERHEAD || shard_length(packet.len()) > length {
            return None;
        }
        decoder.add_original_shard(at, shard(packet, length)).ok()?;
    }
    for (&at, shard) in repair {
        decoder.add_recovery_shard(at, shard).ok()?;
    }
    let decoded = decoder.decode().ok()?;
    let restored = decoded.restored_original_iter();
    let restored = restored.filter_map(|(at, shard)| {
        let index = base + at as u64;
        Some((index, packet(shard, ssrc, index)?))
    });
    Some(restored.collect())
}

/// The sealed packet of a shard.
fn packet(shard: &[u8], ssrc: u32, index: PacketIndex) -> Option<Vec<u8>> {
    let (length, covered) = shard.split_first_chunk::<LENGTH>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    let covered = covered.get(..length.checked_sub(TOLD_BY_PLACE)?)?;
    let (fixed, rest) = covered.split_first_chunk::<{ RTP_HEADER - TOLD_BY_PLACE }>()?;
    let mut packet = Vec::with_capacity(length);
    packet.extend_from_slice(&fixed[..2]);
    packet.extend_from_slice(&[0; 2]);
    packet.extend_from_slice(&fixed[2..]);
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(rest);
    rtp::set_sequence(&mut packet, index as u16);
    rtp::set_ssrc(&mut packet, ssrc);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::burst::PlainBurst;
    use crate::seal::{Epoch, MasterKey, SealedBurst, Sealer};
    use crate::size::MAX_RTP_PACKET;

    const SSRC: u32 = 10;

    fn sealed(lengths: &[usize]) -> SealedBurst {
        let key = MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12]);
        let mut burst = PlainBurst::default();
        for &length in lengths {
            let mut packet = vec![0u8; length];
            packet[0] = 0x80;
            packet[4..8].copy_from_slice(&[9, 8, 7, 6]);
            burst.push([&packet[..]]).expect("fits");
        }
        Sealer::new(&key, &[SSRC]).seal(0, false, Instant::now(), burst).expect("seals")
    }

    fn packets(burst: &SealedBurst) -> Vec<&[u8]> {
        (0..burst.len())
            .filter_map(|at| burst.packet(at))
            .map(|range| &burst.bytes()[range])
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_as_many_as_there_were_bring_all_back(
            lengths in prop::collection::vec(RTP_HEADER..=MAX_RTP_PACKET, 1..=MOST_SOURCE),
            seed: u64,
        ) {
            let burst = sealed(&lengths);
            let all = packets(&burst);
            let shards = encode(&all).expect("a block");
            prop_assert_eq!(shards.len(), most_repair(all.len()));
            // Those that arrive: any, as many as the block has.
            let mut state = seed;
            let mut order: Vec<usize> = (0..all.len() + shards.len()).collect();
            for at in (1..order.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                order.swap(at, (state >> 33) as usize % (at + 1));
            }
            let (mut source, mut repair) = (BTreeMap::new(), BTreeMap::new());
            for at in order.into_iter().take(all.len()) {
                match at.checked_sub(all.len()) {
                    None => drop(source.insert(at, all[at])),
                    Some(number) => drop(repair.insert(number, shards[number].clone())),
                }
            }
            if repair.is_empty() {
                return Ok(());
            }
            let restored = decode((SSRC, 0, all.len()), &source, &repair).expect("enough");
            prop_assert_eq!(restored.len(), all.len() - source.len());
            for (index, packet) in restored {
                prop_assert_eq!(&packet, all[index as usize]);
            }
            let few: BTreeMap<_, _> = repair.into_iter().skip(1).collect();
            prop_assert_eq!(decode((SSRC, 0, all.len()), &source, &few), None);
        }

        #[test]
        fn any_shards_decode_or_fail(
            source in 0..=MOST_SOURCE + 1,
            packet in prop::collection::vec(any::<u8>(), 0..200),
            shards in prop::collection::btree_map(0..200usize, prop::collection::vec(any::<u8>(), 0..200), 0..10),
        ) {
            let packets = [(0, &packet[..])].into();
            let _ = decode((SSRC, 1 << 40, source), &packets, &shards);
        }
    }

    #[test]
    fn no_blocks() {
        assert_eq!(encode(&[]), None);
        assert_eq!(encode(&[&[0; RTP_HEADER]]), None);
        assert_eq!(encode(&[&[0; MAX_SOURCE_PACKET + 1]]), None);
    }
}
