//! What all sessions of a broadcaster share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use protocol::channel::ViewerId;
use protocol::control::{Admission, ChannelEntry, Refusal, Track, UNKNOWN_CAPTURE};
use protocol::link::{Link, Secret};
use protocol::media::Format;
use protocol::opening::IntroductionId;
use protocol::srtcp::FeedbackKey;
use protocol::tag::TAG;
use protocol::units::Bitrate;
use protocol::uplink::REPAIR_SHARE;
use serde_json::Value;
use tokio::sync::oneshot;
use transport::effort::Words;
use transport::openings::Openings;
use transport::paths::Peer;
use transport::port::Port;

use crate::audience::Audience;
use crate::contents::Pace;
use crate::door::Door;
use crate::fanout::{FanOut, Target};
use crate::guests::{Guest, Guests};
use crate::keys::Keyring;
use crate::library::Library;
use crate::links::{Comer, Links, LinksError};
use crate::live::Live;
use crate::media::AS_IT_COMES;
use crate::metrics::{ChannelMetrics, Metrics};
use crate::moment::Moment;
use crate::origin::{Barred, Origin};
use crate::places::{Booked, Booking, Bookings, Place, Places};
use crate::playout::Workshop;
use crate::surroundings::Surroundings;
use crate::uplink::{self, Uplink};

/// So long a viewer that joins while the source begins waits for the first of all tracks, by which sound and pictures
/// are in time with each other.
const FIRST_OF_ALL: Duration = Duration::from_millis(300);

/// By how much faster than it goes on a take begins, at least.
const CATCHING_UP: f64 = 1.25;

/// How long a take is taken to begin.
const BEGINNING: Duration = Duration::from_secs(1);

/// Which share of the uplink's rest a take may begin with: headers come on top, and queues are to stay short.
const OF_THE_REST: f64 = 0.9;

/// How many times as fast a take may begin as a live channel is joined, and how fast it begins at least.
const FASTEST_TAKE: f64 = 10.0;
const LEAST_TAKE_PACE: Bitrate = Bitrate::bits_per_second(1_000_000);

/// Bytes a second that copies of files have at least, all together.
const LEAST_PACE: u64 = 20_000;

/// How long a channel's rate is measured before it is believed.
const MEASURING: Duration = Duration::from_millis(1200);

/// The live channel as sessions see it.
#[derive(Clone)]
pub(crate) struct LiveChannel {
    pub(crate) name: Arc<str>,
    pub(crate) formats: Arc<[Format]>,
    pub(crate) ssrcs: Arc<[u32]>,
    pub(crate) keys: Keyring,
    pub(crate) fan_out: FanOut,
    pub(crate) metrics: Arc<ChannelMetrics>,
    pub(crate) started_at: Instant,
    /// The renditions of its picture, best first; none where there is one only.
    pub(crate) renditions: Arc<[Rendition]>,
    /// What one viewer of a stored file needs; `None` for a live channel.
    pub(crate) on_demand: Option<Bitrate>,
}

/// One of several sizes of a channel's picture.
#[derive(Debug)]
pub(crate) struct Rendition {
    pub(crate) name: Arc<str>,
    sound: Bitrate,
    /// What who watches it needs, headers and sound included, in bits a second.
    needs: AtomicU64,
}

impl Rendition {
    /// One whose pictures and sound the encoders are set to make at these rates.
    pub(crate) fn new(name: &str, pictures: Bitrate, sound: Bitrate) -> Self {
        let rendition = Self { name: name.into(), sound, needs: AtomicU64::new(0) };
        rendition.set_pictures(pictures);
        rendition
    }

    /// What who watches it needs, headers and sound included.
    pub(crate) fn needs(&self) -> Bitrate {
        Bitrate::bits_per_second(self.needs.load(Ordering::Relaxed))
    }

    /// It was measured to need so much. Whether that is much else than before.
    fn measured(&self, needs: Bitrate) -> bool {
        let (before, now) = (self.needs().as_bits_per_second(), needs.as_bits_per_second());
        let is_news = now.abs_diff(before) as f64 > before as f64 * WORTH_TELLING;
        if is_news {
            self.needs.store(now, Ordering::Relaxed);
        }
        is_news
    }

