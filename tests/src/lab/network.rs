//! Building the network: the core, what is attached to it, and what is behind routers.

use std::{
    collections::HashSet,
    env,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
};

use super::{
    error::{Doing, LabError, Result},
    keeper::Keeper,
    link::{self, End, Forwarder, Link, mac},
    nat::Nat,
    node::{Host, Node},
    router::{Router, Upstream, Wan},
};

/// Sets the seed of all chances in a lab, to see a run again.
const SEED_VARIABLE: &str = "LAB_SEED";

/// Namespace of the core, a name that no node may have.
const CORE: &str = "core";

/// The longest interface name of Linux is 15 bytes; ours end in a number.
const LONGEST_NAME: usize = 40;

/// Run in each new namespace: loopback up, no reverse path filter, and no word to hosts about
/// shorter ways.
const PREPARE: &str = "\
ip link set lo up
for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $file; done
for file in /proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 > $file; done
file=/proc/sys/net/bridge/bridge-nf-call-iptables
if [ -e $file ]; then echo 0 > $file; fi
";

/// And in those that forward.
const PREPARE_FORWARDING: &str = "echo 1 > /proc/sys/net/ipv4/ip_forward\n";

/// Run where there is to be no IPv6, so that it does not chatter either.
const PREPARE_IPV4_ONLY: &str =
    "for file in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > $file; done\n";

/// Run where there is to be IPv6: addresses are given, not found, and work at once.
const PREPARE_IPV6: &str = "\
for folder in /proc/sys/net/ipv6/conf/*; do
for setting in disable_ipv6 accept_ra autoconf accept_dad dad_transmits router_solicitations accept_redirects; do
echo 0 > $folder/$setting
done
done
";
const PREPARE_IPV6_FORWARDING: &str = "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding\n";

/// A network in namespaces of its own. Dropping it ends all its processes.
#[derive(Debug)]
pub struct Lab {
    keeper: Arc<Keeper>,
    core: Node,
    seed: u64,
    dual_stack: bool,
    names: HashSet<String>,
    /// Things attached to the core so far.
    attached: u8,
    /// LANs so far.
    lans: u8,
}

/// A new node on its upstream network.
struct Attached {
    node: Node,
    address: Ipv4Addr,
    prefix_length: u8,
    ipv6_address: Option<Ipv6Addr>,
}

/// Where a new node's traffic goes.
struct Gate<'a> {
    namespace: &'a str,
    /// The upper end of the node's link.
    port: &'a str,
    /// The interface that has the gateway's address: the port, or the bridge it belongs to.
    interface: &'a str,
    address: Ipv4Addr,
    ipv6_address: Option<Ipv6Addr>,
}

impl Lab {
    /// A lab with only a core. Its seed is taken from `LAB_SEED`, or by chance, and is written to
    /// standard error.
    pub fn new() -> Result<Self> {
        Self::make(seed()?, false)
    }

    /// As [`Lab::new`], but every node has IPv6 as well. Addresses are 2001:db8:0:NETWORK::/64
    /// towards the core and 2001:db8:1:LAN::/64 in LANs, whose prefix the routers keep whatever
    /// happens to their external IPv4 address. No router translates IPv6; all but those of
    /// [`Nat::Open`] admit only answers from outside.
    pub fn dual_stack() -> Result<Self> {
        Self::make(seed()?, true)
    }

    /// A lab with only a core and this seed.
    pub fn with_seed(seed: u64) -> Result<Self> {
        Self::make(seed, false)
    }

    fn make(seed: u64, dual_stack: bool) -> Result<Self> {
        let keeper = Arc::new(Keeper::start()?);
        eprintln!("network lab: {SEED_VARIABLE}={seed}, files in {}", keeper.folder().display());
        add_namespace(&keeper, CORE, true, dual_stack)?;
        Ok(Self {
            core: Node::new(keeper.clone(), CORE, "lo", None),
            keeper,
            seed,
            dual_stack,
            names: HashSet::from([CORE.to_owned()]),
            attached: 0,
            lans: 0,
        })
    }

    /// The seed of all chances in this lab.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The router in the middle, which all traffic between public addresses passes.
    pub fn core(&self) -> &Node {
        &self.core
    }

    /// A folder for files of the test; it goes with the lab.
    pub fn folder(&self) -> &Path {
        self.keeper.folder()
    }

    /// A host with a public address, attached to the core.
    pub fn public_host(&mut self, name: &str) -> Result<Host> {
        self.add_public_host(name, None)
    }

    /// A host with a public address behind an impaired link.
    pub fn public_host_with(&mut self, name: &str, link: Link) -> Result<Host> {
        self.add_public_host(name, Some(&link))
    }

    fn add_public_host(&mut self, name: &str, link: Option<&Link>) -> Result<Host> {
        let attached = self.attach_to_core(name, "eth0", link)?;
        Ok(attached.into_host())
    }

    /// A router with a LAN, attached to the core.
    pub fn router(&mut self, name: &str, nat: Nat) -> Result<Router> {
        self.add_router(name, nat, None)
    }

