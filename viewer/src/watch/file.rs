//! Watching a stored file: take after take of it, as the person watching wants, or as the path makes
//! necessary.
//!
//! Where nothing goes on for a while, for whatever reason, another take is asked for from the position that is
//! shown, over the path as it is by then. Where the broadcaster refuses what a command asked for, the take before
//! goes on, or stands still, as if nothing had been asked.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::control::{Notice, Request};
use protocol::link::Target;
use protocol::media::Format;
use protocol::units::Bitrate;
use service::exit::{Code, Failure};
use tokio::sync::mpsc;
use transport::stream::ReadError;

use super::{End, Watcher, close_after, is_passing, player_event, say_playing};
use crate::apart::Player;
use crate::asking::{Begun, ask_on, play};
use crate::commands::{self, Command};
use crate::media::{PlayerError, PlayerEvent, TakePlan, TakeTrack};
use crate::session::{Session, first_ssrc};
use crate::stats::{Playback, State};

/// How often it is looked at what is shown.
const LOOK: Duration = Duration::from_millis(20);

/// How long the seek bar stays after something was done in the window.
const BAR: Duration = Duration::from_secs(2);

/// A take that ends so long before the file does ends early.
const EARLY: Duration = Duration::from_secs(1);

/// A position this close to a file's end is its end.
const LEAST_REST: Duration = Duration::from_millis(1);

/// A take that was asked for.
type Asking = Pin<Box<dyn Future<Output = Result<Begun, Failure>> + Send>>;

/// A stored file that is watched, and what is wanted of it.
pub(super) struct File {
    path: String,
    position: Duration,
    duration: Option<Duration>,
    is_paused: bool,
    /// Where it stood still last.
    stood_at: Duration,
    /// Stand still once the picture that was sought is shown.
    pauses_when_shown: bool,
    rate_percent: u32,
    /// The rate of the take that is shown.
    shown_rate: u32,
    sound: u32,
    commands: mpsc::UnboundedReceiver<Command>,
    /// Since when a picture is waited for that a command asked for.
    asked_at: Option<Instant>,
    seek: Option<Duration>,
    /// Until when the seek bar is shown.
    bar_until: Option<Instant>,
}

impl File {
    /// The file that a link names, from a position on.
    pub(super) fn new(target: &Target, start: Duration, sound: u32) -> Option<Self> {
        let Target::File(path) = target else { return None };
        Some(Self {
            path: path.clone(),
            position: start,
            duration: None,
            is_paused: false,
            stood_at: start,
            pauses_when_shown: false,
            rate_percent: 100,
            shown_rate: 100,
            sound,
            commands: commands::listen(),
            asked_at: None,
            seek: None,
            bar_until: None,
        })
    }

    /// For the statistics.
    fn playback(&self) -> Playback {
        Playback {
            position: self.position,
            duration: self.duration,
            is_paused: self.is_paused,
            rate: f64::from(self.rate_percent) / 100.0,
            seek: self.seek,
        }
    }

    /// How much has been played, where the seek bar is to be shown.
    fn bar(&self) -> Option<f64> {
        let is_shown = self.is_paused
            || self.pauses_when_shown
            || self.bar_until.is_some_and(|until| Instant::now() < until);
        let duration = self.duration.filter(|duration| is_shown && !duration.is_zero())?;
        Some(self.position.as_secs_f64() / duration.as_secs_f64())
    }

    /// What a command asked for is refused: the take that is shown goes on, or stands still as before.
    fn refused(&mut self, shown: Option<Duration>, stands_still: bool) {
        self.asked_at = None;
        self.rate_percent = self.shown_rate;
        self.position = shown.unwrap_or(self.position);
        if stands_still {
            self.pauses_when_shown = false;
            self.is_paused = true;
            self.position = self.stood_at;
        }
    }

    /// Nothing moves any more. `shown` is where that is.
    fn stand_still(&mut self, shown: Option<Duration>) {
        self.is_paused = true;
        self.stood_at = shown.unwrap_or(self.position);
        if self.asked_at.is_none() {
            self.position = self.stood_at;
        }
    }

    /// Takes what is wanted. True where that needs another take.
    fn wants(&mut self, command: Command) -> bool {
        let before = (self.position, self.rate_percent);
        match command {
            Command::Seek(to) => self.position = to,
            Command::Skip(by, true) => self.position = self.position.saturating_add(by),
            Command::Skip(by, false) => self.position = self.position.saturating_sub(by),
            Command::Rate(percent) => self.rate_percent = percent,
            Command::Pause | Command::Play | Command::Toggle | Command::Quit => return false,
        }
        if let Some(duration) = self.duration {
            self.position = self.position.min(duration.saturating_sub(LEAST_REST));
        }
        matches!(command, Command::Seek(_)) || before != (self.position, self.rate_percent)
    }
}

