//! Joining and live play: what is shown, and when.

use std::time::{Duration, Instant};

use super::super::environment::preload;
use super::super::output::Output;
use super::super::player::Player;
use super::super::testing::*;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

#[test]
fn joining_late_shows_a_picture_at_once_and_then_the_live_one() {
    let clip = Clip::encode(10 * S, &[&h264(1280, 720, 1000, 300), &sound(OPUS)]);
    preload(&[Output::Null]);
    let (events, _heard) = events();
    let started = Instant::now();
    let player = Player::start(&clip.formats, &[Output::Null], LATENCY, events).unwrap();
    let joined = player.running_time();
    feed(&player, &clip, 7 * S);
    let all = clip.units[0];
    await_that("the last frame", || {
        releases(&player, 0).len() + player.stats().frames_dropped as usize >= all
    });
    let shown = releases(&player, 0);
    let stats = player.stats();
    let first = stats.first_frame_at.unwrap() - started;
    let live = shown[1].at - joined;
    println!("first frame after {first:?}, live after {live:?}, {stats:?}");
    assert_eq!(stats.frames_decoded as usize, all);
    assert!(shown[0].presentation < joined - 6 * S, "the first frame is the oldest one");
    assert!(first < S, "first frame after {first:?}");
    assert!(live < 2 * S, "live after {live:?}");
    // All but the first at their own time: nothing is run through.
    assert_on_time(&player, 0);
    assert_on_time(&player, 1);
    player.stop(2 * S).unwrap();
}

#[test]
fn without_history_nothing_is_shown_before_a_keyframe() {
    let clip = Clip::encode(2 * S, &[&h264(320, 240, 300, 30)]).part(500 * MS, 2 * S);
    let (events, _heard) = events();
    let player = Player::start(&clip.formats, &[Output::Null], LATENCY, events).unwrap();
    feed(&player, &clip, Duration::ZERO);
    await_that("the last frame", || releases(&player, 0).len() >= 30);
    assert_eq!(player.stats().frames_decoded, 30);
}

#[test]
fn old_gops_in_the_history_are_not_all_decoded() {
    let clip = Clip::encode(6 * S, &[&h264(1280, 720, 1000, 30)]);
    let (events, _heard) = events();
    let player = Player::start(&clip.formats, &[Output::Null], LATENCY, events).unwrap();
    feed(&player, &clip, 5 * S);
    await_that("the last frame", || releases(&player, 0).len() > 25);
    let stats = player.stats();
    assert!(stats.frames_decoded < 180 && stats.frames_dropped > 0, "{stats:?}");
    assert_on_time(&player, 0);
}
