//! The least that can be done: a loop that hands ready bytes to the kernel.

use std::io::IoSlice;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, setsockopt, sockopt::SndBuf,
};
use quinn_udp::UdpSocketState;

/// Messages in one system call.
pub const BATCH: usize = 128;

/// Size asked of the send buffer, as the broadcaster asks for its socket.
const SEND_BUFFER: usize = 4 << 20;

/// Sends messages to many, one `sendmmsg` for each [`BATCH`] of them.
pub struct MessageLoop {
    socket: UdpSocket,
    /// For messages with a control message, and for those without: one that is left out would go on
    /// from the call before.
    headers: [MultiHeaders<SockaddrIn>; 2],
    to: Vec<Option<SockaddrIn>>,
}

impl MessageLoop {
    /// Sends from `bind` to all of these.
    ///
    /// # Errors
    ///
    /// Where there is no such socket.
    pub fn new(bind: SocketAddrV4, to: impl IntoIterator<Item = SocketAddrV4>) -> Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::V4(bind))?;
        setsockopt(&socket, SndBuf, &SEND_BUFFER)?;
        // The options of the broadcaster's socket: "don't fragment" alone saves several percent.
        UdpSocketState::new((&socket).into())?;
        socket.set_nonblocking(false)?;
        let cut = MultiHeaders::preallocate(BATCH, Some(cmsg_space!(u16)));
        let headers = [cut, MultiHeaders::preallocate(BATCH, None)];
        Ok(Self { socket, headers, to: to.into_iter().map(|to| Some(to.into())).collect() })
    }

    /// Sends `bytes` to all, cut into datagrams of `segment` bytes.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses a message.
    pub fn send(&mut self, bytes: &[u8], segment: u16) -> Result<()> {
        let payload = [IoSlice::new(bytes)];
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let [cut, lone] = &mut self.headers;
        let (headers, control) = match bytes.len() > usize::from(segment) {
            true => (cut, &control[..]),
            false => (lone, &[][..]),
        };
        for batch in self.to.chunks(BATCH) {
            let payloads = std::iter::repeat_n(&payload, batch.len());
            let descriptor = self.socket.as_raw_fd();
            let sent = sendmmsg(descriptor, headers, payloads, batch, control, MsgFlags::empty())
                .context("sendmmsg")?;
            let sent = sent.count();
            ensure!(sent == batch.len(), "the kernel took {sent} of {} messages", batch.len());
        }
        Ok(())
    }
}
