//! The kernel boundary of the fan-out: one burst to many destinations, with `sendmmsg` and UDP
//! generic segmentation offload. The only file of the project with unsafe code.
//!
//! The cost of sending is per message, not per byte: a message that the kernel cuts into twelve
//! datagrams costs little more than one datagram. All messages of a call share one payload, one
//! segment size and one control message; they differ in their destination alone.
//!
//! Single datagrams with a hop limit of their own go through here, too.

use std::net::{SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use protocol::address::canonical;
use protocol::size::MAX_SOURCE_PACKET;

/// Most segments in one message: the kernel takes 64 and less than 65,000 bytes.
pub const MAX_SEGMENTS: usize = 56;
const _: () = assert!(MAX_SEGMENTS <= 64 && MAX_SEGMENTS * MAX_SOURCE_PACKET < 65_000);

/// Messages in one system call.
pub const BATCH: usize = sys::BATCH;

/// How long a full send buffer is waited for before what remains of a slice is dropped: a live stream gains
/// nothing from packets that wait longer.
pub const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// Messages in a row that the kernel refuses to segment, and takes in pieces, before it is not asked any
/// more.
const MOST_REFUSALS: u32 = 16;

/// What became of one fan-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// Bytes of UDP payload that it took.
    pub bytes: u64,
    /// Datagrams dropped because the send buffer stayed full.
    pub blocked: u64,
    /// Datagrams that it refused for another reason.
    pub failed: u64,
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
        self.blocked += other.blocked;
        self.failed += other.failed;
    }
}

/// Where a burst goes: a socket address in the form that the socket's family needs, and the socket
/// that it leaves by where that is not the sender's own.
#[derive(Debug, Clone)]
pub struct Destination {
    address: socket2::SockAddr,
    via: Option<Arc<UdpSocket>>,
}

impl Destination {
    /// The destination for a socket of either family; IPv4 addresses are mapped for an IPv6 socket.
    pub fn new(address: SocketAddr, socket_is_v6: bool) -> Self {
        let address = match address {
            SocketAddr::V4(v4) if socket_is_v6 => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            other => other,
        };
        Self { address: address.into(), via: None }
    }

    /// The same destination by another socket of the same family.
    pub fn via(self, socket: Arc<UdpSocket>) -> Self {
        Self { via: Some(socket), ..self }
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        let address = self.address.as_socket();
        canonical(address.expect("made of a socket address"))
    }

    fn leaves_as(&self, other: &Self) -> bool {
        match (&self.via, &other.via) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
}

/// Sends one datagram that passes only so many routers.
pub(crate) fn send_with_hop_limit(
    socket: &socket2::Socket,
    bytes: &[u8],
    to: SocketAddr,
    hop_limit: u8,
) -> std::io::Result<()> {
    let is_v6 = socket.local_addr()?.is_ipv6();
    let destination = Destination::new(to, is_v6);
    let is_v4 = match to {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped().is_some(),
    };
    sys::send_with_hop_limit(socket, bytes, &destination, is_v4, hop_limit)
}

/// Sends bursts from a plain thread.
#[derive(Debug)]
pub struct Sender {
    socket: UdpSocket,
    is_v6: bool,
    offload: AtomicBool,
    /// Messages in a row that the kernel did not segment, and took in pieces.
    refusals: AtomicU32,
}

impl Sender {
    /// A sender on a socket (which may be non-blocking, and shared with a receiver).
    pub fn new(socket: UdpSocket) -> std::io::Result<Self> {
        let is_v6 = socket.local_addr()?.is_ipv6();
        let offload = AtomicBool::new(cfg!(target_os = "linux"));
        Ok(Self { socket, is_v6, offload, refusals: AtomicU32::new(0) })
    }

    /// Another sender on the same socket, for another thread.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        let offload = AtomicBool::new(self.offload());
        let refusals = AtomicU32::new(0);
        Ok(Self { socket: self.socket.try_clone()?, is_v6: self.is_v6, offload, refusals })
    }

    /// Whether the kernel segments for us. Turns false by itself where it cannot.
    pub fn offload(&self) -> bool {
        self.offload.load(Ordering::Relaxed)
    }

    /// Turns segmentation offload off, for tests and for interfaces that do it badly.
    pub fn disable_offload(&self) {
        self.offload.store(false, Ordering::Relaxed);
    }

    /// The form of an address that [`Self::send`] takes.
    pub fn destination(&self, address: SocketAddr) -> Destination {
        Destination::new(address, self.is_v6)
    }

