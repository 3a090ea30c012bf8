//! Receiving on an open path: socket → repair → open → jitter buffer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::candidate::CandidateKind;
use protocol::control::{self, Admission, Notice, Refusal, UNKNOWN_CAPTURE};
use protocol::feedback::Times;
use protocol::media::Format;
use protocol::opening::{self, Event, Path};
use protocol::receiver::{Arrived, Receiver, Track};
use protocol::seal::PacketIndex;
use protocol::tag::TagKey;
use protocol::timeline::{Timeline, TrackClock};
use protocol::units::Bitrate;
use quinn::{RecvStream, SendStream};
use service::exit::Failure;
use transport::paths::Paths;
use transport::stream::Reader;
use transport::tls;

use crate::apart::Player;
use crate::arriving::{self, Arriving};
use crate::asking::{Begun, refused};
use crate::bursts::Bursts;
use crate::clock::CaptureClock;
use crate::continuity::Continuity;
use crate::feedback::Feedback;
use crate::hold::{Hold, Packet};
use crate::latency::{Adaptation, LEAST, Latency, Shift};
use crate::media::patience;
use crate::meeting::{Datagram, Met};
use crate::outage::{Outage, Step};
use crate::renewal::Renewed;
use crate::slots::{Placed, Slots};
use crate::stats::{State, Stats};
use crate::trains::Trains;

/// From one report to the next: on a clean path, and while packets get lost. Frequent enough that
/// lost reports do not look like silence.
pub(crate) const REPORT_INTERVAL: Duration = Duration::from_secs(1);
pub(crate) const LOSSY_REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// Nothing new for so long where something should have come: then another take is asked for.
const STALLED: Duration = Duration::from_millis(900);

/// How long what is missing of a stored file is waited for.
const TAKE_PATIENCE: Duration = Duration::from_secs(10);

/// From this loss on, a path may be full.
const MUCH_LOSS: f64 = 0.02;

/// No broadcaster may make pictures come later than this.
const LONGEST_LAG: Duration = Duration::from_secs(2);

/// No source has been away for longer than this, whatever the broadcaster says.
const LONGEST_AWAY: Duration = Duration::from_secs(365 * 86_400);

/// From one look for a direct path by a relayed viewer to the next: soon at first, then further apart.
pub(crate) const FIRST_UPGRADE: Duration = Duration::from_secs(4);
pub(crate) const LONGEST_UPGRADE: Duration = Duration::from_secs(30);

/// How often the end of a renewal is looked for while one is under way.
const RENEWAL_LOOK: Duration = Duration::from_millis(50);

/// One admitted stay with the broadcaster.
pub(crate) struct Session {
    pub(crate) met: Met,
    pub(crate) notices: Reader,
    /// Kept open for as long as we watch.
    _requests: SendStream,
    paths: Arc<Paths>,
    feedback: Feedback,
    holds: Vec<Hold>,
    receiver: Receiver,
    slots: Slots,
    /// What the player was told of each of its tracks.
    formats: Vec<Format>,
    /// Which rendition of the picture comes, where there are several.
    rendition: Option<String>,
    /// How fast the path brings pictures.
    trains: Trains,
    /// What proves that media is the broadcaster's.
    tags: TagKey,
    timeline: Timeline,
    /// How much later than usual pictures come, as the path does not carry all of them.
    lag: Duration,
    /// How long a missing packet is of use by what the player was set up for.
    patience: Duration,
    /// By how much all is shown later.
    shift: Shift,
    /// What the path carries, where that is less than the stream, in bits a second.
    carries: Option<u64>,
    /// Since when the source has been away, where it is.
    away_since: Option<Instant>,
    /// What the path needs, where the latency follows that.
    adaptation: Option<Adaptation>,
    capture_clock: CaptureClock,
    /// From capture to output, as it was when the last report was due.
    shown: Option<Duration>,
    report_at: Instant,
    outage: Outage,
    /// When a relayed viewer looks for a direct path again, and the time to the next look.
    upgrade_at: Instant,
    upgrade_interval: Duration,
    /// The take under way, of a stored file.
    stored: Option<Stored>,
    /// How fast the path brings what takes begin with.
    bursts: Bursts,
}

