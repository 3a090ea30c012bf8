//! Admitted viewers, and what they say of their reception.
//!
//! Feedback is heard on the receiving task itself: a table finds the viewer's [`Seat`] by the SSRC, and
//! there the packet is opened and taken. No other task is woken, but by the first word of a viewer
//! whose media was paused. Whatever others send costs a look into the table, and what a viewer sends
//! beyond its allowance is dropped before it is opened.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use protocol::channel::{Condition, MOST_LAG, ViewerId};
use protocol::congestion::{self, Carries, Congestion};
use protocol::control::{LeftOut, Notice, Track};
use protocol::feedback::{self, Block, Feedback, Totals};
use protocol::renditions::Choice;
use protocol::seal::PacketIndex;
use protocol::srtcp::{self, FeedbackKey, OpenError, Opener};
use protocol::units::Bitrate;
use protocol::uplink::{Budget, Health};
use serde_json::{Value, json};
use tokio::sync::Notify;
use transport::openings::Handle;
use transport::paths::Standing;

use crate::events::Event;
use crate::fanout::{Joined, Moved, Target};
use crate::metrics::{Metrics, Row, STATES, Unheard, worst};
use crate::shared::{LiveChannel, Rendition, micros};
use crate::trend::{Look, Trend, Turn, shares};

/// Mean time from one feedback packet of a viewer to the next that is still opened, and how many may come
/// at once: more than a viewer says that asks for something as often as it may.
const WORD_INTERVAL: Duration = Duration::from_millis(4);
const WORDS_AT_ONCE: u32 = 100;

/// No authenticated word for this long pauses media, and how often that is looked at: for all viewers at
/// once, since a timer of each viewer's own would wake a task for each.
pub(crate) const PAUSE_AFTER: Duration = Duration::from_secs(3);
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// No viewer has more latency to spend than this, whatever it says.
pub(crate) const MOST_LATENCY: Duration = Duration::from_secs(60);

/// Events that wait for the next look, at most.
const MOST_HAPPENED: usize = 1000;

/// Notices waiting for one viewer, at most.
const MOST_NOTICES: usize = 16;

/// Ranges of packets in one notice, at most.
const MOST_LEFT_OUT: usize = 64;

/// All admitted viewers.
pub(crate) struct Audience {
    seats: DashMap<ViewerId, Arc<Seat>>,
    metrics: Arc<Metrics>,
    /// Whether most viewers suffer at once: it is our uplink that is full, and not their paths.
    is_uplink_full: AtomicBool,
    /// What the times of words count from.
    began_at: Instant,
    /// What is to be told at the next look.
    happened: Mutex<Vec<Event>>,
}

/// One admitted viewer: what the receiving task, its session and the metrics know of it in common.
pub(crate) struct Seat {
    pub(crate) viewer: ViewerId,
    pub(crate) channel: LiveChannel,
    /// How long what it misses is of use to it.
    pub(crate) latency: Duration,
    path: Handle,
    /// The last authentic word, in milliseconds of the audience's clock.
    heard_ms: AtomicU64,
    began_at: Instant,
    joined_at: Instant,
    is_paused: AtomicBool,
    /// Which rendition it is sent, where there are several.
    rendition: AtomicUsize,
    /// Whether the operator sent it away.
    is_removed: AtomicBool,
    /// For the session: there is a notice, or silence, or a word although media is paused.
    woken: Notify,
    state: Mutex<State>,
}

struct State {
    opener: Opener,
    allowance: Allowance,
    sample: Sample,
    trend: Trend,
    path: &'static str,
    /// The least round trip that there ever was.
    least_rtt: Option<Duration>,
    congestion: Congestion,
    choice: Choice,
    notices: VecDeque<Notice>,
}

/// One viewer's reception, from its reports.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    /// Share of packets lost since its last report, 0 to 1.
    fraction_lost: f64,
    /// Round-trip time.
    rtt: Duration,
    /// Interarrival jitter of its video.
    jitter: Duration,
    /// From capture to output.
    shown: Option<Duration>,
    /// Its totals.
    totals: Totals,
    /// Whether it has reported at all.
    is_known: bool,
}

