//! Renditions: several tracks of the same pictures, in different sizes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::{LIVE_PICTURES, Live, cannot_build};
use crate::media::config::VideoConfig;
use crate::media::elements::make;
use crate::media::encode;
use crate::media::error::MediaError;
use crate::media::payload;
use crate::media::plan::Codec;

/// What a picture is called that comes encoded and passes through, beside those that are made of it.
pub(crate) const AS_IT_COMES: &str = "source";

/// Coded pictures that wait for their decoder, in nanoseconds, at most: behind them, all up to a keyframe are left out.
const LONGEST_WAIT: u64 = 1_000_000_000;

/// And so many bytes of them.
const MOST_WAITING: u32 = 32 << 20;

/// A rendition that is to be encoded.
struct Ordered {
    number: usize,
    name: String,
    slot: usize,
    config: VideoConfig,
    /// Whether it is wanted.
    is_wanted: Arc<AtomicBool>,
}

impl Live {
    /// Makes a track of each rendition of a pad's raw pictures. Pictures go to those that are wanted; the others cost
    /// nothing.
    pub(super) fn render(
        self: &Arc<Self>,
        pad: &gst::Pad,
        caps: &gst::Caps,
        slot: usize,
        pace: Option<gst::Element>,
    ) -> Result<(), MediaError> {
        let renditions = encode::renditions(caps, &self.config.video).into_iter().enumerate();
        let ordered = renditions.map(|(number, (name, config))| {
            let slot = if number == 0 { Ok(slot) } else { self.slot_beside() };
            Ok(Ordered { number, name, slot: slot?, config, is_wanted: wanted() })
        });
        self.encode_each(pad, caps, ordered.collect::<Result<_, MediaError>>()?, pace)
    }

    /// Whether smaller renditions are to be made of pictures that come encoded so.
    pub(super) fn can_render_beside(&self, codec: Codec) -> Result<bool, MediaError> {
        let video = &self.config.video;
        if video.renditions.is_empty() {
            return Ok(false);
        }
        let made = encode::codec(video)?;
        if made != codec {
            // Players and files cannot go on with another codec in the middle.
            tracing::warn!(
                "no renditions: the pictures come as {}, and those that are made of them would be {}; set video.encoder \
                 to one that makes {}",
                codec.name(),
                made.name(),
                codec.name()
            );
        }
        Ok(made == codec)
    }

    /// Makes a track of a pad's coded pictures as they come, behind these elements, and one of each smaller rendition,
    /// which are decoded for that while any of them is wanted.
    pub(super) fn render_beside(
        self: &Arc<Self>,
        (pad, caps): (&gst::Pad, &gst::Caps),
        slot: usize,
        codec: Codec,
        mut shared: Vec<gst::Element>,
    ) -> Result<(), MediaError> {
        let smaller = encode::smaller(&self.config.video).into_iter().zip(1..);
        let ordered = smaller.map(|((name, config), number)| {
            let slot = self.slot_beside()?;
            Ok(Ordered { number, name, slot, config, is_wanted: wanted() })
        });
        let ordered = ordered.collect::<Result<Vec<_>, MediaError>>()?;
        let tee = make("tee", &[])?;
        shared.push(tee.clone());
        let entry = self.chain(&shared)?;

        // First to what only puts them into a queue.
        let queue = make(
            "queue",
            &[("max-size-buffers", "0"), ("max-size-bytes", "0"), ("max-size-time", "0")],
        )?;
        let decoder = make("decodebin", &[("force-sw-decoders", "true")])?;
        let wanted_by: Vec<_> = ordered.iter().map(|one| Arc::clone(&one.is_wanted)).collect();
        let live = Arc::clone(self);
        let pending = Mutex::new(Some(ordered));
        decoder.connect_pad_added(move |_, pad| {
            let raw = pad.current_caps().filter(|_| pad.direction() == gst::PadDirection::Src);
            let pending = || pending.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some((caps, ordered)) = raw.and_then(|caps| Some((caps, pending()?))) else {
                return;
            };
            if let Err(error) = live.encode_each(pad, &caps, ordered, None) {
                live.fail(error);
            }
        });
        let way = tee.request_pad_simple("src_%u");
        let way = way.ok_or_else(|| cannot_build("a tee without a pad"))?;
        let waiting = queue.downgrade();
        pass_from_keyframe(&way, move || {
            let is_behind = waiting.upgrade().is_some_and(|queue| {
                queue.property::<u64>("current-level-time") > LONGEST_WAIT
                    || queue.property::<u32>("current-level-bytes") > MOST_WAITING
            });
            !is_behind && wanted_by.iter().any(|wanted| wanted.load(Ordering::Acquire))
        });
        self.link(&way, &[queue, decoder])?;

        let payloader = payload::payloader(codec, slot, self.epoch.offset())?;
        let is_wanted = wanted();
        let rendition = Some((AS_IT_COMES.to_owned(), 0, Arc::clone(&is_wanted)));
        let chain = self.finish((slot, rendition), codec, payloader, Some(None));
        let way = tee.request_pad_simple("src_%u");
        let way = way.ok_or_else(|| cannot_build("a tee without a pad"))?;
        pass_from_keyframe(&way, move || is_wanted.load(Ordering::Acquire));
        self.link(&way, &chain)?;
        pad.link_maybe_ghosting(&entry)
            .map_err(|error| MediaError::Track { reason: format!("{error}: {caps}") })
    }

