//! RTCP feedback.

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use punchcast_protocol::feedback::{
    Ask, Block, Feedback, MOST_ASKS, MOST_BLOCKS, MOST_NAMED, Times, Totals, What, Wish,
    encode_report, encode_wish, parse,
};
use punchcast_protocol::size::MAX_DATAGRAM;
use punchcast_protocol::units::Bitrate;

use super::choose::{Input, several};

/// Most that RTCP's field for lost packets says (24 bits, signed).
const MOST_LOST: u32 = 0x7f_ffff;

/// Reads the bytes as feedback, then feedback made of them.
pub fn run(data: &[u8]) {
    if let Ok(feedback) = parse(data) {
        returns(&feedback);
    }
    // An error means that the input ran out.
    let _ = written(&mut Unstructured::new(data));
}

fn written(input: &mut Input<'_>) -> Result<()> {
    let feedback = if input.arbitrary()? {
        Feedback::Wish(Wish {
            loss: input.arbitrary()?,
            takes_repair: input.arbitrary()?,
            asks: several(input, MOST_ASKS + 2, ask)?,
        })
    } else {
        let blocks = several(input, MOST_BLOCKS + 2, block)?;
        let mut time = || -> Result<Option<Duration>> {
            Ok(input.arbitrary::<Option<u32>>()?.map(|us| Duration::from_micros(us.into())))
        };
        let (rtt, latency, shown) = (time()?, time()?, time()?);
        let totals = Some(totals(input)?);
        let carried = input.arbitrary::<Option<u64>>()?.map(Bitrate::bits_per_second);
        Feedback::Report { blocks, totals, times: Times { rtt, latency, shown, carried } }
    };
    returns(&feedback);
    Ok(())
}

fn ask(input: &mut Input<'_>) -> Result<Ask> {
    let what = match input.int_in_range(0..=2u8)? {
        0 => What::Packets {
            first: input.arbitrary()?,
            others: several(input, MOST_NAMED + 2, |input| input.arbitrary())?,
        },
        1 => What::Block { base: input.arbitrary()?, lacks: input.arbitrary()? },
        _ => What::Behind {
            index: input.arbitrary()?,
            newest: input.arbitrary()?,
            silence_us: input.arbitrary()?,
        },
    };
    let (serial, ssrc) = input.arbitrary()?;
    Ok(Ask { serial, ssrc, rounds_left: input.arbitrary()?, what })
}

fn block(input: &mut Input<'_>) -> Result<Block> {
    Ok(Block {
        ssrc: input.arbitrary()?,
        fraction_lost: input.arbitrary()?,
        cumulative_lost: input.arbitrary()?,
        highest_index: input.arbitrary()?,
        jitter: input.arbitrary()?,
    })
}

fn totals(input: &mut Input<'_>) -> Result<Totals> {
    Ok(Totals {
        received: input.arbitrary()?,
        lost: input.arbitrary()?,
        recovered_nack: input.arbitrary()?,
        recovered_fec: input.arbitrary()?,
        unrecovered: input.arbitrary()?,
        duplicates: input.arbitrary()?,
        late: input.arbitrary()?,
        corrupt: input.arbitrary()?,
        bytes: input.arbitrary()?,
    })
}

/// What is encoded fits a datagram and parses to the same.
fn returns(feedback: &Feedback) {
    match feedback {
        Feedback::Wish(wish) => {
            let bytes = encode_wish(7, wish);
            assert!(bytes.len() <= MAX_DATAGRAM, "{}", bytes.len());
            let Ok(Feedback::Wish(read)) = parse(&bytes) else { panic!("{wish:?} is not read") };
            assert_eq!((read.loss, read.takes_repair), (wish.loss, wish.takes_repair));
            assert_eq!(read.asks.len(), wish.asks.len().min(MOST_ASKS));
            let serials = |asks: &[Ask]| asks.iter().map(|ask| ask.serial).collect::<Vec<_>>();
            assert_eq!(serials(&read.asks), serials(&wish.asks[..read.asks.len()]));
        }
        Feedback::Report { blocks, totals, times } => {
            let totals = totals.unwrap_or_default();
            let bytes = encode_report(7, blocks, &totals, *times);
            assert!(bytes.len() <= MAX_DATAGRAM, "{}", bytes.len());
            let saturated = |block: &Block| {
                let cumulative_lost = block.cumulative_lost.min(MOST_LOST);
                Block { cumulative_lost, ..*block }
            };
            let blocks = blocks.iter().take(MOST_BLOCKS).map(saturated).collect();
            let expected = Feedback::Report { blocks, totals: Some(totals), times: *times };
            assert_eq!(parse(&bytes), Ok(expected));
        }
    }
}
