//! What people see who watch at a terminal: the steps of joining as they happen, a line each, and below them one line
//! of how it goes, which is drawn anew twice a second and is gone in the end. It has the names of states that the
//! statistics have. Logs go above it.
//!
//! All is drawn on standard error by a thread of its own: a terminal that stands still (Ctrl-S) stops the drawing
//! alone.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::process::ChildStderr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nix::unistd::{getpgrp, tcgetpgrp};
use service::log::LogFormat;
use tracing::level_filters::LevelFilter;

use crate::lately::Lately;
use crate::meeting::Step;
use crate::stats::{Playback, State, Stats};

/// Where what is also a step is logged: not where steps are shown, unless `RUST_LOG` asks for it.
pub(crate) const STEPS: &str = "viewer::steps";

/// From one drawing to the next.
pub(crate) const INTERVAL: Duration = Duration::from_millis(500);

/// What may wait to be drawn.
const MOST_WAITING: usize = 32;

/// How long the line may take to go.
const CLEARING: Duration = Duration::from_millis(200);

/// Most bytes of a line of another process's log.
const LONGEST_LINE: u64 = 16 * 1024;

/// The line that is drawn, for whoever writes beside it.
static LINE: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn line() -> MutexGuard<'static, Option<ProgressBar>> {
    LINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether standard error is for people who look on, and not somebody else's at the time.
fn is_wanted(format: LogFormat) -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
    format == LogFormat::Text && !is_dumb && io::stderr().is_terminal() && is_in_front()
}

/// Whether a terminal's shell has put this program before its people, and not in the background.
fn is_in_front() -> bool {
    // Who is not controlled by that terminal has no background.
    tcgetpgrp(io::stderr()).map_or(true, |front| front == getpgrp())
}

/// Starts logging, above the line where there will be one.
pub(crate) fn start_log(format: LogFormat) {
    service::log::init_to(format, || Beside, is_wanted(format).then_some(STEPS));
}

/// Writes to the terminal while nothing is drawn there.
pub(crate) fn aside<T>(write: impl FnOnce() -> T) -> T {
    let drawn = line().clone();
    match drawn {
        Some(bar) => {
            let written = bar.suspend(write);
            go_back();
            written
        }
        None => write(),
    }
}

/// Somebody at the terminal entered a line of input, which took it to the next row.
pub(crate) fn entered() {
    if is_drawn() && io::stdin().is_terminal() {
        // One up, where the line is drawn over what was typed. A terminal that is gone needs nothing.
        let _ = io::stderr().write_all(b"\x1b[A");
    }
}

/// Has what a terminal itself shows, as the key that ends the program (`^C`), come at the beginning of the line: behind
/// its end, which is that of the row, it would begin another row, and the line's would be left behind.
fn go_back() {
    // A terminal that is gone needs nothing.
    let _ = io::stderr().write_all(b"\r");
}

/// Standard error, above the line.
struct Beside;

