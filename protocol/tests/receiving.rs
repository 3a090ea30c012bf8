//! What a viewer's receiver counts as missing, while parts of the stream are left out on purpose, are still
//! history, or come on a path that does not carry everything.

use std::time::{Duration, Instant};

use punchcast_protocol::burst::PlainBurst;
use punchcast_protocol::control::{self, LeftOut};
use punchcast_protocol::media::{Format, Kind};
use punchcast_protocol::receiver::{Receiver, Track};
use punchcast_protocol::seal::{Epoch, MasterKey, OpenError, Sealer};

const SSRC: u32 = 10;
const PATIENCE: Duration = Duration::from_millis(200);
const RTT: Duration = Duration::from_millis(20);

/// From one packet to the next.
const SPACING: Duration = Duration::from_millis(20);

fn first_key() -> MasterKey {
    MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12])
}

/// The stream's packets. From these numbers on, these keys take over.
fn sealed(later: &[(u32, &MasterKey)]) -> Vec<Vec<u8>> {
    let mut sealer = Sealer::new(&first_key(), &[SSRC]);
    let packets = (0..200u32).map(|number| {
        if let Some((_, key)) = later.iter().find(|(from, _)| *from == number) {
            sealer.rekey(key);
        }
        let mut packet = [0; 100];
        (packet[0], packet[1]) = (0x80, 0x80 | 96);
        packet[4..8].copy_from_slice(&(number * 1800).to_be_bytes());
        let mut burst = PlainBurst::default();
        burst.push([&packet[..]]).expect("it fits");
        let sealed = sealer.seal(0, number == 0, Instant::now(), burst).expect("it seals");
        sealed.bytes().to_vec()
    });
    packets.collect()
}

struct Scene {
    receiver: Receiver,
    packets: Vec<Vec<u8>>,
    now: Instant,
}

impl Scene {
    /// A stream of pictures of one packet each, all live from `live_index` on.
    fn new(live_index: u64) -> Self {
        let announced = control::Track {
            format: Format {
                kind: Kind::Video,
                encoding_name: "H264".to_owned(),
                payload_type: 96,
                clock_rate: 90_000,
                channels: None,
                parameters: [].into(),
                rendition: None,
            },
            ssrc: SSRC,
            first_index: 0,
            live_index,
            rtp_timestamp: 0,
            captured_us: 0,
        };
        let now = Instant::now();
        let track = Track::from(&announced);
        let receiver = Receiver::new(&[track], &[first_key()], PATIENCE, now);
        Self { receiver, packets: sealed(&[]), now }
    }

    /// Packets that come, one each [`SPACING`].
    fn take(&mut self, packets: impl IntoIterator<Item = usize>) {
        for at in packets {
            self.now += SPACING;
            let mut packet = self.packets[at].clone();
            self.receiver.take(&mut packet, self.now, &mut |_| {}).expect("it is genuine");
        }
    }

    /// Long enough for all that is missing to be given up.
    fn settle(&mut self) {
        self.now += Duration::from_secs(10);
        self.receiver.poll_wish(RTT, self.now);
    }
}

#[test]
fn what_is_left_out_is_not_missing() {
    for told_first in [true, false] {
        let mut scene = Scene::new(0);
        let left_out = LeftOut { ssrc: SSRC, first: 5, count: 3 };
        let elsewhere = LeftOut { ssrc: SSRC + 1, first: 10, count: 3 };
        scene.take(0..5);
        if told_first {
            scene.receiver.left_out(&left_out);
        }
        scene.take(8..10);
        if !told_first {
            assert_eq!(scene.receiver.hoped_for(0), Some(5));
            scene.receiver.left_out(&left_out);
        }
        assert_eq!(scene.receiver.hoped_for(0), Some(10), "told first: {told_first}");
        // Another track's, and so these are lost.
        scene.receiver.left_out(&elsewhere);
        scene.take(13..20);
        scene.settle();
        let totals = scene.receiver.totals();
        assert_eq!((totals.received, totals.lost, totals.unrecovered), (14, 3, 3));
    }
}

#[test]
fn what_a_narrow_path_leaves_out_may_be_told_later() {
    let given_up_after = |limited: bool| {
        let mut scene = Scene::new(0);
        scene.receiver.set_limited(limited);
        scene.take([0]);
        // The picture behind the hole comes late: what is in the hole should have come long ago.
        scene.now += PATIENCE * 2;
        scene.take([2]);
        let began = scene.now;
        while scene.receiver.totals().unrecovered == 0 {
            scene.now += Duration::from_millis(5);
            scene.receiver.poll_wish(RTT, scene.now);
            assert!(scene.now < began + Duration::from_secs(10), "it is given up in the end");
        }
        scene.now - began
    };
    assert!(given_up_after(true) >= PATIENCE);
    assert!(given_up_after(true) >= given_up_after(false));
}

