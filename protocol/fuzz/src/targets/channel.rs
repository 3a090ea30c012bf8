//! A channel whose viewers come, go and ask for anything while it is published to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use punchcast_protocol::burst::PlainBurst;
use punchcast_protocol::channel::{
    Channel, Condition, History, JoinPacing, Step, TrackPosition, ViewerId,
};
use punchcast_protocol::feedback::{Ask, What, Wish};
use punchcast_protocol::rtp::Header;
use punchcast_protocol::seal::{Epoch, MasterKey};
use punchcast_protocol::units::Bitrate;

use super::choose::{Input, goes_on, several, step};

const SSRCS: [u32; 2] = [10, 20];

/// More steps than anything here can make due at one moment.
const ENDLESS: usize = 100_000;

/// Publishes, lets viewers join, leave and ask, and time pass, and follows what each viewer is sent.
pub fn run(data: &[u8]) {
    // An error means that the input ran out.
    let _ = driven(&mut Unstructured::new(data));
}

fn driven(input: &mut Input<'_>) -> Result<()> {
    let mut stage = Stage::new(input)?;
    while goes_on(input) {
        let viewer = ViewerId(input.int_in_range(0..=5u32)?);
        match input.int_in_range(0..=9u8)? {
            0..=2 => stage.publish(input)?,
            3 => stage.join(viewer),
            4 => {
                stage.channel.leave(viewer);
                stage.joining.remove(&viewer);
                stage.limited.remove(&viewer);
            }
            8 => stage.limit(input, viewer)?,
            5 => stage.ask(input, viewer)?,
            6 => stage.now += step(input)?,
            7 => stage.tell(input, viewer)?,
            _ => stage.now = stage.channel.poll_timeout().unwrap_or(stage.now).max(stage.now),
        }
        stage.drain(input)?;
    }
    stage.settle();
    Ok(())
}

struct Stage {
    channel: Channel,
    now: Instant,
    /// Index of the next packet of each track.
    live: [u64; 2],
    joining: BTreeMap<ViewerId, Joining>,
    /// Whose path does not carry everything.
    limited: BTreeSet<ViewerId>,
    /// Who asked for anything, or was said to lose packets.
    lossy: BTreeSet<ViewerId>,
}

/// What a viewer that catches up expects.
struct Joining {
    /// The next index of each track, once it was sent one.
    next: [Option<u64>; 2],
    /// Where it begins; `None` while it waits for a keyframe.
    told: Option<Vec<TrackPosition>>,
    /// Published bursts that may be missing: the history no longer had them all.
    may_skip: bool,
}

