//! What a viewer asks of stored files: pages of the catalogue, takes, contents, pictures.

use std::sync::Arc;
use std::time::Duration;

use protocol::control::{Refusal, Response, close};
use protocol::library::{Digest, MAX_PATH, RATES, StoredMedia};
use protocol::link::Secret;
use protocol::media::Kind;
use protocol::srtcp::FeedbackKey;
use protocol::units::Bitrate;
use quinn::{Connection, SendStream};
use transport::stream;

use super::{Session, Watching, say};
use crate::audience::MOST_LATENCY;
use crate::contents::{self, Contents};
use crate::library::{FileError, Library, StoredFile};
use crate::media::MediaError;
use crate::places::{Booking, Held, Place};
use crate::playout::{Ask, Prepared};
use crate::shared::Shared;

/// Files in one page of the catalogue, and about how many bytes they take.
const PAGE: usize = 500;
const PAGE_BYTES: usize = 48 * 1024;

/// Copies that one viewer may have at once.
const MOST_FETCHES_EACH: usize = 4;

/// How long a file may take to open: longer than [`Prepared::open`] tries.
const OPEN_PATIENCE: Duration = Duration::from_secs(11);

/// A take as it was asked for.
pub(super) struct Wanted {
    pub(super) path: String,
    pub(super) secret: Option<Secret>,
    pub(super) latency: Duration,
    pub(super) position: Duration,
    pub(super) rate_percent: u32,
    pub(super) sound: u32,
    pub(super) pace: Option<Bitrate>,
}

/// A take that is ready, and the places that it takes, where the viewer has none.
struct Ready {
    prepared: Prepared,
    places: NewPlaces,
    latency: Duration,
    /// Whether something is encoded anew.
    encodes: bool,
}

/// Places of a viewer that had none.
#[derive(Default)]
struct NewPlaces {
    booking: Option<Booking>,
    encoding: Option<Place>,
}

/// What is answered instead.
type Instead = Box<Response>;

fn refused(reason: Refusal) -> Instead {
    Box::new(Response::Refused { reason })
}

fn unplayable(reason: impl Into<String>) -> Instead {
    Box::new(Response::Unplayable { reason: reason.into() })
}

fn busy() -> Instead {
    unplayable("it must be encoded anew, and the broadcaster is busy with others; try later")
}

/// Whether a file has what is wanted of it, as far as the catalogue says.
fn has_wanted(media: &StoredMedia, wanted: &Wanted) -> Result<(), Instead> {
    let of = |kind| media.tracks.iter().filter(|track| track.kind == kind).count();
    let (pictures, sounds) = (of(Kind::Video), of(Kind::Audio));
    if pictures == 0 && wanted.rate_percent != 100 {
        return Err(unplayable("it has no pictures, and sound plays at its own rate only"));
    }
    // The first one is what is played where nobody asks for another.
    if wanted.sound > 0 && wanted.sound as usize >= sounds {
        return Err(unplayable(match sounds {
            0 => "it has no sound".to_owned(),
            1 => "it has one sound track only".to_owned(),
            _ => format!("it has {sounds} sound tracks only"),
        }));
    }
    Ok(())
}

/// Whether something of what is wanted is encoded anew, as far as the catalogue says.
fn encodes(media: &StoredMedia, wanted: &Wanted) -> bool {
    let of = |kind| media.tracks.iter().filter(move |track| track.kind == kind);
    let picture = of(Kind::Video).next();
    let sound = of(Kind::Audio).nth(wanted.sound as usize);
    let sound = sound.filter(|_| wanted.rate_percent == 100);
    picture.into_iter().chain(sound).any(|track| !track.passes_through)
}

fn library(shared: &Shared) -> Result<Arc<Library>, Instead> {
    shared.library.clone().ok_or_else(|| refused(Refusal::UnknownFile))
}

