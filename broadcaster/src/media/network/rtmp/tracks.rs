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
use super::arrival::Arrival;
use super::flv::{Content, Tag};

/// How long the second track is waited for once the first is known.
const SECOND_TRACK: Duration = Duration::from_secs(1);

/// Bytes that may wait for a track that cannot pass them on.
const ROOM: u64 = 32 << 20;

/// What a publisher sends, on its way into the pipeline.
pub(super) struct Tracks {
    live: Arc<Live>,
    arrival: Arrival,
    /// What the tracks are, pictures first.
    configs: [Option<(Codec, Vec<u8>)>; 2],
    /// Units that came before the tracks were made, and when the first of them came.
    held: Vec<(Kind, gst::Buffer)>,
    known_at: Option<i64>,
    sources: Option<[Option<gst_app::AppSrc>; 2]>,
}

impl Tracks {
    pub(super) fn new(live: Arc<Live>) -> Self {
        let (arrival, configs) = (Arrival::default(), [None, None]);
        Self { live, arrival, configs, held: Vec::new(), known_at: None, sources: None }
    }

    /// Passes one message on.
    ///
    /// # Errors
    ///
    /// Where it is of no use, or more comes than goes on.
    pub(super) fn take(&mut self, flv: &[u8]) -> Result<(), MediaError> {
        let tag = Tag::read(flv).map_err(cannot_build)?;
        let now = self.live.epoch.now();
        match tag.content {
            Content::Nothing => return Ok(()),
            Content::Config(codec, config) => self.configure(codec, config)?,
            Content::Picture { delay, data } => {
                let at = self.arrival.place(tag.timestamp, now);
                let shown_at = at.saturating_add(i64::from(delay) * 1_000_000);
                self.pass(Kind::Video, buffer(data, at, shown_at))?;
            }
            Content::Sound(data) => {
                let at = self.arrival.place(tag.timestamp, now);
                self.pass(Kind::Audio, buffer(data, at, at))?;
            }
        }
        let is_late =
            |known_at| now - known_at >= SECOND_TRACK.as_nanos().try_into().unwrap_or(i64::MAX);
        if self.configs.iter().all(Option::is_some) || self.known_at.is_some_and(is_late) {
            self.settle()?;
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

    fn pass(&mut self, kind: Kind, buffer: gst::Buffer) -> Result<(), MediaError> {
        let Some(sources) = &self.sources else {
            // What comes before its track is known cannot be decoded.
            if self.configs[place(kind)].is_some() {
                self.held.push((kind, buffer));
            }
            return Ok(());
        };
        let Some(source) = &sources[place(kind)] else { return Ok(()) };
        if source.current_level_bytes() > ROOM {
            return Err(cannot_build("more comes than can be passed on"));
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
        for (kind, buffer) in std::mem::take(&mut self.held) {
            self.pass(kind, buffer)?;
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

/// A coded unit with its times, in nanoseconds of running time.
fn buffer(data: &[u8], decoded_at: i64, shown_at: i64) -> gst::Buffer {
    let time = |at: i64| gst::ClockTime::from_nseconds(u64::try_from(at).unwrap_or(0));
    let mut buffer = gst::Buffer::from_slice(data.to_owned());
    if let Some(buffer) = buffer.get_mut() {
        buffer.set_dts(time(decoded_at));
        buffer.set_pts(time(shown_at));
    }
    buffer
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
