//! Waiting for the socket without paying for it while sending.
//!
//! A socket registered with the event loop for writing wakes it for every message of a fan-out that
//! leaves the send buffer, although nobody waits for that: measured, this doubles what a packet
//! costs. So the socket is registered for reading alone, and for writing only while somebody waits
//! because the buffer is full.

#[cfg(unix)]
pub(crate) use unix::Readiness;

#[cfg(not(unix))]
pub(crate) use other::Readiness;

#[cfg(unix)]
#[expect(
    deprecated,
    reason = "its successor is unsafe for what may change its descriptor; ours cannot"
)]
mod unix {
    use std::io;
    use std::net::UdpSocket;

    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    /// A non-blocking socket, and the waiting for it.
    #[derive(Debug)]
    pub(crate) struct Readiness(AsyncFd<UdpSocket>);

    impl Readiness {
        pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
            AsyncFd::with_interest(socket, Interest::READABLE).map(Self)
        }

        pub(crate) fn socket(&self) -> socket2::SockRef<'_> {
            self.0.get_ref().into()
        }

        /// Calls `receive` whenever something may have come, until it does not say `WouldBlock`.
        pub(crate) async fn when_readable<R>(
            &self,
            mut receive: impl FnMut(socket2::SockRef<'_>) -> io::Result<R>,
        ) -> io::Result<R> {
            self.0.async_io(Interest::READABLE, |socket| receive(socket.into())).await
        }

        /// Returns when the send buffer has room.
        pub(crate) async fn writable(&self) -> io::Result<()> {
            // A second descriptor, as the event loop takes each only once.
            let second = self.0.get_ref().try_clone()?;
            let waiting = AsyncFd::with_interest(second, Interest::WRITABLE)?;
            waiting.writable().await.map(drop)
        }
    }
}

#[cfg(not(unix))]
mod other {
    use std::io;
    use std::net::UdpSocket;

    use tokio::io::Interest;

    /// A non-blocking socket, and the waiting for it.
    #[derive(Debug)]
    pub(crate) struct Readiness(tokio::net::UdpSocket);

    impl Readiness {
        pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
            tokio::net::UdpSocket::from_std(socket).map(Self)
        }

        pub(crate) fn socket(&self) -> socket2::SockRef<'_> {
            (&self.0).into()
        }

        /// Calls `receive` whenever something may have come, until it does not say `WouldBlock`.
        pub(crate) async fn when_readable<R>(
            &self,
            mut receive: impl FnMut(socket2::SockRef<'_>) -> io::Result<R>,
        ) -> io::Result<R> {
            self.0.async_io(Interest::READABLE, || receive((&self.0).into())).await
        }

        /// Returns when the send buffer has room.
        pub(crate) async fn writable(&self) -> io::Result<()> {
            self.0.writable().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    #[tokio::test]
    async fn both_ways_are_noticed() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        socket.set_nonblocking(true).expect("an option");
        let address = socket.local_addr().expect("bound");
        let readiness = Readiness::new(socket).expect("in a runtime");
        // Twice, as the second descriptor must go each time.
        for _ in 0..2 {
            readiness.writable().await.expect("an empty send buffer has room");
        }
        let sender = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            UdpSocket::bind("127.0.0.1:0")?.send_to(b"word", address)
        });
        let mut bytes = [std::mem::MaybeUninit::uninit(); 10];
        let received = readiness.when_readable(|socket| socket.recv(&mut bytes));
        let received = tokio::time::timeout(Duration::from_secs(5), received).await;
        assert_eq!(received.expect("in time").expect("received"), 4);
        sender.await.expect("no panic").expect("sent");
    }
}
