//! The bench's own network: a near namespace, where the contenders run, and a far one, joined by
//! one veth pair. The near end addresses its frames to a machine that is not there, so that the
//! far end counts them and drops them in the first lines of its IP layer.
//!
//! The kernel runs the receiving half of a veth pair on the sender's processor, within its send
//! call, so that what little the far end does is charged to the sender: to all contenders alike.

use std::net::Ipv4Addr;
use std::ops::Sub;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tests::bench::namespaces::{output, tool};

/// Ethernet, IPv4 and UDP headers of one message to the kernel, whole as it crosses a veth pair.
const HEADERS: u64 = 14 + 20 + 8;

/// One neighbour leads to all viewers, as a gateway does. IPv6 is off, as its own messages would
/// be counted.
const SET_UP: &str = r#"
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip netns add far
ip link add near type veth peer name far netns far
echo 1 > /proc/sys/net/ipv6/conf/near/disable_ipv6
ip netns exec far sh -ec 'echo 1 > /proc/sys/net/ipv6/conf/far/disable_ipv6'
ip address add 10.77.0.1/30 dev near
ip link set lo up
ip link set near up
ip -n far link set far up
ip neighbour replace 10.77.0.2 lladdr 02:00:00:00:00:99 dev near nud permanent
ip route add 198.18.0.0/15 via 10.77.0.2
"#;

/// The two namespaces, for as long as this process lives.
#[derive(Debug)]
pub(crate) struct Network(());

impl Network {
    /// Joins the namespace that this process is in with a new far one.
    pub(crate) fn new() -> Result<Self> {
        output("setting up the veth pair", tool("sh").args(["-ec", SET_UP]))?;
        let network = Self(());
        network.check()?;
        Ok(network)
    }

    /// What the far end has counted.
    pub(crate) fn arrived(&self) -> Result<Arrived> {
        let mut show = tool("ip");
        show.args(["-n", "far", "-statistics", "-json", "link", "show", "far"]);
        let listing: Value = serde_json::from_str(&output("reading the counters", &mut show)?)
            .context("ip's listing is no JSON")?;
        let number = |name: &str| listing[0]["stats64"]["rx"][name].as_u64();
        match (number("packets"), number("bytes")) {
            (Some(messages), Some(bytes)) => Ok(Arrived { messages, bytes }),
            _ => bail!("ip lists no counters: {listing}"),
        }
    }

    /// Fails where the veth pair does not carry what the bench sends.
    fn check(&self) -> Result<()> {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let expected = Arrived { messages: 1, bytes: 100 + HEADERS };
        let before = self.arrived()?;
        socket.send_to(&[0; 100], (Ipv4Addr::new(198, 18, 0, 1), 9)).context("the near end")?;
        let arrived = self.arrived()? - before;
        if arrived != expected {
            bail!("the veth pair does not deliver: {arrived:?}, expected {expected:?}");
        }
        Ok(())
    }
}

/// What came to the far end. A message that the kernel would segment only later counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrived {
    messages: u64,
    bytes: u64,
}

impl Arrived {
    /// Bytes of UDP payload: the same however the sender cut and grouped its datagrams.
    pub(crate) fn payload_bytes(self) -> u64 {
        self.bytes - HEADERS * self.messages
    }
}

impl Sub for Arrived {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { messages: self.messages - before.messages, bytes: self.bytes - before.bytes }
    }
}
