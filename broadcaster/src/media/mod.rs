//! From a source to encoded RTP: the only part of the broadcaster that knows GStreamer.
//!
//! A [`SourceSpec`] becomes pads, each pad becomes a track, and each track's packets come out as
//! [`Unit`]s, one for each access unit:
//!
//! ```text
//! test, camera, pipeline ─ pads ─┐                 raw:     scale ─ encode ─┐
//! rtsp, srt, rtmp, rtp ── pads ──┤                                          │
//!                                ├─ queue ─ what? ─                         ├─ payload ─ Unit
//! file ─ turns ─ appsrc ─ pads ──┘                 encoded: parse ──────────┘
//! ```
//!
//! Encoded sources pass through where there is an RTP payload format that viewers know; everything
//! else becomes H.264 or Opus. A stored file is read turn after turn, and its turns are laid end to
//! end on one clock. Every queue is bounded: a live source whose encoder can't keep up loses raw
//! pictures, never memory.

mod camera;
mod config;
pub mod devices;
pub(crate) mod duration;
mod elements;
mod encode;
mod encoders;
mod error;
mod file;
mod fragment;
mod gate;
mod libcamera;
mod modes;
mod nal;
mod network;
mod obu;
mod payload;
mod plan;
mod playout;
pub(crate) mod probe;
mod producer;
pub mod screen;
mod spec;
pub(crate) mod stored;
#[cfg(test)]
mod tests;
pub(crate) mod thumbnail;
mod track;
mod transport_stream;
mod tuning;
mod unit;

pub use config::{AudioConfig, MediaConfig, RenditionConfig, VideoConfig};
pub use elements::check_environment;
pub use encoders::{Encoder, Present, present};
pub use error::MediaError;
pub use modes::{Form, Mode};
pub use network::{Entrance, NetworkUrl, redacted};
pub use playout::{Next, Opened, Placed, Playout, PlayoutConfig};
pub use producer::{Continuation, EncoderStats, Event, EventSink, Producer};
pub use spec::{ParseSourceError, SourceSpec};
pub(crate) use track::AS_IT_COMES;
pub use unit::Unit;
