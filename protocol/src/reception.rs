//! What a viewer knows about the packets of one track: received, missing, asked for, given up.
//!
//! A gap is not a loss yet: packets overtake each other. A packet counts as lost when it is still
//! missing after the reordering tolerance; then it is asked for, again each round trip, as long as an
//! answer can come before its deadline; at the deadline it is unrecovered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::feedback::{Block, Totals};
use crate::seal::PacketIndex;

/// How long a missing packet may be merely late: typical reordering is below it.
const REORDER_TOLERANCE: Duration = Duration::from_millis(10);

/// Least time between two NACKs for one packet, where the round trip is shorter.
const LEAST_NACK_INTERVAL: Duration = Duration::from_millis(20);

/// Most missing packets followed at once; a larger hole is an outage, and counted as lost whole.
const MOST_MISSING: usize = 2048;

/// What to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Play it.
    Fresh,
    /// It was there before.
    Duplicate,
    /// It was missing, and its deadline is over.
    Late,
}

#[derive(Debug, Clone, Copy)]
struct Missing {
    deadline: Instant,
    ask_at: Instant,
    /// Counted as lost.
    is_lost: bool,
    /// Asked for at least once.
    is_asked: bool,
}

/// Reception of one track.
#[derive(Debug)]
pub struct Reception {
    ssrc: u32,
    clock_rate: u32,
    /// Next index expected in order.
    next: PacketIndex,
    first: PacketIndex,
    /// Next index expected of history older than `first`.
    early: PacketIndex,
    missing: BTreeMap<PacketIndex, Missing>,
    /// The latest packets whose deadline is over, to tell a late one from a duplicate.
    given_up: BTreeSet<PacketIndex>,
    /// How long after the gap was seen a packet is still of use.
    patience: Duration,
    totals: Totals,
    transit: Option<i64>,
    /// Sixteenfold, as in RFC 3550, appendix A.8.
    jitter: u64,
    reported: Reported,
    began: Instant,
}

#[derive(Debug, Clone, Copy, Default)]
struct Reported {
    expected: u64,
    lost: u64,
}

impl Reception {
    /// Reception of a track from packet `first` on, of which the packets before `played` were had
    /// before (0 for none). A packet is of use for `patience` after it was found missing.
    pub fn new(
        ssrc: u32,
        clock_rate: u32,
        first: PacketIndex,
        played: PacketIndex,
        patience: Duration,
        now: Instant,
    ) -> Self {
        Self {
            ssrc,
            clock_rate,
            next: first,
            first,
            early: played,
            missing: BTreeMap::new(),
            given_up: BTreeSet::new(),
            patience,
            totals: Totals::default(),
            transit: None,
            jitter: 0,
            reported: Reported::default(),
            began: now,
        }
    }

    /// The track's SSRC.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Index behind the highest received.
    pub fn next_index(&self) -> PacketIndex {
        self.next
    }

    /// The lowest index that may still come: a missing one, or the next.
    pub fn hoped_for(&self) -> PacketIndex {
        self.missing.keys().next().copied().unwrap_or(self.next)
    }

    /// Totals so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Interarrival jitter (RFC 3550, section 6.4.1).
    pub fn jitter(&self) -> Duration {
        let seconds = self.jitter as f64 / 16.0 / f64::from(self.clock_rate.max(1));
        Duration::from_secs_f64(seconds)
    }

    /// Takes note of an authentic packet.
    pub fn receive(&mut self, index: PacketIndex, now: Instant) -> Verdict {
        if index < self.first && index >= self.early {
            // Older history than was announced, in order: the broadcaster had hoped for a keyframe.
            self.early = index + 1;
            self.totals.received += 1;
            return Verdict::Fresh;
        }
        if index < self.next {
            return match self.missing.remove(&index) {
                Some(missing) => {
                    self.totals.received += 1;
                    if missing.is_asked {
                        self.totals.recovered_nack += 1;
                    }
                    Verdict::Fresh
                }
                None if self.given_up.remove(&index) => {
                    self.totals.late += 1;
                    Verdict::Late
                }
                None => {
                    self.totals.duplicates += 1;
                    Verdict::Duplicate
                }
            };
        }
        let hole = index - self.next;
        let room = (MOST_MISSING - self.missing.len()) as u64;
        if hole > room {
            // An outage: nothing of it can be had again in time.
            self.totals.lost += hole;
            self.totals.unrecovered += hole;
        } else {
            let missing = Missing {
                deadline: now + self.patience,
                ask_at: now + REORDER_TOLERANCE,
                is_lost: false,
                is_asked: false,
            };
            self.missing.extend((self.next..index).map(|index| (index, missing)));
        }
        self.next = index + 1;
        self.totals.received += 1;
        Verdict::Fresh
    }

