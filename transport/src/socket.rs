//! The one UDP socket: bound to both IP versions where possible, batched receive with GRO, plain
//! sends for control traffic. Bursts go through [`crate::kernel::Sender`] on the same socket.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use protocol::address::canonical;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, Type};

use crate::kernel::{self, Sender};
use crate::readiness::Readiness;

/// Buffer sizes asked of the kernel, in bytes: a keyframe's burst to many viewers, or a joining
/// burst, without loss. The kernel gives what its limits allow.
const SOCKET_BUFFER: usize = 4 << 20;

/// Most bytes that GRO hands over at once.
const RECEIVE_BUFFER: usize = 1 << 16;

thread_local! {
    /// Where datagrams lie from the kernel's call to their delivery. Nothing waits in between, so that
    /// all sockets received on by one thread share it: a process may have thousands.
    static SCRATCH: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What the kernel hands over as one: a datagram, or several of one sender and one size.
#[derive(Debug)]
pub struct Message<'a> {
    /// Who sent it, in canonical form.
    pub from: SocketAddr,
    /// To which of this machine's addresses, if the system tells, in canonical form.
    pub at: Option<IpAddr>,
    /// All bytes.
    pub bytes: &'a mut [u8],
    /// Bytes of each datagram; the last may be shorter. More than 0.
    pub segment: usize,
}

/// The UDP socket of a process.
#[derive(Debug)]
pub struct Socket {
    io: Readiness,
    state: UdpSocketState,
    local: SocketAddr,
    is_gathering: bool,
}

/// How long datagrams may wait to be taken together where there are many. Waking up for one costs as much
/// as taking ten; a retransmission that is asked for loses so much of its time at most.
const GATHERING: Duration = Duration::from_millis(2);

impl Socket {
    /// Binds to `address`; without one, to any port of both IP versions.
    pub fn bind(address: Option<SocketAddr>) -> io::Result<Self> {
        let any = |ip: IpAddr| SocketAddr::new(ip, 0);
        let socket = match address {
            Some(address) => bind(address)?,
            None => bind(any(Ipv6Addr::UNSPECIFIED.into()))
                .or_else(|_| bind(any(Ipv4Addr::UNSPECIFIED.into())))?,
        };
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket.local_addr()?;
        let io = Readiness::new(socket)?;
        Ok(Self { io, state, local, is_gathering: false })
    }

    /// A socket that a thread of its own receives on, which does nothing else: it sleeps a little while
    /// datagrams come fast, and takes many at once then.
    pub(crate) fn gathering(self) -> Self {
        Self { is_gathering: true, ..self }
    }

    /// The address bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// Whether the socket is of the IPv6 family (and carries IPv4 in mapped form).
    pub fn is_v6(&self) -> bool {
        self.local.is_ipv6()
    }

    /// A sender of bursts on this socket.
    pub fn sender(&self) -> io::Result<Sender> {
        Sender::new(self.share()?)
    }

