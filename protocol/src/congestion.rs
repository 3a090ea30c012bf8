//! What one viewer's path carries, from what the viewer reports.
//!
//! Loss alone says little: a bad radio link loses a third of everything and carries the rest, and repair makes
//! up for it. (RFC 8083's circuit breaker would stop such a stream; `docs/decisions.md` says why we do not.) A
//! path that is *full* has a queue: there the round trip grows while more packets get lost than without one. Or
//! repair does not get through, whatever the reason. And less arrives than the stream has. Then the viewer is sent what arrived, a little less even, and from
//! time to time a little more is tried. Where loss goes on regardless of what is sent, the path was not
//! full, and the viewer gets everything again.
//!
//! Where nothing arrives at all, nothing is sent, but for a try now and then.

use std::time::{Duration, Instant};

use crate::units::Bitrate;

/// Reports closer together than this are taken as one.
const LEAST_INTERVAL: Duration = Duration::from_millis(200);

/// Reports further apart than this say nothing about what was in between.
const LONGEST_INTERVAL: Duration = Duration::from_millis(1_900);

/// Growth of the round trip over its least that tells of a queue.
const QUEUE: Duration = Duration::from_millis(20);

/// Loss that must come with a queue, beyond what is lost without one.
const LOSS: f64 = 0.08;

/// So many standard deviations beyond that: of 40 packets a second, chance alone takes twice as many in some.
const DEVIATIONS: f64 = 3.0;

/// How much of what was lost without a queue counts on, from each report to the next.
const FADING: f64 = 0.97;

/// So much loss with so long a queue needs no second report.
const MUCH_LOSS: f64 = 0.25;
const LONG_QUEUE: Duration = Duration::from_millis(50);

/// Loss from which on a limited viewer's path is taken for full again, if there is a queue.
const LIMITED_LOSS: f64 = 0.1;

/// Share of packets that repair could not bring.
const UNREPAIRED: f64 = 0.05;

/// Reports in a row that make a conclusion: with a queue, and without.
const CONFIRMATIONS: u32 = 2;
const CONFIRMATIONS_UNREPAIRED: u32 = 4;

/// Where so much of the stream arrives, repair included, the path carries it.
const CARRIED: f64 = 0.95;

/// How much of what arrived is sent from then on, and of what was sent so far where that was too much, at
/// least: between GOPs less arrives because less is sent.
const KEPT: f64 = 0.9;
const CUT: f64 = 0.7;

/// How long a change is given to show.
const SHOWING: Duration = Duration::from_secs(1);

/// How much more is tried, how long after a cut, and how long at most. What goes well goes on each
/// [`SHOWING`].
const MORE: f64 = 1.25;
const FIRST_WAIT: Duration = Duration::from_secs(4);
const LONGEST_WAIT: Duration = Duration::from_secs(16);

/// So much beyond the stream leaves room for its repair: then everything is sent again.
const ENOUGH: f64 = 1.3;

/// The least round trip is taken over so long, and as long again.
const LEAST_OVER: Duration = Duration::from_secs(60);

/// Loss that much above the least must come with unrepaired packets, for less to help.
const MORE_LOSS: f64 = 0.05;

/// Less is no use: a keyframe would take seconds.
const LEAST: Bitrate = Bitrate::bits_per_second(250_000);

/// Cuts that may change nothing before they are given up.
const MOST_VAIN: u32 = 3;

/// For how long a path is not doubted again that turned out not to be full: at first, and at most.
const TRUSTED: Duration = Duration::from_secs(60);
const LONGEST_TRUSTED: Duration = Duration::from_secs(960);

/// Without a byte for so long, nothing arrives.
const NOTHING: Duration = Duration::from_secs(2);

/// A viewer's totals, and its round trip, as it reported them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// Packets that arrived.
    pub received: u64,
    /// Packets that were lost before repair.
    pub lost: u64,
    /// Packets that were missing at their deadline.
    pub unrecovered: u64,
    /// Bytes of all that arrived, repair included.
    pub bytes: u64,
    /// Bytes of the stream so far, whoever they were sent to. While there are no more nothing can arrive.
    pub published: u64,
    /// The round trip of late.
    pub rtt: Duration,
}

