//! A viewer that turns against another: it has the group key, and what it sends seems to come from the broadcaster.
//! `INSIDER_PACKETS` says how many datagrams it sends (100,000 unless told).

use std::collections::HashMap;
use std::env;
use std::time::{Duration, Instant};

use punchcast_protocol::burst::PlainBurst;
use punchcast_protocol::feedback::Totals;
use punchcast_protocol::media::Kind;
use punchcast_protocol::receiver::{Receiver, Track};
use punchcast_protocol::reception::Verdict;
use punchcast_protocol::seal::{Epoch, MasterKey, OpenError, SealedBurst, Sealer};
use punchcast_protocol::tag::{Digest, TAG, TagKey};
use punchcast_protocol::volley::{Run, Volley};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use zeroize::Zeroizing;

const SSRC: u32 = 10;

/// Hostile datagrams for each of the broadcaster's.
const HOSTILE_EACH: u64 = 1_000;

/// Earlier datagrams that the insider knows, as it listens on the same network.
const KNOWN: usize = 64;

/// How far ahead the insider seals.
const AHEAD: usize = 2_000;

fn tag_key(byte: u8) -> TagKey {
    TagKey::new(&Zeroizing::new([byte; 16]))
}

/// One access unit: some packets that differ from all others.
fn unit(number: u64, packets: usize, by_insider: bool) -> PlainBurst {
    let mut burst = PlainBurst::default();
    for at in 0..packets {
        let mut packet = vec![0x80, 96 | if at + 1 == packets { 0x80 } else { 0 }];
        packet.extend([0; 10]);
        packet.extend(number.to_be_bytes());
        // Several in a datagram, and one in each.
        let length = if number.is_multiple_of(2) { 200 } else { 1_000 };
        packet.extend(std::iter::repeat_n(u8::from(by_insider), length));
        burst.push([&packet[..]]).expect("it fits");
    }
    burst
}

fn datagrams(burst: SealedBurst) -> Vec<Vec<u8>> {
    let volley = Volley::new(&[(&std::sync::Arc::new(burst)).into()], 54);
    let runs = volley.runs().iter();
    let cut = |Run { segments, .. }: &Run| {
        volley.bytes()[segments.range.clone()]
            .chunks(segments.segment)
            .map(<[u8]>::to_vec)
            .collect()
    };
    runs.flat_map(|run| -> Vec<Vec<u8>> { cut(run) }).collect()
}

fn tagged(datagram: &[u8], key: &TagKey) -> Vec<u8> {
    let mut tagged = datagram.to_vec();
    tagged.extend([0; TAG]);
    key.write(&[Digest::of(datagram)], &mut tagged[datagram.len()..]);
    tagged
}

/// What the insider can make: with the group key, with what it heard, and with a key for tags of its own.
struct Insider {
    rng: SmallRng,
    own_tags: TagKey,
    /// Sealed with the group key.
    forged: Vec<Vec<u8>>,
    known: Vec<Vec<u8>>,
}

impl Insider {
    fn one<'a>(rng: &mut SmallRng, of: &'a [Vec<u8>]) -> &'a [u8] {
        &of[rng.random_range(0..of.len())]
    }

    /// Further packets that were never sent, of the right SSRC and about the right index.
    fn prepare(&mut self, sealer: &mut Sealer) {
        let number = self.rng.random();
        let burst = unit(number, 4, true);
        let sealed = sealer.seal(0, false, Instant::now(), burst).expect("it seals");
        self.forged.extend(datagrams(sealed));
        let excess = self.forged.len().saturating_sub(AHEAD);
        self.forged.drain(..excess);
    }

    /// A datagram, and whether the broadcaster sent the very same.
    fn next(&mut self) -> (Vec<u8>, bool) {
        let Self { rng, own_tags, forged, known } = self;
        match rng.random_range(0..7) {
            // Sealed, with a tag by chance, of its own making, or stolen.
            0 => {
                let mut datagram = Self::one(rng, forged).to_vec();
                let mut tag = [0; TAG];
                rng.fill_bytes(&mut tag);
                datagram.extend(tag);
                (datagram, false)
            }
            1 => (tagged(Self::one(rng, forged), own_tags), false),
            2 => {
                let mut datagram = Self::one(rng, forged).to_vec();
                let stolen = Self::one(rng, known);
                datagram.extend(&stolen[stolen.len() - TAG..]);
                (datagram, false)
            }
            // Altered: a bit, the length, or the tag of another.
            3 => {
                let mut datagram = Self::one(rng, known).to_vec();
                let bit = rng.random_range(0..datagram.len() * 8);
                datagram[bit / 8] ^= 1 << (bit % 8);
                (datagram, false)
            }
            4 => {
                let mut datagram = Self::one(rng, known).to_vec();
                let length = rng.random_range(0..datagram.len());
                datagram.truncate(length);
                (datagram, false)
            }
            5 => {
                let mut datagram = Self::one(rng, known).to_vec();
                let length = datagram.len();
                let other = Self::one(rng, known);
                let is_same = datagram[length - TAG..] == other[other.len() - TAG..];
                datagram[length - TAG..].copy_from_slice(&other[other.len() - TAG..]);
                (datagram, is_same)
            }
            // Replayed.
            _ => (Self::one(rng, known).to_vec(), true),
        }
    }
}

