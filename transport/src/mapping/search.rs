//! Finding the default gateway's UPnP service.
//!
//! Any machine of the LAN may answer a search, and igd would go and read what it points to. So igd
//! searches through a filter: it sends to a socket of ours on loopback, which passes the search on to
//! the LAN, and lets nothing in but answers from the gateway.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{GatewayIpVersion, SearchError, SearchOptions};
use socket2::SockRef;
use tokio::net::UdpSocket;

use super::gateway::Route;

/// UPnP's multicast group and port.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const PORT: u16 = 1900;

/// Answers may be put off by 3 s, as the search itself says, and two documents are read then.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(6);

/// Searches get lost, and are sent once more after this time.
const REPEAT_AFTER: Duration = Duration::from_millis(500);

/// Longer than any search, and than any answer that igd reads.
const BUFFER_LENGTH: usize = 1500;

/// igd searches for a few kinds of service, a datagram each.
const MOST_SEARCHES: usize = 8;

/// An honest router answers each search a few times.
const MOST_ANSWERS: usize = 64;

/// Looks for a UPnP service of the gateway itself.
pub(super) async fn search(route: Route) -> Result<Gateway<Tokio>, SearchError> {
    let filter = Filter::new(route).await?;
    let mut options = SearchOptions::default();
    options.bind_addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    options.broadcast_address = filter.inside.local_addr()?;
    options.timeout = Some(SEARCH_TIMEOUT);
    options.gateway_ip_version = GatewayIpVersion::V4;
    options.allowed_gateway_ips = vec![route.gateway.into()];
    tokio::select! {
        found = search_gateway(options) => found,
        error = filter.run() => Err(error.into()),
    }
}

struct Filter {
    gateway: Ipv4Addr,
    /// Towards igd.
    inside: UdpSocket,
    /// Towards the LAN.
    outside: UdpSocket,
}

impl Filter {
    async fn new(route: Route) -> io::Result<Self> {
        let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let outside = UdpSocket::bind((route.local, 0)).await?;
        SockRef::from(&outside).set_multicast_if_v4(&route.local)?;
        Ok(Self { gateway: route.gateway, inside, outside })
    }

    /// Passes searches and answers on, until a socket fails.
    async fn run(&self) -> io::Error {
        match self.pass_on().await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    }

    /// Ends without an error once the gateway has answered more than enough.
    async fn pass_on(&self) -> io::Result<()> {
        let (mut from_inside, mut from_outside) = ([0; BUFFER_LENGTH], [0; BUFFER_LENGTH]);
        let mut searches: Vec<Vec<u8>> = Vec::new();
        let mut searcher = None;
        let mut answers = 0;
        let mut repeated = false;
        let repeat = tokio::time::sleep(REPEAT_AFTER);
        tokio::pin!(repeat);
        while answers < MOST_ANSWERS {
            tokio::select! {
                received = self.inside.recv_from(&mut from_inside) => {
                    let (length, source) = received?;
                    if searches.len() < MOST_SEARCHES {
                        let search = self.for_everybody(&from_inside[..length])?;
                        self.send(&search).await?;
                        searches.push(search);
                        searcher = Some(source);
                    }
                }
                received = self.outside.recv_from(&mut from_outside) => {
                    let (length, source) = received?;
                    if let Some(searcher) = searcher
                        && source.ip() == IpAddr::V4(self.gateway)
                    {
                        self.inside.send_to(&from_outside[..length], searcher).await?;
                        answers += 1;
                    }
                }
                () = &mut repeat, if !repeated => {
                    for search in &searches {
                        self.send(search).await?;
                    }
                    repeated = true;
                }
            }
        }
        Ok(())
    }

    /// The search with the group's address, which some routers insist on, in the place of ours.
    fn for_everybody(&self, search: &[u8]) -> io::Result<Vec<u8>> {
        let ours = self.inside.local_addr()?.to_string();
        let text = String::from_utf8_lossy(search);
        Ok(text.replace(&ours, &format!("{GROUP}:{PORT}")).into_bytes())
    }

    /// To the group, and, for routers that listen to that alone, to the gateway itself.
    async fn send(&self, search: &[u8]) -> io::Result<()> {
        self.outside.send_to(search, (GROUP, PORT)).await?;
        self.outside.send_to(search, (self.gateway, PORT)).await?;
        Ok(())
    }
}
