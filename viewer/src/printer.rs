//! Printing statistics without waiting for whoever reads them.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::config::StatsFormat;
use crate::stats::Stats;

/// Lines that may wait for a slow reader; further ones are left out.
const MOST_WAITING: usize = 4;

/// How long the last line may take.
const LAST_LINE: Duration = Duration::from_millis(200);

/// Prints from a thread of its own: a reader that stands still stops the printing alone.
#[derive(Debug)]
pub(crate) struct Printer(Option<Thread>);

#[derive(Debug)]
struct Thread {
    lines: SyncSender<String>,
    ended: Receiver<()>,
}

impl Printer {
    /// A printer of this format; without one it prints nothing.
    pub(crate) fn start(format: Option<StatsFormat>) -> Self {
        let Some(StatsFormat::Json) = format else { return Self(None) };
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
        Self(Some(Thread { lines, ended }))
    }

    /// Prints what is known now.
    pub(crate) fn print(&self, stats: &mut Stats) {
        if let Self(Some(thread)) = self {
            let object = stats.object(Instant::now());
            let line = serde_json::to_string(&object).expect("plain fields serialize");
            // A full queue: the reader stands still, and gets newer objects later.
            let _ = thread.lines.try_send(line + "\n");
        }
    }

    /// Waits a moment for the last line to be out.
    pub(crate) fn finish(&mut self) {
        if let Some(Thread { lines, ended }) = self.0.take() {
            drop(lines);
            // A reader that stands still is not waited for.
            let _ = ended.recv_timeout(LAST_LINE);
        }
    }
}
