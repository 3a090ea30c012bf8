//! The fan-out: the one thread that owns a channel, and sends every burst to all its viewers.
//!
//! Everything that changes the channel comes as a [`Command`] over one queue, so the thread takes no
//! lock and waits for nobody. Live bursts go first; joining viewers and retransmissions get the time
//! between them.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::burst::PlainBurst;
use protocol::channel::{Channel, Purpose, Step, TrackPosition, ViewerId};
use protocol::seal::Segments;
use tokio::sync::oneshot;
use transport::kernel::{self, Destination, MAX_SEGMENTS, Sent};

use crate::metrics::ChannelMetrics;

/// Bursts that may wait for the fan-out. More means that this machine cannot keep up; what is too
/// much is dropped before it is sealed, and counted.
const MOST_BURSTS_WAITING: usize = 256;

/// Requests of viewers that may wait. Further ones are dropped: viewers repeat what matters.
const MOST_REQUESTS_WAITING: usize = 4096;

/// What the fan-out is told.
enum Command {
    Publish(Burst),
    Join { viewer: ViewerId, to: Target, reply: oneshot::Sender<Joined> },
    Move { viewer: ViewerId, to: Target },
    Leave { viewer: ViewerId },
    Request { viewer: ViewerId, ssrc: u32, sequences: Vec<u16> },
}

/// Where a viewer's packets go: its proved address, and the socket that they leave by where that is not
/// the main one.
#[derive(Debug, Clone)]
pub struct Target {
    /// The address.
    pub to: SocketAddr,
    /// The socket.
    pub via: Option<Arc<UdpSocket>>,
}

impl From<SocketAddr> for Target {
    fn from(to: SocketAddr) -> Self {
        Self { to, via: None }
    }
}

/// One access unit's packets on their way to the viewers.
#[derive(Debug)]
pub struct Burst {
    /// Which of the channel's tracks.
    pub track: usize,
    /// Whether a viewer's picture can start here.
    pub keyframe: bool,
    /// When it was captured.
    pub captured_at: Instant,
    /// The packets.
    pub packets: PlainBurst,
}

/// What the channel says to a viewer that joins.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Where each track stands.
    pub tracks: Vec<JoinedTrack>,
    /// The capture clock now.
    pub capture_now: Duration,
    /// How far behind capture the slowest track leaves.
    pub send_lag: Duration,
}

/// Where one track stands when a viewer joins.
#[derive(Debug, Clone, Copy)]
pub struct JoinedTrack {
    /// Indices.
    pub position: TrackPosition,
    /// A recent RTP timestamp …
    pub rtp_timestamp: u32,
    /// … and when it was captured, on the capture clock.
    pub captured: Duration,
}

/// A handle to the fan-out. When all handles are gone, the thread ends.
#[derive(Clone)]
pub struct FanOut {
    commands: Sender<Command>,
    waiting: Arc<Waiting>,
    metrics: Arc<ChannelMetrics>,
}

#[derive(Default)]
struct Waiting {
    bursts: AtomicUsize,
    requests: AtomicUsize,
}

impl FanOut {
    /// Starts the thread. `request_keyframe` is called from it.
    pub fn start(
        channel_state: Channel,
        tracks: usize,
        sender: kernel::Sender,
        metrics: Arc<ChannelMetrics>,
        request_keyframe: impl Fn() + Send + 'static,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (commands, receiver) = channel();
        let waiting = Arc::<Waiting>::default();
        let began = Instant::now();
        let worker = Worker {
            channel: channel_state,
            sender,
            waiting: Arc::clone(&waiting),
            metrics: Arc::clone(&metrics),
            request_keyframe: Box::new(request_keyframe),
            destinations: HashMap::new(),
            live: Live::default(),
            // Frames that were captured before the thread began must not come before zero.
            clock_began: began.checked_sub(Duration::from_secs(10)).unwrap_or(began),
            latest: vec![None; tracks],
        };
        let thread = std::thread::Builder::new()
            .name("fan-out".into())
            .spawn(move || worker.run(&receiver))?;
        Ok((Self { commands, waiting, metrics }, thread))
    }

