//! Watching a link: meets the broadcaster, plays, and starts again by itself when the path is lost.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::control::{Admission, Notice, close};
use protocol::media::Format;
use quinn::{RecvStream, SendStream, VarInt};
use service::exit::{Code, Failure};
use service::listener::Shown;
use tokio::sync::mpsc;
use tokio::time::Interval;
use transport::stream::ReadError;

use crate::apart::{CLOSING, Player, Prepared};
use crate::asking;
use crate::caption::{Captions, Meant};
use crate::config::Watch;
use crate::media::{Output, PlayerError, PlayerEvent};
use crate::meeting::{Datagram, Met, Step, Viewer};
use crate::metrics::Metrics;
use crate::printer::Printer;
use crate::session::Session;
use crate::slots::Placed;
use crate::stats::{State, Stats};
use crate::terminal::{self, Board};

/// From a lost path to the first try, growing to the longest: a broadcaster that comes back is seen again within two
/// seconds, of which opening a path and catching up take one.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_millis(500);

/// A broadcaster that is away for longer is looked for less often: a crowd that waits is no small load.
const SOON_BACK: Duration = Duration::from_secs(120);
const LATE_RETRY: Duration = Duration::from_secs(2);

/// How long a window says why it ends.
const LINGERING: Duration = Duration::from_secs(2);

/// Beyond the time that files may take to be closed.
const CLOSING_RESERVE: Duration = Duration::from_millis(150);

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(200);

