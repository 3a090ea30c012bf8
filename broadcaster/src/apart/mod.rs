//! The source in a process of its own: capture devices' drivers, demultiplexers and encoders may crash, and the
//! broadcast goes on.
//!
//! The process is this program again, told over a socket what to do ([`wire`]), and does it with the
//! [`Producer`](crate::media::Producer) of [`media`](crate::media). It sends packets by access unit, as they are to be
//! sealed. Where it ends by itself, that is a failure of the source like any other: another one is started, and goes on
//! in the same channel.

mod child;
mod wire;

use std::io::{BufReader, Write};
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
use service::log::LogFormat;

pub(crate) use child::run;
use wire::{Frame, Order, Start, Word};

use crate::media::{Continuation, EncoderStats, Event, EventSink, MediaConfig, MediaError};

/// The program that runs, even where another one was put into its place since.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// How long a source may take to begin: on a cold machine, all plugins are loaded first.
const BEGINNING: Duration = Duration::from_secs(30);

/// How long it may take to stop before it is ended, and how often it is looked whether it has.
const STOPPING: Duration = Duration::from_secs(3);
const LOOKING: Duration = Duration::from_millis(2);

/// It says how far it is five times a second. One that says nothing for so long hangs, as drivers do.
const SILENCE: Duration = Duration::from_secs(5);

/// Times within the encoder that wait to be fetched, at most.
const MOST_TIMES: usize = 1024;

/// What is read at once, in bytes.
const BUFFERED: usize = 1 << 16;

/// A running source, in another process. Dropping it stops it.
pub(crate) struct Apart {
    link: Arc<Link>,
    orders: Mutex<UnixStream>,
    hearing: Option<JoinHandle<()>>,
}

/// The process, as who hears it and who stops it see it.
struct Link {
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
    /// Starts a source. What is wrong with it at first sight is returned; what shows later comes as
    /// [`Event::Failed`].
    ///
    /// # Errors
    ///
    /// What the source says, or that no process can be started.
    pub(crate) fn start(
        config: &MediaConfig,
        log_format: LogFormat,
        events: EventSink,
    ) -> Result<Self, MediaError> {
        Self::start_at(config, log_format, events, None)
    }

    /// As [`Self::start`], in the place of one that failed: [`Event::Ready`] comes again.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub(crate) fn resume(
        config: &MediaConfig,
        log_format: LogFormat,
        events: EventSink,
        before: Continuation,
    ) -> Result<Self, MediaError> {
        Self::start_at(config, log_format, events, Some(before))
    }

    fn start_at(
        config: &MediaConfig,
        log_format: LogFormat,
        events: EventSink,
        before: Option<Continuation>,
    ) -> Result<Self, MediaError> {
        let impossible = |error: std::io::Error| MediaError::Crashed {
            how: format!("cannot be started: {error}"),
        };
        let (ours, theirs) = UnixStream::pair().map_err(impossible)?;
        let mut command = Command::new(THIS_PROGRAM);
        command.arg0("punchcast-broadcaster").args(["--log-format", log_format.as_str(), "source"]);
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
        let child = Mutex::new(command.spawn().map_err(impossible)?);
        // The other side's end is the child's alone from here on.
        drop(command);
        let continuation = before.clone().unwrap_or_default();
        let stands = Mutex::new(Stands { continuation, times: Vec::new() });
        let link = Arc::new(Link { child, stands, is_stopping: AtomicBool::new(false) });
        let (hears, from) = (Arc::clone(&link), ours.try_clone().map_err(impossible)?);
        let (answer, answers) = mpsc::channel();
        let hearing = std::thread::Builder::new()
            .name("source".into())
            .spawn(move || hears.hear(from, &events, &answer))
            .map_err(impossible)?;
        // From here on, leaving early stops what has been started.
        let apart = Self { link, orders: Mutex::new(ours), hearing: Some(hearing) };
        let as_json = |settings: serde_json::Result<String>| {
            settings.map_err(|error| MediaError::Config { problem: error.to_string() })
        };
        apart.order(&Order::Start(Box::new(Start {
            source: config.source.in_full(),
            video: as_json(serde_json::to_string(&config.video))?,
            audio: as_json(serde_json::to_string(&config.audio))?,
            before,
        })));
        match answers.recv_timeout(BEGINNING) {
            Ok(begun) => begun.map(|()| apart),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(MediaError::Crashed {
                how: format!("did not begin within {} s", BEGINNING.as_secs()),
            }),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(apart.link.crashed()),
        }
    }

    /// What another one needs to go on in this one's place.
    pub(crate) fn continuation(&self) -> Continuation {
        self.link.stands().continuation.clone()
    }

    /// Asks the encoder for a keyframe. Sources that come encoded elsewhere, such as files, go on as they are.
    pub(crate) fn request_keyframe(&self) {
        self.order(&Order::Keyframe);
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
        let pid = self.link.child().id();
        Usage::read(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
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
        let until = Instant::now() + STOPPING;
        let is_there = || self.hearing.as_ref().is_some_and(|hearing| !hearing.is_finished());
        while is_there() && Instant::now() < until {
            std::thread::sleep(LOOKING);
        }
        if is_there() {
            tracing::warn!("the source does not stop; ending it");
            self.link.kill();
        }
        if self.hearing.take().is_some_and(|hearing| hearing.join().is_err()) {
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
        answer: &mpsc::Sender<Result<(), MediaError>>,
    ) {
        let mut from = BufReader::with_capacity(BUFFERED, from);
        let tell = |event| {
            if !self.is_stopping.load(Ordering::SeqCst) {
                events(event);
            }
        };
        let (mut has_begun, mut is_over, mut hangs) = (false, false, false);
        loop {
            let word = match wire::read::<Word>(&mut from) {
                Ok(Some(Frame::Unit(unit))) => {
                    tell(Event::Unit(unit));
                    continue;
                }
                Ok(Some(Frame::Words(word))) => word,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "a source that is heard no more");
                    hangs = error.kind() == std::io::ErrorKind::WouldBlock;
                    self.kill();
                    break;
                }
            };
            match word {
                Word::Begun => {
                    has_begun = true;
                    if let Err(error) = from.get_ref().set_read_timeout(Some(SILENCE)) {
                        tracing::warn!(%error, "a source that hangs would not be noticed");
                    }
                    // Who has waited too long does so no more.
                    let _ = answer.send(Ok(()));
                }
                Word::Refused(why) => {
                    is_over = true;
                    let _ = answer.send(Err(MediaError::Apart(why)));
                }
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
        let ended = self.child().wait();
        if has_begun && !is_over {
            tell(Event::Failed(if hangs {
                let how = format!("said nothing for {} s, and was ended", SILENCE.as_secs());
                MediaError::Crashed { how }
            } else {
                crashed(ended)
            }));
        }
    }

    /// How it ended that never began.
    fn crashed(&self) -> MediaError {
        crashed(self.child().wait())
    }
}

/// What a process that ended by itself is told to have done.
fn crashed(ended: std::io::Result<ExitStatus>) -> MediaError {
    let how = match ended {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => match Signal::try_from(signal) {
                Ok(signal) => format!("was ended by {signal}"),
                Err(_) => format!("was ended by signal {signal}"),
            },
            (None, Some(code)) => format!("ended by itself with code {code}"),
            (None, None) => "ended by itself".to_owned(),
        },
        Err(error) => format!("is gone: {error}"),
    };
    MediaError::Crashed { how }
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