#[test]
fn history_is_waited_for_longer_than_patience() {
    let is_hoped_for = |live_index, early: Option<bool>| {
        let mut scene = Scene::new(live_index);
        if let Some(early) = early {
            scene.receiver.set_early(early);
        }
        scene.take([0, 1, 3]);
        scene.now += PATIENCE * 2;
        scene.receiver.poll_wish(RTT, scene.now);
        scene.receiver.hoped_for(0) == Some(2)
    };
    assert!(is_hoped_for(50, None), "of the history");
    assert!(!is_hoped_for(0, None), "live");
    assert!(is_hoped_for(0, Some(true)), "live, and nothing plays yet");
    assert!(!is_hoped_for(0, Some(false)), "live, as was announced");
    let mut scene = Scene::new(50);
    assert_eq!(scene.receiver.live_index(0), Some(50));
    scene.receiver.set_early(true);
    assert!(scene.receiver.live_index(0) > Some(1 << 40), "all of it is as good as history");
    scene.receiver.set_early(false);
    assert_eq!((scene.receiver.live_index(0), scene.receiver.live_index(1)), (Some(50), None));
}

#[test]
fn patience_and_round_trip_can_change() {
    let hopes_after = |wait: Duration, change: fn(&mut Receiver)| {
        let mut scene = Scene::new(50);
        change(&mut scene.receiver);
        scene.take([0, 1, 3]);
        scene.now += wait;
        scene.receiver.poll_wish(RTT, scene.now);
        scene.receiver.hoped_for(0) == Some(2)
    };
    let wait = Duration::from_secs(3);
    assert!(!hopes_after(wait, |_| {}));
    assert!(hopes_after(wait, |receiver| receiver.set_patience(Duration::from_secs(5))));
    // Several rounds must fit where the history is concerned.
    assert!(hopes_after(wait, |receiver| receiver.set_rtt(Duration::from_secs(1))));
}

#[test]
fn reports_say_what_was_lost_since_the_last_one() {
    let mut scene = Scene::new(0);
    scene.take((0..50).filter(|at| at % 5 != 4));
    scene.settle();
    let [first] = scene.receiver.report()[..] else { panic!("a block for each track") };
    assert_eq!(first.ssrc, SSRC);
    // A fifth, in 256ths.
    assert!((45..=56).contains(&first.fraction_lost), "{first:?}");
    scene.take(50..100);
    scene.settle();
    let [second] = scene.receiver.report()[..] else { panic!("a block for each track") };
    assert!(second.fraction_lost <= 6, "{second:?}");
    assert!(scene.receiver.loss() > 0.0 && scene.receiver.loss() < 0.2);
    // Packets came as evenly as their timestamps say.
    assert!(scene.receiver.jitter() < Some(SPACING), "{:?}", scene.receiver.jitter());
    assert_eq!(scene.receiver.hoped_for(1), None);
}

#[test]
fn what_comes_before_its_key_waits_for_it() {
    let second = Epoch::FIRST.next().expect("room");
    let third = second.next().expect("room");
    let next = MasterKey::from_parts(second, [3; 16], [4; 12]);
    let never_told = MasterKey::from_parts(third, [5; 16], [6; 12]);
    let mut scene = Scene::new(0);
    scene.packets = sealed(&[(10, &next), (20, &never_told)]);
    scene.take(0..10);
    let take = |scene: &mut Scene, at: usize| {
        scene.now += SPACING;
        let mut packet = scene.packets[at].clone();
        scene.receiver.take(&mut packet, scene.now, &mut |_| unreachable!("it has no key"))
    };
    for at in 10..15 {
        assert!(matches!(take(&mut scene, at), Err(OpenError::UnknownKey { .. })));
    }
    let mut opened = Vec::new();
    scene.receiver.take_held(scene.now, &mut |_| unreachable!("still none"));
    scene.receiver.add_key(&next);
    scene.receiver.take_held(scene.now, &mut |arrived| opened.push(arrived.index));
    assert_eq!(opened, [10, 11, 12, 13, 14]);
    scene.take(15..20);
    scene.settle();
    let totals = scene.receiver.totals();
    assert_eq!((totals.received, totals.lost, totals.corrupt), (20, 0, 0));

    // A key that never comes is not waited for.
    for at in 20..30 {
        assert!(take(&mut scene, at).is_err());
    }
    scene.now += Duration::from_secs(3);
    scene.receiver.take_held(scene.now, &mut |_| unreachable!("it has no key"));
    assert_eq!(scene.receiver.totals().corrupt, 10);
}