/// Opens a file, off the threads that nothing may block.
async fn open(library: &Arc<Library>, path: String) -> Result<StoredFile, Instead> {
    if path.len() > MAX_PATH {
        return Err(refused(Refusal::UnknownFile));
    }
    let library = Arc::clone(library);
    let opened = tokio::task::spawn_blocking(move || library.file(&path)).await;
    match opened {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(FileError::Unknown)) | Err(_) => Err(refused(Refusal::UnknownFile)),
        Ok(Err(FileError::Unreadable(reason))) => Err(Box::new(Response::Unplayable { reason })),
    }
}

/// A page of the catalogue.
pub(super) fn page(shared: &Shared, after: Option<&str>) -> Response {
    match library(shared) {
        Ok(library) => {
            let (files, more) = library.page(after, PAGE, PAGE_BYTES);
            Response::Files { files, more }
        }
        Err(response) => *response,
    }
}

/// The picture of a file.
pub(super) fn thumbnail(shared: &Shared, path: &str) -> Response {
    match library(shared) {
        Ok(library) if library.entry(path).is_some() => {
            let jpeg = library.thumbnail(path).map(|jpeg| jpeg.to_vec());
            Response::Thumbnail { jpeg }
        }
        Ok(_) => Response::Refused { reason: Refusal::UnknownFile },
        Err(response) => *response,
    }
}

impl Session {
    /// Begins a take, in place of the one that the viewer has.
    pub(super) async fn play(&mut self, connection: &Connection, send: SendStream, wanted: Wanted) {
        // Who watches a live channel asks for files on another connection.
        let is_live = |watching: &Watching| watching.seat.channel.on_demand.is_none();
        let ready = if self.watching.as_ref().is_some_and(is_live) {
            Err(refused(Refusal::Malformed))
        } else {
            self.ready(wanted).await
        };
        match ready {
            Ok(ready) => self.begin_take(connection, send, ready).await,
            Err(response) => self.answer(connection, send, *response).await,
        }
    }

    async fn ready(&mut self, wanted: Wanted) -> Result<Ready, Instead> {
        let library = library(&self.shared)?;
        if !RATES.contains(&wanted.rate_percent) {
            return Err(refused(Refusal::Malformed));
        }
        let file = open(&library, wanted.path.clone()).await?;
        let media = library.entry(&wanted.path).and_then(|entry| entry.media);
        if let Some(media) = &media {
            has_wanted(media, &wanted)?;
        }
        let workshop = &self.shared.workshop;
        let needed = workshop.needed(media.as_ref(), file.length, wanted.rate_percent);
        let mut places = NewPlaces::default();
        let held = self.watching.as_mut().map(|watching| &mut watching.held);
        match held {
            // Until the other take begins, this one goes on.
            Some(Held::OnDemand(booking)) => {
                if !self.shared.rebook(booking, needed.max(booking.needed())) {
                    return Err(refused(Refusal::Full));
                }
            }
            Some(Held::Live { .. }) | None => {
                places.booking = Some(self.shared.book(self.origin(), needed).map_err(refused)?);
            }
        }
        if let Err(reason) = self.enter(wanted.secret.as_ref()).await {
            self.book_what_is_played();
            return Err(refused(reason));
        }
        let ready = self.open_take(file, wanted, media.as_ref(), (places, needed)).await;
        if ready.is_err() {
            self.book_what_is_played();
        }
        ready
    }

    /// Books what the take under way needs, and no more.
    fn book_what_is_played(&mut self) {
        if let Some(Watching { held: Held::OnDemand(booking), seat, .. }) = &mut self.watching
            && let Some(needed) = seat.channel.on_demand
        {
            self.shared.rebook(booking, needed);
        }
    }

