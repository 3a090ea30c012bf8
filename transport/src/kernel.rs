//! The kernel boundary of the fan-out: one burst to many destinations, with `sendmmsg` and UDP
//! generic segmentation offload. The only file of the project with unsafe code.
//!
//! The cost of sending is per message, not per byte: a message that the kernel cuts into twelve
//! datagrams costs little more than one datagram. All messages of a call share one payload, one
//! segment size and one control message; they differ in their destination alone. Where each datagram has a viewer's
//! tag behind it, a handful of copies takes turns, and only the tags in them are written anew: that costs a tenth of
//! having the kernel gather datagrams and tags from different places, or of copying for each viewer.
//!
//! Single datagrams with a hop limit of their own go through here, too, and what a program with many threads that
//! come and go asks of the C library's heap.

use std::cell::Cell;
use std::net::{SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use protocol::address::canonical;
use protocol::size::MAX_DATAGRAM;
use protocol::tag::{Digest, TAG, TagKey};

/// Most segments in one message: the kernel takes 64 and less than 65,000 bytes.
pub const MAX_SEGMENTS: usize = 54;
const _: () = assert!(MAX_SEGMENTS <= 64 && MAX_SEGMENTS * MAX_DATAGRAM < 65_000);

/// Messages in one system call.
pub const BATCH: usize = sys::BATCH;

/// Most copies of a payload that take turns where there are tags: as many as fit into a processor's second cache.
const COPIES: usize = 16;

/// One for so many destinations, or making them costs more than the system calls that they save; but some.
const DESTINATIONS_EACH: usize = 16;
const LEAST_COPIES: usize = 4;

thread_local! {
    /// Memory for the next payload's copies: fresh pages for each would cost more than what is written to them.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Has all threads that begin from now on share one heap of the C library, unless `MALLOC_ARENA_MAX` says how many
/// there may be. With a heap for each few threads, as is usual, what one thread leaves another does not find: where
/// decoders come and go, memory grows for a long time although nothing is held.
pub fn share_heap() {
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        sys::share_heap();
    }
}

/// Gives the kernel back what of the C library's heap holds nothing. Other threads get no memory meanwhile, which is a
/// millisecond or so.
pub fn trim_heap() {
    sys::trim_heap();
}

/// Bytes of the C library's heap that hold something; `None` where that is not known. Less than what is resident:
/// that counts programs' texts, stacks, and free memory between what is held.
pub fn allocated() -> Option<usize> {
    sys::allocated()
}

/// What goes to all destinations alike.
#[derive(Debug)]
pub struct Payload<'a> {
    bytes: &'a [u8],
    segment: usize,
    digests: &'a [Digest],
    most_copies: usize,
    /// Copies with room for a tag behind each datagram, made when they are first needed.
    copies: Vec<u8>,
}

impl<'a> Payload<'a> {
    /// `bytes`, cut into datagrams of `segment` bytes (the last may be shorter). At most [`MAX_SEGMENTS`] of them.
    /// `digests` has one for each, which destinations with a key need; `destinations` is about how many there will be.
    ///
    /// # Panics
    ///
    /// Where `segment` is 0.
    pub fn new(
        bytes: &'a [u8],
        segment: usize,
        digests: &'a [Digest],
        destinations: usize,
    ) -> Self {
        let most_copies = (destinations / DESTINATIONS_EACH).clamp(LEAST_COPIES, COPIES);
        let payload = Self { bytes, segment, digests, most_copies, copies: Vec::new() };
        debug_assert!(payload.datagrams() <= MAX_SEGMENTS);
        payload
    }

    /// Bytes without tags.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many datagrams there are.
    fn datagrams(&self) -> usize {
        self.bytes.len().div_ceil(self.segment)
    }

