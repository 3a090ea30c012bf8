//! What is sent to addresses that QUIC has not proved: three times what came from there at most (RFC 9000, section 8.1).
//!
//! quinn starts one more datagram where any of that is left, and so sends up to 1,199 bytes more.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How many times as much as came may be sent.
const FACTOR: u64 = 3;

/// What came before anything was sent: the datagram with a client's first packet is no shorter.
const FIRST: u64 = 1200;

/// A handshake is over by then, one way or the other.
const LONGEST: Duration = Duration::from_secs(10);

/// So many are followed before the oldest are looked for.
const FEW: usize = 512;

/// Addresses with which a handshake is under way.
#[derive(Debug, Default)]
pub(crate) struct Unproved {
    all: HashMap<SocketAddr, Exchanged>,
    forget_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Exchanged {
    began: Instant,
    received: u64,
    sent: u64,
    /// A Handshake packet came: only who received ours can make one. quinn looks whether it is genuine, and sends no
    /// more than it would anyway where it is not.
    is_proved: bool,
}

/// Whether a datagram begins with a packet of a handshake: Initial, 0-RTT, Handshake or Retry (RFC 9000, section 17.2).
fn is_handshake(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0x80 != 0)
}

impl Unproved {
    /// Notes what came from an address.
    pub(crate) fn received(&mut self, from: SocketAddr, datagram: &[u8]) {
        if !self.all.is_empty()
            && let Some(exchanged) = self.all.get_mut(&from)
        {
            exchanged.received += datagram.len() as u64;
            exchanged.is_proved |= datagram.first().is_some_and(|first| first & 0xb0 == 0xa0);
        }
    }

    /// Whether a datagram may be sent to an address, which is then counted.
    pub(crate) fn may_send(&mut self, to: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        // A handshake begins with one of these.
        if !is_handshake(datagram) && !self.all.contains_key(&to) {
            return true;
        }
        let is_recent = |exchanged: &Exchanged| now < exchanged.began + LONGEST;
        if self.all.len() >= self.forget_at.max(FEW) {
            self.all.retain(|_, exchanged| is_recent(exchanged));
            self.forget_at = self.all.len() * 2;
        }
        let new = Exchanged { began: now, received: FIRST, sent: 0, is_proved: false };
        let exchanged = self.all.entry(to).or_insert(new);
        if !is_recent(exchanged) {
            *exchanged = new;
        }
        let sent = exchanged.sent + datagram.len() as u64;
        let may = exchanged.is_proved || sent <= FACTOR * exchanged.received;
        if may {
            exchanged.sent = sent;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: [u8; 1200] = [0xc0; 1200];

    #[test]
    fn who_says_one_word_gets_three_and_who_answers_more() {
        let mut unproved = Unproved::default();
        let (now, to) = (Instant::now(), ([192, 0, 2, 1], 1).into());
        let sent = (0..10).filter(|_| unproved.may_send(to, &HANDSHAKE, now)).count();
        assert_eq!(sent, 3);
        assert!(!unproved.may_send(to, &HANDSHAKE[..1], now));
        assert!(!unproved.may_send(to, &[0x40; 1200], now));
        let other = ([192, 0, 2, 2], 1).into();
        assert!(unproved.may_send(other, &[0x40; 1200], now), "one whose handshake is long over");
        unproved.received(to, &HANDSHAKE[..100]);
        assert!(unproved.may_send(to, &HANDSHAKE[..300], now));
        assert!(!unproved.may_send(to, &HANDSHAKE[..1], now));
        assert!(unproved.may_send(to, &HANDSHAKE, now + LONGEST));
        unproved.received(to, &[0xe0; 50]);
        assert!((0..10).all(|_| unproved.may_send(to, &HANDSHAKE, now + LONGEST)));
    }

    #[test]
    fn those_of_long_ago_are_forgotten() {
        let mut unproved = Unproved::default();
        let began = Instant::now();
        for number in 0..20_000u32 {
            let [_, a, b, c] = number.to_be_bytes();
            let now = began + Duration::from_millis(u64::from(number) * 20);
            unproved.may_send(([10, a, b, c], 1).into(), &HANDSHAKE, now);
        }
        assert!(unproved.all.len() <= 3 * FEW, "{}", unproved.all.len());
    }
}
