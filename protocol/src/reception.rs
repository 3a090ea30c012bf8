//! What a viewer knows about the packets of one track: received, missing, asked for, given up.
//!
//! A gap is not a loss yet: packets overtake each other. After the reordering tolerance, which follows
//! what the network does, a packet is asked for, again each round trip, as long as an answer can come
//! before its deadline. Packets that are missing at the end of everything that came are asked for as
//! well, once the next one is overdue.
//!
//! What happened to a packet is settled at its deadline, and counted then. One that is sent again says so:
//! where the original comes after all, it was late and never lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::feedback::{Block, Totals};
use crate::seal::PacketIndex;

/// How long a missing packet may be merely late: at first, and at least.
const FIRST_TOLERANCE: Duration = Duration::from_millis(10);
const LEAST_TOLERANCE: Duration = Duration::from_millis(4);

/// How much the tolerance grows with each packet that was asked for too early, and shrinks with each
/// other one: where they are in balance, one in 200 was.
const TOLERANCE_STEP: Duration = Duration::from_millis(5);
const BALANCE: f64 = 0.005;

/// From this loss on, tolerance must leave time for a further round.
const LOSSY: f64 = 0.005;
const VERY_LOSSY: f64 = 0.05;

/// What a round takes beyond the round trip, at least.
const ROUND_RESERVE: Duration = Duration::from_millis(5);

/// From one repetition of a request to the next, and the risk that all get lost, up to this loss.
const REPETITION: Duration = Duration::from_millis(5);
const RISK: f64 = 1e-3;
const MOST_REPEATED: f64 = 0.4;

/// Most missing packets followed at once; a larger hole is an outage, and counted as lost whole.
const MOST_MISSING: usize = 2048;

/// How far ahead packets may be said to be left out: more is a broken broadcaster.
const MOST_LEFT_OUT: u64 = 1 << 20;

/// Ranges beyond what came that are known to be left out, at most.
const MOST_AHEAD: usize = 64;

/// How long a packet of the history is waited for at least.
const HISTORY_PATIENCE: Duration = Duration::from_secs(1);

/// How long a packet of it may be merely late at least: nothing is known of the path yet, and there is time.
const HISTORY_TOLERANCE: Duration = Duration::from_millis(25);

/// Bounds of the time between access units, and what it is taken for at first.
const LEAST_SPACING: Duration = Duration::from_millis(5);
const FIRST_SPACING: Duration = Duration::from_millis(40);
const MOST_SPACING: Duration = Duration::from_millis(250);

/// What comes within so many times the usual distance is the next access unit.
const NEXT_UNIT: f64 = 1.5;

/// The next access unit is overdue after so many times the usual distance.
const OVERDUE: f64 = 1.25;

/// Silence of this length is an outage or a pause, which asking does not end.
const LONGEST_SILENCE: Duration = Duration::from_secs(1);

/// Loss is an average over about so many packets.
const LOSS_WINDOW: f64 = 800.0;

/// Fewer packets say nothing about loss.
pub(crate) const LEAST_EXPECTED: f64 = 30.0;

/// What is assumed to be lost of [`LEAST_EXPECTED`] packets before any came: enough for a lossy path not to
/// spoil the first picture, and soon outweighed by what is seen.
pub(crate) const ASSUMED_LOST: f64 = 3.0;

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

/// What is known of an authentic packet.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Its index.
    pub index: PacketIndex,
    /// Its RTP timestamp.
    pub timestamp: u32,
    /// Whether it is the last of its access unit, as far as the format tells.
    pub ends_unit: bool,
    /// How it came.
    pub came: Came,
}

/// How a packet came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// As it was sent first.
    First,
    /// Sent again.
    Again,
    /// Rebuilt from repair packets.
    Rebuilt,
}

/// That it is time to ask what is behind the newest packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// The highest index that came.
    pub index: PacketIndex,
    /// The last that came when it was sent.
    pub newest: PacketIndex,
    /// How long ago.
    pub lasts: Duration,
    /// How many further requests fit before the deadline of what may have been sent.
    pub rounds_left: u8,
}

