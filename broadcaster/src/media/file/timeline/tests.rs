//! Turns of made-up frames, laid end to end.

use super::*;

const MS: i64 = 1_000_000;
const BASE: i64 = 7 * SECOND + 1;

#[test]
fn pictures_keep_their_step_over_the_seam() {
    let mut timeline = timeline(&[Shape::Pictures]);
    for _ in 0..3 {
        turn(&mut timeline, &[(0, 80, 40), (0, 200, 40), (0, 120, 40), (0, 160, 40)]);
    }
    let pts: Vec<_> = placed(&mut timeline).into_iter().map(|(_, pts, _)| pts - BASE).collect();
    let turn = [0, 120, 40, 80];
    let expected: Vec<_> =
        (0..3).flat_map(|index| turn.map(|pts| (pts + index * 160) * MS)).collect();
    assert_eq!(pts, expected);
}

#[test]
fn pictures_of_different_items_follow_at_their_own_steps() {
    let mut timeline = timeline(&[Shape::Pictures]);
    // As long as 25, 30 and 50 pictures a second last, the last of them with another duration; one
    // item begins late in its file's time.
    let items: [&[(usize, i64, i64)]; 3] = [
        &[(0, 0, 40), (0, 40, 40), (0, 80, 40)],
        &[(0, 1000, 33), (0, 1033, 33), (0, 1066, 34)],
        &[(0, 0, 20), (0, 20, 60)],
    ];
    for _ in 0..2 {
        items.iter().for_each(|item| turn(&mut timeline, item));
    }
    let pts: Vec<_> = placed(&mut timeline).iter().map(|(_, pts, _)| (pts - BASE) / MS).collect();
    let round = [0, 40, 80, 120, 153, 186, 220, 240];
    let expected: Vec<_> = round.iter().chain(&round.map(|pts| pts + 300)).copied().collect();
    assert_eq!(pts, expected);
}

#[test]
fn an_item_without_sound_is_silent_to_the_sample() {
    let mut timeline = timeline(&[Shape::Pictures, Shape::Samples { channels: 1 }]);
    let loud = [(0, 0, 50), (1, 0, 50), (0, 50, 50), (1, 50, 50)];
    let silent = [(0, 0, 40), (0, 40, 40), (0, 80, 37)];
    for item in [&loud[..], &silent, &silent, &loud] {
        turn(&mut timeline, item);
    }
    let mut position = samples(BASE);
    for placed in timeline.drain().filter(|placed| placed.track == 1) {
        let pts = placed.buffer.pts().expect("placed").nseconds() as i64;
        assert_eq!(samples(pts), position);
        position += placed.buffer.size() as i64 / 2;
        let map = placed.buffer.map_readable().expect("memory");
        let is_silent = (BASE + 100 * MS..BASE + 334 * MS).contains(&(pts + 1));
        assert!(map.iter().all(|&byte| (byte == 0) == is_silent), "at {} ms", (pts - BASE) / MS);
    }
    assert_eq!(position, samples(BASE + 434 * MS));
}

#[test]
fn sound_of_items_that_differ_in_excess_does_not_drift() {
    let mut timeline = timeline(&[Shape::Pictures, Shape::SoundFrames]);
    // Pictures of 100 and 130 ms, sound frames of 21 ms up to 126 and 147 ms.
    let item = |pictures: i64, sounds: i64| {
        let mut frames = vec![(0, 0, pictures / 2), (0, pictures / 2, pictures / 2)];
        frames.extend((0..sounds).map(|index| (1, index * 21, 21)));
        frames
    };
    const ROUNDS: i64 = 50;
    let mut sent = Vec::new();
    for round in 1..=ROUNDS {
        turn(&mut timeline, &item(100, 6));
        turn(&mut timeline, &item(130, 7));
        sent.extend(placed(&mut timeline).into_iter().filter(|(track, ..)| *track == 1));
        let length = sent.len() as i64 * 21;
        assert!((length - round * 230).abs() <= 11, "{length} ms of sound in {round} rounds");
    }
    for pair in sent.windows(2) {
        let step = (pair[1].1 - pair[0].1) / MS;
        assert!((1..=2 * 21).contains(&step), "{step} ms");
    }
}