    /// A router with a LAN, attached to the core through an impaired link.
    pub fn router_with(&mut self, name: &str, nat: Nat, link: Link) -> Result<Router> {
        self.add_router(name, nat, Some(&link))
    }

    fn add_router(&mut self, name: &str, nat: Nat, link: Option<&Link>) -> Result<Router> {
        let attached = self.attach_to_core(name, "wan", link)?;
        let upstream = Upstream::Core { node: self.core.clone(), number: self.attached };
        self.make_router(attached, nat, upstream)
    }

    /// A router behind another one, as a home router behind a carrier's.
    pub fn router_behind(&mut self, carrier: &Router, name: &str, nat: Nat) -> Result<Router> {
        if matches!(nat, Nat::AddressOnly { .. }) {
            return Err(LabError::Topology(format!(
                "{name} would need a block of addresses of {}'s LAN: attach it to the core",
                carrier.name()
            )));
        }
        let attached = self.attach_to_lan(carrier, name, "wan", None)?;
        let upstream = Upstream::Lan { router: Box::new(carrier.clone()) };
        self.make_router(attached, nat, upstream)
    }

    fn make_router(&mut self, attached: Attached, nat: Nat, upstream: Upstream) -> Result<Router> {
        self.lans = self.lans.checked_add(1).ok_or_else(too_many)?;
        let wan = Wan {
            address: attached.address,
            prefix_length: attached.prefix_length,
            ipv6_address: attached.ipv6_address,
            upstream,
        };
        Router::set_up(attached.node, wan, nat, self.lans)
    }

    /// A host on the LAN of a router.
    pub fn host_behind(&mut self, router: &Router, name: &str) -> Result<Host> {
        let attached = self.attach_to_lan(router, name, "eth0", None)?;
        Ok(attached.into_host())
    }

    /// A host on the LAN of a router, through an impaired link.
    pub fn host_behind_with(&mut self, router: &Router, name: &str, link: Link) -> Result<Host> {
        let attached = self.attach_to_lan(router, name, "eth0", Some(&link))?;
        Ok(attached.into_host())
    }

    /// Changes the impairments of a node's link towards the core; only for links that were made
    /// with a [`Link`], of which the default does nothing at first.
    pub fn impair(&self, node: &Node, link: &Link) -> Result<()> {
        node.impair(link)
    }

    /// Makes a name lead to a host's addresses, for everything in the lab that is started from now on.
    pub fn name(&self, name: &str, host: &Host) -> Result<()> {
        let ipv6 = host.ipv6_address().map(|address| format!("{address} {name}\n"));
        let lines = format!("{} {name}\n{}", host.address(), ipv6.unwrap_or_default());
        let path = self.folder().join("hosts");
        std::fs::write(&path, lines).doing("writing the lab's names")?;
        let mount = format!("mount --bind {} /etc/hosts", path.display());
        self.keeper.script("naming a host", &mount)
    }

