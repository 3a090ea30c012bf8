//! The least that can be done: a loop that hands ready bytes to the kernel.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, ensure};
use protocol::size::MAX_SOURCE_PACKET;
use tests::bench::MessageLoop;

use super::{Cost, Task};
use crate::stream;

pub(super) fn run(task: &Task) -> Result<Cost> {
    let units = stream::sealed(task.all_units())?;
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let mut messages = MessageLoop::new(any, stream::viewers(task.viewers))?;
    let segment = u16::try_from(MAX_SOURCE_PACKET)?;
    let began = task.play(units, |_, unit| {
        ensure!(unit.len() == stream::UNIT_PACKETS, "an access unit of {} packets", unit.len());
        messages.send(unit.bytes(), segment)
    })?;
    task.cost_since(began)
}
