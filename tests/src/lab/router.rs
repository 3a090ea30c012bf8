//! Routers, and what a test can do to them while they run.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    build::binary,
    error::{LabError, Result},
    link::mac,
    nat::Nat,
    node::Node,
};

/// Last byte of the first host's address in each LAN.
const FIRST_HOST: u8 = 10;

/// The last external address that the router's network with the core has room for.
const LAST_EXTERNAL: u8 = 6;

/// First bytes of the external addresses of routers with port mapping, in place of 198.18: miniupnpd maps nothing where it takes its external
/// address for a reserved one, as all of 198.18.0.0/15 are. These are nobody's on the Internet.
const EXTERNAL_MAPPABLE: [u8; 2] = [11, 18];

/// Drops UDP in both directions, before anything else sees it.
const DROP_UDP: &str = "\
table inet outage
delete table inet outage
table inet outage {
  chain prerouting {
    type filter hook prerouting priority raw - 10
    meta l4proto udp drop
  }
}
";
const PASS_UDP: &str = "table inet outage\ndelete table inet outage\n";

/// Drops UDP while a router forgets: a packet in between would have what is forgotten first learned
/// again from what is forgotten last.
const RESTART: &str = "\
table inet restart
delete table inet restart
table inet restart {
  chain prerouting {
    type filter hook prerouting priority raw - 20
    meta l4proto udp drop
  }
}
";
const END_RESTART: &str = "table inet restart\ndelete table inet restart\n";

/// A router with a LAN behind it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Router {
    node: Node,
    upstream: Upstream,
    ipv6_address: Option<Ipv6Addr>,
    lan: Lan,
    state: Arc<Mutex<State>>,
}

/// What a router is attached to.
#[derive(Clone, Debug)]
pub(crate) enum Upstream {
    /// The core, on the network of that number.
    Core { node: Node, number: u8 },
    /// The LAN of another router.
    Lan { router: Box<Router> },
}

/// A new router's place outside.
pub(crate) struct Wan {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix_length: u8,
    pub(crate) ipv6_address: Option<Ipv6Addr>,
    pub(crate) upstream: Upstream,
}

#[derive(Clone, Copy, Debug)]
struct Lan {
    number: u8,
    public: bool,
}

#[derive(Debug)]
struct State {
    nat: Nat,
    external_address: Ipv4Addr,
    prefix_length: u8,
    hosts: u8,
}

/// Where a new node goes in a LAN.
pub(crate) struct Place {
    pub(crate) port: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) ipv6_address: Option<Ipv6Addr>,
    pub(crate) ipv6_gateway: Option<Ipv6Addr>,
}

impl Upstream {
    fn node(&self) -> &Node {
        match self {
            Self::Core { node, .. } => node,
            Self::Lan { router } => router,
        }
    }
}

impl Lan {
    /// Private, or, where nothing is translated, public.
    fn address(self, last: u8) -> Ipv4Addr {
        if self.public {
            Ipv4Addr::new(198, 19, self.number, last)
        } else {
            Ipv4Addr::new(192, 168, self.number, last)
        }
    }

    fn prefix(self) -> String {
        format!("{}/24", self.address(0))
    }

    fn ipv6_address(self, last: u8) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 1, self.number.into(), 0, 0, 0, last.into())
    }
}

impl Router {
    pub(crate) fn set_up(node: Node, wan: Wan, nat: Nat, lan_number: u8) -> Result<Self> {
        let Wan { address: external_address, prefix_length, ipv6_address, upstream } = wan;
        let lan = Lan { number: lan_number, public: nat.has_public_lan() };
        let name = node.name();
        let mut make_lan = format!(
            "ip -n {name} link add lan address {} type bridge\n\
             ip -n {name} address add {}/24 dev lan\n\
             ip -n {name} link set lan up\n",
            mac(lan.address(1)),
            lan.address(1)
        );
        if ipv6_address.is_some() {
            let address = lan.ipv6_address(1);
            make_lan += &format!("ip -n {name} address add {address}/64 dev lan nodad\n");
        }
        node.keeper().script(&format!("making the LAN of {name}"), &make_lan)?;
        let state = State { nat, external_address, prefix_length, hosts: 0 };
        let state = Arc::new(Mutex::new(state));
        let router = Self { node, upstream, ipv6_address, lan, state };
        router.apply(nat)?;
        router.route_inwards(nat, external_address)?;
        router.route_ipv6_inwards(&format!("{}/64", lan.ipv6_address(0)))?;
        Ok(router)
    }

