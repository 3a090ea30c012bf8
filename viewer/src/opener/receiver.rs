//! Receiving without playing: every packet is opened and checked on the receiving task, as it comes,
//! and nothing is kept of it but what its absence would mean.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::control::{Admission, LeftOut};
use protocol::feedback::{self, Totals};
use protocol::receiver::{self, Track};
use protocol::reception::Verdict;
use protocol::seal::{MasterKey, PacketIndex};
use protocol::tag::TagKey;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;
use transport::openings::Handle;
use transport::paths::{Paths, Peer};

use crate::meeting::Media;
use crate::session::{LOSSY_REPORT_INTERVAL, REPORT_INTERVAL};

/// Datagrams that may come before the admission is read: a joining burst's first round trip.
const MOST_EARLY: usize = 1024;

/// A genuine packet.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// Whose it is.
    pub ssrc: u32,
    /// Its place in its stream.
    pub index: PacketIndex,
    /// Whether it was made after this viewer was admitted.
    pub is_live: bool,
    /// Whether it was had before, or came after its deadline.
    pub is_fresh: bool,
    /// When the message with it was taken from the kernel.
    pub at: Instant,
}

/// Is told of each genuine packet, on the receiving task.
pub trait Tap: Send {
    /// A packet came.
    fn packet(&mut self, packet: &Arrived);

    /// The packets since the last such word came in one datagram of so many bytes.
    fn datagram_ends(&mut self, _bytes: usize) {}

    /// The packets since the last such word came as one message to this machine.
    fn message_ends(&mut self) {}
}

/// What arrives for one viewer.
pub(super) struct Receiver {
    state: Mutex<State>,
    /// There may be something to do.
    pub(super) changed: Notify,
}

struct State {
    rng: StdRng,
    /// Share of datagrams that are lost on purpose, 0 to 1.
    loss: f64,
    tap: Option<Box<dyn Tap>>,
    stage: Stage,
}

enum Stage {
    /// Media would be a stranger's.
    Strange,
    /// A request to watch is under way: media may come before its answer.
    Asked(Vec<(SocketAddr, Vec<u8>)>),
    Admitted(Box<Admitted>),
}

struct Admitted {
    viewer: u32,
    paths: Arc<Paths>,
    handle: Handle,
    receiver: receiver::Receiver,
    /// What proves that media is the broadcaster's.
    tags: TagKey,
    ssrcs: Vec<u32>,
    report_at: Instant,
    first_packet_at: Option<Instant>,
    message: Option<Message>,
}

/// The message that is being taken: all of it has one sender and came at one time.
#[derive(Clone, Copy)]
struct Message {
    at: Instant,
    is_from_peer: bool,
    is_genuine: bool,
}

impl Receiver {
    pub(super) fn new(loss: f64, tap: Option<Box<dyn Tap>>) -> Arc<Self> {
        let rng = StdRng::from_rng(&mut rand::rng());
        let state = State { rng, loss, tap, stage: Stage::Strange };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on media may come.
    pub(super) fn ask(&self) {
        self.lock().stage = Stage::Asked(Vec::new());
    }

    /// Takes the media that came so far, and all that will.
    pub(super) fn admit(
        &self,
        admission: &Admission,
        handle: Handle,
        paths: Arc<Paths>,
        latency: Duration,
        tags: TagKey,
    ) {
        let now = Instant::now();
        let tracks: Vec<Track> = admission.tracks.iter().map(Track::from).collect();
        let mut admitted = Admitted {
            viewer: admission.viewer,
            paths,
            handle,
            receiver: receiver::Receiver::new(&tracks, &admission.keys, latency, now),
            tags,
            ssrcs: tracks.iter().map(|track| track.ssrc).collect(),
            report_at: now,
            first_packet_at: None,
            message: None,
        };
        let mut state = self.lock();
        let State { stage, tap, .. } = &mut *state;
        if let Stage::Asked(early) = stage {
            admitted.receiver.set_early(true);
            for (from, datagram) in early {
                admitted.take(*from, datagram, tap.as_deref_mut());
                admitted.message_ends(tap.as_deref_mut());
            }
            admitted.receiver.set_early(false);
        }
        *stage = Stage::Admitted(Box::new(admitted));
    }

    fn with_admitted<R>(&self, action: impl FnOnce(&mut Admitted) -> R) -> Option<R> {
        match &mut self.lock().stage {
            Stage::Admitted(admitted) => Some(action(admitted)),
            Stage::Strange | Stage::Asked(_) => None,
        }
    }

    /// A further epoch's key, which opens what waited for it.
    pub(super) fn add_key(&self, key: &MasterKey) {
        let mut state = self.lock();
        let State { stage, tap, .. } = &mut *state;
        if let Stage::Admitted(admitted) = stage {
            admitted.add_key(key, tap.as_deref_mut());
        }
    }

    /// What the broadcaster left out.
    pub(super) fn left_out(&self, packets: &[LeftOut]) {
        self.with_admitted(|admitted| {
            packets.iter().for_each(|packets| admitted.receiver.left_out(packets));
        });
    }

    /// When the first genuine packet came.
    pub(super) fn first_packet_at(&self) -> Option<Instant> {
        self.with_admitted(|admitted| admitted.first_packet_at)?
    }

    /// Totals over all tracks; zeros before admission.
    pub(super) fn totals(&self) -> Totals {
        self.with_admitted(|admitted| admitted.receiver.totals()).unwrap_or_default()
    }

    /// The next report, whether it is due or not.
    pub(super) fn report(&self, rtt: Duration) -> Option<Vec<u8>> {
        self.with_admitted(|admitted| admitted.report(rtt))
    }

    /// When [`Self::feedback`] has something to say.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.with_admitted(|admitted| {
            let wish = admitted.receiver.poll_timeout();
            wish.map_or(admitted.report_at, |at| at.min(admitted.report_at))
        })
    }

    /// What is to be said now.
    pub(super) fn feedback(&self, rtt: Duration) -> Vec<Vec<u8>> {
        self.with_admitted(|admitted| admitted.feedback(rtt, Instant::now())).unwrap_or_default()
    }
}

