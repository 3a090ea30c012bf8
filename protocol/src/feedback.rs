//! What a viewer tells the broadcaster about what it receives: RTCP, sealed
//! as SRTCP ([`crate::srtcp`]).
//!
//! A report is a receiver report (RFC 3550, section 6.4.2) with one block for each track, and an APP
//! packet (section 6.7) named `PNCH` that holds the viewer's running totals, its round-trip time and its
//! latency as CBOR. A [`Wish`], for what is missing, is an APP packet named `PNWI`, as a generic NACK (RFC 4585) can
//! name packets only: not how many a block lacks, nor which request came twice. It travels alone (RFC
//! 5506), so that nothing delays it.

use std::time::Duration;

use minicbor::{Decode, Encode};
use rtcp_types::{
    App, AppBuilder, Compound, Packet, ReceiverReport, ReportBlock, RtcpPacketWriterExt,
};

use crate::seal::PacketIndex;
use crate::units::Bitrate;

/// Names of the APP packets.
const REPORT_NAME: &str = "PNCH";
const WISH_NAME: &str = "PNWI";

/// Most packets asked for by name in one [`Wish`], so that it fits any datagram.
pub const MOST_NAMED: usize = 128;

/// Most requests in one [`Wish`].
pub const MOST_ASKS: usize = 16;

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
    /// Bytes of all that arrived, repair and headers included.
    #[n(8)]
    pub bytes: u64,
}

impl Totals {
    /// These totals after a later report, of which nothing goes down: reports overtake each other. A viewer can
    /// have had, or missed, no more than `published` packets, and got none of them more than twice, or so.
    #[must_use]
    pub fn grown_to(&self, later: &Self, published: u64) -> Self {
        let grown = |now: u64, later: u64, most: u64| now.max(later.min(most));
        let twice = published.saturating_mul(2);
        Self {
            received: grown(self.received, later.received, published),
            lost: grown(self.lost, later.lost, published),
            recovered_nack: grown(self.recovered_nack, later.recovered_nack, published),
            recovered_fec: grown(self.recovered_fec, later.recovered_fec, published),
            unrecovered: grown(self.unrecovered, later.unrecovered, published),
            duplicates: grown(self.duplicates, later.duplicates, twice),
            late: grown(self.late, later.late, published),
            corrupt: grown(self.corrupt, later.corrupt, twice),
            bytes: self.bytes.max(later.bytes),
        }
    }
}

/// What a viewer asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Wish {
    /// Share of packets that it loses, as of late, in 1/256.
    #[n(0)]
    pub loss: u8,
    /// Whether repair packets are of use to it.
    #[n(1)]
    pub takes_repair: bool,
    /// Its requests.
    #[n(2)]
    pub asks: Vec<Ask>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Ask {
    /// A number that only a repetition of the same request has, too.
    #[n(0)]
    pub serial: u32,
    /// Of which track.
    #[n(1)]
    pub ssrc: u32,
    /// How many further requests fit before the deadline, if this one fails.
    #[n(2)]
    pub rounds_left: u8,
    /// What is wanted.
    #[n(3)]
    pub what: What,
}

/// What one request wants.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum What {
    /// These packets.
    #[n(0)]
    Packets {
        /// Index of the first.
        #[n(0)]
        first: PacketIndex,
        /// How far behind it the others are.
        #[n(1)]
        others: Vec<u16>,
    },
    /// So many packets of a block, whichever.
    #[n(1)]
    Block {
        /// Index of its first packet.
        #[n(0)]
        base: PacketIndex,
        /// How many more.
        #[n(1)]
        lacks: u8,
    },
    /// Whatever was sent behind a packet, and should have arrived.
    #[n(2)]
    Behind {
        /// Its index.
        #[n(0)]
        index: PacketIndex,
        /// The last packet that came when it was sent, not sooner than so many microseconds …
        #[n(1)]
        newest: PacketIndex,
        /// … ago.
        #[n(2)]
        silence_us: u32,
    },
}

/// What the APP packet of a report holds.
#[derive(Debug, Encode, Decode)]
struct Extension {
    #[n(0)]
    totals: Totals,
    #[n(1)]
    rtt_us: Option<u32>,
    #[n(2)]
    latency_us: Option<u32>,
    #[n(3)]
    shown_us: Option<u32>,
    #[n(4)]
    carried_bps: Option<u64>,
}

/// What a viewer says of times, as far as it knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// Its round-trip time.
    pub rtt: Option<Duration>,
    /// How long a missing packet is of use to it.
    pub latency: Option<Duration>,
    /// From capture to output, as it estimates that.
    pub shown: Option<Duration>,
    /// How fast its path brought what was sent at once, of late.
    pub carried: Option<Bitrate>,
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
        /// Times.
        times: Times,
    },
    /// Packets to send.
    Wish(Wish),
}

