//! A stored file read from a position on, once, for one viewer: packets with their places in the file.
//!
//! ```text
//! file ─ demultiplex ─ pads: parse ─ payload ─ Unit ─┐
//!                            (decode ─ encode)        ├─ ahead (bounded) ─ when it is due
//! ```
//!
//! Nothing waits for a clock here: who takes the units keeps time. Reading stops when enough is ahead.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use protocol::channel::{HISTORY_BYTES, HISTORY_PACKETS};
use protocol::media::{Format, Kind};

use super::config::{AudioConfig, MediaConfig, VideoConfig};
use super::elements::{init, make};
use super::error::{MediaError, reason};
use super::gate::{Gate, Manners};
use super::plan::Plan;
use super::producer::{Counters, Event};
use super::spec::SourceSpec;
use super::stored::{self, keep_to_the_file};
use super::track::{Live, cannot_build, stop_at_final_form};
use super::unit::{Epoch, Unit};

mod ahead;
mod times;

use ahead::{AHEAD, Ahead, REORDERED};
use times::{Container, Line, Times, begins_at, watch_beginning, watch_segment};

/// How long it is tried to open a file, all together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes and packets that the frame at a position may need: what a channel keeps, less what sealing adds and
/// what follows.
const MOST_NEEDED_BYTES: usize = HISTORY_BYTES / 16 * 11;
const MOST_NEEDED_PACKETS: usize = HISTORY_PACKETS / 16 * 11;

/// Most bytes that are gathered behind the position for a viewer that wants much in advance, and where a track is
/// waited for that begins late.
const MOST_BEHIND_BYTES: usize = HISTORY_BYTES / 4;
const MOST_BEHIND_PACKETS: usize = HISTORY_PACKETS / 4;

/// Sound that is so far ahead of the pictures looked for is not read on: there are none.
const UNEVEN: i64 = 30_000_000_000;

/// Where a file that has no keyframe at the position sought is sought again: so much further in front.
const FURTHER_BACK: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(5), Duration::from_secs(30), Duration::MAX];

/// Pictures behind the position that are read, at most, for the first of a track that begins late.
const MOST_BEYOND: usize = 300;

/// Positions are this exact: containers round them to milliseconds.
const ROUNDING: i64 = 1_000_000;

const NO_PICTURE: &str = "there is no picture to begin with";

/// What is to be played, and how.
#[derive(Debug, Clone)]
pub struct PlayoutConfig {
    /// A path that names the file.
    pub location: PathBuf,
    /// Where to begin.
    pub position: Duration,
    /// How fast, in percent of the file's own rate. Sound is left out unless it is 100.
    pub rate_percent: u32,
    /// Which of the file's sound tracks.
    pub sound: usize,
    /// How much is gathered behind the position before playing begins.
    pub lead: Duration,
    /// How pictures are encoded that cannot be sent as they are.
    pub video: VideoConfig,
    /// How sound is.
    pub audio: AudioConfig,
}

/// A unit with its place. Times are nanoseconds of running time, in which the file is played.
#[derive(Debug)]
pub struct Placed {
    /// The packets.
    pub unit: Unit,
    /// When it is shown.
    pub shown_at: i64,
    /// When it must be there: pictures that others are decoded from come before they are shown.
    pub due_at: i64,
}

/// A file that is being read.
pub struct Playout {
    pipeline: gst::Pipeline,
    ahead: Arc<Ahead>,
}

/// A file opened at a position.
pub struct Opened {
    /// What reads on.
    pub playout: Playout,
    /// Its tracks.
    pub formats: Vec<Format>,
    /// From the keyframe on that the frame asked for is decoded from, to some time behind that frame. Of
    /// each track that goes on, there is one at least.
    pub first: Vec<Placed>,
    /// Which of these completes the frame that was asked for: it, or a later one.
    pub complete_at: usize,
    /// When the frame asked for is shown, in running time.
    pub target: i64,
    /// Its position in the file, in nanoseconds.
    pub position: i64,
    /// How long the file plays, where it says so.
    pub duration: Option<Duration>,
    /// What is encoded anew, for people.
    pub transcoded: String,
}

/// What comes next of a file.
#[derive(Debug)]
pub enum Next {
    /// This unit.
    Unit(Placed),
    /// The end; with a reason where the file is damaged.
    End(Option<String>),
    /// Nothing: it was asked to stop.
    Stopped,
}

