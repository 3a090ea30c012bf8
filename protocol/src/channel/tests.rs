use std::collections::BTreeSet;

use super::history::REPAIR_WINDOW;
use super::*;
use crate::feedback::{Ask, What, Wish};
use crate::rtp::Header;
use crate::seal::Epoch;
use crate::size::{MAX_DATAGRAM, VIEWER_TAG_ROOM};

const VIDEO: usize = 0;
const AUDIO: usize = 1;

struct Rig {
    channel: Channel,
    now: Instant,
}

/// What one viewer was sent: (track, packet index).
type Sent = Vec<(usize, u64)>;

impl Rig {
    fn new(each: &str, total: Option<&str>) -> Self {
        Self::with_history(each, total, History::default())
    }

    fn with_history(each: &str, total: Option<&str>, history: History) -> Self {
        let key = MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12]);
        let rate = |text: &str| text.parse().expect("a rate");
        let pacing = JoinPacing { each: rate(each), total: total.map(rate) };
        let channel = Channel::new(&key, &[10, 20], history, pacing);
        Self { channel, now: Instant::now() }
    }

    fn publish(&mut self, track: usize, keyframe: bool, packets: usize, length: usize) {
        let mut burst = PlainBurst::default();
        for _ in 0..packets {
            let mut packet = vec![0u8; length];
            packet[0] = 0x80;
            burst.push([&packet[..]]).expect("fits");
        }
        self.channel.publish(track, keyframe, self.now, burst, self.now).expect("seals");
        self.channel.left(self.channel.history().end() - 1, self.now);
    }

    /// Publishes 25 frames a second for `seconds`, 1 Mbit/s, the first a keyframe.
    fn gop(&mut self, seconds: f64) {
        for frame in 0..(seconds * 25.0) as usize {
            self.publish(VIDEO, frame == 0, 5, 980);
            self.publish(AUDIO, false, 1, 200);
            self.now += Duration::from_millis(40);
        }
    }

    /// Lets time pass until the viewer has caught up; frames go on being published meanwhile.
    fn catch_up(&mut self, viewer: ViewerId) -> (Sent, Duration) {
        let mut sent = Vec::new();
        let began = self.now;
        let mut next_frame = self.now + Duration::from_millis(40);
        loop {
            while let Some(step) = self.channel.poll_step(self.now) {
                match step {
                    Step::Send { viewer: to, parts, .. } if to == viewer => {
                        let indices = |part: &Part| {
                            let track = part.burst.track;
                            part.indices().map(move |index| (track, index)).collect::<Vec<_>>()
                        };
                        sent.extend(parts.iter().flat_map(indices));
                    }
                    Step::CaughtUp { viewer: who } if who == viewer => {
                        return (sent, self.now - began);
                    }
                    _ => {}
                }
            }
            let wake = self.channel.poll_timeout().expect("somebody is joining").min(next_frame);
            assert!(wake > self.now, "a timeout in the past would spin");
            self.now = wake;
            if self.now >= next_frame {
                self.publish(VIDEO, false, 5, 980);
                next_frame += Duration::from_millis(40);
            }
            assert!(self.now - began < Duration::from_secs(60), "never catches up");
        }
    }
}

fn indices(sent: &Sent, track: usize) -> Vec<u64> {
    sent.iter().filter(|(of, _)| *of == track).map(|(_, index)| *index).collect()
}

#[test]
fn a_joiner_gets_the_gop_in_order_and_then_the_live_edge() {
    let mut rig = Rig::new("20M", None);
    rig.gop(2.0);
    rig.gop(7.0);
    let positions = rig.channel.join(ViewerId(1), rig.now).expect("the history serves");
    assert_eq!(positions[VIDEO], TrackPosition { first_index: 250, live_index: 1125 });
    assert_eq!(positions[AUDIO], TrackPosition { first_index: 50, live_index: 225 });
    let (sent, took) = rig.catch_up(ViewerId(1));
    let video = indices(&sent, VIDEO);
    assert_eq!(video.first(), Some(&250));
    assert!(video.windows(2).all(|pair| pair[1] == pair[0] + 1), "in order, none twice");
    assert!(video.len() >= 875, "up to the live edge: {}", video.len());
    assert_eq!(indices(&sent, AUDIO).len(), 175);
    // 7 s at 1 Mbit/s through 20 Mbit/s.
    assert!((0.3..0.6).contains(&took.as_secs_f64()), "{took:?}");
}

