//! Fuzz targets for everything in punchcast that reads bytes or text from outside.
//!
//! [`targets`] holds the body of each, and what it demands of the code under test; it needs neither a
//! fuzzer nor a nightly compiler, and `protocol/tests/corpus.rs` runs the same bodies on stable.
//! [`paths`] alone needs the transport crate, whose tests replay it.

pub mod paths;
pub mod targets;
