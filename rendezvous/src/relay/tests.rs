//! The embedded relay with our own client, over loopback, which only tests may relay to. What it refuses
//! is compared with coturn in the lab (`tests/tests/relay.rs`).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use protocol::address::Policy;
use protocol::units::Bitrate;
use tokio::sync::mpsc;
use transport::relay::{Allocation, RelayAccess, RelayError, RelayFamily};
use transport::socket::Socket;

use super::*;
use crate::metrics::RelayRejection;

const LONG: Duration = Duration::from_secs(10);

fn relay(config: &config::Relay) -> (Relay, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new(service::metrics::registry("rendezvous")));
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let policy = Policy { loopback: true, private: true };
    let relay = Relay::embedded(config, listen, 1, policy, &metrics).expect("loopback has ports");
    (relay, metrics)
}

fn access(relay: &Relay, name: &str) -> RelayAccess {
    let offer = relay.credentials(name, SystemTime::now());
    let server = relay.local_addr().expect("embedded");
    RelayAccess {
        server,
        username: offer.username,
        password: offer.password,
        family: RelayFamily::V4,
    }
}

/// An allocation whose socket is read by a task, as a port does it.
struct Viewer {
    allocation: Arc<Allocation>,
    received: mpsc::UnboundedReceiver<(SocketAddr, Vec<u8>)>,
    reading: JoinHandle<()>,
}

impl Viewer {
    fn begin(access: &RelayAccess) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = Arc::new(Socket::bind(Some(any)).expect("loopback has ports"));
        let allocation =
            Arc::new(Allocation::begin(Arc::clone(&socket), access).expect("a bound socket"));
        let (deliver, received) = mpsc::unbounded_channel();
        let handler = Arc::clone(&allocation);
        let reading = tokio::spawn(async move {
            let deliver = |from, _: Option<std::net::IpAddr>, datagram: &mut [u8]| {
                if from == handler.server()
                    && let Some((peer, range)) = handler.handle(datagram)
                {
                    let range: Range<usize> = range;
                    let _ = deliver.send((peer, datagram[range].to_vec()));
                }
            };
            socket.receive(1, deliver).await;
        });
        Self { allocation, received, reading }
    }

    async fn next(&mut self) -> (SocketAddr, Vec<u8>) {
        tokio::time::timeout(LONG, self.received.recv()).await.expect("in time").expect("reading")
    }

    /// Ends as a program does: nobody reads any more.
    async fn end(self) {
        self.reading.abort();
        let _ = self.reading.await;
    }
}

fn peer() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
    socket.set_read_timeout(Some(LONG)).expect("an option");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

/// Sends until the peer is permitted, and gives what the peer received and from where.
async fn send_until_permitted(
    allocation: &Allocation,
    payload: &[u8],
    peer: &UdpSocket,
) -> (Vec<u8>, SocketAddr) {
    let to = peer.local_addr().expect("bound");
    let sending = async {
        while allocation.send(payload, to).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, sending).await.expect("permitted in time");
    let mut buffer = [0; 2000];
    let (length, from) = peer.recv_from(&mut buffer).expect("relayed");
    (buffer[..length].to_vec(), from)
}

