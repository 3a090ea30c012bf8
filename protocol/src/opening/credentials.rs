//! What the two parties of an introduction know each other by.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minicbor::{Decode, Encode};
use rand::{CryptoRng, RngExt};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

use crate::stun::Key;

/// Names one introduction. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct IntroductionId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 8]);

impl std::fmt::Display for IntroductionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl std::fmt::Debug for IntroductionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IntroductionId({self})")
    }
}

/// Short-term credential of one introduction (RFC 8489, section 9.1), minted by the rendezvous and
/// told to both parties. The secret is never printed, compared in constant time, and wiped.
#[derive(Clone, Encode, Decode)]
pub struct Credentials {
    /// Names the introduction.
    #[n(0)]
    pub id: IntroductionId,
    /// Authenticates the opening packets of both parties.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub secret: [u8; 16],
}

impl Credentials {
    /// Fresh credentials.
    pub fn mint(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        Self { id: IntroductionId(rng.random()), secret: rng.random() }
    }

    /// The key of MESSAGE-INTEGRITY. STUN passwords are text, so it is the secret in base64url.
    pub(super) fn key(&self) -> Key {
        Key::short_term(URL_SAFE_NO_PAD.encode(self.secret))
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.secret.ct_eq(&other.secret).into()
    }
}

impl Eq for Credentials {}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// Which of the two parties one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Asked for the introduction, and nominates the pair (ICE's controlling agent).
    Viewer,
    /// Was asked for, and follows the nomination.
    Broadcaster,
}

impl Role {
    /// The other party.
    pub fn peer(self) -> Self {
        match self {
            Self::Viewer => Self::Broadcaster,
            Self::Broadcaster => Self::Viewer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials { id: IntroductionId([0xab; 8]), secret: [0x5a; 16] };
        let printed = format!("{credentials:?} {:?}", credentials.key());
        assert!(printed.contains("abababababababab"), "{printed}");
        assert!(!printed.contains("90") && !printed.to_lowercase().contains("5a"), "{printed}");
    }

    #[test]
    fn credentials_travel() {
        let credentials = Credentials { id: IntroductionId([7; 8]), secret: [9; 16] };
        let bytes = minicbor::to_vec(&credentials).expect("a vector has room");
        assert_eq!(minicbor::decode::<Credentials>(&bytes).ok(), Some(credentials));
    }
}
