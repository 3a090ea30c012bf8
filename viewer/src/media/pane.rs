//! The window: `appsrc ! convert ! scale ! two texts ! sink`, in a pipeline of its own, so that a window that breaks
//! takes nothing else with it. It is there from before the first picture to after the last, dark until a player
//! [joins](Pane::join) it with pictures.
//!
//! Texts are drawn by elements that hand pictures on untouched while they have nothing to say. What stands still is
//! shown again where a text changes.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::bar::{self, Bar};
use super::error::PlayerError;
use super::frame::Frame;
use super::shared::{BASE, Notice, Part, Shared, chain, clock_time, halt, lock, make, pad, play};
use super::supervise::{Events, PlayerEvent};
use super::{present, window};

/// Decoded pictures that may wait for their time. What comes later waits coded, which is smaller.
const PICTURES_WAITING: u64 = 3;

/// What is shown before the first picture, in pixels.
const DARK: (u32, u32) = (640, 360);

/// Pictures that came so lately are followed by others, which show what is new.
const FLOWING: Duration = Duration::from_millis(250);

/// Two clicks within this are one double click.
const DOUBLE_CLICK: Duration = Duration::from_millis(500);

/// How many lines of a text would fill a picture: of what is said in its middle, and of what is listed beside.
const BANNER_LINES: u32 = 22;
const PANEL_LINES: u32 = 27;

/// Letters are no smaller than this, in pixels.
const SMALLEST_BANNER: u32 = 12;
const SMALLEST_PANEL: u32 = 10;

/// What is behind letters: the elements' own shades are light on some formats of pictures, and missing on some sinks.
const BEHIND: &str = "background='black' bgalpha='80%'";

/// What nobody sees at both ends of a line: the ground reaches no further than letters do.
const BEFORE: &str = "<span foreground='black' fgalpha='1'>▐</span>";
const AFTER: &str = "<span foreground='black' fgalpha='1'>▌</span>";

/// The loudness that a window begins with, in percent.
const LOUDEST: u32 = 100;

/// A window.
#[derive(Debug)]
pub(crate) struct Pane {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    sink: gst::Element,
    banner: Text,
    panel: Text,
    bar: Bar,
    frame: Arc<Frame>,
    /// What went there last, to be shown again, and when.
    last: Mutex<Option<(gst::Sample, Instant)>>,
    has_picture: AtomicBool,
    volume: AtomicU32,
    is_muted: AtomicBool,
    listener: Arc<Listener>,
}

/// Who is told of what happens in the window.
struct Listener {
    /// Before a player has joined.
    early: Events,
    player: Mutex<Option<(Arc<Shared>, Part)>>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("player", &self.player).finish_non_exhaustive()
    }
}

impl Pane {
    /// Opens one, dark, and tells of keys and clicks in it.
    pub(crate) fn open(events: Events) -> Result<Arc<Self>, PlayerError> {
        let sink = window::open()?;
        sink.set_property("sync", true);
        let frame = Arc::new(Frame::of(&sink));
        let listener = Arc::new(Listener { early: events, player: Mutex::default() });
        let pipeline = gst::Pipeline::new();
        let clock = gst::SystemClock::obtain();
        let now = clock.time();
        pipeline.use_clock(Some(&clock));
        pipeline.set_start_time(gst::ClockTime::NONE);
        pipeline.set_base_time(now.saturating_sub(clock_time(BASE)));
        // Given, and not asked of the elements: the sinks then add nothing of their own.
        pipeline.set_latency(gst::ClockTime::ZERO);
        hear_messages(&pipeline, &listener, &frame);
        let source = gst_app::AppSrc::builder()
            .format(gst::Format::Time)
            .is_live(true)
            .max_bytes(0)
            .max_buffers(PICTURES_WAITING)
            .block(true)
            .build();
        let banner = Text::new(false, (BANNER_LINES, SMALLEST_BANNER))?;
        banner.element.set_property_from_str("valignment", "center");
        let panel = Text::new(true, (PANEL_LINES, SMALLEST_PANEL))?;
        for (name, value) in
            [("valignment", "top"), ("halignment", "left"), ("line-alignment", "left")]
        {
            panel.element.set_property_from_str(name, value);
        }
        pipeline.connect_deep_element_added(move |_, _, element| {
            present::prepare(element, Duration::ZERO);
        });
        let (convert, scale) = (make("videoconvert")?, make("videoscale")?);
        let elements =
            [source.upcast_ref(), &convert, &scale, &banner.element, &panel.element, &sink]
                .map(Clone::clone);
        chain(&pipeline, &elements.iter().collect::<Vec<_>>())?;
        let pane = Arc::new(Self {
            pipeline,
            source,
            sink,
            banner,
            panel,
            bar: Bar::default(),
            frame,
            last: Mutex::default(),
            has_picture: AtomicBool::new(false),
            volume: AtomicU32::new(LOUDEST),
            is_muted: AtomicBool::new(false),
            listener,
        });
        pane.draw_bar()?;
        pane.hear_input()?;
        play(&pane.pipeline, "window")?;
        if let Some(dark) = dark() {
            pane.push(&dark);
        }
        pane.listener.tell(PlayerEvent::WindowOpened);
        Ok(pane)
    }

