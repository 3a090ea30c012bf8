//! Which QUIC datagrams are sent more than once.
//!
//! QUIC sends again what got lost after a time that it doubles each time. On a path that loses a third of
//! all packets, some handshakes take ten seconds like that. So whatever an exchange still needs after the
//! time in which a path without loss has done with it is repeated, a few milliseconds apart: the other end
//! drops what it has. Paths that lose nothing see none of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Within this time an exchange is over where nothing gets lost.
const USUAL: Duration = Duration::from_millis(200);

/// After this time it is another exchange.
const LONGEST: Duration = Duration::from_secs(15);

/// How often a datagram is repeated, and how far apart.
pub(crate) const COPIES: u32 = 2;
pub(crate) const APART: Duration = Duration::from_millis(8);

/// So many exchanges are followed before the oldest are looked for.
const FEW: usize = 256;

/// When exchanges began, by whom they are with.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    began: HashMap<SocketAddr, Instant>,
    forget_at: usize,
}

impl Repeats {
    /// Notes a datagram to someone, and says whether it is to be repeated.
    pub(crate) fn note(&mut self, to: SocketAddr, now: Instant) -> bool {
        let age = |began: Instant| now.saturating_duration_since(began);
        if self.began.len() >= self.forget_at.max(FEW) {
            self.began.retain(|_, began| age(*began) < LONGEST);
            self.forget_at = self.began.len() * 2;
        }
        let began = self.began.entry(to).or_insert(now);
        if age(*began) >= LONGEST {
            *began = now;
        }
        age(*began) >= USUAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_longer_than_usual_is_repeated() {
        let mut repeats = Repeats::default();
        let began = Instant::now();
        let (one, other) = (([192, 0, 2, 1], 1).into(), ([192, 0, 2, 2], 2).into());
        let mut at = |ms: u64, to| repeats.note(to, began + Duration::from_millis(ms));
        assert!(!at(0, one) && !at(150, one));
        assert!(at(200, one) && at(9_000, one));
        assert!(!at(9_000, other) && at(9_300, other));
        assert!(!at(15_000, one) && at(15_200, one), "another exchange");
    }

    #[test]
    fn old_exchanges_are_forgotten() {
        let mut repeats = Repeats::default();
        let began = Instant::now();
        for second in 0..1000u32 {
            let now = began + Duration::from_secs(second.into());
            for peer in 0..10u8 {
                let [_, _, high, low] = second.to_be_bytes();
                repeats.note(([10, high, low, peer], 1).into(), now);
            }
        }
        assert!(repeats.began.len() <= 2 * FEW, "{}", repeats.began.len());
    }
}
