//! What routers do to UDP, as nftables rules. Mapping and filtering are RFC 4787's.

use std::{fmt::Write, net::Ipv4Addr, time::Duration};

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
    /// Endpoint-independent mapping that keeps the port where it is free, address-dependent
    /// filtering.
    AddressRestricted,
    /// As [`Nat::AddressRestricted`], but the external port is another one.
    AddressRestrictedOtherPort,
    /// Endpoint-independent mapping, the port kept where it is free, endpoint-independent
    /// filtering: whoever knows the mapping gets in.
    Unrestricted,
    /// As [`Nat::Unrestricted`], but the external port is another one.
    UnrestrictedOtherPort,
    /// As [`Nat::Unrestricted`], and for hosts of its own LAN too, to which packets from each other
    /// seem to come from outside (RFC 4787, section 6).
    UnrestrictedHairpin,
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

    /// What it does to IPv6, which it never translates: only answers come in, except where nothing
    /// is filtered at all. The rules replace those in force.
    pub(crate) fn ipv6_rules(self) -> String {
        let table = match self {
            Self::Open => Table::default(),
            Self::UdpBlocked => Table::default().input().forward(ADMIT_ANSWERS).forward(BLOCK_UDP),
            _ => Table::default().input().forward(ADMIT_ANSWERS),
        };
        table.text("ip6")
    }

    /// The rules, for a LAN, as a prefix, and the router's external address. They replace those in
    /// force.
    pub(crate) fn rules(self, lan: &str, external: Ipv4Addr) -> String {
        let [a, b, c, _] = external.octets();
        let outside = format!("{}/24", Ipv4Addr::new(a, b, c, 0));
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
            Self::Unrestricted => Table::default().input().endpoint_independent("masquerade").admit_all(),
            Self::UnrestrictedOtherPort => {
                Table::default().input().endpoint_independent("masquerade random").admit_all()
            }
            Self::UnrestrictedHairpin => {
                Table::default().input().endpoint_independent("masquerade").admit_all().hairpin(external)
            }
            Self::AddressRestricted => {
                Table::default().input().endpoint_independent("masquerade").admit_addresses()
            }
            Self::AddressRestrictedOtherPort => {
                Table::default().input().endpoint_independent("masquerade random").admit_addresses()
            }
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
            Self::UdpBlocked => Table::default().input().srcnat(MASQUERADE).forward(BLOCK_UDP),
        };
        table.text("ip")
    }
}

const MASQUERADE: &str = "oifname \"wan\" masquerade";
const BLOCK_UDP: &str = "meta l4proto udp drop";
/// Packets of the LAN that came back into it, once their destination is translated.
const TURNED: &str = "iifname \"lan\" oifname \"lan\" meta l4proto udp ct status dnat";

const LEARN_OUT: &str = "ct direction original update @out { ct original ip saddr . ct original proto-src : ip saddr . udp sport }";
const LEARN_IN: &str = "ct direction original update @in { ip saddr . udp sport : ct original ip saddr . ct original proto-src }";

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
            .learn(LEARN_OUT)
            .learn(LEARN_IN)
    }

    /// Lets in whoever sends to a mapping.
    fn admit_all(self) -> Self {
        self.dstnat("iifname \"wan\" meta l4proto udp dnat to ip daddr . udp dport map @in")
    }

    /// Lets in the addresses that a mapping has sent to.
    fn admit_addresses(self) -> Self {
        self.set(format!("set sent {{ type inet_service . ipv4_addr; flags dynamic,timeout; timeout {MAPPING_TIMEOUT}; size 65535; }}"))
            .learn("update @sent { udp sport . ip daddr }")
            .dstnat("iifname \"wan\" udp dport . ip saddr @sent dnat to ip daddr . udp dport map @in")
    }

    /// Turns packets from the LAN to a mapping around, and has them come from the sender's own
    /// mapping, which is made if there is none.
    fn hairpin(mut self, external: Ipv4Addr) -> Self {
        self.learn.extend([LEARN_OUT, LEARN_IN].map(|learn| format!("{TURNED} {learn}")));
        self.dstnat("iifname \"lan\" meta l4proto udp dnat to ip daddr . udp dport map @in")
            .srcnat(format!("{TURNED} snat to ip saddr . udp sport map @out"))
            .srcnat(format!("{TURNED} snat to {external}"))
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

    /// The rules as nft reads them, for a family: `ip` or `ip6`.
    fn text(&self, family: &str) -> String {
        let chains = [
            ("raw", "type filter hook prerouting priority raw", &self.raw),
            ("dstnat", "type nat hook prerouting priority dstnat", &self.dstnat),
            ("admit", "type filter hook input priority filter", &self.input),
            ("pass", "type filter hook forward priority filter", &self.forward),
            ("srcnat", "type nat hook postrouting priority srcnat", &self.srcnat),
            ("learn", "type filter hook postrouting priority srcnat + 10", &self.learn),
        ];
        let name = format!("table {family} router");
        let mut text = format!("{name}\ndelete {name}\n{name} {{\n");
        for set in &self.sets {
            let _ = writeln!(text, "{set}");
        }
        for (name, hook, rules) in chains.into_iter().filter(|(_, _, rules)| !rules.is_empty()) {
            let _ = writeln!(text, "chain {name} {{\n{hook};\n{}\n}}", rules.join("\n"));
        }
        text + "}\n"
    }
}
