//! The player: one receiver for each track, and the outputs behind them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gstreamer as gst;
use protocol::media::{Format, Kind};

use super::codec::{self, Track};
use super::counters::PlayerStats;
use super::environment::{check_tracks, initialise};
use super::error::PlayerError;
use super::mux::Muxer;
use super::output::Output;
use super::pane::Pane;
use super::present::Presenter;
use super::receive::{Destinations, Receiver};
use super::shared::{Notice, Part, Shared, halt, lock, play};
use super::supervise::{Events, Supervisor};
use super::take::Take;

/// Of the time given to stop, what waits in the jitter buffer may take so much.
const DRAIN_SHARE: u32 = 3;

/// Plays RTP packets to outputs, from [`Player::start`] to [`Player::stop`]. Dropping it stops at
/// once and leaves recordings as if the process had died.
pub struct Player {
    shared: Arc<Shared>,
    pipeline: gst::Pipeline,
    receivers: Vec<Receiver>,
    presenters: Vec<(Output, Presenter)>,
    muxers: Arc<[Muxer]>,
    /// The kinds of the tracks that it was started with.
    kinds: Vec<Kind>,
    /// The take under way, of a stored file.
    take: Option<Arc<Take>>,
    /// The window, where there is one.
    pane: Option<Arc<Pane>>,
    finished: Mutex<mpsc::Receiver<usize>>,
}

impl Player {
    /// Starts playing the tracks to the outputs. `latency` is the time from a packet's arrival to
    /// its release by the output.
    pub fn start(
        tracks: &[Format],
        outputs: &[Output],
        latency: Duration,
        events: Events,
    ) -> Result<Self, PlayerError> {
        let pane = match outputs.contains(&Output::Window) {
            true => Some(Pane::open(events.clone())?),
            false => None,
        };
        Self::start_with(None, tracks, outputs, latency, events, None, pane)
    }

    /// Starts playing, perhaps a take of a stored file. Running time is zero where the monotonic clock stands at
    /// `base_time`, in nanoseconds. `pane` is there where a window is among the outputs.
    pub(crate) fn start_at(
        base_time: u64,
        tracks: &[Format],
        outputs: &[Output],
        latency: Duration,
        events: Events,
        take: Option<Arc<Take>>,
        pane: Option<Arc<Pane>>,
    ) -> Result<Self, PlayerError> {
        Self::start_with(Some(base_time), tracks, outputs, latency, events, take, pane)
    }

    fn start_with(
        base_time: Option<u64>,
        tracks: &[Format],
        outputs: &[Output],
        latency: Duration,
        events: Events,
        take: Option<Arc<Take>>,
        pane: Option<Arc<Pane>>,
    ) -> Result<Self, PlayerError> {
        initialise()?;
        let tracks = codec::tracks(tracks)?;
        check_tracks(&tracks, outputs)?;
        let (notices, heard) = mpsc::channel();
        let (finish, finished) = mpsc::channel();
        let shared = Arc::new(Shared::new(base_time, latency, notices));
        let mut player = Self {
            pipeline: shared.pipeline(Part::Receiver),
            receivers: Vec::new(),
            presenters: Vec::new(),
            muxers: muxers(&shared, &tracks, outputs),
            kinds: tracks.iter().map(|track| track.codec.kind()).collect(),
            take,
            pane,
            shared,
            finished: Mutex::new(finished),
        };
        // From here on an early return drops the player, and so stops what has been started.
        player.present(&tracks, outputs)?;
        player.receive(&tracks)?;
        let supervisor = Supervisor {
            events,
            presenters: player.presenters.clone(),
            muxers: player.muxers.clone(),
            alive: outputs.to_vec(),
            finished: finish,
            failed: false,
            mute: false,
        };
        let thread = std::thread::Builder::new().name("player".into());
        thread
            .spawn(move || supervisor.run(&heard))
            .map_err(|error| PlayerError::Refused { what: format!("a thread: {error}") })?;
        play(&player.pipeline, "the player")?;
        Ok(player)
    }

