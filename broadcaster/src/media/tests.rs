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
    run.producer.request_keyframe(0);
    run.units_until(|units| keyframes(&of(units, 0)) == 1);
}

#[test]
fn pictures_that_do_not_say_their_rate_are_encoded_too() {
    let form = "video/x-raw,format=I420,width=320,height=180";
    let source = format!(
        "pipeline:videotestsrc is-live=true ! {form},framerate=25/1 ! capssetter replace=true caps={form}"
    );
    let source = source.parse().expect("legal");
    let mut run = Run::start(MediaConfig { source, ..MediaConfig::default() });
    run.units_until(|units| of(units, 0).len() >= 10);
}

#[test]
fn only_what_is_encoded_here_gets_another_bitrate() {
    let encoder =
        "videotestsrc is-live=true ! video/x-raw,width=320,height=180 ! x264enc tune=zerolatency";
    for (source, expected) in
        [("test".to_owned(), Some(true)), (format!("pipeline:{encoder}"), None)]
    {
        let source = source.parse().expect("legal");
        let mut run = Run::start(MediaConfig { source, ..MediaConfig::default() });
        run.units_until(|units| !of(units, 0).is_empty());
        assert_eq!(run.producer.set_bitrate(0, 400_000), expected);
        assert_eq!(run.producer.set_bitrate(1, 400_000), None, "there is one");
        run.units_until(|units| of(units, 0).len() >= 5);
    }
}

/// What the first packet of a picture begins with, by the types of H.264's NAL units (RFC 6184).
fn begins_with(unit: &Unit) -> u8 {
    let packet = unit.packets.packets().next().expect("not empty");
    match packet[12] & 0x1f {
        // The first of several in one packet, and the first part of one.
        24 => packet[15] & 0x1f,
        28 => packet[13] & 0x1f,
        whole => whole,
    }
}

#[test]
fn a_rendition_that_is_wanted_again_begins_with_a_keyframe_and_the_others_cost_nothing() {
    const PARAMETERS: u8 = 7;
    let smaller = |height, bitrate| RenditionConfig {
        name: None,
        height,
        bitrate: Bitrate::bits_per_second(bitrate),
        framerate: None,
    };
    let video = VideoConfig {
        width: 640,
        height: 360,
        framerate: 25,
        bitrate: Bitrate::bits_per_second(2_000_000),
        keyframe_interval: Duration::from_secs(60),
        renditions: vec![smaller(270, 800_000), smaller(180, 300_000)],
        ..VideoConfig::default()
    };
    let mut run = Run::start(MediaConfig { video, ..MediaConfig::default() });
    let names: Vec<_> = run.formats.iter().map(|format| format.rendition.as_deref()).collect();
    assert_eq!(names, [Some("360p"), None, Some("270p"), Some("180p")]);
    assert_eq!(Format::renditions(&run.formats), [Some(0), None, Some(1), Some(2)]);
    let (best, smallest) = (0, 3);
    run.units_until(|units| of(units, best).len() >= 5 && of(units, smallest).len() >= 5);
    run.producer.encode(0b100);
    // What was on its way comes; then nothing but the smallest.
    run.units_until(|units| of(units, smallest).len() >= 10);
    let units = run.units_until(|units| of(units, smallest).len() >= 40);
    assert_eq!((of(&units, best).len(), of(&units, 2).len()), (0, 0));
    let before = run.producer.encoder_stats();
    for _ in 0..3 {
        run.producer.encode(0b101);
        let units = run.units_until(|units| of(units, best).len() >= 10);
        let of_best = of(&units, best);
        assert!(of_best[0].keyframe, "it begins with a keyframe");
        assert_eq!(begins_with(of_best[0]), PARAMETERS);
        assert_eq!(keyframes(&of_best), 1, "and needs no second one");
        assert_eq!(keyframes(&of(&units, smallest)), 0, "which costs the others nothing");
        // All renditions of a moment have its time.
        let times =
            |track| of(&units, track).iter().map(|unit| unit.rtp_timestamp).collect::<Vec<_>>();
        let of_smallest = times(smallest);
        let shared = times(best).iter().filter(|time| of_smallest.contains(time)).count();
        assert!(shared >= 8, "{shared}");
        run.producer.request_keyframe(0);
        let units = run.units_until(|units| keyframes(&of(units, best)) >= 1);
        let asked = of(&units, best).into_iter().find(|unit| unit.keyframe).expect("there is one");
        assert_eq!(begins_with(asked), PARAMETERS);
        run.producer.encode(0b100);
        run.units_until(|units| of(units, smallest).len() >= 10);
    }
    assert_eq!(run.producer.encoder_stats().frames_dropped, before.frames_dropped);
}