    /// Sends one datagram. `WouldBlock` when the kernel has no room.
    pub fn try_send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.io.socket().send_to(bytes, &self.native(to).into()).map(drop)
    }

    /// As [`Self::try_send_to`], from this one of the machine's addresses: where a socket is bound to
    /// all of them, the kernel would take the one that it likes best. `from` is of the family of `to`.
    pub fn try_send_from(&self, bytes: &[u8], to: SocketAddr, from: IpAddr) -> io::Result<()> {
        self.try_transmit(&quinn_udp::Transmit {
            destination: self.native(to),
            ecn: None,
            contents: bytes,
            segment_size: None,
            src_ip: Some(from),
        })
    }

    /// Sends one datagram that passes only so many routers.
    pub fn try_send_near(&self, bytes: &[u8], to: SocketAddr, hop_limit: u8) -> io::Result<()> {
        kernel::send_with_hop_limit(&self.io.socket(), bytes, self.native(to), hop_limit)
    }

    /// The same socket for plain threads.
    pub fn share(&self) -> io::Result<std::net::UdpSocket> {
        Ok(self.io.socket().try_clone()?.into())
    }

    pub(crate) fn try_transmit(&self, transmit: &quinn_udp::Transmit<'_>) -> io::Result<()> {
        self.state.try_send((&*self.io.socket()).into(), transmit)
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    /// The address in the form of the socket's family.
    pub(crate) fn native(&self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V4(v4) if self.is_v6() => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            other => other,
        }
    }

    /// Receives for ever, and hands every datagram to `deliver`, with its source and the one of this
    /// machine's addresses that it was sent to, if the system tells (both in canonical form). Ends only
    /// when the socket itself is unusable. `batch` messages are taken at once, at most [`BATCH_SIZE`].
    pub async fn receive(
        &self,
        batch: usize,
        mut deliver: impl FnMut(SocketAddr, Option<IpAddr>, &mut [u8]),
    ) -> io::Error {
        let deliver = |Message { from, at, bytes, segment }: Message<'_>| {
            bytes.chunks_mut(segment).for_each(|datagram| deliver(from, at, datagram));
        };
        self.receive_messages(batch, deliver).await
    }

    /// As [`Self::receive`], by messages. `deliver` must not receive in its turn.
    pub async fn receive_messages(
        &self,
        batch: usize,
        mut deliver: impl FnMut(Message<'_>),
    ) -> io::Error {
        let batch = batch.clamp(1, BATCH_SIZE);
        let mut woken_at = Instant::now();
        loop {
            let received = self
                .io
                .when_readable(|socket| {
                    SCRATCH.with_borrow_mut(|scratch| {
                        while scratch.len() < batch {
                            scratch.push(vec![0; RECEIVE_BUFFER]);
                        }
                        let socket = (&*socket).into();
                        let received =
                            self.receive_batch(socket, &mut scratch[..batch], &mut deliver)?;
                        self.gather(received == batch, &mut woken_at)
                    })
                })
                .await;
            match received {
                Ok(()) => {}
                // An ICMP error about some earlier datagram is nothing to stop for.
                Err(error) if is_transient(&error) => {}
                Err(error) => return error,
            }
            if !self.is_gathering {
                // The stream never ends by itself: let others run between batches.
                tokio::task::yield_now().await;
            }
        }
    }

    /// `WouldBlock` where all was taken, unless more is gathered first.
    fn gather(&self, may_be_more: bool, woken_at: &mut Instant) -> io::Result<()> {
        let since = woken_at.elapsed();
        let waits = self.is_gathering && !may_be_more && since < GATHERING;
        if waits {
            std::thread::sleep(GATHERING - since);
        }
        *woken_at = Instant::now();
        // Asking again where there is nothing costs a call; what comes meanwhile wakes us.
        if may_be_more || waits { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    /// Delivers what there is, and says how much it was.
    fn receive_batch(
        &self,
        socket: quinn_udp::UdpSockRef<'_>,
        scratch: &mut [Vec<u8>],
        deliver: &mut impl FnMut(Message<'_>),
    ) -> io::Result<usize> {
        let batch = scratch.len();
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut buffers = scratch.iter_mut().map(|buffer| IoSliceMut::new(buffer));
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| buffers.next().unwrap_or(IoSliceMut::new(&mut [])));
        let count = self.state.recv(socket, &mut slices[..batch], &mut metas[..batch])?;
        for (meta, buffer) in metas.iter().zip(scratch).take(count) {
            deliver(Message {
                from: canonical(meta.addr),
                at: meta.dst_ip.map(|ip| ip.to_canonical()),
                bytes: &mut buffer[..meta.len],
                segment: meta.stride.max(1),
            });
        }
        Ok(count)
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Refused sizes leave the kernel's default, which works, with less reserve.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::Interrupted
            | Kind::NetworkDown
    )
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn answers_leave_from_the_address_that_was_asked() {
        for bound in ["0.0.0.0:0", "[::]:0"] {
            let bound = bound.parse().expect("an address");
            let socket = Arc::new(Socket::bind(Some(bound)).expect("bind"));
            let port = socket.local_addr().expect("bound").port();
            let answering = Arc::clone(&socket);
            let task = tokio::spawn(async move {
                let answer = |from, at: Option<IpAddr>, bytes: &mut [u8]| {
                    let at = at.expect("Linux tells");
                    answering.try_send_from(bytes, from, at).expect("sent");
                };
                answering.receive(1, answer).await
            });
            for asked in ["127.0.0.1", "127.0.0.2", "127.1.2.3"] {
                let asked = SocketAddr::new(asked.parse().expect("an address"), port);
                let answered_by = tokio::task::spawn_blocking(move || {
                    let client = UdpSocket::bind("127.0.0.9:0")?;
                    client.set_read_timeout(Some(Duration::from_secs(5)))?;
                    client.send_to(b"word", asked)?;
                    client.recv_from(&mut [0; 10]).map(|(_, from)| from)
                });
                let answered_by = answered_by.await.expect("no panic").expect("an answer");
                assert_eq!(answered_by, asked);
            }
            task.abort();
        }
    }
}
