//! Which QUIC datagrams are sent more than once.
//!
//! QUIC sends again what got lost after a time that it doubles each time. On a path that loses a third of
//! all packets, some handshakes take ten seconds like that. So what an exchange still needs after the time in
//! which a path without loss has done with it, if it is not a long one, is repeated, a few milliseconds apart:
//! the other end drops what it has. Contents of files are no such exchange: what follows a loss tells of it there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Within this time an exchange is over where nothing gets lost.
const USUAL: Duration = Duration::from_millis(200);

/// What takes longer is no exchange of a few words.
const LONGEST: Duration = Duration::from_secs(5);

/// So many datagrams are an exchange of a few words, and so many more for each second that it takes. Whoever sends
/// more sends contents, or says that it received them.
const WORDS: u32 = 16;
const WORDS_A_SECOND: u32 = 32;

/// After a silence of this time it is another exchange; keepalives are further apart.
const QUIET: Duration = Duration::from_millis(900);

/// How often a datagram is repeated, and how far apart.
pub(crate) const COPIES: u32 = 2;
pub(crate) const APART: Duration = Duration::from_millis(8);

/// So many exchanges are followed before the oldest are looked for.
const FEW: usize = 256;

/// Exchanges, by whom they are with.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    exchanges: HashMap<SocketAddr, Exchange>,
    forget_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Exchange {
    began: Instant,
    last: Instant,
    /// Datagrams so far.
    sent: u32,
}

impl Repeats {
    /// Notes a datagram to someone, and says whether it is to be repeated.
    pub(crate) fn note(&mut self, to: SocketAddr, now: Instant) -> bool {
        if self.exchanges.len() >= self.forget_at.max(FEW) {
            self.exchanges.retain(|_, exchange| now < exchange.last + QUIET);
            self.forget_at = self.exchanges.len() * 2;
        }
        let new = Exchange { began: now, last: now, sent: 0 };
        let exchange = self.exchanges.entry(to).or_insert(new);
        if now >= exchange.last + QUIET {
            *exchange = new;
        }
        exchange.last = now;
        exchange.sent = exchange.sent.saturating_add(1);
        let age = now.saturating_duration_since(exchange.began);
        let words = f64::from(WORDS) + f64::from(WORDS_A_SECOND) * age.as_secs_f64();
        (USUAL..LONGEST).contains(&age) && f64::from(exchange.sent) <= words
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
        assert!(at(200, one) && at(800, one) && at(1_600, one));
        assert!(!at(1_600, other) && at(1_900, other));
        assert!(!at(2_500, one) && at(2_700, one), "another exchange");
        assert!((1..10).all(|second| !at(10_000 + second * 1_000, one)), "keepalives");
        assert!(!(3..20).any(|part| at(30_000 + part * 500, other) && part > 12), "a long one");
    }

    #[test]
    fn contents_are_not_repeated() {
        // Acknowledgements of 1 Mbit/s, contents of 1 and of 100 Mbit/s, in datagrams a second.
        for rate in [50, 100, 10_000] {
            let mut repeats = Repeats::default();
            let (began, to) = (Instant::now(), ([192, 0, 2, 1], 1).into());
            let at = |number: u32| began + Duration::from_secs(6) * number / (rate * 6);
            let repeated = (0..rate * 6).filter(|&number| repeats.note(to, at(number))).count();
            assert!(repeated <= 60, "{repeated} of {}", rate * 6);
        }
        // An exchange that goes on where much is lost.
        let mut repeats = Repeats::default();
        let (began, to) = (Instant::now(), ([192, 0, 2, 1], 1).into());
        let at = |number: u32| began + Duration::from_millis(40) * number;
        let repeated = |number| repeats.note(to, at(number)) == (number >= 5);
        assert!((0..120).all(repeated), "25 datagrams a second");
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
        assert!(repeats.exchanges.len() <= 2 * FEW, "{}", repeats.exchanges.len());
    }
}
