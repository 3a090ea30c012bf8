//! How far pictures are put out of order, as H.264's and H.265's sequence parameter sets tell.

use super::codec::Codec;

/// The most that either standard allows: a full buffer of decoded pictures.
pub(super) const MOST_REORDERED: usize = 16;

/// Sequence parameter sets are far shorter.
const LONGEST_SET: usize = 4096;

/// ITU-T H.264, table 7-1.
const H264_SLICES: std::ops::RangeInclusive<u8> = 1..=5;
const H264_SPS: u8 = 7;

/// ITU-T H.265, table 7-1: slices come before all other types.
const H265_SLICES: std::ops::RangeInclusive<u8> = 0..=31;
const H265_SPS: u8 = 33;

/// H.264 profiles whose parameter sets tell a chroma format (section 7.3.2.1.1).
const WITH_CHROMA_FORMAT: &[u32] = &[100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

/// How many pictures may be sent before one that is shown earlier than they are. `None` where the
/// access unit, a byte stream, has no parameter set before its first slice.
pub(super) fn declared_depth(codec: Codec, access_unit: &[u8]) -> Option<usize> {
    for unit in NalUnits(access_unit) {
        let depth = match (codec, *unit.first()?) {
            (Codec::H264, header) => match header & 0x1f {
                H264_SPS => h264(&mut Bits::new(unit.get(1..)?)),
                kind if H264_SLICES.contains(&kind) => return None,
                _ => continue,
            },
            (Codec::H265, header) => match header >> 1 & 0x3f {
                H265_SPS => h265(&mut Bits::new(unit.get(2..)?)),
                kind if H265_SLICES.contains(&kind) => return None,
                _ => continue,
            },
            _ => return None,
        };
        return depth.map(|depth| (depth as usize).min(MOST_REORDERED));
    }
    None
}

/// `seq_parameter_set_data()`, ITU-T H.264, section 7.3.2.1.1.
fn h264(bits: &mut Bits) -> Option<u32> {
    let profile = bits.take(8)?;
    bits.skip(16)?;
    bits.golomb()?;
    if WITH_CHROMA_FORMAT.contains(&profile) {
        let chroma_format = bits.golomb()?;
        if chroma_format == 3 {
            bits.skip(1)?;
        }
        bits.golombs(2)?;
        bits.skip(1)?;
        if bits.flag()? {
            let lists = if chroma_format == 3 { 12 } else { 8 };
            (0..lists).try_for_each(|list| scaling_list(bits, if list < 6 { 16 } else { 64 }))?;
        }
    }
    bits.golomb()?;
    let order_type = bits.golomb()?;
    match order_type {
        0 => bits.golombs(1)?,
        1 => {
            bits.skip(1)?;
            bits.golombs(2)?;
            let cycle = bits.golomb()?;
            bits.golombs(cycle)?;
        }
        _ => {}
    }
    let references = bits.golomb()?;
    bits.skip(1)?;
    bits.golombs(2)?;
    if !bits.flag()? {
        bits.skip(1)?;
    }
    bits.skip(1)?;
    if bits.flag()? {
        bits.golombs(4)?;
    }
    // Order type 2 and the baseline profile have output in the order of decoding.
    let unsaid = if order_type == 2 || profile == 66 { 0 } else { references };
    let said = if bits.flag()? { h264_usability(bits) } else { None };
    // Where nothing is said, the pictures that are held back for output are kept as references.
    Some(said.unwrap_or(unsaid))
}

fn scaling_list(bits: &mut Bits, size: u32) -> Option<()> {
    if !bits.flag()? {
        return Some(());
    }
    let (mut last, mut next) = (8_i64, 8_i64);
    for _ in 0..size {
        if next != 0 {
            next = (last + bits.signed_golomb()? + 256).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

/// `max_num_reorder_frames` out of `vui_parameters()`, ITU-T H.264, section E.1.1.
fn h264_usability(bits: &mut Bits) -> Option<u32> {
    const EXTENDED_ASPECT: u32 = 255;
    if bits.flag()? && bits.take(8)? == EXTENDED_ASPECT {
        bits.skip(32)?;
    }
    if bits.flag()? {
        bits.skip(1)?;
    }
    if bits.flag()? {
        bits.skip(4)?;
        if bits.flag()? {
            bits.skip(24)?;
        }
    }
    if bits.flag()? {
        bits.golombs(2)?;
    }
    if bits.flag()? {
        bits.skip(65)?;
    }
    let mut buffered = false;
    for _ in 0..2 {
        if bits.flag()? {
            buffered = true;
            let models = bits.golomb()?;
            bits.skip(8)?;
            for _ in 0..=models {
                bits.golombs(2)?;
                bits.skip(1)?;
            }
            bits.skip(20)?;
        }
    }
    bits.skip(if buffered { 2 } else { 1 })?;
    if !bits.flag()? {
        return None;
    }
    bits.skip(1)?;
    bits.golombs(4)?;
    bits.golomb()
}

/// `sps_max_num_reorder_pics` of the highest sub-layer, ITU-T H.265, section 7.3.2.2.1.
fn h265(bits: &mut Bits) -> Option<u32> {
    bits.skip(4)?;
    let sub_layers = bits.take(3)?;
    bits.skip(1)?;
    // profile_tier_level(), section 7.3.3: 88 bits of profile and 8 of level, then the same for
    // each sub-layer that tells one.
    bits.skip(96)?;
    let mut told = 0;
    for _ in 0..sub_layers {
        told += if bits.flag()? { 88 } else { 0 };
        told += if bits.flag()? { 8 } else { 0 };
    }
    if sub_layers > 0 {
        told += 2 * 8_u32.saturating_sub(sub_layers);
    }
    bits.skip(told)?;
    bits.golomb()?;
    if bits.golomb()? == 3 {
        bits.skip(1)?;
    }
    bits.golombs(2)?;
    if bits.flag()? {
        bits.golombs(4)?;
    }
    bits.golombs(3)?;
    if bits.flag()? {
        bits.golombs(3 * sub_layers)?;
    }
    bits.golomb()?;
    bits.golomb()
}

/// The NAL units of an Annex B byte stream, without start codes.
struct NalUnits<'a>(&'a [u8]);

impl<'a> Iterator for NalUnits<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let begin = self.0.windows(3).position(|three| three == [0, 0, 1])? + 3;
        let rest = &self.0[begin..];
        // Only parameter sets are read to their end, so a slice isn't searched through.
        let near = &rest[..rest.len().min(LONGEST_SET)];
        let end = near.windows(3).position(|three| three == [0, 0, 1]).unwrap_or(near.len());
        self.0 = &rest[end..];
        Some(&near[..end])
    }
}

/// Reads a raw byte sequence payload: bits, without the emulation prevention bytes.
struct Bits {
    bytes: Vec<u8>,
    at: usize,
}

impl Bits {
    fn new(unit: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(unit.len());
        let mut zeros = 0;
        for &byte in unit {
            if zeros >= 2 && byte == 3 {
                zeros = 0;
                continue;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            bytes.push(byte);
        }
        Self { bytes, at: 0 }
    }

    fn flag(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// At most 32 bits.
    fn take(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0, |value, _| Some(value << 1 | u32::from(self.flag()?)))
    }

    fn skip(&mut self, count: u32) -> Option<()> {
        self.at += count as usize;
        (self.at <= self.bytes.len() * 8).then_some(())
    }

    /// `ue(v)`.
    fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
        }
        if zeros > 31 {
            return None;
        }
        Some((1_u32 << zeros) - 1 + self.take(zeros)?)
    }

    /// `se(v)`.
    fn signed_golomb(&mut self) -> Option<i64> {
        let code = i64::from(self.golomb()?);
        Some(if code % 2 == 1 { code / 2 + 1 } else { -(code / 2) })
    }

    /// Passes over so many of either kind.
    fn golombs(&mut self, count: u32) -> Option<()> {
        (0..count).try_for_each(|_| self.golomb().map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_declares_something_sane_or_nothing() {
        let mut random = crate::media::testing::Random(crate::media::testing::seed());
        for _ in 0..20_000 {
            for (codec, header) in [(Codec::H264, [0x67, 100]), (Codec::H265, [0x42, 1])] {
                let mut unit = vec![0, 0, 0, 1, header[0], header[1]];
                // Short codes are ones, so that some of these sets are read to their end.
                let density = 2 + random.below(6);
                unit.extend((0..random.below(80)).map(|_| {
                    (0..8).fold(0_u8, |byte, _| byte << 1 | u8::from(random.below(density) > 0))
                }));
                let depth = declared_depth(codec, &unit);
                assert!(depth.is_none_or(|depth| depth <= MOST_REORDERED), "{unit:x?}");
            }
        }
    }

    #[test]
    fn encoders_declare_what_they_were_told_to_do() {
        for (codec, encoder, expected) in [
            (Codec::H264, "x264enc bframes=3 b-pyramid=true b-adapt=false", 2),
            (Codec::H264, "x264enc tune=zerolatency", 0),
            (Codec::H265, "x265enc option-string=bframes=3:b-pyramid=1:log-level=none", 2),
            (Codec::H265, "x265enc tune=zerolatency option-string=log-level=none", 0),
        ] {
            let unit = crate::media::testing::first_access_unit(codec, encoder);
            assert_eq!(declared_depth(codec, &unit), Some(expected), "{encoder}");
        }
    }
}
