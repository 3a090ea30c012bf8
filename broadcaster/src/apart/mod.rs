//! The source in a process of its own: capture devices' drivers, demultiplexers and encoders may crash, and the
//! broadcast goes on.
//!
//! The process is this program again, told over a socket what to do ([`wire`]), and does it with the
//! [`Producer`](crate::media::Producer) of [`media`](crate::media). It sends packets by access unit, as they are to be
//! sealed. Where it ends by itself, that is a failure of the source like any other: another one is started, and goes on
//! in the same channel.

mod child;
mod wire;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};
use protocol::units::Bitrate;
use service::child::THIS_PROGRAM;
use service::log::LogFormat;

pub(crate) use child::run;
use wire::{Frame, Order, Start, Word};

use crate::media::{
    Continuation, EncoderStats, Entrance, Event, EventSink, MediaConfig, MediaError,
};
use crate::portal::Portal;
use crate::source::Tuned;

/// How long a source may take to begin: on a cold machine, all plugins are loaded first.
const BEGINNING: Duration = Duration::from_secs(30);

/// How long it may take to stop before it is ended, and to be gone then: what a driver holds in the kernel is not gone
/// at once. How often it is looked whether it is.
const STOPPING: Duration = Duration::from_secs(3);
const ENDING: Duration = Duration::from_secs(1);
const LOOKING: Duration = Duration::from_millis(2);

/// It says how far it is five times a second. One that says nothing for so long hangs, as drivers do. Two looks, so that
/// none is taken for hanging where the whole machine stood still.
const SILENCE: Duration = Duration::from_secs(3);
const LOOKS: u32 = 2;

/// How long it may take to answer.
const ANSWERING: Duration = Duration::from_secs(2);

/// Times within the encoder that wait to be fetched, at most.
const MOST_TIMES: usize = 1024;

/// What is read at once, in bytes.
const BUFFERED: usize = 1 << 16;

/// What this process opens for those of the source, one after the other.
#[derive(Clone, Default)]
pub(crate) struct Given {
    /// The port that publishers come to.
    pub(crate) entrance: Option<Entrance>,
    /// The desktop that shows its screen.
    pub(crate) portal: Option<Portal>,
}

/// A running source, in another process. Dropping it stops it.
pub(crate) struct Apart {
    link: Arc<Link>,
    orders: Mutex<UnixStream>,
    /// What becomes of other bitrates, as it answers.
    tuned: Mutex<mpsc::Receiver<Option<bool>>>,
    hearing: Option<JoinHandle<()>>,
}

/// The process, as who hears it and who stops it see it.
struct Link {
    pid: u32,
    /// Held for moments only.
    child: Mutex<Child>,
    stands: Mutex<Stands>,
    is_stopping: AtomicBool,
}

/// How far it is.
#[derive(Default)]
struct Stands {
    continuation: Continuation,
    times: Vec<Duration>,
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// Processor time since its start, of user and system.
    pub(crate) cpu: Duration,
    /// Memory that it holds now, in bytes.
    pub(crate) resident: u64,
}

impl Usage {
    /// From the text of `/proc/PID/stat` (proc_pid_stat(5)).
    fn read(stat: &str) -> Option<Self> {
        // The program's name, in brackets, may hold spaces. What follows begins with field 3.
        let (_, behind) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = behind.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let unit = |of, usual: u64| {
            let known = sysconf(of).ok().flatten();
            known.and_then(|known| u64::try_from(known).ok()).unwrap_or(usual)
        };
        let ticks = field(14)? + field(15)?;
        let cpu = Duration::from_secs(ticks) / unit(SysconfVar::CLK_TCK, 100) as u32;
        let resident = field(24)? * unit(SysconfVar::PAGE_SIZE, 4096);
        Some(Self { cpu, resident })
    }
}