    /// Its encoder is set to another rate.
    fn set_pictures(&self, pictures: Bitrate) {
        let media = pictures.as_bits_per_second() + self.sound.as_bits_per_second();
        let needs = Bitrate::bits_per_second(media).scaled(HEADERS);
        self.needs.store(needs.as_bits_per_second(), Ordering::Relaxed);
    }
}

/// What a rendition is measured to need is news from this share on.
const WORTH_TELLING: f64 = 0.1;

/// What headers, seals and tags add to media, as far as a path must carry them.
const HEADERS: f64 = 1.08;

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) port: Arc<Port>,
    pub(crate) openings: Arc<Openings>,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) metrics: Arc<Metrics>,
    /// The live channels, and not only stored files.
    pub(crate) live: Vec<Arc<Live>>,
    pub(crate) secret: Option<Secret>,
    /// Links that were minted, and whether only these, or the secret, let somebody in.
    pub(crate) links: Links,
    pub(crate) links_only: bool,
    /// The first channel's own link, once it is told.
    pub(crate) link: OnceLock<Link>,
    pub(crate) max_viewers: usize,
    pub(crate) uplink: Uplink,
    pub(crate) allow_private: bool,
    /// Sessions that wait for their viewer's connection.
    pub(crate) arrivals: DashMap<Peer, oneshot::Sender<quinn::Connection>>,
    /// Where words about known introductions go.
    pub(crate) efforts: DashMap<IntroductionId, Words>,
    /// Admitted viewers.
    pub(crate) audience: Arc<Audience>,
    /// Sessions of viewers that were let in, or wait for that.
    pub(crate) guests: Arc<Guests>,
    /// Whoever gives a place in a live channel away looks at all of them first.
    pub(crate) seating: Mutex<()>,
    /// Stored files, where some are offered.
    pub(crate) library: Option<Arc<Library>>,
    /// What their playouts are made with.
    pub(crate) workshop: Workshop,
    /// Places of viewers of stored files, and what they need.
    pub(crate) on_demand: Bookings,
    /// Whether the operator admits each viewer, and where they wait for that.
    pub(crate) knock: bool,
    pub(crate) door: Arc<Door>,
    /// Households that viewers were sent away from.
    pub(crate) barred: Barred,
    /// Until when takes are taken to begin.
    pub(crate) begun: Mutex<Vec<Instant>>,
    /// Playouts that are encoded anew.
    pub(crate) encoding: Places,
    /// How fast contents are sent.
    pub(crate) pace: Arc<Pace>,
    /// Contents that are being sent.
    pub(crate) fetches: Places,
}

/// Contents of files that are sent at once, at most.
const MOST_FETCHES: usize = 64;

/// A link was revoked.
pub(crate) struct Revoked {
    /// How many viewers were sent away.
    pub(crate) viewers: usize,
    /// Whether it stays so after a restart.
    pub(crate) saved: Result<(), LinksError>,
}

/// A viewer that was admitted, its channel, and the place that it takes.
pub(crate) struct Admitted {
    pub(crate) channel: LiveChannel,
    pub(crate) place: Place,
}

impl Shared {
    /// The live channel of this name.
    pub(crate) fn live_named(&self, name: &str) -> Option<&Arc<Live>> {
        self.live.iter().find(|live| &*live.name == name)
    }

    /// Those of the live channels that run.
    pub(crate) fn running(&self) -> Vec<LiveChannel> {
        self.live.iter().filter_map(|live| live.channel.borrow().clone()).collect()
    }

    /// Viewers of live channels.
    fn live_viewers(&self) -> usize {
        self.live.iter().map(|live| live.places.taken()).sum()
    }

    /// Whether a viewer that shows this may see what there is.
    pub(crate) fn opens(&self, shown: Option<&Secret>, comer: Comer) -> bool {
        let by_link = |shown: &Secret| self.links.opens(shown, comer, Moment::now());
        self.is_open_to(shown) || shown.is_some_and(by_link)
    }

    /// Whether it needs no minted link.
    fn is_open_to(&self, shown: Option<&Secret>) -> bool {
        match (&self.secret, shown) {
            (None, _) => !self.links_only,
            (Some(expected), Some(shown)) => expected == shown,
            (Some(_), None) => false,
        }
    }

    /// The name of the minted link that this is of.
    pub(crate) fn link_named(&self, shown: Option<&Secret>) -> Option<String> {
        shown.and_then(|shown| self.links.named(shown))
    }

