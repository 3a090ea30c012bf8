//! Playing in processes of its own: what decodes, and what writes recordings, is bounded by [`sandbox`], and may crash.
//!
//! The viewer itself meets, receives, repairs and opens; GStreamer and its decoders, which a hostile broadcaster is
//! up against, run in a process for the outputs that show, and another for those that write. Each is this program
//! again, told over a socket what to do ([`wire`]), and does it with the [`Player`](crate::media::Player) of
//! [`media`](crate::media). Where one crashes, its outputs are over, and the other goes on.

mod calls;
mod child;
mod sandbox;
mod wire;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use protocol::media::Format;
use service::child::THIS_PROGRAM;
use service::log::LogFormat;
use tokio::sync::{mpsc as events, oneshot};

pub(crate) use child::run;
pub(crate) use wire::Caption;
use wire::{Frame, Order, Start, State, Told, Unstopped, Word};

use crate::media::{BASE, Output, PlayerError, PlayerEvent, PlayerStats, TakePlan, nanoseconds};
use crate::terminal;

/// How long files may take to be closed.
pub(crate) const CLOSING: Duration = Duration::from_millis(1200);

/// How long a player may take to begin: on a cold machine, all plugins are loaded first.
const BEGINNING: Duration = Duration::from_secs(30);

/// Media that waits for one process, at most, in bytes. What exceeds it is left out.
const MOST_WAITING: usize = 64 << 20;

/// Events that wait unread, at most: of a hand at the window and of lateness, which mean nothing later and are left
/// out beyond it; and of all, beyond which a process is ended that has more to tell.
const MOST_GESTURES: usize = 256;
const MOST_EVENTS: usize = 1024;

/// Answers that wait, at most: as many as are ever asked for at once.
const MOST_ANSWERS: usize = 4;

/// Frames written at once, at most, in bytes.
const AT_ONCE: usize = 1 << 18;

/// The variable that tells a process its outputs, as a JSON list of texts with secrets, which arguments lack.
pub(crate) const OUTPUTS: &str = "PUNCHCAST_OUTPUTS";

/// How a process misbehaved.
const NONSENSE: &str = "said what makes no sense";
const UNASKED: &str = "answered what it was not asked";
const OVERFULL: &str = "told more than can be read";

/// Processes that make themselves ready to play.
pub(crate) struct Prepared {
    processes: Vec<Process>,
    base_time: u64,
}

/// Processes that make themselves ready, what is told of them, and why they cannot play here.
pub(crate) type Started = (Prepared, events::Receiver<PlayerEvent>, oneshot::Receiver<PlayerError>);

/// Plays RTP packets to outputs, in other processes.
pub(crate) struct Player {
    processes: Vec<Process>,
    base_time: u64,
    take: u32,
    bar: Mutex<Option<f64>>,
}

/// The window, which is there from before a player is to after it was.
pub(crate) struct Pane {
    link: Arc<Link>,
    orders: mpsc::Sender<Vec<u8>>,
}

impl Pane {
    /// Says something on the picture.
    pub(crate) fn say(&self, caption: Caption) {
        self.order(&Order::Say(caption));
    }

    /// Makes its sound so loud, in percent, or mutes it.
    pub(crate) fn set_volume(&self, percent: u32, is_muted: bool) {
        self.order(&Order::Volume(percent, is_muted));
    }

    /// Whether anybody can see it still.
    pub(crate) fn is_open(&self) -> bool {
        self.link.is_working.load(Ordering::SeqCst)
    }

    fn order(&self, order: &Order) {
        let frame = wire::words(order);
        self.link.waiting.fetch_add(frame.len(), Ordering::Relaxed);
        // That a process is gone is told by who hears it.
        let _ = self.orders.send(frame);
    }
}

/// What all processes of one viewer share.
struct Company {
    /// Room for [`MOST_EVENTS`], and for `reserve` ends of outputs and of all, which are always told.
    events: events::Sender<PlayerEvent>,
    reserve: usize,
    /// Told once, where one of them cannot play here.
    unfit: Mutex<Option<oneshot::Sender<PlayerError>>>,
    working: AtomicUsize,
    has_begun: AtomicBool,
}

