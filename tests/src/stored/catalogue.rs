//! What the folder holds: each file, what can be expected of it, and how it is made.

use std::time::Duration;

use super::{DURATION, FRAMES, RATE};

/// An encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are names")]
pub enum Codec {
    H264,
    H265,
    Vp8,
    Vp9,
    Av1,
    Mpeg2,
    MotionJpeg,
    ProRes,
    Aac,
    Opus,
    Mp2,
    Pcm,
}

impl Codec {
    /// Whether viewers get it as it is stored.
    fn passes_through(self) -> bool {
        !matches!(self, Self::Mpeg2 | Self::MotionJpeg | Self::ProRes | Self::Mp2 | Self::Pcm)
    }

    fn name(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::H265 => "h265",
            Self::Vp8 => "vp8",
            Self::Vp9 => "vp9",
            Self::Av1 => "av1",
            Self::Mpeg2 => "mpeg2",
            Self::MotionJpeg => "mjpeg",
            Self::ProRes => "prores",
            Self::Aac => "aac",
            Self::Opus => "opus",
            Self::Mp2 => "mp2",
            Self::Pcm => "pcm",
        }
    }
}

/// What a file is, whatever its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are names")]
pub enum Container {
    Mp4,
    Matroska,
    WebM,
    Ts,
    Mov,
    Avi,
    Ogg,
    /// Not a clip.
    Other,
}

/// What becomes of a file that is played.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Expect {
    /// It plays to its end.
    Plays,
    /// It is cut and plays until about this share of its time.
    PlaysUpTo(f64),
    /// Nothing in it can be played.
    Unplayable,
}

/// A stored file with known contents.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its path within the folder, parts joined by slashes.
    pub path: String,
    /// What it is.
    pub container: Container,
    /// How its pictures are encoded.
    pub video: Option<Codec>,
    /// How each of its tracks of sound is encoded.
    pub audio: Vec<Codec>,
    /// How many pictures it holds; of a cut file, those that are there to their last byte.
    pub frames: u32,
    /// How long it plays; of a cut file, as long as it would play whole.
    pub duration: Duration,
    /// Whether all of it goes to viewers as it is stored.
    pub passes_through: bool,
    /// What becomes of it when it is played.
    pub expect: Expect,
    /// When each picture is shown, counted from the first, in order.
    pub times: Vec<Duration>,
    /// The number of each picture, in order.
    pub numbers: Vec<u16>,
}

/// A file, and how it is made.
pub(super) struct Recipe {
    pub(super) stored: Stored,
    pub(super) how: How,
}

