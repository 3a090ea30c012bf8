//! Meeting a broadcaster and receiving from it without playing anything, by the very code that plays:
//! for measuring which paths open, and what thousands of viewers cost.

mod receiver;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::behaviour::Behaviour;
use protocol::candidate::CandidateKind;
use protocol::control::{Notice, Request, Response, close};
use protocol::feedback::Totals;
use protocol::link::Target as Named;
use protocol::opening::{Event, Path};
use quinn::{RecvStream, SendStream, VarInt};
use rand::RngExt;
use service::exit::{Code, Failure};
use transport::stream::{ReadError, Reader};
use transport::tls;

use crate::asking::{self, refused};
use crate::config::{DEFAULT_LATENCY, Target};
use crate::feedback::Feedback;
use crate::meeting::{Met, Viewer};
use crate::session::{FIRST_UPGRADE, LONGEST_UPGRADE};
use receiver::Receiver;
pub use receiver::{Arrived, Tap};

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(200);

/// How an [`Opener`] receives.
pub struct Options {
    /// The address to bind to; any by default.
    pub bind: Option<SocketAddr>,
    /// Whether it looks at what the NAT here does. Where none is, that costs sockets and time.
    pub looks_at_nat: bool,
    /// How long a missing packet is of use.
    pub latency: Duration,
    /// Share of STUN and media datagrams that it loses before looking at them, and of its feedback, 0
    /// to 1.
    pub loss: f64,
    /// Is told of each packet.
    pub tap: Option<Box<dyn Tap>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { bind: None, looks_at_nat: true, latency: DEFAULT_LATENCY, loss: 0.0, tap: None }
    }
}

/// What an [`Opener`] has to tell.
#[derive(Debug)]
pub enum Happening {
    /// The path is another one now.
    Moved(Path),
    /// The first genuine media packet came.
    Watching,
    /// The broadcast is over.
    Ended,
}

/// A viewer that has met a broadcaster, on a port that nothing used before.
pub struct Opener {
    viewer: Viewer,
    receiver: Arc<Receiver>,
    met: Met,
    latency: Duration,
    loss: f64,
    introduced_at: Instant,
    upgrade_at: Instant,
    upgrade_interval: Duration,
    admitted: Option<Admitted>,
}

/// Tells what an [`Opener`] received.
#[derive(Clone)]
pub struct Meter(Arc<Receiver>);

impl Meter {
    /// What was received and lost so far.
    pub fn totals(&self) -> Totals {
        self.0.totals()
    }
}

/// What an admission left.
struct Admitted {
    notices: Reader,
    feedback: Feedback,
    /// Kept open for as long as we watch.
    _requests: SendStream,
    is_told: bool,
}

impl Opener {
    /// Meets a link's broadcaster: has an introduction, opens a path, and connects on it.
    ///
    /// # Errors
    ///
    /// As `punchcast-viewer` ends, with its exit code.
    pub async fn meet(target: &Target, options: Options) -> Result<Self, Failure> {
        let Options { bind, looks_at_nat, latency, loss, tap } = options;
        let receiver = Receiver::new(loss, tap);
        let mut viewer = Viewer::open_at(bind, Arc::clone(&receiver) as _)?;
        viewer.behaviour = (!looks_at_nat).then(Behaviour::default);
        let mut opening_at = Instant::now();
        let met = viewer.meet(target, false, |_| opening_at = Instant::now());
        let met = met.await?;
        Ok(Self {
            // Until the path stood, then the time of joining.
            introduced_at: opening_at.checked_sub(met.open).unwrap_or(opening_at),
            upgrade_at: opening_at + FIRST_UPGRADE,
            upgrade_interval: FIRST_UPGRADE,
            viewer,
            receiver,
            met,
            latency,
            loss,
            admitted: None,
        })
    }

    /// The path now.
    pub fn path(&self) -> Path {
        self.met.path
    }

    /// From the introduction's arrival to the first proved path.
    pub fn open(&self) -> Duration {
        self.met.open
    }

    /// When the first path was proved.
    pub fn opened_at(&self) -> Instant {
        self.introduced_at + self.met.open
    }

    /// Since the introduction arrived.
    pub fn since_introduction(&self) -> Duration {
        self.introduced_at.elapsed()
    }

    /// Asks to watch the link's channel, or its stored file from the beginning. Media comes from then on.
    ///
    /// # Errors
    ///
    /// Where the broadcaster refuses or breaks off.
    pub async fn watch(&mut self, target: &Target) -> Result<(), Failure> {
        self.receiver.ask();
        let link = &target.link;
        let (send, receive, admission) = match &link.target {
            Named::File(path) => {
                let request = Request::Play {
                    path: path.clone(),
                    secret: link.secret.clone(),
                    latency_ms: u32::try_from(self.latency.as_millis()).unwrap_or(u32::MAX),
                    position_us: 0,
                    rate_percent: 100,
                    sound: 0,
                    pace_bps: None,
                };
                let begun = asking::play(self.met.connection.clone(), request, link).await?;
                (begun.send, begun.receive, begun.admission)
            }
            Named::Channel(_) => asking::watch(&self.met, link, self.latency).await?,
        };
        let handle = self.met.opening.handle().clone();
        let paths = Arc::clone(self.viewer.port.paths());
        let tags = tls::viewer_tag_key(&self.met.connection);
        self.receiver.admit(&admission, handle.clone(), paths, self.latency, tags);
        let feedback = Feedback::new(&admission, handle);
        let notices = Reader::new(receive);
        self.admitted = Some(Admitted { notices, feedback, _requests: send, is_told: false });
        Ok(())
    }

