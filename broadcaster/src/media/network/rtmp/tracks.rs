//! From a publisher's messages to tracks: each has its `appsrc`, made once it is known what it carries.

use std::sync::Arc;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_pbutils as gst_pbutils;
use protocol::media::Kind;

use super::super::super::error::MediaError;
use super::super::super::plan::Codec;
use super::super::super::track::{Live, Timing, cannot_build};
use super::super::arrival::Arrival;
use super::flv::{Content, Tag};

/// How long the second track is waited for once the first is known.
const SECOND_TRACK: Duration = Duration::from_secs(1);

/// How long messages are held at first, until some have come quickly: what is passed on afterwards lies evenly from its
/// beginning.
const FIRST_LOOK: Duration = Duration::from_millis(250);

/// Bytes that may wait for a track that cannot pass them on.
const ROOM: u64 = 32 << 20;

/// What a publisher sends, on its way into the pipeline.
pub(super) struct Tracks {
    live: Arc<Live>,
    arrival: Arrival,
    /// What the tracks are, pictures first.
    configs: [Option<(Codec, Vec<u8>)>; 2],
    /// Units that came before the tracks were made, and their bytes.
    held: Vec<Unit>,
    held_bytes: u64,
    /// When the first track was known, in running time.
    known_at: Option<i64>,
    sources: Option<[Option<gst_app::AppSrc>; 2]>,
}

/// A coded picture, or a frame of sound.
struct Unit {
    kind: Kind,
    /// Decoding time, by the publisher's clock, in milliseconds.
    timestamp: u32,
    /// From decoding to presentation, in milliseconds.
    delay: i32,
    /// In running time.
    came_at: i64,
    data: Vec<u8>,
}

impl Tracks {
    pub(super) fn new(live: Arc<Live>) -> Self {
        let (arrival, configs) = (Arrival::default(), [None, None]);
        let held = Vec::new();
        Self { live, arrival, configs, held, held_bytes: 0, known_at: None, sources: None }
    }

    /// Passes one message on.
    ///
    /// # Errors
    ///
    /// Where it is of no use, or more comes than goes on.
    pub(super) fn take(&mut self, flv: &[u8]) -> Result<(), MediaError> {
        let tag = Tag::read(flv).map_err(cannot_build)?;
        let now = self.live.epoch.now();
        let timestamp = tag.timestamp;
        let unit = |kind, delay, data: &[u8]| Unit {
            kind,
            timestamp,
            delay,
            came_at: now,
            data: data.to_owned(),
        };
        match tag.content {
            Content::Nothing => return Ok(()),
            Content::Config(codec, config) => self.configure(codec, config)?,
            Content::Picture { delay, data } => self.receive(unit(Kind::Video, delay, data))?,
            Content::Sound(data) => self.receive(unit(Kind::Audio, 0, data))?,
        }
        if let Some(known_at) = self.known_at {
            let known_for = Duration::from_nanos(u64::try_from(now - known_at).unwrap_or(0));
            let are_all_known = self.configs.iter().all(Option::is_some);
            if known_for >= if are_all_known { FIRST_LOOK } else { SECOND_TRACK } {
                self.settle()?;
            }
        }
        Ok(())
    }

    /// How long to wait for the next message before all tracks are taken to be known.
    pub(super) fn patience(&self) -> Option<Duration> {
        (self.sources.is_none() && self.known_at.is_some()).then_some(SECOND_TRACK)
    }

    /// No more comes.
    pub(super) fn end(&self) {
        let Some(sources) = &self.sources else { return self.live.fail(self.live.over()) };
        for source in sources.iter().flatten() {
            // It refuses when the pipeline stops already.
            let _ = source.end_of_stream();
        }
    }

    fn configure(&mut self, codec: Codec, config: &[u8]) -> Result<(), MediaError> {
        let slot = place(codec.kind());
        let known = &mut self.configs[slot];
        if known
            .as_ref()
            .is_some_and(|(codec_known, known)| (*codec_known, &**known) == (codec, config))
        {
            return Ok(());
        }
        let is_first = known.replace((codec, config.to_owned())).is_none();
        self.known_at.get_or_insert_with(|| self.live.epoch.now());
        match &self.sources {
            None => Ok(()),
            // Other pictures of the same kind, as after a change of their size.
            Some(sources) if !is_first && codec.kind() == Kind::Video => {
                let caps = caps(codec, config)?;
                sources[slot].iter().for_each(|source| source.set_caps(Some(&caps)));
                Ok(())
            }
            Some(_) if is_first => {
                tracing::warn!("track left out; it came after the others had begun");
                Ok(())
            }
            Some(_) => Err(cannot_build("the publisher's audio has changed")),
        }
    }

