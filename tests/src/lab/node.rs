//! Nodes: what hosts, routers and the core have in common.

use std::{
    env,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Deref,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use super::{
    build::binary,
    capture::Capture,
    error::{Doing, LabError, Result},
    flows::{self, Flow},
    keeper::{Keeper, finish},
    link::{Forwarder, Link},
    process::Process,
};

/// How long a helper program may take to start on a busy machine.
const FIRST_FLOW_TIMEOUT: Duration = Duration::from_secs(20);

/// A network namespace with a name, in which programs run. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    keeper: Arc<Keeper>,
    /// The interface towards the core.
    uplink: &'static str,
    forwarder: Option<Forwarder>,
}

/// What went through an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets received.
    pub packets_received: u64,
    /// Bytes received, Ethernet headers included.
    pub bytes_received: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Bytes sent, Ethernet headers included.
    pub bytes_sent: u64,
}

impl Node {
    pub(crate) fn new(
        keeper: Arc<Keeper>,
        name: &str,
        uplink: &'static str,
        forwarder: Option<Forwarder>,
    ) -> Self {
        let inner = Inner { name: name.to_owned(), keeper, uplink, forwarder };
        Self { inner: Arc::new(inner) }
    }

    /// The name that the test gave it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The interface towards the core: `eth0` in hosts, `wan` in routers.
    pub fn uplink(&self) -> &'static str {
        self.inner.uplink
    }

    /// Starts a program here. Its arguments, environment and working folder are taken from
    /// `command`; standard input is empty, and the outputs go to files. `name` tells the logs apart.
    pub fn spawn(&self, name: &str, command: &Command) -> Result<Process> {
        let name = format!("{}-{name}", self.name());
        let (stdout, stdout_file) = self.keeper().add_log(&format!("{name}.stdout"))?;
        let (stderr, stderr_file) = self.keeper().add_log(&format!("{name}.stderr"))?;
        let mut wrapper = self.wrap(command)?;
        wrapper.stdout(stdout_file).stderr(stderr_file);
        let child = wrapper.spawn().doing(format!("starting {name}"))?;
        Process::adopt(name, child, stdout, stderr)
    }

    /// Runs a program here to its end, which must be a success, and gives its standard output.
    pub fn run(&self, command: &Command) -> Result<String> {
        let what = format!("{} in {}", command.get_program().display(), self.name());
        finish(self.wrap(command)?, &what, "")
    }

    /// The same command, inside this node.
    fn wrap(&self, command: &Command) -> Result<Command> {
        let folder = match command.get_current_dir() {
            Some(folder) => folder.to_owned(),
            None => env::current_dir().doing("finding the working folder")?,
        };
        // Entering the mount namespace moves to its root. `env` then becomes the program, so that
        // signals reach the program itself.
        let mut wrapper = self.keeper().command(Some(self.name()), "env");
        wrapper
            .arg("--chdir")
            .arg(folder)
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapper.env(name, value),
                None => wrapper.env_remove(name),
            };
        }
        Ok(wrapper)
    }

    /// Captures all packets on the uplink, from before this returns until the capture is stopped or
    /// dropped.
    pub fn capture(&self) -> Result<Capture> {
        self.capture_on(self.uplink())
    }

    /// Captures all packets on an interface: `eth0` or `lo` of a host, `wan` or `lan` of a router.
    pub fn capture_on(&self, interface: &str) -> Result<Capture> {
        Capture::start(self, interface)
    }

    /// What has gone through the uplink so far.
    pub fn counters(&self) -> Result<Counters> {
        self.counters_of(self.uplink())
    }

    /// What has gone through an interface so far.
    pub fn counters_of(&self, interface: &str) -> Result<Counters> {
        let table = self.run(Command::new("cat").arg("/proc/net/dev"))?;
        let prefix = format!("{interface}:");
        let line = table.lines().find_map(|line| line.trim().strip_prefix(&prefix));
        let numbers: Vec<u64> = line
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        match numbers[..] {
            // Eight columns about receiving, then eight about sending.
            [bytes_received, packets_received, _, _, _, _, _, _, bytes_sent, packets_sent, ..] => {
                Ok(Counters { packets_received, bytes_received, packets_sent, bytes_sent })
            }
            _ => Err(LabError::Topology(format!("{} has no interface {interface}", self.name()))),
        }
    }

    /// Opens `count` new UDP flows to `target`, `per_second` of them each second, from a port of its
    /// own each, as other users of a NAT would: at most 22,000. The first has been opened when this
    /// returns; the process ends by itself after the last.
    pub fn open_flows(&self, target: SocketAddr, per_second: u32, count: u16) -> Result<Process> {
        let mut probe = Command::new(binary("lab-probe")?);
        probe.args(["flows", &target.to_string(), &per_second.to_string(), &count.to_string()]);
        let process = self.spawn("flows", &probe)?;
        process.wait_for_line(FIRST_FLOW_TIMEOUT, |line| line == "open")?;
        Ok(process)
    }

    /// From now on counts the UDP datagrams that arrive here or pass through, by flow.
    pub fn count_flows(&self) -> Result<()> {
        self.configure("counting flows", &["nft", "-f", "-"], flows::RULES).map(drop)
    }

    /// The flows seen since [`Node::count_flows`].
    pub fn flows(&self) -> Result<Vec<Flow>> {
        let listing = self.configure("reading flows", &flows::LIST, "")?;
        flows::parse(&listing)
    }

    /// Changes the uplink's impairments; only for links that were made with a [`Link`].
    pub fn impair(&self, link: &Link) -> Result<()> {
        match &self.inner.forwarder {
            Some(forwarder) => forwarder.impair(link),
            None => Err(LabError::Topology(format!(
                "the link of {} is a plain one: make it with a Link (Link::default() impairs nothing)",
                self.name()
            ))),
        }
    }

    /// Runs one of the lab's tools here.
    pub(crate) fn configure(&self, what: &str, words: &[&str], input: &str) -> Result<String> {
        let what = format!("{what} in {}", self.name());
        self.keeper().run(self.name(), &what, words, input)
    }

    pub(crate) fn keeper(&self) -> &Keeper {
        &self.inner.keeper
    }
}

