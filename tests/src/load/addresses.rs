//! Where load viewers are: each at an address of its own, as viewers at home are.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::str::FromStr;

/// The port of the first viewer; the next ones' follow, so that nothing is chosen by chance.
const FIRST_PORT: u16 = 40_000;

/// Ports in use before they begin again.
const PORTS: u32 = 20_000;

/// A network in CIDR notation, as in `198.18.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    first: u32,
    count: u32,
}

/// Why a text names no network.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected an IPv4 network as in 198.18.0.0/16, of 2 addresses or more")]
pub struct BadNetwork;

impl FromStr for Addresses {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let (address, length) = text.split_once('/').ok_or(BadNetwork)?;
        let address: Ipv4Addr = address.parse().map_err(|_| BadNetwork)?;
        let length: u32 = length.parse().map_err(|_| BadNetwork)?;
        let bits = 32_u32.checked_sub(length).filter(|bits| (1..32).contains(bits));
        let size = 1_u32 << bits.ok_or(BadNetwork)?;
        // The first address names the network itself.
        Ok(Self { first: (u32::from(address) & !(size - 1)) + 1, count: size - 1 })
    }
}

impl Addresses {
    /// Where viewer number `at` is. With more viewers than addresses these are used again, with other
    /// ports.
    pub fn at(self, at: u32) -> SocketAddr {
        let ip = Ipv4Addr::from(self.first + at % self.count);
        let port = FIRST_PORT + (at % PORTS) as u16;
        SocketAddrV4::new(ip, port).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_walked_through() {
        let network: Addresses = "198.18.4.0/30".parse().expect("a network");
        let places: Vec<String> = (0..4).map(|at| network.at(at).to_string()).collect();
        let expected =
            ["198.18.4.1:40000", "198.18.4.2:40001", "198.18.4.3:40002", "198.18.4.1:40003"];
        assert_eq!(places, expected);
        for bad in ["198.18.4.0", "198.18.4.0/32", "198.18.4.0/0", "198.18.4.0/33", "x/8"] {
            assert_eq!(bad.parse::<Addresses>(), Err(BadNetwork), "{bad}");
        }
    }
}
