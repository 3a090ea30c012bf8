//! CUBIC whose slow start ends where the round trip grows, as HyStart++ does it (RFC 9406): a copied file's connection
//! shares its link with live media, and one that doubles until something is lost loses a round trip's worth of both.
//!
//! Another than the RFC's: two careful rounds, not five, as the queue of a home router is full after three; and what
//! ends slow start is a congestion event, by which CUBIC takes back 30% of what those rounds were too many.
//!
//! Last words are not held back by it: quinn keeps the end of a connection whose window is full to itself, and its peer
//! waits for 30 seconds (quinn issue 2785). So the window has no bound from when a connection is about to end.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

/// RFC 9406, section 4.3: a round trip that grew by an eighth, within these bounds, over so many samples.
const LEAST_GROWTH: Duration = Duration::from_millis(4);
const MOST_GROWTH: Duration = Duration::from_millis(16);
const GROWTH_DIVISOR: u32 = 8;
const SAMPLES: u32 = 8;

/// In a careful round, the window grows by a fourth of what was acknowledged.
const CAREFUL_DIVISOR: u64 = 4;
const CAREFUL_ROUNDS: u32 = 2;

/// Makes [`CarefulCubic`]s.
#[derive(Debug)]
pub(crate) struct CarefulCubicConfig {
    cubic: Arc<CubicConfig>,
    /// Whether every connection of the endpoint is about to end.
    all_end: Arc<AtomicBool>,
}

impl CarefulCubicConfig {
    pub(crate) fn new(all_end: Arc<AtomicBool>) -> Self {
        Self { cubic: Arc::default(), all_end }
    }
}

/// Lets a connection's last words out, however full its window is.
pub(crate) fn lift(connection: &quinn::Connection) {
    if let Ok(controller) = connection.congestion_state().into_any().downcast::<CarefulCubic>() {
        controller.ends.store(true, Ordering::Relaxed);
    }
}

impl ControllerFactory for CarefulCubicConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(CarefulCubic {
            cubic: Arc::clone(&self.cubic).build(now, current_mtu),
            ends: Arc::default(),
            all_end: Arc::clone(&self.all_end),
            stage: Stage::SlowStart,
            round: Round::default(),
            before: None,
            last_sent: 0,
        })
    }
}

/// The controller of one path.
struct CarefulCubic {
    cubic: Box<dyn Controller>,
    /// Whether this connection is about to end. Copies share it.
    ends: Arc<AtomicBool>,
    all_end: Arc<AtomicBool>,
    stage: Stage,
    round: Round,
    /// The least round trip of the round before.
    before: Option<Duration>,
    /// The newest packet's number.
    last_sent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    SlowStart,
    /// The round trip grew from `baseline`: perhaps a queue, perhaps chance.
    Careful {
        baseline: Duration,
        rounds: u32,
    },
    /// Slow start is over for good.
    Cubic,
}

/// From the sending of a packet to its acknowledgement.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    /// It ends with this packet's acknowledgement.
    ends_with: u64,
    least: Option<Duration>,
    samples: u32,
}

impl CarefulCubic {
    /// Takes one sample of the round trip in, and decides on the stage.
    fn sample(&mut self, round_trip: Duration) {
        let least = self.round.least.map_or(round_trip, |least| least.min(round_trip));
        self.round.least = Some(least);
        self.round.samples += 1;
        if self.round.samples < SAMPLES {
            return;
        }
        match (self.stage, self.before) {
            (Stage::SlowStart, Some(before)) => {
                let growth = (before / GROWTH_DIVISOR).clamp(LEAST_GROWTH, MOST_GROWTH);
                if least >= before + growth {
                    self.stage = Stage::Careful { baseline: least, rounds: 0 };
                }
            }
            (Stage::Careful { baseline, .. }, _) if least < baseline => {
                self.stage = Stage::SlowStart;
            }
            _ => {}
        }
    }

