//! Several sizes of one picture, from the channel to a viewer's receiver over a path that loses packets: whatever the
//! viewer is switched to and when, it gets each picture of what it watches, and all of the sound, once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use punchcast_protocol::burst::PlainBurst;
use punchcast_protocol::channel::{
    Channel, History, JoinPacing, Step, Switched, TrackPosition, ViewerId,
};
use punchcast_protocol::media::Kind;
use punchcast_protocol::receiver::{Receiver, Track};
use punchcast_protocol::reception::Verdict;
use punchcast_protocol::seal::{Epoch, MasterKey, SealedBurst};
use punchcast_protocol::volley::{Run, Volley};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SSRCS: [u32; 4] = [10, 20, 30, 40];
const RENDITIONS: [Option<usize>; 4] = [Some(0), Some(1), Some(2), None];
const SOUND: usize = 3;
/// Packets in a picture of each.
const PICTURE: [usize; 3] = [9, 4, 2];

/// The first picture that the viewer gets: the last keyframe before it came, shortly behind that.
const FIRST: u32 = 100;

const FRAME: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_millis(200);
const RTT: Duration = Duration::from_millis(20);
const VIEWER: ViewerId = ViewerId(1);

struct Scene {
    channel: Channel,
    rng: StdRng,
    loss: f64,
    now: Instant,
    frame: u32,
    /// Keyframes that were asked for.
    wanted: [bool; 3],
    /// Whether each is made at all.
    made: [bool; 3],
    is_live: bool,
    receiver: Receiver,
    /// What the viewer was told, and hears of a little later.
    told: Vec<(Instant, Switched)>,
    /// What each packet that came was: the frame, by SSRC and index.
    came: BTreeMap<(u32, u64), u32>,
    /// From which frame on which rendition was watched.
    watched: Vec<(u32, usize)>,
    /// Where each track that was watched before ended, and where the one behind it began.
    ends: Vec<(u32, u64)>,
    begins: Vec<(u32, u64)>,
}

fn key() -> MasterKey {
    MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12])
}

fn track(number: usize, position: TrackPosition) -> Track {
    let is_sound = number == SOUND;
    Track {
        kind: if is_sound { Kind::Audio } else { Kind::Video },
        ssrc: SSRCS[number],
        clock_rate: 90_000,
        first_index: position.first_index,
        expected_from: position.first_index,
        live_index: position.live_index,
    }
}

fn packets(burst: &SealedBurst) -> Vec<Bytes> {
    (0..burst.len()).filter_map(|at| Some(burst.bytes().slice(burst.packet(at)?))).collect()
}

impl Scene {
    fn new(seed: u64, loss: f64) -> Self {
        let each = "20M".parse().expect("a rate");
        let pacing = JoinPacing { each, total: None };
        let mut channel = Channel::new(&key(), &SSRCS, History::default(), pacing);
        channel.set_renditions(&RENDITIONS);
        channel.set_sound(vec![false, false, false, true]);
        let now = Instant::now();
        let mut scene = Self {
            channel,
            rng: StdRng::seed_from_u64(seed),
            loss,
            now,
            frame: 0,
            wanted: [true; 3],
            made: [true; 3],
            is_live: false,
            receiver: Receiver::new(&[], &[key()], PATIENCE, now),
            told: Vec::new(),
            came: BTreeMap::new(),
            watched: Vec::new(),
            ends: Vec::new(),
            begins: Vec::new(),
        };
        (0..FIRST + 3).for_each(|_| scene.frame());
        let positions = scene.channel.join_rendition(VIEWER, 2, scene.now).expect("a GOP is there");
        let tracks = [track(2, positions[2]), track(SOUND, positions[SOUND])];
        scene.receiver = Receiver::new(&tracks, &[key()], PATIENCE, scene.now);
        scene.watched.push((FIRST, 2));
        scene
    }

