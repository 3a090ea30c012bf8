//! Waiting for room in a socket's send buffer, for all QUIC connections together.
//!
//! quinn asks before each datagram whether there is room, for each of its connections. There nearly always is. To look
//! for it each time, as [`Socket::writable`] does, costs more than the datagram, and while a thousand connections look
//! at once, each message that leaves the buffer wakes all of them: a fan-out on the same socket stands still. So it is
//! looked for where a datagram found no room, once for all.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::UdpPoller;
use tokio::sync::Notify;

use crate::socket::Socket;

/// How long it takes a buffer to empty, where that cannot be looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Whether there is room.
pub(crate) struct Room {
    socket: Arc<Socket>,
    is_full: AtomicBool,
    freed: Notify,
}

impl Room {
    pub(crate) fn new(socket: Arc<Socket>) -> Arc<Self> {
        Arc::new(Self { socket, is_full: AtomicBool::new(false), freed: Notify::new() })
    }

    /// A datagram found no room.
    pub(crate) fn ran_out(self: &Arc<Self>) {
        if self.is_full.swap(true, Ordering::AcqRel) {
            return;
        }
        let room = Arc::clone(self);
        tokio::spawn(async move {
            if room.socket.writable().await.is_err() {
                // No descriptor is left to look with. Where the socket failed, the next datagram says so.
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            room.is_full.store(false, Ordering::Release);
            room.freed.notify_waiters();
        });
    }

    async fn wait(&self) {
        let freed = self.freed.notified();
        tokio::pin!(freed);
        // Before the look, so that what is freed behind it is noticed.
        freed.as_mut().enable();
        if self.is_full.load(Ordering::Acquire) {
            freed.await;
        }
    }

    /// One connection's wait.
    pub(crate) fn poller(self: &Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { room: Arc::clone(self), waiting: Mutex::new(None) })
    }
}

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Poller {
    room: Arc<Room>,
    waiting: Mutex<Option<Waiting>>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.room.is_full.load(Ordering::Acquire) {
            *waiting = None;
            return Poll::Ready(Ok(()));
        }
        let future = waiting.get_or_insert_with(|| {
            let room = Arc::clone(&self.room);
            Box::pin(async move { room.wait().await })
        });
        let polled = future.as_mut().poll(cx);
        if polled.is_ready() {
            *waiting = None;
        }
        polled.map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn all_wait_where_one_found_no_room() {
        let socket = Socket::bind(Some(([127, 0, 0, 1], 0).into())).expect("loopback");
        let room = Room::new(Arc::new(socket));
        let mut pollers = [room.poller(), room.poller()];
        let mut is_ready = move || {
            let polls = pollers.each_mut().map(|poller| {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                poller.as_mut().poll_writable(&mut cx).is_ready()
            });
            polls == [true; 2]
        };
        assert!(is_ready() && is_ready());
        // This task runs alone, so that nobody looks before it waits.
        room.ran_out();
        room.ran_out();
        assert!(!is_ready() && !is_ready());
        let mut third = room.poller();
        let freed = poll_fn(move |cx| third.as_mut().poll_writable(cx));
        let freed = tokio::time::timeout(Duration::from_secs(5), freed).await;
        freed.expect("an empty buffer has room").expect("it works");
        assert!(is_ready());
    }
}
