//! The module's parts together, on real packets.

#![expect(clippy::unwrap_used, reason = "tests")]

mod join;
mod live;
mod record;
