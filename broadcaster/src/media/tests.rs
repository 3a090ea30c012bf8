//! Whole sources, from what the user writes to packets.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use protocol::media::{Format, Kind};
use protocol::size::MAX_RTP_PACKET;
use protocol::units::Bitrate;

use super::*;

/// The test clip: 132 pictures at 25 a second, and sound of six channels.
const CLIP_PICTURES: usize = 132;

/// One picture at 25 a second on the RTP clock.
const STEP: u32 = 3600;

/// Nothing here takes as long, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn the_test_source_has_a_picture_and_a_tone() {
    let video = VideoConfig {
        width: 320,
        height: 180,
        keyframe_interval: Duration::from_millis(500),
        bitrate: Bitrate::bits_per_second(500_000),
        ..VideoConfig::default()
    };
    let mut run = Run::start(MediaConfig { video, ..MediaConfig::default() });
    assert_eq!(run.names(), ["H264", "OPUS"]);
    let video = &run.formats[0];
    assert_eq!((video.kind, video.clock_rate), (Kind::Video, 90_000));
    assert!(video.parameters.contains_key("sprop-parameter-sets"), "{video:?}");
    let audio = &run.formats[1];
    assert_eq!((audio.kind, audio.clock_rate, audio.channels), (Kind::Audio, 48_000, Some(2)));

    let units = run.units_until(|units| of(units, 0).len() >= 46 && of(units, 1).len() >= 50);
    let keyframes: Vec<_> = (0..46).filter(|&index| of(&units, 0)[index].keyframe).collect();
    assert_eq!(keyframes, [0, 15, 30, 45]);
    assert!(of(&units, 1).iter().all(|unit| unit.keyframe && unit.packets.len() == 1));
    for unit in &units {
        assert!(!unit.packets.is_empty());
        for packet in unit.packets.packets() {
            assert!(packet.len() <= MAX_RTP_PACKET);
            let payload_type = run.formats[unit.track].payload_type;
            assert_eq!(packet[1] & 0x7f, payload_type);
            assert_eq!(packet[4..8], unit.rtp_timestamp.to_be_bytes());
        }
    }
    for unit in of(&units, 0) {
        let marked: Vec<_> = unit.packets.packets().map(|packet| packet[1] & 0x80 != 0).collect();
        let (last, others) = marked.split_last().expect("not empty");
        assert!(*last && !others.contains(&true), "{marked:?}");
    }
    // The time of capture and the RTP timestamp tell the same, on both tracks.
    for (track, clock_rate) in [(0, 90_000.0), (1, 48_000.0)] {
        let units = of(&units, track);
        let first = units[0];
        for unit in &units {
            let elapsed = (unit.captured_at - first.captured_at).as_secs_f64();
            let ticks = unit.rtp_timestamp.wrapping_sub(first.rtp_timestamp);
            assert!((f64::from(ticks) / clock_rate - elapsed).abs() < 1e-3, "track {track}");
        }
    }
    let stats = run.producer.encoder_stats();
    assert!(stats.frames_encoded >= 46 && stats.frames_in >= stats.frames_encoded, "{stats:?}");
    assert!(stats.keyframes >= 4 && stats.packet_bytes > stats.video_bytes, "{stats:?}");
}

#[test]
fn a_keyframe_comes_when_asked_for() {
    let video = VideoConfig {
        width: 320,
        height: 180,
        keyframe_interval: Duration::from_secs(60),
        ..VideoConfig::default()
    };
    let mut run = Run::start(MediaConfig { video, ..MediaConfig::default() });
    let units = run.units_until(|units| of(units, 0).len() >= 40);
    assert_eq!(keyframes(&of(&units, 0)), 1, "none by itself");
    run.producer.request_keyframe();
    run.units_until(|units| keyframes(&of(units, 0)) == 1);
}

