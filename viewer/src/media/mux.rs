//! Passing coded media on without encoding it anew: `appsrc… ! muxer ! sink` in a pipeline of its
//! own for each recording and network output, so that a full disk stops nothing else.
//!
//! The pipeline is built when the first media has come, with the tracks that are really there: a
//! muxer waits for every track it was promised.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gstreamer as gst;
use protocol::media::Kind;

use super::codec::Codec;
use super::output::{Container, Output};
use super::shared::{Notice, Part, Shared, halt, lock, nanoseconds};
use super::sink::{Mux, paced};
use super::splice::{Splice, Times};
use super::take::Take;

/// How long the other tracks are waited for after the first keyframe. What comes meanwhile is kept.
const OTHERS_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a keyframe is waited for while sound already comes. Longer than any sane GOP.
const KEYFRAME_TIMEOUT: Duration = Duration::from_secs(30);

/// Sound this much before the first keyframe is still kept: it reaches into it.
const LEAD: Duration = Duration::from_millis(100);

/// A track this far behind the others, for this long, is silent, and a transport stream goes on
/// without waiting for it.
const SILENCE: Duration = Duration::from_millis(500);

/// A file's muxer can't go past a track without closing it, so it waits this long before it does.
const LOST_FOR_GOOD: Duration = Duration::from_secs(10);

/// From breaking to beginning anew: at first and at most. What lasted so long was well.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(15);
const LASTING: Duration = Duration::from_secs(30);

/// Media waiting for a slow disk or pipe, in bytes; half a minute at 16 Mbit/s. Beyond it media is
/// left out up to the next keyframe.
const MOST_WAITING: u64 = 64 << 20;

/// One output that takes coded media.
#[derive(Debug)]
pub(super) struct Muxer {
    shared: Arc<Shared>,
    part: Part,
    output: Output,
    container: Container,
    codecs: Vec<Codec>,
    state: Mutex<State>,
    splice: Mutex<Splice>,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    tracks: Vec<Progress>,
    /// How long it rests where it breaks, and when it began last.
    rest: Duration,
    began_at: Duration,
}

#[derive(Debug)]
enum Stage {
    /// Media is kept until it is clear which tracks there are.
    Gathering {
        kept: VecDeque<(usize, gst::Caps, gst::Buffer)>,
        since: Option<Duration>,
    },
    Running(Mux),
    /// It broke, and is begun anew at a keyframe from then on, in running time.
    Away {
        until: Duration,
    },
    Over,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    /// Presentation time of the latest buffer.
    reached: Option<Duration>,
    /// Running time since which other tracks have been ahead and nothing came on this one.
    behind_since: Option<Duration>,
    ended: bool,
    overrun: bool,
    warned: bool,
}

impl Muxer {
    pub(super) fn new(
        shared: Arc<Shared>,
        part: Part,
        output: Output,
        container: Container,
        codecs: Vec<Codec>,
    ) -> Self {
        let tracks = vec![Progress::default(); codecs.len()];
        let stage = Stage::Gathering { kept: VecDeque::new(), since: None };
        let (rest, began_at) = (FIRST_REST, Duration::ZERO);
        let state = Mutex::new(State { stage, tracks, rest, began_at });
        let splice = Mutex::new(Splice::new(codecs.len(), paced(&output)));
        Self { shared, part, output, container, codecs, state, splice }
    }

    pub(super) fn output(&self) -> &Output {
        &self.output
    }

    /// Takes one whole coded picture or piece of sound of a stored file, with its position.
    pub(super) fn offer_of_take(
        &self,
        track: usize,
        caps: &gst::Caps,
        buffer: &gst::Buffer,
        (take, position): (&Arc<Take>, i64),
    ) {
        let time = |time: Option<gst::ClockTime>| time.map(|time| time.nseconds().cast_signed());
        let Some(presentation) = time(buffer.pts()) else { return };
        let decoding = time(buffer.dts()).unwrap_or(presentation);
        let now = nanoseconds(self.shared.running_time()).cast_signed();
        let times = Times { presentation, decoding };
        let placed = lock(&self.splice).place(take, track, position, times, now);
        let Some(Times { presentation, decoding }) = placed else { return };
        let mut buffer = buffer.copy();
        if let Some(buffer) = buffer.get_mut() {
            let time = |time: i64| gst::ClockTime::from_nseconds(time.max(0).cast_unsigned());
            buffer.set_pts(time(presentation));
            buffer.set_dts(time(decoding));
        }
        self.offer(track, caps, &buffer);
    }