    /// Each datagram on its own.
    fn apart(&self) -> impl Iterator<Item = Self> + use<'a> {
        let Self { bytes, segment, digests, most_copies, .. } = *self;
        bytes.chunks(segment).enumerate().map(move |(at, bytes)| {
            let digests = digests.get(at..=at).unwrap_or_default();
            Self { bytes, segment, digests, most_copies, copies: Vec::new() }
        })
    }

    /// Writes each destination's tags into a copy of its own; there are as many as one call serves. Returns the
    /// copies, one behind the other, and the length of each. `None` where there is nothing to make tags of.
    fn stamp(&mut self, destinations: &[Destination]) -> Option<(&[u8], usize)> {
        if self.digests.len() != self.datagrams() {
            return None;
        }
        let each = self.bytes.len() + self.datagrams() * TAG;
        if self.copies.capacity() == 0 {
            self.copies = ROOM.take();
        }
        self.copies.reserve((destinations.len() * each).saturating_sub(self.copies.len()));
        while self.copies.len() < destinations.len() * each {
            for datagram in self.bytes.chunks(self.segment) {
                self.copies.extend_from_slice(datagram);
                self.copies.extend_from_slice(&[0; TAG]);
            }
        }
        let mut tags = [0; MAX_SEGMENTS * TAG];
        let tags = &mut tags[..self.digests.len() * TAG];
        for (destination, copy) in destinations.iter().zip(self.copies.chunks_exact_mut(each)) {
            destination.tags.as_ref()?.write(self.digests, tags);
            let datagrams = copy.chunks_mut(self.segment + TAG);
            for (datagram, tag) in datagrams.zip(tags.chunks_exact(TAG)) {
                let behind = datagram.len() - TAG;
                datagram[behind..].copy_from_slice(tag);
            }
        }
        Some((&self.copies, each))
    }
}

/// How long a full send buffer is waited for before what remains of a slice is dropped: a live stream gains
/// nothing from packets that wait longer.
pub const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// Messages in a row that the kernel refuses to segment, and takes in pieces, before it is not asked any
/// more.
const MOST_REFUSALS: u32 = 16;

impl Drop for Payload<'_> {
    fn drop(&mut self) {
        if self.copies.capacity() > 0 {
            self.copies.clear();
            ROOM.set(std::mem::take(&mut self.copies));
        }
    }
}

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