/// A packet to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Its index.
    pub index: PacketIndex,
    /// How often it was asked for before.
    pub rounds: u32,
    /// How many further requests fit before its deadline.
    pub rounds_left: u8,
}

#[derive(Debug, Clone, Copy)]
struct Missing {
    deadline: Instant,
    ask_at: Instant,
    /// How often it was asked for.
    rounds: u32,
}

/// A packet that came after it was asked for: lost, unless it turns out that it was only late.
#[derive(Debug, Clone, Copy)]
struct Recovered {
    settled_at: Instant,
    is_rebuilt: bool,
}

/// The newest packet that came.
#[derive(Debug, Clone, Copy)]
struct Newest {
    index: PacketIndex,
    at: Instant,
    timestamp: u32,
    ends_unit: bool,
}

/// Reception of one track.
#[derive(Debug)]
pub struct Reception {
    ssrc: u32,
    clock_rate: u32,
    /// Next index expected in order.
    next: PacketIndex,
    first: PacketIndex,
    /// Packets that were left out, so far; and those beyond what came, of which that is known.
    unsent: u64,
    unsent_ahead: Vec<std::ops::Range<PacketIndex>>,
    /// Holes too large to follow each packet, until it is known that they were not left out.
    large: Vec<(std::ops::Range<PacketIndex>, Instant)>,
    live_index: PacketIndex,
    missing: BTreeMap<PacketIndex, Missing>,
    recovered: BTreeMap<PacketIndex, Recovered>,
    /// The latest packets whose deadline is over, to tell a late one from a duplicate.
    given_up: BTreeSet<PacketIndex>,
    /// How long after it should have come a packet is still of use.
    patience: Duration,
    is_limited: bool,
    /// The round trip as it was told last.
    rtt: Duration,
    tolerance: Duration,
    newest: Option<Newest>,
    /// From one access unit, or several that come together, to the next.
    spacing: Duration,
    /// When it was last asked what is behind the newest packet.
    asked_behind_at: Option<Instant>,
    /// Packets expected and lost of late, each weighing less with every later one.
    recent: (f64, f64),
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
    /// Reception of a track from packet `first` on, whose packets come as they are made from `live_index`
    /// on. A packet is of use for `patience` after it should have come.
    pub fn new(
        ssrc: u32,
        clock_rate: u32,
        first: PacketIndex,
        live_index: PacketIndex,
        patience: Duration,
        now: Instant,
    ) -> Self {
        Self {
            ssrc,
            clock_rate,
            next: first,
            first,
            unsent: 0,
            unsent_ahead: Vec::new(),
            large: Vec::new(),
            live_index,
            missing: BTreeMap::new(),
            recovered: BTreeMap::new(),
            given_up: BTreeSet::new(),
            patience,
            is_limited: false,
            rtt: Duration::ZERO,
            tolerance: FIRST_TOLERANCE,
            newest: None,
            spacing: FIRST_SPACING,
            asked_behind_at: None,
            recent: (0.0, 0.0),
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

    /// Whether a packet is missing, and may still come.
    pub fn is_missing(&self, index: PacketIndex) -> bool {
        self.missing.contains_key(&index)
    }

    /// The missing packets of a range.
    pub fn missing_of(
        &self,
        range: std::ops::Range<PacketIndex>,
    ) -> impl Iterator<Item = PacketIndex> {
        self.missing.range(range).map(|(index, _)| *index)
    }

    /// Totals so far, of what is settled.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Packets expected and lost of late; the older, the less they weigh.
    pub fn recent(&self) -> (f64, f64) {
        self.recent
    }

    /// Share of packets lost of late, 0 to 1.
    pub fn loss(&self) -> f64 {
        let (expected, lost) = self.recent;
        (lost / expected.max(LEAST_EXPECTED)).clamp(0.0, 1.0)
    }

    /// Index of the first packet that comes as it is made.
    pub fn live_index(&self) -> PacketIndex {
        self.live_index
    }

    /// Packets before this one are of the history, or as good as that.
    pub fn live_from(&mut self, live_index: PacketIndex) {
        self.live_index = live_index;
    }

    /// How long a missing packet may be merely late, as of now.
    pub fn tolerance(&self) -> Duration {
        self.tolerance
    }

    /// Interarrival jitter (RFC 3550, section 6.4.1).
    pub fn jitter(&self) -> Duration {
        let seconds = self.jitter as f64 / 16.0 / f64::from(self.clock_rate.max(1));
        Duration::from_secs_f64(seconds)
    }

    /// Takes note of an authentic packet.
    pub fn receive(&mut self, arrival: Arrival, now: Instant) -> Verdict {
        let Arrival { index, came, .. } = arrival;
        if index >= self.next {
            // Behind an outage nothing is followed.
            if came == Came::First || index >= self.next + self.room() {
                self.extend(arrival, now);
                self.totals.received += 1;
                return Verdict::Fresh;
            }
            // It was lost like those in front of it, before anything told so.
            self.expect(index + 1, now);
        }
        if let Some(Missing { deadline: settled_at, rounds, .. }) = self.missing.remove(&index) {
            self.totals.received += 1;
            if came != Came::First {
                if rounds == 0 {
                    self.recent.1 += 1.0;
                }
                let is_rebuilt = came == Came::Rebuilt;
                self.recovered.insert(index, Recovered { settled_at, is_rebuilt });
            } else if rounds > 0 {
                self.was_early();
            }
            return Verdict::Fresh;
        }
        if self.given_up.remove(&index) {
            self.totals.late += 1;
            return Verdict::Late;
        }
        self.totals.duplicates += 1;
        if came == Came::First && self.recovered.remove(&index).is_some() {
            self.was_early();
        }
        Verdict::Duplicate
    }

    /// A packet beyond all others.
    fn extend(&mut self, arrival: Arrival, now: Instant) {
        let Arrival { index, timestamp, ends_unit, .. } = arrival;
        let hole = self.expect(index, now);
        if let Some(newest) = self.newest
            && newest.timestamp != timestamp
        {
            let apart = now.saturating_duration_since(newest.at);
            // Several units of sound may share a datagram: what comes at one moment was sent at one.
            if hole == 0 && (LEAST_SPACING..=MOST_SPACING).contains(&apart) {
                self.spacing = (self.spacing * 15 + apart) / 16;
            }
        }
        self.recent.0 += 1.0;
        self.next = index + 1;
        self.newest = Some(Newest { index, at: now, timestamp, ends_unit });
        self.asked_behind_at = None;
        self.calm();
    }

    /// All packets before `next` are expected from now on; those that are new are missing. Returns how
    /// many.
    fn expect(&mut self, next: PacketIndex, now: Instant) -> u64 {
        let hole = next.saturating_sub(self.next);
        let faded = (1.0 - 1.0 / LOSS_WINDOW).powi((hole + 1).min(10_000) as i32);
        self.recent = (self.recent.0 * faded + hole as f64, self.recent.1 * faded);
        if hole > self.room() && self.is_limited && self.large.len() < MOST_AHEAD {
            // Most of it was left out, as will be told.
            self.large.push((self.next..next, now + self.patience.max(HISTORY_PATIENCE)));
        } else if hole > self.room() {
            // An outage: nothing of it can be had again in time.
            self.totals.lost += hole;
            self.totals.unrecovered += hole;
        } else if hole > 0 {
            self.miss(self.next..next, now);
        }
        self.next = self.next.max(next);
        let (known, ahead): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unsent_ahead)
            .into_iter()
            .partition(|packets| packets.start <= self.next);
        self.unsent_ahead = ahead;
        known.into_iter().for_each(|packets| self.left_out(packets));
        hole
    }

    /// How many more missing packets can be followed.
    fn room(&self) -> u64 {
        MOST_MISSING.saturating_sub(self.missing.len()) as u64
    }

    /// Notes packets that are missing.
    fn miss(&mut self, missing: std::ops::Range<PacketIndex>, now: Instant) {
        let count = (missing.end - missing.start) as u32;
        for (number, index) in (1..).zip(missing) {
            // It may have ended the unit before it, or begun the next, or come at any time between where that
            // is long.
            let due_at = self.newest.map_or(now, |newest| {
                let apart = now.saturating_duration_since(newest.at);
                if newest.ends_unit && apart <= self.spacing.mul_f64(NEXT_UNIT) {
                    // Nothing was missing then, so it began this one.
                    return now;
                }
                let share = apart.mul_f64(f64::from(number) / f64::from(count + 1));
                newest.at + share.saturating_sub(self.spacing)
            });
            // What was asked for before it was known to be missing is not asked for twice.
            let asked = self.asked_behind_at.filter(|at| *at >= due_at);
            if asked.is_some() {
                self.recent.1 += 1.0;
            }
            let ask_at = match asked {
                Some(at) => at + self.round(),
                None if index < self.live_index => now + self.tolerance.max(HISTORY_TOLERANCE),
                None => now + self.tolerance,
            };
            // A hole in the history spoils the picture until the next keyframe, and nothing plays yet.
            let patience = if index < self.live_index {
                self.patience.max(HISTORY_PATIENCE)
            } else {
                self.patience
            };
            let mut deadline = due_at + patience;
            if self.is_limited {
                // That it was left out may be told a little later.
                deadline = deadline.max(now + patience);
            }
            let missing = Missing { deadline, ask_at, rounds: u32::from(asked.is_some()) };
            self.missing.insert(index, missing);
        }
    }

    /// How long after it should have come a packet is of use from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Whether the path does not carry everything, so that what is missing was left out, mostly.
    pub fn set_limited(&mut self, is_limited: bool) {
        self.is_limited = is_limited;
    }

    /// These packets are not sent to us, as the path does not carry them: nothing is missing.
    pub fn left_out(&mut self, packets: std::ops::Range<PacketIndex>) {
        if packets.end > self.next + MOST_LEFT_OUT {
            return;
        }
        let missing: Vec<_> = self.missing_of(packets.clone()).collect();
        for index in missing {
            let asked = self.missing.remove(&index).is_some_and(|missing| missing.rounds > 0);
            self.recent.0 = (self.recent.0 - 1.0).max(0.0);
            self.recent.1 = (self.recent.1 - f64::from(u8::from(asked))).max(0.0);
            self.unsent += 1;
        }
        for (hole, _) in &mut self.large {
            let start = packets.start.max(hole.start);
            let end = packets.end.min(hole.end);
            if start < end {
                self.unsent += end - start;
                // The rest lies in front of it or behind it, in whole: pictures go on where they were left off.
                *hole = if start > hole.start { hole.start..start } else { end..hole.end };
            }
        }
        if packets.contains(&self.next) {
            self.unsent += packets.end - self.next;
            self.next = packets.end;
        } else if packets.start > self.next && self.unsent_ahead.len() < MOST_AHEAD {
            self.unsent_ahead.push(packets);
        }
    }

    /// A packet was asked for, and had only been late.
    fn was_early(&mut self) {
        self.recent.1 = (self.recent.1 - 1.0).max(0.0);
        let rounds = match self.loss() {
            loss if loss >= VERY_LOSSY => 3,
            loss if loss >= LOSSY => 2,
            _ => 1,
        };
        let most = self.patience.saturating_sub(self.round() * rounds).max(LEAST_TOLERANCE);
        self.tolerance = (self.tolerance + TOLERANCE_STEP).min(most);
    }

    /// A packet came as it should.
    fn calm(&mut self) {
        let less = TOLERANCE_STEP.mul_f64(BALANCE);
        self.tolerance = self.tolerance.saturating_sub(less).max(LEAST_TOLERANCE);
    }

    /// From one request for a packet to the next.
    fn round(&self) -> Duration {
        let reserve = ROUND_RESERVE.max(self.rtt / 10);
        // Where much is lost, the answer may be to the second or third time that a request was said.
        let repeated = if self.loss() >= VERY_LOSSY { ROUND_RESERVE } else { Duration::ZERO };
        self.rtt + reserve + repeated
    }

    /// For how long a request must be repeated to be sure that it arrives. A round that leaves no time for
    /// that is none to count on.
    fn repeating(&self) -> Duration {
        let loss = self.loss().min(MOST_REPEATED);
        if loss < LOSSY {
            return Duration::ZERO;
        }
        let repetitions = (RISK.ln() / loss.ln()).ceil() as u32;
        REPETITION * repetitions.saturating_sub(1)
    }

    /// A time as the track's RTP clock shows it.
    fn arrival_clock(&self, at: Instant) -> u32 {
        let elapsed = at.saturating_duration_since(self.began).as_secs_f64();
        (elapsed * f64::from(self.clock_rate)) as i64 as u32
    }

    /// Follows the spacing of packets, for the jitter. Only for packets sent live.
    pub fn time(&mut self, rtp_timestamp: u32, now: Instant) {
        let arrival = self.arrival_clock(now);
        let transit = i64::from(arrival.wrapping_sub(rtp_timestamp) as i32);
        if let Some(before) = self.transit {
            let change = i64::from((transit as u32).wrapping_sub(before as u32) as i32);
            let change = change.unsigned_abs().min(u64::from(self.clock_rate));
            self.jitter = self.jitter + change - ((self.jitter + 8) >> 4).min(self.jitter + change);
        }
        self.transit = Some(transit);
    }

    /// Counts what is settled, and returns the packets to ask for now, in order. Their next request is due
    /// a round later.
    pub fn poll_wanted(&mut self, rtt: Duration, now: Instant) -> Vec<Wanted> {
        self.rtt = rtt;
        let round = self.round();
        let repeating = self.repeating();
        let (totals, given_up, recent) = (&mut self.totals, &mut self.given_up, &mut self.recent);
        let (ssrc, live_index) = (self.ssrc, &self.live_index);
        self.recovered.retain(|_, recovered| {
            let is_open = recovered.settled_at > now;
            if !is_open {
                totals.lost += 1;
                if recovered.is_rebuilt {
                    totals.recovered_fec += 1;
                } else {
                    totals.recovered_nack += 1;
                }
            }
            is_open
        });
        self.large.retain(|(hole, settled_at)| {
            let is_open = *settled_at > now;
            if !is_open {
                totals.lost += hole.end - hole.start;
                totals.unrecovered += hole.end - hole.start;
            }
            is_open
        });
        let mut wanted = Vec::new();
        self.missing.retain(|&index, missing| {
            if missing.deadline <= now {
                if missing.rounds == 0 {
                    recent.1 += 1.0;
                }
                totals.lost += 1;
                totals.unrecovered += 1;
                given_up.insert(index);
                let (rounds, is_live) = (missing.rounds, index >= *live_index);
                tracing::trace!(ssrc, index, rounds, is_live, "given up");
                return false;
            }
            if missing.ask_at <= now {
                missing.ask_at = now + round;
                // An answer that would come too late is not asked for.
                if now + rtt <= missing.deadline {
                    if missing.rounds == 0 {
                        recent.1 += 1.0;
                    }
                    let left = (missing.deadline - now - rtt).saturating_sub(repeating);
                    let rounds_left = (left.as_secs_f64() / round.as_secs_f64()) as u8;
                    missing.rounds += 1;
                    let rounds = missing.rounds - 1;
                    wanted.push(Wanted { index, rounds, rounds_left });
                }
            }
            true
        });
        while self.given_up.len() > MOST_MISSING {
            self.given_up.pop_first();
        }
        wanted
    }

    /// When the packet behind the newest is overdue: it is asked for then, again each round.
    fn behind_due(&self) -> Option<Instant> {
        // The history comes when its turn is, and in order.
        let newest = self.newest.filter(|newest| newest.index >= self.live_index)?;
        let silence = if newest.ends_unit {
            self.spacing.mul_f64(OVERDUE) + self.tolerance
        } else {
            self.tolerance
        };
        let due_at = match self.asked_behind_at {
            Some(at) => at + self.round(),
            None => newest.at + silence,
        };
        (due_at < newest.at + LONGEST_SILENCE).then_some(due_at)
    }

    /// Whether it is time to ask what was sent behind the newest packet.
    pub fn poll_behind(&mut self, now: Instant) -> Option<Silence> {
        if self.behind_due()? > now {
            return None;
        }
        self.asked_behind_at = Some(now);
        let newest = self.newest.filter(|newest| now < newest.at + LONGEST_SILENCE)?;
        let left = (newest.at + self.patience).saturating_duration_since(now + self.rtt);
        let rounds_left = (left.as_secs_f64() / self.round().as_secs_f64()) as u8;
        let lasts = now.saturating_duration_since(newest.at);
        Some(Silence { index: self.next - 1, newest: newest.index, lasts, rounds_left })
    }

    /// When [`Self::poll_wanted`] or [`Self::poll_behind`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let missing = self.missing.values().map(|missing| missing.ask_at.min(missing.deadline));
        let recovered = self.recovered.values().map(|recovered| recovered.settled_at);
        let settling = recovered.chain(self.large.iter().map(|(_, settled_at)| *settled_at));
        missing.chain(settling).chain(self.behind_due()).min()
    }

