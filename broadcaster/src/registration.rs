//! Staying known to the rendezvous: registers, takes introductions, and registers again whenever the
//! connection breaks. Running streams never notice.

use std::sync::Arc;
use std::time::Duration;

use protocol::candidate::Candidate;
use protocol::signalling::{FromRendezvous, Introduction, Refusal, ToRendezvous};
use service::exit::{Code, Failure};
use service::metrics::Readiness;
use tokio::sync::mpsc;
use transport::addresses::host_candidates;
use transport::identity::Identity;
use transport::port::Port;
use transport::signalling::{Signalling, SignallingError, resolve};

/// From a broken connection to the next try, growing to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(300);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// How often this machine's own addresses are looked at.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(3);

/// Introductions under way to the session starter, at most.
const MOST_WAITING: usize = 256;

/// An introduction and what it needs besides.
#[derive(Debug)]
pub(crate) struct Introduced {
    pub(crate) introduction: Introduction,
    /// The host candidates that the viewer was told of us.
    pub(crate) own: Vec<Candidate>,
    /// Where we and the viewer met.
    pub(crate) rendezvous: std::net::SocketAddr,
}

/// A registration that is kept until it is dropped.
pub(crate) struct Registration {
    pub(crate) introductions: mpsc::Receiver<Introduced>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where to register, and as whom.
pub(crate) struct Registrar {
    pub(crate) port: Arc<Port>,
    pub(crate) identity: Identity,
    pub(crate) host: String,
    pub(crate) number: u16,
    pub(crate) readiness: Readiness,
}

impl Registrar {
    /// Registers for the first time, and stays registered from then on.
    ///
    /// # Errors
    ///
    /// When the rendezvous cannot be reached at first: somebody should look at the address.
    pub(crate) async fn start(self) -> Result<Registration, Failure> {
        let first = self.register().await.map_err(|error| {
            Failure::new(
                Code::RendezvousUnreachable,
                format!("{error}; check --rendezvous and that UDP port {} is open", self.number),
            )
        })?;
        let (sender, introductions) = mpsc::channel(MOST_WAITING);
        let task = tokio::spawn(self.stay(first, sender));
        Ok(Registration { introductions, task })
    }

    async fn stay(self, first: Registered, introductions: mpsc::Sender<Introduced>) {
        let mut registered = Some(first);
        let mut wait = FIRST_RETRY;
        loop {
            if let Some(registered) = registered.take() {
                wait = FIRST_RETRY;
                self.readiness.set(true);
                let Err(error) = registered.listen(&self.port, &introductions).await else {
                    return;
                };
                self.readiness.set(false);
                if matches!(error, SignallingError::Replaced) {
                    // Taking the registration back would go on for ever between the two.
                    tracing::error!("{error}; viewers go on watching, new ones go to the other");
                    return;
                }
                tracing::warn!("{error}; viewers go on watching, new ones must wait");
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_RETRY);
            match self.register().await {
                Ok(again) => registered = Some(again),
                Err(error) => tracing::debug!(%error, "not registered"),
            }
        }
    }

    async fn register(&self) -> Result<Registered, SignallingError> {
        let servers = resolve(&self.port, &self.host, self.number).await?;
        let mut signalling =
            Signalling::connect(&self.port, &servers, Some(&self.identity)).await?;
        let on_loopback = signalling.server().ip().is_loopback();
        let bound = self
            .port
            .socket()
            .local_addr()
            .map_err(|error| SignallingError::Broken(error.to_string()))?;
        let own = host_candidates(bound, on_loopback);
        signalling.send(&ToRendezvous::Register { candidates: own.clone() }).await?;
        match signalling.receive().await? {
            FromRendezvous::Registered { observed } => {
                tracing::info!(
                    rendezvous = %signalling.server(),
                    external = %observed.address,
                    "registered"
                );
                Ok(Registered { signalling, own })
            }
            FromRendezvous::Refused { reason: Refusal::Busy } => {
                Err(SignallingError::Broken("it has too many broadcasters".into()))
            }
            other => Err(SignallingError::Broken(format!("unexpected answer {other:?}"))),
        }
    }
}

struct Registered {
    signalling: Signalling,
    own: Vec<Candidate>,
}

impl Registered {
    /// Passes introductions on until the connection breaks; `Ok` when nobody wants them any more.
    async fn listen(
        mut self,
        port: &Port,
        introductions: &mpsc::Sender<Introduced>,
    ) -> Result<(), SignallingError> {
        let rendezvous = self.signalling.server();
        let mut look = tokio::time::interval(ADDRESS_INTERVAL);
        loop {
            let message = tokio::select! {
                message = self.signalling.receive() => message?,
                _ = look.tick() => {
                    self.follow_addresses(port).await?;
                    continue;
                }
            };
            match message {
                FromRendezvous::Introduction { introduction } => {
                    let own = self.own.clone();
                    let introduced = Introduced { introduction, own, rendezvous };
                    match introductions.try_send(introduced) {
                        Ok(()) => {}
                        Err(mpsc::error::TrySendError::Full(_)) => {
                            tracing::warn!("too many viewers join at once; one must try again");
                        }
                        Err(mpsc::error::TrySendError::Closed(_)) => return Ok(()),
                    }
                }
                FromRendezvous::Registered { .. } => {}
                FromRendezvous::Refused { reason } => {
                    return Err(SignallingError::Broken(format!(
                        "the rendezvous refused: {}",
                        reason.as_str()
                    )));
                }
            }
        }
    }

    /// Names this machine's addresses again where they changed: another network, another lease.
    async fn follow_addresses(&mut self, port: &Port) -> Result<(), SignallingError> {
        let on_loopback = self.signalling.server().ip().is_loopback();
        let bound = port
            .socket()
            .local_addr()
            .map_err(|error| SignallingError::Broken(error.to_string()))?;
        let own = host_candidates(bound, on_loopback);
        if own != self.own {
            tracing::info!("this machine's addresses changed; telling the rendezvous");
            self.own.clone_from(&own);
            self.signalling.send(&ToRendezvous::Register { candidates: own }).await?;
        }
        Ok(())
    }
}
