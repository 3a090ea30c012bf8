//! Access units of a track as they are stored, whatever the container.

use std::path::Path;
use std::process::Command;

use protocol::library::Digest;

use super::run;

/// Digests of the access units of a track, in decoding order; `stream` is `v:0` or `a:0`.
///
/// Only what is decoded into pictures and sound counts. Parameter sets, delimiters and supplemental information
/// are left out, and so is how a container frames what remains: the same access units have the same digests in
/// MP4, Matroska and MPEG-TS. An access unit of which nothing remains is left out.
///
/// # Panics
///
/// Where the file has no such track, or it is not framed as its codec says.
pub fn access_units(file: &Path, stream: &str) -> Vec<Digest> {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-select_streams", stream, "-show_data", "-show_packets"]);
    ffprobe.args(["-show_entries", "stream=codec_name,extradata:packet=data"]).arg(file);
    let output = run(&mut ffprobe).unwrap_or_else(|problem| panic!("{problem}"));
    let track = Track::read(&output.text())
        .unwrap_or_else(|| panic!("{}: no track {stream}", file.display()));
    let pieces = |unit: &Vec<u8>| {
        track.pieces(unit).unwrap_or_else(|| panic!("{}: broken access unit", file.display()))
    };
    track.units.iter().map(pieces).filter(|pieces| !pieces.is_empty()).map(digest).collect()
}

fn digest(pieces: Vec<Vec<u8>>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for piece in pieces {
        hasher.update(&(piece.len() as u64).to_le_bytes());
        hasher.update(&piece);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// A track, as ffprobe prints it.
#[derive(Debug, Default)]
struct Track {
    codec: String,
    /// The codec's configuration, as the container has it.
    setup: Vec<u8>,
    units: Vec<Vec<u8>>,
}

impl Track {
    /// Reads ffprobe's sections: `[PACKET]`, `data=`, lines of hexadecimal digits, an empty line, `[/PACKET]`.
    fn read(text: &str) -> Option<Self> {
        let mut track = Self::default();
        let mut is_known = false;
        let mut is_packet = false;
        for line in text.lines() {
            match line {
                "[PACKET]" => {
                    is_packet = true;
                    track.units.push(Vec::new());
                }
                "[STREAM]" => {
                    is_packet = false;
                    is_known = true;
                }
                _ => {
                    if let Some(codec) = line.strip_prefix("codec_name=") {
                        codec.clone_into(&mut track.codec);
                    }
                    let into = if is_packet { track.units.last_mut()? } else { &mut track.setup };
                    into.extend(hexadecimal(line));
                }
            }
        }
        is_known.then_some(track)
    }

    /// What counts of an access unit; None where it is not framed as the codec says.
    fn pieces(&self, unit: &[u8]) -> Option<Vec<Vec<u8>>> {
        match self.codec.as_str() {
            "h264" => {
                let mut nals = self.nals(unit, 4)?;
                nals.retain(|nal| {
                    nal.first().is_some_and(|first| (1..=5).contains(&(first & 0x1f)))
                });
                Some(nals)
            }
            "hevc" => {
                let mut nals = self.nals(unit, 21)?;
                nals.retain(|nal| nal.first().is_some_and(|first| first >> 1 & 0x3f < 32));
                Some(nals)
            }
            "av1" => obus(unit),
            "aac" => Some(vec![without_adts(unit).to_vec()]),
            _ => Some(vec![unit.to_vec()]),
        }
    }

    /// NAL units, without the zeros that may follow each. The configuration of ISO/IEC 14496-15 begins with its
    /// version, 1, and has the size of lengths at a place of its own; without it, there are start codes.
    fn nals(&self, unit: &[u8], size_at: usize) -> Option<Vec<Vec<u8>>> {
        let mut nals = if self.setup.first() == Some(&1) {
            by_length(unit, usize::from(self.setup.get(size_at)? & 3) + 1)?
        } else {
            by_start_code(unit)
        };
        for nal in &mut nals {
            nal.truncate(nal.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1));
        }
        Some(nals)
    }
}

/// Bytes in a line of a dump, `00000010: 0a0b 0c  ...`; none in other lines.
fn hexadecimal(line: &str) -> Vec<u8> {
    let Some((offset, rest)) = line.split_once(": ") else { return Vec::new() };
    if offset.len() < 8 || !offset.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Vec::new();
    }
    // Two spaces before the same as text.
    let digits = rest.split("  ").next().unwrap_or_default().split(' ').collect::<String>();
    let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map_while(byte).collect()
}

/// NAL units behind their lengths, which take `size` bytes each.
fn by_length(mut unit: &[u8], size: usize) -> Option<Vec<Vec<u8>>> {
    let mut nals = Vec::new();
    while !unit.is_empty() {
        let (length, rest) = unit.split_at_checked(size)?;
        let length = length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
        let (nal, rest) = rest.split_at_checked(length)?;
        nals.push(nal.to_vec());
        unit = rest;
    }
    Some(nals)
}