    /// A round is over.
    fn end_round(&mut self, now: Instant) {
        self.before = self.round.least.or(self.before);
        self.round = Round { ends_with: self.last_sent, ..Round::default() };
        if let Stage::Careful { rounds, .. } = &mut self.stage {
            *rounds += 1;
            if *rounds >= CAREFUL_ROUNDS {
                self.stage = Stage::Cubic;
                self.cubic.on_congestion_event(now, now, false, 0);
            }
        }
    }
}

impl Controller for CarefulCubic {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.last_sent = last_packet_number;
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        // What is sent now and then is acknowledged late, and fills no queue.
        if self.stage != Stage::Cubic && !app_limited {
            self.sample(now.saturating_duration_since(sent));
        }
        let grows_by = match self.stage {
            Stage::Careful { .. } => bytes / CAREFUL_DIVISOR,
            Stage::SlowStart | Stage::Cubic => bytes,
        };
        self.cubic.on_ack(now, sent, grows_by, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        let is_over = largest_packet_num_acked.is_some_and(|acked| acked >= self.round.ends_with);
        if self.stage != Stage::Cubic && is_over {
            self.end_round(now);
        }
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.stage = Stage::Cubic;
        self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        match self.ends.load(Ordering::Relaxed) || self.all_end.load(Ordering::Relaxed) {
            true => u64::MAX,
            false => self.cubic.window(),
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            cubic: self.cubic.clone_box(),
            ends: Arc::clone(&self.ends),
            all_end: Arc::clone(&self.all_end),
            stage: self.stage,
            round: self.round,
            before: self.before,
            last_sent: self.last_sent,
        })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A controller after such rounds, each told by the round trips of its packets.
    fn after(rounds: &[[u32; 10]]) -> CarefulCubic {
        let now = Instant::now();
        let mut controller = CarefulCubic {
            cubic: Arc::<CubicConfig>::default().build(now, 1200),
            ends: Arc::default(),
            all_end: Arc::default(),
            stage: Stage::SlowStart,
            round: Round::default(),
            before: None,
            last_sent: 0,
        };
        for (number, round) in rounds.iter().enumerate() {
            controller.on_sent(now, 12_000, number as u64 * 10 + 10);
            for round_trip in round {
                controller.sample(*round_trip * MS);
            }
            controller.on_end_acks(now, 0, false, Some(number as u64 * 10));
        }
        controller
    }

    #[test]
    fn a_queue_that_grows_ends_slow_start_before_it_is_full() {
        let whole = after(&[[10; 10], [11; 10]]);
        assert_eq!(whole.stage, Stage::SlowStart);
        let doubtful = after(&[[10; 10], [11; 10], [16; 10]]);
        assert!(matches!(doubtful.stage, Stage::Careful { .. }), "{:?}", doubtful.stage);
        assert_eq!(doubtful.window(), whole.window());
        let over = after(&[[10; 10], [11; 10], [16; 10], [20; 10]]);
        assert_eq!(over.stage, Stage::Cubic);
        assert!(over.window() < whole.window());
    }

    #[test]
    fn one_late_round_and_late_packets_do_not() {
        let chance = after(&[[10; 10], [11; 10], [16; 10], [11; 10], [11; 10], [11; 10]]);
        assert_eq!(chance.stage, Stage::SlowStart);
        let late = [10, 40, 60, 40, 50, 60, 70, 80, 60, 50];
        assert_eq!(after(&[[10; 10], late, late, late, late]).stage, Stage::SlowStart);
    }

    #[test]
    fn last_words_are_not_held_back() {
        let controller = after(&[[10; 10]]);
        let copy = controller.clone_box();
        assert!(copy.window() < u64::MAX);
        controller.ends.store(true, Ordering::Relaxed);
        assert_eq!((controller.window(), copy.window()), (u64::MAX, u64::MAX));
        let of_all = after(&[[10; 10]]);
        of_all.all_end.store(true, Ordering::Relaxed);
        assert_eq!(of_all.window(), u64::MAX);
    }

    #[test]
    fn a_loss_ends_it_as_ever() {
        let mut controller = after(&[[10; 10]]);
        let before = controller.window();
        let now = Instant::now();
        controller.on_congestion_event(now, now, false, 1200);
        assert_eq!(controller.stage, Stage::Cubic);
        assert!(controller.window() < before);
    }
}
