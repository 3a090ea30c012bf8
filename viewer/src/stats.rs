//! What a viewer tells of itself: the contract's statistics.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use protocol::feedback::Totals;
use protocol::opening::Local;
use serde::Serialize;

use crate::media::PlayerStats;

/// Where a viewer is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Looks up the rendezvous's name.
    #[default]
    Resolving,
    /// Asks the rendezvous for the broadcaster.
    Introducing,
    /// Sends opening packets.
    Opening,
    /// Has a path; connects and asks to be admitted.
    Joining,
    /// Receives.
    Playing,
    /// Lost the path, and starts again.
    Reconnecting,
    /// Is done.
    Ended,
}

impl State {
    /// All states, in the order of a viewer's life.
    pub const ALL: [Self; 7] = [
        Self::Resolving,
        Self::Introducing,
        Self::Opening,
        Self::Joining,
        Self::Playing,
        Self::Reconnecting,
        Self::Ended,
    ];

    /// The name in logs and stats.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolving => "resolving",
            Self::Introducing => "introducing",
            Self::Opening => "opening",
            Self::Joining => "joining",
            Self::Playing => "playing",
            Self::Reconnecting => "reconnecting",
            Self::Ended => "ended",
        }
    }
}

/// One object of `--stats json`. Counters never go down.
#[derive(Debug, Clone, Serialize)]
pub struct Object {
    state: State,
    path: Option<&'static str>,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    rtt_ms: Option<f64>,
    open_ms: Option<f64>,
    first_packet_ms: Option<f64>,
    first_frame_ms: Option<f64>,
    latency_ms: Option<f64>,
    packets_received: u64,
    packets_lost: u64,
    packets_recovered_nack: u64,
    packets_recovered_fec: u64,
    packets_unrecovered: u64,
    packets_late: u64,
    packets_corrupt: u64,
    duplicates: u64,
    jitter_ms: Option<f64>,
    bitrate_bps: u64,
    frames_decoded: u64,
    frames_dropped: u64,
    rendition: Option<String>,
    /// `live` or `away`: whether the channel's source runs; null where that is not known, as of stored files.
    source: Option<&'static str>,
    reconnects: u64,
    /// What the path carries, where that is less than the stream.
    path_carries_bps: Option<u64>,
    /// Of a stored file: position of what is shown, length, whether it stands still, how fast it is played, and
    /// how long the last command took until its picture was shown.
    position_ms: Option<f64>,
    duration_ms: Option<f64>,
    paused: Option<bool>,
    rate: Option<f64>,
    seek_ms: Option<f64>,
}

/// How a stored file is played.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Playback {
    pub(crate) position: Duration,
    pub(crate) duration: Option<Duration>,
    pub(crate) is_paused: bool,
    pub(crate) rate: f64,
    /// From the last command to its picture.
    pub(crate) seek: Option<Duration>,
}

/// What is known so far, from all sessions.
#[derive(Debug)]
pub(crate) struct Stats {
    started_at: Instant,
    pub(crate) state: State,
    /// What the path carries, where that is less than the stream.
    pub(crate) carries: Option<u64>,
    /// Of a channel that was joined: since when its source has been away, where it is.
    pub(crate) source_away: Option<Option<Instant>>,
    /// Which rendition of the picture comes, where there are several.
    pub(crate) rendition: Option<String>,
    /// From capture to arrival, once it is known.
    pub(crate) arrival: Option<Duration>,
    pub(crate) path: Option<&'static str>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) remote: Option<SocketAddr>,
    /// Which of our ways out the path takes.
    pub(crate) way: Local,
    pub(crate) rtt: Option<Duration>,
    pub(crate) open: Option<Duration>,
    pub(crate) first_packet_at: Option<Instant>,
    pub(crate) jitter: Option<Duration>,
    pub(crate) reconnects: u64,
    /// Bytes of media received, sealed.
    pub(crate) bytes: u64,
    /// Totals of sessions that are over.
    finished: Totals,
    /// Totals of the session under way.
    pub(crate) current: Totals,
    pub(crate) player: PlayerStats,
    /// Of a stored file.
    pub(crate) playback: Option<Playback>,
    rate: Rate,
}

/// The media rate over the last object.
#[derive(Debug)]
struct Rate {
    at: Instant,
    bytes: u64,
}

impl Stats {
    pub(crate) fn new(started_at: Instant) -> Self {
        Self {
            started_at,
            state: State::default(),
            carries: None,
            source_away: None,
            rendition: None,
            arrival: None,
            path: None,
            local: None,
            remote: None,
            way: Local::MAIN,
            rtt: None,
            open: None,
            first_packet_at: None,
            jitter: None,
            reconnects: 0,
            bytes: 0,
            finished: Totals::default(),
            current: Totals::default(),
            player: PlayerStats::default(),
            playback: None,
            rate: Rate { at: started_at, bytes: 0 },
        }
    }

