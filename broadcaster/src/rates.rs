//! The bitrates that a live channel's pictures are encoded at, which an operator may change while it runs.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::units::Bitrate;
use serde_json::{Value, json};

use crate::audience::Audience;
use crate::events::{Event, Events};
use crate::live::Live;
use crate::media::{AS_IT_COMES, MediaConfig, SourceSpec};
use crate::shared::LiveChannel;
use crate::source::Tuned;

/// What the encoders are set to make.
pub(crate) struct Rates {
    /// As it is now.
    config: Mutex<MediaConfig>,
    /// Held by who changes it, which may take a while.
    changing: Mutex<()>,
}

/// Why a bitrate is not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RateError {
    /// No such rendition.
    #[error("there is no rendition '{wanted}'; {known}")]
    Unknown { wanted: String, known: String },
    /// Not what can be encoded.
    #[error("{0}")]
    Illegal(String),
    /// The pictures come encoded.
    #[error(
        "nothing here encodes these pictures: they come encoded and pass through as they are; set their bitrate where they \
         are encoded, or for a camera, choose a size or rate in video: that it has in raw or MJPEG modes only"
    )]
    PassesThrough,
    /// The encoder takes no other.
    #[error(
        "this encoder takes no other bitrate while it runs; set video.bitrate in the configuration and start the broadcaster \
         again, or choose another video.encoder: x264, openh264, vp8, vp9 and av1 (by libaom) take one"
    )]
    Cannot,
}

impl RateError {
    /// Whether something else should have been asked.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::Illegal(_))
    }
}

/// What was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    /// The rendition, where there are several.
    pub(crate) rendition: Option<Arc<str>>,
    pub(crate) before: Bitrate,
    /// Whether it holds only once the source is there again.
    pub(crate) is_later: bool,
}

impl Rates {
    /// As configured.
    pub(crate) fn new(config: MediaConfig) -> Self {
        Self { config: Mutex::new(config), changing: Mutex::default() }
    }

    /// What each rendition is set to, best first; one where there are no others.
    pub(crate) fn all(&self) -> Vec<Bitrate> {
        self.config().video.all().iter().map(|one| one.bitrate).collect()
    }

    /// What pictures and sound are set to make together, where it is known that the source is encoded here, or else 0.
    pub(crate) fn expected(&self) -> Bitrate {
        let config = self.config();
        let encoded_here = matches!(config.source, SourceSpec::Test | SourceSpec::Camera(_));
        let rates = [config.video.bitrate, config.audio.bitrate].map(Bitrate::as_bits_per_second);
        Bitrate::bits_per_second(if encoded_here { rates.iter().sum() } else { 0 })
    }

    fn config(&self) -> MutexGuard<'_, MediaConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// What each rendition is set to, best first, with its name where there are several. Nothing before there is a
    /// channel, and where the source comes encoded.
    pub(crate) fn rates_set(&self, is_encoded: bool) -> Vec<(Option<Arc<str>>, Bitrate)> {
        let channel = self.channel.borrow().clone().filter(|_| is_encoded);
        let Some(LiveChannel { renditions, .. }) = channel else { return Vec::new() };
        let name = |at: usize| renditions.get(at).map(|rendition| Arc::clone(&rendition.name));
        self.rates.all().into_iter().enumerate().map(|(at, rate)| (name(at), rate)).collect()
    }

    /// The bitrates, for the operator.
    pub(crate) fn rates_shown(&self) -> Value {
        let producer = self.source.get();
        let encoder = producer.and_then(|producer| producer.continuation().encoder);
        let set = self.rates_set(encoder.is_some());
        let channel = self.channel.borrow().clone();
        let sent = match channel.as_ref().map(|channel| &channel.renditions) {
            Some(renditions) if !renditions.is_empty() => {
                let encoded = self.metrics.encoded.load(Ordering::Relaxed);
                let measured = |at: usize| match encoded & (1 << at) {
                    0 => 0,
                    _ => self.metrics.stream_of(at).as_bits_per_second(),
                };
                (0..renditions.len()).map(measured).collect()
            }
            _ => vec![self.metrics.stream().as_bits_per_second()],
        };
        let row = |(at, sent): (usize, u64)| {
            let (name, rate) = set.get(at).cloned().unzip();
            let name = name.flatten();
            let rate = rate.filter(|_| name.as_deref() != Some(AS_IT_COMES));
            json!({
                "rendition": name.as_deref(),
                "set_bps": rate.map(Bitrate::as_bits_per_second),
                "sent_bps": sent,
            })
        };
        let pictures: Vec<Value> = sent.into_iter().enumerate().map(row).collect();
        json!({ "encoder": encoder, "pictures": pictures })
    }

    /// Has a rendition encoded at this rate from now on, until the broadcaster ends; the picture itself
    /// where none is named. Blocks until the source answers.
    ///
    /// # Errors
    ///
    /// Where there is no such rendition, the rate is no legal one, or nothing here encodes it.
    pub(crate) fn set_bitrate(
        &self,
        (rendition, rate): (Option<&str>, Bitrate),
        (audience, events): (&Audience, &Events),
    ) -> Result<Changed, RateError> {
        let channel = self.channel.borrow().clone();
        let renditions = channel.as_ref().map(|channel| &*channel.renditions).unwrap_or_default();
        let number = match rendition {
            None => 0,
            Some(wanted) => {
                let unknown = || RateError::Unknown {
                    wanted: wanted.to_owned(),
                    known: match renditions {
                        [] if channel.is_none() => "its source is not there yet".to_owned(),
                        [] => "the picture comes in one size".to_owned(),
                        some => {
                            let names: Vec<_> = some.iter().map(|one| &*one.name).collect();
                            format!("there are {}", names.join(", "))
                        }
                    },
                };
                renditions.iter().position(|one| *one.name == *wanted).ok_or_else(unknown)?
            }
        };
        let changing = &self.rates.changing;
        let _one_at_a_time = changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = self.rates.config().clone();
        let before = changed.video.all().get(number).map_or(rate, |one| one.bitrate);
        changed.video.set_bitrate(number, rate);
        if let Some(problem) = changed.problem() {
            return Err(RateError::Illegal(problem));
        }
        let is_later = match self.source.tune(number, rate) {
            Tuned::Now => false,
            Tuned::Later => true,
            Tuned::Cannot => return Err(RateError::Cannot),
            Tuned::Never => return Err(RateError::PassesThrough),
        };
        *self.rates.config() = changed;
        if let Some(channel) = &channel {
            channel.set_pictures(number, rate);
            audience.needs_changed();
        }
        let rendition = renditions.get(number).map(|one| Arc::clone(&one.name));
        events.record(Event::BitrateChanged {
            channel: self.whose.clone(),
            rendition: rendition.clone(),
            rate,
            before,
        });
        Ok(Changed { rendition, before, is_later })
    }
}
