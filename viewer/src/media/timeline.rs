//! Places a track's packets on the player's running time: by RTP timestamp, at the pace of the
//! sender's clock, as early as the path has lately allowed.
//!
//! `rtpjitterbuffer` in mode `slave` does the same from arrival times, but it starts over whenever
//! a packet comes later than its latency, and play is then late by that much for seconds. So it is
//! given arrival times that are already free of jitter, and agrees with every one of them.

use std::collections::VecDeque;
use std::time::Duration;

/// How far back the quickest packet is looked for. Long enough to hold a keyframe sent with
/// pacing, short enough to follow clock drift and a changed path.
const WINDOW: i64 = 2 * SECOND;

/// A packet this far off its place isn't late: the sender paused, restarted or lost its clock.
const JUMP: i64 = SECOND;

/// RTP timestamps that step back further than this are a new count, not a late packet.
const STEP_BACK: i64 = 10 * SECOND;

/// A track's place moves by this part of the time that passes at most: 10 ms a second, neither heard nor seen. By time and
/// not by packets, or tracks that have few of them would follow later than the others, and sound leave its picture.
const SLEW: i64 = 100;

/// No more time than this has passed since the last packet, for that. Pictures that are shown behind others that are sent
/// later step further than from one to the next, and must not fall behind sound.
const LONGEST_STEP: i64 = SECOND / 2;

const SECOND: i64 = 1_000_000_000;

/// One track's mapping from RTP timestamps to running time. All inner times in nanoseconds.
#[derive(Debug)]
pub(super) struct Timeline {
    clock_rate: i64,
    /// A delay that rose by more than this is taken over at once, as play would stay late.
    budget: i64,
    last: Option<Last>,
    /// Running time of RTP timestamp 0.
    offset: i64,
    /// Arrivals with their offsets, both rising: the front is the quickest in the window.
    window: VecDeque<(i64, i64)>,
    window_began_at: i64,
    /// Up to which arrival the offset has moved.
    moved_at: i64,
}

#[derive(Debug)]
struct Last {
    timestamp: u32,
    /// RTP timestamp without wrapping.
    extended: i64,
    highest: i64,
}

impl Timeline {
    /// `latency` is how late a packet may be and still be played.
    pub(super) fn new(clock_rate: u32, latency: Duration) -> Self {
        Self {
            clock_rate: i64::from(clock_rate).max(1),
            budget: nanoseconds(latency) / 2,
            last: None,
            offset: 0,
            window: VecDeque::new(),
            window_began_at: 0,
            moved_at: 0,
        }
    }

    /// The running time at which the packet would have come over an even path.
    pub(super) fn place(&mut self, timestamp: u32, arrival: Duration) -> Duration {
        let arrival = nanoseconds(arrival);
        let (extended, highest, first) = match &self.last {
            Some(last) => {
                let step = timestamp.wrapping_sub(last.timestamp).cast_signed();
                (last.extended + i64::from(step), last.highest, false)
            }
            None => (i64::from(timestamp), i64::from(timestamp), true),
        };
        let media = self.to_time(extended);
        let seen = arrival - media;
        let straggler =
            (0..STEP_BACK).contains(&(self.to_time(highest) - media)) && extended < highest;
        let jumped = (seen - self.offset).abs() > JUMP && !straggler;
        if first || jumped {
            self.offset = seen;
            self.window.clear();
            self.window_began_at = arrival;
            self.moved_at = arrival;
        }
        let highest = if first || jumped { extended } else { highest.max(extended) };
        self.last = Some(Last { timestamp, extended, highest });
        self.follow(arrival, seen);
        Duration::from_nanos((media + self.offset).max(0).cast_unsigned())
    }

    /// From now on all packets come later by that much, as will be seen of them.
    pub(super) fn delay(&mut self, by: Duration) {
        let by = nanoseconds(by);
        self.offset += by;
        for (at, seen) in &mut self.window {
            *at += by;
            *seen += by;
        }
        self.window_began_at += by;
        self.moved_at += by;
    }

