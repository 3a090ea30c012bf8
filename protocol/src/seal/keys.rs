//! Master keys, epochs, and the session keys derived from them.

use aws_lc_rs::aead::{AES_128_GCM, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use minicbor::{Decode, Decoder, Encode, decode};
use rand::{CryptoRng, RngExt};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::size::MKI;

/// Version of the media wire format, the first byte of every MKI.
pub const WIRE_VERSION: u8 = 1;

/// The last epoch that the MKI has room for.
const LAST_EPOCH: u32 = 0x00ff_ffff;

/// Packet indices have 48 bits (RFC 3711, section 3.2.1).
pub(super) const INDEX_END: u64 = 1 << 48;

/// Key generation of a channel: 0–2²⁴−1, growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
#[cbor(transparent)]
pub struct Epoch(#[n(0)] u32);

impl<'b, C> Decode<'b, C> for Epoch {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        match decoder.u32()? {
            epoch @ 0..=LAST_EPOCH => Ok(Self(epoch)),
            other => {
                Err(decode::Error::message(format_args!("epoch {other} has more than 24 bits")))
            }
        }
    }
}

impl Epoch {
    /// The epoch of a channel that starts.
    pub const FIRST: Self = Self(0);

    /// The epoch after this one; `None` when the MKI has no room for it.
    pub fn next(self) -> Option<Self> {
        (self.0 < LAST_EPOCH).then(|| Self(self.0 + 1))
    }

    /// The MKI that names this epoch.
    pub fn mki(self) -> [u8; MKI] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [WIRE_VERSION, a, b, c]
    }

    /// The epoch that an MKI names; `None` for another wire version.
    pub fn from_mki([version, a, b, c]: [u8; MKI]) -> Option<Self> {
        (version == WIRE_VERSION).then(|| Self(u32::from_be_bytes([0, a, b, c])))
    }
}

/// A channel's SRTP master key and salt of one epoch, as handed to admitted viewers.
#[derive(Clone, PartialEq, Eq, Encode, Decode, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey {
    /// Which generation this key is of.
    #[n(0)]
    #[zeroize(skip)]
    pub epoch: Epoch,
    #[cbor(n(1), with = "minicbor::bytes")]
    key: [u8; 16],
    #[cbor(n(2), with = "minicbor::bytes")]
    salt: [u8; 12],
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MasterKey").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl MasterKey {
    /// A fresh random key.
    pub fn random(epoch: Epoch, rng: &mut impl CryptoRng) -> Self {
        Self { epoch, key: rng.random(), salt: rng.random() }
    }

    /// A key from its parts: 16 bytes of key, 12 bytes of salt.
    pub fn from_parts(epoch: Epoch, key: [u8; 16], salt: [u8; 12]) -> Self {
        Self { epoch, key, salt }
    }

    /// Key and salt, as libsrtp and GStreamer's `srtpdec` take them: 28 bytes. For a key log that
    /// the user asked for, and for nothing else.
    pub fn export(&self) -> [u8; 28] {
        let mut out = [0; 28];
        out[..16].copy_from_slice(&self.key);
        out[16..].copy_from_slice(&self.salt);
        out
    }
}

/// The keys that seal and open packets of one epoch.
pub(super) struct SessionKey {
    pub(super) epoch: Epoch,
    aead: LessSafeKey,
    salt: [u8; NONCE_LEN],
}

impl SessionKey {
    /// Derives the session keys (RFC 3711, section 4.3, with RFC 7714, section 11).
    pub(super) fn derive(master: &MasterKey) -> Self {
        let mut key: [u8; 16] = derive(&master.key, &master.salt, 0x00);
        let salt: [u8; NONCE_LEN] = derive(&master.key, &master.salt, 0x02);
        let unbound = UnboundKey::new(&AES_128_GCM, &key).expect("the key has AES-128's length");
        key.zeroize();
        Self { epoch: master.epoch, aead: LessSafeKey::new(unbound), salt }
    }

    pub(super) fn aead(&self) -> &LessSafeKey {
        &self.aead
    }

    /// RFC 7714, section 8.1.
    pub(super) fn nonce(&self, ssrc: u32, index: u64) -> Nonce {
        let mut nonce = self.salt;
        let plain = ssrc.to_be_bytes().into_iter().chain(index.to_be_bytes().into_iter().skip(2));
        for (byte, with) in nonce.iter_mut().skip(2).zip(plain) {
            *byte ^= with;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// One session key: AES in counter mode over zeros, at the counter made of salt and label.
pub(crate) fn derive<const N: usize>(key: &[u8; 16], salt: &[u8; 12], label: u8) -> [u8; N] {
    let mut counter = [0u8; 16];
    counter[..12].copy_from_slice(salt);
    counter[7] ^= label;
    let key = UnboundCipherKey::new(&AES_128, key).expect("the key has AES-128's length");
    let cipher = EncryptingKey::ctr(key).expect("AES-128 has a counter mode");
    let mut out = [0u8; N];
    cipher
        .less_safe_encrypt(&mut out, EncryptionContext::Iv128(FixedLength::from(counter)))
        .expect("counter mode takes any length");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mki_names_its_epoch() {
        for epoch in [Epoch::FIRST, Epoch(1), Epoch(0x00ff_ffff)] {
            assert_eq!(Epoch::from_mki(epoch.mki()), Some(epoch));
        }
        assert_eq!(Epoch::from_mki([WIRE_VERSION + 1, 0, 0, 0]), None);
        assert_eq!(Epoch(0x00ff_ffff).next(), None);
    }

    #[test]
    fn epochs_beyond_the_mki_are_refused() {
        let decode = |epoch: u32| {
            let bytes = minicbor::to_vec(epoch).expect("a vector has room");
            minicbor::decode::<Epoch>(&bytes).ok()
        };
        assert_eq!(decode(LAST_EPOCH), Some(Epoch(LAST_EPOCH)));
        assert_eq!(decode(LAST_EPOCH + 1), None);
    }

    #[test]
    fn labels_give_different_keys() {
        let session = |label| derive::<12>(&[7; 16], &[9; 12], label);
        assert_ne!(session(0), session(2));
    }

    #[test]
    fn debug_hides_the_key() {
        let master = MasterKey::from_parts(Epoch::FIRST, [0xab; 16], [0xcd; 12]);
        let shown = format!("{master:?}");
        assert!(!shown.contains("171") && !shown.contains("ab"), "{shown}");
    }
}
