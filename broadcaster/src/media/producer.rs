//! A running source: starting it, watching it, stopping it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use minicbor::{Decode, Encode};
use protocol::burst::PlainBurst;
use protocol::media::Format;

use super::config::MediaConfig;
use super::devices::Identity;
use super::elements::init;
use super::error::{MediaError, reason};
use super::file::Looper;
use super::gate::Gate;
use super::spec::SourceSpec;
use super::track::Live;
use super::unit::{Epoch, Unit};
use super::{camera, file, fragment, network, screen};

/// What a source reports.
#[derive(Debug)]
pub enum Event {
    /// All tracks and what their packets are; once, before any unit.
    Ready(Vec<Format>),
    /// The packets of one access unit.
    Unit(Unit),
    /// No unit of this track follows.
    TrackEnded(usize),
    /// The source came to its end; nothing follows.
    Ended,
    /// The source failed; nothing follows.
    Failed(MediaError),
}

/// Where events go. It is called from the threads that encode, one for each track: what blocks it
/// blocks them, and it must not stop the producer.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// What has been encoded so far. Counters never go down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct EncoderStats {
    /// Pictures given to the encoder; of a source that comes encoded, its coded pictures.
    #[n(0)]
    pub frames_in: u64,
    /// Coded pictures that came out.
    #[n(1)]
    pub frames_encoded: u64,
    /// Pictures of a live source that were dropped because the encoder was behind.
    #[n(2)]
    pub frames_dropped: u64,
    /// Keyframes among them.
    #[n(3)]
    pub keyframes: u64,
    /// Bytes of coded pictures, before they became packets.
    #[n(4)]
    pub video_bytes: u64,
    /// RTP packets of all tracks.
    #[n(5)]
    pub packets: u64,
    /// Bytes of those packets, before sealing.
    #[n(6)]
    pub packet_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    frames_in: AtomicU64,
    frames_encoded: AtomicU64,
    keyframes: AtomicU64,
    video_bytes: AtomicU64,
    packets: AtomicU64,
    packet_bytes: AtomicU64,
    /// Pictures that a live source gave, and where they wait for the encoder.
    offered: AtomicU64,
    taken: AtomicU64,
    dropped: AtomicU64,
    queues: Mutex<Vec<gst::glib::WeakRef<gst::Element>>>,
    /// How long the latest pictures were within their encoder.
    encoding: Mutex<Vec<Duration>>,
    /// The element that encodes pictures.
    encoder: Mutex<Option<&'static str>>,
}

/// Pictures that are within one encoder.
#[derive(Debug, Default)]
pub(super) struct Within {
    /// Their times, as the encoder was given them, and when that was.
    pictures: VecDeque<(gst::ClockTime, Instant)>,
    /// By how much the encoder moves times: by the same for all pictures.
    moved_by: Option<i128>,
}

/// Pictures within an encoder, at most; times not fetched, at most.
const MOST_WITHIN: usize = 64;
const MOST_TIMES: usize = 1024;

impl Within {
    /// A picture of this time goes in.
    pub(super) fn enter(&mut self, pts: gst::ClockTime, now: Instant) {
        if self.pictures.len() >= MOST_WITHIN {
            self.pictures.pop_front();
        }
        self.pictures.push_back((pts, now));
    }

    /// The picture of this time comes out: when it went in. Those before it never come.
    pub(super) fn leave(&mut self, pts: gst::ClockTime) -> Option<Instant> {
        let nanoseconds = |time: gst::ClockTime| i128::from(time.nseconds());
        let first = self.pictures.front()?.0;
        let moved_by = *self.moved_by.get_or_insert(nanoseconds(pts) - nanoseconds(first));
        let given = nanoseconds(pts) - moved_by;
        while let Some((first, entered_at)) = self.pictures.pop_front() {
            if nanoseconds(first) == given {
                return Some(entered_at);
            }
            if nanoseconds(first) > given {
                self.pictures.push_front((first, entered_at));
                break;
            }
        }
        None
    }
}

