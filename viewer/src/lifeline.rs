//! What a viewer does beside its agent until there is a good path: stays in contact with the
//! rendezvous, gets a relayed address where no direct path opens soon, and tries another socket where a
//! router may have taken the port of the first.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use protocol::candidate::{Candidate, CandidateKind};
use protocol::opening::{IMPROVEMENT_TIME, Local, Role, State, plan};
use protocol::signalling::{Introduction, RelayOffer, RelayServer, Update};
use tokio::sync::mpsc;
use transport::addresses::host_candidates;
use transport::effort::Words;
use transport::mapping::PortMapping;
use transport::openings::Handle;
use transport::port::Port;
use transport::relay::{RelayAccess, RelayFamily};

use crate::contact::Contact;

/// Contact with the rendezvous ends when there is a direct path and it had time to get better, or after
/// so long: a search is over by then.
const LONGEST: Duration = Duration::from_secs(12);

/// When the router is asked for a port, if there is no direct path by then, and how long it may take.
const MAPPING_AFTER: Duration = Duration::from_millis(300);
const MAPPING_TIME: Duration = Duration::from_secs(5);

/// How long the word of another socket may take to the broadcaster, at least and at most.
const SHORTEST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_millis(150);

/// One more socket of ours, as the rendezvous sees it.
#[derive(Debug)]
pub(crate) struct OtherSocket {
    local: Local,
    candidate: Candidate,
    /// Round trip to the rendezvous.
    rtt: Duration,
}

/// A relayed address that a rendezvous or the configuration offers.
#[derive(Debug, Clone)]
pub(crate) struct RelayChoice {
    /// By configuration: before what the rendezvous offers.
    pub(crate) own: Option<RelayOffer>,
    /// Whether any relay is used.
    pub(crate) is_allowed: bool,
}

/// What a lifeline works with.
#[derive(Clone)]
pub(crate) struct Lifeline {
    pub(crate) port: Arc<Port>,
    pub(crate) handle: Handle,
    pub(crate) words: Words,
    pub(crate) relay: RelayChoice,
    /// A port that the router maps to ours, once one was asked for. None: never ask.
    pub(crate) mapping: Option<Arc<OnceLock<PortMapping>>>,
    /// The socket that media is wanted at, if it is not the main one.
    pub(crate) receiving: Option<Local>,
}

impl Lifeline {
    /// Goes on until there is a good path, or nothing more to try. Returns true where the broadcaster
    /// says that it knows this introduction no more.
    pub(crate) async fn run(self, mut contact: Contact, introduction: Introduction) -> bool {
        let plan = plan(Role::Viewer, &contact.behaviour, &introduction.peer.behaviour);
        tracing::debug!(
            introduction = %introduction.id,
            own = ?contact.behaviour,
            peer = ?introduction.peer.behaviour,
            ?plan,
            "opening"
        );
        let updates = contact.updates.clone();
        let server = contact.server();
        let is_gone = {
            let passing = contact.pass_on(&self.words);
            let relaying = async {
                if self.no_path_after(plan.relay_after).await {
                    self.use_relay(&introduction, server, &updates).await;
                }
            };
            let rebinding = async {
                let Some(after) = plan.rebind_after else { return };
                if self.no_path_after(after).await {
                    self.rebind(server, &updates).await;
                }
            };
            let receiving = self.receive_elsewhere(server, &updates);
            let mapping = async {
                if self.no_path_after(MAPPING_AFTER).await {
                    self.map_port(server, &updates).await;
                }
            };
            let enough = async {
                let opening = async {
                    tokio::join!(relaying, rebinding, mapping, receiving);
                    self.handle.direct().await;
                    tokio::time::sleep(IMPROVEMENT_TIME).await;
                };
                let _ = tokio::time::timeout(LONGEST, opening).await;
            };
            tokio::select! {
                is_gone = passing => is_gone,
                () = enough => false,
            }
        };
        contact.close();
        self.tidy();
        is_gone
    }

    /// Waits so long, or until there is a direct path; whether there is none.
    async fn no_path_after(&self, time: Duration) -> bool {
        let over = tokio::time::timeout(time, self.handle.direct()).await.is_ok();
        !over && !self.handle.state().is_over()
    }

    /// Gets a relayed address, and tells the broadcaster of it.
    async fn use_relay(
        &self,
        introduction: &Introduction,
        server: SocketAddr,
        updates: &mpsc::Sender<(protocol::opening::IntroductionId, Update)>,
    ) {
        if self.handle.state() == State::Open {
            // A relayed path works already; this round looks for a direct one.
            return;
        }
        let offer = self.relay.own.as_ref().or(introduction.relay.as_ref());
        let Some(offer) = offer.filter(|_| self.relay.is_allowed) else { return };
        let Some(relay_server) = self.find(&offer.server, server).await else { return };
        let access = RelayAccess {
            server: relay_server,
            username: offer.username.clone(),
            password: offer.password.clone(),
            family: RelayFamily::V4,
        };
        let (local, relay) = match self.port.add_relay(&access) {
            Ok(added) => added,
            Err(error) => {
                tracing::debug!(%error, "no relay");
                return;
            }
        };
        let peers = introduction.remote();
        for peer in peers.iter().filter(|peer| {
            peer.address.is_ipv4()
                && matches!(peer.kind, CandidateKind::Mapped | CandidateKind::Reflexive)
        }) {
            relay.permit(peer.address);
        }
        match relay.allocated().await {
            Ok(relayed) => {
                tracing::debug!(%relayed, "relayed address");
                let candidates = vec![Candidate::new(relayed, CandidateKind::Relayed)];
                self.handle.add_local(local, true, candidates.clone());
                let update = Update { candidates, ..Update::default() };
                let _ = updates.send((self.handle.id(), update)).await;
            }
            Err(error) => {
                tracing::info!("no relayed address: {error}");
                self.port.ways().remove(local);
            }
        }
    }