    /// The player's clock: what [`Player::push`] takes as arrival. Starts at two minutes, so that
    /// history can have arrived before the start.
    pub fn running_time(&self) -> Duration {
        self.shared.running_time()
    }

    /// The running time of a moment that is past.
    pub(crate) fn running_time_at(&self, at: Instant) -> Duration {
        self.running_time().saturating_sub(at.elapsed())
    }

    /// Takes one RTP packet, opened, of the given track. `arrival` is the running time at which it
    /// came, or for history would have come had it been received live. History is pushed in order
    /// and repaired before: its time-outs have passed, so a gap in it isn't waited for. Nor is
    /// anything before the first packet pushed.
    pub fn push(&self, track: usize, packet: Bytes, arrival: Duration) {
        if let Some(receiver) = self.receivers.get(track) {
            receiver.push(packet, arrival);
        }
    }

    /// All that is pushed comes later by that much, from now on.
    pub fn delay(&self, by: Duration) {
        self.receivers.iter().for_each(|receiver| receiver.delay(by));
        self.shared.delayed();
    }

    /// What is late by no more than that is shown all the same from now on, once play keeps up, and told as
    /// [`PlayerEvent::Late`](super::PlayerEvent::Late): for who then has what follows come later. At first, nothing
    /// late is shown.
    pub fn bear_lateness(&self, late: Duration) {
        self.shared.bear(late);
    }

    /// Plays another take from now on, and nothing more of the one before. Blocks for some milliseconds.
    pub fn begin_take(&mut self, tracks: &[Format], take: Arc<Take>) -> Result<(), PlayerError> {
        let tracks = codec::tracks(tracks)?;
        self.freeze();
        halt(&self.pipeline);
        self.receivers.clear();
        // What was decoded while that stopped.
        self.presenters.iter().for_each(|(_, presenter)| presenter.flush());
        self.take = Some(take);
        self.pipeline = self.shared.pipeline(Part::Receiver);
        self.receive(&tracks)?;
        play(&self.pipeline, "the player")
    }

    /// Shows nothing more of the take, and leaves the last picture standing.
    pub fn freeze(&self) {
        if let Some(take) = &self.take {
            take.end();
        }
        self.presenters.iter().for_each(|(_, presenter)| presenter.flush());
    }

    /// Shows that share of the file as played in the window's seek bar; no bar for `None`.
    pub fn show_bar(&self, share: Option<f64>) {
        let Some(pane) = &self.pane else { return };
        // Where nothing else is shown, what stands is drawn again.
        if pane.show_bar(share) && self.take.as_ref().is_some_and(|take| take.is_over()) {
            pane.redraw();
        }
    }

    /// Makes the window's sound so loud, in percent, or mutes it.
    pub fn set_volume(&self, percent: u32, is_muted: bool) {
        if let Some(pane) = &self.pane {
            pane.set_volume(percent, is_muted);
        }
        self.presenters.iter().for_each(|(_, it)| it.set_volume((percent, is_muted)));
    }

    /// The take is complete: plays what there is of it.
    pub fn complete_take(&self) {
        self.receivers.iter().for_each(Receiver::end);
    }

    /// Whether all of the take has been shown, once it is complete.
    pub fn has_played_out(&self) -> bool {
        let now = self.shared.running_time();
        self.take.as_ref().is_none_or(|take| take.has_played_out(now, self.shared.latency))
    }

    /// The furthest position of the take that went to the outputs, of all tracks.
    pub fn reached(&self) -> Option<Duration> {
        let reached = self.take.as_ref()?.reached();
        Some(Duration::from_nanos(reached.max(0).cast_unsigned()))
    }

    /// Position in the file of what is shown now.
    pub fn position(&self) -> Option<Duration> {
        let take = self.take.as_ref()?;
        let position = take.showing(self.shared.running_time(), self.shared.latency);
        Some(Duration::from_nanos(position.max(0).cast_unsigned()))
    }

