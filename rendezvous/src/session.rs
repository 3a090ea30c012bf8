//! One connection: a broadcaster that stays, or a viewer that asks and goes.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use dashmap::DashMap;
use protocol::address::household;
use protocol::link::BroadcasterId;
use protocol::opening::IntroductionId;
use protocol::signalling::{
    FromRendezvous, Introduction, MAX_CANDIDATES, MAX_UPDATE, Party, REPLACED, Refusal,
    ToRendezvous, Token, Update,
};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use transport::stream::{self, ReadError, Reader};
use transport::tls;

use crate::config::Limits;
use crate::directory::{Directory, Registration, observed};
use crate::households::Households;
use crate::metrics::{Metrics, Rejection};
use crate::permits::Permits;
use crate::relay::Relay;

/// How long a new connection may take to say what it wants.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// How long the last word may take to be heard.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Introductions waiting for one broadcaster's connection, at most.
const MOST_WAITING: usize = 256;

/// Messages waiting for one viewer's connection, at most.
const MOST_FOR_VIEWER: usize = 32;

/// Updates that a viewer may send in the life of its connection: far more than opening a path takes.
const MOST_UPDATES: u32 = 512;

/// For how long an introduction is said again to a broadcaster that registers anew: as long as it may take to notice
/// that a connection is dead, and as viewers try.
const AGAIN: Duration = Duration::from_secs(8);

/// Longest time by which one party's introduction is held back for the other's longer way.
const LONGEST_HOLD: Duration = Duration::from_millis(500);

/// The viewers of introductions under way, and whom they were introduced to.
pub(crate) type Introductions = DashMap<IntroductionId, Viewer>;

/// A viewer that is being introduced.
#[derive(Debug)]
pub(crate) struct Viewer {
    broadcaster: BroadcasterId,
    messages: mpsc::Sender<FromRendezvous>,
    /// What the broadcaster was told of it, and when.
    told: (Instant, Introduction),
}

impl Viewer {
    /// What is to be said once more to a broadcaster that registers: its former registration may have been dead when it
    /// was said.
    fn again(&self, broadcaster: BroadcasterId) -> Option<Introduction> {
        let (at, introduction) = &self.told;
        let is_lost = self.broadcaster == broadcaster && at.elapsed() < AGAIN;
        is_lost.then(|| introduction.clone())
    }
}

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) directory: Arc<Directory>,
    pub(crate) introductions: Introductions,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
    /// What each household holds.
    pub(crate) households: Households,
    /// Who may register.
    pub(crate) permits: Permits,
    /// The relay that viewers may use.
    pub(crate) relay: Option<Arc<Relay>>,
    /// When all broadcasters of a former life have registered again; until then an unknown one may
    /// be on its way.
    pub(crate) complete_at: Instant,
}

/// Serves a connection until it ends.
pub(crate) async fn serve(connection: Connection, shared: &Shared) {
    let first = tokio::time::timeout(FIRST_WORD, async {
        let (send, mut receive) = connection.accept_bi().await.ok()?;
        let message = stream::read::<ToRendezvous>(&mut receive).await.ok()?;
        Some((send, receive, message))
    });
    let Ok(Some((send, receive, message))) = first.await else {
        connection.close(VarInt::from_u32(1), b"nothing was asked");
        return;
    };
    match message {
        ToRendezvous::Register { party, token } => {
            register(&connection, (send, receive), bounded(party), token.as_ref(), shared).await;
        }
        ToRendezvous::Introduce { broadcaster, party, renews } => {
            let ask = Ask { broadcaster, party, renews };
            introduce(&connection, send, receive, ask, shared).await;
        }
        ToRendezvous::Update { .. } => {
            let mut send = send;
            refuse(&mut send, Refusal::Unexpected, shared).await;
        }
    }
}

/// A description with as many candidates as may be named.
fn bounded(mut party: Party) -> Party {
    party.candidates.truncate(MAX_CANDIDATES);
    party
}

fn bounded_update(mut update: Update) -> Update {
    update.candidates.truncate(MAX_UPDATE);
    update
}

async fn refuse(send: &mut SendStream, reason: Refusal, shared: &Shared) {
    shared.metrics.reject(Rejection::Refused(reason));
    let _ = stream::write(send, &FromRendezvous::Refused { reason }).await;
}

/// As [`refuse`], where nothing more is said: the connection goes once the word was heard.
async fn refuse_registration(mut send: SendStream, reason: Refusal, shared: &Shared) {
    refuse(&mut send, reason, shared).await;
    let _ = send.finish();
    let _ = tokio::time::timeout(LAST_WORD, send.stopped()).await;
}

