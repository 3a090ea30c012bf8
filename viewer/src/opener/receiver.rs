//! Receiving without playing: every packet is opened and checked on the receiving task, as it comes,
//! and nothing is kept of it but what its absence would mean.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::control::Admission;
use protocol::feedback::{self, Totals};
use protocol::reception::{Reception, Verdict};
use protocol::rtp::Header;
use protocol::seal::{MasterKey, Opener, PacketIndex};
use protocol::volley;
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
    opener: Opener,
    receptions: Vec<Reception>,
    live_from: Vec<PacketIndex>,
    corrupt: u64,
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
    ) {
        let now = Instant::now();
        let tracks = &admission.tracks;
        let mut opener = Opener::new(tracks.iter().map(|track| (track.ssrc, track.first_index)));
        admission.keys.iter().for_each(|key| opener.add_key(key));
        let reception = |track: &protocol::control::Track| {
            let rate = track.format.clock_rate;
            Reception::new(track.ssrc, rate, track.first_index, 0, latency, now)
        };
        let mut admitted = Admitted {
            viewer: admission.viewer,
            paths,
            handle,
            opener,
            receptions: tracks.iter().map(reception).collect(),
            live_from: tracks.iter().map(|track| track.live_index).collect(),
            corrupt: 0,
            report_at: now,
            first_packet_at: None,
            message: None,
        };
        let mut state = self.lock();
        let State { stage, tap, .. } = &mut *state;
        if let Stage::Asked(early) = stage {
            for (from, datagram) in early {
                admitted.take(*from, datagram, tap.as_deref_mut());
                admitted.message_ends(tap.as_deref_mut());
            }
        }
        *stage = Stage::Admitted(Box::new(admitted));
    }

    fn with_admitted<R>(&self, action: impl FnOnce(&mut Admitted) -> R) -> Option<R> {
        match &mut self.lock().stage {
            Stage::Admitted(admitted) => Some(action(admitted)),
            Stage::Strange | Stage::Asked(_) => None,
        }
    }

    /// A further epoch's key.
    pub(super) fn add_key(&self, key: &MasterKey) {
        self.with_admitted(|admitted| admitted.opener.add_key(key));
    }

    /// When the first genuine packet came.
    pub(super) fn first_packet_at(&self) -> Option<Instant> {
        self.with_admitted(|admitted| admitted.first_packet_at)?
    }

    /// Totals over all tracks; zeros before admission.
    pub(super) fn totals(&self) -> Totals {
        self.with_admitted(|admitted| admitted.totals()).unwrap_or_default()
    }

    /// The next report, whether it is due or not.
    pub(super) fn report(&self) -> Option<Vec<u8>> {
        self.with_admitted(Admitted::report)
    }

    /// When [`Self::feedback`] has something to say.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.with_admitted(|admitted| {
            let nacks = admitted.receptions.iter().filter_map(Reception::poll_timeout);
            nacks.fold(admitted.report_at, Instant::min)
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
            // A group key authenticates no sender: at least the address must be the broadcaster's.
            is_from_peer: self.paths.is_from(from, peer),
            is_genuine: false,
        });
        if !message.is_from_peer {
            return false;
        }
        let (at, bytes, corrupt) = (message.at, datagram.len(), self.corrupt);
        let mut is_due = false;
        for packet in volley::packets(datagram) {
            is_due |= self.take_packet(packet, at, tap.as_deref_mut());
        }
        if let Some(tap) = tap.filter(|_| self.corrupt == corrupt) {
            tap.datagram_ends(bytes);
        }
        is_due
    }

    /// Opens a packet. True where there is something new to do: it is the first, or some before it are
    /// missing.
    fn take_packet(
        &mut self,
        packet: &mut [u8],
        at: Instant,
        tap: Option<&mut (dyn Tap + 'static)>,
    ) -> bool {
        let Ok((track, index, length)) = self.opener.open(packet) else {
            self.corrupt += 1;
            return false;
        };
        if let Some(message) = &mut self.message {
            message.is_genuine = true;
        }
        let Some(reception) = self.receptions.get_mut(track) else { return false };
        let before = reception.next_index();
        let is_fresh = reception.receive(index, at) == Verdict::Fresh;
        let is_live = self.live_from.get(track).is_some_and(|live| index >= *live);
        if is_fresh
            && is_live
            && let Ok(Header { timestamp, .. }) = Header::parse(&packet[..length])
        {
            reception.time(timestamp, at);
        }
        if let Some(tap) = tap {
            let ssrc = reception.ssrc();
            tap.packet(&Arrived { ssrc, index, is_live, is_fresh, at });
        }
        let is_first = self.first_packet_at.is_none();
        self.first_packet_at.get_or_insert(at);
        is_first || index > before
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

    fn totals(&self) -> Totals {
        Totals { corrupt: self.corrupt, ..self.receptions.iter().map(Reception::totals).sum() }
    }

    fn report(&mut self) -> Vec<u8> {
        let blocks: Vec<_> = self.receptions.iter_mut().map(Reception::report).collect();
        feedback::encode_report(self.viewer, &blocks, &self.totals())
    }

    fn feedback(&mut self, rtt: Duration, now: Instant) -> Vec<Vec<u8>> {
        let mut said = Vec::new();
        for reception in &mut self.receptions {
            let missing = reception.poll_nack(rtt, now);
            for part in missing.chunks(feedback::MOST_NACKED) {
                let sequences = part.iter().map(|index| *index as u16);
                said.push(feedback::encode_nack(self.viewer, reception.ssrc(), sequences));
            }
        }
        if !said.is_empty() {
            self.report_at = self.report_at.min(now + LOSSY_REPORT_INTERVAL);
        }
        if now >= self.report_at {
            self.report_at = now + REPORT_INTERVAL;
            said.push(self.report());
        }
        said
    }
}
