//! RTP packets to play in tests, made by GStreamer, and ways to feed and watch a player.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use protocol::media::{Format, Kind};

use super::codec::Codec;
use super::counters::Release;
use super::environment::initialise;
use super::player::Player;
use super::supervise::{Events, PlayerEvent};

pub(super) const LATENCY: Duration = Duration::from_millis(200);

pub(super) const OPUS: &str = "opusenc frame-size=20 ! opusparse ! rtpopuspay pt=97";
pub(super) const AAC: &str = "avenc_aac ! aacparse ! rtpmp4gpay pt=97";

/// A clip as a broadcaster would send it.
#[derive(Clone, Default)]
pub(super) struct Clip {
    pub(super) formats: Vec<Format>,
    pub(super) packets: Vec<Packet>,
    /// Coded pictures or pieces of sound in each track.
    pub(super) units: Vec<usize>,
}

#[derive(Clone)]
pub(super) struct Packet {
    pub(super) track: usize,
    /// When it was sent, from the clip's start.
    pub(super) at: Duration,
    pub(super) bytes: Bytes,
}

/// H.264 at 30 frames a second with a keyframe every `gop` frames.
pub(super) fn h264(width: u32, height: u32, kilobits: u32, gop: u32) -> String {
    format!(
        "videotestsrc num-buffers=FRAMES pattern=smpte ! timeoverlay \
         ! video/x-raw,format=I420,width={width},height={height},framerate=30/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast bitrate={kilobits} key-int-max={gop} \
           bframes=0 sliced-threads=false threads=1 \
         ! rtph264pay pt=96 mtu=1150 aggregate-mode=zero-latency"
    )
}

/// AV1 at 30 frames a second with a keyframe every `gop` frames.
pub(super) fn av1(width: u32, height: u32, kilobits: u32, gop: u32) -> String {
    format!(
        "videotestsrc num-buffers=FRAMES pattern=smpte ! timeoverlay \
         ! video/x-raw,format=I420,width={width},height={height},framerate=30/1 \
         ! av1enc usage-profile=realtime cpu-used=10 target-bitrate={kilobits} \
           keyframe-max-dist={gop} lag-in-frames=0 \
         ! av1parse ! video/x-av1,alignment=tu ! rtpav1pay pt=96 mtu=1150"
    )
}

/// A tone through the given encoder and payloader.
pub(super) fn sound(encoder: &str) -> String {
    format!(
        "audiotestsrc num-buffers=SOUNDS samplesperbuffer=960 \
         ! audio/x-raw,rate=48000,channels=2 ! {encoder}"
    )
}

impl Clip {
    /// Runs each track's encoder for so long.
    pub(super) fn encode(length: Duration, tracks: &[&str]) -> Self {
        initialise().unwrap();
        let mut clip = Self::default();
        for (track, description) in tracks.iter().enumerate() {
            let description = description
                .replace("FRAMES", &(length.as_millis() * 30 / 1000).to_string())
                .replace("SOUNDS", &(length.as_millis() * 50 / 1000).to_string());
            clip.add(track, &format!("{description} ! appsink name=out sync=false"));
        }
        clip.packets.sort_by_key(|packet| packet.at);
        clip
    }

    fn add(&mut self, track: usize, description: &str) {
        let pipeline =
            gst::parse::launch(description).unwrap().downcast::<gst::Pipeline>().unwrap();
        let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let (mut begin, mut at) = (None, Duration::ZERO);
        let mut times = std::collections::BTreeSet::new();
        while let Ok(sample) = sink.pull_sample() {
            let time = sample.buffer().unwrap().pts().unwrap();
            let time: Duration = (time - *begin.get_or_insert(time)).into();
            // Pictures that are put back in order after decoding come later than their time.
            at = at.max(time);
            let map = sample.buffer().unwrap().map_readable().unwrap();
            times.insert(time);
            self.packets.push(Packet { track, at, bytes: Bytes::copy_from_slice(&map) });
            if self.formats.len() == track {
                self.formats.push(format_of(sample.caps().unwrap()));
            }
        }
        pipeline.set_state(gst::State::Null).unwrap();
        self.units.push(times.len());
    }

    /// The part of the clip between two times, beginning at zero.
    pub(super) fn part(&self, from: Duration, until: Duration) -> Self {
        let inside = self.packets.iter().filter(|packet| (from..until).contains(&packet.at));
        let packets = inside.map(|p| Packet { at: p.at - from, ..p.clone() }).collect();
        Self { packets, ..self.clone() }
    }
}

