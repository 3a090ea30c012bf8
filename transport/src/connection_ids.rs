//! QUIC connection ids (RFC 9000, section 5.1): ours can be told from others, and from guesses.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};
use rand::RngExt;

/// Bytes of an id of ours: half of them random, the others a keyed hash of these.
pub(crate) const LENGTH: usize = 8;

/// An id of ours.
pub(crate) type Id = [u8; LENGTH];

/// Makes ids, and knows them again.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionIds(RandomState);

impl ConnectionIds {
    fn hash(&self, random: [u8; LENGTH / 2]) -> [u8; LENGTH / 2] {
        (self.0.hash_one(random) as u32).to_be_bytes()
    }

    fn generate(&self) -> Id {
        let random: [u8; LENGTH / 2] = rand::rng().random();
        let mut id = [0; LENGTH];
        let (front, back) = id.split_at_mut(LENGTH / 2);
        front.copy_from_slice(&random);
        back.copy_from_slice(&self.hash(random));
        id
    }

    /// Whether this is one of ours. Others pass once in 2^32.
    pub(crate) fn is_ours(&self, [a, b, c, d, hash @ ..]: &Id) -> bool {
        self.hash([*a, *b, *c, *d]) == *hash
    }
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.generate())
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Whom a datagram's first packet is for (RFC 8999, section 5); `None` where that is no id of [`LENGTH`] bytes. All
/// packets of a datagram are for the same.
pub(crate) fn destination(datagram: &[u8]) -> Option<Id> {
    let (first, rest) = datagram.split_first()?;
    match first & 0x80 {
        0 => rest.first_chunk().copied(),
        _ => Some(take(rest.get(4..)?)?.0.try_into().ok()?),
    }
}

/// Whom a datagram's first packet is from, if that has a long header.
pub(crate) fn source(datagram: &[u8]) -> Option<Id> {
    let (first, rest) = datagram.split_first()?;
    let (_, rest) = take(rest.get(4..)?)?;
    let (id, _) = take(rest)?;
    (first & 0x80 != 0).then(|| id.try_into().ok())?
}

/// What a byte in front tells the length of, and the rest.
fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked((*length).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_known_again() {
        let (ids, others) = (ConnectionIds::default(), ConnectionIds::default());
        for _ in 0..1_000 {
            let id = ids.generate();
            assert!(ids.is_ours(&id) && ids.clone().is_ours(&id));
            assert!(!others.is_ours(&id));
        }
        assert!(!ids.is_ours(&[0; LENGTH]) || !ids.is_ours(&[1; LENGTH]));
    }

    #[test]
    fn ids_are_found_where_they_stand() {
        let long = [&[0xc0, 0, 0, 0, 1, 8][..], &[7; 8], &[8], &[9; 8], &[0; 20]].concat();
        assert_eq!((destination(&long), source(&long)), (Some([7; 8]), Some([9; 8])));
        let short = [&[0x40][..], &[3; 8], &[0; 20]].concat();
        assert_eq!((destination(&short), source(&short)), (Some([3; 8]), None));
        for (cut, len) in [(&long, 6), (&long, 13), (&short, 8), (&long, 0)] {
            assert_eq!(destination(&cut[..len]), None, "{len}");
        }
        assert_eq!(source(&long[..20]), None);
        let none = [&[0xc0, 0, 0, 0, 1, 0, 0][..], &[0; 20]].concat();
        assert_eq!((destination(&none), source(&none)), (None, None));
    }
}
