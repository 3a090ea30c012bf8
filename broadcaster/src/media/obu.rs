//! Sees to it that decoding of AV1 can start at every keyframe: each carries its sequence header,
//! which containers may keep beside the stream (AV1 in ISOBMFF, section 2.3; Matroska's `CodecPrivate`).

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;

/// Bytes before the OBUs of a codec configuration record (AV1 in ISOBMFF, section 2.3.3).
const RECORD_HEADER: usize = 4;

/// OBU types (AV1, section 6.2.2).
const SEQUENCE_HEADER: u8 = 1;
const TEMPORAL_DELIMITER: u8 = 2;

/// Makes `pad`, which carries temporal units, give every keyframe a sequence header. One for which
/// none is known is marked as no keyframe.
pub(super) fn complete(pad: &gst::Pad) {
    let mask = gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::BUFFER;
    let known = Mutex::new(None);
    pad.add_probe(mask, move |_, info| {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut info.data {
            Some(gst::PadProbeData::Event(event)) => {
                if let gst::EventView::Caps(caps) = event.view() {
                    *known = of_record(caps.caps()).or(known.take());
                }
            }
            Some(gst::PadProbeData::Buffer(buffer)) => complete_unit(buffer, &mut known),
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
}

/// The sequence header that caps hold.
fn of_record(caps: &gst::CapsRef) -> Option<Vec<u8>> {
    let record = caps.structure(0)?.get::<gst::Buffer>("codec_data").ok()?;
    let record = record.map_readable().ok()?;
    sequence_header(record.get(RECORD_HEADER..)?).map(<[u8]>::to_vec)
}

fn complete_unit(buffer: &mut gst::Buffer, known: &mut Option<Vec<u8>>) {
    let (own, delimiter) = match buffer.map_readable() {
        Ok(unit) => (sequence_header(&unit).map(<[u8]>::to_vec), delimiter_length(&unit)),
        Err(_) => return,
    };
    if own.is_some() {
        *known = own;
        return;
    }
    if buffer.flags().contains(gst::BufferFlags::DELTA_UNIT) {
        return;
    }
    match known.as_ref().and_then(|header| with_header(buffer, delimiter, header)) {
        Some(completed) => *buffer = completed,
        None => buffer.make_mut().set_flags(gst::BufferFlags::DELTA_UNIT),
    }
}

/// The temporal unit with a sequence header behind its delimiter, if it has one.
fn with_header(buffer: &gst::Buffer, delimiter: usize, header: &[u8]) -> Option<gst::Buffer> {
    let part = |range: Range<usize>| buffer.copy_region(gst::BufferCopyFlags::MEMORY, range).ok();
    const COPIED: gst::BufferCopyFlags =
        gst::BufferCopyFlags::FLAGS.union(gst::BufferCopyFlags::TIMESTAMPS);
    let mut completed = gst::Buffer::new();
    let writable = completed.make_mut();
    buffer.copy_into(writable, COPIED, ..).ok()?;
    if delimiter > 0 {
        completed.append(part(0..delimiter)?);
    }
    completed.append(gst::Buffer::from_slice(header.to_vec()));
    completed.append(part(delimiter..buffer.size())?);
    Some(completed)
}

/// The first sequence header of a temporal unit, whole.
fn sequence_header(unit: &[u8]) -> Option<&[u8]> {
    units(unit).find(|(kind, _)| *kind == SEQUENCE_HEADER).and_then(|(_, range)| unit.get(range))
}

/// How long the delimiter at the beginning of a temporal unit is.
fn delimiter_length(unit: &[u8]) -> usize {
    match units(unit).next() {
        Some((TEMPORAL_DELIMITER, range)) => range.end,
        _ => 0,
    }
}

/// The OBUs of a temporal unit, each with its type, up to the first that does not say its size (AV1,
/// section 5.3).
fn units(unit: &[u8]) -> impl Iterator<Item = (u8, Range<usize>)> {
    const HAS_EXTENSION: u8 = 0b100;
    const HAS_SIZE: u8 = 0b10;
    let mut next = 0;
    std::iter::from_fn(move || {
        let start = next;
        let header = *unit.get(start)?;
        if header & HAS_SIZE == 0 {
            return None;
        }
        let size_at = start + if header & HAS_EXTENSION == 0 { 1 } else { 2 };
        let (size, length) = leb128(unit.get(size_at..)?)?;
        next = size_at.checked_add(length)?.checked_add(size)?;
        (next <= unit.len()).then_some((header >> 3 & 0xf, start..next))
    })
}

/// A number in AV1's section 4.10.5, and how many bytes it takes.
fn leb128(bytes: &[u8]) -> Option<(usize, usize)> {
    let length = bytes.iter().take(8).position(|byte| byte & 0x80 == 0)? + 1;
    let value = bytes[..length].iter().rev().try_fold(0_usize, |value, byte| {
        value.checked_mul(1 << 7).map(|value| value | usize::from(byte & 0x7f))
    });
    Some((value?, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELIMITER: [u8; 2] = [0x12, 0];
    const HEADER: [u8; 5] = [0x0a, 3, 7, 8, 9];
    const FRAME: [u8; 4] = [0x32, 2, 1, 2];

    #[test]
    fn keyframes_get_the_header_that_came_last() {
        gst::init().expect("GStreamer starts");
        let mut known = None;
        let mut pass = |parts: &[&[u8]], delta: bool| {
            let mut buffer = gst::Buffer::from_slice(parts.concat());
            let writable = buffer.make_mut();
            writable.set_pts(gst::ClockTime::SECOND);
            if delta {
                writable.set_flags(gst::BufferFlags::DELTA_UNIT);
            }
            complete_unit(&mut buffer, &mut known);
            assert_eq!(buffer.pts(), Some(gst::ClockTime::SECOND));
            let is_keyframe = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
            (buffer.map_readable().expect("memory").to_vec(), is_keyframe)
        };
        let bare = [&DELIMITER[..], &FRAME].concat();
        let whole = [&DELIMITER[..], &HEADER, &FRAME].concat();
        assert_eq!(pass(&[&DELIMITER, &FRAME], false), (bare.clone(), false), "none is known yet");
        assert_eq!(pass(&[&DELIMITER, &HEADER, &FRAME], false), (whole.clone(), true));
        assert_eq!(pass(&[&DELIMITER, &FRAME], true), (bare, false));
        assert_eq!(pass(&[&DELIMITER, &FRAME], false), (whole, true));
        assert_eq!(pass(&[&FRAME], false), ([&HEADER[..], &FRAME].concat(), true));
    }

    #[test]
    fn the_record_of_a_container_counts() {
        gst::init().expect("GStreamer starts");
        let record = gst::Buffer::from_slice([&[0x81, 0, 0x0c, 0][..], &HEADER].concat());
        let caps = gst::Caps::builder("video/x-av1").field("codec_data", record).build();
        assert_eq!(of_record(&caps), Some(HEADER.to_vec()));
        assert_eq!(of_record(&gst::Caps::new_empty_simple("video/x-av1")), None);
    }

    #[test]
    fn broken_units_end_early() {
        for broken in
            [&[][..], &[0x0a], &[0x0a, 9, 1], &[0x08, 1], &[0x0e, 0], &[0x0a; 1], &[0x0a, 0xff]]
        {
            assert_eq!(sequence_header(broken), None, "{broken:?}");
        }
        let huge = [&[0x0a][..], &[0xff; 9]].concat();
        assert_eq!(sequence_header(&huge), None);
        assert_eq!(leb128(&[0xe5, 0x8e, 0x26]), Some((624_485, 3)));
    }
}
