//! Reads the UDP datagrams out of a capture file, as tcpdump writes it on Ethernet interfaces.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use super::error::{LabError, Result};

/// A captured UDP datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// When it was captured, since 1970 on the machine's clock.
    pub at: Duration,
    /// Where it came from.
    pub source: SocketAddr,
    /// Where it went.
    pub destination: SocketAddr,
    /// The time to live, or hop limit, that it had left.
    pub ttl: u8,
    /// What it carried.
    pub payload: Vec<u8>,
}

/// First bytes of a file with microseconds, written by a little-endian machine.
const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
/// The same with nanoseconds.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Link type of Ethernet frames.
const LINKTYPE_ETHERNET: u32 = 1;
const FILE_HEADER_LENGTH: usize = 24;
const RECORD_HEADER_LENGTH: usize = 16;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_UDP: u8 = 17;

/// Reads a whole capture file. Frames that are not UDP, and fragments, are passed over, and so is
/// an incomplete record at the end, which a capture that still runs may have.
pub fn read(file: &[u8]) -> Result<Vec<Datagram>> {
    if file.len() < FILE_HEADER_LENGTH {
        // tcpdump has not written its header yet.
        return Ok(Vec::new());
    }
    let fraction_unit = match word(file, 0) {
        Some(MAGIC_MICROSECONDS) => 1000,
        Some(MAGIC_NANOSECONDS) => 1,
        other => {
            return Err(LabError::Capture(format!("expected a pcap magic number, got {other:x?}")));
        }
    };
    match word(file, 20) {
        Some(LINKTYPE_ETHERNET) => {}
        other => {
            return Err(LabError::Capture(format!(
                "expected link type 1, Ethernet, got {other:?}"
            )));
        }
    }
    let mut datagrams = Vec::new();
    let mut rest = &file[FILE_HEADER_LENGTH..];
    while let Some((at, frame, after)) = record(rest, fraction_unit) {
        datagrams.extend(datagram(at, frame));
        rest = after;
    }
    Ok(datagrams)
}

fn record(bytes: &[u8], fraction_unit: u32) -> Option<(Duration, &[u8], &[u8])> {
    let at = Duration::new(word(bytes, 0)?.into(), word(bytes, 4)?.checked_mul(fraction_unit)?);
    let length = usize::try_from(word(bytes, 8)?).ok()?;
    let (frame, after) = bytes.get(RECORD_HEADER_LENGTH..)?.split_at_checked(length)?;
    Some((at, frame, after))
}

fn datagram(at: Duration, frame: &[u8]) -> Option<Datagram> {
    let packet = frame.get(14..)?;
    let (source, destination, ttl, udp): (IpAddr, IpAddr, u8, &[u8]) = match half(frame, 12)? {
        ETHERTYPE_IPV4 => {
            let header_length = usize::from(packet.first()? & 0xf) * 4;
            let fragment = half(packet, 6)? & 0x3fff;
            if *packet.get(9)? != PROTOCOL_UDP || fragment != 0 {
                return None;
            }
            let address = |at: usize| {
                Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?))
            };
            (
                address(12)?.into(),
                address(16)?.into(),
                *packet.get(8)?,
                packet.get(header_length..)?,
            )
        }
        // Extension headers are not followed: nothing in the lab sends any.
        ETHERTYPE_IPV6 if *packet.get(6)? == PROTOCOL_UDP => {
            let address = |at: usize| {
                Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?))
            };
            (address(8)?.into(), address(24)?.into(), *packet.get(7)?, packet.get(40..)?)
        }
        _ => return None,
    };
    // Short frames are padded, so UDP's own length counts.
    let length = usize::from(half(udp, 4)?);
    Some(Datagram {
        at,
        source: SocketAddr::new(source, half(udp, 0)?),
        destination: SocketAddr::new(destination, half(udp, 2)?),
        ttl,
        payload: udp.get(8..length)?.to_vec(),
    })
}

/// A little-endian word of the file's own headers.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A big-endian 16-bit field of a packet.
fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A capture with one Ethernet frame: IPv4, UDP, padded to 60 bytes.
    fn capture() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, 31, 0, 0, 0x40, 0, 62, 17, 0, 0]);
        frame.extend([198, 18, 1, 2, 192, 168, 1, 10]);
        frame.extend([0x0d, 0x96, 0x9c, 0x40, 0, 11, 0, 0, b'a', b'b', b'c']);
        frame.resize(60, 0);
        let mut file = Vec::new();
        for value in
            [MAGIC_MICROSECONDS, 0x0004_0002, 0, 0, 262_144, LINKTYPE_ETHERNET, 7, 5, 60, 60]
        {
            file.extend(value.to_le_bytes());
        }
        file.extend(frame);
        file
    }

    #[test]
    fn reads_a_padded_datagram() {
        let expected = Datagram {
            at: Duration::new(7, 5000),
            source: "198.18.1.2:3478".parse().expect("a literal"),
            destination: "192.168.1.10:40000".parse().expect("a literal"),
            ttl: 62,
            payload: b"abc".to_vec(),
        };
        assert_eq!(read(&capture()).expect("a whole file"), [expected]);
    }

    #[test]
    fn any_cut_of_a_file_is_read_up_to_the_cut() {
        let file = capture();
        for length in 0..file.len() {
            assert_eq!(read(&file[..length]).expect("no wrong header"), [], "cut to {length}");
        }
    }
}