/// One process, as the viewer sees it.
struct Process {
    link: Arc<Link>,
    orders: mpsc::Sender<Vec<u8>>,
    answers: Mutex<mpsc::Receiver<Word>>,
}

struct Link {
    /// Whether its first picture counts: what is shown goes before what is written.
    leads: bool,
    outputs: Vec<Output>,
    child: Mutex<Child>,
    seen: Mutex<State>,
    is_working: AtomicBool,
    is_stopping: AtomicBool,
    /// Answers that it was asked for and has not given.
    asked: AtomicUsize,
    /// Why it was ended, where it misbehaved.
    fault: OnceLock<&'static str>,
    /// Bytes that wait to be written.
    waiting: AtomicUsize,
    is_overrun: AtomicBool,
    company: Arc<Company>,
}

impl Prepared {
    /// Starts the processes for these outputs. Gives what is told of them from then on, and a receiver that is told
    /// where they cannot play here.
    ///
    /// # Errors
    ///
    /// Where a process cannot be started.
    pub(crate) fn start(outputs: &[Output], log_format: LogFormat) -> Result<Started, PlayerError> {
        let (shown, written): (Vec<_>, Vec<_>) =
            outputs.iter().cloned().partition(|output| output.container().is_none());
        let groups: Vec<_> =
            [shown, written].into_iter().filter(|group| !group.is_empty()).collect();
        let (unfit, is_unfit) = oneshot::channel();
        let (events, told, reserve) = room(outputs.len());
        let company = Arc::new(Company {
            events,
            reserve,
            unfit: Mutex::new(Some(unfit)),
            working: AtomicUsize::new(groups.len()),
            has_begun: AtomicBool::new(false),
        });
        let mut processes = Vec::new();
        for (number, group) in groups.into_iter().enumerate() {
            let process = Process::start(number == 0, group, log_format, &company);
            processes.push(process.map_err(|error| PlayerError::Refused {
                what: format!("a process to play in: {error}"),
            })?);
        }
        // As a player of GStreamer's has it, so that nothing is ever before its beginning.
        let base_time = now().saturating_sub(nanoseconds(BASE));
        Ok((Self { processes, base_time }, told, is_unfit))
    }

    /// The window, where there is one.
    pub(crate) fn pane(&self) -> Option<Pane> {
        let has_window = |it: &&Process| it.link.outputs.contains(&Output::Window);
        let Process { link, orders, .. } = self.processes.iter().find(has_window)?;
        Some(Pane { link: Arc::clone(link), orders: orders.clone() })
    }

    /// Begins to play the tracks, or the take. `latency` is the time from a packet's arrival to its release by the
    /// output.
    ///
    /// # Errors
    ///
    /// Where the tracks cannot be played to the outputs.
    pub(crate) fn play(
        self,
        tracks: &[Format],
        latency: Duration,
        take: Option<TakePlan>,
    ) -> Result<Player, PlayerError> {
        let Self { processes, base_time } = self;
        let latency = nanoseconds(latency);
        let start = Start { tracks: tracks.to_vec(), latency, base_time, take };
        let player = Player { processes, base_time, take: 0, bar: Mutex::default() };
        player.order(&Order::Start(start));
        player.begun()?;
        if let Some(process) = player.processes.first() {
            process.link.company.has_begun.store(true, Ordering::SeqCst);
        }
        Ok(player)
    }
}

impl Player {
    /// The player's clock: what [`Self::push`] takes as arrival.
    pub(crate) fn running_time(&self) -> Duration {
        Duration::from_nanos(now().saturating_sub(self.base_time))
    }

    /// Takes one RTP packet, opened, of the given track. `arrival` is the running time at which it came.
    pub(crate) fn push(&self, track: usize, packet: &[u8], arrival: Duration) {
        let arrival = nanoseconds(arrival);
        self.working().for_each(|process| process.push(wire::media(track, arrival, packet)));
    }

    /// All that is pushed comes later by that much, from now on.
    pub(crate) fn delay(&self, by: Duration) {
        self.order(&Order::Delay(nanoseconds(by)));
    }

