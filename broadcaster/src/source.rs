//! From the running source to the channel: starts the channel once the tracks are known, then feeds
//! its fan-out. A source that fails is started again, and goes on in the same channel.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use protocol::media::{Format, Kind};
use protocol::units::Bitrate;
use service::exit::Failure;
use service::log::LogFormat;
use tokio::sync::{mpsc, watch};

use crate::apart::{Apart, Given};
use crate::events::{Event as Happened, Events, Whose};
use crate::fanout::{Burst, FanOut};
use crate::media::{Continuation, Event, EventSink, MediaConfig, MediaError, SourceSpec, Unit};
use crate::shared::LiveChannel;

/// Makes a channel for tracks of these formats.
pub(crate) type Start = Box<dyn FnOnce(Arc<[Format]>) -> Result<LiveChannel, Failure> + Send>;

/// The source's side of a channel.
pub(crate) struct Feed {
    start: Mutex<Option<Start>>,
    channel: watch::Sender<Option<LiveChannel>>,
    connected: OnceLock<Connected>,
    turns: mpsc::UnboundedSender<Turn>,
}

struct Connected {
    formats: Arc<[Format]>,
    fan_out: FanOut,
    /// For each track, whether viewers can start at its keyframes.
    joinable: Vec<bool>,
    /// Whether what the source gives now fits the channel.
    fits: AtomicBool,
}

/// What a feed tells.
pub(crate) struct Told {
    /// The channel, once there is one.
    pub(crate) channel: watch::Receiver<Option<LiveChannel>>,
    /// How the source fares.
    pub(crate) turns: mpsc::UnboundedReceiver<Turn>,
}

/// What becomes of a source.
#[derive(Debug)]
pub(crate) enum Turn {
    /// It runs, for the first time or again.
    Runs,
    /// It came to its end.
    Ended,
    /// It is none that goes on by itself.
    Trouble(Trouble),
}

/// Why a source gives nothing, or nothing of use.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It cannot be broadcast.
    Failed(Failure),
    /// It failed before it began.
    Unbegun(Failure),
    /// It ran, and failed.
    Lost(Failure),
    /// It ran, and its process ended by itself.
    Crashed(Failure),
    /// It runs again, with other tracks than those of the channel: with which, and with which it began.
    Unlike(String),
}

/// From a failure to the first try to start again, growing to the longest while it does not last.
const FIRST_RESTART: Duration = Duration::from_millis(200);
const LONGEST_RESTART: Duration = Duration::from_secs(1);

/// How often it is looked whether nobody uses a source any more.
const RELEASING: Duration = Duration::from_millis(1);

/// So often in a row a file may crash what reads it.
const MOST_CRASHES: u32 = 3;

/// So many reasons are told of one absence.
const MOST_REASONS: usize = 16;

/// A source that runs for so long is well again.
const LASTING: Duration = Duration::from_secs(10);

/// The source that runs, which may be another one later.
#[derive(Default)]
pub(crate) struct Source {
    running: Mutex<Option<Arc<Apart>>>,
    encoding: Mutex<Encoding>,
    /// Since when it has been away.
    away_since: Mutex<Option<Instant>>,
    /// Bitrates that an operator has set, by rendition.
    rates: Mutex<BTreeMap<usize, Bitrate>>,
}

/// What becomes of another bitrate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tuned {
    /// It holds from the next picture on.
    Now,
    /// It holds once the source is there.
    Later,
    /// The encoder takes no other rate while it runs.
    Cannot,
    /// Nothing here encodes that.
    Never,
}

/// Which renditions are to be encoded.
#[derive(Default)]
struct Encoding {
    /// As bits, once that is known.
    wanted: Option<u32>,
    /// Whether the source that runs has described all of them: until then it must make them all.
    is_described: bool,
}

