//! What goes to the live viewers next, where the uplink does not carry all of it at once.
//!
//! Without a limit a [`Volley`] goes out whole, one message for each viewer and run. With one, it goes in
//! slices: a chunk of packets to some viewers, then to the next, and so on round after round until all
//! have all. The first slice goes at once, and no slice waits longer than the uplink makes it. What only
//! one viewer waits for (joining bursts, retransmissions) goes when no volley is waiting, out of the same
//! budget.
//!
//! Drive it with [`Schedule::push`] and [`Schedule::spend`]; drain it with [`Schedule::poll`] until it has
//! nothing due, then wait until [`Schedule::poll_timeout`].

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pacing::Pacer;
use crate::seal::Segments;
use crate::size::WIRE_OVERHEAD;
use crate::units::Bitrate;
use crate::volley::Volley;

/// Most datagrams that one viewer gets in one slice: 18 kB, below any sane router's queue.
pub const CHUNK: usize = 16;

/// What a slice should take at least on the uplink, so that a fast one is not sent to in tiny slices.
const SLICE: Duration = Duration::from_millis(1);

/// How long a volley may wait for those before it. What is older is of no use to a live viewer.
const MOST_WAITING: Duration = Duration::from_secs(1);

/// Volleys to live viewers, in order.
#[derive(Debug)]
pub struct Schedule<A> {
    rate: Option<Bitrate>,
    pacer: Pacer,
    waiting: VecDeque<Waiting<A>>,
    dropped: u64,
}

#[derive(Debug)]
struct Waiting<A> {
    volley: Arc<Volley>,
    audience: A,
    viewers: usize,
    since: Instant,
    /// The run, the datagrams of it that every viewer has, and the viewers that have the next chunk.
    run: usize,
    datagrams: usize,
    served: usize,
}

/// One thing to send now.
#[derive(Debug, Clone)]
pub struct Slice<A> {
    /// Of which volley.
    pub volley: Arc<Volley>,
    /// Which of its bytes, and the length of each datagram.
    pub segments: Segments,
    /// Packets in them.
    pub packets: usize,
    /// Who was live when the volley was made.
    pub audience: A,
    /// Which of them.
    pub viewers: Range<usize>,
}

impl<A: Clone> Schedule<A> {
    /// A schedule for an uplink of this rate; without one, nothing waits.
    pub fn new(rate: Option<Bitrate>) -> Self {
        Self { rate, pacer: Pacer::default(), waiting: VecDeque::new(), dropped: 0 }
    }

    /// The uplink is of this rate from now on.
    pub fn set_rate(&mut self, rate: Option<Bitrate>) {
        if self.rate != rate {
            // What is owed was reckoned with another rate.
            self.pacer = Pacer::default();
        }
        self.rate = rate;
    }

    /// The rate that is kept to.
    pub fn rate(&self) -> Option<Bitrate> {
        self.rate
    }

    /// Takes a volley for these viewers.
    pub fn push(&mut self, volley: Volley, audience: A, viewers: usize, now: Instant) {
        if viewers == 0 || volley.runs().is_empty() {
            return;
        }
        let volley = Arc::new(volley);
        self.waiting.push_back(Waiting {
            volley,
            audience,
            viewers,
            since: now,
            run: 0,
            datagrams: 0,
            served: 0,
        });
    }

    /// What is to be sent now, if anything. Count it as sent.
    pub fn poll(&mut self, now: Instant) -> Option<Slice<A>> {
        let Some(rate) = self.rate else { return self.next_slice(usize::MAX, usize::MAX) };
        while let Some(first) = self.waiting.front()
            && now.saturating_duration_since(first.since) > MOST_WAITING
        {
            self.dropped += first.left();
            self.waiting.pop_front();
        }
        if !self.pacer.is_due(now) {
            return None;
        }
        let at_once = rate.as_bytes_per_second() * SLICE.as_secs_f64();
        let chunk_bytes = self.waiting.front()?.chunk_bytes();
        let viewers = (at_once / chunk_bytes as f64) as usize;
        let slice = self.next_slice(CHUNK, viewers.max(1))?;
        let datagrams = slice.segments.count();
        let bytes = slice.segments.range.len() + datagrams * WIRE_OVERHEAD;
        self.pacer.spend(bytes * slice.viewers.len(), rate, now);
        Some(slice)
    }

    /// Whether something may be sent that only one viewer waits for.
    pub fn is_free(&self, now: Instant) -> bool {
        self.rate.is_none() || (self.waiting.is_empty() && self.pacer.is_due(now))
    }

    /// So many bytes in so many datagrams were sent to one viewer alone.
    pub fn spend(&mut self, bytes: usize, datagrams: usize, now: Instant) {
        if let Some(rate) = self.rate {
            self.pacer.spend(bytes + datagrams * WIRE_OVERHEAD, rate, now);
        }
    }

