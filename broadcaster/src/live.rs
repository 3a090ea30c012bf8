//! A live channel from its configuration on, whether its source runs or not.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::channel::{Channel, History, JoinPacing};
use protocol::control::{ChannelEntry, Notice};
use protocol::media::{Format, Kind};
use protocol::seal::{Epoch, MasterKey};
use protocol::units::Bitrate;
use protocol::uplink::Budget;
use service::exit::Failure;
use service::log::LogFormat;
use tokio::sync::{Notify, mpsc, watch};
use transport::port::Port;

use crate::apart::Given;
use crate::audience::Audience;
use crate::config::{Config, LiveConfig};
use crate::events::{Event, Events, Whose};
use crate::fanout::{self, FanOut};
use crate::keys::{KeyLog, Keyring};
use crate::media::{AS_IT_COMES, Entrance, MediaConfig};
use crate::metrics::{ChannelMetrics, Metrics};
use crate::places::Places;
use crate::portal::Portal;
use crate::rates::Rates;
use crate::shared::{LiveChannel, Rendition, choose_ssrcs, micros};
use crate::source::{Feed, Source, Start, Turn};

/// How long a viewer that comes before the source is ready waits for it.
const SOURCE_PATIENCE: Duration = Duration::from_secs(5);

/// A channel is told what it may fill the uplink with when that has changed by this share.
const WORTH_TELLING: f64 = 0.03;

/// After so many seconds with viewers it is known what a rendition needs.
const MEASURED: u32 = 3;

/// A live channel.
pub(crate) struct Live {
    pub(crate) name: Arc<str>,
    /// What kind of source it has: no more, as what follows may hold a password.
    pub(crate) kind: String,
    pub(crate) source: Arc<Source>,
    /// The channel as viewers join it, once its source is ready.
    pub(crate) channel: watch::Receiver<Option<LiveChannel>>,
    /// Its name, where there are several.
    pub(crate) whose: Whose,
    /// What its encoders are set to make.
    pub(crate) rates: Arc<Rates>,
    /// Places of its viewers.
    pub(crate) places: Places,
    pub(crate) metrics: Arc<ChannelMetrics>,
    /// Another key is wanted now.
    pub(crate) key_wanted: Notify,
    /// It has come to its end, and others go on.
    is_over: AtomicBool,
    /// For how many seconds somebody has watched its best rendition.
    best_watched: AtomicU32,
    /// What it was told that it may fill the uplink with.
    budget: Mutex<Option<Budget>>,
}

/// What keeps a live channel's source running.
pub(crate) struct Supervision {
    live: Arc<Live>,
    media: MediaConfig,
    given: Given,
    feed: Arc<Feed>,
    turns: mpsc::UnboundedReceiver<Turn>,
}

/// What all live channels have in common.
pub(crate) struct Around<'a> {
    pub(crate) config: &'a Config,
    /// The state folder.
    pub(crate) state: &'a Path,
    pub(crate) port: &'a Port,
    pub(crate) metrics: &'a Metrics,
    pub(crate) audience: &'a Arc<Audience>,
    /// Whether there is one channel only.
    pub(crate) is_alone: bool,
}

impl Live {
    /// Prepares all that a channel needs but its tracks. Its source is not started yet.
    ///
    /// # Errors
    ///
    /// Where the socket cannot be shared, or what the source listens at is taken.
    pub(crate) fn prepare(
        LiveConfig { name, media }: LiveConfig,
        metrics: &Arc<ChannelMetrics>,
        around: &Around<'_>,
    ) -> Result<(Arc<Self>, Supervision), Failure> {
        let name: Arc<str> = name.into();
        let whose = (!around.is_alone).then(|| Arc::clone(&name));
        let source = Arc::<Source>::default();
        let rates = Arc::new(Rates::new(media.clone()));
        let set = (&rates, media.audio.bitrate);
        let start = starter(&name, set, (metrics, &source), around)?;
        let (feed, told) = Feed::new(start);
        let entrance = Entrance::of(&media.source)?;
        let portal = Portal::of(&media.source, around.state, whose.as_deref());
        let given = Given { entrance, portal };
        let live = Arc::new(Self {
            kind: media.source.to_string().split(':').next().unwrap_or_default().to_owned(),
            source,
            channel: told.channel,
            whose,
            rates,
            places: Places::default(),
            metrics: Arc::clone(metrics),
            key_wanted: Notify::new(),
            is_over: AtomicBool::new(false),
            best_watched: AtomicU32::new(0),
            budget: Mutex::new(around.config.uplink.map(Budget::of)),
            name,
        });
        let (known, turns) = (Arc::clone(&live), told.turns);
        Ok((live, Supervision { live: known, media, given, feed, turns }))
    }