async fn register(
    connection: &Connection,
    (mut send, receive): (SendStream, RecvStream),
    party: Party,
    token: Option<&Token>,
    shared: &Shared,
) {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let Some(id) = tls::peer_id(connection) else {
        return refuse_registration(send, Refusal::NoKey, shared).await;
    };
    let Some(standing) = shared.permits.standing(id, token) else {
        return refuse_registration(send, Refusal::NotListed, shared).await;
    };
    let from = connection.remote_address().ip();
    let Some(_place) = shared.permits.place(from, id, standing) else {
        return refuse_registration(send, Refusal::Busy, shared).await;
    };
    let full = shared.directory.len() >= shared.limits.broadcasters;
    if full && !shared.directory.has(id) {
        return refuse_registration(send, Refusal::Busy, shared).await;
    }
    let mut receive = Reader::new(receive);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let (messages, mut waiting) = mpsc::channel(MOST_WAITING);
    let registration = Registration { serial, connection: connection.clone(), party, messages };
    let again = registration.messages.clone();
    if let Some(older) = shared.directory.enter(id, registration) {
        older.connection.close(VarInt::from_u32(REPLACED), b"registered again elsewhere");
    }
    let lost: Vec<_> = shared.introductions.iter().filter_map(|viewer| viewer.again(id)).collect();
    for introduction in lost {
        // One that does not fit is asked for again by its viewer.
        let _ = again.try_send(FromRendezvous::Introduction { introduction });
    }
    shared.metrics.registrations.inc();
    shared.metrics.broadcasters.set(shared.directory.len() as i64);
    tracing::info!(event = "broadcaster_registered", %id, "broadcaster registered");
    let hello = FromRendezvous::Registered { observed: observed(connection) };
    let said = stream::write(&mut send, &hello).await;
    while said.is_ok() {
        tokio::select! {
            message = waiting.recv() => {
                let Some(message) = message else { break };
                if stream::write(&mut send, &message).await.is_err() {
                    break;
                }
            }
            message = receive.next::<ToRendezvous>() => match message {
                Ok(ToRendezvous::Register { party, .. }) => {
                    shared.directory.update(id, serial, bounded(party));
                    let hello = FromRendezvous::Registered { observed: observed(connection) };
                    if stream::write(&mut send, &hello).await.is_err() {
                        break;
                    }
                }
                Ok(ToRendezvous::Update { introduction, update }) => {
                    let viewer = shared.introductions.get(&introduction);
                    if let Some(viewer) = viewer.filter(|viewer| viewer.broadcaster == id) {
                        let update = bounded_update(update);
                        // A viewer that does not read gets no more for now; it asks again.
                        let _ = viewer
                            .messages
                            .try_send(FromRendezvous::Update { introduction, update });
                    }
                }
                Ok(ToRendezvous::Introduce { .. }) => {
                    refuse(&mut send, Refusal::Unexpected, shared).await;
                    break;
                }
                Err(_) => break,
            }
        }
    }
    shared.directory.leave(id, serial);
    shared.metrics.broadcasters.set(shared.directory.len() as i64);
    tracing::info!(event = "broadcaster_gone", %id, "broadcaster gone");
}

/// What a viewer asks for.
struct Ask {
    broadcaster: BroadcasterId,
    party: Party,
    renews: Option<IntroductionId>,
}

/// A viewer's introductions, which last as long as its connection.
struct Introduced<'a> {
    shared: &'a Shared,
    messages: mpsc::Sender<FromRendezvous>,
    ids: Vec<(IntroductionId, BroadcasterId)>,
    /// The broadcaster's half of the latest one, while it is held back.
    held: Option<JoinHandle<()>>,
}

impl Drop for Introduced<'_> {
    fn drop(&mut self) {
        for (id, _) in &self.ids {
            // A renewal on another connection may have taken its place.
            let is_ours = |_: &_, viewer: &Viewer| viewer.messages.same_channel(&self.messages);
            self.shared.introductions.remove_if(id, is_ours);
        }
    }
}

async fn introduce(
    connection: &Connection,
    mut send: SendStream,
    receive: RecvStream,
    first: Ask,
    shared: &Shared,
) {
    let (messages, mut waiting) = mpsc::channel(MOST_FOR_VIEWER);
    let mut introduced = Introduced { shared, messages, ids: Vec::new(), held: None };
    let mut receive = Reader::new(receive);
    let mut asks = 0;
    let mut updates = 0;
    let mut next = Some(first);
    loop {
        if let Some(ask) = next.take() {
            asks += 1;
            if asks > shared.limits.introductions_per_connection {
                break;
            }
            let from = connection.remote_address().ip();
            let minted = match shared.households.may_be_introduced(from, Instant::now()) {
                true => mint(connection, ask, &mut introduced).await,
                false => Err(Refusal::Busy),
            };
            let answer = match minted {
                Ok(introduction) => FromRendezvous::Introduction { introduction },
                Err(reason) => {
                    shared.metrics.reject(Rejection::Refused(reason));
                    FromRendezvous::Refused { reason }
                }
            };
            if stream::write(&mut send, &answer).await.is_err() {
                return;
            }
        }
        let message = tokio::select! {
            message = receive.next() => message,
            message = waiting.recv() => {
                let Some(message) = message else { return };
                if stream::write(&mut send, &message).await.is_err() {
                    return;
                }
                continue;
            }
        };
        match message {
            Ok(ToRendezvous::Introduce { broadcaster, party, renews }) => {
                next = Some(Ask { broadcaster, party, renews });
            }
            Ok(ToRendezvous::Update { introduction, update }) => {
                updates += 1;
                if updates > MOST_UPDATES {
                    break;
                }
                introduced.pass_on(introduction, update).await;
            }
            Ok(ToRendezvous::Register { .. }) => {
                return refuse(&mut send, Refusal::Unexpected, shared).await;
            }
            Err(ReadError::Finished | ReadError::Broken(_) | ReadError::Message(_)) => return,
        }
    }
    refuse(&mut send, Refusal::Busy, shared).await;
    // The refusal must arrive before the connection goes.
    let _ = send.finish();
    let _ = tokio::time::timeout(FIRST_WORD, send.stopped()).await;
}

