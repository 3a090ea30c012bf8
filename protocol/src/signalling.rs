//! What broadcasters and viewers say to the rendezvous, and what it answers (steps 1–6).
//!
//! A broadcaster's id is its key, proved by the TLS handshake of the connection it registers on; it
//! is never said in a message. The rendezvous mints credentials for each introduction and gives them
//! to both sides, so that each knows the other's opening packets. It sees addresses and ids, and no
//! channel names, secrets or keys.

use minicbor::{Decode, Encode};

use crate::candidate::Candidate;
use crate::link::BroadcasterId;

/// ALPN of a connection to the rendezvous.
pub const ALPN: &[u8] = b"punchcast-rendezvous/1";

/// QUIC application error code with which the rendezvous closes a registration that a newer one with
/// the same key replaced.
pub const REPLACED: u32 = 2;

/// Most candidates that one side may name.
pub const MAX_CANDIDATES: usize = 16;

/// First message on the connection's one stream, and later ones by a broadcaster.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToRendezvous {
    /// A broadcaster with these candidates (its observed address is added by the rendezvous). Sent
    /// again when they change.
    #[n(0)]
    Register {
        /// Host and mapped candidates.
        #[n(0)]
        candidates: Vec<Candidate>,
    },
    /// A viewer that wants to meet a broadcaster.
    #[n(1)]
    Introduce {
        /// Whom.
        #[n(0)]
        broadcaster: BroadcasterId,
        /// The viewer's host and mapped candidates.
        #[n(1)]
        candidates: Vec<Candidate>,
    },
}

/// What the rendezvous says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FromRendezvous {
    /// The broadcaster is known now, and seen at this server-reflexive candidate.
    #[n(0)]
    Registered {
        /// Where its datagrams come from.
        #[n(0)]
        observed: Candidate,
    },
    /// Two parties are told about each other: to a viewer in answer, to a broadcaster at any time.
    #[n(1)]
    Introduction {
        /// Whom to open a path to, and how.
        #[n(0)]
        introduction: Introduction,
    },
    /// The rendezvous will not.
    #[n(2)]
    Refused {
        /// Why.
        #[n(0)]
        reason: Refusal,
    },
}

/// One introduction, as one of its two parties gets it.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Introduction {
    /// Names the introduction in opening packets.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: [u8; 8],
    /// Authenticates the opening packets of both parties.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub secret: [u8; 16],
    /// The peer's candidates, its observed (server-reflexive) one included.
    #[n(2)]
    pub peer: Vec<Candidate>,
    /// Where the rendezvous sees the party that this is sent to.
    #[n(3)]
    pub observed: Candidate,
}

impl std::fmt::Debug for Introduction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Introduction")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .field("observed", &self.observed)
            .finish_non_exhaustive()
    }
}

/// A TURN relay (RFC 8656) that may be used where no direct path opens, and short-lived credentials
/// for it.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct RelayOffer {
    /// Where the relay is.
    #[n(0)]
    pub server: RelayServer,
    /// Username of the long-term credential (RFC 8489, section 9.2).
    #[n(1)]
    pub username: String,
    /// Its password.
    #[n(2)]
    pub password: String,
}

impl std::fmt::Debug for RelayOffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayOffer")
            .field("server", &self.server)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Where a relay is reached, over UDP.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum RelayServer {
    /// At the address that the rendezvous itself is reached at.
    #[n(0)]
    SameHost {
        /// Its UDP port.
        #[n(0)]
        port: u16,
    },
    /// Somewhere else.
    #[n(1)]
    At {
        /// Name or IP address.
        #[n(0)]
        host: String,
        /// Its UDP port.
        #[n(1)]
        port: u16,
    },
}

/// Why the rendezvous refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Refusal {
    /// No broadcaster with this id is registered.
    #[n(0)]
    UnknownBroadcaster,
    /// A registration without a key of its own.
    #[n(1)]
    NoKey,
    /// Too many requests or registrations for now.
    #[n(2)]
    Busy,
    /// A message that does not fit the state of the connection.
    #[n(3)]
    Unexpected,
}

impl Refusal {
    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownBroadcaster => "unknown_broadcaster",
            Self::NoKey => "no_key",
            Self::Busy => "busy",
            Self::Unexpected => "unexpected",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_offers_travel_and_keep_their_password() {
        let servers = [
            RelayServer::SameHost { port: 3480 },
            RelayServer::At { host: "turn.example.org".into(), port: 3478 },
        ];
        for server in servers {
            let offer = RelayOffer { server, username: "1:viewer".into(), password: "hush".into() };
            let bytes = minicbor::to_vec(&offer).expect("a vector has room");
            assert_eq!(minicbor::decode::<RelayOffer>(&bytes).expect("what was encoded"), offer);
            assert!(!format!("{offer:?}").contains("hush"));
        }
    }
}