#[test]
fn the_clip_goes_on_over_the_seam() {
    const TURNS: usize = 3;
    let mut run = Run::start(file(&clip()));
    assert_eq!(run.names(), ["H264", "MPEG4-GENERIC"]);
    let units = run.units_until(|units| {
        // Until both tracks are well within the fourth turn.
        let pictures = of(units, 0).len();
        pictures > TURNS * CLIP_PICTURES + 10
            && of(units, 1)
                .last()
                .is_some_and(|sound| sound.captured_at > of(units, 0)[pictures - 5].captured_at)
    });
    let pictures = of(&units, 0);
    for pair in pictures.windows(2) {
        assert_eq!(pair[1].rtp_timestamp.wrapping_sub(pair[0].rtp_timestamp), STEP);
    }
    // The clip's only keyframe is its first picture: so every turn has all its pictures.
    let seams: Vec<_> = (0..pictures.len()).filter(|&index| pictures[index].keyframe).collect();
    assert_eq!(seams, [0, 1, 2, 3].map(|turn| turn * CLIP_PICTURES));

    let sound = of(&units, 1);
    assert_eq!(sound[0].captured_at, pictures[0].captured_at);
    let frame = Duration::from_secs_f64(1024.0 / 48_000.0);
    for pair in sound.windows(2) {
        let step = pair[1].captured_at - pair[0].captured_at;
        assert!(step >= frame / 2 - MS && step <= frame * 3 / 2 + MS, "{step:?}");
    }
    // Sound of the fourth turn begins with its picture.
    let begin = pictures[TURNS * CLIP_PICTURES].captured_at;
    let drift = sound.iter().map(|unit| distance(unit.captured_at, begin)).min().expect("sound");
    assert!(drift < 5 * MS, "{drift:?}");
    // No sound piles up, and none goes missing.
    let heard = sound.iter().filter(|unit| unit.captured_at < begin).count() as u32;
    let difference = distance(pictures[0].captured_at + frame * heard, begin);
    assert!(difference <= frame, "{difference:?}");
}

#[test]
fn pipelines_of_every_kind() {
    let raw = "videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=25/1";
    for (fragment, expected) in [
        (raw.to_owned(), &["H264"][..]),
        ("audiotestsrc is-live=true".to_owned(), &["OPUS"]),
        ("videotestsrc is-live=true audiotestsrc is-live=true".to_owned(), &["H264", "OPUS"]),
        (
            "videotestsrc is-live=true ! x264enc tune=zerolatency key-int-max=250".to_owned(),
            &["H264"],
        ),
        (
            format!("audiotestsrc is-live=true ! opusenc {raw} ! vp8enc deadline=1 "),
            &["OPUS", "VP8"],
        ),
        (format!("{raw} ! jpegenc audiotestsrc is-live=true ! alawenc"), &["H264", "OPUS"]),
        (format!("{raw},interlace-mode=interleaved,field-order=top-field-first"), &["H264"]),
        // Too fast.
        ("videotestsrc is-live=true ! video/x-raw,framerate=60/1".to_owned(), &["H264"]),
        // Not live, and pads that only come while it runs.
        (format!("filesrc location={} ! qtdemux", clip().display()), &["H264", "MPEG4-GENERIC"]),
        ("videotestsrc ! x264enc ! h264parse".to_owned(), &["H264"]),
        (format!("{raw} ! av1enc usage-profile=realtime cpu-used=10"), &["AV1"]),
    ] {
        let mut run = Run::start(pipeline(&fragment));
        assert_eq!(run.names(), expected, "{fragment}");
        let tracks = expected.len();
        let units = run.units_until(|units| (0..tracks).all(|track| of(units, track).len() >= 5));
        assert!((0..tracks).all(|track| of(&units, track)[0].keyframe), "{fragment}");
        // All tracks begin at one time, as the clock tells it.
        for track in 0..tracks {
            let begun = distance(of(&units, track)[0].captured_at, units[0].captured_at);
            assert!(begun < Duration::from_secs(1), "{fragment}: {begun:?}");
        }
    }
}

