//! What NATs and firewalls do, in the words of RFC 4787, how to find that out, and what opens with what.
//!
//! - [`Behaviour`] is what is known about one side; it travels in introductions.
//! - [`Discovery`] finds it out by asking a STUN server that has a second port, better a second address
//!   too (RFC 5780): does the external port change with the destination asked (mapping)? Do answers
//!   from elsewhere come in (filtering)? [`Depth::Quick`] asks for mapping and ports alone.
//! - [`direct`] says whether two sides will find a direct path.
//!
//! # What one host can tell
//!
//! A server with one address shows whether mapping and filtering depend on the *port*. Whether they
//! depend on the address stays open; then they are taken to be endpoint-independent, as RFC 4787
//! requires of mapping (REQ-1) and prefers of filtering (REQ-8), and [`Report::second_address`] is
//! false. A NAT that translates addresses alone looks like one that keeps ports: to tell them apart
//! takes two hosts. Two NATs in a row are seen as the one that they amount to.
//!
//! # Unsolicited packets
//!
//! A router that neither admits nor drops what comes unasked takes it as its own: its table then holds
//! the sender and the port, and when the host behind it sends to that sender, it gets another external
//! port. So a peer's opening packet that comes too early steals the port it was meant to open
//! ([`Behaviour::takes_unsolicited`]). The test does the same: the server answers from a place that
//! was not asked, then that place is asked, and shows another port than before.

mod chance;
mod discovery;
mod evidence;
mod kind;
mod ports;
mod probe;
mod report;

use std::fmt;

use minicbor::{Decode, Encode};

pub use chance::{Chance, direct};
pub use discovery::{Depth, Discovery, NoAnswer, Setup, Transmit};
pub use kind::Kind;
pub use report::Report;

/// What mapping or filtering depends on (RFC 4787, sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Dependence {
    /// Endpoint-independent: the same towards every destination.
    #[n(0)]
    Independent,
    /// Address-dependent: it differs with the destination's address.
    #[n(1)]
    Address,
    /// Address-and-port-dependent: it differs with the destination's address or port.
    #[n(2)]
    AddressAndPort,
}

impl Dependence {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Independent, Self::Address, Self::AddressAndPort];

    /// The name for machines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Independent => "endpoint_independent",
            Self::Address => "address_dependent",
            Self::AddressAndPort => "address_and_port_dependent",
        }
    }
}

impl fmt::Display for Dependence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Independent => "endpoint-independent",
            Self::Address => "address-dependent",
            Self::AddressAndPort => "address-and-port-dependent",
        })
    }
}

/// How external ports are chosen (RFC 4787, section 4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Ports {
    /// The internal port is kept where it is free (port preservation).
    #[n(0)]
    Preserved,
    /// Another port, which stays the same for an internal endpoint.
    #[n(1)]
    Other,
    /// Each new mapping has the port that follows the latest one.
    #[n(2)]
    Sequential {
        /// From one mapping to the next; negative where ports go down.
        #[n(0)]
        step: i16,
    },
    /// Any port for each new mapping.
    #[n(3)]
    Random,
}

impl Ports {
    /// The name for machines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preserved => "preserved",
            Self::Other => "other",
            Self::Sequential { .. } => "sequential",
            Self::Random => "random",
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preserved => f.write_str("kept where they are free (port preservation)"),
            Self::Other => f.write_str("another one for each internal port"),
            Self::Sequential { step } => {
                write!(f, "a new one for each destination, {step:+} from the latest")
            }
            Self::Random => f.write_str("a new one for each destination, at random"),
        }
    }
}

/// What a NAT or firewall does, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Encode, Decode)]
pub struct Behaviour {
    /// Whether addresses or ports are translated. Without translation there is a firewall at most.
    #[n(0)]
    pub translated: Option<bool>,
    /// What the external address and port depend on.
    #[n(1)]
    pub mapping: Option<Dependence>,
    /// What it depends on whether a packet from outside comes in.
    #[n(2)]
    pub filtering: Option<Dependence>,
    /// How external ports are chosen.
    #[n(3)]
    pub ports: Option<Ports>,
    /// Whether the router takes unsolicited packets as its own, so that they steal the port they came
    /// to.
    #[n(4)]
    pub takes_unsolicited: Option<bool>,
    /// Whether hosts inside reach each other at their external addresses (RFC 4787, section 6).
    #[n(5)]
    pub hairpin: Option<bool>,
}

impl Behaviour {
    /// Whether one external address and port is known to hold towards every destination.
    pub fn is_independent(&self) -> bool {
        self.translated == Some(false) || self.mapping == Some(Dependence::Independent)
    }

    /// Whether the external port is known to change with the destination.
    pub fn is_dependent(&self) -> bool {
        !self.is_independent() && self.mapping.is_some()
    }
}

#[cfg(test)]
mod tests;
