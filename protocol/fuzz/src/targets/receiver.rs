//! A receiver that gets a stream's packets, its repair packets and anything else, in any order.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use punchcast_protocol::burst::PlainBurst;
use punchcast_protocol::channel::{Channel, History, JoinPacing, Step, ViewerId};
use punchcast_protocol::feedback::{Ask, What, Wish};
use punchcast_protocol::media::Kind;
use punchcast_protocol::receiver::{Receiver, Track};
use punchcast_protocol::reception::Verdict;
use punchcast_protocol::seal::{Epoch, MasterKey};
use punchcast_protocol::units::Bitrate;

use super::choose::{Input, goes_on, mutate, step};

const SSRC: u32 = 10;
const VIEWER: ViewerId = ViewerId(1);

/// Packets of a stream, and how many of them are a block's.
const PACKETS: usize = 20;

/// The stream is always the same, and takes longer to make than most inputs take to run.
static STREAM: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| stream(Instant::now()));

/// Receives genuine packets and repair packets, and changed ones, while time passes.
pub fn run(data: &[u8]) {
    // An error means that the input ran out.
    let _ = driven(&mut Unstructured::new(data));
}

fn driven(input: &mut Input<'_>) -> Result<()> {
    let began = Instant::now();
    let datagrams: &[Vec<u8>] = &STREAM;
    let key = MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12]);
    let track = Track {
        kind: Kind::Video,
        ssrc: SSRC,
        clock_rate: 90_000,
        first_index: 0,
        expected_from: input.int_in_range(0..=3)?,
        live_index: input.int_in_range(0..=30)?,
    };
    let patience = Duration::from_millis(input.int_in_range(0..=1000)?);
    let mut receiver = Receiver::new(&[track], &[key], patience, began);
    let mut now = began;
    let mut fresh = BTreeSet::new();
    while goes_on(input) {
        match input.int_in_range(0..=5u8)? {
            0 => now += step(input)?,
            1 => {
                let rtt = Duration::from_millis(input.arbitrary::<u16>()?.into());
                if let Some(wish) = receiver.poll_wish(rtt, now) {
                    assert!(!wish.asks.is_empty());
                }
                assert!(receiver.poll_timeout().is_none_or(|at| at > now), "a timeout would spin");
            }
            choice => {
                let mut datagram = input.choose(datagrams)?.clone();
                if choice == 2 {
                    mutate(input, &mut datagram)?;
                }
                // An error means that it is not genuine.
                let _ = receiver.take(&mut datagram, now, &mut |arrived| {
                    assert_eq!(arrived.rtp[12..], plain(arrived.index)[12..], "{}", arrived.index);
                    if arrived.verdict == Verdict::Fresh {
                        assert!(fresh.insert(arrived.index), "{} is fresh twice", arrived.index);
                    }
                });
            }
        }
    }
    receiver.poll_wish(Duration::ZERO, now + Duration::from_secs(10));
    let totals = receiver.totals();
    assert_eq!(totals.received, fresh.len() as u64);
    assert_eq!(totals.lost, totals.recovered_nack + totals.recovered_fec + totals.unrecovered);
    Ok(())
}

fn plain(index: u64) -> Vec<u8> {
    let mut packet = vec![index as u8; 40 + 11 * index as usize];
    packet[..12].fill(0);
    packet[0] = 0x80;
    packet
}

/// All packets of a stream of three pictures, and several repair packets for each.
fn stream(now: Instant) -> Vec<Vec<u8>> {
    let key = MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12]);
    let rate = Bitrate::bits_per_second(1 << 30);
    let pacing = JoinPacing { each: rate, total: None };
    let mut channel = Channel::new(&key, &[SSRC], History::default(), pacing);
    let mut datagrams = Vec::new();
    for picture in 0..3u32 {
        let first = u64::from(picture) * PACKETS as u64;
        let mut burst = PlainBurst::default();
        for index in first..first + PACKETS as u64 {
            burst.push([&plain(index)[..]]).expect("fits");
        }
        let burst = channel.publish(0, picture == 0, now, burst, now).expect("seals");
        let packets = (0..burst.len()).filter_map(|at| burst.packet(at));
        datagrams.extend(packets.map(|range| burst.bytes()[range].to_vec()));
        let what = What::Block { base: first, lacks: 8 };
        let ask = Ask { serial: picture, ssrc: SSRC, rounds_left: 9, what };
        channel.ask(VIEWER, &Wish { loss: 0, takes_repair: true, asks: vec![ask] }, now);
        while let Some(step) = channel.poll_step(now) {
            if let Step::Repair { packets, .. } = step {
                datagrams.extend(packets.iter().map(|packet| packet.to_vec()));
            }
        }
    }
    datagrams
}