impl Stage {
    fn new(input: &mut Input<'_>) -> Result<Self> {
        let rate = |input: &mut Input<'_>| {
            let rate = 1u64 << input.int_in_range(0..=32u8)?;
            Ok(Bitrate::bits_per_second(rate | u64::from(input.arbitrary::<u8>()?)))
        };
        let each = rate(input)?;
        let total = if input.arbitrary()? { Some(rate(input)?) } else { None };
        let window = Duration::from_millis(input.int_in_range(0..=2000u64)?);
        let history = History::new(window, input.int_in_range(0..=200_000usize)?);
        let key = MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12]);
        Ok(Self {
            channel: Channel::new(&key, &SSRCS, history, JoinPacing { each, total }),
            now: Instant::now(),
            live: [0; 2],
            joining: BTreeMap::new(),
            limited: BTreeSet::new(),
            lossy: BTreeSet::new(),
        })
    }

    fn publish(&mut self, input: &mut Input<'_>) -> Result<()> {
        let track = usize::from(input.ratio(1, 4)?);
        let keyframe = track == 0 && input.ratio(1, 4)?;
        let length = input.int_in_range(12..=1130usize)?;
        let mut burst = PlainBurst::default();
        for _ in 0..input.int_in_range(0..=40u8)? {
            let mut packet = vec![0; length];
            packet[0] = 0x80;
            burst.push([&packet[..]]).expect("fits");
        }
        let count = burst.len();
        let burst = self.channel.publish(track, keyframe, self.now, burst, self.now);
        let burst = burst.expect("well-formed packets are sealed");
        assert_eq!((burst.first_index, burst.len()), (self.live[track], count));
        self.live[track] += count as u64;
        if input.arbitrary()? {
            self.channel.left(self.channel.history().end() - 1, self.now);
        }
        Ok(())
    }

    fn join(&mut self, viewer: ViewerId) {
        let told = self.channel.join(viewer, self.now);
        self.check(told.as_deref().unwrap_or_default());
        self.limited.remove(&viewer);
        self.joining.insert(viewer, Joining { next: [None; 2], told, may_skip: false });
    }

    fn limit(&mut self, input: &mut Input<'_>, viewer: ViewerId) -> Result<()> {
        let rate: Option<u32> = input.arbitrary()?;
        let rate = rate.map(|rate| Bitrate::bits_per_second(rate.into()));
        self.channel.limit(viewer, rate, self.channel.history().end(), self.now);
        if self.channel.is_limited(viewer) {
            self.joining.remove(&viewer);
            self.limited.insert(viewer);
        }
        Ok(())
    }

    /// What a viewer is told.
    fn check(&self, told: &[TrackPosition]) {
        assert!(told.iter().zip(self.live).all(|(track, live)| track.live_index == live));
        assert!(told.iter().all(|track| track.first_index <= track.live_index));
    }

    fn ask(&mut self, input: &mut Input<'_>, viewer: ViewerId) -> Result<()> {
        let wish = Wish {
            loss: input.arbitrary()?,
            takes_repair: input.arbitrary()?,
            asks: several(input, 3, ask)?,
        };
        let queued = self.channel.ask(viewer, &wish, self.now);
        // Of each block no more than its margin, and no viewer more than may wait for it.
        assert!(queued <= 512, "{queued}");
        self.lossy.insert(viewer);
        Ok(())
    }

    fn tell(&mut self, input: &mut Input<'_>, viewer: ViewerId) -> Result<()> {
        let condition = Condition {
            loss: f64::from(input.arbitrary::<u8>()?) / 255.0,
            rtt: Duration::from_millis(input.arbitrary::<u16>()?.into()),
            latency: Duration::from_millis(input.arbitrary::<u16>()?.into()),
        };
        self.channel.tell(viewer, condition, self.now);
        self.lossy.insert(viewer);
        self.channel.set_margins(input.arbitrary()?);
        Ok(())
    }

    /// Does all that is due now. Then nothing is due before the next timeout, which is not now.
    fn drain(&mut self, input: &mut Input<'_>) -> Result<()> {
        self.steps();
        let timeout = self.channel.poll_timeout();
        assert!(timeout.is_none_or(|at| at > self.now), "a timeout would spin");
        assert!(timeout.is_some() || self.channel.joining() == 0, "a viewer is forgotten");
        if let Some(timeout) = timeout {
            let wait = (timeout - self.now) * u32::from(input.arbitrary::<u8>()?) / 256;
            let step = self.channel.poll_step(self.now + wait);
            assert!(step.is_none(), "{step:?} was due before the timeout");
        }
        Ok(())
    }

    fn steps(&mut self) {
        for count in 0.. {
            let Some(step) = self.channel.poll_step(self.now) else { return };
            assert!(count < ENDLESS, "steps never end");
            match step {
                Step::Send { viewer, parts } => {
                    let kept = self.channel.history().start();
                    let joining = self.joining.get_mut(&viewer).expect("only who joins is sent it");
                    joining.may_skip |= kept > 0;
                    assert!(!parts.is_empty());
                    for part in parts {
                        assert!(part.packets.end <= part.burst.len());
                        joining.take(part.burst.track, part.indices());
                    }
                }
                Step::SendLess { viewer, parts, left_out } => {
                    assert!(self.limited.contains(&viewer));
                    assert!(!parts.is_empty() || !left_out.is_empty());
                    let live =
                        |ssrc| self.live[SSRCS.iter().position(|of| *of == ssrc).expect("known")];
                    for packets in left_out {
                        assert!(packets.count > 0 && packets.packets().end <= live(packets.ssrc));
                    }
                }
                Step::Repair { viewer, packets, repair } => {
                    assert!(self.lossy.contains(&viewer) && !packets.is_empty());
                    let headers = packets.iter().map(|packet| Header::parse(packet).expect("RTP"));
                    let repairs = headers.filter(|header| header.ssrc >> 31 == 1).count();
                    assert_eq!(repairs, repair);
                    let names: BTreeSet<_> = packets.iter().map(|packet| &packet[..12]).collect();
                    assert!(repair > 0 || names.len() == packets.len(), "copies in one message");
                }
                Step::Begin { viewer, positions } => {
                    self.check(&positions);
                    let joining = self.joining.get_mut(&viewer).expect("only who joins begins");
                    assert!(joining.told.replace(positions).is_none(), "told once");
                }
                Step::CaughtUp { viewer } if self.limited.remove(&viewer) => {}
                Step::CaughtUp { viewer } => {
                    let joining = self.joining.remove(&viewer).expect("each catches up once");
                    joining.caught_up(self.live, self.channel.history().start() > 0);
                }
                Step::RequestKeyframe { .. } => {}
            }
        }
    }

    /// With nothing published any more, everybody catches up.
    fn settle(&mut self) {
        for _ in 0..ENDLESS {
            self.steps();
            let Some(timeout) = self.channel.poll_timeout() else { break };
            assert!(timeout > self.now, "a timeout would spin");
            self.now = timeout;
        }
        assert!(self.joining.is_empty(), "somebody never catches up");
    }
}