    fn arrive(&mut self, packet: &Bytes, is_lossy: bool) {
        if is_lossy && self.rng.random_bool(self.loss) {
            return;
        }
        let came = &mut self.came;
        let mut deliver = |arrived: punchcast_protocol::receiver::Arrived<'_>| {
            if arrived.verdict == Verdict::Fresh {
                let ssrc = SSRCS[usize::from(arrived.rtp[1] & 0x7f) - 96];
                let before = came.insert((ssrc, arrived.index), arrived.timestamp / 3600);
                assert_eq!(before, None, "twice");
            }
        };
        // What is not known yet is held.
        let _ = self.receiver.take(&mut packet.to_vec(), self.now, &mut deliver);
        self.receiver.take_held(self.now, &mut deliver);
    }

    fn publish(&mut self, track: usize, keyframe: bool, count: usize) {
        let mut burst = PlainBurst::default();
        for at in 0..count {
            let mut packet = [0; 400];
            let marker = if at + 1 == count { 0x80 } else { 0 };
            (packet[0], packet[1]) = (0x80, marker | (96 + track as u8));
            packet[4..8].copy_from_slice(&(self.frame * 3600).to_be_bytes());
            burst.push([&packet[..]]).expect("it fits");
        }
        let sealed = self.channel.publish(track, keyframe, self.now, burst, self.now);
        let sealed = sealed.expect("it seals");
        let end = self.channel.history().end();
        while let Some(switched) = self.channel.poll_switched() {
            assert_eq!(switched.position, end - 1);
            self.watched.push((self.frame, switched.rendition));
            self.ends.push((SSRCS[switched.before.0], switched.before.1));
            self.begins.push((SSRCS[switched.after.0], switched.after.1));
            let hears = self.now + Duration::from_millis(self.rng.random_range(0..60));
            self.told.push((hears, switched));
        }
        self.channel.left(end - 1, self.now);
        let of = RENDITIONS[track];
        if self.is_live && of.is_none_or(|of| of == self.channel.rendition(VIEWER)) {
            packets(&sealed).iter().for_each(|packet| self.arrive(packet, true));
        }
    }

    /// One picture of each rendition that is made, and its sound.
    fn frame(&mut self) {
        for (rendition, packets) in PICTURE.into_iter().enumerate() {
            if self.made[rendition] {
                let is_asked = std::mem::take(&mut self.wanted[rendition]);
                self.publish(rendition, is_asked || self.frame.is_multiple_of(100), packets);
            }
        }
        self.publish(SOUND, false, 1);
        self.frame += 1;
        let until = self.now + FRAME;
        while self.now < until {
            self.now += Duration::from_millis(2);
            self.tick();
        }
    }

    fn tick(&mut self) {
        let (due, later) =
            std::mem::take(&mut self.told).into_iter().partition(|(at, _)| *at <= self.now);
        self.told = later;
        let due: Vec<(Instant, Switched)> = due;
        for (_, Switched { before, after, left_out, .. }) in due {
            left_out.iter().for_each(|left_out| self.receiver.left_out(left_out));
            let position = TrackPosition { first_index: after.1, live_index: after.1 };
            let (ssrc, track) = (SSRCS[before.0], track(after.0, position));
            self.receiver.switch(ssrc, before.1, &track, self.now).expect("it was watched");
        }
        if let Some(wish) = self.receiver.poll_wish(RTT, self.now)
            && !self.rng.random_bool(self.loss)
        {
            self.channel.ask(VIEWER, &wish, self.now);
        }
        while let Some(step) = self.channel.poll_step(self.now) {
            match step {
                Step::Send { parts, .. } => {
                    for part in parts {
                        let packets = packets(&part.burst);
                        packets[part.packets].iter().for_each(|packet| self.arrive(packet, true));
                    }
                }
                Step::SendLess { parts, left_out, .. } => {
                    left_out.iter().for_each(|left_out| self.receiver.left_out(left_out));
                    for part in parts {
                        let packets = packets(&part.burst);
                        packets[part.packets].iter().for_each(|packet| self.arrive(packet, true));
                    }
                }
                Step::Repair { packets, repair, .. } => {
                    let (again, coded) = packets.split_at(packets.len() - repair);
                    for volley in [Volley::again(again, 56), Volley::of_packets(coded, 56)] {
                        for Run { segments, .. } in volley.runs() {
                            let run = volley.bytes().slice(segments.range.clone());
                            for datagram in run.chunks(segments.segment) {
                                self.arrive(&run.slice_ref(datagram), true);
                            }
                        }
                    }
                }
                Step::RequestKeyframe { rendition } => {
                    self.wanted[rendition] = true;
                    self.made[rendition] = true;
                }
                Step::CaughtUp { .. } => self.is_live = true,
                Step::Begin { .. } => panic!("there was a keyframe"),
            }
        }
    }

    /// Nothing came of a rendition between its end and where it goes on.
    fn assert_nothing_else_came(&self) {
        for (ssrc, end) in &self.ends {
            let goes_on = self.begins.iter().filter(|(of, first)| of == ssrc && first >= end);
            let goes_on = goes_on.map(|(_, first)| *first).min().unwrap_or(u64::MAX);
            let between = self.came.range((*ssrc, *end)..(*ssrc, goes_on)).next();
            assert_eq!(between, None, "behind {end} of {ssrc}");
        }
    }

    /// Pictures of each frame that came whole, by rendition.
    fn whole(&self, rendition: usize) -> Vec<u32> {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for (_, frame) in self.came.iter().filter(|((ssrc, _), _)| *ssrc == SSRCS[rendition]) {
            *counts.entry(*frame).or_default() += 1;
        }
        let is_whole =
            |(frame, count): (u32, usize)| (count == PICTURE[rendition]).then_some(frame);
        counts.into_iter().filter_map(is_whole).collect()
    }
}

