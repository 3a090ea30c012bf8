//! AV1's depayloader hands on what is in each packet, and the parser waits for the next picture to know
//! that one has ended. Here its parts are joined as soon as the last has come.

use std::ops::Range;
use std::sync::Mutex;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::shared::lock;

/// A temporal delimiter, with which a unit begins (AV1, section 5.6). The depayloader forgets it where
/// the first packet holds no whole OBU.
const DELIMITER: [u8; 2] = [0x12, 0];

/// OBUs that go on with a picture that another began (AV1, section 6.2.2): tile groups, redundant frame
/// headers and tile lists.
const CONTINUATIONS: [u8; 3] = [4, 7, 8];

/// Makes `pad`, a depayloader's, give whole temporal units. Units of which something is missing are
/// left out: no decoder makes anything of them.
pub(super) fn join(pad: &gst::Pad) {
    let mask = gst::PadProbeType::BUFFER
        | gst::PadProbeType::BUFFER_LIST
        | gst::PadProbeType::EVENT_DOWNSTREAM;
    let joiner = Mutex::new(Joiner::default());
    pad.add_probe(mask, move |_, info| {
        let mut joiner = lock(&joiner);
        let whole = match &mut info.data {
            Some(gst::PadProbeData::Event(event)) => {
                if let gst::EventView::Caps(caps) = event.view() {
                    *event = gst::event::Caps::new(&of_units(caps.caps()));
                }
                return gst::PadProbeReturn::Ok;
            }
            Some(gst::PadProbeData::Buffer(buffer)) => {
                joiner.take(buffer.clone()).map(gst::PadProbeData::Buffer)
            }
            Some(gst::PadProbeData::BufferList(list)) => {
                let whole: gst::BufferList =
                    list.iter_owned().filter_map(|buffer| joiner.take(buffer)).collect();
                (!whole.is_empty()).then_some(gst::PadProbeData::BufferList(whole))
            }
            _ => return gst::PadProbeReturn::Ok,
        };
        match whole {
            Some(whole) => {
                info.data = Some(whole);
                gst::PadProbeReturn::Ok
            }
            None => gst::PadProbeReturn::Drop,
        }
    });
}

/// Makes `pad`, where packets go into a depayloader, drop those that are shorter than they say of what
/// they hold: the depayloader would take the memory first.
pub(super) fn check(pad: &gst::Pad) {
    pad.add_probe(gst::PadProbeType::BUFFER, |_, info| {
        let is_sound =
            info.buffer().and_then(|buffer| buffer.map_readable().ok()).is_some_and(|packet| {
                payload(&packet).and_then(|range| packet.get(range)).is_some_and(is_sound)
            });
        if is_sound { gst::PadProbeReturn::Ok } else { gst::PadProbeReturn::Drop }
    });
}

/// Where an RTP packet's payload is (RFC 3550, sections 5.1 and 5.3.1).
fn payload(packet: &[u8]) -> Option<Range<usize>> {
    const FIXED: usize = 12;
    let first = *packet.first()?;
    let mut start = FIXED + 4 * usize::from(first & 0xf);
    if first & 0x10 != 0 {
        let words = packet.get(start + 2..start + 4)?;
        start += 4 + 4 * usize::from(u16::from_be_bytes(words.try_into().ok()?));
    }
    let padding = if first & 0x20 != 0 { usize::from(*packet.last()?) } else { 0 };
    Some(start..packet.len().checked_sub(padding)?)
}

