//! Volleys: what goes to all live viewers at once, laid out so that the kernel has least to do.
//!
//! A message to the kernel costs nearly the same whether it holds one datagram or fifty, and all
//! datagrams of a message but the last must be of one length. So small packets that follow each other,
//! such as sound behind the short last packet of a picture, share one datagram: a **bundle**.
//!
//! A bundle is the sealed packets one behind the other, the lengths of all but the last (two bytes
//! each, big endian), and four bytes that stand where a single packet has its MKI: [`BUNDLE_MARK`], the
//! number of packets, flags, and a zero. The one flag, [`SENT_AGAIN`], says that the packets were sent before,
//! so that the viewer can tell what was lost from what was late; a single packet is a bundle then, too. The
//! viewer's [tag](crate::tag) is over all of it.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::seal::{PacketIndex, SealedBurst, Segments, WIRE_VERSION};
use crate::size::MAX_SOURCE_PACKET;
use crate::tag::Digest;

/// First of the last four bytes of a bundle: the wire version with its highest bit set.
pub const BUNDLE_MARK: u8 = WIRE_VERSION | 0x80;

/// Most packets in one bundle.
pub const MOST_BUNDLED: usize = 16;

/// The flag of packets that were sent before.
pub const SENT_AGAIN: u8 = 1;

const MARK: usize = 4;
const LENGTH: usize = 2;

/// Bytes that bundling adds to so many packets: to a single one only where it is sent again.
const fn overhead(packets: usize, sent_again: bool) -> usize {
    match packets {
        0 => 0,
        1 if !sent_again => 0,
        more => LENGTH * (more - 1) + MARK,
    }
}

/// Packets of one or several bursts in one buffer, as runs of equally long datagrams.
#[derive(Debug, Clone)]
pub struct Volley {
    bytes: Bytes,
    runs: Vec<Run>,
    /// Of each datagram, where somebody needed them.
    digests: OnceLock<Vec<Digest>>,
}

/// One message to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Where it lies in [`Volley::bytes`], and how long its datagrams are.
    pub segments: Segments,
    /// Packets in it: more than datagrams where there are bundles.
    pub packets: usize,
}

/// Some packets of a burst.
#[derive(Debug, Clone)]
pub struct Part {
    /// The burst.
    pub burst: Arc<SealedBurst>,
    /// Which of its packets.
    pub packets: Range<usize>,
}

impl From<&Arc<SealedBurst>> for Part {
    /// All of a burst.
    fn from(burst: &Arc<SealedBurst>) -> Self {
        Self { burst: Arc::clone(burst), packets: 0..burst.len() }
    }
}

impl Part {
    /// Indices of its packets.
    pub fn indices(&self) -> Range<PacketIndex> {
        let index = |at: usize| self.burst.first_index + at as u64;
        index(self.packets.start)..index(self.packets.end)
    }

    /// Bytes of its packets.
    pub fn len(&self) -> usize {
        self.slices().map(<[u8]>::len).sum()
    }

    /// Whether there is no packet in it.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let ranges = self.packets.clone().filter_map(|at| self.burst.packet(at));
        ranges.map(|range| &self.burst.bytes()[range])
    }

    /// Its packets as one piece of memory.
    fn bytes(&self) -> Bytes {
        let range = |at: usize| self.burst.packet(at);
        let last = self.packets.clone().next_back().and_then(range);
        match (range(self.packets.start), last) {
            (Some(first), Some(last)) => self.burst.bytes().slice(first.start..last.end),
            _ => Bytes::new(),
        }
    }
}

impl Volley {
    /// Lays out packets in their order, in runs of at most `most` datagrams. Copies only where there are
    /// several parts, or something is bundled.
    pub fn new(parts: &[Part], most: usize) -> Self {
        let packets: Vec<&[u8]> = parts.iter().flat_map(Part::slices).collect();
        let only = if let [only] = parts { Some(only.bytes()) } else { None };
        Self::lay_out(&packets, only, most)
    }