/// One track, and another that goes on where it ends, `length` later, as one stream.
pub(super) fn spliced(one: &Clip, other: &Clip, length: Duration) -> Clip {
    let (first, last) = (&one.packets[0].bytes, &one.packets[one.packets.len() - 1].bytes);
    let next = &other.packets[0].bytes;
    let sequence = |bytes: &Bytes| u16::from_be_bytes(bytes[2..4].try_into().unwrap());
    let timestamp = |bytes: &Bytes| u32::from_be_bytes(bytes[4..8].try_into().unwrap());
    let ticks = (length.as_millis() * 90) as u32;
    let later = timestamp(first).wrapping_add(ticks).wrapping_sub(timestamp(next));
    let behind = sequence(last).wrapping_add(1).wrapping_sub(sequence(next));
    let mut clip = one.clone();
    clip.units[0] += other.units[0];
    clip.packets.extend(other.packets.iter().map(|packet| {
        let mut bytes = packet.bytes.to_vec();
        let sequence = sequence(&packet.bytes).wrapping_add(behind);
        bytes[2..4].copy_from_slice(&sequence.to_be_bytes());
        let timestamp = timestamp(&packet.bytes).wrapping_add(later);
        bytes[4..8].copy_from_slice(&timestamp.to_be_bytes());
        bytes[8..12].copy_from_slice(&first[8..12]);
        Packet { track: 0, at: packet.at + length, bytes: bytes.into() }
    }));
    clip
}

/// What an encoder makes first, as a byte stream.
pub(super) fn first_access_unit(codec: Codec, encoder: &str) -> Vec<u8> {
    gst::init().unwrap();
    let caps = codec.access_units().unwrap();
    let parser = codec.parser().unwrap();
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc num-buffers=60 ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
         ! {encoder} ! {parser} ! {caps} ! appsink name=out sync=false"
    ));
    let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("out").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let sample = sink.pull_sample().unwrap();
    pipeline.set_state(gst::State::Null).unwrap();
    sample.buffer().unwrap().map_readable().unwrap().to_vec()
}

fn format_of(caps: &gst::CapsRef) -> Format {
    let fields = caps.structure(0).unwrap();
    let text = |name: &str| fields.get::<String>(name).ok();
    let parameters: BTreeMap<_, _> = fields
        .fields()
        .filter_map(|name| text(name).map(|value| (name.to_string(), value)))
        .filter(|(name, _)| !["media", "encoding-name", "encoding-params"].contains(&name.as_str()))
        .collect();
    Format {
        kind: if text("media").unwrap() == "video" { Kind::Video } else { Kind::Audio },
        encoding_name: text("encoding-name").unwrap(),
        payload_type: fields.get::<i32>("payload").unwrap() as u8,
        clock_rate: fields.get::<i32>("clock-rate").unwrap() as u32,
        channels: text("encoding-params").and_then(|channels| channels.parse().ok()),
        parameters,
        rendition: None,
    }
}

/// Events into a channel.
pub(super) fn events() -> (Events, mpsc::Receiver<PlayerEvent>) {
    static LOG: Once = Once::new();
    LOG.call_once(|| {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().init();
    });
    let (sender, receiver) = mpsc::channel();
    (Arc::new(move |event| drop(sender.send(event))), receiver)
}

/// Pushes what lies before `live` at once, as history, and the rest as its time comes.
pub(super) fn feed(player: &Player, clip: &Clip, live: Duration) {
    let start = player.running_time();
    for packet in &clip.packets {
        let arrival = (start + packet.at).saturating_sub(live);
        std::thread::sleep(arrival.saturating_sub(player.running_time()));
        player.push(packet.track, packet.bytes.clone(), arrival);
    }
}

/// Waits until the condition holds, or panics with what was waited for.
pub(super) fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What the null output has released so far on one track.
pub(super) fn releases(player: &Player, track: usize) -> Vec<Release> {
    player.releases().into_iter().filter(|release| release.track == track).collect()
}

/// Frames of a file's first stream of the kind, decoded by ffprobe.
pub(super) fn frames_in(path: &Path, kind: &str) -> usize {
    let text = ffprobe(
        path,
        &["-count_frames", "-select_streams", kind, "-show_entries", "stream=nb_read_frames"],
    );
    text.lines().next().and_then(|line| line.trim_matches(',').parse().ok()).unwrap_or(0)
}

/// Presentation times of a file's packets, in seconds, by order.
pub(super) fn times_in(path: &Path, kind: &str) -> Vec<f64> {
    let text = ffprobe(path, &["-select_streams", kind, "-show_entries", "packet=pts_time"]);
    text.lines().filter_map(|line| line.trim_matches(',').parse().ok()).collect()
}

fn ffprobe(path: &Path, arguments: &[&str]) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "csv=p=0"])
        .args(arguments)
        .arg(path)
        .output()
        .expect("ffprobe (Debian package ffmpeg) is installed");
    String::from_utf8(output.stdout).unwrap()
}

/// Every release but the first keeps its time: none early, and hardly any late, as the machine may
/// be busy.
pub(super) fn assert_on_time(player: &Player, track: usize) {
    let releases = releases(player, track);
    let mut late = Vec::new();
    for release in releases.iter().skip(1) {
        let due = release.presentation + LATENCY;
        assert!(release.at + Duration::from_millis(2) >= due, "{release:?} came early");
        if release.at > due + Duration::from_millis(40) {
            late.push((release.presentation, release.at - due));
        }
    }
    assert!(late.len() * 10 <= releases.len(), "{} of {}: {late:?}", late.len(), releases.len());
}

/// The seed of this run: printed when a test fails, settable by `SEED`.
pub(super) fn seed() -> u64 {
    let set = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = set.unwrap_or_else(|| {
        Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id())
    });
    println!("SEED={seed}");
    seed
}

/// A small generator (SplitMix64), enough for choosing what to damage.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.max(1) as u64) as usize
    }
}
