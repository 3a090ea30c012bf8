//! What the window says on its picture: what is being done while there is none, that it stands still and since when,
//! how it goes and which keys there are. And what its keys do, but for those of stored files.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use protocol::link::Target;
use protocol::media::{Format, Kind};

use crate::apart::{Caption, Pane};
use crate::lately::{Lately, Rates};
use crate::meeting::Step;
use crate::stats::{State, Stats};
use crate::terminal::{bitrate, milliseconds, position, what};

/// How long a word about the volume stays.
const NOTICE: Duration = Duration::from_millis(1500);

/// Nothing came for so long, beyond what is still to be shown: the source is away.
const AWAY: Duration = Duration::from_secs(1);

/// What takes longer is told with its seconds.
const LONG: Duration = Duration::from_secs(2);

/// How loud it can be, and how far a key goes, in percent.
const LOUDEST: u32 = 100;
const LOUDER: u32 = 10;

/// Longest reason and name that are shown, in characters.
const LONGEST: usize = 200;
const LONGEST_NAME: usize = 40;

/// Keys of a live channel, of a stored file, and of both.
const LIVE_KEYS: &[(&str, &str)] = &[("+ - up down", "volume")];
const FILE_KEYS: &[(&str, &str)] = &[
    ("space", "stand still, go on"),
    ("left right", "10 s back, forth"),
    ("down up", "a minute back, forth"),
    ("Home", "to the beginning"),
    ("+ -", "volume"),
];
const KEYS: &[(&str, &str)] = &[
    ("m", "mute"),
    ("f", "full screen (or two clicks)"),
    ("i", "how it goes"),
    ("? h", "these keys"),
    ("q Esc", "end"),
];

/// What a key of the window meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meant {
    /// Watching is over.
    End,
    /// It has been done.
    Done,
    /// Nothing here.
    Nothing,
}

/// The words of one window.
pub(crate) struct Captions {
    pane: Pane,
    name: String,
    is_file: bool,
    is_by_hand: bool,
    latency: Duration,
    view: RefCell<View>,
}

/// What is known of what is shown.
struct View {
    state: State,
    since: Instant,
    /// What is being done while there is no picture.
    step: &'static str,
    kinds: Vec<Kind>,
    lately: Lately,
    /// Bytes received, and since when there are no more.
    heard: (u64, Instant),
    has_picture: bool,
    /// The path carries nothing at all.
    is_shut: bool,
    /// Since when the source has been away, as the broadcaster says.
    source_away: Option<Instant>,
    /// How it goes, a line each.
    listed: String,
    volume: u32,
    is_muted: bool,
    notice: Option<(String, Instant)>,
    panel: Option<Panel>,
    /// Why it ended.
    reason: Option<String>,
    said: Caption,
}

/// What is listed in the corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Panel {
    Stats,
    Keys,
}

impl Captions {
    /// For this window, of what a link names. `is_by_hand` says that an offer is answered; `latency` is how much later
    /// than it came something is shown.
    pub(crate) fn new(pane: Pane, target: &Target, is_by_hand: bool, latency: Duration) -> Self {
        let (name, is_file) = match target {
            Target::Channel(name) => (name.as_str(), false),
            Target::File(path) => (path.rsplit('/').next().unwrap_or(path), true),
        };
        let now = Instant::now();
        let view = View {
            state: State::default(),
            since: now,
            step: what(Step::Resolving, is_by_hand),
            kinds: Vec::new(),
            lately: Lately::default(),
            heard: (0, now),
            has_picture: false,
            is_shut: false,
            source_away: None,
            listed: String::new(),
            volume: LOUDEST,
            is_muted: false,
            notice: None,
            panel: None,
            reason: None,
            said: Caption::default(),
        };
        let name = brief(name, LONGEST_NAME);
        let captions = Self { pane, name, is_file, is_by_hand, latency, view: RefCell::new(view) };
        captions.say(now);
        captions
    }

    /// A step of joining begins.
    pub(crate) fn step(&self, step: Step<'_>) {
        let now = Instant::now();
        let mut view = self.view.borrow_mut();
        view.step = what(step, self.is_by_hand);
        view.enter(step.state(), now);
        drop(view);
        self.say(now);
    }

