//! How long an MPEG transport stream plays. It does not say, and demultiplexers guess from its bit rate; the first and
//! the last of its presentation times tell (ISO/IEC 13818-1, 2.4.3).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const SYNC: u8 = 0x47;

/// Bytes from one packet to the next: as they are, with a time in front of each (Blu-ray), with error correction
/// behind each (DVB).
const STRIDES: [usize; 3] = [188, 192, 204];

/// Packets that must follow each other for a file to be taken for a transport stream.
const IN_A_ROW: usize = 5;

/// Bytes at the file's beginning and at its end in which times are looked for.
const WINDOW: usize = 2 << 20;

/// Times at the beginning among which the lowest is: pictures are not in order.
const REORDERED: usize = 32;

/// Presentation times count 1/90,000 s in 33 bits.
const HZ: i64 = 90_000;
const WRAP: i64 = 1 << 33;

/// How long it plays, from its first picture's beginning to its last's end, or by its sound where it has no pictures.
/// `None` where it is no transport stream, cannot be read, or holds no times.
pub(super) fn duration(file: &Path) -> Option<Duration> {
    let file = File::open(file).ok()?;
    let length = file.metadata().ok()?.len();
    let head = window(&file, 0)?;
    let head = Packets::find(&head)?;
    let from = length.saturating_sub(WINDOW as u64);
    let tail = window(&file, from)?;
    let tail = Packets::find(&tail)?;

    let is_video = head.times(true).next().is_some();
    let reference = head.times(is_video).next()?;
    let since = |time: i64| (time - reference + WRAP / 2).rem_euclid(WRAP) - WRAP / 2;
    let first = head.times(is_video).take(REORDERED).map(since).min()?;
    // Half of the 26.5 hours that times count may be behind the end.
    let times: Vec<i64> = tail.times(is_video).map(since).collect();
    let last = *times.iter().max()?;
    let lasts = times.iter().map(|time| last - time).filter(|step| *step > 0).min().unwrap_or(0);
    let ticks = u64::try_from(last + lasts - first).ok()?;
    Some(Duration::from_nanos(ticks * 1_000_000_000 / HZ.unsigned_abs()))
}

fn window(file: &File, from: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; WINDOW];
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], from + length as u64).ok()? {
            0 => break,
            read => length += read,
        }
    }
    bytes.truncate(length);
    Some(bytes)
}

/// A part of a transport stream.
struct Packets<'a> {
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Packets<'a> {
    /// Finds where packets begin.
    fn find(bytes: &'a [u8]) -> Option<Self> {
        let begins = |at: usize, stride: usize| {
            (0..IN_A_ROW).all(|nth| bytes.get(at + nth * stride) == Some(&SYNC))
        };
        let of_stride = |stride: usize| {
            let at = (0..stride).find(|at| begins(*at, stride))?;
            Some(Self { bytes: &bytes[at..], stride })
        };
        STRIDES.into_iter().find_map(of_stride)
    }

    /// Presentation times of pictures, or of everything else, as they come.
    fn times(&self, of_video: bool) -> impl Iterator<Item = i64> {
        self.bytes.chunks(self.stride).filter_map(move |packet| {
            let (is_video, time) = time(packet.get(..188)?)?;
            (is_video == of_video).then_some(time)
        })
    }
}

/// The time in a packet with which a picture or a piece of sound begins, and which of them it is.
fn time(packet: &[u8]) -> Option<(bool, i64)> {
    let &[SYNC, flags, _, control, ..] = packet else { return None };
    let begins = flags & 0x40 != 0;
    let (has_adaptation, has_payload) = (control & 0x20 != 0, control & 0x10 != 0);
    let skip = if has_adaptation { 5 + usize::from(*packet.get(4)?) } else { 4 };
    let payload = packet.get(skip..).filter(|_| begins && has_payload)?;
    let &[0, 0, 1, id, _, _, marker, has, _, t0, t1, t2, t3, t4, ..] = payload else { return None };
    let is_video = (0xe0..=0xef).contains(&id);
    // Sound, and the private streams in which some is; not tables, fills and maps.
    let is_known = is_video || matches!(id, 0xbd | 0xc0..=0xdf | 0xfd);
    if !is_known || marker & 0xc0 != 0x80 || has & 0x80 == 0 {
        return None;
    }
    let [t0, t1, t2, t3, t4] = [t0, t1, t2, t3, t4].map(i64::from);
    Some((is_video, (t0 >> 1 & 7) << 30 | t1 << 22 | (t2 >> 1) << 15 | t3 << 7 | t4 >> 1))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    /// A packet with which something begins.
    fn packet(id: u8, time: i64) -> Vec<u8> {
        let time = time.rem_euclid(WRAP);
        let byte = |shift: u32| u8::try_from(time >> shift & 0xff).expect("a byte");
        let mut packet = vec![SYNC, 0x41, 0, 0x30, 1, 0, 0, 0, 1, id, 0, 0, 0x80, 0x80, 5];
        packet.extend([0x21 | byte(30) << 1 & 0xe, byte(22), byte(14) | 1]);
        packet.extend([byte(7), byte(0) << 1 | 1]);
        packet.resize(188, 0xff);
        packet
    }

    fn written(packets: impl IntoIterator<Item = Vec<u8>>) -> Option<Duration> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        for packet in packets {
            file.write_all(&packet).expect("it can be written");
        }
        duration(file.path())
    }

    #[test]
    fn pictures_count_from_the_first_shown_to_the_end_of_the_last() {
        // I, P, B, B; over the end of what times can count.
        let begin = WRAP - 10 * HZ;
        let pictures = (0..500)
            .flat_map(|gop| [0, 3, 1, 2].map(|at| packet(0xe0, begin + (4 * gop + at) * HZ / 25)));
        let sound = (0..100).map(|at| packet(0xc0, begin + at * HZ));
        assert_eq!(written(pictures.chain(sound)), Some(Duration::from_secs(80)));
    }

    #[test]
    fn sound_counts_where_there_are_no_pictures_and_strides_do_not() {
        let with_times = (0..50).map(|at| [vec![0; 4], packet(0xbd, at * HZ / 50)].concat());
        assert_eq!(written(with_times), Some(Duration::from_secs(1)));
        let corrected = (0..50).map(|at| [packet(0xc0, at * HZ / 50), vec![9; 16]].concat());
        assert_eq!(written(corrected), Some(Duration::from_secs(1)));
    }

    #[test]
    fn others_have_none() {
        assert_eq!(written([b"not one".to_vec()]), None);
        assert_eq!(written(vec![vec![0; 4096]]), None);
        assert_eq!(written((0..9).map(|_| packet(0xbc, 0))), None);
        assert_eq!(duration(Path::new("/does/not/exist")), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            are_packets in any::<bool>(),
        ) {
            if are_packets {
                bytes.chunks_mut(188).for_each(|packet| packet[0] = SYNC);
            }
            let _ = written([bytes]);
        }
    }
}