#[test]
fn sound_that_begins_early_or_late_goes_on() {
    let mut timeline = timeline(&[Shape::Pictures, Shape::SoundFrames]);
    // Sound that begins 15 ms before the pictures and ends 9 ms after them, and some that begins 15 ms
    // behind and ends 14 ms early.
    let early = [(1, 985, 20), (0, 1000, 56), (1, 1005, 20), (1, 1025, 20), (1, 1045, 20)];
    let late = [(0, 0, 89), (1, 15, 20), (1, 35, 20), (1, 55, 20)];
    for round in 1..=30 {
        turn(&mut timeline, &early);
        turn(&mut timeline, &late);
        let sent: Vec<_> =
            placed(&mut timeline).into_iter().filter(|(track, ..)| *track == 1).collect();
        assert!(sent.len() == 6 || sent.len() == 7, "{} in round {round}", sent.len());
        assert!(sent.windows(2).all(|pair| pair[1].1 > pair[0].1), "round {round}");
    }
}

#[test]
fn encoded_sound_neither_piles_up_nor_runs_out() {
    let mut timeline = timeline(&[Shape::Pictures, Shape::SoundFrames]);
    // Pictures of 100 ms, sound frames of 21 ms up to 126 ms.
    let mut frames = vec![(0, 0, 50), (0, 50, 50)];
    frames.extend((0..6).map(|index| (1, index * 21, 21)));
    const TURNS: i64 = 100;
    for _ in 0..TURNS {
        turn(&mut timeline, &frames);
    }
    let sent = placed(&mut timeline).iter().filter(|(track, ..)| *track == 1).count() as i64;
    assert!((sent * 21 - TURNS * 100).abs() <= 21, "{sent} frames in {TURNS} turns");
}

#[test]
fn samples_are_cut_and_filled_to_the_sample() {
    for sound_length in [60, 100, 130] {
        let mut timeline = timeline(&[Shape::Pictures, Shape::Samples { channels: 1 }]);
        for _ in 0..3 {
            let mut frames: Vec<_> =
                (0..sound_length / 10).map(|index| (1, index * 10, 10)).collect();
            frames.extend([(0, 0, 50), (0, 50, 50)]);
            frames.sort_by_key(|&(_, pts, _)| pts);
            turn(&mut timeline, &frames);
        }
        let mut position = samples(BASE);
        for (_, pts, size) in placed(&mut timeline).into_iter().filter(|(track, ..)| *track == 1) {
            assert_eq!(samples(pts), position, "sound of {sound_length} ms");
            position += size as i64 / 2;
        }
        assert_eq!(position, samples(BASE + 300 * MS), "sound of {sound_length} ms");
    }
}

#[test]
fn much_longer_sound_rules() {
    let mut timeline = timeline(&[Shape::Pictures, Shape::SoundFrames]);
    let mut frames = vec![(0, 0, 40)];
    frames.extend((0..50).map(|index| (1, index * 100, 100)));
    turn(&mut timeline, &frames);
    turn(&mut timeline, &frames);
    let all = placed(&mut timeline);
    assert_eq!(all.len(), 2 * 51);
    assert_eq!(all[51], (0, BASE + 5 * SECOND, 960));
}

#[test]
fn a_turn_without_frames_is_an_error() {
    let mut timeline = timeline(&[Shape::Pictures]);
    timeline.begin_turn(0);
    assert_eq!(timeline.end_turn(), Err(EmptyTurn));
}

#[test]
fn samples_and_nanoseconds_agree() {
    for position in (0..10_000_000).step_by(997) {
        assert_eq!(samples(nanoseconds(position)), position);
    }
}

fn timeline(shapes: &[Shape]) -> Timeline {
    gst::init().expect("GStreamer starts");
    Timeline::new(shapes, BASE)
}

/// Plays frames given as track, milliseconds, and duration.
fn turn(timeline: &mut Timeline, frames: &[(usize, i64, i64)]) {
    let origin = frames.iter().map(|(_, pts, _)| pts * MS).min().expect("frames");
    timeline.begin_turn(origin);
    let last_picture = frames.iter().rposition(|(track, ..)| *track == 0);
    for (index, &(track, pts, duration)) in frames.iter().enumerate() {
        let buffer = gst::Buffer::from_mut_slice(vec![1u8; duration as usize * 48 * 2]);
        let buffer = if duration > 1000 { gst::Buffer::new() } else { buffer };
        let buffer = if track == 0 { gst::Buffer::from_mut_slice(vec![0u8; 960]) } else { buffer };
        let frame = Frame { buffer, pts: pts * MS, dts: None, duration: Some(duration * MS) };
        let pictures_ended = last_picture.is_none_or(|last| index > last);
        timeline.place(Taken { track, frame, due: pts * MS, pictures_ended });
    }
    timeline.end_turn().expect("frames");
}

fn placed(timeline: &mut Timeline) -> Vec<(usize, i64, usize)> {
    let time = |buffer: &gst::Buffer| buffer.pts().map_or(-1, |pts| pts.nseconds() as i64);
    timeline
        .drain()
        .map(|placed| (placed.track, time(&placed.buffer), placed.buffer.size()))
        .collect()
}
