//! One viewer's life at the broadcaster: introduced, path opened, connected, admitted, gone.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::behaviour::Kind;
use protocol::channel::ViewerId;
use protocol::control::{Notice, Refusal, Request, Response, close};
use protocol::link::Secret;
use protocol::opening::{Config, Event, IntroductionId, Local, Path, Role};
use protocol::seal::{Epoch, PacketIndex};
use protocol::srtcp::FeedbackKey;
use protocol::tag::TagKey;
use protocol::units::Bitrate;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::sync::{Notify, oneshot};
use transport::effort::{Effort, Means};
use transport::households;
use transport::openings::Opening;
use transport::paths::Peer;
use transport::stream;
use transport::tls;

use crate::audience::{MOST_LATENCY, Seat};
use crate::door::Knocking;
use crate::events::Event as Happened;
use crate::fanout::{FanOut, Target};
use crate::guests::{Guest, Stay, Whereabouts};
use crate::links::Comer;
use crate::metrics::Departure;
use crate::origin::Origin;
use crate::places::{Held, Place, Places};
use crate::playout::Running;
use crate::registration::Introduced;
use crate::shared::{Admitted, Shared};

mod stored;

/// How long a viewer with a path may take to connect and ask for something.
const CONNECT_PATIENCE: Duration = Duration::from_secs(15);

/// How long the rest of a request may take once its stream was opened. Nothing else of this viewer is
/// served meanwhile.
const REQUEST_PATIENCE: Duration = Duration::from_secs(2);

/// Requests of one viewer that are refused before its connection is closed.
const MOST_REFUSALS: u32 = 8;

/// How long a viewer may take to receive what is said to it. Nothing else of it is served meanwhile, nor
/// its consent looked at: media must not go on to a viewer that leaves a window closed.
const SAYING_PATIENCE: Duration = Duration::from_secs(2);

/// How long the last word to a viewer may take to arrive before its connection goes.
const LAST_WORD: Duration = Duration::from_millis(300);

/// How soon QUIC hands over another key's notice, of a thousand.
const KEY_URGENCY: Duration = Duration::from_millis(300);

/// Begins to open a path to an introduced viewer. From when this returns, what the viewer tells further
/// finds its way; the future serves it to its end. `None` for an introduction without credentials.
pub(crate) fn begin(
    introduced: Introduced,
    place: households::Held,
    shared: &Arc<Shared>,
) -> Option<impl Future<Output = ()> + Send + use<>> {
    let Introduced { introduction, own, rendezvous, updates } = introduced;
    let means = Means {
        port: Arc::clone(&shared.port),
        role: Role::Broadcaster,
        own: shared.surroundings.behaviour(),
        server: rendezvous,
        allow_private: shared.allow_private,
        updates,
    };
    let nat = introduction.peer.behaviour.kind();
    let config = Config::for_role(Role::Broadcaster);
    let started = Effort::start(means, &shared.openings, &introduction, own, config);
    let (opening, effort) = started?;
    let observed = Some(introduction.peer_observed.address);
    Some(serve(introduction.id, (opening, nat, observed), effort, Some(place), shared))
}

/// Serves a viewer whose path is being opened. It is known from when this returns.
pub(crate) fn serve(
    id: IntroductionId,
    (opening, nat, observed): (Opening, Kind, Option<SocketAddr>),
    effort: Effort,
    place: Option<households::Held>,
    shared: &Arc<Shared>,
) -> impl Future<Output = ()> + Send + use<> {
    let shared = Arc::clone(shared);
    let peer = opening.peer();
    let (arrived, arrival) = oneshot::channel();
    shared.arrivals.insert(peer, arrived);
    shared.efforts.insert(id, effort.words());
    let mut session = Session {
        shared,
        peer,
        opening,
        nat,
        observed,
        introduced_at: Instant::now(),
        effort,
        path: None,
        media_at: None,
        arrival,
        tags: None,
        stay: None,
        leave: Arc::default(),
        is_let_in: false,
        place,
        knocking: None,
        joining: None,
        watching: None,
        refusals: 0,
        fetching: Places::default(),
    };
    async move {
        let end = session.run().await;
        session.close(&end);
        tracing::debug!(introduction = %id, "viewer's session ended: {}", end.why);
    }
}

