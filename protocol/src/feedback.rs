//! What a viewer tells the broadcaster about what it receives: RTCP, sealed
//! as SRTCP ([`crate::srtcp`]).
//!
//! A report is a receiver report (RFC 3550, section 6.4.2) with one block for each track, and an APP
//! packet (section 6.7) named `PNCH` that holds the viewer's running totals as CBOR. A NACK is
//! generic (RFC 4585, section 6.2.1) and travels alone (RFC 5506), so that nothing delays it.

use minicbor::{Decode, Encode};
use rtcp_types::{
    App, AppBuilder, Compound, Nack, Packet, ReceiverReport, ReportBlock, RtcpPacketWriterExt,
    TransportFeedback,
};

/// Name of the APP packet.
const APP_NAME: &str = "PNCH";

/// Most packets asked for in one NACK, so that it fits any datagram.
pub const MOST_NACKED: usize = 200;

/// Most report blocks in one report (five bits count them).
pub const MOST_BLOCKS: usize = 31;

/// Reception of one track, since the report before and in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Block {
    /// Which track.
    pub ssrc: u32,
    /// Share of packets lost before repair since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost before repair in all (24 bits, saturating).
    pub cumulative_lost: u32,
    /// Low 32 bits of the highest packet index.
    pub highest_index: u32,
    /// Interarrival jitter, in units of the track's clock.
    pub jitter: u32,
}

/// A viewer's totals since it was admitted, over all tracks. None goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Totals {
    /// Packets that arrived and were authentic, duplicates not counted.
    #[n(0)]
    pub received: u64,
    /// Packets lost on the network, before repair.
    #[n(1)]
    pub lost: u64,
    /// Of the lost, those that a retransmission brought in time.
    #[n(2)]
    pub recovered_nack: u64,
    /// Of the lost, those rebuilt from repair packets in time.
    #[n(3)]
    pub recovered_fec: u64,
    /// Of the lost, those missing at their deadline.
    #[n(4)]
    pub unrecovered: u64,
    /// Packets that arrived more than once.
    #[n(5)]
    pub duplicates: u64,
    /// Packets that arrived after their deadline.
    #[n(6)]
    pub late: u64,
    /// Packets that failed authentication.
    #[n(7)]
    pub corrupt: u64,
}

/// One feedback message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feedback {
    /// How reception goes.
    Report {
        /// One block for each track.
        blocks: Vec<Block>,
        /// Totals, where the APP packet was there.
        totals: Option<Totals>,
    },
    /// Packets to send again.
    Nack {
        /// Of which track.
        ssrc: u32,
        /// Their sequence numbers.
        sequences: Vec<u16>,
    },
}

/// Bytes that are no feedback.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FeedbackError {
    /// Not RTCP.
    #[error("not RTCP: {0}")]
    Rtcp(#[from] rtcp_types::RtcpParseError),
    /// The totals are not the CBOR that was expected.
    #[error("malformed totals")]
    Totals,
    /// RTCP of kinds that mean nothing here.
    #[error("neither a receiver report nor a generic NACK")]
    Unexpected,
}

/// A report as bytes. Blocks beyond [`MOST_BLOCKS`] are left out.
pub fn encode_report(viewer: u32, blocks: &[Block], totals: &Totals) -> Vec<u8> {
    let mut report = ReceiverReport::builder(viewer);
    for block in blocks.iter().take(MOST_BLOCKS) {
        report = report.add_report_block(
            ReportBlock::builder(block.ssrc)
                .fraction_lost(block.fraction_lost)
                .cumulative_lost(block.cumulative_lost.min(0x7f_ffff))
                .extended_sequence_number(block.highest_index)
                .interarrival_jitter(block.jitter),
        );
    }
    let mut cbor = minicbor::to_vec(totals).expect("writing into a vector cannot fail");
    // APP data comes in whole words; what follows a CBOR item is not read.
    cbor.resize(cbor.len().next_multiple_of(4), 0);
    let app: AppBuilder = App::builder(viewer, APP_NAME).data(&cbor);
    write(&Compound::builder().add_packet(report).add_packet(app))
}

