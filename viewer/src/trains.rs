//! How fast the path brings what is sent at once.
//!
//! All packets of a picture leave the broadcaster one right behind the other. Behind a narrow link they lie as far apart
//! as it takes to get each through, so a picture of several packets tells what the link carries, though the stream needs
//! less. The broadcaster is told, who may have a better rendition of the picture to send.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use protocol::units::Bitrate;

/// Fewer packets, and fewer bytes behind the first moment, say nothing.
const LEAST_PACKETS: u32 = 3;
const LEAST_BYTES: u64 = 1_500;

/// Only the first packets of a picture are looked at: so many leave at once, however slowly a viewer that joins is
/// served.
const MOST_PACKETS: u32 = 12;

/// Pictures of so long are looked at, but two at least, and at most so many: a machine that is busy takes packets late,
/// and then at once.
const LOOKED_AT: Duration = Duration::from_millis(1500);
const LEAST: usize = 2;
const MOST_PICTURES: usize = 64;

/// How long what was seen is believed.
const LASTING: Duration = Duration::from_secs(6);

/// What comes at one moment comes as fast as this, or faster.
const MOST: Bitrate = Bitrate::bits_per_second(1_000_000_000);

/// By which share what is known must change to be told out of turn.
const NEWS: f64 = 0.25;

/// Pictures that arrive.
#[derive(Debug, Default)]
pub(crate) struct Trains {
    current: Option<Train>,
    latest: VecDeque<(Instant, Bitrate)>,
    /// What they tell, and since when.
    seen: Option<(Instant, Bitrate)>,
    told: Option<Bitrate>,
}

/// One picture.
#[derive(Debug)]
struct Train {
    /// Its track and timestamp.
    picture: (usize, u32),
    first_at: Instant,
    last_at: Instant,
    packets: u32,
    /// Of all that came later than the first.
    bytes: u64,
}

impl Trains {
    /// A packet of a picture came for the first time, and in turn.
    pub(crate) fn arrived(&mut self, picture: (usize, u32), bytes: u64, at: Instant) {
        match &mut self.current {
            Some(train) if train.picture == picture => {
                train.packets += 1;
                if at > train.first_at && train.packets <= MOST_PACKETS {
                    train.bytes += bytes;
                    train.last_at = at;
                }
            }
            _ => {
                self.look();
                let (first_at, last_at) = (at, at);
                self.current = Some(Train { picture, first_at, last_at, packets: 1, bytes: 0 });
            }
        }
    }

    /// What the path brought, as far as that was seen of late.
    pub(crate) fn brought(&self, now: Instant) -> Option<Bitrate> {
        self.seen.filter(|(at, _)| now < *at + LASTING).map(|(_, rate)| rate)
    }

    /// What the latest pictures tell.
    fn sum_up(&self) -> Option<(Instant, Bitrate)> {
        let (newest, _) = *self.latest.back()?;
        let is_recent = |(number, (at, _)): &(usize, &(Instant, Bitrate))| {
            *number < LEAST || *at + LOOKED_AT > newest
        };
        let recent = self.latest.iter().rev().enumerate().take_while(is_recent);
        let mut rates: Vec<_> = recent.map(|(_, (_, rate))| *rate).collect();
        // Some are seen as too slow, and some as too fast. Of two, the slower.
        rates.sort();
        rates.get((rates.len() - 1) / 2).map(|rate| (newest, *rate))
    }

    /// Whether it differs from what was told last.
    pub(crate) fn is_news(&self, now: Instant) -> bool {
        let Some(brought) = self.brought(now) else { return false };
        let ratio = |told: Bitrate| {
            brought.as_bits_per_second() as f64 / told.as_bits_per_second().max(1) as f64
        };
        self.told.map(ratio).is_none_or(|ratio| (ratio - 1.0).abs() >= NEWS)
    }

    /// What is told now.
    pub(crate) fn tell(&mut self, now: Instant) -> Option<Bitrate> {
        self.told = self.brought(now);
        self.told
    }

    /// The current picture is over.
    fn look(&mut self) {
        let Some(Train { first_at, last_at, packets, bytes, .. }) = self.current.take() else {
            return;
        };
        if packets < LEAST_PACKETS || (bytes < LEAST_BYTES && last_at > first_at) {
            return;
        }
        let took = last_at.saturating_duration_since(first_at).as_secs_f64();
        let rate = if took > 0.0 { bytes as f64 * 8.0 / took } else { f64::MAX };
        let rate = Bitrate::bits_per_second(rate as u64).min(MOST);
        if self.latest.len() == MOST_PICTURES {
            self.latest.pop_front();
        }
        self.latest.push_back((last_at, rate));
        self.seen = self.sum_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A picture of so many packets of 1,000 bytes over a link of so many Mbit/s.
    fn picture(trains: &mut Trains, number: u32, (packets, link): (u32, f64), at: Instant) {
        for packet in 0..packets {
            let behind = Duration::from_secs_f64(f64::from(packet) * 8_000.0 / (link * 1e6));
            trains.arrived((0, number), 1000, at + behind);
        }
    }

    #[test]
    fn what_a_link_carries_shows_in_its_pictures() {
        let began = Instant::now();
        let mut trains = Trains::default();
        assert_eq!((trains.brought(began), trains.is_news(began)), (None, false));
        picture(&mut trains, 0, (20, 3.0), began);
        // Small ones say nothing.
        for number in 1..20 {
            picture(&mut trains, number, (2, 0.5), began + 40 * MS * number);
        }
        let now = began + 800 * MS;
        let brought = trains.brought(now).expect("seen").as_bits_per_second();
        assert!((2_990_000..3_010_000).contains(&brought), "{brought}");
        assert!(trains.is_news(now) && trains.tell(now).is_some() && !trains.is_news(now));
        // The slower of the last two.
        picture(&mut trains, 100, (20, 8.0), now);
        picture(&mut trains, 101, (20, 9.0), now + 40 * MS);
        let brought = trains.brought(now + 40 * MS).expect("seen").as_bits_per_second();
        assert!((2_990_000..3_010_000).contains(&brought), "{brought}");
        picture(&mut trains, 102, (1, 9.0), now + 80 * MS);
        assert!(trains.is_news(now + 80 * MS));
        // Most of many.
        for number in 200..220 {
            let link = if number % 4 == 0 { 900.0 } else { 8.0 };
            picture(&mut trains, number, (20, link), now + 40 * MS * number);
        }
        let brought = trains.brought(now + 8 * LASTING / 5).expect("seen").as_bits_per_second();
        assert!((7_990_000..8_010_000).contains(&brought), "{brought}");
        assert_eq!(trains.brought(now + 10 * LASTING), None, "long ago");
    }

    #[test]
    fn what_comes_at_one_moment_comes_as_fast_as_can_be() {
        let began = Instant::now();
        let mut trains = Trains::default();
        (0..10).for_each(|_| trains.arrived((0, 7), 1000, began));
        trains.arrived((0, 8), 1000, began + MS);
        assert_eq!(trains.brought(began + MS), Some(MOST));
    }
}
