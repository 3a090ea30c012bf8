//! Opens a path between two machines that both sit behind firewalls and NATs, and keeps it open:
//! steps 7 and 8 of the method.
//!
//! # What is known at the start
//!
//! Steps 1 to 6 are done: each side sent a datagram to the rendezvous from the very socket that will
//! carry the media, the rendezvous read the external address off it, and told the other side. One
//! such telling is an *introduction*. It holds the peer's [candidates](crate::candidate): the address
//! that the rendezvous saw, and those that the peer named itself; and a fresh [`Credentials`], the
//! same for both. Each side makes one [`Agent`] of it, with its [`Role`]: the viewer asked to be
//! introduced, the broadcaster was asked for.
//!
//! # Opening
//!
//! A firewall admits a datagram from outside only where one just like it, with the addresses
//! exchanged, went out before. So each side sends opening packets to every candidate of the other, at
//! once. The first may arrive before the other side has opened, and be dropped there; but it leaves
//! its sender's own firewall open for what the other sends. Both start at about the same time, so
//! that the first packet of each usually crosses a firewall that is already open. For loss, and for a
//! side that starts late, more follow: after 20, 60, 140 and 300 ms, then each 250 to 500 ms, until
//! the address is proved, the [deadline](Config::deadline) comes, or the budget below is spent.
//!
//! An opening packet is a STUN Binding request, as ICE's connectivity check is (RFC 8445, section
//! 7.2), [`CHECK_LENGTH`] bytes long with its padding. Its transaction id is a fresh nonce. Whoever
//! receives it answers with a success response that echoes the nonce, and says where the request
//! seemed to come from. **An address is proved when an answer with our nonce comes from the address
//! that we sent it to.** Then it receives what we send there, wants it, and what it sends gets
//! through to us: in one round trip, when both start together. Nothing but opening packets and
//! answers may be sent to an address before.
//!
//! Both directions are authenticated with the introduction's secret. A datagram that fails that
//! changes nothing and gets no answer. A request says which role sent it, so that one cannot be sent
//! back to its maker.
//!
//! # Addresses that nobody told
//!
//! A NAT whose mapping depends on the destination sends from another external address towards us
//! than it did towards the rendezvous. Where our own firewall lets such an opening packet in, its
//! source is a *peer-reflexive* candidate: it is answered, and checked back at once. So one side with
//! such a NAT is no obstacle as long as the other's firewall admits packets from any port. The same
//! rule repairs a path after either side's NAT gave it a new address.
//!
//! A check of the peer from any address not proved yet makes ours to that address due at once: its
//! side is open now (a *triggered check*, RFC 8445, section 7.3.1.4).
//!
//! # One path
//!
//! Several candidates may be proved. The viewer *nominates*: the first that it proves, at once,
//! and a better one (see [`Candidate::priority`](crate::candidate::Candidate::priority)) that it
//! proves within [`IMPROVEMENT_TIME`]. The nomination rides in its checks of that path, with a
//! number that grows by one each time it changes its mind. The broadcaster uses the first address
//! that it proves itself, which it may without asking, and moves to what was nominated with the
//! highest number once it has proved that too. Every check of the path repeats the nomination, so a
//! lost one does not matter. When an answer shows the viewer that its own external address changed,
//! it nominates again, and the broadcaster follows to the new address.
//!
//! # Keeping
//!
//! An open path is checked at [intervals](Config::check_interval) by both sides. Each check holds the
//! NAT binding of its sender, measures the round-trip time, and renews consent (RFC 7675): an answer
//! means that the peer still wants what we send. [Any other authenticated
//! word](Agent::handle_authenticated) means that as well. Without one for
//! [`Config::consent_timeout`] the path is [lost](Event::Lost).
//!
//! A check that is not answered is repeated ([`Retry`]), by the viewer quickly, because it wants to
//! know soon. After some the path is [doubtful](State::Doubtful), and the viewer tries every other
//! proved address with it. If one of them answers, the path moves there; if nothing does for
//! [`Retry::timeout`], it is lost, and a new introduction is needed.
//!
//! # What a peer cannot make us do
//!
//! Whoever can be introduced could name somebody else's address. Addresses that the
//! [policy](crate::address::Policy) refuses get nothing, named or peer-reflexive. Any other gets at
//! most [`OPENERS_PER_ADDRESS`] openers and [`ANSWERS_PER_ADDRESS`] answers before it is proved, all
//! of them together [`OPENERS_IN_TOTAL`] and [`ANSWERS_IN_TOTAL`] in the life of an introduction, for
//! at most [`MAX_INTRODUCED`] and [`MAX_PEER_REFLEXIVE`] addresses at a time. An answer is never
//! longer than its request, nor an opener than a request.
//!
//! # Driving it
//!
//! An agent does no I/O and knows no clock. Hand it what arrives ([`username_of`] tells which agent a
//! datagram is for), call [`Agent::handle_timeout`] when [`Agent::poll_timeout`] says, and after each
//! call send what [`Agent::poll_transmit`] gives and note what [`Agent::poll_event`] tells.

mod agent;
mod budget;
mod check;
mod config;
mod credentials;
mod event;
mod guessing;
mod keeping;
mod local;
mod nomination;
mod pair;
mod pairs;
mod plan;
mod renewal;
mod scout;

use std::time::Duration;

pub use agent::Agent;
pub use budget::{ANSWERS_IN_TOTAL, ANSWERS_PER_ADDRESS, OPENERS_IN_TOTAL, OPENERS_PER_ADDRESS};
pub use check::{CHECK_LENGTH, NotFromPeer, username_of};
pub use config::{Config, Retry};
pub use credentials::{Credentials, IntroductionId, Role};
pub use event::{
    Event, Failure, Handled, Ignored, LostReason, NotRenewed, NotTaken, Path, Reason, Renewal,
    Setup, State, Transmit, Tried,
};
pub use guessing::{
    ATTEMPT_TIME, ATTEMPTS, FORECAST_TIME, PORTS, SEARCH_SOCKETS, SEARCHED_PORTS, TOGETHER, WINDOW,
    search_chance, searched_ports, window,
};
pub use local::{Local, PairId};
pub use pairs::{MAX_INTRODUCED, MAX_LOCALS, MAX_PEER_REFLEXIVE};
pub use plan::{Plan, SEARCH_AFTER, Search, plan};
pub use renewal::{RENEWAL_WINDOW, RENEWALS_PER_WINDOW};
pub use scout::{SCOUTS_IN_TOTAL, Scouting};

/// How long better paths are looked for once there is one, and a new address is tried: as long as
/// the usual openers need to get through heavy loss, and short enough that a stream soon stays put.
pub const IMPROVEMENT_TIME: Duration = Duration::from_secs(2);