    /// When [`Self::poll`] has something, or [`Self::is_free`] turns true, if nothing else happens.
    /// `None` where that is now, or nothing waits.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        self.rate?;
        self.pacer.due_at().filter(|at| *at > now)
    }

    /// Whether volleys wait.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Bytes, to all viewers, that wait.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting.iter().map(Waiting::left_bytes).sum()
    }

    /// Datagrams dropped so far because they had waited too long.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The next chunk of at most `datagrams` for at most `viewers`.
    fn next_slice(&mut self, datagrams: usize, viewers: usize) -> Option<Slice<A>> {
        let first = self.waiting.front_mut()?;
        let run = first.volley.runs().get(first.run)?;
        let Segments { range, segment } = run.segments.clone();
        let count = run.segments.count();
        let end = count.min(first.datagrams.saturating_add(datagrams));
        let from = range.start + first.datagrams * segment;
        let to = range.end.min(range.start + end * segment);
        let served = first.viewers.min(first.served.saturating_add(viewers));
        // Bundles are few: packets of a part are told in proportion.
        let packets = run.packets * (end - first.datagrams) / count;
        let slice = Slice {
            volley: Arc::clone(&first.volley),
            segments: Segments { range: from..to, segment },
            packets: packets.max(end - first.datagrams),
            audience: first.audience.clone(),
            viewers: first.served..served,
        };
        first.served = served;
        if served == first.viewers {
            first.served = 0;
            first.datagrams = end;
            if end == count {
                first.datagrams = 0;
                first.run += 1;
            }
        }
        if first.run == first.volley.runs().len() {
            self.waiting.pop_front();
        }
        Some(slice)
    }
}

impl<A> Waiting<A> {
    /// Bytes of the next chunk for one viewer.
    fn chunk_bytes(&self) -> usize {
        self.volley.runs().get(self.run).map_or(1, |run| {
            let left = run.segments.range.len() - self.datagrams * run.segments.segment;
            left.min(CHUNK * run.segments.segment).max(1)
        })
    }

    /// Bytes, to all viewers, that were not sent.
    fn left_bytes(&self) -> u64 {
        let runs = &self.volley.runs()[self.run..];
        let all: usize = runs.iter().map(|run| run.segments.range.len()).sum();
        let sent = self.volley.runs().get(self.run).map_or(0, |run| {
            let begun = (self.datagrams * run.segments.segment).min(run.segments.range.len());
            begun * self.viewers + self.chunk_bytes() * self.served
        });
        (all * self.viewers).saturating_sub(sent) as u64
    }

