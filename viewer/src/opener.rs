//! Meeting a broadcaster and receiving from it without playing anything, by the very code that plays:
//! for measuring which paths open.

use std::time::{Duration, Instant};

use protocol::candidate::CandidateKind;
use protocol::control::close;
use protocol::opening::{Event, Path};
use protocol::seal;
use quinn::{RecvStream, SendStream, VarInt};
use service::exit::{Code, Failure};

use crate::config::{DEFAULT_LATENCY, Target};
use crate::meeting::{Met, Viewer};
use crate::session::{self, FIRST_UPGRADE, LONGEST_UPGRADE};

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(200);

/// What an [`Opener`] has to tell.
#[derive(Debug)]
pub enum Happening {
    /// The path is another one now.
    Moved(Path),
    /// A media packet came, and is genuine.
    Packet,
}

/// A viewer that has met a broadcaster, on a port that nothing used before.
pub struct Opener {
    viewer: Viewer,
    met: Met,
    introduced_at: Instant,
    upgrade_at: Instant,
    upgrade_interval: Duration,
    admitted: Option<Admitted>,
}

/// What an admission left.
struct Admitted {
    opener: seal::Opener,
    /// Kept open for as long as we watch.
    _streams: (SendStream, RecvStream),
}

impl Opener {
    /// Meets a link's broadcaster: has an introduction, opens a path, and connects on it.
    ///
    /// # Errors
    ///
    /// As `punchcast-viewer` ends, with its exit code.
    pub async fn meet(target: &Target) -> Result<Self, Failure> {
        let viewer = Viewer::open(None)?;
        let mut opening_at = Instant::now();
        let met = viewer.meet(target, false, |_| opening_at = Instant::now());
        let met = met.await?;
        Ok(Self {
            // Until the path stood, then the time of joining.
            introduced_at: opening_at.checked_sub(met.open).unwrap_or(opening_at),
            upgrade_at: opening_at + FIRST_UPGRADE,
            upgrade_interval: FIRST_UPGRADE,
            viewer,
            met,
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

    /// Since the introduction arrived.
    pub fn since_introduction(&self) -> Duration {
        self.introduced_at.elapsed()
    }

    /// Asks to watch the link's channel. Media comes from then on.
    ///
    /// # Errors
    ///
    /// Where the broadcaster refuses or breaks off.
    pub async fn watch(&mut self, target: &Target) -> Result<(), Failure> {
        let (send, receive, admission) =
            session::request(&self.met, &target.link, DEFAULT_LATENCY).await?;
        let streams = admission.tracks.iter().map(|track| (track.ssrc, track.first_index));
        let mut opener = seal::Opener::new(streams);
        admission.keys.iter().for_each(|key| opener.add_key(key));
        self.admitted = Some(Admitted { opener, _streams: (send, receive) });
        Ok(())
    }

    /// Waits for what happens next. A relayed viewer looks for a direct path meanwhile, as it does
    /// while it plays.
    ///
    /// # Errors
    ///
    /// Where the path is lost.
    pub async fn next(&mut self) -> Result<Happening, Failure> {
        loop {
            let is_relayed = self.met.path.kind == CandidateKind::Relayed;
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
                datagram = self.viewer.media.recv() => {
                    let Some((from, mut datagram)) = datagram else {
                        return Err(Failure::runtime("the UDP port is gone"));
                    };
                    if self.is_genuine(from, &mut datagram) {
                        self.met.opening.authenticated();
                        return Ok(Happening::Packet);
                    }
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

    fn is_genuine(&mut self, from: std::net::SocketAddr, datagram: &mut [u8]) -> bool {
        let is_peer = self.viewer.port.paths().is_from(from, self.met.opening.peer());
        let admitted = self.admitted.as_mut().filter(|_| is_peer);
        admitted.is_some_and(|admitted| admitted.opener.open(datagram).is_ok())
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.met.connection.close(VarInt::from_u32(close::DONE), b"");
        let endpoint = self.viewer.port.endpoint().clone();
        endpoint.close(VarInt::from_u32(close::DONE), b"");
        let _ = tokio::time::timeout(GOODBYE, endpoint.wait_idle()).await;
    }
}