    /// Shows a player's pictures from now on, by its clock, and tells it what happens here.
    pub(super) fn join(&self, shared: &Arc<Shared>, part: Part) {
        *lock(&self.listener.player) = Some((shared.clone(), part));
        let base_time = shared.base_time();
        self.pipeline.set_base_time(base_time);
        for element in self.pipeline.iterate_recurse().into_iter().flatten() {
            element.set_base_time(base_time);
        }
        self.pipeline.set_latency(clock_time(shared.latency));
    }

    /// The pipeline, and where pictures go in.
    pub(super) fn parts(&self) -> (&gst::Pipeline, &gst_app::AppSrc, &gst::Element) {
        (&self.pipeline, &self.source, &self.sink)
    }

    /// Queues a picture for its time. Blocks while enough wait.
    pub(super) fn present(&self, sample: &gst::Sample) {
        if !self.has_picture.swap(true, Relaxed)
            && let Some(caps) = sample.caps()
            && let Ok(info) = gst_video::VideoInfo::from_caps(caps)
        {
            let shape = info.par();
            let width = f64::from(info.width()) * f64::from(shape.numer());
            self.frame.fit((width / f64::from(shape.denom())) as u32, info.height());
        }
        self.push(sample);
    }

    fn push(&self, sample: &gst::Sample) {
        *lock(&self.last) = Some((sample.clone(), Instant::now()));
        let _ = self.source.push_sample(sample);
    }

    /// Shows that share as played in the seek bar; no bar for `None`. True where it appears or goes.
    pub(super) fn show_bar(&self, share: Option<f64>) -> bool {
        self.bar.show(share)
    }

    /// Says something in the middle of the picture, and lists something in its corner; nothing where a text is empty.
    pub(crate) fn say(&self, banner: &str, panel: &str) {
        let is_news = self.banner.say(banner) | self.panel.say(panel);
        let is_flowing = self.has_picture.load(Relaxed)
            && lock(&self.last).as_ref().is_some_and(|(_, at)| at.elapsed() < FLOWING);
        if is_news && !is_flowing {
            self.redraw();
        }
    }

    /// Shows the last picture once more, now, unless others wait.
    pub(super) fn redraw(&self) {
        let last = lock(&self.last).as_ref().map(|(sample, _)| sample.clone());
        let Some(last) = last.filter(|_| self.source.current_level_buffers() == 0) else { return };
        let (Some(mut buffer), Some(caps)) = (last.buffer_owned(), last.caps_owned()) else {
            return;
        };
        let now = self.pipeline.current_running_time().unwrap_or_default();
        buffer.make_mut().set_pts(now.saturating_sub(self.pipeline.latency().unwrap_or_default()));
        let _ =
            self.source.push_sample(&gst::Sample::builder().buffer(&buffer).caps(&caps).build());
    }

    /// How loud what is heard beside it is to be, in percent, and whether it is muted.
    pub(crate) fn set_volume(&self, percent: u32, is_muted: bool) {
        self.volume.store(percent, Relaxed);
        self.is_muted.store(is_muted, Relaxed);
    }

    /// As [`Self::set_volume`] was told.
    pub(super) fn volume(&self) -> (u32, bool) {
        (self.volume.load(Relaxed), self.is_muted.load(Relaxed))
    }

