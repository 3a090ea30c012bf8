//! Which addresses may be sent to on the word of a peer, how one address is always written, and how
//! it travels in control messages.
//!
//! A peer names the addresses that it hopes to be reached at. Sending wherever it says would make us
//! a tool against our own host, our own network or a third party's multicast group, so every named
//! address, and every address that a datagram claims to come from, passes [`admissible`] first. Any
//! other unicast address is ordinary.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The one form in which an address is compared, kept and sent: an IPv4-mapped IPv6 address
/// (RFC 4291, section 2.5.5.2) as the IPv4 address it stands for, an IPv6 address without flow label
/// and scope.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What stands for whoever is behind an address, in quotas: it alone (IPv4), or its network of 56 bits (IPv6), the
/// least that a household gets.
pub fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => (u128::from(address) >> 72 << 72).to_be_bytes().into(),
        address => address,
    }
}

/// What one introduction allows beyond ordinary unicast addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Loopback addresses are used: the rendezvous itself is on loopback.
    pub loopback: bool,
    /// Private addresses (RFC 1918, RFC 4193) are used.
    pub private: bool,
}

/// What is known about both ends when a policy is made.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Address of the rendezvous as we reach it.
    pub rendezvous: IpAddr,
    /// Our own addresses as the rendezvous sees them.
    pub own_reflexive: &'a [IpAddr],
    /// The peer's addresses as the rendezvous sees them.
    pub peer_reflexive: &'a [IpAddr],
    /// The user said that private addresses may be used.
    pub allow_private: bool,
}

impl Policy {
    /// The policy for one introduction.
    ///
    /// Private addresses are used where both ends are in one network, so that such an address means
    /// the same to both:
    ///
    /// - both have one reflexive IPv4 or IPv6 address: they sit behind one NAT;
    /// - both have reflexive IPv6 addresses in one /64: they sit on one link;
    /// - the peer's own reflexive address is private: the rendezvous is in that private network too,
    ///   and we reach it there, as on a plain LAN without any NAT;
    /// - the user allows them.
    pub fn for_introduction(surroundings: Surroundings<'_>) -> Self {
        let Surroundings { rendezvous, own_reflexive, peer_reflexive, allow_private } =
            surroundings;
        let one_network = own_reflexive
            .iter()
            .any(|own| peer_reflexive.iter().any(|peer| same_network(*own, *peer)));
        Self {
            loopback: rendezvous.to_canonical().is_loopback(),
            private: allow_private
                || one_network
                || peer_reflexive.iter().any(|peer| is_private(peer.to_canonical())),
        }
    }
}

/// Why an address is not sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Inadmissible {
    /// Port 0.
    #[error("port 0 is no destination")]
    PortZero,
    /// `0.0.0.0/8` or `::`.
    #[error("unspecified address, or one of \"this network\" (RFC 1122, section 3.2.1.3)")]
    Unspecified,
    /// `127.0.0.0/8` or `::1`.
    #[error("loopback address, used only where the rendezvous itself is on loopback")]
    Loopback,
    /// `224.0.0.0/4` or `ff00::/8`.
    #[error("multicast address")]
    Multicast,
    /// `255.255.255.255`.
    #[error("broadcast address")]
    Broadcast,
    /// `169.254.0.0/16` or `fe80::/10`.
    #[error("link-local address")]
    LinkLocal,
    /// RFC 1918, RFC 4193 or the old site-local `fec0::/10`.
    #[error("private address of another network; allow private addresses to use it")]
    Private,
    /// `::a.b.c.d`, deprecated by RFC 4291, section 2.5.5.1.
    #[error("IPv4-compatible IPv6 address")]
    Ipv4Compatible,
}

impl Inadmissible {
    /// A short name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PortZero => "port_zero",
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::LinkLocal => "link_local",
            Self::Private => "private",
            Self::Ipv4Compatible => "ipv4_compatible",
        }
    }
}

/// Whether `address` may be sent to under `policy`.
///
/// # Errors
///
/// Says which kind of address is refused. IPv4 addresses inside IPv6 ones (mapped, and NAT64's
/// well-known prefix, RFC 6052) are judged as the IPv4 address they stand for.
pub fn admissible(address: SocketAddr, policy: &Policy) -> Result<(), Inadmissible> {
    if address.port() == 0 {
        return Err(Inadmissible::PortZero);
    }
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => admissible_v4(ip, policy),
        IpAddr::V6(ip) => admissible_v6(ip, policy),
    }
}

fn admissible_v4(ip: Ipv4Addr, policy: &Policy) -> Result<(), Inadmissible> {
    if ip.octets()[0] == 0 {
        Err(Inadmissible::Unspecified)
    } else if ip.is_loopback() && !policy.loopback {
        Err(Inadmissible::Loopback)
    } else if ip.is_multicast() {
        Err(Inadmissible::Multicast)
    } else if ip.is_broadcast() {
        Err(Inadmissible::Broadcast)
    } else if ip.is_link_local() {
        Err(Inadmissible::LinkLocal)
    } else if ip.is_private() && !policy.private {
        Err(Inadmissible::Private)
    } else {
        Ok(())
    }
}

