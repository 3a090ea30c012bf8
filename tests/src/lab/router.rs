//! Routers, and what a test can do to them while they run.

use std::{
    net::Ipv4Addr,
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

/// Drops UDP in both directions, before anything else sees it.
const DROP_UDP: &str = "\
table ip outage
delete table ip outage
table ip outage {
  chain prerouting {
    type filter hook prerouting priority raw - 10
    meta l4proto udp drop
  }
}
";
const PASS_UDP: &str = "table ip outage\ndelete table ip outage\n";

/// A router with a LAN behind it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Router {
    node: Node,
    upstream: Upstream,
    lan: Lan,
    state: Arc<Mutex<State>>,
}

/// What a router is attached to.
#[derive(Clone, Debug)]
pub(crate) enum Upstream {
    /// The core, on the network of that number.
    Core { node: Node, number: u8 },
    /// The LAN of another router.
    Lan { node: Node },
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
}

impl Router {
    pub(crate) fn set_up(
        node: Node,
        external_address: Ipv4Addr,
        prefix_length: u8,
        upstream: Upstream,
        nat: Nat,
        lan_number: u8,
    ) -> Result<Self> {
        let lan = Lan { number: lan_number, public: nat.has_public_lan() };
        let name = node.name();
        let make_lan = format!(
            "ip -n {name} link add lan address {} type bridge\n\
             ip -n {name} address add {}/24 dev lan\n\
             ip -n {name} link set lan up",
            mac(lan.address(1)),
            lan.address(1)
        );
        node.keeper().script(&format!("making the LAN of {name}"), &make_lan)?;
        let state = State { nat, external_address, prefix_length, hosts: 0 };
        let router = Self { node, upstream, lan, state: Arc::new(Mutex::new(state)) };
        router.apply(nat)?;
        router.route_inwards(nat, external_address)?;
        Ok(router)
    }

    /// The address that it has outside now. Behind another router that is a private one.
    pub fn external_address(&self) -> Ipv4Addr {
        self.state().external_address
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

    /// Forgets all mappings, as after a restart.
    pub fn flush_mappings(&self) -> Result<()> {
        let flush = binary("lab-conntrack")?;
        self.configure("flushing the connection table", &[&flush.display().to_string()], "")?;
        // Replacing the rules empties the maps that some kinds keep.
        let nat = self.state().nat;
        self.apply(nat)
    }

    /// Gives it another external address, as a provider does over night; all mappings are gone.
    pub fn change_external_address(&self) -> Result<Ipv4Addr> {
        let (old, prefix_length, nat) = {
            let state = self.state();
            (state.external_address, state.prefix_length, state.nat)
        };
        let Upstream::Core { number, .. } = &self.upstream else {
            return Err(LabError::Topology(format!(
                "{} has a private external address",
                self.name()
            )));
        };
        let last = match old.octets()[3] {
            LAST_EXTERNAL => 2,
            last => last + 1,
        };
        let new = Ipv4Addr::new(198, 18, *number, last);
        let name = self.name();
        // Without any address the interface would lose its routes, so the default route comes last.
        let change = format!(
            "ip -n {name} address del {old}/{prefix_length} dev wan\n\
             ip -n {name} address add {new}/{prefix_length} dev wan\n\
             ip -n {name} route replace default via {}",
            Ipv4Addr::new(198, 18, *number, 1)
        );
        self.keeper().script(&format!("changing the address of {name}"), &change)?;
        self.route_inwards(nat, new)?;
        self.state().external_address = new;
        self.flush_mappings()?;
        Ok(new)
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
        Ok(Place {
            port: format!("port{last}"),
            address: self.lan.address(last),
            gateway: self.lan.address(1),
        })
    }

    fn apply(&self, nat: Nat) -> Result<()> {
        let [a, b, c, _] = self.external_address().octets();
        let rules = nat.rules(&self.lan.prefix(), &format!("{}/24", Ipv4Addr::new(a, b, c, 0)));
        self.configure(&format!("applying {nat:?}"), &["nft", "-f", "-"], &rules).map(drop)
    }

    /// Tells the upstream what is behind the router where that has addresses of its own outside.
    fn route_inwards(&self, nat: Nat, via: Ipv4Addr) -> Result<()> {
        let (upstream, prefix) = match (&self.upstream, nat) {
            (Upstream::Core { node, number }, Nat::AddressOnly { .. }) => {
                (node, format!("{}/24", Ipv4Addr::new(198, 18, *number, 0)))
            }
            (Upstream::Core { node, .. } | Upstream::Lan { node }, nat) if nat.has_public_lan() => {
                (node, self.lan.prefix())
            }
            _ => return Ok(()),
        };
        let words = ["ip", "route", "replace", &prefix, "via", &via.to_string()];
        upstream.configure("adding a route", &words, "").map(drop)
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
