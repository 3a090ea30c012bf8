//! The bench's own network: a near namespace, where the broadcaster and the rendezvous are, and a far
//! one with the viewers, joined by one veth pair.
//!
//! The kernel runs the receiving half of a veth pair on the sender's processor, within its send call:
//! what it costs to put a packet into a viewer's socket is charged to the sender, to all contenders
//! alike.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::bench::namespaces::{output, tool};

/// The broadcaster's machine.
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Where the viewers are: the benchmarking network (RFC 2544), all of whose addresses are the far end's.
pub(crate) const VIEWERS: &str = "198.18.0.0/16";

/// Where further viewers are.
pub(crate) const MORE_VIEWERS: &str = "198.19.0.0/16";

/// The first viewer's address: its media is never dropped.
const FIRST_VIEWER: &str = "198.18.0.1";

/// Both ends know each other's hardware address, so that nothing waits for ARP. IPv6 is off, as its own
/// messages would be counted.
const SET_UP: &str = r#"
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip netns add far
ip link add near address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:02 netns far
echo 1 > /proc/sys/net/ipv6/conf/near/disable_ipv6
ip netns exec far sh -ec 'echo 1 > /proc/sys/net/ipv6/conf/far/disable_ipv6'
ip address add 198.51.100.1/30 dev near
ip -n far address add 198.51.100.2/30 dev far
ip link set lo up
ip -n far link set lo up
ip link set near up
ip -n far link set far up
ip neighbour replace 198.51.100.2 lladdr 02:00:00:00:00:02 dev near nud permanent
ip -n far neighbour replace 198.51.100.1 lladdr 02:00:00:00:00:01 dev far nud permanent
ip route add 198.18.0.0/15 via 198.51.100.2
ip -n far route add default via 198.51.100.1
ip -n far route add local 198.18.0.0/15 dev lo
"#;

/// The two namespaces, for as long as this process lives.
#[derive(Debug)]
pub(crate) struct Network(());

impl Network {
    /// Joins the namespace that this process is in with a new far one.
    pub(crate) fn new() -> Result<Self> {
        output("setting up the veth pair", tool("sh").args(["-ec", SET_UP]))?;
        Ok(Self(()))
    }

    /// A command that runs in the far namespace.
    pub(crate) fn far(&self, program: &std::path::Path) -> Command {
        let mut command = tool("ip");
        command.args(["netns", "exec", "far"]).arg(program);
        command
    }

    /// Whether the near end takes messages of several datagrams whole, as a network card does.
    pub(crate) fn set_offload(&self, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        let mut ethtool = tool("ethtool");
        ethtool.args(["-K", "near", "tx-udp-segmentation", state]);
        output("setting the segmentation offload", &mut ethtool).map(drop)
    }

    /// Whether media ends at the far interface, but for the first viewer's: STUN and QUIC pass.
    pub(crate) fn drop_media(&self, drops: bool) -> Result<()> {
        // RFC 7983: the first byte of the payload, which follows the UDP header's eight.
        let chain = format!(
            "table netdev bench {{\nchain media {{\n\
             type filter hook ingress device \"far\" priority 0\n\
             ip daddr != {FIRST_VIEWER} meta l4proto udp @th,64,8 128-191 drop\n}}\n}}\n"
        );
        let rules = format!(
            "table netdev bench\ndelete table netdev bench\n{}",
            if drops { &chain } else { "" }
        );
        let mut nft = self.far(std::path::Path::new("nft"));
        output("dropping media", nft.arg(rules)).map(drop)
    }

    /// Bytes that came to the far end, headers of all layers included: the same whether a message
    /// crosses whole or cut, but for the headers.
    pub(crate) fn arrived(&self) -> Result<u64> {
        let mut show = tool("ip");
        show.args(["-n", "far", "-statistics", "-json", "link", "show", "far"]);
        let listing: Value = serde_json::from_str(&output("reading the counters", &mut show)?)
            .context("ip's listing is no JSON")?;
        let bytes = listing[0]["stats64"]["rx"]["bytes"].as_u64();
        bytes.with_context(|| format!("ip lists no counters: {listing}"))
    }

    /// Datagrams for which a viewer's socket had no room.
    pub(crate) fn overflowed(&self) -> Result<u64> {
        let mut cat = self.far(std::path::Path::new("cat"));
        let counters = output("reading the counters", cat.arg("/proc/net/snmp"))?;
        udp_counter(&counters, "RcvbufErrors").context("no RcvbufErrors")
    }
}

/// A counter of /proc/net/snmp: a line of names, and one of values.
fn udp_counter(counters: &str, name: &str) -> Option<u64> {
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let place = lines.next()?.split(' ').position(|column| column == name)?;
    lines.next()?.split(' ').nth(place)?.parse().ok()
}
