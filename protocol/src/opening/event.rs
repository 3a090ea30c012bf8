//! What goes into and comes out of an agent.

use std::net::SocketAddr;
use std::time::Duration;

use super::check::NotFromPeer;
use super::config::Config;
use super::credentials::{Credentials, Role};
use super::local::Local;
use crate::address::{Inadmissible, Policy};
use crate::candidate::{Candidate, CandidateKind};

/// What an agent starts from: the content of one introduction, and whose agent it is.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Which party we are.
    pub role: Role,
    /// What the rendezvous minted for the introduction.
    pub credentials: Credentials,
    /// Our candidates on [`Local::MAIN`] as the peer was told them, to know which of them a path uses.
    pub local: Vec<Candidate>,
    /// The peer's candidates.
    pub remote: Vec<Candidate>,
    /// Where the rendezvous itself sees the peer: the only address that may be scouted.
    pub seen: Option<SocketAddr>,
    /// Which addresses may be sent to.
    pub policy: Policy,
    /// No openers go to the peer's reflexive addresses by themselves: both NATs map each destination
    /// to another port, in sequence, and every opener there would move the sequence on.
    pub holds: bool,
    /// Openers carry this hop limit until the peer is heard: enough to open our own firewall, too
    /// little to reach the peer's.
    pub hop_limit: Option<u8>,
    /// Times.
    pub config: Config,
}

/// What the rendezvous says of the peer when an introduction is renewed; as in [`Setup`].
#[derive(Debug, Clone)]
pub struct Renewal {
    /// The peer's candidates now.
    pub remote: Vec<Candidate>,
    /// Where the rendezvous sees the peer now.
    pub seen: Option<SocketAddr>,
    /// Which addresses may be sent to.
    pub policy: Policy,
    /// Whether openers to reflexive addresses are held back.
    pub holds: bool,
}

/// Why an introduction is not renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRenewed {
    /// There were as many as may be, for now.
    #[error("too many renewals within a short time")]
    TooMany,
    /// The agent is over.
    #[error("the agent is over")]
    Over,
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Which way out.
    pub local: Local,
    /// Where to.
    pub to: SocketAddr,
    /// Its hop limit (time to live), where it is not the usual one.
    pub hop_limit: Option<u8>,
    /// What for.
    pub purpose: Purpose,
    /// What.
    pub payload: Vec<u8>,
}

/// What a datagram is for, by which it is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It goes where the peer has proved to be, or answers a check.
    Known,
    /// It opens: nothing came from there yet.
    Opener,
    /// It opens where the rendezvous saw the peer, which the peer has proved to the rendezvous.
    OpenerWhereSeen,
    /// One of many that search ports.
    Scout,
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
    /// The next opener of a prediction or a search.
    Scout,
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
    /// To a broadcaster: media is wanted at this proved address from now on; everything else stays on
    /// the path.
    Media(SocketAddr),
    /// The path goes on, but the peer sees us at another address now: our mapping was gone.
    Remapped(SocketAddr),
    /// The path is gone. The agent is over; a new introduction is needed.
    Lost(LostReason),
    /// No path was found before the deadline. The agent is over.
    Failed(Failure),
}

/// A path that both ends proved, or, at the broadcaster, one that it proved itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Our end.
    pub local: Local,
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
    /// Whether it takes the place of a path that was in doubt.
    pub is_repair: bool,
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
    "no path opened within {after:?}: {} opening packets to {} addresses ({} refused) and {} to \
     predicted or searched ports, {} checks of the peer received",
    tried.openers, tried.remotes, tried.refused, tried.scouts, tried.checks_received
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
    /// Opening packets sent, without those in numbers.
    pub openers: u32,
    /// Opening packets sent to predicted or searched ports.
    pub scouts: u32,
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
