//! Sizes of what goes on the wire, in bytes. `docs/protocol.md` draws them.

use crate::tag::TAG;

/// Largest UDP payload that any part sends, before relay framing: it must cross a path MTU of 1,280
/// inside IPv6 and UDP headers, and leave room for TURN's framing.
pub const MAX_DATAGRAM: usize = 1200;

/// Largest sealed source packet: RTP header, payload, AEAD tag and MKI. The 50 bytes up to
/// [`MAX_DATAGRAM`] are for a repair packet's own header and for a [`VIEWER_TAG_ROOM`].
pub const MAX_SOURCE_PACKET: usize = 1150;

/// Room kept behind every source and repair packet for an authentication tag of one viewer: twice what
/// [`TAG`] takes.
pub const VIEWER_TAG_ROOM: usize = 16;

/// AEAD_AES_128_GCM's tag (RFC 7714, section 12.1).
pub const AEAD_TAG: usize = 16;

/// The master key identifier: wire version in the first byte, epoch in the other three.
pub const MKI: usize = 4;

/// What sealing adds behind a packet.
pub const SEAL_OVERHEAD: usize = AEAD_TAG + MKI;

/// What sealing adds behind an RTCP packet (RFC 7714, section 9.2): tag, encryption flag and index.
pub const SRTCP_OVERHEAD: usize = AEAD_TAG + 4;

/// Largest RTP packet that a payloader may hand over, so that it still fits when sealed.
pub const MAX_RTP_PACKET: usize = MAX_SOURCE_PACKET - SEAL_OVERHEAD;

/// The fixed part of an RTP header (RFC 3550, section 5.1).
pub const RTP_HEADER: usize = 12;

/// What each datagram of media takes on an Ethernet or DSL uplink beside its packets: Ethernet, IPv4 and UDP
/// headers, and the viewer's tag. Used for reckoning with an uplink's rate only.
pub const WIRE_OVERHEAD: usize = 14 + 20 + 8 + TAG;

const _: () = assert!(TAG <= VIEWER_TAG_ROOM && MAX_SOURCE_PACKET + VIEWER_TAG_ROOM < MAX_DATAGRAM);
