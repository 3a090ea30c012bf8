//! The sealer: one viewer's RTCP packets in, sealed ones out.

use aws_lc_rs::aead::Aad;

use super::keys::{FeedbackKey, SessionKey, associated};
use super::{ENCRYPTED, HEADER};

/// Why a packet could not be sealed. It must not be sent.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum SealError {
    /// Not RTCP.
    #[error("RTCP packet of {actual} bytes, its header takes {HEADER}")]
    Truncated {
        /// Bytes that there are.
        actual: usize,
    },
    /// All indices of this key are used.
    #[error("all 2^31 feedback indices are used; the viewer must be admitted again")]
    Exhausted,
}

/// Seals one viewer's RTCP packets. Owns SSRC and index, and never rewinds.
pub struct Sealer {
    key: SessionKey,
    ssrc: u32,
    next_index: u32,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer")
            .field("ssrc", &self.ssrc)
            .field("next_index", &self.next_index)
            .finish_non_exhaustive()
    }
}

impl Sealer {
    /// A sealer for the viewer with this id. Only one may ever be made of one key.
    pub fn new(key: &FeedbackKey, ssrc: u32) -> Self {
        Self::with(SessionKey::derive(key), ssrc, 0)
    }

    pub(super) fn with(key: SessionKey, ssrc: u32, next_index: u32) -> Self {
        Self { key, ssrc, next_index }
    }

    /// Seals a (compound) RTCP packet in place; it grows by [`SRTCP_OVERHEAD`] bytes. The sender SSRC in
    /// its header is replaced.
    ///
    /// [`SRTCP_OVERHEAD`]: crate::size::SRTCP_OVERHEAD
    pub fn seal(&mut self, packet: &mut Vec<u8>) -> Result<(), SealError> {
        let actual = packet.len();
        let Some((header, payload)) = packet.split_first_chunk_mut::<HEADER>() else {
            return Err(SealError::Truncated { actual });
        };
        let index = self.next_index;
        if index >= ENCRYPTED {
            return Err(SealError::Exhausted);
        }
        // Used up before the cipher runs: an error cannot make it come again.
        self.next_index += 1;
        header[4..].copy_from_slice(&self.ssrc.to_be_bytes());
        let trailer = (ENCRYPTED | index).to_be_bytes();
        let tag = self
            .key
            .aead()
            .seal_in_place_separate_tag(
                self.key.nonce(self.ssrc, index),
                Aad::from(associated(*header, trailer)),
                payload,
            )
            .expect("a datagram is far below GCM's length limit");
        packet.extend_from_slice(tag.as_ref());
        packet.extend_from_slice(&trailer);
        Ok(())
    }
}