    /// When the process began.
    pub(crate) fn started_at(&self) -> Instant {
        self.started_at
    }

    pub(crate) fn enter(&mut self, state: State) {
        if self.state != state {
            tracing::debug!(from = self.state.as_str(), to = state.as_str(), "state");
            self.state = state;
        }
    }

    /// The session is over: its totals are kept.
    pub(crate) fn end_session(&mut self) {
        self.finished = [&self.finished, &self.current].into_iter().sum();
        self.current = Totals::default();
    }

    /// Whether anything has been decoded.
    pub(crate) fn has_decoded(&self) -> bool {
        self.player.frames_decoded > 0 || self.player.audio_buffers_decoded > 0
    }

    /// From capture to output, as far as it is known.
    pub(crate) fn latency(&self) -> Option<Duration> {
        let arrival = self.arrival.unwrap_or(self.rtt.unwrap_or_default() / 2);
        self.player.latency.map(|latency| latency + arrival)
    }

    /// The totals over all sessions.
    pub(crate) fn totals(&self) -> Totals {
        [&self.finished, &self.current].into_iter().sum()
    }

    /// The next object; the rate is over the time since the one before.
    pub(crate) fn object(&mut self, now: Instant) -> Object {
        let since_start = |at: Instant| ms(at.saturating_duration_since(self.started_at));
        let totals = self.totals();
        let player = &self.player;
        let playback = self.playback;
        let elapsed = now.saturating_duration_since(self.rate.at).as_secs_f64().max(0.001);
        let bitrate_bps = ((self.bytes - self.rate.bytes) as f64 * 8.0 / elapsed) as u64;
        self.rate = Rate { at: now, bytes: self.bytes };
        Object {
            state: self.state,
            path: self.path,
            local: self.local,
            remote: self.remote,
            rtt_ms: self.rtt.map(ms),
            open_ms: self.open.map(ms),
            first_packet_ms: self.first_packet_at.map(since_start),
            first_frame_ms: player.first_frame_at.map(since_start),
            latency_ms: self.latency().map(ms),
            packets_received: totals.received,
            packets_lost: totals.lost,
            packets_recovered_nack: totals.recovered_nack,
            packets_recovered_fec: totals.recovered_fec,
            packets_unrecovered: totals.unrecovered,
            packets_late: totals.late,
            packets_corrupt: totals.corrupt,
            duplicates: totals.duplicates,
            jitter_ms: self.jitter.map(ms),
            bitrate_bps,
            frames_decoded: player.frames_decoded,
            frames_dropped: player.frames_dropped,
            rendition: self.rendition.clone(),
            source: self.source_away.map(|away| if away.is_some() { "away" } else { "live" }),
            reconnects: self.reconnects,
            path_carries_bps: self.carries,
            position_ms: playback.map(|playback| ms(playback.position)),
            duration_ms: playback.and_then(|playback| playback.duration).map(ms),
            paused: playback.map(|playback| playback.is_paused),
            rate: playback.map(|playback| playback.rate),
            seek_ms: playback.and_then(|playback| playback.seek).map(ms),
        }
    }
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_survive_a_reconnect() {
        let now = Instant::now();
        let mut stats = Stats::new(now);
        stats.current = Totals { received: 5, lost: 2, ..Totals::default() };
        stats.end_session();
        stats.current = Totals { received: 1, ..Totals::default() };
        let object = stats.object(now + Duration::from_secs(1));
        assert_eq!((object.packets_received, object.packets_lost), (6, 2));
    }

    #[test]
    fn the_object_has_the_contract_s_keys_and_some_more() {
        let mut stats = Stats::new(Instant::now());
        let value = serde_json::to_value(stats.object(Instant::now())).expect("serializes");
        let expected = [
            "state",
            "path",
            "local",
            "remote",
            "rtt_ms",
            "open_ms",
            "first_packet_ms",
            "first_frame_ms",
            "latency_ms",
            "packets_received",
            "packets_lost",
            "packets_recovered_nack",
            "packets_recovered_fec",
            "packets_unrecovered",
            "packets_late",
            "packets_corrupt",
            "path_carries_bps",
            "duplicates",
            "jitter_ms",
            "bitrate_bps",
            "frames_decoded",
            "frames_dropped",
            "rendition",
            "source",
            "reconnects",
            "position_ms",
            "duration_ms",
            "paused",
            "rate",
            "seek_ms",
        ];
        let object = value.as_object().expect("an object");
        assert_eq!(object.len(), expected.len());
        for key in expected {
            assert!(object.contains_key(key), "{key}");
        }
        assert_eq!(value["state"], "resolving");
    }
}
