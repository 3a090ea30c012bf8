//! The receiver's tracks and the player's: the player has one of pictures, whichever rendition comes.
//!
//! Where another rendition takes over, its packets are numbered behind the last of the one before. Of that one some may
//! still be missing and come later: they keep their numbers. The picture of that moment comes in both sizes; so that they
//! are two pictures to the player as well, the second is put a little later.

use std::time::Duration;

use protocol::seal::PacketIndex;

use crate::continuity::Continuity;

/// A track's place in the stream that the player sees, kept from session to session.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) ssrc: u32,
    /// Index behind the highest packet played.
    pub(crate) next_index: PacketIndex,
    pub(crate) continuity: Continuity,
}

/// For each of the receiver's tracks, the player's.
#[derive(Debug, Default)]
pub(crate) struct Slots(Vec<Slot>);

/// By how much the first picture of a rendition comes later than the last of the one before.
const LATER: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy)]
struct Slot {
    track: usize,
    /// The first picture's timestamp, where another rendition went before.
    first: Option<u32>,
    /// How its packets are numbered, where another one has taken over.
    former: Option<Continuity>,
}

impl Slots {
    /// As many tracks as the player has.
    pub(crate) fn new(tracks: usize) -> Self {
        Self((0..tracks).map(|track| Slot { track, first: None, former: None }).collect())
    }

    /// The player's track.
    pub(crate) fn of(&self, received: usize) -> usize {
        self.0.get(received).map_or(received, |slot| slot.track)
    }

    /// Writes a packet's numbers as the player is to see them. Returns its place, which is a little later where it must
    /// be. `None` where the player has no such track.
    pub(crate) fn write(
        &mut self,
        placed: &mut [Placed],
        received: usize,
        packet: (&mut [u8], PacketIndex, u32),
        place: Duration,
    ) -> Option<Duration> {
        let (bytes, index, mut timestamp) = packet;
        let Slot { track, first, former } = self.0.get_mut(received)?;
        let Placed { next_index, continuity, .. } = placed.get_mut(*track)?;
        let mut place = place;
        if *first == Some(timestamp) {
            timestamp = timestamp.wrapping_add(continuity.ticks(LATER));
            place += LATER;
        }
        match former {
            Some(former) => former.write(bytes, index, timestamp, place),
            None => {
                continuity.write(bytes, index, timestamp, place);
                *next_index = (*next_index).max(index + 1);
            }
        }
        Some(place)
    }

    /// What was received as the track with SSRC `before` ends at an index, and the receiver's track `received` goes on,
    /// beginning at `first` with a timestamp. False where nothing is known of the one before.
    pub(crate) fn switch(
        &mut self,
        placed: &mut [Placed],
        (before, end): (u32, PacketIndex),
        received: usize,
        (ssrc, first, timestamp): (u32, PacketIndex, u32),
    ) -> bool {
        let Some(track) = placed.iter().position(|placed| placed.ssrc == before) else {
            return false;
        };
        let place = &mut placed[track];
        for slot in self.0.iter_mut().filter(|slot| slot.track == track && slot.former.is_none()) {
            slot.former = Some(place.continuity);
        }
        place.continuity.go_over(end, first);
        (place.ssrc, place.next_index) = (ssrc, first);
        let slot = Slot { track, first: Some(timestamp), former: None };
        match self.0.get_mut(received) {
            Some(known) => *known = slot,
            None => self.0.push(slot),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use protocol::rtp::Header;

    use super::*;

    #[test]
    fn renditions_follow_each_other_in_one_stream() {
        let mut continuity = Continuity::new(1, 90_000, 96);
        continuity.splice(100, 0, Duration::ZERO);
        let mut placed = vec![Placed { ssrc: 10, next_index: 100, continuity }];
        let mut slots = Slots::new(1);
        let write = |slots: &mut Slots, placed: &mut Vec<Placed>, received, index, at: u32| {
            let mut packet = [0x80, 0x80 | 98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let place = Duration::from_micros(u64::from(at) * 1_000_000 / 90_000);
            assert!(slots.write(placed, received, (&mut packet, index, at), place).is_some());
            let header = Header::parse(&packet).expect("RTP");
            assert_eq!((header.ssrc, packet[1]), (1, 0x80 | 96));
            (header.sequence, header.timestamp)
        };
        assert_eq!(write(&mut slots, &mut placed, 0, 100, 0), (0, 0));
        assert_eq!(write(&mut slots, &mut placed, 0, 101, 3600), (1, 3600));
        // 102 and 103 are missing when the other one begins.
        assert!(slots.switch(&mut placed, (10, 104), 1, (20, 7, 10_800)));
        assert_eq!((slots.of(1), placed[0].ssrc), (0, 20));
        assert_eq!(write(&mut slots, &mut placed, 1, 7, 10_800), (4, 10_890), "a little later");
        assert_eq!(write(&mut slots, &mut placed, 0, 103, 7200), (3, 7200));
        assert_eq!(write(&mut slots, &mut placed, 1, 8, 14_400), (5, 14_400));
        assert_eq!(placed[0].next_index, 9);
        // Back to the first, which was at work for others meanwhile.
        assert!(slots.switch(&mut placed, (20, 9), 0, (10, 5000, 14_400)));
        assert_eq!(write(&mut slots, &mut placed, 0, 5000, 14_400), (6, 14_490));
        assert_eq!(write(&mut slots, &mut placed, 0, 5001, 18_000), (7, 18_000));
        assert!(!slots.switch(&mut placed, (99, 9), 0, (10, 5000, 0)), "of another session");
    }
}