impl Source {
    /// The one that runs, if any does.
    pub(crate) fn get(&self) -> Option<Arc<Apart>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Since when it has been away, where it is.
    pub(crate) fn away_since(&self) -> Option<Instant> {
        *self.away_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_away(&self, since: Option<Instant>) {
        *self.away_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Encodes those renditions whose bits are set, and no others: with the source that runs, and with those to come.
    pub(crate) fn encode(&self, wanted: u32) {
        let mut encoding = self.encoding.lock().unwrap_or_else(PoisonError::into_inner);
        encoding.wanted = Some(wanted);
        if encoding.is_described
            && let Some(producer) = self.get()
        {
            producer.encode(wanted);
        }
    }

    /// The source that runs has described all that it makes.
    fn described(&self) {
        let mut encoding = self.encoding.lock().unwrap_or_else(PoisonError::into_inner);
        encoding.is_described = true;
        if let (Some(wanted), Some(producer)) = (encoding.wanted, self.get()) {
            producer.encode(wanted);
        }
    }

    /// Encodes a rendition at this rate: with the source that runs, and with those to come. The only one is number 0.
    /// Blocks until the source answers.
    pub(crate) fn tune(&self, rendition: usize, rate: Bitrate) -> Tuned {
        let before = self.rates().insert(rendition, rate);
        // One that only begins may have begun with the rate before.
        let is_described =
            self.encoding.lock().unwrap_or_else(PoisonError::into_inner).is_described;
        let Some(producer) = self.get().filter(|_| is_described) else { return Tuned::Later };
        match producer.tune(rendition, rate) {
            Some(Tuned::Now) => Tuned::Now,
            Some(refused) => {
                let mut rates = self.rates();
                match before {
                    Some(before) => rates.insert(rendition, before),
                    None => rates.remove(&rendition),
                };
                refused
            }
            // It is gone, or will be.
            None => Tuned::Later,
        }
    }

    /// As configured, but for what an operator has set.
    fn tuned(&self, config: &MediaConfig) -> MediaConfig {
        let mut config = config.clone();
        self.rates().iter().for_each(|(at, rate)| config.video.set_bitrate(*at, *rate));
        config
    }

    fn rates(&self) -> MutexGuard<'_, BTreeMap<usize, Bitrate>> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the source that runs make what was set while it began.
    async fn tune_again(self: &Arc<Self>) {
        let rates = self.rates().clone();
        let Some(producer) = self.get().filter(|_| !rates.is_empty()) else { return };
        let tuning = tokio::task::spawn_blocking(move || {
            rates.into_iter().all(|(at, rate)| producer.tune(at, rate) == Some(Tuned::Now))
        });
        if !tuning.await.unwrap_or(false) {
            tracing::warn!(
                "the source does not keep to the bitrate that was set while it was away"
            );
        }
    }

    /// Another one runs, or none. Blocks until the one before is gone.
    pub(crate) fn set(&self, producer: Option<Apart>) {
        // One that begins has described nothing, and says so no sooner than it is here.
        if producer.is_none() {
            let mut encoding = self.encoding.lock().unwrap_or_else(PoisonError::into_inner);
            encoding.is_described = false;
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *running, producer.map(Arc::new));
        drop(running);
        // Whoever asks it for something at this moment must not be the one to stop it: it may be what it waits for.
        while before.as_ref().is_some_and(|before| Arc::strong_count(before) > 1) {
            std::thread::sleep(RELEASING);
        }
    }

    /// Starts the source, and waits for the end. A camera, pipeline or network source that ran and fails is started
    /// again, for as long as it takes: a device that was unplugged comes back. So is whatever crashed, but a file that
    /// has that happen again and again. Where it is one of several, `whose` names its channel: then it is tried until it
    /// begins, as others go on. `news` is called whenever it has gone away, or is back.
    pub(crate) async fn supervise(
        self: &Arc<Self>,
        (config, log_format, given): (&MediaConfig, LogFormat, &Given),
        feed: &Arc<Feed>,
        turns: &mut mpsc::UnboundedReceiver<Turn>,
        (events, whose): (&Events, Whose),
        news: impl Fn(),
    ) -> Result<(), Failure> {
        let policy = Policy::of(&config.source, whose.is_some());
        let start = |before: Option<Continuation>| {
            let (source, config, sink) = (Arc::clone(self), self.tuned(config), feed.sink());
            let given = given.clone();
            tokio::task::spawn_blocking(move || {
                let started = Apart::start(&config, (log_format, &given), sink, before);
                started.map(|producer| source.set(Some(producer)))
            })
        };
        match start(None).await.map_err(Failure::runtime)? {
            Ok(()) => {}
            Err(error) if whose.is_none() => return Err(error.into()),
            Err(error) => feed.take(Event::Failed(error)),
        }
        let mut course = Course::new();
        let mut continuation = None;
        while let Some(turn) = turns.recv().await {
            let (lost, is_unlike) = match turn {
                Turn::Ended => {
                    events.record(Happened::SourceEnded { channel: whose });
                    return Ok(());
                }
                Turn::Runs => {
                    self.described();
                    self.tune_again().await;
                    if let Some((lasted, has_run)) = course.runs() {
                        let channel = whose.clone();
                        if has_run {
                            events.record(Happened::SourceBack { channel, lasted });
                        }
                        self.set_away(None);
                        news();
                    }
                    continue;
                }
                Turn::Trouble(trouble) => {
                    let is_unlike = matches!(trouble, Trouble::Unlike(_));
                    (policy.lost(trouble, &mut course)?, is_unlike)
                }
            };
            let reason = lost.to_string();
            let is_new = course.away_for(&reason);
            if course.lost() || is_unlike && is_new {
                events.record(Happened::SourceLost { channel: whose.clone(), reason });
                self.set_away(course.lost_at);
                news();
            } else if is_new {
                tracing::warn!(channel = whose.as_deref(), "the source is still away: {reason}");
            }
            continuation = self.get().map(|producer| producer.continuation()).or(continuation);
            // Devices belong to one at a time.
            let source = Arc::clone(self);
            let stopped = tokio::task::spawn_blocking(move || source.set(None));
            stopped.await.map_err(Failure::runtime)?;
            // What it said besides is not said of the next one.
            while turns.try_recv().is_ok() {}
            tokio::time::sleep(course.wait()).await;
            match start(continuation.clone()).await.map_err(Failure::runtime)? {
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(%error, "the source is still away");
                    feed.take(Event::Failed(error));
                }
            }
        }
        Ok(())
    }
}

/// What becomes of a source that fails.
struct Policy {
    /// What ran is started again.
    restarts: bool,
    /// Its owner may change it at any time, and back again.
    is_elsewhere: bool,
    /// What cannot begin is tried again: whoever sends what is of no use does not end it for the next one.
    waits: bool,
}

impl Policy {
    fn of(source: &SourceSpec, is_one_of_several: bool) -> Self {
        Self {
            restarts: !matches!(source, SourceSpec::File(_) | SourceSpec::None),
            is_elsewhere: matches!(source, SourceSpec::Network(_)),
            waits: source.waits() || is_one_of_several,
        }
    }

