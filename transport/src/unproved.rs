//! What is sent to addresses that QUIC has not proved: three times what came from there at most (RFC 9000, section 8.1).
//!
//! quinn starts one more datagram where any of that is left, and so sends up to 1,199 bytes more.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::connection_ids::{self, Id};

/// How many times as much as came may be sent.
const FACTOR: u64 = 3;

/// What came before anything was sent: the datagram with a client's first packet is no shorter.
const FIRST: u64 = 1200;

/// How often those of long ago are looked for where there is no room.
const SWEEPING: Duration = Duration::from_millis(100);

/// A handshake is over by then, one way or the other.
const LONGEST: Duration = Duration::from_secs(10);

/// So many are followed at once. Where handshakes without a proof are more, quinn asks for one first (Retry); beyond,
/// its own measure holds.
const MOST: usize = 4096;

/// Addresses with which a handshake is under way.
#[derive(Debug, Default)]
pub(crate) struct Unproved {
    all: HashMap<SocketAddr, Exchanged>,
    /// When those of long ago were last looked for.
    swept_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Exchanged {
    began: Instant,
    received: u64,
    sent: u64,
    /// Where we said that we are to be reached: nobody else knows it.
    id: Option<Id>,
    /// A packet came that is for that id (RFC 9000, section 8.1): who sent it has received ours.
    is_proved: bool,
}

/// Whether a datagram begins with an Initial or Handshake packet (RFC 9000, section 17.2). Retry and Version Negotiation
/// are shorter than what they answer, and need no memory.
fn is_handshake(datagram: &[u8]) -> bool {
    let is_numbered = datagram.get(1..5).is_some_and(|version| version != [0; 4]);
    is_numbered && datagram.first().is_some_and(|first| matches!(first & 0xb0, 0x80 | 0xa0))
}

impl Unproved {
    /// Notes what came from an address.
    pub(crate) fn received(&mut self, from: SocketAddr, datagram: &[u8]) {
        if !self.all.is_empty()
            && let Some(exchanged) = self.all.get_mut(&from)
        {
            exchanged.received += datagram.len() as u64;
            let id = connection_ids::destination(datagram);
            exchanged.is_proved |= id.is_some() && id == exchanged.id;
        }
    }

    /// Whether a datagram may be sent to an address, which is then counted.
    pub(crate) fn may_send(&mut self, to: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        let is_recent = |exchanged: &Exchanged| now < exchanged.began + LONGEST;
        // A handshake begins with one of these; what is sent behind it, when it is over, is not measured.
        if !is_handshake(datagram) {
            match self.all.get(&to) {
                None => return true,
                Some(exchanged) if !is_recent(exchanged) => {
                    self.all.remove(&to);
                    return true;
                }
                Some(_) => {}
            }
        }
        if self.all.len() >= MOST && !self.all.contains_key(&to) {
            if self.swept_at.is_none_or(|at| now >= at + SWEEPING) {
                self.swept_at = Some(now);
                self.all.retain(|_, exchanged| is_recent(exchanged));
            }
            if self.all.len() >= MOST {
                return true;
            }
        }
        let id = connection_ids::source(datagram);
        let new = Exchanged { began: now, received: FIRST, sent: 0, id, is_proved: false };
        let exchanged = self.all.entry(to).or_insert(new);
        if !is_recent(exchanged) {
            *exchanged = new;
        }
        exchanged.id = id.or(exchanged.id);
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

    /// Begins with a long header, from the id `b"from us!"`.
    const HANDSHAKE: [u8; 1200] = {
        let mut datagram = [0xc1; 1200];
        (datagram[5], datagram[6]) = (0, 8);
        let (_, behind) = datagram.split_at_mut(7);
        let (id, _) = behind.split_at_mut(8);
        id.copy_from_slice(b"from us!");
        datagram
    };

    /// Of whom has seen that.
    fn answer(first: u8) -> Vec<u8> {
        let version: &[u8] = if first & 0x80 != 0 { &[0, 0, 0, 1, 8] } else { &[] };
        [&[first], version, b"from us!", &[0; 20]].concat()
    }

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
        // Whoever can send from an address that is not its own can make the first byte of anything.
        for forged in [&[0xe1; 50][..], &[0xe1, 0, 0, 0, 1], &[0x41; 50]] {
            unproved.received(to, forged);
        }
        assert!((0..10).any(|_| !unproved.may_send(to, &HANDSHAKE, now + LONGEST)));
        for first in [0xe1, 0xc1, 0x41] {
            let (mut unproved, other) = (Unproved::default(), ([192, 0, 2, 9], 1).into());
            assert!(unproved.may_send(other, &HANDSHAKE, now));
            unproved.received(other, &answer(first));
            assert!((0..10).all(|_| unproved.may_send(other, &HANDSHAKE, now)));
        }
    }

    #[test]
    fn a_connection_that_lasts_is_not_measured() {
        let mut unproved = Unproved::default();
        let (began, to) = (Instant::now(), ([192, 0, 2, 1], 1).into());
        assert!(unproved.may_send(to, &HANDSHAKE, began));
        unproved.received(to, &answer(0xe1));
        // A thousand introductions a second, to somebody who says nothing but that they came.
        for ms in 0..60_000 {
            let now = began + Duration::from_millis(ms);
            assert!(unproved.may_send(to, &[0x40; 600], now), "{ms}");
        }
        assert!(unproved.all.is_empty());
    }

    #[test]
    fn those_of_long_ago_are_forgotten() {
        let mut unproved = Unproved::default();
        let began = Instant::now();
        for number in 0..20_000u32 {
            let [_, a, b, c] = number.to_be_bytes();
            let now = began + Duration::from_millis(u64::from(number) * 4);
            unproved.may_send(([10, a, b, c], 1).into(), &HANDSHAKE, now);
        }
        assert!(
            unproved.all.len() <= MOST && unproved.all.len() > MOST / 2,
            "{}",
            unproved.all.len()
        );
    }

    #[test]
    fn a_flood_of_retries_leaves_nothing() {
        let mut unproved = Unproved::default();
        let now = Instant::now();
        for number in 0..20_000u32 {
            let [_, a, b, c] = number.to_be_bytes();
            let to = ([10, a, b, c], 1).into();
            assert!(unproved.may_send(to, &[0xf1; 117], now), "Retry");
            assert!(unproved.may_send(to, &[0xc0, 0, 0, 0, 0, 1], now), "Version Negotiation");
        }
        assert!(unproved.all.is_empty());
        for number in 0..20_000u32 {
            let [_, a, b, c] = number.to_be_bytes();
            unproved.may_send(([10, a, b, c], 1).into(), &HANDSHAKE, now);
        }
        assert!(unproved.all.len() <= MOST);
    }
}
