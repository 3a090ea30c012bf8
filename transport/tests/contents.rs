//! A stored file's contents between two ports, over a path that takes time.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use protocol::opening::Local;
use punchcast_transport::identity::Identity;
use punchcast_transport::paths::Paths;
use punchcast_transport::port::{Deaf, Inbound, Port, Server};
use punchcast_transport::tls::Pin;
use punchcast_transport::ways::Ways;

const ALPN: &[u8] = b"contents";

/// Bytes of a datagram that are contents, at least, where much is sent.
const USED: u64 = 1100;

/// What is written at once, in bytes: byte `n` of the contents is `n % 251`.
const PIECE: usize = 251 * 1024;

fn nothing(_: &Arc<Ways>, _: &Arc<Paths>) -> Arc<dyn Inbound> {
    Arc::new(Deaf)
}

/// A path between two addresses: each end sends to a socket of its own here.
struct Link {
    to_server: SocketAddr,
    to_client: SocketAddr,
    /// Datagrams from server to client.
    passed: Arc<AtomicU64>,
}

/// Passes on what comes to `from`, from `by`, to `to`, so much later.
fn pass_on(from: &UdpSocket, by: &UdpSocket, to: SocketAddr, delay: Duration) -> Arc<AtomicU64> {
    let [from, by] = [from, by].map(|socket| socket.try_clone().expect("a socket"));
    let passed = Arc::<AtomicU64>::default();
    let counter = Arc::clone(&passed);
    let (sender, waiting) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, _)) = from.recv_from(&mut buffer) {
            counter.fetch_add(1, Ordering::Relaxed);
            if sender.send((Instant::now() + delay, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (due_at, datagram) in waiting {
            std::thread::sleep(due_at.saturating_duration_since(Instant::now()));
            let _ = by.send_to(&datagram, to);
        }
    });
    passed
}

impl Link {
    fn new(server: SocketAddr, client: SocketAddr, delay: Duration) -> Self {
        let [at_server, at_client] =
            std::array::from_fn(|_| UdpSocket::bind("127.0.0.1:0").expect("a port"));
        let (to_client, to_server) = (&at_server, &at_client);
        pass_on(to_server, to_client, server, delay);
        let passed = pass_on(to_client, to_server, client, delay);
        let at = |socket: &UdpSocket| socket.local_addr().expect("bound");
        Self { to_server: at(to_server), to_client: at(to_client), passed }
    }
}

/// Sends so much from a server to a client, each way taking `delay`.
async fn transfer(length: usize, delay: Duration) -> (Duration, u64, u64) {
    let identity = Identity::ephemeral();
    let server = Server {
        identity: &identity,
        ask_client: false,
        alpn: ALPN,
        strangers: false,
        own_thread: true,
    };
    let any = "127.0.0.1:0".parse().ok();
    let server = Port::open(any, Some(server), nothing).expect("a port");
    let client = Port::open(any, None, nothing).expect("a port");
    let at = |port: &Port| port.socket().local_addr().expect("bound");
    let link = Link::new(at(&server), at(&client), delay);
    server.paths().set(server.paths().new_peer(), Local::MAIN, link.to_client);
    let peer = client.paths().new_peer();
    client.paths().set(peer, Local::MAIN, link.to_server);
    let endpoint = server.endpoint().clone();
    let serving = tokio::spawn(async move {
        let connection = endpoint.accept().await.expect("asked").await.expect("connected");
        let (mut send, mut receive) = connection.accept_bi().await.expect("a stream");
        receive.read_to_end(16).await.expect("asked");
        let piece = bytes(PIECE);
        for _ in 0..length / piece.len() {
            send.write_all(&piece).await.expect("taken");
        }
        send.finish().expect("open");
        let _ = send.stopped().await;
    });
    let pin = Pin::to(identity.id());
    let connecting = client.connect_peer(peer, pin, ALPN, delay * 2).expect("a path");
    let connection = connecting.await.expect("connected");
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    send.write_all(b"contents").await.expect("taken");
    send.finish().expect("open");
    let began_at = Instant::now();
    let (mut buffer, mut received) = (vec![0; PIECE], 0);
    let expected = bytes(PIECE + 251);
    while let Some(count) = receive.read(&mut buffer).await.expect("contents") {
        assert!(buffer[..count] == expected[received % 251..][..count], "at {received}");
        received += count;
    }
    assert_eq!(received, length / PIECE * PIECE);
    let took = began_at.elapsed();
    serving.await.expect("served");
    let dropped = client.dropped().overflow.load(Ordering::Relaxed);
    (took, link.passed.load(Ordering::Relaxed), dropped)
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_are_sent_once_and_none_are_dropped() {
    const LENGTH: usize = 32 << 20;
    let (took, datagrams, dropped) = transfer(LENGTH, Duration::from_millis(20)).await;
    println!("{} Mbit/s", LENGTH as u128 * 8 / took.as_micros());
    assert_eq!(dropped, 0);
    let needed = LENGTH as u64 / USED;
    assert!(datagrams < needed * 11 / 10, "{datagrams} datagrams for what needs {needed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, and takes a while"]
async fn throughput() {
    for rtt in [0, 10, 30, 100] {
        const LENGTH: usize = 128 << 20;
        let (took, datagrams, dropped) = transfer(LENGTH, Duration::from_millis(rtt) / 2).await;
        let rate = LENGTH as u128 * 8 / took.as_micros();
        println!("RTT {rtt} ms: {rate} Mbit/s, {datagrams} datagrams, {dropped} dropped");
    }
}
