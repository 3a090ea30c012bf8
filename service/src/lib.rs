//! What the three programs share around their work: [`config`] files, logs ([`log`]), the metrics
//! listener ([`metrics`]), signals ([`shutdown`]) and exit codes ([`exit`]).

pub mod config;
pub mod exit;
pub mod log;
pub mod metrics;
pub mod shutdown;
