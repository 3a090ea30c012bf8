//! The opener: sealed packets in, authenticated RTP packets out.

use aws_lc_rs::aead::Aad;

use super::keys::{Epoch, INDEX_END, MasterKey, SessionKey};
use crate::repair::packet::{self, Malformed, Repair};
use crate::repair::repair_ssrc;
use crate::rtp::{Header, RtpError};
use crate::size::{MKI, SEAL_OVERHEAD};

/// Most epochs held at once: the history of a channel never spans more.
const MOST_EPOCHS: usize = 32;

/// A packet's place in its stream: 48 bits, roll-over counter and sequence number.
pub type PacketIndex = u64;

/// Why a packet was not opened. None of these says anything about its sender.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum OpenError {
    /// Not RTP.
    #[error(transparent)]
    Rtp(#[from] RtpError),
    /// Too short for what sealing adds.
    #[error("sealed packet of {actual} bytes, at least {expected} are needed")]
    Truncated {
        /// Least length, in bytes.
        expected: usize,
        /// Bytes that there are.
        actual: usize,
    },
    /// Sealed under a wire version or epoch whose key this viewer does not hold.
    #[error("no key for MKI {mki:02x?}")]
    UnknownKey {
        /// The MKI as received.
        mki: [u8; MKI],
    },
    /// The SSRC is none of the channel's.
    #[error("SSRC {ssrc:08x} is not in this channel")]
    UnknownStream {
        /// The SSRC as received.
        ssrc: u32,
    },
    /// Altered, forged, or sealed with another key.
    #[error("authentication failed")]
    Forged,
    /// A repair packet that says nothing sensible, though its sender holds the key.
    #[error(transparent)]
    Repair(#[from] Malformed),
}

/// What was opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// A media packet: which stream (in the order given to [`Opener::new`]), its index, and the length of
    /// the RTP packet now at the front of the bytes.
    Media(usize, PacketIndex, usize),
    /// A repair packet of a stream.
    Repair(usize, Repair),
}

/// Opens the packets of one channel.
pub struct Opener {
    keys: Vec<SessionKey>,
    streams: Vec<Stream>,
}

struct Stream {
    ssrc: u32,
    highest: PacketIndex,
}

impl Opener {
    /// An opener for streams given as (SSRC, the index about to be sent): what admission tells.
    pub fn new(streams: impl IntoIterator<Item = (u32, PacketIndex)>) -> Self {
        // A broadcaster may say anything; no packet has an index of more than 48 bits.
        let stream =
            |(ssrc, highest): (u32, u64)| Stream { ssrc, highest: highest.min(INDEX_END - 1) };
        let streams = streams.into_iter().map(stream).collect();
        Self { keys: Vec::new(), streams }
    }

    /// A further stream, or one that goes on at another index. Returns its number.
    pub(crate) fn set_stream(&mut self, ssrc: u32, next: PacketIndex) -> usize {
        let stream = Stream { ssrc, highest: next.min(INDEX_END - 1) };
        match self.streams.iter().position(|known| known.ssrc == ssrc) {
            Some(at) => {
                self.streams[at] = stream;
                at
            }
            None => {
                self.streams.push(stream);
                self.streams.len() - 1
            }
        }
    }

    /// The stream that a packet says it is of.
    pub(crate) fn stream_of(&self, packet: &[u8]) -> Option<usize> {
        let header = Header::parse(packet).ok()?;
        let is_it = |known: &Stream| [known.ssrc, repair_ssrc(known.ssrc)].contains(&header.ssrc);
        self.streams.iter().position(is_it)
    }

    /// Takes a further epoch's key. The oldest is forgotten when there are too many.
    pub fn add_key(&mut self, key: &MasterKey) {
        self.keys.retain(|held| held.epoch != key.epoch);
        self.keys.push(SessionKey::derive(key));
        self.keys.sort_by_key(|held| held.epoch);
        if self.keys.len() > MOST_EPOCHS {
            self.keys.remove(0);
        }
    }

    /// Opens a sealed packet of either kind in place.
    ///
    /// On [`OpenError::Forged`] the payload bytes are worthless and must be dropped.
    pub fn open_any(&mut self, packet: &mut [u8]) -> Result<Opened, OpenError> {
        let header = Header::parse(packet)?;
        let is_repair = |stream: &Stream| repair_ssrc(stream.ssrc) == header.ssrc;
        let Some(track) = self.streams.iter().position(is_repair) else {
            let (track, index, length) = self.open(packet)?;
            return Ok(Opened::Media(track, index, length));
        };
        let plain = self.decrypt(&header, packet::index(&header), packet)?;
        let payload = &packet[header.length..header.length + plain];
        Ok(Opened::Repair(track, Repair::read(payload)?))
    }

