//! Opens the next item on a thread of its own, so that one that is slow to open, or can't be, does not
//! hold up the one that is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use super::program::{Opened, Program};
use crate::media::error::MediaError;

type Outcome = Result<Option<Opened>, MediaError>;

pub(super) struct Opener {
    requests: Option<Sender<()>>,
    opened: Receiver<Outcome>,
    /// Whether an item has been asked for that has not been taken.
    is_requested: bool,
    thread: Option<JoinHandle<()>>,
}

impl Opener {
    /// Starts the thread, which opens nothing until it is asked to, and ends once `stop` is set.
    pub(super) fn start(mut program: Program, stop: Arc<AtomicBool>) -> std::io::Result<Self> {
        let (requests, requested) = mpsc::channel();
        let (to, opened) = mpsc::channel();
        let thread = thread::Builder::new().name("media-next".to_owned()).spawn(move || {
            for () in requested {
                let outcome = program.next(&|| stop.load(Ordering::Acquire));
                if to.send(outcome).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { requests: Some(requests), opened, is_requested: false, thread: Some(thread) })
    }

    /// Has the next item opened, unless that has been asked for already.
    pub(super) fn request(&mut self) {
        if !std::mem::replace(&mut self.is_requested, true)
            && let Some(requests) = &self.requests
        {
            // Were the thread gone, taking the item would tell.
            let _ = requests.send(());
        }
    }

    /// Waits for the next item. None if the source was stopped.
    pub(super) fn take(&mut self) -> Outcome {
        self.request();
        self.is_requested = false;
        self.opened.recv().unwrap_or(Ok(None))
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that opens files panicked");
        }
    }
}