    /// Why it is gone, where starting it again is of use.
    ///
    /// # Errors
    ///
    /// The same, where it is of none.
    fn lost(&self, trouble: Trouble, course: &mut Course) -> Result<Failure, Failure> {
        let (failure, is_worth_it) = match trouble {
            Trouble::Failed(failure) => (failure, false),
            Trouble::Unbegun(failure) => (failure, self.waits),
            Trouble::Lost(failure) => (failure, self.restarts),
            Trouble::Crashed(failure) => {
                let crashes = course.crashed();
                (failure, self.restarts || crashes <= MOST_CRASHES)
            }
            Trouble::Unlike(how) if self.is_elsewhere => {
                let what = format!("{how}; send those, or start the broadcast again");
                (Failure::runtime(what), true)
            }
            Trouble::Unlike(how) => {
                (Failure::runtime(format!("{how}; start the broadcast again")), false)
            }
        };
        if is_worth_it { Ok(failure) } else { Err(failure) }
    }
}

/// How a source has fared so far.
struct Course {
    /// Of the one that runs; of none that has not begun.
    runs_since: Option<Instant>,
    lost_at: Option<Instant>,
    has_run: bool,
    /// Why it has been away, as was told.
    told: Vec<String>,
    /// In a row.
    crashes: u32,
    /// Before the next one is started.
    wait: Duration,
}

impl Course {
    /// Of one that begins now.
    fn new() -> Self {
        Self {
            runs_since: Some(Instant::now()),
            lost_at: None,
            has_run: false,
            told: Vec::new(),
            crashes: 0,
            wait: FIRST_RESTART,
        }
    }

