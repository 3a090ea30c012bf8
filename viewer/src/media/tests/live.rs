//! Live play under what networks and broadcasters do.

use std::time::Duration;

use bytes::Bytes;

use super::super::output::Output;
use super::super::player::Player;
use super::super::supervise::PlayerEvent;
use super::super::testing::*;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn start(clip: &Clip) -> (Player, std::sync::mpsc::Receiver<PlayerEvent>) {
    let (events, heard) = events();
    (Player::start(&clip.formats, &[Output::Null], LATENCY, events).unwrap(), heard)
}

fn both() -> Clip {
    Clip::encode(2 * S, &[&h264(320, 240, 500, 30), &sound(OPUS)])
}

#[test]
fn live_play_keeps_arrival_plus_latency_on_both_tracks() {
    let clip = both();
    let (player, heard) = start(&clip);
    feed(&player, &clip, Duration::ZERO);
    await_that("the last frame", || releases(&player, 0).len() >= clip.units[0]);
    await_that("the last sound", || releases(&player, 1).len() + 2 >= clip.units[1]);
    assert_on_time(&player, 0);
    assert_on_time(&player, 1);
    let stats = player.stats();
    assert_eq!(stats.frames_dropped, 0);
    let latency = stats.latency.unwrap();
    assert!((LATENCY..LATENCY + 20 * MS).contains(&latency), "{latency:?}");
    assert!(matches!(heard.recv().unwrap(), PlayerEvent::FirstFrame));
}

#[test]
fn av1_is_shown_as_soon_as_its_last_packet_is_there() {
    let clip = Clip::encode(2 * S, &[&av1(320, 240, 500, 30), &sound(OPUS)]);
    let (player, _heard) = start(&clip);
    feed(&player, &clip, Duration::ZERO);
    await_that("the last frame", || releases(&player, 0).len() >= clip.units[0]);
    assert_on_time(&player, 0);
    let stats = player.stats();
    assert_eq!(stats.frames_dropped, 0);
    let latency = stats.latency.unwrap();
    assert!((LATENCY..LATENCY + 20 * MS).contains(&latency), "{latency:?}");
}

#[test]
fn av1_goes_on_after_losses_and_begins_at_a_keyframe() {
    const GOP: usize = 10;
    let whole = Clip::encode(3 * S, &[&av1(320, 240, 800, GOP as u32)]);
    let mut clip = whole.part(100 * MS, 3 * S);
    let (mut count, mut lost) = (0, 0);
    clip.packets.retain(|packet| {
        count += usize::from(packet.at > 500 * MS);
        let lose = count % 151 == 150;
        lost += usize::from(lose);
        !lose
    });
    let (player, heard) = start(&clip);
    feed(&player, &clip, Duration::ZERO);
    let expected = clip.units[0] - GOP - lost * GOP;
    assert!(lost > 1 && expected > 2 * GOP, "{lost} packets lost");
    await_that("what the losses leave", || releases(&player, 0).len() + 8 >= expected);
    assert!(heard.try_iter().all(|event| matches!(event, PlayerEvent::FirstFrame)));
}

#[test]
fn reordered_and_lost_packets_cost_only_themselves() {
    const GOP: usize = 10;
    let coded = h264(320, 240, 500, GOP as u32);
    let mut clip = Clip::encode(2 * S, &[&coded, &sound(OPUS)]);
    let seed = seed();
    let mut random = Random(seed);
    let video = |packet: &Packet| packet.track == 0;
    let mut lost = 0;
    clip.packets.retain(|packet| {
        let lose = video(packet) && packet.at > 200 * MS && random.below(60) == 0;
        lost += usize::from(lose);
        !lose
    });
    // The jitter buffer takes the first packet it sees for the first there is.
    for packet in clip.packets.iter_mut().filter(|packet| packet.at > 200 * MS) {
        packet.at += random.below(60) as u32 * MS;
    }
    clip.packets.sort_by_key(|packet| packet.at);
    let (player, heard) = start(&clip);
    feed(&player, &clip, Duration::ZERO);
    await_that("the last sound", || releases(&player, 1).len() + 4 >= clip.units[1]);
    let shown = releases(&player, 0).len();
    // libav's decoder may show nothing after a lost picture until the next keyframe, where the
    // loss falls on a wrap of its frame number.
    assert!(
        shown + lost * GOP + 8 >= clip.units[0],
        "seed {seed}: {shown} shown, {lost} packets lost"
    );
    assert!(heard.try_iter().all(|event| matches!(event, PlayerEvent::FirstFrame)));
}