    /// Whether this is neither of a minted link nor the secret.
    pub(crate) fn is_strange(&self, shown: Option<&Secret>) -> bool {
        let is_secret = self.secret.is_some() && self.is_open_to(shown);
        !is_secret && self.link_named(shown).is_none()
    }

    /// A viewer enters. The name of the link that it came by, if it is a minted one.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        shown: Option<&Secret>,
        comer: Comer,
    ) -> Result<Option<String>, Refusal> {
        let by = shown.and_then(|shown| self.links.enter(shown, comer, Moment::now()));
        let Some(entry) = by else {
            return if self.is_open_to(shown) { Ok(None) } else { Err(Refusal::Secret) };
        };
        if entry.is_to_be_saved {
            let shared = Arc::clone(self);
            let saving = tokio::task::spawn_blocking(move || shared.links.save());
            if let Ok(Err(error)) = saving.await {
                tracing::warn!("{error}");
            }
        }
        Ok(Some(entry.name))
    }

    /// Lets nobody in by a link any more, and sends away who showed it, whether that can be written or not. Blocks
    /// while it is.
    pub(crate) fn revoke(&self, name: &str) -> Result<Revoked, LinksError> {
        self.links.revoke(name)?;
        let guests = self.guests.by_link(name);
        guests.iter().for_each(|guest| self.send_away(guest));
        Ok(Revoked { viewers: guests.len(), saved: self.links.save() })
    }

    /// A place for a viewer of the channel, or why there is none.
    pub(crate) async fn admit(&self, channel_name: &str) -> Result<Admitted, Refusal> {
        let live = self.live_named(channel_name).filter(|live| !live.is_over());
        let live = live.ok_or(Refusal::UnknownChannel)?;
        let channel = live.channel().await.ok_or(Refusal::NotReady)?;
        if self.uplink.is_configured() {
            // What the stream needs is known once it has run for a moment.
            tokio::time::sleep_until((channel.started_at + MEASURING).into()).await;
        }
        let place = self.place_in(live);
        let each = live.needed_for_each();
        if place.is_none() && self.uplink.budget().is_some_and(|budget| !budget.carries(1, each)) {
            tracing::warn!(
                bits_per_second = each.as_bits_per_second(),
                "the uplink carries not even one viewer; lower the source's bitrate"
            );
        }
        let place = place.ok_or(Refusal::Full)?;
        Ok(Admitted { channel, place })
    }

    /// Sends a viewer away, and whoever comes from its address. False where there is none.
    pub(crate) fn remove(&self, viewer: ViewerId) -> bool {
        let Some(guest) = self.guests.find(viewer) else { return false };
        if let Some(origin) = guest.origin() {
            self.door.forget(&origin);
            self.barred.bar(&origin);
        }
        self.send_away(&guest);
        true
    }

    /// Ends a viewer's session, whatever that does.
    fn send_away(&self, guest: &Guest) {
        guest.leave();
        self.unseat(guest.viewer);
    }

    /// Nothing more is sent to a viewer, and what is sent to others it cannot read for long.
    pub(crate) fn unseat(&self, viewer: ViewerId) {
        let Some(seat) = self.audience.remove(viewer) else { return };
        seat.channel.fan_out.leave(viewer);
        let live = self.live_named(&seat.channel.name);
        if let Some(live) = live.filter(|_| seat.channel.on_demand.is_none()) {
            live.key_wanted.notify_one();
        }
    }

    /// Whether viewers from there were sent away.
    pub(crate) fn is_barred(&self, origin: Option<Origin>) -> bool {
        origin.is_some_and(|origin| self.barred.bars(&origin))
    }

    /// Everybody who is here, with their addresses: for the operator alone.
    pub(crate) fn viewers_shown(&self) -> Vec<Value> {
        let guests = self.guests.all();
        guests.iter().map(|guest| guest.shown(self.audience.shown_of(guest.viewer))).collect()
    }

    fn has_room(&self) -> bool {
        self.live_viewers() + self.on_demand.booked().viewers < self.max_viewers
    }

    /// A place for one more viewer of a live channel.
    fn place_in(&self, live: &Live) -> Option<Place> {
        let _alone = self.seating.lock().unwrap_or_else(PoisonError::into_inner);
        let with = || {
            let one = live.needed_for_each().as_bits_per_second();
            Bitrate::bits_per_second(self.needed_by_live().saturating_add(one))
        };
        let carries = || self.uplink.budget().is_none_or(|budget| budget.carries(1, with()));
        live.places.reserve(|_| self.has_room() && carries())
    }

    /// A place for one more viewer of a stored file that needs so much. What live viewers need goes first.
    pub(crate) fn book(&self, origin: Option<Origin>, needed: Bitrate) -> Result<Booking, Refusal> {
        self.on_demand.book(origin.map(|origin| origin.household), needed, |with| {
            self.live_viewers() + with.viewers <= self.max_viewers && self.carries_beside(with)
        })
    }

    /// A viewer of stored files needs so much from now on. False where the uplink does not carry that.
    pub(crate) fn rebook(&self, booking: &mut Booking, needed: Bitrate) -> bool {
        booking.change(needed, |with| self.carries_beside(with))
    }

    /// Whether the uplink carries what is booked for stored files beside the live viewers.
    fn carries_beside(&self, booked: Booked) -> bool {
        self.uplink.budget().is_none_or(|budget| {
            let all = self.needed_by_live().saturating_add(booked.bits_per_second);
            budget.carries(1, Bitrate::bits_per_second(all))
        })
    }

    /// How fast is sent what a take's first picture needs, where the viewer says what its path carries. With an
    /// uplink of a known rate, what others leave of it, shared among those that begin at the same time. Else, up to
    /// [`FASTEST_TAKE`] times as fast as a live channel is joined, unless somebody watches that. The take needs
    /// `needed` from then on, and `booked` is booked for its viewer.
    pub(crate) fn pace_of_take(
        &self,
        carried: Option<Bitrate>,
        needed: Bitrate,
        booked: Bitrate,
    ) -> Bitrate {
        let usual = self.workshop.join_rate;
        let budget = self.uplink.budget();
        let is_free = budget.is_some() || self.live_viewers() == 0;
        let most = if is_free { usual.scaled(FASTEST_TAKE) } else { usual };
        // It must catch up with what follows.
        let least = needed.scaled(CATCHING_UP).max(LEAST_TAKE_PACE.min(usual));
        let Some(budget) = budget else { return carried.unwrap_or(usual).min(most).max(least) };
        let others = self.on_demand.booked().bits_per_second;
        let others = others.saturating_sub(booked.as_bits_per_second());
        let others = self.needed_by_live().saturating_add(others);
        let left = budget.media().as_bits_per_second();
        let left = left.saturating_sub((others as f64 * (1.0 + REPAIR_SHARE)) as u64);
        let left = Bitrate::bits_per_second(left);
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        begun.retain(|until| *until > now);
        begun.push(now + BEGINNING);
        let share = left.scaled(OF_THE_REST / begun.len() as f64);
        carried.unwrap_or(usual).min(most).min(share).max(least.min(left)).max(LEAST_TAKE_PACE)
    }

    /// What all live viewers need, in bits a second.
    fn needed_by_live(&self) -> u64 {
        self.live.iter().map(|live| live.needed()).fold(0, u64::saturating_add)
    }

    /// A place for one more file that is encoded anew: two for each core, which 720p30 in real time leaves
    /// room for.
    pub(crate) fn place_to_encode(&self) -> Option<Place> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.encoding.reserve(|taken| taken < 2 * cores)
    }

    /// A place for one more file whose contents are sent.
    pub(crate) fn place_to_fetch(&self) -> Option<Place> {
        self.fetches.reserve(|taken| taken < MOST_FETCHES)
    }

    /// Shares out the uplink: among live channels by what their viewers need, with room for one more each, and what they
    /// leave among playouts and copies of files. Each second.
    pub(crate) fn share_uplink(&self) {
        let shares: Vec<(u64, u64)> = self.live.iter().map(|live| live.shares()).collect();
        let all = self.uplink.budget().map_or(0, |budget| budget.media().as_bits_per_second());
        for (live, share) in self.live.iter().zip(uplink::shares(all, &shares)) {
            live.set_budget(self.uplink.budget().map(|budget| budget.part(share)));
        }
        let Some(budget) = self.uplink.budget() else {
            self.pace.set(None);
            self.audience.limit_on_demand(None);
            return;
        };
        let live = (self.needed_by_live() as f64 * (1.0 + REPAIR_SHARE)) as u64;
        let left = budget.media().as_bits_per_second().saturating_sub(live);
        let playouts = self.audience.on_demand_rate().as_bits_per_second();
        let wanted = (playouts as f64 * (1.0 + REPAIR_SHARE)) as u64;
        self.audience.limit_on_demand((wanted > left).then(|| left as f64 / wanted.max(1) as f64));
        // Never none at all: it would look like a path that broke.
        self.pace.set(Some((left.saturating_sub(wanted) / 8).max(LEAST_PACE)));
    }

    /// What there is to watch.
    pub(crate) async fn catalogue(&self) -> Vec<ChannelEntry> {
        if let [alone] = &self.live[..] {
            alone.channel().await;
        }
        self.live.iter().filter(|live| !live.is_over()).map(|live| live.entry()).collect()
    }
}

