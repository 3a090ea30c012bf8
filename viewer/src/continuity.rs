//! One unbroken stream for the player, whatever the broadcaster does.
//!
//! A broadcaster that restarts begins again with other SSRCs, indices and RTP timestamps. The player
//! and the recordings behind it see none of that: each packet's sequence number, timestamp and SSRC
//! are written anew, so that they go on where the last session ended, with the true time between.

use std::time::Duration;

use protocol::rtp;
use protocol::seal::PacketIndex;

/// One track's continuous numbering.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Continuity {
    ssrc: u32,
    payload_type: u8,
    clock_rate: u32,
    sequence_shift: u16,
    timestamp_shift: u32,
    /// Last written: sequence number behind the highest, timestamp and its place.
    next_sequence: u16,
    last: Option<(u32, Duration)>,
}

impl Continuity {
    /// Numbering for a track; `ssrc` and `payload_type` are what the player sees.
    pub(crate) fn new(ssrc: u32, clock_rate: u32, payload_type: u8) -> Self {
        Self {
            ssrc,
            payload_type,
            clock_rate,
            sequence_shift: 0,
            timestamp_shift: 0,
            next_sequence: 0,
            last: None,
        }
    }

    /// Another stream takes over: its packet `first` follows the last one written, and its
    /// `timestamp` belongs at `place`.
    pub(crate) fn splice(&mut self, first: PacketIndex, timestamp: u32, place: Duration) {
        self.sequence_shift = self.next_sequence.wrapping_sub(first as u16);
        self.timestamp_shift = match self.last {
            Some((before, at)) => {
                let seconds = place.as_secs_f64() - at.as_secs_f64();
                let ticks = (seconds * f64::from(self.clock_rate)).round() as i64;
                before.wrapping_add(ticks as u32).wrapping_sub(timestamp)
            }
            None => 0,
        };
    }

    /// A time on the track's clock.
    pub(crate) fn ticks(&self, time: Duration) -> u32 {
        (time.as_secs_f64() * f64::from(self.clock_rate)) as u32
    }

    /// Another rendition takes over at its packet `first`; packets of the one before come up to `end`. Both have one
    /// clock.
    pub(crate) fn go_over(&mut self, end: PacketIndex, first: PacketIndex) {
        let end = (end as u16).wrapping_add(self.sequence_shift);
        // Numbers that were written are not written again, whatever the end is said to be.
        if end.wrapping_sub(self.next_sequence) < 0x8000 {
            self.next_sequence = end;
        }
        self.sequence_shift = self.next_sequence.wrapping_sub(first as u16);
    }

    /// Writes the continuous numbers into a packet.
    pub(crate) fn write(
        &mut self,
        packet: &mut [u8],
        index: PacketIndex,
        timestamp: u32,
        place: Duration,
    ) {
        let sequence = (index as u16).wrapping_add(self.sequence_shift);
        let timestamp = timestamp.wrapping_add(self.timestamp_shift);
        rtp::set_ssrc(packet, self.ssrc);
        rtp::set_payload_type(packet, self.payload_type);
        rtp::set_sequence(packet, sequence);
        rtp::set_timestamp(packet, timestamp);
        let next = sequence.wrapping_add(1);
        if self.last.is_none() || next.wrapping_sub(self.next_sequence) < 0x8000 {
            self.next_sequence = next;
            self.last = Some((timestamp, place));
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::rtp::Header;

    use super::*;

    fn written(
        continuity: &mut Continuity,
        index: PacketIndex,
        timestamp: u32,
        place_ms: u64,
    ) -> (u16, u32) {
        let mut packet = [0x80, 96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        continuity.write(&mut packet, index, timestamp, Duration::from_millis(place_ms));
        let header = Header::parse(&packet).expect("version 2");
        assert_eq!(header.ssrc, 1);
        (header.sequence, header.timestamp)
    }

    #[test]
    fn a_restarted_broadcaster_goes_on_where_it_ended() {
        let mut track = Continuity::new(1, 90_000, 96);
        track.splice(700, 5_000, Duration::from_millis(1_000));
        assert_eq!(written(&mut track, 700, 5_000, 1_000), (0, 5_000));
        assert_eq!(written(&mut track, 701, 8_600, 1_040), (1, 8_600));
        // Restarted: other indices, other timestamps, 2 s later.
        track.splice(3, 4_000_000_000, Duration::from_millis(3_040));
        assert_eq!(written(&mut track, 3, 4_000_000_000, 3_040), (2, 8_600 + 180_000));
        assert_eq!(written(&mut track, 4, 4_000_003_600, 3_080), (3, 8_600 + 183_600));
    }

    #[test]
    fn a_late_packet_does_not_turn_the_numbers_back() {
        let mut track = Continuity::new(1, 90_000, 96);
        track.splice(0, 0, Duration::ZERO);
        for index in [0, 2, 1] {
            written(&mut track, index, index as u32 * 3_600, index * 40);
        }
        track.splice(50, 0, Duration::from_millis(120));
        assert_eq!(written(&mut track, 50, 0, 120), (3, 3 * 3_600));
    }
}
