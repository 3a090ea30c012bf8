//! What the three programs share around their work: flags ([`cli`]) and what is made
//! from them ([`manual`]), [`config`] files, logs ([`log`]), [`metrics`]
//! and their [`listener`] with the status page, signals ([`shutdown`]) and exit codes ([`exit`]); and processes of their
//! own ([`child`]), with what they say to each other ([`frames`]).

pub mod child;
pub mod cli;
pub mod config;
pub mod exit;
pub mod frames;
pub mod listener;
pub mod log;
pub mod manual;
pub mod metrics;
pub mod shutdown;
