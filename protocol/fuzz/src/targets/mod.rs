//! One module for each parser or state machine that outside bytes reach, each with one `run`.
//!
//! A body takes any bytes, must not panic, and asserts what must hold whatever they are. Bodies that
//! need more than bytes read choices from them through [`arbitrary`]; where those run out, they end.

pub mod agent;
pub mod channel;
pub mod control;
pub mod demux;
pub mod feedback;
pub mod link;
pub mod receiver;
pub mod reception;
pub mod rtp;
pub mod seal;
pub mod signalling;
pub mod srtcp;
pub mod stun;
pub mod text;
pub mod timeline;
pub mod volley;

mod choose;

/// The body of a target.
pub type Body = fn(&[u8]);

/// Every target here, by the name of its binary and corpus folder.
pub const ALL: [(&str, Body); 16] = [
    ("agent", agent::run),
    ("channel", channel::run),
    ("control", control::run),
    ("demux", demux::run),
    ("feedback", feedback::run),
    ("link", link::run),
    ("receiver", receiver::run),
    ("reception", reception::run),
    ("rtp", rtp::run),
    ("seal", seal::run),
    ("signalling", signalling::run),
    ("srtcp", srtcp::run),
    ("stun", stun::run),
    ("text", text::run),
    ("timeline", timeline::run),
    ("volley", volley::run),
];