    /// The channel, waited for a while.
    pub(crate) async fn channel(&self) -> Option<LiveChannel> {
        let mut channel = self.channel.clone();
        let ready = tokio::time::timeout(SOURCE_PATIENCE, channel.wait_for(Option::is_some)).await;
        ready.ok()?.ok()?.clone()
    }

    /// Whether it has come to its end, while others go on.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// What the stream takes now, or is set to take, whichever is more.
    pub(crate) fn needed_for_each(&self) -> Bitrate {
        self.metrics.stream().max(self.rates.expected())
    }

    /// What its viewers are told of its source.
    pub(crate) fn standing(&self) -> Notice {
        let away = self.source.away_since().map(|since| micros(since.elapsed()) / 1000);
        Notice::Source { away_ms: away }
    }

    /// What all its viewers need, in bits a second.
    pub(crate) fn needed(&self) -> u64 {
        self.needed_for_each().as_bits_per_second().saturating_mul(self.places.taken() as u64)
    }

    /// What its viewers need of the uplink, and with one more of them, in bits a second: nothing while it does not run.
    pub(crate) fn shares(&self) -> (u64, u64) {
        let runs = self.channel.borrow().is_some() && !self.is_over();
        let needed = self.needed();
        if runs { (needed, needed + self.needed_for_each().as_bits_per_second()) } else { (0, 0) }
    }

    /// How viewers see it in the list of what there is. One whose source does not run yet has no formats.
    pub(crate) fn entry(&self) -> ChannelEntry {
        let formats = self.channel.borrow().as_ref().map(|channel| channel.formats.to_vec());
        ChannelEntry { name: self.name.to_string(), formats: formats.unwrap_or_default() }
    }

    /// It may fill the uplink with so much from now on.
    pub(crate) fn set_budget(&self, budget: Option<Budget>) {
        let Some(channel) = self.channel.borrow().clone() else { return };
        let mut told = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = |budget: Budget| budget.media().as_bits_per_second() as f64;
        let is_news = match (*told, budget) {
            (Some(told), Some(budget)) => {
                (rate(budget) - rate(told)).abs() > rate(told) * WORTH_TELLING
            }
            (told, budget) => told != budget,
        };
        if is_news {
            *told = budget;
            channel.fan_out.set_uplink(budget);
        }
    }

    /// Copies what its source counts into the metrics. Each second.
    pub(crate) fn count(&self, metrics: &Metrics, audience: &Audience) {
        let name = &*self.name;
        if self.is_over() {
            return metrics.over(name);
        }
        if let Some(producer) = self.source.get() {
            metrics.encoded(name, &producer.encoder_stats(), &producer.take_encoding_times());
            metrics.source_uses(name, producer.usage().unwrap_or_default());
            let encoder = producer.continuation().encoder;
            metrics.encodes_with(name, encoder.as_deref());
            let mut set = self.rates_set(encoder.is_some());
            set.retain(|(name, _)| name.as_deref() != Some(AS_IT_COMES));
            metrics.is_set_to(name, &set);
        }
        if let Some(channel) = &*self.channel.borrow() {
            let renditions: Vec<_> = channel.renditions_now(audience).collect();
            let is_watched = renditions.first().is_some_and(|(_, viewers, _)| *viewers > 0);
            metrics.renditions(name, renditions.into_iter());
            // Its rate counts over 2 s.
            let watched =
                if is_watched { self.best_watched.load(Ordering::Relaxed) + 1 } else { 0 };
            self.best_watched.store(watched, Ordering::Relaxed);
            if watched > MEASURED && channel.measure() {
                audience.needs_changed();
            }
        }
        self.metrics.viewers.set(self.places.taken() as i64);
        let runs = self.channel.borrow().is_some() && self.source.away_since().is_none();
        metrics.source_live(name, runs);
    }
}

impl Supervision {
    /// Keeps the source running until the channel is over.
    ///
    /// # Errors
    ///
    /// Why it is, where it did not come to its end.
    pub(crate) async fn run(
        mut self,
        log_format: LogFormat,
        events: Arc<Events>,
        audience: Arc<Audience>,
    ) -> (Arc<Live>, Result<(), Failure>) {
        let Self { live, media, given, feed, turns } = &mut self;
        let how = (&*media, log_format, &*given);
        let whose = live.whose.clone();
        let news = || audience.tell_channel(&live.name, &live.standing());
        let end = live.source.supervise(how, feed, turns, (&events, whose), news).await;
        (self.live, end)
    }
}