impl Audience {
    /// Nobody yet.
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            seats: DashMap::new(),
            metrics,
            is_uplink_full: AtomicBool::new(false),
            happened: Mutex::default(),
            began_at: Instant::now(),
        }
    }

    /// A viewer is admitted: its words are heard from now on.
    pub(crate) fn seat(
        &self,
        viewer: ViewerId,
        channel: LiveChannel,
        latency: Duration,
        (path, path_kind): (Handle, &'static str),
        key: &FeedbackKey,
    ) -> Arc<Seat> {
        let now = Instant::now();
        let choice = Choice::new(needs_of(&channel), now);
        let seat = Arc::new(Seat {
            viewer,
            channel,
            latency,
            path,
            heard_ms: AtomicU64::new(millis(now - self.began_at)),
            began_at: self.began_at,
            joined_at: now,
            is_paused: AtomicBool::new(false),
            rendition: AtomicUsize::new(choice.current()),
            is_removed: AtomicBool::new(false),
            woken: Notify::new(),
            state: Mutex::new(State {
                opener: Opener::new(key, viewer.0),
                allowance: Allowance::new(now),
                sample: Sample::default(),
                trend: Trend::default(),
                path: path_kind,
                least_rtt: None,
                congestion: Congestion::default(),
                choice,
                notices: VecDeque::new(),
            }),
        });
        self.seats.insert(viewer, Arc::clone(&seat));
        seat
    }

    /// A viewer is gone.
    pub(crate) fn leave(&self, viewer: ViewerId) {
        let left = self.seats.remove(&viewer);
        if let Some(turn) = left.and_then(|(_, seat)| seat.end(Instant::now())) {
            self.metrics.events.record(turn);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.seats.len()
    }

    /// Says whether most viewers suffer at once.
    pub(crate) fn set_uplink_full(&self, is_full: bool) {
        self.is_uplink_full.store(is_full, Ordering::Relaxed);
    }

    /// Whether most viewers suffer at once.
    pub(crate) fn is_uplink_full(&self) -> bool {
        self.is_uplink_full.load(Ordering::Relaxed)
    }

    /// What viewers of stored files need, all together.
    pub(crate) fn on_demand_rate(&self) -> Bitrate {
        let rates = self.seats.iter().filter_map(|seat| seat.channel.on_demand);
        Bitrate::bits_per_second(rates.map(Bitrate::as_bits_per_second).sum())
    }

    /// Viewers of stored files get this share of what they need, or all.
    pub(crate) fn limit_on_demand(&self, share: Option<f64>) {
        for seat in &self.seats {
            if let Some(needed) = seat.channel.on_demand {
                let budget = share.map(|share| Budget::of(needed.scaled(share)));
                seat.channel.fan_out.set_uplink(budget);
            }
        }
    }

    /// Tells one viewer.
    pub(crate) fn tell(&self, viewer: ViewerId, notice: Notice) {
        if let Some(seat) = self.seats.get(&viewer) {
            seat.tell(notice);
        }
    }

    /// A viewer goes on with another rendition.
    pub(crate) fn switched(&self, moved: Moved) {
        let seat = self.seats.get(&moved.viewer).map(|seat| Arc::clone(&seat));
        if let Some(event) = seat.and_then(|seat| seat.switched(moved)) {
            // Whoever reads the log may stand still, and media shall not.
            let mut happened = self.happened.lock().unwrap_or_else(PoisonError::into_inner);
            if happened.len() < MOST_HAPPENED {
                happened.push(event);
            }
        }
    }

    /// Renditions need something else than before.
    pub(crate) fn needs_changed(&self) {
        for seat in self.seats.iter().filter(|seat| !seat.channel.renditions.is_empty()) {
            seat.lock().choice.set_needs(needs_of(&seat.channel));
        }
    }

    /// How many watch each rendition of this live channel, by number.
    pub(crate) fn watching(&self, name: &str, renditions: usize) -> Vec<usize> {
        let mut watching = vec![0; renditions];
        for seat in self.seats.iter().filter(|seat| renditions > 0 && seat.watches(name)) {
            if let Some(count) = watching.get_mut(seat.rendition()) {
                *count += 1;
            }
        }
        watching
    }

    /// Tells every viewer.
    pub(crate) fn tell_all(&self, notice: &Notice) {
        self.seats.iter().for_each(|seat| seat.tell(notice.clone()));
    }

    /// Tells every viewer of this live channel.
    pub(crate) fn tell_channel(&self, name: &str, notice: &Notice) {
        let is_there = |seat: &Seat| seat.watches(name) && !seat.is_removed();
        let there = self.seats.iter().filter(|seat| is_there(seat));
        there.for_each(|seat| seat.tell(notice.clone()));
    }

    /// A viewer was sent away: it is told nothing more. Its seat, the first time.
    pub(crate) fn remove(&self, viewer: ViewerId) -> Option<Arc<Seat>> {
        let seat = self.seats.get(&viewer).map(|seat| Arc::clone(&seat))?;
        (!seat.is_removed.swap(true, Ordering::AcqRel)).then_some(seat)
    }

    /// One viewer, for the operator.
    pub(crate) fn shown_of(&self, viewer: ViewerId) -> Option<Value> {
        let seat = self.seats.get(&viewer).map(|seat| Arc::clone(&seat))?;
        Some(seat.shown(&seat.row()))
    }

    /// Takes a datagram that may be feedback.
    pub(crate) fn hear(&self, from: SocketAddr, datagram: &mut [u8]) {
        match self.take(from, datagram) {
            Ok(()) => self.metrics.feedback.inc(),
            Err(reason) => self.metrics.unheard(reason),
        }
    }

    fn take(&self, from: SocketAddr, datagram: &mut [u8]) -> Result<(), Unheard> {
        let viewer = srtcp::sender(datagram).ok_or(Unheard::Malformed)?;
        // The table is not held while the packet is taken.
        let seat = self.seats.get(&ViewerId(viewer)).map(|seat| Arc::clone(&seat));
        let is_uplink_full = self.is_uplink_full.load(Ordering::Relaxed);
        seat.ok_or(Unheard::Unknown)?.hear(from, datagram, &self.metrics, is_uplink_full)
    }

    /// How those are that have reported, and still do.
    pub(crate) fn healths(&self) -> Vec<Health> {
        let heard = self.seats.iter().filter(|seat| !seat.is_paused());
        heard.filter_map(|seat| seat.health()).collect()
    }

    /// Wakes the sessions of viewers that fell silent, for as long as it is polled.
    pub(crate) async fn watch_silence(&self) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            looks.tick().await;
            let now = Instant::now();
            for seat in &self.seats {
                if !seat.is_paused() && seat.is_silent(now) {
                    seat.woken.notify_one();
                }
            }
        }
    }

    /// Brings the series of single viewers up to date.
    pub(crate) fn publish(&self) {
        self.metrics.per_viewer.publish(self.seats.iter().map(|seat| seat.row()).collect());
    }

    /// Looks at how every viewer receives. Each second.
    pub(crate) fn look(&self) {
        let now = Instant::now();
        let happened = &self.happened;
        let mut turns =
            std::mem::take(&mut *happened.lock().unwrap_or_else(PoisonError::into_inner));
        let mut lossy = 0;
        for seat in &self.seats {
            let (is_lossy, turn) = seat.look(&self.metrics, now);
            lossy += i64::from(is_lossy);
            turns.extend(turn);
        }
        self.metrics.lossy.set(lossy);
        // The table is free again: whoever reads the log may stand still.
        turns.into_iter().for_each(|turn| self.metrics.events.record(turn));
    }

    /// The viewers that the status page shows, those with the worst loss first.
    pub(crate) fn shown(&self) -> Vec<Value> {
        let rows = self.seats.iter().map(|seat| seat.row()).collect();
        let rows = worst(rows, self.metrics.per_viewer.most());
        let show = |row: &Row| Some(self.seats.get(&row.viewer)?.shown(row));
        rows.iter().filter_map(show).collect()
    }
}

