//! What a port drops unread is counted by its reason.

use std::sync::Arc;
use std::time::Duration;

use punchcast_transport::identity::Identity;
use punchcast_transport::port::{Deaf, Port, Server};

#[tokio::test]
async fn what_is_dropped_is_counted_by_its_reason() {
    let server = Server {
        identity: &Identity::ephemeral(),
        ask_client: false,
        alpn: b"test",
        strangers: false,
        own_thread: false,
    };
    let here = "127.0.0.1:0".parse().expect("an address");
    let port = Port::open(Some(here), Some(server), |_, _| Arc::new(Deaf)).expect("loopback");
    let at = port.socket().local_addr().expect("bound");
    let nobody = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
    // DTLS twice; the beginning of a QUIC packet; and media, which is read.
    for first in [20, 21, 0xc0, 0x80] {
        nobody.send_to(&[first; 40], at).await.expect("loopback takes it");
    }
    let expected = [("unknown", 2), ("stranger", 1), ("overflow", 0)];
    let counted = async {
        while port.dropped().by_reason() != expected {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(10), counted).await;
    assert!(waited.is_ok(), "{:?}", port.dropped());
}
