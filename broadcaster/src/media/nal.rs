//! Leaves out what H.264 and H.265 access units carry that RTP has no use for: access unit
//! delimiters, which would be a tiny packet before each picture (and, behind parameter sets, a
//! false end of it), and parameter sets that are there twice.

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

/// The parts of a length-prefixed access unit that remain. Neighbours are one part.
fn kept(codec: Codec, length_size: usize, unit: &[u8]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut parameter_sets: Vec<&[u8]> = Vec::new();
    let mut start = 0;
    while let Some(prefix) = unit.get(start..start + length_size) {
        let length = prefix.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
        let end = (start + length_size).saturating_add(length).min(unit.len());
        let nal = &unit[start + length_size..end];
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
        start = end;
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
    fn broken_lengths_are_survived() {
        assert_eq!(kept(Codec::H264, 4, &[0xff; 10]), [0..10]);
        assert_eq!(kept(Codec::H264, 4, &[0; 9]), [0..0; 0]);
        assert_eq!(kept(Codec::H264, 4, &[0, 0]), [0..0; 0]);
    }
}
