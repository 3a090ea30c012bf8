//! A viewer's contact with a rendezvous: from connecting to an introduction, and for as long as a path
//! is being opened.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::behaviour::Behaviour;
use protocol::candidate::Candidate;
use protocol::link::Link;
use protocol::opening::IntroductionId;
use protocol::signalling::{FromRendezvous, Introduction, Party, Refusal, ToRendezvous, Update};
use service::exit::{Code, Failure};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use transport::addresses::host_candidates;
use transport::discovery::{Depth, discover};
use transport::effort::{Word, Words};
use transport::port::Port;
use transport::signalling::{Signalling, SignallingError, resolve};

use crate::reach;

/// How much longer than connecting takes the look at our NAT may take: it is worth much where the NAT
/// is a hard one, and it mostly ends first.
const LOOKING_ON: Duration = Duration::from_millis(150);

/// How long a rendezvous may take to introduce, connecting included: a broadcaster may just be registering
/// again, or the connection break on the way.
const INTRODUCING: Duration = Duration::from_secs(12);

/// Connections on which an introduction is asked for, one after the other broke.
const MOST_TRIES: u32 = 3;

/// How long one rendezvous has before the next is asked as well.
const NEXT_SERVER: Duration = Duration::from_millis(800);

/// Updates for the broadcaster that may wait.
const MOST_UPDATES: usize = 16;

/// A connection to a rendezvous on which an introduction was had.
pub(crate) struct Contact {
    signalling: Signalling,
    /// What our NAT does, as far as it could be seen meanwhile.
    pub(crate) behaviour: Behaviour,
    /// The host candidates that the broadcaster was told.
    pub(crate) hosts: Vec<Candidate>,
    pub(crate) updates: mpsc::Sender<(IntroductionId, Update)>,
    outgoing: mpsc::Receiver<(IntroductionId, Update)>,
}

/// What a viewer wants of a rendezvous.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) link: Arc<Link>,
    /// Candidates beside the hosts'.
    pub(crate) more: Vec<Candidate>,
    /// The introduction to renew.
    pub(crate) renews: Option<IntroductionId>,
    /// What our NAT does, where it is known already.
    pub(crate) behaviour: Option<Behaviour>,
}

/// How pressing a failure is: of several rendezvous' failures the most telling one is told.
fn weight(failure: &Failure) -> u8 {
    match failure.code {
        Code::Unknown => 3,
        Code::NoPath => 2,
        Code::RendezvousUnreachable => 1,
        _ => 4,
    }
}

/// Has an introduction from whichever of the link's rendezvous gives one first. `introducing` is
/// called once one of them answers.
pub(crate) async fn introduce(
    port: &Arc<Port>,
    ask: &Ask,
    mut introducing: impl FnMut(),
) -> Result<(Contact, Introduction), Failure> {
    let mut tries = JoinSet::new();
    let mut servers = ask.link.servers.iter().cloned();
    let mut begin = |tries: &mut JoinSet<_>| {
        if let Some((host, number)) = servers.next() {
            let (port, ask) = (Arc::clone(port), ask.clone());
            tries.spawn(async move { introduce_at(&port, &host, number, &ask).await });
        }
    };
    begin(&mut tries);
    introducing();
    let mut failure: Option<Failure> = None;
    // Each introduction makes the broadcaster begin to open a path: the next rendezvous is asked only
    // where the one before fails, or takes long.
    while !tries.is_empty() {
        let joined = match tokio::time::timeout(NEXT_SERVER, tries.join_next()).await {
            Ok(Some(joined)) => joined,
            Ok(None) => break,
            Err(_) => {
                begin(&mut tries);
                continue;
            }
        };
        match joined {
            Ok(Ok(introduced)) => return Ok(introduced),
            Ok(Err(other)) => {
                if failure.as_ref().is_none_or(|known| weight(known) < weight(&other)) {
                    failure = Some(other);
                }
                begin(&mut tries);
            }
            Err(error) => tracing::debug!(%error, "a try ended"),
        }
    }
    Err(failure.unwrap_or_else(|| Failure::usage("the link names no rendezvous")))
}

async fn introduce_at(
    port: &Port,
    host: &str,
    number: u16,
    ask: &Ask,
) -> Result<(Contact, Introduction), Failure> {
    let servers = resolve(port, host, number).await.map_err(|error| {
        Failure::new(Code::RendezvousUnreachable, format!("{error}; check the link"))
    })?;
    let asking = async {
        let mut tries = 0;
        loop {
            tries += 1;
            let making = Contact::make(port, &servers, ask);
            let (mut contact, party) = reach::connected(making, &servers).await?;
            match contact.introduce(&ask.link, party, ask.renews).await {
                Ok(introduction) => return Ok((contact, introduction)),
                Err(NotIntroduced::Told(failure)) => return Err(failure),
                Err(NotIntroduced::Broken(error)) if tries >= MOST_TRIES => {
                    return Err(Failure::new(
                        Code::RendezvousUnreachable,
                        format!("{error}; try again"),
                    ));
                }
                // The rendezvous may have restarted, or our address may have changed: another connection
                // finds out at once.
                Err(NotIntroduced::Broken(error)) => tracing::info!("{error}; connecting again"),
            }
        }
    };
    tokio::time::timeout(INTRODUCING, asking).await.map_err(|_| {
        Failure::new(
            Code::RendezvousUnreachable,
            format!("the rendezvous at {host}:{number} took too long to introduce us; try again"),
        )
    })?
}