impl Seat {
    /// Whether it is a viewer of this live channel.
    fn watches(&self, name: &str) -> bool {
        self.channel.on_demand.is_none() && &*self.channel.name == name
    }

    /// Whether the operator sent it away.
    pub(crate) fn is_removed(&self) -> bool {
        self.is_removed.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(
        &self,
        from: SocketAddr,
        datagram: &mut [u8],
        metrics: &Metrics,
        is_uplink_full: bool,
    ) -> Result<(), Unheard> {
        // Before the allowance, so that nobody else can use it up.
        let standing = self.path.standing(from).ok_or(Unheard::Elsewhere)?;
        let now = Instant::now();
        let mut state = self.lock();
        if !state.allowance.take(now) {
            return Err(Unheard::TooMany);
        }
        let packet = state.opener.open(datagram).map_err(|error| match error {
            OpenError::Replayed { .. } => Unheard::Replayed,
            OpenError::Forged | OpenError::Clear => Unheard::Forged,
            OpenError::Malformed | OpenError::WrongSender { .. } => Unheard::Malformed,
        })?;
        let feedback = feedback::parse(packet);
        // What comes from elsewhere says nothing about the path.
        if standing == Standing::Path {
            self.path.authenticated();
        }
        self.heard(now);
        match feedback.map_err(|_| Unheard::Malformed)? {
            Feedback::Report { blocks, totals, times } => {
                let latency =
                    times.latency.map_or(self.latency, |latency| latency.min(MOST_LATENCY));
                // Reports overtake each other, and may say anything: nothing goes down, and nobody got more than
                // there was.
                let most = self.channel.metrics.published_packets();
                let totals = state.sample.totals.grown_to(&totals.unwrap_or_default(), most);
                metrics.grown(&state.sample.totals, &totals);
                let rtt = times.rtt.or_else(|| self.path.rtt()).unwrap_or_default();
                let shown = times.shown.map(|shown| shown.min(MOST_LATENCY));
                let sample = self.sample(&blocks, &state.sample, totals, (rtt, shown));
                let before = std::mem::replace(&mut state.sample, sample);
                state.least_rtt = Some(state.least_rtt.map_or(rtt, |least| least.min(rtt)));
                let carried = state.congestion.carries();
                let reported = congestion::Sample {
                    received: totals.received,
                    lost: totals.lost,
                    unrecovered: totals.unrecovered,
                    bytes: totals.bytes,
                    published: self.channel.metrics.published.load(Ordering::Relaxed),
                    rtt,
                };
                let stream = self.stream();
                state.congestion.report(reported, stream, is_uplink_full, now);
                let carries = state.congestion.carries();
                if carries != carried {
                    // Before the state is free: whoever applies it as well must not overtake this.
                    self.channel.fan_out.limit(self.viewer, limit_of(carries));
                }
                let next = state.choice.report(carries, times.carried, is_uplink_full, now);
                drop(state);
                if let Some(next) = next {
                    self.channel.fan_out.switch(self.viewer, next);
                }
                if carries != carried {
                    self.carries(carries, stream, metrics);
                }
                if sample.fraction_lost > 0.0 || before.fraction_lost > 0.0 {
                    let viewer = self.viewer;
                    let condition = Condition { loss: sample.fraction_lost, rtt, latency };
                    self.channel.fan_out.condition(viewer, condition);
                }
            }
            Feedback::Wish(wish) => {
                drop(state);
                self.channel.fan_out.wish(self.viewer, wish);
            }
        }
        Ok(())
    }

    /// The viewer's path carries another rate than before.
    fn carries(&self, carries: Carries, stream: Bitrate, metrics: &Metrics) {
        let viewer = self.viewer;
        metrics.events.record(match limit_of(carries) {
            None => Event::PathWide { viewer },
            Some(rate) => Event::PathNarrow { viewer, rate, stream },
        });
        let bits_per_second = limit_of(carries).map(Bitrate::as_bits_per_second);
        let lag_ms = bits_per_second.map_or(0, |_| MOST_LAG.as_millis() as u32);
        self.tell(Notice::Carries { bits_per_second, lag_ms });
    }

    /// Has the fan-out send what the viewer's path carries.
    pub(crate) fn limit(&self) {
        let state = self.lock();
        self.channel.fan_out.limit(self.viewer, limit_of(state.congestion.carries()));
    }

    /// The viewer's path is another one: what the former carried says nothing about it.
    pub(crate) fn moved(&self, path: &'static str) {
        let mut state = self.lock();
        state.path = path;
        state.least_rtt = None;
        state.choice.moved();
        let carried = std::mem::take(&mut state.congestion).carries();
        self.channel.fan_out.limit(self.viewer, None);
        drop(state);
        if carried != Carries::Everything {
            self.tell(Notice::Carries { bits_per_second: None, lag_ms: 0 });
        }
    }

    fn sample(
        &self,
        blocks: &[Block],
        before: &Sample,
        totals: Totals,
        (rtt, shown): (Duration, Option<Duration>),
    ) -> Sample {
        let video = blocks.first().copied().unwrap_or_default();
        let worst = blocks.iter().map(|block| block.fraction_lost).max().unwrap_or(0);
        let mut tracks = self.channel.ssrcs.iter().zip(&*self.channel.formats);
        let format = tracks.find(|(ssrc, _)| **ssrc == video.ssrc).map(|(_, format)| format);
        let clock_rate = format.map_or(90_000, |format| format.clock_rate).max(1);
        // Totals are finer than RTCP's 256ths, where there are enough packets.
        let fine = shares(&before.totals, &totals).map(|(loss, _)| loss);
        Sample {
            fraction_lost: fine.unwrap_or(f64::from(worst) / 256.0),
            rtt,
            shown,
            is_known: true,
            jitter: Duration::from_secs_f64(f64::from(video.jitter) / f64::from(clock_rate)),
            totals,
        }
    }

    fn health(&self) -> Option<Health> {
        let state = self.lock();
        let Sample { fraction_lost, rtt, .. } = state.sample;
        state.least_rtt.map(|least_rtt| Health { fraction_lost, rtt, least_rtt })
    }

    /// What is done for the viewer, as metrics and status page name it.
    fn state_name(&self, state: &State) -> &'static str {
        let [joining, playing, paused, limited] = STATES;
        if self.is_paused() {
            paused
        } else if state.congestion.carries() != Carries::Everything {
            limited
        } else if state.sample.is_known {
            playing
        } else {
            joining
        }
    }

