//! RTCP feedback.

use std::collections::BTreeSet;

use arbitrary::{Result, Unstructured};
use punchcast_protocol::feedback::{
    Block, Feedback, MOST_BLOCKS, MOST_NACKED, Totals, encode_nack, encode_report, parse,
};
use punchcast_protocol::size::MAX_DATAGRAM;

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
    let ssrc = input.arbitrary()?;
    let feedback = if input.arbitrary()? {
        let sequences = several(input, MOST_NACKED + 10, |input| input.arbitrary())?;
        Feedback::Nack { ssrc, sequences }
    } else {
        let blocks = several(input, MOST_BLOCKS + 2, block)?;
        Feedback::Report { blocks, totals: Some(totals(input)?) }
    };
    returns(&feedback);
    Ok(())
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
    })
}

/// What is encoded fits a datagram and parses to the same.
fn returns(feedback: &Feedback) {
    match feedback {
        Feedback::Nack { ssrc, sequences } => {
            let bytes = encode_nack(7, *ssrc, sequences.iter().copied());
            assert!(bytes.len() <= MAX_DATAGRAM, "{}", bytes.len());
            let asked: BTreeSet<_> = sequences.iter().take(MOST_NACKED).copied().collect();
            match parse(&bytes) {
                Ok(Feedback::Nack { ssrc: of, sequences }) => {
                    assert_eq!(of, *ssrc);
                    assert_eq!(sequences.into_iter().collect::<BTreeSet<_>>(), asked);
                }
                other => assert!(asked.is_empty(), "{other:?}"),
            }
        }
        Feedback::Report { blocks, totals } => {
            let totals = totals.unwrap_or_default();
            let bytes = encode_report(7, blocks, &totals);
            assert!(bytes.len() <= MAX_DATAGRAM, "{}", bytes.len());
            let saturated = |block: &Block| {
                let cumulative_lost = block.cumulative_lost.min(MOST_LOST);
                Block { cumulative_lost, ..*block }
            };
            let blocks = blocks.iter().take(MOST_BLOCKS).map(saturated).collect();
            let expected = Feedback::Report { blocks, totals: Some(totals) };
            assert_eq!(parse(&bytes), Ok(expected));
        }
    }
}
