//! Repair packets of recent blocks, made and sealed once for all viewers.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::repair::packet::Repair;
use crate::repair::{code, most_repair};
use crate::seal::{SealError, SealedBurst, Sealer};

/// Bytes kept at most: half a second of repair packets at 50 Mbit/s.
const MOST_BYTES: usize = 16 << 20;

/// Repair packets by position of their burst and first packet of their block.
#[derive(Debug, Default)]
pub(super) struct Coded {
    blocks: BTreeMap<(u64, usize), Block>,
    bytes: usize,
}

#[derive(Debug)]
struct Block {
    shards: Vec<Vec<u8>>,
    sealed: Vec<Option<Bytes>>,
    bytes: usize,
}

impl Coded {
    /// The sealed repair packet `number` of a block of the burst at `position`.
    pub(super) fn packet(
        &mut self,
        (position, burst, block): (u64, &SealedBurst, Range<usize>),
        number: usize,
        sealer: &mut Sealer,
    ) -> Result<Option<Bytes>, SealError> {
        let key = (position, block.start);
        if !self.blocks.contains_key(&key) {
            let ranges = block.clone().filter_map(|at| burst.packet(at));
            let packets: Vec<&[u8]> = ranges.map(|range| &burst.bytes()[range]).collect();
            let Some(shards) = code::encode(&packets) else { return Ok(None) };
            // Shards, and the same again once they are sealed.
            let bytes = 2 * shards.iter().map(Vec::len).sum::<usize>();
            self.make_room(bytes);
            self.bytes += bytes;
            let sealed = vec![None; most_repair(block.len())];
            self.blocks.insert(key, Block { shards, sealed, bytes });
        }
        let Some(kept) = self.blocks.get_mut(&key) else { return Ok(None) };
        let (Some(shard), Some(sealed)) = (kept.shards.get(number), kept.sealed.get_mut(number))
        else {
            return Ok(None);
        };
        if let Some(sealed) = sealed {
            return Ok(Some(sealed.clone()));
        }
        let base = (burst.first_index + block.start as u64) as u32;
        let repair = Repair { base, source: block.len(), number, shard: shard.clone() };
        let packet = Bytes::from(sealer.seal_repair(burst.track, &repair)?);
        *sealed = Some(packet.clone());
        Ok(Some(packet))
    }

    /// Forgets blocks of bursts before a position.
    pub(super) fn forget(&mut self, before: u64) {
        let kept = self.blocks.split_off(&(before, 0));
        let gone = std::mem::replace(&mut self.blocks, kept);
        self.bytes -= gone.values().map(|block| block.bytes).sum::<usize>();
    }

    fn make_room(&mut self, bytes: usize) {
        while self.bytes + bytes > MOST_BYTES
            && let Some((_, gone)) = self.blocks.pop_first()
        {
            self.bytes -= gone.bytes;
        }
    }
}
