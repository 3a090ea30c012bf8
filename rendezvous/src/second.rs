//! Second ports and addresses: as a configuration says them, and as sockets.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use protocol::stun::Place;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use transport::addresses::pair;
use transport::socket::Socket;

/// Something that a server has twice for who finds out what a NAT does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Second<T> {
    /// The usual one, if there is one.
    #[default]
    Auto,
    /// None.
    Off,
    /// This one.
    At(T),
}

impl<T: Display> Serialize for Second<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Off => serializer.serialize_str("off"),
            Self::At(value) => serializer.collect_str(value),
        }
    }
}

impl<'de, T: FromStr> Deserialize<'de> for Second<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected auto, off or one value")]
        enum Written {
            Number(u64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            value => value.parse().map(Self::At).map_err(|_| {
                let kind = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
                serde::de::Error::custom(format_args!("expected auto, off or {kind}, got '{text}'"))
            }),
        }
    }
}

/// A socket that STUN is answered from.
#[derive(Debug)]
struct Outlet {
    socket: Arc<Socket>,
    /// Perhaps all addresses of a port.
    bound: SocketAddr,
}

impl Outlet {
    fn new(socket: Arc<Socket>) -> std::io::Result<Self> {
        let bound = socket.local_addr()?;
        Ok(Self { socket, bound })
    }

    fn is_at(&self, place: SocketAddr) -> bool {
        let any = self.bound.ip().is_unspecified();
        self.bound.port() == place.port() && (any || self.bound.ip() == place.ip())
    }
}

/// All places at which STUN is answered: up to two ports at up to two addresses, and the first port at
/// whatever else the main socket is bound to.
#[derive(Debug)]
pub(crate) struct Places {
    outlets: Vec<Outlet>,
    ports: (u16, Option<u16>),
    addresses: Option<(IpAddr, IpAddr)>,
}

impl Places {
    /// Binds what is wanted beside the main socket. What cannot be had is warned of and left out.
    /// `any_port` says that the main socket has any free port too.
    pub(crate) fn bind(
        main: &Arc<Socket>,
        any_port: bool,
        second_port: Second<u16>,
        second_address: Second<IpAddr>,
    ) -> std::io::Result<Self> {
        let main = Outlet::new(Arc::clone(main))?;
        let bound = main.bound;
        let mut places = Self { outlets: vec![main], ports: (bound.port(), None), addresses: None };
        let port = match second_port {
            Second::Off => return Ok(places),
            Second::At(port) => port,
            Second::Auto if any_port => 0,
            Second::Auto => bound.port().checked_add(1).unwrap_or(bound.port() - 1),
        };
        let second = SocketAddr::new(bound.ip(), port);
        match places.add(second) {
            Ok(port) => places.ports.1 = Some(port),
            Err(error) => {
                tracing::warn!(%error, "no second STUN port {second}: nobody can find out here what \
                    a NAT does; choose another with second_port");
                return Ok(places);
            }
        }
        places.add_address(second_address);
        Ok(places)
    }

    fn add_address(&mut self, wanted: Second<IpAddr>) {
        let bound = self.outlets[0].bound;
        let first = (!bound.ip().is_unspecified()).then(|| bound.ip());
        let found = match wanted {
            Second::Off => return,
            Second::Auto => pair(first, None),
            Second::At(second) => pair(first, Some(second)).or_else(|| {
                tracing::warn!(
                    "second_address {second} has no other address of its kind beside it"
                );
                None
            }),
        };
        // A socket of IPv4 alone has no IPv6 addresses.
        let Some((first, second)) = found.filter(|(_, ip)| bound.is_ipv6() || ip.is_ipv4()) else {
            return;
        };
        self.addresses = Some((first, second));
        for port in [Some(self.ports.0), self.ports.1].into_iter().flatten() {
            let place = SocketAddr::new(second, port);
            if self.outlet(place).is_some() {
                continue;
            }
            if let Err(error) = self.add(place) {
                tracing::warn!(%error, "no STUN at the second address {place}; choose another with \
                    second_address, or off");
                self.addresses = None;
            }
        }
    }

    fn add(&mut self, place: SocketAddr) -> std::io::Result<u16> {
        let outlet = Outlet::new(Arc::new(Socket::bind(Some(place))?))?;
        let port = outlet.bound.port();
        self.outlets.push(outlet);
        Ok(port)
    }

    /// Says what there is.
    pub(crate) fn log(&self) {
        if let Some(port) = self.ports.1 {
            match self.addresses {
                Some((_, ip)) => tracing::info!("STUN is answered at port {port} and at {ip} too"),
                None => tracing::info!("STUN is answered at port {port} too"),
            }
        }
    }

    /// The sockets beside the main one.
    pub(crate) fn further(&self) -> impl Iterator<Item = &Arc<Socket>> {
        self.outlets.iter().skip(1).map(|outlet| &outlet.socket)
    }

    /// What there is beside a place at which a request arrived.
    pub(crate) fn place(&self, here: SocketAddr) -> Place {
        let port = if here.port() == self.ports.0 { self.ports.1 } else { Some(self.ports.0) };
        let address = self.addresses.and_then(|(first, second)| match here.ip() {
            ip if ip == first => Some(second),
            ip if ip == second => Some(first),
            _ => None,
        });
        let at = |ip, port: Option<u16>| self.outlet(SocketAddr::new(ip, port?));
        Place {
            here,
            other_address: address.filter(|ip| at(*ip, port).is_some()),
            other_port: port.filter(|port| at(here.ip(), Some(*port)).is_some()),
        }
    }

    /// The socket that answers from a place.
    pub(crate) fn outlet(&self, place: SocketAddr) -> Option<&Arc<Socket>> {
        self.outlets.iter().find(|outlet| outlet.is_at(place)).map(|outlet| &outlet.socket)
    }
}
