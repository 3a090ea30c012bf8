//! What happens, told three ways: as log lines with stable names, as the status page's list, and in
//! `docs/events.md`.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::channel::ViewerId;
use protocol::units::Bitrate;
use serde::Serialize;
use tracing::field::display;

/// Events that the status page shows; and of these, those that anybody can bring about who has a link.
const MOST_KEPT: usize = 200;
const MOST_OF_STRANGERS: usize = 100;

/// The channel that something is about, where there are several.
pub(crate) type Whose = Option<Arc<str>>;

/// Something that an operator wants to know.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// The source runs; one for each start.
    SourceStarted { channel: Whose, tracks: usize },
    /// The source came to its end.
    SourceEnded { channel: Whose },
    /// The source failed; it is started again.
    SourceLost { channel: Whose, reason: String },
    /// It runs again.
    SourceBack { channel: Whose, lasted: Duration },
    /// The operator set another bitrate of the picture, or of one of its renditions.
    BitrateChanged { channel: Whose, rendition: Option<Arc<str>>, rate: Bitrate, before: Bitrate },
    /// A rendezvous knows us.
    RendezvousRegistered { rendezvous: SocketAddr, external: SocketAddr },
    /// The connection to one broke.
    RendezvousLost { reason: String },
    /// A viewer waits for the operator to let it in.
    ViewerKnocks { viewer: ViewerId, path: &'static str, remote: SocketAddr },
    /// A viewer was admitted.
    ViewerJoined { viewer: ViewerId, path: &'static str, remote: SocketAddr, rtt: Duration },
    /// An admitted viewer is gone.
    ViewerLeft { viewer: ViewerId, reason: &'static str },
    /// The operator sent a viewer away.
    ViewerRemoved { viewer: ViewerId },
    /// A viewer was not admitted.
    ViewerRefused { reason: &'static str, remote: Option<SocketAddr> },
    /// A path to a viewer opened.
    PathOpened { path: &'static str, remote: SocketAddr, nat: &'static str, took: Duration },
    /// No path to a viewer opened.
    PathFailed { nat: &'static str, remote: Option<SocketAddr>, reason: String },
    /// A viewer is reached by another path.
    PathMoved { viewer: ViewerId, path: &'static str, remote: SocketAddr },
    /// A viewer's path was lost.
    PathLost { viewer: Option<ViewerId>, reason: String },
    /// A viewer loses much.
    LossHigh { viewer: ViewerId, loss: f64 },
    /// It does no more.
    LossOver { viewer: ViewerId, lost: u64, recovered: u64, unrecovered: u64, lasted: Duration },
    /// Nothing was heard of a viewer.
    MediaPaused { viewer: ViewerId },
    /// It was heard again.
    MediaResumed { viewer: ViewerId },
    /// A viewer's path does not carry the stream.
    PathNarrow { viewer: ViewerId, rate: Bitrate, stream: Bitrate },
    /// It does again.
    PathWide { viewer: ViewerId },
    /// A viewer goes on with another rendition.
    RenditionChanged { viewer: ViewerId, rendition: Arc<str> },
    /// Most viewers suffer at once.
    UplinkFull { rate: Option<Bitrate> },
    /// They do no more.
    UplinkFree,
}

/// An event as the status page shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Recorded {
    /// Milliseconds since 1970.
    at_ms: u64,
    event: &'static str,
    viewer: Option<String>,
    text: String,
    #[serde(skip)]
    is_of_stranger: bool,
}

/// The latest events.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<VecDeque<Recorded>>);

impl Events {
    /// Logs an event, and keeps it for a while.
    pub(crate) fn record(&self, event: Event) {
        event.log();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let recorded = Recorded {
            at_ms: now.as_millis() as u64,
            event: event.name(),
            viewer: event.viewer().map(|viewer| viewer.to_string()),
            text: event.text(),
            is_of_stranger: event.is_of_stranger(),
        };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recorded.is_of_stranger {
            let strangers = kept.iter().enumerate().filter(|(_, kept)| kept.is_of_stranger);
            // Counted from the newest.
            if let Some((at, _)) = strangers.skip(MOST_OF_STRANGERS - 1).last() {
                kept.remove(at);
            }
        }
        kept.truncate(MOST_KEPT - 1);
        kept.push_front(recorded);
    }

    /// The latest ones, the newest first.
    pub(crate) fn latest(&self) -> Vec<Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Event {
    /// The stable name.
    fn name(&self) -> &'static str {
        match self {
            Self::SourceStarted { .. } => "source_started",
            Self::SourceEnded { .. } => "source_ended",
            Self::SourceLost { .. } => "source_lost",
            Self::SourceBack { .. } => "source_back",
            Self::BitrateChanged { .. } => "bitrate_changed",
            Self::RendezvousRegistered { .. } => "rendezvous_registered",
            Self::RendezvousLost { .. } => "rendezvous_lost",
            Self::ViewerKnocks { .. } => "viewer_knocks",
            Self::ViewerJoined { .. } => "viewer_joined",
            Self::ViewerLeft { .. } => "viewer_left",
            Self::ViewerRemoved { .. } => "viewer_removed",
            Self::ViewerRefused { .. } => "viewer_refused",
            Self::PathOpened { .. } => "path_opened",
            Self::PathFailed { .. } => "path_failed",
            Self::PathMoved { .. } => "path_moved",
            Self::PathLost { .. } => "path_lost",
            Self::LossHigh { .. } => "loss_high",
            Self::LossOver { .. } => "loss_over",
            Self::MediaPaused { .. } => "media_paused",
            Self::MediaResumed { .. } => "media_resumed",
            Self::PathNarrow { .. } => "path_narrow",
            Self::PathWide { .. } => "path_wide",
            Self::RenditionChanged { .. } => "rendition_changed",
            Self::UplinkFull { .. } => "uplink_full",
            Self::UplinkFree => "uplink_free",
        }
    }

    /// Whether it is of somebody who was not let in, or not yet.
    fn is_of_stranger(&self) -> bool {
        matches!(
            self,
            Self::PathOpened { .. }
                | Self::PathFailed { .. }
                | Self::PathLost { viewer: None, .. }
                | Self::ViewerKnocks { .. }
                | Self::ViewerRefused { .. }
        )
    }

    fn viewer(&self) -> Option<ViewerId> {
        match self {
            Self::PathLost { viewer, .. } => *viewer,
            Self::PathMoved { viewer, .. }
            | Self::ViewerKnocks { viewer, .. }
            | Self::ViewerJoined { viewer, .. }
            | Self::ViewerLeft { viewer, .. }
            | Self::ViewerRemoved { viewer }
            | Self::LossHigh { viewer, .. }
            | Self::LossOver { viewer, .. }
            | Self::MediaPaused { viewer }
            | Self::MediaResumed { viewer }
            | Self::PathNarrow { viewer, .. }
            | Self::RenditionChanged { viewer, .. }
            | Self::PathWide { viewer } => Some(*viewer),
            _ => None,
        }
    }

    /// One line for people. Addresses are left to the log: the status page tells none.
    fn text(&self) -> String {
        let who = |viewer: &Option<ViewerId>| match viewer {
            Some(viewer) => format!("viewer {viewer}"),
            None => "a viewer that was joining".into(),
        };
        let source = |channel: &Whose| match channel {
            Some(name) => format!("the source of '{name}'"),
            None => "the source".into(),
        };
        match self {
            Self::SourceStarted { channel, tracks } => {
                let plural = if *tracks == 1 { "" } else { "s" };
                format!("{} runs, {tracks} track{plural}", source(channel))
            }
            Self::SourceEnded { channel } => format!("{} came to its end", source(channel)),
            Self::SourceLost { channel, reason } => {
                format!("{} is away, and is started again: {reason}", source(channel))
            }
            Self::SourceBack { channel, lasted } => {
                format!("{} runs again, after {} ms", source(channel), lasted.as_millis())
            }
            Self::BitrateChanged { channel, rendition, rate, before } => {
                let what = rendition.as_deref().unwrap_or("the picture");
                let of = channel.as_deref().map(|name| format!(" of '{name}'"));
                let of = of.unwrap_or_default();
                format!("{what}{of} is encoded at {rate} now, before at {before}")
            }
            Self::RendezvousRegistered { .. } => "registered at the rendezvous".into(),
            Self::RendezvousLost { .. } => {
                "the rendezvous is away; viewers go on watching, new ones must wait".into()
            }
            Self::ViewerKnocks { viewer, path, .. } => format!(
                "viewer {viewer} knocks, path {path}; punchcast-broadcaster viewers admit {viewer} lets it in"
            ),
            Self::ViewerJoined { viewer, path, rtt, .. } => {
                format!("viewer {viewer} joined, path {path}, round trip {} ms", rtt.as_millis())
            }
            Self::ViewerLeft { viewer, reason } => format!("viewer {viewer} is gone: {reason}"),
            Self::ViewerRemoved { viewer } => format!("viewer {viewer} was removed"),
            Self::ViewerRefused { reason, .. } => format!("a viewer was refused: {reason}"),
            Self::PathOpened { path, nat, took, .. } => {
                let took = took.as_millis();
                format!("a path opened ({path}) after {took} ms; the viewer's NAT: {nat}")
            }
            Self::PathFailed { nat, .. } => {
                format!("no path to a viewer could be opened; its NAT: {nat}")
            }
            Self::PathMoved { viewer, path, .. } => {
                format!("viewer {viewer} is reached by another path ({path})")
            }
            Self::PathLost { viewer, reason } => {
                format!("the path to {} was lost: {reason}", who(viewer))
            }
            Self::LossHigh { viewer, loss } => {
                format!("viewer {viewer} loses {:.1}% of its packets", loss * 100.0)
            }
            Self::LossOver { viewer, lost, recovered, unrecovered, lasted } => format!(
                "viewer {viewer} loses little again, after {} s: {lost} packets lost, {recovered} \
                 repaired, {unrecovered} missing at their deadline",
                lasted.as_secs()
            ),
            Self::MediaPaused { viewer } => {
                format!("media to viewer {viewer} paused: nothing was heard of it")
            }
            Self::MediaResumed { viewer } => format!("media to viewer {viewer} goes on"),
            Self::PathNarrow { viewer, rate, stream } if rate.as_bits_per_second() == 0 => {
                format!("nothing of {stream} arrives at viewer {viewer}; media paused")
            }
            Self::PathNarrow { viewer, rate, stream } => {
                format!("the path to viewer {viewer} carries {rate} of {stream}: it is sent less")
            }
            Self::PathWide { viewer } => {
                format!("the path to viewer {viewer} carries everything again")
            }
            Self::RenditionChanged { viewer, rendition } => {
                format!("viewer {viewer} goes on with {rendition}, as its path carries that")
            }
            Self::UplinkFull { rate: Some(rate) } => format!(
                "most viewers suffer at once: the uplink seems full, keeping below {rate} (--uplink \
                 sets it for good)"
            ),
            Self::UplinkFull { rate: None } => {
                "most viewers suffer at once: the uplink seems full".into()
            }
            Self::UplinkFree => "the uplink is not the limit any more".into(),
        }
    }

    /// One log line, whose fields have the names of `docs/events.md`.
    fn log(&self) {
        let (event, text) = (self.name(), self.text());
        let ms = |time: &Duration| time.as_millis() as u64;
        match self {
            Self::SourceStarted { channel, tracks } => {
                tracing::info!(event, channel = channel.as_deref(), tracks, "{text}");
            }
            Self::SourceLost { channel, reason } => {
                tracing::warn!(event, channel = channel.as_deref(), reason, "{text}");
            }
            Self::SourceBack { channel, lasted } => {
                let lasted_ms = ms(lasted);
                tracing::info!(event, channel = channel.as_deref(), lasted_ms, "{text}");
            }
            Self::SourceEnded { channel } => {
                tracing::info!(event, channel = channel.as_deref(), "{text}");
            }
            Self::BitrateChanged { channel, rendition, rate, before } => {
                let (rate_bps, before_bps) =
                    (rate.as_bits_per_second(), before.as_bits_per_second());
                tracing::info!(
                    event,
                    channel = channel.as_deref(),
                    rendition = rendition.as_deref(),
                    rate_bps,
                    before_bps,
                    "{text}"
                );
            }
            Self::RendezvousRegistered { rendezvous, external } => {
                tracing::info!(event, %rendezvous, %external, "{text}");
            }
            Self::RendezvousLost { reason } => tracing::warn!(event, reason, "{text}"),
            Self::ViewerJoined { viewer, path, remote, rtt } => {
                let rtt_ms = ms(rtt);
                tracing::info!(event, %viewer, path, %remote, rtt_ms, "{text}");
            }
            Self::ViewerLeft { viewer, reason } => tracing::info!(event, %viewer, reason, "{text}"),
            Self::ViewerRefused { reason, remote } => {
                let remote = remote.map(display);
                tracing::info!(event, reason, remote, "{text}");
            }
            Self::PathOpened { path, remote, nat, took } => {
                // Finer than the others: it is what opening is judged by.
                let took_ms = took.as_micros() as f64 / 1e3;
                tracing::info!(event, path, %remote, nat, took_ms, "{text}");
            }
            Self::PathFailed { nat, remote, reason } => {
                let remote = remote.map(display);
                tracing::info!(event, nat, remote, reason, "{text}");
            }
            Self::ViewerKnocks { viewer, path, remote }
            | Self::PathMoved { viewer, path, remote } => {
                tracing::info!(event, %viewer, path, %remote, "{text}");
            }
            Self::PathLost { viewer, reason } => {
                let viewer = viewer.map(display);
                tracing::info!(event, viewer, reason, "{text}");
            }
            Self::LossHigh { viewer, loss } => tracing::warn!(event, %viewer, loss, "{text}"),
            Self::LossOver { viewer, lost, recovered, unrecovered, lasted } => {
                let lasted_ms = ms(lasted);
                tracing::info!(event, %viewer, lost, recovered, unrecovered, lasted_ms, "{text}");
            }
            Self::PathNarrow { viewer, rate, stream } => {
                let (rate_bps, stream_bps) =
                    (rate.as_bits_per_second(), stream.as_bits_per_second());
                tracing::info!(event, %viewer, rate_bps, stream_bps, "{text}");
            }
            Self::RenditionChanged { viewer, rendition } => {
                tracing::info!(event, %viewer, rendition = &**rendition, "{text}");
            }
            Self::UplinkFull { rate } => {
                let rate_bps = rate.map(Bitrate::as_bits_per_second);
                tracing::warn!(event, rate_bps, "{text}");
            }
            Self::ViewerRemoved { viewer }
            | Self::MediaPaused { viewer }
            | Self::MediaResumed { viewer }
            | Self::PathWide { viewer } => tracing::info!(event, %viewer, "{text}"),
            Self::UplinkFree => tracing::info!(event, "{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_old_ones_go() {
        let events = Events::default();
        for viewer in 0..MOST_KEPT as u32 + 50 {
            events.record(Event::MediaPaused { viewer: ViewerId(viewer) });
        }
        let latest = events.latest();
        assert_eq!(latest.len(), MOST_KEPT);
        assert_eq!(latest[0].viewer.as_deref(), Some(&*(MOST_KEPT + 49).to_string()));
        assert!(latest[0].text.contains("paused"), "{}", latest[0].text);
    }

    #[test]
    fn strangers_push_out_each_other_and_nobody_else() {
        let events = Events::default();
        events.record(Event::SourceStarted { channel: None, tracks: 1 });
        for _ in 0..3 * MOST_KEPT {
            events.record(Event::ViewerRefused { reason: "secret", remote: None });
        }
        let latest = events.latest();
        assert_eq!(latest.len(), MOST_OF_STRANGERS + 1);
        assert_eq!(latest[MOST_OF_STRANGERS].event, "source_started");
    }
}