    /// The block of the next report; the interval since the last ends here.
    pub fn report(&mut self) -> Block {
        let expected = (self.next - self.first).saturating_sub(self.unsent);
        let now = Reported { expected, lost: self.totals.lost };
        // Some were expected first, and turned out to be left out.
        let interval = now.expected.saturating_sub(self.reported.expected);
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
            bytes: sum.bytes + one.bytes,
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
        let mut reception = Reception::new(7, 90_000, 100, 100, ms(200), now);
        reception.poll_wanted(RTT, now);
        reception
    }

    /// A packet in the middle of a unit.
    fn arrival(index: PacketIndex) -> Arrival {
        Arrival { index, timestamp: 9, ends_unit: false, came: Came::First }
    }

    fn again(index: PacketIndex) -> Arrival {
        Arrival { came: Came::Again, ..arrival(index) }
    }

    fn wanted(reception: &mut Reception, now: Instant) -> Vec<PacketIndex> {
        reception.poll_wanted(RTT, now).iter().map(|wanted| wanted.index).collect()
    }

    #[test]
    fn sound_that_comes_two_units_at_a_time_is_not_overdue_in_between() {
        let now = Instant::now();
        let mut reception = reception(now);
        for pair in 0..50u32 {
            let at = now + ms(40) * pair;
            assert_eq!(reception.poll_behind(at), None, "pair {pair}");
            for number in [2 * pair, 2 * pair + 1] {
                let timestamp = number * 1024;
                let index = 100 + u64::from(number);
                let unit = Arrival { timestamp, ends_unit: true, ..arrival(index) };
                reception.receive(unit, at);
            }
        }
        assert!(reception.poll_behind(now + ms(49 * 40 + 60)).is_some());
    }

