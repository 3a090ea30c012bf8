//! The sealer: bursts in, the same bursts sealed in place out.

use std::ops::Range;
use std::time::Instant;

use aws_lc_rs::aead::Aad;
use bytes::Bytes;

use super::keys::{Epoch, INDEX_END, MasterKey, SessionKey};
use crate::burst::PlainBurst;
use crate::repair::packet::Repair;
use crate::repair::repair_ssrc;
use crate::rtp::{self, Header, RtpError};
use crate::size::{AEAD_TAG, RTP_HEADER, SEAL_OVERHEAD};

/// Why a burst could not be sealed. Nothing of it may be sent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// The payloader made something that is not RTP.
    #[error("the payloader made a bad packet: {0}")]
    Rtp(#[from] RtpError),
    /// The stream used up its packet indices.
    #[error("all 2^48 packet indices of SSRC {ssrc:08x} are used; restart the broadcaster")]
    Exhausted {
        /// The stream that ended.
        ssrc: u32,
    },
    /// There is no such track.
    #[error("track {track} is not one of this channel's {tracks}")]
    UnknownTrack {
        /// The track asked for.
        track: usize,
        /// How many there are.
        tracks: usize,
    },
}

/// One access unit's packets, sealed, in one contiguous buffer that all viewers share.
#[derive(Debug)]
pub struct SealedBurst {
    /// Which of the channel's tracks.
    pub track: usize,
    /// Whether decoding can start here.
    pub keyframe: bool,
    /// Whether nothing else needs it to be decoded.
    pub disposable: bool,
    /// SSRC of all its packets.
    pub ssrc: u32,
    /// Index of its first packet; the others follow.
    pub first_index: u64,
    /// RTP timestamp of all its packets.
    pub rtp_timestamp: u32,
    /// When what it shows was captured.
    pub captured_at: Instant,
    /// The key that it was sealed with.
    pub epoch: Epoch,
    bytes: Bytes,
    ends: Vec<usize>,
}

/// A run of equally long packets (the last may be shorter): one message to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    /// Where the run lies in [`SealedBurst::bytes`].
    pub range: Range<usize>,
    /// Length of each segment but perhaps the last, in bytes.
    pub segment: usize,
}

impl Segments {
    /// How many datagrams the run makes.
    pub fn count(&self) -> usize {
        self.range.len().div_ceil(self.segment)
    }
}

impl SealedBurst {
    /// All packets, one behind the other.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many packets there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Where packet `at` lies in [`Self::bytes`].
    pub fn packet(&self, at: usize) -> Option<Range<usize>> {
        let end = *self.ends.get(at)?;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        Some(start..end)
    }

    /// Splits the packets `from..to` into runs of at most `most` equally long packets.
    pub fn segments(&self, packets: Range<usize>, most: usize) -> Vec<Segments> {
        let mut runs: Vec<Segments> = Vec::with_capacity(2);
        let mut open = 0;
        for range in packets.filter_map(|at| self.packet(at)) {
            match runs.last_mut() {
                Some(run) if open > 0 && open < most && range.len() <= run.segment => {
                    run.range.end = range.end;
                    // A shorter packet ends its run.
                    open = if range.len() == run.segment { open + 1 } else { 0 };
                }
                _ => {
                    runs.push(Segments { segment: range.len(), range });
                    open = 1;
                }
            }
        }
        runs
    }
}

/// Seals a channel's packets. Owns SSRC and index of every stream and never rewinds them.
pub struct Sealer {
    key: SessionKey,
    streams: Vec<Stream>,
}

struct Stream {
    ssrc: u32,
    next_index: u64,
    /// Of its repair packets, which have an SSRC of their own.
    next_repair: u64,
}

impl Sealer {
    /// A sealer for tracks with these SSRCs, which must differ, and have their highest bit clear.
    pub fn new(key: &MasterKey, ssrcs: &[u32]) -> Self {
        debug_assert!(ssrcs.iter().all(|ssrc| ssrc >> 31 == 0), "the others are repair packets'");
        let stream = |&ssrc: &u32| Stream { ssrc, next_index: 0, next_repair: 0 };
        let streams = ssrcs.iter().map(stream).collect();
        Self { key: SessionKey::derive(key), streams }
    }

