//! A track: what is built behind a source pad once the pad says what it carries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;
use protocol::media::Kind;

use super::config::MediaConfig;
use super::elements::make;
use super::encode;
use super::error::MediaError;
use super::gate::Gate;
use super::network;
use super::payload;
use super::plan::{Codec, Plan};
use super::producer::{Counters, Event, Within};
use super::tuning::Tuned;
use super::unit::{self, Epoch, Track};

mod render;

pub(crate) use render::AS_IT_COMES;

/// How a pad's timestamps relate to the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timing {
    /// The source's own: it is asked whether it is live. If it is not, its time begins when its
    /// first track begins, and it is made to wait for the clock.
    Source,
    /// The source's own, which is live, though it says so only once it runs.
    Live,
    /// The moment at which it came over the network. Pictures may begin anywhere between two
    /// keyframes.
    Network,
    /// The same, of several tracks that come in turns: what comes early is made to wait for the others.
    Interleaved,
    /// Running time already, to be waited for.
    Stamped,
}

/// Raw pictures that may wait for the encoder of a live source.
const LIVE_PICTURES: u32 = 3;

/// Buffers of raw sound that may wait, of 10–20 ms as sources give them.
const LIVE_SOUND: u32 = 25;

/// Whoever holds tracks back is told of no smaller changes, in nanoseconds.
const LEAST_CHANGE: i64 = 1_000_000;

/// Where a track waits for the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pacing {
    /// Nowhere: it is live.
    None,
    /// Nowhere: it is live elsewhere, and what comes before a keyframe is of no use.
    Arrival,
    /// The same, once it has been parsed, for by how much all is held back.
    HeldBack,
    /// As soon as it comes, by the decoding times that it was stamped with.
    First,
    /// Once it has been parsed, which may be what gives it times.
    Parsed,
}

/// The running pipeline as its tracks see it.
pub(super) struct Live {
    /// Weak, since the pipeline owns the callbacks that hold this.
    pipeline: glib::WeakRef<gst::Pipeline>,
    config: MediaConfig,
    pub(super) gate: Arc<Gate>,
    counters: Arc<Counters>,
    pub(super) epoch: Epoch,
    /// Running time at which sources that are not live began.
    began: OnceLock<i64>,
    /// What makes pictures.
    encoded: Mutex<Vec<Encoded>>,
    /// Whether some come in several renditions.
    renders: AtomicBool,
    /// What holds tracks back, and by how much, in nanoseconds.
    held_back: Mutex<(Vec<glib::WeakRef<gst::Element>>, i64)>,
}

/// A track of pictures.
struct Encoded {
    /// Where requests for keyframes go in.
    payloader: glib::WeakRef<gst::Pad>,
    /// Which rendition it is, where there are several, and whether that is wanted.
    rendition: Option<(usize, Arc<AtomicBool>)>,
    /// What gives its encoder another bitrate, where it is encoded here.
    tuned: Option<Arc<Tuned>>,
}

impl Encoded {
    fn request_keyframe(&self) {
        let event = gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
        if !self.payloader.upgrade().is_some_and(|pad| pad.push_event(event)) {
            tracing::debug!("nothing here makes keyframes when asked");
        }
    }
}

impl Live {
    pub(super) fn new(
        pipeline: &gst::Pipeline,
        config: MediaConfig,
        gate: Arc<Gate>,
        counters: Arc<Counters>,
        epoch: Epoch,
    ) -> Self {
        Self {
            pipeline: pipeline.downgrade(),
            config,
            gate,
            counters,
            epoch,
            began: OnceLock::new(),
            encoded: Mutex::default(),
            renders: AtomicBool::new(false),
            held_back: Mutex::default(),
        }
    }

    pub(super) fn config(&self) -> &MediaConfig {
        &self.config
    }

    /// The error that an element has told of first, before anybody watches.
    pub(super) fn first_error(&self) -> Option<MediaError> {
        let message = self.pipeline.upgrade()?.bus()?.pop_filtered(&[gst::MessageType::Error])?;
        match message.view() {
            gst::MessageView::Error(error) => {
                Some(network::explained(&self.config.source, MediaError::from_bus(error)))
            }
            _ => None,
        }
    }

    /// Adds an element, or a bin of them, to the pipeline.
    pub(super) fn add(&self, element: &impl IsA<gst::Element>) -> Result<(), MediaError> {
        let Some(pipeline) = self.pipeline.upgrade() else { return Ok(()) };
        pipeline.add(element).map_err(cannot_build)
    }

