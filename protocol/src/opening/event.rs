//! What goes into and comes out of an agent.

use std::net::SocketAddr;
use std::time::Duration;

use super::check::NotFromPeer;
use super::config::Config;
use super::credentials::{Credentials, Role};
use crate::address::{Inadmissible, Policy};
use crate::candidate::{Candidate, CandidateKind};

/// What an agent starts from: the content of one introduction, and whose agent it is.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Which party we are.
    pub role: Role,
    /// What the rendezvous minted for the introduction.
    pub credentials: Credentials,
    /// Our candidates as the peer was told them, to know which of them a path uses.
    pub local: Vec<Candidate>,
    /// The peer's candidates.
    pub remote: Vec<Candidate>,
    /// Which of them may be sent to.
    pub policy: Policy,
    /// Times.
    pub config: Config,
}

/// A datagram to send from the media socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub payload: Vec<u8>,
}

/// What an agent is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Sends opening packets; no path yet.
    Opening,
    /// Has a path, and checks it now and then.
    Open,
    /// Has a path, but several checks of it in a row went unanswered.
    Doubtful,
    /// Found no path before the deadline. Over.
    Failed,
    /// Had a path and lost it. Over.
    Lost,
}

impl State {
    /// The name in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Doubtful => "doubtful",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }

    /// Whether nothing will happen any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Failed | Self::Lost)
    }
}

/// What a timeout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The next opening packet.
    Opener,
    /// The end of opening without success.
    Deadline,
    /// The next check of the open path.
    Check,
    /// The end of patience with unanswered checks.
    Unanswered,
    /// The end of consent.
    Consent,
}

/// What an agent has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// There is a path now.
    Opened(Path),
    /// The path is another one now; the old one is not to be used any more.
    Moved(Path),
    /// The path is gone. The agent is over; a new introduction is needed.
    Lost(LostReason),
    /// No path was found before the deadline. The agent is over.
    Failed(Failure),
}

/// A path that both ends proved, or, at the broadcaster, one that it proved itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Where to send.
    pub remote: SocketAddr,
    /// The worse end's kind of candidate.
    pub kind: CandidateKind,
    /// Where the peer sees us.
    pub seen_as: SocketAddr,
    /// Round-trip time of the check that proved it.
    pub rtt: Duration,
    /// From the agent's start.
    pub took: Duration,
}

/// Why a path is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LostReason {
    /// Repeated checks went unanswered.
    #[error("the peer answers no checks any more")]
    Unanswered,
    /// No authenticated word for too long.
    #[error("the peer's consent expired")]
    ConsentExpired,
}

/// No path before the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no path opened within {after:?}: {} opening packets to {} addresses ({} refused), \
     {} checks of the peer received",
    tried.openers, tried.remotes, tried.refused, tried.checks_received
)]
pub struct Failure {
    /// Time since the start.
    pub after: Duration,
    /// What was tried.
    pub tried: Tried,
}

/// Counts of what an agent did. They never go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tried {
    /// Addresses that were sent to or would have been, introduced and peer-reflexive.
    pub remotes: u32,
    /// Introduced addresses not taken: refused by the policy, or too many.
    pub refused: u32,
    /// Addresses that only the peer's checks showed.
    pub peer_reflexive: u32,
    /// Opening packets sent.
    pub openers: u32,
    /// Authentic checks of the peer.
    pub checks_received: u32,
    /// Answers to them.
    pub answers: u32,
}

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// It was the peer's, and took effect.
    Mine,
    /// It changed nothing.
    NotMine(Ignored),
}

/// Why a datagram changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// It is not an authentic message of the peer.
    #[error(transparent)]
    NotFromPeer(#[from] NotFromPeer),
    /// It came from an address that may not be answered.
    #[error("came from a refused address: {0}")]
    Inadmissible(#[from] Inadmissible),
    /// An answer to nothing that is being asked.
    #[error("answers no check that is waiting for an answer")]
    UnknownTransaction,
    /// An answer from another address than was asked.
    #[error("answers a check that went to another address")]
    WrongAddress,
    /// The peer named too many addresses, or too much was sent to this one without proof.
    #[error("nothing more is sent to this address before it is proved")]
    OverBudget,
    /// The agent is over.
    #[error("the agent is over")]
    Over,
}

/// Why an introduced candidate is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It is one of those that are not sent to.
    #[error(transparent)]
    Inadmissible(#[from] Inadmissible),
    /// There are enough.
    #[error("the peer has {} candidates already", super::MAX_INTRODUCED)]
    TooMany,
    /// The agent is over.
    #[error("the agent is over")]
    Over,
}
