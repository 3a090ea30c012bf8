//! Watching a link: meets the broadcaster, plays, and starts again by itself when the path is lost.

use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::control::{Admission, Notice, close};
use protocol::media::Format;
use quinn::{RecvStream, SendStream, VarInt};
use service::exit::{Code, Failure};
use tokio::sync::mpsc;
use tokio::time::Interval;
use transport::stream::{self, ReadError};

use crate::config::{StatsFormat, Watch};
use crate::media::{Player, PlayerEvent, check_environment, preload};
use crate::meeting::{Met, Viewer};
use crate::session::{self, Placed, Session};
use crate::stats::{State, Stats};

/// From a lost path to the first try, growing to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// How long files may take to be closed.
const CLOSING: Duration = Duration::from_millis(1500);

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(200);

/// Watches until the end, whatever that is.
pub(crate) async fn run(config: Watch, started_at: Instant) -> Result<(), Failure> {
    let outputs = config.outputs.clone();
    // Plugins load while the network side is at work.
    let prepared = tokio::task::spawn_blocking(move || {
        check_environment(&outputs).map(|()| preload(&outputs)).map_err(Failure::runtime)
    });
    let viewer = Viewer::open()?;
    let (player_events_in, player_events) = mpsc::unbounded_channel();
    let mut stats = Stats::new(started_at);
    stats.local = viewer.port.socket().local_addr().ok();
    let mut watcher = Watcher {
        viewer,
        player: None,
        player_tracks: Vec::new(),
        player_events_in,
        player_events,
        placed: Vec::new(),
        stats,
        second: tokio::time::interval(Duration::from_secs(1)),
        config,
    };
    let unprepared = async {
        match prepared.await {
            Ok(Err(failure)) => failure,
            // Prepared; or the runtime stops, which others tell.
            Ok(Ok(())) | Err(_) => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = watcher.run(started_at) => result,
        failure = unprepared => Err(failure),
    };
    watcher.finish(result).await
}

struct Watcher {
    config: Watch,
    viewer: Viewer,
    player: Option<Player>,
    player_tracks: Vec<Format>,
    player_events_in: mpsc::UnboundedSender<PlayerEvent>,
    player_events: mpsc::UnboundedReceiver<PlayerEvent>,
    placed: Vec<Placed>,
    stats: Stats,
    /// When statistics are due.
    second: Interval,
}

/// How a session ended, where it was no failure.
enum End {
    /// The path or the connection is gone: start again.
    PathLost(String),
    /// The broadcast is over.
    Broadcast,
    /// The person watching closed the window.
    Closed,
}

impl Watcher {
    async fn run(&mut self, started_at: Instant) -> Result<(), Failure> {
        let end = self.config.duration.map(|duration| started_at + duration);
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
            result = self.sessions(&mut last_failure) => result,
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
        let code = match self.stats.state {
            State::Resolving | State::Introducing => Code::RendezvousUnreachable,
            State::Opening => Code::NoPath,
            _ => Code::Runtime,
        };
        Failure::new(
            code,
            format!("no frame was decoded in the time given (still {state}); give --for more time"),
        )
    }

    /// One session after the other, until one ends for good.
    async fn sessions(&mut self, last_failure: &mut Option<Failure>) -> Result<(), Failure> {
        let mut wait = FIRST_RETRY;
        let mut again = false;
        loop {
            let result = self.session(again).await;
            self.stats.end_session();
            match result {
                Ok(End::Broadcast) => {
                    tracing::info!("the broadcast is over");
                    return Ok(());
                }
                Ok(End::Closed) => return Ok(()),
                Ok(End::PathLost(reason)) => {
                    tracing::warn!("path lost ({reason}); reconnecting");
                    (again, wait) = (true, FIRST_RETRY);
                }
                Err(failure) if again && is_passing(&failure) => {
                    tracing::info!("not back yet: {failure}");
                    *last_failure = Some(failure);
                }
                Err(failure) => return Err(failure),
            }
            self.stats.enter(State::Reconnecting);
            self.idle(wait).await;
            wait = (wait * 2).min(LONGEST_RETRY);
        }
    }

    /// Gets as far as being admitted, and prints statistics meanwhile.
    async fn meet(
        &mut self,
        again: bool,
    ) -> Result<(Met, (SendStream, RecvStream, Admission)), Failure> {
        let Self { viewer, stats, config, second, .. } = self;
        let link = &config.target.link;
        let state = Cell::new(stats.state);
        let enter = |next| {
            if !again {
                state.set(next);
            }
        };
        let meeting = async {
            let met = viewer.meet(link, config.target.allow_private, again, enter).await?;
            let admission = session::request(&met, link).await?;
            Ok((met, admission))
        };
        tokio::pin!(meeting);
        loop {
            let result = tokio::select! {
                result = &mut meeting => Some(result),
                _ = second.tick() => None,
            };
            stats.enter(state.get());
            match result {
                Some(result) => return result,
                None => print(stats, config.stats),
            }
        }
    }

    /// One stay with the broadcaster, from introduction to end.
    async fn session(&mut self, again: bool) -> Result<End, Failure> {
        let (met, admission) = self.meet(again).await?;
        let formats: Vec<Format> =
            admission.2.tracks.iter().map(|track| track.format.clone()).collect();
        let running_time = self.ensure_player(&formats)?;
        let latency = self.config.latency;
        let paths = Arc::clone(self.viewer.port.paths());
        let mut session =
            Session::new(met, paths, admission, running_time, latency, &mut self.placed);
        if again {
            self.stats.reconnects += 1;
        }
        self.stats.enter(State::Playing);
        session.update(&mut self.stats);
        tracing::info!(
            path = session.met.path.kind.as_str(),
            remote = %session.met.path.remote,
            rtt_ms = session.met.path.rtt.as_millis() as u64,
            "playing"
        );
        let result = self.play(&mut session).await;
        session.met.connection.close(VarInt::from_u32(close::DONE), b"");
        result
    }

    async fn play(&mut self, session: &mut Session) -> Result<End, Failure> {
        loop {
            let Self { viewer, player, player_events, placed, stats, config, second, .. } = self;
            let Some(player) = player else { return Err(Failure::runtime("the player is gone")) };
            let wakes_at = session.wakes_at();
            tokio::select! {
                biased;
                datagram = viewer.media.recv() => {
                    let Some(datagram) = datagram else {
                        return Err(Failure::runtime("the UDP port is gone"));
                    };
                    session.receive(datagram, player, placed, stats);
                }
                event = session.met.opening.event() => {
                    if let Err(reason) = session.path_event(event) {
                        return Ok(End::PathLost(reason));
                    }
                }
                notice = stream::read::<Notice>(&mut session.notices) => match notice {
                    Ok(notice) => {
                        if !session.notice(notice)? {
                            return Ok(End::Broadcast);
                        }
                    }
                    Err(ReadError::Finished) => return Ok(End::Broadcast),
                    Err(error) => return Ok(End::PathLost(error.to_string())),
                },
                event = player_events.recv() => {
                    if let Some(event) = event
                        && player_event(event)?
                    {
                        return Ok(End::Closed);
                    }
                }
                () = tokio::time::sleep_until(wakes_at.into()) => session.tick(player, placed, stats),
                _ = second.tick() => {
                    session.update(stats);
                    stats.player = player.stats();
                    print(stats, config.stats);
                }
            }
        }
    }

    /// A player for these tracks; the running one where it fits. Returns its clock.
    fn ensure_player(&mut self, formats: &[Format]) -> Result<Duration, Failure> {
        let fits = |old: &Format, new: &Format| {
            (old.kind, &old.encoding_name, old.clock_rate, old.channels, old.payload_type)
                == (new.kind, &new.encoding_name, new.clock_rate, new.channels, new.payload_type)
        };
        if let Some(player) = &self.player {
            let same = self.player_tracks.len() == formats.len()
                && self.player_tracks.iter().zip(formats).all(|(old, new)| fits(old, new));
            if same {
                return Ok(player.running_time());
            }
            return Err(Failure::runtime(
                "the broadcaster came back with other tracks; watch again to see them",
            ));
        }
        let events = self.player_events_in.clone();
        let tell = Arc::new(move |event| {
            // Nobody listens any more once watching is over.
            let _ = events.send(event);
        });
        let Watch { outputs, latency, .. } = &self.config;
        let player =
            tokio::task::block_in_place(|| Player::start(formats, outputs, *latency, tell))
                .map_err(Failure::runtime)?;
        let running_time = player.running_time();
        self.player = Some(player);
        self.player_tracks = formats.to_vec();
        Ok(running_time)
    }

    /// Lets time pass between two sessions.
    async fn idle(&mut self, wait: Duration) {
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => break,
                _ = self.second.tick() => {
                    self.refresh_player();
                    print(&mut self.stats, self.config.stats);
                }
            }
        }
        // What arrived meanwhile is of the session that is over.
        while self.viewer.media.try_recv().is_ok() {}
    }

    fn refresh_player(&mut self) {
        if let Some(player) = &self.player {
            self.stats.player = player.stats();
        }
    }

    /// Closes files, says goodbye, and prints the last statistics.
    async fn finish(mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        let endpoint = self.viewer.port.endpoint().clone();
        endpoint.close(VarInt::from_u32(close::DONE), b"");
        self.refresh_player();
        let stopped = match self.player.take() {
            Some(player) => tokio::task::block_in_place(|| player.stop(CLOSING)),
            None => Ok(()),
        };
        self.stats.enter(State::Ended);
        print(&mut self.stats, self.config.stats);
        let _ = tokio::time::timeout(GOODBYE, endpoint.wait_idle()).await;
        result.and(stopped.map_err(Failure::runtime))
    }
}

/// Whether trying again may help.
fn is_passing(failure: &Failure) -> bool {
    matches!(
        failure.code,
        Code::Runtime | Code::NoPath | Code::RendezvousUnreachable | Code::Unknown
    )
}

/// Takes what the player tells. True where watching is over.
fn player_event(event: PlayerEvent) -> Result<bool, Failure> {
    match event {
        PlayerEvent::FirstFrame => {
            tracing::info!("first picture");
            Ok(false)
        }
        PlayerEvent::WindowClosed => Ok(true),
        PlayerEvent::Failed(error) => Err(Failure::runtime(error)),
        PlayerEvent::OutputFailed { output, error } => {
            tracing::error!(%output, %error, "output failed; the others go on");
            Ok(false)
        }
    }
}

fn print(stats: &mut Stats, format: Option<StatsFormat>) {
    if format == Some(StatsFormat::Json) {
        let object = stats.object(Instant::now());
        let line = serde_json::to_string(&object).expect("plain fields serialize");
        let mut out = std::io::stdout().lock();
        // A closed standard output is no reason to stop watching.
        let _ = writeln!(out, "{line}");
    }
}
