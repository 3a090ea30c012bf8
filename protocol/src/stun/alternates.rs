//! What a STUN server with several addresses and ports adds (RFC 5780): answers from another one than
//! the request came to, by which a client finds out how its NAT maps and filters.

use std::net::{IpAddr, SocketAddr};

use super::Message;
use super::attribute::CHANGE_REQUEST;

/// From where an answer is asked to come (CHANGE-REQUEST, RFC 5780, section 7.2). The default: from
/// where the request was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Change {
    /// From the server's other address.
    pub address: bool,
    /// From the server's other port.
    pub port: bool,
}

impl Change {
    const ADDRESS_FLAG: u8 = 0x04;
    const PORT_FLAG: u8 = 0x02;

    /// Whether anything changes.
    pub fn any(self) -> bool {
        self.address || self.port
    }

    pub(super) fn value(self) -> [u8; 4] {
        let flag = |set, flag| if set { flag } else { 0 };
        [0, 0, 0, flag(self.address, Self::ADDRESS_FLAG) | flag(self.port, Self::PORT_FLAG)]
    }

    /// What a request asks for; `None` if that cannot be understood.
    pub(super) fn of(request: &Message<'_>) -> Option<Self> {
        if !request.has(CHANGE_REQUEST) {
            return Some(Self::default());
        }
        let [.., flags] = request.attribute::<4>(CHANGE_REQUEST)?;
        Some(Self { address: flags & Self::ADDRESS_FLAG != 0, port: flags & Self::PORT_FLAG != 0 })
    }
}

/// Where a request came to, and from where else the server can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where the request came to, as the server knows itself.
    pub here: SocketAddr,
    /// The server's other address, of the same family.
    pub other_address: Option<IpAddr>,
    /// The server's other port.
    pub other_port: Option<u16>,
}

impl Place {
    /// Where an answer leaves from; `None` if the server has no such place.
    pub fn origin(&self, change: Change) -> Option<SocketAddr> {
        let address = if change.address { self.other_address? } else { self.here.ip() };
        let port = if change.port { self.other_port? } else { self.here.port() };
        Some(SocketAddr::new(address, port))
    }

    /// OTHER-ADDRESS. With one address it names another port alone, which is more than RFC 5780 knows
    /// and which its clients can tell by the address.
    pub(super) fn other(&self) -> Option<SocketAddr> {
        let port = self.other_port?;
        Some(SocketAddr::new(self.other_address.unwrap_or(self.here.ip()), port))
    }
}