    /// Draws the seek bar into pictures on their way.
    fn draw_bar(self: &Arc<Self>) -> Result<(), PlayerError> {
        let pane = Arc::downgrade(self);
        let buffers = gst::PadProbeType::BUFFER;
        pad(self.source.upcast_ref(), "src")?.add_probe(buffers, move |pad, info| {
            if let (Some(pane), Some(caps), Some(buffer)) =
                (pane.upgrade(), pad.current_caps(), info.buffer_mut())
            {
                pane.bar.draw(buffer, &caps);
            }
            gst::PadProbeReturn::Ok
        });
        Ok(())
    }

    /// Tells of keys and clicks, which come up from the sink, and does what is of the window alone.
    fn hear_input(self: &Arc<Self>) -> Result<(), PlayerError> {
        let pane = Arc::downgrade(self);
        let clicked_at = Mutex::new(None::<Instant>);
        let events = gst::PadProbeType::EVENT_UPSTREAM;
        pad(self.source.upcast_ref(), "src")?.add_probe(events, move |pad, info| {
            let input = info.event().and_then(|event| event.structure());
            let input = input.filter(|input| input.name() == "application/x-gst-navigation");
            let (Some(pane), Some(input)) = (pane.upgrade(), input) else {
                return gst::PadProbeReturn::Ok;
            };
            let event = of_input(pad, input);
            match &event {
                Some(PlayerEvent::Key(key)) if key == "f" => pane.frame.toggle_full(),
                Some(PlayerEvent::Key(key)) if key == "Escape" && pane.frame.is_full() => {
                    pane.frame.toggle_full();
                    return gst::PadProbeReturn::Ok;
                }
                _ => {}
            }
            let is_click = input.get::<&str>("event") == Ok("mouse-button-press")
                && input.get::<i32>("button") == Ok(1);
            if is_click && event.is_none() {
                let before = lock(&clicked_at).replace(Instant::now());
                if before.is_some_and(|before| before.elapsed() < DOUBLE_CLICK) {
                    *lock(&clicked_at) = None;
                    pane.frame.toggle_full();
                }
            }
            if let Some(event) = event {
                pane.listener.tell(event);
            }
            gst::PadProbeReturn::Ok
        });
        Ok(())
    }
}

impl Drop for Pane {
    fn drop(&mut self) {
        halt(&self.pipeline);
    }
}

impl Listener {
    fn tell(&self, event: PlayerEvent) {
        let player = lock(&self.player).clone();
        match player {
            Some((shared, _)) => shared.notify(Notice::Told(event)),
            None => (self.early)(event),
        }
    }

    fn message(&self, message: &gst::Message) {
        if let Some((shared, part)) = lock(&self.player).clone() {
            return shared.notify(Notice::Message(part, message.clone()));
        }
        let gst::MessageView::Error(error) = message.view() else { return };
        tracing::debug!(error = %error.error(), "the window");
        // Only who closes it makes it one that is not found.
        if error.error().matches(gst::ResourceError::NotFound) {
            (self.early)(PlayerEvent::WindowClosed);
        }
    }
}

fn hear_messages(pipeline: &gst::Pipeline, listener: &Arc<Listener>, frame: &Arc<Frame>) {
    let Some(bus) = pipeline.bus() else { return };
    let (listener, frame) = (listener.clone(), frame.clone());
    bus.set_sync_handler(move |_, message| {
        use gst::MessageType;
        match message.type_() {
            MessageType::Error | MessageType::Warning | MessageType::Eos => {
                listener.message(message);
            }
            MessageType::Element => {
                let handle = message.structure().filter(|it| it.name() == "have-window-handle");
                let window = handle.and_then(|it| it.get::<u64>("window-handle").ok());
                if let Some(window) = window.and_then(|window| u32::try_from(window).ok()) {
                    frame.opened(window);
                }
            }
            _ => {}
        }
        gst::BusSyncReply::Drop
    });
}

fn of_input(pad: &gst::Pad, input: &gst::StructureRef) -> Option<PlayerEvent> {
    match input.get::<&str>("event").ok()? {
        "mouse-move" => Some(PlayerEvent::Motion),
        "key-press" => Some(PlayerEvent::Key(input.get::<String>("key").ok()?)),
        "mouse-button-press" => {
            let caps = pad.current_caps()?;
            let size = |side| caps.structure(0)?.get::<i32>(side).ok().map(f64::from);
            let at = |axis| input.get::<f64>(axis).ok();
            let (x, y) = (at("pointer_x")? / size("width")?, at("pointer_y")? / size("height")?);
            (y >= 1.0 - bar::CLICKS).then_some(PlayerEvent::Bar(x.clamp(0.0, 1.0)))
        }
        _ => None,
    }
}