    /// What is late by no more than that is shown all the same from now on, and told.
    pub(crate) fn bear_lateness(&self, late: Duration) {
        self.order(&Order::Bear(nanoseconds(late)));
    }

    /// Plays another take from now on, and nothing more of the one before. Blocks for some milliseconds.
    ///
    /// # Errors
    ///
    /// Where it cannot be played.
    pub(crate) fn begin_take(
        &mut self,
        tracks: &[Format],
        take: TakePlan,
    ) -> Result<(), PlayerError> {
        self.take = self.take.wrapping_add(1);
        let number = self.take;
        self.order(&Order::BeginTake { number, tracks: tracks.to_vec(), take });
        self.begun()
    }

    /// Shows nothing more of the take, and leaves the last picture standing.
    pub(crate) fn freeze(&self) {
        self.order(&Order::Freeze);
    }

    /// Shows that share of the file as played in the window's seek bar; no bar for `None`.
    pub(crate) fn show_bar(&self, share: Option<f64>) {
        let mut bar = lock(&self.bar);
        if *bar != share {
            *bar = share;
            self.order(&Order::ShowBar(share));
        }
    }

    /// The take is complete: plays what there is of it.
    pub(crate) fn complete_take(&self) {
        self.order(&Order::CompleteTake);
    }

    /// Whether all of the take has been shown, once it is complete.
    pub(crate) fn has_played_out(&self) -> bool {
        self.working().all(|process| self.state(process).is_some_and(|state| state.has_played_out))
    }

    /// The furthest position of the take that went to the outputs, of all tracks.
    pub(crate) fn reached(&self) -> Option<Duration> {
        self.leading()?.reached.map(Duration::from_nanos)
    }

    /// Position in the file of what is shown now.
    pub(crate) fn position(&self) -> Option<Duration> {
        self.leading()?.position.map(Duration::from_nanos)
    }

    /// When the first picture of the take was shown.
    pub(crate) fn shown_at(&self) -> Option<Instant> {
        self.leading()?.shown_at.map(|at| self.instant(at))
    }

    /// What has been played so far.
    pub(crate) fn stats(&self) -> PlayerStats {
        let Some(process) = self.processes.first() else { return PlayerStats::default() };
        let state = lock(&process.link.seen).clone();
        PlayerStats {
            frames_decoded: state.frames_decoded,
            frames_dropped: state.frames_dropped,
            audio_buffers_decoded: state.audio_buffers_decoded,
            first_frame_at: state.first_frame_at.map(|at| self.instant(at)),
            latency: state.latency.map(Duration::from_nanos),
            size: state.size,
        }
    }

    /// Plays no more, and closes what was recorded, within `deadline`.
    ///
    /// # Errors
    ///
    /// Where something was not closed.
    pub(crate) fn stop(self, deadline: Duration) -> Result<(), PlayerError> {
        let until = Instant::now() + deadline;
        let working: Vec<_> = self.working().collect();
        for process in &working {
            process.link.is_stopping.store(true, Ordering::SeqCst);
            process.order(&Order::Stop(nanoseconds(deadline)));
        }
        let mut result = Ok(());
        for process in working {
            result = result.and(process.stopped(until, deadline));
        }
        result
    }

    fn order(&self, order: &Order) {
        self.working().for_each(|process| process.order(order));
    }

    /// Waits until all have begun.
    fn begun(&self) -> Result<(), PlayerError> {
        let until = Instant::now() + BEGINNING;
        self.working().try_for_each(|process| process.begun(until))
    }

    fn working(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| process.link.is_working.load(Ordering::SeqCst))
    }

    /// How far a process is with the take under way.
    fn state(&self, process: &Process) -> Option<State> {
        let state = lock(&process.link.seen);
        (state.take == self.take).then(|| state.clone())
    }

    /// How far the first that works is: what is shown goes before what is written.
    fn leading(&self) -> Option<State> {
        self.state(self.working().next()?)
    }

    /// The moment of a running time, in nanoseconds.
    fn instant(&self, running: u64) -> Instant {
        let ago = now().saturating_sub(self.base_time).saturating_sub(running);
        let now = Instant::now();
        now.checked_sub(Duration::from_nanos(ago)).unwrap_or(now)
    }
}