    /// Takes one whole coded picture or piece of sound. Never blocks for long.
    pub(super) fn offer(&self, track: usize, caps: &gst::Caps, buffer: &gst::Buffer) {
        let Some(time) = buffer.pts().map(Duration::from) else { return };
        let now = self.shared.running_time();
        let mut state = lock(&self.state);
        if let Stage::Away { until } = state.stage {
            let begins = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT)
                && (self.codecs[track].kind() == Kind::Video || !self.has_pictures());
            if now < until || !begins {
                return;
            }
            state.tracks.fill(Progress::default());
            state.stage = Stage::Gathering { kept: VecDeque::new(), since: None };
        }
        if let Some(progress) = state.tracks.get_mut(track) {
            progress.reached = Some(progress.reached.map_or(time, |reached| reached.max(time)));
            progress.behind_since = None;
        }
        match &mut state.stage {
            Stage::Over | Stage::Away { .. } => {}
            Stage::Gathering { kept, since } => {
                kept.push_back((track, caps.clone(), buffer.clone()));
                let since = *since.get_or_insert(now);
                if self.gathered(&state.tracks, now.saturating_sub(since)) {
                    self.begin(&mut state);
                }
            }
            Stage::Running(_) => {
                self.deliver(&mut state, track, caps, buffer);
                self.excuse_silent(&mut state, now);
            }
        }
    }

    /// Nothing more comes on this track. The pipeline's EOS message tells when all is written.
    pub(super) fn end(&self, track: usize) {
        let mut state = lock(&self.state);
        if let Some(progress) = state.tracks.get_mut(track) {
            progress.ended = true;
        }
        if let Stage::Running(mux) = &state.stage {
            mux.end(track);
        }
        if state.tracks.iter().all(|progress| progress.ended) {
            self.conclude(&mut state);
        }
    }

    /// Nothing more comes on any track.
    pub(super) fn finish(&self) {
        self.conclude(&mut lock(&self.state));
    }

    /// Whether nothing is written any more, because it broke or there was nothing to write.
    pub(super) fn is_over(&self) -> bool {
        matches!(lock(&self.state).stage, Stage::Over)
    }

    /// It broke: stops the pipeline, and begins anew after a rest, which is longer each time that it breaks soon. Returns
    /// how long that is; `None` where it rests already, as what broke was told more than once.
    pub(super) fn rest(&self) -> Option<Duration> {
        let now = self.shared.running_time();
        let mut state = lock(&self.state);
        if matches!(state.stage, Stage::Away { .. } | Stage::Gathering { .. }) {
            return None;
        }
        if now >= state.began_at + LASTING {
            state.rest = FIRST_REST;
        }
        let rest = state.rest;
        state.rest = (rest * 2).min(LONGEST_REST);
        let before = std::mem::replace(&mut state.stage, Stage::Away { until: now + rest });
        drop(state);
        if let Stage::Running(mux) = before {
            halt(mux.pipeline());
        }
        Some(rest)
    }

    fn has_pictures(&self) -> bool {
        self.codecs.iter().any(|codec| codec.kind() == Kind::Video)
    }

    /// Stops the pipeline, whatever state its file is in.
    pub(super) fn halt(&self) {
        let stage = std::mem::replace(&mut lock(&self.state).stage, Stage::Over);
        if let Stage::Running(mux) = stage {
            halt(mux.pipeline());
        }
    }

    fn conclude(&self, state: &mut State) {
        if matches!(state.stage, Stage::Gathering { .. }) {
            self.begin(state);
        }
        match &state.stage {
            Stage::Running(mux) => (0..state.tracks.len()).for_each(|track| mux.end(track)),
            _ => self.shared.notify(Notice::NothingWritten(self.part)),
        }
    }

    /// Whether it is clear which tracks there are.
    fn gathered(&self, tracks: &[Progress], waited: Duration) -> bool {
        let mut of_kind = tracks.iter().zip(&self.codecs);
        if tracks.iter().all(|progress| progress.reached.is_some()) {
            return true;
        }
        let pictures = self.has_pictures();
        let keyframe =
            of_kind.any(|(track, codec)| codec.kind() == Kind::Video && track.reached.is_some());
        waited >= if pictures && !keyframe { KEYFRAME_TIMEOUT } else { OTHERS_TIMEOUT }
    }

    /// Builds the pipeline and gives it what was kept.
    fn begin(&self, state: &mut State) {
        let Stage::Gathering { kept, .. } = &mut state.stage else { return };
        let kept = std::mem::take(kept);
        let Some(begins_at) = self.first_time(&kept) else {
            state.stage = Stage::Over;
            return;
        };
        state.began_at = self.shared.running_time();
        let mux = Mux::build(&self.shared, self.part, &self.output, self.container, begins_at)
            .and_then(|mut mux| {
                for (track, codec) in self.codecs.iter().enumerate() {
                    if kept.iter().any(|(of, ..)| *of == track) {
                        mux.add(track, *codec)?;
                    }
                }
                mux.play(&self.output)?;
                Ok(mux)
            });
        match mux {
            Ok(mux) => {
                state.stage = Stage::Running(mux);
                for (track, caps, buffer) in &kept {
                    let early = buffer.pts().is_some_and(|t| Duration::from(t) + LEAD < begins_at);
                    if !early {
                        self.deliver(state, *track, caps, buffer);
                    }
                }
            }
            Err(error) => {
                state.stage = Stage::Over;
                self.shared.notify(Notice::Broke(self.part, error));
            }
        }
    }

    /// The decoding time of the first picture, or of the first sound if no picture came: nothing
    /// in the file is earlier.
    fn first_time(&self, kept: &VecDeque<(usize, gst::Caps, gst::Buffer)>) -> Option<Duration> {
        let first_of = |kind| {
            let mut those = kept.iter().filter(|(of, ..)| self.codecs[*of].kind() == kind);
            those.find_map(|(_, _, buffer)| buffer.dts_or_pts().map(Duration::from))
        };
        first_of(Kind::Video).or_else(|| first_of(Kind::Audio))
    }

    fn deliver(&self, state: &mut State, track: usize, caps: &gst::Caps, buffer: &gst::Buffer) {
        let Stage::Running(mux) = &mut state.stage else { return };
        let Some(progress) = state.tracks.get_mut(track) else { return };
        if !mux.has(track) {
            let added = mux.grows() && mux.add(track, self.codecs[track]).is_ok();
            if !added {
                if !std::mem::replace(&mut progress.warned, true) {
                    let output = self.output.to_string();
                    tracing::warn!(
                        track,
                        output,
                        "a track came too late to be part of this output"
                    );
                }
                return;
            }
        }
        let full = mux.waiting() > MOST_WAITING;
        if full && !progress.overrun {
            let output = self.output.to_string();
            tracing::warn!(
                output,
                "the output can't keep up; leaving out media to the next keyframe"
            );
        }
        let keyframe = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        progress.overrun = full || (progress.overrun && !keyframe);
        if !progress.overrun {
            mux.push(track, caps, buffer);
        }
    }

    /// Lets the muxer go on past tracks that bring nothing while others do.
    fn excuse_silent(&self, state: &mut State, now: Duration) {
        let Stage::Running(mux) = &mut state.stage else { return };
        let patience = if mux.grows() { SILENCE } else { LOST_FOR_GOOD };
        let front = state.tracks.iter().filter_map(|progress| progress.reached).max();
        let Some(until) = front.and_then(|front| front.checked_sub(SILENCE)) else { return };
        for (track, progress) in state.tracks.iter_mut().enumerate() {
            let Some(reached) = progress.reached.filter(|&reached| reached < until) else {
                progress.behind_since = None;
                continue;
            };
            let since = *progress.behind_since.get_or_insert(now);
            if now.saturating_sub(since) < patience || progress.ended {
                continue;
            }
            if mux.grows() {
                mux.skip(track, reached, until);
                progress.reached = Some(until);
            } else {
                let output = self.output.to_string();
                tracing::warn!(
                    track,
                    output,
                    "a track fell silent; the recording goes on without it"
                );
                mux.end(track);
                progress.ended = true;
            }
        }
    }
}
