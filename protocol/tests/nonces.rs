//! No nonce comes twice under one key: whatever viewers ask for, however often keys take over, and however long it
//! goes on. A nonce is made of SSRC and packet index (RFC 7714, section 8.1), so two packets sealed with one key that
//! agree in both must be the same packet, sent again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use punchcast_protocol::burst::PlainBurst;
use punchcast_protocol::channel::{Channel, Condition, History, JoinPacing, Step, ViewerId};
use punchcast_protocol::feedback::{Ask, What, Wish};
use punchcast_protocol::rtp::Header;
use punchcast_protocol::seal::{Epoch, MasterKey};
use punchcast_protocol::volley::Part;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SSRCS: [u32; 2] = [10, 20];
const VIEWERS: u32 = 5;

/// More packets than sequence numbers.
const OPERATIONS: usize = 25_000;

/// All packets so far, by what their nonces are made of and by their key.
#[derive(Default)]
struct Seen {
    packets: HashMap<(Vec<u8>, u32, u64), blake3::Hash>,
    /// The last index of each stream, to tell those that follow by their low 16 bits.
    last: HashMap<u32, u64>,
    again: usize,
}

impl Seen {
    fn take(&mut self, key: &[u8], packet: &[u8]) {
        let Header { ssrc, sequence, .. } = Header::parse(packet).expect("it was sealed as RTP");
        let last = self.last.entry(ssrc).or_insert(u64::from(sequence));
        let step = sequence.wrapping_sub(*last as u16).cast_signed();
        let index = last.checked_add_signed(i64::from(step)).expect("indices begin at 0");
        *last = index.max(*last);
        match self.packets.entry((key.to_vec(), ssrc, index)) {
            Entry::Vacant(entry) => {
                entry.insert(blake3::hash(packet));
            }
            Entry::Occupied(entry) => {
                assert_eq!(*entry.get(), blake3::hash(packet), "SSRC {ssrc}, index {index}: twice");
                self.again += 1;
            }
        }
    }

    fn take_parts(&mut self, keys: &HashMap<[u8; 4], Vec<u8>>, parts: &[Part]) {
        for Part { burst, packets } in parts {
            for range in packets.clone().filter_map(|at| burst.packet(at)) {
                let packet = &burst.bytes()[range];
                self.take(key_of(keys, packet), packet);
            }
        }
    }
}

fn key_of<'a>(keys: &'a HashMap<[u8; 4], Vec<u8>>, packet: &[u8]) -> &'a [u8] {
    let mki = packet.last_chunk().expect("an MKI");
    keys.get(mki).expect("a key that was made")
}

fn burst(rng: &mut StdRng) -> PlainBurst {
    let mut burst = PlainBurst::default();
    for _ in 0..rng.random_range(1..80) {
        let mut packet = vec![0x80, 96];
        packet.resize(rng.random_range(12..300), 7);
        burst.push([&packet[..]]).expect("it fits");
    }
    burst
}

/// What no honest viewer would say, mostly.
fn wish(rng: &mut StdRng, about: u64) -> Wish {
    let near = |rng: &mut StdRng| match rng.random_range(0..8) {
        0 => rng.random(),
        _ => about.saturating_sub(rng.random_range(0..400)),
    };
    let ask = |rng: &mut StdRng| Ask {
        serial: rng.random(),
        ssrc: if rng.random_ratio(1, 20) { rng.random() } else { SSRCS[rng.random_range(0..2)] },
        rounds_left: rng.random(),
        what: match rng.random_range(0..3) {
            0 => What::Packets {
                first: near(rng),
                others: (0..rng.random_range(0..20)).map(|_| rng.random_range(1..300)).collect(),
            },
            1 => What::Block { base: near(rng), lacks: rng.random() },
            _ => What::Behind { index: near(rng), newest: near(rng), silence_us: rng.random() },
        },
    };
    let asks = (0..rng.random_range(0..6)).map(|_| ask(rng)).collect();
    Wish { loss: rng.random(), takes_repair: rng.random_ratio(3, 4), asks }
}

fn run(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut now = Instant::now();
    let pacing = JoinPacing { each: "20M".parse().expect("a rate"), total: None };
    let history = || History::new(Duration::from_secs(2), 1 << 20);
    let mut seen = Seen::default();
    let mut epoch = Epoch::FIRST;
    let mut keys = HashMap::new();
    let new_key = |rng: &mut StdRng, keys: &mut HashMap<[u8; 4], Vec<u8>>, epoch: Epoch| {
        let key = MasterKey::random(epoch, rng);
        keys.insert(epoch.mki(), key.export().to_vec());
        key
    };
    let mut channel = Channel::new(&new_key(&mut rng, &mut keys, epoch), &SSRCS, history(), pacing);
    let (mut repairs, mut published) = (0, 0);
    for _ in 0..OPERATIONS {
        now += Duration::from_micros(rng.random_range(0..8_000));
        let viewer = ViewerId(rng.random_range(0..VIEWERS));
        match rng.random_range(0..100) {
            0..40 => {
                let (track, keyframe) = (rng.random_range(0..2), rng.random_ratio(1, 30));
                let plain = burst(&mut rng);
                let sealed = channel.publish(track, keyframe, now, plain, now).expect("it seals");
                published += sealed.len();
                channel.left(channel.history().end() - 1, now);
                seen.take_parts(&keys, &[Part::from(&sealed)]);
            }
            40..85 => {
                let wish = wish(&mut rng, published as u64 / 2);
                channel.ask(viewer, &wish, now);
            }
            85..92 => {
                let condition = Condition {
                    loss: rng.random(),
                    rtt: Duration::from_millis(rng.random_range(0..500)),
                    latency: Duration::from_millis(rng.random_range(0..2_000)),
                };
                channel.tell(viewer, condition, now);
            }
            92..96 => {
                channel.join(viewer, now);
            }
            96..98 => channel.leave(viewer),
            98 => {
                epoch = epoch.next().expect("there is room");
                channel.rekey(&new_key(&mut rng, &mut keys, epoch));
            }
            // A restart: all begins anew, with the same SSRCs and the first epoch, which is worse than it can be.
            _ if rng.random_ratio(1, 120) => {
                (epoch, published) = (Epoch::FIRST, 0);
                keys.clear();
                seen.last.clear();
                let key = new_key(&mut rng, &mut keys, epoch);
                channel = Channel::new(&key, &SSRCS, history(), pacing);
            }
            _ => {}
        }
        while let Some(step) = channel.poll_step(now) {
            match step {
                Step::Send { parts, .. } | Step::SendLess { parts, .. } => {
                    seen.take_parts(&keys, &parts);
                }
                Step::Repair { packets, repair, .. } => {
                    repairs += repair;
                    packets.iter().for_each(|packet| seen.take(key_of(&keys, packet), packet));
                }
                _ => {}
            }
        }
    }
    let count = seen.packets.len();
    println!("seed {seed}: {count} packets, {repairs} of repair, {} sent again", seen.again);
    assert!(count > 300_000 && repairs > 100 && seen.again > 1_000, "too little happened");
}

#[test]
fn no_nonce_comes_twice_under_one_key() {
    (0..2).for_each(run);
}