#[test]
fn an_insider_passes_nothing_off_as_the_broadcasters() {
    let packets: u64 =
        env::var("INSIDER_PACKETS").map_or(100_000, |text| text.parse().expect("a number"));
    let key = || MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12]);
    let (mut ours, mut theirs) = (Sealer::new(&key(), &[SSRC]), Sealer::new(&key(), &[SSRC]));
    let tags = tag_key(1);
    let mut insider = Insider {
        rng: SmallRng::seed_from_u64(7),
        own_tags: tag_key(2),
        forged: Vec::new(),
        known: Vec::new(),
    };
    let track = Track {
        kind: Kind::Video,
        ssrc: SSRC,
        clock_rate: 90_000,
        first_index: 0,
        expected_from: 0,
        live_index: 0,
    };
    let mut now = Instant::now();
    let mut receiver = Receiver::new(&[track], &[key()], Duration::from_secs(1), now);
    let mut came: HashMap<u64, u64> = HashMap::new();
    let (mut genuine, mut hostile, mut refused) = (0u64, 0u64, 0u64);
    let mut number = 0;
    // Reordered: what the broadcaster sent last comes behind what it sends next.
    let mut held: Option<Vec<u8>> = None;
    while hostile < packets {
        insider.prepare(&mut theirs);
        let sealed = ours.seal(0, false, now, unit(number, 4, false)).expect("it seals");
        let mut batch: Vec<Vec<u8>> =
            datagrams(sealed).iter().map(|datagram| tagged(datagram, &tags)).collect();
        genuine += 4;
        insider.known.extend(batch.iter().cloned());
        let excess = insider.known.len().saturating_sub(KNOWN);
        insider.known.drain(..excess);
        if let Some(earlier) = held.take() {
            batch.push(earlier);
        }
        if number % 3 == 0 && hostile + HOSTILE_EACH < packets {
            held = batch.pop();
        }
        number += 1;
        now += Duration::from_millis(33);
        for at in 0..HOSTILE_EACH {
            let (mut datagram, was_sent) = insider.next();
            let mut deliver = |arrived: punchcast_protocol::receiver::Arrived<'_>| {
                assert!(was_sent, "packet {} was forged", arrived.index);
                // What was held back may be heard of from the insider first: it is the broadcaster's all the same.
                if arrived.verdict == Verdict::Fresh {
                    *came.entry(arrived.index).or_default() += 1;
                }
            };
            let result = receiver.take_tagged(&tags, &mut datagram, now, &mut deliver);
            assert!(was_sent || result == Err(OpenError::Forged), "{result:?}");
            refused += u64::from(result.is_err());
            hostile += 1;
            if at * 8 % HOSTILE_EACH == 0
                && let Some(mut datagram) = batch.pop()
            {
                let mut deliver = |arrived: punchcast_protocol::receiver::Arrived<'_>| {
                    assert_eq!(arrived.rtp.last(), Some(&0), "the broadcaster's");
                    if arrived.verdict == Verdict::Fresh {
                        *came.entry(arrived.index).or_default() += 1;
                    }
                };
                let result = receiver.take_tagged(&tags, &mut datagram, now, &mut deliver);
                result.expect("it is the broadcaster's");
            }
        }
        assert!(batch.is_empty(), "all of it was sent");
        // What is long past is of no use to whoever replays.
        came.retain(|index, count| {
            assert_eq!(*count, 1, "packet {index} came twice");
            *index + 1_000 > genuine
        });
    }
    let Totals { received, corrupt, .. } = receiver.totals();
    println!(
        "{hostile} hostile datagrams, {refused} refused; {genuine} packets of the broadcaster"
    );
    assert_eq!((received, corrupt), (genuine, refused));
}
