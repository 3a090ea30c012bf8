//! Reception of one track, whatever arrives when.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use punchcast_protocol::feedback::Totals;
use punchcast_protocol::reception::{Arrival, Came, Reception, Verdict};

use super::choose::{Input, goes_on, step};

/// Packet indices have 48 bits.
const INDEX_MASK: u64 = (1 << 48) - 1;

/// Receives packets with any indices, and asks for what is missing at any times.
pub fn run(data: &[u8]) {
    // An error means that the input ran out.
    let _ = driven(&mut Unstructured::new(data));
}

fn driven(input: &mut Input<'_>) -> Result<()> {
    let first = input.arbitrary::<u64>()? & INDEX_MASK;
    let patience = Duration::from_millis(input.int_in_range(0..=3000u64)?);
    let mut now = Instant::now();
    let mut reception = Reception::new(7, input.arbitrary()?, first, first, patience, now);
    let mut fresh = BTreeSet::new();
    let mut before = Totals::default();
    while goes_on(input) {
        match input.int_in_range(0..=9u8)? {
            0 => now += step(input)?,
            1 => {
                let rtt = Duration::from_micros(u64::from(input.arbitrary::<u32>()?));
                let wanted = reception.poll_wanted(rtt, now);
                let asked: Vec<u64> = wanted.iter().map(|wanted| wanted.index).collect();
                assert!(asked.is_sorted() && asked.iter().all(|index| !fresh.contains(index)));
                let next = reception.next_index();
                assert!(asked.iter().all(|index| (first..next).contains(index)));
                if let Some(silence) = reception.poll_behind(now) {
                    assert_eq!(silence.index, next - 1);
                    assert!(silence.newest < next);
                }
                assert!(reception.poll_timeout().is_none_or(|at| at > now), "a timeout would spin");
            }
            2 => {
                reception.time(input.arbitrary()?, now);
                let _ = reception.jitter();
            }
            3 => {
                let block = reception.report();
                assert!(u64::from(block.cumulative_lost) <= reception.totals().lost);
            }
            choice => {
                let next = reception.next_index();
                let index = match choice {
                    4 => input.arbitrary::<u64>()?,
                    5 | 6 => next.wrapping_add(u64::from(input.arbitrary::<u16>()?)),
                    7 => next.wrapping_add(u64::from(input.arbitrary::<u8>()? % 8)),
                    _ => next.wrapping_sub(u64::from(input.arbitrary::<u8>()?)),
                } & INDEX_MASK;
                let arrival = Arrival {
                    index,
                    timestamp: input.arbitrary()?,
                    ends_unit: input.arbitrary()?,
                    came: *input.choose(&[Came::First, Came::First, Came::Again, Came::Rebuilt])?,
                };
                let verdict = reception.receive(arrival, now);
                if verdict == Verdict::Fresh {
                    assert!(index >= first);
                    assert!(fresh.insert(index), "{index} is fresh twice");
                } else {
                    assert!(index < next);
                }
            }
        }
        consistent(&reception, first, &before);
        before = *reception.totals();
    }
    // In the end nothing is open: each packet was received or given up. A loss that was neither
    // repaired nor given up came by itself, later than reordering explains.
    let end = now + patience + Duration::from_secs(1);
    reception.poll_wanted(Duration::ZERO, end);
    let totals = reception.totals();
    assert_eq!(reception.missing_of(0..u64::MAX).count(), 0);
    assert_eq!(totals.received, fresh.len() as u64);
    let expected = reception.next_index() - first;
    assert_eq!(totals.received + totals.unrecovered, expected);
    assert_eq!(totals.recovered_nack + totals.recovered_fec + totals.unrecovered, totals.lost);
    Ok(())
}

fn consistent(reception: &Reception, first: u64, before: &Totals) {
    let totals = reception.totals();
    let fields = |of: &Totals| {
        [
            of.received,
            of.lost,
            of.recovered_nack,
            of.recovered_fec,
            of.unrecovered,
            of.duplicates,
            of.late,
            of.corrupt,
        ]
    };
    let pairs = fields(before).into_iter().zip(fields(totals));
    assert!(pairs.into_iter().all(|(before, now)| before <= now), "{before:?} {totals:?}");
    let expected = reception.next_index() - first;
    assert!(totals.received + totals.unrecovered <= expected, "{totals:?} of {expected}");
    assert!(totals.recovered_nack + totals.recovered_fec + totals.unrecovered <= totals.lost);
    assert!(totals.late <= totals.unrecovered);
}
