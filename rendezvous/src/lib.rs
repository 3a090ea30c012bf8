//! The rendezvous: a small public server that tells a broadcaster and a viewer each other's external
//! address (steps 1–6 of the method). It never learns channel names, secrets or keys, and media passes
//! through it only where no direct path opens, sealed.
//!
//! - a broadcaster registers over QUIC; its id is the key that it proves to hold in the handshake;
//! - a viewer asks for an introduction; both sides get each other's candidates, and credentials
//!   minted for this one introduction;
//! - anybody gets its own address from a STUN Binding request, at a bounded rate, and finds out by a
//!   second port and address what its NAT does (RFC 5780);
//! - a viewer without a direct path is reached through the [`relay`], if there is one.
//!
//! All state is in memory: after a restart broadcasters register again by themselves.

pub mod config;
pub mod directory;
mod households;
mod metrics;
pub mod permits;
pub mod relay;
mod second;
mod server;
mod session;
mod stun;

pub use config::{Args, Config};
pub use directory::Directory;
pub use metrics::described_metrics;
pub use relay::Relay;
pub use second::Second;
pub use server::Server;

use std::sync::Arc;

use service::exit::Failure;

/// Runs a rendezvous until it is asked to stop.
pub async fn run(config: Config) -> Result<(), Failure> {
    let server = Server::start(&config, Arc::new(Directory::default()))?;
    tracing::info!("rendezvous listening on {}", server.local_addr());
    if let Some(address) = server.relay().and_then(|relay| relay.local_addr()) {
        tracing::info!("relay listening on {address}");
    }
    if let Some(address) = config.metrics {
        server.serve_metrics(address).await?;
    }
    service::shutdown::requested()
        .await
        .map_err(|error| Failure::runtime(format!("cannot listen for signals: {error}")))?;
    tracing::info!("stopping");
    server.stop().await;
    Ok(())
}
