//! A rendezvous in the hands of somebody else: it reads all that it is told, and introduces as it pleases.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use protocol::behaviour::Behaviour;
use protocol::candidate::{Candidate, CandidateKind};
use protocol::link::BroadcasterId;
use protocol::message::{self, LENGTH_PREFIX};
use protocol::opening::IntroductionId;
use protocol::signalling::{ALPN, FromRendezvous, Introduction, Party, Refusal, ToRendezvous};
use quinn::{Connection, RecvStream};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{self, UnboundedSender};
use transport::identity::Identity;
use transport::port::{self, Deaf, Port};
use transport::{stream, tls};

/// How often a rendezvous that repeats says everything.
const TIMES: usize = 20;

/// A length, and bytes that are no CBOR.
const NONSENSE: [u8; LENGTH_PREFIX + 5] = [0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0xff];

/// Of so many datagrams that go through one that stands between, one is altered.
const ALTERED: u64 = 10;

/// What it does with whoever asks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It introduces as it should, and reads.
    Reads,
    /// It gives each side another secret.
    Splits,
    /// It says everything many times, and to the broadcaster all introductions that ever were.
    Replays,
    /// It leads viewers to each other.
    Pairs,
    /// It says that it is the other side, passes all datagrams on, and alters some.
    StandsBetween,
    /// In place of introductions it says what is no message.
    Babbles,
    /// It says that it knows nobody.
    Denies,
}

/// A rendezvous on a loopback port, until it is dropped.
pub struct Rogue {
    runtime: tokio::runtime::Runtime,
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// All that it was told, and that went through it.
    heard: Mutex<Vec<u8>>,
    broadcasters: Mutex<HashMap<BroadcasterId, Broadcaster>>,
    /// All introductions that were said to broadcasters.
    said: Mutex<Vec<FromRendezvous>>,
    /// Where each viewer is that it led to another.
    viewers: Mutex<Vec<(Candidate, UnboundedSender<FromRendezvous>)>>,
    /// Whom updates for an introduction go to: its viewer, and its broadcaster.
    introduced: Mutex<HashMap<IntroductionId, [UnboundedSender<FromRendezvous>; 2]>>,
}

struct Broadcaster {
    party: Party,
    observed: Candidate,
    messages: UnboundedSender<FromRendezvous>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

fn observed(connection: &Connection) -> Candidate {
    let address = protocol::address::canonical(connection.remote_address());
    Candidate::new(address, CandidateKind::Reflexive)
}

impl Rogue {
    /// Starts one.
    pub fn start(deed: Deed) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let shared = Arc::new(Shared::default());
        let in_runtime = runtime.enter();
        let identity = Identity::ephemeral();
        let server = port::Server {
            identity: &identity,
            ask_client: true,
            alpn: ALPN,
            strangers: true,
            own_thread: false,
        };
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let port = Port::open(Some(listen), Some(server), |_, _| Arc::new(Deaf)).expect("a port");
        let address = port.socket().local_addr().expect("it is bound");
        let all = Arc::clone(&shared);
        runtime.spawn(async move {
            while let Some(incoming) = port.endpoint().accept().await {
                let all = Arc::clone(&all);
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        // Whoever leaves is no matter here.
                        let _ = serve(&connection, deed, &all).await;
                    }
                });
            }
        });
        drop(in_runtime);
        Self { runtime, address, shared }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All that it got to see so far.
    pub fn heard(&self) -> Vec<u8> {
        lock(&self.shared.heard).clone()
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        // Its tasks end with the runtime.
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        std::mem::replace(&mut self.runtime, runtime).shutdown_background();
    }
}

/// Reads a message, and keeps its bytes.
async fn hear(stream: &mut RecvStream, shared: &Shared) -> anyhow::Result<ToRendezvous> {
    let mut prefix = [0; LENGTH_PREFIX];
    stream.read_exact(&mut prefix).await?;
    let mut bytes = vec![0; message::announced_length(prefix)?];
    stream.read_exact(&mut bytes).await?;
    lock(&shared.heard).extend_from_slice(&bytes);
    Ok(message::decode(&bytes)?)
}

async fn serve(connection: &Connection, deed: Deed, shared: &Arc<Shared>) -> anyhow::Result<()> {
    let (mut send, mut receive) = connection.accept_bi().await?;
    let (messages, mut waiting) = mpsc::unbounded_channel::<FromRendezvous>();
    let writing = tokio::spawn(async move {
        while let Some(message) = waiting.recv().await {
            if deed == Deed::Babbles && matches!(message, FromRendezvous::Introduction { .. }) {
                send.write_all(&NONSENSE).await?;
                continue;
            }
            let times = if deed == Deed::Replays { TIMES } else { 1 };
            for _ in 0..times {
                stream::write(&mut send, &message).await?;
            }
        }
        anyhow::Ok(())
    });
    while let Ok(message) = hear(&mut receive, shared).await {
        match message {
            ToRendezvous::Register { party, .. } => {
                let id = tls::peer_id(connection).expect("whoever registers shows a key");
                let observed = observed(connection);
                messages.send(FromRendezvous::Registered { observed })?;
                let broadcaster = Broadcaster { party, observed, messages: messages.clone() };
                lock(&shared.broadcasters).insert(id, broadcaster);
            }
            ToRendezvous::Introduce { broadcaster, party, renews } => {
                if deed == Deed::Denies {
                    let reason = Refusal::UnknownBroadcaster;
                    messages.send(FromRendezvous::Refused { reason })?;
                    continue;
                }
                let asked = Asked { viewer: observed(connection), party, renews };
                introduce(broadcaster, asked, &messages, deed, shared).await?;
            }
            ToRendezvous::Update { introduction, update } => {
                let from_broadcaster = tls::peer_id(connection).is_some();
                let to = lock(&shared.introduced).get(&introduction).cloned();
                if let Some([viewer, broadcaster]) = to
                    && deed != Deed::StandsBetween
                {
                    let to = if from_broadcaster { viewer } else { broadcaster };
                    to.send(FromRendezvous::Update { introduction, update })?;
                }
            }
        }
    }
    writing.abort();
    Ok(())
}