impl Apart {
    /// Starts a source, perhaps in the place of one that failed: [`Event::Ready`] comes again then. What is wrong with
    /// it at first sight is returned; what shows later comes as [`Event::Failed`].
    ///
    /// # Errors
    ///
    /// What the source says, or that no process can be started.
    pub(crate) fn start(
        config: &MediaConfig,
        (log_format, given): (LogFormat, &Given),
        events: EventSink,
        before: Option<Continuation>,
    ) -> Result<Self, MediaError> {
        let impossible = |error: std::io::Error| MediaError::Crashed {
            how: format!("cannot be started: {error}"),
        };
        let shown = given.portal.as_ref().map(|portal| portal.open(&events)).transpose()?;
        let (ours, theirs) = UnixStream::pair().map_err(impossible)?;
        let from = ours.try_clone().map_err(impossible)?;
        let mut command = Command::new(THIS_PROGRAM);
        command.arg0("punchcast-broadcaster").args(["--log-format", log_format.as_str(), "source"]);
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        // It writes nothing there, and takes from there what it is to listen on, or PipeWire.
        let port = given.entrance.as_ref().map(Entrance::to_hand_over);
        let port = port.transpose().map_err(impossible)?;
        let node = shown.as_ref().map(|shown| shown.node);
        let handed_over = port.or(shown.map(|shown| shown.remote));
        command.stdout(handed_over.map_or_else(Stdio::null, Stdio::from));
        let child = command.spawn().map_err(impossible)?;
        let (pid, child) = (child.id(), Mutex::new(child));
        // The other side's end is the child's alone from here on.
        drop(command);
        let continuation = before.clone().unwrap_or_default();
        let stands = Mutex::new(Stands { continuation, times: Vec::new() });
        let link = Arc::new(Link { pid, child, stands, is_stopping: AtomicBool::new(false) });
        // From here on, leaving early stops what has been started.
        let (tuned, answers_tuned) = mpsc::channel();
        let (orders, answers_tuned) = (Mutex::new(ours), Mutex::new(answers_tuned));
        let mut apart = Self { link, orders, tuned: answers_tuned, hearing: None };
        let hears = Arc::clone(&apart.link);
        let (answer, answers) = mpsc::channel();
        let hearing = std::thread::Builder::new()
            .name("source".into())
            .spawn(move || hears.hear(from, &events, (&answer, &tuned)));
        apart.hearing = Some(hearing.map_err(impossible)?);
        let as_json = |settings: serde_json::Result<String>| {
            settings.map_err(|error| MediaError::Config { problem: error.to_string() })
        };
        apart.order(&Order::Start(Box::new(Start {
            source: config.source.in_full(),
            video: as_json(serde_json::to_string(&config.video))?,
            audio: as_json(serde_json::to_string(&config.audio))?,
            before,
            node,
        })));
        match answers.recv_timeout(BEGINNING) {
            Ok(begun) => begun.map(|()| apart),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(MediaError::Crashed {
                how: format!("did not begin within {} s", BEGINNING.as_secs()),
            }),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(apart.link.gone()),
        }
    }

    /// What another one needs to go on in this one's place.
    pub(crate) fn continuation(&self) -> Continuation {
        self.link.stands().continuation.clone()
    }

    /// Asks the encoder of a rendition for a keyframe; the only one is number 0. Sources that come encoded elsewhere, such
    /// as files, go on as they are.
    pub(crate) fn request_keyframe(&self, rendition: usize) {
        self.order(&Order::Keyframe(rendition as u32));
    }

    /// Encodes those renditions whose bits are set, and no others; all until then.
    pub(crate) fn encode(&self, wanted: u32) {
        self.order(&Order::Encode(wanted));
    }

    /// Has a rendition encoded at this rate from its next picture on; the only one is number 0. `None` where
    /// no answer comes.
    pub(crate) fn tune(&self, rendition: usize, rate: Bitrate) -> Option<Tuned> {
        let answers = self.tuned.lock().unwrap_or_else(PoisonError::into_inner);
        // One that came too late is of another question.
        while answers.try_recv().is_ok() {}
        self.order(&Order::Tune(rendition as u32, rate.as_bits_per_second()));
        answers.recv_timeout(ANSWERING).ok().map(|takes_it| match takes_it {
            Some(true) => Tuned::Now,
            Some(false) => Tuned::Cannot,
            None => Tuned::Never,
        })
    }

    /// What has been encoded so far, as of a moment ago.
    pub(crate) fn encoder_stats(&self) -> EncoderStats {
        self.link.stands().continuation.encoded
    }

    /// How long each picture was within the encoder, of those that came out since this was asked last.
    pub(crate) fn take_encoding_times(&self) -> Vec<Duration> {
        std::mem::take(&mut self.link.stands().times)
    }

    /// What the process has used, as the system counts it. `None` where it is gone.
    pub(crate) fn usage(&self) -> Option<Usage> {
        Usage::read(&std::fs::read_to_string(format!("/proc/{}/stat", self.link.pid)).ok()?)
    }

    fn order(&self, order: &Order) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        // That it is gone is told by who hears it.
        if let Err(error) = orders.write_all(&wire::words(order)) {
            tracing::debug!(%error, "nobody takes orders for the source");
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.link.is_stopping.store(true, Ordering::SeqCst);
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        // It stops in order when it hears no more.
        if orders.shutdown(Shutdown::Write).is_err() {
            tracing::debug!("the source is gone already");
        }
        drop(orders);
        let hearing = self.hearing.take();
        let is_over = |within: Duration| {
            let until = Instant::now() + within;
            let is_there = || hearing.as_ref().is_some_and(|hearing| !hearing.is_finished());
            while is_there() && Instant::now() < until {
                std::thread::sleep(LOOKING);
            }
            !is_there()
        };
        if hearing.is_none() || !is_over(STOPPING) {
            tracing::warn!("the source does not stop; ending it");
            self.link.kill();
            // What hears it ends it for good, or gives it up; nothing that it says is passed on.
            if !is_over(2 * ENDING + STOPPING) || hearing.is_none() && self.link.ended().is_none() {
                tracing::warn!(pid = self.link.pid, "a source is left behind");
                return;
            }
        }
        if hearing.is_some_and(|hearing| hearing.join().is_err()) {
            tracing::error!("the thread that hears the source panicked");
        }
    }
}