    /// A slot for a track that is made of the same pictures as another.
    fn slot_beside(&self) -> Result<usize, MediaError> {
        let slot = self.gate.add_beside().filter(|slot| *slot < payload::MAX_TRACKS);
        slot.ok_or_else(|| cannot_build("no room for a rendition"))
    }

    /// Encodes each of these of a pad's raw pictures, while it is wanted.
    fn encode_each(
        self: &Arc<Self>,
        pad: &gst::Pad,
        caps: &gst::Caps,
        ordered: Vec<Ordered>,
        pace: Option<gst::Element>,
    ) -> Result<(), MediaError> {
        let video = &self.config.video;
        let mut shared = encode::tidy(caps, video, pace)?;
        let tee = make("tee", &[])?;
        shared.push(tee.clone());
        let entry = self.chain(&shared)?;
        for Ordered { number, name, slot, config, is_wanted } in ordered {
            let pictures = encode::video(caps, &config, video)?;
            self.counters.encodes_with(pictures.name);
            // A thread of its own for each. An encoder that can't keep up loses the oldest.
            let room = LIVE_PICTURES.to_string();
            let queue = make("queue", &[("max-size-buffers", &room), ("leaky", "downstream")])?;
            self.counters.watch_queue(&queue);
            let mut chain = vec![queue];
            chain.extend(pictures.chain);
            let payloader = payload::payloader(pictures.codec, slot, self.epoch.offset())?;
            let rendition = (slot, Some((name, number, is_wanted.clone())));
            let encoder = (pictures.encoder, pictures.tuned);
            let encoder = Some(Some(&encoder));
            chain.extend(self.finish(rendition, pictures.codec, payloader, encoder));
            let way = tee.request_pad_simple("src_%u");
            let way = way.ok_or_else(|| cannot_build("a tee without a pad"))?;
            way.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                if is_wanted.load(Ordering::Acquire) {
                    gst::PadProbeReturn::Ok
                } else {
                    gst::PadProbeReturn::Drop
                }
            });
            self.link(&way, &chain)?;
        }
        pad.link_maybe_ghosting(&entry).map_err(cannot_build)
    }
}

/// Lets coded pictures by while they are wanted, from a keyframe on: what came before it would be missing.
fn pass_from_keyframe(pad: &gst::Pad, is_wanted: impl Fn() -> bool + Send + Sync + 'static) {
    let passed = AtomicBool::new(false);
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let delta = gst::BufferFlags::DELTA_UNIT;
        let is_keyframe = info.buffer().is_some_and(|buffer| !buffer.flags().contains(delta));
        let passes = is_wanted() && (is_keyframe || passed.load(Ordering::Relaxed));
        passed.store(passes, Ordering::Relaxed);
        if passes { gst::PadProbeReturn::Ok } else { gst::PadProbeReturn::Drop }
    });
}

/// Until something else is said, all are wanted.
fn wanted() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(true))
}
