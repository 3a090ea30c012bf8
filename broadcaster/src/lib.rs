//! The broadcaster: streams one source to many viewers.
//!
//! A frame's way is one straight line: [`media`] captures, encodes and packetizes; the channel's
//! [`fanout`] thread seals each burst once, keeps it in the history and hands it to the kernel for
//! all viewers at once. Everything else serves joining and leaving: [`registration`] keeps the
//! broadcaster known to the rendezvous, [`session`] is one viewer's life from introduction to end,
//! and [`audience`] hears what viewers report.
//! What an operator gets to see is in [`metrics`], [`events`] and [`status`], and at a terminal in [`welcome`].

mod apart;
pub mod arguments;
mod audience;
pub mod config;
mod contents;
mod devices;
mod door;
mod events;
pub mod fanout;
mod guests;
mod keys;
mod library;
mod links;
mod live;
pub mod media;
mod metrics;
mod minted;
mod moment;
mod monotonic;
mod offering;
mod operator;
mod origin;
mod places;
mod playout;
mod portal;
mod private;
mod rates;
mod registration;
mod run;
mod session;
mod shared;
mod source;
mod status;
mod surroundings;
mod trend;
mod uplink;
mod welcome;

pub use config::{Args, Config};
pub use metrics::{ChannelMetrics, described_metrics};
pub use run::run;