fn admissible_v6(ip: Ipv6Addr, policy: &Policy) -> Result<(), Inadmissible> {
    if ip.is_unspecified() {
        Err(Inadmissible::Unspecified)
    } else if ip.is_loopback() {
        if policy.loopback { Ok(()) } else { Err(Inadmissible::Loopback) }
    } else if ip.is_multicast() {
        Err(Inadmissible::Multicast)
    } else if ip.is_unicast_link_local() {
        Err(Inadmissible::LinkLocal)
    } else if is_private(IpAddr::V6(ip)) && !policy.private {
        Err(Inadmissible::Private)
    } else {
        match ip.segments() {
            [0, 0, 0, 0, 0, 0, _, _] => Err(Inadmissible::Ipv4Compatible),
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                admissible_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)), policy)
            }
            _ => Ok(()),
        }
    }
}

/// Whether an address means something within one network or host only, and another in the next: private (RFC 1918,
/// RFC 4193), link-local or loopback.
pub fn is_local(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let is_near = match address {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    is_near || address.is_loopback() || is_private(address)
}

/// RFC 1918 and RFC 4193, and the deprecated site-local prefix (RFC 3879).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.segments()[0] & 0xffc0 == 0xfec0,
    }
}

fn same_network(one: IpAddr, other: IpAddr) -> bool {
    match (one.to_canonical(), other.to_canonical()) {
        (IpAddr::V4(one), IpAddr::V4(other)) => one == other,
        (IpAddr::V6(one), IpAddr::V6(other)) => one.segments()[..4] == other.segments()[..4],
        _ => false,
    }
}

/// Codec for `#[cbor(with = "crate::address::cbor")]`: a byte string of the IP address (4 or 16
/// bytes) and the port (2 bytes), both in network order. Decoding gives the [`canonical`] form.
pub mod cbor {
    use super::{IpAddr, SocketAddr, canonical};
    use minicbor::{
        Decoder, Encoder,
        decode::Error,
        encode::{self, Write},
    };

    const V4: usize = 6;
    const V6: usize = 18;

    /// Writes one address.
    ///
    /// # Errors
    ///
    /// Only where the writer fails.
    pub fn encode<C, W: Write>(
        address: &SocketAddr,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        let address = canonical(*address);
        let port = address.port().to_be_bytes();
        match address.ip() {
            IpAddr::V4(ip) => {
                let mut bytes = [0; V4];
                bytes[..4].copy_from_slice(&ip.octets());
                bytes[4..].copy_from_slice(&port);
                encoder.bytes(&bytes)?
            }
            IpAddr::V6(ip) => {
                let mut bytes = [0; V6];
                bytes[..16].copy_from_slice(&ip.octets());
                bytes[16..].copy_from_slice(&port);
                encoder.bytes(&bytes)?
            }
        };
        Ok(())
    }