    /// Follows the spacing of packets, for the jitter. Only for packets sent live.
    pub fn time(&mut self, rtp_timestamp: u32, now: Instant) {
        let elapsed = now.saturating_duration_since(self.began).as_secs_f64();
        let arrival = (elapsed * f64::from(self.clock_rate)) as i64 as u32;
        let transit = i64::from(arrival.wrapping_sub(rtp_timestamp) as i32);
        if let Some(before) = self.transit {
            let change = i64::from((transit as u32).wrapping_sub(before as u32) as i32);
            let change = change.unsigned_abs().min(u64::from(self.clock_rate));
            self.jitter = self.jitter + change - ((self.jitter + 8) >> 4).min(self.jitter + change);
        }
        self.transit = Some(transit);
    }

    /// Counts those whose deadline is over, and returns the packets to ask for now.
    pub fn poll_nack(&mut self, rtt: Duration, now: Instant) -> Vec<PacketIndex> {
        let interval = rtt.mul_f64(1.25).max(LEAST_NACK_INTERVAL);
        let (totals, given_up) = (&mut self.totals, &mut self.given_up);
        let mut ask = Vec::new();
        self.missing.retain(|&index, missing| {
            let over = missing.deadline <= now;
            if !missing.is_lost && (over || missing.ask_at <= now) {
                missing.is_lost = true;
                totals.lost += 1;
            }
            if over {
                totals.unrecovered += 1;
                given_up.insert(index);
                return false;
            }
            if missing.ask_at <= now {
                // An answer that would come too late is not asked for.
                if now + rtt <= missing.deadline {
                    ask.push(index);
                    missing.is_asked = true;
                }
                missing.ask_at = now + interval;
            }
            true
        });
        while self.given_up.len() > MOST_MISSING {
            self.given_up.pop_first();
        }
        ask
    }

    /// When [`Self::poll_nack`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.missing.values().map(|missing| missing.ask_at.min(missing.deadline)).min()
    }

    /// The block of the next report; the interval since the last ends here.
    pub fn report(&mut self) -> Block {
        let expected = self.next - self.first;
        let now = Reported { expected, lost: self.totals.lost };
        let interval = now.expected - self.reported.expected;
        let lost = now.lost - self.reported.lost;
        self.reported = now;
        let fraction_lost = (lost * 256).checked_div(interval).unwrap_or(0).min(255) as u8;
        Block {
            ssrc: self.ssrc,
            fraction_lost,
            cumulative_lost: self.totals.lost.min(0x7f_ffff) as u32,
            highest_index: self.next.saturating_sub(1) as u32,
            jitter: (self.jitter >> 4) as u32,
        }
    }
}

/// Totals over several tracks.
impl<'a> std::iter::Sum<&'a Totals> for Totals {
    fn sum<I: Iterator<Item = &'a Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            received: sum.received + one.received,
            lost: sum.lost + one.lost,
            recovered_nack: sum.recovered_nack + one.recovered_nack,
            recovered_fec: sum.recovered_fec + one.recovered_fec,
            unrecovered: sum.unrecovered + one.unrecovered,
            duplicates: sum.duplicates + one.duplicates,
            late: sum.late + one.late,
            corrupt: sum.corrupt + one.corrupt,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn reception(now: Instant) -> Reception {
        Reception::new(7, 90_000, 100, 30, ms(200), now)
    }