impl Counters {
    /// Of a source that goes on where another one was.
    fn going_on(before: &EncoderStats) -> Self {
        let EncoderStats { frames_in, frames_encoded, keyframes, .. } = *before;
        Self {
            frames_in: frames_in.into(),
            frames_encoded: frames_encoded.into(),
            keyframes: keyframes.into(),
            video_bytes: before.video_bytes.into(),
            packets: before.packets.into(),
            packet_bytes: before.packet_bytes.into(),
            // Given, and never taken.
            offered: before.frames_dropped.into(),
            dropped: before.frames_dropped.into(),
            ..Self::default()
        }
    }

    /// Pictures are encoded with this element.
    pub(super) fn encodes_with(&self, encoder: &'static str) {
        *self.encoder.lock().unwrap_or_else(PoisonError::into_inner) = Some(encoder);
    }

    pub(super) fn count_in(&self) {
        self.frames_in.fetch_add(1, Ordering::Relaxed);
    }

    /// A picture was within its encoder for so long.
    pub(super) fn count_encoding(&self, took: Duration) {
        let mut encoding = self.encoding.lock().unwrap_or_else(PoisonError::into_inner);
        if encoding.len() < MOST_TIMES {
            encoding.push(took);
        }
    }

    /// Pictures wait in this queue for the encoder, which drops those that it has no room for.
    pub(super) fn watch_queue(self: &Arc<Self>, queue: &gst::Element) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).push(queue.downgrade());
        let count = |pad: &str, counter: fn(&Self) -> &AtomicU64| {
            let Some(pad) = queue.static_pad(pad) else { return };
            let counters = Arc::clone(self);
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                counter(&counters).fetch_add(1, Ordering::Relaxed);
                gst::PadProbeReturn::Ok
            });
        };
        count("sink", |counters| &counters.offered);
        count("src", |counters| &counters.taken);
    }

    /// Pictures dropped so far. Read in this order, one that moves on meanwhile is no drop.
    fn dropped(&self) -> u64 {
        let offered = self.offered.load(Ordering::Acquire);
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queues = queues.iter().filter_map(gst::glib::WeakRef::upgrade);
        let waiting: u64 =
            queues.map(|queue| u64::from(queue.property::<u32>("current-level-buffers"))).sum();
        let taken = self.taken.load(Ordering::Acquire);
        let gone = offered.saturating_sub(taken + waiting);
        self.dropped.fetch_max(gone, Ordering::Relaxed).max(gone)
    }

    pub(super) fn count_encoded(&self, keyframe: bool, bytes: usize) {
        self.frames_encoded.fetch_add(1, Ordering::Relaxed);
        self.keyframes.fetch_add(keyframe.into(), Ordering::Relaxed);
        self.video_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_unit(&self, packets: &PlainBurst) {
        let bytes: usize = packets.packets().map(<[u8]>::len).sum();
        self.packets.fetch_add(packets.len() as u64, Ordering::Relaxed);
        self.packet_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn read(&self) -> EncoderStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EncoderStats {
            frames_in: read(&self.frames_in),
            frames_encoded: read(&self.frames_encoded),
            frames_dropped: self.dropped(),
            keyframes: read(&self.keyframes),
            video_bytes: read(&self.video_bytes),
            packets: read(&self.packets),
            packet_bytes: read(&self.packet_bytes),
        }
    }
}

/// Where a source that is started anew goes on, in this process or another one of the machine: its times and its
/// counters are those of the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Continuation {
    /// The monotonic clock at running time zero, GStreamer's clock then (both in nanoseconds), and what is added to
    /// RTP timestamps.
    #[n(0)]
    epoch: (u64, u64, u32),
    /// What was encoded so far.
    #[n(1)]
    pub encoded: EncoderStats,
    /// The camera that was used: no other takes its place.
    #[n(2)]
    camera: Option<Identity>,
    /// The element that encodes pictures, where one does.
    #[n(3)]
    pub encoder: Option<String>,
}

/// A running source. Dropping it stops it.
pub struct Producer {
    pipeline: gst::Pipeline,
    epoch: Epoch,
    live: Arc<Live>,
    counters: Arc<Counters>,
    camera: Option<Identity>,
    entrance: Option<network::Entrance>,
    listener: Option<network::Listener>,
    looper: Option<Looper>,
    watcher: Option<JoinHandle<()>>,
}

