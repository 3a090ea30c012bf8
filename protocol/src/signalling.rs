//! What broadcasters and viewers say to the rendezvous, and what it answers (steps 1–6).
//!
//! A broadcaster's id is its key, proved by the TLS handshake of the connection it registers on; it
//! is never said in a message. The rendezvous mints credentials for each introduction and gives them
//! to both sides, so that each knows the other's opening packets. It sees addresses and ids, and no
//! channel names, secrets or keys.

use std::fmt;

use minicbor::{Decode, Decoder, Encode, decode};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::behaviour::Behaviour;
use crate::candidate::Candidate;
use crate::link::BroadcasterId;
use crate::opening::IntroductionId;

/// ALPN of a connection to the rendezvous.
pub const ALPN: &[u8] = b"punchcast-rendezvous/1";

/// QUIC application error code with which the rendezvous closes a registration that a newer one with
/// the same key replaced.
pub const REPLACED: u32 = 2;

/// QUIC application error code with which the rendezvous closes a connection from a network that holds its share
/// already.
pub const FULL: u32 = 3;

/// Most candidates that one side may name.
pub const MAX_CANDIDATES: usize = 16;

/// Most candidates in one [`Update`]: a window of predicted ports.
pub const MAX_UPDATE: usize = 48;

/// One side of an introduction, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Party {
    /// Host and mapped candidates, and what it found out by itself; the address that the rendezvous
    /// sees is not among them.
    #[n(0)]
    pub candidates: Vec<Candidate>,
    /// What its NAT or firewall does, as far as it knows.
    #[n(1)]
    pub behaviour: Behaviour,
}

/// Longest [`Token`], in bytes.
const MAX_TOKEN: usize = 256;

/// What a broadcaster shows to a rendezvous that takes not everybody. Never printed; compared in constant time.
#[derive(Clone, Encode, Zeroize, ZeroizeOnDrop)]
#[cbor(transparent)]
pub struct Token(#[n(0)] String);

impl Token {
    /// A token of 1 to 256 bytes.
    pub fn new(text: &str) -> Option<Self> {
        (1..=MAX_TOKEN).contains(&text.len()).then(|| Self(text.to_owned()))
    }
}

impl<'b, C> Decode<'b, C> for Token {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        Self::new(decoder.str()?).ok_or_else(|| decode::Error::message("no token's length"))
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// First message on the connection's one stream, and later ones.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToRendezvous {
    /// A broadcaster. Sent again when something about it changes.
    #[n(0)]
    Register {
        /// How it is reached.
        #[n(0)]
        party: Party,
        /// What it shows where not everybody may register.
        #[n(1)]
        token: Option<Token>,
    },
    /// A viewer that wants to meet a broadcaster.
    #[n(1)]
    Introduce {
        /// Whom.
        #[n(0)]
        broadcaster: BroadcasterId,
        /// How the viewer is reached.
        #[n(1)]
        party: Party,
        /// The two know each other from this introduction, whose credentials go on: the path is in
        /// doubt, or a better one is looked for.
        #[n(2)]
        renews: Option<IntroductionId>,
    },
    /// More for the other party of an introduction (trickled candidates, RFC 8838).
    #[n(2)]
    Update {
        /// Which introduction.
        #[n(0)]
        introduction: IntroductionId,
        /// What is new.
        #[n(1)]
        update: Update,
    },
}

/// What one party of an introduction tells the other while a path is being opened. The rendezvous
/// passes it on as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Update {
    /// More candidates: a relayed one, ports of another socket, predicted ports; at most
    /// [`MAX_UPDATE`].
    #[n(0)]
    pub candidates: Vec<Candidate>,
    /// Both NATs choose ports in sequence: where this side's stands now.
    #[n(1)]
    pub forecast: Option<Forecast>,
    /// Sockets that were opened towards the receiver, from external ports that nobody knows: the
    /// receiver is to search for one.
    #[n(2)]
    pub sockets: Option<u16>,
    /// The sender does not know the introduction any more.
    #[n(3)]
    pub is_gone: bool,
}

/// Where a sequence of external ports stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Forecast {
    /// How manieth try it is, from 0: forecasts of both sides belong together.
    #[n(0)]
    pub attempt: u32,
    /// The port that the next new mapping will have …
    #[n(1)]
    pub next: u16,
    /// … and what the ones behind it are apart.
    #[n(2)]
    pub step: i16,
}

impl Forecast {
    /// The port of the mapping that comes `ahead` behind the next.
    pub fn port(&self, ahead: u16) -> u16 {
        self.next.wrapping_add_signed(self.step.wrapping_mul(ahead as i16))
    }
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
    /// More from the other party of an introduction.
    #[n(3)]
    Update {
        /// Which introduction.
        #[n(0)]
        introduction: IntroductionId,
        /// What is new.
        #[n(1)]
        update: Update,
    },
}

/// One introduction, as one of its two parties gets it.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Introduction {
    /// Names the introduction in opening packets.
    #[n(0)]
    pub id: IntroductionId,
    /// Authenticates the opening packets of both parties. None where it renews an introduction that
    /// both know already.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub secret: Option<[u8; 16]>,
    /// The other party.
    #[n(2)]
    pub peer: Party,
    /// Where the rendezvous sees the other party.
    #[n(3)]
    pub peer_observed: Candidate,
    /// Where the rendezvous sees the party that this is sent to.
    #[n(4)]
    pub observed: Candidate,
    /// To a viewer: where it may get a relayed address.
    #[n(5)]
    pub relay: Option<RelayOffer>,
}

impl Introduction {
    /// All candidates of the other party: its own, and what the rendezvous sees.
    pub fn remote(&self) -> Vec<Candidate> {
        let named = self.peer.candidates.iter().take(MAX_CANDIDATES).copied();
        named.chain([self.peer_observed]).collect()
    }
}

impl std::fmt::Debug for Introduction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Introduction")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .field("peer_observed", &self.peer_observed)
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
    /// A registration by whom the rendezvous does not take.
    #[n(4)]
    NotListed,
}

impl Refusal {
    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownBroadcaster => "unknown_broadcaster",
            Self::NoKey => "no_key",
            Self::Busy => "busy",
            Self::Unexpected => "unexpected",
            Self::NotListed => "not_listed",
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
