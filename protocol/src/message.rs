//! How control messages are framed on a QUIC stream: four bytes of length, big endian, then one
//! CBOR item (RFC 8949). Fields are numbered; those behind the last one known are skipped, so that
//! optional ones can be added.

use minicbor::{Decode, Encode};

/// Longest message, in bytes: a catalogue page or a list of candidates is far below it.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Bytes in front of each message.
pub const LENGTH_PREFIX: usize = 4;

/// Why a message was refused.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The length prefix asks for too much.
    #[error("message of {actual} bytes; at most {MAX_MESSAGE} are taken")]
    TooLong {
        /// What the prefix said.
        actual: usize,
    },
    /// Not the CBOR that was expected.
    #[error("malformed message: {0}")]
    Malformed(#[from] minicbor::decode::Error),
}

/// One message with its length prefix.
pub fn encode<T: Encode<()>>(message: &T) -> Vec<u8> {
    let mut bytes = vec![0; LENGTH_PREFIX];
    minicbor::encode(message, &mut bytes).expect("writing into a vector cannot fail");
    let length = (bytes.len() - LENGTH_PREFIX) as u32;
    bytes[..LENGTH_PREFIX].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// The length that a prefix announces, in bytes.
pub fn announced_length(prefix: [u8; LENGTH_PREFIX]) -> Result<usize, MessageError> {
    let actual = u32::from_be_bytes(prefix) as usize;
    if actual > MAX_MESSAGE { Err(MessageError::TooLong { actual }) } else { Ok(actual) }
}

/// Reads one message without its prefix.
pub fn decode<'a, T: Decode<'a, ()>>(bytes: &'a [u8]) -> Result<T, MessageError> {
    Ok(minicbor::decode(bytes)?)
}
