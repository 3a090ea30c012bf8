//! Telling statistics each second: to the metrics, and on standard output without waiting for whoever reads
//! there.

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::config::StatsFormat;
use crate::metrics::Metrics;
use crate::stats::Stats;

/// Lines that may wait for a slow reader; further ones are left out.
const MOST_WAITING: usize = 4;

/// How long the last line may take.
const LAST_LINE: Duration = Duration::from_millis(200);

/// Prints from a thread of its own: a reader that stands still stops the printing alone.
pub(crate) struct Printer {
    thread: Option<Thread>,
    metrics: Option<Arc<Metrics>>,
}

#[derive(Debug)]
struct Thread {
    lines: SyncSender<String>,
    ended: Receiver<()>,
}

impl Printer {
    /// A printer of this format; without one it prints nothing. It brings these metrics up to date as well.
    pub(crate) fn start(format: Option<StatsFormat>, metrics: Option<Arc<Metrics>>) -> Self {
        let thread = format.map(|StatsFormat::Json| Thread::start());
        Self { thread, metrics }
    }

    /// Tells what is known now.
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

    /// Waits a moment for the last line to be out.
    pub(crate) fn finish(&mut self) {
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
            for line in waiting {
                let mut out = std::io::stdout().lock();
                // A closed standard output is no reason to stop watching.
                let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
            }
            // Nobody waits when the process ends at once.
            let _ = ending.send(());
        });
        Self { lines, ended }
    }
}
