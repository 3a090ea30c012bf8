//! What benches have in common: [`namespaces`] to run in, [`environment`] to say where a result comes
//! from, [`Samples`] to make medians of, and [`MessageLoop`], the least that the kernel asks for.

pub mod environment;
mod message_loop;
pub mod namespaces;
mod samples;

pub use message_loop::{BATCH, MessageLoop};
pub use samples::{Samples, Spread};