impl Producer {
    /// One that is the first.
    #[cfg(test)]
    pub fn start(config: MediaConfig, events: EventSink) -> Result<Self, MediaError> {
        Self::begin(config, events, None, None, None)
    }

    /// One in the place of another.
    #[cfg(test)]
    pub fn resume(
        config: MediaConfig,
        events: EventSink,
        before: &Continuation,
    ) -> Result<Self, MediaError> {
        Self::begin(config, events, Some(before), None, None)
    }

    /// What another one needs to go on in this one's place.
    pub fn continuation(&self) -> Continuation {
        let (encoded, camera) = (self.encoder_stats(), self.camera.clone());
        let encoder = *self.counters.encoder.lock().unwrap_or_else(PoisonError::into_inner);
        let encoder = encoder.map(str::to_owned);
        Continuation { epoch: self.epoch.numbers(), encoded, camera, encoder }
    }

    /// Starts a source, perhaps in the place of one that failed: [`Event::Ready`] comes again then. Publishers come in
    /// by `entrance`, where it is open already; a Wayland screen by what is `shown`. What is wrong at first sight is returned; what shows later comes as
    /// [`Event::Failed`].
    pub fn begin(
        config: MediaConfig,
        events: EventSink,
        before: Option<&Continuation>,
        entrance: Option<network::Entrance>,
        shown: Option<screen::Shown>,
    ) -> Result<Self, MediaError> {
        init()?;
        if let Some(problem) = config.problem() {
            return Err(MediaError::Config { problem });
        }
        let pipeline = gst::Pipeline::new();
        let (epoch, counters) = match before {
            Some(Continuation { epoch, encoded, .. }) => {
                let epoch = Epoch::of_numbers(*epoch);
                epoch.go_on(&pipeline);
                (epoch, Arc::new(Counters::going_on(encoded)))
            }
            None => (Epoch::set(&pipeline), Arc::default()),
        };
        let manners = network::manners(&config.source);
        let name = format!("source {}", config.source);
        let gate = Arc::new(Gate::new(events, name, manners, Instant::now()));
        let live = Arc::new(Live::new(&pipeline, config, gate, counters.clone(), epoch));
        // From here on, leaving early stops what has been started.
        let mut producer = Self {
            pipeline,
            epoch,
            live,
            counters,
            camera: before.and_then(|before| before.camera.clone()),
            entrance,
            listener: None,
            looper: None,
            watcher: None,
        };
        producer.run(shown)?;
        let source = &producer.live.config().source;
        if before.is_none() && source.waits() {
            tracing::info!(%source, "waiting for a sender");
        }
        Ok(producer)
    }

    fn run(&mut self, shown: Option<screen::Shown>) -> Result<(), MediaError> {
        let live = &self.live;
        let looped = match &live.config().source {
            SourceSpec::Test => {
                fragment::attach(live, &fragment::test_pattern(&live.config().video))?;
                None
            }
            SourceSpec::Camera(device) => {
                let before = self.camera.as_ref();
                self.camera = Some(camera::attach(live, device.as_deref(), before)?);
                None
            }
            SourceSpec::Screen(screen) => {
                screen::attach(live, screen, shown)?;
                None
            }
            SourceSpec::Pipeline(description) => {
                fragment::attach(live, description)?;
                None
            }
            SourceSpec::Network(url) => {
                network::attach(live, url, &mut self.entrance)?;
                None
            }
            SourceSpec::File(path) => Some(file::attach(live, path)?),
            SourceSpec::None => return Err(unable("there is nothing to broadcast")),
        };
        let bus = self.pipeline.bus().ok_or_else(|| unable("a pipeline without a bus"))?;
        if self.pipeline.set_state(gst::State::Playing).is_err() {
            return Err(live.first_error().unwrap_or_else(|| unable("it does not start")));
        }
        self.looper = looped.map(file::Looped::start).transpose()?;
        self.listener = self.entrance.as_ref().map(|entrance| entrance.listen(live)).transpose()?;
        let live = self.live.clone();
        let watcher = thread::Builder::new().name("media-watch".to_owned());
        self.watcher = Some(watcher.spawn(move || watch(&bus, &live)).map_err(unable)?);
        Ok(())
    }