async fn eventually(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_pass_both_ways() {
    let (relay, metrics) = relay(&config::Relay::default());
    let mut viewer = Viewer::begin(&access(&relay, "viewer"));
    let (peer, address) = peer();
    viewer.allocation.permit(address);
    let relayed = viewer.allocation.allocated().await.expect("allocated");
    assert_eq!(viewer.allocation.relayed(), Some(relayed));
    assert_eq!(metrics.relay_allocations.get(), 1);

    let longest = vec![7; 1200];
    let (received, from) = send_until_permitted(&viewer.allocation, &longest, &peer).await;
    assert_eq!((received, from), (longest.clone(), relayed));
    for round in 0..100_u8 {
        let payload = vec![round; 1100 + usize::from(round)];
        peer.send_to(&payload, relayed).expect("sent");
        assert_eq!(viewer.next().await, (address, payload));
    }
    // Another port of the same host needs no permission of its own (RFC 8656, section 9), and comes as
    // an indication, as there is no channel for it.
    let (other, other_address) = self::peer();
    other.send_to(&longest, relayed).expect("sent");
    assert_eq!(viewer.next().await, (other_address, longest));
    assert!(metrics.relay_bytes.get() > 110_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_to_the_allocation_are_not_passed_on() {
    let (relay, metrics) = relay(&config::Relay::default());
    let mut viewer = Viewer::begin(&access(&relay, "viewer"));
    let relayed = viewer.allocation.allocated().await.expect("allocated");
    let (peer, address) = peer();
    peer.send_to(b"unasked", relayed).expect("sent");
    eventually(|| metrics.relay_rejected(RelayRejection::Permission) == 1).await;
    viewer.allocation.permit(address);
    send_until_permitted(&viewer.allocation, b"hello", &peer).await;
    peer.send_to(b"asked", relayed).expect("sent");
    assert_eq!(viewer.next().await, (address, b"asked".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_an_allocation_frees_it() {
    let (relay, metrics) = relay(&config::Relay::default());
    let viewer = Viewer::begin(&access(&relay, "viewer"));
    let relayed = viewer.allocation.allocated().await.expect("allocated");
    viewer.end().await;
    eventually(|| metrics.relay_allocations.get() == 0).await;
    // The socket goes with it.
    eventually(|| UdpSocket::bind(relayed).is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_holds_so_many() {
    let config =
        config::Relay { allocations_per_viewer: 1, allocations: 2, ..config::Relay::default() };
    let (relay, metrics) = relay(&config);
    let refusal = async |name| {
        let viewer = Viewer::begin(&access(&relay, name));
        let refused = match viewer.allocation.allocated().await {
            Ok(_) => None,
            Err(RelayError::Refused { code, .. }) => Some(code),
            Err(other) => panic!("{other}"),
        };
        (viewer, refused)
    };
    let (first, refused) = refusal("one").await;
    assert_eq!(refused, None);
    assert_eq!(refusal("one").await.1, Some(486));
    let (_second, refused) = refusal("two").await;
    assert_eq!(refused, None);
    assert_eq!(refusal("three").await.1, Some(508));
    assert_eq!(metrics.relay_rejected(RelayRejection::Quota), 1);
    assert_eq!(metrics.relay_rejected(RelayRejection::Capacity), 1);
    first.end().await;
    eventually(|| metrics.relay_allocations.get() == 1).await;
    assert_eq!(refusal("one").await.1, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_must_be_good() {
    let (relay, metrics) = relay(&config::Relay::default());
    let good = access(&relay, "viewer");
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let expired = relay.credentials("viewer", hour_ago);
    let table = [
        (good.username.clone(), "wrong".to_owned()),
        ("somebody".to_owned(), good.password.clone()),
        (expired.username, expired.password),
    ];
    for (username, password) in table {
        let viewer = Viewer::begin(&RelayAccess { username, password, ..good.clone() });
        let refused = viewer.allocation.allocated().await.expect_err("refused");
        assert!(matches!(refused, RelayError::Refused { code: 401, .. }), "{refused}");
    }
    assert!(metrics.relay_rejected(RelayRejection::Unauthorized) >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_are_kept() {
    // Half a second's worth at once: 100 datagrams of 1,000 bytes.
    let rate_per_viewer = Bitrate::bits_per_second(1_600_000);
    let (relay, metrics) = relay(&config::Relay { rate_per_viewer, ..config::Relay::default() });
    let viewer = Viewer::begin(&access(&relay, "viewer"));
    let (peer, address) = peer();
    viewer.allocation.permit(address);
    let relayed = viewer.allocation.allocated().await.expect("allocated");
    send_until_permitted(&viewer.allocation, b"hello", &peer).await;
    for _ in 0..400 {
        peer.send_to(&[0; 1000], relayed).expect("sent");
    }
    let passed = || metrics.relay_bytes.get() / 1000;
    eventually(|| passed() + metrics.relay_rejected(RelayRejection::Rate) >= 400).await;
    assert!((95..250).contains(&passed()), "{} passed", passed());
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_answered_at_a_bounded_rate() {
    let (relay, metrics) = relay(&config::Relay::default());
    let stranger = peer().0;
    // An Allocate request with REQUESTED-TRANSPORT and no credentials.
    let request = b"\0\x03\0\x08\x21\x12\xa4\x42twelve bytes\0\x19\0\x04\x11\0\0\0";
    for _ in 0..500 {
        stranger.send_to(request, relay.local_addr().expect("embedded")).expect("sent");
    }
    eventually(|| metrics.relay_rejected(RelayRejection::Stranger) >= 400).await;
    stranger.set_nonblocking(true).expect("an option");
    let mut buffer = [0; 200];
    let answers: Vec<usize> = std::iter::from_fn(|| stranger.recv(&mut buffer).ok()).collect();
    assert!((64..=100).contains(&answers.len()), "{} answers", answers.len());
    assert!(answers.iter().all(|length| *length == 76), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_survived() {
    let (relay, _) = relay(&config::Relay::default());
    let viewer = Viewer::begin(&access(&relay, "viewer"));
    viewer.allocation.allocated().await.expect("allocated");
    let server = relay.local_addr().expect("embedded");
    let stranger = peer().0;
    for first in 0..=255_u8 {
        for length in [1, 3, 4, 19, 20, 21, 24, 1500] {
            let mut datagram = vec![first; length];
            if let Some(cookie) = datagram.get_mut(4..8) {
                cookie.copy_from_slice(b"\x21\x12\xa4\x42");
            }
            stranger.send_to(&datagram, server).expect("sent");
        }
    }
    let another = Viewer::begin(&access(&relay, "another"));
    another.allocation.allocated().await.expect("still there");
}

#[tokio::test]
async fn what_is_misconfigured_is_said() {
    let metrics = Arc::new(Metrics::new(service::metrics::registry("rendezvous")));
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let start = |config: config::Relay| Relay::start(&config, listen, listen, &metrics);
    let default = config::Relay::default;
    assert!(start(config::Relay { mode: RelayMode::Off, ..default() }).expect("fine").is_none());
    let incomplete = start(config::Relay { mode: RelayMode::External, ..default() });
    assert!(incomplete.expect_err("no server").message.contains("relay.server"));
    let backwards = start(config::Relay { first_port: 9, last_port: 8, ..default() });
    assert!(backwards.expect_err("no range").message.contains("relay.first_port"));
    let taken = peer().1.port();
    let held = UdpSocket::bind((Ipv4Addr::LOCALHOST, taken)).expect("free again");
    let refused = start(config::Relay { port: Some(taken), ..default() });
    assert!(refused.expect_err("taken").message.contains("relay.port"));
    drop(held);
    assert_eq!(port(&default(), SocketAddr::from(([0, 0, 0, 0], 3478))), 3480);
    assert_eq!(port(&default(), listen), 0);
}
