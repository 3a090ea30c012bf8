//! What a stored file holds, found by taking it apart up to its first packets. Nothing is decoded.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_pbutils as gst_pbutils;
use protocol::library::{StoredMedia, StoredTrack};
use protocol::media::Kind;

use super::elements::{init, make};
use super::error::{MediaError, one_line};
use super::plan::Plan;
use super::stored::{self, keep_to_the_file, passes_through};
use super::track::cannot_build;

/// How long a file may take to show its tracks.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long each track may take to show its first packet once all tracks are known. A track may well be
/// silent at the beginning, and is there all the same.
const DATA_TIMEOUT: Duration = Duration::from_secs(1);

/// How often whoever asked is asked whether the answer is still wanted.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// How many such intervals in a row nothing may move before a file is given up.
const MOST_IDLE: u32 = 10;

/// Tracks of a file that are listed; films have a dozen.
const MOST_TRACKS: usize = 32;

/// Most bytes of what a file may say in its own words.
const MOST_WORDS: usize = 80;

/// Looks what a file holds. The error is one line for people, without the file's name.
///
/// It takes 11 s at most. `stopped` is asked now and then; once it says yes, the answer is of no use.
pub(crate) fn probe(location: &Path, stopped: &dyn Fn() -> bool) -> Result<StoredMedia, String> {
    let mut probe = Probe::start(location).map_err(|error| error.to_string())?;
    probe.wait(stopped)?;
    let mut media = probe.media()?;
    let said = media.duration_us.map(Duration::from_micros);
    media.duration_us = stored::duration(location, said)
        .map(|duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    Ok(media)
}

/// What a running probe tells.
enum Step {
    Pad(Track),
    NoMorePads,
    Data,
    End,
    Failed(glib::Error),
}

/// A track as it was found.
struct Track {
    pad: gst::Pad,
    has_data: Arc<AtomicBool>,
}

impl Track {
    fn has_data(&self) -> bool {
        self.has_data.load(Ordering::Acquire)
    }

    /// What it holds, if it is picture or sound.
    fn caps_and_kind(&self) -> Option<(gst::Caps, Kind)> {
        let caps = self.pad.current_caps().unwrap_or_else(|| self.pad.query_caps(None));
        if Plan::for_caps(&caps) == Plan::LeaveOut {
            return None;
        }
        let kind = match caps.structure(0)?.name().split_once('/')?.0 {
            "video" | "image" => Kind::Video,
            "audio" => Kind::Audio,
            _ => return None,
        };
        Some((caps, kind))
    }
}

struct Probe {
    pipeline: gst::Pipeline,
    parser: gst::Element,
    steps: Receiver<Step>,
    tracks: Vec<Track>,
}

impl Probe {
    fn start(location: &Path) -> Result<Self, MediaError> {
        init()?;
        let pipeline = gst::Pipeline::new();
        let source = make("filesrc", &[])?;
        source.set_property("location", location);
        let parser = make("parsebin", &[])?;
        keep_to_the_file(&parser);
        pipeline.add_many([&source, &parser]).map_err(cannot_build)?;
        source.link(&parser).map_err(cannot_build)?;

        let (to, steps) = mpsc::channel();
        let bus = pipeline.bus().ok_or_else(|| cannot_build("a pipeline without a bus"))?;
        listen(&bus, &parser, &to, &pipeline);
        let probe = Self { pipeline, parser, steps, tracks: Vec::new() };
        // The bus says why where this fails.
        if probe.pipeline.set_state(gst::State::Playing).is_err() {
            tracing::debug!("a file's probe did not start");
        }
        Ok(probe)
    }

    /// Waits until the tracks are known and each has shown a packet, or has had its time.
    fn wait(&mut self, stopped: &dyn Fn() -> bool) -> Result<(), String> {
        let mut deadline = Instant::now() + PROBE_TIMEOUT;
        let mut is_complete = false;
        let mut idle = 0;
        while !stopped() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.steps.recv_timeout(left.min(STOP_INTERVAL)) {
                Ok(Step::Pad(track)) => self.tracks.push(track),
                Ok(Step::NoMorePads) => {
                    is_complete = true;
                    deadline = deadline.min(Instant::now() + DATA_TIMEOUT);
                }
                Ok(Step::Data) => idle = 0,
                // Cut short: what is there can be played.
                Ok(Step::Failed(_)) if self.tracks.iter().any(Track::has_data) => return Ok(()),
                Ok(Step::Failed(error)) => return Err(self.problem(&error)),
                Ok(Step::End) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if left > Duration::ZERO => {
                    idle = if is_at_work(self.pipeline.upcast_ref()) { 0 } else { idle + 1 };
                    match idle > MOST_IDLE {
                        true if self.tracks.is_empty() => {
                            return Err("damaged: its index is missing or broken".to_owned());
                        }
                        true => return Ok(()),
                        false => {}
                    }
                }
                Err(_) if is_complete => return Ok(()),
                Err(_) => {
                    return Err("damaged: it takes too long to find out what is in it".to_owned());
                }
            }
            let is_shown = |track: &Track| track.has_data() || track.caps_and_kind().is_none();
            if is_complete && self.tracks.iter().all(is_shown) {
                return Ok(());
            }
        }
        Err("nobody waits".to_owned())
    }

    fn media(&self) -> Result<StoredMedia, String> {
        if self.is_of("image/") {
            return Err("not a video: it is a picture".to_owned());
        }
        let decoders = gst::ElementFactory::factories_with_type(
            gst::ElementFactoryType::DECODER,
            gst::Rank::MARGINAL,
        );
        let mut unknown = None;
        let mut listed = Vec::new();
        for track in self.tracks.iter().take(MOST_TRACKS) {
            let Some((caps, kind)) = track.caps_and_kind() else { continue };
            let codec = codec(&caps);
            let is_known = passes_through(&caps)
                || matches!(Plan::for_caps(&caps), Plan::Encode(_))
                || decoders.iter().any(|decoder| decoder.can_sink_any_caps(&caps));
            match is_known {
                true => listed.push(stored_track(track, &caps, kind, codec)),
                false => unknown = Some(codec),
            }
        }
        match unknown {
            _ if listed.is_empty() && self.tracks.is_empty() => Err("not a video".to_owned()),
            Some(codec) if listed.is_empty() => Err(format!("{codec} cannot be decoded here")),
            None if listed.is_empty() && self.is_of("text/") => Err("not a video".to_owned()),
            None if listed.is_empty() => Err("neither picture nor sound in it".to_owned()),
            _ if !self.tracks.iter().any(Track::has_data) => {
                Err("damaged: it ends before its first picture or sound".to_owned())
            }
            _ => {
                let duration_us = self.tracks.iter().filter_map(|track| duration(&track.pad)).max();
                Ok(StoredMedia { duration_us, tracks: listed })
            }
        }
    }

    /// Whether the whole file is of this media type.
    fn is_of(&self, start: &str) -> bool {
        let typefind =
            self.parser.downcast_ref::<gst::Bin>().and_then(|bin| bin.by_name("typefind"));
        let caps = typefind.and_then(|found| found.property::<Option<gst::Caps>>("caps"));
        caps.as_ref()
            .and_then(|caps| caps.structure(0))
            .is_some_and(|structure| structure.name().starts_with(start))
    }

    /// Puts an error into words that say nothing of elements.
    fn problem(&self, error: &glib::Error) -> String {
        if self.is_of("image/") {
            return "not a video: it is a picture".to_owned();
        }
        match error.kind::<gst::StreamError>() {
            Some(gst::StreamError::TypeNotFound | gst::StreamError::WrongType) => {
                "not a video".to_owned()
            }
            Some(gst::StreamError::CodecNotFound) if self.is_of("text/") => {
                "not a video".to_owned()
            }
            Some(gst::StreamError::CodecNotFound) => {
                "what is in it cannot be decoded here".to_owned()
            }
            // As much as some MP4 say that have no index.
            _ if error.message().contains("no playable streams") => {
                "damaged: its index is missing or broken".to_owned()
            }
            _ if error.message().contains("stream error") => {
                "damaged: it cannot be taken apart".to_owned()
            }
            _ => format!("damaged: {}", words(error.message().trim_end_matches('.'))),
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::debug!("a file's probe did not stop in order");
        }
    }
}

