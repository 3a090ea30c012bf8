//! The opener: sealed RTCP packets of one viewer in, authenticated ones out.

use aws_lc_rs::aead::Aad;

use super::keys::{FeedbackKey, SessionKey, associated};
use super::replay::Window;
use super::{ENCRYPTED, HEADER, TRAILER};
use crate::size::SRTCP_OVERHEAD;

/// RTCP's packet types among those of RTP (RFC 5761, section 4).
const PACKET_TYPES: std::ops::RangeInclusive<u8> = 192..=223;

/// Why a packet was not opened. None of these says anything about its sender.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum OpenError {
    /// Too short, or not RTCP.
    #[error("not a sealed RTCP packet")]
    Malformed,
    /// Sent in the clear: feedback never is.
    #[error("not encrypted")]
    Clear,
    /// Another viewer's.
    #[error("SSRC {actual:08x}, expected {expected:08x}")]
    WrongSender {
        /// The viewer whose packets are opened.
        expected: u32,
        /// The SSRC as received.
        actual: u32,
    },
    /// Opened before, or too old to tell.
    #[error("index {index} was seen before, or is too old to tell")]
    Replayed {
        /// The index as received.
        index: u32,
    },
    /// Altered, forged, or sealed with another key.
    #[error("authentication failed")]
    Forged,
}

/// Whose a sealed RTCP packet claims to be: its sender SSRC. `None` for what is no such packet.
pub fn sender(packet: &[u8]) -> Option<u32> {
    let header = packet.first_chunk::<HEADER>()?;
    let is_rtcp = header[0] >> 6 == 2 && PACKET_TYPES.contains(&header[1]);
    let [_, _, _, _, ssrc @ ..] = *header;
    (is_rtcp && packet.len() >= HEADER + SRTCP_OVERHEAD).then(|| u32::from_be_bytes(ssrc))
}

/// Opens the packets of one viewer, each once.
pub struct Opener {
    key: SessionKey,
    ssrc: u32,
    window: Window,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("ssrc", &self.ssrc).finish_non_exhaustive()
    }
}

impl Opener {
    /// An opener for the viewer with this id.
    pub fn new(key: &FeedbackKey, ssrc: u32) -> Self {
        Self::with(SessionKey::derive(key), ssrc)
    }

    pub(super) fn with(key: SessionKey, ssrc: u32) -> Self {
        Self { key, ssrc, window: Window::default() }
    }

    /// Opens a sealed packet in place, and returns the RTCP packet.
    ///
    /// On [`OpenError::Forged`] the bytes are worthless and must be dropped.
    pub fn open<'a>(&mut self, packet: &'a mut [u8]) -> Result<&'a [u8], OpenError> {
        let actual = sender(packet).ok_or(OpenError::Malformed)?;
        if actual != self.ssrc {
            return Err(OpenError::WrongSender { expected: self.ssrc, actual });
        }
        let (sealed, trailer) =
            packet.split_last_chunk_mut::<TRAILER>().ok_or(OpenError::Malformed)?;
        let word = u32::from_be_bytes(*trailer);
        if word & ENCRYPTED == 0 {
            return Err(OpenError::Clear);
        }
        let index = word & !ENCRYPTED;
        if !self.window.admits(index) {
            return Err(OpenError::Replayed { index });
        }
        let (header, payload) =
            sealed.split_first_chunk_mut::<HEADER>().ok_or(OpenError::Malformed)?;
        let associated = associated(*header, *trailer);
        let plain = self
            .key
            .aead()
            .open_in_place(self.key.nonce(actual, index), Aad::from(associated), payload)
            .map_err(|_| OpenError::Forged)?
            .len();
        self.window.note(index);
        Ok(&packet[..HEADER + plain])
    }
}
