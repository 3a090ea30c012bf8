//! Turns of items laid end to end: where each frame goes on one unbroken line of running time.
//!
//! A turn lasts as long as its pictures do, so that they go on at an even step; all tracks move on
//! by the same time, so sound can never drift away. Sound that outlasts the pictures is cut. (It
//! rules, and the last picture stands, if it goes on for longer than [`LONG_TAIL`].) Decoded sound
//! is cut and filled up to the sample. Encoded sound can only be cut between frames: its last frame
//! is kept or dropped so that over the turns neither sound nor silence piles up.

use gstreamer as gst;
use protocol::media::Kind;

use super::shelf::{Frame, Taken};
use crate::media::encode::OPUS_RATE;

#[cfg(test)]
mod tests;

/// Sound that goes on this long after the last picture is not cut.
const LONG_TAIL: i64 = 1_000_000_000;

/// Timestamps of decoded sound may be this wrong (containers round them) before they are believed
/// over the number of samples.
const TOLERANCE: i64 = OPUS_RATE as i64 * 40 / 1000;

/// Pictures may be this far ahead of decoded sound before silence is filled in.
const MAX_SILENCE_LAG: i64 = 100_000_000;

/// Silence is made in pieces of this many samples.
const SILENCE_PIECE: i64 = OPUS_RATE as i64 / 10;

const SECOND: i64 = 1_000_000_000;

/// What the frames of a track are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Pictures, raw or encoded.
    Pictures,
    /// Frames of encoded sound.
    SoundFrames,
    /// Samples of 16 bits at [`OPUS_RATE`].
    Samples {
        /// Interleaved channels.
        channels: usize,
    },
}

impl Shape {
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Pictures => Kind::Video,
            Self::SoundFrames | Self::Samples { .. } => Kind::Audio,
        }
    }
}

/// A buffer with its place on the line.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) track: usize,
    pub(super) buffer: gst::Buffer,
}

#[derive(Debug)]
struct Track {
    shape: Shape,
    /// How many frames this turn has had.
    count: i64,
    earliest: i64,
    /// The frame that is shown last.
    latest: i64,
    latest_duration: Option<i64>,
    /// Encoded sound: where on the line it is, if what has been sent is played one piece behind the
    /// other.
    reached: Option<i64>,
    /// Samples: where the next one goes, counted from the line's beginning.
    position: i64,
    /// Samples: whether the next buffer may begin elsewhere.
    moved: bool,
}

#[derive(Debug)]
pub(super) struct Timeline {
    tracks: Vec<Track>,
    /// Running time at which this turn begins.
    base: i64,
    /// Time in the file that lies there.
    origin: i64,
    /// Sound beyond the last picture.
    tail: Vec<Taken>,
    long_tail: bool,
    out: Vec<Placed>,
}

/// A turn that had nothing in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EmptyTurn;

impl Timeline {
    pub(super) fn new(shapes: &[Shape], base: i64) -> Self {
        let tracks = shapes
            .iter()
            .map(|&shape| Track {
                shape,
                count: 0,
                earliest: 0,
                latest: 0,
                latest_duration: None,
                reached: None,
                position: samples(base),
                moved: false,
            })
            .collect();
        Self { tracks, base, origin: 0, tail: Vec::new(), long_tail: false, out: Vec::new() }
    }

    /// Makes `base` the line's beginning, where nothing has been placed yet.
    pub(super) fn begin(&mut self, base: i64) {
        self.base = base;
        for track in &mut self.tracks {
            track.position = samples(base);
        }
    }

    /// Begins a turn whose first frame is shown at `origin` in the file's time.
    pub(super) fn begin_turn(&mut self, origin: i64) {
        self.origin = origin;
        self.long_tail = false;
        for track in &mut self.tracks {
            track.count = 0;
        }
    }

    /// Running time at which something due at `due` in the file has to be sent.
    pub(super) fn due(&self, due: i64) -> i64 {
        self.base + due - self.origin
    }

    /// Moves everything that is still to come back by this much, after a standstill.
    pub(super) fn postpone(&mut self, by: i64) {
        self.base += by;
        for track in &mut self.tracks {
            track.moved = true;
            track.reached = track.reached.map(|reached| reached + by);
        }
    }