struct Session {
    shared: Arc<Shared>,
    peer: Peer,
    opening: Opening,
    /// The kind of the viewer's NAT.
    nat: Kind,
    /// Where the rendezvous saw it.
    observed: Option<SocketAddr>,
    introduced_at: Instant,
    #[expect(dead_code, reason = "it goes on for as long as the session")]
    effort: Effort,
    path: Option<Path>,
    /// Where media goes, if it is not the path.
    media_at: Option<SocketAddr>,
    arrival: oneshot::Receiver<Connection>,
    /// What proves to the viewer that media is ours, once it is connected.
    tags: Option<Arc<TagKey>>,
    /// From its knock, or the first request that it was let in with.
    stay: Option<Stay>,
    /// The operator sends it away.
    leave: Arc<Notify>,
    /// Whether it was let in: by the operator, where each viewer knocks.
    is_let_in: bool,
    /// Among those of its household that are not let in yet.
    place: Option<households::Held>,
    /// What it asked for and waits to be let in for.
    knocking: Option<(Knocking, SendStream, Request)>,
    /// A channel that it joins, and does not watch yet.
    joining: Option<(FanOut, ViewerId)>,
    watching: Option<Watching>,
    /// Requests that were refused.
    refusals: u32,
    /// Copies of files that go on.
    fetching: Places,
}

/// Why a session is over.
struct End {
    why: &'static str,
    departure: Departure,
}

impl End {
    /// The viewer's connection ended: by a goodbye, or by itself.
    fn of_connection(connection: &Connection) -> Self {
        let done = VarInt::from_u32(close::DONE);
        let said_goodbye = matches!(
            connection.close_reason(),
            Some(ConnectionError::ApplicationClosed(closed)) if closed.error_code == done
        );
        let departure = if said_goodbye { Departure::Left } else { Departure::Lost };
        Self { why: "the viewer's connection ended", departure }
    }
}

/// An admitted viewer.
struct Watching {
    seat: Arc<Seat>,
    send: SendStream,
    /// Where the channel's tracks stood when media was paused.
    paused_at: Vec<PacketIndex>,
    held: Held,
    /// The take under way, of a stored file.
    running: Option<Running>,
    /// The place of a file that is encoded anew.
    encoding: Option<Place>,
}

impl Session {
    /// Runs to the end; says why it came.
    async fn run(&mut self) -> End {
        let connection = match Box::pin(self.connected()).await {
            Ok(connection) => {
                self.tags = Some(Arc::new(tls::viewer_tag_key(&connection)));
                connection
            }
            Err(why) => return End { why, departure: Departure::Lost },
        };
        let leave = Arc::clone(&self.leave);
        tokio::select! {
            biased;
            () = leave.notified() => {}
            end = self.attend(&connection) => return end,
        }
        Box::pin(self.see_off(&connection)).await
    }

    /// Serves the viewer until its connection or path is gone. May be dropped at any point: what it holds by
    /// then is given back by [`Self::close`].
    async fn attend(&mut self, connection: &Connection) -> End {
        let mut asking = Box::pin(tokio::time::sleep(CONNECT_PATIENCE));
        loop {
            let watching = self.watching.as_ref();
            let woken = async {
                match watching {
                    Some(watching) => watching.seat.woken().await,
                    None => std::future::pending().await,
                }
            };
            let knocking = self.knocking.as_mut();
            let word = async {
                match knocking {
                    Some((knocking, ..)) => knocking.word().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                is_let_in = word => {
                    let Some((_, send, request)) = self.knocking.take() else { continue };
                    if is_let_in {
                        self.is_let_in = true;
                        self.place = None;
                        self.stay.iter().for_each(|stay| stay.is_let_in());
                        Box::pin(self.receive(connection, send, request)).await;
                    } else {
                        // Another has its place at the door.
                        self.stay = None;
                        let response = Response::Refused { reason: Refusal::Full };
                        self.answer(connection, send, response).await;
                    }
                }
                event = self.opening.event() => {
                    if let Err(why) = self.path_event(event) {
                        self.hang_up(connection, close::CONSENT_EXPIRED, "path lost");
                        return End { why, departure: Departure::Lost };
                    }
                }
                stream = connection.accept_bi() => match stream {
                    // What is rare stays out of the memory that each session holds for good.
                    Ok((send, receive)) => {
                        Box::pin(self.request(connection, send, receive)).await;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "viewer's connection ended");
                        return End::of_connection(connection);
                    }
                },
                () = woken => {
                    if let Some(end) = Box::pin(self.say_notices(connection)).await {
                        return end;
                    }
                    self.resume_if_heard();
                    Box::pin(self.pause_if_silent()).await;
                }
                () = &mut asking, if self.watching.is_none() => {
                    if self.fetching.taken() > 0 || self.knocking.is_some() {
                        asking = Box::pin(tokio::time::sleep(CONNECT_PATIENCE));
                        continue;
                    }
                    self.hang_up(connection, close::PROTOCOL, "nothing was asked");
                    return End { why: "the viewer asked for nothing", departure: Departure::Lost };
                }
            }
        }
    }

