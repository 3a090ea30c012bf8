//! Learning our external address from plain STUN servers, where no rendezvous tells it.

use std::net::SocketAddr;

use protocol::candidate::{Candidate, CandidateKind};
use protocol::link::parse_host_port;
use protocol::opening::Local;

use crate::port::Port;
use crate::signalling::{SignallingError, resolve};

/// How STUN servers see the main socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    /// The first server that answered.
    pub server: SocketAddr,
    /// Where it sees us.
    pub external: SocketAddr,
    /// Whether servers at several addresses see us at one and the same. None where fewer than two
    /// answered.
    pub agrees: Option<bool>,
}

/// Why our external address is not known.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    /// A server's name is none.
    #[error("'{0}' is no HOST:PORT of a STUN server")]
    Name(String),
    /// A server's name leads nowhere.
    #[error(transparent)]
    Resolve(SignallingError),
    /// None answered.
    #[error("none of the STUN servers {0} answers")]
    NoAnswer(String),
}

/// Asks all these servers, each HOST:PORT, from the main socket.
pub async fn ask(port: &Port, servers: &[String]) -> Result<Echo, EchoError> {
    let mut addresses = Vec::new();
    for text in servers {
        let (host, number) = parse_host_port(text).ok_or_else(|| EchoError::Name(text.clone()))?;
        match resolve(port, &host, number).await {
            Ok(found) => {
                // IPv4 first: an IPv6 address of ours needs no server to be known.
                addresses.extend(found.into_iter().min_by_key(SocketAddr::is_ipv6));
            }
            Err(error) if servers.len() == 1 => return Err(EchoError::Resolve(error)),
            Err(error) => tracing::warn!("{error}"),
        }
    }
    let asked: Vec<_> = addresses
        .iter()
        .map(|address| (*address, port.bindings().ask(Local::MAIN, *address)))
        .collect();
    let mut seen = Vec::new();
    for (server, answer) in asked {
        seen.extend(answer.await.map(|external| (server, external)));
    }
    let Some((server, external)) = seen.first().copied() else {
        return Err(EchoError::NoAnswer(servers.join(", ")));
    };
    let others = seen.iter().filter(|(other, _)| other.ip() != server.ip());
    let agreeing: Vec<bool> = others.map(|(_, other)| *other == external).collect();
    let agrees = (!agreeing.is_empty()).then(|| agreeing.iter().all(|agrees| *agrees));
    Ok(Echo { server, external, agrees })
}

impl Echo {
    /// What it makes of us.
    pub fn candidate(&self) -> Candidate {
        Candidate::new(self.external, CandidateKind::Reflexive)
    }
}
