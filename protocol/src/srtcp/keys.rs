//! The key of one viewer's feedback, and the session key derived from it.

use aws_lc_rs::aead::{AES_128_GCM, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use minicbor::{Decode, Encode};
use rand::{CryptoRng, RngExt};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{HEADER, TRAILER};
use crate::seal::derive;

/// SRTCP master key and salt of one viewer's feedback, as its admission tells it.
#[derive(Clone, PartialEq, Eq, Encode, Decode, Zeroize, ZeroizeOnDrop)]
pub struct FeedbackKey {
    #[cbor(n(0), with = "minicbor::bytes")]
    key: [u8; 16],
    #[cbor(n(1), with = "minicbor::bytes")]
    salt: [u8; 12],
}

impl std::fmt::Debug for FeedbackKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedbackKey").finish_non_exhaustive()
    }
}

impl FeedbackKey {
    /// A fresh random key.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        Self { key: rng.random(), salt: rng.random() }
    }

    /// A key from its parts: 16 bytes of key, 12 bytes of salt.
    pub fn from_parts(key: [u8; 16], salt: [u8; 12]) -> Self {
        Self { key, salt }
    }
}

/// What seals and opens.
pub(super) struct SessionKey {
    aead: LessSafeKey,
    salt: [u8; NONCE_LEN],
}

impl SessionKey {
    /// Derives the session keys (RFC 3711, section 4.3.2, with RFC 7714, section 11).
    pub(super) fn derive(master: &FeedbackKey) -> Self {
        let mut key: [u8; 16] = derive(&master.key, &master.salt, 0x03);
        let session = Self::new(&key, derive(&master.key, &master.salt, 0x05));
        key.zeroize();
        session
    }

    pub(super) fn new(key: &[u8; 16], salt: [u8; NONCE_LEN]) -> Self {
        let unbound = UnboundKey::new(&AES_128_GCM, key).expect("the key has AES-128's length");
        Self { aead: LessSafeKey::new(unbound), salt }
    }

    pub(super) fn aead(&self) -> &LessSafeKey {
        &self.aead
    }

    /// RFC 7714, section 9.1. The index has 31 bits.
    pub(super) fn nonce(&self, ssrc: u32, index: u32) -> Nonce {
        let mut nonce = self.salt;
        let mut mix = |at: usize, with: [u8; 4]| {
            nonce[at..].iter_mut().zip(with).for_each(|(byte, with)| *byte ^= with);
        };
        mix(2, ssrc.to_be_bytes());
        mix(8, index.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// What is authenticated and stays legible (RFC 7714, section 9.2): the header with the sender SSRC,
/// and the trailer.
pub(super) fn associated(header: [u8; HEADER], trailer: [u8; TRAILER]) -> [u8; HEADER + TRAILER] {
    let mut all = [0; HEADER + TRAILER];
    all[..HEADER].copy_from_slice(&header);
    all[HEADER..].copy_from_slice(&trailer);
    all
}