    /// It runs. Returns how long it was away, where it was, and whether it had run before that.
    fn runs(&mut self) -> Option<(Duration, bool)> {
        self.runs_since = Some(Instant::now());
        self.told.clear();
        let had_run = std::mem::replace(&mut self.has_run, true);
        self.lost_at.take().map(|at| (at.elapsed(), had_run))
    }

    fn has_lasted(&self) -> bool {
        self.runs_since.is_some_and(|since| since.elapsed() >= LASTING)
    }

    /// It crashed. Returns how often it has, in a row.
    fn crashed(&mut self) -> u32 {
        self.crashes = if self.has_lasted() { 1 } else { self.crashes + 1 };
        self.crashes
    }

    /// It is away for this reason. Returns whether that has not been told of this absence.
    fn away_for(&mut self, reason: &str) -> bool {
        let is_new = self.told.len() < MOST_REASONS && !self.told.iter().any(|told| told == reason);
        if is_new {
            self.told.push(reason.to_owned());
        }
        is_new
    }

    /// It is gone. Returns whether it was there before.
    fn lost(&mut self) -> bool {
        let is_news = self.lost_at.is_none();
        self.lost_at.get_or_insert_with(Instant::now);
        if self.has_lasted() {
            self.wait = FIRST_RESTART;
        }
        self.runs_since = None;
        is_news
    }

    /// How long to wait before the next try: longer each time, while none lasts.
    fn wait(&mut self) -> Duration {
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST_RESTART);
        wait
    }
}

/// Tracks as a user knows them.
fn in_words(formats: &[Format]) -> String {
    let track = |format: &Format| {
        let channels = format.channels.map(|channels| format!("/{channels}"));
        let rate = match format.kind {
            Kind::Audio => format!(" {}{}", format.clock_rate, channels.unwrap_or_default()),
            _ => String::new(),
        };
        format!("{} {}{rate}", format.kind, format.encoding_name)
    };
    formats.iter().map(track).collect::<Vec<_>>().join(", ")
}

impl Feed {
    /// A feed that will start its channel with `start`, and what it tells.
    pub(crate) fn new(start: Start) -> (Arc<Self>, Told) {
        let (channel, channel_told) = watch::channel(None);
        let (turns, turns_told) = mpsc::unbounded_channel();
        let start = Mutex::new(Some(start));
        let feed = Self { start, channel, connected: OnceLock::new(), turns };
        (Arc::new(feed), Told { channel: channel_told, turns: turns_told })
    }

    /// The sink that a producer reports to.
    pub(crate) fn sink(self: &Arc<Self>) -> EventSink {
        let feed = Arc::clone(self);
        Arc::new(move |event| feed.take(event))
    }

    fn take(&self, event: Event) {
        match event {
            Event::Ready(formats) => self.begin(formats.into()),
            Event::Unit(unit) => self.publish(unit),
            // Others may go on.
            Event::TrackEnded(_) => {}
            Event::Ended => self.turn(Turn::Ended),
            // Nobody is asked twice.
            Event::Failed(MediaError::Refused) => {
                self.trouble(Trouble::Failed(MediaError::Refused.into()));
            }
            Event::Failed(MediaError::Withdrawn) => self.turn(Turn::Ended),
            Event::Failed(error) if self.connected.get().is_some() => self.failed(error),
            Event::Failed(error) => self.trouble(Trouble::Unbegun(error.into())),
        }
    }

    /// What ran has failed, or is not back.
    fn failed(&self, error: MediaError) {
        self.trouble(match error {
            MediaError::Crashed { .. } => Trouble::Crashed(error.into()),
            error => Trouble::Lost(error.into()),
        });
    }

    fn trouble(&self, trouble: Trouble) {
        self.turn(Turn::Trouble(trouble));
    }

    fn turn(&self, turn: Turn) {
        // Nobody listens when the broadcaster stops already.
        let _ = self.turns.send(turn);
    }