    /// Tells a viewer that was sent away so, and ends its connection.
    async fn see_off(&mut self, connection: &Connection) -> End {
        if let Some(viewer) = self.stay.as_ref().map(|stay| stay.viewer) {
            // It may have got its seat only just now.
            self.shared.unseat(viewer);
            self.record(Happened::ViewerRemoved { viewer });
        }
        if let Some((_, mut send, _)) = self.knocking.take() {
            self.shared.metrics.refuse(Refusal::Removed);
            last_word(&mut send, &Response::Refused { reason: Refusal::Removed }).await;
        }
        if let Some(Watching { send, .. }) = &mut self.watching {
            last_word(send, &Notice::Removed).await;
        }
        self.hang_up(connection, close::REFUSED, "removed");
        End { why: "removed", departure: Departure::Removed }
    }

    /// Ends the connection, and sees to it that the viewer learns so.
    fn hang_up(&self, connection: &Connection, code: u32, why: &str) {
        self.shared.port.hang_up(self.peer, connection, code, why);
    }

    fn record(&self, event: Happened) {
        self.shared.metrics.events.record(event);
    }

    /// The viewer's id, once it is admitted.
    fn viewer(&self) -> Option<ViewerId> {
        self.watching.as_ref().map(|watching| watching.seat.viewer)
    }

    /// Waits for a path and for the viewer's connection on it.
    async fn connected(&mut self) -> Result<Connection, &'static str> {
        let mut patience = None;
        let mut connection = None;
        loop {
            if let Some(connection) = connection.take_if(|_| self.path.is_some()) {
                return Ok(connection);
            }
            let give_up = async {
                match patience {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = self.opening.event() => {
                    self.path_event(event)?;
                    let now = tokio::time::Instant::now();
                    patience = patience.or(self.path.map(|_| now + CONNECT_PATIENCE));
                }
                arrived = &mut self.arrival, if connection.is_none() => {
                    connection = Some(arrived.map_err(|_| "the viewer's handshake failed")?);
                }
                () = give_up => return Err("the viewer opened a path and never connected"),
            }
        }
    }

