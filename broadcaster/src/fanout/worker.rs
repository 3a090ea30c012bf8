//! The thread that owns the channel.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol::channel::{Channel, Step, Switched, TrackPosition, ViewerId};
use protocol::media::Kind;
use protocol::schedule::Schedule;
use protocol::seal::SealedBurst;
use protocol::units::Bitrate;
use protocol::uplink::Budget;
use protocol::volley::{Part, Run, Volley};
use tokio::sync::oneshot;
use transport::kernel::{Destination, MAX_SEGMENTS, Sent};

use super::group::{Entering, Group};
use super::live::{Listing, Live};
use super::riders::Rider;
use super::shards::{Shards, payload};
use super::{Burst, Command, Event, Joined, JoinedTrack, Moved, Target, Waiting};
use crate::metrics::ChannelMetrics;

/// What leaves this long after its capture waited for this process to go on, which stood still: that says nothing of
/// what follows. Viewers that came back would wait as long for their pictures.
const STOOD_STILL: Duration = Duration::from_secs(2);

/// A rendition that nobody watches any more is encoded for so long: who comes back to it needs no keyframe.
const LINGERING: Duration = Duration::from_secs(1);

/// A track's latest access unit: the reference for everybody's timeline.
#[derive(Debug, Clone, Copy)]
struct Latest {
    rtp_timestamp: u32,
    captured_at: Instant,
    /// Recent delay from capture to sending.
    lag: Duration,
}

/// A viewer that the channel serves.
struct Served {
    destination: Destination,
    latency: Duration,
}

pub(super) struct Worker {
    channel: Channel,
    shards: Shards,
    waiting: Arc<Waiting>,
    metrics: Arc<ChannelMetrics>,
    tell: Box<dyn Fn(Event) + Send>,
    served: HashMap<ViewerId, Served>,
    /// Who waits for a keyframe, and is told then where it begins.
    waiting_to_begin: HashMap<ViewerId, oneshot::Sender<Joined>>,
    /// Who waits for something of every track.
    waiting_to_know: Vec<(oneshot::Sender<Joined>, Vec<TrackPosition>)>,
    /// How many viewers have each latency.
    latencies: BTreeMap<Duration, usize>,
    /// The live viewers of each rendition.
    groups: Vec<Group>,
    /// Renditions that are encoded, as bits, and when those that nobody watches stop to be.
    encoded: Option<u32>,
    stops_at: Option<Instant>,
    schedule: Schedule<Listing>,
    budget: Option<Budget>,
    clock_began: Instant,
    latest: Vec<Option<Latest>>,
    kinds: Vec<Kind>,
    /// The track whose GOPs are measured: the first with pictures.
    reference: Option<usize>,
    dropped: u64,
}

impl Worker {
    pub(super) fn new(
        channel: Channel,
        tracks: &[Kind],
        shards: Shards,
        (waiting, metrics): (Arc<Waiting>, Arc<ChannelMetrics>),
        tell: Box<dyn Fn(Event) + Send>,
        clock_began: Instant,
    ) -> Self {
        let groups = (0..channel.renditions()).map(|_| Group::default()).collect();
        Self {
            channel,
            shards,
            waiting,
            metrics,
            tell,
            served: HashMap::new(),
            waiting_to_begin: HashMap::new(),
            waiting_to_know: Vec::new(),
            latencies: BTreeMap::new(),
            groups,
            encoded: None,
            stops_at: None,
            schedule: Schedule::new(None),
            budget: None,
            clock_began,
            latest: vec![None; tracks.len()],
            kinds: tracks.to_vec(),
            reference: tracks.iter().position(|kind| *kind == Kind::Video),
            dropped: 0,
        }
    }

    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let now = Instant::now();
            let command = match self.wakes_at(now) {
                None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => commands.recv_timeout(at.saturating_duration_since(now)),
            };
            match command {
                Ok(command) => self.handle(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            loop {
                while let Ok(command) = commands.try_recv() {
                    self.handle(command);
                }
                let now = Instant::now();
                for rendition in 0..self.groups.len() {
                    if self.groups[rendition].riders.leave_at().is_some_and(|at| at <= now) {
                        self.depart(rendition, Vec::new(), now);
                    }
                }
                // What all wait for comes before anything that only one viewer waits for.
                if let Some(slice) = self.schedule.poll(now) {
                    self.shards.send(slice);
                    continue;
                }
                if !self.schedule.is_free(now) {
                    break;
                }
                let Some(step) = self.channel.poll_step(now) else { break };
                self.take(step, now);
            }
            self.observe();
        }
    }