impl Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        aside(|| io::stderr().write(bytes))
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        aside(|| io::stderr().write_all(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Whether a line is drawn, so that another process must not write there by itself.
pub(crate) fn is_drawn() -> bool {
    line().is_some()
}

/// Writes what another process logs above the line, for as long as it does.
///
/// # Errors
///
/// Where there is no thread for it.
pub(crate) fn relay(log: ChildStderr) -> io::Result<()> {
    let relaying = move || {
        let mut log = BufReader::new(log);
        let mut bytes = Vec::new();
        while matches!((&mut log).take(LONGEST_LINE).read_until(b'\n', &mut bytes), Ok(1..)) {
            let text = String::from_utf8_lossy(&bytes);
            // It is trusted with nothing, and so not with the terminal.
            let plain: String = text.trim_end().chars().filter(|c| !c.is_control()).collect();
            // A terminal that is gone takes no log.
            let _ = Beside.write_all(format!("{plain}\n").as_bytes());
            bytes.clear();
        }
    };
    std::thread::Builder::new().name("log".into()).spawn(relaying).map(drop)
}

/// What is drawn.
enum Word {
    /// A line that stays.
    Step(String),
    /// What the last line says from now on.
    Status(String),
}

/// The status, where it is shown.
pub(crate) struct Board {
    words: Option<SyncSender<Word>>,
    cleared: Receiver<()>,
    view: RefCell<View>,
    is_by_hand: bool,
}

/// What is known of what was drawn.
struct View {
    state: State,
    since: Instant,
    has_picture: bool,
    was_playing: bool,
    lately: Lately,
}

impl Board {
    /// Begins to draw, where somebody looks on and logs are not switched off. `is_by_hand` says that an offer is
    /// answered.
    pub(crate) fn start(format: LogFormat, is_by_hand: bool) -> Option<Self> {
        if !is_wanted(format) || LevelFilter::current() < LevelFilter::WARN {
            return None;
        }
        let view = View {
            state: State::default(),
            since: Instant::now(),
            has_picture: false,
            was_playing: false,
            lately: Lately::default(),
        };
        let style = ProgressStyle::with_template("{msg}").ok()?;
        // Never empty: else a step's own line would be the last one, and drawn over.
        let bar = ProgressBar::new_spinner().with_style(style).with_message(waiting(&view));
        *line() = Some(bar.clone());
        let (words, waiting) = sync_channel(MOST_WAITING);
        let (clearing, cleared) = sync_channel(1);
        let draw = move || {
            for word in waiting {
                match word {
                    Word::Step(text) => bar.println(text),
                    Word::Status(text) if is_in_front() => bar.set_message(text),
                    Word::Status(_) => continue,
                }
                go_back();
            }
            bar.finish_and_clear();
            *line() = None;
            // Nobody waits when the process ends at once.
            let _ = clearing.send(());
        };
        std::thread::Builder::new().name("terminal".into()).spawn(draw).ok()?;
        Some(Self { words: Some(words), cleared, view: RefCell::new(view), is_by_hand })
    }

    /// A step of joining begins.
    pub(crate) fn step(&self, step: Step<'_>) {
        let mut what = what(step, self.is_by_hand).to_owned();
        if let Step::Joining(path) = step {
            let (kind, rtt) = (path.kind.as_str(), milliseconds(path.rtt));
            let connected =
                format!("connected by a {kind} path to {}, round trip {rtt}", path.remote);
            what = format!("{connected}; {what}");
        }
        let mut view = self.view.borrow_mut();
        view.enter(step.state());
        self.tell_step(step.state(), &what);
        self.tell(Word::Status(waiting(&view)));
    }

    /// Shows how it goes.
    pub(crate) fn show(&self, stats: &Stats) {
        let now = Instant::now();
        let mut view = self.view.borrow_mut();
        let before = (view.state, view.since);
        view.enter(stats.state);
        if stats.state == State::Playing && before.0 != State::Playing {
            if !view.was_playing {
                self.tell_step(stats.state, "waiting for the first picture");
            } else {
                let path = stats.path.unwrap_or("unknown");
                let after = before.1.elapsed().as_secs_f64();
                self.tell_step(stats.state, &format!("back after {after:.1} s by a {path} path"));
            }
            view.was_playing = true;
        }
        if let (Some(at), false) = (stats.player.first_frame_at, view.has_picture) {
            view.has_picture = true;
            let after = at.saturating_duration_since(stats.started_at()).as_secs_f64();
            self.tell_step(stats.state, &format!("first picture, {after:.1} s after the start"));
        }
        view.lately.look(stats, now);
        let text = match stats.state {
            State::Ended => return,
            State::Playing => playing(stats, &view),
            _ => waiting(&view),
        };
        self.tell(Word::Status(text));
    }

    fn tell_step(&self, state: State, what: &str) {
        self.tell(Word::Step(format!("{:<12} {what}", state.as_str())));
    }

    fn tell(&self, word: Word) {
        if let Some(words) = &self.words {
            // Too much waits: the terminal stands still, and what it shows next is newer.
            let _ = words.try_send(word);
        }
    }
}

impl Drop for Board {
    /// Waits a moment for the line to be gone.
    fn drop(&mut self) {
        self.words = None;
        // A terminal that stands still is not waited for.
        let _ = self.cleared.recv_timeout(CLEARING);
    }
}

impl View {
    fn enter(&mut self, state: State) {
        if self.state != state {
            self.state = state;
            self.since = Instant::now();
        }
    }
}

/// What is being done in a step.
pub(crate) fn what(step: Step<'_>, is_by_hand: bool) -> &'static str {
    match (step, is_by_hand) {
        (Step::Resolving, false) => "looking up the rendezvous",
        (Step::Resolving, true) => "asking a STUN server for our address",
        (Step::Introducing, false) => "looking for the broadcaster",
        (Step::Introducing, true) => "making the answer",
        (Step::Opening, false) => "opening a path through the firewalls",
        (Step::Opening, true) => "waiting for the broadcaster to take the answer",
        (Step::Joining(_), _) => "asking to be let in",
    }
}

/// The line while nothing plays.
fn waiting(view: &View) -> String {
    format!("{:<12} {} s", view.state.as_str(), view.since.elapsed().as_secs())
}

/// The line while it plays.
fn playing(stats: &Stats, view: &View) -> String {
    let totals = stats.totals();
    let rates = view.lately.rates();
    let mut parts = vec![format!("{:<12}", stats.state.as_str()), stats.path.unwrap_or("-").into()];
    if let Some(playback) = stats.playback {
        parts.push(position(playback));
    }
    if let Some(since) = stats.source_away.flatten() {
        parts.push(format!("the source is away, {} s", since.elapsed().as_secs()));
    }
    let time = |time: Option<Duration>| time.map_or("-".into(), milliseconds);
    parts.push(format!("rtt {}", time(stats.rtt)));
    parts.push(format!("latency {}", time(stats.latency())));
    parts.push(bitrate(rates.bits));
    parts.push(format!("loss {:.1}%", rates.lost * 100.0));
    parts.push(format!("repaired {}", totals.recovered_nack + totals.recovered_fec));
    parts.push(format!("unrecovered {}", totals.unrecovered));
    parts.push(format!("frames {}", stats.player.frames_decoded));
    if stats.player.frames_dropped > 0 {
        parts.push(format!("dropped {}", stats.player.frames_dropped));
    }
    let (_, columns) = console::Term::stderr().size();
    fitted(&parts, usize::from(columns))
}

/// Parts side by side, in as many lines as that takes.
fn fitted(parts: &[String], columns: usize) -> String {
    const GAP: &str = "  ";
    // Below the first part, which is the state.
    let indent = parts.first().map_or(0, String::len);
    let (mut text, mut used) = (String::new(), 0);
    for part in parts {
        if used > indent && used + GAP.len() + part.len() > columns {
            text += "\n";
            text += &" ".repeat(indent);
            used = indent;
        }
        let gap = if used == 0 { "" } else { GAP };
        text += gap;
        text += part;
        used += gap.len() + part.len();
    }
    text
}

pub(crate) fn position(playback: Playback) -> String {
    let clock = |time: Duration| format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
    let of = playback.duration.map(|all| format!(" of {}", clock(all))).unwrap_or_default();
    let how = match playback.rate {
        _ if playback.is_paused => ", paused".to_owned(),
        1.0 => String::new(),
        rate => format!(", at rate {rate}"),
    };
    format!("at {}{of}{how}", clock(playback.position))
}

pub(crate) fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

pub(crate) fn bitrate(bits_per_second: f64) -> String {
    match bits_per_second {
        rate if rate >= 1e6 => format!("{:.2} Mbit/s", rate / 1e6),
        rate => format!("{:.0} kbit/s", rate / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_has_more_lines_and_all_of_it() {
        let parts =
            ["playing     ", "host", "rtt 12 ms", "loss 0.0%", "frames 7"].map(str::to_owned);
        assert_eq!(fitted(&parts, 76), "playing       host  rtt 12 ms  loss 0.0%  frames 7");
        let narrow = fitted(&parts, 30);
        assert_eq!(
            narrow,
            "playing       host  rtt 12 ms\n              loss 0.0%\n              frames 7"
        );
        assert_eq!(fitted(&parts, 0).lines().count(), 4);
    }

    #[test]
    fn rates_and_times_are_short() {
        assert_eq!([1e6, 96_000.0].map(bitrate), ["1.00 Mbit/s", "96 kbit/s"]);
        assert_eq!(
            [0.4, 51.7].map(|ms| milliseconds(Duration::from_secs_f64(ms / 1e3))),
            ["0.4 ms", "52 ms"]
        );
    }

    #[test]
    fn a_stored_file_has_its_position() {
        let playback = Playback {
            position: Duration::from_secs(62),
            duration: Some(Duration::from_secs(600)),
            is_paused: false,
            rate: 1.0,
            seek: None,
        };
        assert_eq!(position(playback), "at 1:02 of 10:00");
        assert_eq!(position(Playback { rate: 2.0, ..playback }), "at 1:02 of 10:00, at rate 2");
        assert_eq!(
            position(Playback { is_paused: true, duration: None, ..playback }),
            "at 1:02, paused"
        );
    }
}
