//! Repair: what is lost is sent again, or made up for by Reed-Solomon repair packets, in time.
//!
//! The packets of a burst form **blocks** of at most [`MOST_SOURCE`]. From a block's sealed packets, repair
//! packets can be made of which any one stands in for any one that is missing ([`code`]); they are made
//! once for all viewers, and only when somebody needs them. A repair packet is sealed like media, under an
//! SSRC of its own ([`packet`]).
//!
//! A viewer asks for packets that it misses, by name ([`crate::feedback::What::Packets`]), or, of a
//! block that it knows, for as many as it lacks ([`crate::feedback::What::Block`]). The answer to the
//! former is the packets themselves. Since answers get lost, too, more than asked for are sent where few
//! further rounds fit before the deadline ([`margin`]), within a budget that follows the loss.

pub mod code;
pub mod margin;
pub mod packet;

use std::ops::Range;

/// Most packets in a block: a picture at 12 Mbit/s and 30 pictures a second, and a whole number of them in
/// any keyframe.
pub const MOST_SOURCE: usize = 64;

/// Most repair packets that can be made of a block of so many.
pub fn most_repair(source: usize) -> usize {
    (2 * source).clamp(8, 2 * MOST_SOURCE)
}

/// The SSRC under which a track's repair packets are sealed. Tracks have the highest bit clear, so that
/// none has another's.
pub fn repair_ssrc(track: u32) -> u32 {
    !track
}

/// The block of a burst of `packets` that packet `at` belongs to: all are of about one size.
pub fn block_of(packets: usize, at: usize) -> Range<usize> {
    let blocks = packets.div_ceil(MOST_SOURCE).max(1);
    let each = packets.div_ceil(blocks).max(1);
    let start = at / each * each;
    start..(start + each).min(packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_a_burst_once() {
        for packets in [1, 2, 63, 64, 65, 66, 128, 129, 130, 500] {
            let mut at = 0;
            while at < packets {
                let block = block_of(packets, at);
                assert_eq!(block.start, at);
                assert!(!block.is_empty() && block.len() <= MOST_SOURCE);
                assert!(block.clone().all(|other| block_of(packets, other) == block));
                at = block.end;
            }
            assert_eq!(at, packets);
        }
    }
}
