//! Writing a transport stream as segments and a playlist for HLS (RFC 8216), so that whoever reads the folder at any
//! moment, a web server foremost, finds whole files only: each is written under another name and then renamed.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hls::Hls;

/// No segment lasts less: players complain of one that takes no time.
const SHORTEST: Duration = Duration::from_millis(1);

/// What a file is called while it is written.
const UNFINISHED: &str = ".unfinished";

/// In front of a segment's number, and behind it.
const NAME: (&str, &str) = ("segment-", ".ts");

/// Bytes of a packet of the transport stream, and the identifier of the table that a receiver reads first
/// (ISO/IEC 13818-1, 2.4.3).
const PACKET: usize = 188;
const PROGRAM_ASSOCIATION: u16 = 0;

/// No playlist counts further: what claims to is none of ours.
const MOST_SEGMENTS: u64 = 1 << 50;

/// Takes a transport stream and the times at which to cut it.
#[derive(Debug)]
pub(super) struct Segments {
    hls: Hls,
    playlist: Playlist,
    open: Option<Open>,
    /// The latest time of what was written.
    reached: Duration,
}

/// The segment that is written.
#[derive(Debug)]
struct Open {
    file: BufWriter<File>,
    begins_at: Duration,
}

impl Segments {
    /// Goes on in a folder where an earlier run may have left segments: numbers go up, and what follows is marked as
    /// another stream.
    pub(super) fn begin(hls: &Hls) -> io::Result<Self> {
        let playlist = Playlist::after(hls)?;
        Ok(Self { hls: hls.clone(), playlist, open: None, reached: Duration::ZERO })
    }

    /// Appends packets that come at that time. Without pictures, what begins with the tables is where it may be cut.
    pub(super) fn write(
        &mut self,
        packets: &[u8],
        time: Option<Duration>,
        has_pictures: bool,
    ) -> io::Result<()> {
        self.reached = time.map_or(self.reached, |time| time.max(self.reached));
        let is_long = |open: &Open| self.reached >= open.begins_at + self.hls.segment();
        if !has_pictures && begins_with_tables(packets) && self.open.as_ref().is_some_and(is_long) {
            self.cut(self.reached)?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            closed @ None => {
                let file = File::create(self.hls.folder().join(UNFINISHED))?;
                closed.insert(Open { file: BufWriter::new(file), begins_at: self.reached })
            }
        };
        open.file.write_all(packets)
    }

    /// What comes from now on belongs to the next segment, which begins at that time.
    pub(super) fn cut(&mut self, at: Duration) -> io::Result<()> {
        self.reached = self.reached.max(at);
        let Some(Open { file, begins_at }) = self.open.take() else { return Ok(()) };
        // Without a word to the disk: who loses power loses a segment, which is nothing beside the rest.
        drop(file.into_inner().map_err(io::IntoInnerError::into_error)?);
        let unfinished = self.hls.folder().join(UNFINISHED);
        let number = self.playlist.append(at.saturating_sub(begins_at));
        fs::rename(&unfinished, self.hls.folder().join(name(number)))?;
        self.publish(false)?;
        let file = File::create(unfinished)?;
        self.open = Some(Open { file: BufWriter::new(file), begins_at: at });
        Ok(())
    }

    /// Nothing more comes.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.cut(self.reached)?;
        self.open = None;
        let _ = fs::remove_file(self.hls.folder().join(UNFINISHED));
        self.publish(true)
    }

    fn publish(&mut self, is_last: bool) -> io::Result<()> {
        let folder = self.hls.folder().to_owned();
        let playlist = folder.join(Hls::PLAYLIST);
        let unfinished = playlist.with_extension("m3u8.unfinished");
        fs::write(&unfinished, self.playlist.text(is_last))?;
        fs::rename(unfinished, playlist)?;
        for number in self.playlist.forgotten() {
            // Somebody else may have tidied up.
            let _ = fs::remove_file(folder.join(name(number)));
        }
        Ok(())
    }
}

fn name(number: u64) -> PathBuf {
    format!("{}{number:08}{}", NAME.0, NAME.1).into()
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix(NAME.0)?.strip_suffix(NAME.1)?.parse().ok()
}