/// Whether all elements of a payload are as long as they say (RTP Payload Format For AV1, section 4.4).
fn is_sound(payload: &[u8]) -> bool {
    let Some((&header, mut rest)) = payload.split_first() else { return false };
    // Zero: each element says its length. Otherwise all but the last do.
    let count = header >> 4 & 3;
    let mut index = 0;
    while !rest.is_empty() {
        index += 1;
        if index == count {
            return true;
        }
        let Some((length, taken)) = leb128(rest) else { return false };
        match rest.get(taken..).and_then(|rest| rest.get(length..)) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
    count == 0
}

/// A number in the form of AV1's section 4.10.5, and how many bytes it takes.
fn leb128(bytes: &[u8]) -> Option<(usize, usize)> {
    let length = bytes.iter().take(8).position(|byte| byte & 0x80 == 0)? + 1;
    let value = bytes[..length].iter().rev().try_fold(0_usize, |value, byte| {
        value.checked_mul(1 << 7).map(|value| value | usize::from(byte & 0x7f))
    });
    Some((value?, length))
}

/// The same caps for whole temporal units.
fn of_units(caps: &gst::CapsRef) -> gst::Caps {
    let mut caps = caps.to_owned();
    caps.make_mut().set("alignment", "tu");
    caps
}

#[derive(Debug, Default)]
struct Joiner {
    unit: Option<Unit>,
}

/// The temporal unit that comes in.
#[derive(Debug)]
struct Unit {
    pts: Option<gst::ClockTime>,
    /// What has come of it. None if something is missing.
    parts: Option<gst::Buffer>,
}

impl Joiner {
    /// Takes the next part, and gives the unit whose last it is.
    fn take(&mut self, part: gst::Buffer) -> Option<gst::Buffer> {
        let (pts, flags) = (part.pts(), part.flags());
        let header = part.map_readable().ok().and_then(|data| data.first().copied());
        let is_delimiter = header == Some(DELIMITER[0]);
        let begun = self.unit.take_if(|unit| unit.pts == pts && !is_delimiter);
        let parts = match begun {
            Some(unit) => {
                let unbroken = unit.parts.filter(|_| !flags.contains(gst::BufferFlags::DISCONT));
                unbroken.map(|parts| joined(parts, part))
            }
            None if is_delimiter => Some(part),
            None => {
                let is_continuation =
                    header.is_none_or(|header| CONTINUATIONS.contains(&(header >> 3 & 0xf)));
                (!is_continuation).then(|| with_delimiter(part))
            }
        };
        if flags.contains(gst::BufferFlags::MARKER) {
            self.unit = None;
            return parts;
        }
        self.unit = Some(Unit { pts, parts });
        None
    }
}

fn joined(mut parts: gst::Buffer, part: gst::Buffer) -> gst::Buffer {
    parts.append(part);
    parts
}

fn with_delimiter(part: gst::Buffer) -> gst::Buffer {
    let mut unit = part;
    unit.make_mut().prepend_memory(gst::Memory::from_slice(DELIMITER));
    unit
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn lengths_are_checked() {
        for (payload, expected) in [
            (&[][..], false),
            // One element without a length.
            (&[0x10, 1, 2, 3], true),
            // Two, the first of which has one.
            (&[0x20, 2, 1, 2, 3], true),
            (&[0x20, 5, 1, 2, 3], false),
            (&[0x20, 0xff, 0xff, 0xff, 0xff, 0x0f, 1], false),
            (&[0x20, 3, 1, 2, 3], false),
            // Each has one.
            (&[0x00, 1, 7, 2, 8, 9], true),
            (&[0x00, 1, 7, 3, 8, 9], false),
            (&[0x00, 0xff], false),
        ] {
            assert_eq!(is_sound(payload), expected, "{payload:?}");
        }
        let mut packet = vec![0xb1, 96];
        packet.resize(16, 0);
        // An extension of one word, a payload of two bytes, padding of three.
        packet.extend([0, 0, 0, 1, 1, 2, 3, 4, 0x10, 9, 0, 0, 3]);
        assert_eq!(payload(&packet), Some(24..26));
        assert_eq!(payload(&packet[..17]), None);
    }

    #[test]
    fn parts_become_units_and_units_with_gaps_are_left_out() {
        gst::init().unwrap();
        let (none, last) = (gst::BufferFlags::empty(), gst::BufferFlags::MARKER);
        let lost = gst::BufferFlags::DISCONT;
        const FRAME: u8 = 6 << 3;
        const TILES: u8 = 4 << 3;
        let parts = [
            // A unit's end without its beginning, as on joining.
            (0, &[TILES, 9][..], lost | last),
            (1, &[0x12, 0], none),
            (1, &[FRAME, 1], none),
            (1, &[TILES, 2], last),
            // Its end lacks.
            (2, &[0x12, 0], none),
            (2, &[FRAME, 3], none),
            (3, &[0x12, 0], lost),
            (3, &[FRAME, 4], last),
            // Its middle lacks.
            (4, &[0x12, 0], none),
            (4, &[TILES, 5], lost),
            (4, &[TILES, 6], last),
            // One OBU, without its delimiter.
            (5, &[FRAME, 7], last),
            // The same behind one whose end lacks.
            (6, &[FRAME, 8], none),
            (7, &[FRAME, 9], lost | last),
        ];
        let mut joiner = Joiner::default();
        let whole: Vec<_> = parts
            .into_iter()
            .filter_map(|(second, data, flags)| {
                let mut part = gst::Buffer::from_slice(data.to_vec());
                part.make_mut().set_flags(flags);
                part.make_mut().set_pts(gst::ClockTime::from_seconds(second));
                let unit = joiner.take(part)?;
                assert_eq!(unit.pts(), Some(gst::ClockTime::from_seconds(second)));
                Some(unit.map_readable().unwrap().to_vec())
            })
            .collect();
        let expected: [&[u8]; 4] = [
            &[0x12, 0, FRAME, 1, TILES, 2],
            &[0x12, 0, FRAME, 4],
            &[0x12, 0, FRAME, 7],
            &[0x12, 0, FRAME, 9],
        ];
        assert_eq!(whole, expected);
    }
}