    /// Sends `bytes`, cut into datagrams of `segment` bytes (the last may be shorter), to every
    /// destination. At most [`MAX_SEGMENTS`] segments. Never blocks for long, never fails as a whole:
    /// what one destination does to its message costs the others nothing.
    pub fn send(&self, bytes: &[u8], segment: usize, destinations: &[Destination]) -> Sent {
        self.send_until(Instant::now() + LONGEST_WAIT, bytes, segment, destinations)
    }

    /// As [`Self::send`], where a full send buffer is waited for until then.
    pub fn send_until(
        &self,
        deadline: Instant,
        bytes: &[u8],
        segment: usize,
        destinations: &[Destination],
    ) -> Sent {
        debug_assert!(segment > 0 && bytes.len().div_ceil(segment) <= MAX_SEGMENTS);
        let mut sent = Sent::default();
        self.send_messages(bytes, segment, destinations, deadline, &mut sent);
        sent
    }

    /// One message to each destination, or one for each datagram where the kernel does not segment.
    fn send_messages(
        &self,
        bytes: &[u8],
        segment: usize,
        mut destinations: &[Destination],
        deadline: Instant,
        sent: &mut Sent,
    ) {
        let datagrams = bytes.len().div_ceil(segment) as u64;
        while let Some((first, others)) = destinations.split_first() {
            if datagrams > 1 && !self.offload() {
                for datagram in bytes.chunks(segment) {
                    self.send_messages(datagram, segment, destinations, deadline, sent);
                }
                return;
            }
            let run = destinations.iter().take(sys::BATCH);
            let run = run.take_while(|destination| destination.leaves_as(first)).count();
            let socket = first.via.as_deref().unwrap_or(&self.socket);
            match sys::send(socket, bytes, segment, &destinations[..run]) {
                Ok(messages) => {
                    sent.datagrams += datagrams * messages as u64;
                    sent.bytes += (bytes.len() * messages) as u64;
                    destinations = &destinations[messages..];
                    if datagrams > 1 {
                        self.refusals.store(0, Ordering::Relaxed);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if first.via.is_some() {
                        // A socket that serves this viewer alone: nobody else waits for it.
                        sent.blocked += datagrams;
                        destinations = others;
                    } else if !sys::wait_writable(socket, deadline) {
                        sent.blocked += datagrams * destinations.len() as u64;
                        return;
                    }
                }
                Err(error) if datagrams > 1 && sys::cannot_segment(&error) => {
                    self.send_apart(bytes, segment, first, deadline, sent);
                    destinations = others;
                }
                Err(error) => {
                    tracing::trace!(%error, "a destination could not be sent to");
                    sent.failed += datagrams;
                    destinations = others;
                }
            }
        }
    }

    /// Sends to a destination for which the kernel refused to segment. That may be its route's fault, or
    /// its own; where nobody's message is segmented, it is the kernel's or the interface's.
    fn send_apart(
        &self,
        bytes: &[u8],
        segment: usize,
        destination: &Destination,
        deadline: Instant,
        sent: &mut Sent,
    ) {
        let before = sent.datagrams;
        for datagram in bytes.chunks(segment) {
            let only = std::slice::from_ref(destination);
            self.send_messages(datagram, segment, only, deadline, sent);
        }
        let is_reachable = sent.datagrams > before;
        if is_reachable && self.refusals.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_REFUSALS {
            tracing::info!(
                "this system does not segment UDP messages; sending each datagram alone"
            );
            self.disable_offload();
        }
    }
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "sendmmsg with a shared payload has no safe binding")]
mod sys {
    use std::io;
    use std::mem::{self, MaybeUninit};
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;
    use std::ptr;
    use std::time::Instant;

    use super::Destination;

    /// Messages in one system call: enough to hide its cost, few enough for the stack.
    pub(super) const BATCH: usize = 128;

    /// Room for one control message of two bytes, aligned as a `cmsghdr`.
    #[repr(C)]
    union Control {
        header: libc::cmsghdr,
        bytes: [u8; 64],
    }