/// SSRCs for so many tracks. Neighbours differ, whatever the first is; the highest bit is repair packets'.
pub(crate) fn choose_ssrcs(tracks: usize) -> Arc<[u32]> {
    let first: u32 = rand::random();
    (0..tracks as u32).map(|at| first.wrapping_add(at) & (u32::MAX >> 1)).collect()
}

impl LiveChannel {
    /// Goes by what its best rendition is measured to need, where that comes as it is: nobody has set it. Whether that is
    /// much else than before.
    pub(crate) fn measure(&self) -> bool {
        let as_it_comes = self.renditions.first().filter(|best| *best.name == *AS_IT_COMES);
        as_it_comes.is_some_and(|best| best.measured(self.metrics.stream_of(0)))
    }

    /// The encoder of a rendition is set to another rate.
    pub(crate) fn set_pictures(&self, rendition: usize, rate: Bitrate) {
        if let Some(rendition) = self.renditions.get(rendition) {
            rendition.set_pictures(rate);
        }
    }

    /// For each rendition, how many of the audience watch it, and what it needs; nothing where it is not encoded.
    pub(crate) fn renditions_now(
        &self,
        audience: &Audience,
    ) -> impl Iterator<Item = (&str, usize, Bitrate)> {
        let watching = audience.watching(&self.name, self.renditions.len());
        let encoded = self.metrics.encoded.load(Ordering::Relaxed);
        self.renditions.iter().zip(watching).enumerate().map(move |(number, (one, viewers))| {
            let is_encoded = encoded & (1 << number) != 0;
            let rate = if is_encoded {
                self.metrics.stream_of(number)
            } else {
                Bitrate::bits_per_second(0)
            };
            (&*one.name, viewers, rate)
        })
    }