/// A NACK as bytes, for at most [`MOST_NACKED`] packets; the others are left out.
pub fn encode_nack(viewer: u32, ssrc: u32, sequences: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let sequences = sequences.into_iter().take(MOST_NACKED);
    let nack = sequences.fold(Nack::builder(), |nack, sequence| nack.add_rtp_sequence(sequence));
    write(&TransportFeedback::builder_owned(nack).sender_ssrc(viewer).media_ssrc(ssrc))
}

fn write(packet: &impl RtcpPacketWriterExt) -> Vec<u8> {
    let mut bytes = vec![0; 2048];
    let length = packet.write_into(&mut bytes).expect("bounded parts fit two kilobytes");
    bytes.truncate(length);
    bytes
}

/// Reads a feedback datagram. Unknown RTCP packets in it are skipped.
pub fn parse(bytes: &[u8]) -> Result<Feedback, FeedbackError> {
    let mut report = None;
    let mut totals = None;
    for packet in Compound::parse(bytes)? {
        match packet? {
            Packet::Rr(rr) => report = Some(rr.report_blocks().map(block).collect()),
            Packet::App(app) if app.name() == *b"PNCH" => {
                let parsed = minicbor::decode(app.data()).map_err(|_| FeedbackError::Totals)?;
                totals = Some(parsed);
            }
            Packet::TransportFeedback(feedback) => {
                if let Ok(nack) = feedback.parse_fci::<Nack<'_>>() {
                    let sequences = nack.entries().take(MOST_NACKED).collect();
                    return Ok(Feedback::Nack { ssrc: feedback.media_ssrc(), sequences });
                }
            }
            _ => {}
        }
    }
    match report {
        Some(blocks) => Ok(Feedback::Report { blocks, totals }),
        None => Err(FeedbackError::Unexpected),
    }
}

fn block(block: ReportBlock<'_>) -> Block {
    Block {
        ssrc: block.ssrc(),
        fraction_lost: block.fraction_lost(),
        cumulative_lost: block.cumulative_lost(),
        highest_index: block.extended_sequence_number(),
        jitter: block.interarrival_jitter(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reports_round_trip() {
        let blocks = [
            Block { ssrc: 1, fraction_lost: 3, cumulative_lost: 9, highest_index: 77, jitter: 5 },
            Block { ssrc: 2, ..Block::default() },
        ];
        let totals = Totals { received: 1 << 40, lost: 3, unrecovered: 1, ..Totals::default() };
        let bytes = encode_report(9, &blocks, &totals);
        let expected = Feedback::Report { blocks: blocks.to_vec(), totals: Some(totals) };
        assert_eq!(parse(&bytes), Ok(expected));
    }

    proptest! {
        #[test]
        fn nacks_round_trip(ssrc: u32, sequences in proptest::collection::btree_set(any::<u16>(), 1..MOST_NACKED)) {
            let bytes = encode_nack(9, ssrc, sequences.iter().copied());
            prop_assert!(bytes.len() <= 1100, "{}", bytes.len());
            match parse(&bytes) {
                Ok(Feedback::Nack { ssrc: parsed, sequences: list }) => {
                    prop_assert_eq!(parsed, ssrc);
                    prop_assert_eq!(list.into_iter().collect::<BTreeSet<_>>(), sequences);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn altered_reports_parse_or_fail(at in 0usize..100, with: u8, cut in 0usize..100) {
            let mut bytes = encode_report(9, &[Block::default(); 2], &Totals::default());
            let length = bytes.len();
            bytes[at % length] = with;
            let _ = parse(&bytes[..cut % length]);
            let _ = parse(&bytes);
        }
    }
}