    #[test]
    fn what_is_left_out_is_neither_missed_nor_lost() {
        let now = Instant::now();
        let mut reception = reception(now);
        reception.receive(arrival(100), now);
        // Told before anything behind it comes; after; and before what is in front of it comes.
        reception.left_out(101..105);
        reception.receive(arrival(105), now);
        reception.receive(arrival(110), now);
        assert_eq!(wanted(&mut reception, now + ms(10)), [106, 107, 108, 109]);
        reception.left_out(106..109);
        reception.left_out(112..120);
        reception.receive(arrival(120), now + ms(20));
        assert_eq!(wanted(&mut reception, now + ms(31)), [111]);
        reception.poll_wanted(RTT, now + ms(500));
        let expected = Totals { received: 4, lost: 2, unrecovered: 2, ..Totals::default() };
        assert_eq!(*reception.totals(), expected);
        let block = reception.report();
        assert_eq!(block.fraction_lost, (2 * 256 / 6) as u8);
        // A hole of any size, told before or after what is behind it; and one that is never told.
        reception.set_limited(true);
        reception.receive(arrival(10_000), now + ms(600));
        reception.left_out(121..10_000);
        reception.left_out(10_001..20_000);
        reception.receive(arrival(20_000), now + ms(700));
        reception.receive(arrival(25_000), now + ms(800));
        reception.poll_wanted(RTT, now + ms(3_000));
        assert_eq!(reception.totals().lost, 2 + 4_999);
        assert_eq!(reception.hoped_for(), 25_001);
    }