/// Where a burst goes: a socket address in the form that the socket's family needs, the socket
/// that it leaves by where that is not the sender's own, and the key of the tags that belong there.
#[derive(Debug, Clone)]
pub struct Destination {
    address: socket2::SockAddr,
    via: Option<Arc<UdpSocket>>,
    tags: Option<Arc<TagKey>>,
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
        Self { address: address.into(), via: None, tags: None }
    }

    /// The same destination by another socket of the same family.
    pub fn via(self, socket: Arc<UdpSocket>) -> Self {
        Self { via: Some(socket), ..self }
    }

    /// The same destination, each datagram to it with a tag behind it.
    pub fn tagged(self, key: Arc<TagKey>) -> Self {
        Self { tags: Some(key), ..self }
    }

    /// Whether tags belong there, which need digests.
    pub fn is_tagged(&self) -> bool {
        self.tags.is_some()
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        let address = self.address.as_socket();
        canonical(address.expect("made of a socket address"))
    }

    /// Whether one call may serve both.
    fn leaves_as(&self, other: &Self) -> bool {
        if self.is_tagged() != other.is_tagged() {
            return false;
        }
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

    /// Sends a payload to every destination. Never blocks for long, never fails as a whole: what one destination
    /// does to its message costs the others nothing.
    pub fn send(&self, payload: &mut Payload<'_>, destinations: &[Destination]) -> Sent {
        self.send_until(Instant::now() + LONGEST_WAIT, payload, destinations)
    }

    /// As [`Self::send`], where a full send buffer is waited for until then.
    pub fn send_until(
        &self,
        deadline: Instant,
        payload: &mut Payload<'_>,
        destinations: &[Destination],
    ) -> Sent {
        let mut sent = Sent::default();
        self.send_messages(payload, destinations, deadline, &mut sent);
        sent
    }

    /// One message to each destination, or one for each datagram where the kernel does not segment.
    fn send_messages(
        &self,
        payload: &mut Payload<'_>,
        mut destinations: &[Destination],
        deadline: Instant,
        sent: &mut Sent,
    ) {
        let datagrams = payload.datagrams() as u64;
        while let Some((first, others)) = destinations.split_first() {
            if datagrams > 1 && !self.offload() {
                for mut datagram in payload.apart() {
                    self.send_messages(&mut datagram, destinations, deadline, sent);
                }
                return;
            }
            let tags = if first.is_tagged() { TAG * payload.datagrams() } else { 0 };
            let most = if tags > 0 { payload.most_copies } else { sys::BATCH };
            let run = destinations.iter().take(most.min(sys::BATCH));
            let run = run.take_while(|destination| destination.leaves_as(first)).count();
            let socket = first.via.as_deref().unwrap_or(&self.socket);
            match sys::send(socket, payload, &destinations[..run]) {
                Ok(messages) => {
                    sent.datagrams += datagrams * messages as u64;
                    sent.bytes += ((payload.bytes.len() + tags) * messages) as u64;
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
                    self.send_apart(payload, first, deadline, sent);
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
        payload: &Payload<'_>,
        destination: &Destination,
        deadline: Instant,
        sent: &mut Sent,
    ) {
        let before = sent.datagrams;
        for mut datagram in payload.apart() {
            let only = std::slice::from_ref(destination);
            self.send_messages(&mut datagram, only, deadline, sent);
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

    use super::{COPIES, Destination, Payload, TAG};

    /// Messages in one system call: enough to hide its cost, few enough for the stack.
    pub(super) const BATCH: usize = 128;

    /// Room for one control message of two bytes, aligned as a `cmsghdr`.
    #[repr(C)]
    union Control {
        header: libc::cmsghdr,
        bytes: [u8; 64],
    }

    /// What the kernel reads of some memory. The pointer is not written through.
    fn piece(bytes: &[u8]) -> libc::iovec {
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
    }

    /// Hands one message for each of the first destinations to the kernel. Returns how many it took. Either all
    /// destinations have tags or none.
    pub(super) fn send(
        socket: &UdpSocket,
        payload: &mut Payload<'_>,
        destinations: &[Destination],
    ) -> io::Result<usize> {
        let (bytes, segment) = (payload.bytes, payload.segment);
        let is_tagged = destinations.first().is_some_and(Destination::is_tagged);
        let count = destinations.len().min(if is_tagged { COPIES } else { BATCH });
        let destinations = &destinations[..count];
        // One for all, or one for each.
        let mut pieces = [piece(bytes); COPIES];
        if is_tagged {
            let untaggable = io::Error::from(io::ErrorKind::InvalidInput);
            let (copies, each) = payload.stamp(destinations).ok_or(untaggable)?;
            for (piece_of_it, copy) in pieces.iter_mut().zip(copies.chunks_exact(each)) {
                *piece_of_it = piece(copy);
            }
        }
        let step = usize::from(is_tagged);
        let mut control = Control { bytes: [0; 64] };
        let on_wire = if is_tagged { segment + TAG } else { segment };
        let control_length =
            if bytes.len() > segment { segment_size(&mut control, on_wire) } else { 0 };
        let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
        for (at, (message, destination)) in messages.iter_mut().zip(destinations).enumerate() {
            // SAFETY: `mmsghdr` is a plain C structure for which all zeros are a legal value.
            let message = message.write(unsafe { mem::zeroed() });
            let header = &mut message.msg_hdr;
            header.msg_name = destination.address.as_ptr().cast_mut().cast();
            header.msg_namelen = destination.address.len();
            header.msg_iov = &raw mut pieces[at * step];
            header.msg_iovlen = 1;
            if control_length > 0 {
                header.msg_control = (&raw mut control).cast();
                header.msg_controllen = control_length as _;
            }
        }
        // SAFETY: the first `count` messages were written, and point to destinations, pieces of the payload and its copies, and
        // control that live until the call returns; the kernel only reads them, and writes `msg_len` of each message.
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

    /// Other C libraries have one heap anyway.
    pub(super) fn share_heap() {
        #[cfg(target_env = "gnu")]
        // SAFETY: sets a number, under the library's own lock.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }

    pub(super) fn trim_heap() {
        #[cfg(target_env = "gnu")]
        // SAFETY: touches free memory alone, under the library's own lock.
        unsafe {
            libc::malloc_trim(0);
        }
    }

    #[cfg(target_env = "gnu")]
    pub(super) fn allocated() -> Option<usize> {
        // SAFETY: reads counters, under the library's own lock.
        let counters = unsafe { libc::mallinfo2() };
        Some(counters.uordblks + counters.hblkhd)
    }

    #[cfg(not(target_env = "gnu"))]
    pub(super) fn allocated() -> Option<usize> {
        None
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

    use super::{Destination, Payload};

    pub(super) const BATCH: usize = 1;

    /// Heaps are not known to be a matter here.
    pub(super) fn share_heap() {}

    pub(super) fn trim_heap() {}

    pub(super) fn allocated() -> Option<usize> {
        None
    }

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
        payload: &mut Payload<'_>,
        destinations: &[Destination],
    ) -> io::Result<usize> {
        let first = &destinations[..1];
        let untaggable = io::Error::from(io::ErrorKind::InvalidInput);
        let address = first[0].address.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
        if first[0].is_tagged() {
            let (copies, each) = payload.stamp(first).ok_or(untaggable)?;
            return socket.send_to(&copies[..each], address).map(|_| 1);
        }
        socket.send_to(payload.bytes, address).map(|_| 1)
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
    use zeroize::Zeroizing;

    use super::*;

    /// Without digests.
    fn plain(bytes: &[u8], segment: usize) -> Payload<'_> {
        Payload::new(bytes, segment, &[], 1)
    }

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
        let sent = sender.send(&mut plain(&bytes, 1150), &destinations);
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
        assert_eq!(sender.send(&mut plain(&[7; 300], 100), &destinations).datagrams, 9);
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
        let sent = sender.send(&mut plain(&bytes, 1150), &destinations);
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
            sender.send(&mut plain(&[7; 300], 100), &destinations);
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
        let sent = sender.send(&mut plain(&[7; 300], 100), &destinations);
        assert_eq!((sent.datagrams, sent.failed), (3, 6));
        assert!(sender.offload(), "it says nothing about the others");
        let mut buffer = [0; 200];
        for _ in 0..3 {
            assert_eq!(good.recv(&mut buffer).expect("a datagram"), 100);
        }
    }

    #[test]
    fn each_destination_gets_its_own_tags() {
        let bytes: Vec<u8> = (0..1150 * 3 + 500).map(|at| (at / 7) as u8).collect();
        let digests: Vec<Digest> = bytes.chunks(1150).map(Digest::of).collect();
        for offload in [true, false] {
            let sender = Sender::new(UdpSocket::bind("0.0.0.0:0").expect("bind")).expect("bound");
            if !offload {
                sender.disable_offload();
            }
            let receivers: Vec<_> = (0..70).map(|_| receiver()).collect();
            let keys: Vec<_> =
                (0..70).map(|at| Arc::new(TagKey::new(&Zeroizing::new([at; 16])))).collect();
            let destination = |at: usize| {
                let destination = sender.destination(receivers[at].1);
                // One without a key, amidst the others.
                if at == 40 { destination } else { destination.tagged(Arc::clone(&keys[at])) }
            };
            let destinations: Vec<_> = (0..70).map(destination).collect();
            let sent = sender.send(&mut Payload::new(&bytes, 1150, &digests, 70), &destinations);
            let expected = (70 * bytes.len() + 69 * 4 * TAG) as u64;
            assert_eq!((sent.datagrams, sent.bytes, sent.failed), (280, expected, 0));
            for (at, (socket, _)) in receivers.iter().enumerate() {
                for expected in bytes.chunks(1150) {
                    let mut buffer = [0; 2000];
                    let length = socket.recv(&mut buffer).expect("a datagram");
                    let datagram = &mut buffer[..length];
                    let came = if at == 40 { Some(datagram) } else { keys[at].check(datagram) };
                    assert_eq!(came.as_deref(), Some(expected), "{at}");
                }
            }
            let refused = sender.send(&mut plain(&bytes, 1150), &destinations[..2]);
            assert_eq!(refused.failed, 8, "and nothing without");
        }
    }
}