    /// Lays out packets that are sent again, and need not follow each other.
    pub fn again(packets: &[Bytes], most: usize) -> Self {
        let packets: Vec<&[u8]> = packets.iter().map(|packet| &packet[..]).collect();
        Self::lay_out_as(&packets, None, most, true)
    }

    /// Lays out packets that need not follow each other, as they are.
    pub fn of_packets(packets: &[Bytes], most: usize) -> Self {
        let only = if let [only] = packets { Some(only.clone()) } else { None };
        let packets: Vec<&[u8]> = packets.iter().map(|packet| &packet[..]).collect();
        Self::lay_out(&packets, only, most)
    }

    /// `whole` are the packets where they lie in one piece already.
    fn lay_out(packets: &[&[u8]], whole: Option<Bytes>, most: usize) -> Self {
        Self::lay_out_as(packets, whole, most, false)
    }

    fn lay_out_as(packets: &[&[u8]], whole: Option<Bytes>, most: usize, sent_again: bool) -> Self {
        let groups = group(packets, sent_again);
        let lengths = groups.iter().map(|group| {
            let bytes: usize = packets[group.clone()].iter().map(|packet| packet.len()).sum();
            (bytes + overhead(group.len(), sent_again), group.len())
        });
        let runs = runs(lengths, most);
        let whole = whole.filter(|_| groups.len() == packets.len() && !sent_again);
        let bytes = whole.unwrap_or_else(|| copy(packets, &groups, sent_again));
        Self { bytes, runs, digests: OnceLock::new() }
    }

    /// All datagrams, one behind the other.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The messages, in order.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The digests of some of a run's datagrams, for the tags of whom they go to. Each is computed once.
    pub fn digests(&self, segments: &Segments) -> &[Digest] {
        let all = self.digests.get_or_init(|| {
            let runs = self.runs.iter().map(|Run { segments, .. }| segments);
            let datagrams =
                runs.flat_map(|run| self.bytes[run.range.clone()].chunks(run.segment.max(1)));
            datagrams.map(Digest::of).collect()
        });
        let mut before = 0;
        for Run { segments: run, .. } in &self.runs {
            if run.range.contains(&segments.range.start) {
                let from = before + (segments.range.start - run.range.start) / run.segment;
                return all.get(from..from + segments.count()).unwrap_or_default();
            }
            before += run.count();
        }
        &[]
    }

    /// How many datagrams there are.
    pub fn datagrams(&self) -> usize {
        self.runs.iter().map(|run| run.segments.count()).sum()
    }
}

/// Which packets share a datagram.
fn group(packets: &[&[u8]], sent_again: bool) -> Vec<Range<usize>> {
    let overhead = |packets: usize| overhead(packets, sent_again);
    let most = MAX_SOURCE_PACKET + overhead(1);
    let longest = packets.iter().map(|packet| packet.len()).max().unwrap_or(0);
    let full = packets.iter().filter(|packet| packet.len() == longest).count();
    let all: usize = packets.iter().map(|packet| packet.len()).sum();
    let fits_one = all + overhead(packets.len()) <= most;
    // A datagram longer than those before it would need a message of its own.
    let room = if full > 1 && !fits_one { longest + overhead(1) } else { most };
    let mut groups: Vec<Range<usize>> = Vec::with_capacity(packets.len());
    let mut used = 0;
    for (at, packet) in packets.iter().enumerate() {
        match groups.last_mut() {
            Some(group)
                if group.len() < MOST_BUNDLED
                    && used + packet.len() + overhead(group.len() + 1) <= room =>
            {
                group.end = at + 1;
                used += packet.len();
            }
            _ => {
                groups.push(at..at + 1);
                used = packet.len();
            }
        }
    }
    groups
}