/// How a take goes.
#[derive(Debug)]
struct Stored {
    /// When something was handed to the player last.
    progress_at: Instant,
    /// The index behind the last packet of each track, once all were sent.
    ends: Option<Vec<PacketIndex>>,
    /// SSRC of its first track.
    ssrc: u32,
    /// Nothing is expected to come.
    is_idle: bool,
    /// The path failed since then.
    was_broken: bool,
}

/// SSRC of the first track of an admission.
pub(crate) fn first_ssrc(admission: &Admission) -> u32 {
    admission.tracks.first().map_or(0, |track| track.ssrc)
}

impl Session {
    /// Begins to receive. `placed` is what earlier sessions left.
    pub(crate) fn new(
        met: Met,
        paths: Arc<Paths>,
        (send, notices, admission): (SendStream, RecvStream, Admission),
        local_now: Duration,
        latency: Latency,
        placed: &mut Vec<Placed>,
    ) -> Self {
        let now = Instant::now();
        let adaptation = (latency == Latency::Auto).then(|| Adaptation::new(met.path.rtt));
        let patience = patience(latency.least());
        let useful = patience + extra(adaptation.as_ref());
        let Reception { receiver, mut timeline, holds } =
            Reception::new(&admission, local_now, useful, met.path.rtt, placed, now);
        if let Latency::Fixed(latency) = latency {
            timeline.set_room(latency / 2);
        }
        let capture_clock = CaptureClock::follow(met.connection.clone());
        let feedback = Feedback::new(&admission, met.opening.handle().clone());
        let tags = tls::viewer_tag_key(&met.connection);
        let mut renditions = admission.tracks.iter().map(|track| &track.format.rendition);
        let rendition = renditions.find_map(Option::clone);
        Self {
            slots: Slots::new(admission.tracks.len()),
            formats: admission.tracks.iter().map(|track| track.format.clone()).collect(),
            rendition,
            trains: Trains::default(),
            tags,
            met,
            paths,
            notices: Reader::new(notices),
            _requests: send,
            feedback,
            holds,
            receiver,
            timeline,
            lag: Duration::ZERO,
            patience,
            shift: Shift::new(extra(adaptation.as_ref()), now),
            adaptation,
            capture_clock,
            shown: None,
            carries: None,
            away_since: None,
            report_at: now,
            outage: Outage::new(now),
            upgrade_at: now + FIRST_UPGRADE,
            upgrade_interval: FIRST_UPGRADE,
            stored: None,
            bursts: Bursts::default(),
        }
    }

    /// What comes is a take of a stored file: it is handed on in order, and what is missing is waited for.
    /// `ssrc` is its first track's, and `pace` the one with which it begins.
    pub(crate) fn hold_all(&mut self, ssrc: u32, pace: Bitrate) {
        let now = Instant::now();
        self.bursts.begin(pace, now);
        self.stored =
            Some(Stored { progress_at: now, ends: None, ssrc, is_idle: false, was_broken: false });
        self.holds.iter_mut().for_each(|hold| hold.live_from(PacketIndex::MAX));
        self.patience = TAKE_PATIENCE;
        self.receiver.set_patience(self.patience + extra(self.adaptation.as_ref()));
    }

    /// Another take follows.
    pub(crate) fn begin_take(
        &mut self,
        begun: Begun,
        local_now: Duration,
        placed: &mut Vec<Placed>,
    ) {
        let Begun { send, receive, admission, take } = begun;
        let now = Instant::now();
        let ssrc = first_ssrc(&admission);
        let rtt = self.rtt();
        let Reception { receiver, timeline, holds } =
            Reception::new(&admission, local_now, self.patience, rtt, placed, now);
        self.receiver = receiver;
        self.timeline = timeline;
        self.holds = holds;
        self.slots = Slots::new(admission.tracks.len());
        self.feedback = Feedback::new(&admission, self.met.opening.handle().clone());
        self.notices = Reader::new(receive);
        self._requests = send;
        self.lag = Duration::ZERO;
        self.carries = None;
        self.away_since = None;
        self.outage = Outage::new(now);
        self.report_at = now;
        self.hold_all(ssrc, Bitrate::bits_per_second(take.pace_bps));
    }

    /// How fast what the next take begins with may come, where that is known.
    pub(crate) fn burst_pace(&mut self) -> Option<Bitrate> {
        self.bursts.pace(Instant::now())
    }

