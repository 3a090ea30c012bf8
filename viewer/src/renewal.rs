//! Starting over on the same introduction while a session goes on: because the path is in doubt, or
//! because a relayed viewer looks for a direct one.

use std::net::SocketAddr;
use std::sync::Arc;

use protocol::link::Link;
use protocol::signalling::Introduction;
use service::exit::{Code, Failure};
use tokio::task::JoinHandle;
use transport::effort::{Effort, Word};
use transport::port::Port;
use transport::ways::Ways;

use crate::contact::{self, Ask, Contact};
use crate::lifeline::{Lifeline, another_socket};

/// What a renewal came to.
#[derive(Debug)]
pub(crate) enum Renewed {
    /// All was tried; what came of it shows in the path.
    Tried,
    /// The broadcaster does not know us any more: it restarted, or gave us up.
    Gone,
    /// There was no introduction.
    Failed(Failure),
}

/// Keeps an introduction going. Dropping it ends all that is done for it.
pub(crate) struct Renewer {
    port: Arc<Port>,
    /// Missing where no rendezvous introduced us, so that none can do it again.
    introduced: Option<Introduced>,
    task: Option<JoinHandle<Renewed>>,
}

struct Introduced {
    lifeline: Lifeline,
    link: Arc<Link>,
    /// Where the rendezvous was found last.
    server: SocketAddr,
    _effort: Effort,
}

impl Drop for Renewer {
    fn drop(&mut self) {
        self.stop();
        let receiving = self.introduced.as_ref().and_then(|known| known.lifeline.receiving);
        for local in self.port.ways().locals() {
            if Some(local) != receiving {
                self.port.ways().remove(local);
            }
        }
    }
}

impl Renewer {
    /// Begins with the introduction itself.
    pub(crate) fn start(
        lifeline: Lifeline,
        effort: Effort,
        link: Arc<Link>,
        contact: Contact,
        introduction: Introduction,
    ) -> Self {
        let server = contact.server();
        let running = lifeline.clone();
        let task = tokio::spawn(async move {
            match running.run(contact, introduction).await {
                true => Renewed::Gone,
                false => Renewed::Tried,
            }
        });
        let port = Arc::clone(&lifeline.port);
        let introduced = Some(Introduced { lifeline, link, server, _effort: effort });
        Self { port, introduced, task: Some(task) }
    }

    /// For an introduction that nobody can renew.
    pub(crate) fn none(port: &Arc<Port>) -> Self {
        Self { port: Arc::clone(port), introduced: None, task: None }
    }

    /// Whether something is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Whether there is an outcome to wait for.
    pub(crate) fn is_waiting(&self) -> bool {
        self.task.is_some()
    }

    /// All our ways out.
    pub(crate) fn ways(&self) -> &Ways {
        self.port.ways()
    }

    /// What came of the last one, once.
    pub(crate) async fn outcome(&mut self) -> Option<Renewed> {
        self.task.take_if(|task| task.is_finished())?.await.ok()
    }

    /// Begins to renew. `rebinds` says whether another socket is tried as well, at once: where a router
    /// took our port for itself, nothing else helps.
    pub(crate) fn renew(&mut self, rebinds: bool) {
        self.stop();
        let Some(Introduced { lifeline, link, server, .. }) = &self.introduced else { return };
        let (lifeline, link, server) = (lifeline.clone(), Arc::clone(link), *server);
        self.task = Some(tokio::spawn(renew(lifeline, link, server, rebinds)));
    }

    fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

async fn renew(lifeline: Lifeline, link: Arc<Link>, server: SocketAddr, rebinds: bool) -> Renewed {
    let renews = Some(lifeline.handle.id());
    let ask = Ask { link, more: Vec::new(), renews, behaviour: None };
    let other = {
        let port = Arc::clone(&lifeline.port);
        // Beside connecting, which takes longer.
        tokio::spawn(
            async move { if rebinds { another_socket(&port, server).await } else { None } },
        )
    };
    let (contact, introduction) = match contact::introduce(&lifeline.port, &ask, || {}).await {
        Ok(introduced) => introduced,
        Err(failure) if failure.code == Code::Unknown => return Renewed::Gone,
        Err(failure) => return Renewed::Failed(failure),
    };
    lifeline.handle.told(protocol::opening::Local::MAIN, &contact.hosts);
    let renewal = Word::Renewal {
        introduction: Box::new(introduction.clone()),
        server: contact.server(),
        updates: contact.updates.clone(),
    };
    if !lifeline.words.tell(renewal) {
        return Renewed::Tried;
    }
    let updates = contact.updates.clone();
    let adding = async {
        if let Ok(Some(socket)) = other.await {
            lifeline.use_socket(socket, &updates).await;
        }
    };
    let ((), is_gone) = tokio::join!(adding, lifeline.clone().run(contact, introduction));
    match is_gone {
        true => Renewed::Gone,
        false => Renewed::Tried,
    }
}