#[test]
fn who_joins_a_recording_gets_all_since_the_keyframe_however_long_that_takes() {
    let mut live = Rig::new("3M", None);
    live.gop(9.0);
    assert_eq!(live.channel.join(ViewerId(1), live.now), None, "a keyframe is nearer");

    let mut rig = Rig::new("3M", None);
    rig.channel.set_recorded();
    // Read at once.
    let began = rig.now;
    rig.gop(9.0);
    rig.now = began;
    assert_eq!(rig.channel.live_rate(), Bitrate::bits_per_second(0), "it was not sent yet");
    let positions = rig.channel.join(ViewerId(1), rig.now).expect("the history serves");
    assert_eq!(positions[VIDEO], TrackPosition { first_index: 0, live_index: 1125 });
    let mut video = Vec::new();
    let mut frames = 0;
    let mut next_frame = rig.now;
    loop {
        match rig.channel.poll_step(rig.now) {
            Some(Step::Send { parts, .. }) => {
                let of_video = parts.iter().filter(|part| part.burst.track == VIDEO);
                video.extend(of_video.flat_map(Part::indices));
            }
            Some(Step::CaughtUp { .. }) => break,
            Some(step) => panic!("{step:?}"),
            None => {
                let wake = rig.channel.poll_timeout().expect("somebody is joining");
                rig.now = wake.min(next_frame).max(rig.now);
            }
        }
        if rig.now >= next_frame {
            // Further keyframes come meanwhile.
            rig.publish(VIDEO, frames % 50 == 0, 5, 980);
            frames += 1;
            next_frame += Duration::from_millis(40);
        }
    }
    assert!(rig.now - began > REPAIR_WINDOW * 2, "longer than anything is kept for repair");
    assert_eq!(video[0], 0);
    assert!(video.windows(2).all(|pair| pair[1] == pair[0] + 1), "nothing is left out");
    assert_eq!(video.len(), 1125 + frames * 5);
}

#[test]
fn two_joiners_share_the_total() {
    let mut rig = Rig::new("100M", Some("20M"));
    rig.gop(7.0);
    rig.channel.join(ViewerId(1), rig.now);
    rig.channel.join(ViewerId(2), rig.now);
    let (_, took) = rig.catch_up(ViewerId(2));
    assert!((0.6..1.2).contains(&took.as_secs_f64()), "{took:?}");
}