#[test]
fn smaller_renditions_are_made_of_pictures_that_come_encoded() {
    let fragment = "videotestsrc is-live=true pattern=ball ! video/x-raw,width=640,height=360,framerate=25/1 \
                    ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! h264parse";
    let smaller = RenditionConfig {
        name: None,
        height: 180,
        bitrate: Bitrate::bits_per_second(300_000),
        framerate: None,
    };
    let video = VideoConfig { renditions: vec![smaller], ..VideoConfig::default() };
    let source = SourceSpec::Pipeline(fragment.to_owned());
    let config = MediaConfig { source, video: video.clone(), ..MediaConfig::default() };
    let mut run = Run::start(config.clone());
    let names: Vec<_> = run.formats.iter().map(|format| format.rendition.as_deref()).collect();
    assert_eq!(names, [Some("source"), Some("180p")]);
    let units = run.units_until(|units| of(units, 0).len() >= 30 && of(units, 1).len() >= 30);
    assert!(keyframes(&of(&units, 0)) >= 3, "as its encoder makes them");
    let times = |track| of(&units, track).iter().map(|unit| unit.rtp_timestamp).collect::<Vec<_>>();
    let of_source = times(0);
    let shared = times(1).iter().filter(|time| of_source.contains(time)).count();
    assert!(shared >= 25, "both have the time of their picture: {shared}");
    let bytes = |track| of(&units, track).iter().map(|unit| unit.packets.bytes()).sum::<usize>();
    assert!(bytes(1) < bytes(0), "{} of {}", bytes(1), bytes(0));
    // What is not wanted neither comes nor is decoded, and begins with a keyframe again.
    for (wanted, track) in [(0b01, 0), (0b10, 1), (0b01, 0)] {
        run.producer.encode(wanted);
        run.units_until(|units| of(units, track).len() >= 15);
        let units = run.units_until(|units| of(units, track).len() >= 25);
        assert_eq!(of(&units, 1 - track).len(), 0, "{wanted:#b}");
        run.producer.encode(0b11);
        let units = run.units_until(|units| !of(units, 1 - track).is_empty());
        assert!(of(&units, 1 - track)[0].keyframe);
    }
    // Another codec in the middle nobody plays.
    let unlike = VideoConfig { encoder: Encoder::Vp8, ..video };
    let run = Run::start(MediaConfig { video: unlike, ..config });
    assert!(matches!(&run.formats[..], [one] if one.rendition.is_none()), "{:?}", run.formats);
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
fn a_source_that_is_started_anew_goes_on_in_time() {
    // One that gives times of its own, from the clock, and one that begins at zero.
    for fragment in ["videotestsrc is-live=true", "videotestsrc"] {
        let fragment = format!(
            "{fragment} ! video/x-raw,width=160,height=90,framerate=25/1 ! x264enc tune=zerolatency"
        );
        let mut run = Run::start(pipeline(&fragment));
        let before = run.units_until(|units| units.len() >= 20);
        let continuation = run.producer.continuation();
        let counted = run.producer.encoder_stats().frames_encoded;
        run.producer.stop();
        std::thread::sleep(300 * MS);
        let mut again = Run::start_with(pipeline(&fragment), Some(&continuation));
        let after = again.units_until(|units| units.len() >= 10);
        let (last, first) = (&before[before.len() - 1], &after[0]);
        assert!(first.keyframe, "{fragment}");
        // RTP time is capture time, through both.
        let captured = first.captured_at.duration_since(last.captured_at).as_secs_f64();
        let rtp = first.rtp_timestamp.wrapping_sub(last.rtp_timestamp);
        let rtp = f64::from(rtp) / f64::from(run.formats[0].clock_rate);
        assert!(captured > 0.3 && captured < 5.0, "{fragment}: {captured} s");
        assert!((captured - rtp).abs() < 0.002, "{fragment}: {captured} s, in RTP {rtp} s");
        assert!(again.producer.encoder_stats().frames_encoded > counted, "counters go on");
        assert_eq!(again.names(), ["H264"]);
    }
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
    fs::create_dir(folder.path().join("empty")).expect("made");
    fs::create_dir(folder.path().join("broken")).expect("made");
    write("broken/a.mp4", b"");
    write("broken/b.mp4", &noise(50_000));
    for (path, expected) in [
        (folder.path().join("missing.mp4"), "No such file"),
        (folder.path().join("empty"), "holds no media files"),
        (folder.path().join("broken"), "nothing in"),
        (write("list.m3u", b"missing.mp4\nhttp://h/x.mp4\n"), "is no file on this machine"),
        (write("hls.m3u8", b"#EXTM3U\n#EXT-X-VERSION:3\na.ts\n"), "HLS"),
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
fn items_that_are_alike_pass_through_without_a_gap() {
    let folder = tempfile::tempdir().expect("a folder");
    // A keyframe begins each; otherwise there is one each second.
    const ITEMS: [(&str, u32, u32, usize); 3] =
        [("a.mp4", 320, 240, 23), ("b.mp4", 480, 272, 17), ("c.mp4", 160, 120, 11)];
    for (name, width, height, pictures) in ITEMS {
        let encoder = format!("{} ! avenc_aac ! aacparse", tone(pictures));
        let picture = h264(width, height, pictures);
        mux(&folder.path().join(name), "mp4mux", &[&picture, &encoder]);
    }
    for count in [2, 3] {
        let items = &ITEMS[..count];
        let list = folder.path().join("list.m3u");
        let lines: Vec<_> = items.iter().map(|(name, ..)| *name).collect();
        fs::write(&list, lines.join("\n")).expect("written");
        let mut run = Run::start(file(&list));
        assert_eq!(run.names(), ["H264", "MPEG4-GENERIC"]);
        let round: usize = items.iter().map(|(.., pictures)| pictures).sum();
        let units = run.units_until(|units| of(units, 0).len() > 2 * round + 20);
        let pictures = of(&units, 0);
        assert!(is_even(&pictures), "{count} items");
        let starts: Vec<_> = (0..2 * round).filter(|&at| pictures[at].keyframe).collect();
        let mut expected = vec![0];
        for (.., pictures) in items.iter().chain(items) {
            expected.push(expected[expected.len() - 1] + pictures);
        }
        expected.pop();
        assert_eq!(starts, expected, "{count} items");
        // Parameter sets come with each keyframe, and are those of its item.
        let sets: Vec<_> = starts.iter().map(|&at| sequence_parameter_set(pictures[at])).collect();
        assert_eq!(sets[..count], sets[count..], "{count} items");
        assert!((1..count).all(|at| sets[at] != sets[at - 1]), "{count} items");
        sound_goes_on(&of(&units, 1), pictures[0], pictures[2 * round]);
    }
}

#[test]
fn items_of_different_codecs_become_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let vp8 = "videotestsrc num-buffers=21 ! video/x-raw,width=240,height=240,framerate=30/1 \
               ! vp8enc deadline=1";
    let opus = format!("{} ! opusenc", tone(15));
    let aac = format!("{} ! avenc_aac ! aacparse", tone(20));
    mux(&folder.path().join("a.mp4"), "mp4mux", &[&h264(320, 240, 20), &aac]);
    mux(&folder.path().join("b.webm"), "webmmux", &[vp8, &opus]);
    mux(&folder.path().join("c.mkv"), "matroskamux", &[&h264(320, 240, 10)]);
    // Neither of these can be played.
    mux(&folder.path().join("d.mka"), "matroskamux", &[&aac]);
    fs::write(folder.path().join("e.mp4"), noise(5000)).expect("written");
    let video = VideoConfig { width: 320, height: 180, ..VideoConfig::default() };
    let mut run = Run::start(MediaConfig { video, ..file(folder.path()) });
    assert_eq!(run.names(), ["H264", "OPUS"]);
    // 0.8 s, 0.7 s and 0.4 s at 30 pictures a second.
    const ROUND: usize = 57;
    let units = run.units_until(|units| of(units, 0).len() > 3 * ROUND);
    let pictures = of(&units, 0);
    for pair in pictures.windows(2) {
        assert_eq!(pair[1].rtp_timestamp.wrapping_sub(pair[0].rtp_timestamp), 3000);
    }
    let sound = of(&units, 1);
    // The encoder's first packet is shorter by what it looks ahead.
    for pair in sound[1..].windows(2) {
        assert_eq!(pair[1].rtp_timestamp.wrapping_sub(pair[0].rtp_timestamp), 960);
    }
    let begun = distance(pictures[0].captured_at, sound[0].captured_at);
    assert!(begun < 40 * MS, "{begun:?}");
}

#[test]
fn an_item_without_sound_is_silent_while_pictures_pass() {
    let folder = tempfile::tempdir().expect("a folder");
    let aac = format!("{} ! avenc_aac ! aacparse", tone(20));
    mux(&folder.path().join("a.mp4"), "mp4mux", &[&h264(320, 240, 20), &aac]);
    mux(&folder.path().join("b.mp4"), "mp4mux", &[&h264(320, 240, 25)]);
    let mut run = Run::start(file(folder.path()));
    assert_eq!(run.names(), ["H264", "OPUS"]);
    let units = run.units_until(|units| of(units, 0).len() > 100);
    let pictures = of(&units, 0);
    assert!(is_even(&pictures));
    let starts: Vec<_> = (0..100).filter(|&at| pictures[at].keyframe).collect();
    assert_eq!(starts, [0, 20, 45, 65, 90], "passed through");
    for pair in of(&units, 1)[1..].windows(2) {
        assert_eq!(pair[1].rtp_timestamp.wrapping_sub(pair[0].rtp_timestamp), 960);
    }
}

#[test]
fn what_is_added_and_removed_counts_from_the_next_turn_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let item = |name: &str, size, pictures| {
        mux(&folder.path().join(name), "mp4mux", &[&h264(size, size, pictures)]);
    };
    item("a.mp4", 128, 10);
    item("b.mp4", 160, 10);
    let mut run = Run::start(file(folder.path()));
    let sets = |run: &mut Run, enough: &dyn Fn(&[Vec<u8>]) -> bool| {
        let mut sets = Vec::new();
        while !enough(&sets) {
            let unit = run.units_until(|units| !units.is_empty()).remove(0);
            sets.extend(unit.keyframe.then(|| sequence_parameter_set(&unit)));
        }
        sets
    };
    let before = sets(&mut run, &|sets| sets.len() >= 4);
    assert_eq!(before[..2], before[2..], "two in turn");
    item("c.mp4", 192, 10);
    let of_vp8 = "videotestsrc num-buffers=10 ! video/x-raw,framerate=25/1 ! vp8enc deadline=1";
    mux(&folder.path().join("d.webm"), "webmmux", &[of_vp8]);
    let known = before[..2].to_vec();
    let is_new = |set: &Vec<u8>| !known.contains(set);
    let after = sets(&mut run, &|sets| sets.iter().filter(|set| is_new(set)).count() >= 2);
    let third = after.iter().position(is_new).expect("the added one");
    assert_eq!(after[third + 1..], [&known[..], &after[third..=third]].concat(), "three in turn");
    fs::remove_file(folder.path().join("a.mp4")).expect("removed");
    fs::remove_file(folder.path().join("b.mp4")).expect("removed");
    sets(&mut run, &|sets| sets.len() >= 2 && sets[sets.len() - 2..].iter().all(is_new));
    fs::remove_file(folder.path().join("c.mp4")).expect("removed");
    fs::remove_file(folder.path().join("d.webm")).expect("removed");
    let error = loop {
        match run.event() {
            Event::Unit(_) => {}
            Event::Failed(error) => break error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert!(error.contains("holds no media files"), "{error}");
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
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list.txt");
    fs::write(&list, format!("{0}\n{0}\n", clip().canonicalize().expect("there").display()))
        .expect("written");
    for config in
        [file(&clip()), file(&list), pipeline("videotestsrc is-live=true"), MediaConfig::default()]
    {
        let mut run = Run::start(config);
        run.units_until(|units| !units.is_empty());
        let Run { producer, events, .. } = run;
        let begun = Instant::now();
        producer.stop();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        while let Ok(event) = events.try_recv() {
            assert!(matches!(event, Event::Unit(_) | Event::TrackEnded(_)), "{event:?}");
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
        Self::start_with(config, None)
    }

    fn start_with(config: MediaConfig, before: Option<&Continuation>) -> Self {
        let (to, events) = mpsc::channel();
        // After the test has seen enough nobody receives.
        let sink = Arc::new(move |event| to.send(event).unwrap_or_default());
        let source = config.source.clone();
        let started = match before {
            Some(before) => Producer::resume(config, sink, before),
            None => Producer::start(config, sink),
        };
        let producer = started.unwrap_or_else(|error| panic!("{source}: {error}"));
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

    /// The next event that is not only a track's end.
    fn event(&mut self) -> Event {
        loop {
            match self.events.recv_timeout(PATIENCE).expect("an event in time") {
                Event::TrackEnded(_) => {}
                event => return event,
            }
        }
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

/// What makes H.264 of so many pictures, of which the first alone is a keyframe.
fn h264(width: u32, height: u32, pictures: usize) -> String {
    format!(
        "videotestsrc num-buffers={pictures} pattern=ball \
         ! video/x-raw,format=I420,width={width},height={height},framerate=25/1 \
         ! x264enc bframes=2 b-adapt=false key-int-max=250 ! h264parse"
    )
}

/// A tone about as long as so many pictures at 25 a second.
fn tone(pictures: usize) -> String {
    let buffers = pictures * 1920 / 1024 + 1;
    format!(
        "audiotestsrc num-buffers={buffers} samplesperbuffer=1024 \
         ! audio/x-raw,rate=48000,channels=2"
    )
}

fn mux(path: &Path, muxer: &str, tracks: &[&str]) {
    let location = path.display();
    let tracks: String = tracks.iter().map(|track| format!("{track} ! queue ! m. ")).collect();
    run_to_end(&format!("{muxer} name=m ! filesink location={location} {tracks}"));
}

/// The first sequence parameter set in an access unit of H.264, found in packets that hold one NAL
/// unit or several (RFC 6184, sections 5.6 and 5.7.1).
fn sequence_parameter_set(unit: &Unit) -> Vec<u8> {
    const SET: u8 = 7;
    const AGGREGATE: u8 = 24;
    for packet in unit.packets.packets() {
        let payload = &packet[12..];
        if payload[0] & 0x1f == SET {
            return payload.to_vec();
        }
        let mut rest = if payload[0] & 0x1f == AGGREGATE { &payload[1..] } else { &[] };
        while let Some((length, behind)) = rest.split_first_chunk::<2>() {
            let (nal, behind) = behind.split_at(u16::from_be_bytes(*length).into());
            if nal[0] & 0x1f == SET {
                return nal.to_vec();
            }
            rest = behind;
        }
    }
    panic!("a keyframe without a parameter set");
}

/// Encoded sound between two pictures neither overlaps, nor lacks, nor drifts by more than a frame.
fn sound_goes_on(sound: &[&Unit], first: &Unit, last: &Unit) {
    let frame = Duration::from_secs_f64(1024.0 / 48_000.0);
    for pair in sound.windows(2) {
        let step = pair[1].captured_at - pair[0].captured_at;
        assert!(step > MS && step <= frame * 2, "{step:?}");
    }
    let heard = sound.iter().filter(|unit| unit.captured_at < last.captured_at).count() as u32;
    let difference = distance(first.captured_at + frame * heard, last.captured_at);
    assert!(difference <= frame, "{difference:?}");
}

pub(super) fn run_to_end(description: &str) {
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
