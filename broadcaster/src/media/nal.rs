//! Leaves out what H.264 and H.265 access units carry that RTP has no use for: access unit
//! delimiters, which would be a tiny packet before each picture (and, behind parameter sets, a
//! false end of it), and parameter sets that are there twice. Marks pictures that no other refers to.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::plan::Codec;

/// Where in a decoder configuration record (ISO/IEC 14496-15) the size of NAL unit lengths is.
fn length_size(codec: Codec, configuration: &[u8]) -> Option<usize> {
    let at = if codec == Codec::H265 { 21 } else { 4 };
    configuration.get(at).map(|byte| usize::from(byte & 3) + 1)
}

/// What a NAL unit is to be treated as.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    Delimiter,
    ParameterSet,
    Other,
}

fn role(codec: Codec, header: u8) -> Role {
    // Table 7-1 of each standard.
    let (kind, delimiter, parameter_sets) = match codec {
        Codec::H265 => (header >> 1 & 0x3f, 35, 32..=34),
        _ => (header & 0x1f, 9, 7..=8),
    };
    match kind {
        kind if kind == delimiter => Role::Delimiter,
        kind if parameter_sets.contains(&kind) => Role::ParameterSet,
        _ => Role::Other,
    }
}

/// Whether a NAL unit is a slice of a picture, and if so, whether no other picture refers to that.
fn is_disposable_slice(codec: Codec, header: u8) -> Option<bool> {
    match codec {
        // Sub-layer non-reference pictures (table 7-1); their layer is the highest in all usual streams.
        Codec::H265 => {
            let kind = header >> 1 & 0x3f;
            (kind < 32).then_some(kind < 16 && kind.is_multiple_of(2))
        }
        _ => (1..=5).contains(&(header & 0x1f)).then_some(header >> 5 & 3 == 0),
    }
}

/// The NAL units of a length-prefixed access unit.
fn units(length_size: usize, unit: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let start = next + length_size;
        let prefix = unit.get(next..start)?;
        let length = prefix.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
        next = start.saturating_add(length).min(unit.len());
        Some(start..next)
    })
}

/// Whether no other picture refers to any slice of an access unit.
fn is_disposable(codec: Codec, length_size: usize, unit: &[u8]) -> bool {
    let headers = units(length_size, unit).filter_map(|nal| unit[nal].first());
    let slices: Vec<_> = headers.filter_map(|&header| is_disposable_slice(codec, header)).collect();
    !slices.is_empty() && slices.iter().all(|disposable| *disposable)
}

/// The parts of a length-prefixed access unit that remain. Neighbours are one part.
fn kept(codec: Codec, length_size: usize, unit: &[u8]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut parameter_sets: Vec<&[u8]> = Vec::new();
    for Range { start: content, end } in units(length_size, unit) {
        let (start, nal) = (content - length_size, &unit[content..end]);
        let keep = match nal.first().map(|&header| role(codec, header)) {
            None | Some(Role::Delimiter) => false,
            Some(Role::ParameterSet) => {
                let is_new = !parameter_sets.contains(&nal);
                parameter_sets.push(nal);
                is_new
            }
            Some(Role::Other) => true,
        };
        match parts.last_mut() {
            Some(last) if keep && last.end == start => last.end = end,
            _ if keep => parts.push(start..end),
            _ => {}
        }
    }
    parts
}