#[test]
fn a_gop_too_long_for_the_uplink_asks_for_one_keyframe() {
    let mut rig = Rig::new("2M", None);
    rig.gop(7.0);
    assert_eq!(rig.channel.join(ViewerId(1), rig.now), None);
    assert_eq!(rig.channel.join(ViewerId(2), rig.now), None);
    assert!(matches!(rig.channel.poll_step(rig.now), Some(Step::RequestKeyframe { rendition: 0 })));
    assert!(rig.channel.poll_step(rig.now).is_none(), "one for both");
    rig.now += Duration::from_millis(100);
    rig.publish(VIDEO, false, 5, 980);
    rig.publish(VIDEO, true, 20, 980);
    for expected in [1, 2] {
        match rig.channel.poll_step(rig.now) {
            Some(Step::Begin { viewer, positions }) => {
                assert_eq!(viewer, ViewerId(expected));
                let begins = TrackPosition { first_index: 880, live_index: 900 };
                assert_eq!(positions[VIDEO], begins, "nothing before the keyframe is missed");
                assert_eq!(positions[AUDIO].first_index, positions[AUDIO].live_index);
            }
            other => panic!("{other:?}"),
        }
    }
    let (sent, took) = rig.catch_up(ViewerId(1));
    assert_eq!(indices(&sent, VIDEO).first(), Some(&880), "from the new keyframe on");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_source_that_makes_no_keyframe_still_gets_viewers() {
    let mut rig = Rig::new("2M", None);
    rig.gop(7.0);
    rig.channel.join(ViewerId(1), rig.now);
    let (sent, _) = rig.catch_up(ViewerId(1));
    assert_eq!(indices(&sent, VIDEO).first(), Some(&0), "the history after all");
}

/// A GOP that the history can't hold leaves no keyframe to fall back to.
#[test]
fn a_viewer_whose_keyframe_is_gone_goes_on_live_when_patience_ends() {
    let mut rig = Rig::with_history("2M", None, History::new(Duration::ZERO, 1_000_000));
    rig.gop(7.0);
    rig.channel.join(ViewerId(1), rig.now);
    assert!(matches!(rig.channel.poll_step(rig.now), Some(Step::RequestKeyframe { rendition: 0 })));
    rig.publish(VIDEO, false, 200, 980);
    assert_eq!(rig.channel.history().keyframe(0), None);
    rig.now = rig.channel.poll_timeout().expect("its patience ends");
    assert!(matches!(rig.channel.poll_step(rig.now), Some(Step::Begin { .. })));
    assert!(matches!(rig.channel.poll_step(rig.now), Some(Step::CaughtUp { .. })));
    assert_eq!(rig.channel.poll_timeout(), None);
}

#[test]
fn a_viewer_left_behind_without_a_keyframe_goes_on_live_at_once() {
    let mut rig = Rig::with_history("20M", None, History::new(Duration::ZERO, 1_000_000));
    rig.gop(7.0);
    rig.channel.join(ViewerId(1), rig.now);
    assert!(matches!(rig.channel.poll_step(rig.now), Some(Step::Send { .. })));
    rig.publish(VIDEO, false, 200, 980);
    rig.now = rig.channel.poll_timeout().expect("the next chunk");
    assert!(matches!(rig.channel.poll_step(rig.now), Some(Step::CaughtUp { .. })));
}

#[test]
fn whoever_joins_second_is_served_as_soon_as_the_total_allows() {
    let mut rig = Rig::new("1M", Some("2M"));
    rig.publish(VIDEO, true, 16, 980);
    rig.publish(VIDEO, false, 16, 980);
    rig.channel.join(ViewerId(1), rig.now);
    assert!(matches!(rig.channel.poll_step(rig.now), Some(Step::Send { .. })));
    rig.channel.join(ViewerId(2), rig.now);
    assert!(rig.channel.poll_step(rig.now).is_none());
    // A chunk of 16 kB at 2 Mbit/s, which is half of what the first viewer waits for.
    let wait = rig.channel.poll_timeout().expect("both wait") - rig.now;
    assert!((60..70).contains(&wait.as_millis()), "{wait:?}");
    rig.now += wait;
    match rig.channel.poll_step(rig.now) {
        Some(Step::Send { viewer, .. }) => assert_eq!(viewer, ViewerId(2)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn before_the_first_keyframe_a_viewer_is_live_at_once() {
    let mut rig = Rig::new("20M", None);
    rig.channel.join(ViewerId(1), rig.now);
    assert!(matches!(rig.channel.poll_step(rig.now), Some(Step::CaughtUp { .. })));
}

fn ask(serial: u32, rounds_left: u8, what: What) -> Wish {
    let ask = Ask { serial, ssrc: 10, rounds_left, what };
    Wish { loss: 0, takes_repair: true, asks: vec![ask] }
}

/// A request for packets of the video track, with time for further ones.
fn packets(serial: u32, indices: impl IntoIterator<Item = u64>) -> Wish {
    let indices: Vec<u64> = indices.into_iter().collect();
    let others = indices[1..].iter().map(|index| (index - indices[0]) as u16).collect();
    ask(serial, 5, What::Packets { first: indices[0], others })
}

impl Rig {
    /// All that is sent to viewers that lost something, as (viewer, media packets' indices, repair packets).
    fn repairs(&mut self) -> Vec<(u32, Vec<u16>, usize)> {
        let mut all = Vec::new();
        while let Some(step) = self.channel.poll_step(self.now) {
            let Step::Repair { viewer, packets, repair } = step else { panic!("{step:?}") };
            let headers = packets.iter().map(|packet| Header::parse(packet).expect("RTP"));
            let media =
                headers.filter(|header| header.ssrc >> 31 == 0).map(|header| header.sequence);
            let media: Vec<_> = media.collect();
            assert_eq!(media.len() + repair, packets.len());
            all.push((viewer.0, media, repair));
        }
        all
    }
}

#[test]
fn what_is_asked_for_comes_from_the_history_and_is_bounded() {
    let mut rig = Rig::new("20M", None);
    rig.gop(1.0);
    assert_eq!(rig.channel.ask(ViewerId(1), &packets(0, [3, 4, 9999]), rig.now), 2);
    assert_eq!(rig.channel.ask(ViewerId(1), &packets(0, [7]), rig.now), 0, "a repetition");
    assert_eq!(rig.channel.ask(ViewerId(1), &packets(1, [3, 5]), rig.now), 1, "3 is on its way");
    let mut unknown = packets(2, [3]);
    unknown.asks[0].ssrc = 99;
    assert_eq!(rig.channel.ask(ViewerId(1), &unknown, rig.now), 0, "unknown stream");
    assert_eq!(rig.repairs(), [(1, vec![3, 4, 5], 0)]);
    rig.now += Duration::from_millis(50);
    assert_eq!(rig.channel.ask(ViewerId(1), &packets(3, [3]), rig.now), 1, "a round later");
    rig.now += Duration::from_secs(1);
    assert_eq!(rig.channel.ask(ViewerId(1), &packets(4, [3]), rig.now), 0, "it waits");
    for _ in 0..100 {
        rig.publish(VIDEO, false, 5, 980);
    }
    let chunks = (0..6u32).map(|at| (at + 5, u64::from(at) * 100));
    let asked: usize = chunks
        .map(|(serial, first)| packets(serial, first..first + 100))
        .map(|wish| rig.channel.ask(ViewerId(1), &wish, rig.now))
        .sum();
    assert_eq!(asked, repairs::MOST_EACH - 1);
    rig.channel.leave(ViewerId(1));
    assert!(rig.channel.poll_step(rig.now).is_none(), "gone with the viewer");
}

#[test]
fn what_was_sent_behind_a_packet_and_should_be_there_is_sent_again() {
    let mut rig = Rig::new("20M", None);
    rig.gop(1.0);
    // Five packets each 40 ms; 112 is of those at 880 ms.
    let wish = ask(0, 5, What::Behind { index: 112, newest: 111, silence_us: 50_000 });
    assert_eq!(rig.channel.ask(ViewerId(1), &wish, rig.now), 7);
    assert_eq!(rig.repairs(), [(1, (113..120).collect(), 0)]);
}

#[test]
fn the_fewer_rounds_are_left_the_more_is_sent() {
    let mut rig = Rig::new("20M", None);
    rig.gop(1.0);
    let mut repair = Vec::new();
    for (serial, rounds_left) in [(0, 2), (1, 1), (2, 0)] {
        rig.now += Duration::from_millis(100);
        let mut wish = packets(serial, [3, 4]);
        wish.loss = 50;
        wish.asks[0].rounds_left = rounds_left;
        rig.channel.ask(ViewerId(1), &wish, rig.now);
        let [(1, media, more)] = &rig.repairs()[..] else { panic!("one chunk") };
        assert_eq!(*media, [3, 4]);
        repair.push(*more);
    }
    assert!(repair[0] == 0 && repair[1] > 0 && repair[2] >= repair[1], "{repair:?}");
    // A viewer that cannot use repair packets gets copies, in datagrams of their own.
    rig.now += Duration::from_millis(100);
    let mut wish = packets(9, [3, 4]);
    (wish.loss, wish.takes_repair, wish.asks[0].rounds_left) = (50, false, 0);
    rig.channel.ask(ViewerId(1), &wish, rig.now);
    let copies = rig.repairs();
    assert!(copies.len() > 1 && copies.iter().all(|(_, media, _)| media.len() <= 2), "{copies:?}");
    // While our own uplink is what loses, nobody gets more than was lost.
    rig.now += Duration::from_millis(100);
    rig.channel.set_margins(false);
    (wish.takes_repair, wish.asks[0].serial) = (true, 10);
    rig.channel.ask(ViewerId(1), &wish, rig.now);
    assert_eq!(rig.repairs(), [(1, vec![3, 4], 0)]);
}

#[test]
fn an_answer_that_would_come_too_late_is_not_sent() {
    let mut rig = Rig::new("20M", None);
    rig.gop(1.0);
    let mut wish = packets(0, 0..100);
    wish.asks[0].rounds_left = 0;
    assert!(rig.channel.ask(ViewerId(1), &wish, rig.now) >= 100);
    let at_once: usize = rig.repairs().iter().map(|(_, media, _)| media.len()).sum();
    assert!((60..100).contains(&at_once), "{at_once}: a quarter of a second of twice the stream");
    rig.now += Duration::from_millis(200);
    assert!(rig.repairs().is_empty());
    // Nor does it stand in the way of what is of use.
    assert!(rig.channel.ask(ViewerId(1), &packets(1, 100..110), rig.now) >= 10);
    let sent: Vec<_> = rig.repairs().into_iter().flat_map(|(_, media, _)| media).collect();
    assert!((100..110).all(|index| sent.contains(&index)), "{sent:?}");
}

/// It has had its rest: the first loss is as urgent as any later one.
#[test]
fn whoever_loses_a_keyframe_first_of_all_gets_it_at_once() {
    let mut rig = Rig::new("20M", None);
    rig.gop(1.0);
    rig.publish(VIDEO, true, 60, 980);
    assert!(rig.channel.ask(ViewerId(1), &packets(0, 125..185), rig.now) >= 60);
    let began = rig.now;
    let mut sent = BTreeSet::new();
    while let Some(due) = rig.channel.poll_timeout() {
        rig.now = rig.now.max(due);
        sent.extend(rig.repairs().into_iter().flat_map(|(_, media, _)| media));
    }
    assert!((125..185).all(|index| sent.contains(&index)), "{sent:?}");
    let took = rig.now - began;
    assert!(took < Duration::from_millis(50), "{took:?}");
}

#[test]
fn what_a_joining_viewer_lost_comes_as_fast_as_the_rest() {
    let mut rig = Rig::new("20M", None);
    rig.gop(1.0);
    rig.channel.join(ViewerId(1), rig.now);
    rig.catch_up(ViewerId(1));
    let mut sent = 0;
    for (serial, first) in (0..5).zip((0..).step_by(25)) {
        sent += rig.channel.ask(ViewerId(1), &packets(serial, first..first + 25), rig.now);
    }
    assert!(sent >= 125);
    let began = rig.now;
    while let Some(due) = rig.channel.poll_timeout() {
        rig.now = rig.now.max(due);
        sent -= rig.repairs().iter().map(|(_, media, _)| media.len()).sum::<usize>();
    }
    assert_eq!(sent, 0);
    // 125 packets at 1 Mbit/s would take a second.
    let took = rig.now - began;
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[test]
fn a_block_gets_as_many_repair_packets_as_it_lacks_and_each_once() {
    let mut rig = Rig::new("20M", None);
    rig.gop(1.0);
    let mut seen = BTreeSet::new();
    for serial in 0..3 {
        rig.now += Duration::from_millis(100);
        let wish = ask(serial, 5, What::Block { base: 5, lacks: 3 });
        assert_eq!(rig.channel.ask(ViewerId(1), &wish, rig.now), 3);
        while let Some(Step::Repair { packets, repair, .. }) = rig.channel.poll_step(rig.now) {
            assert_eq!(repair, packets.len());
            assert!(packets.iter().all(|packet| packet.len() <= MAX_DATAGRAM - VIEWER_TAG_ROOM));
            seen.extend(packets);
        }
    }
    assert_eq!(seen.len(), 9);
}

#[test]
fn a_viewer_with_no_time_to_ask_is_repaired_ahead() {
    let mut rig = Rig::new("20M", None);
    rig.gop(1.0);
    let slow = Condition {
        loss: 0.2,
        rtt: Duration::from_millis(200),
        latency: Duration::from_millis(150),
    };
    rig.channel.tell(ViewerId(1), slow, rig.now);
    let quick = Condition { rtt: Duration::from_millis(20), ..slow };
    rig.channel.tell(ViewerId(2), quick, rig.now);
    rig.publish(VIDEO, false, 5, 980);
    rig.publish(AUDIO, false, 1, 200);
    let repairs = rig.repairs();
    assert!(!repairs.is_empty() && repairs.iter().all(|(viewer, ..)| *viewer == 1), "{repairs:?}");
    assert!(repairs.iter().map(|(_, _, repair)| repair).sum::<usize>() >= 2);
}

/// One viewer asks for all it can get, another for three packets.
#[test]
fn a_viewer_that_asks_for_everything_takes_nothing_from_the_others() {
    let mut rig = Rig::new("20M", None);
    rig.gop(1.0);
    let mut turns = Vec::new();
    let mut greedy = 0;
    let began = rig.now;
    let mut serial = 0;
    while rig.now - began < Duration::from_secs(1) {
        rig.channel.ask(ViewerId(1), &packets(serial, 0..125), rig.now);
        serial += 1;
        if turns.is_empty() {
            rig.channel.ask(ViewerId(2), &packets(0, [3, 4, 5]), rig.now);
        }
        while let Some(step) = rig.channel.poll_step(rig.now) {
            let Step::Repair { viewer, packets, .. } = step else { panic!("{step:?}") };
            turns.push(viewer.0);
            if viewer == ViewerId(1) {
                greedy += packets.iter().map(Bytes::len).sum::<usize>();
            }
        }
        let next = rig.now + Duration::from_millis(46);
        rig.now = rig.channel.poll_timeout().map_or(next, |due| {
            assert!(due > rig.now, "a timeout in the past would spin");
            due.min(next)
        });
    }
    assert_eq!(turns[..2], [1, 2], "in turns");
    // Twice the rate of so thin a stream, 1 Mbit/s, and what a quarter of a second brings at once.
    assert!((330_000..430_000).contains(&greedy), "{greedy} bytes");
}

#[test]
fn who_joins_and_who_lost_something_take_turns() {
    let mut rig = Rig::new("20M", None);
    rig.gop(1.0);
    for viewer in 1..=20 {
        assert_eq!(rig.channel.ask(ViewerId(viewer), &packets(0, 0..100), rig.now), 100);
    }
    rig.channel.join(ViewerId(99), rig.now);
    let mut turns = Vec::new();
    while turns.len() < 8 {
        // Enough for a chunk at the pace of a joining viewer.
        rig.now += Duration::from_millis(7);
        match rig.channel.poll_step(rig.now) {
            Some(Step::Send { .. }) => turns.push(true),
            Some(Step::Repair { .. }) => turns.push(false),
            Some(step) => panic!("{step:?}"),
            None => rig.now = rig.channel.poll_timeout().expect("much is waiting"),
        }
    }
    let joining = turns.iter().filter(|joins| **joins).count();
    assert!((2..=4).contains(&joining), "{turns:?}");
}

#[test]
fn what_a_joining_viewer_was_not_sent_yet_is_not_sent_again() {
    let mut rig = Rig::new("20M", None);
    rig.gop(1.0);
    rig.channel.join(ViewerId(1), rig.now);
    let asked = rig.channel.ask(ViewerId(1), &packets(0, [0, 100]), rig.now);
    assert_eq!(asked, 0, "nothing was sent");
    let Some(Step::Send { parts, .. }) = rig.channel.poll_step(rig.now) else {
        panic!("nothing to send");
    };
    assert!(parts[0].indices().eq(0..5));
    assert_eq!(rig.channel.ask(ViewerId(1), &packets(1, [0, 4, 100]), rig.now), 2);
    // Whoever has caught up was sent everything.
    rig.catch_up(ViewerId(1));
    assert_eq!(rig.channel.ask(ViewerId(1), &packets(2, [100]), rig.now), 1);
}

#[test]
fn who_joins_shortly_before_a_keyframe_gets_all_in_front_of_it_and_what_it_lost_of_it() {
    let mut rig = Rig::new("5M", None);
    rig.gop(4.0);
    let positions = rig.channel.join(ViewerId(1), rig.now).expect("there is a keyframe");
    assert_eq!(positions[VIDEO].first_index, 0);
    rig.publish(VIDEO, true, 5, 980);
    let (sent, took) = rig.catch_up(ViewerId(1));
    let video = indices(&sent, VIDEO);
    assert!(video.iter().copied().eq(0..video.len() as u64), "nothing is left out: {video:?}");
    assert!(video.len() > 505 && took > Duration::from_millis(500), "{} in {took:?}", video.len());
    rig.publish(VIDEO, true, 5, 980);
    assert_eq!(rig.channel.ask(ViewerId(1), &packets(0, [0, 4]), rig.now), 2);
    // Nobody else began there.
    rig.now += Duration::from_secs(3);
    rig.publish(VIDEO, false, 5, 980);
    assert_eq!(rig.channel.history().find(10, 0).map(|(position, ..)| position), None);
}

#[test]
fn the_history_keeps_a_gop_and_the_repair_window_and_no_more() {
    let mut rig = Rig::new("20M", None);
    for _ in 0..5 {
        rig.gop(4.0);
    }
    let history = rig.channel.history();
    let kept = history.end() - history.start();
    assert!((200..=202).contains(&kept), "one GOP of both tracks, not {kept}");
    rig.publish(VIDEO, true, 5, 980);
    let history = rig.channel.history();
    let kept = history.end() - history.start();
    assert!((98..=102).contains(&kept), "the repair window, not {kept}");
}

/// What a limited viewer gets of a stream of 1.06 Mbit/s, with a keyframe each 2 s.
#[derive(Default)]
struct Limited {
    sent: BTreeSet<(usize, u64)>,
    left_out: BTreeSet<(usize, u64)>,
    bytes: usize,
    /// Longest time from publishing to sending.
    lag: Duration,
    caught_up: bool,
}

impl Limited {
    fn frame(&mut self, rig: &mut Rig, frame: usize, disposable: bool) {
        let mut burst = PlainBurst::default();
        burst.set_disposable(disposable);
        for _ in 0..5 {
            let mut packet = [0u8; 980];
            packet[0] = 0x80;
            burst.push([&packet[..]]).expect("fits");
        }
        let keyframe = frame.is_multiple_of(50);
        rig.channel.publish(VIDEO, keyframe, rig.now, burst, rig.now).expect("seals");
        rig.publish(AUDIO, false, 1, 200);
        let next = rig.now + Duration::from_millis(40);
        loop {
            while let Some(step) = rig.channel.poll_step(rig.now) {
                self.take(step, rig.now);
            }
            match rig.channel.poll_timeout().filter(|at| *at < next) {
                Some(at) => {
                    assert!(at > rig.now, "a timeout in the past would spin");
                    rig.now = at;
                }
                None => break,
            }
        }
        rig.now = next;
    }

    fn take(&mut self, step: Step, now: Instant) {
        match step {
            Step::SendLess { parts, left_out, .. } => {
                for part in &parts {
                    let (burst, track) = (&part.burst, part.burst.track);
                    self.lag = self.lag.max(now - burst.captured_at);
                    self.bytes += part.len();
                    let is_new = |index| self.sent.insert((track, index));
                    assert!(part.indices().all(is_new), "nothing twice");
                }
                for packets in left_out {
                    let track = packets.ssrc as usize / 10 - 1;
                    self.left_out.extend(packets.packets().map(|index| (track, index)));
                }
            }
            Step::CaughtUp { .. } => self.caught_up = true,
            step => panic!("{step:?}"),
        }
    }
}

#[test]
fn a_limited_viewer_gets_sound_and_the_beginning_of_each_gop_and_is_told_the_rest() {
    let mut rig = Rig::new("20M", None);
    rig.channel.set_sound(vec![false, true]);
    let mut limited = Limited::default();
    let rate: Bitrate = "500k".parse().expect("a rate");
    assert!(rig.channel.limit(ViewerId(1), Some(rate), 0, rig.now));
    let began = rig.now;
    for frame in 0..500 {
        limited.frame(&mut rig, frame, false);
    }
    let took = (rig.now - began).as_secs_f64();
    let sent = limited.bytes as f64 * 8.0 / took;
    assert!((280_000.0..500_000.0).contains(&sent), "{sent} bit/s");
    assert!(limited.lag <= MOST_LAG + Duration::from_millis(200), "{:?}", limited.lag);
    let of = |set: &BTreeSet<(usize, u64)>, track| {
        set.iter().filter(move |(of, _)| *of == track).map(|(_, index)| *index).collect::<Vec<_>>()
    };
    assert!(of(&limited.sent, AUDIO).len() >= 480 && of(&limited.left_out, AUDIO).is_empty());
    let video = of(&limited.sent, VIDEO);
    for gop in 0..9 {
        let of_gop: Vec<_> = video.iter().filter(|index| **index / 250 == gop).copied().collect();
        let whole = gop * 250..gop * 250 + of_gop.len() as u64;
        assert!(of_gop.len() >= 75 && of_gop.iter().copied().eq(whole), "{gop}: {of_gop:?}");
    }
    assert!(limited.sent.is_disjoint(&limited.left_out));
    // What was left out is not asked for with success, and what was sent is.
    rig.channel.ask(ViewerId(1), &packets(0, [2_251, 2_490]), rig.now);
    let Some(Step::Repair { packets: repaired, .. }) =
        std::iter::from_fn(|| rig.channel.poll_step(rig.now))
            .find(|step| matches!(step, Step::Repair { .. }))
    else {
        panic!("nothing is repaired");
    };
    assert_eq!(repaired.len(), 1);
    // When everything may be sent again, it goes on at a keyframe, and nothing is missing.
    assert!(rig.channel.limit(ViewerId(1), None, 0, rig.now));
    for frame in 500..600 {
        limited.frame(&mut rig, frame, false);
    }
    assert!(limited.caught_up && rig.channel.limited() == 0);
    let known: BTreeSet<_> = limited.sent.union(&limited.left_out).copied().collect();
    let last = limited.sent.last().expect("something").1;
    for track in [VIDEO, AUDIO] {
        let of_track = of(&known, track);
        let end = of_track.last().expect("something") + 1;
        assert!(of_track.into_iter().eq(0..end), "each is sent or told, up to {last}");
    }
}

#[test]
fn pictures_that_no_other_needs_go_first() {
    let mut rig = Rig::new("20M", None);
    rig.channel.set_sound(vec![false, true]);
    let mut limited = Limited::default();
    let rate: Bitrate = "750k".parse().expect("a rate");
    rig.channel.limit(ViewerId(1), Some(rate), 0, rig.now);
    for frame in 0..500 {
        limited.frame(&mut rig, frame, frame % 2 == 1);
    }
    assert!(!limited.left_out.is_empty());
    let needed = |(track, index): &(usize, u64)| *track == AUDIO || (index / 5).is_multiple_of(2);
    assert!(!limited.left_out.iter().any(needed), "half of the pictures fit");
}

#[test]
fn where_nothing_arrives_nothing_is_sent_until_there_is_a_rate() {
    let mut rig = Rig::new("20M", None);
    rig.channel.set_sound(vec![false, true]);
    let mut limited = Limited::default();
    for frame in 0..10 {
        limited.frame(&mut rig, frame, false);
    }
    let rate = |text: &str| Some(text.parse().expect("a rate"));
    let (end, now) = (rig.channel.history().end(), rig.now);
    rig.channel.limit(ViewerId(1), Some(Bitrate::bits_per_second(0)), end, now);
    for frame in 10..300 {
        limited.frame(&mut rig, frame, false);
    }
    assert_eq!(limited.bytes, 0);
    rig.channel.limit(ViewerId(1), rate("3M"), 0, rig.now);
    for frame in 300..420 {
        limited.frame(&mut rig, frame, false);
    }
    let first = limited.sent.iter().find(|(track, _)| *track == VIDEO).expect("pictures").1;
    assert_eq!(first % 250, 0, "a keyframe");
    rig.channel.leave(ViewerId(1));
    assert_eq!(rig.channel.limited(), 0);
}
