//! What routers do to UDP, as nftables rules. Mapping and filtering are RFC 4787's.

use std::{fmt::Write, time::Duration};

/// The behaviour of a router. Unless it says otherwise, the router translates addresses and ports,
/// drops what comes from outside unasked, and maps and filters as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// No translation and no filtering; the LAN has public addresses.
    Open,
    /// No translation; admits only answers. The LAN has public addresses.
    Firewall,
    /// Translates addresses one to one, ports never. Endpoint-independent mapping; filtering
    /// address-and-port-dependent if `filtered`, else endpoint-independent.
    AddressOnly {
        /// Whether only answers are admitted.
        filtered: bool,
    },
    /// The common home router: endpoint-independent mapping that keeps the port where it is free,
    /// address-and-port-dependent filtering.
    PortRestricted,
    /// As [`Nat::PortRestricted`], but the external port is another one.
    PortRestrictedOtherPort,
    /// Endpoint-independent mapping, another port, address-dependent filtering.
    AddressRestricted,
    /// Endpoint-independent mapping, the port kept where it is free, endpoint-independent
    /// filtering: whoever knows the mapping gets in.
    Unrestricted,
    /// Address-dependent mapping, address-and-port-dependent filtering.
    AddressDependentMapping,
    /// Address-and-port-dependent mapping with random ports.
    RandomPerDestination,
    /// Address-and-port-dependent mapping; each new mapping has a port `step` above the last.
    SequentialPerDestination {
        /// From one mapping to the next.
        step: u16,
    },
    /// As [`Nat::PortRestricted`], but packets from outside that nobody asked for are not dropped:
    /// the router takes them as its own, and they keep the port they came to from the host.
    NoDrop,
    /// As [`Nat::PortRestricted`], but only outgoing packets keep a mapping alive.
    OutboundRefreshOnly {
        /// How long a mapping lives after the last outgoing packet; whole seconds.
        timeout: Duration,
    },
    /// As [`Nat::PortRestricted`] for all but UDP, which does not pass at all.
    UdpBlocked,
}

/// How long a mapping lives without packets, where the rules keep mappings themselves.
const MAPPING_TIMEOUT: &str = "300s";

/// The first port, and the number of ports, that sequential mappings take in turn: as many as fit
/// into the message that nft can send where it is not root.
const SEQUENCE_START: u16 = 20_000;
const SEQUENCE_LENGTH: u16 = 3000;

/// Keeps out what nobody inside has asked for.
const ADMIT_ANSWERS: &str = "iifname \"wan\" ct state new,invalid drop";

impl Nat {
    /// Whether the LAN keeps its addresses outside.
    pub(crate) fn has_public_lan(self) -> bool {
        matches!(self, Self::Open | Self::Firewall)
    }

    /// The rules, for a LAN and the network around the router's external address, both as
    /// prefixes. They replace those in force.
    pub(crate) fn rules(self, lan: &str, outside: &str) -> String {
        let table = match self {
            Self::Open => Table::default(),
            Self::Firewall => Table::default().input().forward(ADMIT_ANSWERS),
            Self::AddressOnly { filtered } => {
                let table = Table::default()
                    .input()
                    .dstnat(format!("iifname \"wan\" dnat ip prefix to ip daddr map {{ {outside} : {lan} }}"))
                    .srcnat(format!("oifname \"wan\" snat ip prefix to ip saddr map {{ {lan} : {outside} }}"));
                if filtered {
                    // The connection's state is new until the host has sent something.
                    table.forward(ADMIT_ANSWERS)
                } else {
                    table
                }
            }
            Self::PortRestricted => Table::default().input().srcnat(MASQUERADE),
            Self::NoDrop => Table::default().srcnat(MASQUERADE),
            Self::PortRestrictedOtherPort => Table::default().input().endpoint_independent("masquerade random"),
            Self::Unrestricted => Table::default()
                .input()
                .endpoint_independent("masquerade")
                .dstnat("iifname \"wan\" meta l4proto udp dnat to ip daddr . udp dport map @in"),
            Self::AddressRestricted => Table::default()
                .input()
                .endpoint_independent("masquerade random")
                .set(format!("set sent {{ type inet_service . ipv4_addr; flags dynamic,timeout; timeout {MAPPING_TIMEOUT}; size 65535; }}"))
                .learn("update @sent { udp sport . ip daddr }")
                .dstnat("iifname \"wan\" udp dport . ip saddr @sent dnat to ip daddr . udp dport map @in"),
            Self::AddressDependentMapping => Table::default()
                .input()
                .set(format!("map out {{ type ipv4_addr . inet_service . ipv4_addr : ipv4_addr . inet_service; flags dynamic,timeout; timeout {MAPPING_TIMEOUT}; size 65535; }}"))
                .srcnat("oifname \"wan\" meta l4proto udp snat to ip saddr . udp sport . ip daddr map @out")
                .srcnat("oifname \"wan\" masquerade random")
                .learn("ct direction original update @out { ct original ip saddr . ct original proto-src . ip daddr : ip saddr . udp sport }"),
            Self::RandomPerDestination => Table::default().input().srcnat("oifname \"wan\" masquerade random,fully-random"),
            Self::SequentialPerDestination { step } => Table::default()
                .input()
                .srcnat(format!("oifname \"wan\" meta l4proto udp masquerade to :{}", sequence(step)))
                .srcnat(MASQUERADE),
            Self::OutboundRefreshOnly { timeout } => Table::default()
                .input()
                .srcnat(MASQUERADE)
                .set(format!("set held {{ type inet_service; flags dynamic,timeout; timeout {}s; size 65535; }}", timeout.as_secs()))
                .learn("update @held { udp sport }")
                .raw("iifname \"wan\" meta l4proto udp udp dport != @held drop"),
            Self::UdpBlocked => Table::default().input().srcnat(MASQUERADE).forward("meta l4proto udp drop"),
        };
        table.text()
    }
}

