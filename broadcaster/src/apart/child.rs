//! The process of the source: takes orders on standard input, which is a socket, and sends units there.

use std::fs::File;
use std::io::{BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::dup2_stdout;
use service::child;
use service::exit::Failure;

use super::wire::{self, Frame, Order, Start, Word};
use crate::media::screen::Shown;
use crate::media::{Entrance, Event, MediaConfig, MediaError, Producer};

/// How long it may take to stop.
const STOPPING: Duration = Duration::from_secs(2);

/// How often is said how far it is.
const TELLING: Duration = Duration::from_millis(200);

/// Says words, and hands units over. A broadcaster that is slow to read holds up the encoder, which then leaves pictures
/// out; one that is gone is noticed where orders are read.
#[derive(Clone)]
struct Mouth(Arc<Mutex<UnixStream>>);

impl Mouth {
    fn say(&self, word: &Word) {
        self.send(&wire::words(word));
    }

    fn send(&self, frame: &[u8]) {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = stream.write_all(frame) {
            tracing::debug!(%error, "nobody hears the source");
        }
    }

    fn event(&self, event: Event) {
        match event {
            Event::Unit(unit) => self.send(&wire::unit(&unit)),
            Event::Ready(formats) => self.say(&Word::Ready(formats)),
            Event::TrackEnded(track) => self.say(&Word::TrackEnded(track as u32)),
            Event::Ended => self.say(&Word::Ended),
            Event::Failed(error) => self.say(&Word::Failed(error.to_string())),
        }
    }
}

/// Captures and encodes as it is told, until the broadcaster is gone.
///
/// # Errors
///
/// Where standard input is no socket of a broadcaster's.
pub(crate) fn run() -> Result<(), Failure> {
    let failed =
        |error: std::io::Error| Failure::runtime(format!("no process for the source: {error}"));
    let stream = child::socket("broadcaster")?;
    // A port where there is one, which nothing shall be written to.
    let output = std::io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
    let nowhere = File::options().write(true).open("/dev/null").map_err(failed)?;
    dup2_stdout(nowhere).map_err(|error| failed(error.into()))?;
    let mouth = Mouth(Arc::new(Mutex::new(stream.try_clone().map_err(failed)?)));
    let orders = listen(stream).map_err(failed)?;
    let mut producer: Option<Arc<Producer>> = None;
    let mut telling = None;
    for order in orders {
        match order {
            Order::Start(start) => {
                producer = None;
                let port = output.try_clone().map_err(failed)?;
                match begin(*start, port, &mouth) {
                    Ok(begun) => {
                        let begun = Arc::new(begun);
                        mouth.say(&Word::Stands(begun.continuation(), Vec::new()));
                        mouth.say(&Word::Begun);
                        telling = Some(tell(&begun, &mouth));
                        producer = Some(begun);
                    }
                    Err(error) => mouth.say(&Word::Refused(error.to_string())),
                }
            }
            Order::Keyframe(rendition) => {
                producer.iter().for_each(|producer| producer.request_keyframe(rendition as usize));
            }
            Order::Encode(wanted) => producer.iter().for_each(|producer| producer.encode(wanted)),
            Order::Tune(rendition, rate) => mouth.say(&Word::Tuned(
                producer.as_ref().and_then(|it| it.set_bitrate(rendition as usize, rate)),
            )),
        }
    }
    // It stops where it is let go of last.
    drop(telling);
    drop(producer);
    Ok(())
}

/// Hears orders, until the broadcaster is gone. What has not stopped by then some seconds later, for a driver or a
/// pipeline hangs, ends all the same.
fn listen(stream: UnixStream) -> std::io::Result<mpsc::IntoIter<Order>> {
    let (heard, orders) = mpsc::channel();
    std::thread::Builder::new().name("orders".into()).spawn(move || {
        let mut stream = BufReader::new(stream);
        loop {
            match wire::read::<Order>(&mut stream) {
                // Whoever obeys may be on its way out.
                Ok(Some(Frame::Words(order))) => drop(heard.send(order)),
                // Nobody else says such things.
                Ok(Some(Frame::Unit(_)) | None) => break,
                Err(error) => {
                    tracing::debug!(%error, "no further orders");
                    break;
                }
            }
        }
        drop(heard);
        std::thread::sleep(STOPPING);
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), Signal::SIGKILL);
    })?;
    Ok(orders.into_iter())
}

fn begin(start: Start, output: OwnedFd, mouth: &Mouth) -> Result<Producer, MediaError> {
    let Start { source, video, audio, before, node } = start;
    let wrong = |error: &dyn std::fmt::Display| MediaError::Config { problem: error.to_string() };
    let config = MediaConfig {
        source: source.parse().map_err(|error| wrong(&error))?,
        video: serde_json::from_str(&video).map_err(|error| wrong(&error))?,
        audio: serde_json::from_str(&audio).map_err(|error| wrong(&error))?,
    };
    let events = mouth.clone();
    let sink = Arc::new(move |event| events.event(event));
    if let Some(node) = node {
        let shown = Shown { remote: output, node };
        return Producer::begin(config, sink, before.as_ref(), None, Some(shown));
    }
    let port = Entrance::handed_over(&config.source, output);
    Producer::begin(config, sink, before.as_ref(), port, None)
}

/// Has it said how far the source is, until what is given back is dropped.
fn tell(producer: &Arc<Producer>, mouth: &Mouth) -> mpsc::Sender<()> {
    let (producer, mouth) = (Arc::downgrade(producer), mouth.clone());
    let (until, over) = mpsc::channel::<()>();
    let telling = std::thread::Builder::new().name("telling".into()).spawn(move || {
        while let Err(mpsc::RecvTimeoutError::Timeout) = over.recv_timeout(TELLING) {
            let Some(producer) = producer.upgrade() else { return };
            let times = producer.take_encoding_times();
            let times = times.iter().map(|took| took.as_micros() as u64).collect();
            mouth.say(&Word::Stands(producer.continuation(), times));
        }
    });
    if let Err(error) = telling {
        tracing::warn!(%error, "what is encoded is not counted");
    }
    until
}