    /// Hands over a burst. Never blocks.
    pub fn publish(&self, burst: Burst) {
        if self.waiting.bursts.load(Ordering::Relaxed) >= MOST_BURSTS_WAITING {
            self.metrics.bursts_dropped.inc();
            return;
        }
        self.waiting.bursts.fetch_add(1, Ordering::Relaxed);
        self.tell(Command::Publish(burst));
    }

    /// Begins to serve a viewer at its proved path. `None` when the channel has ended.
    pub async fn join(&self, viewer: ViewerId, to: impl Into<Target>) -> Option<Joined> {
        let (reply, joined) = oneshot::channel();
        let to = to.into();
        self.tell(Command::Join { viewer, to, reply });
        joined.await.ok()
    }

    /// The viewer's path is another one now.
    pub fn relocate(&self, viewer: ViewerId, to: impl Into<Target>) {
        let to = to.into();
        self.tell(Command::Move { viewer, to });
    }

    /// Sends nothing more to a viewer.
    pub fn leave(&self, viewer: ViewerId) {
        self.tell(Command::Leave { viewer });
    }

    /// Packets that a viewer asks for again.
    pub fn request(&self, viewer: ViewerId, ssrc: u32, sequences: Vec<u16>) {
        if self.waiting.requests.load(Ordering::Relaxed) >= MOST_REQUESTS_WAITING {
            self.metrics.requests_dropped.inc();
            return;
        }
        self.waiting.requests.fetch_add(1, Ordering::Relaxed);
        self.tell(Command::Request { viewer, ssrc, sequences });
    }

    fn tell(&self, command: Command) {
        // An error means that the thread is gone, and with it the channel: there is nobody to tell.
        let _ = self.commands.send(command);
    }
}

/// Viewers at the live edge: ids and destinations in the same order.
#[derive(Default)]
struct Live {
    viewers: Vec<ViewerId>,
    destinations: Vec<Destination>,
}

impl Live {
    fn add(&mut self, viewer: ViewerId, destination: Destination) {
        self.remove(viewer);
        self.viewers.push(viewer);
        self.destinations.push(destination);
    }

    fn remove(&mut self, viewer: ViewerId) -> bool {
        let at = self.viewers.iter().position(|other| *other == viewer);
        if let Some(at) = at {
            self.viewers.swap_remove(at);
            self.destinations.swap_remove(at);
        }
        at.is_some()
    }
}

/// A track's latest access unit: the reference for everybody's timeline.
#[derive(Debug, Clone, Copy)]
struct Latest {
    rtp_timestamp: u32,
    captured_at: Instant,
    /// Recent delay from capture to sending.
    lag: Duration,
}

struct Worker {
    channel: Channel,
    sender: kernel::Sender,
    waiting: Arc<Waiting>,
    metrics: Arc<ChannelMetrics>,
    request_keyframe: Box<dyn Fn() + Send>,
    destinations: HashMap<ViewerId, Destination>,
    live: Live,
    clock_began: Instant,
    latest: Vec<Option<Latest>>,
}