impl Process {
    fn start(
        leads: bool,
        outputs: Vec<Output>,
        log_format: LogFormat,
        company: &Arc<Company>,
    ) -> std::io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(THIS_PROGRAM);
        // Libraries that look up proxies would write to the user's settings, which it may not.
        command.env("GSETTINGS_BACKEND", "memory");
        command.arg0("punchcast-viewer").args(["--log-format", log_format.as_str(), "play"]);
        for output in &outputs {
            command.arg("--output").arg(output.to_string());
        }
        // Where others do not see what they must not know.
        let in_full: Vec<_> = outputs.iter().map(Output::in_full).collect();
        command.env(OUTPUTS, serde_json::to_string(&in_full)?);
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        if !outputs.contains(&Output::Stdout) {
            command.stdout(Stdio::null());
        }
        if terminal::is_drawn() {
            command.stderr(Stdio::piped());
        }
        let mut child = command.spawn()?;
        if let Some(log) = child.stderr.take() {
            terminal::relay(log)?;
        }
        let link = Arc::new(Link {
            leads,
            outputs,
            child: Mutex::new(child),
            seen: Mutex::default(),
            is_working: AtomicBool::new(true),
            is_stopping: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            fault: OnceLock::new(),
            waiting: AtomicUsize::new(0),
            is_overrun: AtomicBool::new(false),
            company: Arc::clone(company),
        });
        let (orders, ordered) = mpsc::channel();
        let (answer, answers) = mpsc::sync_channel(MOST_ANSWERS);
        let (writing, reading) = (Arc::clone(&link), Arc::clone(&link));
        let to = ours.try_clone()?;
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        thread("orders").spawn(move || writing.write(to, &ordered))?;
        thread("answers").spawn(move || reading.hear(ours, &answer))?;
        Ok(Self { link, orders, answers: Mutex::new(answers) })
    }

    fn order(&self, order: &Order) {
        if order.is_answered() {
            self.link.asked.fetch_add(1, Ordering::SeqCst);
        }
        self.send(wire::words(order));
    }

    /// Hands media on, unless too much of it waits: then the process has lost anyway.
    fn push(&self, frame: Vec<u8>) {
        let is_full = self.link.waiting.load(Ordering::Relaxed) > MOST_WAITING;
        if is_full != self.link.is_overrun.swap(is_full, Ordering::Relaxed) && is_full {
            tracing::warn!("{} can't keep up; leaving out media", self.link.work());
        }
        if !is_full {
            self.send(frame);
        }
    }

    fn send(&self, frame: Vec<u8>) {
        self.link.waiting.fetch_add(frame.len(), Ordering::Relaxed);
        // That a process is gone is told by who hears it.
        let _ = self.orders.send(frame);
    }

    fn begun(&self, until: Instant) -> Result<(), PlayerError> {
        let left = until.saturating_duration_since(Instant::now());
        match lock(&self.answers).recv_timeout(left) {
            Ok(Word::Refused(why) | Word::Unfit(why)) => Err(PlayerError::Apart(why)),
            Ok(_) => Ok(()),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(PlayerError::Crashed {
                work: self.link.work(),
                how: format!("did not begin within {BEGINNING:?}"),
            }),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(self.link.crashed()),
        }
    }

    fn stopped(&self, until: Instant, deadline: Duration) -> Result<(), PlayerError> {
        let left = until.saturating_duration_since(Instant::now());
        let answer = lock(&self.answers).recv_timeout(left);
        let unfinished = |output: Option<Output>| match output {
            Some(output) => Err(PlayerError::Unfinished { output, deadline }),
            None => Ok(()),
        };
        match answer {
            Ok(Word::Stopped(Some(Unstopped::Unfinished(output)))) => {
                self.link.kill();
                unfinished(output.parse().ok().or(self.link.outputs.first().cloned()))
            }
            Ok(Word::Stopped(Some(Unstopped::Other(why)))) => Err(PlayerError::Apart(why)),
            Ok(_) => Ok(()),
            // What shows leaves nothing behind.
            Err(_) => {
                self.link.kill();
                unfinished(self.link.outputs.iter().find(|o| o.container().is_some()).cloned())
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It hears no more, closes what is open, and ends.
        self.link.is_stopping.store(true, Ordering::SeqCst);
    }
}

impl Link {
    /// What it does, in words.
    fn work(&self) -> &'static str {
        let shows = self.outputs.iter().any(|output| output.container().is_none());
        if shows { "decoding" } else { "recording" }
    }

    fn kill(&self) {
        if let Err(error) = lock(&self.child).kill() {
            tracing::debug!(%error, "a player that is left behind");
        }
    }

    /// Writes what is ordered, until nobody orders or nobody reads.
    fn write(&self, mut to: UnixStream, ordered: &mpsc::Receiver<Vec<u8>>) {
        let mut batch = Vec::new();
        while let Ok(frame) = ordered.recv() {
            batch.extend(frame);
            while batch.len() < AT_ONCE
                && let Ok(frame) = ordered.try_recv()
            {
                batch.extend(frame);
            }
            self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
            if to.write_all(&batch).is_err() {
                return;
            }
            batch.clear();
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    }

    /// Hears what it says, until its end.
    fn hear(&self, from: UnixStream, answer: &mpsc::SyncSender<Word>) {
        let mut from = std::io::BufReader::new(from);
        let fault = loop {
            let heard = match wire::read::<Word>(&mut from, wire::MOST_SAID) {
                Ok(Some(Frame::Words(Word::State(state)))) => {
                    *lock(&self.seen) = state;
                    Ok(())
                }
                Ok(Some(Frame::Words(Word::Told(told)))) => self.told(told),
                Ok(Some(Frame::Words(Word::Unfit(why)))) => self.unfit(why, answer),
                Ok(Some(Frame::Words(word))) => self.answered(word, answer),
                // Nobody else says such things.
                Ok(Some(Frame::Media { .. })) => Err(NONSENSE),
                Ok(None) => break None,
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    tracing::debug!(%error, "what a player says makes no sense");
                    Err(NONSENSE)
                }
                Err(error) => {
                    tracing::debug!(%error, "a player that is heard no more");
                    break None;
                }
            };
            if let Err(fault) = heard {
                break Some(fault);
            }
        };
        if let Some(fault) = fault {
            let _ = self.fault.set(fault);
            self.kill();
        }
        self.over();
    }

    /// It gives an answer, which it must have been asked for.
    fn answered(&self, word: Word, answer: &mpsc::SyncSender<Word>) -> Result<(), &'static str> {
        let less = |asked: usize| asked.checked_sub(1);
        let asked = self.asked.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        if asked.is_err() {
            // Who is left says that it has stopped, though nobody asks.
            return if self.is_stopping.load(Ordering::SeqCst) { Ok(()) } else { Err(UNASKED) };
        }
        match answer.try_send(word) {
            Err(mpsc::TrySendError::Full(_)) => Err(UNASKED),
            // Nobody waits for it any more.
            Ok(()) | Err(mpsc::TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    /// It cannot play here, which it may say once, and before all have begun.
    fn unfit(&self, why: String, answer: &mpsc::SyncSender<Word>) -> Result<(), &'static str> {
        let is_late = self.company.has_begun.load(Ordering::SeqCst);
        if is_late || self.is_stopping.swap(true, Ordering::SeqCst) {
            return Err(UNASKED);
        }
        self.company.unfit(PlayerError::Apart(why.clone()));
        let _ = answer.try_send(Word::Unfit(why));
        Ok(())
    }

    fn told(&self, told: Told) -> Result<(), &'static str> {
        let event = match told {
            Told::FirstFrame if !self.leads => return Ok(()),
            Told::FirstFrame => PlayerEvent::FirstFrame,
            Told::WindowOpened => PlayerEvent::WindowOpened,
            Told::WindowClosed => PlayerEvent::WindowClosed,
            Told::Key(key) => PlayerEvent::Key(key),
            Told::Bar(share) => PlayerEvent::Bar(share),
            Told::Motion => PlayerEvent::Motion,
            Told::Late(by) => PlayerEvent::Late(Duration::from_nanos(by)),
            // Others may still have some.
            Told::Failed(_, true) => {
                self.end(None);
                return Ok(());
            }
            Told::Failed(why, false) => PlayerEvent::Failed(PlayerError::Apart(why)),
            Told::OutputFailed(output, why) => {
                let Ok(output) = output.parse() else { return Ok(()) };
                PlayerEvent::OutputFailed { output, error: PlayerError::Apart(why) }
            }
        };
        self.company.tell(event)
    }

    /// The process says nothing more.
    fn over(&self) {
        // One that says nonsense plays no more.
        let is_stopping = self.is_stopping.load(Ordering::SeqCst);
        if !is_stopping {
            let crashed = self.crashed();
            self.end(Some(&crashed));
            self.company.unfit(crashed);
        }
        if let Err(error) = lock(&self.child).wait() {
            tracing::debug!(%error, "a player's end");
        }
    }

    /// How it ended, where it was not told to.
    fn crashed(&self) -> PlayerError {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let how = match (child.wait(), self.fault.get()) {
            (_, Some(fault)) => format!("was ended, as it {fault}"),
            (Err(error), None) => error.to_string(),
            (Ok(status), None) => match status.signal().map(Signal::try_from) {
                // Our own, as it had closed its socket.
                Some(Ok(Signal::SIGKILL)) => "was ended".to_owned(),
                Some(Ok(signal)) => format!("crashed ({signal})"),
                Some(Err(_)) | None => format!("ended ({status})"),
            },
        };
        PlayerError::Crashed { work: self.work(), how }
    }

    /// Its outputs are over: they are named where others go on, and else that is the end of all.
    fn end(&self, crashed: Option<&PlayerError>) {
        if !self.is_working.swap(false, Ordering::SeqCst) {
            return;
        }
        let left = self.company.working.fetch_sub(1, Ordering::SeqCst) - 1;
        // There is room for these, or nobody listens any more.
        let tell = |event| drop(self.company.events.try_send(event));
        if left == 0 {
            tell(PlayerEvent::Failed(crashed.cloned().unwrap_or(PlayerError::NoOutputLeft)));
        } else if let Some(error) = crashed {
            for output in &self.outputs {
                let (output, error) = (output.clone(), error.clone());
                tell(PlayerEvent::OutputFailed { output, error });
            }
        }
    }
}