impl Playout {
    /// Opens a file at a position. Blocks.
    ///
    /// # Errors
    ///
    /// Where it cannot be played.
    pub fn open(config: &PlayoutConfig) -> Result<Opened, MediaError> {
        init()?;
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let mut found = Err(unplayable(config, NO_PICTURE));
        for back in FURTHER_BACK {
            let from = config.position.saturating_sub(back);
            match Reading::start(config, from, deadline)?.gather(config) {
                Ok(opened) => return Ok(opened),
                Err(Failed { error, begins_too_late }) => {
                    found = Err(error);
                    if !begins_too_late || from.is_zero() || Instant::now() >= deadline {
                        break;
                    }
                }
            }
        }
        found
    }

    /// Whether it is known what is due next.
    pub fn is_ready(&self) -> bool {
        self.ahead.is_known()
    }

    /// What is due next. Blocks until it is known, or `stopped`.
    pub fn next(&self, stopped: impl Fn() -> bool) -> Next {
        self.ahead.take(stopped)
    }
}

impl Drop for Playout {
    fn drop(&mut self) {
        self.ahead.close();
        if self.pipeline.set_state(gst::State::Null).is_err() {
            tracing::debug!("a file's reader did not stop in order");
        }
    }
}

/// A file that is being read, from somewhere in front of the position on.
struct Reading {
    playout: Playout,
    /// How the pictures' running times relate to positions, or the sound's.
    line: Arc<Mutex<Line>>,
    container: Arc<OnceLock<Container>>,
    /// Position from which on it is read.
    from: Duration,
    deadline: Instant,
    is_encoded_anew: Arc<Mutex<Vec<Kind>>>,
    duration: Option<Duration>,
}