    /// The tracks that play from now on.
    pub(crate) fn tracks(&self, formats: &[Format]) {
        self.view.borrow_mut().kinds = formats.iter().map(|format| format.kind).collect();
    }

    /// Brings the picture up to date.
    pub(crate) fn show(&self, stats: &Stats) {
        let now = Instant::now();
        self.view.borrow_mut().look(stats, now);
        self.say(now);
    }

    /// It is over.
    pub(crate) fn end(&self, reason: &str) {
        self.view.borrow_mut().reason = Some(brief(reason, LONGEST));
        self.say(Instant::now());
    }

    /// Whether anybody can see it still.
    pub(crate) fn is_seen(&self) -> bool {
        self.pane.is_open()
    }

    /// A key was pressed, by its X name. Sinks tell keys without their modifiers: on an American keyboard, `?` is a
    /// `slash` and `+` is an `equal`.
    pub(crate) fn key(&self, key: &str) -> Meant {
        let mut view = self.view.borrow_mut();
        match key {
            "q" | "Escape" => return Meant::End,
            "i" => view.toggle(Panel::Stats),
            "question" | "slash" | "ssharp" | "h" | "F1" => view.toggle(Panel::Keys),
            // The window has done it.
            "f" => return Meant::Done,
            "m" => {
                let is_muted = !view.is_muted;
                self.sound(&mut view, 0, is_muted);
            }
            "plus" | "equal" | "KP_Add" => self.sound(&mut view, LOUDER.cast_signed(), false),
            "minus" | "KP_Subtract" => self.sound(&mut view, -LOUDER.cast_signed(), false),
            "Up" if !self.is_file => self.sound(&mut view, LOUDER.cast_signed(), false),
            "Down" if !self.is_file => self.sound(&mut view, -LOUDER.cast_signed(), false),
            _ => return Meant::Nothing,
        }
        drop(view);
        self.say(Instant::now());
        Meant::Done
    }

    /// Changes the volume, and says so.
    fn sound(&self, view: &mut View, by: i32, is_muted: bool) {
        view.volume = view.volume.saturating_add_signed(by).min(LOUDEST);
        view.is_muted = is_muted;
        self.pane.set_volume(view.volume, view.is_muted);
        let notice = match view.volume {
            _ if !view.kinds.is_empty() && !view.kinds.contains(&Kind::Audio) => "no sound".into(),
            _ if is_muted => "muted".into(),
            volume => format!("volume {volume}%"),
        };
        view.notice = Some((notice, Instant::now()));
    }

    /// Has the window say what is to be said, where that is news.
    fn say(&self, now: Instant) {
        let mut view = self.view.borrow_mut();
        let mut banner = self.banner(&view, now).unwrap_or_default();
        if let Some((notice, at)) = &view.notice
            && now.saturating_duration_since(*at) < NOTICE
        {
            banner = if banner.is_empty() { notice.clone() } else { format!("{banner}\n{notice}") };
        }
        let panel = match view.panel {
            None => String::new(),
            Some(Panel::Keys) => {
                let own = if self.is_file { FILE_KEYS } else { LIVE_KEYS };
                columns(own.iter().chain(KEYS).copied())
            }
            Some(Panel::Stats) => view.listed.clone(),
        };
        let caption = Caption { banner, panel };
        if caption != view.said {
            view.said = caption.clone();
            self.pane.say(caption);
        }
    }

