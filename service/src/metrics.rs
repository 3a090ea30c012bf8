//! The metrics listener: `/metrics` (Prometheus text), `/healthz` (the process is up), `/readyz`
//! (useful work is possible).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Encoder, IntGauge, Opts, Registry, TextEncoder};

use crate::exit::Failure;

/// Whether useful work is possible: what `/readyz` says.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Useful work is possible from now on, or no longer.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Clone)]
struct Service {
    registry: Registry,
    readiness: Readiness,
    refresh: Arc<dyn Fn() + Send + Sync>,
}

/// A registry that names the program and its version.
pub fn registry(program: &str) -> Registry {
    let registry = Registry::new();
    let labels = [("program", program), ("version", env!("CARGO_PKG_VERSION"))];
    let opts = labels.into_iter().fold(
        Opts::new("punchcast_build_info", "Always 1; its labels name program and version."),
        |opts, (name, value)| opts.const_label(name, value),
    );
    let info = IntGauge::with_opts(opts).expect("the name is legal");
    info.set(1);
    registry.register(Box::new(info)).expect("the first of its name");
    registry
}

/// Serves the endpoints on `address` until the process ends. `refresh` runs before each scrape, to
/// set what is not counted as it happens.
pub async fn serve(
    address: SocketAddr,
    registry: Registry,
    readiness: Readiness,
    refresh: impl Fn() + Send + Sync + 'static,
) -> Result<SocketAddr, Failure> {
    let failed = |error: std::io::Error| {
        Failure::runtime(format!(
            "cannot listen for metrics on {address}: {error}; choose another with --metrics"
        ))
    };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let service = Service { registry, readiness, refresh: Arc::new(refresh) };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(service);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics listener ended");
        }
    });
    tracing::info!("metrics on http://{bound}/metrics");
    Ok(bound)
}

async fn metrics(State(service): State<Service>) -> impl IntoResponse {
    (service.refresh)();
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&service.registry.gather(), &mut text) {
        Ok(()) => {
            (StatusCode::OK, [(header::CONTENT_TYPE, encoder.format_type().to_owned())], text)
        }
        Err(error) => {
            let text = error.to_string().into_bytes();
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain".into())], text)
        }
    }
}

async fn readyz(State(service): State<Service>) -> impl IntoResponse {
    if service.readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}