impl Reading {
    fn start(
        config: &PlayoutConfig,
        from: Duration,
        deadline: Instant,
    ) -> Result<Self, MediaError> {
        let pipeline = gst::Pipeline::new();
        let epoch = Epoch::set(&pipeline);
        let ahead = Arc::<Ahead>::default();
        let events = {
            let ahead = ahead.clone();
            Arc::new(move |event| match event {
                Event::Ready(formats) => ahead.ready(formats),
                Event::Unit(unit) => ahead.put(epoch.running_time_of(unit.captured_at), unit),
                Event::TrackEnded(track) => ahead.track_ended(track),
                Event::Ended => ahead.end(None),
                Event::Failed(error) => ahead.end(Some(error.to_string())),
            })
        };
        let media = MediaConfig {
            source: SourceSpec::File(config.location.clone()),
            // A take is for one viewer.
            video: VideoConfig { renditions: Vec::new(), ..config.video.clone() },
            audio: config.audio.clone(),
        };
        let gate =
            Arc::new(Gate::new(events, "the file".to_owned(), Manners::default(), Instant::now()));
        let counters = Arc::<Counters>::default();
        let live = Arc::new(Live::new(&pipeline, media, gate, counters, epoch));

        let source = make("filesrc", &[])?;
        source.set_property("location", &config.location);
        let decoder = make("decodebin", &[("force-sw-decoders", "true")])?;
        stop_at_final_form(&decoder);
        keep_to_the_file(&decoder);
        pipeline.add_many([&source, &decoder]).map_err(cannot_build)?;
        source.link(&decoder).map_err(cannot_build)?;

        let container = Arc::<OnceLock<Container>>::default();
        let found = container.clone();
        pipeline.connect_deep_element_added(move |_, _, element| {
            let name = element.factory().map(|factory| factory.name());
            if let Some(container) = name.and_then(|name| Container::of_demultiplexer(&name)) {
                // Streams within streams have times of their own, and the outermost counts.
                let _ = found.set(container);
            }
        });
        let container_of_pads = container.clone();
        let line = Arc::<Mutex<Line>>::default();
        let is_encoded_anew = Arc::<Mutex<Vec<Kind>>>::default();
        let (live_of_pads, line_of_pads, anew) =
            (live.clone(), line.clone(), is_encoded_anew.clone());
        let begun = ahead.clone();
        let (seen, sounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        let wanted = (config.rate_percent == 100).then_some(config.sound);
        decoder.connect_pad_added(move |_, pad| {
            let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
            let plan = Plan::for_caps(&caps);
            let kind = match plan {
                Plan::PassThrough(codec) => Some(codec.kind()),
                Plan::Encode(kind) => Some(kind),
                Plan::Decode | Plan::LeaveOut => None,
            };
            let is_wanted = match kind {
                Some(Kind::Video) => !seen.swap(true, Ordering::AcqRel),
                Some(Kind::Audio) => Some(sounds.fetch_add(1, Ordering::AcqRel)) == wanted,
                None => false,
            };
            let attached = match kind.filter(|_| is_wanted) {
                Some(kind) => {
                    if plan == Plan::Encode(kind) {
                        lock(&anew).push(kind);
                    }
                    let times = match container_of_pads.get() {
                        Some(Container::Matroska | Container::Mpeg) => Times::Raw,
                        None => Times::OfSegments,
                    };
                    watch_segment(pad, kind, times, &line_of_pads);
                    watch_beginning(pad, kind, &begun);
                    live_of_pads.attach_unpaced(pad, &caps)
                }
                None => live_of_pads.leave_out(pad),
            };
            if let Err(error) = attached {
                live_of_pads.fail(error);
            }
        });
        let complete = ahead.clone();
        let gate = live.gate.clone();
        decoder.connect_no_more_pads(move |_| {
            gate.complete();
            complete.tracks_known();
        });
        let bus = pipeline.bus().ok_or_else(|| cannot_build("a pipeline without a bus"))?;
        let gate = live.gate.clone();
        bus.set_sync_handler(move |_, message| {
            match message.view() {
                gst::MessageView::Error(error) => {
                    let reason = reason(&error.error(), error.debug().as_deref());
                    gate.finish(Event::Failed(MediaError::Track { reason }));
                }
                gst::MessageView::Eos(_) => gate.finish(Event::Ended),
                _ => {}
            }
            gst::BusSyncReply::Drop
        });

        // From here on, leaving early stops what has been started.
        let playout = Playout { pipeline, ahead };
        let pipeline = &playout.pipeline;
        let refused = |_| unplayable(config, &playout.ahead.failure().unwrap_or_default());
        let is_late = || Instant::now() >= deadline;
        if from.is_zero() && config.rate_percent == 100 {
            pipeline.set_state(gst::State::Playing).map_err(refused)?;
            playout.ahead.flows();
            playout.ahead.wait_for_tracks(is_late).map_err(|reason| unplayable(config, &reason))?;
        } else {
            pipeline.set_state(gst::State::Paused).map_err(refused)?;
            playout.ahead.wait_for_tracks(is_late).map_err(|reason| unplayable(config, &reason))?;
            // What a Matroska demultiplexer meets first, it takes for the file's beginning: not what a seek led to.
            playout.ahead.wait_for_data(is_late).map_err(|reason| unplayable(config, &reason))?;
            let begins_at = begins_at(&container, &playout.ahead).unsigned_abs();
            seek(&decoder, from + Duration::from_nanos(begins_at), config.rate_percent)
                .map_err(|reason| unplayable(config, reason))?;
            pipeline.set_state(gst::State::Playing).map_err(refused)?;
            playout.ahead.flows();
        }
        let said = pipeline.query_duration::<gst::ClockTime>().map(Duration::from);
        let duration = stored::duration(&config.location, said);
        Ok(Self { playout, line, container, from, deadline, is_encoded_anew, duration })
    }

    /// Reads until all is there that the frame at the position needs.
    fn gather(self, config: &PlayoutConfig) -> Result<Opened, Failed> {
        let deadline = self.deadline;
        let is_late = || Instant::now() >= deadline;
        let formats = self.playout.ahead.formats(is_late);
        // A file that was cut may end before that position.
        let formats = formats
            .map_err(|why| Failed { error: unplayable(config, &why), begins_too_late: true })?;
        let kinds: Vec<Kind> = formats.iter().map(|format| format.kind).collect();
        let leading = kinds.iter().position(|kind| *kind == Kind::Video).unwrap_or(0);
        let begins_at = begins_at(&self.container, &self.playout.ahead);
        let wanted = i64::try_from(config.position.as_nanos()).unwrap_or(i64::MAX);
        let enough = wanted
            .saturating_add(config.lead.as_nanos().try_into().unwrap_or(AHEAD))
            .saturating_add(AHEAD / 2);

        let mut first: Vec<Placed> = Vec::new();
        let mut beyond = 0;
        let (mut needed, mut behind) = (Amount::default(), Amount::default());
        let mut ended = None;
        let all_there = |first: &[Placed]| {
            let has = |track| first.iter().any(|placed| placed.unit.track == track);
            (0..kinds.len()).all(has)
        };
        while beyond <= REORDERED || (beyond < MOST_BEYOND && !all_there(&first)) {
            if behind.bytes > MOST_BEHIND_BYTES || behind.packets > MOST_BEHIND_PACKETS {
                break;
            }
            match self.playout.next(is_late) {
                Next::Unit(placed) => {
                    let line = *lock(&self.line);
                    let position = line.position(placed.shown_at, config.rate_percent) - begins_at;
                    if placed.unit.track == leading && position > wanted + ROUNDING {
                        beyond += 1;
                    }
                    // Whole GOPs in front of the position are of no use.
                    let is_start = placed.unit.track == leading && placed.unit.keyframe;
                    if is_start && position <= wanted + ROUNDING && !config.position.is_zero() {
                        first.clear();
                        needed = Amount::default();
                    }
                    match position > wanted + ROUNDING {
                        true => behind.add(&placed),
                        false => needed.add(&placed),
                    }
                    if needed.bytes > MOST_NEEDED_BYTES || needed.packets > MOST_NEEDED_PACKETS {
                        return Err(
                            unplayable(config, "its keyframes are too far apart for that").into()
                        );
                    }
                    // Sound may be far ahead of the pictures that are looked for.
                    let is_leading =
                        placed.unit.track == leading || self.playout.ahead.has_ended(leading);
                    first.push(placed);
                    let is_enough = if is_leading { enough } else { enough.saturating_add(UNEVEN) };
                    if position >= is_enough && all_there(&first) {
                        break;
                    }
                }
                Next::End(damaged) => {
                    ended = Some(damaged);
                    break;
                }
                Next::Stopped => return Err(unplayable(config, "it takes too long to open").into()),
            }
        }
        let line = *lock(&self.line);
        let position =
            |placed: &Placed| line.position(placed.shown_at, config.rate_percent) - begins_at;
        let start =
            first.iter().position(|placed| placed.unit.track == leading && placed.unit.keyframe);
        let Some(start) = start else {
            let damaged = ended.flatten();
            let reason = damaged.as_deref().unwrap_or(NO_PICTURE);
            return Err(Failed { error: unplayable(config, reason), begins_too_late: true });
        };
        // What is in front of the first keyframe cannot be decoded, and sound alone is of no use there, but
        // where the file begins with it.
        let rest = first.split_off(start);
        let mut sound = std::mem::replace(&mut first, rest);
        if config.position.is_zero() {
            sound.retain(|placed| kinds[placed.unit.track] == Kind::Audio);
            first.splice(1..1, sound);
        }
        let shown = || first.iter().filter(|placed| placed.unit.track == leading);
        let target = shown()
            .filter(|placed| position(placed) <= wanted + ROUNDING)
            .max_by_key(|placed| placed.shown_at);
        let target = match target {
            Some(target) => target.shown_at,
            // The file begins later than at 0.
            None if config.position.is_zero() || self.from.is_zero() => {
                shown().map(|placed| placed.shown_at).min().unwrap_or(0)
            }
            None => {
                return Err(Failed {
                    error: unplayable(config, NO_PICTURE),
                    begins_too_late: true,
                });
            }
        };
        let complete_at = first
            .iter()
            .position(|placed| placed.unit.track == leading && placed.shown_at == target)
            .unwrap_or(0);
        // Only one place to join at, until the viewer has joined.
        for (at, placed) in first.iter_mut().enumerate().take(complete_at + 1) {
            placed.unit.keyframe = at == 0;
        }
        if let Some(damaged) = ended {
            self.playout.ahead.end(damaged);
        }
        let anew: Vec<&str> = lock(&self.is_encoded_anew)
            .iter()
            .map(|kind| match kind {
                Kind::Video => "pictures as H.264",
                Kind::Audio => "sound as Opus",
            })
            .collect();
        let position = (line.position(target, config.rate_percent) - begins_at).max(0);
        let transcoded = anew.join(", ");
        let Self { playout, duration, .. } = self;
        Ok(Opened { playout, formats, first, complete_at, target, position, duration, transcoded })
    }
}

/// Why reading from somewhere on was of no use.
struct Failed {
    error: MediaError,
    /// Whether it may be of use from further in front.
    begins_too_late: bool,
}

impl From<MediaError> for Failed {
    fn from(error: MediaError) -> Self {
        Self { error, begins_too_late: false }
    }
}

/// How much was gathered.
#[derive(Debug, Clone, Copy, Default)]
struct Amount {
    bytes: usize,
    packets: usize,
}

impl Amount {
    fn add(&mut self, placed: &Placed) {
        self.bytes += placed.unit.packets.bytes();
        self.packets += placed.unit.packets.len();
    }
}

/// Seeks to the keyframe at or before a position, through one of the pads: asked through all, some
/// demultiplexers would seek once for each.
fn seek(decoder: &gst::Element, to: Duration, rate_percent: u32) -> Result<(), &'static str> {
    let is_pictures = |pad: &gst::Pad| {
        let caps = pad.current_caps();
        caps.is_some_and(|caps| caps.structure(0).is_some_and(|s| s.name().starts_with("video/")))
    };
    let pads = decoder.src_pads();
    let pad = pads.iter().find(|pad| is_pictures(pad)).or(pads.first());
    let position = gst::ClockTime::from_nseconds(to.as_nanos().try_into().unwrap_or(0));
    let event = gst::event::Seek::new(
        f64::from(rate_percent) / 100.0,
        gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT | gst::SeekFlags::SNAP_BEFORE,
        gst::SeekType::Set,
        position,
        gst::SeekType::None,
        gst::ClockTime::NONE,
    );
    match pad.map(|pad| pad.send_event(event)) {
        Some(true) => Ok(()),
        _ => Err("nothing but its beginning can be played: it has no index"),
    }
}

