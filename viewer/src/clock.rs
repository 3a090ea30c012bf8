//! The broadcaster's capture clock, as this viewer's clock sees it: asked for over the control connection, as
//! NTP does (RFC 5905). Of the last answers the one counts that can be least wrong: by half its round trip,
//! and by what the clocks drifted since.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::control::{Request, Response};
use quinn::Connection;
use tokio::task::JoinHandle;
use transport::stream;

/// From one question to the next: at first, and later.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(20);

/// How fast clocks drift from each other, at most.
const DRIFT: f64 = 200e-6;

/// Questions at first.
const FIRST_QUESTIONS: usize = 4;

/// Answers that count.
const KEPT: usize = 4;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// One answer.
#[derive(Debug, Clone, Copy)]
struct Answer {
    /// In the middle between question and answer.
    at: Instant,
    /// The capture clock then.
    capture: Duration,
    round_trip: Duration,
}

/// Follows the capture clock for as long as it lives.
#[derive(Debug)]
pub(crate) struct CaptureClock {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asking: JoinHandle<()>,
}

impl CaptureClock {
    /// Begins to ask.
    pub(crate) fn follow(connection: Connection) -> Self {
        let answers = Arc::<Mutex<VecDeque<Answer>>>::default();
        let told = Arc::clone(&answers);
        let asking = tokio::spawn(async move {
            for number in 1.. {
                let asked_at = Instant::now();
                let question = tokio::time::timeout(PATIENCE, ask(&connection)).await;
                if let Ok(Some(capture)) = question {
                    note(
                        &mut told.lock().unwrap_or_else(PoisonError::into_inner),
                        asked_at,
                        capture,
                    );
                }
                let wait = if number < FIRST_QUESTIONS { FIRST_INTERVAL } else { INTERVAL };
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    _ = connection.closed() => return,
                }
            }
        });
        Self { answers, asking }
    }

    /// What the capture clock shows at this moment; `None` before the first answer.
    pub(crate) fn at(&self, now: Instant) -> Option<Duration> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let error = |answer: &&Answer| {
            answer.round_trip / 2 + now.saturating_duration_since(answer.at).mul_f64(DRIFT)
        };
        let best = answers.iter().min_by_key(error)?;
        Some(best.capture + now.saturating_duration_since(best.at))
    }
}

impl Drop for CaptureClock {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

/// Asks once.
async fn ask(connection: &Connection) -> Option<Duration> {
    let (mut send, mut receive) = connection.open_bi().await.ok()?;
    stream::write(&mut send, &Request::Clock).await.ok()?;
    match stream::read(&mut receive).await.ok()? {
        Response::Clock { capture_us } => Some(Duration::from_micros(capture_us)),
        _ => None,
    }
}

fn note(answers: &mut VecDeque<Answer>, asked_at: Instant, capture: Duration) {
    let round_trip = asked_at.elapsed();
    answers.push_back(Answer { at: asked_at + round_trip / 2, capture, round_trip });
    if answers.len() > KEPT {
        answers.pop_front();
    }
}