#[test]
fn play_goes_on_after_a_pause_whatever_the_timestamps_do() {
    for jump in [0_u32, 5 * 90_000, 77_777_777, 0_u32.wrapping_sub(40 * 90_000)] {
        let clip = Clip::encode(S, &[&h264(320, 240, 300, 30)]);
        let (player, _heard) = start(&clip);
        feed(&player, &clip, Duration::ZERO);
        let last = clip.packets.last().unwrap();
        let sequence = u16::from_be_bytes([last.bytes[2], last.bytes[3]]);
        let stamp = u32::from_be_bytes(last.bytes[4..8].try_into().unwrap());
        let first = u32::from_be_bytes(clip.packets[0].bytes[4..8].try_into().unwrap());
        let mut again = clip.clone();
        for (index, packet) in again.packets.iter_mut().enumerate() {
            let mut bytes = packet.bytes.to_vec();
            let old = u32::from_be_bytes(bytes[4..8].try_into().unwrap());
            let new =
                stamp.wrapping_add(3_000).wrapping_add(jump).wrapping_add(old.wrapping_sub(first));
            bytes[2..4].copy_from_slice(&sequence.wrapping_add(1 + index as u16).to_be_bytes());
            bytes[4..8].copy_from_slice(&new.to_be_bytes());
            packet.bytes = Bytes::from(bytes);
        }
        std::thread::sleep(1500 * MS);
        let resumed = player.running_time();
        feed(&player, &again, Duration::ZERO);
        // All after the pause are shown, the first of them at its time.
        let shown =
            || releases(&player, 0).into_iter().filter(|r| r.presentation >= resumed).count();
        await_that("the last frame", || shown() + 1 >= again.units[0]);
        assert_on_time(&player, 0);
    }
}

#[test]
fn nonsense_neither_panics_nor_blocks() {
    let seed = seed();
    let mut random = Random(seed);
    for clip in [both(), Clip::encode(S, &[&av1(320, 240, 500, 30)])] {
        disturb(&clip, &mut random);
    }
}

/// Plays a clip with much of it made nonsense.
fn disturb(clip: &Clip, random: &mut Random) {
    let (player, _heard) = start(clip);
    for packet in &clip.packets {
        let mut bytes = packet.bytes.to_vec();
        match random.below(4) {
            0 => bytes.truncate(random.below(bytes.len())),
            1 => bytes.iter_mut().skip(12).for_each(|byte| *byte = random.below(256) as u8),
            2 => bytes.iter_mut().for_each(|byte| *byte ^= 1 << random.below(8)),
            _ => {}
        }
        player.push(packet.track, Bytes::from(bytes), player.running_time());
    }
    player.push(99, Bytes::from_static(&[0x80; 40]), Duration::MAX);
    player.stop(2 * S).unwrap();
}

#[test]
fn every_codec_decodes() {
    let raw = "videotestsrc num-buffers=FRAMES ! video/x-raw,format=I420,width=320,height=240,framerate=30/1";
    for (name, coded) in [
        ("VP8", "vp8enc deadline=1 ! rtpvp8pay pt=96 mtu=1150"),
        ("VP9", "vp9enc deadline=1 cpu-used=8 ! rtpvp9pay pt=96 mtu=1150"),
        ("H265", "x265enc speed-preset=ultrafast tune=zerolatency ! rtph265pay pt=96 mtu=1150"),
        (
            "H264 with B-frames",
            "x264enc speed-preset=ultrafast bframes=2 b-adapt=false ! rtph264pay pt=96 mtu=1150",
        ),
    ] {
        let clip = Clip::encode(S, &[&format!("{raw} ! {coded}"), &sound(AAC)]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.mkv");
        let outputs = [Output::Null, format!("record:{}", path.display()).parse().unwrap()];
        let (events, heard) = events();
        let player = Player::start(&clip.formats, &outputs, LATENCY, events).unwrap();
        feed(&player, &clip, 500 * MS);
        // A decoder that puts pictures back in order holds the last ones until the end.
        await_that(name, || player.stats().frames_decoded as usize + 4 >= clip.units[0]);
        await_that(name, || player.stats().audio_buffers_decoded as usize + 2 >= clip.units[1]);
        player.stop(2 * S).unwrap();
        assert_eq!(frames_in(&path, "v"), clip.units[0], "{name}");
        assert!(heard.try_iter().all(|event| matches!(event, PlayerEvent::FirstFrame)), "{name}");
    }
}