fn unplayable(config: &PlayoutConfig, reason: &str) -> MediaError {
    let reason = if reason.is_empty() { "it cannot be opened" } else { reason };
    MediaError::Unplayable { path: config.location.clone(), reason: reason.to_owned() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Frames of the clip, 25 a second, with a keyframe every 25.
    const FRAMES: i64 = 150;
    const STEP: i64 = 40_000_000;

    fn open(location: &std::path::Path, position: Duration) -> Opened {
        Playout::open(&PlayoutConfig {
            location: location.to_owned(),
            position,
            rate_percent: 100,
            sound: 0,
            lead: Duration::from_millis(300),
            video: VideoConfig::default(),
            audio: AudioConfig::default(),
        })
        .expect("it can be played")
    }

    /// When pictures are shown, in positions, in order.
    fn pictures(opened: Opened) -> Vec<i64> {
        let Opened { playout, first, target, position, .. } = opened;
        let read = std::iter::from_fn(|| match playout.next(|| false) {
            Next::Unit(placed) => Some(placed),
            Next::End(damaged) => {
                assert_eq!(damaged, None);
                None
            }
            Next::Stopped => panic!("nobody stops it"),
        });
        let mut shown: Vec<i64> = first
            .into_iter()
            .chain(read)
            .filter(|placed| placed.unit.track == 0)
            .map(|placed| placed.shown_at - target + position)
            .collect();
        shown.sort_unstable();
        shown
    }

    #[test]
    fn positions_are_right_however_busy_the_processor_is() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["clip.mkv", "clip.mp4", "clip.ts"] {
            let file = folder.path().join(name);
            let mut ffmpeg = Command::new("ffmpeg");
            ffmpeg.args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=64x64:rate=25"]);
            ffmpeg.args(["-f", "lavfi", "-i", "sine", "-frames:v", "150", "-t", "6"]);
            ffmpeg.args(["-c:v", "libx264", "-g", "25", "-bf", "2", "-c:a", "aac"]).arg(&file);
            assert!(ffmpeg.status().expect("ffmpeg runs").success());
            let begins = pictures(open(&file, Duration::ZERO))[0];
            assert!(begins < STEP, "{name} begins at {begins} ns");
            let run = |thread: u64| {
                let (file, mut state) = (file.clone(), thread);
                move || {
                    for _ in 0..25 {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let frame = i64::try_from(state >> 33).expect("31 bits") % FRAMES;
                        let wanted = begins + frame * STEP + STEP / 2;
                        let opened = open(&file, Duration::from_nanos(wanted.unsigned_abs()));
                        let off = opened.position - (begins + frame * STEP);
                        assert!(off.abs() <= ROUNDING, "{frame} is off by {off} ns");
                        let shown = pictures(opened);
                        assert_eq!(shown.len() as i64, FRAMES - frame / 25 * 25, "from {frame}");
                    }
                }
            };
            let threads: Vec<_> = (1..=8).map(|at| std::thread::spawn(run(at))).collect();
            threads.into_iter().for_each(|thread| thread.join().expect("all are right"));
        }
    }
}
