//! Thousands of viewers in one process, each with the real protocol and a socket and an address of its
//! own: for measuring what they cost a broadcaster, and what it costs them that there are others.
//!
//! Nothing is decoded; but every packet is opened and checked, losses are followed, asked for again and
//! reported, by the very code of the viewer ([`viewer::opener`]). [`Plan`] says who joins when and how
//! they behave, [`run`] does it, and [`Line`] is what it tells meanwhile and at its end.

mod addresses;
mod clip;
mod histogram;
mod limits;
mod process;
mod report;
mod tap;
mod timing;
mod viewers;

pub use addresses::Addresses;
pub use clip::Clip;
pub use histogram::{Histogram, Percentiles};
pub use process::Load;
pub use report::{Extremes, Line, Second, Summary};
pub use viewers::{Misbehaviour, Plan, run};