fn begins_with_tables(packets: &[u8]) -> bool {
    let identifier = |first: &[u8]| u16::from_be_bytes([first[1] & 0x1f, first[2]]);
    packets.get(..PACKET).is_some_and(|first| identifier(first) == PROGRAM_ASSOCIATION)
}

/// What is offered, and what was.
#[derive(Debug)]
struct Playlist {
    keep: usize,
    /// Whole seconds that no segment's rounded length exceeds (RFC 8216, 4.3.3.1).
    target: u64,
    listed: VecDeque<Segment>,
    /// Numbers of segments that are listed no more, but that somebody may be about to ask for: as many as are listed.
    unlisted: VecDeque<u64>,
    next: u64,
    /// How often another stream began before the first that is listed.
    discontinuities: u64,
    is_discontinuity: bool,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    duration: Duration,
    is_discontinuity: bool,
}

impl Playlist {
    /// Goes on after what is in the folder.
    fn after(hls: &Hls) -> io::Result<Self> {
        let text = fs::read_to_string(hls.folder().join(Hls::PLAYLIST)).unwrap_or_default();
        let value = |tag: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(tag)?.parse::<u64>().ok());
            value.filter(|&value| value < MOST_SEGMENTS).unwrap_or(0)
        };
        let count = |tag: &str| text.lines().filter(|line| line.starts_with(tag)).count() as u64;
        let left = left_in(hls.folder())?;
        let after_left = left.back().map_or(0, |last| last + 1);
        let next = value("#EXT-X-MEDIA-SEQUENCE:") + count("#EXTINF:");
        let segment = hls.segment();
        Ok(Self {
            keep: hls.keep(),
            target: whole_seconds(segment),
            listed: VecDeque::new(),
            is_discontinuity: !text.is_empty(),
            unlisted: left,
            next: next.max(after_left),
            discontinuities: value("#EXT-X-DISCONTINUITY-SEQUENCE:")
                + text.lines().filter(|line| *line == "#EXT-X-DISCONTINUITY").count() as u64,
        })
    }

    /// Takes a segment up and returns its number.
    fn append(&mut self, duration: Duration) -> u64 {
        let number = self.next;
        self.next += 1;
        self.target = self.target.max(whole_seconds(duration));
        let is_discontinuity = std::mem::take(&mut self.is_discontinuity);
        self.listed.push_back(Segment { number, duration, is_discontinuity });
        if self.listed.len() > self.keep
            && let Some(first) = self.listed.pop_front()
        {
            self.discontinuities += u64::from(first.is_discontinuity);
            self.unlisted.push_back(first.number);
        }
        number
    }

    /// Segments that nobody can be about to ask for any more.
    fn forgotten(&mut self) -> Vec<u64> {
        let surplus = self.unlisted.len().saturating_sub(self.keep);
        self.unlisted.drain(..surplus).collect()
    }

    fn text(&self, is_last: bool) -> String {
        let first = self.listed.front().map_or(self.next, |segment| segment.number);
        let mut text = format!(
            "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:{first}\n\
             #EXT-X-DISCONTINUITY-SEQUENCE:{}\n#EXT-X-INDEPENDENT-SEGMENTS\n",
            self.target, self.discontinuities,
        );
        for Segment { number, duration, is_discontinuity } in &self.listed {
            if *is_discontinuity {
                text.push_str("#EXT-X-DISCONTINUITY\n");
            }
            // What one picture lasts that is the last is not known.
            let duration = (*duration).max(SHORTEST);
            let (seconds, name) = (duration.as_secs_f64(), name(*number));
            // Writing into a text does not fail.
            let _ = writeln!(text, "#EXTINF:{seconds:.6},\n{}", name.display());
        }
        if is_last {
            text.push_str("#EXT-X-ENDLIST\n");
        }
        text
    }
}

/// Numbers of segments that are in the folder, in order.
fn left_in(folder: &Path) -> io::Result<VecDeque<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        numbers.extend(entry?.file_name().to_str().and_then(number));
    }
    numbers.retain(|&number| number < MOST_SEGMENTS);
    numbers.sort_unstable();
    Ok(numbers.into())
}

fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_millis() >= 500)).max(1)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::media::Output;

    fn hls(folder: &Path, options: &str) -> Hls {
        match format!("hls:{}{options}", folder.display()).parse().unwrap() {
            Output::Hls(hls) => hls,
            other => panic!("{other}"),
        }
    }

    fn playlist(folder: &Path) -> String {
        fs::read_to_string(folder.join(Hls::PLAYLIST)).unwrap()
    }

    fn files(folder: &Path) -> Vec<u64> {
        left_in(folder).unwrap().into()
    }

    /// Segments of two seconds, each holding the number of its begin.
    fn write(segments: &mut Segments, seconds: std::ops::Range<u64>) {
        for second in seconds.step_by(2) {
            let at = Duration::from_secs(second);
            segments.cut(at).unwrap();
            segments.write(&[second as u8], Some(at), true).unwrap();
        }
    }

    #[test]
    fn listed_segments_are_there_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut segments = Segments::begin(&hls(folder.path(), "?keep=3")).unwrap();
        write(&mut segments, 0..22);
        // Ten are whole; three are listed, three more may still be asked for.
        assert_eq!(files(folder.path()), [4, 5, 6, 7, 8, 9]);
        let text = playlist(folder.path());
        assert!(text.contains("#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:7\n"), "{text}");
        assert!(text.contains("#EXTINF:2.000000,\nsegment-00000009.ts\n"), "{text}");
        assert!(!text.contains("ENDLIST") && !text.contains("00010"), "{text}");
        assert_eq!(fs::read(folder.path().join("segment-00000009.ts")).unwrap(), [18]);
        segments.write(&[21], Some(Duration::from_millis(20_500)), true).unwrap();
        segments.finish().unwrap();
        let text = playlist(folder.path());
        let end = "#EXTINF:0.500000,\nsegment-00000010.ts\n#EXT-X-ENDLIST\n";
        assert!(text.ends_with(end), "{text}");
        assert_eq!(fs::read(folder.path().join("segment-00000010.ts")).unwrap(), [20, 21]);
        let all = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(all, files(folder.path()).len() + 1, "nothing unfinished is left");
    }

    #[test]
    fn another_run_goes_on_with_the_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let hls = hls(folder.path(), "?keep=3");
        for run in 0..3u64 {
            let mut segments = Segments::begin(&hls).unwrap();
            write(&mut segments, 0..6);
            segments.finish().unwrap();
            let text = playlist(folder.path());
            let first = run * 3;
            assert!(text.contains(&format!("MEDIA-SEQUENCE:{first}\n")), "{text}");
            let tags = text.lines().filter(|line| *line == "#EXT-X-DISCONTINUITY").count();
            assert_eq!(tags as u64, run.min(1), "{text}");
            let before = run.saturating_sub(1);
            assert!(text.contains(&format!("DISCONTINUITY-SEQUENCE:{before}\n")), "{text}");
        }
        assert_eq!(files(folder.path()), [3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn without_pictures_it_is_cut_where_the_tables_are() {
        let folder = tempfile::tempdir().unwrap();
        let mut segments = Segments::begin(&hls(folder.path(), "?segment=1s")).unwrap();
        let packet = |identifier: u16| {
            let [high, low] = identifier.to_be_bytes();
            let mut packet = vec![0x47, high, low];
            packet.resize(PACKET, 0);
            packet
        };
        for tenth in 0..=30u64 {
            let identifier = if tenth % 4 == 0 { PROGRAM_ASSOCIATION } else { 65 };
            let at = Duration::from_millis(tenth * 100);
            segments.write(&packet(identifier), Some(at), false).unwrap();
        }
        segments.finish().unwrap();
        let text = playlist(folder.path());
        let durations: Vec<_> = text.lines().filter(|line| line.starts_with("#EXTINF")).collect();
        assert_eq!(durations, ["#EXTINF:1.200000,", "#EXTINF:1.200000,", "#EXTINF:0.600000,"]);
    }
}
