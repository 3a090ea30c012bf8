//! Publishers such as OBS and ffmpeg, who push to a port here by RTMP (Adobe's RTMP 1.0). The protocol is
//! `rtmp-runtime`'s; what is here are the sockets, the bounds on strangers, and the way into the pipeline:
//!
//! ```text
//! port ── peer ── app and key? ── one publisher ── FLV tags ── tracks ── appsrc…
//! ```

mod flv;
mod tracks;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use protocol::address::household;
use rtmp_runtime::RtmpError;
use rtmp_runtime::server::{ServerConfig, ServerEvent, ServerSession};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::timeout;

use super::super::error::MediaError;
use super::super::spec::SourceSpec;
use super::super::track::{Live, cannot_build};
use super::url::{Kind, NetworkUrl, Rtmp};
use tracks::Tracks;

/// How long a stranger may take until it publishes, and anyone to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Strangers at a time, the publisher included. More wait until one of these is gone.
const MOST_PEERS: usize = 16;

/// Of one household; more are turned away at once.
const MOST_OF_ONE: usize = 4;

/// What a stranger may send before it publishes, in bytes: 3 kB of handshake, and commands of some hundred each.
const MOST_BEFORE: usize = 16 << 10;

/// Bytes that a publisher may have begun to send and not finished: two of its greatest messages.
const MOST_UNFINISHED: usize = 16 << 20;

/// Bytes that are read at once.
const READ_SIZE: usize = 64 << 10;

/// How long nobody is let in after the system had no room for one.
const NO_ROOM: Duration = Duration::from_millis(100);

/// Refusals are told not more often.
const TELLING: Duration = Duration::from_secs(60);

/// A port that publishers come to. It stays open from one to the next, and from one process of the source to the next:
/// whoever comes in between waits.
#[derive(Clone)]
pub struct Entrance {
    socket: Arc<TcpListener>,
    rtmp: Arc<Rtmp>,
}

impl fmt::Debug for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.fmt(f)
    }
}

impl Entrance {
    /// Opens the port of a source that has one.
    ///
    /// # Errors
    ///
    /// Where another program has it, or the address is not this machine's.
    pub fn of(source: &SourceSpec) -> Result<Option<Self>, MediaError> {
        rtmp_of(source).map(Self::open).transpose()
    }

    /// The port of a source that has one, opened by another process, which has handed it over.
    pub(crate) fn handed_over(source: &SourceSpec, socket: OwnedFd) -> Option<Self> {
        let rtmp = Arc::new(rtmp_of(source)?.clone());
        Some(Self { socket: Arc::new(TcpListener::from(socket)), rtmp })
    }

    /// Something to hand over to another process.
    pub(crate) fn to_hand_over(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone().map(OwnedFd::from)
    }

    /// Opens the port; nobody is let in before it [listens](Self::listen).
    ///
    /// # Errors
    ///
    /// Where another program has it, or the address is not this machine's.
    pub(super) fn open(rtmp: &Rtmp) -> Result<Self, MediaError> {
        let Rtmp { host, port, .. } = rtmp;
        let socket = match host.as_str() {
            // Takes IPv4 as well, where there is IPv6 at all.
            "" => TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)))
                .or_else(|_| TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)))),
            host => TcpListener::bind((host, *port)),
        };
        let opened = socket.and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        let socket = opened.map_err(|error| {
            let host = if host.is_empty() { "port " } else { &format!("{host}:") };
            MediaError::Listen { address: format!("{host}{port}"), reason: error.to_string() }
        })?;
        Ok(Self { socket: Arc::new(socket), rtmp: Arc::new(rtmp.clone()) })
    }

    /// Lets publishers in, one after the other, until the listener is dropped or the first publisher is gone.
    pub(in super::super) fn listen(&self, live: &Arc<Live>) -> Result<Listener, MediaError> {
        let socket = self.socket.try_clone().map_err(cannot_build)?;
        let desk = Desk {
            rtmp: self.rtmp.clone(),
            live: live.clone(),
            is_taken: AtomicBool::new(false),
            told_at: Mutex::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(cannot_build)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("media-rtmp".to_owned());
        let thread = thread.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = Arc::new(desk).receive(socket) => {}
                }
            });
        });
        let thread = thread.map_err(cannot_build)?;
        Ok(Listener { stop: Some(stop), thread: Some(thread) })
    }
}

fn rtmp_of(source: &SourceSpec) -> Option<&Rtmp> {
    match source {
        SourceSpec::Network(NetworkUrl { kind: Kind::Rtmp(rtmp), .. }) => Some(rtmp),
        _ => None,
    }
}

/// The thread that publishers are dealt with on. Dropping it disconnects them, and waits for it.
pub(in super::super) struct Listener {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that receives publishers panicked");
        }
    }
}

/// Where strangers say what they want.
struct Desk {
    rtmp: Arc<Rtmp>,
    live: Arc<Live>,
    /// Whether somebody publishes, or has.
    is_taken: AtomicBool,
    /// When a refusal was told last.
    told_at: Mutex<Option<Instant>>,
}