    fn receive(&mut self, unit: Unit) -> Result<(), MediaError> {
        if self.sources.is_some() {
            return self.pass(unit);
        }
        self.arrival.place(unit.timestamp, unit.came_at);
        // What comes before its track is known cannot be decoded.
        if self.configs[place(unit.kind)].is_some() {
            self.held_bytes += unit.data.len() as u64;
            self.held.push(unit);
        }
        if self.held_bytes > ROOM {
            return Err(too_much());
        }
        Ok(())
    }

    fn pass(&mut self, unit: Unit) -> Result<(), MediaError> {
        let decoded_at = self.arrival.place(unit.timestamp, unit.came_at);
        let source = self.sources.as_ref().and_then(|sources| sources[place(unit.kind)].as_ref());
        let Some(source) = source else { return Ok(()) };
        if source.current_level_bytes() > ROOM {
            return Err(too_much());
        }
        let time = |at: i64| gst::ClockTime::from_nseconds(u64::try_from(at).unwrap_or(0));
        let shown_at = decoded_at.saturating_add(i64::from(unit.delay) * 1_000_000);
        let mut buffer = gst::Buffer::from_slice(unit.data);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_dts(time(decoded_at));
            buffer.set_pts(time(shown_at));
        }
        // It refuses when the pipeline stops already.
        let _ = source.push_buffer(buffer);
        Ok(())
    }

    /// Makes the tracks that are known, unless they are made: pictures first, whatever came first, for a publisher that
    /// comes back is to fit the channel.
    ///
    /// # Errors
    ///
    /// Where one cannot be made.
    pub(super) fn settle(&mut self) -> Result<(), MediaError> {
        if self.sources.is_some() {
            return Ok(());
        }
        let mut sources = [None, None];
        for (source, config) in sources.iter_mut().zip(&self.configs) {
            let Some((codec, config)) = config else { continue };
            let made = gst_app::AppSrc::builder()
                .format(gst::Format::Time)
                .is_live(true)
                .caps(&caps(*codec, config)?)
                .max_bytes(0)
                .build();
            self.live.add(&made)?;
            let pad = made.static_pad("src");
            let pad = pad.ok_or_else(|| cannot_build("a source without a pad"))?;
            self.live.attach(&pad, Timing::Network)?;
            made.sync_state_with_parent().map_err(cannot_build)?;
            *source = Some(made);
        }
        self.live.gate.complete();
        self.sources = Some(sources);
        self.arrival.settle(0);
        for unit in std::mem::take(&mut self.held) {
            self.pass(unit)?;
        }
        Ok(())
    }
}

fn place(kind: Kind) -> usize {
    match kind {
        Kind::Video => 0,
        Kind::Audio => 1,
    }
}

fn too_much() -> MediaError {
    cannot_build("more comes than can be passed on")
}

fn caps(codec: Codec, config: &[u8]) -> Result<gst::Caps, MediaError> {
    let codec_data = gst::Buffer::from_slice(config.to_owned());
    let pictures = |name: &str, form: &str| {
        gst::Caps::builder(name).field("stream-format", form).field("alignment", "au")
    };
    let caps = match codec {
        Codec::H264 => pictures("video/x-h264", "avc"),
        Codec::H265 => pictures("video/x-h265", "hvc1"),
        _ => {
            let rate = gst_pbutils::codec_utils_aac_get_sample_rate(config);
            let channels = gst_pbutils::codec_utils_aac_get_channels(config);
            let known = |number: u32| i32::try_from(number).ok().filter(|number| *number > 0);
            let (Some(rate), Some(channels)) = (known(rate), known(channels)) else {
                return Err(cannot_build("the publisher's audio cannot be understood"));
            };
            gst::Caps::builder("audio/mpeg")
                .field("mpegversion", 4)
                .field("stream-format", "raw")
                .field("framed", true)
                .field("rate", rate)
                .field("channels", channels)
        }
    };
    Ok(caps.field("codec_data", codec_data).build())
}
