//! Stored files on demand: each playout is a channel made for one viewer, in takes
//! ([`protocol::library`]).
//!
//! A take is opened at a position ([`Prepared::open`]), joined by its viewer like any channel, with the GOP in
//! front of that position as its history ([`Prepared::join`]), and then paced by a thread of its own
//! ([`Joined::run`]). What is sent is ahead of time by the viewer's latency.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use protocol::channel::{Channel, History, JoinPacing, ViewerId};
use protocol::control::{Admission, Notice};
use protocol::library::{StoredMedia, Take};
use protocol::media::Kind;
use protocol::seal::{Epoch, MasterKey};
use protocol::srtcp::FeedbackKey;
use protocol::units::Bitrate;

use crate::audience::{Audience, Seat};
use crate::fanout::{self, Burst, FanOut, Target};
use crate::keys::Keyring;
use crate::media::{
    AudioConfig, MediaError, Next, Opened, Placed, Playout, PlayoutConfig, VideoConfig,
};
use crate::shared::{LiveChannel, choose_ssrcs, micros};

/// What is due within so long after something that is sent goes along with it.
const TOGETHER: Duration = Duration::from_millis(40);

/// Bursts handed over at once, or before it is waited for them to be sealed: fewer than the fan-out drops.
const AT_ONCE: usize = 128;

/// What a file is taken to need of the uplink that says nothing of itself: as much as a camera's picture in 1080p.
const ASSUMED: Bitrate = Bitrate::bits_per_second(8_000_000);

/// What a viewer asks for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// Path within the library.
    pub(crate) path: String,
    /// How long what the viewer misses is of use to it: so far ahead of time it is sent everything.
    pub(crate) latency: Duration,
    /// Where to begin.
    pub(crate) position: Duration,
    /// How fast, in percent.
    pub(crate) rate_percent: u32,
    /// Which of the sound tracks.
    pub(crate) sound: usize,
    /// What sending it needs, as far as the file says.
    pub(crate) needed: Bitrate,
    /// How fast is sent what the first picture needs.
    pub(crate) pace: Bitrate,
}

/// What playouts are made with.
#[derive(Clone)]
pub(crate) struct Workshop {
    pub(crate) port: Arc<transport::port::Port>,
    pub(crate) metrics: Arc<crate::metrics::Metrics>,
    pub(crate) audience: Arc<Audience>,
    pub(crate) join_rate: Bitrate,
    pub(crate) video: VideoConfig,
    pub(crate) audio: AudioConfig,
}

/// A file opened at a position, with a channel for its viewer.
pub(crate) struct Prepared {
    opened: Opened,
    channel: LiveChannel,
    /// For each track, whether viewers can start at its keyframes.
    joinable: Vec<bool>,
    schedule: Schedule,
    rate_percent: u32,
    pace: Bitrate,
    /// What must stay open meanwhile.
    file: Box<dyn Send>,
}

/// A take that its viewer has joined.
pub(crate) struct Joined {
    pub(crate) channel: LiveChannel,
    pub(crate) admission: Admission,
    pub(crate) take: Take,
    playout: Playout,
    rest: Vec<Placed>,
    joinable: Vec<bool>,
    schedule: Schedule,
    file: Box<dyn Send>,
}

/// When what is shown at which running time is captured, as it were: sent, if it is not late.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    running: i64,
    at: Instant,
}

impl Schedule {
    fn instant(&self, running: i64) -> Instant {
        let after = running - self.running;
        let by = Duration::from_nanos(after.unsigned_abs());
        let moved = if after >= 0 { self.at.checked_add(by) } else { self.at.checked_sub(by) };
        moved.unwrap_or(self.at)
    }
}

/// Stops a take when dropped.
#[derive(Debug)]
pub(crate) struct Running(Arc<Stop>);