/// Why a stranger does not get to publish.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it knows another app")]
    App,
    #[error("somebody publishes already")]
    Taken,
    #[error("it did not publish in time")]
    Late,
    #[error("it said too much before it published")]
    Talkative,
    #[error("it left, perhaps because its stream key is another")]
    Left,
    #[error("it does not speak RTMP as we do: {0}")]
    Protocol(#[from] RtmpError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Somebody who may publish, and what it has sent so far.
struct Publisher {
    stream: TcpStream,
    session: ServerSession,
    begun: Vec<ServerEvent>,
}

impl Desk {
    /// Lets strangers in until the one that published is gone.
    async fn receive(self: Arc<Self>, socket: TcpListener) {
        let socket = match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return self.live.fail(cannot_build(error)),
        };
        let mut peers = JoinSet::new();
        let mut households: HashMap<task::Id, IpAddr> = HashMap::new();
        loop {
            tokio::select! {
                accepted = socket.accept(), if peers.len() < MOST_PEERS => match accepted {
                    Ok((stream, address)) => {
                        let household = household(address.ip());
                        let others = households.values().filter(|other| **other == household);
                        if others.count() >= MOST_OF_ONE {
                            tracing::debug!(%address, "turned away: too many from there");
                            continue;
                        }
                        tracing::debug!(%address, "somebody wants to publish");
                        let peer = peers.spawn(Arc::clone(&self).serve(stream));
                        households.insert(peer.id(), household);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no publisher can be let in");
                        tokio::time::sleep(NO_ROOM).await;
                    }
                },
                Some(ended) = peers.join_next_with_id() => {
                    let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
                    households.remove(&id);
                    match ended {
                        Ok((_, false)) => {}
                        Ok((_, true)) => return,
                        Err(error) => {
                            tracing::error!(%error, "a publisher could not be dealt with");
                            if self.is_taken.load(Ordering::Acquire) {
                                return self.live.fail(self.live.over());
                            }
                        }
                    }
                }
            }
        }
    }

    /// Deals with one stranger. Returns whether it has published.
    async fn serve(self: Arc<Self>, stream: TcpStream) -> bool {
        let admitted = timeout(PATIENCE, self.admit(stream)).await;
        let publisher = match admitted.unwrap_or(Err(Refused::Late)) {
            Ok(publisher) => publisher,
            Err(reason) => {
                self.tell(&reason);
                return false;
            }
        };
        let mut tracks = Tracks::new(self.live.clone());
        match publisher.follow(&mut tracks).await {
            Ok(()) => tracks.end(),
            Err(error) => self.live.fail(error),
        }
        true
    }

    /// Hears a stranger out until it publishes with the right app and stream key, and nobody else does.
    async fn admit(&self, mut stream: TcpStream) -> Result<Publisher, Refused> {
        let key = Some(self.rtmp.key.clone());
        let mut session = ServerSession::new(ServerConfig::default().with_expected_stream_key(key));
        let mut heard = Vec::with_capacity(MOST_BEFORE);
        loop {
            let begin = heard.len();
            if begin == MOST_BEFORE {
                return Err(Refused::Talkative);
            }
            let rest = u64::try_from(MOST_BEFORE - begin).unwrap_or(0);
            if (&mut stream).take(rest).read_buf(&mut heard).await? == 0 {
                return Err(Refused::Left);
            }
            let (answer, events) = session.handle_data(&heard[begin..])?;
            let mut events = events.into_iter();
            for event in events.by_ref() {
                match event {
                    ServerEvent::Connected { app }
                        if app.trim_end_matches('/') != self.rtmp.app =>
                    {
                        return Err(Refused::App);
                    }
                    ServerEvent::Publish { .. } => {
                        if self.is_taken.swap(true, Ordering::AcqRel) {
                            return Err(Refused::Taken);
                        }
                        self.live.gate.begin();
                        stream.write_all(&answer).await?;
                        return Ok(Publisher { stream, session, begun: events.collect() });
                    }
                    ServerEvent::Eof => return Err(Refused::Left),
                    _ => {}
                }
            }
            stream.write_all(&answer).await?;
        }
    }

    /// Tells of a refusal, not of each where there are many.
    fn tell(&self, reason: &Refused) {
        let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        if told_at.is_none_or(|at| at.elapsed() >= TELLING) {
            *told_at = Some(Instant::now());
            tracing::info!(%reason, "somebody who wanted to publish was turned away");
        } else {
            tracing::debug!(%reason, "turned away");
        }
    }
}

impl Publisher {
    /// Passes on what is published until there is no more. One that falls silent is noticed elsewhere.
    async fn follow(mut self, tracks: &mut Tracks) -> Result<(), MediaError> {
        let mut bytes = vec![0; READ_SIZE];
        let mut unfinished = 0_usize;
        let mut events = std::mem::take(&mut self.begun);
        loop {
            for event in events {
                match event {
                    ServerEvent::Media { flv } => {
                        // Chunks have headers, too.
                        unfinished = unfinished.saturating_sub(flv.len() + flv.len() / 64);
                        tracks.take(&flv)?;
                    }
                    ServerEvent::Eof => return Ok(()),
                    _ => {}
                }
            }
            if unfinished > MOST_UNFINISHED {
                return Err(cannot_build("the publisher begins messages and does not end them"));
            }
            let read = self.stream.read(&mut bytes);
            let read = match tracks.patience() {
                None => read.await,
                Some(patience) => match timeout(patience, read).await {
                    Ok(read) => read,
                    Err(_) => {
                        tracks.settle()?;
                        events = Vec::new();
                        continue;
                    }
                },
            };
            let count = match read {
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => count,
            };
            unfinished += count;
            let (answer, more) = self.session.handle_data(&bytes[..count]).map_err(cannot_build)?;
            if !matches!(timeout(PATIENCE, self.stream.write_all(&answer)).await, Ok(Ok(()))) {
                return Ok(());
            }
            events = more;
        }
    }
}
