//! What discovery found.

use std::net::SocketAddr;
use std::time::Duration;

use super::Behaviour;

/// What discovery found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// What the NAT or firewall does.
    pub behaviour: Behaviour,
    /// Our own address, that of the first socket.
    pub local: SocketAddr,
    /// The external address of the same socket towards the server.
    pub external: SocketAddr,
    /// Whether the server's second port was reached. Without it mapping and filtering stay unknown.
    pub second_port: bool,
    /// Whether the server's second address was reached. Without it, what does not depend on the port
    /// is taken as endpoint-independent; it may depend on the address.
    pub second_address: bool,
    /// The external port predicted for the next new mapping, where ports follow one another.
    pub next_port: Option<u16>,
    /// Whether external ports are even where internal ones are (RFC 4787, section 4.2.2).
    pub parity_preserved: Option<bool>,
    /// Round-trip time to the server.
    pub rtt: Duration,
}