#[test]
fn a_pipeline_that_ends_says_so() {
    let mut run = Run::start(pipeline("videotestsrc num-buffers=20 ! x264enc tune=zerolatency"));
    let mut pictures = 0;
    loop {
        match run.event() {
            Event::Unit(_) => pictures += 1,
            Event::Ended => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pictures, 20);
}

#[test]
fn a_pipeline_that_fails_says_why_in_one_line() {
    let failure = "videotestsrc ! identity error-after=10 ! x264enc tune=zerolatency";
    let mut run = Run::start(pipeline(failure));
    let error = loop {
        match run.event() {
            Event::Unit(_) => {}
            Event::Failed(error) => break error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert!(error.starts_with("identity failed: ") && !error.contains('\n'), "{error}");
}

#[test]
fn wrong_pipelines_are_refused() {
    for (fragment, expected) in [
        ("no-such-element-here", "no-such-element-here is missing"),
        ("videotestsrc ! ! x264enc", "can't be used"),
        ("videotestsrc no-such-property=1", "no-such-property"),
        ("videotestsrc ! fakesink", "neither picture nor sound"),
        ("filesrc location=/no/such/file ! qtdemux", "No such file"),
        ("videotestsrc ! video/x-raw,width=64 audiotestsrc", "put ! identity behind"),
    ] {
        let error = refused(pipeline(fragment));
        assert!(error.contains(expected) && !error.contains('\n'), "{fragment}: {error}");
    }
}

#[test]
fn wrong_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).expect("written");
        path
    };
    let whole = fs::read(clip()).expect("the clip");
    for (path, expected) in [
        (folder.path().join("missing.mp4"), "No such file"),
        (folder.path().to_owned(), "is a directory"),
        (write("empty.mp4", b""), "is empty"),
        (write("text.mp4", b"This is not a film.\n".repeat(100).as_slice()), "can't be played"),
        (write("noise.mkv", &noise(50_000)), "can't be played"),
        // The clip has its index at the end.
        (write("half.mp4", &whole[..whole.len() / 2]), "can't be played"),
        (write("head.mp4", &whole[..40]), "can't be played"),
    ] {
        let error = refused(file(&path));
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn half_a_file_is_looped_if_it_can_be_played() {
    let folder = tempfile::tempdir().expect("a folder");
    for muxer in ["matroskamux", "mpegtsmux"] {
        let path = make_file(folder.path(), &format!("{muxer} name=m"), 25);
        let whole = fs::read(&path).expect("made");
        fs::write(&path, &whole[..whole.len() / 2]).expect("written");
        let mut run = Run::start(file(&path));
        let units = run.units_until(|units| of(units, 0).len() > 40);
        // Its beginning comes again.
        let pictures = of(&units, 0);
        assert!(keyframes(&pictures) > 1, "{muxer}");
        // Where it was cut, up to two B-frames lack before the last picture.
        for pair in pictures.windows(2) {
            let step = distance(pair[0].captured_at, pair[1].captured_at);
            assert!(step <= 160 * MS, "{muxer}: {step:?}");
        }
    }
}

#[test]
fn files_with_reordered_pictures_are_whole_and_in_time() {
    let folder = tempfile::tempdir().expect("a folder");
    for (muxer, sound) in [
        ("matroskamux", "MPEG4-GENERIC"),
        ("mp4mux", "MPEG4-GENERIC"),
        ("mpegtsmux", "MPEG4-GENERIC"),
    ] {
        let path = make_file(folder.path(), &format!("{muxer} name=m"), 25);
        let mut run = Run::start(file(&path));
        assert_eq!(run.names(), ["H264", sound], "{muxer}");
        let units = run.units_until(|units| of(units, 0).len() > 80);
        let pictures = of(&units, 0);
        let seams: Vec<_> = (0..80).filter(|&index| pictures[index].keyframe).collect();
        assert_eq!(seams, [0, 25, 50, 75], "{muxer}");
        assert!(is_even(&pictures[..75]), "{muxer}");
        let sound = of(&units, 1);
        for pair in sound.windows(2) {
            assert!(pair[1].captured_at > pair[0].captured_at, "{muxer}");
            assert!(pair[1].captured_at - pair[0].captured_at < 45 * MS, "{muxer}");
        }
    }
}

#[test]
fn av1_begins_with_its_sequence_header_at_each_keyframe() {
    const PICTURES: usize = 25;
    let folder = tempfile::tempdir().expect("a folder");
    for muxer in ["matroskamux", "mp4mux"] {
        let path = folder.path().join(muxer);
        let location = path.display();
        run_to_end(&format!("{} ! {muxer} ! filesink location={location}", av1(PICTURES)));
        let mut run = Run::start(file(&path));
        assert_eq!(run.names(), ["AV1"], "{muxer}");
        assert_eq!(run.formats[0].clock_rate, 90_000);
        let units = run.units_until(|units| units.len() >= 3 * PICTURES);
        let pictures = of(&units, 0);
        for pair in pictures.windows(2) {
            let step = pair[1].rtp_timestamp.wrapping_sub(pair[0].rtp_timestamp);
            assert!(step.abs_diff(STEP) <= 90, "{muxer}: {step}");
        }
        let starts: Vec<_> = (0..pictures.len()).filter(|&at| pictures[at].keyframe).collect();
        assert_eq!(starts, [0, 10, 20, 25, 35, 45, 50, 60, 70], "{muxer}");
        for unit in pictures {
            let marked: Vec<_> =
                unit.packets.packets().map(|packet| packet[1] & 0x80 != 0).collect();
            assert_eq!(marked.iter().position(|marked| *marked), Some(marked.len() - 1));
            let first = unit.packets.packets().next().expect("a packet");
            assert!(unit.packets.packets().all(|packet| packet.len() <= MAX_RTP_PACKET));
            // The aggregation header says that a coded video sequence starts.
            assert_eq!(first[12] & 8 != 0, unit.keyframe, "{muxer}");
        }
    }
}

#[test]
fn the_usual_payloaders_stay_what_they_were() {
    elements::init().expect("GStreamer starts");
    elements::init().expect("again is fine");
    for name in ["rtph264pay", "rtph265pay", "rtpvp8pay", "rtpvp9pay", "rtpopuspay", "rtpmp4gpay"] {
        let plugin = gst::ElementFactory::find(name).and_then(|factory| factory.plugin());
        assert_ne!(plugin.expect("installed").plugin_name(), "rsrtp", "{name}");
    }
}

#[test]
fn an_image_stands() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image");
    run_to_end(&format!(
        "videotestsrc num-buffers=1 ! jpegenc ! filesink location={}",
        path.display()
    ));
    let mut run = Run::start(file(&path));
    assert_eq!(run.names(), ["H264"]);
    let units = run.units_until(|units| units.len() >= 20);
    for pair in units.windows(2) {
        assert_eq!(pair[1].rtp_timestamp.wrapping_sub(pair[0].rtp_timestamp), 3000);
    }
}

#[test]
fn stopping_is_quick_and_final() {
    for config in [file(&clip()), pipeline("videotestsrc is-live=true"), MediaConfig::default()] {
        let mut run = Run::start(config);
        run.units_until(|units| !units.is_empty());
        let Run { producer, events, .. } = run;
        let begun = Instant::now();
        producer.stop();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        while let Ok(event) = events.try_recv() {
            assert!(matches!(event, Event::Unit(_)), "{event:?}");
        }
        assert_eq!(events.try_recv().expect_err("nothing left"), mpsc::TryRecvError::Disconnected);
    }
}

const MS: Duration = Duration::from_millis(1);

/// A source that has said what its tracks are.
struct Run {
    producer: Producer,
    events: Receiver<Event>,
    formats: Vec<Format>,
}

impl Run {
    fn start(config: MediaConfig) -> Self {
        let (to, events) = mpsc::channel();
        // After the test has seen enough nobody receives.
        let sink = move |event| to.send(event).unwrap_or_default();
        let source = config.source.clone();
        let producer = Producer::start(config, Arc::new(sink))
            .unwrap_or_else(|error| panic!("{source}: {error}"));
        let mut run = Self { producer, events, formats: Vec::new() };
        match run.event() {
            Event::Ready(formats) => run.formats = formats,
            other => panic!("{source}: {other:?} before it was ready"),
        }
        run
    }

    fn names(&self) -> Vec<&str> {
        self.formats.iter().map(|format| format.encoding_name.as_str()).collect()
    }

    fn event(&mut self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("an event in time")
    }

    fn units_until(&mut self, enough: impl Fn(&[Unit]) -> bool) -> Vec<Unit> {
        let mut units = Vec::new();
        while !enough(&units) {
            match self.event() {
                Event::Unit(unit) => units.push(unit),
                other => panic!("{other:?}"),
            }
        }
        units
    }
}

fn of(units: &[Unit], track: usize) -> Vec<&Unit> {
    units.iter().filter(|unit| unit.track == track).collect()
}

fn keyframes(units: &[&Unit]) -> usize {
    units.iter().filter(|unit| unit.keyframe).count()
}

/// Whether the pictures, put in order of presentation, are one step apart.
fn is_even(pictures: &[&Unit]) -> bool {
    let mut times: Vec<_> = pictures
        .iter()
        .map(|unit| unit.rtp_timestamp.wrapping_sub(pictures[0].rtp_timestamp) as i32)
        .collect();
    times.sort_unstable();
    // The last few may wait for pictures that are not here yet.
    times[..times.len() - 8].windows(2).all(|pair| (pair[1] - pair[0]).abs_diff(STEP as i32) <= 1)
}

fn distance(one: Instant, other: Instant) -> Duration {
    one.saturating_duration_since(other) + other.saturating_duration_since(one)
}

fn file(path: &Path) -> MediaConfig {
    MediaConfig { source: SourceSpec::File(path.to_owned()), ..MediaConfig::default() }
}

fn pipeline(fragment: &str) -> MediaConfig {
    MediaConfig { source: SourceSpec::Pipeline(fragment.to_owned()), ..MediaConfig::default() }
}

fn refused(config: MediaConfig) -> String {
    let source = config.source.clone();
    match Producer::start(config, Arc::new(|_| {})) {
        Ok(_) => panic!("{source} was not refused"),
        Err(error) => error.to_string(),
    }
}

fn clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/media/bigbuckbunny.mp4")
}