    /// Hands one message for each of the first destinations to the kernel. Returns how many it took.
    pub(super) fn send(
        socket: &UdpSocket,
        bytes: &[u8],
        segment: usize,
        destinations: &[Destination],
    ) -> io::Result<usize> {
        let mut payload =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control = Control { bytes: [0; 64] };
        let control_length =
            if bytes.len() > segment { segment_size(&mut control, segment) } else { 0 };
        let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
        let count = destinations.len().min(BATCH);
        for (message, destination) in messages.iter_mut().zip(destinations) {
            // SAFETY: `mmsghdr` is a plain C structure for which all zeros are a legal value.
            let message = message.write(unsafe { mem::zeroed() });
            let header = &mut message.msg_hdr;
            header.msg_name = destination.address.as_ptr().cast_mut().cast();
            header.msg_namelen = destination.address.len();
            header.msg_iov = &raw mut payload;
            header.msg_iovlen = 1;
            if control_length > 0 {
                header.msg_control = (&raw mut control).cast();
                header.msg_controllen = control_length as _;
            }
        }
        // SAFETY: the first `count` messages were written, and point to destinations, payload and control that live
        // until the call returns; the kernel only reads them, and writes `msg_len` of each message.
        let taken = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr().cast(),
                count as libc::c_uint,
                0,
            )
        };
        usize::try_from(taken).map_err(|_| io::Error::last_os_error())
    }

    /// Writes the UDP_SEGMENT control message; returns its length.
    fn segment_size(control: &mut Control, segment: usize) -> usize {
        let size = segment as u16;
        // SAFETY: the buffer is aligned for and longer than one control message of two bytes, so
        // that header and data lie within it; CMSG_SPACE and CMSG_LEN only compute.
        unsafe {
            let header = &raw mut control.header;
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = libc::CMSG_LEN(mem::size_of::<u16>() as u32) as _;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast::<u16>(), size);
            libc::CMSG_SPACE(mem::size_of::<u16>() as u32) as usize
        }
    }

    /// Hands over one datagram with a hop limit (RFC 3542, section 6.3, and its IPv4 counterpart).
    pub(super) fn send_with_hop_limit(
        socket: &socket2::Socket,
        bytes: &[u8],
        destination: &Destination,
        is_v4: bool,
        hop_limit: u8,
    ) -> io::Result<()> {
        let mut payload =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control = Control { bytes: [0; 64] };
        let (level, kind) = if is_v4 {
            (libc::SOL_IP, libc::IP_TTL)
        } else {
            (libc::SOL_IPV6, libc::IPV6_HOPLIMIT)
        };
        let value = libc::c_int::from(hop_limit);
        // SAFETY: as for the segment size: one control message of an integer fits into the buffer.
        let control_length = unsafe {
            let header = &raw mut control.header;
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = libc::CMSG_LEN(mem::size_of::<libc::c_int>() as u32) as _;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast::<libc::c_int>(), value);
            libc::CMSG_SPACE(mem::size_of::<libc::c_int>() as u32) as usize
        };
        // SAFETY: `msghdr` is a plain C structure for which all zeros are a legal value.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = destination.address.as_ptr().cast_mut().cast();
        message.msg_namelen = destination.address.len();
        message.msg_iov = &raw mut payload;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = control_length as _;
        // SAFETY: the message points to destination, payload and control that live until the call
        // returns; the kernel only reads them.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits until the socket takes more; false at the deadline.
    pub(super) fn wait_writable(socket: &UdpSocket, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        let milliseconds = left.as_millis().max(1) as libc::c_int;
        // SAFETY: one valid pollfd, and the count says so.
        unsafe { libc::poll(&raw mut poll, 1, milliseconds) > 0 }
    }

    /// Whether an error says that this kernel, interface or route cannot segment.
    pub(super) fn cannot_segment(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP))
    }
}

#[cfg(not(target_os = "linux"))]
mod sys {
    use std::io;
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    use super::Destination;

    pub(super) const BATCH: usize = 1;

    /// Not sent: with a usual hop limit it would do what it is meant not to.
    pub(super) fn send_with_hop_limit(
        _socket: &socket2::Socket,
        _bytes: &[u8],
        _destination: &Destination,
        _is_v4: bool,
        _hop_limit: u8,
    ) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn send(
        socket: &UdpSocket,
        bytes: &[u8],
        _segment: usize,
        destinations: &[Destination],
    ) -> io::Result<usize> {
        let address = destinations[0].address.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
        socket.send_to(bytes, address).map(|_| 1)
    }

    pub(super) fn wait_writable(_socket: &UdpSocket, deadline: Instant) -> bool {
        // Without poll: the shortest pause that lets the interface drain.
        std::thread::sleep(Duration::from_millis(1));
        Instant::now() < deadline
    }