    /// Datagrams, to all viewers, that were not sent.
    fn left(&self) -> u64 {
        let runs = &self.volley.runs()[self.run..];
        let all: usize = runs.iter().map(|run| run.segments.count()).sum();
        let chunk = self
            .volley
            .runs()
            .get(self.run)
            .map_or(0, |run| CHUNK.min(run.segments.count() - self.datagrams));
        ((all - self.datagrams) * self.viewers - chunk * self.served) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::burst::PlainBurst;
    use crate::seal::{Epoch, MasterKey, Sealer};

    const VIEWERS: usize = 4;

    fn volley(packets: usize) -> Volley {
        let key = MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12]);
        let mut burst = PlainBurst::default();
        for _ in 0..packets {
            let mut packet = vec![0u8; 1130];
            packet[0] = 0x80;
            burst.push([&packet[..]]).expect("fits");
        }
        let sealed = Sealer::new(&key, &[10]).seal(0, false, Instant::now(), burst);
        Volley::new(&[(&Arc::new(sealed.expect("seals"))).into()], 56)
    }

    fn rate(text: &str) -> Option<Bitrate> {
        Some(text.parse().expect("a rate"))
    }

    /// Sends everything; returns when each viewer got each byte range.
    fn drain(schedule: &mut Schedule<()>, mut now: Instant) -> Vec<(Instant, usize, Range<usize>)> {
        let mut sent = Vec::new();
        loop {
            let (waiting, dropped) = (schedule.waiting_bytes(), schedule.dropped());
            let mut gone = 0;
            while let Some(slice) = schedule.poll(now) {
                gone += slice.segments.range.len() * slice.viewers.len();
                for viewer in slice.viewers {
                    sent.push((now, viewer, slice.segments.range.clone()));
                }
            }
            if schedule.dropped() == dropped {
                assert_eq!(schedule.waiting_bytes(), waiting - gone as u64);
            }
            if !schedule.is_waiting() {
                return sent;
            }
            let due = schedule.poll_timeout(now).expect("something waits");
            assert!(due > now, "a timeout in the past would spin");
            now = due;
        }
    }

    #[test]
    fn without_a_limit_a_volley_goes_whole() {
        let mut schedule = Schedule::new(None);
        let now = Instant::now();
        schedule.push(volley(60), (), VIEWERS, now);
        let slices: Vec<_> = std::iter::from_fn(|| schedule.poll(now)).collect();
        let shape: Vec<_> =
            slices.iter().map(|s| (s.segments.count(), s.viewers.clone())).collect();
        assert_eq!(shape, [(56, 0..VIEWERS), (4, 0..VIEWERS)]);
        assert!(schedule.is_free(now) && schedule.poll_timeout(now).is_none());
    }

    #[test]
    fn a_narrow_uplink_gets_chunks_in_turns_and_everybody_gets_everything() {
        let mut schedule = Schedule::new(rate("20M"));
        let began = Instant::now();
        let volley = volley(100);
        let whole = volley.bytes().len();
        schedule.push(volley, (), VIEWERS, began);
        let sent = drain(&mut schedule, began);
        assert_eq!(sent[0].0, began, "the first at once");
        for viewer in 0..VIEWERS {
            let mut end = 0;
            for (_, _, range) in sent.iter().filter(|(_, to, _)| *to == viewer) {
                assert_eq!(range.start, end, "in order, none twice");
                end = range.end;
            }
            assert_eq!(end, whole);
        }
        let first_turns: Vec<usize> = sent.iter().take(VIEWERS).map(|(_, to, _)| *to).collect();
        assert_eq!(first_turns, [0, 1, 2, 3]);
        // 4 viewers, 100 datagrams of 1,192 bytes on the wire, less what goes at once.
        let took = sent.last().expect("sent").0 - began;
        assert!((160..200).contains(&took.as_millis()), "{took:?}");
    }

    #[test]
    fn the_budget_is_kept_over_any_time() {
        let mut schedule = Schedule::new(rate("20M"));
        let began = Instant::now();
        for frame in 0..10 {
            schedule.push(volley(15), (), VIEWERS, began + Duration::from_millis(33) * frame);
        }
        let sent = drain(&mut schedule, began);
        let wire = |range: &Range<usize>| range.len() + range.len().div_ceil(1150) * WIRE_OVERHEAD;
        for (at, (from, ..)) in sent.iter().enumerate() {
            let mut bytes = 0;
            for (until, _, range) in &sent[at..] {
                bytes += wire(range);
                let allowed = 2.5e6 * (*until - *from + Duration::from_millis(10)).as_secs_f64();
                assert!(bytes as f64 <= allowed + 20_000.0, "{bytes} bytes, {allowed} allowed");
            }
        }
    }

    #[test]
    fn a_fast_uplink_is_sent_to_in_large_slices() {
        let mut schedule = Schedule::new(rate("10G"));
        let now = Instant::now();
        schedule.push(volley(15), (), 1000, now);
        let first = schedule.poll(now).expect("due");
        assert!((50..100).contains(&first.viewers.len()), "{:?}", first.viewers);
    }

    #[test]
    fn what_one_viewer_waits_for_goes_behind_what_all_wait_for() {
        let mut schedule = Schedule::new(rate("20M"));
        let now = Instant::now();
        assert!(schedule.is_free(now));
        schedule.push(volley(15), (), VIEWERS, now);
        assert!(!schedule.is_free(now));
        let sent = drain(&mut schedule, now);
        let last = sent.last().expect("sent").0;
        assert!(!schedule.is_free(last));
        let free = schedule.poll_timeout(last).expect("soon");
        assert!(schedule.is_free(free));
        schedule.spend(25_000, 21, free);
        assert!(!schedule.is_free(free));
    }

    #[test]
    fn an_uplink_that_changes_is_kept_to_at_once() {
        let mut schedule = Schedule::new(rate("20M"));
        let began = Instant::now();
        schedule.push(volley(100), (), VIEWERS, began);
        assert!(schedule.poll(began).is_some());
        while schedule.poll(began).is_some() {}
        assert!(schedule.is_waiting() && schedule.poll(began).is_none());
        // What was owed at the old rate is forgotten.
        schedule.set_rate(rate("1G"));
        assert_eq!(schedule.rate(), rate("1G"));
        assert!(schedule.poll(began).is_some());
        let sent = drain(&mut schedule, began);
        let took = sent.last().expect("sent").0 - began;
        assert!(took < Duration::from_millis(20), "{took:?}");
        schedule.push(volley(15), (), VIEWERS, began);
        while schedule.poll(began).is_some() {}
        // The same rate again forgives nothing.
        let (due, waiting) = (schedule.poll_timeout(began), schedule.is_waiting());
        schedule.set_rate(rate("1G"));
        assert_eq!((schedule.poll_timeout(began), schedule.is_waiting()), (due, waiting));
    }

    #[test]
    fn what_waited_too_long_is_dropped_and_counted() {
        let mut schedule = Schedule::new(rate("100k"));
        let began = Instant::now();
        for _ in 0..3 {
            schedule.push(volley(15), (), VIEWERS, began);
        }
        let sent = drain(&mut schedule, began);
        let datagrams: usize = sent.iter().map(|(_, _, range)| range.len().div_ceil(1150)).sum();
        assert_eq!(datagrams as u64 + schedule.dropped(), 3 * 15 * VIEWERS as u64);
        assert!(schedule.dropped() > 0);
    }
}
