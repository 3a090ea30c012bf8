//! The fan-out: the one thread that owns a channel, and sends every burst to all its viewers.
//!
//! Everything that changes the channel comes as a [`Command`] over one queue, so the thread takes no
//! lock and waits for nobody ([`worker`]). What all live viewers get is laid out once, with sound in the
//! picture's last datagram ([`riders`]), and goes from one shared buffer to the list of viewers as it was
//! at that moment ([`live`]), for each rendition ([`group`]), on further threads where they are many ([`shards`]). Live bursts go first;
//! joining viewers and retransmissions get the time, and the uplink, between them.

mod group;
mod live;
mod riders;
mod shards;
mod worker;

use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use protocol::burst::PlainBurst;
use protocol::channel::{Channel, Condition, TrackPosition, ViewerId};
use protocol::control::LeftOut;
use protocol::feedback::Wish;
use protocol::media::Kind;
use protocol::seal::{Epoch, MasterKey, PacketIndex};
use protocol::tag::TagKey;
use protocol::units::Bitrate;
use protocol::uplink::Budget;
use tokio::sync::oneshot;
use transport::kernel;

use crate::metrics::ChannelMetrics;
use shards::Shards;
use worker::Worker;

/// Bursts that may wait for the fan-out. More means that this machine cannot keep up; what is too
/// much is dropped before it is sealed, and counted.
const MOST_BURSTS_WAITING: usize = 256;

/// Requests of viewers that may wait. Further ones are dropped: viewers repeat what matters.
const MOST_REQUESTS_WAITING: usize = 4096;

/// What the fan-out is told.
enum Command {
    Publish(Burst),
    PublishAll(Vec<Burst>),
    Uplink(Option<Budget>),
    Join {
        viewer: ViewerId,
        rendition: usize,
        to: Target,
        latency: Duration,
        reply: oneshot::Sender<Joined>,
    },
    Move {
        viewer: ViewerId,
        to: Target,
    },
    Leave {
        viewer: ViewerId,
    },
    /// To be answered once something of every track was sent.
    WhenKnown {
        positions: Vec<TrackPosition>,
        reply: oneshot::Sender<Joined>,
    },
    /// Where each track stands: behind all that there is, or behind what was sent.
    Standing {
        whole: bool,
        reply: oneshot::Sender<Vec<PacketIndex>>,
    },
    Wish {
        viewer: ViewerId,
        wish: Wish,
    },
    Condition {
        viewer: ViewerId,
        condition: Condition,
    },
    Margins(bool),
    Rekey(MasterKey),
    Limit {
        viewer: ViewerId,
        rate: Option<Bitrate>,
    },
    Switch {
        viewer: ViewerId,
        rendition: usize,
    },
}

/// What the fan-out tells.
#[derive(Debug)]
pub enum Event {
    /// A viewer needs a keyframe.
    KeyframeWanted {
        /// Of this rendition; the only one is number 0.
        rendition: usize,
    },
    /// Those renditions are to be encoded whose bits are set, and no others.
    Encode {
        /// Which.
        wanted: u32,
    },
    /// A viewer goes on with another rendition.
    Switched(Moved),
    /// A viewer was not sent these packets, as its path does not carry them.
    LeftOut {
        /// Who.
        viewer: ViewerId,
        /// Which.
        packets: Vec<LeftOut>,
    },
}

/// A viewer that goes on with another rendition.
#[derive(Debug, Clone)]
pub struct Moved {
    /// Who.
    pub viewer: ViewerId,
    /// With which.
    pub rendition: usize,
    /// The track that it was sent so far, and the index behind its last packet.
    pub before: (usize, PacketIndex),
    /// The track that it is sent from now on.
    pub track: usize,
    /// Index of its first packet, a keyframe's,
    pub first_index: PacketIndex,
    /// with this timestamp,
    pub rtp_timestamp: u32,
    /// captured then, on the capture clock.
    pub captured: Duration,
}

/// Where a viewer's packets go: its proved address, the socket that they leave by where that is not the main one,
/// and what its tags are made with.
#[derive(Debug, Clone)]
pub struct Target {
    /// The address.
    pub to: SocketAddr,
    /// The socket.
    pub via: Option<Arc<UdpSocket>>,
    /// The viewer's key. Without one, nothing proves to it who sent a packet: for measuring what that costs.
    pub tags: Option<Arc<TagKey>>,
}