    /// Opens a sealed media packet in place. Returns which stream (in the order given to [`Self::new`]),
    /// its index, and the length of the RTP packet now at the front of `packet`.
    ///
    /// On [`OpenError::Forged`] the payload bytes are worthless and must be dropped.
    pub fn open(&mut self, packet: &mut [u8]) -> Result<(usize, PacketIndex, usize), OpenError> {
        let header = Header::parse(packet)?;
        let track = self.streams.iter().position(|stream| stream.ssrc == header.ssrc);
        let unknown = OpenError::UnknownStream { ssrc: header.ssrc };
        let (track, highest) = track.map(|at| (at, self.streams[at].highest)).ok_or(unknown)?;
        let index = nearest_index(highest, header.sequence);
        let plain = self.decrypt(&header, index, packet)?;
        self.streams[track].highest = highest.max(index);
        Ok((track, index, header.length + plain))
    }

    /// Opens what lies behind the header; returns its length.
    fn decrypt(
        &self,
        header: &Header,
        index: PacketIndex,
        packet: &mut [u8],
    ) -> Result<usize, OpenError> {
        let expected = header.length + SEAL_OVERHEAD;
        let actual = packet.len();
        if actual < expected {
            return Err(OpenError::Truncated { expected, actual });
        }
        let (sealed, mki) = packet
            .split_last_chunk_mut::<MKI>()
            .ok_or(OpenError::Truncated { expected, actual })?;
        let unknown = OpenError::UnknownKey { mki: *mki };
        let epoch = Epoch::from_mki(*mki).ok_or(unknown)?;
        let key = self.keys.iter().find(|key| key.epoch == epoch).ok_or(unknown)?;
        let (head, payload) = sealed.split_at_mut(header.length);
        let plain = key
            .aead()
            .open_in_place(key.nonce(header.ssrc, index), Aad::from(&*head), payload)
            .map_err(|_| OpenError::Forged)?;
        Ok(plain.len())
    }
}

/// The index nearest to `highest` whose low 16 bits are `sequence` (RFC 3711, section 3.3.1). At the
/// end of all indices it is the last one, whose nonce fits no other sequence number.
fn nearest_index(highest: PacketIndex, sequence: u16) -> PacketIndex {
    let ahead = sequence.wrapping_sub(highest as u16);
    let index = if ahead < 0x8000 {
        highest + u64::from(ahead)
    } else {
        let behind = u64::from(ahead.wrapping_neg());
        // Before the first packet there is none: what lies there can only lie ahead.
        highest.checked_sub(behind).unwrap_or(highest + u64::from(ahead))
    };
    index.min(INDEX_END - 1)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::burst::PlainBurst;
    use crate::seal::Sealer;

    fn key(epoch: Epoch) -> MasterKey {
        MasterKey::from_parts(epoch, [5; 16], [6; 12])
    }

    fn sealed(payload: &[u8], at: u64) -> Vec<u8> {
        let mut sealer = Sealer::new(&key(Epoch::FIRST), &[77]);
        let mut header = [0u8; 12];
        header[0] = 0x80;
        let mut last = Vec::new();
        for _ in 0..=at {
            let mut burst = PlainBurst::default();
            burst.push([&header[..], payload]).expect("fits");
            let sealed = sealer.seal(0, false, Instant::now(), burst).expect("seals");
            last = sealed.bytes().to_vec();
        }
        last
    }

    fn opener(highest: u64) -> Opener {
        let mut opener = Opener::new([(77, highest)]);
        opener.add_key(&key(Epoch::FIRST));
        opener
    }

    #[test]
    fn what_was_sealed_opens() {
        let mut packet = sealed(b"a picture", 3);
        let (track, index, length) = opener(0).open(&mut packet).expect("opens");
        assert_eq!((track, index), (0, 3));
        assert_eq!(&packet[12..length], b"a picture");
    }

    #[test]
    fn needs_the_right_key() {
        let mut other = Opener::new([(77, 0)]);
        other.add_key(&MasterKey::from_parts(Epoch::FIRST, [8; 16], [6; 12]));
        assert_eq!(other.open(&mut sealed(b"a picture", 0)), Err(OpenError::Forged));
        let mut later = Opener::new([(77, 0)]);
        later.add_key(&key(Epoch::FIRST.next().expect("room")));
        let result = later.open(&mut sealed(b"a picture", 0));
        assert!(matches!(result, Err(OpenError::UnknownKey { .. })), "{result:?}");
    }

    #[test]
    fn an_impossible_index_is_no_crash() {
        assert_eq!(opener(u64::MAX).open(&mut sealed(b"a picture", 3)), Err(OpenError::Forged));
    }

    #[test]
    fn index_across_the_roll_over() {
        for highest in [0u64, 1, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x1_8000, 0xffff_ffff] {
            for step in [-0x7fffi64, -1, 0, 1, 0x7fff] {
                let Some(index) = highest.checked_add_signed(step) else { continue };
                assert_eq!(nearest_index(highest, index as u16), index, "{highest:x} {step}");
            }
        }
    }

    proptest! {
        #[test]
        fn altered_packets_never_open(at in 0usize..60, bit in 0u8..8) {
            let mut packet = sealed(b"a picture of something", 0);
            let at = at % packet.len();
            packet[at] ^= 1 << bit;
            prop_assert!(opener(0).open(&mut packet).is_err());
        }

        #[test]
        fn any_bytes_fail_quietly(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(opener(0).open(&mut bytes).is_err());
        }
    }
}