    pub(super) fn cannot_segment(_error: &io::Error) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiver() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        let address = socket.local_addr().expect("bound");
        (socket, address)
    }

    fn delivers(sender: &Sender) {
        let receivers: Vec<_> = (0..200).map(|_| receiver()).collect();
        let destinations: Vec<_> =
            receivers.iter().map(|(_, address)| sender.destination(*address)).collect();
        let bytes: Vec<u8> = (0..1150 * 3 + 500).map(|at| (at / 1150) as u8).collect();
        let sent = sender.send(&bytes, 1150, &destinations);
        let expected =
            Sent { datagrams: 800, bytes: 200 * bytes.len() as u64, blocked: 0, failed: 0 };
        assert_eq!(sent, expected);
        for (socket, _) in &receivers {
            for expected in bytes.chunks(1150) {
                let mut buffer = [0; 2000];
                let (length, _) = socket.recv_from(&mut buffer).expect("a datagram");
                assert_eq!(&buffer[..length], expected);
            }
        }
    }

    #[test]
    fn one_burst_reaches_everybody() {
        delivers(&Sender::new(UdpSocket::bind("0.0.0.0:0").expect("bind")).expect("bound"));
    }

    #[test]
    fn without_offload_too() {
        let sender = Sender::new(UdpSocket::bind("0.0.0.0:0").expect("bind")).expect("bound");
        sender.disable_offload();
        delivers(&sender);
    }

    #[test]
    fn from_an_ipv6_socket_to_ipv4() {
        delivers(&Sender::new(UdpSocket::bind("[::]:0").expect("bind")).expect("bound"));
    }

    #[test]
    fn another_socket_serves_some() {
        let sender = Sender::new(UdpSocket::bind("127.0.0.1:0").expect("bind")).expect("bound");
        let other = Arc::new(UdpSocket::bind("127.0.0.1:0").expect("bind"));
        let (one, two) = (receiver(), receiver());
        let destinations = [
            sender.destination(one.1),
            sender.destination(two.1).via(Arc::clone(&other)),
            sender.destination(one.1),
        ];
        assert_eq!(sender.send(&[7; 300], 100, &destinations).datagrams, 9);
        let mut buffer = [0; 200];
        for _ in 0..3 {
            let (_, from) = two.0.recv_from(&mut buffer).expect("a datagram");
            assert_eq!(from, other.local_addr().expect("bound"));
        }
        for _ in 0..6 {
            let (_, from) = one.0.recv_from(&mut buffer).expect("a datagram");
            assert_eq!(from, sender.socket.local_addr().expect("bound"));
        }
    }

    #[test]
    fn a_full_buffer_is_waited_for_and_then_counted() {
        // A socket pair of its own would block; UDP to loopback never does. So one whose queue is full: a
        // send buffer of the least size, towards a destination whose messages are larger than it.
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.set_nonblocking(true).expect("non-blocking");
        let socket2 = socket2::SockRef::from(&socket);
        socket2.set_send_buffer_size(1).expect("the kernel makes it its least");
        let sender = Sender::new(socket).expect("bound");
        let (_receiver, address) = receiver();
        let destinations = vec![sender.destination(address); 64];
        let bytes = vec![7; 40 * 1150];
        let began = Instant::now();
        let sent = sender.send(&bytes, 1150, &destinations);
        assert!(began.elapsed() < LONGEST_WAIT * 20, "never blocks for long");
        assert_eq!(sent.datagrams + sent.blocked + sent.failed, 64 * 40);
    }

    #[test]
    fn a_destination_where_nobody_listens_costs_the_others_nothing() {
        let sender = Sender::new(UdpSocket::bind("127.0.0.1:0").expect("bind")).expect("bound");
        let (good, address) = receiver();
        // Bound and gone: its datagrams come back as ICMP errors, which the next call may see.
        let closed = receiver().1;
        let destinations = [sender.destination(closed), sender.destination(address)];
        for _ in 0..20 {
            sender.send(&[7; 300], 100, &destinations);
        }
        assert!(sender.offload());
        let mut came = 0;
        good.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        while good.recv(&mut [0; 200]).is_ok() {
            came += 1;
        }
        // An error that is pending takes the place of one message.
        assert!(came >= 30, "{came} of 60");
    }

    #[test]
    fn one_bad_destination_costs_the_others_nothing() {
        let sender = Sender::new(UdpSocket::bind("127.0.0.1:0").expect("bind")).expect("bound");
        let (good, address) = receiver();
        // Port 0 is refused by the kernel.
        let bad = sender.destination(SocketAddr::from(([127, 0, 0, 1], 0)));
        let destinations = [bad.clone(), sender.destination(address), bad];
        let sent = sender.send(&[7; 300], 100, &destinations);
        assert_eq!((sent.datagrams, sent.failed), (3, 6));
        assert!(sender.offload(), "it says nothing about the others");
        let mut buffer = [0; 200];
        for _ in 0..3 {
            assert_eq!(good.recv(&mut buffer).expect("a datagram"), 100);
        }
    }
}
