//! The process that plays: takes orders and media on standard input, which is a socket, and answers there.

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use service::child;
use service::exit::Failure;

use super::wire::{self, Caption, Frame, Order, Start, State, Told, Unstopped, Word, brief};
use super::{CLOSING, sandbox};
use crate::media::{
    self, Output, Pane, Player, PlayerError, PlayerEvent, Take, check_environment, initialise,
    preload,
};

/// How often is said how far it is, where that is news.
const TELLING: Duration = Duration::from_millis(10);

/// Longest buffer for what comes in.
const BUFFERED: usize = 1 << 16;

/// Says words. A viewer that is gone is noticed where orders are read.
#[derive(Clone)]
struct Mouth(Arc<Mutex<UnixStream>>);

impl Mouth {
    fn say(&self, word: &Word) {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = stream.write_all(&wire::words(word)) {
            tracing::debug!(%error, "nobody hears what is played");
        }
    }
}

/// What plays, and which take.
#[derive(Default)]
struct Playing {
    player: Option<Player>,
    take: u32,
    plan: Option<Arc<Take>>,
}

/// Plays to the outputs until told to stop, or the viewer is gone.
///
/// # Errors
///
/// Where standard input is no socket of a viewer's.
pub(crate) fn run(outputs: &[Output]) -> Result<(), Failure> {
    let stream = child::socket("viewer")?;
    let mouth = Mouth(Arc::new(Mutex::new(stream.try_clone().map_err(Failure::runtime)?)));
    // The library asks programs of its own about its plugins where those are new.
    let begun = initialise();
    make_folders(outputs);
    sandbox::enter(outputs);
    if let Err(error) = begun.and_then(|()| check_environment(outputs)) {
        mouth.say(&Word::Unfit(brief(error.to_string())));
        return Ok(());
    }
    let pane = match open_pane(outputs, &mouth) {
        Ok(pane) => pane,
        Err(error) => {
            mouth.say(&Word::Unfit(brief(error.to_string())));
            return Ok(());
        }
    };
    if pane.is_none() {
        preload(outputs);
    } else {
        // What the window says is not to wait for that.
        let outputs = outputs.to_vec();
        std::thread::Builder::new()
            .name("loading".into())
            .spawn(move || preload(&outputs))
            .map_err(Failure::runtime)?;
    }
    let playing = Arc::new(RwLock::<Playing>::default());
    tell_state(&playing, &mouth).map_err(Failure::runtime)?;
    obey(stream, outputs, (&playing, pane.as_ref()), &mouth);
    Ok(())
}

/// Opens the window at once, where one is wanted.
fn open_pane(outputs: &[Output], mouth: &Mouth) -> Result<Option<Arc<Pane>>, PlayerError> {
    if !outputs.contains(&Output::Window) {
        return Ok(None);
    }
    let mouth = mouth.clone();
    Pane::open(Arc::new(move |event| mouth.say(&Word::Told(told(event))))).map(Some)
}

/// Makes the folders that outputs fill: in here, none can be made. What fails shows when they are written to.
fn make_folders(outputs: &[Output]) {
    for output in outputs {
        if let Output::Hls(hls) = output
            && let Err(error) = std::fs::create_dir_all(hls.folder())
        {
            tracing::debug!(%error, "no folder for {output}");
        }
    }
}

/// Does what is ordered, until the end.
fn obey(
    stream: UnixStream,
    outputs: &[Output],
    (playing, pane): (&RwLock<Playing>, Option<&Arc<Pane>>),
    mouth: &Mouth,
) {
    let mut orders = BufReader::with_capacity(BUFFERED, stream);
    let deadline = loop {
        let order = match wire::read::<Order>(&mut orders, wire::MOST_ORDERED) {
            Ok(Some(Frame::Words(order))) => order,
            Ok(Some(Frame::Media { track, arrival, packet })) => {
                let playing = playing.read().unwrap_or_else(PoisonError::into_inner);
                if let Some(player) = &playing.player {
                    player.push(track, packet, Duration::from_nanos(arrival));
                }
                continue;
            }
            // Without a viewer, files are closed all the same.
            Ok(None) => break CLOSING,
            Err(error) => {
                tracing::debug!(%error, "no further orders");
                break CLOSING;
            }
        };
        match order {
            Order::Stop(deadline) => break Duration::from_nanos(deadline),
            Order::Start(start) => {
                let started = begin(start, outputs, (playing, pane), mouth);
                mouth.say(&answer(started));
            }
            Order::BeginTake { number, tracks, take } => {
                let take = Arc::new(Take::of(&take));
                let mut playing = playing.write().unwrap_or_else(PoisonError::into_inner);
                playing.take = number;
                playing.plan = Some(Arc::clone(&take));
                let begun = playing.player.as_mut().map(|player| player.begin_take(&tracks, take));
                drop(playing);
                mouth.say(&answer(begun.unwrap_or(Err(PlayerError::NoOutputLeft))));
            }
            Order::Delay(by) => with(playing, |player| player.delay(Duration::from_nanos(by))),
            Order::Bear(late) => {
                with(playing, |player| player.bear_lateness(Duration::from_nanos(late)));
            }
            Order::Freeze => with(playing, Player::freeze),
            Order::ShowBar(share) => with(playing, |player| player.show_bar(share)),
            Order::CompleteTake => with(playing, Player::complete_take),
            Order::Say(Caption { banner, panel }) => {
                if let Some(pane) = pane {
                    pane.say(&banner, &panel);
                }
            }
            Order::Volume(percent, is_muted) => {
                if let Some(pane) = pane {
                    pane.set_volume(percent, is_muted);
                }
                with(playing, |player| player.set_volume(percent, is_muted));
            }
        }
    };
    let player = playing.write().unwrap_or_else(PoisonError::into_inner).player.take();
    let stopped = player.map_or(Ok(()), |player| player.stop(deadline));
    mouth.say(&Word::Stopped(stopped.err().map(|error| match error {
        PlayerError::Unfinished { output, .. } => Unstopped::Unfinished(brief(output.in_full())),
        error => Unstopped::Other(brief(error.to_string())),
    })));
}