    /// Makes a track of a source pad.
    pub(super) fn attach(
        self: &Arc<Self>,
        pad: &gst::Pad,
        timing: Timing,
    ) -> Result<(), MediaError> {
        let Some(slot) = self.gate.add_slot() else {
            tracing::warn!(pad = %pad.name(), "track left out; it came after the others had begun");
            return self.leave_out(pad);
        };
        self.attach_at(slot, pad, timing)
    }

    /// Makes the track of this slot of a source pad.
    pub(super) fn attach_at(
        self: &Arc<Self>,
        slot: usize,
        pad: &gst::Pad,
        timing: Timing,
    ) -> Result<(), MediaError> {
        if slot >= payload::MAX_TRACKS {
            let reason = format!("more than {} tracks", payload::MAX_TRACKS);
            return Err(MediaError::Track { reason });
        }
        // A thread of its own for each track. A demuxer hands over unevenly and needs room; what is
        // stamped has been evened out.
        let room = match timing {
            Timing::Source | Timing::Live | Timing::Network => "2000000000",
            // What is held back waits here.
            Timing::Interleaved => "4000000000",
            Timing::Stamped => "100000000",
        };
        let queue = make(
            "queue",
            &[("max-size-buffers", "0"), ("max-size-bytes", "33554432"), ("max-size-time", room)],
        )?;
        self.add(&queue)?;
        let (Some(sink), Some(source)) = (queue.static_pad("sink"), queue.static_pad("src")) else {
            return Err(cannot_build("a queue without pads"));
        };
        let live = self.clone();
        let weak_queue = queue.downgrade();
        source.add_probe(
            gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::BUFFER,
            move |pad, info| {
                let caps = match &info.data {
                    Some(gst::PadProbeData::Event(event)) => match event.view() {
                        gst::EventView::Caps(caps) => caps.caps_owned(),
                        _ => return gst::PadProbeReturn::Ok,
                    },
                    _ => {
                        let reason =
                            "its type is not known; end the fragment with parsebin".to_owned();
                        live.fail(MediaError::Track { reason });
                        return gst::PadProbeReturn::Drop;
                    }
                };
                if let Some(queue) = weak_queue.upgrade()
                    && let Err(error) = live.begin(&queue, pad, &caps, slot, timing)
                {
                    live.fail(error);
                }
                gst::PadProbeReturn::Remove
            },
        );
        queue.sync_state_with_parent().map_err(cannot_build)?;
        pad.link_maybe_ghosting(&sink).map_err(cannot_build)
    }

    /// Makes a track of a pad whose caps are known and that nobody keeps time for.
    pub(super) fn attach_unpaced(
        self: &Arc<Self>,
        pad: &gst::Pad,
        caps: &gst::Caps,
    ) -> Result<(), MediaError> {
        match self.gate.add_slot() {
            Some(slot) => self.extend(pad, caps, slot, Pacing::None),
            None => self.leave_out(pad),
        }
    }

    /// Has what is held back go on so much later than its time, in nanoseconds.
    pub(super) fn hold_back(&self, by: i64) {
        let mut held_back = self.held_back.lock().unwrap_or_else(PoisonError::into_inner);
        let (holders, before) = &mut *held_back;
        if (by - *before).abs() < LEAST_CHANGE {
            return;
        }
        *before = by;
        holders.retain(|holder| {
            let holder = holder.upgrade();
            holder.iter().for_each(|holder| holder.set_property("ts-offset", by));
            holder.is_some()
        });
    }

    /// What holds a track back.
    fn holder(&self) -> Result<gst::Element, MediaError> {
        let holder = make("clocksync", &[])?;
        let sink =
            holder.static_pad("sink").ok_or_else(|| cannot_build("a clock without a pad"))?;
        // Times are those at which it came: what it took to come is in them.
        sink.add_probe(gst::PadProbeType::QUERY_UPSTREAM, |_, info| match info.query_mut() {
            Some(query) => match query.view_mut() {
                gst::QueryViewMut::Latency(latency) => {
                    latency.set(false, gst::ClockTime::ZERO, gst::ClockTime::NONE);
                    gst::PadProbeReturn::Handled
                }
                _ => gst::PadProbeReturn::Ok,
            },
            None => gst::PadProbeReturn::Ok,
        });
        let mut held_back = self.held_back.lock().unwrap_or_else(PoisonError::into_inner);
        let (holders, by) = &mut *held_back;
        holder.set_property("ts-offset", *by);
        holders.push(holder.downgrade());
        Ok(holder)
    }