#[test]
fn each_picture_of_what_is_watched_and_all_sound_comes_once() {
    for (seed, loss) in [(1, 0.0), (2, 0.02), (3, 0.05)] {
        let mut scene = Scene::new(seed, loss);
        for rendition in [0, 1, 2, 0, 2, 1, 0] {
            scene.channel.switch(VIEWER, rendition);
            (0..60).for_each(|_| scene.frame());
            assert_eq!(scene.channel.rendition(VIEWER), rendition, "it has come to that");
        }
        // The rest of what is missing is given up or there.
        let last = scene.frame;
        scene.now += Duration::from_secs(2);
        scene.receiver.poll_wish(RTT, scene.now);
        let totals = scene.receiver.totals();
        assert_eq!(totals.unrecovered, 0, "{loss}: {totals:?}");
        assert_eq!(totals.corrupt, 0);
        scene.assert_nothing_else_came();
        let mut watched = scene.watched.clone();
        assert_eq!(watched.len(), 8, "{watched:?}");
        watched.push((last, usize::MAX));
        for pair in watched.windows(2) {
            let ((from, rendition), (until, _)) = (pair[0], pair[1]);
            let of_then: Vec<u32> = scene.whole(rendition);
            // The first begins within the history; of the last, the newest may be on its way.
            let expected = from..until;
            let missing: Vec<u32> =
                expected.filter(|frame| *frame < last - 1 && !of_then.contains(frame)).collect();
            assert!(missing.is_empty(), "{loss}: rendition {rendition} lacks {missing:?}");
        }
        let sound = scene.came.keys().filter(|(ssrc, _)| *ssrc == SSRCS[SOUND]).count() as u32;
        assert!(sound + FIRST + 1 >= last, "{sound} of {last}");
    }
}

#[test]
fn what_nobody_was_sent_for_a_while_goes_on_where_it_is() {
    let mut scene = Scene::new(7, 0.01);
    (0..10).for_each(|_| scene.frame());
    // Further than a sequence number tells: others watched it meanwhile.
    scene.channel.switch(VIEWER, 1);
    (0..30).for_each(|_| scene.frame());
    scene.channel.switch(VIEWER, 0);
    (0..17_000).for_each(|_| scene.frame());
    scene.channel.switch(VIEWER, 1);
    (0..60).for_each(|_| scene.frame());
    assert_eq!(scene.channel.rendition(VIEWER), 1);
    scene.now += Duration::from_secs(2);
    scene.receiver.poll_wish(RTT, scene.now);
    let totals = scene.receiver.totals();
    assert_eq!((totals.unrecovered, totals.corrupt), (0, 0), "{totals:?}");
    scene.assert_nothing_else_came();
    let last = scene.frame;
    let whole = scene.whole(1);
    assert!((last - 50..last - 1).all(|frame| whole.contains(&frame)));
}

#[test]
fn a_path_that_does_not_carry_one_goes_on_with_another_at_once() {
    let mut scene = Scene::new(9, 0.0);
    (0..10).for_each(|_| scene.frame());
    scene.channel.switch(VIEWER, 0);
    (0..30).for_each(|_| scene.frame());
    assert!(scene.is_live);
    // 9 packets a picture are 740 kbit/s.
    let end = scene.channel.history().end();
    let rate = "300k".parse().expect("a rate");
    assert!(scene.channel.limit(VIEWER, Some(rate), end, scene.now));
    scene.is_live = false;
    scene.receiver.set_limited(true);
    (0..30).for_each(|_| scene.frame());
    let before = scene.receiver.totals();
    assert!(scene.whole(0).len() < 55, "it is not sent all");
    scene.channel.switch(VIEWER, 2);
    let switched_at = scene.frame;
    (0..50).for_each(|_| scene.frame());
    assert!(scene.channel.limit(VIEWER, None, 0, scene.now));
    (0..20).for_each(|_| scene.frame());
    assert!(scene.is_live, "it belongs to all others again");
    scene.receiver.set_limited(false);
    scene.now += Duration::from_secs(2);
    scene.receiver.poll_wish(RTT, scene.now);
    let totals = scene.receiver.totals();
    assert_eq!(totals.unrecovered, before.unrecovered, "{totals:?}");
    let whole = scene.whole(2);
    let first = whole.iter().find(|frame| **frame >= switched_at).expect("it goes on");
    assert!(*first <= switched_at + 3, "{first}, from {switched_at}");
    assert!((*first..scene.frame - 1).all(|frame| whole.contains(&frame)), "{whole:?}");
    let sound = scene.came.keys().filter(|(ssrc, _)| *ssrc == SSRCS[SOUND]).count() as u32;
    assert!(sound + FIRST + 1 >= scene.frame, "{sound} of {}", scene.frame);
}

#[test]
fn an_old_rendition_holds_no_history_back() {
    let mut scene = Scene::new(11, 0.0);
    (0..50).for_each(|_| scene.frame());
    scene.made = [false, false, true];
    (0..2).for_each(|rendition| scene.channel.stops(rendition));
    (0..500).for_each(|_| scene.frame());
    // Keyframes each 4 s, and 2 s for repair.
    let (start, end) = (scene.channel.history().start(), scene.channel.history().end());
    assert!(end - start < 2 * 160, "{start}..{end}");
    assert!(scene.channel.history().keyframe(0).is_none());
    assert!(scene.channel.history().keyframe(2).is_some());
}