    #[test]
    fn reordering_is_no_loss() {
        let now = Instant::now();
        let mut reception = reception(now);
        for index in [100, 102, 101, 103] {
            assert_eq!(reception.receive(index, now), Verdict::Fresh);
        }
        assert!(reception.poll_nack(RTT, now + ms(50)).is_empty());
        assert_eq!(reception.totals().lost, 0);
        assert_eq!(reception.receive(101, now), Verdict::Duplicate);
        let expected = Totals { received: 4, duplicates: 1, ..Totals::default() };
        assert_eq!(*reception.totals(), expected);
    }

    #[test]
    fn a_lost_packet_is_asked_for_each_round_trip_until_it_comes() {
        let now = Instant::now();
        let mut reception = reception(now);
        reception.receive(100, now);
        reception.receive(102, now);
        assert!(reception.poll_nack(RTT, now).is_empty(), "it may be late");
        assert_eq!(reception.poll_timeout(), Some(now + ms(10)));
        assert_eq!(reception.poll_nack(RTT, now + ms(10)), [101]);
        assert!(reception.poll_nack(RTT, now + ms(30)).is_empty());
        assert_eq!(reception.poll_nack(RTT, now + ms(60)), [101]);
        assert_eq!(reception.receive(101, now + ms(70)), Verdict::Fresh);
        let expected = Totals { received: 3, lost: 1, recovered_nack: 1, ..Totals::default() };
        assert_eq!(*reception.totals(), expected);
        assert_eq!(reception.poll_timeout(), None);
    }

    #[test]
    fn nothing_is_asked_for_that_would_come_too_late() {
        let now = Instant::now();
        let mut reception = reception(now);
        reception.receive(100, now);
        reception.receive(102, now);
        assert!(reception.poll_nack(ms(300), now + ms(10)).is_empty());
        assert!(reception.poll_nack(ms(300), now + ms(200)).is_empty());
        assert_eq!(reception.receive(101, now + ms(201)), Verdict::Late);
        assert_eq!(reception.receive(101, now + ms(202)), Verdict::Duplicate);
        let expected = Totals {
            received: 2,
            lost: 1,
            unrecovered: 1,
            late: 1,
            duplicates: 1,
            ..Totals::default()
        };
        assert_eq!(*reception.totals(), expected);
    }

    #[test]
    fn older_history_than_announced_is_taken_in_order() {
        let now = Instant::now();
        let mut reception = reception(now);
        for index in [40, 41, 43] {
            assert_eq!(reception.receive(index, now), Verdict::Fresh);
        }
        for index in [41, 42] {
            assert_eq!(reception.receive(index, now), Verdict::Duplicate);
        }
        assert_eq!(reception.receive(20, now), Verdict::Duplicate, "played in another session");
        assert_eq!(reception.receive(100, now), Verdict::Fresh);
        assert_eq!(reception.totals().lost, 0);
    }

    #[test]
    fn an_outage_is_counted_whole_and_holds_no_memory() {
        let now = Instant::now();
        let mut reception = reception(now);
        reception.receive(100, now);
        reception.receive(1_000_000, now);
        assert_eq!(reception.totals().unrecovered, 999_899);
        assert_eq!(reception.poll_timeout(), None);
    }

    #[test]
    fn reports_cover_their_interval() {
        let now = Instant::now();
        let mut reception = reception(now);
        for index in 100..200 {
            if index % 4 != 0 {
                reception.receive(index, now);
            }
        }
        reception.poll_nack(RTT, now + ms(20));
        let block = reception.report();
        // 25 of 100 are missing.
        assert!((62..=66).contains(&block.fraction_lost), "{}", block.fraction_lost);
        assert_eq!((block.cumulative_lost, block.highest_index), (25, 199));
        assert_eq!(reception.report().fraction_lost, 0);
    }

    #[test]
    fn jitter_follows_the_spacing() {
        let now = Instant::now();
        let mut reception = reception(now);
        for frame in 0..500u64 {
            let wobble = if frame % 2 == 0 { 0 } else { 8 };
            reception.time((frame * 3600) as u32, now + ms(frame * 40 + wobble));
        }
        let jitter = reception.jitter().as_secs_f64() * 1e3;
        assert!((7.0..9.0).contains(&jitter), "{jitter}");
    }
}
