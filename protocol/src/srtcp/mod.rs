//! Sealing and opening feedback: SRTCP with AEAD_AES_128_GCM (RFC 7714, section 9) under a key of each
//! viewer's own.
//!
//! A viewer seals what it says, and the broadcaster alone opens it. The key is random for each admission,
//! so neither it nor an index under it ever comes twice. Behind the tag follow the flag that says
//! "encrypted", which is always set, and the 31-bit index of the packet, which only grows:
//!
//! ```text
//! RTCP header, sender SSRC (8 bytes, authenticated) | encrypted | tag (16) | E | index (31 bits)
//! ```
//!
//! The sender SSRC is the viewer's id, and finds the key.

mod keys;
mod opener;
mod replay;
mod sealer;

pub use keys::FeedbackKey;
pub use opener::{OpenError, Opener, sender};
pub use sealer::{SealError, Sealer};

/// The first octets of an RTCP packet, which stay legible: header and sender SSRC.
const HEADER: usize = 8;

/// Flag and index behind the tag.
const TRAILER: usize = 4;

/// "Encrypted", in the trailer.
const ENCRYPTED: u32 = 1 << 31;

#[cfg(test)]
mod tests;
