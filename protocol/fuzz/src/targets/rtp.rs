//! The RTP header.

use punchcast_protocol::rtp::{Header, RtpError, set_sequence, set_ssrc, set_timestamp};

/// Reads a header; what it says must be inside the packet, and be what is written over it.
pub fn run(data: &[u8]) {
    let header = match Header::parse(data) {
        Ok(header) => header,
        Err(RtpError::Version { actual }) => return assert_ne!(actual, 2),
        Err(RtpError::Truncated { expected, actual }) => {
            return assert!(actual == data.len() && actual < expected);
        }
    };
    assert!(header.length >= 12 && header.length <= data.len() && header.payload_type < 128);
    let mut packet = data.to_vec();
    set_sequence(&mut packet, !header.sequence);
    set_timestamp(&mut packet, !header.timestamp);
    set_ssrc(&mut packet, !header.ssrc);
    let changed = Header {
        sequence: !header.sequence,
        timestamp: !header.timestamp,
        ssrc: !header.ssrc,
        ..header
    };
    assert_eq!(Header::parse(&packet), Ok(changed));
}
