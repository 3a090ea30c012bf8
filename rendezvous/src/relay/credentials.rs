//! Short-lived credentials in the form of the TURN REST API, which coturn calls `use-auth-secret`: the
//! username says until when it may be used, and the password is an HMAC of the username. Whoever
//! shares the secret can check them, and nobody has to keep a list of users.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt;
use stun_types::message::{IntegrityAlgorithm, IntegrityKey, LongTermKeyCredentials};

/// Realm of the embedded relay. coturn is told the same with `--realm`, though any will do there.
pub const REALM: &str = "punchcast";

/// Longest name that a username is made with: a STUN username ends at 508 bytes.
const LONGEST_NAME: usize = 256;

/// Makes and checks credentials with one secret.
#[derive(Debug)]
pub(super) struct Minter {
    secret: hmac::Key,
}

/// A user whose credentials have not expired. Whether it is one shows when the key fits.
#[derive(Debug)]
pub(super) struct User {
    /// The name that the credentials were made for: what quotas are counted by.
    pub(super) name: String,
    /// Key of the user's MESSAGE-INTEGRITY.
    pub(super) key: IntegrityKey,
}

impl Minter {
    pub(super) fn new(secret: &[u8]) -> Self {
        // SHA-1 is what the REST API has; in an HMAC it is not broken.
        Self { secret: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret) }
    }

    /// With a secret that lasts as long as the process.
    pub(super) fn random() -> Self {
        Self::new(&rand::rng().random::<[u8; 32]>())
    }

    /// Username and password for `name`, of which no more than 256 bytes are used.
    pub(super) fn mint(&self, name: &str, now: SystemTime, lifetime: Duration) -> (String, String) {
        let name = &name[..name.floor_char_boundary(LONGEST_NAME)];
        let username = format!("{}:{name}", unix_seconds(now + lifetime));
        let password = self.password(&username);
        (username, password)
    }

    /// The user of that name, unless it has expired.
    pub(super) fn user(&self, username: &str, now: SystemTime) -> Option<User> {
        let (expires_at, name) = username.split_once(':')?;
        let expires_at: u64 = expires_at.parse().ok()?;
        if expires_at <= unix_seconds(now) {
            return None;
        }
        let credentials = LongTermKeyCredentials::new(
            username.to_owned(),
            self.password(username),
            REALM.to_owned(),
        );
        Some(User { name: name.to_owned(), key: credentials.make_key(IntegrityAlgorithm::Sha1) })
    }

    fn password(&self, username: &str) -> String {
        STANDARD.encode(hmac::sign(&self.secret, username.as_bytes()))
    }
}

/// Seconds since 1970.
pub(super) fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The password as `openssl dgst -sha1 -hmac secret -binary | base64` makes it, which is how
    /// coturn's manual says to.
    #[test]
    fn passwords_are_those_of_the_rest_api() {
        let at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let (username, password) =
            Minter::new(b"secret").mint("viewer", at, Duration::from_secs(600));
        assert_eq!(username, "1700000600:viewer");
        assert_eq!(password, "1ZRf+tX6WzqU/ItM+pQzzYQBv6o=");
    }

    #[test]
    fn users_expire() {
        let minter = Minter::random();
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let lifetime = Duration::from_secs(10);
        let (username, _) = minter.mint("a:b", now, lifetime);
        assert_eq!(minter.user(&username, now).expect("a user").name, "a:b");
        assert!(minter.user(&username, now + lifetime).is_none());
        for wrong in ["", "viewer", "viewer:1800000000", "-1:viewer", ":viewer"] {
            assert!(minter.user(wrong, now).is_none(), "{wrong}");
        }
    }

    #[test]
    fn long_names_are_cut() {
        let (username, _) =
            Minter::random().mint(&"ü".repeat(1000), SystemTime::now(), Duration::from_secs(1));
        assert!(username.len() < 300);
    }
}