    /// Places the frame that is due next.
    pub(super) fn place(&mut self, taken: Taken) {
        let is_sound = self.tracks[taken.track].shape.kind() == Kind::Audio;
        if is_sound
            && taken.pictures_ended
            && !self.long_tail
            && let Some(end) = self.pictures_end()
        {
            let frame_end = taken.frame.pts + taken.frame.duration.unwrap_or(0);
            if frame_end > end {
                let long = frame_end - end > LONG_TAIL;
                self.tail.push(taken);
                if long {
                    self.long_tail = true;
                    for taken in std::mem::take(&mut self.tail) {
                        self.put(taken, None);
                    }
                }
                return;
            }
        }
        self.put(taken, None);
    }

    /// Ends the turn: the next begins where it ends.
    pub(super) fn end_turn(&mut self) -> Result<(), EmptyTurn> {
        let pictures_end = self.pictures_end().filter(|_| !self.long_tail);
        let end = pictures_end.or_else(|| self.tracks.iter().filter_map(Track::end).max());
        let duration = end.ok_or(EmptyTurn)? - self.origin;
        if duration <= 0 {
            return Err(EmptyTurn);
        }
        for taken in std::mem::take(&mut self.tail) {
            self.put(taken, Some(self.origin + duration));
        }
        let next = self.base + duration;
        for index in 0..self.tracks.len() {
            if let Shape::Samples { .. } = self.tracks[index].shape {
                self.fill(index, samples(next));
            }
        }
        self.base = next;
        Ok(())
    }

    /// Takes what has been placed.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Placed> {
        self.out.drain(..)
    }

    /// When the last picture of this turn has been shown for its time.
    fn pictures_end(&self) -> Option<i64> {
        self.tracks.iter().find(|track| track.shape == Shape::Pictures).and_then(Track::end)
    }

    /// Puts a frame on the line; sound is cut at `end`.
    fn put(&mut self, taken: Taken, end: Option<i64>) {
        let Taken { track: index, frame, due, .. } = taken;
        match self.tracks[index].shape {
            Shape::Pictures => {
                self.tracks[index].note(&frame);
                let (pts, dts) = (self.due(frame.pts), self.due(due));
                self.push(index, frame.buffer, pts, Some(dts.min(pts)), frame.duration);
                for sound in 0..self.tracks.len() {
                    self.fill(sound, samples(dts.min(pts) - MAX_SILENCE_LAG));
                }
            }
            Shape::SoundFrames => {
                let (pts, length) = (self.due(frame.pts), frame.duration.unwrap_or(0));
                let end = end.map(|end| self.due(end));
                let base = self.base;
                let track = &mut self.tracks[index];
                if track.goes_on_with(pts, length, base, end) {
                    track.note(&frame);
                    self.push(index, frame.buffer, pts, None, frame.duration);
                }
            }
            Shape::Samples { channels } => self.put_samples(index, channels, frame, end),
        }
    }

    fn put_samples(&mut self, index: usize, channels: usize, frame: Frame, end: Option<i64>) {
        let frame_size = 2 * channels;
        let length = (frame.buffer.size() / frame_size) as i64;
        let wanted = samples(self.due(frame.pts));
        let track = &mut self.tracks[index];
        let is_first = track.count == 0;
        track.note(&Frame {
            duration: Some(length * SECOND / i64::from(OPUS_RATE)),
            ..frame_head(&frame)
        });
        if std::mem::take(&mut track.moved) {
            track.position = track.position.max(wanted);
        }
        // How many samples at the front lie before the place that has been reached.
        let mut skip = 0;
        if is_first || (wanted - track.position).abs() > TOLERANCE {
            skip = (track.position - wanted).max(0);
            self.fill(index, wanted);
        }
        let position = self.tracks[index].position;
        let mut keep = length - skip;
        if let Some(end) = end {
            keep = keep.min(samples(self.due(end)) - position);
        }
        if keep <= 0 {
            return;
        }
        let range = skip as usize * frame_size..(skip + keep) as usize * frame_size;
        if let Ok(buffer) = frame.buffer.copy_region(gst::BufferCopyFlags::MEMORY, range) {
            self.push_samples(index, buffer, keep);
        }
    }

    /// Fills a track of samples with silence up to a place, if it has not been reached.
    fn fill(&mut self, index: usize, to: i64) {
        let Shape::Samples { channels } = self.tracks[index].shape else { return };
        loop {
            let missing = (to - self.tracks[index].position).min(SILENCE_PIECE);
            if missing <= 0 {
                return;
            }
            let silence = gst::Buffer::from_mut_slice(vec![0u8; missing as usize * 2 * channels]);
            self.push_samples(index, silence, missing);
        }
    }

    fn push_samples(&mut self, index: usize, buffer: gst::Buffer, count: i64) {
        let position = self.tracks[index].position;
        let start = nanoseconds(position);
        self.tracks[index].position = position + count;
        self.push(index, buffer, start, None, Some(nanoseconds(position + count) - start));
    }

    fn push(
        &mut self,
        track: usize,
        mut buffer: gst::Buffer,
        pts: i64,
        dts: Option<i64>,
        duration: Option<i64>,
    ) {
        let time = |time: i64| u64::try_from(time).ok().map(gst::ClockTime::from_nseconds);
        let writable = buffer.make_mut();
        writable.set_pts(time(pts));
        writable.set_dts(dts.and_then(time));
        writable.set_duration(duration.and_then(time));
        // The file's beginning and end are none here.
        writable.unset_flags(gst::BufferFlags::DISCONT | gst::BufferFlags::RESYNC);
        self.out.push(Placed { track, buffer });
    }
}

