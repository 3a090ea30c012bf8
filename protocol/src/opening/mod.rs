//! Opens a path between two machines that both sit behind firewalls and NATs, and keeps it open:
//! steps 7 and 8 of the method. This page tells the whole mechanism, in the order in which it happens.
//!
//! # What is known at the start
//!
//! Steps 1 to 6 are done: each side sent a datagram to the rendezvous from the very socket that will
//! carry the media, the rendezvous read the external address off it, and told the other side. One
//! such telling is an *introduction*. It holds the peer's [candidates](crate::candidate): the address
//! that the rendezvous saw, and those that the peer named itself; what the peer's NAT does
//! ([`behaviour`](crate::behaviour)), as far as it found out; and a fresh [`Credentials`], the same for
//! both. Each side makes one [`Agent`] of it, with its [`Role`]: the viewer asked to be introduced, the
//! broadcaster was asked for.
//!
//! # Pairs
//!
//! Each side has one or several ways out ([`Local`]): the socket that everything begins on
//! ([`Local::MAIN`]), other sockets, a relay. One of our ways out and one address of the peer make a
//! *pair* ([`PairId`]), the unit that is tried, proved and used: to a firewall, the same address of the
//! peer from another socket of ours is another matter. Ways out come and go with [`Agent::add_local`]
//! and [`Agent::remove_local`], addresses of the peer come with [`Agent::add_remote`]; what is new is
//! paired with all that is there, for [`MAX_LOCALS`] ways out at a time.
//!
//! # Opening
//!
//! A firewall admits a datagram from outside only where one just like it, with the addresses
//! exchanged, went out before. So each side sends opening packets on every pair, at once. The first
//! may arrive before the other side has opened, and be dropped there; but it leaves its sender's own
//! firewall open for what the other sends. Both start at about the same time, so that the first packet
//! of each usually crosses a firewall that is already open. For loss, and for a side that starts late,
//! more follow: after 20, 60, 140 and 300 ms, then each 250 to 500 ms, until the pair is proved, the
//! [deadline](Config::deadline) comes, or the budget below is spent.
//!
//! An opening packet is a STUN Binding request, as ICE's connectivity check is (RFC 8445, section
//! 7.2), [`CHECK_LENGTH`] bytes long with its padding. Its transaction id is a fresh nonce. Whoever
//! receives it answers with a success response that echoes the nonce, and says where the request
//! seemed to come from. **A pair is proved when an answer with our nonce comes from the address that
//! we sent it to, to the socket that we sent it from.** Then the peer receives what we send there, wants
//! it, and what it sends gets through to us: in one round trip, when both start together. Nothing but
//! opening packets and answers may be sent to an address before.
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
//! A check of the peer on any pair not proved yet makes ours on that pair due at once: its side is open
//! now (a *triggered check*, RFC 8445, section 7.3.1.4).
//!
//! # One path
//!
//! Several pairs may be proved. The viewer *nominates*: the first that it proves, at once, and a better
//! one (see [`Candidate::priority`](crate::candidate::Candidate::priority); the worse end's kind counts)
//! that it proves within [`IMPROVEMENT_TIME`]. The nomination rides in its checks of that path, with a
//! number that grows by one each time it changes its mind. The broadcaster uses the first pair that it
//! proves itself, which it may without asking, and moves to what was nominated with the highest number
//! once it has proved that too. Every check of the path repeats the nomination, so a lost one does not
//! matter. When an answer shows the viewer that its own external address changed, it nominates again,
//! and the broadcaster follows to the new address.
//!
//! # Keeping
//!
//! An open path is checked at [intervals](Config::check_interval) by both sides. Each check holds the
//! NAT binding of its sender, measures the round-trip time, and renews consent (RFC 7675): an answer
//! means that the peer still wants what we send. [Any other authenticated
//! word](Agent::handle_authenticated) means that as well. Without one for
//! [`Config::consent_timeout`] the path is [lost](Event::Lost). A driver that learns that a binding ended
//! between two checks makes them come [more often](Agent::shorten_checks).
//!
//! A check that is not answered is repeated ([`Retry`]), by the viewer quickly, because it wants to
//! know soon. After some the path is [doubtful](State::Doubtful), and the viewer tries every other
//! proved pair with it. If one of them answers, the path moves there; if nothing does for
//! [`Retry::timeout`], it is lost. Whoever misses media knows sooner than checks do, and says so:
//! [`Agent::doubt`].
//!
//! # Renewal
//!
//! A router that restarts, a binding that ends, a machine that changes networks: then both sides send
//! to where nobody is, and no check gets through. But each can still reach the rendezvous, which sees
//! where each is *now*. The viewer asks it to introduce the two again, on the same introduction, and
//! both agents [`renew`](Agent::renew): a new round of openers to what the rendezvous says, with a fresh
//! budget and time to answer. Path, credentials and session go on; the path in use stays in use until
//! another pair is proved, so that a renewal in vain breaks nothing. What was proved before counts for
//! nothing any more, except on that path.
//!
//! The same means look for a better path while one works: a viewer with a relayed path renews now and
//! then.
//!
//! # Stolen ports, and another socket
//!
//! A router that does not drop what nobody asked for takes it for a packet to itself, and keeps a state
//! for it as for any flow. If the peer's opener arrives *before* our own left, that state has the very
//! addresses and ports that our flow would have: ours then gets another external port, which the peer
//! does not know and its firewall does not admit. The port is stolen, and as long as the peer goes on
//! sending it stays so; our socket never gets through to that peer. It takes a start that is later than
//! one way through the network, or a router that lost its table in the middle of a stream: the arriving
//! stream itself takes the port then.
//!
//! The remedy is another socket, with another port ([`Agent::add_local`]), tried
//! [after a while](Plan::rebind_after) where a path should have opened, and at once where one broke. Its
//! driver tells the peer first, and adds it half a round trip later: about when the peer
//! sends there too. Were its openers there before, the peer's router would steal that port like the
//! first. Sides that start when the rendezvous' word reaches them are, as a rule, no further apart in
//! time than one way between them: then no port is stolen in the first place.
//!
//! Openers may also carry a [hop limit](Setup::hop_limit) that lets them leave our own router but not
//! arrive at the peer's, until the peer is heard. One side alone may do that: the other must be heard.
//!
//! # Ports that nobody told
//!
//! If one side's NAT maps each destination to another port, and the other's firewall admits only the
//! port that was sent to, neither knows where to send. [`plan()`] says what helps, given both behaviours:
//!
//! **Prediction.** Some NATs take the next port for each new mapping, a fixed step ahead. The side behind
//! such a one looks where the sequence stands, by a question to the rendezvous from a fresh socket, sends
//! its openers, and looks again, all within a millisecond. The mapping towards the peer lies *between
//! the two looks*, whatever others behind the NAT do before and after: the [`window`] has one port on a
//! quiet network, and some more on a busy one, at most [`WINDOW`]. The peer is told, and
//! [sends to all of them](Agent::predicted), five rounds within half a second. There is no race: the
//! mapping is there already, and stays while openers repeat.
//!
//! **Forecasts.** If both sides have such a NAT, a mapping is made by sending to the other's, which does
//! not exist yet. Both look, tell each other the next port ([`Forecast`](crate::signalling::Forecast)),
//! and send there at once, so that each mapping comes to be where it was said to. [`TOGETHER`] ports of
//! each are tried, [`ATTEMPTS`] times; both hold back other openers meanwhile ([`Setup::holds`]), which
//! would move the sequences on. Flows of others between look and sending spoil a try: on a busy network
//! it works seldom.
//!
//! **Search.** A NAT that takes any port cannot be predicted. Its side opens [`SEARCH_SOCKETS`] sockets,
//! and sends openers from each to the peer's one known address, so that as many random ports of its NAT
//! admit the peer. The peer tries random ports there. With *s* sockets among the 64,512 ports that NATs
//! give ([`PORTS`]), *n* tries find one with a probability of
//!
//! ```text
//! 1 − (1 − s/64512)^n        256 sockets: 175 tries 50%, 1,024 tries 98.3%, 2,048 tries 99.97%
//! ```
//!
//! ([`search_chance`]); [`SEARCHED_PORTS`] are tried, 500 a second, so half of the searches take a third
//! of a second and all of them about four. A hit is an authentic check from the peer's known address, and
//! so makes an ordinary pair. Each try leaves an entry in the searching side's own NAT, which is why the
//! driver of a broadcaster runs few searches at once. Random ports on both sides would take the square
//! of that; such peers are relayed.
//!
//! These openers in numbers are *scouts* ([`Agent::scout`]). They leave no state behind: what answers is
//! the peer's own check. They end with the first path that is not relayed.
//!
//! # Relayed
//!
//! A viewer that expects no direct path soon gets an address at a TURN relay (RFC 8656). To the
//! broadcaster it is an address like any other, of the lowest priority; at the viewer it is one more way
//! out, which is tried towards the broadcaster's addresses outside. A relayed path carries media while
//! predictions and searches go on, and gives way to any direct pair that is proved later, at both ends
//! by nomination.
//!
//! # What a peer cannot make us do
//!
//! Whoever can be introduced could name somebody else's address. Addresses that the
//! [policy](crate::address::Policy) refuses get nothing, however they became known. For any other:
//!
//! | what | at most |
//! |---|---|
//! | openers to one address before it is proved | [`OPENERS_PER_ADDRESS`], over all ways out |
//! | openers to all such addresses | [`OPENERS_IN_TOTAL`] |
//! | answers to one, to all | [`ANSWERS_PER_ADDRESS`], [`ANSWERS_IN_TOTAL`] |
//! | addresses that are named, that only checks showed | [`MAX_INTRODUCED`], [`MAX_PEER_REFLEXIVE`] at a time |
//! | renewals, each of which begins these budgets anew | [`RENEWALS_PER_WINDOW`] within [`RENEWAL_WINDOW`] |
//! | scouts, in the life of an introduction | [`SCOUTS_IN_TOTAL`], and only to the IP address that the rendezvous itself sees the peer at |
//!
//! An answer is never longer than its request, nor an opener than [`CHECK_LENGTH`]. Media goes to proved
//! addresses only.
//!
//! # Driving it
//!
//! An agent does no I/O and knows no clock. Hand it what arrives, with the way that it came in by
//! ([`username_of`] tells which agent a datagram is for), call [`Agent::handle_timeout`] when
//! [`Agent::poll_timeout`] says, and after each call send what [`Agent::poll_transmit`] gives on the way
//! that it names, and note what [`Agent::poll_event`] tells.
//!
//! # How it is tested
//!
//! `tests/opening` runs both agents over simulated NATs by the thousand, against an oracle that knows
//! from the NATs alone whether a direct path is possible; with loss, skew, theft, other flows, flushed
//! tables and new addresses, and checks the bounds above on every datagram. `fuzz/src/targets/agent.rs`
//! lets a fuzzer be the network, the rendezvous and a peer that lies.

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
    Event, Failure, Handled, Ignored, LostReason, NotRenewed, NotTaken, Path, Purpose, Reason,
    Renewal, Setup, State, Transmit, Tried,
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