    /// Moves the offset towards the quickest packet of the window.
    fn follow(&mut self, arrival: i64, seen: i64) {
        while self.window.back().is_some_and(|&(_, offset)| offset >= seen) {
            self.window.pop_back();
        }
        self.window.push_back((arrival, seen));
        while self.window.front().is_some_and(|&(at, _)| at < arrival - WINDOW) {
            self.window.pop_front();
        }
        let quickest = self.window.front().map_or(seen, |&(_, offset)| offset);
        let change = quickest - self.offset;
        let most = (arrival - self.moved_at).clamp(0, LONGEST_STEP) / SLEW;
        self.moved_at = self.moved_at.max(arrival);
        let whole = arrival - self.window_began_at >= WINDOW;
        if whole && change > self.budget {
            self.offset = quickest;
        } else if whole || change < 0 {
            self.offset += change.clamp(-most, most);
        }
    }

    fn to_time(&self, extended: i64) -> i64 {
        let time = i128::from(extended) * i128::from(SECOND) / i128::from(self.clock_rate);
        i64::try_from(time).unwrap_or(i64::MAX / 4)
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const FRAME: u32 = 3_000;

    /// Places frames at 30 a second; `arrival` tells when frame i comes, in ms.
    fn run(frames: u32, first: u32, arrival: impl Fn(u32) -> u32) -> Vec<i64> {
        let mut timeline = Timeline::new(90_000, 200 * MS);
        let errors = (0..frames).map(|i| {
            let placed = timeline.place(first.wrapping_add(i * FRAME), arrival(i) * MS);
            placed.as_millis() as i64 - i64::from(i) * 1000 / 30
        });
        errors.collect()
    }

    #[test]
    fn jitter_is_taken_out_and_timestamps_wrap() {
        let placed = run(300, u32::MAX - 5 * FRAME, |i| 10_000 + i * 1000 / 30 + (i * 7919) % 40);
        assert!(placed[100..].iter().all(|&at| (9_998..10_006).contains(&at)), "{placed:?}");
    }

    #[test]
    fn one_stall_moves_nothing() {
        let stall = |i: u32| if (100..110).contains(&i) { 110 } else { i } * 1000 / 30;
        let placed = run(200, 0, |i| 10_000 + stall(i));
        assert!(placed.iter().all(|&at| (9_998..10_003).contains(&at)), "{placed:?}");
    }

    #[test]
    fn a_pause_and_a_slower_path_are_followed() {
        let placed = run(200, 0, |i| 10_000 + i * 1000 / 30 + if i < 100 { 0 } else { 8_000 });
        assert!(placed[100..].iter().all(|&at| (17_998..18_003).contains(&at)), "{placed:?}");
        let placed = run(300, 0, |i| 10_000 + i * 1000 / 30 + if i < 100 { 0 } else { 400 });
        assert!(placed[165..].iter().all(|&at| (10_398..10_403).contains(&at)), "{placed:?}");
    }

    #[test]
    fn pictures_in_another_order_move_as_fast_as_sound() {
        // Each fourth picture is sent before the three that are shown before it. The path proves quicker after 4 s.
        let place = |timeline: &mut Timeline, number: u32| {
            let late = if number < 100 { 200 } else { 0 };
            let placed = timeline.place(number * 3_600, (10_000 + number * 40 + late) * MS);
            placed.as_micros() as i64 - i64::from(number) * 40_000
        };
        let [mut pictures, mut sound] = [(); 2].map(|()| Timeline::new(90_000, 200 * MS));
        for number in 0..300 {
            let is_placed = place(&mut sound, number);
            let shown = if number % 4 == 0 { number + 3 } else { number - 1 };
            let apart = place(&mut pictures, shown) - is_placed;
            assert!(apart.abs() < 2_500, "{number}: {apart} µs");
        }
    }

    #[test]
    fn a_recovered_packet_takes_its_old_place() {
        let mut timeline = Timeline::new(90_000, 200 * MS);
        timeline.place(0, 10_000 * MS);
        timeline.place(6_000, 10_067 * MS);
        assert_eq!(timeline.place(3_000, 12_000 * MS).as_millis(), 10_033);
        assert_eq!(timeline.place(9_000, 10_100 * MS).as_millis(), 10_100);
    }

    #[test]
    fn any_input_is_placed_somewhere() {
        let mut timeline = Timeline::new(1, Duration::ZERO);
        for (timestamp, arrival) in [(0, 0), (u32::MAX, u64::MAX), (1 << 31, 0), (5, 1 << 40)] {
            timeline.place(timestamp, Duration::from_secs(arrival));
        }
    }
}