impl Worker {
    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let due = self.channel.poll_timeout();
            let command = match due {
                None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => commands.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match command {
                Ok(command) => self.handle(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // New bursts come before anything that only one viewer waits for.
            loop {
                while let Ok(command) = commands.try_recv() {
                    self.handle(command);
                }
                let Some(step) = self.channel.poll_step(Instant::now()) else { break };
                self.take(step);
            }
            self.observe();
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Publish(burst) => {
                self.waiting.bursts.fetch_sub(1, Ordering::Relaxed);
                self.publish(burst);
            }
            Command::Join { viewer, to, reply } => {
                self.live.remove(viewer);
                self.destinations.insert(viewer, self.destination(to));
                let positions = self.channel.join(viewer, Instant::now());
                // An error means that the viewer went away while it was being admitted; its session
                // says so with a leave.
                let _ = reply.send(self.joined(&positions));
            }
            Command::Move { viewer, to } => {
                let destination = self.destination(to);
                if let Some(known) = self.destinations.get_mut(&viewer) {
                    *known = destination.clone();
                    if self.live.remove(viewer) {
                        self.live.add(viewer, destination);
                    }
                }
            }
            Command::Leave { viewer } => {
                self.channel.leave(viewer);
                self.live.remove(viewer);
                self.destinations.remove(&viewer);
            }
            Command::Request { viewer, ssrc, sequences } => {
                self.waiting.requests.fetch_sub(1, Ordering::Relaxed);
                if self.destinations.contains_key(&viewer) {
                    self.channel.request(viewer, ssrc, sequences);
                }
            }
        }
    }

    fn destination(&self, Target { to, via }: Target) -> Destination {
        let destination = self.sender.destination(to);
        match via {
            Some(socket) => destination.via(socket),
            None => destination,
        }
    }

    fn publish(&mut self, burst: Burst) {
        let Burst { track, keyframe, captured_at, packets } = burst;
        let now = Instant::now();
        let sealed = match self.channel.publish(track, keyframe, captured_at, packets, now) {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::error!(%error, "access unit dropped");
                self.metrics.bursts_dropped.inc();
                return;
            }
        };
        let mut sent = Sent::default();
        for Segments { range, segment } in sealed.segments(0..sealed.len(), MAX_SEGMENTS) {
            let bytes = &sealed.bytes()[range];
            sent += self.sender.send(bytes, segment, &self.live.destinations);
        }
        self.metrics.count(&sent);
        let lag = now.saturating_duration_since(captured_at);
        if let Some(latest) = self.latest.get_mut(track) {
            // Slowly down, at once up: the slowest recent unit counts.
            let before = latest.map_or(lag, |latest| latest.lag);
            let lag = lag.max(before.mul_f64(0.9));
            *latest = Some(Latest { rtp_timestamp: sealed.rtp_timestamp, captured_at, lag });
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Send { viewer, burst, packets, purpose } => {
                let Some(destination) = self.destinations.get(&viewer) else { return };
                let mut sent = Sent::default();
                for Segments { range, segment } in burst.segments(packets, MAX_SEGMENTS) {
                    let to = std::slice::from_ref(destination);
                    sent += self.sender.send(&burst.bytes()[range], segment, to);
                }
                self.metrics.count(&sent);
                match purpose {
                    Purpose::Join => self.metrics.join_bytes.inc_by(sent.bytes),
                    Purpose::Retransmission => self.metrics.retransmitted.inc_by(sent.datagrams),
                }
            }
            Step::CaughtUp { viewer } => {
                if let Some(destination) = self.destinations.get(&viewer) {
                    self.live.add(viewer, destination.clone());
                }
            }
            Step::RequestKeyframe => {
                self.metrics.keyframes_requested.inc();
                (self.request_keyframe)();
            }
        }
    }

    fn joined(&self, positions: &[TrackPosition]) -> Joined {
        let now = Instant::now();
        let tracks = positions.iter().zip(&self.latest).map(|(&position, latest)| {
            let captured_at = latest.map_or(now, |latest| latest.captured_at);
            JoinedTrack {
                position,
                rtp_timestamp: latest.map_or(0, |latest| latest.rtp_timestamp),
                captured: self.on_capture_clock(captured_at),
            }
        });
        let lags = self.latest.iter().flatten().map(|latest| latest.lag);
        Joined {
            tracks: tracks.collect(),
            capture_now: self.on_capture_clock(now),
            send_lag: lags.max().unwrap_or_default(),
        }
    }

    fn on_capture_clock(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.clock_began)
    }

    fn observe(&self) {
        self.metrics.history_bytes.set(self.channel.history().bytes() as i64);
        self.metrics.joining.set(self.channel.joining() as i64);
        self.metrics.live_rate.set(self.channel.live_rate().as_bytes_per_second());
    }
}