    /// Lets a pad's data go nowhere.
    pub(super) fn leave_out(&self, pad: &gst::Pad) -> Result<(), MediaError> {
        let sink = make("fakesink", &[("sync", "false"), ("async", "false")])?;
        self.add(&sink)?;
        sink.sync_state_with_parent().map_err(cannot_build)?;
        let sink = sink.static_pad("sink").ok_or_else(|| cannot_build("a sink without a pad"))?;
        pad.link_maybe_ghosting(&sink).map_err(cannot_build)
    }

    /// The pad has said what it carries.
    fn begin(
        self: &Arc<Self>,
        queue: &gst::Element,
        pad: &gst::Pad,
        caps: &gst::Caps,
        slot: usize,
        timing: Timing,
    ) -> Result<(), MediaError> {
        let pacing = match timing {
            Timing::Stamped => Pacing::First,
            Timing::Network => Pacing::Arrival,
            Timing::Interleaved => Pacing::HeldBack,
            Timing::Live => Pacing::None,
            Timing::Source if is_live(pad) => Pacing::None,
            Timing::Source => Pacing::Parsed,
        };
        match (pacing, Plan::for_caps(caps)) {
            // An encoder that can't keep up loses the oldest; delay does not grow.
            (Pacing::None | Pacing::Arrival | Pacing::HeldBack, Plan::Encode(kind)) => {
                let room = match kind {
                    Kind::Video => LIVE_PICTURES,
                    Kind::Audio => LIVE_SOUND,
                };
                queue.set_property("max-size-buffers", room);
                queue.set_property_from_str("leaky", "downstream");
                if kind == Kind::Video {
                    self.counters.watch_queue(queue);
                }
            }
            (Pacing::Parsed, _) => pad.set_offset(*self.began.get_or_init(|| self.epoch.now())),
            _ => {}
        }
        self.extend(pad, caps, slot, pacing)
    }

    fn extend(
        self: &Arc<Self>,
        pad: &gst::Pad,
        caps: &gst::Caps,
        slot: usize,
        pacing: Pacing,
    ) -> Result<(), MediaError> {
        tracing::debug!(slot, %caps, "track");
        let pace = || match pacing {
            Pacing::None | Pacing::Arrival => Ok(None),
            Pacing::HeldBack => self.holder().map(Some),
            Pacing::First | Pacing::Parsed => make("clocksync", &[]).map(Some),
        };
        let (mut chain, codec, encoder) = match Plan::for_caps(caps) {
            Plan::PassThrough(codec) => {
                // The first pictures, of several.
                let renders = codec.kind() == Kind::Video
                    && self.can_render_beside(codec)?
                    && !self.renders.swap(true, Ordering::AcqRel);
                let mut chain = payload::parser(codec)?;
                if pacing == Pacing::First {
                    let pace = make("clocksync", &[])?;
                    clear_decoding_times(&pace);
                    chain.insert(0, pace);
                } else {
                    chain.extend(pace()?);
                }
                if renders {
                    return self.render_beside((pad, caps), slot, codec, chain);
                }
                (chain, codec, None)
            }
            Plan::Encode(Kind::Video) => {
                let is_rendered = !self.config.video.renditions.is_empty();
                // The first pictures, of several.
                if is_rendered && !self.renders.swap(true, Ordering::AcqRel) {
                    return self.render(pad, caps, slot, pace()?);
                }
                let mut chain = encode::tidy(caps, &self.config.video, pace()?)?;
                let pictures = encode::video(caps, &self.config.video, &self.config.video)?;
                self.counters.encodes_with(pictures.name);
                chain.extend(pictures.chain);
                (chain, pictures.codec, Some((pictures.encoder, pictures.tuned)))
            }
            Plan::Encode(Kind::Audio) => {
                let chain = encode::audio(caps, &self.config.audio, pace()?)?;
                (chain, Codec::Opus, None)
            }
            Plan::Decode => return self.decode(pad, slot, pacing),
            Plan::LeaveOut => {
                tracing::info!(%caps, "track left out; it is neither picture nor sound");
                self.leave_out(pad)?;
                self.gate.leave_out(slot);
                return Ok(());
            }
        };
        let payloader = payload::payloader(codec, slot, self.epoch.offset())?;
        let is_from_afar = matches!(pacing, Pacing::Arrival | Pacing::HeldBack);
        if is_from_afar && codec.kind() == Kind::Video {
            begin_at_keyframe(&payloader);
        }
        let pictures = (codec.kind() == Kind::Video).then_some(encoder.as_ref());
        chain.extend(self.finish((slot, None), codec, payloader, pictures));
        self.link(pad, &chain)
            .map_err(|error| MediaError::Track { reason: format!("{error}: {caps}") })
    }

