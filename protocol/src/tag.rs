//! Viewer tags: what proves to one viewer that a datagram of media is the broadcaster's.
//!
//! All viewers of a channel hold its group key, so that key proves only that *some* insider sealed a packet. Behind
//! each datagram therefore stands a tag for the one viewer that it goes to: eight bytes of AES-128, under a key that
//! only this viewer and the broadcaster know, over a digest of the datagram. The digest (SHA-256, of which 128 bits)
//! is computed once, however many viewers there are; a viewer's tags cost one block of AES each.
//!
//! That is hash-then-PRF: whoever forges a tag has guessed 64 bits, told AES from chance, or found another datagram
//! with a digest of a given one. A tag tells nothing of when it was made; what is sent again is found out by its
//! packet index.

use std::fmt;

use aes::Aes128Enc;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use aws_lc_rs::digest;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of a tag.
pub const TAG: usize = 8;

/// Label with which both sides derive a viewer's key from their QUIC connection (RFC 5705, RFC 8446, section 7.5).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-punchcast-viewer-tag";

/// Blocks that are handed over at once: setting up costs as much as most of them.
const SIDE_BY_SIDE: usize = 16;

/// What a datagram's tags are made of, the same for all viewers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 16]);

impl Digest {
    /// The digest of a datagram as it is before its tag.
    pub fn of(datagram: &[u8]) -> Self {
        let whole = digest::digest(&digest::SHA256, datagram);
        let mut half = [0; 16];
        half.copy_from_slice(&whole.as_ref()[..16]);
        Self(half)
    }
}

/// What one viewer's tags are made with. Known to it and to the broadcaster.
pub struct TagKey(Aes128Enc);

impl fmt::Debug for TagKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TagKey")
    }
}

impl TagKey {
    /// The key made of such bytes.
    pub fn new(bytes: &Zeroizing<[u8; 16]>) -> Self {
        Self(Aes128Enc::new(&Array::from(**bytes)))
    }

    /// Writes one tag for each digest, one behind the other.
    ///
    /// # Panics
    ///
    /// Where `tags` has not [`TAG`] bytes for each digest.
    pub fn write(&self, digests: &[Digest], tags: &mut [u8]) {
        assert_eq!(tags.len(), digests.len() * TAG, "room for each tag");
        let chunks = digests.chunks(SIDE_BY_SIDE).zip(tags.chunks_mut(SIDE_BY_SIDE * TAG));
        for (digests, tags) in chunks {
            let mut blocks = [Array::from([0; 16]); SIDE_BY_SIDE];
            for (block, digest) in blocks.iter_mut().zip(digests) {
                block.copy_from_slice(&digest.0);
            }
            self.0.encrypt_blocks(&mut blocks[..digests.len()]);
            for (tag, block) in tags.chunks_exact_mut(TAG).zip(&blocks) {
                tag.copy_from_slice(&block[..TAG]);
            }
        }
    }

    /// The datagram without its tag, if that is the one that belongs there.
    pub fn check<'a>(&self, datagram: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (datagram, shown) = datagram.split_at_mut_checked(datagram.len().checked_sub(TAG)?)?;
        let mut tag = [0; TAG];
        self.write(&[Digest::of(datagram)], &mut tag);
        bool::from(tag.ct_eq(shown)).then_some(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> TagKey {
        TagKey::new(&Zeroizing::new([byte; 16]))
    }

    fn tagged(key: &TagKey, datagram: &[u8]) -> Vec<u8> {
        let mut tag = [0; TAG];
        key.write(&[Digest::of(datagram)], &mut tag);
        [datagram, &tag].concat()
    }

    /// `printf abc | sha256sum | head -c 32 | xxd -r -p | openssl enc -aes-128-ecb -nopad -K 0101…01`
    const ABC_TAG: [u8; TAG] = [0x1f, 0xa6, 0x05, 0x60, 0x49, 0x6f, 0x2b, 0xe2];

    #[test]
    fn a_tag_is_aes_of_half_a_sha256() {
        let tagged = tagged(&key(1), b"abc");
        assert_eq!(tagged, [&b"abc"[..], &ABC_TAG].concat());
    }

    #[test]
    fn only_the_datagram_and_the_viewer_that_it_was_made_for_fit() {
        let (ours, theirs) = (key(1), key(2));
        let datagram: Vec<u8> = (0..300u32).map(|at| at as u8).collect();
        let good = tagged(&ours, &datagram);
        assert_eq!(ours.check(&mut good.clone()).map(|it| &*it), Some(&datagram[..]));
        assert!(theirs.check(&mut good.clone()).is_none());
        for bit in 0..good.len() * 8 {
            let mut altered = good.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(ours.check(&mut altered).is_none(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(ours.check(&mut good[..length].to_vec()).is_none(), "{length} bytes");
        }
    }

    #[test]
    fn many_tags_are_what_each_is_alone() {
        for count in [0, 1, 7, 8, 9, 56] {
            let datagrams: Vec<Vec<u8>> = (0..count).map(|at| vec![at; 100]).collect();
            let digests: Vec<Digest> = datagrams.iter().map(|it| Digest::of(it)).collect();
            let mut tags = vec![0; digests.len() * TAG];
            key(3).write(&digests, &mut tags);
            for (datagram, tag) in datagrams.iter().zip(tags.chunks(TAG)) {
                assert_eq!(tagged(&key(3), datagram), [datagram, tag].concat());
            }
        }
    }
}