/// NAL units behind start codes (H.264, annex B).
fn by_start_code(unit: &[u8]) -> Vec<Vec<u8>> {
    let codes: Vec<usize> = unit
        .windows(3)
        .enumerate()
        .filter(|(_, code)| *code == [0, 0, 1])
        .map(|(at, _)| at)
        .collect();
    let ends = codes.iter().skip(1).copied().chain([unit.len()]);
    codes.iter().zip(ends).map(|(&code, end)| unit[code + 3..end].to_vec()).collect()
}

/// OBUs of pictures, without their size fields: not sequence headers, temporal delimiters, metadata, padding.
fn obus(mut unit: &[u8]) -> Option<Vec<Vec<u8>>> {
    const LEFT_OUT: [u8; 4] = [1, 2, 5, 15];
    let mut obus = Vec::new();
    while let Some(&header) = unit.first() {
        let (has_extension, has_size) = (header & 4 != 0, header & 2 != 0);
        let (head, rest) = unit.split_at_checked(1 + usize::from(has_extension))?;
        let (length, rest) = if has_size { leb128(rest)? } else { (rest.len(), rest) };
        let (body, rest) = rest.split_at_checked(length)?;
        if !LEFT_OUT.contains(&(header >> 3 & 0xf)) {
            let head = [&[header & !2], &head[1..]].concat();
            obus.push([&head, body].concat());
        }
        unit = rest;
    }
    Some(obus)
}

/// A number in AV1's variable length, and what follows it.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let last = bytes.iter().take(8).position(|byte| byte & 0x80 == 0)?;
    let number =
        bytes[..=last].iter().rev().fold(0, |number, byte| number << 7 | usize::from(byte & 0x7f));
    Some((number, &bytes[last + 1..]))
}

/// AAC without the header that MPEG-TS puts before each frame (ISO/IEC 14496-3, annex 1.A).
fn without_adts(unit: &[u8]) -> &[u8] {
    let [0xff, flags, _, high, middle, low, _, ..] = *unit else { return unit };
    let length = usize::from(high & 3) << 11 | usize::from(middle) << 3 | usize::from(low) >> 5;
    if flags & 0xf6 != 0xf0 || length != unit.len() {
        return unit;
    }
    let has_checksum = flags & 1 == 0;
    unit.get(if has_checksum { 9 } else { 7 }..).unwrap_or(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ffprobe prints a track.
    const PRINTED: &str = "[PACKET]\ndata=\n00000000: 0001 02ff 3132 3a20 2020 2020 2020 2020  ....12:         \n\
        00000010: 7f                                       .\n\n[/PACKET]\n[STREAM]\ncodec_name=vp8\n[/STREAM]\n";

    #[test]
    fn bytes_are_read_from_the_dump() {
        let track = Track::read(PRINTED).expect("a track");
        assert_eq!(track.codec, "vp8");
        let mut unit = vec![0, 1, 2, 255, b'1', b'2', b':'];
        unit.extend([b' '; 9]);
        unit.push(0x7f);
        assert_eq!(track.units, [unit]);
        assert!(track.setup.is_empty());
        assert!(Track::read("").is_none());
    }

    #[test]
    fn framing_does_not_count() {
        let mut avc =
            Track { codec: "h264".into(), setup: vec![1, 0, 0, 0, 0xff], ..Track::default() };
        // A delimiter, supplemental information, and a picture.
        let stored = [0, 0, 0, 2, 9, 0x10, 0, 0, 0, 2, 6, 5, 0, 0, 0, 3, 0x65, 1, 2];
        let picture = vec![vec![0x65, 1, 2]];
        assert_eq!(avc.pieces(&stored), Some(picture.clone()));
        assert_eq!(avc.pieces(&stored[..18]), None);
        avc.setup.clear();
        let sent = [0, 0, 0, 1, 9, 0x10, 0, 0, 1, 0x65, 1, 2, 0, 0, 0, 1, 6, 5];
        assert_eq!(avc.pieces(&sent), Some(picture));

        let av1 = Track { codec: "av1".into(), ..Track::default() };
        let sized = [0x12, 0, 0x0a, 1, 7, 0x32, 2, 8, 9];
        let bare = [0x30, 8, 9];
        assert_eq!(av1.pieces(&sized), av1.pieces(&bare));
        assert_eq!(av1.pieces(&bare), Some(vec![bare.to_vec()]));

        let aac = Track { codec: "aac".into(), ..Track::default() };
        let adts = [0xff, 0xf1, 0x4c, 0x80, 0x01, 0x3f, 0xfc, 0x21, 0x10];
        assert_eq!(aac.pieces(&adts), aac.pieces(&[0x21, 0x10]));
    }
}