    /// Seals with another key from now on. Indices go on.
    pub fn rekey(&mut self, key: &MasterKey) {
        self.key = SessionKey::derive(key);
    }

    /// The epoch of the key that it seals with.
    pub fn epoch(&self) -> Epoch {
        self.key.epoch
    }

    /// The tracks' SSRCs, in order.
    pub fn ssrcs(&self) -> impl Iterator<Item = u32> {
        self.streams.iter().map(|stream| stream.ssrc)
    }

    /// The index that the next packet of `track` will have.
    pub fn next_index(&self, track: usize) -> Option<u64> {
        self.streams.get(track).map(|stream| stream.next_index)
    }

    /// Seals all packets of a burst in place. Sequence number and SSRC of each are replaced.
    pub fn seal(
        &mut self,
        track: usize,
        keyframe: bool,
        captured_at: Instant,
        burst: PlainBurst,
    ) -> Result<SealedBurst, SealError> {
        let tracks = self.streams.len();
        let stream =
            self.streams.get_mut(track).ok_or(SealError::UnknownTrack { track, tracks })?;
        let disposable = burst.is_disposable();
        let (mut bytes, ends) = burst.into_slots();
        if stream.next_index + ends.len() as u64 > INDEX_END {
            return Err(SealError::Exhausted { ssrc: stream.ssrc });
        }
        let first_index = stream.next_index;
        let mut rtp_timestamp = 0;
        let mut start = 0;
        for &end in &ends {
            let slot = &mut bytes[start..end];
            let plain_end = slot.len() - SEAL_OVERHEAD;
            let header = Header::parse(&slot[..plain_end])?;
            // The index is used up before the cipher runs: an error cannot make it come again.
            let index = stream.next_index;
            stream.next_index += 1;
            rtp_timestamp = header.timestamp;
            rtp::set_sequence(slot, index as u16);
            rtp::set_ssrc(slot, stream.ssrc);
            seal_packet(&self.key, stream.ssrc, index, header.length, slot);
            start = end;
        }
        Ok(SealedBurst {
            track,
            keyframe,
            disposable,
            ssrc: stream.ssrc,
            first_index,
            rtp_timestamp,
            captured_at,
            epoch: self.key.epoch,
            bytes: bytes.into(),
            ends,
        })
    }
}

impl Sealer {
    /// Seals a repair packet of a track.
    pub(crate) fn seal_repair(
        &mut self,
        track: usize,
        repair: &Repair,
    ) -> Result<Vec<u8>, SealError> {
        let tracks = self.streams.len();
        let stream =
            self.streams.get_mut(track).ok_or(SealError::UnknownTrack { track, tracks })?;
        let ssrc = repair_ssrc(stream.ssrc);
        let index = stream.next_repair;
        if index >= INDEX_END {
            return Err(SealError::Exhausted { ssrc });
        }
        stream.next_repair += 1;
        let mut packet = repair.write(ssrc, index);
        seal_packet(&self.key, ssrc, index, RTP_HEADER, &mut packet);
        Ok(packet)
    }
}