/// The same bytes every time, of which no file type is made.
fn noise(length: u32) -> Vec<u8> {
    (0..length).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect()
}

/// Makes a file of a second of pictures with two B-frames between others, and of AAC.
fn make_file(folder: &Path, muxer: &str, pictures: u32) -> PathBuf {
    let path = folder.join("made");
    let description = format!(
        "videotestsrc num-buffers={pictures} pattern=ball \
         ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 \
         ! x264enc bframes=2 b-adapt=false key-int-max=25 ! h264parse ! queue ! m. \
         audiotestsrc num-buffers=47 samplesperbuffer=1024 ! audio/x-raw,rate=48000,channels=2 \
         ! avenc_aac ! aacparse ! queue ! m. \
         {muxer} ! filesink location={}",
        path.display()
    );
    run_to_end(&description);
    path
}

/// What makes AV1 of so many pictures, with a keyframe every 10.
fn av1(pictures: usize) -> String {
    format!(
        "videotestsrc num-buffers={pictures} pattern=ball \
         ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 \
         ! av1enc usage-profile=realtime cpu-used=10 keyframe-max-dist=10 ! av1parse"
    )
}

fn run_to_end(description: &str) {
    elements::init().expect("GStreamer starts");
    let pipeline = gst::parse::launch(description).expect("legal description");
    pipeline.set_state(gst::State::Playing).expect("starts");
    let bus = pipeline.bus().expect("a pipeline has a bus");
    let timeout = gst::ClockTime::from_seconds(PATIENCE.as_secs());
    let end = bus.timed_pop_filtered(timeout, &[gst::MessageType::Eos, gst::MessageType::Error]);
    let end = end.expect("an end in time");
    assert_eq!(end.type_(), gst::MessageType::Eos, "{end:?}");
    pipeline.set_state(gst::State::Null).expect("stops");
}
