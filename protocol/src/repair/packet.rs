//! The repair packet.
//!
//! An RTP packet of payload type [`PAYLOAD_TYPE`] under the track's [`repair_ssrc`](super::repair_ssrc).
//! Few of them follow each other closely, so their index is written out: sequence number and timestamp are
//! its low 16 and high 32 bits. The payload, sealed, is the low 32 bits of the index of the block's first
//! packet, the number of its packets, the number of this repair packet (one byte each), and its shard.

use super::code::MOST_SHARD;
use super::{MOST_SOURCE, most_repair};
use crate::rtp::Header;
use crate::seal::PacketIndex;
use crate::size::{MAX_DATAGRAM, RTP_HEADER, SEAL_OVERHEAD, VIEWER_TAG_ROOM};

/// RTP payload type of repair packets: dynamic, and above those of formats.
pub const PAYLOAD_TYPE: u8 = 127;

/// Bytes in front of the shard.
const HEADER: usize = 4 + 1 + 1;

const _: () =
    assert!(RTP_HEADER + HEADER + MOST_SHARD + SEAL_OVERHEAD + VIEWER_TAG_ROOM <= MAX_DATAGRAM);

/// What a repair packet holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Index of the block's first packet, as far as it is told: its low 32 bits.
    pub base: u32,
    /// Packets of the block, 1 to [`MOST_SOURCE`].
    pub source: usize,
    /// Which of its repair packets, below [`most_repair`].
    pub number: usize,
    /// Its shard.
    pub shard: Vec<u8>,
}

/// Why bytes are no repair packet.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
#[error("malformed repair packet")]
pub struct Malformed;

impl Repair {
    /// The RTP packet, still open, with this index, and room behind it for what sealing adds.
    pub(crate) fn write(&self, ssrc: u32, index: PacketIndex) -> Vec<u8> {
        let length = RTP_HEADER + HEADER + self.shard.len() + SEAL_OVERHEAD;
        let mut packet = Vec::with_capacity(length);
        packet.extend_from_slice(&[0x80, PAYLOAD_TYPE]);
        packet.extend_from_slice(&(index as u16).to_be_bytes());
        packet.extend_from_slice(&((index >> 16) as u32).to_be_bytes());
        packet.extend_from_slice(&ssrc.to_be_bytes());
        packet.extend_from_slice(&self.base.to_be_bytes());
        packet.extend_from_slice(&[self.source as u8, self.number as u8]);
        packet.extend_from_slice(&self.shard);
        packet.resize(length, 0);
        packet
    }

    /// Reads an opened payload.
    pub(crate) fn read(payload: &[u8]) -> Result<Self, Malformed> {
        let (&[a, b, c, d, source, number], shard) =
            payload.split_first_chunk::<HEADER>().ok_or(Malformed)?;
        let (source, number) = (usize::from(source), usize::from(number));
        let is_possible = (1..=MOST_SOURCE).contains(&source)
            && number < most_repair(source)
            && shard.len().is_multiple_of(2)
            && (2..=MOST_SHARD).contains(&shard.len());
        let base = u32::from_be_bytes([a, b, c, d]);
        is_possible.then(|| Self { base, source, number, shard: shard.to_vec() }).ok_or(Malformed)
    }
}

/// The index that a repair packet's header tells.
pub(crate) fn index(header: &Header) -> PacketIndex {
    u64::from(header.timestamp) << 16 | u64::from(header.sequence)
}

/// The index nearest to `near` whose low 32 bits are `low`.
pub(crate) fn nearest(near: PacketIndex, low: u32) -> PacketIndex {
    let ahead = low.wrapping_sub(near as u32);
    let behind = ahead.wrapping_neg();
    if ahead < 1 << 31 {
        near + u64::from(ahead)
    } else {
        near.checked_sub(u64::from(behind)).unwrap_or(near + u64::from(ahead))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            base: u32, source in 1..=MOST_SOURCE, number in 0..8usize,
            half in 1..=MOST_SHARD / 2, index in 0..1u64 << 48,
        ) {
            let repair = Repair { base, source, number, shard: vec![7; 2 * half] };
            let packet = repair.write(9, index);
            let header = Header::parse(&packet).expect("RTP");
            prop_assert_eq!((super::index(&header), header.ssrc), (index, 9));
            let payload = &packet[header.length..packet.len() - SEAL_OVERHEAD];
            prop_assert_eq!(Repair::read(payload), Ok(repair));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(repair) = Repair::read(&bytes) {
                prop_assert!(repair.number < most_repair(repair.source));
            }
        }

        #[test]
        fn the_nearest_index(near in 0..1u64 << 48, step in -(1i64 << 31) + 1..1i64 << 31) {
            if let Some(index) = near.checked_add_signed(step) {
                prop_assert_eq!(nearest(near, index as u32), index);
            }
        }
    }
}
