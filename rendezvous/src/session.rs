//! One connection: a broadcaster that stays, or a viewer that asks and goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use protocol::candidate::Candidate;
use protocol::link::BroadcasterId;
use protocol::signalling::{FromRendezvous, Introduction, REPLACED, Refusal, ToRendezvous};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use rand::RngExt;
use tokio::sync::mpsc;
use transport::stream::{self, ReadError, Reader};
use transport::tls;

use crate::config::Limits;
use crate::directory::{Directory, Registration, observed, with_observed};
use crate::metrics::{Metrics, Rejection};

/// How long a new connection may take to say what it wants.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// Introductions waiting for one broadcaster's connection, at most.
const MOST_WAITING: usize = 256;

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) directory: Arc<Directory>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Limits,
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
        ToRendezvous::Register { candidates } => {
            register(&connection, send, receive, candidates, shared).await;
        }
        ToRendezvous::Introduce { broadcaster, candidates } => {
            introduce(&connection, send, receive, broadcaster, candidates, shared).await;
        }
    }
}

async fn refuse(send: &mut SendStream, reason: Refusal, shared: &Shared) {
    shared.metrics.reject(Rejection::Refused(reason));
    let _ = stream::write(send, &FromRendezvous::Refused { reason }).await;
}

async fn register(
    connection: &Connection,
    mut send: SendStream,
    receive: RecvStream,
    candidates: Vec<Candidate>,
    shared: &Shared,
) {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let Some(id) = tls::peer_id(connection) else {
        return refuse(&mut send, Refusal::NoKey, shared).await;
    };
    let full = shared.directory.len() >= shared.limits.broadcasters;
    if full && !shared.directory.has(id) {
        return refuse(&mut send, Refusal::Busy, shared).await;
    }
    let mut receive = Reader::new(receive);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let (messages, mut waiting) = mpsc::channel(MOST_WAITING);
    let registration =
        Registration { serial, connection: connection.clone(), candidates, messages };
    if let Some(older) = shared.directory.enter(id, registration) {
        older.connection.close(VarInt::from_u32(REPLACED), b"registered again elsewhere");
    }
    shared.metrics.registrations.inc();
    shared.metrics.broadcasters.set(shared.directory.len() as i64);
    tracing::info!(%id, "broadcaster registered");
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
                Ok(ToRendezvous::Register { candidates }) => {
                    shared.directory.update(id, serial, candidates);
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
    tracing::info!(%id, "broadcaster gone");
}

async fn introduce(
    connection: &Connection,
    mut send: SendStream,
    mut receive: RecvStream,
    mut broadcaster: BroadcasterId,
    mut candidates: Vec<Candidate>,
    shared: &Shared,
) {
    for _ in 0..shared.limits.introductions_per_connection {
        let answer = match mint(connection, broadcaster, &candidates, shared).await {
            Ok(introduction) => FromRendezvous::Introduction { introduction },
            Err(reason) => {
                shared.metrics.reject(Rejection::Refused(reason));
                FromRendezvous::Refused { reason }
            }
        };
        if stream::write(&mut send, &answer).await.is_err() {
            return;
        }
        match stream::read(&mut receive).await {
            Ok(ToRendezvous::Introduce { broadcaster: next, candidates: named }) => {
                (broadcaster, candidates) = (next, named);
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

/// Makes an introduction: the broadcaster's half goes to it, the viewer's half is returned.
async fn mint(
    viewer: &Connection,
    broadcaster: BroadcasterId,
    candidates: &[Candidate],
    shared: &Shared,
) -> Result<Introduction, Refusal> {
    let registration = shared.directory.wait_for(broadcaster, shared.complete_at).await;
    let registration = registration.ok_or(Refusal::UnknownBroadcaster)?;
    let mut rng = rand::rng();
    let (id, secret) = (rng.random(), rng.random());
    let seen_viewer = observed(viewer);
    let to_broadcaster = Introduction {
        id,
        secret,
        peer: with_observed(candidates, seen_viewer),
        observed: observed(&registration.connection),
    };
    let message = FromRendezvous::Introduction { introduction: to_broadcaster };
    // A broadcaster that does not read its introductions gets no more for now.
    registration.messages.try_send(message).map_err(|_| Refusal::Busy)?;
    shared.metrics.introductions.inc();
    tracing::debug!(%broadcaster, viewer = %seen_viewer.address, "introduced");
    Ok(Introduction { id, secret, peer: registration.candidates(), observed: seen_viewer })
}
