//! A broadcaster's channel, a path, and a viewer's receiver, in simulated time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use punchcast_protocol::burst::PlainBurst;
use punchcast_protocol::channel::{Channel, Condition, History, JoinPacing, Step, ViewerId};
use punchcast_protocol::feedback::{self, Feedback, Totals};
use punchcast_protocol::media::Kind;
use punchcast_protocol::receiver::{Receiver, Track};
use punchcast_protocol::reception::Verdict;
use punchcast_protocol::seal::{Epoch, MasterKey};
use punchcast_protocol::volley::{Run, Volley};

use crate::network::{Direction, Impairment};

const VIEWER: ViewerId = ViewerId(1);
const SSRCS: [u32; 2] = [10, 20];

/// How long a viewer may take to know its path.
const AT_FIRST: Duration = Duration::from_secs(2);

/// The stream and the path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) seed: u64,
    pub(crate) there: Impairment,
    pub(crate) back: Impairment,
    pub(crate) rtt: Duration,
    pub(crate) latency: Duration,
    /// Video packets to send.
    pub(crate) packets: u64,
    pub(crate) bits_per_second: u64,
    pub(crate) framerate: u32,
    pub(crate) has_sound: bool,
}

/// What came of it.
#[derive(Debug, Default, Clone)]
pub(crate) struct Outcome {
    pub(crate) sent: u64,
    pub(crate) media_lost: u64,
    pub(crate) media_bytes: u64,
    pub(crate) repair_bytes: u64,
    pub(crate) retransmitted: u64,
    pub(crate) repair_packets: u64,
    pub(crate) wishes: u64,
    /// Access units of which a packet was missing at its deadline, or came later.
    pub(crate) frames_lost: u64,
    pub(crate) totals: Totals,
    /// Of the unrecovered, those of the first seconds, in which nobody knows the path yet.
    pub(crate) unrecovered_at_first: u64,
    /// Simulated time.
    pub(crate) seconds: u64,
}

impl Outcome {
    /// Packets missing at their deadline, but for the first seconds, as a share of those sent.
    pub(crate) fn residual(&self) -> f64 {
        (self.totals.unrecovered - self.unrecovered_at_first) as f64 / self.sent as f64
    }

    /// All repair, as a share of media, by bytes.
    pub(crate) fn overhead(&self) -> f64 {
        self.repair_bytes as f64 / self.media_bytes as f64
    }
}

enum Event {
    Publish {
        track: usize,
    },
    Media(Vec<u8>),
    Word(Vec<u8>),
    Report,
    /// Somebody's timer may be due.
    Look,
}

/// An event; those of one time in the order in which they were made.
struct Due(Duration, u64, Event);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

struct Simulation {
    setting: Setting,
    began: Instant,
    now: Duration,
    events: BinaryHeap<Reverse<Due>>,
    count: u64,
    channel: Channel,
    receiver: Receiver,
    there: Direction,
    back: Direction,
    looks_at: Option<Duration>,
    frames: u64,
    published: u64,
    outcome: Outcome,
    /// When each live packet of the video was sent, and of which unit it is.
    sent: BTreeMap<u64, (Duration, u64)>,
    came: BTreeMap<u64, Duration>,
    lost_frame: Option<u64>,
}

/// Plays it to its end.
pub(crate) fn run(setting: Setting) -> Outcome {
    let key = MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12]);
    let rate = |text: &str| text.parse().expect("a rate");
    let pacing = JoinPacing { each: rate("20M"), total: None };
    let began = Instant::now();
    let mut channel = Channel::new(&key, &SSRCS, History::default(), pacing);
    channel.join(VIEWER, began);
    while channel.poll_step(began).is_some() {}
    let track = |kind, ssrc, clock_rate| Track {
        kind,
        ssrc,
        clock_rate,
        first_index: 0,
        expected_from: 0,
        live_index: 0,
    };
    let tracks = [track(Kind::Video, SSRCS[0], 90_000), track(Kind::Audio, SSRCS[1], 48_000)];
    let receiver = Receiver::new(&tracks, &[key], setting.latency, began);
    let mut simulation = Simulation {
        there: Direction::new(setting.there, setting.seed * 2 + 1),
        back: Direction::new(setting.back, setting.seed * 2 + 2),
        setting,
        began,
        now: Duration::ZERO,
        events: BinaryHeap::new(),
        count: 0,
        channel,
        receiver,
        looks_at: None,
        frames: 0,
        published: 0,
        outcome: Outcome::default(),
        sent: BTreeMap::new(),
        came: BTreeMap::new(),
        lost_frame: None,
    };
    simulation.push(Duration::ZERO, Event::Publish { track: 0 });
    if setting.has_sound {
        simulation.push(Duration::ZERO, Event::Publish { track: 1 });
    }
    simulation.push(Duration::from_millis(250), Event::Report);
    simulation.play()
}