/// What a path carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// All that is sent.
    Everything,
    /// So much.
    Only(Bitrate),
    /// Nothing arrives.
    Nothing,
}

/// Follows one viewer's path.
#[derive(Debug)]
pub struct Congestion {
    last: Option<(Instant, Sample)>,
    least_rtt: Least,
    /// What gets lost while there is no queue.
    usual: Usual,
    /// Reports in a row that tell of a full path, and of failing repair.
    full: u32,
    unrepaired: u32,
    /// What arrived before the last report.
    arrived: Option<Bitrate>,
    /// When the last byte came.
    arrived_at: Option<Instant>,
    limit: Option<Limit>,
    trusted_until: Option<Instant>,
    trusted: Duration,
}

/// How a path that does not carry everything is tried out.
#[derive(Debug)]
struct Limit {
    /// Nothing arrives where it is zero.
    rate: Bitrate,
    changed_at: Instant,
    /// From a cut to the next try.
    wait: Duration,
    /// Whether a try went well since.
    climbs: bool,
    /// The round trip at the last change.
    rtt: Duration,
    /// Loss before it began.
    loss: f64,
    /// The least loss since.
    least_loss: f64,
    /// How often it changed nothing. `None` once it did.
    vain: Option<u32>,
}

/// The least round trip of the last minute or two: paths change.
#[derive(Debug, Default)]
struct Least {
    began: Option<Instant>,
    before: Option<Duration>,
    now: Option<Duration>,
}

impl Least {
    fn note(&mut self, rtt: Duration, now: Instant) -> Duration {
        if now >= *self.began.get_or_insert(now) + LEAST_OVER {
            self.began = Some(now);
            self.before = self.now.take();
        }
        let least = self.now.map_or(rtt, |least| least.min(rtt));
        self.now = Some(least);
        self.before.map_or(least, |before| before.min(least))
    }
}

/// Packets lost of late while there was no queue, and all of that time.
#[derive(Debug, Default)]
struct Usual {
    lost: f64,
    expected: f64,
}

impl Usual {
    fn note(&mut self, interval: &Interval) {
        self.lost = self.lost * FADING + interval.loss * interval.expected;
        self.expected = self.expected * FADING + interval.expected;
    }

    /// Whether so much more was lost than this that it is no chance.
    fn is_exceeded(&self, interval: &Interval, by: f64) -> bool {
        let usual = if self.expected > 0.0 { self.lost / self.expected } else { 0.0 };
        let deviation = (usual * (1.0 - usual) / interval.expected).sqrt();
        interval.loss >= usual + by + DEVIATIONS * deviation
    }
}

/// What happened from one report to the next.
#[derive(Debug, Clone, Copy)]
struct Interval {
    /// Packets that were to come.
    expected: f64,
    loss: f64,
    unrepaired: f64,
    arrived: Bitrate,
    rtt: Duration,
    /// By which the round trip is above its least.
    queue: Duration,
}

impl Default for Congestion {
    fn default() -> Self {
        Self {
            last: None,
            least_rtt: Least::default(),
            usual: Usual::default(),
            full: 0,
            unrepaired: 0,
            arrived: None,
            arrived_at: None,
            limit: None,
            trusted_until: None,
            trusted: TRUSTED,
        }
    }
}

impl Congestion {
    /// What the path carries.
    pub fn carries(&self) -> Carries {
        match &self.limit {
            None => Carries::Everything,
            Some(limit) if limit.rate.as_bits_per_second() == 0 => Carries::Nothing,
            Some(limit) => Carries::Only(limit.rate),
        }
    }