    fn row(&self) -> Row {
        let state = self.lock();
        let Sample { fraction_lost, rtt, jitter, shown, totals, is_known, .. } = state.sample;
        Row {
            viewer: self.viewer,
            path: state.path,
            state: self.state_name(&state),
            standing: state.trend.standing(),
            // What a paused viewer said last says nothing about now.
            fraction_lost: (is_known && !self.is_paused()).then_some(fraction_lost),
            rtt: is_known.then_some(rtt),
            jitter: is_known.then_some(jitter),
            latency: shown,
            totals,
        }
    }

    /// Looks at how the viewer receives; whether it loses more than a little, and what is to be told.
    fn look(&self, metrics: &Metrics, now: Instant) -> (bool, Option<Event>) {
        let mut state = self.lock();
        let Sample { rtt, jitter, shown, totals, is_known, .. } = state.sample;
        if !is_known {
            return (false, None);
        }
        if self.is_paused() {
            state.trend.pass();
            return (false, None);
        }
        let Look { shares, turn } = state.trend.look(now, &totals, shown);
        let is_lossy = state.trend.is_lossy();
        drop(state);
        metrics.distributions.observe(shares, (rtt, jitter), shown);
        (is_lossy, turn.map(|turn| self.event(turn)))
    }

    /// What is to be told when the viewer goes.
    fn end(&self, now: Instant) -> Option<Event> {
        let mut state = self.lock();
        let totals = state.sample.totals;
        state.trend.end(now, &totals).map(|turn| self.event(turn))
    }

