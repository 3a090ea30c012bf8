//! Messages on a stream between two ports, cut anywhere, and what is no message.

use std::sync::Arc;
use std::time::Duration;

use protocol::message::{self, MAX_MESSAGE, MessageError};
use protocol::opening::Local;
use punchcast_transport::identity::Identity;
use punchcast_transport::paths::Paths;
use punchcast_transport::port::{Deaf, Inbound, Port, Server};
use punchcast_transport::stream::{self, ReadError, Reader};
use punchcast_transport::tls::Pin;
use punchcast_transport::ways::Ways;
use quinn::{ReadExactError, RecvStream, SendStream};

const ALPN: &[u8] = b"messages";

fn nothing(_: &Arc<Ways>, _: &Arc<Paths>) -> Arc<dyn Inbound> {
    Arc::new(Deaf)
}

/// Both ends of one connection.
struct Pair {
    client: quinn::Connection,
    server: quinn::Connection,
    _ports: [Port; 2],
}

impl Pair {
    async fn new() -> Self {
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
        server.paths().set(server.paths().new_peer(), Local::MAIN, at(&client));
        let peer = client.paths().new_peer();
        client.paths().set(peer, Local::MAIN, at(&server));
        let endpoint = server.endpoint().clone();
        let accepted = tokio::spawn(async move {
            endpoint.accept().await.expect("asked").await.expect("connected")
        });
        let pin = Pin::to(identity.id());
        let connecting = client.connect_peer(peer, pin, ALPN, Duration::from_millis(50));
        let connected = connecting.expect("a path").await.expect("connected");
        let server_end = accepted.await.expect("accepted");
        Self { client: connected, server: server_end, _ports: [server, client] }
    }

    /// A stream on which the client has written this, and its other end.
    async fn stream(&self, bytes: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, _) = self.client.open_bi().await.expect("a stream");
        send.write_all(bytes).await.expect("taken");
        let (_, receive) = self.server.accept_bi().await.expect("a stream");
        (send, receive)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_whole_wherever_they_are_cut() {
    let pair = Pair::new().await;
    let said = ["one".to_owned(), String::new(), "x".repeat(MAX_MESSAGE - 5)];
    let bytes: Vec<u8> = said.iter().flat_map(message::encode).collect();
    for cut in [1, 3, 4, 6, 8, 12, bytes.len() - 1] {
        let (mut send, receive) = pair.stream(&bytes[..cut]).await;
        let mut reader = Reader::new(receive);
        let mut heard = Vec::<String>::new();
        // Waits that are given up lose nothing.
        while let Ok(next) =
            tokio::time::timeout(Duration::from_millis(50), reader.next::<String>()).await
        {
            heard.push(next.expect("a message"));
        }
        assert!(heard.len() < said.len(), "cut at {cut}");
        send.write_all(&bytes[cut..]).await.expect("taken");
        send.finish().expect("open");
        while heard.len() < said.len() {
            heard.push(reader.next().await.expect("a message"));
        }
        assert!(heard == said, "cut at {cut}");
        assert!(matches!(reader.next::<String>().await, Err(ReadError::Finished)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_after_the_other_until_the_stream_ends() {
    let pair = Pair::new().await;
    let (mut send, mut receive) = pair.stream(&message::encode(&"one".to_owned())).await;
    stream::write(&mut send, &2_u32).await.expect("taken");
    send.finish().expect("open");
    assert_eq!(stream::read::<String>(&mut receive).await.expect("a message"), "one");
    assert_eq!(stream::read::<u32>(&mut receive).await.expect("a message"), 2);
    assert!(matches!(stream::read::<u32>(&mut receive).await, Err(ReadError::Finished)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_is_refused() {
    let pair = Pair::new().await;
    let too_long = (MAX_MESSAGE as u32 + 1).to_be_bytes();
    let number = message::encode(&7_u32);
    let text = message::encode(&"text".to_owned());
    type Check = fn(&ReadError) -> bool;
    let table: [(&[u8], Check); 5] = [
        (
            &too_long,
            |error| matches!(error, ReadError::Message(MessageError::TooLong { actual }) if *actual == MAX_MESSAGE + 1),
        ),
        (&number, |error| matches!(error, ReadError::Message(MessageError::Malformed(_)))),
        (&[0, 0, 0, 0], |error| matches!(error, ReadError::Message(MessageError::Malformed(_)))),
        (&text[..2], |error| matches!(error, ReadError::Broken(ReadExactError::FinishedEarly(2)))),
        (&text[..6], |error| matches!(error, ReadError::Broken(ReadExactError::FinishedEarly(_)))),
    ];
    for (bytes, expected) in table {
        for at_once in [true, false] {
            let (mut send, mut receive) = pair.stream(bytes).await;
            send.finish().expect("open");
            let result = if at_once {
                stream::read::<String>(&mut receive).await
            } else {
                Reader::new(receive).next::<String>().await
            };
            let error = result.expect_err("no message");
            assert!(expected(&error), "{bytes:02x?}: {error:?}");
        }
    }
}
