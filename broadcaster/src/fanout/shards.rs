//! Threads that send beside the fan-out's own where there are viewers enough: each to its share of them,
//! all from the one socket.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use protocol::schedule::Slice;
use protocol::seal::Segments;
use protocol::volley::Volley;
use transport::kernel::{self, BATCH, Destination, LONGEST_WAIT, Payload, Sent};

use super::live::Listing;
use crate::metrics::ChannelMetrics;

/// Fewest viewers for each thread: below, waking another one costs more than it saves.
const LEAST_EACH: usize = 1024;

/// Slices that may wait for a thread. More means that it is behind: then the fan-out sends them itself,
/// which holds it up in turn, so that what is too much is dropped before it is sealed.
const MOST_WAITING: usize = 8;

/// What sends. With no viewers to speak of, the calling thread alone.
pub(super) struct Shards {
    own: kernel::Sender,
    others: Vec<Other>,
    metrics: Arc<ChannelMetrics>,
}

/// Another thread, and the way to it.
struct Other {
    slices: Option<SyncSender<Slice<Listing>>>,
    thread: Option<JoinHandle<()>>,
}

impl Shards {
    /// So many threads, the calling one included. They end with this.
    pub(super) fn start(
        sender: kernel::Sender,
        metrics: Arc<ChannelMetrics>,
        threads: usize,
    ) -> std::io::Result<Self> {
        let other = |number: usize| {
            let (slices, receiver) = sync_channel(MOST_WAITING);
            let (sender, metrics) = (sender.try_clone()?, Arc::clone(&metrics));
            let thread = thread::Builder::new()
                .name(format!("fan-out {number}"))
                .spawn(move || run(&receiver, &sender, &metrics))?;
            Ok(Other { slices: Some(slices), thread: Some(thread) })
        };
        let others = (1..threads).map(other).collect::<std::io::Result<_>>()?;
        Ok(Self { own: sender, others, metrics })
    }

    /// The calling thread's own sender.
    pub(super) fn own(&self) -> &kernel::Sender {
        &self.own
    }

    /// Sends a slice, all of it or the calling thread's share.
    pub(super) fn send(&self, slice: Slice<Listing>) {
        let mut shares = shares(slice.viewers.clone(), self.others.len() + 1);
        let own = shares.next();
        for (other, viewers) in self.others.iter().zip(shares) {
            let share = Slice { viewers, ..slice.clone() };
            if let Some(share) = other.hand_over(share) {
                send(&self.own, &share, &self.metrics);
            }
        }
        if let Some(viewers) = own {
            send(&self.own, &Slice { viewers, ..slice }, &self.metrics);
        }
    }
}

impl Other {
    /// Gives the slice back where the thread is behind.
    fn hand_over(&self, slice: Slice<Listing>) -> Option<Slice<Listing>> {
        match self.slices.as_ref()?.try_send(slice) {
            Ok(()) => None,
            Err(TrySendError::Full(slice) | TrySendError::Disconnected(slice)) => Some(slice),
        }
    }
}

impl Drop for Other {
    /// Waits until all that was handed over is sent.
    fn drop(&mut self) {
        self.slices = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a sending thread panicked");
        }
    }
}

/// Splits viewers among at most `threads`, in whole system calls.
fn shares(viewers: Range<usize>, threads: usize) -> impl Iterator<Item = Range<usize>> {
    let threads = (viewers.len() / LEAST_EACH).clamp(1, threads);
    let each = viewers.len().div_ceil(threads).next_multiple_of(BATCH).max(1);
    let Range { start, end } = viewers;
    (start..end).step_by(each).map(move |from| from..end.min(from + each))
}

fn run(slices: &Receiver<Slice<Listing>>, sender: &kernel::Sender, metrics: &ChannelMetrics) {
    while let Ok(slice) = slices.recv() {
        send(sender, &slice, metrics);
    }
}

fn send(sender: &kernel::Sender, slice: &Slice<Listing>, metrics: &ChannelMetrics) {
    let mut sent = Sent::default();
    let deadline = Instant::now() + LONGEST_WAIT;
    let parts = || slice.audience.parts(slice.viewers.clone());
    let is_tagged = parts().any(|part| part.iter().any(Destination::is_tagged));
    let mut payload = payload(&slice.volley, &slice.segments, slice.viewers.len(), is_tagged);
    for part in parts() {
        sent += sender.send_until(deadline, &mut payload, part);
    }
    metrics.count(&sent, slice.packets, slice.segments.count());
}

/// Some of a volley's datagrams as the kernel takes them.
pub(super) fn payload<'a>(
    volley: &'a Volley,
    segments: &Segments,
    destinations: usize,
    is_tagged: bool,
) -> Payload<'a> {
    let digests = if is_tagged { volley.digests(segments) } else { &[] };
    let bytes = &volley.bytes()[segments.range.clone()];
    Payload::new(bytes, segments.segment, digests, destinations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_in_one_share_and_few_viewers_need_one_thread() {
        for viewers in [0, 1, 127, 2000, 2048, 5000, 10_000, 10_001] {
            for threads in [1, 2, 7, 64] {
                let shares: Vec<_> = shares(0..viewers, threads).collect();
                assert!(shares.len() <= threads);
                assert_eq!(shares.iter().flat_map(Range::clone).count(), viewers);
                assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert!(viewers >= 2 * LEAST_EACH || shares.len() <= 1);
                assert!(viewers < 2 * LEAST_EACH || threads < 2 || shares.len() > 1);
            }
        }
    }
}
