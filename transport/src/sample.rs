//! Where a router's sequence of external ports stands: seen by one question from a fresh socket, whose
//! mapping is the next of the sequence.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use protocol::stun::{binding_request, mapped_address};

/// When a question is repeated, which moves no sequence on: the mapping is there.
const REPEATED_AFTER: Duration = Duration::from_millis(150);

/// How often.
const TRIES: usize = 4;

/// The external address of a fresh socket towards `server`. The question leaves before this returns,
/// so that several of them, and what is sent between them, move the sequence on in that order.
pub fn sample(
    server: SocketAddr,
) -> io::Result<impl Future<Output = Option<SocketAddr>> + Send + use<>> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_nonblocking(true)?;
    let (transaction, request) = binding_request(&mut rand::rng());
    socket.send_to(&request, server)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    Ok(async move {
        let mut buffer = [0; 512];
        for _ in 0..TRIES {
            let answer = async {
                loop {
                    // An ICMP error is no answer.
                    let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
                    let mapped = mapped_address(&buffer[..length], transaction);
                    if let Some(mapped) = mapped.filter(|_| from == server) {
                        return mapped;
                    }
                }
            };
            if let Ok(mapped) = tokio::time::timeout(REPEATED_AFTER, answer).await {
                return Some(mapped);
            }
            socket.send_to(&request, server).await.ok()?;
        }
        None
    })
}