impl Company {
    /// Tells what a process says, where that may wait.
    fn tell(&self, event: PlayerEvent) -> Result<(), &'static str> {
        let room = self.events.capacity().saturating_sub(self.reserve);
        let passes = match event {
            PlayerEvent::Key(_)
            | PlayerEvent::Bar(_)
            | PlayerEvent::Motion
            | PlayerEvent::Late(_) => true,
            PlayerEvent::FirstFrame
            | PlayerEvent::WindowOpened
            | PlayerEvent::WindowClosed
            | PlayerEvent::Failed(_)
            | PlayerEvent::OutputFailed { .. } => false,
        };
        if passes && room <= MOST_EVENTS - MOST_GESTURES {
            return Ok(());
        }
        if room == 0 {
            return Err(OVERFULL);
        }
        // Nobody listens any more once watching is over.
        let _ = self.events.try_send(event);
        Ok(())
    }

    /// One cannot play here: told as long as nothing has begun.
    fn unfit(&self, error: PlayerError) {
        if !self.has_begun.load(Ordering::SeqCst)
            && let Some(unfit) = lock(&self.unfit).take()
        {
            let _ = unfit.send(error);
        }
    }
}

/// Room for what processes for so many outputs tell. Also how much of it is for their ends alone: one for each output,
/// one for all, and as many for each of two processes that see the last room at once.
fn room(outputs: usize) -> (events::Sender<PlayerEvent>, events::Receiver<PlayerEvent>, usize) {
    let reserve = outputs + 3;
    let (events, told) = events::channel(MOST_EVENTS + reserve);
    (events, told, reserve)
}