    fn path_event(&mut self, event: Option<Event>) -> Result<(), &'static str> {
        match event {
            Some(Event::Opened(path)) => {
                self.shared.metrics.attempt(self.nat, Some(path.took));
                self.record(Happened::PathOpened {
                    path: path.kind.as_str(),
                    remote: path.remote,
                    nat: self.nat.as_str(),
                    took: path.took,
                });
                self.set_path(path);
                Ok(())
            }
            Some(Event::Moved(path)) => {
                let (remote, kind) = (path.remote, path.kind.as_str());
                match self.viewer() {
                    Some(viewer) => self.record(Happened::PathMoved { viewer, path: kind, remote }),
                    // Several addresses of one machine answer one after the other.
                    None => {
                        tracing::debug!(%remote, path = kind, "path moved before the viewer joined")
                    }
                }
                self.set_path(path);
                Ok(())
            }
            Some(Event::Failed(failure)) => {
                self.shared.metrics.attempt(self.nat, None);
                let nat = self.nat.as_str();
                let (remote, reason) = (self.observed, failure.to_string());
                self.record(Happened::PathFailed { nat, remote, reason });
                Err("no path")
            }
            Some(Event::Lost(reason)) => {
                let reason = reason.to_string();
                self.record(Happened::PathLost { viewer: self.viewer(), reason });
                Err("path lost")
            }
            Some(Event::Media(remote)) => {
                tracing::debug!(%remote, "media is wanted at another port");
                self.media_at = Some(remote);
                if let Some(path) = self.path {
                    self.relocate(path);
                }
                Ok(())
            }
            // The viewer is told by the check's answer where it is seen; nothing changes for us.
            Some(Event::Remapped(_)) => Ok(()),
            None => Err("the opening agent ended"),
        }
    }

    fn set_path(&mut self, path: Path) {
        let former = self.path.replace(path);
        if self.watching.is_some() {
            self.shared.metrics.path(former.map(|former| former.kind), Some(path.kind));
        }
        if let Some(Watching { seat, .. }) = &self.watching {
            seat.moved(path.kind.as_str());
        }
        if let Some(stay) = &self.stay {
            stay.moved(self.whereabouts(path));
        }
        self.relocate(path);
        let left = former.map(|former| former.local).filter(|local| *local != path.local);
        self.close_socket(left);
    }

    fn whereabouts(&self, path: Path) -> Whereabouts {
        let origin = Origin::of(&path, self.observed);
        Whereabouts { remote: path.remote, path: path.kind.as_str(), origin }
    }

    /// Where the viewer comes from, if that is known.
    fn origin(&self) -> Option<Origin> {
        self.path.and_then(|path| Origin::of(&path, self.observed))
    }

    /// Media goes to this path from now on.
    fn relocate(&self, path: Path) {
        if let Some(Watching { seat, .. }) = &self.watching {
            seat.channel.fan_out.relocate(seat.viewer, self.target(path));
        }
    }

    /// Where the fan-out sends on a path.
    fn target(&self, path: Path) -> Target {
        let own = (path.local != Local::MAIN).then(|| self.shared.port.ways().socket(path.local));
        let via = own.flatten().and_then(|socket| socket.share().ok()).map(Arc::new);
        Target { to: self.media_at.unwrap_or(path.remote), via, tags: self.tags.clone() }
    }

    /// Closes a socket that was opened for this viewer alone.
    fn close_socket(&self, local: Option<Local>) {
        if let Some(local) = local.filter(|local| *local != Local::MAIN) {
            self.shared.port.ways().remove(local);
        }
    }

    async fn request(
        &mut self,
        connection: &Connection,
        send: SendStream,
        mut receive: RecvStream,
    ) {
        let request = tokio::time::timeout(REQUEST_PATIENCE, stream::read(&mut receive)).await;
        let request: Request = match request {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => {
                tracing::debug!(%error, "request refused");
                let response = Response::Refused { reason: Refusal::Malformed };
                return self.answer(connection, send, response).await;
            }
            Err(_) => return,
        };
        self.receive(connection, send, request).await;
    }

    /// Takes a request of who may come in; others knock, or are refused.
    async fn receive(&mut self, connection: &Connection, send: SendStream, request: Request) {
        let shown = request.shown().map(Option::<&Secret>::cloned);
        // Of who is in already.
        let Some(shown) = shown else { return self.handle(connection, send, request).await };
        let shown = shown.as_ref();
        if let Err(reason) = self.may_come_in(shown) {
            return self.answer(connection, send, Response::Refused { reason }).await;
        }
        if self.must_knock() {
            return self.knock(connection, send, (request, self.shared.is_strange(shown))).await;
        }
        // Whoever is in stays so, wherever its path leads later.
        self.is_let_in = true;
        self.place = None;
        let link = self.shared.link_named(shown);
        let Some(guest) = self.guest() else { return };
        if !link.is_none_or(|name| guest.shows(&name)) {
            let response = Response::Refused { reason: Refusal::TooMany };
            return self.answer(connection, send, response).await;
        }
        self.handle(connection, send, request).await;
    }

    /// Whether what a viewer shows lets it in, or lets it knock.
    fn may_come_in(&self, shown: Option<&Secret>) -> Result<(), Refusal> {
        if self.shared.is_barred(self.origin()) {
            return Err(Refusal::Removed);
        }
        // Who shows a wrong secret bothers nobody.
        let is_open = self.path.is_some() && self.shared.opens(shown, self.comer(shown));
        if is_open { Ok(()) } else { Err(Refusal::Secret) }
    }

    /// Whether the operator is to let the viewer in, before it hears anything.
    fn must_knock(&self) -> bool {
        self.shared.knock && !self.is_let_in && !self.shared.door.knows(self.origin())
    }

    /// Who it is that shows this.
    fn comer(&self, shown: Option<&Secret>) -> Comer {
        let entered = |stay: &Stay| {
            let name = self.shared.link_named(shown);
            name.is_some_and(|name| stay.has_entered_by(&name))
        };
        Comer {
            from: self.origin().map(|origin| origin.household),
            has_entered: self.stay.as_ref().is_some_and(entered),
        }
    }

    /// The viewer, known from now on. `None` where it has no path.
    fn guest(&mut self) -> Option<&Guest> {
        if self.stay.is_none() {
            let whereabouts = self.whereabouts(self.path?);
            let guests = &self.shared.guests;
            self.stay = Some(guests.arrive(guests.number(), whereabouts, &self.leave));
        }
        self.stay.as_deref()
    }

    /// The viewer enters by what it shows, or why it may not.
    async fn enter(&mut self, shown: Option<&Secret>) -> Result<(), Refusal> {
        let entered = self.shared.enter(shown, self.comer(shown)).await?;
        if let (Some(name), Some(stay)) = (entered, &self.stay) {
            stay.enters_by(&name);
        }
        Ok(())
    }

    async fn knock(
        &mut self,
        connection: &Connection,
        mut send: SendStream,
        (request, is_stranger): (Request, bool),
    ) {
        let Some(path) = self.path else { return };
        let origin = self.origin();
        let now = Instant::now();
        let viewer = match &self.stay {
            Some(stay) => stay.viewer,
            None => self.shared.guests.number(),
        };
        let knocking = match &self.knocking {
            Some(_) => Err(Refusal::TooMany),
            None => self.shared.door.knock(viewer, origin, is_stranger, now),
        };
        let knocking = match knocking {
            Ok(knocking) => knocking,
            Err(reason) => {
                return self.answer(connection, send, Response::Refused { reason }).await;
            }
        };
        let whereabouts = self.whereabouts(path);
        let guests = &self.shared.guests;
        let stay = self.stay.get_or_insert_with(|| guests.arrive(viewer, whereabouts, &self.leave));
        stay.knocks(&request);
        if let Some(name) = self.shared.link_named(request.shown().flatten()) {
            // The first one that it shows, or one more of few.
            stay.shows(&name);
        }
        if self.shared.door.is_news(origin, now) {
            let path_kind = path.kind.as_str();
            self.record(Happened::ViewerKnocks { viewer, path: path_kind, remote: path.remote });
        }
        if say(&mut send, &Response::Knocking).await {
            self.knocking = Some((knocking, send, request));
        }
    }

    async fn handle(&mut self, connection: &Connection, send: SendStream, request: Request) {
        let response = match request {
            Request::List { .. } => Response::Catalogue { channels: self.shared.catalogue().await },
            Request::Clock => match &self.watching {
                Some(Watching { seat, .. }) => {
                    let capture_us = seat.channel.fan_out.capture_now().as_micros();
                    Response::Clock { capture_us: u64::try_from(capture_us).unwrap_or(u64::MAX) }
                }
                None => Response::Refused { reason: Refusal::Malformed },
            },
            Request::Watch { .. } if self.watching.is_some() => {
                Response::Refused { reason: Refusal::Malformed }
            }
            Request::Files { after, .. } => stored::page(&self.shared, after.as_deref()),
            Request::Thumbnail { path, .. } => stored::thumbnail(&self.shared, &path),
            Request::Pause { ssrc } => self.pause_take(ssrc),
            Request::Fetch { path, secret, offset, digest } => {
                return self.fetch(connection, send, (path, secret), (offset, digest)).await;
            }
            Request::Play {
                path,
                secret,
                latency_ms,
                position_us,
                rate_percent,
                sound,
                pace_bps,
            } => {
                let latency = Duration::from_millis(latency_ms.into());
                let position = Duration::from_micros(position_us);
                let pace = pace_bps.map(Bitrate::bits_per_second);
                let wanted =
                    stored::Wanted { path, secret, latency, position, rate_percent, sound, pace };
                return self.play(connection, send, wanted).await;
            }
            Request::Watch { channel, secret, latency_ms } => {
                let admitted = match self.shared.admit(&channel).await {
                    Ok(admitted) => self.enter(secret.as_ref()).await.map(|()| admitted),
                    Err(reason) => Err(reason),
                };
                match admitted {
                    Ok(admitted) => {
                        let latency = Duration::from_millis(latency_ms.into()).min(MOST_LATENCY);
                        self.watch(connection, send, admitted, latency).await;
                        return;
                    }
                    Err(reason) => Response::Refused { reason },
                }
            }
        };
        self.answer(connection, send, response).await;
    }

    /// Says the answer to a request.
    async fn answer(&mut self, connection: &Connection, mut send: SendStream, response: Response) {
        // Who plays something may try what else is possible.
        if self.watching.is_none() && matches!(response, Response::Unplayable { .. }) {
            self.refusals += 1;
        }
        if let Response::Refused { reason } = response {
            self.shared.metrics.refuse(reason);
            self.refusals += 1;
            if self.refusals == 1 {
                let remote = self.path.map(|path| path.remote);
                self.record(Happened::ViewerRefused { reason: reason.as_str(), remote });
            }
        }
        // An error means that the viewer is gone, which the connection says next.
        if say(&mut send, &response).await {
            let _ = send.finish();
        }
        if self.refusals >= MOST_REFUSALS {
            self.hang_up(connection, close::PROTOCOL, "refused too often");
        }
    }

    async fn watch(
        &mut self,
        connection: &Connection,
        send: SendStream,
        Admitted { channel, place }: Admitted,
        latency: Duration,
    ) {
        let Some(path) = self.path else { return };
        let Some(viewer) = self.guest().map(|guest| guest.viewer) else { return };
        let key = FeedbackKey::random(&mut rand::rng());
        self.joining = Some((channel.fan_out.clone(), viewer));
        let joined = channel.join(viewer, self.target(path), latency, key.clone()).await;
        self.joining = None;
        let Some(admission) = joined else { return };
        let handle = (self.opening.handle().clone(), path.kind.as_str());
        let seat = self.shared.audience.seat(viewer, channel, latency, handle, &key);
        // A key that was made since belongs to it as well; all later ones it is told with the others.
        let known = admission.keys.last().map_or(Epoch::FIRST, |key| key.epoch);
        let since = seat.channel.keys.since(known).into_iter().filter(|key| key.epoch > known);
        since.for_each(|key| seat.tell(Notice::Key { key }));
        // It would wait for pictures that do not come.
        let live = self.shared.live_named(&seat.channel.name);
        if let Some(live) = live.filter(|live| live.source.away_since().is_some()) {
            seat.tell(live.standing());
        }
        // Its end may have come while the viewer joined.
        if live.is_some_and(|live| live.is_over()) {
            seat.tell(Notice::Ended);
        }
        self.tell_of_admission(viewer, path, connection);
        let watching = self.watching.insert(Watching {
            seat,
            send,
            paused_at: Vec::new(),
            held: Held::Live { _place: place },
            running: None,
            encoding: None,
        });
        if !say(&mut watching.send, &Response::Admitted { admission }).await {
            self.hang_up(connection, close::PROTOCOL, "not received");
        }
    }

    /// Counts and tells that the viewer was admitted.
    fn tell_of_admission(&self, viewer: ViewerId, path: Path, connection: &Connection) {
        self.shared.metrics.admit(self.introduced_at.elapsed());
        self.shared.metrics.path(None, Some(path.kind));
        self.record(Happened::ViewerJoined {
            viewer,
            path: path.kind.as_str(),
            remote: path.remote,
            rtt: connection.rtt(),
        });
    }

    /// Pauses media if nothing was heard for too long.
    async fn pause_if_silent(&mut self) {
        let Some(Watching { seat, paused_at, running, .. }) = &mut self.watching else { return };
        if seat.is_paused() {
            return;
        }
        seat.set_paused(true);
        if !seat.is_silent(Instant::now()) {
            seat.set_paused(false);
            return;
        }
        // A file does not run on while nobody hears: its viewer asks for another take.
        running.iter().for_each(Running::stop);
        seat.channel.fan_out.leave(seat.viewer);
        let viewer = seat.viewer;
        self.shared.metrics.paused.inc();
        self.shared.metrics.events.record(Happened::MediaPaused { viewer });
        *paused_at = seat.channel.fan_out.standing().await.unwrap_or_default();
    }

    /// Goes on with media if it is paused and a word came.
    fn resume_if_heard(&mut self) {
        let (Some(path), Some(Watching { seat, paused_at, .. })) = (self.path, &self.watching)
        else {
            return;
        };
        if !seat.is_paused() || seat.is_removed() || seat.is_silent(Instant::now()) {
            return;
        }
        seat.set_paused(false);
        self.shared.metrics.paused.dec();
        self.record(Happened::MediaResumed { viewer: seat.viewer });
        if seat.channel.on_demand.is_some() {
            seat.tell(Notice::Interrupted);
            return;
        }
        // It knows the channel already, and is told what it was not sent: that is not lost.
        let join = seat.rejoin(self.target(path));
        let (seat, paused_at) = (Arc::clone(seat), paused_at.clone());
        // It may have to wait for a keyframe. Ends with the viewer, or where it is paused again.
        tokio::spawn(async move {
            if let Some(joined) = join.await {
                seat.limit();
                seat.left_out(&paused_at, &joined);
            }
        });
    }

    /// Sends the notices that wait; says why the session ends if it does.
    async fn say_notices(&mut self, connection: &Connection) -> Option<End> {
        while let Some(notice) = self.watching.as_ref()?.seat.next_notice() {
            let end = self.say(connection, &notice).await;
            if end.is_some() {
                return end;
            }
        }
        None
    }

    /// Sends a notice; says why the session ends if it does.
    async fn say(&mut self, connection: &Connection, notice: &Notice) -> Option<End> {
        let watching = self.watching.as_mut()?;
        if matches!(notice, Notice::Ended) {
            last_word(&mut watching.send, notice).await;
            self.hang_up(connection, close::DONE, "ended");
            return Some(End { why: "the broadcast ended", departure: Departure::Ended });
        }
        if matches!(notice, Notice::Key { .. }) {
            self.shared.port.paths().urge(self.peer, KEY_URGENCY);
        }
        let said = say(&mut watching.send, notice).await;
        (!said).then(|| End::of_connection(connection))
    }

    fn close(&mut self, end: &End) {
        self.shared.arrivals.remove(&self.peer);
        self.shared.efforts.remove(&self.opening.id());
        self.close_socket(self.path.map(|path| path.local));
        if let Some((fan_out, viewer)) = self.joining.take() {
            fan_out.leave(viewer);
        }
        if let Some(watching) = self.watching.take() {
            let seat = watching.seat;
            seat.channel.fan_out.leave(seat.viewer);
            self.shared.audience.leave(seat.viewer);
            if seat.channel.on_demand.is_some() {
                self.shared.metrics.stored.playouts.dec();
            }
            self.shared.metrics.depart(end.departure);
            self.shared.metrics.path(self.path.map(|path| path.kind), None);
            if seat.is_paused() {
                self.shared.metrics.paused.dec();
            }
            let reason = end.departure.as_str();
            self.record(Happened::ViewerLeft { viewer: seat.viewer, reason });
        }
    }
}

/// Says something in time. False where the viewer is gone or does not receive it, which ends its
/// connection.
async fn say<T: minicbor::Encode<()>>(send: &mut SendStream, message: &T) -> bool {
    let said = tokio::time::timeout(SAYING_PATIENCE, stream::write(send, message)).await;
    said.is_ok_and(|said| said.is_ok())
}

/// Says the last that there is to say, and waits a moment for it to arrive before the connection goes.
async fn last_word<T: minicbor::Encode<()>>(send: &mut SendStream, message: &T) {
    if say(send, message).await {
        let _ = send.finish();
        let _ = tokio::time::timeout(LAST_WORD, send.stopped()).await;
    }
}
