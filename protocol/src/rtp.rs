//! The RTP header (RFC 3550, section 5.1): a checked view, and the three fields that the sealer owns.

use crate::size::RTP_HEADER;

/// Why bytes are no RTP packet.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum RtpError {
    /// The version is not 2.
    #[error("RTP version {actual}, expected 2")]
    Version {
        /// What the first two bits said.
        actual: u8,
    },
    /// The packet ends inside its header.
    #[error("RTP packet of {actual} bytes, its header takes {expected}")]
    Truncated {
        /// Bytes that the header needs.
        expected: usize,
        /// Bytes that there are.
        actual: usize,
    },
}

/// The fields of an RTP header that punchcast looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Last packet of an access unit, for video.
    pub marker: bool,
    /// 0–127.
    pub payload_type: u8,
    /// The low 16 bits of the packet index.
    pub sequence: u16,
    /// In units of the format's clock.
    pub timestamp: u32,
    /// Which track of which channel.
    pub ssrc: u32,
    /// Bytes of the header, contributing sources and extension included.
    pub length: usize,
}

impl Header {
    /// Reads the header at the front of `packet`.
    pub fn parse(packet: &[u8]) -> Result<Self, RtpError> {
        let truncated = |expected| RtpError::Truncated { expected, actual: packet.len() };
        let Some((fixed, rest)) = packet.split_first_chunk::<RTP_HEADER>() else {
            return Err(truncated(RTP_HEADER));
        };
        let version = fixed[0] >> 6;
        if version != 2 {
            return Err(RtpError::Version { actual: version });
        }
        let sources = usize::from(fixed[0] & 0x0f) * 4;
        let mut length = RTP_HEADER + sources;
        if fixed[0] & 0x10 != 0 {
            let Some(extension) = rest.get(sources..sources + 4) else {
                return Err(truncated(length + 4));
            };
            length += 4 + 4 * usize::from(u16::from_be_bytes([extension[2], extension[3]]));
        }
        if packet.len() < length {
            return Err(truncated(length));
        }
        Ok(Self {
            marker: fixed[1] & 0x80 != 0,
            payload_type: fixed[1] & 0x7f,
            sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
            timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            length,
        })
    }
}

/// Writes the payload type into a packet whose header was parsed.
pub fn set_payload_type(packet: &mut [u8], payload_type: u8) {
    packet[1] = packet[1] & 0x80 | payload_type & 0x7f;
}

/// Writes the sequence number into a packet whose header was parsed.
pub fn set_sequence(packet: &mut [u8], sequence: u16) {
    packet[2..4].copy_from_slice(&sequence.to_be_bytes());
}

/// Writes the RTP timestamp into a packet whose header was parsed.
pub fn set_timestamp(packet: &mut [u8], timestamp: u32) {
    packet[4..8].copy_from_slice(&timestamp.to_be_bytes());
}

/// Writes the SSRC into a packet whose header was parsed.
pub fn set_ssrc(packet: &mut [u8], ssrc: u32) {
    packet[8..12].copy_from_slice(&ssrc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_lengths() {
        let mut packet = [0u8; 32];
        packet[0] = 0x80;
        assert_eq!(Header::parse(&packet).map(|h| h.length), Ok(12));
        packet[0] = 0x82;
        assert_eq!(Header::parse(&packet).map(|h| h.length), Ok(20));
        packet[0] = 0x91;
        packet[19] = 3;
        assert_eq!(Header::parse(&packet).map(|h| h.length), Ok(32));
        packet[19] = 4;
        assert_eq!(Header::parse(&packet), Err(RtpError::Truncated { expected: 36, actual: 32 }));
        packet[0] = 0x40;
        assert_eq!(Header::parse(&packet), Err(RtpError::Version { actual: 1 }));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert!(header.length <= bytes.len());
            }
        }

        #[test]
        fn fields_written_are_read(sequence: u16, timestamp: u32, ssrc: u32) {
            let mut packet = [0u8; RTP_HEADER];
            packet[0] = 0x80;
            set_sequence(&mut packet, sequence);
            set_timestamp(&mut packet, timestamp);
            set_ssrc(&mut packet, ssrc);
            let header = Header::parse(&packet).expect("version 2, 12 bytes");
            prop_assert_eq!((header.sequence, header.timestamp, header.ssrc), (sequence, timestamp, ssrc));
        }
    }
}