    /// The address that it has outside now. Behind another router that is a private one.
    pub fn external_address(&self) -> Ipv4Addr {
        self.state().external_address
    }

    /// Its IPv6 address outside, in a [dual-stack](super::Lab::dual_stack) lab.
    pub fn external_ipv6_address(&self) -> Option<Ipv6Addr> {
        self.ipv6_address
    }

    /// Its address in its LAN.
    pub fn lan_address(&self) -> Ipv4Addr {
        self.lan.address(1)
    }

    /// Changes how it maps and filters, and forgets all mappings. The LAN keeps its addresses, so
    /// this does not lead from kinds that translate to those that do not, or back.
    pub fn set_nat(&self, nat: Nat) -> Result<()> {
        if nat.has_public_lan() != self.lan.public {
            return Err(LabError::Topology(format!(
                "{}'s LAN would need other addresses for {nat:?}: make another router",
                self.name()
            )));
        }
        self.apply(nat)?;
        self.route_inwards(nat, self.external_address())?;
        self.state().nat = nat;
        self.flush_mappings()
    }

    /// Forgets all mappings, as after a restart; no UDP passes meanwhile.
    pub fn flush_mappings(&self) -> Result<()> {
        self.configure("stopping UDP", &["nft", "-f", "-"], RESTART)?;
        let flush = binary("lab-conntrack")?;
        self.configure("flushing the connection table", &[&flush.display().to_string()], "")?;
        // Replacing the rules empties the maps that some kinds keep.
        let nat = self.state().nat;
        self.apply(nat)?;
        self.configure("letting UDP pass again", &["nft", "-f", "-"], END_RESTART).map(drop)
    }

    /// Gives it another external address, as a provider does over night; all mappings are gone.
    pub fn change_external_address(&self) -> Result<Ipv4Addr> {
        if let Upstream::Lan { .. } = &self.upstream {
            return Err(LabError::Topology(format!(
                "{} has a private external address",
                self.name()
            )));
        }
        let [a, b, number, last] = self.external_address().octets();
        let last = match last {
            LAST_EXTERNAL => 2,
            last => last + 1,
        };
        let new = Ipv4Addr::new(a, b, number, last);
        self.take_external_address(new, Ipv4Addr::new(a, b, number, 1))?;
        Ok(new)
    }

    fn take_external_address(&self, new: Ipv4Addr, gateway: Ipv4Addr) -> Result<()> {
        let (old, prefix_length, nat) = {
            let state = self.state();
            (state.external_address, state.prefix_length, state.nat)
        };
        let name = self.name();
        // Without any address the interface would lose its routes, so the default route comes last.
        let change = format!(
            "ip -n {name} address del {old}/{prefix_length} dev wan\n\
             ip -n {name} address add {new}/{prefix_length} dev wan\n\
             ip -n {name} route replace default via {gateway}"
        );
        self.keeper().script(&format!("changing the address of {name}"), &change)?;
        self.route_inwards(nat, new)?;
        self.state().external_address = new;
        self.flush_mappings()
    }

    /// Moves a router that is attached to the core to an address that port mapping works with, if it
    /// has none yet.
    pub(crate) fn take_mappable_address(&self) -> Result<()> {
        let old = self.external_address();
        let Upstream::Core { node, number } = &self.upstream else {
            return Ok(());
        };
        let [a, b] = EXTERNAL_MAPPABLE;
        if old.octets().starts_with(&EXTERNAL_MAPPABLE) {
            return Ok(());
        }
        let gateway = Ipv4Addr::new(a, b, *number, 1);
        let prefix = format!("{gateway}/{}", self.state().prefix_length);
        let port = format!("port{number}");
        let words = ["ip", "address", "add", &prefix, "dev", &port];
        node.configure("adding an address", &words, "")?;
        self.take_external_address(Ipv4Addr::new(a, b, *number, old.octets()[3]), gateway)
    }

