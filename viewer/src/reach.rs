//! Why the rendezvous gave no answer: nothing listens, the host is gone, or no UDP gets out here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use protocol::stun::binding_request;
use service::exit::{Code, Failure};
use transport::signalling::SignallingError;

/// How long each probe may take: together with connecting, an answer within five seconds.
const PROBE: Duration = Duration::from_millis(1200);

/// What the silence of a server means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Its host answers TCP and not UDP: a firewall here.
    UdpBlocked,
    /// Its host says that nothing listens there.
    NothingListens,
    /// No word of its host.
    NoWord,
}

/// Finds out why a server gave no answer to UDP.
pub(crate) async fn silence(server: SocketAddr) -> Silence {
    match tokio::join!(udp_is_refused(server), tcp_is_answered(server)) {
        (true, _) => Silence::NothingListens,
        (false, true) => Silence::UdpBlocked,
        (false, false) => Silence::NoWord,
    }
}

/// Turns a failed connection to the rendezvous into what the user should know and try.
pub(crate) async fn explain(error: SignallingError, servers: &[SocketAddr]) -> Failure {
    let no_answer = matches!(error, SignallingError::NoAnswer { .. });
    if let Some(&server) = servers.first().filter(|_| no_answer) {
        match silence(server).await {
            Silence::UdpBlocked => {
                return Failure::new(
                    Code::NoPath,
                    format!(
                        "no UDP gets through to {server}, though its host answers TCP: a firewall \
                         here blocks UDP; allow outgoing UDP, or watch from another network"
                    ),
                );
            }
            Silence::NothingListens => {
                return Failure::new(
                    Code::RendezvousUnreachable,
                    format!(
                        "nothing listens at the rendezvous {server}; check the link, and that \
                         punchcast-rendezvous is running there"
                    ),
                );
            }
            Silence::NoWord => {}
        }
    }
    Failure::new(
        Code::RendezvousUnreachable,
        format!("{error}; check the link and this machine's network, and try again"),
    )
}

/// Whether the host says that nothing listens on the port (ICMP port unreachable).
async fn udp_is_refused(server: SocketAddr) -> bool {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let probe = async {
        let socket = tokio::net::UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(server).await?;
        let (_, request) = binding_request(&mut rand::rng());
        socket.send(&request).await?;
        let mut answer = [0; 64];
        socket.recv(&mut answer).await
    };
    match tokio::time::timeout(PROBE, probe).await {
        Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        Ok(Ok(_)) | Err(_) => false,
    }
}

/// Whether the host is there: it takes or refuses a TCP connection.
async fn tcp_is_answered(server: SocketAddr) -> bool {
    match tokio::time::timeout(PROBE, tokio::net::TcpStream::connect(server)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    }
}