impl Introduced<'_> {
    /// Passes an update on to the broadcaster of one of this viewer's introductions.
    async fn pass_on(&mut self, introduction: IntroductionId, update: Update) {
        if let Some(held) = self.held.take() {
            // An update that overtook its introduction would be one of something unknown.
            let _ = held.await;
        }
        let Some((_, broadcaster)) = self.ids.iter().find(|(id, _)| *id == introduction) else {
            return;
        };
        if let Some(registration) = self.shared.directory.find(*broadcaster) {
            let update = bounded_update(update);
            // A broadcaster that does not read its introductions gets no more for now.
            let _ = registration.messages.try_send(FromRendezvous::Update { introduction, update });
        }
    }
}

/// Makes an introduction, or renews one: the broadcaster's half goes to it, the viewer's half is
/// returned. Whoever is nearer gets its half later, so that both begin at the same time: an opening
/// packet that comes too early makes some routers take the port for themselves.
async fn mint(
    viewer: &Connection,
    ask: Ask,
    introduced: &mut Introduced<'_>,
) -> Result<Introduction, Refusal> {
    let Ask { broadcaster, party, renews } = ask;
    let shared = introduced.shared;
    let registration = shared.directory.wait_for(broadcaster, shared.complete_at).await;
    let registration = registration.ok_or(Refusal::UnknownBroadcaster)?;
    let (id, secret) = match renews {
        Some(id) => (id, None),
        None => (IntroductionId(rand::random()), Some(rand::random())),
    };
    let (seen_viewer, seen_broadcaster) = (observed(viewer), observed(&registration.connection));
    let to_broadcaster = Introduction {
        id,
        secret,
        peer: bounded(party),
        peer_observed: seen_viewer,
        observed: seen_broadcaster,
        relay: None,
    };
    let one_way = |connection: &Connection| connection.rtt() / 2;
    let (viewer_way, broadcaster_way) = (one_way(viewer), one_way(&registration.connection));
    let told = (Instant::now(), to_broadcaster.clone());
    if viewer_way > broadcaster_way {
        let hold = (viewer_way - broadcaster_way).min(LONGEST_HOLD);
        let messages = registration.messages.clone();
        // Reserved now, so that a broadcaster that does not read its introductions gets no more.
        let place = messages.try_reserve_owned().map_err(|_| Refusal::Busy)?;
        introduced.held = Some(tokio::spawn(async move {
            tokio::time::sleep(hold).await;
            place.send(FromRendezvous::Introduction { introduction: to_broadcaster });
        }));
    } else {
        let message = FromRendezvous::Introduction { introduction: to_broadcaster };
        registration.messages.try_send(message).map_err(|_| Refusal::Busy)?;
    }
    introduced.ids.retain(|(known, _)| *known != id);
    introduced.ids.push((id, broadcaster));
    let messages = introduced.messages.clone();
    shared.introductions.insert(id, Viewer { broadcaster, messages, told });
    shared.metrics.introductions.inc();
    tracing::debug!(%broadcaster, viewer = %seen_viewer.address, renews = renews.is_some(), "introduced");
    if broadcaster_way > viewer_way {
        tokio::time::sleep((broadcaster_way - viewer_way).min(LONGEST_HOLD)).await;
    }
    Ok(Introduction {
        id,
        secret,
        peer: registration.party,
        peer_observed: seen_broadcaster,
        observed: seen_viewer,
        relay: shared
            .relay
            .as_ref()
            .map(|relay| relay.credentials(&quota_name(viewer), SystemTime::now())),
    })
}

/// Whom a viewer's relayed traffic is counted for: its address, so that new connections bring no new
/// quota. Many viewers behind one carrier's NAT share it.
fn quota_name(viewer: &Connection) -> String {
    match household(observed(viewer).address.ip()) {
        IpAddr::V4(ip) => ip.to_string(),
        // Without colons, which part a TURN user's name.
        IpAddr::V6(ip) => {
            let prefix: String =
                ip.octets()[..7].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{prefix}/56")
        }
    }
}