    /// What is said in the middle, where something is to be said.
    fn banner(&self, view: &View, now: Instant) -> Option<String> {
        let name = &self.name;
        let lasts = now.saturating_duration_since(view.since);
        let seconds = |lasts: Duration| format!("{} s", lasts.as_secs());
        let long = if lasts >= LONG { format!(", {}", seconds(lasts)) } else { String::new() };
        match view.state {
            _ if view.reason.is_some() => {
                Some(format!("ended\n{}", view.reason.as_deref().unwrap_or_default()))
            }
            State::Ended => Some("ended".to_owned()),
            State::Reconnecting => Some(format!("reconnecting, {}", seconds(lasts))),
            State::Playing if view.source_away.is_some() => {
                let since = view.source_away.unwrap_or(now);
                let lasts = now.saturating_duration_since(since);
                Some(format!("the source is away, {}", seconds(lasts)))
            }
            State::Playing if !view.has_picture => {
                Some(format!("{name}\nwaiting for the first picture{long}"))
            }
            State::Playing => {
                let silent = now.saturating_duration_since(view.heard.1);
                let is_away = silent >= AWAY + self.latency && !self.is_file;
                if is_away && view.is_shut {
                    Some(format!("nothing gets through, {}", seconds(silent)))
                } else if is_away {
                    Some(format!("the source is away, {}", seconds(silent)))
                } else {
                    let is_heard_only = !view.kinds.contains(&Kind::Video);
                    is_heard_only.then(|| format!("{name}\nsound only"))
                }
            }
            state => {
                let state = state.as_str();
                // What is opened need not be said twice.
                let step = view.step.strip_prefix(state).unwrap_or(view.step).trim_start();
                Some(format!("{name}\n{state}: {step}{long}"))
            }
        }
    }
}

impl View {
    fn enter(&mut self, state: State, now: Instant) {
        if self.state != state {
            (self.state, self.since) = (state, now);
            // What is missing from now on counts from now on.
            self.heard.1 = now;
        }
    }

    fn look(&mut self, stats: &Stats, now: Instant) {
        self.enter(stats.state, now);
        if self.heard.0 != stats.bytes {
            self.heard = (stats.bytes, now);
        }
        self.lately.look(stats, now);
        self.has_picture = stats.player.first_frame_at.is_some();
        self.is_shut = stats.carries == Some(0);
        self.source_away = stats.source_away.flatten();
        self.listed = listed(stats, self.lately.rates());
    }

    fn toggle(&mut self, panel: Panel) {
        self.panel = if self.panel == Some(panel) { None } else { Some(panel) };
    }
}

/// How it goes, a line each.
fn listed(stats: &Stats, rates: Rates) -> String {
    let unknown = || "-".to_owned();
    let time = |time: Option<Duration>| time.map_or_else(unknown, milliseconds);
    let percent = |share: f64| format!("{:.1}%", share * 100.0);
    let size = stats.player.size.map_or_else(unknown, |(width, height)| {
        format!("{width}x{height}, {:.0} a second", rates.frames)
    });
    let lines = [
        ("state", stats.state.as_str().to_owned()),
        ("path", stats.path.unwrap_or("-").to_owned()),
        ("rtt", time(stats.rtt)),
        ("loss", percent(rates.lost)),
        ("after repair", percent(rates.unrecovered)),
        ("bitrate", bitrate(rates.bits)),
        ("latency", time(stats.latency())),
        ("pictures", size),
        ("rendition", stats.rendition.clone().unwrap_or_else(|| "the only one".to_owned())),
    ];
    let at = stats.playback.map(|playback| ("position", position(playback)));
    let lines: Vec<_> = lines.into_iter().chain(at).collect();
    columns(lines.iter().map(|(name, value)| (*name, value.as_str())))
}

/// Two columns.
fn columns<'a>(lines: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let width = lines.clone().map(|(first, _)| first.len()).max().unwrap_or(0);
    let lines = lines.map(|(first, second)| format!("{first:<width$}  {second}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The first characters, as they can be shown.
fn brief(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_has_two_columns() {
        let start = Instant::now();
        let mut stats = Stats::new(start);
        stats.state = State::Playing;
        stats.path = Some("host");
        stats.rtt = Some(Duration::from_micros(12_300));
        stats.player.size = Some((1280, 720));
        let rates = Rates { bits: 2.5e6, frames: 24.8, lost: 0.031, unrecovered: 0.0 };
        assert_eq!(
            listed(&stats, rates),
            "\
state         playing
path          host
rtt           12 ms
loss          3.1%
after repair  0.0%
bitrate       2.50 Mbit/s
latency       -
pictures      1280x720, 25 a second
rendition     the only one"
        );
    }

    #[test]
    fn names_are_short_and_can_be_shown() {
        assert_eq!(brief("a\nb\u{1b}[c", 4), "ab[c");
    }
}