/// Has everything that happens told. Who no longer listens is told nothing.
fn listen(bus: &gst::Bus, parser: &gst::Element, to: &Sender<Step>, pipeline: &gst::Pipeline) {
    let sender = to.clone();
    bus.set_sync_handler(move |_, message| {
        match message.view() {
            gst::MessageView::Error(error) => sender.send(Step::Failed(error.error())),
            gst::MessageView::Eos(_) => sender.send(Step::End),
            _ => Ok(()),
        }
        .unwrap_or_default();
        gst::BusSyncReply::Drop
    });
    let sender = to.clone();
    parser.connect_no_more_pads(move |_| sender.send(Step::NoMorePads).unwrap_or_default());
    let sender = to.clone();
    let pipeline = pipeline.downgrade();
    parser.connect_pad_added(move |_, pad| {
        if let Some(pipeline) = pipeline.upgrade()
            && let Err(error) = drain(&pipeline, pad, &sender)
        {
            tracing::debug!(%error, "a track of a file is not looked at");
        }
    });
}

/// Whether any thread still moves data. `parsebin` keeps an error to itself that comes while it plugs the
/// element that fails: then this is all that tells.
fn is_at_work(bin: &gst::Bin) -> bool {
    let elements = bin.iterate_recurse().into_iter().flatten();
    elements
        .flat_map(|element| element.pads())
        .any(|pad| pad.task_state() == gst::TaskState::Started)
}