#[derive(Debug, Default)]
struct Stop {
    is_stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn is_stopped(&self) -> bool {
        *self.is_stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until then. False if it was stopped before.
    fn wait_until(&self, at: Instant) -> bool {
        let mut is_stopped = self.is_stopped.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = at.saturating_duration_since(Instant::now());
            if *is_stopped || left.is_zero() {
                return !*is_stopped;
            }
            (is_stopped, _) =
                self.changed.wait_timeout(is_stopped, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Running {
    /// Sends nothing more.
    pub(crate) fn stop(&self) {
        *self.0.is_stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Prepared {
    /// Opens a file at a position. Blocks. `file` is what keeps `location` open.
    pub(crate) fn open(
        workshop: &Workshop,
        ask: &Ask,
        (location, file): (PathBuf, Box<dyn Send>),
    ) -> Result<Self, MediaError> {
        let opened = Playout::open(&PlayoutConfig {
            location,
            position: ask.position,
            rate_percent: ask.rate_percent,
            sound: ask.sound,
            lead: ask.latency,
            video: workshop.video.clone(),
            audio: workshop.audio.clone(),
        })?;
        let kinds: Vec<Kind> = opened.formats.iter().map(|format| format.kind).collect();
        let has_video = kinds.contains(&Kind::Video);
        let joinable = kinds.iter().map(|kind| *kind == Kind::Video || !has_video).collect();
        let channel = workshop.channel(ask, &opened)?;
        let at = Instant::now();
        let at = at.checked_sub(ask.latency).unwrap_or(at);
        let schedule = Schedule { running: opened.target, at };
        let Ask { rate_percent, pace, .. } = *ask;
        Ok(Self { opened, channel, joinable, schedule, rate_percent, pace, file })
    }

    /// What is encoded anew, for people; empty where nothing is.
    pub(crate) fn transcoded(&self) -> &str {
        &self.opened.transcoded
    }

    /// Has the viewer join. `None` when the channel ended.
    pub(crate) async fn join(
        mut self,
        viewer: ViewerId,
        to: Target,
        latency: Duration,
        key: FeedbackKey,
    ) -> Option<Joined> {
        let mut first = std::mem::take(&mut self.opened.first);
        // Where each track stands, by the unit of it that is the nearest to the target.
        let tracks = 0..self.opened.formats.len();
        let anchor = |track: usize| {
            let those = first.iter().filter(|placed| placed.unit.track == track);
            let nearest =
                those.min_by_key(|placed| (placed.shown_at - self.opened.target).abs())?;
            let captured = self.channel.fan_out.capture_at(self.schedule.instant(nearest.shown_at));
            Some((nearest.unit.rtp_timestamp, micros(captured)))
        };
        let anchors: Vec<_> = tracks.map(anchor).collect();
        let mut rest = first.split_off((self.opened.complete_at + 1).min(first.len()));
        let fan_out = self.channel.fan_out.clone();
        let (schedule, joinable) = (self.schedule, self.joinable.clone());
        let history = {
            let (fan_out, joinable) = (fan_out.clone(), joinable.clone());
            tokio::task::spawn_blocking(move || hand_over(&fan_out, first, schedule, &joinable))
        };
        history.await.ok()??;
        let mut admission = self.channel.join(viewer, to, latency, key).await?;
        // What is due already follows at once, and belongs to what the viewer begins with.
        let now = Instant::now();
        let later = rest.iter().position(|placed| schedule.instant(placed.due_at) > now);
        let later = rest.split_off(later.unwrap_or(rest.len()));
        let standing = {
            let fan_out = fan_out.clone();
            tokio::task::spawn_blocking(move || hand_over(&fan_out, rest, schedule, &joinable))
        };
        let standing = standing.await.ok()??;
        for ((track, live_index), anchor) in admission.tracks.iter_mut().zip(standing).zip(anchors)
        {
            track.live_index = live_index;
            if let Some((rtp_timestamp, captured_us)) = anchor {
                track.rtp_timestamp = rtp_timestamp;
                track.captured_us = captured_us;
            }
        }
        admission.send_lag_us = 0;
        admission.capture_now_us = micros(fan_out.capture_now());
        let Opened { playout, target, position, duration, transcoded, .. } = self.opened;
        let take = Take {
            position_us: u64::try_from(position / 1000).unwrap_or(0),
            captured_us: micros(fan_out.capture_at(schedule.instant(target))),
            rate_percent: self.rate_percent,
            duration_us: duration.map(micros),
            pace_bps: self.pace.as_bits_per_second(),
            transcoded,
        };
        let Self { channel, joinable, file, .. } = self;
        Some(Joined { channel, admission, take, playout, rest: later, joinable, schedule, file })
    }
}

impl Joined {
    /// Sends what follows when it is due, until it is stopped or the file ends, which the seat is told.
    ///
    /// # Errors
    ///
    /// Where no thread can be had.
    pub(crate) fn run(self, seat: Arc<Seat>) -> std::io::Result<Running> {
        let stop = Arc::<Stop>::default();
        let stopped = Arc::clone(&stop);
        let Self { channel, playout, rest, joinable, schedule, file, .. } = self;
        let fan_out = channel.fan_out;
        let run = move || {
            let _file = file;
            let mut due = Due {
                fan_out: &fan_out,
                schedule,
                joinable: &joinable,
                stop: &stopped,
                until: Instant::now(),
                together: Vec::new(),
            };
            if !rest.into_iter().all(|placed| due.take(placed)) {
                return;
            }
            loop {
                // What is there goes out before anything is waited for.
                if !playout.is_ready() {
                    due.send();
                }
                match playout.next(|| stopped.is_stopped()) {
                    Next::Unit(placed) => {
                        if !due.take(placed) {
                            return;
                        }
                    }
                    Next::Stopped => return,
                    Next::End(damaged) => {
                        due.send();
                        let Some(ends) = fan_out.ends() else { return };
                        if !stopped.is_stopped() {
                            seat.tell(Notice::Finished { ends, damaged });
                        }
                        return;
                    }
                }
            }
        };
        thread::Builder::new().name("playout".into()).spawn(run)?;
        Ok(Running(stop))
    }
}

/// Keeps time: units wait until they are due. What is due soon after goes along, as waking threads costs more than
/// sealing and sending.
struct Due<'a> {
    fan_out: &'a FanOut,
    schedule: Schedule,
    joinable: &'a [bool],
    stop: &'a Stop,
    /// What is due until then may go.
    until: Instant,
    together: Vec<Burst>,
}

impl Due<'_> {
    /// Takes the next unit, and waits until it is due. False when it was stopped meanwhile.
    fn take(&mut self, placed: Placed) -> bool {
        let at = self.schedule.instant(placed.due_at);
        if at > self.until || self.together.len() >= AT_ONCE {
            self.send();
            if !self.stop.wait_until(at) {
                return false;
            }
            self.until = at.max(Instant::now()) + TOGETHER;
        }
        self.together.push(burst(placed, self.schedule, self.joinable));
        true
    }

    fn send(&mut self) {
        // Sound first: it rides with the picture behind it, in the same message.
        self.together.sort_by_key(|burst| self.joinable.get(burst.track) == Some(&true));
        if !self.together.is_empty() {
            self.fan_out.publish_all(std::mem::take(&mut self.together));
        }
    }
}

/// Hands units over as fast as they are sealed. Blocks until they are, and says where each track stands then.
fn hand_over(
    fan_out: &FanOut,
    units: Vec<Placed>,
    schedule: Schedule,
    joinable: &[bool],
) -> Option<Vec<u64>> {
    for (at, placed) in units.into_iter().enumerate() {
        if at % AT_ONCE == AT_ONCE - 1 {
            fan_out.settle()?;
        }
        fan_out.publish(burst(placed, schedule, joinable));
    }
    fan_out.settle()
}

fn burst(placed: Placed, schedule: Schedule, joinable: &[bool]) -> Burst {
    let Placed { unit, shown_at, .. } = placed;
    Burst {
        track: unit.track,
        keyframe: unit.keyframe && joinable.get(unit.track).is_some_and(|joinable| *joinable),
        captured_at: schedule.instant(shown_at),
        handed_over_at: Instant::now(),
        packets: unit.packets,
    }
}

impl Workshop {
    /// What playing a file of so many bytes needs of the uplink, as far as the catalogue says.
    pub(crate) fn needed(
        &self,
        media: Option<&StoredMedia>,
        bytes: u64,
        rate_percent: u32,
    ) -> Bitrate {
        let rate = f64::from(rate_percent) / 100.0;
        // Of a file that has pictures, these are nearly all.
        let leading = media.and_then(|media| {
            let pictures = media.tracks.iter().find(|track| track.kind == Kind::Video);
            pictures.or(media.tracks.first())
        });
        if let Some(leading) = leading.filter(|track| !track.passes_through) {
            let [video, audio] = [self.video.bitrate, self.audio.bitrate];
            let with_sound = video.as_bits_per_second() + audio.as_bits_per_second();
            return match leading.kind {
                Kind::Video => Bitrate::bits_per_second(with_sound),
                Kind::Audio => audio,
            };
        }
        match media.and_then(|media| media.duration_us).filter(|us| *us > 0) {
            Some(us) => {
                let seconds = us as f64 / 1e6;
                Bitrate::bits_per_second((bytes as f64 * 8.0 / seconds * rate) as u64)
            }
            None => ASSUMED.scaled(rate),
        }
    }

    /// A channel for one viewer of a file.
    fn channel(&self, ask: &Ask, opened: &Opened) -> Result<LiveChannel, MediaError> {
        let failed = |error: std::io::Error| MediaError::Pipeline {
            element: "the playout's channel".into(),
            reason: error.to_string(),
        };
        let key = MasterKey::random(Epoch::FIRST, &mut rand::rng());
        let ssrcs = choose_ssrcs(opened.formats.len());
        let pacing = JoinPacing { each: ask.pace, total: None };
        let mut channel = Channel::new(&key, &ssrcs, History::default(), pacing);
        channel.set_recorded();
        let kinds: Vec<_> = opened.formats.iter().map(|format| format.kind).collect();
        channel.set_sound(kinds.iter().map(|kind| *kind == Kind::Audio).collect());
        let metrics = Arc::new(self.metrics.for_playout());
        let audience = Arc::clone(&self.audience);
        let tell = move |event| match event {
            // The file's keyframes are where they are, and it has one rendition.
            fanout::Event::KeyframeWanted { .. }
            | fanout::Event::Encode { .. }
            | fanout::Event::Switched(_) => {}
            fanout::Event::LeftOut { viewer, packets } => {
                audience.tell(viewer, Notice::LeftOut { packets });
            }
        };
        let sender = self.port.sender().map_err(failed)?;
        let (fan_out, _thread) =
            FanOut::start_with(channel, &kinds, sender, Arc::clone(&metrics), tell, 1)
                .map_err(failed)?;
        Ok(LiveChannel {
            name: ask.path.as_str().into(),
            formats: opened.formats.clone().into(),
            ssrcs,
            keys: Keyring::new(key, None),
            fan_out,
            metrics,
            started_at: Instant::now(),
            renditions: [].into(),
            on_demand: Some(ask.needed),
        })
    }
}