/// A viewer that asks.
struct Asked {
    viewer: Candidate,
    party: Party,
    renews: Option<IntroductionId>,
}

async fn introduce(
    id: BroadcasterId,
    Asked { viewer, party, renews }: Asked,
    messages: &UnboundedSender<FromRendezvous>,
    deed: Deed,
    shared: &Arc<Shared>,
) -> anyhow::Result<()> {
    let (peer, at, mut to_it) = {
        let broadcasters = lock(&shared.broadcasters);
        let broadcaster = broadcasters.get(&id).ok_or_else(|| anyhow::anyhow!("unknown"))?;
        (broadcaster.party.clone(), broadcaster.observed, broadcaster.messages.clone())
    };
    let (introduction, secret) = match renews {
        Some(id) => (id, None),
        None => (IntroductionId(rand::random()), Some(rand::random())),
    };
    let mut to_viewer = Introduction {
        id: introduction,
        secret,
        peer,
        peer_observed: at,
        observed: viewer,
        relay: None,
    };
    let mut to_broadcaster = Introduction {
        id: introduction,
        secret,
        peer: party,
        peer_observed: viewer,
        observed: at,
        relay: None,
    };
    let nobody = || Party { candidates: Vec::new(), behaviour: Behaviour::default() };
    match deed {
        Deed::Splits => to_viewer.secret = secret.map(|_| rand::random()),
        Deed::Pairs => {
            let mut viewers = lock(&shared.viewers);
            let other = viewers.iter().rfind(|(other, _)| *other != viewer);
            if let Some((other, its_messages)) = other {
                (to_viewer.peer, to_viewer.peer_observed) = (nobody(), *other);
                to_it = its_messages.clone();
            }
            viewers.push((viewer, messages.clone()));
        }
        Deed::StandsBetween => {
            let (for_viewer, for_broadcaster) = between(viewer.address, at.address, shared).await?;
            (to_viewer.peer, to_broadcaster.peer) = (nobody(), nobody());
            to_viewer.peer_observed = Candidate::new(for_viewer, CandidateKind::Reflexive);
            to_broadcaster.peer_observed =
                Candidate::new(for_broadcaster, CandidateKind::Reflexive);
        }
        Deed::Reads | Deed::Replays | Deed::Babbles | Deed::Denies => {}
    }
    let both = [messages.clone(), to_it.clone()];
    lock(&shared.introduced).insert(introduction, both);
    let (to_viewer, to_broadcaster) = (
        FromRendezvous::Introduction { introduction: to_viewer },
        FromRendezvous::Introduction { introduction: to_broadcaster },
    );
    let mut said = lock(&shared.said);
    if deed == Deed::Replays {
        said.push(to_broadcaster);
        for message in said.iter() {
            to_it.send(message.clone())?;
        }
    } else {
        to_it.send(to_broadcaster)?;
    }
    messages.send(to_viewer)?;
    Ok(())
}

/// Two sockets, one for the viewer and one for the broadcaster: what comes at one goes out at the other.
async fn between(
    viewer: SocketAddr,
    broadcaster: SocketAddr,
    shared: &Arc<Shared>,
) -> anyhow::Result<(SocketAddr, SocketAddr)> {
    let here = (Ipv4Addr::LOCALHOST, 0);
    let sockets = [UdpSocket::bind(here).await?, UdpSocket::bind(here).await?].map(Arc::new);
    let addresses = (sockets[0].local_addr()?, sockets[1].local_addr()?);
    let [to_viewer, to_broadcaster] = sockets;
    let ways = [
        (Arc::clone(&to_viewer), (Arc::clone(&to_broadcaster), broadcaster)),
        (to_broadcaster, (to_viewer, viewer)),
    ];
    for (from, (out, to)) in ways {
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let mut datagram = [0; 2048];
            let mut count = 0;
            while let Ok(length) = from.recv(&mut datagram).await {
                lock(&shared.heard).extend_from_slice(&datagram[..length]);
                count += 1;
                if count % ALTERED == 0 {
                    let at = rand::random_range(0..length);
                    datagram[at] ^= 1 << rand::random_range(0..8);
                }
                // What does not arrive is lost, as anywhere.
                let _ = out.send_to(&datagram[..length], to).await;
            }
        });
    }
    Ok(addresses)
}
