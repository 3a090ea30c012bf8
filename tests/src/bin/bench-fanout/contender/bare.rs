//! The least that can be done: a loop that hands ready bytes to the kernel.

use std::io::IoSlice;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, setsockopt, sockopt::SndBuf,
};
use protocol::size::MAX_SOURCE_PACKET;
use quinn_udp::UdpSocketState;

use super::{Cost, SEND_BUFFER, Task};
use crate::stream;

/// Messages in one system call.
const BATCH: usize = 128;

pub(super) fn run(task: &Task) -> Result<Cost> {
    let units = stream::sealed(task.all_units())?;
    let viewers: Vec<Option<SockaddrIn>> =
        stream::viewers(task.viewers).map(|address| Some(address.into())).collect();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    setsockopt(&socket, SndBuf, &SEND_BUFFER)?;
    // The options of the broadcaster's socket: "don't fragment" alone saves several percent.
    UdpSocketState::new((&socket).into())?;
    socket.set_nonblocking(false)?;
    let descriptor = socket.as_raw_fd();
    let segment = u16::try_from(MAX_SOURCE_PACKET)?;
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, Some(cmsg_space!(u16)));
    let began = task.play(units, |_, unit| {
        ensure!(unit.len() == stream::UNIT_PACKETS, "an access unit of {} packets", unit.len());
        let payload = [IoSlice::new(unit.bytes())];
        for batch in viewers.chunks(BATCH) {
            let payloads = std::iter::repeat_n(&payload, batch.len());
            // A short count would show at the far end, where all bytes are counted.
            sendmmsg(descriptor, &mut headers, payloads, batch, control, MsgFlags::empty())
                .context("sendmmsg")?;
        }
        Ok(())
    })?;
    task.cost_since(began)
}