    /// Drops all UDP from now on, or lets it pass again.
    pub fn block_udp(&self, blocked: bool) -> Result<()> {
        let rules = if blocked { DROP_UDP } else { PASS_UDP };
        self.configure("changing the fate of UDP", &["nft", "-f", "-"], rules).map(drop)
    }

    /// How long a mapping lives without packets: while only one side has sent, and after both have.
    /// Whole seconds; for packets from now on.
    pub fn set_udp_timeouts(&self, one_sided: Duration, both: Duration) -> Result<()> {
        let folder = "/proc/sys/net/netfilter";
        let script = format!(
            "echo {} > {folder}/nf_conntrack_udp_timeout\n\
             echo {} > {folder}/nf_conntrack_udp_timeout_stream",
            one_sided.as_secs(),
            both.as_secs()
        );
        self.configure("setting UDP timeouts", &["sh", "-ec", &script], "").map(drop)
    }

    /// Limits what it sends towards the core, with a queue in the kernel. Lost is what would wait
    /// longer than `longest_wait`.
    pub fn limit_uplink(&self, bits_per_second: u64, longest_wait: Duration) -> Result<()> {
        let rate = format!("{bits_per_second}bit");
        let latency = format!("{}us", longest_wait.as_micros());
        let words = ["tc", "qdisc", "replace", "dev", "wan", "root", "tbf"];
        let limits = ["rate", &rate, "burst", "16kb", "latency", &latency];
        self.configure("limiting the uplink", &[&words[..], &limits[..]].concat(), "").map(drop)
    }

    /// The next free place in the LAN.
    pub(crate) fn take_place(&self) -> Result<Place> {
        let mut state = self.state();
        let last = FIRST_HOST.checked_add(state.hosts).filter(|last| *last < u8::MAX);
        let Some(last) = last else {
            return Err(LabError::Topology(format!("the LAN of {} is full", self.name())));
        };
        state.hosts += 1;
        let ipv6 = |last| self.ipv6_address.map(|_| self.lan.ipv6_address(last));
        Ok(Place {
            port: format!("port{last}"),
            address: self.lan.address(last),
            gateway: self.lan.address(1),
            ipv6_address: ipv6(last),
            ipv6_gateway: ipv6(1),
        })
    }

    fn apply(&self, nat: Nat) -> Result<()> {
        let mut rules = nat.rules(&self.lan.prefix(), self.external_address());
        if self.ipv6_address.is_some() {
            rules += &nat.ipv6_rules();
        }
        self.configure(&format!("applying {nat:?}"), &["nft", "-f", "-"], &rules).map(drop)
    }

    /// Tells the upstream what is behind the router where that has addresses of its own outside.
    fn route_inwards(&self, nat: Nat, via: Ipv4Addr) -> Result<()> {
        let (upstream, prefix) = match (&self.upstream, nat) {
            (Upstream::Core { node, number }, Nat::AddressOnly { .. }) => {
                let [a, b, ..] = via.octets();
                (node, format!("{}/24", Ipv4Addr::new(a, b, *number, 0)))
            }
            (_, nat) if nat.has_public_lan() => (self.upstream.node(), self.lan.prefix()),
            _ => return Ok(()),
        };
        let words = ["ip", "route", "replace", &prefix, "via", &via.to_string()];
        upstream.configure("adding a route", &words, "").map(drop)
    }

    /// Tells everything between the core and this router where an IPv6 prefix behind it is.
    fn route_ipv6_inwards(&self, prefix: &str) -> Result<()> {
        let Some(via) = self.ipv6_address else {
            return Ok(());
        };
        let words = ["ip", "route", "replace", prefix, "via", &via.to_string()];
        self.upstream.node().configure("adding a route", &words, "")?;
        match &self.upstream {
            Upstream::Core { .. } => Ok(()),
            Upstream::Lan { router } => router.route_ipv6_inwards(prefix),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Router {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}