/// Bytes that are no feedback.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FeedbackError {
    /// Not RTCP.
    #[error("not RTCP: {0}")]
    Rtcp(#[from] rtcp_types::RtcpParseError),
    /// An APP packet of ours is not the CBOR that was expected.
    #[error("malformed totals or request")]
    Malformed,
    /// RTCP of kinds that mean nothing here.
    #[error("neither a receiver report nor a request")]
    Unexpected,
}

/// A report as bytes. Blocks beyond [`MOST_BLOCKS`] are left out.
pub fn encode_report(viewer: u32, blocks: &[Block], totals: &Totals, times: Times) -> Vec<u8> {
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
    let micros = |time: Option<Duration>| {
        time.map(|time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX))
    };
    let extension = Extension {
        totals: *totals,
        rtt_us: micros(times.rtt),
        latency_us: micros(times.latency),
        shown_us: micros(times.shown),
        carried_bps: times.carried.map(Bitrate::as_bits_per_second),
    };
    let cbor = to_cbor(&extension);
    let app: AppBuilder = App::builder(viewer, REPORT_NAME).data(&cbor);
    write(&Compound::builder().add_packet(report).add_packet(app))
}

/// A wish as bytes. Requests beyond [`MOST_ASKS`], and packets beyond [`MOST_NAMED`], are left out.
pub fn encode_wish(viewer: u32, wish: &Wish) -> Vec<u8> {
    let mut wish = wish.clone();
    wish.trim();
    let cbor = to_cbor(&wish);
    write(&App::builder(viewer, WISH_NAME).data(&cbor))
}

impl Wish {
    /// Leaves out what exceeds the bounds.
    fn trim(&mut self) {
        self.asks.truncate(MOST_ASKS);
        let mut room = MOST_NAMED;
        for ask in &mut self.asks {
            if let What::Packets { others, .. } = &mut ask.what {
                others.truncate(room.saturating_sub(1));
                room = room.saturating_sub(1 + others.len());
            }
        }
    }
}

fn to_cbor(value: &impl Encode<()>) -> Vec<u8> {
    let mut cbor = minicbor::to_vec(value).expect("writing into a vector cannot fail");
    // APP data comes in whole words; what follows a CBOR item is not read.
    cbor.resize(cbor.len().next_multiple_of(4), 0);
    cbor
}

fn write(packet: &impl RtcpPacketWriterExt) -> Vec<u8> {
    let mut bytes = vec![0; 2048];
    let length = packet.write_into(&mut bytes).expect("bounded parts fit two kilobytes");
    bytes.truncate(length);
    bytes
}

/// What an APP packet carries. Ours are never padded, and the parser believes what padding says of its length.
fn data<'a>(app: &'a App<'_>) -> Result<&'a [u8], FeedbackError> {
    if app.padding().is_some() {
        return Err(FeedbackError::Malformed);
    }
    Ok(app.data())
}

/// Reads a feedback datagram. Unknown RTCP packets in it are skipped.
pub fn parse(bytes: &[u8]) -> Result<Feedback, FeedbackError> {
    let mut report = None;
    let mut extension = None;
    for packet in Compound::parse(bytes)? {
        match packet? {
            Packet::Rr(rr) => report = Some(rr.report_blocks().map(block).collect()),
            Packet::App(app) if app.name() == *REPORT_NAME.as_bytes() => {
                extension = Some(from_cbor::<Extension>(data(&app)?)?);
            }
            Packet::App(app) if app.name() == *WISH_NAME.as_bytes() => {
                let mut wish: Wish = from_cbor(data(&app)?)?;
                wish.trim();
                return Ok(Feedback::Wish(wish));
            }
            _ => {}
        }
    }
    let time = |get: fn(&Extension) -> Option<u32>| {
        let us = extension.as_ref().and_then(get);
        us.map(|us| Duration::from_micros(us.into()))
    };
    let times = Times {
        rtt: time(|extension| extension.rtt_us),
        latency: time(|extension| extension.latency_us),
        shown: time(|extension| extension.shown_us),
        carried: extension
            .as_ref()
            .and_then(|extension| extension.carried_bps)
            .map(Bitrate::bits_per_second),
    };
    match report {
        Some(blocks) => Ok(Feedback::Report {
            blocks,
            totals: extension.map(|extension| extension.totals),
            times,
        }),
        None => Err(FeedbackError::Unexpected),
    }
}

