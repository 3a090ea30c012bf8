//! The key of MESSAGE-INTEGRITY.

use stun_types::message::{IntegrityKey, ShortTermCredentials};

/// Key of a short-term credential (RFC 8489, section 9.1.1): the password itself. Never printed.
#[derive(Clone)]
pub struct Key(IntegrityKey);

impl Key {
    /// The key for a password. STUN passwords are text; binary secrets are written in some text form
    /// first.
    pub fn short_term(password: impl Into<String>) -> Self {
        Self(ShortTermCredentials::new(password.into()).make_key())
    }

    pub(super) fn inner(&self) -> &IntegrityKey {
        &self.0
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}
