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
use tokio::sync::{Notify, oneshot, watch};
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
use crate::metrics::{ChannelMetrics, Metrics};
use crate::moment::Moment;
use crate::origin::{Barred, Origin};
use crate::places::{Booked, Booking, Bookings, Place, Places};
use crate::playout::Workshop;
use crate::rates::Rates;
use crate::surroundings::Surroundings;
use crate::uplink::Uplink;

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

/// How long a viewer that comes before the source is ready waits for it.
const SOURCE_PATIENCE: Duration = Duration::from_secs(5);

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

    /// Its encoder is set to another rate.
    fn set_pictures(&self, pictures: Bitrate) {
        let media = pictures.as_bits_per_second() + self.sound.as_bits_per_second();
        let needs = Bitrate::bits_per_second(media).scaled(HEADERS);
        self.needs.store(needs.as_bits_per_second(), Ordering::Relaxed);
    }
}

/// What headers, seals and tags add to media, as far as a path must carry them.
const HEADERS: f64 = 1.08;

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) port: Arc<Port>,
    pub(crate) openings: Arc<Openings>,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) name: String,
    pub(crate) secret: Option<Secret>,
    /// Links that were minted, and whether only these, or the secret, let somebody in.
    pub(crate) links: Links,
    pub(crate) links_only: bool,
    /// The channel's own link, once it is told.
    pub(crate) link: OnceLock<Link>,
    pub(crate) max_viewers: usize,
    pub(crate) uplink: Uplink,
    /// What the encoders are set to make.
    pub(crate) rates: Arc<Rates>,
    pub(crate) allow_private: bool,
    /// Whether there is a live channel, and not only stored files.
    pub(crate) is_live: bool,
    /// The channel, once its source is ready.
    pub(crate) channel: watch::Receiver<Option<LiveChannel>>,
    /// Sessions that wait for their viewer's connection.
    pub(crate) arrivals: DashMap<Peer, oneshot::Sender<quinn::Connection>>,
    /// Where words about known introductions go.
    pub(crate) efforts: DashMap<IntroductionId, Words>,
    /// Admitted viewers.
    pub(crate) audience: Arc<Audience>,
    /// Sessions of viewers that were let in, or wait for that.
    pub(crate) guests: Arc<Guests>,
    /// Places of viewers of the live channel.
    pub(crate) places: Places,
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
    /// Another key is wanted now.
    pub(crate) key_wanted: Notify,
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
    /// The channel, waited for a while.
    pub(crate) async fn channel(&self) -> Option<LiveChannel> {
        if !self.is_live {
            return None;
        }
        let mut channel = self.channel.clone();
        let ready = tokio::time::timeout(SOURCE_PATIENCE, channel.wait_for(Option::is_some)).await;
        ready.ok()?.ok()?.clone()
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
        if channel_name != self.name || !self.is_live {
            return Err(Refusal::UnknownChannel);
        }
        let channel = self.channel().await.ok_or(Refusal::NotReady)?;
        if self.uplink.is_configured() {
            // What the stream needs is known once it has run for a moment.
            tokio::time::sleep_until((channel.started_at + MEASURING).into()).await;
        }
        let place = self.places.reserve(|taken| self.has_room() && self.uplink_carries(taken + 1));
        if place.is_none() && !self.uplink_carries(1) {
            tracing::warn!(
                bits_per_second = self.needed_for_each().as_bits_per_second(),
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
        if seat.channel.on_demand.is_none() {
            self.key_wanted.notify_one();
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
        self.places.taken() + self.on_demand.booked().viewers < self.max_viewers
    }

    /// A place for one more viewer of a stored file that needs so much. What live viewers need goes first.
    pub(crate) fn book(&self, origin: Option<Origin>, needed: Bitrate) -> Result<Booking, Refusal> {
        self.on_demand.book(origin.map(|origin| origin.household), needed, |with| {
            self.places.taken() + with.viewers <= self.max_viewers && self.carries_beside(with)
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
        let is_free = budget.is_some() || self.places.taken() == 0;
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
        self.needed_for_each().as_bits_per_second().saturating_mul(self.places.taken() as u64)
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

    /// Shares out what live viewers leave of the uplink among playouts and copies of files. Each second.
    pub(crate) fn share_uplink(&self) {
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

    fn uplink_carries(&self, viewers: usize) -> bool {
        let budget = self.uplink.budget();
        budget.is_none_or(|budget| budget.carries(viewers, self.needed_for_each()))
    }

    /// What the stream takes now, or is set to take, whichever is more.
    fn needed_for_each(&self) -> Bitrate {
        self.metrics.channel.stream().max(self.rates.expected())
    }

    /// What there is to watch.
    pub(crate) async fn catalogue(&self) -> Vec<ChannelEntry> {
        if !self.is_live {
            return Vec::new();
        }
        let formats = self.channel().await.map(|channel| channel.formats.to_vec());
        vec![ChannelEntry { name: self.name.clone(), formats: formats.unwrap_or_default() }]
    }
}

/// SSRCs for so many tracks. Neighbours differ, whatever the first is; the highest bit is repair packets'.
pub(crate) fn choose_ssrcs(tracks: usize) -> Arc<[u32]> {
    let first: u32 = rand::random();
    (0..tracks as u32).map(|at| first.wrapping_add(at) & (u32::MAX >> 1)).collect()
}

impl LiveChannel {
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
        let watching = audience.watching(self.renditions.len());
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
