//! The pure part of punchcast.

pub mod address;
pub mod burst;
pub mod candidate;
pub mod channel;
pub mod control;
pub mod demux;
pub mod feedback;
pub mod link;
pub mod media;
pub mod message;
pub mod opening;
pub mod reception;
pub mod rtp;
pub mod seal;
pub mod signalling;
pub mod size;
pub mod stun;
pub mod timeline;
pub mod units;
