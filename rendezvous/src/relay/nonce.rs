//! Nonces without a memory: a keyed hash of the client's address and the time. Strangers who lie about
//! their address cannot make the relay remember anything.

use std::net::SocketAddr;
use std::time::SystemTime;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt;

use super::credentials::unix_seconds;

/// A nonce is good in the period that it was made in and in the next: 5 to 10 minutes. coturn's live for 10.
const PERIOD_SECONDS: u64 = 300;

/// Bytes of the hash that go into a nonce: 16 characters, and nothing that could be guessed.
const LENGTH: usize = 12;

/// Makes and checks nonces.
#[derive(Debug)]
pub(super) struct Nonces {
    key: hmac::Key,
}

impl Nonces {
    pub(super) fn random() -> Self {
        let secret: [u8; 32] = rand::rng().random();
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret) }
    }

    /// The nonce for a client. The same one throughout a period: a client that gets a second 401 with
    /// the nonce it has already sent knows that its credentials are wrong.
    pub(super) fn current(&self, client: SocketAddr, now: SystemTime) -> String {
        self.of_period(client, unix_seconds(now) / PERIOD_SECONDS)
    }

    /// Whether a client's nonce is still good.
    pub(super) fn is_fresh(&self, nonce: &str, client: SocketAddr, now: SystemTime) -> bool {
        let period = unix_seconds(now) / PERIOD_SECONDS;
        [period, period.saturating_sub(1)]
            .into_iter()
            .any(|period| self.of_period(client, period) == nonce)
    }

    fn of_period(&self, client: SocketAddr, period: u64) -> String {
        let hash = hmac::sign(&self.key, format!("{period} {client}").as_bytes());
        // Base64 cannot begin with RFC 8489's nonce cookie but by a chance of 2^-54; then a client
        // would look for features that are not there, and get the next nonce 5 minutes later.
        URL_SAFE_NO_PAD.encode(&hash.as_ref()[..LENGTH])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn nonces_are_for_one_client_and_some_minutes() {
        let nonces = Nonces::random();
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let client = SocketAddr::from(([192, 0, 2, 1], 4000));
        let nonce = nonces.current(client, now);
        assert_eq!(nonce.len(), 16);
        for (seconds, fresh) in [(0, true), (300, true), (600, false)] {
            let later = now + Duration::from_secs(seconds);
            assert_eq!(nonces.is_fresh(&nonce, client, later), fresh, "after {seconds} s");
        }
        let other = SocketAddr::from(([192, 0, 2, 1], 4001));
        assert!(!nonces.is_fresh(&nonce, other, now));
        assert!(!Nonces::random().is_fresh(&nonce, client, now));
    }
}
