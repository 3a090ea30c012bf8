//! What is kept of each packet, where that is asked for: when it arrived, and how the messages were cut.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use viewer::opener::{Arrived, Tap};

/// The two clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    began: Instant,
    /// Since 1970.
    began_unix: Duration,
}

impl Clock {
    pub(super) fn start() -> Self {
        let began_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { began: Instant::now(), began_unix }
    }

    /// Microseconds since the start.
    fn micros(self, at: Instant) -> u32 {
        at.saturating_duration_since(self.began).as_micros() as u32
    }

    /// When that was, in microseconds since 1970.
    pub(super) fn unix_micros(self, micros: u32) -> u64 {
        self.began_unix.as_micros() as u64 + u64::from(micros)
    }

    /// Now, in microseconds since 1970.
    pub(super) fn now_unix_micros(self) -> u64 {
        (self.began_unix + self.began.elapsed()).as_micros() as u64
    }
}

/// When the packets of one stream arrived at one viewer.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) ssrc: u32,
    /// Index of the first.
    pub(super) first: u64,
    /// For each from there on: microseconds on the [`Clock`]; 0 where it did not come.
    pub(super) at: Vec<u32>,
}

/// When all live packets arrived at one viewer.
pub(super) type Arrivals = Arc<Mutex<Vec<Stream>>>;

/// Packets of one viewer's streams that are kept at most: an hour of the usual rate.
const MOST_KEPT: u64 = 1 << 21;

/// Keeps when packets arrived, from some time after the first on: joining bursts are late on purpose.
pub(super) struct KeepArrivals {
    pub(super) clock: Clock,
    pub(super) settle: Duration,
    pub(super) since: Option<Instant>,
    pub(super) arrivals: Arrivals,
}

impl Tap for KeepArrivals {
    fn packet(&mut self, packet: &Arrived) {
        let since = *self.since.get_or_insert(packet.at);
        let is_settled = packet.at.saturating_duration_since(since) >= self.settle;
        if !packet.is_live || !packet.is_fresh || !is_settled {
            return;
        }
        let mut streams = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let known = streams.iter().position(|stream| stream.ssrc == packet.ssrc);
        let number = known.unwrap_or_else(|| {
            streams.push(Stream { ssrc: packet.ssrc, first: packet.index, at: Vec::new() });
            streams.len() - 1
        });
        let stream = &mut streams[number];
        let Some(place) = packet.index.checked_sub(stream.first) else { return };
        if place >= MOST_KEPT {
            return;
        }
        let place = place as usize;
        if stream.at.len() <= place {
            stream.at.resize(place + 1, 0);
        }
        stream.at[place] = self.clock.micros(packet.at).max(1);
    }
}

/// Writes one line for each message of genuine packets: when it arrived, in microseconds since 1970, its
/// bytes, those of its first datagram, and its packets.
pub(super) struct RecordMessages {
    clock: Clock,
    file: File,
    message: Option<Message>,
}

#[derive(Clone, Copy)]
struct Message {
    at: Instant,
    bytes: usize,
    segment: usize,
    packets: usize,
}

impl RecordMessages {
    pub(super) fn new(clock: Clock, file: File) -> Self {
        Self { clock, file, message: None }
    }
}

impl Tap for RecordMessages {
    fn packet(&mut self, packet: &Arrived) {
        let begun = Message { at: packet.at, bytes: 0, segment: 0, packets: 0 };
        self.message.get_or_insert(begun).packets += 1;
    }

    fn datagram_ends(&mut self, bytes: usize) {
        if let Some(message) = &mut self.message {
            message.bytes += bytes;
            message.segment = message.segment.max(bytes);
        }
    }

    fn message_ends(&mut self) {
        let Some(Message { at, bytes, segment, packets }) = self.message.take() else { return };
        let at = self.clock.unix_micros(self.clock.micros(at));
        // A full disk shows in the file's end.
        let _ = writeln!(self.file, "{at} {bytes} {segment} {packets}");
    }
}

/// Several at once.
pub(super) struct All(pub(super) Vec<Box<dyn Tap>>);

impl Tap for All {
    fn packet(&mut self, packet: &Arrived) {
        self.0.iter_mut().for_each(|tap| tap.packet(packet));
    }

    fn datagram_ends(&mut self, bytes: usize) {
        self.0.iter_mut().for_each(|tap| tap.datagram_ends(bytes));
    }

    fn message_ends(&mut self) {
        self.0.iter_mut().for_each(|tap| tap.message_ends());
    }
}