    #[test]
    fn reordering_is_no_loss() {
        let now = Instant::now();
        let mut reception = reception(now);
        for index in [100, 102, 101, 103] {
            assert_eq!(reception.receive(arrival(index), now), Verdict::Fresh);
        }
        assert!(wanted(&mut reception, now + ms(50)).is_empty());
        assert_eq!(reception.receive(arrival(101), now), Verdict::Duplicate);
        reception.poll_wanted(RTT, now + ms(500));
        let expected = Totals { received: 4, duplicates: 1, ..Totals::default() };
        assert_eq!(*reception.totals(), expected);
    }

    #[test]
    fn a_lost_packet_is_asked_for_each_round_until_it_comes() {
        let now = Instant::now();
        let mut reception = reception(now);
        reception.receive(arrival(100), now);
        reception.receive(arrival(102), now);
        assert!(wanted(&mut reception, now).is_empty(), "it may be late");
        let ask_at = now + ms(10);
        assert!(reception.poll_timeout().is_some_and(|at| at <= ask_at));
        let first = reception.poll_wanted(RTT, ask_at);
        assert_eq!(first, [Wanted { index: 101, rounds: 0, rounds_left: 3 }]);
        assert!(wanted(&mut reception, ask_at + ms(44)).is_empty());
        let second = reception.poll_wanted(RTT, ask_at + ms(45));
        assert_eq!(second, [Wanted { index: 101, rounds: 1, rounds_left: 2 }]);
        assert_eq!(reception.receive(again(101), ask_at + ms(80)), Verdict::Fresh);
        assert_eq!(reception.totals().lost, 0, "not settled yet");
        reception.poll_wanted(RTT, now + ms(200));
        let expected = Totals { received: 3, lost: 1, recovered_nack: 1, ..Totals::default() };
        assert_eq!(*reception.totals(), expected);
    }