/// Why there is no introduction.
enum NotIntroduced {
    /// The connection broke meanwhile.
    Broken(SignallingError),
    /// The rendezvous said so.
    Told(Failure),
}

impl Contact {
    /// Connects, and looks at our NAT meanwhile.
    async fn make(
        port: &Port,
        servers: &[SocketAddr],
        ask: &Ask,
    ) -> Result<(Self, Party), SignallingError> {
        let looking = async {
            match (ask.behaviour, servers.first()) {
                (Some(known), _) => known,
                (None, Some(server)) => match discover(*server, Depth::Quick).await {
                    Ok(report) => report.behaviour,
                    Err(error) => {
                        tracing::debug!(%error, "nothing was found out about our NAT");
                        Behaviour::default()
                    }
                },
                (None, None) => Behaviour::default(),
            }
        };
        let connecting = Signalling::connect(port, servers, None);
        tokio::pin!(looking, connecting);
        let (signalling, behaviour) = tokio::select! {
            behaviour = &mut looking => (connecting.await?, behaviour),
            signalling = &mut connecting => {
                let signalling = signalling?;
                let looked = tokio::time::timeout(LOOKING_ON, &mut looking).await;
                (signalling, looked.unwrap_or_default())
            }
        };
        let bound = port
            .socket()
            .local_addr()
            .map_err(|error| SignallingError::Broken(error.to_string()))?;
        let hosts = host_candidates(bound, signalling.server().ip().is_loopback());
        let candidates = ask.more.iter().chain(&hosts).copied().collect();
        let (updates, outgoing) = mpsc::channel(MOST_UPDATES);
        Ok((
            Self { signalling, behaviour, hosts, updates, outgoing },
            Party { candidates, behaviour },
        ))
    }

    /// Where the rendezvous is.
    pub(crate) fn server(&self) -> SocketAddr {
        self.signalling.server()
    }

    async fn introduce(
        &mut self,
        link: &Link,
        party: Party,
        renews: Option<IntroductionId>,
    ) -> Result<Introduction, NotIntroduced> {
        let broken = NotIntroduced::Broken;
        let ask = ToRendezvous::Introduce { broadcaster: link.broadcaster, party, renews };
        self.signalling.send(&ask).await.map_err(broken)?;
        loop {
            match self.signalling.receive().await.map_err(broken)? {
                FromRendezvous::Introduction { introduction } => return Ok(introduction),
                FromRendezvous::Refused { reason: Refusal::UnknownBroadcaster } => {
                    return Err(NotIntroduced::Told(Failure::new(
                        Code::Unknown,
                        format!(
                            "the rendezvous at {} knows no broadcaster {}; is it running, and is the \
                             link whole?",
                            self.server(),
                            link.broadcaster
                        ),
                    )));
                }
                FromRendezvous::Refused { reason: Refusal::Busy } => {
                    return Err(NotIntroduced::Told(Failure::new(
                        Code::RendezvousUnreachable,
                        format!(
                            "the rendezvous at {} is asked for too many introductions, from this network or in \
                             all; try again in a minute, or by another rendezvous",
                            self.server()
                        ),
                    )));
                }
                FromRendezvous::Refused { reason } => {
                    return Err(NotIntroduced::Told(Failure::new(
                        Code::RendezvousUnreachable,
                        format!("the rendezvous refused ({}); try again later", reason.as_str()),
                    )));
                }
                FromRendezvous::Update { .. } => {}
                FromRendezvous::Registered { .. } => {
                    let failure = Failure::runtime("the rendezvous answered what was not asked");
                    return Err(NotIntroduced::Told(failure));
                }
            }
        }
    }

    /// Passes words between the broadcaster and the effort, for as long as it is polled. Ends where
    /// the broadcaster says that it knows us no more: `true`; or where the connection breaks: `false`.
    pub(crate) async fn pass_on(&mut self, words: &Words) -> bool {
        loop {
            tokio::select! {
                Some((introduction, update)) = self.outgoing.recv() => {
                    let update = ToRendezvous::Update { introduction, update };
                    if let Err(error) = self.signalling.send(&update).await {
                        tracing::debug!(%error, "no contact with the rendezvous any more");
                        return false;
                    }
                }
                message = self.signalling.receive() => match message {
                    Ok(FromRendezvous::Update { update, .. }) if update.is_gone => return true,
                    Ok(FromRendezvous::Update { update, .. }) => {
                        // An effort with so much waiting is not short of words.
                        words.tell(Word::Update(update));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "no contact with the rendezvous any more");
                        return false;
                    }
                },
            }
        }
    }

    /// Says goodbye.
    pub(crate) fn close(self) {
        self.signalling.close();
    }
}