    /// Starts the channel before the first unit, so that the first keyframe is in its history. A source that comes
    /// back goes on in the channel that there is.
    fn begin(&self, formats: Arc<[Format]>) {
        let start = self.start.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(start) = start else {
            let Some(Connected { formats: before, fits, .. }) = self.connected.get() else {
                return;
            };
            let is_like = Format::are_like(before, &formats);
            fits.store(is_like, Ordering::Relaxed);
            let how = || {
                let (now, before) = (in_words(&formats), in_words(before));
                format!("the source came back with other tracks: {now}, where it had {before}")
            };
            return self.turn(match is_like {
                true => Turn::Runs,
                false => Turn::Trouble(Trouble::Unlike(how())),
            });
        };
        // Any sound can be decoded from where it starts, but a viewer joins at a picture.
        let has_video = formats.iter().any(|format| format.kind == Kind::Video);
        let joinable = |format: &Format| format.kind == Kind::Video || !has_video;
        let joinable = formats.iter().map(joinable).collect();
        match start(Arc::clone(&formats)) {
            Ok(channel) => {
                let fan_out = channel.fan_out.clone();
                // The start was taken above, so this is the first and only one.
                let fits = AtomicBool::new(true);
                let _ = self.connected.set(Connected { formats, fan_out, joinable, fits });
                self.channel.send_replace(Some(channel));
                self.turn(Turn::Runs);
            }
            Err(failure) => self.trouble(Trouble::Failed(failure)),
        }
    }

    fn publish(&self, unit: Unit) {
        let Some(Connected { fan_out, joinable, fits, .. }) = self.connected.get() else { return };
        if !fits.load(Ordering::Relaxed) {
            return;
        }
        let Unit { track, keyframe, captured_at, packets, .. } = unit;
        let keyframe = keyframe && joinable.get(track).is_some_and(|joinable| *joinable);
        let handed_over_at = Instant::now();
        fan_out.publish(Burst { track, keyframe, captured_at, handed_over_at, packets });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure::runtime("it failed")
    }

    #[test]
    fn what_is_of_no_use_is_not_started_again() {
        let goes_on = |source: &str, is_one_of_several, trouble: Trouble| {
            let source = source.parse().expect("a source");
            Policy::of(&source, is_one_of_several).lost(trouble, &mut Course::new()).is_ok()
        };
        for (source, on_loss, on_unlike, unbegun) in [
            ("file:/film.mkv", false, false, false),
            ("test", true, false, false),
            ("rtsp://camera/1", true, true, false),
            ("srt://:5000", true, true, true),
        ] {
            assert_eq!(goes_on(source, false, Trouble::Lost(failure())), on_loss, "{source}");
            let unlike = Trouble::Unlike("other tracks".to_owned());
            assert_eq!(goes_on(source, false, unlike), on_unlike, "{source}");
            assert_eq!(goes_on(source, false, Trouble::Unbegun(failure())), unbegun, "{source}");
            assert!(goes_on(source, true, Trouble::Unbegun(failure())), "{source}");
            assert!(!goes_on(source, true, Trouble::Failed(failure())), "{source}");
        }
    }

    #[test]
    fn a_file_may_crash_its_reader_a_few_times() {
        let policy = Policy::of(&"file:/film.mkv".parse().expect("a source"), false);
        let mut course = Course::new();
        for crash in 1..=MOST_CRASHES + 1 {
            let lost = policy.lost(Trouble::Crashed(failure()), &mut course);
            assert_eq!(lost.is_ok(), crash <= MOST_CRASHES, "{crash}");
        }
    }

    #[test]
    fn a_loss_is_told_once_and_waited_for_longer_each_time() {
        let mut course = Course::new();
        assert_eq!(course.runs(), None);
        assert_eq!([(); 3].map(|()| course.lost()), [true, false, false]);
        let reasons = ["refused", "refused", "timed out", "refused"];
        let told = reasons.map(|reason| course.away_for(reason));
        assert_eq!(told, [true, false, true, false]);
        let waits = [0; 5].map(|_| course.wait().as_millis());
        assert_eq!(waits, [200, 400, 800, 1000, 1000]);
        assert!(course.runs().is_some_and(|(_, had_run)| had_run));
        assert_eq!(course.runs(), None);
        assert!(course.lost() && course.away_for("refused"));
        assert_eq!(course.wait(), LONGEST_RESTART, "it did not last");
    }
}