    /// When the first genuine media packet came.
    pub fn first_packet_at(&self) -> Option<Instant> {
        self.receiver.first_packet_at()
    }

    /// What was received and lost so far.
    pub fn totals(&self) -> Totals {
        self.receiver.totals()
    }

    /// What tells the same from anywhere, whatever becomes of the opener.
    pub fn meter(&self) -> Meter {
        Meter(Arc::clone(&self.receiver))
    }

    /// Reads nothing more, and goes on to send feedback: a viewer that misbehaves.
    pub fn stop_reading(&self) {
        self.viewer.port.stop_receiving();
    }

    /// Reports out of turn.
    pub fn report(&mut self) {
        if let Some(report) = self.receiver.report(self.rtt()) {
            self.say(report);
        }
    }

    /// The way of what is said out of turn, once it watches: a viewer that misbehaves.
    pub fn mouth(&mut self) -> Option<&mut Feedback> {
        self.admitted.as_mut().map(|admitted| &mut admitted.feedback)
    }

    /// Asks for whatever it is, beside what is watched. Gives the streams with the answer.
    ///
    /// # Errors
    ///
    /// Where the connection breaks, or nothing is answered in time.
    pub async fn ask(
        &self,
        request: &Request,
    ) -> Result<(SendStream, RecvStream, Response), Failure> {
        asking::ask(&self.met, request).await
    }

    fn rtt(&self) -> Duration {
        self.met.opening.rtt().unwrap_or_else(|| self.met.connection.rtt())
    }

    fn say(&mut self, message: Vec<u8>) {
        let passes = self.loss <= 0.0 || !rand::rng().random_bool(self.loss);
        if let Some(admitted) = self.admitted.as_mut().filter(|_| passes) {
            admitted.feedback.send(message);
        }
    }

    /// Waits for what happens next. A relayed viewer looks for a direct path meanwhile, as it does
    /// while it plays. A wait that is given up loses nothing.
    ///
    /// # Errors
    ///
    /// Where the path is lost, or the broadcaster ends the viewer.
    pub async fn next(&mut self) -> Result<Happening, Failure> {
        loop {
            if let Some(admitted) = self.admitted.as_mut().filter(|admitted| !admitted.is_told)
                && self.receiver.first_packet_at().is_some()
            {
                admitted.is_told = true;
                return Ok(Happening::Watching);
            }
            let is_relayed = self.met.path.kind == CandidateKind::Relayed;
            let due = self.receiver.wakes_at();
            let feedback_is_due = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let notice = async {
                match &mut self.admitted {
                    Some(admitted) => admitted.notices.next::<Notice>().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = self.met.opening.event() => match event {
                    Some(Event::Opened(path) | Event::Moved(path)) => {
                        self.met.path = path;
                        return Ok(Happening::Moved(path));
                    }
                    Some(Event::Remapped(_) | Event::Media(_)) => {}
                    Some(Event::Lost(reason)) => return Err(Failure::new(Code::NoPath, reason)),
                    Some(Event::Failed(failure)) => {
                        return Err(Failure::new(Code::NoPath, failure));
                    }
                    None => return Err(Failure::runtime("the opening agent ended")),
                },
                notice = notice => match notice {
                    Ok(Notice::Key { key }) => self.receiver.add_key(&key),
                    Ok(Notice::LeftOut { packets }) => self.receiver.left_out(&packets),
                    // What is measured here has one rendition.
                    Ok(
                        Notice::Carries { .. }
                        | Notice::Rendition { .. }
                        | Notice::Source { .. }
                        | Notice::Finished { .. }
                        | Notice::Interrupted,
                    ) => {}
                    Ok(Notice::Ended) | Err(ReadError::Finished) => return Ok(Happening::Ended),
                    Ok(Notice::Removed) => {
                        return Err(refused(protocol::control::Refusal::Removed, ""));
                    }
                    Err(error) => return Err(Failure::runtime(error)),
                },
                () = self.receiver.changed.notified() => {}
                () = feedback_is_due => {
                    let rtt = self.rtt();
                    self.receiver.feedback(rtt).into_iter().for_each(|message| self.say(message));
                }
                () = tokio::time::sleep_until(self.upgrade_at.into()), if is_relayed => {
                    self.upgrade_interval = (self.upgrade_interval * 2).min(LONGEST_UPGRADE);
                    self.upgrade_at = Instant::now() + self.upgrade_interval;
                    if !self.met.renewer.is_busy() {
                        self.met.renewer.renew(false);
                    }
                }
            }
        }
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.met.connection.close(VarInt::from_u32(close::DONE), b"");
        self.viewer.port.close(close::DONE, "");
        let _ = tokio::time::timeout(GOODBYE, self.viewer.port.endpoint().wait_idle()).await;
    }
}