    fn event(&self, turn: Turn) -> Event {
        let viewer = self.viewer;
        match turn {
            Turn::High(loss) => Event::LossHigh { viewer, loss },
            Turn::Over { lost, recovered, unrecovered, lasted } => {
                Event::LossOver { viewer, lost, recovered, unrecovered, lasted }
            }
        }
    }

    /// Which rendition it is sent.
    pub(crate) fn rendition(&self) -> usize {
        self.rendition.load(Ordering::Acquire)
    }

    /// What it is sent.
    fn stream(&self) -> Bitrate {
        if self.channel.renditions.is_empty() {
            self.channel.metrics.stream()
        } else {
            self.channel.metrics.stream_of(self.rendition())
        }
    }

    /// Joins once more, and goes on where it was.
    pub(crate) fn rejoin(&self, to: Target) -> impl Future<Output = Option<Joined>> + Send + use<> {
        let (fan_out, rendition) = (&self.channel.fan_out, self.rendition());
        let joined = fan_out.join_rendition((self.viewer, rendition), to, self.latency);
        fan_out.switch(self.viewer, self.lock().choice.current());
        joined
    }

    /// It goes on with another rendition, and is told.
    fn switched(&self, moved: Moved) -> Option<Event> {
        let Moved { rendition, before, track, first_index, rtp_timestamp, captured, .. } = moved;
        self.rendition.store(rendition, Ordering::Release);
        let format = self.channel.formats.get(track)?.clone();
        let name = Arc::clone(&self.channel.renditions.get(rendition)?.name);
        let track = Track {
            format,
            ssrc: *self.channel.ssrcs.get(track)?,
            first_index,
            live_index: first_index,
            rtp_timestamp,
            captured_us: micros(captured),
        };
        let (before, end) = (*self.channel.ssrcs.get(before.0)?, before.1);
        self.tell(Notice::Rendition { track, before, end });
        Some(Event::RenditionChanged { viewer: self.viewer, rendition: name })
    }