impl Link {
    fn stands(&self) -> MutexGuard<'_, Stands> {
        self.stands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kill(&self) {
        if let Err(error) = self.child().kill() {
            tracing::debug!(%error, "a source that is left behind");
        }
    }

    /// Hears what it says, until its end.
    fn hear(
        &self,
        from: UnixStream,
        events: &EventSink,
        (answer, tuned): (&mpsc::Sender<Result<(), MediaError>>, &mpsc::Sender<Option<bool>>),
    ) {
        let mut from = BufReader::with_capacity(BUFFERED, from);
        let tell = |event| {
            if !self.is_stopping.load(Ordering::SeqCst) {
                events(event);
            }
        };
        let (mut has_begun, mut is_over, mut silent) = (false, false, 0);
        // Why it was ended, where it was.
        let mut fault: Option<String> = None;
        loop {
            match from.fill_buf() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    silent += 1;
                    if silent < LOOKS {
                        continue;
                    }
                    fault =
                        Some(format!("said nothing for {} s, and was ended", SILENCE.as_secs()));
                    self.kill();
                    break;
                }
                _ => silent = 0,
            }
            let word = match wire::read::<Word>(&mut from) {
                Ok(Some(Frame::Unit(unit))) => {
                    tell(Event::Unit(unit));
                    continue;
                }
                Ok(Some(Frame::Words(word))) => word,
                Ok(None) => break,
                Err(error) => {
                    fault = Some(format!("said what makes no sense ({error}), and was ended"));
                    self.kill();
                    break;
                }
            };
            match word {
                Word::Begun => {
                    has_begun = true;
                    if let Err(error) = from.get_ref().set_read_timeout(Some(SILENCE / LOOKS)) {
                        tracing::warn!(%error, "a source that hangs would not be noticed");
                    }
                    // Who has waited too long does so no more.
                    let _ = answer.send(Ok(()));
                }
                Word::Refused(why) => {
                    is_over = true;
                    let _ = answer.send(Err(MediaError::Apart(why)));
                }
                // Who asked may wait no more.
                Word::Tuned(takes_it) => drop(tuned.send(takes_it)),
                Word::Ready(formats) => tell(Event::Ready(formats)),
                Word::TrackEnded(track) => tell(Event::TrackEnded(track as usize)),
                Word::Ended => {
                    is_over = true;
                    tell(Event::Ended);
                }
                Word::Failed(why) => {
                    is_over = true;
                    tell(Event::Failed(MediaError::Apart(why)));
                }
                Word::Stands(continuation, times) => {
                    let mut stands = self.stands();
                    stands.continuation = continuation;
                    let room = MOST_TIMES.saturating_sub(stands.times.len());
                    stands.times.extend(times.into_iter().take(room).map(Duration::from_micros));
                }
            }
        }
        let gone = self.gone();
        if has_begun && !is_over {
            tell(Event::Failed(fault.map_or(gone, |how| MediaError::Crashed { how })));
        }
    }

    /// Waits for its end, and has it end where it does not by itself: within a bounded time. `None` where it is there
    /// still.
    fn ended(&self) -> Option<ExitStatus> {
        for within in [ENDING + STOPPING, ENDING] {
            let until = Instant::now() + within;
            while Instant::now() < until {
                if let Ok(Some(status)) = self.child().try_wait() {
                    return Some(status);
                }
                std::thread::sleep(LOOKING);
            }
            self.kill();
        }
        None
    }

    /// What became of it that says nothing more.
    fn gone(&self) -> MediaError {
        let how = match self.ended() {
            Some(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => match Signal::try_from(signal) {
                    Ok(signal) => format!("was ended by {signal}"),
                    Err(_) => format!("was ended by signal {signal}"),
                },
                (None, Some(code)) => format!("ended by itself with code {code}"),
                (None, None) => "ended by itself".to_owned(),
            },
            None => format!("({}) is stuck, and left behind", self.pid),
        };
        MediaError::Crashed { how }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_uses_is_read() {
        let stat = "42 (a (strange) name) S 1 2 3 0 -1 4 5 6 7 8 150 50 0 0 20 0 9 0 77 1000 300 18446744073709551615";
        let usage = Usage::read(stat).expect("whole");
        assert_eq!(usage.cpu, Duration::from_secs(2));
        assert_eq!(usage.resident, 300 * 4096);
        assert_eq!(Usage::read("42 (name) S 1 2"), None);
        let own = std::fs::read_to_string("/proc/self/stat").expect("Linux");
        assert!(Usage::read(&own).expect("whole").resident > 1_000_000);
    }
}