fn ask(input: &mut Input<'_>) -> Result<Ask> {
    // Mostly indices that there are.
    let index = |input: &mut Input<'_>| -> Result<u64> {
        Ok(if input.ratio(7, 8)? { input.arbitrary::<u8>()?.into() } else { input.arbitrary()? })
    };
    let what = match input.int_in_range(0..=2u8)? {
        0 => What::Packets {
            first: index(input)?,
            others: input.arbitrary::<[u8; 3]>()?.map(u16::from).to_vec(),
        },
        1 => What::Block { base: index(input)?, lacks: input.arbitrary()? },
        _ => What::Behind {
            index: index(input)?,
            newest: index(input)?,
            silence_us: input.arbitrary()?,
        },
    };
    let serial =
        if input.ratio(7, 8)? { input.arbitrary::<u8>()?.into() } else { input.arbitrary()? };
    let ssrc = *input.choose(&[SSRCS[0], SSRCS[1], 30])?;
    Ok(Ask { serial, ssrc, rounds_left: input.int_in_range(0..=3)?, what })
}

impl Joining {
    /// Packets arrive in order, none twice, and none is left out that the history had.
    fn take(&mut self, track: usize, indices: std::ops::Range<u64>) {
        if indices.is_empty() {
            return;
        }
        match self.next[track].replace(indices.end) {
            Some(next) => {
                assert!(indices.start >= next, "{indices:?} of track {track} after {next}");
                assert!(indices.start == next || self.may_skip, "{next} was left out");
            }
            None => {
                let told = self.told.as_ref().expect("told before anything is sent");
                let first = told[track].first_index;
                assert!(indices.start >= first, "{indices:?} of track {track} before {first}");
            }
        }
    }

    /// The viewer has everything up to the live edge, which the fan-out goes on from.
    fn caught_up(&self, live: [u64; 2], may_skip: bool) {
        for (track, (next, live)) in self.next.iter().zip(live).enumerate() {
            if let Some(next) = next {
                assert!(
                    *next == live || ((may_skip || self.may_skip) && *next < live),
                    "track {track}"
                );
            }
        }
    }
}
