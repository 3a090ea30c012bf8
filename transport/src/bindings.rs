//! Asking a STUN server how it sees one of our sockets (RFC 8489), from the socket itself.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use protocol::address::canonical;
use protocol::opening::Local;
use protocol::stun::{TransactionId, binding_request, mapped_address};
use tokio::sync::oneshot;

use crate::ways::Ways;

/// When a request is repeated, from one transmission to the next; after the last, an answer is waited
/// for as long again.
const REPEATED_AFTER: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// Questions that wait for their answers.
#[derive(Debug)]
pub struct Bindings {
    ways: Arc<Ways>,
    waiting: DashMap<TransactionId, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    server: SocketAddr,
    answer: oneshot::Sender<SocketAddr>,
}

impl Bindings {
    pub(crate) fn new(ways: Arc<Ways>) -> Arc<Self> {
        Arc::new(Self { ways, waiting: DashMap::new() })
    }

    /// Asks at once, before the future is polled, so that the order of several questions is that of
    /// the calls. `None` where no answer comes.
    pub fn ask(
        self: &Arc<Self>,
        local: Local,
        server: SocketAddr,
    ) -> impl Future<Output = Option<SocketAddr>> + Send + use<> {
        let (transaction, request) = binding_request(&mut rand::rng());
        let (answer, mut answered) = oneshot::channel();
        self.waiting.insert(transaction, Waiting { server: canonical(server), answer });
        let forget = Forget { bindings: Arc::clone(self), transaction };
        let this = Arc::clone(self);
        // What cannot be sent is as if the network had lost it.
        let _ = this.ways.send(local, &request, server, None);
        async move {
            let _forget = forget;
            for gap in REPEATED_AFTER {
                if let Ok(answer) = tokio::time::timeout(gap, &mut answered).await {
                    return answer.ok();
                }
                let _ = this.ways.send(local, &request, server, None);
            }
            let last = REPEATED_AFTER[REPEATED_AFTER.len() - 1];
            tokio::time::timeout(last, answered).await.ok()?.ok()
        }
    }

    /// Takes an answer. False for anything else.
    pub(crate) fn handle(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        let Some(transaction) = datagram.get(8..20).filter(|_| !self.waiting.is_empty()) else {
            return false;
        };
        let id = transaction.iter().fold(0u128, |id, byte| id << 8 | u128::from(*byte));
        let transaction = TransactionId::from(id);
        let Some(mapped) = mapped_address(datagram, transaction) else { return false };
        let waiting = self.waiting.remove_if(&transaction, |_, waiting| waiting.server == from);
        let Some((_, waiting)) = waiting else { return false };
        // An error means that nobody waits any more.
        let _ = waiting.answer.send(mapped);
        true
    }
}

/// Forgets a question when nobody waits for it any more.
struct Forget {
    bindings: Arc<Bindings>,
    transaction: TransactionId,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.bindings.waiting.remove(&self.transaction);
    }
}