    /// All packets of the take have been sent.
    pub(crate) fn finished(&mut self, ends: Vec<PacketIndex>) {
        if let Some(stored) = &mut self.stored {
            stored.ends = Some(ends);
        }
    }

    /// Nothing comes until another take begins. Returns the SSRC of this one's first track.
    pub(crate) fn set_idle(&mut self) -> u32 {
        self.stored.as_mut().map_or(0, |stored| {
            stored.is_idle = true;
            stored.ssrc
        })
    }

    /// Whether nothing is expected to come.
    pub(crate) fn is_idle(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored.is_idle)
    }

    /// Whether all of the take has been handed to the player.
    pub(crate) fn is_complete(&self) -> bool {
        let Some(ends) = self.stored.as_ref().and_then(|stored| stored.ends.as_ref()) else {
            return false;
        };
        let all_of = |(track, end): (usize, &PacketIndex)| {
            self.receiver.hoped_for(track).is_none_or(|hoped_for| hoped_for >= *end)
        };
        ends.iter().enumerate().all(all_of)
    }

    /// Nothing more of the take under way comes.
    pub(crate) fn interrupted(&mut self) {
        if let Some(stored) = &mut self.stored {
            stored.was_broken = true;
        }
    }

    /// Whether the take does not go on by itself. A file may have one picture in many seconds: that nothing
    /// comes means something only where packets are missing, or the path has failed.
    pub(crate) fn is_stalled(&self, now: Instant) -> bool {
        let Some(stored) = &self.stored else { return false };
        let is_due = stored.was_broken || self.holds.iter().any(Hold::is_waiting);
        is_due && now.saturating_duration_since(stored.progress_at) >= STALLED
    }

    /// The latency to begin with.
    pub(crate) fn first_latency(latency: Latency, met: &Met) -> Duration {
        match latency {
            Latency::Fixed(latency) => latency,
            Latency::Auto => Adaptation::new(met.path.rtt).latency(),
        }
    }

    /// Takes what came before the admission.
    pub(crate) fn receive_early(
        &mut self,
        early: impl Iterator<Item = Datagram>,
        player: &Player,
        placed: &mut [Placed],
        stats: &mut Stats,
    ) {
        self.set_early(true);
        for datagram in early {
            self.receive(datagram, player, placed, stats);
        }
        self.set_early(false);
    }

    fn set_early(&mut self, early: bool) {
        self.receiver.set_early(early);
        if self.stored.is_some() {
            return;
        }
        for (track, hold) in self.holds.iter_mut().enumerate() {
            hold.live_from(self.receiver.live_index(track).unwrap_or_default());
        }
    }

    /// Takes a media datagram.
    pub(crate) fn receive(
        &mut self,
        Datagram { from, at, bytes: mut datagram }: Datagram,
        player: &Player,
        placed: &mut [Placed],
        stats: &mut Stats,
    ) {
        // The tag tells who sent it; what comes from elsewhere is not even looked at.
        if !self.paths.is_from(from, self.met.opening.peer()) {
            return;
        }
        let is_on_path = self.paths.path(self.met.opening.peer()) == Some(from);
        let bytes = datagram.len() as u64;
        let running_time = player.running_time();
        let came = arriving::Datagram { at, bytes, running_time, is_on_path };
        let (receiver, tags, mut arriving) = self.arriving(Some(came), stats);
        let take = &mut |arrived: Arrived<'_>| arriving.take(arrived);
        let result = receiver.take_tagged(tags, &mut datagram, Instant::now(), take);
        if let Err(error) = result {
            tracing::trace!(%error, "packet not opened");
            return;
        }
        stats.bytes += bytes;
        // What comes from a former address says nothing about ours reaching the broadcaster: its router
        // may have moved it, and drop what we send to where it was.
        if is_on_path {
            self.met.opening.authenticated();
        }
        self.release_all(player, placed);
    }

    /// Opens what waited for a key that was told meanwhile.
    pub(crate) fn take_held(&mut self, player: &Player, placed: &mut [Placed], stats: &mut Stats) {
        let (receiver, _, mut arriving) = self.arriving(None, stats);
        receiver.take_held(Instant::now(), &mut |arrived| arriving.take(arrived));
        self.release_all(player, placed);
    }

    /// What opens packets, and what they are handed to then.
    fn arriving<'a>(
        &'a mut self,
        datagram: Option<arriving::Datagram>,
        stats: &'a mut Stats,
    ) -> (&'a mut Receiver, &'a TagKey, Arriving<'a>) {
        let arriving = Arriving {
            now: Instant::now(),
            datagram,
            is_limited: self.carries.is_some(),
            is_stored: self.stored.is_some(),
            outage: &mut self.outage,
            timeline: &mut self.timeline,
            slots: &self.slots,
            holds: &mut self.holds,
            bursts: &mut self.bursts,
            trains: self.rendition.is_some().then_some(&mut self.trains),
            stats,
        };
        (&mut self.receiver, &self.tags, arriving)
    }

    /// Hands on what need not wait, of all tracks.
    fn release_all(&mut self, player: &Player, placed: &mut [Placed]) {
        for track in 0..self.holds.len() {
            self.release(track, player, placed);
        }
    }

    /// Hands on what need not wait.
    fn release(&mut self, track: usize, player: &Player, placed: &mut [Placed]) {
        let (Some(hold), Some(hoped_for)) =
            (self.holds.get_mut(track), self.receiver.hoped_for(track))
        else {
            return;
        };
        let played_as = self.slots.of(track);
        while let Some(mut packet) = hold.next(hoped_for) {
            let Packet { index, timestamp, .. } = packet;
            let Some(arrival) = self.timeline.place(played_as, timestamp) else { return };
            let arrival = arrival + self.shift.now();
            let numbers = (&mut packet.bytes[..], index, timestamp);
            let Some(arrival) = self.slots.write(placed, track, numbers, arrival) else { return };
            player.push(played_as, &packet.bytes, arrival);
            if let Some(stored) = &mut self.stored {
                stored.progress_at = Instant::now();
                stored.was_broken = false;
            }
        }
    }

    /// When [`Self::tick`] has something to do.
    pub(crate) fn wakes_at(&self) -> Instant {
        let renewal = self.met.renewer.is_waiting().then(|| Instant::now() + RENEWAL_LOOK);
        let upgrade = self.is_relayed().then_some(self.upgrade_at);
        let outage = (!self.is_idle()).then(|| self.outage.due_at());
        let news = self.has_news(Instant::now()).then(Instant::now);
        let due =
            [self.report_at].into_iter().chain(news).chain(outage).chain(renewal).chain(upgrade);
        due.chain(self.receiver.poll_timeout()).min().unwrap_or(self.report_at)
    }

    /// Asks for what is missing, reports, and checks the path where media stalls.
    pub(crate) fn tick(&mut self, player: &Player, placed: &mut [Placed], stats: &mut Stats) {
        let now = Instant::now();
        let rtt = self.rtt();
        if let Some(wish) = self.receiver.poll_wish(rtt, now) {
            self.feedback.wish(&wish);
            self.report_at = self.report_at.min(now + LOSSY_REPORT_INTERVAL);
        }
        // What was waited for may have been given up.
        self.release_all(player, placed);
        if now >= self.report_at || self.has_news(now) {
            let is_limited = self.carries.is_some();
            let is_watched = is_limited || self.receiver.loss() >= MUCH_LOSS;
            self.report_at = now + if is_limited { LOSSY_REPORT_INTERVAL } else { REPORT_INTERVAL };
            if is_watched {
                // Whether a queue grows shows in the round trip.
                self.met.opening.handle().check_now();
            }
            if let Some(adaptation) = &mut self.adaptation {
                let (jitter, loss) = (self.receiver.jitter(), self.receiver.loss());
                adaptation.follow(rtt, jitter.unwrap_or_default(), loss, now);
                self.receiver.set_patience(self.patience + extra(Some(adaptation)));
            }
            self.shown = stats.latency();
            self.report(rtt);
        }
        self.shift(player, now);
        self.mend(rtt, stats, now);
        self.update(player, stats);
    }

    /// What was played was late by that much.
    pub(crate) fn was_late(&mut self, by: Duration, player: &Player) {
        let Some(adaptation) = &mut self.adaptation else { return };
        let before = adaptation.latency();
        adaptation.was_late(by);
        let now = adaptation.latency();
        self.receiver.set_patience(self.patience + extra(Some(adaptation)));
        if now > before {
            tracing::debug!(?by, latency = ?now, "late; what follows comes later");
        }
        self.shift(player, Instant::now());
    }

    /// Has what follows come later by as much as the path needs.
    fn shift(&mut self, player: &Player, now: Instant) {
        let by = self.shift.follow(self.lag + extra(self.adaptation.as_ref()), now);
        if !by.is_zero() {
            player.delay(by);
        }
    }

    fn report(&mut self, rtt: Duration) {
        let blocks = self.receiver.report();
        let times = Times {
            rtt: Some(rtt),
            latency: Some(self.patience + self.shift.now()),
            shown: self.shown,
            carried: self.rendition.as_ref().and_then(|_| self.trains.tell(Instant::now())),
        };
        self.feedback.report(&blocks, &self.receiver.totals(), times);
    }

    /// Whether the broadcaster should know at once what the path brings.
    fn has_news(&self, now: Instant) -> bool {
        self.rendition.is_some() && self.trains.is_news(now)
    }

    fn rtt(&self) -> Duration {
        self.met.opening.rtt().unwrap_or_else(|| self.met.connection.rtt())
    }

    /// Does something about media that stalls, and about a path that could be better.
    fn mend(&mut self, rtt: Duration, stats: &mut Stats, now: Instant) {
        let answered = self.met.opening.state() == opening::State::Open;
        if let Some(stored) = &mut self.stored {
            stored.was_broken |= self.outage.is_broken();
        }
        let step = if self.is_idle() { None } else { self.outage.step(answered, rtt, now) };
        match step {
            Some(Step::Doubt) => self.met.opening.doubt(),
            Some(Step::Renew) => {
                tracing::info!("media stalls and the path does not answer; opening it again");
                stats.enter(State::Reconnecting);
                self.met.renewer.renew(true);
            }
            None => {}
        }
        if self.is_relayed() && now >= self.upgrade_at && !self.outage.is_broken() {
            self.upgrade_interval = (self.upgrade_interval * 2).min(LONGEST_UPGRADE);
            self.upgrade_at = now + self.upgrade_interval;
            if !self.met.renewer.is_busy() {
                tracing::debug!("looking for a direct path");
                self.met.renewer.renew(false);
            }
        }
    }

    fn is_relayed(&self) -> bool {
        self.met.path.kind == CandidateKind::Relayed
    }

    /// Takes what came of renewals; says why where the session is over.
    pub(crate) async fn renewals(&mut self) -> Option<String> {
        match self.met.renewer.outcome().await? {
            Renewed::Gone if self.met.opening.state() != opening::State::Open => {
                Some("the broadcaster does not know us any more".into())
            }
            Renewed::Failed(failure) => {
                tracing::info!("{failure}");
                None
            }
            Renewed::Gone | Renewed::Tried => None,
        }
    }

    /// Brings the stats up to date.
    pub(crate) fn update(&self, player: &Player, stats: &mut Stats) {
        stats.current = self.receiver.totals();
        let capture_now = self.capture_clock.at(Instant::now());
        let delay = |capture| self.timeline.delay(capture, player.running_time());
        stats.arrival = capture_now.map(|capture| delay(capture) + self.shift.now());
        stats.rtt = Some(self.rtt());
        stats.jitter = self.receiver.jitter();
        stats.carries = self.carries;
        stats.source_away = stats.playback.is_none().then_some(self.away_since);
        if stats.rendition != self.rendition {
            stats.rendition.clone_from(&self.rendition);
        }
        self.show_path(stats);
    }

    /// The port that the path leaves by.
    fn local_port(&self) -> Option<u16> {
        let ways = self.met.renewer.ways();
        let socket = ways.socket(self.met.path.local).unwrap_or_else(|| Arc::clone(ways.main()));
        Some(socket.local_addr().ok()?.port())
    }

    fn show_path(&self, stats: &mut Stats) {
        let Path { remote, kind, .. } = self.met.path;
        let local = self.met.path.local;
        if (stats.remote, stats.way) != (Some(remote), local) {
            stats.local = local_address(remote, self.local_port());
            stats.way = local;
        }
        stats.remote = Some(remote);
        stats.path = Some(kind.as_str());
        stats.open = Some(self.met.open);
    }

    /// Takes what the opening agent tells. An error ends the session.
    pub(crate) fn path_event(
        &mut self,
        event: Option<Event>,
        stats: &mut Stats,
    ) -> Result<(), String> {
        match event {
            Some(Event::Opened(path) | Event::Moved(path)) => {
                tracing::info!(
                    event = "path_moved",
                    remote = %path.remote,
                    path = path.kind.as_str(),
                    "path moved"
                );
                self.met.path = path;
                // What the former path carried says nothing about this one.
                self.bursts = Bursts::default();
                self.trains = Trains::default();
                self.outage.broke();
                self.upgrade_interval = FIRST_UPGRADE;
                let now = Instant::now();
                self.upgrade_at = now + FIRST_UPGRADE;
                // The broadcaster may have paused for want of a word.
                self.report_at = now;
                self.show_path(stats);
                Ok(())
            }
            Some(Event::Remapped(seen)) => {
                tracing::info!(event = "address_changed", %seen, "our external address changed");
                self.outage.broke();
                self.met.opening.shorten_checks();
                Ok(())
            }
            // Told to broadcasters only.
            Some(Event::Media(_)) => Ok(()),
            Some(Event::Lost(reason)) => Err(reason.to_string()),
            Some(Event::Failed(failure)) => Err(failure.to_string()),
            None => Err("the opening agent ended".into()),
        }
    }

    /// Goes on with another rendition of the picture. What came of it already is taken by [`Self::take_held`].
    fn switch(
        &mut self,
        track: &control::Track,
        (before, end): (u32, PacketIndex),
        placed: &mut [Placed],
    ) {
        let receiving = Track::from(track);
        let now = Instant::now();
        let place = placed.iter().position(|placed| placed.ssrc == before);
        let known = place.and_then(|place| self.formats.get(place));
        let is_like = |known: &Format| {
            let of = |format: &Format| (format.kind, format.clock_rate);
            of(known) == of(&track.format) && known.encoding_name == track.format.encoding_name
        };
        if !known.is_some_and(is_like) {
            tracing::debug!(before, "a rendition that the player cannot go on with");
            return;
        }
        let Some(received) = self.receiver.switch(before, end, &receiving, now) else {
            tracing::debug!(before, "a rendition in the place of none");
            return;
        };
        let after = (track.ssrc, track.first_index, track.rtp_timestamp);
        self.slots.switch(placed, (before, end), received, after);
        let hold = Hold::new(track.live_index);
        match self.holds.get_mut(received) {
            Some(known) => *known = hold,
            None => self.holds.push(hold),
        }
        self.receiver.set_rtt(self.rtt());
        self.receiver.set_limited(self.carries.is_some());
        self.rendition.clone_from(&track.format.rendition);
        let rendition = self.rendition.as_deref();
        tracing::info!(
            event = "rendition_changed",
            rendition,
            "the picture goes on in another size"
        );
    }

    /// Takes a notice. `Ok(false)`: the broadcast is over.
    pub(crate) fn notice(
        &mut self,
        notice: Notice,
        placed: &mut [Placed],
    ) -> Result<bool, Failure> {
        match notice {
            Notice::Rendition { track, before, end } => {
                self.switch(&track, (before, end), placed);
                Ok(true)
            }
            Notice::Key { key } => {
                self.receiver.add_key(&key);
                Ok(true)
            }
            Notice::Source { away_ms } => {
                let away = away_ms.map(|ms| Duration::from_millis(ms).min(LONGEST_AWAY));
                match (away, self.away_since) {
                    (Some(_), None) => tracing::warn!(
                        event = "source_away",
                        "the broadcaster's source is away, and is started again"
                    ),
                    (None, Some(since)) => tracing::info!(
                        event = "source_back",
                        lasted_ms = since.elapsed().as_millis() as u64,
                        "the broadcaster's source is back"
                    ),
                    _ => {}
                }
                let now = Instant::now();
                self.away_since = away.map(|away| now.checked_sub(away).unwrap_or(now));
                Ok(true)
            }
            Notice::Carries { bits_per_second, lag_ms } => {
                match bits_per_second {
                    None => {
                        tracing::info!(
                            event = "path_wide",
                            "this connection carries everything again"
                        );
                    }
                    Some(0) => tracing::warn!(
                        event = "path_narrow",
                        rate_bps = 0,
                        "nothing arrives over this connection; media is paused"
                    ),
                    Some(rate_bps) => tracing::warn!(
                        event = "path_narrow",
                        rate_bps,
                        "this connection does not carry the stream: pictures are left out"
                    ),
                }
                self.carries = bits_per_second;
                self.receiver.set_limited(bits_per_second.is_some());
                self.lag = Duration::from_millis(lag_ms.into()).min(LONGEST_LAG);
                Ok(true)
            }
            Notice::LeftOut { packets } => {
                packets.iter().for_each(|packets| self.receiver.left_out(packets));
                Ok(true)
            }
            Notice::Ended => Ok(false),
            // Takes end in their own way.
            Notice::Finished { .. } | Notice::Interrupted => Ok(true),
            Notice::Removed => Err(refused(Refusal::Removed, "")),
        }
    }
}