    #[test]
    fn a_packet_whose_original_comes_was_late_and_not_lost() {
        let now = Instant::now();
        let mut reception = reception(now);
        reception.receive(arrival(100), now);
        reception.receive(arrival(102), now);
        let tolerance = reception.tolerance();
        assert_eq!(wanted(&mut reception, now + ms(10)), [101]);
        assert_eq!(reception.receive(arrival(101), now + ms(20)), Verdict::Fresh);
        assert!(reception.tolerance() > tolerance);
        assert_eq!(reception.receive(again(101), now + ms(60)), Verdict::Duplicate);
        // Of another one the answer comes first, and twice.
        reception.receive(arrival(104), now + ms(60));
        assert_eq!(wanted(&mut reception, now + ms(80)), [103]);
        reception.receive(again(103), now + ms(125));
        assert_eq!(reception.receive(again(103), now + ms(126)), Verdict::Duplicate);
        assert_eq!(reception.receive(arrival(103), now + ms(127)), Verdict::Duplicate);
        reception.poll_wanted(RTT, now + ms(500));
        let expected = Totals { received: 5, duplicates: 3, ..Totals::default() };
        assert_eq!(*reception.totals(), expected);
        assert!(reception.loss() < 1e-9);
    }

    #[test]
    fn the_end_of_a_unit_that_is_sent_again_was_lost() {
        let now = Instant::now();
        let mut reception = reception(now);
        reception.receive(arrival(100), now);
        assert!(reception.poll_behind(now + ms(10)).is_some());
        assert_eq!(reception.receive(again(102), now + ms(51)), Verdict::Fresh);
        assert_eq!(reception.receive(again(101), now + ms(51)), Verdict::Fresh);
        assert_eq!(reception.next_index(), 103);
        reception.poll_wanted(RTT, now + ms(500));
        let expected = Totals { received: 3, lost: 2, recovered_nack: 2, ..Totals::default() };
        assert_eq!(*reception.totals(), expected);
    }

