//! What is made of the items' pictures and sound: one form of each for the whole channel.
//!
//! If all items have pictures of one codec, these pass through, whatever their sizes; if not, all are
//! decoded, brought to one size and encoded anew. Sound likewise, which has to be alike in more, and to
//! be there: silence can only be put where samples are.

use std::path::{Path, PathBuf};

use gstreamer as gst;
use protocol::media::Kind;

use super::reader::TrackInfo;
use super::timeline::Shape;
use crate::media::config::VideoConfig;
use crate::media::encode::OPUS_RATE;
use crate::media::plan::{Codec, Plan};

/// What becomes of the tracks of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// As the item has them, decoded only where viewers don't know the codec.
    AsFound,
    /// Decoded, and brought into the form that these caps tell.
    Raw(gst::Caps),
    LeftOut,
}

/// A track of the channel.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) form: Form,
    /// As the first item has it, or as it is made.
    pub(super) info: TrackInfo,
}

/// An item's tracks.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) path: PathBuf,
    pub(super) tracks: Vec<TrackInfo>,
}

/// The channel's tracks: pictures first.
#[derive(Debug, Clone, Default)]
pub(super) struct Lineup {
    lines: Vec<Line>,
}

impl Lineup {
    /// Takes the tracks of the only item there is as they are.
    pub(super) fn of(tracks: &[TrackInfo]) -> Self {
        let as_found = |info: &TrackInfo| Line { form: Form::AsFound, info: info.clone() };
        let mut lines: Vec<_> = tracks.iter().map(as_found).collect();
        lines.sort_by_key(|line| line.info.shape.kind() == Kind::Audio);
        Self { lines }
    }

    /// Finds the form that all items can have.
    pub(super) fn for_items(looks: &[Look], config: &VideoConfig) -> Self {
        let has_pictures = looks.iter().any(|look| look.track(Kind::Video).is_some());
        // The others will be left out.
        let looks: Vec<_> = looks
            .iter()
            .filter(|look| !has_pictures || look.track(Kind::Video).is_some())
            .collect();
        let pictures = || raw_pictures(config);
        let sound = || raw_sound(&looks);
        let lines = [line(&looks, Kind::Video, pictures), line(&looks, Kind::Audio, sound)];
        Self { lines: lines.into_iter().flatten().collect() }
    }

    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// What is wanted of an item's tracks of a kind. Before anything is settled, that is what there is.
    pub(super) fn form(&self, kind: Kind) -> Form {
        let line = self.lines.iter().find(|line| line.info.shape.kind() == kind);
        match line {
            Some(line) => line.form.clone(),
            None if self.lines.is_empty() => Form::AsFound,
            None => Form::LeftOut,
        }
    }

    /// Which line each of an item's tracks belongs to, or why the item can't be played in this lineup.
    pub(super) fn fit(&self, tracks: &[TrackInfo]) -> Result<Vec<usize>, String> {
        for line in &self.lines {
            let kind = line.info.shape.kind();
            let what = words(kind);
            let can_lack = kind == Kind::Audio && line.form != Form::AsFound;
            match tracks.iter().find(|track| track.shape.kind() == kind) {
                None if !can_lack => return Err(format!("it has no {what}")),
                Some(track) if line.form == Form::AsFound && !alike(&line.info, track) => {
                    let (its, passing) = (describe(track), describe(&line.info));
                    return Err(format!("its {what}: {its}; the channel's: {passing}"));
                }
                _ => {}
            }
        }
        let line_of = |track: &TrackInfo| {
            self.lines.iter().position(|line| line.info.shape.kind() == track.shape.kind())
        };
        tracks.iter().map(|track| line_of(track).ok_or("a track too many".to_owned())).collect()
    }
}

impl Look {
    fn track(&self, kind: Kind) -> Option<&TrackInfo> {
        self.tracks.iter().find(|track| track.shape.kind() == kind)
    }
}

/// The line of a kind, if any item has tracks of it.
fn line(looks: &[&Look], kind: Kind, raw: impl Fn() -> TrackInfo) -> Option<Line> {
    let first = looks.iter().find_map(|look| look.track(kind))?;
    Some(match misfit(looks, kind, first) {
        None => Line { form: Form::AsFound, info: first.clone() },
        Some((path, reason)) => {
            let (what, item) = (words(kind), path.display());
            tracing::info!(%item, reason, "{what} of all items decoded and encoded anew");
            let info = raw();
            Line { form: Form::Raw(info.caps.clone()), info }
        }
    })
}