    /// When something is to be done without being told.
    fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let uplink = self.schedule.poll_timeout(now);
        // What one viewer waits for waits for the uplink, too.
        let channel = self.channel.poll_timeout().map(|at| uplink.map_or(at, |free| at.max(free)));
        let volleys = self.schedule.is_waiting().then(|| uplink.unwrap_or(now));
        let riders = self.groups.iter().filter_map(|group| group.riders.leave_at());
        let others = [channel, volleys, self.stops_at].into_iter().flatten();
        riders.chain(others).min()
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Publish(burst) => {
                self.waiting.bursts.fetch_sub(1, Ordering::Relaxed);
                self.publish(burst);
            }
            Command::PublishAll(bursts) => {
                self.waiting.bursts.fetch_sub(bursts.len(), Ordering::Relaxed);
                bursts.into_iter().for_each(|burst| self.publish(burst));
            }
            Command::Uplink(budget) => {
                self.budget = budget;
                self.schedule.set_rate(budget.map(Budget::media));
            }
            Command::Join { viewer, rendition, to, latency, reply } => {
                self.leave(viewer);
                let destination = self.destination(to);
                self.served.insert(viewer, Served { destination, latency });
                *self.latencies.entry(latency).or_default() += 1;
                self.allow_riders();
                match self.channel.join_rendition(viewer, rendition, Instant::now()) {
                    Some(positions) => self.admit(reply, &positions),
                    None => {
                        self.waiting_to_begin.insert(viewer, reply);
                    }
                }
            }
            Command::Move { viewer, to } => {
                let destination = self.destination(to);
                if let Some(served) = self.served.get_mut(&viewer) {
                    served.destination = destination.clone();
                    let live = &mut self.groups[self.channel.rendition(viewer)].live;
                    if live.contains(viewer) {
                        live.set(viewer, destination);
                    }
                }
            }
            Command::Leave { viewer } => self.leave(viewer),
            Command::WhenKnown { positions, reply } => {
                self.waiting_to_know.retain(|(reply, _)| !reply.is_closed());
                self.waiting_to_know.push((reply, positions));
                self.tell_what_is_known();
            }
            Command::Standing { whole, reply } => {
                // What waits to ride was sent to nobody yet. Who asked may be gone.
                let waiting = self.groups.iter().filter_map(|group| group.riders.first()).min();
                let waiting = waiting.filter(|_| !whole);
                let position = waiting.unwrap_or(self.channel.history().end());
                let _ = reply.send(self.channel.standing(position));
            }
            Command::Wish { viewer, wish } => {
                self.waiting.requests.fetch_sub(1, Ordering::Relaxed);
                if self.served.contains_key(&viewer) {
                    let queued = self.channel.ask(viewer, &wish, Instant::now());
                    tracing::trace!(%viewer, ?wish, queued, "asked");
                }
            }
            Command::Condition { viewer, condition } => {
                self.waiting.requests.fetch_sub(1, Ordering::Relaxed);
                if self.served.contains_key(&viewer) {
                    self.channel.tell(viewer, condition, Instant::now());
                }
            }
            Command::Margins(allowed) => self.channel.set_margins(allowed),
            Command::Rekey(key) => self.channel.rekey(&key),
            Command::Limit { viewer, rate } => self.limit(viewer, rate),
            Command::Switch { viewer, rendition } => {
                if self.served.contains_key(&viewer) {
                    self.channel.switch(viewer, rendition);
                }
            }
        }
    }

    /// A viewer's path carries so much, or everything.
    fn limit(&mut self, viewer: ViewerId, rate: Option<Bitrate>) {
        if !self.served.contains_key(&viewer) {
            return;
        }
        let group = &mut self.groups[self.channel.rendition(viewer)];
        let from = group.has_from(viewer).unwrap_or(self.channel.history().end());
        if self.channel.limit(viewer, rate, from, Instant::now()) && rate.is_some() {
            group.remove(viewer);
        }
    }

    /// Tells a viewer's session where it begins.
    fn admit(&self, reply: oneshot::Sender<Joined>, positions: &[TrackPosition]) {
        // An error means that the viewer went away while it was being admitted; its session says so with
        // a leave.
        let _ = reply.send(self.joined(positions));
    }

    /// Answers who waits for something of every track, if there is.
    fn tell_what_is_known(&mut self) {
        if self.waiting_to_know.is_empty() || self.latest.iter().any(Option::is_none) {
            return;
        }
        for (reply, positions) in std::mem::take(&mut self.waiting_to_know) {
            self.admit(reply, &positions);
        }
    }

    fn leave(&mut self, viewer: ViewerId) {
        self.groups[self.channel.rendition(viewer)].remove(viewer);
        self.channel.leave(viewer);
        self.waiting_to_begin.remove(&viewer);
        let Some(Served { latency, .. }) = self.served.remove(&viewer) else { return };
        if let Some(count) = self.latencies.get_mut(&latency) {
            *count -= 1;
            if *count == 0 {
                self.latencies.remove(&latency);
            }
        }
        self.allow_riders();
    }

    fn allow_riders(&mut self) {
        let least = self.latencies.keys().next().copied();
        self.groups.iter_mut().for_each(|group| group.riders.allow(least));
    }

    fn destination(&self, Target { to, via, tags }: Target) -> Destination {
        let mut destination = self.shards.own().destination(to);
        if let Some(socket) = via {
            destination = destination.via(socket);
        }
        if let Some(key) = tags {
            destination = destination.tagged(key);
        }
        destination
    }

    fn publish(&mut self, burst: Burst) {
        let Burst { track, keyframe, captured_at, handed_over_at, packets } = burst;
        let now = Instant::now();
        let of = self.channel.rendition_of(track);
        let is_picture = self.reference == Some(track);
        // What who watches the best gets.
        let is_counted = is_picture || of.is_none();
        let size = (packets.bytes(), packets.len());
        self.metrics.published(size, (is_picture, is_counted), keyframe, now);
        let sealed = match self.channel.publish(track, keyframe, captured_at, packets, now) {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::error!(%error, "access unit dropped");
                self.metrics.bursts_dropped.inc();
                return;
            }
        };
        log_timing(&sealed, handed_over_at);
        while let Some(switched) = self.channel.poll_switched() {
            self.switch(switched, now);
        }
        self.share_uplink();
        let rider = Rider { position: self.channel.history().end() - 1, burst: sealed };
        let is_video = self.kinds.get(track) == Some(&Kind::Video);
        let several = self.groups.len() > 1;
        for rendition in 0..self.groups.len() {
            if of.is_some_and(|of| of != rendition) {
                continue;
            }
            let (group, rider) = (&mut self.groups[rendition], rider.clone());
            if is_video {
                group.riders.picture(now);
                self.depart(rendition, vec![rider], now);
            } else if several && group.is_empty() {
                // No picture comes that it could wait for.
                self.depart(rendition, vec![rider], now);
            } else if let Err(rider) = group.riders.take(rider, now) {
                self.depart(rendition, vec![rider], now);
            }
        }
    }

    /// A viewer goes on with another rendition, whose keyframe was published and has not left.
    fn switch(&mut self, switched: Switched, now: Instant) {
        let Switched { viewer, rendition, before, after, left_out, position, is_limited } =
            switched;
        if let Some(former) = self.channel.rendition_of(before.0)
            && !is_limited
        {
            // It has had all sound from then on.
            self.depart(former, Vec::new(), now);
            self.groups[former].remove(viewer);
            self.groups[rendition].entering.push(Entering { viewer, position });
        }
        let burst = self.channel.history().get(position);
        let Some(captured_at) = burst.map(|burst| burst.captured_at) else { return };
        if !left_out.is_empty() {
            (self.tell)(Event::LeftOut { viewer, packets: left_out });
        }
        self.metrics.switched.inc();
        (self.tell)(Event::Switched(Moved {
            viewer,
            rendition,
            before,
            track: after.0,
            first_index: after.1,
            rtp_timestamp: burst.map_or(0, |burst| burst.rtp_timestamp),
            captured: self.on_capture_clock(captured_at),
        }));
    }

    /// Sends bursts to the live viewers of a rendition, and what waited to ride behind them.
    fn depart(&mut self, rendition: usize, mut bursts: Vec<Rider>, now: Instant) {
        bursts.extend(self.groups[rendition].riders.leave());
        bursts.iter().for_each(|Rider { burst, .. }| self.note_latest(burst, now));
        self.tell_what_is_known();
        let parts = |from: u64| -> Vec<Part> {
            let bursts = bursts.iter().filter(|rider| rider.position >= from);
            bursts.map(|rider| Part::from(&rider.burst)).collect()
        };
        let has_others = self.groups.len() > 1;
        let group = &mut self.groups[rendition];
        let viewers = group.live.len();
        // Of a group without anybody nothing has left, though others may have some of it to come.
        let bursts_left = if has_others && viewers == 0 { &[][..] } else { &bursts[..] };
        for Rider { burst, position } in bursts_left {
            // What the uplink needs for all of them.
            let bytes = burst.bytes().len() * viewers;
            let spread =
                self.budget.map_or(Duration::ZERO, |budget| budget.media().time_for(bytes));
            self.channel.left(*position, now + spread);
        }
        if viewers > 0 {
            let volley = Volley::new(&parts(0), MAX_SEGMENTS);
            self.schedule.push(volley, group.live.listing(), viewers, now);
        }
        // They had the sound that waited from the history.
        let mut entering: BTreeMap<u64, Live> = BTreeMap::new();
        for Entering { viewer, position } in std::mem::take(&mut group.entering) {
            let Some(served) = self.served.get(&viewer) else { continue };
            let destination = served.destination.clone();
            entering.entry(position).or_default().set(viewer, destination.clone());
            group.live.set(viewer, destination);
        }
        for (position, mut viewers) in entering {
            let volley = Volley::new(&parts(position), MAX_SEGMENTS);
            self.schedule.push(volley, viewers.listing(), viewers.len(), now);
        }
    }

    /// Sends packets to one viewer alone.
    fn send_to(&mut self, to: &Destination, volley: &Volley, now: Instant) -> Sent {
        let mut all = Sent::default();
        for Run { segments, packets } in volley.runs() {
            let mut payload = payload(volley, segments, 1, to.is_tagged());
            let sent = self.shards.own().send(&mut payload, std::slice::from_ref(to));
            self.metrics.count(&sent, *packets, segments.count());
            self.schedule.spend(payload.bytes(), segments.count(), now);
            all += sent;
        }
        all
    }

    fn note_latest(&mut self, sealed: &SealedBurst, now: Instant) {
        let lag = now.saturating_duration_since(sealed.captured_at);
        if let Some(latest) = self.latest.get_mut(sealed.track) {
            // Slowly down, at once up: the slowest recent unit counts.
            let before = latest.map_or(Duration::ZERO, |latest| latest.lag.mul_f64(0.9));
            let lag = if lag < STOOD_STILL { lag.max(before) } else { before };
            let SealedBurst { rtp_timestamp, captured_at, .. } = *sealed;
            *latest = Some(Latest { rtp_timestamp, captured_at, lag });
        }
    }

    fn take(&mut self, step: Step, now: Instant) {
        match step {
            Step::Send { viewer, parts } => {
                let Some(served) = self.served.get(&viewer) else { return };
                let destination = served.destination.clone();
                let volley = Volley::new(&parts, MAX_SEGMENTS);
                let sent = self.send_to(&destination, &volley, now);
                self.metrics.join_bytes.inc_by(sent.bytes);
            }
            Step::SendLess { viewer, parts, left_out } => {
                let Some(served) = self.served.get(&viewer) else { return };
                let destination = served.destination.clone();
                // First, so that nothing looks lost.
                if !left_out.is_empty() {
                    let count: u64 = left_out.iter().map(|packets| u64::from(packets.count)).sum();
                    self.metrics.left_out.inc_by(count);
                    (self.tell)(Event::LeftOut { viewer, packets: left_out });
                }
                if !parts.is_empty() {
                    let volley = Volley::new(&parts, MAX_SEGMENTS);
                    self.send_to(&destination, &volley, now);
                }
            }
            Step::Repair { viewer, packets, repair } => {
                let Some(served) = self.served.get(&viewer) else { return };
                let destination = served.destination.clone();
                let (again, repair_packets) = packets.split_at(packets.len() - repair);
                let mut sent = Sent::default();
                for volley in [
                    Volley::again(again, MAX_SEGMENTS),
                    Volley::of_packets(repair_packets, MAX_SEGMENTS),
                ] {
                    sent += self.send_to(&destination, &volley, now);
                }
                self.metrics.repair_bytes.inc_by(sent.bytes);
                if sent.datagrams > 0 {
                    self.metrics.retransmitted.inc_by((packets.len() - repair) as u64);
                    self.metrics.repair_packets.inc_by(repair as u64);
                }
            }
            Step::Begin { viewer, positions } => {
                if let Some(reply) = self.waiting_to_begin.remove(&viewer) {
                    self.admit(reply, &positions);
                }
            }
            Step::CaughtUp { viewer } => {
                let Some(served) = self.served.get(&viewer) else { return };
                let group = &mut self.groups[self.channel.rendition(viewer)];
                if group.riders.is_empty() {
                    group.live.set(viewer, served.destination.clone());
                } else {
                    let position = self.channel.history().end();
                    group.entering.push(Entering { viewer, position });
                }
            }
            Step::RequestKeyframe { rendition } => {
                self.metrics.keyframes_requested.inc();
                // It may not be encoded.
                self.tell_what_is_wanted(Instant::now());
                (self.tell)(Event::KeyframeWanted { rendition });
            }
        }
    }

    fn joined(&self, positions: &[TrackPosition]) -> Joined {
        let now = Instant::now();
        let tracks = positions.iter().zip(&self.latest).map(|(&position, latest)| JoinedTrack {
            position,
            rtp_timestamp: latest.map_or(0, |latest| latest.rtp_timestamp),
            captured: latest.map(|latest| self.on_capture_clock(latest.captured_at)),
        });
        // Of what is not encoded any more that says nothing.
        let is_made = |track: &usize| {
            let (of, encoded) = (self.channel.rendition_of(*track), self.encoded);
            of.zip(encoded).is_none_or(|(of, encoded)| encoded & (1 << of) != 0)
        };
        let made = (0..self.latest.len()).filter(is_made);
        let lags = made.filter_map(|track| self.latest[track]).map(|latest| latest.lag);
        Joined {
            tracks: tracks.collect(),
            capture_now: self.on_capture_clock(now),
            send_lag: lags.max().unwrap_or_default(),
            oldest_epoch: self.channel.oldest_epoch(),
        }
    }

    fn on_capture_clock(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.clock_began)
    }

    /// Joining viewers get what the live ones leave.
    fn share_uplink(&mut self) {
        let Some(budget) = self.budget else { return self.channel.set_join_total(None) };
        let needs = |(rendition, group): (usize, &Group)| {
            let each = self.channel.live_rate_of(rendition).as_bits_per_second();
            each.saturating_mul(group.live.len() as u64)
        };
        let live = Bitrate::bits_per_second(self.groups.iter().enumerate().map(needs).sum());
        self.channel.set_join_total(Some(budget.spare(1, live)));
    }

    /// Says which renditions are to be encoded: those that somebody watches or is to watch; the smallest where nobody
    /// watches any, so that there is a picture for who comes.
    fn tell_what_is_wanted(&mut self, now: Instant) {
        if self.groups.len() < 2 {
            return;
        }
        let watched = self.served.keys().map(|viewer| self.channel.rendition(*viewer));
        let wanted = watched.chain(self.channel.awaited()).fold(0, |all, one| all | 1 << one);
        let wanted = if wanted == 0 { 1 << (self.groups.len() - 1) } else { wanted };
        let encoded = self.encoded.unwrap_or(0);
        if wanted & !encoded != 0 {
            // What lingers may go on.
            self.encode(wanted | encoded);
        }
        if self.encoded == Some(wanted) {
            self.stops_at = None;
        } else if now >= *self.stops_at.get_or_insert(now + LINGERING) {
            self.encode(wanted);
        }
    }

    fn encode(&mut self, wanted: u32) {
        (self.encoded, self.stops_at) = (Some(wanted), None);
        for rendition in 0..self.groups.len() {
            if wanted & (1 << rendition) == 0 {
                self.channel.stops(rendition);
            }
        }
        self.metrics.encoded.store(wanted, Ordering::Relaxed);
        (self.tell)(Event::Encode { wanted });
        // What is measured is what is made.
        let best = self.channel.track_of(wanted.trailing_zeros() as usize);
        self.reference = best.or(self.reference);
    }

    fn observe(&mut self) {
        self.tell_what_is_wanted(Instant::now());
        for rendition in 0..self.groups.len() {
            let is_encoded = self.encoded.is_none_or(|encoded| encoded & (1 << rendition) != 0);
            let nothing = Bitrate::bits_per_second(0);
            let rate = if is_encoded { self.channel.live_rate_of(rendition) } else { nothing };
            self.metrics.set_rate(rendition, rate);
        }
        self.metrics.history_bytes.set(self.channel.history().bytes() as i64);
        self.metrics.joining.set(self.channel.joining() as i64);
        self.metrics.limited.set(self.channel.limited() as i64);
        self.metrics.pacing_queue.set(self.schedule.waiting_bytes() as i64);
        self.metrics.repair_queue.set(self.channel.repairs_waiting() as i64);
        self.metrics.live_rate.set(self.channel.live_rate().as_bytes_per_second());
        let dropped = self.schedule.dropped();
        self.metrics.count_late(dropped - self.dropped);
        self.dropped = dropped;
    }
}

/// Tells benchmarks when the payloader handed over which packets.
fn log_timing(sealed: &SealedBurst, handed_over_at: Instant) {
    if tracing::enabled!(target: "punchcast::timing", tracing::Level::TRACE) {
        let handed_over = SystemTime::now() - handed_over_at.elapsed();
        let since = handed_over.duration_since(UNIX_EPOCH).unwrap_or_default();
        tracing::trace!(
            target: "punchcast::timing",
            ssrc = sealed.ssrc,
            first_index = sealed.first_index,
            packets = sealed.len(),
            handed_over_us = since.as_micros() as u64,
        );
    }
}
