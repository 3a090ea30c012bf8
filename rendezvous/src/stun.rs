//! Answering plain STUN at every place of the server's.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use protocol::stun::{PlainLimiter, answer_plain_binding};
use tokio::task::JoinHandle;
use transport::port::{Arrival, Inbound};
use transport::socket::Socket;

use crate::metrics::{Metrics, Rejection};
use crate::second::Places;

/// Datagrams that are taken from the kernel at once at a further place.
const RECEIVE_BATCH: usize = 4;

/// Answers plain STUN. What all sockets answer counts towards one limit.
pub(crate) struct Stun {
    main: Arc<Socket>,
    /// Known as soon as the main socket is bound.
    places: OnceLock<Places>,
    limiter: Mutex<PlainLimiter>,
    metrics: Arc<Metrics>,
}

/// Answers at the further places until it is dropped.
#[derive(Debug)]
pub(crate) struct Answering(Vec<JoinHandle<()>>);

impl Drop for Answering {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Stun {
    pub(crate) fn new(main: Arc<Socket>, metrics: Arc<Metrics>) -> Self {
        Self { main, places: OnceLock::new(), limiter: Mutex::default(), metrics }
    }

    /// Answers at all these places from now on.
    pub(crate) fn answer_at(self: &Arc<Self>, places: Places) -> Answering {
        let tasks = places.further().map(|socket| {
            let (stun, socket) = (Arc::clone(self), Arc::clone(socket));
            tokio::spawn(async move {
                let error = socket
                    .receive(RECEIVE_BATCH, |from, at, datagram| {
                        stun.answer(&socket, from, at, datagram)
                    })
                    .await;
                tracing::error!(%error, "a second STUN socket failed; it answers no more");
            })
        });
        let tasks = tasks.collect();
        // Set once, at the start.
        let _ = self.places.set(places);
        Answering(tasks)
    }

    fn answer(&self, socket: &Socket, from: SocketAddr, at: Option<IpAddr>, datagram: &[u8]) {
        let place = self.here(socket, at).zip(self.places.get());
        let place = place.map(|(here, places)| places.place(here));
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = answer_plain_binding(datagram, from, place.as_ref(), || {
            limiter.admit(from, Instant::now())
        });
        drop(limiter);
        let sent = answer.is_some_and(|answer| {
            // To the source of the request always; from where it was sent to, or as it asks.
            let origin = place.and_then(|place| place.origin(answer.change));
            let outlet = origin.zip(self.places.get());
            let outlet = outlet.and_then(|(origin, places)| Some((origin, places.outlet(origin)?)));
            match outlet {
                Some((origin, outlet)) => outlet.try_send_from(&answer.bytes, from, origin.ip()),
                None => socket.try_send_to(&answer.bytes, from),
            }
            .is_ok()
        });
        if sent {
            self.metrics.stun_answers.inc();
        } else {
            self.metrics.reject(Rejection::Stun);
        }
    }

    /// Where a datagram arrived, if it is known.
    fn here(&self, socket: &Socket, at: Option<IpAddr>) -> Option<SocketAddr> {
        let bound = socket.local_addr().ok()?;
        let ip = Some(bound.ip()).filter(|ip| !ip.is_unspecified()).or(at)?;
        Some(SocketAddr::new(ip, bound.port()))
    }
}

impl Inbound for Stun {
    fn stun(&self, arrival: Arrival, datagram: &[u8]) {
        self.answer(&self.main, arrival.from, arrival.at, datagram);
    }

    fn media(&self, _from: SocketAddr, _datagram: &mut [u8]) {
        // No media passes through the rendezvous.
    }
}