/// A machine at the edge: public, or behind a router.
#[derive(Clone, Debug)]
pub struct Host {
    node: Node,
    address: Ipv4Addr,
    ipv6_address: Option<Ipv6Addr>,
}

impl Host {
    pub(crate) fn new(node: Node, address: Ipv4Addr, ipv6_address: Option<Ipv6Addr>) -> Self {
        Self { node, address, ipv6_address }
    }

    /// Its own address, which behind a router is usually a private one.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its IPv6 address, the same for everybody, in a [dual-stack](super::Lab::dual_stack) lab.
    pub fn ipv6_address(&self) -> Option<Ipv6Addr> {
        self.ipv6_address
    }

    /// Gives a public host a second address, the one after its first, as a server that tells
    /// filtering by address needs it.
    pub fn add_address(&self) -> Result<Ipv4Addr> {
        let [a, b, c, d] = self.address.octets();
        let second = Ipv4Addr::new(a, b, c, d + 1);
        let with_length = format!("{second}/29");
        let words = ["ip", "address", "add", &with_length, "dev", self.uplink()];
        self.configure("adding an address", &words, "")?;
        Ok(second)
    }

    /// Gives a public host a whole network besides, as in `198.19.0.0/16`: programs here may bind to any
    /// address of it. `core` is the lab's.
    pub fn add_network(&self, core: &Node, network: &str) -> Result<()> {
        let local = ["ip", "route", "add", "local", network, "dev", "lo"];
        self.configure("adding a network", &local, "")?;
        let address = self.address.to_string();
        let way = ["ip", "route", "add", network, "via", &address];
        core.configure("routing a network", &way, "").map(drop)
    }
}

impl Deref for Host {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}