/// What receives the packets of one admission.
struct Reception {
    receiver: Receiver,
    timeline: Timeline,
    holds: Vec<Hold>,
}

impl Reception {
    /// `useful` is how long a missing packet is waited for. `placed` is what earlier sessions left.
    fn new(
        admission: &Admission,
        local_now: Duration,
        useful: Duration,
        rtt: Duration,
        placed: &mut Vec<Placed>,
        now: Instant,
    ) -> Self {
        let clocks: Vec<TrackClock> = admission
            .tracks
            .iter()
            .map(|track| TrackClock {
                clock_rate: track.format.clock_rate,
                rtp_timestamp: track.rtp_timestamp,
                captured_us: track.captured_us,
            })
            .collect();
        let mut timeline = Timeline::new(
            &clocks,
            Duration::from_micros(admission.capture_now_us),
            Duration::from_micros(admission.send_lag_us).min(LONGEST_LAG),
            local_now,
        );
        let mut tracks = Vec::new();
        for (at, track) in admission.tracks.iter().enumerate() {
            let is_known = track.captured_us != UNKNOWN_CAPTURE;
            let place = timeline.place(at, track.rtp_timestamp).filter(|_| is_known);
            let place = place.unwrap_or(local_now);
            let expected_from = place_track(placed, at, track, place);
            tracks.push(Track { expected_from, ..Track::from(track) });
        }
        let mut receiver = Receiver::new(&tracks, &admission.keys, useful, now);
        receiver.set_rtt(rtt);
        let holds = admission.tracks.iter().map(|track| Hold::new(track.live_index)).collect();
        Self { receiver, timeline, holds }
    }
}

