//! Recordings and network outputs: everything received is in them, and they are closed properly.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::super::error::PlayerError;
use super::super::output::{Output, Recording};
use super::super::player::Player;
use super::super::supervise::PlayerEvent;
use super::super::testing::*;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn record(path: &Path) -> Output {
    Output::Record(Recording::new(path).unwrap())
}

fn small(sound_encoder: &str) -> Clip {
    Clip::encode(3 * S, &[&h264(320, 240, 300, 90), &sound(sound_encoder)])
}

/// Plays the clip, most of it as history, to the outputs, and stops when all of it has come out.
fn play_through(clip: &Clip, outputs: &[Output]) {
    let (events, heard) = events();
    let player = Player::start(&clip.formats, outputs, LATENCY, events).unwrap();
    feed(&player, clip, 2500 * MS);
    await_that("every frame", || player.stats().frames_decoded as usize >= clip.units[0]);
    let began = Instant::now();
    player.stop(2 * S).unwrap();
    assert!(began.elapsed() < 2 * S);
    let failures: Vec<_> =
        heard.try_iter().filter(|event| !matches!(event, PlayerEvent::FirstFrame)).collect();
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn recordings_hold_every_frame_and_all_sound() {
    let folder = tempfile::tempdir().unwrap();
    for (name, encoder) in [("opus", OPUS), ("aac", AAC)] {
        let clip = small(encoder);
        let paths: Vec<PathBuf> = ["mkv", "mp4", "ts"]
            .iter()
            .map(|e| folder.path().join(format!("{name}.{e}")))
            .collect();
        let outputs: Vec<_> = paths.iter().map(|path| record(path)).collect();
        play_through(&clip, &outputs);
        for path in &paths {
            assert_eq!(frames_in(path, "v"), clip.units[0], "{path:?}");
            let sounds = frames_in(path, "a");
            assert!(sounds + 1 >= clip.units[1], "{path:?}: {sounds} of {}", clip.units[1]);
            let pictures = times_in(path, "v");
            let sounds = times_in(path, "a");
            // Sound and picture keep their distance, and steps are even.
            assert!((pictures[0] - sounds[0]).abs() < 0.05, "{path:?}");
            let (first, last) = (pictures[0], pictures[pictures.len() - 1]);
            let length = (pictures.len() - 1) as f64 / 30.0;
            assert!((last - first - length).abs() < 0.02, "{path:?}: {first} to {last}");
            assert!((last - sounds[sounds.len() - 1]).abs() < 0.1, "{path:?}");
        }
    }
}

#[test]
fn av1_is_recorded_where_the_container_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let clip = Clip::encode(3 * S, &[&av1(320, 240, 300, 30), &sound(OPUS)]);
    let paths = ["mkv", "mp4"].map(|e| folder.path().join("av1").with_extension(e));
    play_through(&clip, &paths.clone().map(|path| record(&path)));
    for path in &paths {
        assert_eq!(frames_in(path, "v"), clip.units[0], "{path:?}");
        let times = times_in(path, "v");
        for pair in times.windows(2) {
            assert!((pair[1] - pair[0] - 1.0 / 30.0).abs() < 0.01, "{path:?}: {pair:?}");
        }
    }
    let (events, _heard) = events();
    let result = Player::start(&clip.formats, &[Output::Stdout], LATENCY, events);
    assert!(matches!(result, Err(PlayerError::Unsuitable { .. })));
}

#[test]
fn pictures_may_change_their_size() {
    let folder = tempfile::tempdir().unwrap();
    type Coded = fn(u32, u32, u32, u32) -> String;
    for (name, coded, containers) in
        [("h264", h264 as Coded, &["mkv", "mp4", "ts"][..]), ("av1", av1, &["mkv", "mp4"])]
    {
        let part = |width, height| Clip::encode(S, &[&coded(width, height, 300, 90)]);
        let clip = spliced(&part(320, 240), &part(160, 176), S);
        let paths: Vec<_> =
            containers.iter().map(|end| folder.path().join(name).with_extension(end)).collect();
        let outputs: Vec<_> = paths.iter().map(|path| record(path)).collect();
        play_through(&clip, &outputs);
        for path in &paths {
            assert_eq!(frames_in(path, "v"), clip.units[0], "{path:?}");
            for pair in times_in(path, "v").windows(2) {
                assert!((pair[1] - pair[0] - 1.0 / 30.0).abs() < 0.01, "{path:?}: {pair:?}");
            }
        }
        let (events, _heard) = events();
        let player = Player::start(&clip.formats, &[Output::Null], LATENCY, events).unwrap();
        feed(&player, &clip, Duration::ZERO);
        await_that(name, || releases(&player, 0).len() >= clip.units[0]);
        assert_on_time(&player, 0);
    }
}