    /// Asks the encoder of a rendition for a keyframe; the only one is number 0. Sources that come encoded elsewhere,
    /// such as files, go on as they are.
    pub fn request_keyframe(&self, rendition: usize) {
        self.live.request_keyframe(rendition);
    }

    /// Encodes those renditions whose bits are set, and no others; all until then.
    pub fn encode(&self, wanted: u32) {
        self.live.encode(wanted);
    }

    /// Has a rendition encoded with so many bits a second from its next picture on; the only one is number 0. False where
    /// its encoder takes no other rate while it runs, `None` where nothing here encodes it: it comes encoded, or there are no
    /// pictures.
    pub fn set_bitrate(&self, rendition: usize, bits_per_second: u64) -> Option<bool> {
        self.live.set_bitrate(rendition, bits_per_second)
    }

    /// What has been encoded so far.
    pub fn encoder_stats(&self) -> EncoderStats {
        self.counters.read()
    }

    /// How long each picture was within the encoder, of those that came out since this was asked last.
    pub fn take_encoding_times(&self) -> Vec<Duration> {
        let mut encoding = self.counters.encoding.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut encoding)
    }

    /// Stops the source and waits until its threads are gone; no event comes afterwards.
    pub fn stop(self) {}
}

impl Drop for Producer {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            let farewell = gst::message::Application::new(gst::Structure::new_empty(FAREWELL));
            if self.pipeline.post_message(farewell).is_ok() && watcher.join().is_err() {
                tracing::error!("the thread that watches the source panicked");
            }
        }
        if let Some(looper) = &self.looper {
            looper.ask_to_stop();
        }
        // It waits for nothing in the pipeline, to which it may be adding.
        self.listener = None;
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::warn!("the source did not stop in order");
        }
        // The looper ends when the pipeline refuses what it pushes.
        self.looper = None;
    }
}

/// Tells the watching thread to go.
const FAREWELL: &str = "farewell";

/// How often it is looked at whether a source is late.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Turns the bus's messages into events until the source ends or is stopped.
fn watch(bus: &gst::Bus, live: &Live) {
    loop {
        let timeout = if live.gate.is_watched() { Some(CHECK_INTERVAL) } else { None };
        let timeout =
            timeout.map(|timeout| gst::ClockTime::from_nseconds(timeout.as_nanos() as u64));
        let Some(message) = bus.timed_pop(timeout) else {
            live.gate.handle_timeout(Instant::now());
            continue;
        };
        match message.view() {
            gst::MessageView::Error(error) => {
                let error = MediaError::from_bus(error);
                live.fail(network::explained(&live.config().source, error));
            }
            gst::MessageView::Eos(_) => live.gate.finish(match &live.config().source {
                // Nothing that is live elsewhere has an end of its own.
                SourceSpec::Network(_) => Event::Failed(live.over()),
                _ => Event::Ended,
            }),
            gst::MessageView::Warning(warning) => {
                let text = reason(&warning.error(), warning.debug().as_deref());
                tracing::warn!(text, "source");
            }
            gst::MessageView::Application(message)
                if message.structure().is_some_and(|structure| structure.name() == FAREWELL) =>
            {
                return;
            }
            _ => {}
        }
        live.gate.handle_timeout(Instant::now());
    }
}

fn unable(problem: impl std::fmt::Display) -> MediaError {
    MediaError::Pipeline { element: "the pipeline".to_owned(), reason: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoders_may_move_times_and_swallow_pictures() {
        let (mut within, began) = (Within::default(), Instant::now());
        let at = |picture: u64| gst::ClockTime::from_mseconds(picture * 33);
        let moved = |picture: u64| at(picture) + gst::ClockTime::from_seconds(3_600_000);
        let entered = |picture: u64| began + Duration::from_millis(picture);
        (0..10).for_each(|picture| within.enter(at(picture), entered(picture)));
        assert_eq!(within.leave(moved(0)), Some(entered(0)));
        assert_eq!(within.leave(moved(3)), Some(entered(3)), "two were swallowed");
        assert_eq!(within.leave(moved(3)), None, "never given to it");
        assert_eq!(within.leave(moved(4)), Some(entered(4)));
        (0..1000).for_each(|picture| within.enter(at(100 + picture), began));
        assert!(within.pictures.len() <= MOST_WITHIN);
    }
}