/// The first item that keeps tracks of a kind from passing through.
fn misfit<'a>(looks: &[&'a Look], kind: Kind, first: &TrackInfo) -> Option<(&'a Path, String)> {
    let reason = |track: Option<&TrackInfo>| match track {
        None if kind == Kind::Audio => Some("it has none".to_owned()),
        Some(track) if passed(track).is_none() => Some(describe(track)),
        Some(track) if !alike(first, track) => {
            Some(format!("{}, where others have {}", describe(track), describe(first)))
        }
        _ => None,
    };
    looks.iter().find_map(|look| Some((look.path.as_path(), reason(look.track(kind))?)))
}

/// Whether one track can follow the other without anybody having to start anew.
fn alike(one: &TrackInfo, other: &TrackInfo) -> bool {
    let fields: &[&str] = match (Plan::for_caps(&one.caps), one.shape) {
        // Sizes and parameter sets may change at a keyframe.
        (Plan::PassThrough(codec), _) => match codec {
            Codec::Aac => &["stream-format", "codec_data", "rate", "channels"],
            Codec::Opus => &["channels"],
            Codec::H264 | Codec::H265 | Codec::Vp8 | Codec::Vp9 | Codec::Av1 => &["stream-format"],
        },
        (_, Shape::Pictures) => &["format", "width", "height", "framerate"],
        _ => &["rate", "channels"],
    };
    let chosen = |track: &TrackInfo| {
        let structure = track.caps.structure(0)?;
        let mut chosen = gst::Structure::new_empty(structure.name());
        for &field in fields {
            if let Ok(value) = structure.value(field) {
                chosen.set_value(field, value.clone());
            }
        }
        Some(chosen)
    };
    one.shape == other.shape && chosen(one) == chosen(other)
}

/// The codec of what passes through.
fn passed(track: &TrackInfo) -> Option<Codec> {
    match Plan::for_caps(&track.caps) {
        Plan::PassThrough(codec) => Some(codec),
        _ => None,
    }
}

fn describe(track: &TrackInfo) -> String {
    let Some(codec) = passed(track) else { return "a codec that viewers don't know".to_owned() };
    let structure = track.caps.structure(0);
    let text = |field| structure.and_then(|fields| fields.get::<&str>(field).ok());
    let number = |field| structure.and_then(|fields| fields.get::<i32>(field).ok());
    let details = [
        text("stream-format").map(str::to_owned),
        number("rate").map(|rate| format!("{rate} Hz")),
        number("channels").map(|channels| format!("{channels} channels")),
    ];
    let details: Vec<_> = details.into_iter().flatten().collect();
    match details.is_empty() {
        true => codec.name().to_owned(),
        false => format!("{} ({})", codec.name(), details.join(", ")),
    }
}

fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Video => "pictures",
        Kind::Audio => "sound",
    }
}

/// Pictures of the configuration's size. At no rate: that of each item is its own, and is made even
/// before they are encoded.
fn raw_pictures(config: &VideoConfig) -> TrackInfo {
    let side = |side: u32| (i32::try_from(side).unwrap_or(i32::MAX) & !1).max(2);
    let caps = gst::Caps::builder("video/x-raw")
        .field("format", "I420")
        .field("width", side(config.width))
        .field("height", side(config.height))
        .field("framerate", gst::Fraction::new(0, 1))
        .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
        .field("interlace-mode", "progressive")
        .field("colorimetry", "bt709")
        .build();
    TrackInfo { shape: Shape::Pictures, caps }
}