    /// Takes a report of a viewer to whom a stream of this rate (headers included) is sent. `is_ours` says that
    /// most viewers suffer at once, so that it is the sender's uplink that is full, and no path.
    pub fn report(&mut self, sample: Sample, stream: Bitrate, is_ours: bool, now: Instant) {
        let least = self.least_rtt.note(sample.rtt, now);
        let Some((at, last)) = self.last else {
            self.last = Some((now, sample));
            self.arrived_at = Some(now);
            return;
        };
        if now < at + LEAST_INTERVAL {
            return;
        }
        self.last = Some((now, sample));
        // A viewer that said nothing meanwhile may have been sent nothing.
        let was_silent = now >= at + LONGEST_INTERVAL;
        if was_silent || sample.bytes > last.bytes || sample.published == last.published {
            self.arrived_at = Some(now);
        }
        let interval = interval(&last, &sample, now - at, least);
        match &mut self.limit {
            Some(limit) => {
                let silent = self.arrived_at.is_none_or(|at| now >= at + NOTHING);
                if limit.step(interval, stream, silent, now) {
                    return;
                }
                if limit.vain.is_some() {
                    self.trusted_until = Some(now + self.trusted);
                    self.trusted = (self.trusted * 2).min(LONGEST_TRUSTED);
                }
                self.limit = None;
                (self.full, self.unrepaired) = (0, 0);
            }
            None => self.doubt(interval, stream, is_ours, now),
        }
    }

    /// Whether a path that is sent everything carries it.
    fn doubt(&mut self, interval: Interval, stream: Bitrate, is_ours: bool, now: Instant) {
        let Interval { loss, unrepaired, arrived, rtt, queue, .. } = interval;
        let before = self.arrived.replace(arrived).unwrap_or(arrived);
        if queue < QUEUE {
            self.usual.note(&interval);
        }
        if stream.as_bits_per_second() == 0 {
            return;
        }
        if self.arrived_at.is_some_and(|at| now >= at + NOTHING) {
            self.limit = Some(Limit::new(Bitrate::bits_per_second(0), rtt, 1.0, now));
            return;
        }
        let is_plain = self.usual.is_exceeded(&interval, MUCH_LOSS) && queue >= LONG_QUEUE;
        let is_trusted = !is_plain && self.trusted_until.is_some_and(|until| now < until);
        let may_be = !is_ours && !is_trusted && arrived < stream.scaled(CARRIED);
        let count = |before: u32, is_so: bool| if is_so && may_be { before + 1 } else { 0 };
        let loses_more = self.usual.is_exceeded(&interval, LOSS);
        self.full = count(self.full, queue >= QUEUE && loses_more);
        if self.full > 0 && is_plain {
            self.full = CONFIRMATIONS;
        }
        self.unrepaired = count(self.unrepaired, unrepaired >= UNREPAIRED);
        if self.full >= CONFIRMATIONS || self.unrepaired >= CONFIRMATIONS_UNREPAIRED {
            let rate = arrived.min(before).min(stream).scaled(KEPT).max(LEAST);
            self.limit = Some(Limit::new(rate, rtt, loss, now));
        }
    }
}

impl Limit {
    fn new(rate: Bitrate, rtt: Duration, loss: f64, now: Instant) -> Self {
        let wait = FIRST_WAIT;
        let (climbs, least_loss, vain) = (false, loss, Some(0));
        Self { rate, changed_at: now, wait, climbs, rtt, loss, least_loss, vain }
    }