impl Simulation {
    fn push(&mut self, at: Duration, event: Event) {
        self.count += 1;
        self.events.push(Reverse(Due(at, self.count, event)));
    }

    fn instant(&self) -> Instant {
        self.began + self.now
    }

    fn play(mut self) -> Outcome {
        let mut over_at = None;
        while let Some(Reverse(Due(at, _, event))) = self.events.pop() {
            if over_at.is_some_and(|over| at > over) {
                break;
            }
            if matches!(event, Event::Look) {
                if self.looks_at != Some(at) {
                    // An earlier look was taken meanwhile.
                    continue;
                }
                self.looks_at = None;
            }
            self.now = at;
            if at < AT_FIRST {
                self.outcome.unrecovered_at_first = self.receiver.totals().unrecovered;
            }
            self.take(event);
            if self.outcome.sent >= self.setting.packets && over_at.is_none() {
                // Everything that may still come has come then.
                over_at = Some(self.now + self.setting.latency + Duration::from_secs(2));
            }
            self.drain();
            self.judge(false);
        }
        let end = self.instant() + Duration::from_secs(5);
        self.receiver.poll_wish(self.setting.rtt, end);
        self.judge(true);
        self.outcome.totals = self.receiver.totals();
        self.outcome.seconds = self.now.as_secs() + 1;
        self.outcome
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Publish { track } => self.publish(track),
            Event::Media(mut bytes) => {
                let (now, came) = (self.now, &mut self.came);
                let result = self.receiver.take(&mut bytes, self.began + now, &mut |arrived| {
                    let is_new = arrived.verdict == Verdict::Fresh;
                    if is_new && arrived.track == 0 {
                        assert!(came.insert(arrived.index, now).is_none(), "delivered twice");
                        // What the payloader wrote.
                        assert!(arrived.rtp[12..].iter().all(|byte| *byte == 7), "altered");
                    }
                });
                // Only a flipped bit makes a packet that does not open.
                assert!(result.is_ok() || self.setting.there.flipped > 0.0, "{result:?}");
            }
            Event::Word(bytes) => match feedback::parse(&bytes) {
                Ok(Feedback::Wish(wish)) => {
                    self.channel.ask(VIEWER, &wish, self.instant());
                }
                Ok(Feedback::Report { blocks, times, .. }) => {
                    let worst = blocks.iter().map(|block| block.fraction_lost).max().unwrap_or(0);
                    let condition = Condition {
                        loss: f64::from(worst) / 256.0,
                        rtt: times.rtt.unwrap_or_default(),
                        latency: self.setting.latency,
                    };
                    self.channel.tell(VIEWER, condition, self.instant());
                }
                Err(error) => {
                    assert!(self.setting.back.flipped > 0.0, "{error}");
                }
            },
            Event::Report => {
                let blocks = self.receiver.report();
                let totals = self.receiver.totals();
                let times =
                    feedback::Times { rtt: Some(self.setting.rtt), ..feedback::Times::default() };
                let report = feedback::encode_report(VIEWER.0, &blocks, &totals, times);
                self.say(report);
                self.push(self.now + Duration::from_millis(250), Event::Report);
            }
            Event::Look => {}
        }
    }

    fn publish(&mut self, track: usize) {
        if self.outcome.sent >= self.setting.packets {
            return;
        }
        let Setting { bits_per_second, framerate, .. } = self.setting;
        let (lengths, timestamp, next) = if track == 0 {
            // A keyframe each two seconds, four times as large as the others.
            let gop = u64::from(framerate) * 2;
            let bytes = bits_per_second * 2 / 8;
            let is_key = self.frames.is_multiple_of(gop);
            let size = bytes * if is_key { 4 } else { 1 } / (gop + 3);
            let full = size / 1118;
            let mut lengths = vec![1130usize; full as usize];
            lengths.push((size % 1118) as usize + 12);
            let timestamp = self.frames * 90_000 / u64::from(framerate);
            self.frames += 1;
            let next = Duration::from_secs(self.frames) / framerate;
            (lengths, timestamp, next)
        } else {
            self.published += 1;
            (vec![172], self.published * 960, Duration::from_millis(20) * self.published as u32)
        };
        let mut burst = PlainBurst::with_capacity(lengths.len());
        let last = lengths.len() - 1;
        for (at, length) in lengths.into_iter().enumerate() {
            let mut packet = vec![7u8; length];
            packet[0] = 0x80;
            packet[1] = if at == last { 0x80 | 96 } else { 96 };
            packet[4..8].copy_from_slice(&(timestamp as u32).to_be_bytes());
            burst.push([&packet[..]]).expect("fits");
        }
        let is_key = track == 0 && (self.frames - 1).is_multiple_of(u64::from(framerate) * 2);
        let now = self.instant();
        let burst = self.channel.publish(track, is_key, now, burst, now).expect("seals");
        self.channel.left(self.channel.history().end() - 1, now);
        for at in 0..burst.len() {
            let bytes = burst.bytes()[burst.packet(at).expect("there")].to_vec();
            self.outcome.media_bytes += bytes.len() as u64;
            self.outcome.sent += 1;
            if track == 0 {
                self.sent.insert(burst.first_index + at as u64, (self.now, self.frames));
            }
            let lost = self.there.lost;
            self.transmit(bytes);
            self.outcome.media_lost += self.there.lost - lost;
        }
        self.push(next, Event::Publish { track });
    }

    fn transmit(&mut self, mut bytes: Vec<u8>) {
        for at in self.there.send(self.now, &mut bytes) {
            self.push(at, Event::Media(bytes.clone()));
        }
    }

    fn say(&mut self, mut bytes: Vec<u8>) {
        for at in self.back.send(self.now, &mut bytes) {
            self.push(at, Event::Word(bytes.clone()));
        }
    }

    /// Lets both sides do what is due, and looks again when more is.
    fn drain(&mut self) {
        let now = self.instant();
        while let Some(step) = self.channel.poll_step(now) {
            if let Step::Repair { packets, repair, .. } = step {
                self.outcome.repair_packets += repair as u64;
                self.outcome.retransmitted += (packets.len() - repair) as u64;
                let (again, coded) = packets.split_at(packets.len() - repair);
                for volley in [Volley::again(again, 56), Volley::of_packets(coded, 56)] {
                    for Run { segments, .. } in volley.runs() {
                        let bytes = &volley.bytes()[segments.range.clone()];
                        for datagram in bytes.chunks(segments.segment) {
                            self.outcome.repair_bytes += datagram.len() as u64;
                            self.transmit(datagram.to_vec());
                        }
                    }
                }
            }
        }
        if self.receiver.poll_timeout().is_some_and(|at| at <= now)
            && let Some(wish) = self.receiver.poll_wish(self.setting.rtt, now)
        {
            self.outcome.wishes += 1;
            self.say(feedback::encode_wish(VIEWER.0, &wish));
        }
        let due = self.receiver.poll_timeout().into_iter().chain(self.channel.poll_timeout()).min();
        if let Some(due) = due {
            let at =
                due.saturating_duration_since(self.began).max(self.now + Duration::from_micros(1));
            if self.looks_at.is_none_or(|looks| at < looks) {
                self.looks_at = Some(at);
                self.push(at, Event::Look);
            }
        }
    }

    /// Counts units that were not whole in time.
    fn judge(&mut self, is_over: bool) {
        let patience = self.setting.latency + self.setting.rtt / 2 + Duration::from_millis(1);
        while let Some((&index, &(at, unit))) = self.sent.first_key_value() {
            let due = at + patience;
            if due > self.now && !is_over {
                break;
            }
            self.sent.pop_first();
            let is_there = self.came.remove(&index).is_some_and(|came| came <= due);
            if !is_there && self.lost_frame != Some(unit) {
                self.lost_frame = Some(unit);
                self.outcome.frames_lost += 1;
            }
        }
    }
}