/// Leads a track nowhere, and tells of its first packet.
fn drain(pipeline: &gst::Pipeline, pad: &gst::Pad, to: &Sender<Step>) -> Result<(), MediaError> {
    let sink = make("fakesink", &[("sync", "false"), ("async", "false")])?;
    pipeline.add(&sink).map_err(cannot_build)?;
    let entry = sink.static_pad("sink").ok_or_else(|| cannot_build("a sink without a pad"))?;
    let has_data = Arc::new(AtomicBool::new(false));
    let track = Track { pad: pad.clone(), has_data: has_data.clone() };
    to.send(Step::Pad(track)).unwrap_or_default();
    let sender = to.clone();
    entry.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |_, _| {
        has_data.store(true, Ordering::Release);
        sender.send(Step::Data).unwrap_or_default();
        gst::PadProbeReturn::Remove
    });
    sink.sync_state_with_parent().map_err(cannot_build)?;
    pad.link(&entry).map_err(cannot_build)?;
    Ok(())
}

fn stored_track(track: &Track, caps: &gst::CapsRef, kind: Kind, codec: String) -> StoredTrack {
    let detail = match kind {
        Kind::Video => picture_detail(caps),
        Kind::Audio => sound_detail(caps),
    };
    let language = language(&track.pad);
    StoredTrack { kind, codec, detail, passes_through: passes_through(caps), language }
}

/// The codec's usual name.
fn codec(caps: &gst::CapsRef) -> String {
    let Some(structure) = caps.structure(0) else { return "unknown".to_owned() };
    let version = structure.get::<i32>("mpegversion").ok();
    let name = match structure.name().as_str() {
        "video/x-h264" => "H.264",
        "video/x-h265" => "H.265",
        "video/x-vp8" => "VP8",
        "video/x-vp9" => "VP9",
        "video/x-av1" => "AV1",
        "audio/x-opus" => "Opus",
        "audio/mpeg" if matches!(version, Some(2 | 4)) => "AAC",
        _ if caps.is_fixed() => {
            return words(&gst_pbutils::pb_utils_get_codec_description(caps));
        }
        name => return words(name),
    };
    name.to_owned()
}