    /// Begins to send to a viewer, and says all that it needs to know. `None` when the channel ended.
    pub(crate) async fn join(
        &self,
        viewer: ViewerId,
        to: Target,
        latency: Duration,
        feedback_key: FeedbackKey,
    ) -> Option<Admission> {
        // What is small comes soonest, and shows what the path carries.
        let rendition = self.renditions.len().saturating_sub(1);
        let mut joined = self.fan_out.join_rendition((viewer, rendition), to, latency).await?;
        // What is played on demand begins when its viewer is there, and its schedule says how tracks lie.
        if self.on_demand.is_none() && !joined.is_known() {
            // One that still comes later than that is placed by when it comes.
            let known = self.fan_out.when_known(&joined);
            joined = match tokio::time::timeout(FIRST_OF_ALL, known).await {
                Ok(known) => known?,
                Err(_) => joined,
            };
        }
        let of_track = Format::renditions(&self.formats);
        let tracks = self.formats.iter().zip(&*self.ssrcs).zip(&joined.tracks).zip(&of_track);
        let its = tracks.filter(|(_, of)| of.is_none_or(|of| of == rendition));
        let tracks = its.map(|(track, _)| track).map(|((format, &ssrc), track)| Track {
            format: format.clone(),
            ssrc,
            first_index: track.position.first_index,
            live_index: track.position.live_index,
            rtp_timestamp: track.rtp_timestamp,
            captured_us: track.captured.map_or(UNKNOWN_CAPTURE, micros),
        });
        Some(Admission {
            viewer: viewer.0,
            tracks: tracks.collect(),
            keys: self.keys.since(joined.oldest_epoch),
            capture_now_us: micros(joined.capture_now),
            send_lag_us: micros(joined.send_lag),
            viewer_tag: TAG as u8,
            feedback_key,
        })
    }
}

/// From a duration to whole microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
