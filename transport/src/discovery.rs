//! Finding out what the NAT or firewall here does, from sockets of its own: drives
//! [`protocol::behaviour::Discovery`].

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Instant;

pub use protocol::behaviour::{Depth, Report};
use protocol::behaviour::{Discovery, NoAnswer, Setup};
use protocol::size::MAX_DATAGRAM;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

/// Why nothing was found out.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// This machine has no way to the server.
    #[error("no route from here to {server}: {source}")]
    NoRoute {
        /// The server.
        server: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A socket cannot be had.
    #[error("cannot open a UDP socket: {0}")]
    Socket(io::Error),
    /// The server did not answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

/// Finds out what the NAT or firewall between here and `server` does. `server` is a STUN server,
/// best one with a second port and a second address, as a rendezvous has them.
///
/// Takes two round trips, at most [`Discovery::QUICK`], or at most [`Discovery::FULL`]. At most 100
/// datagrams are sent, each of [`protocol::stun::PLAIN_REQUEST`] bytes. Giving up early is fine: the
/// sockets go with the future.
///
/// # Errors
///
/// When there is no way to the server, or no answer from it.
pub async fn discover(server: SocketAddr, depth: Depth) -> Result<Report, DiscoveryError> {
    let sockets = Sockets::open(server, depth.sockets())?;
    let setup = Setup { server, local: sockets.addresses()?, depth };
    let mut discovery = Discovery::new(setup, &mut rand::rng(), Instant::now());
    let mut buffer = [0; MAX_DATAGRAM];
    loop {
        while let Some(transmit) = discovery.poll_transmit() {
            let socket = &sockets.0[transmit.socket];
            // Refused or without room: as if the network had lost it. It is sent again.
            if let Err(error) = socket.send_to(&transmit.payload, transmit.to).await {
                tracing::debug!(%error, to = %transmit.to, "a STUN request was not sent");
            }
        }
        if let Some(outcome) = discovery.outcome() {
            return Ok(outcome?);
        }
        let timeout = discovery.poll_timeout().unwrap_or_else(Instant::now);
        let receive = sockets.receive(&mut buffer);
        match tokio::time::timeout_at(timeout.into(), receive).await {
            Ok(Ok((socket, from, length))) => {
                discovery.handle_datagram(socket, from, &buffer[..length], Instant::now());
            }
            // An ICMP error about some request: that one is answered by silence.
            Ok(Err(error)) => tracing::debug!(%error, "an error came for a STUN request"),
            Err(_) => discovery.handle_timeout(Instant::now()),
        }
    }
}

/// Fresh sockets at the address from which the server is reached.
struct Sockets(Vec<UdpSocket>);

impl Sockets {
    fn open(server: SocketAddr, count: usize) -> Result<Self, DiscoveryError> {
        let ip =
            source_towards(server).map_err(|source| DiscoveryError::NoRoute { server, source })?;
        let open = || {
            let socket = std::net::UdpSocket::bind(SocketAddr::new(ip, 0))?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        };
        let sockets = (0..count).map(|_| open()).collect::<io::Result<_>>();
        sockets.map(Self).map_err(DiscoveryError::Socket)
    }

    fn addresses(&self) -> Result<Vec<SocketAddr>, DiscoveryError> {
        let addresses = self.0.iter().map(UdpSocket::local_addr).collect::<io::Result<_>>();
        addresses.map_err(DiscoveryError::Socket)
    }

    /// The next datagram on any of them, and on which.
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, usize)> {
        poll_fn(|context| self.poll_receive(context, buffer)).await
    }

    fn poll_receive(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr, usize)>> {
        for (index, socket) in self.0.iter().enumerate() {
            let mut buffer = ReadBuf::new(buffer);
            if let Poll::Ready(result) = socket.poll_recv_from(context, &mut buffer) {
                return Poll::Ready(result.map(|from| (index, from, buffer.filled().len())));
            }
        }
        Poll::Pending
    }
}

/// The address of ours that packets to the server have. Nothing is sent: connecting a UDP socket only
/// looks up the route.
fn source_towards(server: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn silence_is_told_in_time() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
        let server = silent.local_addr().expect("bound");
        let began = Instant::now();
        let error = discover(server, Depth::Quick).await.expect_err("nobody answers");
        assert!(matches!(error, DiscoveryError::NoAnswer(_)), "{error}");
        assert!(error.to_string().contains(&server.to_string()), "{error}");
        assert!(began.elapsed() < Discovery::QUICK + Duration::from_millis(500));
    }
}