/// One of several channels is over: its viewers are told so, and nobody joins it any more.
pub(crate) async fn bury(live: &Live, end: &Result<(), Failure>, audience: &Audience) {
    live.is_over.store(true, Ordering::Relaxed);
    if let Err(failure) = end {
        tracing::error!(channel = &*live.name, "the channel is over, others go on: {failure}");
    }
    audience.tell_channel(&live.name, &Notice::Ended);
    let source = Arc::clone(&live.source);
    // What stops it does not return at once.
    if let Err(error) = tokio::task::spawn_blocking(move || source.set(None)).await {
        tracing::error!(%error, "a source was not stopped");
    }
}

/// Prepares what starts a channel once its tracks are known.
fn starter(
    name: &Arc<str>,
    (rates, sound): (&Arc<Rates>, Bitrate),
    (metrics, source): (&Arc<ChannelMetrics>, &Arc<Source>),
    around: &Around<'_>,
) -> Result<Start, Failure> {
    let config = around.config;
    let budget = config.uplink.map(Budget::of);
    let pacing = JoinPacing { each: config.join_rate, total: budget.map(Budget::media) };
    let sender = around
        .port
        .sender()
        .map_err(|error| Failure::runtime(format!("cannot share the UDP socket: {error}")))?;
    let events = Arc::clone(&around.metrics.events);
    let whose = (!around.is_alone).then(|| Arc::clone(name));
    let metrics_of_channel = Arc::clone(metrics);
    let (name, metrics, source) = (Arc::clone(name), Arc::clone(metrics), Arc::clone(source));
    let audience = Arc::clone(around.audience);
    let tell = move |event| match event {
        fanout::Event::KeyframeWanted { rendition } => {
            if let Some(producer) = source.get() {
                producer.request_keyframe(rendition);
            }
        }
        fanout::Event::Encode { wanted } => {
            tracing::debug!(wanted = format!("{wanted:#b}"), "renditions that are encoded");
            source.encode(wanted);
        }
        fanout::Event::Switched(moved) => audience.switched(moved),
        fanout::Event::LeftOut { viewer, packets } => {
            audience.tell(viewer, Notice::LeftOut { packets });
        }
    };
    let key_log = config.key_log.as_ref().map(|path| match &whose {
        None => path.clone(),
        Some(name) => {
            let mut path = path.clone().into_os_string();
            path.push(format!(".{name}"));
            path.into()
        }
    });
    let rates = Arc::clone(rates);
    Ok(Box::new(move |formats: Arc<[Format]>| {
        let key = MasterKey::random(Epoch::FIRST, &mut rand::rng());
        let ssrcs = choose_ssrcs(formats.len());
        let key_log = key_log.as_ref().map(|path| open_key_log(path, &ssrcs)).transpose()?;
        let mut channel = Channel::new(&key, &ssrcs, History::default(), pacing);
        let of_track = Format::renditions(&formats);
        channel.set_renditions(&of_track);
        let kinds: Vec<_> = formats.iter().map(|format| format.kind).collect();
        channel.set_sound(kinds.iter().map(|kind| *kind == Kind::Audio).collect());
        let (fan_out, _thread) = FanOut::start(channel, &kinds, sender, metrics, tell)
            .map_err(|error| Failure::runtime(format!("cannot start the fan-out: {error}")))?;
        fan_out.set_uplink(budget);
        for format in formats.iter() {
            let (rendition, channel) = (format.rendition.as_deref(), whose.as_deref());
            tracing::info!(
                channel,
                kind = %format.kind,
                encoding = format.encoding_name,
                rendition,
                "track"
            );
        }
        let has_sound = kinds.contains(&Kind::Audio);
        let sound = if has_sound { sound } else { Bitrate::bits_per_second(0) };
        let names = formats.iter().filter_map(|format| format.rendition.as_deref());
        let renditions: Arc<[Rendition]> = names
            .zip(rates.all())
            .map(|(name, pictures)| Rendition::new(name, pictures, sound))
            .collect();
        events.record(Event::SourceStarted { channel: whose, tracks: formats.len() });
        let (name, started_at) = (Arc::clone(&name), Instant::now());
        let metrics = Arc::clone(&metrics_of_channel);
        Ok(LiveChannel {
            name,
            formats,
            ssrcs,
            keys: Keyring::new(key, key_log),
            fan_out,
            metrics,
            started_at,
            renditions,
            on_demand: None,
        })
    }))
}

/// Opens the file that the channel's keys are written to.
fn open_key_log(path: &Path, ssrcs: &Arc<[u32]>) -> Result<KeyLog, Failure> {
    tracing::warn!(
        "writing the channel's keys to {}: who reads it can read the broadcast",
        path.display()
    );
    let file = crate::private::create(path).map_err(|error| {
        Failure::runtime(format!("cannot write the key log {}: {error}", path.display()))
    })?;
    Ok(KeyLog { file, path: path.to_owned(), ssrcs: Arc::clone(ssrcs) })
}