/// How a file is made.
pub(super) enum How {
    /// Of tracks that are encoded already, put together with these options.
    Mux { parts: Vec<String>, options: Vec<&'static str> },
    /// The first part of a file that is made first, of which it takes this share of the bytes.
    Cut { of: Box<Recipe>, share: f64 },
    /// Of these bytes.
    Bytes(&'static [u8]),
    /// A still picture.
    Still,
}

/// How much of the files that are cut remains, of their bytes.
const REMAINS: f64 = 0.6;

/// How pictures of each kind are encoded, with ffmpeg's options: keyframes come every 2 s and nowhere else. A part's
/// name has the container that keeps its times best.
pub(super) const VIDEO: [(&str, &str); 13] = [
    // Made for real time, libaom lets single blocks stand for a picture too long: the mark would be wrong.
    (
        "av1.mkv",
        "-c:v libaom-av1 -usage good -lag-in-frames 0 -cpu-used 8 -b:v 300k -g 50 -keyint_min 50",
    ),
    (
        "h265.mp4",
        "-c:v libx265 -preset veryfast -tag:v hvc1 -x265-params \
        keyint=50:min-keyint=50:scenecut=0:bframes=0:pools=1:frame-threads=1:log-level=error",
    ),
    ("h264.mp4", "-c:v libx264 -preset veryfast -g 50 -keyint_min 50 -sc_threshold 0 -bf 0"),
    ("b-frames.mp4", "-c:v libx264 -preset veryfast -g 50 -keyint_min 50 -sc_threshold 0 -bf 3"),
    ("long-gop.mp4", "-c:v libx264 -preset veryfast -g 250 -keyint_min 250 -sc_threshold 0 -bf 0"),
    // As much data as pictures of full size have, most of it filler.
    (
        "heavy.mp4",
        "-c:v libx264 -preset veryfast -g 50 -keyint_min 50 -sc_threshold 0 -bf 0 \
        -b:v 8M -maxrate 8M -bufsize 4M -x264-params nal-hrd=cbr:filler=1",
    ),
    (
        "heavy-long-gop.mp4",
        "-c:v libx264 -preset veryfast -g 250 -keyint_min 250 -sc_threshold 0 -bf 0 \
        -b:v 8M -maxrate 8M -bufsize 4M -x264-params nal-hrd=cbr:filler=1",
    ),
    (
        "variable.mkv",
        "-c:v libx264 -preset veryfast -g 300 -sc_threshold 0 -bf 0 -enc_time_base 1:1000 \
        -force_key_frames expr:gte(t,n_forced*2) -vf settb=1/1000,setpts=40*N+5*mod(N*N\\,5),\
        select=gte(mod(n*n\\,11)\\,4)+not(mod(n\\,25)) -fps_mode passthrough",
    ),
    ("vp8.mkv", "-c:v libvpx -deadline realtime -cpu-used 8 -b:v 400k -g 50 -keyint_min 50"),
    ("vp9.mkv", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -b:v 400k -g 50 -keyint_min 50"),
    ("mpeg2.mkv", "-c:v mpeg2video -b:v 1M -g 50 -sc_threshold 1000000000 -bf 0"),
    ("mjpeg.avi", "-c:v mjpeg -q:v 5 -pix_fmt yuvj420p"),
    ("prores.mov", "-c:v prores -profile:v 0 -pix_fmt yuv422p10le"),
];

/// How sound of each kind is encoded.
pub(super) const AUDIO: [(&str, &str); 6] = [
    ("aac.m4a", "-c:a aac -b:a 96k"),
    ("opus.ogg", "-c:a libopus -b:a 64k"),
    // ffmpeg puts the encoder's delay into Matroska twice, but where it comes from Matroska.
    ("opus.mka", "-c:a libopus -b:a 64k"),
    ("mp2.mp2", "-c:a mp2 -b:a 128k"),
    ("pcm.wav", "-c:a pcm_s16le"),
    // Of another tone.
    ("other.m4a", "-c:a aac -b:a 96k"),
];

/// By how many seconds the times of parts are off that do not say that the encoder delays the sound: MP2 by 481
/// samples.
pub(super) const OFFSETS: [(&str, &str); 1] = [("mp2.mp2", "-0.010021")];

/// Whether a picture is in the clips whose frame rate varies, and when: as the options above have it. Those that
/// flash are all there, and on time.
fn variable_time(number: u16) -> Option<Duration> {
    let number = u64::from(number);
    let is_there = number * number % 11 >= 4 || number.is_multiple_of(u64::from(RATE));
    is_there.then(|| Duration::from_millis(40 * number + 5 * (number * number % 5)))
}

fn steady_time(number: u16) -> Duration {
    Duration::from_secs(1) * u32::from(number) / RATE
}

impl Stored {
    fn new(path: &str, container: Container, video: Option<Codec>, audio: &[Codec]) -> Self {
        let numbers: Vec<u16> = if video.is_some() { (0..FRAMES).collect() } else { Vec::new() };
        Self {
            path: path.to_owned(),
            container,
            video,
            audio: audio.to_vec(),
            frames: numbers.len() as u32,
            duration: DURATION,
            passes_through: video.iter().chain(audio).all(|codec| codec.passes_through()),
            expect: Expect::Plays,
            times: numbers.iter().copied().map(steady_time).collect(),
            numbers,
        }
    }

    fn no_clip(path: &str) -> Self {
        Self {
            duration: Duration::ZERO,
            passes_through: false,
            expect: Expect::Unplayable,
            ..Self::new(path, Container::Other, None, &[])
        }
    }

    fn with_variable_rate(mut self) -> Self {
        let shown = |number| Some((number, variable_time(number)?));
        (self.numbers, self.times) = (0..FRAMES).filter_map(shown).unzip();
        self.frames = self.numbers.len() as u32;
        self
    }

    /// Leaves the first pictures only.
    pub(super) fn cut_to(&mut self, frames: usize) {
        self.expect = match frames {
            0 => Expect::Unplayable,
            _ => Expect::PlaysUpTo(frames as f64 / f64::from(self.frames)),
        };
        self.times.truncate(frames);
        self.numbers.truncate(frames);
        self.frames = self.numbers.len() as u32;
    }
}

/// All files.
pub(super) fn recipes() -> Vec<Recipe> {
    let mut recipes = combinations();
    recipes.extend(peculiar());
    recipes.extend(cut());
    recipes.extend(no_clips());
    recipes
}

/// Every container with all that it can hold.
fn combinations() -> Vec<Recipe> {
    use Codec::{Aac, Av1, H264, H265, Opus, Vp8, Vp9};
    let mut recipes = Vec::new();
    for (container, ending, videos, audios) in [
        (Container::Mp4, "mp4", &[H264, H265, Vp9, Av1][..], &[Aac, Opus][..]),
        (Container::Matroska, "mkv", &[H264, H265, Vp8, Vp9, Av1], &[Aac, Opus]),
        (Container::WebM, "webm", &[Vp8, Vp9, Av1], &[Opus]),
        (Container::Ts, "ts", &[H264, H265], &[Aac, Opus]),
    ] {
        for &video in videos {
            for &audio in audios {
                let path = format!("{}-{}.{ending}", video.name(), audio.name());
                let stored = Stored::new(&path, container, Some(video), &[audio]);
                recipes.push(mux(stored, video.name(), &[]));
            }
        }
    }
    recipes
}

/// Clips with something about them.
fn peculiar() -> Vec<Recipe> {
    use Codec::{Aac, H264, MotionJpeg, Mp2, Mpeg2, Opus, Pcm, ProRes};
    use Container::{Avi, Matroska, Mov, Mp4, Ogg, Ts};
    let usual = |path, container| Stored::new(path, container, Some(H264), &[Aac]);
    let two = |path, container| Stored::new(path, container, Some(H264), &[Aac, Aac]);
    let whole = |path, container, video, audio| Stored::new(path, container, Some(video), &[audio]);
    vec![
        mux(usual("b-frames.mp4", Mp4), "b-frames", &[]),
        mux(usual("b-frames.ts", Ts), "b-frames", &[]),
        mux(two("two-sounds.mp4", Mp4), "h264", &[]),
        mux(two("two-sounds.mkv", Matroska), "h264", &[]),
        mux(usual("variable.mp4", Mp4).with_variable_rate(), "variable", &[]),
        mux(usual("variable.mkv", Matroska).with_variable_rate(), "variable", &[]),
        mux(usual("index-last.mp4", Mp4), "h264", &[]),
        index_first(usual("index-first.mp4", Mp4)),
        mux(usual("long-gop.mp4", Mp4), "long-gop", &[]),
        mux(usual("heavy.mp4", Mp4), "heavy", &[]),
        mux(usual("heavy-long-gop.mp4", Mp4), "heavy-long-gop", &[]),
        mux(usual("ä ö ü/日本語 & #1%.mp4", Mp4), "h264", &[]),
        mux(whole("mpeg2-mp2.ts", Ts, Mpeg2, Mp2), "mpeg2", &[]),
        mux(whole("mjpeg-pcm.avi", Avi, MotionJpeg, Pcm), "mjpeg", &[]),
        mux(whole("prores-pcm.mov", Mov, ProRes, Pcm), "prores", &[]),
        mux(Stored::new("sound.m4a", Mp4, None, &[Aac]), "", &[]),
        mux(Stored::new("sound.ogg", Ogg, None, &[Opus]), "", &[]),
    ]
}

/// Files that end before their time.
fn cut() -> Vec<Recipe> {
    let usual = |path, container| Stored::new(path, container, Some(Codec::H264), &[Codec::Aac]);
    [
        mux(usual("cut.mkv", Container::Matroska), "h264", &[]),
        index_first(usual("cut-index-first.mp4", Container::Mp4)),
        mux(usual("cut-index-last.mp4", Container::Mp4), "h264", &[]),
    ]
    .map(|whole| Recipe {
        stored: whole.stored.clone(),
        how: How::Cut { of: Box::new(whole), share: REMAINS },
    })
    .into()
}

/// Files that nobody can play.
fn no_clips() -> Vec<Recipe> {
    vec![
        Recipe { stored: Stored::no_clip("empty.mp4"), how: How::Bytes(b"") },
        Recipe { stored: Stored::no_clip("text.mp4"), how: How::Bytes(b"This is not a video.\n") },
        Recipe { stored: Stored::no_clip("still.png"), how: How::Still },
    ]
}

fn index_first(stored: Stored) -> Recipe {
    mux(stored, "h264", &["-movflags", "+faststart"])
}

/// Of the encoded pictures of that name, if any, and of sound as the clip has it.
fn mux(stored: Stored, pictures: &str, options: &[&'static str]) -> Recipe {
    let name = |part: &str| part.split_once('.').is_some_and(|(name, _)| name == pictures);
    let video = VIDEO.iter().map(|(part, _)| *part).find(|part| name(part));
    let is_matroska = matches!(stored.container, Container::Matroska | Container::WebM);
    let audio = stored.audio.iter().enumerate().map(|(at, codec)| match (codec, at) {
        (Codec::Aac, 0) => "aac.m4a",
        (Codec::Aac, _) => "other.m4a",
        (Codec::Opus, _) if is_matroska => "opus.mka",
        (Codec::Opus, _) => "opus.ogg",
        (Codec::Mp2, _) => "mp2.mp2",
        _ => "pcm.wav",
    });
    let parts = video.into_iter().chain(audio).map(ToOwned::to_owned).collect();
    Recipe { stored, how: How::Mux { parts, options: options.to_vec() } }
}
