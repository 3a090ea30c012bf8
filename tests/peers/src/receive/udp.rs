//! Receivers of bare UDP: a socket for each.

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg};

use super::Counters;
use crate::kind;

/// Datagrams taken in one system call: the packets of an access unit.
const BATCH: usize = 16;

/// Longest datagram.
const DATAGRAM: usize = 2048;

/// Binds a socket for each viewer, and counts what comes on a thread of its own.
pub(super) fn start(first: Ipv4Addr, counters: &Counters) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let mut sockets = Vec::with_capacity(counters.viewers());
    for viewer in 0..counters.viewers() {
        let address = kind::viewer(first, viewer);
        let socket = UdpSocket::bind(address).with_context(|| format!("binding {address}"))?;
        socket.set_nonblocking(true)?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, viewer as u64))?;
        sockets.push(socket);
    }
    let counters = counters.clone();
    thread::spawn(move || {
        if let Err(error) = count(&epoll, &sockets, &counters) {
            eprintln!("bench-peer: the receivers stopped: {error:#}");
            std::process::exit(1);
        }
    });
    Ok(())
}

fn count(epoll: &Epoll, sockets: &[UdpSocket], counters: &Counters) -> Result<()> {
    let mut events = [EpollEvent::empty(); 64];
    let mut buffers = vec![[0; DATAGRAM]; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    loop {
        let ready = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..ready] {
            let viewer = event.data() as usize;
            let descriptor = sockets[viewer].as_raw_fd();
            let mut slices: Vec<_> =
                buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            match recvmmsg(descriptor, &mut headers, slices.iter_mut(), MsgFlags::empty(), None) {
                Ok(datagrams) => counters.add(viewer, datagrams.count() as u64),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