fn with(playing: &RwLock<Playing>, order: impl FnOnce(&Player)) {
    let playing = playing.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(player) = &playing.player {
        order(player);
    }
}

fn answer(result: Result<(), PlayerError>) -> Word {
    result.map_or_else(|error| Word::Refused(brief(error.to_string())), |()| Word::Started)
}

fn begin(
    start: Start,
    outputs: &[Output],
    (playing, pane): (&RwLock<Playing>, Option<&Arc<Pane>>),
    mouth: &Mouth,
) -> Result<(), PlayerError> {
    let Start { tracks, latency, base_time, take } = start;
    let take = take.map(|plan| Arc::new(Take::of(&plan)));
    let mouth = mouth.clone();
    let events = Arc::new(move |event| mouth.say(&Word::Told(told(event))));
    let latency = Duration::from_nanos(latency);
    let (pane, plan) = (pane.cloned(), take.clone());
    let player = Player::start_at(base_time, &tracks, outputs, latency, events, take, pane)?;
    let mut playing = playing.write().unwrap_or_else(PoisonError::into_inner);
    playing.player = Some(player);
    playing.plan = plan;
    Ok(())
}

fn told(event: PlayerEvent) -> Told {
    match event {
        PlayerEvent::FirstFrame => Told::FirstFrame,
        PlayerEvent::WindowOpened => Told::WindowOpened,
        PlayerEvent::WindowClosed => Told::WindowClosed,
        PlayerEvent::Key(key) => Told::Key(brief(key)),
        PlayerEvent::Bar(share) => Told::Bar(share),
        PlayerEvent::Motion => Told::Motion,
        PlayerEvent::Late(by) => Told::Late(media::nanoseconds(by)),
        PlayerEvent::Failed(error) => {
            let is_last = matches!(error, PlayerError::NoOutputLeft);
            Told::Failed(brief(error.to_string()), is_last)
        }
        PlayerEvent::OutputFailed { output, error } => {
            Told::OutputFailed(brief(output.in_full()), brief(error.to_string()))
        }
    }
}

/// Says how far it is, in a thread, for as long as the process lives.
fn tell_state(playing: &Arc<RwLock<Playing>>, mouth: &Mouth) -> Result<(), PlayerError> {
    let (playing, mouth) = (Arc::clone(playing), mouth.clone());
    let tell = move || {
        let mut last = State::default();
        loop {
            std::thread::sleep(TELLING);
            let state = state(&playing.read().unwrap_or_else(PoisonError::into_inner));
            if let Some(state) = state.filter(|state| *state != last) {
                mouth.say(&Word::State(state.clone()));
                last = state;
            }
        }
    };
    let thread = std::thread::Builder::new().name("telling".into()).spawn(tell);
    thread.map(drop).map_err(|error| PlayerError::Refused { what: format!("a thread: {error}") })
}

fn state(Playing { player, take, plan }: &Playing) -> Option<State> {
    let player = player.as_ref()?;
    let stats = player.stats();
    // The same moment for as long as it is the same: it is measured from here, once for each state.
    let at = |at: Instant| media::nanoseconds(player.running_time_at(at));
    Some(State {
        take: *take,
        frames_decoded: stats.frames_decoded,
        frames_dropped: stats.frames_dropped,
        audio_buffers_decoded: stats.audio_buffers_decoded,
        first_frame_at: stats.first_frame_at.map(at),
        latency: stats.latency.map(media::nanoseconds),
        position: player.position().map(media::nanoseconds),
        reached: player.reached().map(media::nanoseconds),
        shown_at: plan.as_ref().and_then(|take| take.shown_at()).map(at),
        has_played_out: player.has_played_out(),
        size: stats.size,
    })
}