    /// The viewer was not sent what lies between where the tracks stood and where it goes on.
    pub(crate) fn left_out(&self, from: &[PacketIndex], joined: &Joined) {
        let tracks = self.channel.ssrcs.iter().zip(from).zip(&joined.tracks);
        let packets: Vec<LeftOut> = tracks
            .filter_map(|((&ssrc, &first), track)| {
                let count = track.position.first_index.checked_sub(first)?;
                let count = u32::try_from(count).ok().filter(|count| *count > 0)?;
                Some(LeftOut { ssrc, first, count })
            })
            .collect();
        if !packets.is_empty() {
            self.tell(Notice::LeftOut { packets });
        }
    }

    fn shown(&self, row: &Row) -> Value {
        let state = self.lock();
        let ms = |time: Duration| (time.as_secs_f64() * 1e4).round() / 10.0;
        let (interval, loss, latency) = state.trend.points();
        let Totals { received, lost, recovered_nack, recovered_fec, unrecovered, .. } = row.totals;
        let carries = match state.congestion.carries() {
            Carries::Everything => None,
            limited => limit_of(limited).map(Bitrate::as_bits_per_second),
        };
        json!({
            "viewer": row.viewer.to_string(),
            "channel": &*self.channel.name,
            "state": row.state,
            "path": row.path,
            "since_seconds": self.joined_at.elapsed().as_secs_f64(),
            "rtt_ms": row.rtt.map(ms),
            "jitter_ms": row.jitter.map(ms),
            "latency_ms": row.latency.map(ms),
            "loss": state.trend.loss(),
            "unrecovered": state.trend.unrecovered(),
            "is_lossy": state.trend.is_lossy(),
            "packets": {
                "received": received,
                "lost": lost,
                "recovered_nack": recovered_nack,
                "recovered_fec": recovered_fec,
                "unrecovered": unrecovered,
            },
            "carries_bps": carries,
            "rendition": self.channel.renditions.get(self.rendition()).map(|one| &*one.name),
            "history": { "interval_seconds": interval, "loss": loss, "latency_ms": latency },
        })
    }