/// Such as `640x360 25 fps`.
fn picture_detail(caps: &gst::CapsRef) -> String {
    let Some(structure) = caps.structure(0) else { return String::new() };
    let size = structure
        .get::<i32>("width")
        .and_then(|width| Ok(format!("{width}x{}", structure.get::<i32>("height")?)));
    let rate = structure.get::<gst::Fraction>("framerate").ok().filter(|rate| rate.numer() > 0);
    let rate = rate
        .map(|rate| format!("{} fps", rounded(f64::from(rate.numer()) / f64::from(rate.denom()))));
    size.ok().into_iter().chain(rate).collect::<Vec<_>>().join(" ")
}

/// Such as `2 ch 48 kHz`.
fn sound_detail(caps: &gst::CapsRef) -> String {
    let Some(structure) = caps.structure(0) else { return String::new() };
    let channels = structure.get::<i32>("channels").ok().map(|channels| format!("{channels} ch"));
    let rate = structure.get::<i32>("rate").ok();
    let rate = rate.map(|rate| format!("{} kHz", rounded(f64::from(rate) / 1000.0)));
    channels.into_iter().chain(rate).collect::<Vec<_>>().join(" ")
}

/// With two decimals at most: `29.97`, `25`.
fn rounded(number: f64) -> String {
    format!("{number:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The language that a track's tags name.
fn language(pad: &gst::Pad) -> Option<String> {
    let mut language = None;
    pad.sticky_events_foreach(|event| {
        if let gst::EventView::Tag(tag) = event.view()
            && let Some(code) = tag.tag().get::<gst::tags::LanguageCode>()
        {
            language = Some(words(code.get()));
        }
        std::ops::ControlFlow::Continue(gst::EventForeachAction::Keep)
    });
    language.filter(|code| !code.is_empty() && code != "und")
}

/// In microseconds.
fn duration(pad: &gst::Pad) -> Option<u64> {
    pad.query_duration::<gst::ClockTime>().map(|duration| duration.useconds())
}

/// Words from a file or of a library, in one line of bounded length.
fn words(text: &str) -> String {
    let mut line = one_line(text);
    line.retain(|character| !character.is_control());
    line.truncate(line.floor_char_boundary(MOST_WORDS));
    line
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::media::thumbnail::thumbnail;

    #[test]
    fn what_is_in_a_file_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let picture = "videotestsrc num-buffers=50 ! \
            video/x-raw,format=I420,width=320,height=240,framerate=25/1";
        let sound = "audiotestsrc num-buffers=86 samplesperbuffer=1024 ! audio/x-raw,rate=44100";
        let path = folder.path().join("film");
        let to = format!("filesink location={}", path.display());
        for (description, tracks) in [
            (
                format!(
                    "{picture} ! x264enc ! h264parse ! queue ! m. \
                     {sound},channels=2 ! avenc_aac ! aacparse ! taginject tags=language-code=de ! queue ! m. \
                     {sound},channels=1 ! avenc_aac ! aacparse ! queue ! m. mp4mux name=m ! {to}"
                ),
                vec![
                    track(Kind::Video, "H.264", "320x240 25 fps", true, None),
                    track(Kind::Audio, "AAC", "2 ch 44.1 kHz", true, Some("de")),
                    track(Kind::Audio, "AAC", "1 ch 44.1 kHz", true, None),
                ],
            ),
            (
                format!(
                    "{picture} ! vp8enc deadline=1 ! queue ! m. {sound} ! audioresample ! opusenc ! \
                     queue ! m. webmmux name=m ! {to}"
                ),
                vec![
                    track(Kind::Video, "VP8", "320x240 25 fps", true, None),
                    // English is what Matroska takes for granted.
                    track(Kind::Audio, "Opus", "1 ch 48 kHz", true, Some("en")),
                ],
            ),
            (
                format!(
                    "{picture} ! jpegenc ! queue ! m. {sound},channels=1 ! queue ! m. avimux name=m ! {to}"
                ),
                vec![
                    track(Kind::Video, "JPEG", "320x240 25 fps", false, None),
                    track(Kind::Audio, "Raw 16-bit PCM audio", "1 ch 44.1 kHz", false, None),
                ],
            ),
        ] {
            run_to_end(&description);
            let media = probe(&path, &|| false).expect("playable");
            assert_eq!(media.tracks, tracks, "{description}");
            let duration = media.duration_us.expect("said");
            assert!((1_990_000..2_050_000).contains(&duration), "{duration}");
            let jpeg = thumbnail(&path, Some(Duration::from_micros(duration)), &|| false);
            assert!(jpeg.expect("a picture").starts_with(&[0xff, 0xd8]));
        }
    }

    #[test]
    fn what_cannot_be_played_is_told_in_plain_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).expect("written");
            path
        };
        let whole = fs::read(clip()).expect("the clip");
        let picture = folder.path().join("picture");
        run_to_end(&format!(
            "videotestsrc num-buffers=1 ! pngenc ! filesink location={}",
            picture.display()
        ));
        let playlist = format!(
            "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{}\n#EXT-X-ENDLIST\n",
            clip().display()
        );
        for (path, expected) in [
            (write("text.mp4", b"This is not a film.\n".repeat(100).as_slice()), "not a video"),
            (write("short.mp4", b"hi"), "not a video"),
            (picture, "not a video: it is a picture"),
            // The clip has its index at the end.
            (
                write("half.mp4", &whole[..whole.len() / 2]),
                "damaged: its index is missing or broken",
            ),
            (
                write("subtitles.mp4", b"WEBVTT\n\n00:00.000 --> 00:02.000\nhi\n"),
                "neither picture nor sound in it",
            ),
            // What it points at could be played.
            (write("list.mp4", playlist.as_bytes()), "neither picture nor sound in it"),
        ] {
            let begun = Instant::now();
            assert_eq!(probe(&path, &|| false), Err(expected.to_owned()), "{path:?}");
            assert!(begun.elapsed() < Duration::from_secs(5), "{path:?}: {:?}", begun.elapsed());
        }
    }

    #[test]
    fn who_no_longer_waits_is_not_kept() {
        assert_eq!(probe(&clip(), &|| true), Err("nobody waits".to_owned()));
        assert_eq!(thumbnail(&clip(), None, &|| true), None);
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [(25.0, "25"), (29.97003, "29.97"), (44.1, "44.1"), (100.0, "100")] {
            assert_eq!(rounded(number), text);
        }
    }

    fn track(
        kind: Kind,
        codec: &str,
        detail: &str,
        passes_through: bool,
        language: Option<&str>,
    ) -> StoredTrack {
        let language = language.map(str::to_owned);
        StoredTrack {
            kind,
            codec: codec.to_owned(),
            detail: detail.to_owned(),
            passes_through,
            language,
        }
    }

    fn clip() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/media/bigbuckbunny.mp4")
    }

    fn run_to_end(description: &str) {
        init().expect("GStreamer starts");
        let pipeline = gst::parse::launch(description).expect("legal description");
        pipeline.set_state(gst::State::Playing).expect("starts");
        let bus = pipeline.bus().expect("a pipeline has a bus");
        let timeout = gst::ClockTime::from_seconds(30);
        let end =
            bus.timed_pop_filtered(timeout, &[gst::MessageType::Eos, gst::MessageType::Error]);
        let end = end.expect("an end in time");
        assert_eq!(end.type_(), gst::MessageType::Eos, "{end:?}");
        pipeline.set_state(gst::State::Null).expect("stops");
    }
}