/// Runs of datagrams given by length and number of packets.
fn runs(datagrams: impl Iterator<Item = (usize, usize)>, most: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(2);
    let (mut start, mut open) = (0, 0);
    for (length, packets) in datagrams {
        match runs.last_mut() {
            Some(run) if open > 0 && open < most && length <= run.segments.segment => {
                run.segments.range.end = start + length;
                run.packets += packets;
                // A shorter datagram ends its run.
                open = if length == run.segments.segment { open + 1 } else { 0 };
            }
            _ => {
                let segments = Segments { range: start..start + length, segment: length };
                runs.push(Run { segments, packets });
                open = 1;
            }
        }
        start += length;
    }
    runs
}

fn copy(packets: &[&[u8]], groups: &[Range<usize>], sent_again: bool) -> Bytes {
    let bytes: usize = packets.iter().map(|packet| packet.len()).sum();
    let added: usize = groups.iter().map(|group| overhead(group.len(), sent_again)).sum();
    let mut buffer = Vec::with_capacity(bytes + added);
    for group in groups {
        let packets = &packets[group.clone()];
        packets.iter().for_each(|packet| buffer.extend_from_slice(packet));
        if let [others @ .., _] = packets
            && (sent_again || !others.is_empty())
        {
            for packet in others {
                // No sealed packet is longer than a datagram.
                buffer.extend_from_slice(&(packet.len() as u16).to_be_bytes());
            }
            let flags = if sent_again { SENT_AGAIN } else { 0 };
            buffer.extend_from_slice(&[BUNDLE_MARK, packets.len() as u8, flags, 0]);
        }
    }
    buffer.into()
}

/// The sealed packets of a datagram: one, or those of a bundle. What is no well-formed bundle comes back
/// whole, for the opener to refuse.
pub fn packets(datagram: &mut [u8]) -> Packets<'_> {
    let (trailer, sent_again) = bundle(datagram).unwrap_or((0, false));
    let end = datagram.len() - trailer;
    let (packets, trailer) = datagram.split_at_mut(end);
    Packets { left: Some(packets), lengths: &*trailer, sent_again }
}

/// Bytes behind the packets of a well-formed bundle, and whether they were sent before.
fn bundle(datagram: &[u8]) -> Option<(usize, bool)> {
    let (rest, mark) = datagram.split_last_chunk::<MARK>()?;
    let &[BUNDLE_MARK, count, flags @ (0 | SENT_AGAIN), 0] = mark else { return None };
    let (count, sent_again) = (usize::from(count), flags == SENT_AGAIN);
    let least = if sent_again { 1 } else { 2 };
    if !(least..=MOST_BUNDLED).contains(&count) {
        return None;
    }
    let lengths = rest.len().checked_sub(LENGTH * (count - 1))?;
    let (packets, lengths) = rest.split_at(lengths);
    let sum = lengths.chunks_exact(LENGTH).map(|length| {
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        (length > 0).then_some(length)
    });
    let others: usize = sum.sum::<Option<usize>>()?;
    (others < packets.len()).then_some((overhead(count, sent_again), sent_again))
}

/// Iterator over [`packets`].
#[derive(Debug)]
pub struct Packets<'a> {
    left: Option<&'a mut [u8]>,
    /// Lengths to come, and the mark behind them.
    lengths: &'a [u8],
    sent_again: bool,
}