    /// The end of a track: its payloader, and what takes its packets. Of pictures, what encodes them is given where
    /// something does; of a rendition, its name, and its number with whether it is wanted.
    fn finish(
        &self,
        (slot, rendition): (usize, Option<(String, usize, Arc<AtomicBool>)>),
        codec: Codec,
        payloader: gst::Element,
        pictures: Option<Option<&(gst::Element, Arc<Tuned>)>>,
    ) -> [gst::Element; 2] {
        let (name, rendition) = match rendition {
            Some((name, number, is_wanted)) => (Some(name), Some((number, is_wanted))),
            None => (None, None),
        };
        if let Some(encoded) = pictures {
            let (encoder, tuned) = encoded.map(|(encoder, tuned)| (encoder, tuned)).unzip();
            // What the encoder is given, or the payloader where nothing is encoded.
            self.count_pictures(encoder.unwrap_or(&payloader));
            encoder.iter().for_each(|encoder| self.time_pictures(encoder));
            if let Some(pad) = payloader.static_pad("sink") {
                let (payloader, tuned) = (pad.downgrade(), tuned.cloned());
                self.encoded().push(Encoded { payloader, rendition, tuned });
            }
        }
        let track = Track {
            slot,
            codec,
            rendition: name,
            gate: self.gate.clone(),
            counters: self.counters.clone(),
            epoch: self.epoch,
        };
        let sink = unit::sink(track, &payloader);
        [payloader, sink.upcast()]
    }

    fn encoded(&self) -> MutexGuard<'_, Vec<Encoded>> {
        self.encoded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a pad's data apart or decodes it; the first picture or sound in it is the track.
    fn decode(
        self: &Arc<Self>,
        pad: &gst::Pad,
        slot: usize,
        pacing: Pacing,
    ) -> Result<(), MediaError> {
        let decoder = make("decodebin", &[("force-sw-decoders", "true")])?;
        stop_at_final_form(&decoder);
        payload::part_at_once_within(&decoder);
        let taken = AtomicBool::new(false);
        let live = self.clone();
        decoder.connect_pad_added(move |_, pad| {
            if pad.direction() != gst::PadDirection::Src {
                return;
            }
            let usable = pad.current_caps().filter(|caps| Plan::for_caps(caps) != Plan::LeaveOut);
            let outcome = match usable {
                Some(caps) if !taken.swap(true, Ordering::AcqRel) => {
                    live.extend(pad, &caps, slot, pacing)
                }
                _ => live.leave_out(pad),
            };
            if let Err(error) = outcome {
                live.fail(error);
            }
        });
        self.link(pad, std::slice::from_ref(&decoder))
    }

    /// Adds elements behind a pad and starts them, the last one first.
    fn link(&self, pad: &gst::Pad, chain: &[gst::Element]) -> Result<(), MediaError> {
        let entry = self.chain(chain)?;
        pad.link_maybe_ghosting(&entry).map_err(cannot_build)
    }

    /// Adds elements and starts them, the last one first. Returns where pictures or sound go in.
    fn chain(&self, chain: &[gst::Element]) -> Result<gst::Pad, MediaError> {
        if let Some(pipeline) = self.pipeline.upgrade() {
            pipeline.add_many(chain).map_err(cannot_build)?;
            gst::Element::link_many(chain).map_err(cannot_build)?;
            for element in chain.iter().rev() {
                element.sync_state_with_parent().map_err(cannot_build)?;
            }
        }
        let first = chain.first().and_then(|element| element.static_pad("sink"));
        first.ok_or_else(|| cannot_build("a chain without an entry"))
    }