    fn attach_to_core(
        &mut self,
        name: &str,
        interface: &'static str,
        link: Option<&Link>,
    ) -> Result<Attached> {
        self.attached = self.attached.checked_add(1).ok_or_else(too_many)?;
        let port = format!("port{}", self.attached);
        let gateway = Ipv4Addr::new(198, 18, self.attached, 1);
        let ipv6 = |last| {
            let network = u16::from(self.attached);
            self.dual_stack.then(|| Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, last))
        };
        let (ipv6_gateway, ipv6_address) = (ipv6(1), ipv6(2));
        let attached = Attached {
            node: self.add_node(name, interface, &self.core.clone(), &port, link)?,
            address: Ipv4Addr::new(198, 18, self.attached, 2),
            prefix_length: 29,
            ipv6_address,
        };
        let mut set_up = format!(
            "ip -n {CORE} address add {gateway}/29 dev {port}\n\
             ip -n {CORE} link set {port} address {} up\n",
            mac(gateway)
        );
        if let Some(address) = ipv6_gateway {
            set_up += &format!("ip -n {CORE} address add {address}/64 dev {port} nodad\n");
        }
        let gate = Gate {
            namespace: CORE,
            port: &port,
            interface: &port,
            address: gateway,
            ipv6_address: ipv6_gateway,
        };
        self.bring_up(attached, &gate, &set_up)
    }

    fn attach_to_lan(
        &mut self,
        router: &Router,
        name: &str,
        interface: &'static str,
        link: Option<&Link>,
    ) -> Result<Attached> {
        let place = router.take_place()?;
        let attached = Attached {
            node: self.add_node(name, interface, router, &place.port, link)?,
            address: place.address,
            prefix_length: 24,
            ipv6_address: place.ipv6_address,
        };
        let (namespace, port) = (router.name(), place.port.as_str());
        let set_up = format!("ip -n {namespace} link set {port} master lan up\n");
        let gate = Gate {
            namespace,
            port,
            interface: "lan",
            address: place.gateway,
            ipv6_address: place.ipv6_gateway,
        };
        self.bring_up(attached, &gate, &set_up)
    }

    /// Makes a namespace and a link from it to a port of its upstream.
    fn add_node(
        &mut self,
        name: &str,
        interface: &'static str,
        upstream: &Node,
        port: &str,
        link: Option<&Link>,
    ) -> Result<Node> {
        let plain_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if !plain_name || name.is_empty() || name.len() > LONGEST_NAME {
            return Err(LabError::Topology(format!(
                "`{name}` is not a name of up to {LONGEST_NAME} ASCII letters, digits and hyphens"
            )));
        }
        if !self.names.insert(name.to_owned()) {
            return Err(LabError::Topology(format!("there are two nodes called `{name}`")));
        }
        add_namespace(&self.keeper, name, interface == "wan", self.dual_stack)?;
        let lower = End { namespace: name, interface };
        let upper = End { namespace: upstream.name(), interface: port };
        let forwarder = match link {
            None => {
                link::plain(&self.keeper, lower, upper)?;
                None
            }
            Some(link) => {
                let seed = self.seed.wrapping_add(self.names.len() as u64);
                Some(Forwarder::start(&self.keeper, lower, upper, link, seed)?)
            }
        };
        Ok(Node::new(self.keeper.clone(), name, interface, forwarder))
    }

    /// Configures both ends, the upper one by `set_up`, and waits until packets can pass. A node and
    /// its gateway know each other's MAC address from the start, as the first packets of a test
    /// would otherwise wait for ARP, and of a burst only as many as the kernel lets wait.
    fn bring_up(&self, attached: Attached, gate: &Gate<'_>, set_up: &str) -> Result<Attached> {
        let (name, interface) = (attached.node.name(), attached.node.uplink());
        let (address, gateway) = (attached.address, gate.address);
        let script = format!(
            "{set_up}\
             ip -n {name} address add {address}/{} dev {interface}\n\
             ip -n {name} link set {interface} address {} up\n\
             ip -n {name} route add default via {gateway}\n\
             ip -n {name} neighbour replace {gateway} lladdr {} dev {interface}\n\
             ip -n {} neighbour replace {address} lladdr {} dev {}\n\
             {}{}{}",
            attached.prefix_length,
            mac(address),
            mac(gateway),
            gate.namespace,
            mac(address),
            gate.interface,
            attached.bring_up_ipv6(gate),
            wait_until_ready(name, interface),
            wait_until_ready(gate.namespace, gate.port),
        );
        self.keeper.script(&format!("bringing up {name}"), &script)?;
        Ok(attached)
    }
}

impl Attached {
    fn into_host(self) -> Host {
        Host::new(self.node, self.address, self.ipv6_address)
    }

    /// What a dual-stack lab adds to bringing a node up. MAC addresses come from IPv4.
    fn bring_up_ipv6(&self, gate: &Gate<'_>) -> String {
        let (Some(address), Some(gateway)) = (self.ipv6_address, gate.ipv6_address) else {
            return String::new();
        };
        let (name, interface) = (self.node.name(), self.node.uplink());
        format!(
            "ip -n {name} address add {address}/64 dev {interface} nodad\n\
             ip -n {name} route add default via {gateway}\n\
             ip -n {name} neighbour replace {gateway} lladdr {} dev {interface}\n\
             ip -n {} neighbour replace {address} lladdr {} dev {}\n",
            mac(gate.address),
            gate.namespace,
            mac(self.address),
            gate.interface,
        )
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.keeper.end();
    }
}

/// The seed that `LAB_SEED` names, or one by chance.
fn seed() -> Result<u64> {
    match env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().map_err(|_| {
            LabError::Topology(format!("{SEED_VARIABLE} is `{text}`, which is not a 64-bit number"))
        }),
        Err(_) => Ok(rand::random()),
    }
}

fn add_namespace(keeper: &Keeper, name: &str, forwards: bool, dual_stack: bool) -> Result<()> {
    let forwarding = if forwards { PREPARE_FORWARDING } else { "" };
    let ipv6 = if dual_stack { PREPARE_IPV6 } else { PREPARE_IPV4_ONLY };
    let ipv6_forwarding = if forwards && dual_stack { PREPARE_IPV6_FORWARDING } else { "" };
    let prepare = [PREPARE, forwarding, ipv6, ipv6_forwarding].concat();
    let script = format!("ip netns add {name}\nip netns exec {name} sh -ec '{prepare}'");
    keeper.script(&format!("making {name}"), &script)
}

/// The kernel gives an interface its queue some time after the other end has come up; until then
/// everything sent is dropped.
fn wait_until_ready(namespace: &str, interface: &str) -> String {
    format!(
        "tries=0\n\
         while ip -n {namespace} link show dev {interface} | grep -q 'qdisc noop '; do\n\
         tries=$((tries + 1)); [ $tries -lt 2000 ] || exit 1\n\
         done\n"
    )
}

fn too_many() -> LabError {
    LabError::Topology("a lab has room for 255 routers and public hosts".to_owned())
}