impl From<SocketAddr> for Target {
    fn from(to: SocketAddr) -> Self {
        Self { to, via: None, tags: None }
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
    /// When the payloader handed it over.
    pub handed_over_at: Instant,
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
    /// The oldest epoch that something may be sealed in that the viewer is sent.
    pub oldest_epoch: Epoch,
}

impl Joined {
    /// Whether something of every track was sent.
    pub fn is_known(&self) -> bool {
        self.tracks.iter().all(|track| track.captured.is_some())
    }
}

/// Where one track stands when a viewer joins.
#[derive(Debug, Clone, Copy)]
pub struct JoinedTrack {
    /// Indices.
    pub position: TrackPosition,
    /// A recent RTP timestamp …
    pub rtp_timestamp: u32,
    /// … and when it was captured, on the capture clock; `None` before the track's first unit.
    pub captured: Option<Duration>,
}

/// A handle to the fan-out. When all handles are gone, the thread ends.
#[derive(Clone)]
pub struct FanOut {
    commands: Sender<Command>,
    waiting: Arc<Waiting>,
    metrics: Arc<ChannelMetrics>,
    /// When the capture clock showed zero.
    clock_began: Instant,
}

#[derive(Default)]
struct Waiting {
    bursts: AtomicUsize,
    requests: AtomicUsize,
}

impl FanOut {
    /// Starts the thread for a channel of such tracks. `tell` is called from it.
    pub fn start(
        channel_state: Channel,
        tracks: &[Kind],
        sender: kernel::Sender,
        metrics: Arc<ChannelMetrics>,
        tell: impl Fn(Event) + Send + 'static,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self::start_with(channel_state, tracks, sender, metrics, tell, cores)
    }

    /// As [`Self::start`], with so many threads to send, the fan-out's own included.
    pub fn start_with(
        channel_state: Channel,
        tracks: &[Kind],
        sender: kernel::Sender,
        metrics: Arc<ChannelMetrics>,
        tell: impl Fn(Event) + Send + 'static,
        threads: usize,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (commands, receiver) = channel();
        let waiting = Arc::<Waiting>::default();
        let shards = Shards::start(sender, Arc::clone(&metrics), threads)?;
        let now = Instant::now();
        // Frames that were captured before the thread began must not come before zero.
        let clock_began = now.checked_sub(Duration::from_secs(10)).unwrap_or(now);
        let worker = Worker::new(
            channel_state,
            tracks,
            shards,
            (Arc::clone(&waiting), Arc::clone(&metrics)),
            Box::new(tell),
            clock_began,
        );
        let thread = std::thread::Builder::new()
            .name("fan-out".into())
            .spawn(move || worker.run(&receiver))?;
        Ok((Self { commands, waiting, metrics, clock_began }, thread))
    }

    /// What the channel's capture clock shows.
    pub fn capture_now(&self) -> Duration {
        self.clock_began.elapsed()
    }

    /// What the channel's capture clock showed at an instant.
    pub fn capture_at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.clock_began)
    }

    /// Waits until everything handed over so far is sealed, and says the index of each track's next packet.
    /// Not to be called where nothing may block. `None` when the channel has ended.
    pub fn settle(&self) -> Option<Vec<PacketIndex>> {
        self.stands(false)
    }

    /// The index behind each track's last packet, of all that was handed over so far, though it may be sent a
    /// little later. Not to be called where nothing may block. `None` when the channel has ended.
    pub fn ends(&self) -> Option<Vec<PacketIndex>> {
        self.stands(true)
    }

    fn stands(&self, whole: bool) -> Option<Vec<PacketIndex>> {
        let (reply, standing) = oneshot::channel();
        self.tell(Command::Standing { whole, reply });
        standing.blocking_recv().ok()
    }

    /// Hands over a burst. Never blocks.
    pub fn publish(&self, burst: Burst) {
        if self.admits(1) {
            self.tell(Command::Publish(burst));
        }
    }

    /// Hands over bursts that leave together. Never blocks.
    pub fn publish_all(&self, bursts: Vec<Burst>) {
        if self.admits(bursts.len()) {
            self.tell(Command::PublishAll(bursts));
        }
    }

    /// Whether so many more may wait; they are counted.
    fn admits(&self, count: usize) -> bool {
        if self.waiting.bursts.load(Ordering::Relaxed) >= MOST_BURSTS_WAITING {
            self.metrics.bursts_dropped.inc_by(count as u64);
            return false;
        }
        self.waiting.bursts.fetch_add(count, Ordering::Relaxed);
        true
    }

    /// What the uplink may be filled with from now on; without a limit, nothing waits for another.
    pub fn set_uplink(&self, budget: Option<Budget>) {
        self.tell(Command::Uplink(budget));
    }

    /// Begins to serve a viewer, which has this much latency to spend, at its proved path. `None` when
    /// the channel has ended.
    pub fn join<T: Into<Target>>(
        &self,
        viewer: ViewerId,
        to: T,
        latency: Duration,
    ) -> impl Future<Output = Option<Joined>> + Send + use<T> {
        self.join_rendition((viewer, 0), to, latency)
    }

    /// As [`Self::join`], with this rendition.
    pub fn join_rendition<T: Into<Target>>(
        &self,
        (viewer, rendition): (ViewerId, usize),
        to: T,
        latency: Duration,
    ) -> impl Future<Output = Option<Joined>> + Send + use<T> {
        let (reply, joined) = oneshot::channel();
        let to = to.into();
        // At once, and not when the answer is waited for: commands keep their order.
        self.tell(Command::Join { viewer, rendition, to, latency, reply });
        async { joined.await.ok() }
    }

    /// Has a viewer go on with another rendition, at its next keyframe: [`Event::Switched`] tells so.
    pub fn switch(&self, viewer: ViewerId, rendition: usize) {
        self.tell(Command::Switch { viewer, rendition });
    }

    /// The same once something of every track was sent, for whoever joined earlier: until then nobody knows how its
    /// timestamps lie to those of other tracks. `None` when the channel has ended.
    pub async fn when_known(&self, joined: &Joined) -> Option<Joined> {
        let positions = joined.tracks.iter().map(|track| track.position).collect();
        let (reply, known) = oneshot::channel();
        self.tell(Command::WhenKnown { positions, reply });
        known.await.ok()
    }

    /// The index of each track's next packet that is sent to live viewers. `None` when the channel has ended.
    pub async fn standing(&self) -> Option<Vec<PacketIndex>> {
        let (reply, standing) = oneshot::channel();
        self.tell(Command::Standing { whole: false, reply });
        standing.await.ok()
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

    /// What a viewer asks for.
    pub fn wish(&self, viewer: ViewerId, wish: Wish) {
        if self.may_request() {
            self.tell(Command::Wish { viewer, wish });
        }
    }

    /// Counts a request that is about to wait, unless too many do.
    fn may_request(&self) -> bool {
        let may = self.waiting.requests.load(Ordering::Relaxed) < MOST_REQUESTS_WAITING;
        if may {
            self.waiting.requests.fetch_add(1, Ordering::Relaxed);
        } else {
            self.metrics.requests_dropped.inc();
        }
        may
    }

    /// How a viewer is that loses packets, or has stopped to.
    pub fn condition(&self, viewer: ViewerId, condition: Condition) {
        if self.may_request() {
            self.tell(Command::Condition { viewer, condition });
        }
    }

    /// What a viewer's path carries: everything without a rate.
    pub fn limit(&self, viewer: ViewerId, rate: Option<Bitrate>) {
        self.tell(Command::Limit { viewer, rate });
    }

    /// Whether more than what is missing may be sent, in case that gets lost, too.
    pub fn set_margins(&self, allowed: bool) {
        self.tell(Command::Margins(allowed));
    }

    /// Seals with another key from now on.
    pub fn rekey(&self, key: MasterKey) {
        self.tell(Command::Rekey(key));
    }

    fn tell(&self, command: Command) {
        // An error means that the thread is gone, and with it the channel: there is nobody to tell.
        let _ = self.commands.send(command);
    }
}