fn seal_packet(key: &SessionKey, ssrc: u32, index: u64, header: usize, slot: &mut [u8]) {
    let plain_end = slot.len() - SEAL_OVERHEAD;
    let (head, rest) = slot.split_at_mut(header);
    let (payload, trailer) = rest.split_at_mut(plain_end - header);
    let tag = key
        .aead()
        .seal_in_place_separate_tag(key.nonce(ssrc, index), Aad::from(&*head), payload)
        .expect("a datagram is far below GCM's length limit");
    trailer[..AEAD_TAG].copy_from_slice(tag.as_ref());
    trailer[AEAD_TAG..].copy_from_slice(&key.epoch.mki());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(lengths: &[usize]) -> PlainBurst {
        let mut burst = PlainBurst::default();
        for &length in lengths {
            let mut packet = vec![0u8; length];
            packet[0] = 0x80;
            burst.push([&packet[..]]).expect("fits");
        }
        burst
    }

    fn sealer() -> Sealer {
        Sealer::new(&MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12]), &[10, 20])
    }

    #[test]
    fn indices_only_grow() {
        let mut sealer = sealer();
        let now = Instant::now();
        let first = sealer.seal(0, true, now, burst(&[100, 100])).expect("seals");
        let second = sealer.seal(0, false, now, burst(&[100])).expect("seals");
        let other = sealer.seal(1, false, now, burst(&[100])).expect("seals");
        assert_eq!((first.first_index, second.first_index, other.first_index), (0, 2, 0));
        sealer.rekey(&MasterKey::from_parts(Epoch::FIRST.next().expect("room"), [3; 16], [4; 12]));
        let third = sealer.seal(0, false, now, burst(&[100])).expect("seals");
        assert_eq!(third.first_index, 3);
        assert_ne!(third.epoch, second.epoch);
        let bad = sealer.seal(2, false, now, burst(&[100]));
        assert_eq!(bad.err(), Some(SealError::UnknownTrack { track: 2, tracks: 2 }));
    }

    #[test]
    fn indices_end_and_never_begin_again() {
        let now = Instant::now();
        let mut sealer = sealer();
        sealer.streams[0].next_index = INDEX_END - 2;
        sealer.streams[0].next_repair = INDEX_END - 1;
        let ends = Some(SealError::Exhausted { ssrc: 10 });
        // A burst that does not fit as a whole takes none of those that are left.
        assert_eq!(sealer.seal(0, false, now, burst(&[100; 3])).err(), ends);
        let last = sealer.seal(0, false, now, burst(&[100; 2])).expect("they fit");
        assert_eq!(last.first_index + last.len() as u64, INDEX_END);
        assert_eq!(sealer.seal(0, false, now, burst(&[100])).err(), ends);
        let repair = Repair { base: 0, source: 1, number: 0, shard: vec![0; 64] };
        assert!(sealer.seal_repair(0, &repair).is_ok());
        let ends = Some(SealError::Exhausted { ssrc: repair_ssrc(10) });
        assert_eq!(sealer.seal_repair(0, &repair).err(), ends);
        // Other tracks go on.
        assert!(sealer.seal(1, false, now, burst(&[100])).is_ok());
        assert_eq!(sealer.ssrcs().collect::<Vec<_>>(), [10, 20]);
        assert_eq!((sealer.next_index(0), sealer.next_index(2)), (Some(INDEX_END), None));
    }

    #[test]
    fn a_bad_packet_uses_no_index_twice() {
        let mut sealer = sealer();
        let now = Instant::now();
        let mut bad = burst(&[100]);
        bad.push([&[0u8; 50][..]]).expect("fits");
        assert!(matches!(sealer.seal(0, false, now, bad), Err(SealError::Rtp(_))));
        let next = sealer.seal(0, false, now, burst(&[100])).expect("seals");
        assert_eq!(next.first_index, 1, "index 0 was used by the packet before the bad one");
    }

    #[test]
    fn runs_are_equal_but_for_the_last() {
        let mut sealer = sealer();
        let lengths = [300, 300, 300, 100, 50, 200, 200];
        let sealed = sealer.seal(0, true, Instant::now(), burst(&lengths)).expect("seals");
        let runs = sealed.segments(0..lengths.len(), 64);
        let shape: Vec<_> = runs.iter().map(|run| (run.segment - 20, run.count())).collect();
        assert_eq!(shape, [(300, 4), (50, 1), (200, 2)]);
        let covered: usize = runs.iter().map(|run| run.range.len()).sum();
        assert_eq!(covered, sealed.bytes().len());
        let capped = sealed.segments(0..3, 2);
        assert_eq!(capped.iter().map(Segments::count).collect::<Vec<_>>(), [2, 1]);
    }
}
