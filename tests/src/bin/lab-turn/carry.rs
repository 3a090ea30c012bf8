//! Our own client, on a socket that is read as a port does it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use transport::relay::{Allocation, RelayAccess, RelayFamily};
use transport::socket::Socket;

/// Between two pings.
const PING_INTERVAL: Duration = Duration::from_millis(20);

pub(crate) async fn run(
    server: SocketAddr,
    username: &str,
    password: &str,
    peer: SocketAddr,
    pings: usize,
) -> anyhow::Result<()> {
    let access = RelayAccess {
        server,
        username: username.to_owned(),
        password: password.to_owned(),
        family: RelayFamily::V4,
    };
    let socket = Arc::new(Socket::bind(Some(SocketAddr::from(([0, 0, 0, 0], 0))))?);
    let allocation = Arc::new(Allocation::begin(Arc::clone(&socket), &access)?);
    let (deliver, mut received) = mpsc::unbounded_channel();
    let handler = Arc::clone(&allocation);
    let reading = tokio::spawn(async move {
        let deliver = |from, _: Option<std::net::IpAddr>, datagram: &mut [u8]| {
            if from == server
                && let Some((source, payload)) = handler.handle(datagram)
            {
                let _ = deliver.send((source, payload.len()));
            }
        };
        socket.receive(1, deliver).await;
    });
    allocation.permit(peer);
    println!("relayed {}", allocation.allocated().await?);

    let mut answered = 0;
    let mut interval = tokio::time::interval(PING_INTERVAL);
    for number in 0_usize.. {
        if answered >= pings {
            break;
        }
        tokio::select! {
            _ = interval.tick() => {
                // Until the relay has let the peer in there is an error.
                let _ = allocation.send(format!("ping {number}").as_bytes(), peer);
            }
            Some((source, _)) = received.recv() => answered += usize::from(source == peer),
        }
    }
    println!("pinged");
    loop {
        tokio::select! {
            Some((source, length)) = received.recv() => println!("got {source} {length}"),
            ended = allocation.ended() => println!("ended {ended}"),
            stop = crate::terminated() => {
                stop?;
                break;
            }
        }
    }
    reading.abort();
    // Its last owner is gone then, and the relayed address freed.
    let _ = reading.await;
    drop(allocation);
    println!("freed");
    Ok(())
}