    /// Reads one address.
    ///
    /// # Errors
    ///
    /// Where there is no byte string, or one that is neither 6 nor 18 bytes long.
    pub fn decode<'b, C>(decoder: &mut Decoder<'b>, _: &mut C) -> Result<SocketAddr, Error> {
        let bytes = decoder.bytes()?;
        let (ip, port): (IpAddr, u16) = match *bytes {
            [a, b, c, d, high, low] => ([a, b, c, d].into(), u16::from_be_bytes([high, low])),
            [ref ip @ .., high, low] if bytes.len() == V6 => {
                let ip = <[u8; 16]>::try_from(ip).map_err(Error::message)?;
                (ip.into(), u16::from_be_bytes([high, low]))
            }
            _ => {
                let length = bytes.len();
                return Err(Error::message(format_args!(
                    "an address has 6 or 18 bytes, not {length}"
                )));
            }
        };
        Ok(canonical(SocketAddr::new(ip, port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Policy = Policy { loopback: false, private: false };

    fn judged(address: &str, policy: Policy) -> Result<(), Inadmissible> {
        admissible(address.parse().expect("address of the table"), &policy)
    }

    #[test]
    fn kinds_of_address() {
        use Inadmissible::*;
        let table = [
            ("192.0.2.1:1", Ok(())),
            ("198.18.0.1:9", Ok(())),
            ("100.64.0.1:9", Ok(())),
            ("203.0.113.7:65535", Ok(())),
            ("[2001:db8::1]:9", Ok(())),
            ("[64:ff9b::198.51.100.1]:9", Ok(())),
            ("8.8.8.8:0", Err(PortZero)),
            ("0.0.0.0:9", Err(Unspecified)),
            ("0.1.2.3:9", Err(Unspecified)),
            ("[::]:9", Err(Unspecified)),
            ("127.0.0.1:9", Err(Loopback)),
            ("127.255.0.1:9", Err(Loopback)),
            ("[::1]:9", Err(Loopback)),
            ("224.0.0.1:9", Err(Multicast)),
            ("239.255.255.250:9", Err(Multicast)),
            ("[ff02::1]:9", Err(Multicast)),
            ("255.255.255.255:9", Err(Broadcast)),
            ("169.254.169.254:80", Err(LinkLocal)),
            ("[fe80::1]:9", Err(LinkLocal)),
            ("10.0.0.1:9", Err(Private)),
            ("172.16.0.1:9", Err(Private)),
            ("172.32.0.1:9", Ok(())),
            ("192.168.1.1:9", Err(Private)),
            ("[fd00::1]:9", Err(Private)),
            ("[fec0::1]:9", Err(Private)),
            ("[::ffff:127.0.0.1]:9", Err(Loopback)),
            ("[::ffff:0.0.0.0]:9", Err(Unspecified)),
            ("[::ffff:224.0.0.1]:9", Err(Multicast)),
            ("[::ffff:192.168.1.1]:9", Err(Private)),
            ("[::ffff:192.0.2.1]:9", Ok(())),
            ("[::192.0.2.1]:9", Err(Ipv4Compatible)),
            ("[64:ff9b::127.0.0.1]:9", Err(Loopback)),
        ];
        for (address, expected) in table {
            assert_eq!(judged(address, STRICT), expected, "{address}");
        }
    }

    #[test]
    fn what_is_local_means_something_else_elsewhere() {
        let local = |text: &&str| is_local(text.parse().expect("an address"));
        let near =
            ["10.0.0.1", "192.168.1.1", "169.254.1.1", "127.0.0.1", "fd00::1", "fe80::1", "::1"];
        let far = ["198.51.100.7", "100.64.0.1", "2001:db8::1", "::ffff:198.51.100.7"];
        assert!(near.iter().all(local) && local(&"::ffff:10.0.0.1") && !far.iter().any(local));
    }

    #[test]
    fn a_household_is_an_ipv4_address_or_an_ipv6_network() {
        let household = |text: &str| household(text.parse().expect("an address"));
        let same = |one, other| assert_eq!(household(one), household(other), "{one}, {other}");
        let differ = |one, other| assert_ne!(household(one), household(other), "{one}, {other}");
        same("2001:db8:0:100::1", "2001:db8:0:1ff:ffff:ffff:ffff:ffff");
        differ("2001:db8:0:1ff::1", "2001:db8:0:200::1");
        differ("192.0.2.1", "192.0.2.2");
        same("192.0.2.1", "::ffff:192.0.2.1");
    }

    #[test]
    fn allowances() {
        let private = Policy { private: true, ..STRICT };
        let loopback = Policy { loopback: true, ..STRICT };
        for address in ["192.168.1.1:9", "10.0.0.1:9", "[fd00::1]:9", "[::ffff:10.1.1.1]:9"] {
            assert_eq!(judged(address, private), Ok(()), "{address}");
            assert_eq!(judged(address, loopback), Err(Inadmissible::Private), "{address}");
        }
        for address in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            assert_eq!(judged(address, loopback), Ok(()), "{address}");
            assert_eq!(judged(address, private), Err(Inadmissible::Loopback), "{address}");
        }
    }

    #[test]
    fn policies() {
        // rendezvous, own, peer, allowed by the user → loopback, private
        let table = [
            (
                "a public rendezvous",
                "192.0.2.9",
                "198.51.100.1",
                "203.0.113.1",
                false,
                false,
                false,
            ),
            ("one NAT", "192.0.2.9", "198.51.100.1", "198.51.100.1", false, false, true),
            ("a LAN", "192.168.1.2", "192.168.1.3", "192.168.1.4", false, false, true),
            ("two private networks", "10.0.3.1", "10.0.1.1", "10.0.2.1", false, false, true),
            (
                "peer beside the rendezvous",
                "192.0.2.9",
                "198.51.100.1",
                "10.0.0.2",
                false,
                false,
                true,
            ),
            ("only we beside it", "10.0.0.1", "10.0.0.2", "198.51.100.1", false, false, false),
            ("one IPv6 link", "2001:db8::9", "2001:db8:1::1", "2001:db8:1::2", false, false, true),
            (
                "two IPv6 links",
                "2001:db8::9",
                "2001:db8:1::1",
                "2001:db8:2::1",
                false,
                false,
                false,
            ),
            ("one machine", "127.0.0.1", "127.0.0.1", "127.0.0.1", false, true, true),
            (
                "mapped forms",
                "::ffff:127.0.0.1",
                "::ffff:192.0.2.1",
                "192.0.2.1",
                false,
                true,
                true,
            ),
            ("the user's word", "192.0.2.9", "198.51.100.1", "203.0.113.1", true, false, true),
        ];
        for (what, rendezvous, own, peer, allow_private, loopback, private) in table {
            let ip = |text: &str| text.parse::<IpAddr>().expect("address of the table");
            let policy = Policy::for_introduction(Surroundings {
                rendezvous: ip(rendezvous),
                own_reflexive: &[ip(own)],
                peer_reflexive: &[ip(peer)],
                allow_private,
            });
            assert_eq!(policy, Policy { loopback, private }, "{what}");
        }
    }
}