#[test]
fn a_full_disk_stops_only_its_own_output() {
    let folder = tempfile::tempdir().unwrap();
    let full = folder.path().join("full.mkv");
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    let good = folder.path().join("good.mkv");
    let clip = small(OPUS);
    let (events, heard) = events();
    let outputs = [record(&full), record(&good), Output::Null];
    let player = Player::start(&clip.formats, &outputs, LATENCY, events).unwrap();
    feed(&player, &clip, 2500 * MS);
    await_that("every frame", || player.stats().frames_decoded as usize >= clip.units[0]);
    player.stop(2 * S).unwrap();
    let failed: Vec<_> = heard.iter().filter(|e| !matches!(e, PlayerEvent::FirstFrame)).collect();
    assert!(
        matches!(&failed[..], [PlayerEvent::OutputFailed { output, .. }] if *output == outputs[0]),
        "{failed:?}"
    );
    assert_eq!(frames_in(&good, "v"), clip.units[0]);
}

#[test]
fn a_silent_track_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut clip = small(OPUS);
    clip.packets.retain(|packet| packet.track == 0);
    for extension in ["mkv", "mp4", "ts"] {
        let path = folder.path().join("silent").with_extension(extension);
        play_through(&clip, &[Output::Null, record(&path)]);
        assert_eq!(frames_in(&path, "v"), clip.units[0], "{extension}");
    }
}

#[test]
fn a_track_that_falls_silent_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut clip = Clip::encode(16 * S, &[&h264(320, 240, 300, 30), &sound(OPUS)]);
    clip.packets.retain(|packet| packet.track == 0 || packet.at < 2 * S);
    let paths = ["mkv", "mp4", "ts"].map(|e| folder.path().join("gap").with_extension(e));
    let outputs = paths.clone().map(|path| record(&path));
    let (events, _heard) = events();
    let player = Player::start(&clip.formats, &outputs, LATENCY, events).unwrap();
    feed(&player, &clip, 4 * S);
    // The process dies here, as it were: nothing is told to finish.
    drop(player);
    for path in &paths {
        let frames = frames_in(path, "v");
        assert!(frames + 60 >= clip.units[0], "{path:?}: {frames} of {}", clip.units[0]);
    }
}

#[test]
fn udp_carries_a_transport_stream_at_its_time() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(10 * MS)).unwrap();
    let output =
        Output::Udp { host: "127.0.0.1".into(), port: socket.local_addr().unwrap().port() };
    let clip = small(OPUS);
    let (events, _heard) = events();
    let player = Player::start(&clip.formats, &[output], LATENCY, events).unwrap();
    let started = player.running_time();
    let ended = AtomicBool::new(false);
    let pictures = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_pictures(&socket, &player, &ended));
        feed(&player, &clip, S);
        std::thread::sleep(2 * LATENCY);
        ended.store(true, Relaxed);
        reader.join().unwrap()
    });
    assert!(pictures.len() + 3 >= clip.units[0], "{} of {}", pictures.len(), clip.units[0]);
    for &(presentation, at) in &pictures {
        // A datagram goes at the time of the first thing in it, which may be a frame earlier.
        assert!(at + 40 * MS >= presentation + LATENCY, "{presentation:?} came early, at {at:?}");
    }
    let live: Vec<_> =
        pictures.iter().filter(|(presentation, _)| *presentation > started).collect();
    let on_time = live.iter().filter(|(p, at)| *at < *p + LATENCY + 60 * MS).count();
    assert!(on_time * 10 > live.len() * 8, "{on_time} of {} on time: {live:?}", live.len());
    player.stop(2 * S).unwrap();
}

/// Receives MPEG-TS and notes each picture's presentation time and when its first packet came.
fn read_pictures(
    socket: &UdpSocket,
    player: &Player,
    ended: &AtomicBool,
) -> Vec<(Duration, Duration)> {
    let mut pictures = Vec::new();
    let mut buffer = [0; 2048];
    while !ended.load(Relaxed) {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        let at = player.running_time();
        assert!(length <= 1316 && length % 188 == 0);
        for packet in buffer[..length].chunks(188) {
            assert_eq!(packet[0], 0x47);
            let skip = if packet[3] & 0x20 != 0 { 5 + usize::from(packet[4]) } else { 4 };
            let payload = packet.get(skip..).unwrap_or_default();
            if packet[1] & 0x40 != 0 && payload.starts_with(&[0, 0, 1, 0xe0]) {
                let field = |i: usize| u64::from(payload[9 + i]);
                let time = (field(0) >> 1 & 7) << 30
                    | field(1) << 22
                    | field(2) >> 1 << 15
                    | field(3) << 7
                    | field(4) >> 1;
                // The muxer counts from one hour.
                pictures.push((Duration::from_micros(time * 100 / 9) - 3600 * S, at));
            }
        }
    }
    pictures
}

#[test]
fn containers_without_a_place_for_a_format_are_refused() {
    let mut clip = small(OPUS);
    clip.formats[0].encoding_name = "VP8".into();
    for output in ["stdout", "record:x.ts", "record:x.mp4"] {
        let (events, _heard) = events();
        let result = Player::start(&clip.formats, &[output.parse().unwrap()], LATENCY, events);
        assert!(matches!(result, Err(PlayerError::Unsuitable { .. })));
    }
}
