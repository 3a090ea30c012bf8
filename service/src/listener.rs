//! The metrics listener: `/metrics` (Prometheus text), `/healthz` (the process is up), `/readyz`
//! (useful work is possible), and for people `/`, a page of its own that shows `/api/status` (JSON).
//! It only tells; nothing can be changed here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::{Json, Router};
use prometheus::{Encoder, IntGauge, Registry, TextEncoder};
use serde_json::{Map, Value};

use crate::exit::Failure;
use crate::metrics::gauge;

/// The page: everything in one file, so that it works without any other server.
const PAGE: &str = include_str!("status.html");

/// What the page may do: run its own script and ask this listener. Texts of others that got into it as
/// markup could load nothing and tell nobody.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

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

/// What a program shows.
pub struct Shown {
    /// Its name.
    pub program: &'static str,
    /// Its metrics.
    pub registry: Registry,
    /// Whether useful work is possible.
    pub readiness: Readiness,
    /// Called before each scrape, to set what is not counted as it happens.
    pub refresh: Box<dyn Fn() + Send + Sync>,
    /// What `/api/status` says beside program, version, time and readiness.
    pub status: Box<dyn Fn() -> Map<String, Value> + Send + Sync>,
}

struct Service {
    shown: Shown,
    ready: IntGauge,
    started_at: Instant,
}

/// Serves the endpoints on `address` until the process ends.
///
/// # Errors
///
/// When the address cannot be listened on.
pub async fn serve(address: SocketAddr, shown: Shown) -> Result<SocketAddr, Failure> {
    let failed = |error: std::io::Error| {
        Failure::runtime(format!(
            "cannot listen for metrics on {address}: {error}; choose another with --metrics"
        ))
    };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let ready = ready_gauge(&shown.registry);
    let service = Arc::new(Service { shown, ready, started_at: Instant::now() });
    let router = Router::new()
        .route("/", get(page))
        .route("/api/status", get(status))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(service);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics listener ended");
        }
    });
    tracing::info!("metrics on http://{bound}/metrics, status page on http://{bound}/");
    Ok(bound)
}

/// What every listener says of readiness.
pub fn ready_gauge(registry: &Registry) -> IntGauge {
    gauge(
        registry,
        "punchcast_ready",
        "1 while useful work is possible, as /readyz says: a broadcaster is registered, a viewer plays.",
    )
}

async fn page() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, Html(PAGE))
}

async fn status(State(service): State<Arc<Service>>) -> impl IntoResponse {
    let Service { shown, started_at, .. } = &*service;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut status = Map::new();
    status.insert("program".into(), shown.program.into());
    status.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    status.insert("now_ms".into(), (now.as_millis() as u64).into());
    status.insert("uptime_seconds".into(), started_at.elapsed().as_secs_f64().into());
    status.insert("ready".into(), shown.readiness.is_ready().into());
    status.extend((shown.status)());
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(Value::Object(status)))
}

async fn metrics(State(service): State<Arc<Service>>) -> impl IntoResponse {
    let Service { shown, ready, .. } = &*service;
    ready.set(shown.readiness.is_ready().into());
    (shown.refresh)();
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&shown.registry.gather(), &mut text) {
        Ok(()) => {
            (StatusCode::OK, [(header::CONTENT_TYPE, encoder.format_type().to_owned())], text)
        }
        Err(error) => {
            let text = error.to_string().into_bytes();
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain".into())], text)
        }
    }
}

async fn readyz(State(service): State<Arc<Service>>) -> impl IntoResponse {
    if service.shown.readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}