/// Samples of as many channels as the item with most has, up to two.
fn raw_sound(looks: &[&Look]) -> TrackInfo {
    let sounds = looks.iter().filter_map(|look| look.track(Kind::Audio));
    let channels = |track: &TrackInfo| {
        track.caps.structure(0).and_then(|fields| fields.get::<i32>("channels").ok()).unwrap_or(2)
    };
    let channels = sounds.map(channels).max().unwrap_or(2).clamp(1, 2);
    let caps = gst::Caps::builder("audio/x-raw")
        .field("format", "S16LE")
        .field("layout", "interleaved")
        .field("rate", OPUS_RATE)
        .field("channels", channels)
        .build();
    TrackInfo { shape: Shape::Samples { channels: channels as usize }, caps }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    const AVC: &str = "video/x-h264,stream-format=avc,alignment=au,width=320,codec_data=(buffer)01";
    const LARGE: &str =
        "video/x-h264,stream-format=avc,alignment=au,width=640,codec_data=(buffer)02";
    const ANNEX_B: &str = "video/x-h264,stream-format=byte-stream,alignment=au";
    const VP8: &str = "video/x-vp8";
    const MPEG2: &str = "video/x-raw,format=I420,width=720,height=576,framerate=25/1";
    const AAC: &str = "audio/mpeg,mpegversion=4,stream-format=raw,framed=true,rate=48000,channels=2,\
                       codec_data=(buffer)1190";
    const SLOW_AAC: &str = "audio/mpeg,mpegversion=4,stream-format=raw,framed=true,rate=44100,\
                            channels=2,codec_data=(buffer)1210";
    const OPUS: &str = "audio/x-opus,channels=2";
    const MP3: &str = "audio/x-raw,format=S16LE,layout=interleaved,rate=48000,channels=1";

    #[test]
    fn items_decide_what_passes_through() {
        gst::init().expect("GStreamer starts");
        let (as_found, raw, absent) = ("as found", "raw", "left out");
        for (items, pictures, sound) in [
            (&[&[AVC, AAC][..], &[AAC, LARGE]][..], as_found, as_found),
            (&[&[AVC, AAC], &[LARGE, SLOW_AAC]], as_found, raw),
            (&[&[AVC, AAC], &[LARGE, OPUS]], as_found, raw),
            (&[&[AVC, AAC], &[LARGE]], as_found, raw),
            (&[&[AVC], &[LARGE]], as_found, absent),
            (&[&[AVC, AAC], &[ANNEX_B, AAC]], raw, as_found),
            (&[&[AVC, AAC], &[VP8, OPUS]], raw, raw),
            (&[&[MPEG2, MP3]], raw, raw),
            // What has no pictures is left out, and has no say.
            (&[&[AVC, AAC], &[MP3]], as_found, as_found),
            (&[&[OPUS], &[MP3]], absent, raw),
            (&[&[OPUS], &[OPUS]], absent, as_found),
        ] {
            let lineup = Lineup::for_items(&looks(items), &VideoConfig::default());
            let form = |kind| match lineup.form(kind) {
                Form::AsFound => as_found,
                Form::Raw(_) => raw,
                Form::LeftOut => absent,
            };
            assert_eq!((form(Kind::Video), form(Kind::Audio)), (pictures, sound), "{items:?}");
        }
    }

    #[test]
    fn later_items_fit_or_it_is_said_why_not() {
        gst::init().expect("GStreamer starts");
        let passing = Lineup::for_items(&looks(&[&[AVC, AAC]]), &VideoConfig::default());
        let anew = Lineup::for_items(&looks(&[&[AVC, AAC], &[VP8]]), &VideoConfig::default());
        assert_eq!(passing.fit(&tracks(&[AAC, LARGE])), Ok(vec![1, 0]));
        for (lineup, item, expected) in [
            (&passing, &[VP8, AAC][..], "its pictures: VP8; the channel's: H.264 (avc)"),
            (&passing, &[AVC], "it has no sound"),
            (&passing, &[AVC, SLOW_AAC], "44100 Hz"),
            (&passing, &[AAC], "it has no pictures"),
            (&anew, &[AAC], "it has no pictures"),
        ] {
            let reason = lineup.fit(&tracks(item)).expect_err(expected);
            assert!(reason.contains(expected), "{reason}");
        }
        assert_eq!(anew.fit(&tracks(&[MPEG2])), Ok(vec![0]));
    }

    #[test]
    fn raw_pictures_have_even_sides() {
        gst::init().expect("GStreamer starts");
        let config = VideoConfig { width: 321, height: 17, ..VideoConfig::default() };
        let info = raw_pictures(&config);
        let fields = info.caps.structure(0).expect("one structure");
        assert_eq!((fields.get("width"), fields.get("height")), (Ok(320), Ok(16)));
    }

    fn looks(items: &[&[&str]]) -> Vec<Look> {
        let look = |item: &&[&str]| Look { path: PathBuf::from("x"), tracks: tracks(item) };
        items.iter().map(look).collect()
    }

    fn tracks(caps: &[&str]) -> Vec<TrackInfo> {
        let track = |caps: &&str| {
            let shape = match caps.split_once(['/', ',']) {
                Some(("video", _)) => Shape::Pictures,
                Some((_, rest)) if rest.starts_with("x-raw") => Shape::Samples { channels: 1 },
                _ => Shape::SoundFrames,
            };
            TrackInfo { shape, caps: gst::Caps::from_str(caps).expect("legal caps") }
        };
        caps.iter().map(track).collect()
    }
}
