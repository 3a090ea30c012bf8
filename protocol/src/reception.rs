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

/// How many round trips it is waited for at least.
const HISTORY_ROUNDS: u32 = 7;

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

/// So is the next packet of an access unit after so many times the usual distance, beyond the tolerance.
const NEXT_PACKET: f64 = 2.0;

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
    /// Whether nothing comes behind [`Self::next`].
    is_over: bool,
    /// The round trip as it was told last.
    rtt: Duration,
    tolerance: Duration,
    newest: Option<Newest>,
    /// From one access unit, or several that come together, to the next.
    spacing: Duration,
    /// From one packet of an access unit to the next, as a narrow link draws them apart.
    within: Duration,
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
            is_over: false,
            rtt: Duration::ZERO,
            tolerance: FIRST_TOLERANCE,
            newest: None,
            spacing: FIRST_SPACING,
            within: Duration::ZERO,
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
            && newest.timestamp == timestamp
            && hole == 0
        {
            let apart = now.saturating_duration_since(newest.at).min(MOST_SPACING);
            // Soon up, slowly down: what is asked for too early fills the link that draws them apart.
            self.within = apart.max((self.within * 15 + apart) / 16);
        }
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
            // What was asked for before it was known to be missing is not asked for twice, unless that was cut
            // short: it cannot be repeated as what is behind the newest packet any more.
            let behind = self.asked_behind_at.filter(|at| *at >= due_at);
            let asked = behind.filter(|at| now >= *at + self.repeating());
            if asked.is_some() {
                self.recent.1 += 1.0;
            }
            let ask_at = match asked {
                Some(at) => at + self.round(),
                None if behind.is_some() => now,
                None if index < self.live_index => now + self.tolerance.max(HISTORY_TOLERANCE),
                None => now + self.tolerance,
            };
            // A hole in the history spoils the picture until the next keyframe, and nothing plays yet.
            let patience = if index < self.live_index {
                self.patience.max(HISTORY_PATIENCE).max(self.rtt * HISTORY_ROUNDS)
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

    /// A round trip takes so long, as far as is known.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt;
    }

    /// Whether the path does not carry everything, so that what is missing was left out, mostly.
    pub fn set_limited(&mut self, is_limited: bool) {
        self.is_limited = is_limited;
    }

    /// These packets are not sent to us, as the path does not carry them: nothing is missing.
    pub fn left_out(&mut self, packets: std::ops::Range<PacketIndex>) {
        if packets.end > self.next.saturating_add(MOST_LEFT_OUT) {
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

    /// Nothing comes from this index on; what is missing in front of it is still waited for.
    pub fn end_at(&mut self, end: PacketIndex, now: Instant) {
        if end <= self.next.saturating_add(MOST_LEFT_OUT) {
            self.expect(end, now);
        }
        self.is_over = true;
    }

    /// Counts what is not settled: what is missing is lost.
    pub(crate) fn settle(&mut self) {
        for Recovered { is_rebuilt, .. } in std::mem::take(&mut self.recovered).into_values() {
            self.totals.lost += 1;
            let recovered = match is_rebuilt {
                true => &mut self.totals.recovered_fec,
                false => &mut self.totals.recovered_nack,
            };
            *recovered += 1;
        }
        let large =
            std::mem::take(&mut self.large).into_iter().map(|(hole, _)| hole.end - hole.start);
        let missing = std::mem::take(&mut self.missing).len() as u64 + large.sum::<u64>();
        self.totals.lost += missing;
        self.totals.unrecovered += missing;
    }

    /// Whether nothing more comes.
    pub fn is_over(&self) -> bool {
        self.is_over
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
        if self.is_over {
            return None;
        }
        let silence = if newest.ends_unit {
            self.spacing.mul_f64(OVERDUE) + self.tolerance
        } else {
            self.tolerance + self.within.mul_f64(NEXT_PACKET)
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
mod tests;