    /// The relay's address.
    async fn find(&self, relay: &RelayServer, rendezvous: SocketAddr) -> Option<SocketAddr> {
        match relay {
            RelayServer::SameHost { port } => Some(SocketAddr::new(rendezvous.ip(), *port)),
            RelayServer::At { host, port } => {
                let found = transport::signalling::resolve(&self.port, host, *port).await;
                let found = found.inspect_err(|error| tracing::info!("no relay: {error}"));
                found.ok()?.into_iter().min_by_key(|address| address.is_ipv6())
            }
        }
    }

    /// Opens another socket, learns how it is seen, and tells the broadcaster.
    async fn rebind(
        &self,
        server: SocketAddr,
        updates: &mpsc::Sender<(protocol::opening::IntroductionId, Update)>,
    ) {
        if let Some(socket) = another_socket(&self.port, server).await {
            self.use_socket(socket, updates).await;
        }
    }

    /// Tells the broadcaster of another socket, and opens on it as the broadcaster begins to: a
    /// router that takes what it did not ask for as its own does so with the first packet to come
    /// before its own host's has left, so neither side may be much earlier than the other. The word
    /// takes about as long by way of the rendezvous as a packet does directly.
    pub(crate) async fn use_socket(
        &self,
        OtherSocket { local, candidate, rtt }: OtherSocket,
        updates: &mpsc::Sender<(protocol::opening::IntroductionId, Update)>,
    ) {
        let update = Update { candidates: vec![candidate], ..Update::default() };
        let _ = updates.send((self.handle.id(), update)).await;
        let one_way = self.handle.rtt().unwrap_or(rtt) / 2;
        tokio::time::sleep(one_way.clamp(SHORTEST_WAIT, LONGEST_WAIT)).await;
        self.handle.add_local(local, false, vec![candidate]);
    }

    /// Opens the socket that media is wanted at towards the broadcaster, and tells it of the socket.
    async fn receive_elsewhere(
        &self,
        server: SocketAddr,
        updates: &mpsc::Sender<(protocol::opening::IntroductionId, Update)>,
    ) {
        let Some(local) = self.receiving else { return };
        let Some(seen) = self.port.bindings().ask(local, server).await else { return };
        let bound = self.port.ways().socket(local).and_then(|socket| socket.local_addr().ok());
        let hosts = bound.map(|bound| host_candidates(bound, server.ip().is_loopback()));
        let mut candidates = hosts.unwrap_or_default();
        candidates.push(Candidate::new(seen, CandidateKind::Reflexive));
        self.handle.add_media_local(local, candidates.clone());
        let update = Update { candidates, ..Update::default() };
        let _ = updates.send((self.handle.id(), update)).await;
    }

    /// Asks the router for an external port, and tells the broadcaster of it.
    async fn map_port(
        &self,
        server: SocketAddr,
        updates: &mpsc::Sender<(protocol::opening::IntroductionId, Update)>,
    ) {
        let Some(mapping) = self.mapping.as_ref().filter(|_| !server.ip().is_loopback()) else {
            return;
        };
        let Ok(bound) = self.port.socket().local_addr() else { return };
        let mapping = mapping.get_or_init(|| PortMapping::start(bound.port()));
        let mut mapped = mapping.watch();
        let found = tokio::time::timeout(MAPPING_TIME, mapped.wait_for(Option::is_some)).await;
        let external =
            found.ok().and_then(Result::ok).and_then(|mapped| mapped.map(|m| m.external));
        if let Some(external) = external.filter(|_| !self.handle.is_direct()) {
            let candidates = vec![Candidate::new(external, CandidateKind::Mapped)];
            self.handle.told(Local::MAIN, &candidates);
            let update = Update { candidates, ..Update::default() };
            let _ = updates.send((self.handle.id(), update)).await;
        }
    }

    /// Closes what the path does not need.
    fn tidy(&self) {
        let used = self.handle.path_pair().map(|pair| pair.local);
        if self.handle.state() != State::Open {
            return;
        }
        for local in self.port.ways().locals() {
            if Some(local) != used && Some(local) != self.receiving {
                self.handle.remove_local(local);
                self.port.ways().remove(local);
            }
        }
    }
}

/// One more socket of ours, and where `server` sees it.
pub(crate) async fn another_socket(port: &Port, server: SocketAddr) -> Option<OtherSocket> {
    let local = match port.add_socket(0) {
        Ok(local) => local,
        Err(error) => {
            tracing::debug!(%error, "no other socket");
            return None;
        }
    };
    let asked_at = Instant::now();
    let Some(seen) = port.bindings().ask(local, server).await else {
        port.ways().remove(local);
        return None;
    };
    let rtt = asked_at.elapsed();
    Some(OtherSocket { local, candidate: Candidate::new(seen, CandidateKind::Reflexive), rtt })
}