    #[test]
    fn nothing_is_asked_for_that_would_come_too_late() {
        let now = Instant::now();
        let mut reception = reception(now);
        reception.receive(arrival(100), now);
        reception.receive(arrival(102), now);
        assert!(reception.poll_wanted(ms(300), now + ms(10)).is_empty());
        assert!(reception.poll_wanted(ms(300), now + ms(200)).is_empty());
        assert_eq!(reception.receive(arrival(101), now + ms(201)), Verdict::Late);
        assert_eq!(reception.receive(arrival(101), now + ms(202)), Verdict::Duplicate);
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
    fn what_may_have_followed_is_asked_for_when_it_is_overdue() {
        let now = Instant::now();
        let mut reception = reception(now);
        reception.receive(arrival(100), now);
        assert_eq!(reception.poll_behind(now + ms(5)), None);
        // A unit that did not end: the rest should be here.
        let asked = reception.poll_behind(now + ms(10)).expect("overdue");
        assert_eq!(asked.index, 100);
        assert_eq!(reception.poll_behind(now + ms(50)), None);
        assert!(reception.poll_behind(now + ms(55)).is_some(), "again");
        // The answer shows that there were two.
        reception.receive(arrival(102), now + ms(60));
        assert!(wanted(&mut reception, now + ms(75)).is_empty(), "asked for already");
        assert_eq!(wanted(&mut reception, now + ms(105)), [101]);
        // A unit that ended: the next may take its time.
        reception.receive(Arrival { ends_unit: true, ..arrival(103) }, now + ms(110));
        assert_eq!(reception.poll_behind(now + ms(140)), None);
        assert!(reception.poll_behind(now + ms(180)).is_some());
        assert_eq!(reception.poll_behind(now + ms(1200)), None, "a pause");
    }

    #[test]
    fn the_deadline_counts_from_when_a_packet_should_have_come() {
        let now = Instant::now();
        let mut reception = reception(now);
        reception.receive(arrival(100), now);
        let next = Arrival { timestamp: 10, ..arrival(102) };
        reception.receive(next, now + ms(40));
        reception.poll_wanted(RTT, now + ms(199));
        assert_eq!(reception.totals().unrecovered, 0);
        reception.poll_wanted(RTT, now + ms(200));
        assert_eq!(reception.totals().unrecovered, 1);
    }

    #[test]
    fn the_history_is_waited_for_longer() {
        let now = Instant::now();
        let mut reception = Reception::new(7, 90_000, 100, 103, ms(200), now);
        for index in [100, 102, 104] {
            reception.receive(arrival(index), now);
        }
        reception.poll_wanted(RTT, now + ms(200));
        assert_eq!(reception.totals().unrecovered, 1, "103 was live");
        assert!(reception.is_missing(101));
        reception.poll_wanted(RTT, now + ms(1000));
        assert_eq!(reception.totals().unrecovered, 2);
    }

    #[test]
    fn an_outage_is_counted_whole_and_holds_no_memory() {
        let now = Instant::now();
        let mut reception = reception(now);
        reception.receive(arrival(100), now);
        reception.receive(arrival(1_000_000), now);
        assert_eq!(reception.totals().unrecovered, 999_899);
        assert!(reception.missing.is_empty());
    }

    #[test]
    fn reports_cover_their_interval() {
        let now = Instant::now();
        let mut reception = reception(now);
        for index in 100..200 {
            if index % 4 != 0 {
                reception.receive(arrival(index), now);
            }
        }
        reception.poll_wanted(RTT, now + ms(20));
        assert!((0.2..=0.28).contains(&reception.loss()), "{}", reception.loss());
        reception.poll_wanted(RTT, now + ms(200));
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
