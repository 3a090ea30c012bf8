//! One viewer's reception over the last minutes: what its plots on the status page show, and when it begins
//! and ceases to lose much. Looked at once a second, however often the viewer reports.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use protocol::feedback::Totals;

/// From one point of the plots to the next, in looks, and points that are kept: three minutes.
const LOOKS_PER_POINT: u32 = 2;
const MOST_POINTS: usize = 90;

/// A viewer that loses more than this is a lossy one; one that loses more than that is worth an event, and so
/// is that it loses no more than the last for so many looks.
const LOSSY: f64 = 0.02;
const HIGH: f64 = 0.05;
const LOW: f64 = 0.01;
const CALM: u32 = 5;

/// How much the last look counts in the average that is shown, and in the one that decides who is shown.
const WEIGHT: f64 = 0.5;
const STANDING_WEIGHT: f64 = 1.0 / 30.0;

/// An average below this is nothing.
const NOTHING: f64 = 1e-4;

/// Fewer packets between two looks say nothing.
const LEAST_EXPECTED: u64 = 10;

/// One viewer's reception over time.
#[derive(Debug, Default)]
pub(crate) struct Trend {
    before: Totals,
    point: (Totals, u32),
    points: VecDeque<(Option<f32>, Option<f32>)>,
    loss: f64,
    unrecovered: f64,
    /// Loss over half a minute.
    standing: f64,
    episode: Option<Episode>,
}

/// A time of much loss.
#[derive(Debug, Clone, Copy)]
struct Episode {
    began_at: Instant,
    before: Totals,
    calm: u32,
}

/// What a look shows.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Look {
    /// Shares of packets lost and missing at their deadline since the look before, where enough came.
    pub(crate) shares: Option<(f64, f64)>,
    /// What began or ended with it.
    pub(crate) turn: Option<Turn>,
}

/// Much loss begins, or is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Turn {
    /// So much is lost.
    High(f64),
    /// What was lost, recovered and unrecovered meanwhile, and how long it went on.
    Over { lost: u64, recovered: u64, unrecovered: u64, lasted: Duration },
}

impl Trend {
    /// Looks at what the viewer reported last.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        totals: &Totals,
        latency: Option<Duration>,
    ) -> Look {
        let shares = shares(&self.before, totals);
        let before = std::mem::replace(&mut self.before, *totals);
        if let Some((loss, unrecovered)) = shares {
            follow(&mut self.loss, loss, WEIGHT);
            follow(&mut self.unrecovered, unrecovered, WEIGHT);
            follow(&mut self.standing, loss, STANDING_WEIGHT);
        }
        self.plot(totals, latency);
        Look { shares, turn: self.turn(now, &before, totals) }
    }

    /// A look at a viewer of which nothing is known now.
    pub(crate) fn pass(&mut self) {
        (self.loss, self.unrecovered) = (0.0, 0.0);
        let (before, _) = self.point;
        self.plot(&before, None);
    }

    fn plot(&mut self, totals: &Totals, latency: Option<Duration>) {
        let (before, looks) = &mut self.point;
        *looks += 1;
        if *looks < LOOKS_PER_POINT {
            return;
        }
        let loss = shares(before, totals).map(|(loss, _)| loss as f32);
        self.point = (*totals, 0);
        if self.points.len() >= MOST_POINTS {
            self.points.pop_front();
        }
        self.points.push_back((loss, latency.map(|latency| latency.as_secs_f32() * 1000.0)));
    }

    fn turn(&mut self, now: Instant, before: &Totals, totals: &Totals) -> Option<Turn> {
        let Some(episode) = &mut self.episode else {
            if self.loss >= HIGH {
                self.episode = Some(Episode { began_at: now, before: *before, calm: 0 });
                return Some(Turn::High(self.loss));
            }
            return None;
        };
        episode.calm = if self.loss <= LOW { episode.calm + 1 } else { 0 };
        if episode.calm < CALM {
            return None;
        }
        self.end(now, totals)
    }

    /// Nothing more comes of the viewer: what there is to tell of a time of much loss.
    pub(crate) fn end(&mut self, now: Instant, totals: &Totals) -> Option<Turn> {
        let Episode { began_at, before, .. } = self.episode.take()?;
        let recovered =
            |totals: &Totals| totals.recovered_nack.saturating_add(totals.recovered_fec);
        Some(Turn::Over {
            lost: totals.lost.saturating_sub(before.lost),
            recovered: recovered(totals).saturating_sub(recovered(&before)),
            unrecovered: totals.unrecovered.saturating_sub(before.unrecovered),
            lasted: now.saturating_duration_since(began_at),
        })
    }

    /// Share of packets lost over the last half minute: the order in which viewers are shown, which should not
    /// change from second to second.
    pub(crate) fn standing(&self) -> f64 {
        self.standing
    }

    /// Whether the viewer loses more than a little.
    pub(crate) fn is_lossy(&self) -> bool {
        self.loss > LOSSY
    }

    /// Share of packets lost as of late.
    pub(crate) fn loss(&self) -> f64 {
        self.loss
    }

    /// Share of packets missing at their deadline as of late.
    pub(crate) fn unrecovered(&self) -> f64 {
        self.unrecovered
    }

    /// Points of loss (0 to 1) and of latency (in milliseconds), the oldest first, and seconds from one to the
    /// next.
    pub(crate) fn points(&self) -> (u32, Vec<Option<f32>>, Vec<Option<f32>>) {
        let (loss, latency) = self.points.iter().copied().unzip();
        (LOOKS_PER_POINT, loss, latency)
    }
}