    async fn open_take(
        &self,
        file: StoredFile,
        wanted: Wanted,
        media: Option<&StoredMedia>,
        (mut places, needed): (NewPlaces, Bitrate),
    ) -> Result<Ready, Instead> {
        let has_place = self.watching.as_ref().is_some_and(|watching| watching.encoding.is_some());
        if !has_place && media.is_some_and(|media| encodes(media, &wanted)) {
            places.encoding = Some(self.shared.place_to_encode().ok_or_else(busy)?);
        }
        let latency = wanted.latency.min(MOST_LATENCY);
        let booked = match self.watching.as_ref().map(|watching| &watching.held) {
            Some(Held::OnDemand(booking)) => booking.needed(),
            Some(Held::Live { .. }) | None => needed,
        };
        let duration = media.and_then(|media| media.duration_us);
        let ask = Ask {
            path: format!("library/{}", wanted.path),
            latency,
            // Behind the end is its last picture, and not a search through the whole file.
            position: duration
                .map_or(wanted.position, |us| wanted.position.min(Duration::from_micros(us))),
            rate_percent: wanted.rate_percent,
            sound: wanted.sound as usize,
            needed,
            pace: self.shared.pace_of_take(wanted.pace, needed, booked),
        };
        let workshop = self.shared.workshop.clone();
        // The places are taken for as long as it is tried, whoever still waits for it.
        let opening = tokio::task::spawn_blocking(move || {
            let location = file.location();
            (Prepared::open(&workshop, &ask, (location, Box::new(file))), places)
        });
        let (prepared, mut places) = match tokio::time::timeout(OPEN_PATIENCE, opening).await {
            Ok(Ok((Ok(prepared), places))) => (prepared, places),
            Ok(Ok((Err(MediaError::Unplayable { reason, .. }), _))) => {
                return Err(unplayable(reason));
            }
            Ok(Ok((Err(error), _))) => return Err(unplayable(error.to_string())),
            Ok(Err(_)) | Err(_) => return Err(unplayable("it takes too long to open")),
        };
        // Where nobody had looked into the file yet, it is known only now.
        let encodes = !prepared.transcoded().is_empty();
        if !encodes {
            places.encoding = None;
        } else if places.encoding.is_none() && !has_place {
            places.encoding = Some(self.shared.place_to_encode().ok_or_else(busy)?);
        }
        Ok(Ready { prepared, places, latency, encodes })
    }

    async fn begin_take(&mut self, connection: &Connection, send: SendStream, ready: Ready) {
        let Ready { prepared, places, latency, encodes } = ready;
        let Some(path) = self.path else { return };
        let Some(viewer) = self.guest().map(|guest| guest.viewer) else { return };
        let key = FeedbackKey::random(&mut rand::rng());
        let joined = prepared.join(viewer, self.target(path), latency, key.clone()).await;
        let Some(joined) = joined else {
            self.book_what_is_played();
            let reason = "its channel ended at once".to_owned();
            return self.answer(connection, send, Response::Unplayable { reason }).await;
        };
        self.refusals = 0;
        let former = self.watching.take();
        let is_first = former.is_none();
        let (held, encoding) = match former {
            Some(former) => {
                if former.seat.is_paused() {
                    self.shared.metrics.paused.dec();
                }
                former.seat.channel.fan_out.leave(viewer);
                self.shared.audience.leave(viewer);
                (former.held, former.encoding.or(places.encoding).filter(|_| encodes))
            }
            None => match places.booking {
                Some(booking) => (Held::OnDemand(booking), places.encoding),
                None => return,
            },
        };
        let handle = (self.opening.handle().clone(), path.kind.as_str());
        let channel = joined.channel.clone();
        let seat = self.shared.audience.seat(viewer, channel, latency, handle, &key);
        if is_first {
            self.shared.metrics.stored.playouts.inc();
            self.tell_of_admission(viewer, path, connection);
        }
        self.shared.metrics.stored.take_begun();
        tracing::debug!(%viewer, file = %joined.channel.name, take = ?joined.take, "take");
        let response =
            Response::Playing { admission: joined.admission.clone(), take: joined.take.clone() };
        let seat_of_take = Arc::clone(&seat);
        let watching = self.watching.insert(Watching {
            seat,
            send,
            paused_at: Vec::new(),
            held,
            running: None,
            encoding,
        });
        let said = say(&mut watching.send, &response).await;
        watching.running = joined.run(seat_of_take).ok();
        if !said || watching.running.is_none() {
            self.hang_up(connection, close::PROTOCOL, "not received");
        }
        self.book_what_is_played();
    }