impl Packets<'_> {
    /// Whether the datagram says that its packets were sent before.
    pub fn are_sent_again(&self) -> bool {
        self.sent_again
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = &'a mut [u8];

    fn next(&mut self) -> Option<&'a mut [u8]> {
        let left = self.left.take()?;
        match self.lengths {
            [high, low, others @ ..] if others.len() >= MARK => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                // Checked when the bundle was looked at as a whole.
                let (packet, left) = left.split_at_mut_checked(length)?;
                self.left = Some(left);
                self.lengths = others;
                Some(packet)
            }
            _ => Some(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::burst::PlainBurst;
    use crate::seal::{Epoch, MasterKey, Sealer};
    use crate::size::{MAX_RTP_PACKET, RTP_HEADER, SEAL_OVERHEAD};

    /// One sealed burst for each list of RTP packet lengths.
    fn seal(bursts: &[Vec<usize>]) -> Vec<Part> {
        let key = MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12]);
        let mut sealer = Sealer::new(&key, &[10]);
        let seal = |lengths: &Vec<usize>| {
            let mut burst = PlainBurst::default();
            for &length in lengths {
                let mut packet = vec![0u8; length];
                packet[0] = 0x80;
                burst.push([&packet[..]]).expect("fits");
            }
            Part::from(&Arc::new(sealer.seal(0, false, Instant::now(), burst).expect("seals")))
        };
        bursts.iter().map(seal).collect()
    }

    fn originals(parts: &[Part]) -> Vec<Vec<u8>> {
        parts.iter().flat_map(Part::slices).map(<[u8]>::to_vec).collect()
    }

    fn shape(volley: &Volley) -> Vec<(usize, usize, usize)> {
        let shape = |run: &Run| (run.segments.segment, run.segments.count(), run.packets);
        volley.runs().iter().map(shape).collect()
    }

    #[test]
    fn sound_rides_behind_the_last_packet_of_a_picture() {
        let full = MAX_RTP_PACKET;
        let alone = Volley::new(&seal(&[vec![full, full, full, 300]]), 56);
        assert_eq!(shape(&alone), [(1150, 4, 4)]);
        let with_sound =
            Volley::new(&seal(&[vec![full, full, full, 300], vec![150], vec![150]]), 56);
        assert_eq!(shape(&with_sound), [(1150, 4, 6)], "one message still");
        let no_room = Volley::new(&seal(&[vec![full, full, 1000], vec![150], vec![150]]), 56);
        assert_eq!(shape(&no_room), [(1150, 3, 3), (346, 1, 2)]);
        let only_sound = Volley::new(&seal(&[vec![150], vec![150]]), 56);
        assert_eq!(shape(&only_sound), [(346, 1, 2)]);
    }

    #[test]
    fn a_burst_that_bundles_nothing_is_not_copied() {
        let bursts = seal(&[vec![MAX_RTP_PACKET, MAX_RTP_PACKET, 1000]]);
        let volley = Volley::new(&bursts, 2);
        assert_eq!(volley.bytes().as_ptr(), bursts[0].burst.bytes().as_ptr());
        assert_eq!(shape(&volley), [(1150, 2, 2), (1020, 1, 1)]);
        let part = Part { packets: 1..3, ..bursts[0].clone() };
        assert_eq!(part.indices(), 1..3);
        let volley = Volley::new(&[part], 56);
        assert_eq!(volley.bytes(), &bursts[0].burst.bytes()[1150..]);
    }

    proptest! {
        #[test]
        fn what_is_bundled_comes_apart(
            lengths in prop::collection::vec(
                prop::collection::vec(RTP_HEADER..=MAX_RTP_PACKET, 0..6), 0..6),
            most in 1..60usize,
        ) {
            let bursts = seal(&lengths);
            let volley = Volley::new(&bursts, most);
            let mut found = Vec::new();
            let mut end = 0;
            for run in volley.runs() {
                prop_assert_eq!(run.segments.range.start, end);
                end = run.segments.range.end;
                prop_assert!(run.segments.count() <= most);
                let before = found.len();
                for datagram in volley.bytes()[run.segments.range.clone()].chunks(run.segments.segment) {
                    prop_assert!(datagram.len() <= MAX_SOURCE_PACKET);
                    let mut datagram = datagram.to_vec();
                    found.extend(packets(&mut datagram).map(|packet| packet.to_vec()));
                }
                prop_assert_eq!(found.len() - before, run.packets);
            }
            prop_assert_eq!(end, volley.bytes().len());
            prop_assert_eq!(found, originals(&bursts));
        }

        #[test]
        fn any_bytes_are_one_packet_or_a_bundle(mut bytes in prop::collection::vec(any::<u8>(), 0..80), mark: bool, count in 0..20u8, flags in 0..3u8) {
            if mark {
                bytes.extend_from_slice(&[BUNDLE_MARK, count, flags, 0]);
            }
            let length = bytes.len();
            let packets = packets(&mut bytes);
            let sent_again = packets.are_sent_again();
            let parts: Vec<usize> = packets.map(|packet| packet.len()).collect();
            prop_assert!(!parts.is_empty() && parts.len() <= MOST_BUNDLED);
            prop_assert_eq!(parts.iter().sum::<usize>() + overhead(parts.len(), sent_again), length);
            prop_assert!(parts.len() == 1 || parts.iter().all(|part| *part > 0));
        }
    }

    #[test]
    fn what_is_sent_again_says_so() {
        let full = MAX_RTP_PACKET;
        let parts = seal(&[vec![full, full, 100], vec![150]]);
        let sealed = originals(&parts);
        let all: Vec<Bytes> = sealed.iter().cloned().map(Bytes::from).collect();
        for packets in [&all[..], &all[..1], &all[2..]] {
            let volley = Volley::again(packets, 56);
            let mut found = Vec::new();
            for run in volley.runs() {
                for datagram in
                    volley.bytes()[run.segments.range.clone()].chunks(run.segments.segment)
                {
                    assert!(datagram.len() <= MAX_SOURCE_PACKET + MARK);
                    let mut datagram = datagram.to_vec();
                    let packets = super::packets(&mut datagram);
                    assert!(packets.are_sent_again());
                    found.extend(packets.map(|packet| packet.to_vec()));
                }
            }
            assert_eq!(found, packets);
        }
        let mut first = sealed[0].clone();
        assert!(!packets(&mut first).are_sent_again());
    }

    #[test]
    fn each_datagram_has_its_digest_whichever_part_is_sent() {
        let full = MAX_RTP_PACKET;
        let sealed = originals(&seal(&[vec![full, full, full, 300], vec![150], vec![full, 200]]));
        let packets: Vec<Bytes> = sealed.into_iter().map(Bytes::from).collect();
        for (packets, most) in [(&packets[..], 56), (&packets[..], 2), (&packets[..1], 56)] {
            let volley = Volley::of_packets(packets, most);
            let mut datagrams = 0;
            for Run { segments, .. } in volley.runs() {
                let Segments { range, segment } = segments.clone();
                let starts: Vec<usize> = range.clone().step_by(segment).collect();
                datagrams += starts.len();
                for from in 0..starts.len() {
                    for to in from + 1..=starts.len() {
                        let end = starts.get(to).copied().unwrap_or(range.end);
                        let part = Segments { range: starts[from]..end, segment };
                        let sent = volley.bytes()[part.range.clone()].chunks(segment);
                        let expected: Vec<Digest> = sent.map(Digest::of).collect();
                        assert_eq!(volley.digests(&part), expected);
                    }
                }
            }
            assert_eq!(volley.datagrams(), datagrams);
            let end = volley.bytes().len();
            let beyond = Segments { range: end..end + 9, segment: 9 };
            assert!(volley.digests(&beyond).is_empty());
        }
    }

    #[test]
    fn a_part_knows_its_bytes() {
        let parts = seal(&[vec![100, 200, 300]]);
        let part = Part { packets: 1..3, ..parts[0].clone() };
        assert_eq!(part.len(), 500 + 2 * SEAL_OVERHEAD);
        let none = Part { packets: 2..2, ..parts[0].clone() };
        assert!(none.is_empty() && !part.is_empty());
        assert_eq!(Volley::new(&[none], 56).datagrams(), 0);
    }

    #[test]
    fn a_single_packet_is_never_taken_for_a_bundle() {
        const { assert!(BUNDLE_MARK != WIRE_VERSION) };
        let bursts = seal(&[vec![100]]);
        let mut packet = bursts[0].burst.bytes().to_vec();
        let parts: Vec<usize> = packets(&mut packet).map(|packet| packet.len()).collect();
        assert_eq!(parts, [100 + SEAL_OVERHEAD]);
    }
}