    /// Takes what happened under it; false where it is over.
    fn step(&mut self, interval: Interval, stream: Bitrate, silent: bool, now: Instant) -> bool {
        let Interval { loss, unrepaired, arrived, rtt, queue, .. } = interval;
        if silent && self.rate.as_bits_per_second() > 0 {
            // It is tried again, ever more seldom.
            if now >= self.changed_at + NOTHING {
                self.climbs = true;
                self.back_off(Bitrate::bits_per_second(0), rtt, now);
            }
            return true;
        }
        // A queue that grows tells sooner than its overflow that a try was too much.
        let grows = self.climbs && rtt >= self.rtt + LONG_QUEUE;
        if grows {
            self.back_off(self.rate.scaled(1.0 / MORE / MORE).max(LEAST), rtt, now);
            return true;
        }
        if now < self.changed_at + SHOWING {
            return true;
        }
        let is_full = loss >= LIMITED_LOSS && queue >= QUEUE;
        self.least_loss = self.least_loss.min(loss);
        let is_too_much = unrepaired >= UNREPAIRED && loss >= self.least_loss + MORE_LOSS;
        if let Some(vain) = self.vain.filter(|_| self.rate.as_bits_per_second() > 0) {
            if loss < self.loss / 2.0 || loss < LIMITED_LOSS {
                self.vain = None;
            } else if vain + 1 >= MOST_VAIN || (queue < QUEUE && unrepaired < UNREPAIRED) {
                return false;
            } else {
                self.vain = Some(vain + 1);
                self.rate = self.cut(arrived);
                (self.changed_at, self.rtt) = (now, rtt);
                return true;
            }
        }
        if is_full || is_too_much {
            self.back_off(self.cut(arrived), rtt, now);
        } else if (self.climbs && rtt < self.rtt + QUEUE) || now >= self.changed_at + self.wait {
            self.rate = self.rate.scaled(MORE).max(LEAST);
            (self.changed_at, self.rtt) = (now, rtt);
            self.climbs = true;
        }
        self.rate < stream.scaled(ENOUGH)
    }

    fn cut(&self, arrived: Bitrate) -> Bitrate {
        arrived.min(self.rate).scaled(KEPT).max(self.rate.scaled(CUT)).max(LEAST)
    }

    fn back_off(&mut self, rate: Bitrate, rtt: Duration, now: Instant) {
        self.rate = rate;
        (self.changed_at, self.rtt) = (now, rtt);
        // Only a try that was too much puts off the next.
        if std::mem::take(&mut self.climbs) {
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
        }
    }
}