impl Media for Receiver {
    fn take(&self, from: SocketAddr, datagram: &mut [u8]) {
        let mut state = self.lock();
        let State { rng, loss, tap, stage } = &mut *state;
        if *loss > 0.0 && rng.random_bool(*loss) {
            return;
        }
        match stage {
            Stage::Strange => {}
            Stage::Asked(early) if early.len() < MOST_EARLY => {
                early.push((from, datagram.to_vec()));
            }
            Stage::Asked(_) => {}
            Stage::Admitted(admitted) => {
                if admitted.take(from, datagram, tap.as_deref_mut()) {
                    drop(state);
                    self.changed.notify_one();
                }
            }
        }
    }

    fn message_ends(&self) {
        let mut state = self.lock();
        let State { tap, stage, .. } = &mut *state;
        if let Stage::Admitted(admitted) = stage {
            admitted.message_ends(tap.as_deref_mut());
        }
    }

    fn passes(&self) -> bool {
        let State { rng, loss, .. } = &mut *self.lock();
        *loss <= 0.0 || !rng.random_bool(*loss)
    }
}

impl Admitted {
    /// Opens all packets of a datagram. True where there is something new to do.
    fn take(
        &mut self,
        from: SocketAddr,
        datagram: &mut [u8],
        mut tap: Option<&mut (dyn Tap + 'static)>,
    ) -> bool {
        let peer: Peer = self.handle.peer();
        let message = self.message.get_or_insert_with(|| Message {
            at: Instant::now(),
            // The tag tells who sent it; what comes from elsewhere is not even looked at.
            is_from_peer: self.paths.is_from(from, peer),
            is_genuine: false,
        });
        if !message.is_from_peer {
            return false;
        }
        let (at, bytes) = (message.at, datagram.len());
        let ssrcs = &self.ssrcs;
        let mut is_missing = false;
        let result = self.receiver.take_tagged(&self.tags, datagram, at, &mut |arrived| {
            is_missing |= arrived.hole > 0;
            message.is_genuine = true;
            tell(arrived, ssrcs, at, tap.as_deref_mut());
        });
        message.is_genuine |= result.is_ok();
        if result.is_ok()
            && let Some(tap) = tap
        {
            tap.datagram_ends(bytes);
        }
        let is_first = message.is_genuine && self.first_packet_at.is_none();
        if is_first {
            self.first_packet_at = Some(at);
        }
        is_first || is_missing
    }

    fn add_key(&mut self, key: &MasterKey, mut tap: Option<&mut (dyn Tap + 'static)>) {
        let Self { receiver, ssrcs, .. } = self;
        let at = Instant::now();
        receiver.add_key(key);
        receiver.take_held(at, &mut |arrived| tell(arrived, ssrcs, at, tap.as_deref_mut()));
    }

    fn message_ends(&mut self, tap: Option<&mut (dyn Tap + 'static)>) {
        let Some(message) = self.message.take() else { return };
        if message.is_genuine {
            self.handle.authenticated();
            if let Some(tap) = tap {
                tap.message_ends();
            }
        }
    }

    fn report(&mut self, rtt: Duration) -> Vec<u8> {
        let blocks = self.receiver.report();
        let times = feedback::Times { rtt: Some(rtt), ..feedback::Times::default() };
        feedback::encode_report(self.viewer, &blocks, &self.receiver.totals(), times)
    }

    fn feedback(&mut self, rtt: Duration, now: Instant) -> Vec<Vec<u8>> {
        let mut said = Vec::new();
        if let Some(wish) = self.receiver.poll_wish(rtt, now) {
            said.push(feedback::encode_wish(self.viewer, &wish));
            self.report_at = self.report_at.min(now + LOSSY_REPORT_INTERVAL);
        }
        if now >= self.report_at {
            self.report_at = now + REPORT_INTERVAL;
            said.push(self.report(rtt));
        }
        said
    }
}

/// Tells a tap of an opened packet.
fn tell(
    arrived: receiver::Arrived<'_>,
    ssrcs: &[u32],
    at: Instant,
    tap: Option<&mut (dyn Tap + 'static)>,
) {
    let receiver::Arrived { track, index, verdict, is_live, .. } = arrived;
    if let (Some(tap), Some(&ssrc)) = (tap, ssrcs.get(track)) {
        tap.packet(&Arrived { ssrc, index, is_live, is_fresh: verdict == Verdict::Fresh, at });
    }
}
