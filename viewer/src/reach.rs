//! Why the rendezvous gave no answer: nothing listens, the host is gone, or no UDP gets out here.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use protocol::stun::binding_request;
use service::exit::{Code, Failure};
use transport::signalling::SignallingError;

/// How long each probe may take.
const PROBE: Duration = Duration::from_millis(1200);

/// When probing begins beside a connection that does not come: both end within four seconds.
const PROBE_AFTER: Duration = Duration::from_millis(2200);

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

/// Waits for a connection to one of the servers. Where none comes, says what the user should know and
/// try; finding that out begins before the wait is over.
pub(crate) async fn connected<T>(
    connecting: impl Future<Output = Result<T, SignallingError>>,
    servers: &[SocketAddr],
) -> Result<T, Failure> {
    let probing = async {
        tokio::time::sleep(PROBE_AFTER).await;
        match servers.first() {
            Some(&server) => silence(server).await,
            None => Silence::NoWord,
        }
    };
    tokio::pin!(connecting, probing);
    tokio::select! {
        connected = &mut connecting => match connected {
            Ok(connected) => Ok(connected),
            Err(error @ SignallingError::NoAnswer { .. }) => {
                Err(explain(&error, servers, probing.await))
            }
            Err(error) => Err(explain(&error, servers, Silence::NoWord)),
        },
        silence = &mut probing => {
            let connected = connecting.await;
            connected.map_err(|error| match error {
                SignallingError::NoAnswer { .. } => explain(&error, servers, silence),
                _ => explain(&error, servers, Silence::NoWord),
            })
        }
    }
}

/// Turns a failed connection to the rendezvous into what the user should know and try.
fn explain(error: &SignallingError, servers: &[SocketAddr], silence: Silence) -> Failure {
    if let Some(&server) = servers.first() {
        match silence {
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
    if matches!(error, SignallingError::Full { .. }) {
        return Failure::new(Code::RendezvousUnreachable, error);
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
