//! From the running source to the channel: waits for its tracks, then feeds the fan-out.

use std::sync::{Arc, OnceLock};

use protocol::media::{Format, Kind};
use tokio::sync::{mpsc, watch};

use crate::fanout::{Burst, FanOut};
use crate::media::{Event, EventSink, MediaError, Unit};

/// How a source ended.
#[derive(Debug)]
pub(crate) enum SourceEnd {
    /// It came to its end.
    Ended,
    /// It failed.
    Failed(MediaError),
}

/// The source's side of a channel.
pub(crate) struct Feed {
    formats: watch::Sender<Option<Arc<[Format]>>>,
    connected: OnceLock<Connected>,
    ended: mpsc::UnboundedSender<SourceEnd>,
}

struct Connected {
    fan_out: FanOut,
    /// For each track, whether viewers can start at its keyframes.
    joinable: Vec<bool>,
}

impl Feed {
    /// A feed, and what it tells: the formats once known, and the end.
    pub(crate) fn new()
    -> (Arc<Self>, watch::Receiver<Option<Arc<[Format]>>>, mpsc::UnboundedReceiver<SourceEnd>) {
        let (formats, known) = watch::channel(None);
        let (ended, end) = mpsc::unbounded_channel();
        (Arc::new(Self { formats, connected: OnceLock::new(), ended }), known, end)
    }

    /// From now on units go there. What came before is not kept: nobody could have seen it.
    pub(crate) fn connect(&self, fan_out: FanOut, formats: &[Format]) {
        // Any sound can be decoded from where it starts, but a viewer joins at a picture.
        let has_video = formats.iter().any(|format| format.kind == Kind::Video);
        let joinable = |format: &Format| format.kind == Kind::Video || !has_video;
        let joinable = formats.iter().map(joinable).collect();
        // A second call would mean a second channel for one source, and is not made.
        let _ = self.connected.set(Connected { fan_out, joinable });
    }

    /// The sink that a producer reports to.
    pub(crate) fn sink(self: &Arc<Self>) -> EventSink {
        let feed = Arc::clone(self);
        Arc::new(move |event| feed.take(event))
    }

    fn take(&self, event: Event) {
        match event {
            Event::Ready(formats) => {
                self.formats.send_replace(Some(formats.into()));
            }
            Event::Unit(unit) => self.publish(unit),
            Event::Ended => self.end(SourceEnd::Ended),
            Event::Failed(error) => self.end(SourceEnd::Failed(error)),
        }
    }

    fn end(&self, end: SourceEnd) {
        // Nobody listens when the broadcaster stops already.
        let _ = self.ended.send(end);
    }

    fn publish(&self, unit: Unit) {
        let Some(Connected { fan_out, joinable }) = self.connected.get() else { return };
        let Unit { track, keyframe, captured_at, packets, .. } = unit;
        let keyframe = keyframe && joinable.get(track).is_some_and(|joinable| *joinable);
        fan_out.publish(Burst { track, keyframe, captured_at, packets });
    }
}
