//! The stream that all contenders send: video of 4 Mbit/s as the sealer leaves it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::Result;
use protocol::burst::PlainBurst;
use protocol::rtp;
use protocol::seal::{Epoch, MasterKey, SealedBurst, Sealer};
use protocol::size::{MAX_SOURCE_PACKET, RTP_HEADER, SEAL_OVERHEAD};

/// Between two access units: 30 a second.
pub(crate) const UNIT_INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / 30);

/// Datagram payload of one access unit: 4 Mbit/s at 30 a second, sealing included.
pub(crate) const UNIT_BYTES: usize = 4_000_000 / 8 / 30;

/// Packets of one access unit: 14 full ones and a shorter one.
pub(crate) const UNIT_PACKETS: usize = UNIT_BYTES.div_ceil(MAX_SOURCE_PACKET);

/// Packets to each viewer in a second of real time.
pub(crate) const PACKETS_PER_SECOND: f64 = 30.0 * UNIT_PACKETS as f64;

/// Access units from one keyframe to the next: 2 s.
const GOP_UNITS: usize = 60;

/// SSRC of the only track.
pub(crate) const SSRC: u32 = 0x7075_6e63;

/// Ticks of the RTP clock between access units: 90 kHz, as for all video.
const UNIT_TICKS: u32 = 90_000 / 30;

/// Whether a viewer could start at an access unit.
pub(crate) fn is_keyframe(unit: usize) -> bool {
    unit.is_multiple_of(GOP_UNITS)
}

/// The packets of access unit number `unit`, as a payloader makes them.
pub(crate) fn plain(unit: usize) -> Result<PlainBurst> {
    let mut burst = PlainBurst::with_capacity(UNIT_PACKETS);
    let mut left = UNIT_BYTES;
    while left > 0 {
        let sealed_length = left.min(MAX_SOURCE_PACKET);
        left -= sealed_length;
        let mut packet: Vec<u8> =
            (0..sealed_length - SEAL_OVERHEAD).map(|at| (at ^ unit) as u8).collect();
        packet[..RTP_HEADER].fill(0);
        packet[0] = 0x80;
        packet[1] = if left == 0 { 0x80 | 96 } else { 96 };
        rtp::set_timestamp(&mut packet, (unit as u32).wrapping_mul(UNIT_TICKS));
        burst.push([&packet[..]])?;
    }
    Ok(burst)
}

/// A key for the channel. The bytes do not matter here; nothing is kept secret.
pub(crate) fn key() -> MasterKey {
    MasterKey::from_parts(Epoch::FIRST, [1; 16], [2; 12])
}

/// The first `units` access units, sealed.
pub(crate) fn sealed(units: usize) -> Result<Vec<SealedBurst>> {
    let mut sealer = Sealer::new(&key(), &[SSRC]);
    let seal = |unit| Ok(sealer.seal(0, is_keyframe(unit), Instant::now(), plain(unit)?)?);
    (0..units).map(seal).collect()
}

/// Where the viewers are: each has an address of its own, as viewers at home have.
pub(crate) fn viewers(count: usize) -> impl Iterator<Item = SocketAddrV4> {
    // 198.18.0.0/15 holds 131,072 addresses, which no bench comes near.
    let first = u32::from(Ipv4Addr::new(198, 18, 1, 1));
    (0..count).map(move |at| {
        let port = 40_000 + (at % 20_000) as u16;
        SocketAddrV4::new(Ipv4Addr::from(first + at as u32), port)
    })
}
