//! The packets of one access unit in one contiguous buffer: what the payloader's output is copied
//! into once, sealed in place, and what every viewer is then sent without another copy.

use crate::size::{MAX_RTP_PACKET, RTP_HEADER, SEAL_OVERHEAD};

/// RTP packets of one access unit of one track, each with room behind it for what sealing adds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PlainBurst {
    bytes: Vec<u8>,
    /// End of each packet's slot, sealing room included.
    ends: Vec<usize>,
    disposable: bool,
}

/// A packet that no burst can take.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PushError {
    /// The packet would not fit a datagram when sealed.
    #[error("RTP packet of {actual} bytes; at most {MAX_RTP_PACKET} fit a datagram when sealed")]
    TooLong {
        /// Bytes of the packet.
        actual: usize,
    },
    /// The packet is no RTP packet.
    #[error("RTP packet of {actual} bytes is shorter than its header ({RTP_HEADER})")]
    TooShort {
        /// Bytes of the packet.
        actual: usize,
    },
}

impl PlainBurst {
    /// An empty burst with room for `packets` full packets.
    pub fn with_capacity(packets: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(packets * (MAX_RTP_PACKET + SEAL_OVERHEAD)),
            ends: Vec::with_capacity(packets),
            disposable: false,
        }
    }

    /// Says that no other access unit needs this one to be decoded.
    pub fn set_disposable(&mut self, disposable: bool) {
        self.disposable = disposable;
    }

    /// Whether no other access unit needs this one to be decoded.
    pub fn is_disposable(&self) -> bool {
        self.disposable
    }

    /// Copies one RTP packet, handed over as the memories it is made of, behind the others.
    pub fn push<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>) -> Result<(), PushError> {
        let start = self.bytes.len();
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        let actual = self.bytes.len() - start;
        let problem = if actual > MAX_RTP_PACKET {
            Some(PushError::TooLong { actual })
        } else if actual < RTP_HEADER {
            Some(PushError::TooShort { actual })
        } else {
            None
        };
        if let Some(problem) = problem {
            self.bytes.truncate(start);
            return Err(problem);
        }
        self.bytes.resize(self.bytes.len() + SEAL_OVERHEAD, 0);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// How many packets there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all packets, with their sealing room.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no packet yet.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The RTP packets, without their sealing room.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start..end - SEAL_OVERHEAD])
    }

    /// The buffer and the end of each packet's slot, for the sealer to work in.
    pub(crate) fn into_slots(self) -> (Vec<u8>, Vec<usize>) {
        (self.bytes, self.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_as_pushed() {
        let mut burst = PlainBurst::default();
        let first = [1u8; 12];
        let second = [2u8; 100];
        burst.push([&first[..4], &first[4..]]).expect("fits");
        burst.push([&second[..]]).expect("fits");
        assert_eq!(burst.packets().collect::<Vec<_>>(), [&first[..], &second[..]]);
    }

    #[test]
    fn refused_packets_leave_no_trace() {
        let mut burst = PlainBurst::default();
        assert_eq!(burst.push([&[0u8; 11][..]]), Err(PushError::TooShort { actual: 11 }));
        let long = vec![0u8; MAX_RTP_PACKET + 1];
        assert_eq!(burst.push([&long[..]]), Err(PushError::TooLong { actual: long.len() }));
        assert!(burst.is_empty());
        assert_eq!(burst.into_slots().0.len(), 0);
    }
}