impl Watcher {
    /// One stay with the broadcaster, from introduction to end.
    pub(super) async fn file_session(&mut self, again: bool) -> Result<End, Failure> {
        let Some(file) = &mut self.file else {
            return Err(Failure::runtime("no file is watched"));
        };
        // What stood still stands still at the same picture.
        file.pauses_when_shown |= std::mem::take(&mut file.is_paused);
        let request = request(file, None);
        let link = self.config.target.link.clone();
        let met = self
            .meet(again, async |met, latency| {
                play(met.connection.clone(), request(&link, latency), &link).await
            })
            .await;
        let (met, mut begun) = match met {
            Ok(Some(met)) => met,
            Ok(None) => return Ok(End::Closed),
            Err(failure) if again && is_passing(&failure) => {
                // What was wanted when the path broke may be what is refused.
                if failure.code != Code::Runtime
                    && let Some(file) = self.file.as_mut().filter(|file| file.asked_at.is_some())
                {
                    let shown = self.player.as_ref().and_then(Player::position);
                    file.refused(shown, false);
                }
                return Ok(End::NotBack(failure));
            }
            Err(failure) => return Err(failure),
        };
        let running_time = self.begin_take(&mut begun)?;
        let latency = self.config.latency;
        let paths = Arc::clone(self.viewer.port.paths());
        let Begun { send, receive, admission, take } = begun;
        let pace = Bitrate::bits_per_second(take.pace_bps);
        let ssrc = first_ssrc(&admission);
        let admission = (send, receive, admission);
        let mut session =
            Session::new(met, paths, admission, running_time, latency, &mut self.placed);
        session.hold_all(ssrc, pace);
        if again {
            self.stats.reconnects += 1;
        }
        self.stats.enter(State::Playing);
        self.take_early(&mut session);
        self.printer.show(&self.stats);
        say_playing(&session);
        let result = self.play_file(&mut session).await;
        close_after(&session, &result);
        result
    }

    /// Has the player begin with a take. Returns its clock.
    fn begin_take(&mut self, begun: &mut Begun) -> Result<Duration, Failure> {
        let Some(file) = &mut self.file else { return Ok(Duration::ZERO) };
        let began = Instant::now();
        let Begun { admission, take, .. } = begun;
        let formats: Vec<Format> =
            admission.tracks.iter().map(|track| track.format.clone()).collect();
        let nanoseconds = |us: u64| i64::try_from(us).unwrap_or(i64::MAX).saturating_mul(1000);
        let target = nanoseconds(take.position_us);
        let track = |track: &protocol::control::Track| {
            let since =
                nanoseconds(track.captured_us).saturating_sub(nanoseconds(take.captured_us));
            let since = since as f64 * f64::from(take.rate_percent) / 100.0;
            TakeTrack {
                clock_rate: track.format.clock_rate,
                rtp_timestamp: track.rtp_timestamp,
                position: target.saturating_add(since as i64),
            }
        };
        let tracks: Vec<TakeTrack> = admission.tracks.iter().map(track).collect();
        let (rate_percent, stands) = (take.rate_percent, file.pauses_when_shown);
        let plan = TakePlan { target, rate_percent, stands, tracks };
        if file.duration.is_none() && !take.transcoded.is_empty() {
            tracing::info!("the broadcaster encodes anew: {}", take.transcoded);
        }
        file.shown_rate = take.rate_percent;
        file.duration = take.duration_us.map(Duration::from_micros).or(file.duration);
        let latency = self.config.latency.least();
        let (player, prepared) = (&mut self.player, self.prepared.take());
        tokio::task::block_in_place(|| match (player.as_mut(), prepared) {
            (Some(playing), _) => playing.begin_take(&formats, plan),
            (None, Some(prepared)) => {
                *player = Some(prepared.play(&formats, latency, Some(plan))?);
                Ok(())
            }
            (None, None) => Err(PlayerError::NoOutputLeft),
        })
        .map_err(Failure::runtime)?;
        if let Some(captions) = self.printer.captions() {
            captions.tracks(&formats);
        }
        self.placed.clear();
        // The player took time to start, and the capture clock went on.
        let since = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        admission.capture_now_us = admission.capture_now_us.saturating_add(since);
        Ok(self.player.as_ref().map_or(Duration::ZERO, Player::running_time))
    }

