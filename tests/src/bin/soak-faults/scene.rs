//! Everything at home, and when pictures go on.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use rand::RngExt;
use rand::rngs::StdRng;
use tests::lab::{Process, Signal, eventually};
use tests::stage::{self, Broadcast, Stage, Watching, count_of};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// How long anything may take to begin.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Pictures go on where so many follow each other …
const GOING_ON: usize = 25;

/// … and none is this long after the one before.
const STANDSTILL: Duration = Duration::from_millis(200);

/// How a viewer ends whose broadcaster the rendezvous does not know.
const UNKNOWN: i32 = 6;

/// Whom something happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Rendezvous,
    Broadcaster,
    /// The one that records as well.
    Viewer,
    /// What shows for that viewer.
    Decoder,
    /// What captures and encodes for the broadcaster.
    Encoder,
}

pub(crate) fn frames(viewer: &Watching) -> u64 {
    count_of(&viewer.latest(), "frames_decoded")
}

pub(crate) fn go_on(viewer: &Watching, by: u64) {
    let before = frames(viewer);
    viewer.wait_for(PATIENCE, |stats| count_of(stats, "frames_decoded") >= before + by);
}

pub(crate) fn clip_source() -> String {
    format!("file:{}", stage::clip().display())
}

/// Waits for so long.
pub(crate) fn look_on(time: Duration) {
    let began = Instant::now();
    assert!(eventually(time + SECOND, || began.elapsed() >= time), "time stands still");
}

/// Some moment of the next two seconds.
pub(crate) fn some_moment(rng: &mut StdRng) {
    look_on(Duration::from_millis(rng.random_range(0..2_000)));
}

/// From `since` to the first picture that a viewer shows and that others follow; the longest of all viewers, which
/// are watched closely.
pub(crate) fn recovery(viewers: &[Watching], since: SystemTime) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for viewer in viewers {
        let began = Instant::now();
        let at = loop {
            go_on(viewer, GOING_ON as u64);
            if let Some(at) = goes_on_at(&viewer.shown(), since) {
                break at;
            }
            ensure!(began.elapsed() < PATIENCE, "pictures do not go on: {}", viewer.latest());
        };
        longest = longest.max(at.duration_since(since)?);
    }
    Ok(longest)
}

fn goes_on_at(shown: &[SystemTime], since: SystemTime) -> Option<SystemTime> {
    let later: Vec<SystemTime> = shown.iter().copied().filter(|at| *at > since).collect();
    let follow = |pair: &[SystemTime]| {
        pair[1].duration_since(pair[0]).is_ok_and(|between| between < STANDSTILL)
    };
    let mut runs = later.windows(GOING_ON);
    runs.find(|run| run.windows(2).all(follow)).and_then(|run| run.first().copied())
}

/// Everything at home, one viewer that plays, and one that plays and records.
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    pub(crate) rendezvous: Process,
    pub(crate) broadcast: Broadcast,
    pub(crate) viewers: Vec<Watching>,
}

impl Scene {
    pub(crate) fn start(name: &str) -> Result<Self> {
        let stage = Stage::new(3)?;
        let rendezvous = stage.start_rendezvous()?;
        let broadcast = stage.broadcast("cam", &clip_source(), "")?;
        let record = format!("record:{}", stage.path(name).display());
        let flags: [&[&str]; 2] =
            [&["--output", "null"], &["--output", "null", "--output", &record]];
        let mut viewers = Vec::new();
        for (at, flags) in flags.into_iter().enumerate() {
            viewers.push(stage.watch_closely(at, &broadcast.link, flags)?);
        }
        viewers.iter().for_each(|viewer| go_on(viewer, 50));
        Ok(Self { stage, rendezvous, broadcast, viewers })
    }

    /// Sends a signal to one of them.
    pub(crate) fn signal(&self, who: Who, signal: Signal) -> Result<()> {
        match who {
            Who::Rendezvous => self.rendezvous.kill(signal)?,
            Who::Broadcaster => self.broadcast.process.kill(signal)?,
            Who::Viewer => self.viewers[1].process.kill(signal)?,
            Who::Decoder => kill(self.decoder(), signal)?,
            Who::Encoder => kill(self.broadcast.source(), signal)?,
        }
        Ok(())
    }

    /// What shows for the viewer that records as well.
    pub(crate) fn decoder(&self) -> Pid {
        self.viewers[1].player(true)
    }

    /// Nothing was lost, and no path either.
    pub(crate) fn is_untouched(&self, viewer: &Watching) -> Result<()> {
        let last = viewer.latest();
        for key in ["packets_unrecovered", "reconnects"] {
            ensure!(count_of(&last, key) == 0, "{key}: {last}");
        }
        Ok(())
    }

    /// Somebody new gets in.
    pub(crate) fn another_joins(&self) -> Result<()> {
        self.joins_since(SystemTime::now()).map(drop)
    }

    /// From `since` until somebody new asks and gets in. Who asks before ends, and is told that there is nobody.
    pub(crate) fn joins_since(&self, since: SystemTime) -> Result<Duration> {
        loop {
            let asked = since.elapsed()?;
            let viewer = self.stage.watch(2, &self.broadcast.link, &["--output", "null"])?;
            let is_in = || count_of(&viewer.latest(), "frames_decoded") > 0;
            let ended = || viewer.process.try_wait().ok().flatten();
            let settled = eventually(PATIENCE, || is_in() || ended().is_some());
            ensure!(settled && asked < PATIENCE, "{}", viewer.process.stderr().text());
            if let Some(status) = ended() {
                let words = viewer.process.stderr().text();
                ensure!(status.code() == Some(UNKNOWN), "{status}: {words}");
                continue;
            }
            viewer.stop()?;
            return Ok(asked);
        }
    }
}
