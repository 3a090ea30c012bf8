//! Who is registered. All access goes through the few methods here, so that a directory shared by
//! several nodes can take this one's place.

use std::time::Instant;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use protocol::candidate::{Candidate, CandidateKind};
use protocol::link::BroadcasterId;
use protocol::signalling::{FromRendezvous, Party};
use tokio::sync::{Notify, mpsc};

/// A registered broadcaster, as an introduction needs it.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Names this registration among all that its broadcaster ever made.
    pub serial: u64,
    /// Its connection, for its present external address and for closing it.
    pub connection: quinn::Connection,
    /// How it describes itself.
    pub party: Party,
    /// Where messages for it go.
    pub messages: mpsc::Sender<FromRendezvous>,
}

/// The server-reflexive candidate of whoever is on a connection.
pub(crate) fn observed(connection: &quinn::Connection) -> Candidate {
    let address = protocol::address::canonical(connection.remote_address());
    Candidate::new(address, CandidateKind::Reflexive)
}

/// The registered broadcasters.
#[derive(Debug, Default)]
pub struct Directory {
    broadcasters: DashMap<BroadcasterId, Registration>,
    /// Somebody registered.
    entered: Notify,
    /// A stand-in for every id, for tests of a rendezvous that lies.
    impostor: Option<BroadcasterId>,
}

impl Directory {
    /// A directory that leads everybody to one broadcaster, whoever was asked for: what a viewer
    /// must not fall for.
    pub fn lying(impostor: BroadcasterId) -> Self {
        Self { impostor: Some(impostor), ..Self::default() }
    }

    /// Enters a broadcaster in place of an older registration, which is returned.
    pub fn enter(&self, id: BroadcasterId, registration: Registration) -> Option<Registration> {
        let older = self.broadcasters.insert(id, registration);
        self.entered.notify_waiters();
        older
    }

    /// Takes a new description from the holder of a registration.
    pub fn update(&self, id: BroadcasterId, serial: u64, party: Party) {
        if let Some(mut entry) = self.broadcasters.get_mut(&id)
            && entry.serial == serial
        {
            entry.party = party;
        }
    }

    /// Forgets a registration, unless a newer one took its place.
    pub fn leave(&self, id: BroadcasterId, serial: u64) {
        if let Entry::Occupied(entry) = self.broadcasters.entry(id)
            && entry.get().serial == serial
        {
            entry.remove();
        }
    }

    /// Whether a broadcaster is registered.
    pub fn has(&self, id: BroadcasterId) -> bool {
        self.broadcasters.contains_key(&id)
    }

    /// The registration of a broadcaster.
    pub fn find(&self, id: BroadcasterId) -> Option<Registration> {
        let id = self.impostor.unwrap_or(id);
        self.broadcasters.get(&id).map(|entry| entry.clone())
    }

    /// The registration of a broadcaster that may be on its way: waited for until `deadline`.
    pub async fn wait_for(&self, id: BroadcasterId, deadline: Instant) -> Option<Registration> {
        loop {
            // Before looking, so that nobody who registers meanwhile is missed.
            let entered = self.entered.notified();
            let found = self.find(id);
            if found.is_some() {
                return found;
            }
            tokio::time::timeout_at(deadline.into(), entered).await.ok()?;
        }
    }

    /// How many are registered.
    pub fn len(&self) -> usize {
        self.broadcasters.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.broadcasters.is_empty()
    }
}