fn from_cbor<'a, T: Decode<'a, ()>>(bytes: &'a [u8]) -> Result<T, FeedbackError> {
    minicbor::decode(bytes).map_err(|_| FeedbackError::Malformed)
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
    use proptest::prelude::*;

    use super::*;

    const LONGEST_WISH: usize = 1012;

    #[test]
    fn reports_round_trip() {
        let blocks = [
            Block { ssrc: 1, fraction_lost: 3, cumulative_lost: 9, highest_index: 77, jitter: 5 },
            Block { ssrc: 2, ..Block::default() },
        ];
        let totals = Totals { received: 1 << 40, lost: 3, unrecovered: 1, ..Totals::default() };
        for rtt in [None, Some(Duration::from_micros(40_001))] {
            let (latency, shown) = (rtt.map(|rtt| rtt * 4), rtt.map(|rtt| rtt * 5));
            let times =
                Times { rtt, latency, shown, carried: shown.map(|_| Bitrate::bits_per_second(9)) };
            let bytes = encode_report(9, &blocks, &totals, times);
            let (blocks, totals) = (blocks.to_vec(), Some(totals));
            let expected = Feedback::Report { blocks, totals, times };
            assert_eq!(parse(&bytes), Ok(expected));
        }
    }

    #[test]
    fn totals_only_grow_and_only_so_far() {
        let before = Totals { received: 100, lost: 5, bytes: 9, ..Totals::default() };
        let overtaken = Totals { received: 90, lost: 4, bytes: 8, ..Totals::default() };
        assert_eq!(before.grown_to(&overtaken, 1_000), before);
        let absurd = Totals { lost: u64::MAX, duplicates: u64::MAX, ..before };
        let grown = before.grown_to(&absurd, 1_000);
        assert_eq!((grown.received, grown.lost, grown.duplicates), (100, 1_000, 2_000));
    }

    #[test]
    fn padding_says_nothing_that_is_believed() {
        let wish = encode_wish(9, &Wish { loss: 0, takes_repair: false, asks: Vec::new() });
        for padding in [0, 4, 200, 255] {
            let mut padded = wish.clone();
            padded[0] |= 0x20;
            if let Some(last) = padded.last_mut() {
                *last = padding;
            }
            assert!(parse(&padded).is_err(), "{padding}");
        }
    }

    #[test]
    fn the_longest_wish_fits_a_datagram() {
        let index = (1 << 48) - 1;
        let ask = |what| Ask { serial: u32::MAX, ssrc: u32::MAX, rounds_left: u8::MAX, what };
        let others = vec![u16::MAX; MOST_NAMED];
        let named = ask(What::Packets { first: index, others });
        let behind = ask(What::Behind { index, newest: index, silence_us: u32::MAX });
        let asks = std::iter::once(named).chain(std::iter::repeat_n(behind, MOST_ASKS)).collect();
        let bytes = encode_wish(9, &Wish { loss: u8::MAX, takes_repair: true, asks });
        assert_eq!(bytes.len(), LONGEST_WISH);
    }

    fn ask() -> impl Strategy<Value = Ask> {
        let index = 0..1u64 << 48;
        let others = proptest::collection::vec(any::<u16>(), 0..200);
        let what = prop_oneof![
            (index.clone(), others).prop_map(|(first, others)| What::Packets { first, others }),
            (index.clone(), any::<u8>()).prop_map(|(base, lacks)| What::Block { base, lacks }),
            (index.clone(), index, any::<u32>()).prop_map(|(index, newest, silence_us)| {
                What::Behind { index, newest, silence_us }
            }),
        ];
        (any::<u32>(), any::<u32>(), any::<u8>(), what)
            .prop_map(|(serial, ssrc, rounds_left, what)| Ask { serial, ssrc, rounds_left, what })
    }

    proptest! {
        #[test]
        fn wishes_round_trip(
            loss: u8, takes_repair: bool, asks in proptest::collection::vec(ask(), 0..40),
        ) {
            let mut wish = Wish { loss, takes_repair, asks };
            let bytes = encode_wish(9, &wish);
            prop_assert!(bytes.len() <= LONGEST_WISH, "{}", bytes.len());
            wish.trim();
            prop_assert_eq!(parse(&bytes), Ok(Feedback::Wish(wish)));
        }

        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn altered_reports_parse_or_fail(at in 0usize..100, with: u8, cut in 0usize..100) {
            let mut bytes = encode_report(9, &[Block::default(); 2], &Totals::default(), Times::default());
            let length = bytes.len();
            bytes[at % length] = with;
            let _ = parse(&bytes[..cut % length]);
            let _ = parse(&bytes);
        }
    }
}