impl Track {
    /// Whether a frame of encoded sound, to be played at `pts`, is sent. It is not if it would put all
    /// that follows off by more than half its length: where a turn begins at `base`, or ends at `end`.
    fn goes_on_with(&mut self, pts: i64, length: i64, base: i64, end: Option<i64>) -> bool {
        let near = |reached: &i64| *reached >= base - length;
        let begun = self.reached.filter(near).unwrap_or(base);
        if self.count == 0 && pts + length / 2 < begun {
            return false;
        }
        // A gap longer than a frame is the file's own.
        let from = self.reached.filter(|&reached| pts - reached <= length).unwrap_or(pts);
        let reached = from + length;
        if end.is_some_and(|end| pts >= end || reached - end > length / 2) {
            return false;
        }
        self.reached = Some(reached);
        true
    }

    fn note(&mut self, frame: &Frame) {
        if self.count == 0 {
            self.earliest = frame.pts;
            self.latest = i64::MIN;
        }
        self.count += 1;
        self.earliest = self.earliest.min(frame.pts);
        if frame.pts >= self.latest {
            self.latest = frame.pts;
            self.latest_duration = frame.duration;
        }
    }

    /// When the last frame of this turn ends. Without a duration it lasts as long as the others do
    /// on average, or for 40 ms if there are no others.
    fn end(&self) -> Option<i64> {
        if self.count == 0 {
            return None;
        }
        let average = match self.count {
            1 => SECOND / 25,
            count => (self.latest - self.earliest) / (count - 1),
        };
        Some(self.latest + self.latest_duration.filter(|&duration| duration > 0).unwrap_or(average))
    }
}

/// A frame's times without its data.
fn frame_head(frame: &Frame) -> Frame {
    Frame { buffer: gst::Buffer::new(), pts: frame.pts, dts: frame.dts, duration: frame.duration }
}

/// Nanoseconds in samples, to the nearest.
fn samples(nanoseconds: i64) -> i64 {
    let product = i128::from(nanoseconds) * i128::from(OPUS_RATE);
    (product + i128::from(SECOND) / 2).div_euclid(i128::from(SECOND)) as i64
}

/// Samples in nanoseconds, so that [`samples`] gives them back.
fn nanoseconds(samples: i64) -> i64 {
    let product = i128::from(samples) * i128::from(SECOND);
    (product + i128::from(OPUS_RATE) / 2).div_euclid(i128::from(OPUS_RATE)) as i64
}
