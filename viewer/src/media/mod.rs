//! From plain RTP packets to picture and sound.
//!
//! ```text
//! each track:   packets ─ timeline ─ jitter buffer ─ depayloader ─ parser ─ tap ─ decoder
//!                                                                          │       │
//! each output:                                        muxer ─ file, network …     window, null
//! ```
//!
//! Every packet is stamped with its arrival on the player's running time; history is stamped as if
//! it had been received live. A frame is released at its arrival plus the latency. What comes out
//! of the decoder later than that isn't shown, except the very first frame: so a viewer who joins
//! in the middle of a GOP sees a picture at once, and then the live one, with nothing run through
//! in between. Coded media goes to recordings and network outputs whole, whatever its age.
//!
//! GStreamer stays behind this module, and runs in processes of its own ([`crate::apart`]): nothing outside names one of its types.

mod bar;
mod codec;
mod counters;
mod decode;
mod environment;
mod error;
mod frame;
mod hls;
mod mux;
mod options;
mod output;
mod pane;
mod parameter_sets;
mod parts;
mod player;
mod present;
mod receive;
mod reorder;
mod rtmp;
mod segments;
mod shared;
mod sink;
mod snapshot;
mod splice;
mod srt;
mod supervise;
mod take;
mod temporal_units;
mod timeline;
mod v4l2;
mod window;

pub use counters::PlayerStats;
pub(crate) use environment::{check_environment, initialise, preload};
pub use error::PlayerError;
pub use hls::Hls;
pub use options::OptionError;
pub use output::{Container, Output, OutputError, Recording};
pub(crate) use pane::Pane;
pub use parts::Parts;
pub use player::Player;
pub(crate) use receive::patience;
pub use rtmp::Rtmp;
#[cfg(test)]
pub(crate) use shared::clock;
pub(crate) use shared::{BASE, nanoseconds};
pub use srt::Srt;
pub use supervise::{Events, PlayerEvent};
pub use take::{Take, TakePlan, TakeTrack};
pub use v4l2::Loopback;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