    fn heard(&self, now: Instant) {
        self.heard_ms.store(millis(now - self.began_at), Ordering::SeqCst);
        if self.is_paused.load(Ordering::SeqCst) {
            self.woken.notify_one();
        }
    }

    /// Whether the viewer's last authentic word is too old for media to go on.
    pub(crate) fn is_silent(&self, now: Instant) -> bool {
        let heard_at = self.began_at + Duration::from_millis(self.heard_ms.load(Ordering::SeqCst));
        heard_at + PAUSE_AFTER <= now
    }

    /// Notes whether media is paused. A word that comes while it is wakes the session; look at
    /// [`Self::is_silent`] after this.
    pub(crate) fn set_paused(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::SeqCst);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::SeqCst)
    }

    pub(crate) fn tell(&self, notice: Notice) {
        let mut state = self.lock();
        let notices = &mut state.notices;
        match (notice, notices.back_mut()) {
            // What one word can say needs no two.
            (Notice::LeftOut { packets }, Some(Notice::LeftOut { packets: waiting })) => {
                waiting
                    .extend(packets.into_iter().take(MOST_LEFT_OUT.saturating_sub(waiting.len())));
            }
            (notice @ Notice::Carries { .. }, _) => {
                notices.retain(|waiting| !matches!(waiting, Notice::Carries { .. }));
                notices.push_back(notice);
            }
            (notice @ Notice::Source { .. }, _) => {
                notices.retain(|waiting| !matches!(waiting, Notice::Source { .. }));
                notices.push_back(notice);
            }
            (
                notice @ (Notice::Ended
                | Notice::Removed
                | Notice::Key { .. }
                | Notice::Finished { .. }
                | Notice::Rendition { .. }
                | Notice::Interrupted),
                _,
            ) => notices.push_back(notice),
            // A session that is this far behind is ending anyway.
            (notice, _) => {
                if notices.len() >= MOST_NOTICES {
                    return;
                }
                notices.push_back(notice);
            }
        }
        drop(state);
        self.woken.notify_one();
    }

    /// The next notice for this viewer.
    pub(crate) fn next_notice(&self) -> Option<Notice> {
        self.lock().notices.pop_front()
    }

    /// Waits until there is a notice, silence, or a word although media is paused.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }
}

/// How much of a viewer's feedback is opened (GCRA, as in ITU-T I.371).
struct Allowance {
    /// When the allowance will be whole again.
    whole_at: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { whole_at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let whole_at = self.whole_at.max(now) + WORD_INTERVAL;
        let is_left = whole_at - now <= WORD_INTERVAL * WORDS_AT_ONCE;
        if is_left {
            self.whole_at = whole_at;
        }
        is_left
    }
}

/// What each rendition of a channel needs, best first.
fn needs_of(channel: &LiveChannel) -> Arc<[Bitrate]> {
    channel.renditions.iter().map(Rendition::needs).collect()
}

/// The rate that a path's media must keep to, if any.
fn limit_of(carries: Carries) -> Option<Bitrate> {
    match carries {
        Carries::Everything => None,
        Carries::Only(rate) => Some(rate),
        Carries::Nothing => Some(Bitrate::bits_per_second(0)),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_its_allowance_and_no_more() {
        let began_at = Instant::now();
        let mut allowance = Allowance::new(began_at);
        // 10,000 a second for ten seconds, then an honest viewer's pace.
        let flood = (0..100_000).map(|at| began_at + Duration::from_micros(100) * at);
        let taken = flood.filter(|at| allowance.take(*at)).count();
        assert!((2590..=2610).contains(&taken), "{taken}");
        let later = began_at + Duration::from_secs(11);
        let honest = (0..100).map(|at| later + Duration::from_millis(20) * at);
        assert!(honest.into_iter().all(|at| allowance.take(at)));
    }
}
