//! What captures say of media.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use protocol::demux::{Class, classify};
use protocol::repair::packet::PAYLOAD_TYPE;
use protocol::rtp::Header;
use protocol::tag::TAG;
use protocol::{srtcp, volley};

use crate::lab::pcap::Datagram;

/// What left so shortly before the last packet that arrived may be on its way still, overtaken by that: longer than
/// any link of the tests scatters and holds packets.
const OVERTAKING: Duration = Duration::from_millis(60);

/// Packets of media that were sent until [`OVERTAKING`] before the last that arrived, and of those, how many got
/// lost at first, by SSRC and sequence number. What a flipped bit spoilt is lost.
pub fn lost_at_first(
    sent: &[Datagram],
    received: &[Datagram],
    (to, to_host): (IpAddr, IpAddr),
) -> (u64, u64) {
    let to_it = sent.iter().filter(|datagram| datagram.destination.ip() == to);
    let sent: Vec<_> = to_it
        .flat_map(|datagram| {
            media(datagram).into_iter().map(|(name, bytes)| (datagram.at, name, bytes))
        })
        .collect();
    let spoilt: HashMap<_, _> = sent.iter().map(|(_, name, bytes)| (*name, bytes)).collect();
    // What comes after its last word finds the viewer gone: its goodbye may get lost, too.
    let left_at = received
        .iter()
        .rfind(|datagram| datagram.destination.ip() != to_host)
        .map(|datagram| datagram.at);
    let received: HashSet<_> = received
        .iter()
        .take_while(|datagram| left_at.is_none_or(|at| datagram.at <= at))
        .flat_map(media)
        .filter(|(name, bytes)| spoilt.get(name).is_some_and(|sent| **sent == *bytes))
        .map(|(name, _)| name)
        .collect();
    let last = sent.iter().rfind(|(_, name, _)| received.contains(name)).map(|(at, ..)| *at);
    let is_settled = |at: Duration| last.is_some_and(|last| at + OVERTAKING <= last);
    let settled = sent.iter().filter(|(at, ..)| is_settled(*at));
    let names: HashSet<_> = settled.map(|(_, name, _)| *name).collect();
    (names.len() as u64, names.difference(&received).count() as u64)
}

/// Media packets that are not sent again.
fn media(datagram: &Datagram) -> Vec<((u32, u16), Vec<u8>)> {
    if classify(&datagram.payload) != Class::Media || srtcp::sender(&datagram.payload).is_some() {
        return Vec::new();
    }
    let mut payload = untagged(&datagram.payload);
    let packets = volley::packets(&mut payload);
    if packets.are_sent_again() {
        return Vec::new();
    }
    let media = packets.filter_map(|packet| {
        let header = Header::parse(packet).ok()?;
        let is_media = header.payload_type != PAYLOAD_TYPE;
        is_media.then(|| ((header.ssrc, header.sequence), packet.to_vec()))
    });
    media.collect()
}

/// Epochs of the media in a datagram, unless that is sent again: what is new.
pub fn new_epochs(datagram: &Datagram) -> Vec<u32> {
    let mki = |packet: &[u8]| packet.last_chunk().copied().map(u32::from_be_bytes);
    media(datagram).iter().filter_map(|(_, packet)| mki(packet)).collect()
}

/// Packets of media that were sent to an address, each counted once, by SSRC and sequence number.
pub fn sent_to(sent: &[Datagram], to: IpAddr) -> u64 {
    let to_it = sent.iter().filter(|datagram| datagram.destination.ip() == to);
    let names: HashSet<_> = to_it.flat_map(media).map(|(name, _)| name).collect();
    names.len() as u64
}

/// All packets of media and repair in a datagram, those that are sent again included.
pub fn count(datagram: &Datagram) -> usize {
    let payload = &datagram.payload;
    if classify(payload) != Class::Media || srtcp::sender(payload).is_some() {
        return 0;
    }
    volley::packets(&mut untagged(payload)).count()
}

/// How many packets were sealed; each counts once, however often it was sent, and to whomever.
///
/// # Panics
///
/// Where two that differ have one nonce under one key: they agree in MKI, SSRC and sequence number. For captures of
/// fewer packets than there are sequence numbers.
pub fn sealed(datagrams: &[Datagram]) -> usize {
    let mut seen: HashMap<(u32, u32, u16), Vec<u8>> = HashMap::new();
    let is_media =
        |payload: &&[u8]| classify(payload) == Class::Media && srtcp::sender(payload).is_none();
    let payloads = datagrams.iter().map(|datagram| &datagram.payload[..]).filter(is_media);
    for payload in payloads {
        for packet in volley::packets(&mut untagged(payload)) {
            let Ok(Header { ssrc, sequence, .. }) = Header::parse(packet) else { continue };
            let mki = packet.last_chunk().copied().map_or(0, u32::from_be_bytes);
            let first = seen.entry((mki, ssrc, sequence)).or_insert_with(|| packet.to_vec());
            assert_eq!(first, packet, "one nonce for two: {mki:08x}, {ssrc:08x}, {sequence}");
        }
    }
    seen.len()
}

/// What is before the viewer's tag in a datagram of media.
pub fn untagged(payload: &[u8]) -> Vec<u8> {
    payload[..payload.len().saturating_sub(TAG)].to_vec()
}

/// The epochs of the keys that a datagram's packets are sealed with.
pub fn epochs(datagram: &Datagram) -> Vec<u32> {
    let packets = media(datagram).into_iter();
    let mki = |packet: Vec<u8>| packet.last_chunk().copied().map(u32::from_be_bytes);
    packets.filter_map(|(_, packet)| mki(packet)).collect()
}