/// Moves an average towards what was seen.
fn follow(average: &mut f64, seen: f64, weight: f64) {
    *average += (seen - *average) * weight;
    if *average < NOTHING {
        *average = 0.0;
    }
}

/// Shares of packets lost and unrecovered between two reports; `None` where too few were expected to tell.
pub(crate) fn shares(before: &Totals, now: &Totals) -> Option<(f64, f64)> {
    // Totals are what a viewer says: nothing in them need fit.
    let grown = |now: u64, before: u64| now.saturating_sub(before);
    let unrecovered = grown(now.unrecovered, before.unrecovered);
    let expected = grown(now.received, before.received).saturating_add(unrecovered);
    if expected < LEAST_EXPECTED {
        return None;
    }
    let share = |count: u64| (count as f64 / expected as f64).min(1.0);
    Some((share(grown(now.lost, before.lost)), share(unrecovered)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(received: u64, lost: u64) -> Totals {
        Totals { received, lost, recovered_nack: lost, ..Totals::default() }
    }

    #[test]
    fn loss_begins_and_ends_once() {
        let began = Instant::now();
        let mut trend = Trend::default();
        let (mut received, mut lost) = (0, 0);
        let mut turns = Vec::new();
        for second in 0..60u64 {
            received += 200;
            lost += if (20..40).contains(&second) { 20 } else { 0 };
            let now = began + Duration::from_secs(second);
            let look = trend.look(now, &totals(received, lost), Some(Duration::from_millis(250)));
            turns.extend(look.turn.map(|turn| (second, turn)));
            assert!(look.shares.is_some());
            assert_eq!(trend.is_lossy(), (20..42).contains(&second), "{second}");
        }
        let [(first, Turn::High(loss)), (last, over)] = turns[..] else { panic!("{turns:?}") };
        assert!((20..22).contains(&first) && loss >= HIGH, "{first} {loss}");
        assert!((45..52).contains(&last), "{last}");
        assert!(
            matches!(over, Turn::Over { lost: 400, recovered: 400, unrecovered: 0, .. }),
            "{over:?}"
        );
        let (interval, loss, latency) = trend.points();
        assert_eq!((interval, loss.len(), latency.len()), (2, 30, 30));
        assert_eq!(loss[15], Some(0.1));
        assert_eq!(latency[29], Some(250.0));
    }

    #[test]
    fn one_lost_packet_is_forgotten_soon_and_a_pause_is_no_loss() {
        let mut trend = Trend::default();
        let now = Instant::now();
        for second in 0..20 {
            trend.look(now, &Totals { unrecovered: 1, ..totals(second * 200, 1) }, None);
        }
        assert_eq!((trend.loss(), trend.unrecovered()), (0.0, 0.0));
        trend.look(now, &totals(4_000, 60), None);
        assert!(trend.is_lossy() && trend.standing() > 0.0);
        trend.pass();
        assert!(!trend.is_lossy());
        let cut_off = trend.end(now, &totals(4_000, 60));
        assert!(matches!(cut_off, Some(Turn::Over { lost: 59, .. })), "{cut_off:?}");
        assert_eq!(trend.end(now, &totals(4_000, 60)), None);
    }

    #[test]
    fn nonsense_is_borne() {
        let mut trend = Trend::default();
        let now = Instant::now();
        for totals in [totals(u64::MAX, 0), totals(0, u64::MAX), totals(5, 5), Totals::default()] {
            let look = trend.look(now, &totals, None);
            let shares = look.shares.unwrap_or_default();
            assert!((0.0..=1.0).contains(&shares.0) && (0.0..=1.0).contains(&shares.1));
        }
    }

    #[test]
    fn three_minutes_are_kept() {
        let mut trend = Trend::default();
        for second in 0..1000 {
            trend.look(Instant::now(), &totals(second * 100, 0), None);
        }
        assert_eq!(trend.points().1.len(), MOST_POINTS);
    }
}
