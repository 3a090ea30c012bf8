//! The network side of punchcast: one UDP socket for each process, and everything that shares its
//! external mapping.
//!
//! - [`port`]: the socket with its demultiplexer and QUIC endpoint on it;
//! - [`kernel`]: one burst to many destinations, at the kernel's price;
//! - [`mapping`]: a port that the router maps to ours because we asked;
//! - [`paths`]: which address a peer is reached at now; [`ways`]: by which socket or relay;
//! - [`bindings`] and [`sample`]: how a STUN server sees our sockets; [`discovery`]: what the NAT here
//!   does; [`echo`]: our address where there is no rendezvous; [`relay`]: being reached through a TURN server;
//! - [`signalling`]: talking to the rendezvous; [`openings`]: driving the opening agents; [`effort`]:
//!   what is done beside that to open a path;
//! - `quic` and `repeats`: QUIC on that socket, also where much gets lost;
//! - [`identity`] and [`tls`]: keys in place of certificates;
//! - [`stream`]: control messages on QUIC streams; [`addresses`]: this machine's host candidates.

pub mod addresses;
pub mod bindings;
mod connection_ids;
mod destinations;
pub mod discovery;
pub mod echo;
pub mod effort;
pub mod households;
pub mod identity;
pub mod kernel;
pub mod mapping;
pub mod openings;
pub mod paths;
pub mod port;
mod quic;
mod readiness;
pub mod relay;
mod repeats;
mod room;
pub mod sample;
pub mod signalling;
mod slow_start;
pub mod socket;
pub mod stream;
pub mod tls;
mod unproved;
pub mod ways;