/// The monotonic clock, in nanoseconds: GStreamer's, and the same for all processes.
fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    time.map_or(0, nanoseconds)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that says this, and goes on for as long as it is let: what is heard of it, and how it ended, if it did.
    fn heard(asked: usize, said: impl FnOnce(UnixStream) + Send) -> (Vec<PlayerEvent>, Arc<Link>) {
        let (events, mut told, reserve) = room(1);
        let company = Arc::new(Company {
            events,
            reserve,
            unfit: Mutex::default(),
            working: AtomicUsize::new(1),
            has_begun: AtomicBool::new(true),
        });
        // What stands for it only waits.
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        let child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("a process");
        let link = Arc::new(Link {
            leads: true,
            outputs: vec![Output::Null],
            child: Mutex::new(child),
            seen: Mutex::default(),
            is_working: AtomicBool::new(true),
            is_stopping: AtomicBool::new(false),
            asked: AtomicUsize::new(asked),
            fault: OnceLock::new(),
            waiting: AtomicUsize::new(0),
            is_overrun: AtomicBool::new(false),
            company,
        });
        let (answer, _answers) = mpsc::sync_channel(MOST_ANSWERS);
        std::thread::scope(|scope| {
            scope.spawn(|| link.hear(ours, &answer));
            said(theirs);
        });
        (std::iter::from_fn(|| told.try_recv().ok()).collect(), link)
    }

    fn how_it_ended(events: &[PlayerEvent]) -> String {
        match events.last() {
            Some(PlayerEvent::Failed(error @ PlayerError::Crashed { .. })) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_answers_what_nobody_asked_is_ended() {
        let started = wire::words(&Word::Started);
        // Once is asked for.
        let (events, link) = heard(1, |mut process| {
            process.write_all(&[&started[..], &started[..]].concat()).expect("it is heard");
            // It ends only as it is ended.
            let ended = std::io::Read::read(&mut process, &mut [0]);
            assert!(!matches!(ended, Ok(1)), "{ended:?}");
        });
        assert_eq!(link.fault.get(), Some(&UNASKED));
        assert!(how_it_ended(&events).contains("was ended, as it answered what it was not asked"));
        assert!(!link.is_working.load(Ordering::SeqCst));
    }

    #[test]
    fn who_tells_more_than_is_read_is_ended_and_its_end_is_told() {
        let told = Told::OutputFailed("null".into(), "x".repeat(2000));
        let told = wire::words(&Word::Told(told));
        let (events, link) = heard(0, |mut process| while process.write_all(&told).is_ok() {});
        assert_eq!(link.fault.get(), Some(&OVERFULL));
        assert_eq!(events.len(), MOST_EVENTS + 1);
        assert!(how_it_ended(&events).contains("told more than can be read"));
    }

    #[test]
    fn a_hand_at_the_window_is_no_misbehaviour_and_waits_only_so_long() {
        let motion = wire::words(&Word::Told(Told::Motion));
        let closed = wire::words(&Word::Told(Told::WindowClosed));
        let (events, link) = heard(0, |mut process| {
            (0..50_000).for_each(|_| process.write_all(&motion).expect("it is heard"));
            process.write_all(&closed).expect("it is heard");
        });
        assert_eq!(link.fault.get(), None);
        // The window's end, and its own: the socket was closed.
        assert_eq!(events.len(), MOST_GESTURES + 2);
        assert!(matches!(events[MOST_GESTURES], PlayerEvent::WindowClosed));
    }

    #[test]
    fn words_are_short() {
        let refused = wire::words(&Word::Refused("x".repeat(wire::MOST_SAID)));
        let (events, link) = heard(1, |mut process| {
            // It may be ended before it has said all.
            let _ = process.write_all(&refused);
            let ended = std::io::Read::read(&mut process, &mut [0]);
            assert!(!matches!(ended, Ok(1)), "{ended:?}");
        });
        assert_eq!(link.fault.get(), Some(&NONSENSE));
        assert!(how_it_ended(&events).contains("makes no sense"));
    }

    #[test]
    fn the_clock_is_the_medias() {
        let before = now();
        let media = crate::media::clock();
        let after = now();
        assert!((before..=after).contains(&media), "{before} {media} {after}");
    }
}