    fn count_pictures(&self, element: &gst::Element) {
        let Some(pad) = element.static_pad("sink") else { return };
        let counters = self.counters.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            counters.count_in();
            gst::PadProbeReturn::Ok
        });
    }

    fn time_pictures(&self, encoder: &gst::Element) {
        let (Some(sink), Some(source)) = (encoder.static_pad("sink"), encoder.static_pad("src"))
        else {
            return;
        };
        let within = Arc::<Mutex<Within>>::default();
        let (entering, counters) = (within.clone(), self.counters.clone());
        sink.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(pts) = info.buffer().and_then(|buffer| buffer.pts()) {
                let mut within = entering.lock().unwrap_or_else(PoisonError::into_inner);
                within.enter(pts, Instant::now());
            }
            gst::PadProbeReturn::Ok
        });
        source.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(pts) = info.buffer().and_then(|buffer| buffer.pts()) {
                let entered_at = within.lock().unwrap_or_else(PoisonError::into_inner).leave(pts);
                if let Some(entered_at) = entered_at {
                    counters.count_encoding(entered_at.elapsed());
                }
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Asks the encoder of a rendition for a keyframe; where there is one only, number 0, all encoders of pictures.
    pub(super) fn request_keyframe(&self, rendition: usize) {
        for encoded in self.encoded().iter() {
            if encoded.rendition.as_ref().is_none_or(|(number, _)| *number == rendition) {
                encoded.request_keyframe();
            }
        }
    }

    /// Encodes those renditions whose bits are set, and no others. One that was not encoded begins with a keyframe.
    pub(super) fn encode(&self, wanted: u32) {
        for encoded in self.encoded().iter() {
            let Some((number, is_wanted)) = &encoded.rendition else { continue };
            let wanted = wanted & (1 << number) != 0;
            if wanted && !is_wanted.load(Ordering::Acquire) {
                // Before the first picture, or that would need some that were never encoded.
                encoded.request_keyframe();
            }
            is_wanted.store(wanted, Ordering::Release);
        }
    }

    /// Has a rendition encoded with so many bits a second from its next picture on; the only one is number 0. False where
    /// its encoder takes no other rate while it runs, `None` where nothing here encodes it.
    pub(super) fn set_bitrate(&self, rendition: usize, bits_per_second: u64) -> Option<bool> {
        let is_meant = |encoded: &&Encoded| match &encoded.rendition {
            Some((number, _)) => *number == rendition,
            None => rendition == 0,
        };
        let tuned: Vec<_> = self
            .encoded()
            .iter()
            .filter(is_meant)
            .filter_map(|encoded| encoded.tuned.clone())
            .collect();
        let set = |tuned: &Arc<Tuned>| tuned.set_bitrate(bits_per_second);
        (!tuned.is_empty()).then(|| tuned.iter().all(set))
    }

    /// The error for a source over the network that has come to an end.
    pub(super) fn over(&self) -> MediaError {
        MediaError::Over { source_name: format!("source {}", self.config.source) }
    }

    pub(super) fn fail(&self, error: MediaError) {
        self.gate.finish(Event::Failed(error));
    }
}

/// Makes a `decodebin` stop as soon as there is something that needs no decoding.
pub(super) fn stop_at_final_form(decodebin: &gst::Element) {
    decodebin.connect("autoplug-continue", false, |arguments| {
        let caps = arguments.get(2).and_then(|caps| caps.get::<gst::Caps>().ok());
        Some(caps.is_none_or(|caps| !Plan::is_final(&caps)).to_value())
    });
}

/// Takes decoding times away behind an element. Parsers work presentation times out from them, and
/// get it wrong where the times were made up for a file that has none.
fn clear_decoding_times(element: &gst::Element) {
    let Some(pad) = element.static_pad("src") else { return };
    pad.add_probe(gst::PadProbeType::BUFFER, |_, info| {
        if let Some(buffer) = info.buffer_mut() {
            buffer.make_mut().set_dts(gst::ClockTime::NONE);
        }
        gst::PadProbeReturn::Ok
    });
}

/// Drops the pictures that come before the first keyframe.
fn begin_at_keyframe(payloader: &gst::Element) {
    let Some(pad) = payloader.static_pad("sink") else { return };
    pad.add_probe(gst::PadProbeType::BUFFER, |_, info| match info.buffer() {
        Some(picture) if picture.flags().contains(gst::BufferFlags::DELTA_UNIT) => {
            gst::PadProbeReturn::Handled
        }
        _ => gst::PadProbeReturn::Remove,
    });
}

fn is_live(pad: &gst::Pad) -> bool {
    let mut latency = gst::query::Latency::new();
    pad.query(&mut latency) && latency.result().0
}

pub(super) fn cannot_build(problem: impl std::fmt::Display) -> MediaError {
    MediaError::Track { reason: problem.to_string() }
}