    /// What has been played so far.
    pub fn stats(&self) -> PlayerStats {
        self.shared.counters.stats()
    }

    #[cfg(test)]
    pub(super) fn releases(&self) -> Vec<super::counters::Release> {
        super::shared::lock(&self.shared.counters.releases).clone()
    }

    /// Plays no more, and closes what was recorded, within `deadline`.
    pub fn stop(self, deadline: Duration) -> Result<(), PlayerError> {
        let until = Instant::now() + deadline;
        self.shared.notify(Notice::Stop);
        // First those that wait for their time, as the decoder may be blocked on them.
        self.presenters.iter().for_each(|(_, presenter)| presenter.halt());
        self.receivers.iter().for_each(Receiver::end);
        let mut open: BTreeSet<usize> = (0..self.muxers.len()).collect();
        open.retain(|&index| !self.muxers[index].is_over());
        self.wait_for(&mut open, Instant::now() + deadline / DRAIN_SHARE);
        open.iter().for_each(|&index| self.muxers[index].finish());
        self.wait_for(&mut open, until);
        let unfinished = open.first().map(|&index| self.muxers[index].output().clone());
        unfinished.map_or(Ok(()), |output| Err(PlayerError::Unfinished { output, deadline }))
    }

    /// Takes out of `open` the muxers whose files are closed, until none is left or time is up.
    fn wait_for(&self, open: &mut BTreeSet<usize>, until: Instant) {
        while !open.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(index) = lock(&self.finished).recv_timeout(left) else { return };
            open.remove(&index);
        }
    }

    fn present(&mut self, tracks: &[Track], outputs: &[Output]) -> Result<(), PlayerError> {
        let shown = outputs.iter().filter(|output| output.container().is_none());
        for output in shown {
            for (track, kind) in tracks.iter().map(|track| track.codec.kind()).enumerate() {
                let part = Part::Presenter(self.presenters.len());
                let presenter =
                    Presenter::start(&self.shared, part, output, track, kind, self.pane.as_ref())?;
                self.presenters.push((output.clone(), presenter));
            }
        }
        Ok(())
    }

    fn receive(&mut self, tracks: &[Track]) -> Result<(), PlayerError> {
        let kinds: Vec<Kind> = tracks.iter().map(|track| track.codec.kind()).collect();
        let leader = kinds.iter().position(|kind| *kind == Kind::Video).unwrap_or(0);
        for (index, track) in tracks.iter().enumerate() {
            // A take may lack the sound that others have: its tracks go where those of their kind went.
            let place = match &self.take {
                Some(_) => self.kinds.iter().position(|kind| *kind == kinds[index]),
                None => Some(index),
            };
            let Some(place) = place else { continue };
            let presenters = self.presenters.iter().skip(place).step_by(self.kinds.len());
            let to = Destinations {
                track: place,
                muxers: self.muxers.clone(),
                presenters: presenters.map(|(_, presenter)| presenter.clone()).collect(),
                leads: index == leader,
                take: self.take.as_ref().map(|take| (Arc::clone(take), index)),
            };
            self.receivers.push(Receiver::add(&self.pipeline, &self.shared, track, to)?);
        }
        Ok(())
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.shared.notify(Notice::Stop);
        self.presenters.iter().for_each(|(_, presenter)| presenter.halt());
        halt(&self.pipeline);
        self.muxers.iter().for_each(Muxer::halt);
        self.shared.notify(Notice::Gone);
    }
}

fn muxers(shared: &Arc<Shared>, tracks: &[Track], outputs: &[Output]) -> Arc<[Muxer]> {
    let codecs: Vec<_> = tracks.iter().map(|track| track.codec).collect();
    let with_container = outputs.iter().filter_map(|o| o.container().map(|c| (o.clone(), c)));
    let muxers = with_container.enumerate().map(|(index, (output, container))| {
        Muxer::new(shared.clone(), Part::Muxer(index), output, container, codecs.clone())
    });
    muxers.collect()
}
