//! Holding back a joining burst until it is whole.
//!
//! Packets of the history belong into the past, so whatever waits for a gap in them has waited long
//! enough already, and would go on without. So they are handed on in order only, up to the first
//! packet that is still hoped for.

use std::collections::BTreeMap;

use protocol::seal::PacketIndex;

/// A packet as the player will get it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) index: PacketIndex,
    pub(crate) timestamp: u32,
    pub(crate) bytes: Vec<u8>,
}

/// One track's packets that wait for older ones.
#[derive(Debug)]
pub(crate) struct Hold {
    live_from: PacketIndex,
    waiting: BTreeMap<PacketIndex, Packet>,
    joined: bool,
}

impl Hold {
    /// Holds until all packets before `live_from` came or are given up.
    pub(crate) fn new(live_from: PacketIndex) -> Self {
        Self { live_from, waiting: BTreeMap::new(), joined: false }
    }

    /// Holds until all packets before another one came or are given up.
    pub(crate) fn live_from(&mut self, live_from: PacketIndex) {
        self.live_from = live_from;
    }

    /// Takes a packet.
    pub(crate) fn add(&mut self, packet: Packet) {
        self.waiting.insert(packet.index, packet);
    }

    /// Whether packets wait for others in front of them.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next packet that may go, where `hoped_for` is the lowest index that may still come.
    pub(crate) fn next(&mut self, hoped_for: PacketIndex) -> Option<Packet> {
        self.joined |= hoped_for >= self.live_from;
        let first = self.waiting.first_entry()?;
        (self.joined || *first.key() < hoped_for).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(index: PacketIndex) -> Packet {
        Packet { index, timestamp: 0, bytes: Vec::new() }
    }

    fn drain(hold: &mut Hold, hoped_for: PacketIndex) -> Vec<PacketIndex> {
        std::iter::from_fn(|| hold.next(hoped_for)).map(|packet| packet.index).collect()
    }

    #[test]
    fn history_goes_in_order_and_live_packets_at_once() {
        let mut hold = Hold::new(5);
        for index in [0, 1, 3] {
            hold.add(packet(index));
        }
        assert_eq!(drain(&mut hold, 2), [0, 1], "2 may still come");
        hold.add(packet(4));
        assert!(drain(&mut hold, 2).is_empty());
        hold.add(packet(2));
        assert_eq!(drain(&mut hold, 5), [2, 3, 4]);
        // Joined: from here on the jitter buffer waits for what is missing.
        hold.add(packet(7));
        assert_eq!(drain(&mut hold, 5), [7]);
    }
}
