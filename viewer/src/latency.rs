//! How much time a viewer takes for repair and evening out: as told, or as much as its path needs.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The least that is taken, and what the player is set up for; what is needed beyond it, comes later by that.
pub(crate) const LEAST: Duration = Duration::from_millis(100);

/// More than this is no live stream.
const MOST: Duration = Duration::from_secs(3);

/// What is late by no more than this is shown, and with `auto` what follows comes later by that: more than a home
/// router's queue, and no more than a short freeze. Also, the most that is added to what the path needs for this.
const MOST_LATE: Duration = Duration::from_millis(250);

/// With a latency that was fixed, nothing comes later for that: what is late by more is left out.
const MOST_LATE_OF_FIXED: Duration = Duration::from_millis(100);

/// For noticing that something is missing, and for decoding.
const RESERVE: Duration = Duration::from_millis(40);

/// A round takes a little longer than the round trip.
const ROUND_RESERVE: Duration = Duration::from_millis(10);

/// Jitter is a mean deviation; nearly everything comes within so many of them.
const DEVIATIONS: u32 = 4;

/// How often what is missing must be asked for, from which share of packets lost on.
const ROUNDS: [(f64, u32); 4] = [(0.15, 4), (0.02, 3), (0.002, 2), (0.0, 1)];

/// Rounds where loss is not known yet.
const FIRST_ROUNDS: u32 = 2;

/// It is lowered when this share of it has been enough for so long.
const LOWERED_AT: f64 = 0.8;
const LOWERED_AFTER: Duration = Duration::from_secs(30);

/// Latency as it is asked for: a time, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latency {
    /// So much.
    Fixed(Duration),
    /// What the path needs.
    Auto,
}

impl FromStr for Latency {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            text => humantime::parse_duration(text).map(Self::Fixed),
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(latency) => humantime::format_duration(*latency).fmt(f),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl Serialize for Latency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Latency {
    /// What the player is set up for.
    pub(crate) fn least(self) -> Duration {
        match self {
            Self::Fixed(latency) => latency,
            Self::Auto => LEAST,
        }
    }

    /// How late something may be and still be shown, rather than not at all.
    pub(crate) fn most_late(self) -> Duration {
        match self {
            Self::Fixed(latency) => MOST_LATE_OF_FIXED.min(latency),
            Self::Auto => MOST_LATE,
        }
    }
}

/// How fast what is shown later catches up again: neither heard nor seen.
const CATCHING_UP: f64 = 0.004;

/// By how much all that is played comes later than the player was set up for, sound and pictures alike: more
/// at once, less little by little.
#[derive(Debug)]
pub(crate) struct Shift {
    by: Duration,
    at: Instant,
}

impl Shift {
    pub(crate) fn new(by: Duration, now: Instant) -> Self {
        Self { by, at: now }
    }

    pub(crate) fn now(&self) -> Duration {
        self.by
    }

    /// Goes towards `wanted`. Returns by how much it has just grown.
    pub(crate) fn follow(&mut self, wanted: Duration, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = now;
        if wanted >= self.by {
            return wanted - std::mem::replace(&mut self.by, wanted);
        }
        self.by = self.by.saturating_sub(elapsed.mul_f64(CATCHING_UP)).max(wanted);
        Duration::ZERO
    }
}

/// Follows what a path needs.
#[derive(Debug)]
pub(crate) struct Adaptation {
    latency: Duration,
    /// For the path as it was known last.
    needed: Duration,
    /// Since when less has been enough.
    less_since: Option<Instant>,
}

impl Adaptation {
    /// For a path of which only the round trip is known.
    pub(crate) fn new(rtt: Duration) -> Self {
        let needed = needed(rtt, Duration::ZERO, FIRST_ROUNDS);
        Self { latency: needed, needed, less_since: None }
    }

    /// The latency as of now.
    pub(crate) fn latency(&self) -> Duration {
        self.latency
    }

