//! Telling statistics: each second to the metrics, and on standard output without waiting for whoever reads
//! there; at a terminal and on the picture more often.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::caption::Captions;
use crate::config::StatsFormat;
use crate::meeting::Step;
use crate::metrics::Metrics;
use crate::stats::Stats;
use crate::terminal::{self, Board};

/// Lines that may wait for a slow reader; further ones are left out.
const MOST_WAITING: usize = 4;

/// How long the last line may take.
const LAST_LINE: Duration = Duration::from_millis(200);

/// From one line to the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// Prints from a thread of its own: a reader that stands still stops the printing alone.
pub(crate) struct Printer {
    thread: Option<Thread>,
    metrics: Option<Arc<Metrics>>,
    board: Option<Board>,
    captions: Option<Captions>,
    /// Ticks until a line is due.
    until_line: Cell<u32>,
}

#[derive(Debug)]
struct Thread {
    lines: SyncSender<String>,
    ended: Receiver<()>,
}

impl Printer {
    /// A printer of this format; without one it prints nothing. It brings these metrics up to date as well, and
    /// what a terminal and a window show.
    pub(crate) fn start(
        format: Option<StatsFormat>,
        metrics: Option<Arc<Metrics>>,
        board: Option<Board>,
        captions: Option<Captions>,
    ) -> Self {
        let thread = format.map(|StatsFormat::Json| Thread::start());
        Self { thread, metrics, board, captions, until_line: Cell::new(0) }
    }

    /// From one [`tick`](Self::tick) to the next.
    pub(crate) fn interval(&self) -> Duration {
        let is_seen = self.board.is_some() || self.captions.is_some();
        if is_seen { terminal::INTERVAL } else { INTERVAL }
    }

    /// Tells what is due of what is known now.
    pub(crate) fn tick(&self, stats: &mut Stats) {
        self.show(stats);
        if let Some(left) = self.until_line.get().checked_sub(1) {
            return self.until_line.set(left);
        }
        let ticks = INTERVAL.as_millis() / self.interval().as_millis();
        self.until_line.set(u32::try_from(ticks).unwrap_or(1).saturating_sub(1));
        self.print(stats);
    }

    /// A step of joining begins.
    pub(crate) fn step(&self, step: Step<'_>) {
        if let Some(board) = &self.board {
            board.step(step);
        }
        if let Some(captions) = &self.captions {
            captions.step(step);
        }
    }

    /// What the window says, where there is one.
    pub(crate) fn captions(&self) -> Option<&Captions> {
        self.captions.as_ref()
    }

    /// Brings the terminal and the window up to date.
    pub(crate) fn show(&self, stats: &Stats) {
        if let Some(board) = &self.board {
            board.show(stats);
        }
        if let Some(captions) = &self.captions {
            captions.show(stats);
        }
    }

    /// Tells what is known now to metrics, and prints it.
    pub(crate) fn print(&self, stats: &mut Stats) {
        if let Some(metrics) = &self.metrics {
            metrics.update(stats);
        }
        if let Some(thread) = &self.thread {
            let object = stats.object(Instant::now());
            let line = serde_json::to_string(&object).expect("plain fields serialize");
            // A full queue: the reader stands still, and gets newer objects later.
            let _ = thread.lines.try_send(line + "\n");
        }
    }

    /// Waits a moment for the last line to be out, and for the terminal to be as it was.
    pub(crate) fn finish(&mut self) {
        self.board = None;
        self.captions = None;
        if let Some(Thread { lines, ended }) = self.thread.take() {
            drop(lines);
            // A reader that stands still is not waited for.
            let _ = ended.recv_timeout(LAST_LINE);
        }
    }
}

impl Thread {
    fn start() -> Self {
        let (lines, waiting) = sync_channel::<String>(MOST_WAITING);
        let (ending, ended) = sync_channel(1);
        std::thread::spawn(move || {
            let is_terminal = std::io::stdout().is_terminal();
            for line in waiting {
                let print = || {
                    let mut out = std::io::stdout().lock();
                    // A closed standard output is no reason to stop watching.
                    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
                };
                if is_terminal { terminal::aside(print) } else { print() }
            }
            // Nobody waits when the process ends at once.
            let _ = ending.send(());
        });
        Self { lines, ended }
    }
}
