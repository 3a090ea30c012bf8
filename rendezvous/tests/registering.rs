//! Broadcasters that register again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::signalling::{FromRendezvous, Introduction, Party, ToRendezvous};
use rendezvous::{Config, Directory, Server};
use transport::identity::Identity;
use transport::port::{Deaf, Port};
use transport::signalling::Signalling;

/// How long anything may take to be told.
const PATIENCE: Duration = Duration::from_secs(10);

fn port() -> Port {
    Port::open(None, None, |_, _| Arc::new(Deaf)).expect("a port")
}

async fn introduction(signalling: &mut Signalling) -> Introduction {
    let told = tokio::time::timeout(PATIENCE, signalling.receive()).await.expect("it is told");
    match told.expect("an answer") {
        FromRendezvous::Introduction { introduction } => introduction,
        other => panic!("{other:?}"),
    }
}

async fn register(port: &Port, at: SocketAddr, identity: &Identity) -> Signalling {
    let mut signalling =
        Signalling::connect(port, &[at], Some(identity)).await.expect("a rendezvous");
    let party = Party::default();
    signalling.send(&ToRendezvous::Register { party, token: None }).await.expect("it listens");
    let hello = signalling.receive().await.expect("an answer");
    assert!(matches!(hello, FromRendezvous::Registered { .. }), "{hello:?}");
    signalling
}

/// The former registration may have been dead when it was said who comes.
#[tokio::test]
async fn who_registers_again_is_told_again_who_waits() {
    let listen = "127.0.0.1:0".parse().expect("an address");
    let config = Config { listen, ..Config::default() };
    let server = Server::start(&config, Arc::<Directory>::default()).expect("a rendezvous");
    let at = server.local_addr();
    let (broadcaster, viewer) = (port(), port());
    let (identity, other) = (Identity::ephemeral(), Identity::ephemeral());
    let mut registered = register(&broadcaster, at, &identity).await;

    let mut asking = Signalling::connect(&viewer, &[at], None).await.expect("a rendezvous");
    let (party, renews) = (Party::default(), None);
    let ask = ToRendezvous::Introduce { broadcaster: identity.id(), party, renews };
    asking.send(&ask).await.expect("it listens");
    let asked = introduction(&mut asking).await;
    let first = introduction(&mut registered).await;
    assert_eq!((first.id, first.secret), (asked.id, asked.secret));

    // Somebody else is not told.
    let mut stranger = register(&broadcaster, at, &other).await;
    let mut again = register(&broadcaster, at, &identity).await;
    assert_eq!(introduction(&mut again).await, first);
    let ask =
        ToRendezvous::Introduce { broadcaster: other.id(), party: Party::default(), renews: None };
    asking.send(&ask).await.expect("it listens");
    let asked = introduction(&mut asking).await;
    let told = introduction(&mut stranger).await;
    assert_eq!(told.id, asked.id, "the first that it hears of");
    assert_ne!(told.id, first.id);
    server.stop().await;
}