#[cfg(test)]
mod tests {
    use protocol::channel::{History, JoinPacing};
    use protocol::seal::{Epoch, MasterKey};
    use transport::socket::Socket;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn unit(track: usize, rtp_timestamp: u32, captured_at: Instant) -> Burst {
        let header = [&[0x80, 0x80 | 96, 0, 1][..], &rtp_timestamp.to_be_bytes(), &[0; 4]].concat();
        let mut packets = PlainBurst::with_capacity(1);
        packets.push([&header[..], &[7; 100]]).expect("it fits");
        Burst { track, keyframe: true, captured_at, handed_over_at: Instant::now(), packets }
    }

    #[tokio::test]
    async fn who_joins_before_the_first_sound_learns_how_it_lies_to_the_pictures() {
        let key = MasterKey::random(Epoch::FIRST, &mut rand::rng());
        let each = Bitrate::bits_per_second(20_000_000);
        let pacing = JoinPacing { each, total: None };
        let channel = Channel::new(&key, &[1, 2], History::default(), pacing);
        let socket = Socket::bind(Some(SocketAddr::from(([127, 0, 0, 1], 0)))).expect("a socket");
        let sender = socket.sender().expect("a sender");
        let metrics = Arc::new(ChannelMetrics::default());
        let kinds = [Kind::Video, Kind::Audio];
        let (fan_out, _thread) =
            FanOut::start(channel, &kinds, sender, metrics, |_| {}).expect("a thread");
        let picture_at = Instant::now();
        fan_out.publish(unit(0, 90_000, picture_at));
        let to = socket.local_addr().expect("an address");
        let joined = fan_out.join(ViewerId(1), to, 200 * MS).await.expect("it runs");
        assert!(!joined.is_known(), "{joined:?}");

        // The sound was captured before the picture, and comes after it.
        let known = fan_out.when_known(&joined);
        tokio::pin!(known);
        assert!(tokio::time::timeout(20 * MS, &mut known).await.is_err());
        fan_out.publish(unit(1, 48_000, picture_at - 40 * MS));
        let known = known.await.expect("it runs");
        assert!(known.is_known());
        let [picture, sound] = known.tracks[..] else { panic!("{known:?}") };
        assert_eq!((picture.rtp_timestamp, sound.rtp_timestamp), (90_000, 48_000));
        let times = picture.captured.zip(sound.captured);
        assert_eq!(times.map(|(picture, sound)| picture - sound), Some(40 * MS));
        let before = joined.tracks.iter().map(|track| track.position);
        assert!(before.eq(known.tracks.iter().map(|track| track.position)));
        // From then on each is told at once.
        let joined = fan_out.join(ViewerId(2), to, 200 * MS).await.expect("it runs");
        assert!(joined.is_known(), "{joined:?}");
    }
}