/// Watches until the end, whatever that is.
pub(crate) async fn run(config: Watch, started_at: Instant) -> Result<(), Failure> {
    let by_hand = config.target.by_hand.is_some();
    let board = Board::start(config.target.log_format, by_hand);
    // They load their plugins while the network side is at work.
    let (prepared, player_events, unfit) =
        Prepared::start(&config.outputs, config.target.log_format).map_err(Failure::runtime)?;
    check_names(&config.outputs).await?;
    let (viewer, media) = Viewer::open(config.target.receive_port)?;
    let mut stats = Stats::new(started_at);
    stats.local = viewer.port.socket().local_addr().ok();
    let metrics = serve_metrics(config.metrics).await?;
    let latency = config.latency.least();
    let captions = prepared
        .pane()
        .map(|pane| Captions::new(pane, &config.target.link.target, by_hand, latency));
    let printer = Printer::start(config.stats, metrics, board, captions);
    let mut watcher = Watcher {
        viewer,
        media,
        prepared: Some(prepared),
        player: None,
        player_tracks: Vec::new(),
        player_events,
        placed: Vec::new(),
        stats,
        file: File::new(&config.target.link.target, config.start, config.sound),
        ticks: tokio::time::interval(printer.interval()),
        printer,
        config,
    };
    let unprepared = async {
        match unfit.await {
            Ok(error) => Failure::runtime(error),
            // They play by now; what happens to them then is told as it happens.
            Err(_) => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = watcher.run(started_at) => result,
        failure = unprepared => Err(failure),
    };
    watcher.finish(result).await
}

/// Begins to serve metrics, if that is wanted.
async fn serve_metrics(address: Option<SocketAddr>) -> Result<Option<Arc<Metrics>>, Failure> {
    let Some(address) = address else { return Ok(None) };
    let metrics = Metrics::new();
    let of_page = Arc::clone(&metrics);
    let shown = Shown {
        program: "viewer",
        registry: metrics.registry.clone(),
        readiness: metrics.readiness.clone(),
        refresh: Box::new(|| {}),
        status: Box::new(move || of_page.shown()),
    };
    service::listener::serve(address, shown).await?;
    Ok(Some(metrics))
}

/// Whether the receivers of network outputs can be found.
async fn check_names(outputs: &[Output]) -> Result<(), Failure> {
    for output in outputs {
        let receiver = match output {
            Output::Udp { host, port } => Some((host.as_str(), *port)),
            Output::Srt(srt) => srt.host().map(|host| (host, srt.port())),
            Output::Rtmp(rtmp) => Some((rtmp.host(), rtmp.port())),
            _ => None,
        };
        let Some(receiver) = receiver else { continue };
        let _addresses = tokio::net::lookup_host(receiver).await.map_err(|error| {
            Failure::runtime(format!("{output} cannot be reached: {error}; check its name"))
        })?;
    }
    Ok(())
}

mod file;

use file::File;

/// What a watch request was answered with.
type Admitted = (SendStream, RecvStream, Admission);

struct Watcher {
    config: Watch,
    viewer: Viewer,
    /// What arrived and waits.
    media: mpsc::Receiver<Datagram>,
    /// What will play, and what does.
    prepared: Option<Prepared>,
    player: Option<Player>,
    player_tracks: Vec<Format>,
    player_events: mpsc::Receiver<PlayerEvent>,
    placed: Vec<Placed>,
    stats: Stats,
    /// The stored file, where one is watched.
    file: Option<File>,
    /// When statistics may be due.
    ticks: Interval,
    printer: Printer,
}

/// How a session ended, where it was no failure.
enum End {
    /// The path or the connection is gone: start again.
    PathLost(String),
    /// The broadcaster that was lost could not be met again yet.
    NotBack(Failure),
    /// The broadcast is over.
    Broadcast,
    /// The person watching closed the window.
    Closed,
}

/// How watching ended, where it was no failure.
enum Over {
    /// There is nothing more to see.
    Broadcast,
    /// The person watching had seen enough.
    Closed,
}

impl Watcher {
    async fn run(&mut self, started_at: Instant) -> Result<(), Failure> {
        // A time beyond what the clock counts never comes.
        let end = self.config.duration.and_then(|duration| started_at.checked_add(duration));
        let over = async move {
            match end {
                Some(end) => tokio::time::sleep_until(end.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        let interrupted = service::shutdown::requested();
        let mut last_failure = None;
        tokio::select! {
            result = self.watch(&mut last_failure) => result,
            result = interrupted => {
                result.map_err(|error| Failure::runtime(format!("cannot listen for signals: {error}")))
            }
            () = &mut over => {
                if self.has_decoded() {
                    Ok(())
                } else {
                    Err(last_failure.unwrap_or_else(|| self.nothing_decoded()))
                }
            }
        }
    }

    fn has_decoded(&mut self) -> bool {
        self.refresh_player();
        self.stats.has_decoded()
    }

    fn nothing_decoded(&self) -> Failure {
        let state = self.stats.state.as_str();
        Failure::runtime(format!(
            "no frame was decoded in the time given (still {state}); give --for more time"
        ))
    }

    /// Watches to the end, and leaves a moment to read why it is one.
    async fn watch(&mut self, last_failure: &mut Option<Failure>) -> Result<(), Failure> {
        let reason = match self.sessions(last_failure).await {
            Ok(Over::Closed) => return Ok(()),
            Ok(Over::Broadcast) if self.file.is_some() => Ok("the file is over"),
            Ok(Over::Broadcast) => Ok("the broadcast is over"),
            Err(failure) => Err(failure),
        };
        let words = match &reason {
            Ok(words) => (*words).to_owned(),
            Err(failure) => failure.to_string(),
        };
        self.linger(&words).await;
        reason.map(drop)
    }

    /// Has the window say why it ends, for a moment or until a key is pressed. Who waits for a process, or for what
    /// comes out of it, does not wait for that.
    async fn linger(&mut self, reason: &str) {
        let is_awaited =
            self.config.duration.is_some() || self.config.outputs.contains(&Output::Stdout);
        let Some(captions) = self.printer.captions().filter(|captions| captions.is_seen()) else {
            return;
        };
        if is_awaited {
            return;
        }
        captions.end(reason);
        self.stats.enter(State::Ended);
        let read = tokio::time::sleep(LINGERING);
        tokio::pin!(read);
        loop {
            tokio::select! {
                () = &mut read => return,
                event = self.player_events.recv() => match event {
                    Some(PlayerEvent::WindowOpened) => {
                        read.as_mut().reset(tokio::time::Instant::now() + LINGERING);
                    }
                    Some(PlayerEvent::Motion | PlayerEvent::FirstFrame | PlayerEvent::Late(_)) => {}
                    _ => return,
                },
                _ = self.ticks.tick() => {
                    self.refresh_player();
                    self.printer.tick(&mut self.stats);
                }
            }
        }
    }

    /// One session after the other, until one ends for good.
    async fn sessions(&mut self, last_failure: &mut Option<Failure>) -> Result<Over, Failure> {
        let mut wait = FIRST_RETRY;
        let mut again = false;
        let mut lost_at = Instant::now();
        loop {
            let result = if self.file.is_some() {
                self.file_session(again).await
            } else {
                self.session(again).await
            };
            self.stats.end_session();
            match result {
                Ok(End::Broadcast) => {
                    tracing::info!(event = "broadcast_ended", "the broadcast is over");
                    return Ok(Over::Broadcast);
                }
                Ok(End::Closed) => return Ok(Over::Closed),
                Ok(End::PathLost(reason)) if self.config.target.by_hand.is_some() => {
                    return Err(Failure::new(
                        Code::NoPath,
                        format!("path lost ({reason}); without a rendezvous, exchange a new offer"),
                    ));
                }
                Ok(End::PathLost(reason)) => {
                    tracing::warn!(event = "path_lost", reason, "path lost; reconnecting");
                    (again, wait, lost_at) = (true, FIRST_RETRY, Instant::now());
                }
                Ok(End::NotBack(failure)) => {
                    tracing::info!(target: terminal::STEPS, "not back yet: {failure}");
                    *last_failure = Some(failure);
                }
                Err(failure) => return Err(failure),
            }
            self.stats.enter(State::Reconnecting);
            if self.idle(wait).await? {
                return Ok(Over::Closed);
            }
            let is_late = lost_at.elapsed() >= SOON_BACK;
            wait = (wait * 2).min(if is_late { LATE_RETRY } else { LONGEST_RETRY });
        }
    }

    /// Gets as far as being admitted, and prints statistics meanwhile. None where the window was closed.
    async fn meet<T>(
        &mut self,
        again: bool,
        request: impl AsyncFnOnce(&Met, Duration) -> Result<T, Failure>,
    ) -> Result<Option<(Met, T)>, Failure> {
        let Self { viewer, stats, config, ticks, printer, player_events, .. } = self;
        let target = &config.target;
        let state = Cell::new(stats.state);
        let enter = |step: Step<'_>| {
            if !again {
                state.set(step.state());
                printer.step(step);
            }
        };
        let meeting = async {
            let met = viewer.meet(target, again, enter).await?;
            let latency = Session::first_latency(config.latency, &met);
            let answer = request(&met, latency).await?;
            Ok((met, answer))
        };
        tokio::pin!(meeting);
        loop {
            tokio::select! {
                result = &mut meeting => {
                    stats.enter(state.get());
                    return result.map(Some);
                }
                Some(event) = player_events.recv() => {
                    if player_event(event, printer)? {
                        return Ok(None);
                    }
                }
                _ = ticks.tick() => {
                    stats.enter(state.get());
                    printer.tick(stats);
                }
            }
        }
    }

    /// One stay with the broadcaster, from introduction to end.
    async fn session(&mut self, again: bool) -> Result<End, Failure> {
        let link = self.config.target.link.clone();
        let request = async |met: &Met, latency| asking::watch(met, &link, latency).await;
        let (met, mut admission): (_, Admitted) = match self.meet(again, request).await {
            Ok(Some(met)) => met,
            Ok(None) => return Ok(End::Closed),
            Err(failure) if again && is_passing(&failure) => return Ok(End::NotBack(failure)),
            Err(failure) => return Err(failure),
        };
        let admitted_at = Instant::now();
        let formats: Vec<Format> =
            admission.2.tracks.iter().map(|track| track.format.clone()).collect();
        let running_time = self.ensure_player(&formats)?;
        // The player took time to start, and capture went on.
        let since = u64::try_from(admitted_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        let capture_now_us = &mut admission.2.capture_now_us;
        *capture_now_us = capture_now_us.saturating_add(since);
        let latency = self.config.latency;
        let paths = Arc::clone(self.viewer.port.paths());
        let mut session =
            Session::new(met, paths, admission, running_time, latency, &mut self.placed);
        if again {
            self.stats.reconnects += 1;
        }
        self.stats.enter(State::Playing);
        self.take_early(&mut session);
        self.printer.show(&self.stats);
        say_playing(&session);
        let result = self.play(&mut session).await;
        close_after(&session, &result);
        result
    }

    /// Takes what came before its announcement.
    fn take_early(&mut self, session: &mut Session) {
        let Self { media, player, placed, stats, .. } = self;
        if let Some(player) = player {
            let early = std::iter::from_fn(|| media.try_recv().ok());
            session.receive_early(early, player, placed, stats);
            session.update(player, stats);
        }
    }

    async fn play(&mut self, session: &mut Session) -> Result<End, Failure> {
        loop {
            let Self { media, player, player_events, placed, stats, ticks, printer, .. } = self;
            let Some(player) = player else { return Err(Failure::runtime("the player is gone")) };
            let wakes_at = session.wakes_at();
            tokio::select! {
                biased;
                datagram = media.recv() => {
                    let Some(datagram) = datagram else {
                        return Err(Failure::runtime("the UDP port is gone"));
                    };
                    session.receive(datagram, player, placed, stats);
                }
                event = session.met.opening.event() => {
                    if let Err(reason) = session.path_event(event, stats) {
                        return Ok(End::PathLost(reason));
                    }
                }
                notice = session.notices.next::<Notice>() => match notice {
                    Ok(notice) => {
                        if !session.notice(notice, placed)? {
                            return Ok(End::Broadcast);
                        }
                        session.take_held(player, placed, stats);
                    }
                    Err(ReadError::Finished) => return Ok(End::Broadcast),
                    Err(error) => return Ok(End::PathLost(error.to_string())),
                },
                event = player_events.recv() => {
                    if let Some(PlayerEvent::Late(by)) = event {
                        session.was_late(by, player);
                    } else if let Some(event) = event
                        && player_event(event, printer)?
                    {
                        return Ok(End::Closed);
                    }
                }
                () = tokio::time::sleep_until(wakes_at.into()) => {
                    session.tick(player, placed, stats);
                    if let Some(reason) = session.renewals().await {
                        return Ok(End::PathLost(reason));
                    }
                }
                _ = ticks.tick() => {
                    session.update(player, stats);
                    stats.player = player.stats();
                    printer.tick(stats);
                }
            }
        }
    }

    /// A player for these tracks; the running one where it fits. Returns its clock.
    fn ensure_player(&mut self, formats: &[Format]) -> Result<Duration, Failure> {
        if let Some(player) = &self.player {
            if Format::are_like(&self.player_tracks, formats) {
                return Ok(player.running_time());
            }
            return Err(Failure::runtime(
                "the broadcaster came back with other tracks; watch again to see them",
            ));
        }
        let latency = &self.config.latency;
        let prepared =
            self.prepared.take().ok_or_else(|| Failure::runtime("the player is gone"))?;
        let player = tokio::task::block_in_place(|| prepared.play(formats, latency.least(), None))
            .map_err(Failure::runtime)?;
        player.bear_lateness(latency.most_late());
        let running_time = player.running_time();
        self.player = Some(player);
        self.player_tracks = formats.to_vec();
        if let Some(captions) = self.printer.captions() {
            captions.tracks(formats);
        }
        Ok(running_time)
    }

    /// Lets time pass between two sessions. True where the window was closed.
    async fn idle(&mut self, wait: Duration) -> Result<bool, Failure> {
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => break,
                Some(event) = self.player_events.recv() => {
                    if player_event(event, &self.printer)? {
                        return Ok(true);
                    }
                }
                _ = self.ticks.tick() => {
                    self.refresh_player();
                    self.printer.tick(&mut self.stats);
                }
            }
        }
        // What arrived meanwhile is of the session that is over.
        while self.media.try_recv().is_ok() {}
        Ok(false)
    }

    fn refresh_player(&mut self) {
        if let Some(player) = &self.player {
            self.stats.player = player.stats();
        }
    }

    /// Closes files, says goodbye, and prints the last statistics.
    async fn finish(mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        let endpoint = self.viewer.port.endpoint().clone();
        self.viewer.port.close(close::DONE, "");
        self.refresh_player();
        let stopped = match self.player.take() {
            Some(player) => {
                let stopping = tokio::task::spawn_blocking(move || player.stop(CLOSING));
                match tokio::time::timeout(CLOSING + CLOSING_RESERVE, stopping).await {
                    // A pipe that nobody reads is left behind; a file that is not closed is not.
                    Ok(Ok(Err(PlayerError::Unfinished { output: Output::Stdout, .. })))
                    | Ok(Err(_))
                    | Err(_) => {
                        tracing::warn!("an output takes nothing; leaving it behind");
                        Ok(())
                    }
                    Ok(Ok(stopped)) => stopped,
                }
            }
            None => Ok(()),
        };
        self.stats.enter(State::Ended);
        self.printer.print(&mut self.stats);
        self.printer.finish();
        let _ = tokio::time::timeout(GOODBYE, endpoint.wait_idle()).await;
        result.and(stopped.map_err(Failure::runtime))
    }
}

fn say_playing(session: &Session) {
    tracing::info!(
        target: terminal::STEPS,
        event = "playing",
        path = session.met.path.kind.as_str(),
        remote = %session.met.path.remote,
        rtt_ms = session.met.path.rtt.as_millis() as u64,
        "playing"
    );
}

/// Tells the broadcaster why the viewer goes.
fn close_after(session: &Session, result: &Result<End, Failure>) {
    let is_over = !matches!(result, Ok(End::PathLost(_)));
    let code = if is_over { close::DONE } else { close::CONSENT_EXPIRED };
    session.met.connection.close(VarInt::from_u32(code), b"");
}

/// Whether trying again may help.
pub(crate) fn is_passing(failure: &Failure) -> bool {
    matches!(
        failure.code,
        Code::Runtime | Code::NoPath | Code::RendezvousUnreachable | Code::Unknown
    )
}

/// Takes what the player tells. True where watching is over.
fn player_event(event: PlayerEvent, printer: &Printer) -> Result<bool, Failure> {
    match event {
        PlayerEvent::FirstFrame => {
            tracing::info!(target: terminal::STEPS, "first picture");
            Ok(false)
        }
        PlayerEvent::WindowOpened => Ok(false),
        PlayerEvent::WindowClosed => Ok(true),
        PlayerEvent::Key(key) => {
            Ok(printer.captions().is_some_and(|captions| captions.key(&key) == Meant::End))
        }
        // A live channel cannot be moved in, and what is late means something while it plays.
        PlayerEvent::Bar(_) | PlayerEvent::Motion | PlayerEvent::Late(_) => Ok(false),
        PlayerEvent::Failed(error) => Err(Failure::runtime(error)),
        PlayerEvent::OutputFailed { output, error } => {
            tracing::error!(%output, %error, "output failed; the others go on");
            Ok(false)
        }
    }
}