fn interval(last: &Sample, sample: &Sample, took: Duration, least_rtt: Duration) -> Interval {
    let grown = |get: fn(&Sample) -> u64| get(sample).saturating_sub(get(last)) as f64;
    let (lost, unrecovered) = (grown(|sample| sample.lost), grown(|sample| sample.unrecovered));
    // What was recovered was received, too.
    let expected = (grown(|sample| sample.received) + unrecovered).max(1.0);
    let arrived = grown(|sample| sample.bytes) * 8.0 / took.as_secs_f64();
    Interval {
        expected,
        loss: (lost / expected).min(1.0),
        unrepaired: unrecovered / expected,
        arrived: Bitrate::bits_per_second(arrived as u64),
        rtt: sample.rtt,
        queue: sample.rtt.saturating_sub(least_rtt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Bitrate = Bitrate::bits_per_second(4_000_000);
    const RTT: Duration = Duration::from_millis(50);

    /// A path with a queue of 100 ms, and a viewer who reports four times a second.
    struct Path {
        congestion: Congestion,
        now: Instant,
        sample: Sample,
        /// Bits a second that it carries, and the share that it loses regardless.
        carries: f64,
        loses: f64,
        rtt: Duration,
        queued: f64,
        repairs: bool,
    }

    impl Path {
        fn new(carries: f64, loses: f64) -> Self {
            let mut congestion = Congestion::default();
            let now = Instant::now();
            congestion.report(Sample { rtt: RTT, ..Sample::default() }, STREAM, false, now);
            let sample = Sample { rtt: RTT, ..Sample::default() };
            Self { congestion, now, sample, carries, loses, rtt: RTT, queued: 0.0, repairs: true }
        }

        /// What is sent, in bits a second.
        fn sent(&self) -> f64 {
            match self.congestion.carries() {
                Carries::Everything => STREAM.as_bits_per_second() as f64,
                Carries::Only(rate) => {
                    (rate.as_bits_per_second() as f64).min(STREAM.as_bits_per_second() as f64)
                }
                Carries::Nothing => 0.0,
            }
        }

        fn pass(&mut self, seconds: f64) {
            for _ in 0..(seconds * 4.0) as usize {
                self.now += Duration::from_millis(250);
                let sent = self.sent() / 4.0;
                let room = self.carries / 4.0 + (self.carries * 0.1 - self.queued);
                let dropped = (sent - room).max(0.0);
                self.queued = (self.queued + sent - dropped - self.carries / 4.0).max(0.0);
                let lost = dropped + (sent - dropped) * self.loses;
                let packets = |bits: f64| (bits / 8.0 / 1_200.0).round() as u64;
                self.sample.published += 125_000;
                self.sample.bytes += ((sent - lost) / 8.0) as u64;
                self.sample.lost += packets(lost);
                let repaired = if self.repairs { lost } else { 0.0 };
                self.sample.unrecovered += packets(lost - repaired);
                self.sample.received += packets(sent - lost + repaired);
                let queue = if self.carries > 0.0 { self.queued / self.carries } else { 0.0 };
                self.sample.rtt = self.rtt + Duration::from_secs_f64(queue);
                self.congestion.report(self.sample, STREAM, false, self.now);
            }
        }
    }

    #[test]
    fn a_narrow_path_gets_what_it_carries_within_two_seconds_and_everything_once_it_can() {
        let mut path = Path::new(8e6, 0.0);
        path.pass(20.0);
        assert_eq!(path.congestion.carries(), Carries::Everything);
        path.carries = 2e6;
        path.pass(2.0);
        assert!(path.sent() <= 2e6 && path.sent() >= 1.5e6, "{}", path.sent());
        let mut sent = 0.0;
        for _ in 0..60 {
            path.pass(1.0);
            sent += path.sent() / 60.0;
            assert!(path.sent() <= 2.6e6, "{}", path.sent());
        }
        assert!(sent >= 1.5e6, "{sent}");
        path.carries = 8e6;
        path.pass(45.0);
        assert_eq!(path.congestion.carries(), Carries::Everything);
    }

    #[test]
    fn a_path_that_loses_and_is_not_full_gets_everything() {
        for loses in [0.01, 0.1, 0.3, 0.5] {
            let mut path = Path::new(20e6, loses);
            path.pass(120.0);
            assert_eq!(path.congestion.carries(), Carries::Everything, "{loses}");
        }
    }

    #[test]
    fn a_path_that_loses_and_whose_round_trip_varies_is_soon_trusted() {
        let mut path = Path::new(20e6, 0.2);
        let mut limited = 0;
        for second in 0..600u32 {
            path.rtt = RTT + Duration::from_millis(u64::from(second % 2) * 40);
            path.pass(1.0);
            limited += u32::from(path.congestion.carries() != Carries::Everything);
        }
        assert!(limited <= 24, "{limited} of 600 seconds");
    }

    /// A viewer that reports each second of a thin stream, 300 kbit/s in 40 packets a second.
    fn thin(seconds: u32, mut loses: impl FnMut(u32) -> bool, rtt: impl Fn(u32) -> u64) -> u32 {
        const THIN: Bitrate = Bitrate::bits_per_second(300_000);
        let mut congestion = Congestion::default();
        let began = Instant::now();
        let mut sample = Sample { rtt: RTT, ..Sample::default() };
        let mut limited = 0;
        for second in 0..seconds {
            congestion.report(sample, THIN, false, began + Duration::from_secs(second.into()));
            limited += u32::from(congestion.carries() != Carries::Everything);
            let lost = (0..40).filter(|_| loses(second)).count() as u64;
            sample.received += 40;
            sample.lost += lost;
            sample.published += 37_500;
            sample.bytes += 37_500 * (40 - lost) / 40;
            sample.rtt = Duration::from_millis(rtt(second));
        }
        limited
    }

    #[test]
    fn of_a_thousand_viewers_that_lose_a_tenth_none_is_taken_for_narrow_as_all_wait_at_times() {
        let mut state = 1u64;
        let mut limited = 0;
        for viewer in 0..1_000 {
            let loses = |_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33).is_multiple_of(10)
            };
            // Each few seconds a busy machine answers later for two, but not in the first second.
            let rtt = |second| if second > 0 && (second + viewer) % 5 < 2 { 80 } else { 1 };
            limited += thin(60, loses, rtt);
        }
        assert_eq!(limited, 0, "seconds of 60,000");
        // Where the queue takes half of all, it is.
        let mut at = 0;
        let loses = |second| {
            at += 1;
            at % 10 == 0 || (second >= 30 && at % 2 == 0)
        };
        let limited = thin(33, loses, |second| if second >= 30 { 80 } else { 1 });
        assert!(limited > 0, "it takes two seconds");
    }

    #[test]
    fn without_a_queue_what_repair_cannot_bring_tells_that_a_path_is_full() {
        let mut path = Path::new(20e6, 0.0);
        path.pass(5.0);
        // A policer: no queue, and repair is dropped like all else.
        path.repairs = false;
        let mut least = f64::MAX;
        for _ in 0..40 {
            path.loses = (1.0 - 2e6 / path.sent()).max(0.0);
            path.pass(0.25);
            least = least.min(path.sent());
        }
        assert!((1e6..=2.2e6).contains(&least), "{least}");
        // What is lost whatever is sent is no sign of it.
        let mut path = Path::new(20e6, 0.2);
        path.repairs = false;
        path.pass(30.0);
        assert_eq!(path.congestion.carries(), Carries::Everything);
    }

    #[test]
    fn where_nothing_arrives_nothing_is_sent_but_for_tries() {
        let mut path = Path::new(8e6, 0.0);
        path.pass(5.0);
        path.loses = 1.0;
        path.pass(2.5);
        assert_eq!(path.congestion.carries(), Carries::Nothing);
        let mut sent = 0.0;
        for _ in 0..240 {
            path.pass(0.25);
            sent += path.sent() / 4.0;
        }
        assert!(sent > 0.0 && sent < 0.05 * 4e6 * 60.0, "{sent} bits in a minute");
        path.loses = 0.0;
        path.pass(75.0);
        assert_eq!(path.congestion.carries(), Carries::Everything);
    }

    #[test]
    fn a_source_that_pauses_is_no_path_that_carries_nothing() {
        let mut congestion = Congestion::default();
        let began = Instant::now();
        let mut sample = Sample { rtt: RTT, ..Sample::default() };
        for tick in 0..80u64 {
            if !(20..60).contains(&tick) {
                sample.bytes += 125_000;
                sample.published += 125_000;
                sample.received += 100;
            }
            congestion.report(sample, STREAM, false, began + Duration::from_millis(250 * tick));
            assert_eq!(congestion.carries(), Carries::Everything, "{tick}");
        }
    }

    #[test]
    fn a_viewer_that_was_silent_is_judged_by_what_arrives_from_then_on() {
        let mut congestion = Congestion::default();
        let began = Instant::now();
        let mut sample = Sample { rtt: RTT, ..Sample::default() };
        // Stopped for six seconds; its first report is older than what waits for it.
        for (at, bytes) in [(0, 0), (1_000, 500_000), (7_000, 500_000), (7_250, 900_000)] {
            (sample.bytes, sample.published) = (bytes, at * 500);
            congestion.report(sample, STREAM, false, began + Duration::from_millis(at));
            assert_eq!(congestion.carries(), Carries::Everything, "{at}");
        }
    }

    #[test]
    fn a_full_uplink_is_not_taken_for_a_full_path() {
        let mut congestion = Congestion::default();
        let mut sample = Sample { rtt: RTT, ..Sample::default() };
        for tick in 0..40 {
            let now = Instant::now() + Duration::from_millis(250) * tick;
            congestion.report(sample, STREAM, true, now);
            sample.received += 100;
            sample.lost += 50;
            sample.unrecovered += 25;
            sample.bytes += 100_000;
            sample.rtt = RTT + Duration::from_millis(100);
        }
        assert_eq!(congestion.carries(), Carries::Everything);
    }
}
