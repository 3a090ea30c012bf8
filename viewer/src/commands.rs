//! What the person watching a stored file wants, as lines on standard input or keys in the window.

use std::fmt;
use std::io::{BufRead, IsTerminal};
use std::str::FromStr;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use tokio::sync::mpsc;

use crate::terminal;

/// How far the arrow keys go, and with a modifier key.
const STEP: Duration = Duration::from_secs(10);

/// One thing that is wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Command {
    /// Stand still.
    Pause,
    /// Go on.
    Play,
    /// The one of the two that it is not.
    Toggle,
    /// Go to this position.
    Seek(Duration),
    /// Go on from this much further, or back.
    Skip(Duration, bool),
    /// Play so fast, in percent.
    Rate(u32),
    /// End.
    Quit,
}

/// How often it is tried to read from a terminal in whose background we are.
const FOREGROUND_CHECK: Duration = Duration::from_secs(1);

/// Why a line is no command.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("'{0}' is no command: pause, play, seek 1m30s, rate 2, quit")]
pub(crate) struct NoCommand(String);

impl FromStr for Command {
    type Err = NoCommand;

    fn from_str(line: &str) -> Result<Self, NoCommand> {
        let no = || NoCommand(line.trim().chars().filter(|c| !c.is_control()).take(40).collect());
        let mut words = line.split_whitespace();
        let (first, second) = (words.next(), words.next());
        if words.next().is_some() {
            return Err(no());
        }
        match (first, second) {
            (Some("pause"), None) => Ok(Self::Pause),
            (Some("play"), None) => Ok(Self::Play),
            (Some("toggle"), None) => Ok(Self::Toggle),
            (Some("quit"), None) => Ok(Self::Quit),
            (Some("seek"), Some(to)) => {
                let span = |text: &str| position(text).ok_or_else(no);
                match (to.strip_prefix('+'), to.strip_prefix('-')) {
                    (Some(by), _) => Ok(Self::Skip(span(by)?, true)),
                    (_, Some(by)) => Ok(Self::Skip(span(by)?, false)),
                    _ => Ok(Self::Seek(span(to)?)),
                }
            }
            (Some("rate"), Some(rate)) => {
                let rate: f64 = rate.trim_end_matches('x').parse().map_err(|_| no())?;
                let percent = (rate * 100.0).round();
                let (least, most) =
                    (protocol::library::RATES.start(), protocol::library::RATES.end());
                if !(f64::from(*least)..=f64::from(*most)).contains(&percent) {
                    return Err(no());
                }
                Ok(Self::Rate(percent as u32))
            }
            _ => Err(no()),
        }
    }
}

/// A position as people write it: `90s`, `1m30s`, `1:30`, `1:02:03.5`, `90`.
pub(crate) fn position(text: &str) -> Option<Duration> {
    if let Ok(duration) = humantime::parse_duration(text) {
        return Some(duration);
    }
    let mut seconds = 0.0;
    for part in text.split(':') {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let part: f64 = part.parse().ok().filter(|_| digits)?;
        seconds = seconds * 60.0 + part;
    }
    (text.matches(':').count() <= 2).then(|| Duration::try_from_secs_f64(seconds).ok())?
}

/// A position as `--start` takes it.
pub(crate) fn parse_position(text: &str) -> Result<Duration, NoPosition> {
    position(text).ok_or(NoPosition)
}

/// A text that names no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoPosition;

impl std::error::Error for NoPosition {}

impl fmt::Display for NoPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a time such as 90s, 1m30s or 1:30")
    }
}

impl Command {
    /// What a key of the window means for a stored file, by its X name.
    pub(crate) fn of_key(key: &str) -> Option<Self> {
        match key {
            "space" | "k" => Some(Self::Toggle),
            "Left" => Some(Self::Skip(STEP, false)),
            "Right" => Some(Self::Skip(STEP, true)),
            "Down" => Some(Self::Skip(STEP * 6, false)),
            "Up" => Some(Self::Skip(STEP * 6, true)),
            "Home" => Some(Self::Seek(Duration::ZERO)),
            _ => None,
        }
    }
}

/// Reads commands off standard input, in a thread that ends with the process or with the input.
pub(crate) fn listen() -> mpsc::UnboundedReceiver<Command> {
    let (tell, told) = mpsc::unbounded_channel();
    let read = move || {
        // In the background of a terminal, reading stops a whole process, unless this is blocked: then it fails.
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTTIN);
        if let Err(error) = stop.thread_block() {
            tracing::warn!(%error, "no commands are taken from standard input");
            return;
        }
        for line in std::io::stdin().lock().lines() {
            let line = match line {
                Ok(line) => line,
                Err(_) if std::io::stdin().is_terminal() => {
                    std::thread::sleep(FOREGROUND_CHECK);
                    continue;
                }
                Err(_) => return,
            };
            terminal::entered();
            if line.trim().is_empty() {
                continue;
            }
            match line.parse::<Command>() {
                Ok(command) if tell.send(command).is_err() => return,
                Ok(_) => {}
                Err(error) => tracing::warn!("{error}"),
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("commands".into()).spawn(read) {
        tracing::warn!(%error, "no commands are taken from standard input");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands() {
        let seconds = Duration::from_secs;
        for (line, command) in [
            ("pause", Command::Pause),
            (" play ", Command::Play),
            ("seek 90s", Command::Seek(seconds(90))),
            ("seek 1m30s", Command::Seek(seconds(90))),
            ("seek 1:01:30", Command::Seek(seconds(3690))),
            ("seek 2.5", Command::Seek(Duration::from_millis(2500))),
            ("seek +5s", Command::Skip(seconds(5), true)),
            ("seek -1:00", Command::Skip(seconds(60), false)),
            ("rate 2", Command::Rate(200)),
            ("rate 0.5x", Command::Rate(50)),
            ("quit", Command::Quit),
        ] {
            assert_eq!(line.parse(), Ok(command), "{line}");
        }
        for line in [
            "",
            "stop",
            "seek",
            "seek soon",
            "seek 1:2:3:4",
            "seek 1 2",
            "seek -",
            "rate 0",
            "rate 9",
            "rate NaN",
            "seek inf",
        ] {
            let error = line.parse::<Command>().expect_err(line).to_string();
            assert!(error.contains("seek 1m30s"), "{line}: {error}");
        }
    }
}