    /// Takes note of how the path is: at once where it needs more, after a while where less is enough.
    pub(crate) fn follow(&mut self, rtt: Duration, jitter: Duration, loss: f64, now: Instant) {
        let rounds = ROUNDS.iter().find(|(from, _)| loss >= *from).map_or(1, |(_, rounds)| *rounds);
        let needed = needed(rtt, jitter, rounds);
        self.needed = needed;
        if needed > self.latency {
            self.latency = needed;
            self.less_since = None;
        } else if needed > self.latency.mul_f64(LOWERED_AT) {
            self.less_since = None;
        } else if now >= *self.less_since.get_or_insert(now) + LOWERED_AFTER {
            self.latency = needed;
            self.less_since = None;
        }
    }

    /// Takes note that something was late by that much: the path needs more than is known of it.
    pub(crate) fn was_late(&mut self, by: Duration) {
        let most = (self.needed + MOST_LATE).min(MOST);
        self.latency = (self.latency + by).min(most).max(self.latency);
        self.less_since = None;
    }
}

fn needed(rtt: Duration, jitter: Duration, rounds: u32) -> Duration {
    let round = rtt + rtt / 10 + ROUND_RESERVE;
    (RESERVE + jitter * DEVIATIONS + round * rounds).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);
    const CALM: Duration = Duration::from_millis(1);

    #[test]
    fn it_is_a_time_or_auto() {
        assert_eq!("auto".parse(), Ok(Latency::Auto));
        assert_eq!("150ms".parse(), Ok(Latency::Fixed(Duration::from_millis(150))));
        assert!("soon".parse::<Latency>().is_err());
        for latency in [Latency::Auto, Latency::Fixed(Duration::from_millis(1500))] {
            assert_eq!(latency.to_string().parse(), Ok(latency));
        }
    }

    #[test]
    fn what_is_shown_later_comes_back_slowly() {
        let began = Instant::now();
        let mut shift = Shift::new(Duration::ZERO, began);
        let lag = Duration::from_millis(900);
        assert_eq!(shift.follow(lag, began), lag);
        assert_eq!(shift.follow(lag, began), Duration::ZERO);
        assert_eq!(shift.follow(Duration::ZERO, began + Duration::from_secs(10)), Duration::ZERO);
        assert_eq!(shift.now(), Duration::from_millis(860));
        assert_eq!(shift.follow(lag, began), Duration::from_millis(40));
        shift.follow(Duration::ZERO, began + Duration::from_secs(1_000));
        assert_eq!(shift.now(), Duration::ZERO);
    }

    #[test]
    fn more_is_taken_at_once_and_less_after_a_while() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut adaptation = Adaptation::new(RTT);
        let first = adaptation.latency();
        assert!(first >= RTT * 2);
        adaptation.follow(RTT, CALM, 0.1, at(1));
        let lossy = adaptation.latency();
        assert!(lossy >= first + RTT);
        adaptation.follow(RTT, Duration::from_millis(20), 0.1, at(2));
        assert_eq!(adaptation.latency(), lossy + Duration::from_millis(4 * 19));
        for second in 3..33 {
            adaptation.follow(RTT, CALM, 0.0, at(second));
            assert!(adaptation.latency() > lossy, "{second}");
        }
        adaptation.follow(RTT, CALM, 0.0, at(33));
        assert!(adaptation.latency() < first);
        adaptation.follow(Duration::from_secs(9), CALM, 0.5, at(34));
        assert_eq!(adaptation.latency(), MOST);
    }

    #[test]
    fn what_is_late_makes_the_rest_later_within_bounds_and_for_a_while() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut adaptation = Adaptation::new(Duration::from_millis(10));
        let first = adaptation.latency();
        adaptation.was_late(Duration::from_millis(60));
        assert_eq!(adaptation.latency(), first + Duration::from_millis(60));
        for _ in 0..10 {
            adaptation.was_late(MOST_LATE);
        }
        assert_eq!(adaptation.latency(), first + MOST_LATE);
        adaptation.follow(Duration::from_millis(10), CALM, 0.0, at(1));
        assert_eq!(adaptation.latency(), first + MOST_LATE);
        adaptation.follow(Duration::from_millis(10), CALM, 0.0, at(31));
        assert_eq!(adaptation.latency(), first);
    }
}