/// Makes `pad`, which carries length-prefixed access units, leave out what is of no use.
pub(super) fn tidy(codec: Codec, pad: &gst::Pad) {
    let mask = gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::BUFFER;
    let prefix = Mutex::new(None);
    pad.add_probe(mask, move |_, info| {
        let mut prefix = prefix.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut info.data {
            Some(gst::PadProbeData::Event(event)) => {
                if let gst::EventView::Caps(caps) = event.view() {
                    let record = caps
                        .caps()
                        .structure(0)
                        .and_then(|structure| structure.get::<gst::Buffer>("codec_data").ok());
                    *prefix =
                        record.and_then(|record| length_size(codec, &record.map_readable().ok()?));
                }
            }
            Some(gst::PadProbeData::Buffer(buffer)) => {
                if let Some(tidied) = prefix.and_then(|prefix| tidied(codec, prefix, buffer)) {
                    *buffer = tidied;
                }
                let is_disposable = prefix.is_some_and(|prefix| {
                    buffer.map_readable().is_ok_and(|unit| is_disposable(codec, prefix, &unit))
                });
                if is_disposable {
                    buffer.make_mut().set_flags(gst::BufferFlags::DROPPABLE);
                }
            }
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
}

/// The access unit without what is of no use, if there is anything of that kind.
fn tidied(codec: Codec, length_size: usize, buffer: &gst::Buffer) -> Option<gst::Buffer> {
    let parts = kept(codec, length_size, &buffer.map_readable().ok()?);
    if parts.is_empty() || parts.first() == Some(&(0..buffer.size())) {
        return None;
    }
    let mut parts = parts.into_iter();
    // Memory is shared, not copied.
    let with_flags = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::MEMORY;
    let mut tidied = buffer.copy_region(with_flags, parts.next()?).ok()?;
    for part in parts {
        tidied.append(buffer.copy_region(gst::BufferCopyFlags::MEMORY, part).ok()?);
    }
    // A copy that does not begin at the beginning has no timestamps of its own.
    let writable = tidied.make_mut();
    writable.set_pts(buffer.pts());
    writable.set_dts(buffer.dts());
    writable.set_duration(buffer.duration());
    Some(tidied)
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one part is one range")]
mod tests {
    use super::*;

    /// An access unit of NAL units given by their first byte and length, behind 4-byte lengths.
    fn unit(nals: &[(u8, usize)]) -> Vec<u8> {
        let mut unit = Vec::new();
        for &(header, length) in nals {
            unit.extend((length as u32).to_be_bytes());
            unit.push(header);
            unit.extend(std::iter::repeat_n(0, length - 1));
        }
        unit
    }

    #[test]
    fn delimiters_and_second_parameter_sets_go() {
        let (aud, sps, pps, sei, idr, slice) =
            ((9, 2), (0x67, 31), (0x68, 6), (6, 10), (0x65, 100), (0x41, 50));
        for (given, expected) in [
            (vec![slice], vec![0..54]),
            (vec![aud, slice], vec![6..60]),
            (vec![sps, pps, aud, sps, pps, sei, idr], vec![0..45, 96..214]),
            (vec![aud], vec![]),
        ] {
            assert_eq!(kept(Codec::H264, 4, &unit(&given)), expected, "{given:?}");
        }
        let (aud, vps, irap) = ((35 << 1, 3), (32 << 1, 20), (19 << 1, 100));
        assert_eq!(kept(Codec::H265, 4, &unit(&[aud, vps, irap])), [7..135]);
    }

    #[test]
    fn pictures_that_no_other_refers_to_are_known() {
        let (sei, idr, slice, disposable) = ((6, 10), (0x65, 100), (0x41, 50), (0x01, 50));
        for (given, expected) in [
            (vec![idr], false),
            (vec![slice], false),
            (vec![sei, disposable, disposable], true),
            (vec![disposable, slice], false),
            (vec![sei], false),
        ] {
            assert_eq!(is_disposable(Codec::H264, 4, &unit(&given)), expected, "{given:?}");
        }
        let (trail_n, trail_r, rasl_n, idr) = (0 << 1, 1 << 1, 8 << 1, 19 << 1);
        for (header, expected) in [(trail_n, true), (trail_r, false), (rasl_n, true), (idr, false)]
        {
            assert_eq!(is_disposable(Codec::H265, 4, &unit(&[(header, 9)])), expected);
        }
    }

    #[test]
    fn broken_lengths_are_survived() {
        assert_eq!(kept(Codec::H264, 4, &[0xff; 10]), [0..10]);
        assert_eq!(kept(Codec::H264, 4, &[0; 9]), [0..0; 0]);
        assert_eq!(kept(Codec::H264, 4, &[0, 0]), [0..0; 0]);
    }
}
