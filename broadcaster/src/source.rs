//! From the running source to the channel: starts the channel once the tracks are known, then feeds
//! its fan-out.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use protocol::media::{Format, Kind};
use service::exit::Failure;
use tokio::sync::{mpsc, watch};

use crate::fanout::{Burst, FanOut};
use crate::media::{Event, EventSink, Unit};
use crate::shared::LiveChannel;

/// Makes a channel for tracks of these formats.
pub(crate) type Start = Box<dyn FnOnce(Arc<[Format]>) -> Result<LiveChannel, Failure> + Send>;

/// The source's side of a channel.
pub(crate) struct Feed {
    start: Mutex<Option<Start>>,
    channel: watch::Sender<Option<LiveChannel>>,
    connected: OnceLock<Connected>,
    ended: mpsc::UnboundedSender<Result<(), Failure>>,
}

struct Connected {
    fan_out: FanOut,
    /// For each track, whether viewers can start at its keyframes.
    joinable: Vec<bool>,
}

/// What a feed tells.
pub(crate) struct Told {
    /// The channel, once there is one.
    pub(crate) channel: watch::Receiver<Option<LiveChannel>>,
    /// The source's end, and whether it was a failure.
    pub(crate) ended: mpsc::UnboundedReceiver<Result<(), Failure>>,
}

impl Feed {
    /// A feed that will start its channel with `start`, and what it tells.
    pub(crate) fn new(start: Start) -> (Arc<Self>, Told) {
        let (channel, channel_told) = watch::channel(None);
        let (ended, ended_told) = mpsc::unbounded_channel();
        let start = Mutex::new(Some(start));
        let feed = Self { start, channel, connected: OnceLock::new(), ended };
        (Arc::new(feed), Told { channel: channel_told, ended: ended_told })
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
            Event::Ended => self.end(Ok(())),
            Event::Failed(error) => self.end(Err(error.into())),
        }
    }

    fn end(&self, end: Result<(), Failure>) {
        // Nobody listens when the broadcaster stops already.
        let _ = self.ended.send(end);
    }

    /// Starts the channel before the first unit, so that the first keyframe is in its history.
    fn begin(&self, formats: Arc<[Format]>) {
        let start = self.start.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(start) = start else { return };
        // Any sound can be decoded from where it starts, but a viewer joins at a picture.
        let has_video = formats.iter().any(|format| format.kind == Kind::Video);
        let joinable = |format: &Format| format.kind == Kind::Video || !has_video;
        let joinable = formats.iter().map(joinable).collect();
        match start(formats) {
            Ok(channel) => {
                let fan_out = channel.fan_out.clone();
                // The start was taken above, so this is the first and only one.
                let _ = self.connected.set(Connected { fan_out, joinable });
                self.channel.send_replace(Some(channel));
            }
            Err(failure) => self.end(Err(failure)),
        }
    }

    fn publish(&self, unit: Unit) {
        let Some(Connected { fan_out, joinable }) = self.connected.get() else { return };
        let Unit { track, keyframe, captured_at, packets, .. } = unit;
        let keyframe = keyframe && joinable.get(track).is_some_and(|joinable| *joinable);
        let handed_over_at = Instant::now();
        fan_out.publish(Burst { track, keyframe, captured_at, handed_over_at, packets });
    }
}