/// How often the last report is sent: no other follows that would say the same.
const LAST_REPORTS: usize = 2;

impl Drop for Session {
    fn drop(&mut self) {
        // What happened since the last report would be known to nobody else.
        let rtt = self.rtt();
        (0..LAST_REPORTS).for_each(|_| self.report(rtt));
    }
}

/// What a latency that follows the path has beyond what the player was set up for.
fn extra(adaptation: Option<&Adaptation>) -> Duration {
    adaptation.map_or(Duration::ZERO, |adaptation| adaptation.latency() - LEAST)
}

/// Finds or makes a track's place; returns the first index to expect.
fn place_track(
    placed: &mut Vec<Placed>,
    at: usize,
    track: &control::Track,
    place: Duration,
) -> PacketIndex {
    match placed.get_mut(at) {
        // The same stream as before: what was played is not played again.
        Some(known) if known.ssrc == track.ssrc && known.next_index <= track.live_index => {
            known.next_index.max(track.first_index)
        }
        Some(known) => {
            known.ssrc = track.ssrc;
            known.next_index = track.first_index;
            known.continuity.splice(track.first_index, track.rtp_timestamp, place);
            track.first_index
        }
        None => {
            let Format { clock_rate, payload_type, .. } = track.format;
            let mut continuity = Continuity::new(at as u32 + 1, clock_rate, payload_type);
            continuity.splice(track.first_index, track.rtp_timestamp, place);
            placed.push(Placed { ssrc: track.ssrc, next_index: track.first_index, continuity });
            track.first_index
        }
    }
}

/// The address that packets to `remote` leave with. Nothing is sent: connecting a UDP socket only
/// looks up the route.
fn local_address(remote: SocketAddr, port: Option<u16>) -> Option<SocketAddr> {
    let any: SocketAddr =
        if remote.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = std::net::UdpSocket::bind(any).ok()?;
    socket.connect(remote).ok()?;
    Some(SocketAddr::new(socket.local_addr().ok()?.ip(), port.unwrap_or(0)))
}