    /// Stops the take that the viewer has, if it is the one that begins with this SSRC.
    pub(super) fn pause_take(&mut self, ssrc: u32) -> Response {
        match &self.watching {
            Some(Watching { running: Some(running), seat, .. }) => {
                if seat.channel.ssrcs.first() == Some(&ssrc) {
                    running.stop();
                }
                Response::Paused
            }
            _ => Response::Refused { reason: Refusal::Malformed },
        }
    }

    /// Sends a file's contents, beside whatever else the viewer does.
    pub(super) async fn fetch(
        &mut self,
        connection: &Connection,
        send: SendStream,
        (path, secret): (String, Option<Secret>),
        (offset, digest): (u64, Option<Digest>),
    ) {
        let own = self.fetching.reserve(|taken| taken < MOST_FETCHES_EACH);
        let Some(own) = own else {
            return self.answer(connection, send, *refused(Refusal::TooMany)).await;
        };
        let Some(place) = self.shared.place_to_fetch() else {
            return self.answer(connection, send, *refused(Refusal::Full)).await;
        };
        let library = match library(&self.shared) {
            Ok(library) => library,
            Err(response) => return self.answer(connection, send, *response).await,
        };
        let file = match open(&library, path).await {
            Ok(file) => file,
            Err(response) => return self.answer(connection, send, *response).await,
        };
        if let Err(reason) = self.enter(secret.as_ref()).await {
            return self.answer(connection, send, *refused(reason)).await;
        }
        let shared = Arc::clone(&self.shared);
        let connection = connection.clone();
        tokio::spawn(async move {
            let _places = (own, place);
            let fetching = &shared.metrics.stored.fetching;
            fetching.inc();
            send_contents(&shared, &library, file, (offset, digest), send, &connection).await;
            fetching.dec();
        });
    }
}

async fn send_contents(
    shared: &Shared,
    library: &Arc<Library>,
    file: StoredFile,
    (offset, digest): (u64, Option<Digest>),
    mut send: SendStream,
    connection: &Connection,
) {
    let hashing = {
        let (library, connection) = (Arc::clone(library), connection.clone());
        tokio::task::spawn_blocking(move || {
            let digest = library.digest(&file, || connection.close_reason().is_some());
            (file, digest)
        })
    };
    let (file, whole) = match hashing.await {
        Ok((file, Ok(Some(whole)))) => (file, whole),
        Ok((_, Ok(None))) | Err(_) => return,
        Ok((_, Err(error))) => {
            let response = Response::Unplayable { reason: error.to_string() };
            if say(&mut send, &response).await {
                let _ = send.finish();
            }
            return;
        }
    };
    // Others than were asked for are sent from their beginning.
    let is_same = digest.is_none_or(|digest| digest == whole) && offset <= file.length;
    let offset = if is_same { offset } else { 0 };
    let answer = Response::Contents { length: file.length, digest: whole, offset };
    if stream::write(&mut send, &answer).await.is_err() {
        return;
    }
    let contents = Contents { file: file.file, length: file.length, offset };
    let stored = &shared.metrics.stored;
    let sent = contents::send(contents, &mut send, &shared.pace, |bytes| stored.sent(bytes as u64));
    match sent.await {
        Ok(()) => {
            stored.fetched(true);
            let _ = send.finish();
        }
        Err(error) => {
            stored.fetched(false);
            tracing::debug!(%error, "contents not sent to their end");
        }
    }
}