    async fn play_file(&mut self, session: &mut Session) -> Result<End, Failure> {
        let mut asking: Option<Asking> = None;
        let mut asks_again = false;
        // Whether a command made it necessary, and the rate that was asked for.
        let mut is_wish = false;
        let mut asked_rate = 100;
        let mut is_completed = false;
        let mut notices_ended = false;
        let mut looks = tokio::time::interval(LOOK);
        loop {
            let Self {
                media,
                player,
                player_events,
                placed,
                stats,
                ticks,
                printer,
                file,
                config,
                ..
            } = self;
            let (Some(player), Some(file)) = (player, file) else {
                return Err(Failure::runtime("the player is gone"));
            };
            let wakes_at = session.wakes_at();
            let answer = async {
                match &mut asking {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            let mut wanted: Option<Command> = None;
            let mut retake = false;
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
                begun = answer => {
                    asking = None;
                    match begun {
                        Ok(_) if asks_again => {
                            // The take that is shown is over for the broadcaster.
                            session.interrupted();
                            asks_again = false;
                            (retake, is_wish) = (true, true);
                        }
                        Ok(mut begun) => {
                            // Asked to stand still meanwhile: once there is something to see.
                            file.pauses_when_shown |= std::mem::take(&mut file.is_paused);
                            is_completed = false;
                            notices_ended = false;
                            stats.end_session();
                            let running_time = self.begin_take(&mut begun)?;
                            session.begin_take(begun, running_time, &mut self.placed);
                            self.take_early(session);
                            continue;
                        }
                        // It answered, and says no.
                        Err(failure) if failure.code != Code::Runtime && is_wish => {
                            tracing::warn!(event = "take_refused", "{failure}");
                            // Something else was wanted since.
                            retake = std::mem::take(&mut asks_again);
                            if !retake {
                                file.refused(player.position(), session.is_idle());
                            } else if file.rate_percent == asked_rate {
                                file.rate_percent = file.shown_rate;
                            }
                        }
                        Err(failure) if is_passing(&failure) => {
                            return Ok(End::PathLost(failure.to_string()));
                        }
                        Err(failure) => return Err(failure),
                    }
                }
                notice = session.notices.next::<Notice>(), if !notices_ended => match notice {
                    Ok(Notice::Finished { ends, damaged }) => {
                        if let Some(reason) = damaged {
                            tracing::warn!("the file is damaged: {reason}; it ends early");
                        }
                        session.finished(ends);
                    }
                    Ok(Notice::Interrupted) => {
                        tracing::info!(event = "interrupted", "the broadcaster had stopped sending");
                        session.interrupted();
                    }
                    Ok(notice) => {
                        if !session.notice(notice, &mut self.placed)? {
                            return Err(stopped(file));
                        }
                    }
                    // The take before ends where another one begins.
                    Err(ReadError::Finished) if asking.is_some() || session.is_idle() => {
                        notices_ended = true;
                    }
                    Err(ReadError::Finished) => return Err(stopped(file)),
                    Err(error) => return Ok(End::PathLost(error.to_string())),
                },
                event = player_events.recv() => {
                    let is_closed = match event {
                        Some(PlayerEvent::Motion) => {
                            file.bar_until = Some(Instant::now() + BAR);
                            false
                        }
                        Some(PlayerEvent::Key(key)) => {
                            wanted = Command::of_key(&key);
                            if wanted.is_some() {
                                file.bar_until = Some(Instant::now() + BAR);
                            }
                            player_event(PlayerEvent::Key(key), printer)?
                        }
                        Some(PlayerEvent::Bar(share)) => {
                            file.bar_until = Some(Instant::now() + BAR);
                            let to = file.duration.map(|duration| duration.mul_f64(share));
                            wanted = to.map(Command::Seek);
                            false
                        }
                        Some(event) => player_event(event, printer)?,
                        None => false,
                    };
                    if is_closed {
                        return Ok(End::Closed);
                    }
                }
                Some(command) = file.commands.recv() => wanted = Some(command),
                () = tokio::time::sleep_until(wakes_at.into()) => {
                    session.tick(player, placed, stats);
                    if let Some(reason) = session.renewals().await {
                        return Ok(End::PathLost(reason));
                    }
                }
                _ = looks.tick() => {
                    let now = Instant::now();
                    let is_shown = player.shown_at();
                    let is_current = asking.is_none() && !file.is_paused;
                    if is_current && is_shown.is_some() && !file.pauses_when_shown {
                        file.position = player.position().unwrap_or(file.position);
                        stats.enter(State::Playing);
                    }
                    if asking.is_none() && let (Some(shown_at), Some(asked_at)) = (is_shown, file.asked_at) {
                        file.asked_at = None;
                        let took = shown_at.saturating_duration_since(asked_at);
                        tracing::info!(event = "take_shown", after_ms = took.as_millis() as u64, "shown");
                        file.seek = Some(took);
                    }
                    if asking.is_none() && is_shown.is_some() && std::mem::take(&mut file.pauses_when_shown) {
                        // Nothing else is shown, and the picture may be on its way to the screen.
                        file.stand_still(player.position());
                        send_nothing(session);
                    }
                    if !is_completed && session.is_complete() {
                        is_completed = true;
                        player.complete_take();
                    }
                    if is_completed && !file.is_paused && asking.is_none() && player.has_played_out() {
                        let reached = player.reached().unwrap_or(file.position);
                        let is_early = file.duration.is_some_and(|all| reached + EARLY < all);
                        if is_early {
                            tracing::warn!("the file ends earlier than it says");
                        }
                        file.position = if is_early { reached } else { file.duration.unwrap_or(reached) };
                        stats.playback = Some(file.playback());
                        return Ok(End::Broadcast);
                    }
                    player.show_bar(file.bar());
                    let stalls = !file.is_paused && !is_completed && asking.is_none();
                    if stalls && session.is_stalled(now) {
                        tracing::warn!(event = "stalled", "nothing comes; asking again from here on");
                        stats.reconnects += 1;
                        stats.enter(State::Reconnecting);
                        (retake, is_wish) = (true, false);
                    }
                    stats.playback = Some(file.playback());
                }
                _ = ticks.tick() => {
                    session.update(player, stats);
                    stats.player = player.stats();
                    stats.playback = Some(file.playback());
                    printer.tick(stats);
                }
            }
            match wanted {
                Some(Command::Quit) => return Ok(End::Closed),
                // The picture that was sought is still to come, and is to be stood still at or not.
                Some(Command::Play | Command::Toggle) if file.pauses_when_shown => {
                    file.pauses_when_shown = false;
                    if asking.is_none() {
                        file.asked_at = Some(Instant::now());
                        (retake, is_wish) = (true, true);
                    }
                }
                Some(Command::Pause) if file.pauses_when_shown => {}
                Some(Command::Pause | Command::Toggle) if !file.is_paused => {
                    file.stand_still(player.position());
                    player.freeze();
                    send_nothing(session);
                }
                Some(Command::Play | Command::Toggle) if file.is_paused => {
                    file.is_paused = false;
                    file.pauses_when_shown = false;
                    file.asked_at = Some(Instant::now());
                    (retake, is_wish) = (true, true);
                }
                Some(command) if file.wants(command) => {
                    file.asked_at = Some(Instant::now());
                    (retake, is_wish) = (true, true);
                }
                Some(_) | None => {}
            }
            if retake {
                // A seek while standing still shows its picture, and stands still again.
                if std::mem::take(&mut file.is_paused) {
                    file.pauses_when_shown = true;
                }
                if asking.is_some() {
                    asks_again = true;
                } else {
                    asked_rate = file.rate_percent;
                    let link = config.target.link.clone();
                    let latency = Session::first_latency(config.latency, &session.met);
                    let request = request(file, session.burst_pace())(&link, latency);
                    let connection = session.met.connection.clone();
                    asking = Some(Box::pin(async move { play(connection, request, &link).await }));
                }
            }
        }
    }
}

/// What to ask for.
fn request(
    file: &File,
    pace: Option<Bitrate>,
) -> impl FnOnce(&protocol::link::Link, Duration) -> Request + Send + use<> {
    let (path, position) = (file.path.clone(), file.position);
    let (rate_percent, sound) = (file.rate_percent, file.sound);
    move |link, latency| Request::Play {
        path,
        secret: link.secret.clone(),
        latency_ms: u32::try_from(latency.as_millis()).unwrap_or(u32::MAX),
        position_us: u64::try_from(position.as_micros()).unwrap_or(u64::MAX),
        rate_percent,
        sound,
        pace_bps: pace.map(Bitrate::as_bits_per_second),
    }
}

/// The broadcaster has gone in the middle of the file.
fn stopped(file: &File) -> Failure {
    let position = Duration::from_secs(file.position.as_secs());
    let at = humantime::format_duration(position);
    Failure::runtime(format!(
        "the broadcaster stopped at {at} of the file; --start {at} goes on there"
    ))
}

/// Has the broadcaster send nothing more of the take.
fn send_nothing(session: &mut Session) {
    let ssrc = session.set_idle();
    let connection = session.met.connection.clone();
    tokio::spawn(async move {
        // Where that does not arrive, what is sent is thrown away here.
        if let Err(error) = ask_on(&connection, &Request::Pause { ssrc }).await {
            tracing::debug!(%error, "the broadcaster was not told to pause");
        }
    });
}
