//! The default gateway, and our own address towards it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use crab_nat::GATEWAY_PORT;
use protocol::address::{Policy, admissible};

/// The kernel's IPv4 routes.
const ROUTES: &str = "/proc/net/route";

/// RTF_UP and RTF_GATEWAY of linux/route.h.
const UP_THROUGH_GATEWAY: u32 = 0x1 | 0x2;

/// The way out of this network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    /// The router that is asked.
    pub(super) gateway: Ipv4Addr,
    /// Our address as the router sees it.
    pub(super) local: Ipv4Addr,
}

impl Route {
    /// The IPv4 default route, if there is one through a gateway.
    pub(super) fn find() -> Option<Self> {
        let gateway = default_gateway(&std::fs::read_to_string(ROUTES).ok()?)?;
        // Connecting sends nothing; it makes the kernel choose our address.
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((gateway, GATEWAY_PORT)).ok()?;
        match socket.local_addr().ok()?.ip() {
            IpAddr::V4(local) if !local.is_loopback() => Some(Self { gateway, local }),
            _ => None,
        }
    }
}

/// The gateway of the default route with the lowest metric, in the format of `/proc/net/route`.
fn default_gateway(routes: &str) -> Option<Ipv4Addr> {
    let any = Policy { loopback: false, private: true };
    routes
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, destination, gateway, flags, _, _, metric, mask, ..] = fields[..] else {
                return None;
            };
            let hexadecimal = |text| u32::from_str_radix(text, 16).ok();
            // Addresses are printed as the machine's numbers, but kept in network order.
            let gateway = Ipv4Addr::from(hexadecimal(gateway)?.to_ne_bytes());
            let is_default = hexadecimal(destination)? == 0 && hexadecimal(mask)? == 0;
            let leads_out = hexadecimal(flags)? & UP_THROUGH_GATEWAY == UP_THROUGH_GATEWAY;
            let may_be_asked = admissible(SocketAddr::from((gateway, GATEWAY_PORT)), &any).is_ok();
            (is_default && leads_out && may_be_asked)
                .then_some((metric.parse::<u32>().ok()?, gateway))
        })
        .min()
        .map(|(_, gateway)| gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    /// A line as the kernel writes it.
    fn line(destination: [u8; 4], gateway: [u8; 4], flags: u32, metric: u32, mask: u32) -> String {
        let number = u32::from_ne_bytes;
        format!(
            "eth0\t{:08X}\t{:08X}\t{flags:04X}\t0\t0\t{metric}\t{mask:08X}\t0\t0\t0\n",
            number(destination),
            number(gateway),
        )
    }

    #[test]
    fn the_best_default_route_counts() {
        let lan = line([192, 168, 1, 0], [0; 4], 1, 0, 0x00ff_ffff);
        let wired = line([0; 4], [192, 168, 1, 1], 3, 100, 0);
        let radio = line([0; 4], [10, 0, 0, 1], 3, 600, 0);
        let down = line([0; 4], [10, 0, 0, 2], 2, 0, 0);
        let tunnel = line([0; 4], [0; 4], 1, 0, 0);
        let half = line([0; 4], [10, 8, 0, 1], 3, 0, 0x80);
        let own = line([0; 4], [127, 0, 0, 1], 3, 0, 0);
        let table: [(&[&str], Option<Ipv4Addr>); 6] = [
            (&[HEAD, &lan, &radio, &wired], Some(Ipv4Addr::new(192, 168, 1, 1))),
            (&[HEAD, &radio, &lan], Some(Ipv4Addr::new(10, 0, 0, 1))),
            (&[HEAD, &down, &tunnel, &half, &own, &radio], Some(Ipv4Addr::new(10, 0, 0, 1))),
            (&[HEAD, &lan], None),
            (&[HEAD, "eth0\tX\t0101A8C0\t0003\t0\t0\t0\t00000000\n", "eth0 0 0\n"], None),
            (&[], None),
        ];
        for (lines, expected) in table {
            assert_eq!(default_gateway(&lines.concat()), expected, "{lines:?}");
        }
    }
}