const MASQUERADE: &str = "oifname \"wan\" masquerade";

/// A port for each value of a counter that every new mapping increments.
fn sequence(step: u16) -> String {
    let step = step.max(1);
    let count = SEQUENCE_LENGTH.min((u16::MAX - SEQUENCE_START) / step);
    let elements: Vec<String> =
        (0..count).map(|index| format!("{index} : {}", SEQUENCE_START + index * step)).collect();
    format!("numgen inc mod {count} map {{ {} }}", elements.join(", "))
}

/// A router's rules, by hook.
#[derive(Default)]
struct Table {
    sets: Vec<String>,
    raw: Vec<String>,
    dstnat: Vec<String>,
    input: Vec<String>,
    forward: Vec<String>,
    srcnat: Vec<String>,
    /// For outgoing UDP, after translation.
    learn: Vec<String>,
}

impl Table {
    /// The router itself answers nobody outside.
    fn input(mut self) -> Self {
        self.input.push(ADMIT_ANSWERS.to_owned());
        self
    }

    /// Maps each endpoint of the LAN to one external endpoint, which `choose` picks, and remembers
    /// that in both directions.
    fn endpoint_independent(self, choose: &str) -> Self {
        let map = |name: &str| {
            format!(
                "map {name} {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; \
                 flags dynamic,timeout; timeout {MAPPING_TIMEOUT}; size 65535; }}"
            )
        };
        self.set(map("out"))
            .set(map("in"))
            .srcnat("oifname \"wan\" meta l4proto udp snat to ip saddr . udp sport map @out")
            .srcnat(format!("oifname \"wan\" {choose}"))
            .learn("ct direction original update @out { ct original ip saddr . ct original proto-src : ip saddr . udp sport }")
            .learn("ct direction original update @in { ip saddr . udp sport : ct original ip saddr . ct original proto-src }")
    }

    fn set(mut self, definition: impl Into<String>) -> Self {
        self.sets.push(definition.into());
        self
    }

    fn raw(mut self, rule: &str) -> Self {
        self.raw.push(rule.to_owned());
        self
    }

    fn dstnat(mut self, rule: impl Into<String>) -> Self {
        self.dstnat.push(rule.into());
        self
    }

    fn forward(mut self, rule: &str) -> Self {
        self.forward.push(rule.to_owned());
        self
    }

    fn srcnat(mut self, rule: impl Into<String>) -> Self {
        self.srcnat.push(rule.into());
        self
    }

    fn learn(mut self, statement: &str) -> Self {
        self.learn.push(format!("oifname \"wan\" meta l4proto udp {statement}"));
        self
    }

    fn text(&self) -> String {
        let chains = [
            ("raw", "type filter hook prerouting priority raw", &self.raw),
            ("dstnat", "type nat hook prerouting priority dstnat", &self.dstnat),
            ("admit", "type filter hook input priority filter", &self.input),
            ("pass", "type filter hook forward priority filter", &self.forward),
            ("srcnat", "type nat hook postrouting priority srcnat", &self.srcnat),
            ("learn", "type filter hook postrouting priority srcnat + 10", &self.learn),
        ];
        let mut text = "table ip router\ndelete table ip router\ntable ip router {\n".to_owned();
        for set in &self.sets {
            let _ = writeln!(text, "{set}");
        }
        for (name, hook, rules) in chains.into_iter().filter(|(_, _, rules)| !rules.is_empty()) {
            let _ = writeln!(text, "chain {name} {{\n{hook};\n{}\n}}", rules.join("\n"));
        }
        text + "}\n"
    }
}
