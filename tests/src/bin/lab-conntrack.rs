//! Empties the connection table of the network namespace it runs in, as `conntrack -F` does.

use std::os::fd::AsRawFd;

use anyhow::{Context, bail};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_DELETE of linux/netfilter/nfnetlink*.h; without a
/// connection named, all are deleted.
const DELETE_CONNECTIONS: u16 = (1 << 8) | 2;
/// NLM_F_REQUEST and NLM_F_ACK.
const REQUEST_WITH_ANSWER: u16 = 1 | 4;
/// NLMSG_ERROR, which also carries success, as error number 0.
const OUTCOME: u16 = 2;

fn main() -> anyhow::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::NetlinkNetFilter,
    )
    .context("opening a netfilter socket")?;
    let mut request = Vec::new();
    // nlmsghdr (length, type, flags, sequence, port) and nfgenmsg (any family, version, resource).
    request.extend(20_u32.to_ne_bytes());
    request.extend(DELETE_CONNECTIONS.to_ne_bytes());
    request.extend(REQUEST_WITH_ANSWER.to_ne_bytes());
    request.extend([0; 12]);
    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())
        .context("asking to empty the connection table")?;
    let mut answer = [0; 256];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())
        .context("waiting for an answer")?;
    match answer[..length] {
        [_, _, _, _, kind_0, kind_1, _, _, _, _, _, _, _, _, _, _, e0, e1, e2, e3, ..]
            if u16::from_ne_bytes([kind_0, kind_1]) == OUTCOME =>
        {
            match i32::from_ne_bytes([e0, e1, e2, e3]) {
                0 => Ok(()),
                error => bail!("the kernel refused with error {}", -error),
            }
        }
        _ => bail!("expected an outcome, got {:?}", &answer[..length]),
    }
}