/// A picture of nothing.
fn dark() -> Option<gst::Sample> {
    let (width, height) = DARK;
    let info =
        gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, width, height).build().ok()?;
    let mut bytes = vec![128; info.size()];
    // Brightness first: that of black.
    bytes.get_mut(..info.offset()[1])?.fill(16);
    let mut buffer = gst::Buffer::from_mut_slice(bytes);
    buffer.get_mut()?.set_pts(clock_time(BASE));
    Some(gst::Sample::builder().buffer(&buffer).caps(&info.to_caps().ok()?).build())
}

/// A text on the picture.
#[derive(Debug)]
struct Text {
    element: gst::Element,
    words: Arc<Mutex<Words>>,
}

/// What is to be said, and whether the element has been told.
#[derive(Debug, Default)]
struct Words {
    words: String,
    is_told: bool,
}

impl Text {
    /// One that says nothing yet, or lists it: letters so many lines of which fill a picture, and no smaller than so
    /// many pixels.
    fn new(is_listed: bool, (lines, smallest): (u32, u32)) -> Result<Self, PlayerError> {
        let family = if is_listed { "Monospace" } else { "Sans" };
        let element = make("textoverlay")?;
        element.set_property("silent", true);
        element.set_property("auto-resize", false);
        element.set_property("draw-shadow", false);
        element.set_property("draw-outline", false);
        element.set_property("wait-text", false);
        for side in ["xpad", "ypad"] {
            element.set_property(side, 10_i32);
        }
        let sink = pad(&element, "video_sink")?;
        let text = element.downgrade();
        sink.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            if let (Some(text), Some(event)) = (text.upgrade(), info.event())
                && let gst::EventView::Caps(caps) = event.view()
                && let Ok(info) = gst_video::VideoInfo::from_caps(caps.caps())
            {
                let size = (info.height() / lines).max(smallest);
                text.set_property("font-desc", format!("{family} {size}px"));
            }
            gst::PadProbeReturn::Ok
        });
        let words = Arc::new(Mutex::new(Words { is_told: true, ..Words::default() }));
        let (text, told) = (element.downgrade(), words.clone());
        // Told by the thread that draws: a text that changes while another one is drawn is overlooked.
        sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            let mut words = lock(&told);
            if !std::mem::replace(&mut words.is_told, true)
                && let Some(text) = text.upgrade()
            {
                text.set_property("text", markup(&words.words, is_listed));
                text.set_property("silent", words.words.is_empty());
            }
            gst::PadProbeReturn::Ok
        });
        Ok(Self { element, words })
    }

    /// Says something else, from the next picture on. True where that is news.
    fn say(&self, words: &str) -> bool {
        let mut before = lock(&self.words);
        if before.words == words {
            return false;
        }
        *before = Words { words: words.to_owned(), is_told: false };
        true
    }
}

/// Words on a dark ground. Where they are listed, in letters of one width, it has straight sides.
fn markup(words: &str, is_listed: bool) -> String {
    const SPACE: &str = "\u{a0}";
    let widest = words.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let width = if is_listed { widest } else { 0 };
    let whole = |line: &str| {
        let line = format!("{line:<width$}").replace(' ', SPACE);
        format!("{BEFORE}{}{AFTER}", gst::glib::markup_escape_text(&line))
    };
    let lines: Vec<_> = words.lines().map(whole).collect();
    format!("<span {BEHIND}>{}</span>", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_words_and_no_markup() {
        let lines =
            |first, second| format!(">{BEFORE}{first}{AFTER}\n{BEFORE}{second}{AFTER}</span>");
        let listed = markup("a<b>\n&", true);
        assert!(listed.ends_with(&lines("a&lt;b&gt;", "&amp;\u{a0}\u{a0}\u{a0}")), "{listed}");
        let said = markup("a b\n&", false);
        assert!(said.ends_with(&lines("a\u{a0}b", "&amp;")), "{said}");
    }
}
