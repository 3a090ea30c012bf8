//! The metrics listener: `/metrics` (Prometheus text), `/healthz` (the process is up), `/readyz`
//! (useful work is possible), and for people `/`, a page of its own that shows `/api/status` (JSON).
//! It only tells; nothing can be changed here.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
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

/// Whether useful work is possible, and else why not: what `/readyz` says.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<Result<(), &'static str>>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Err("still starting"))))
    }
}

impl Readiness {
    /// Useful work is possible from now on; or no longer, for this reason.
    pub fn set(&self, ready: Result<(), &'static str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ready;
    }

    /// Whether it is, or why not.
    pub fn get(&self) -> Result<(), &'static str> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is.
    pub fn is_ready(&self) -> bool {
        self.get().is_ok()
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
    let router = if bound.ip().to_canonical().is_loopback() {
        router.layer(axum::middleware::from_fn(only_for_us))
    } else {
        router
    };
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
    match service.shown.readiness.get() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

/// Refuses requests for a name that is none of this machine's, where only this machine is listened to: a web
/// site could give itself our loopback address, and have its reader's browser read the page (DNS rebinding).
async fn only_for_us(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_none_or(is_local_name) {
        return next.run(request).await;
    }
    let advice = "this listener is on loopback: ask for localhost or an address; a reverse proxy must send such a \
                  Host, as most do\n";
    (StatusCode::MISDIRECTED_REQUEST, advice).into_response()
}

/// Whether a Host header names this machine: by an address, or as localhost.
fn is_local_name(host: &str) -> bool {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        Some((name, port)) if is_port(port) && !name.ends_with(':') => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_taken() {
        for host in
            ["localhost", "LOCALHOST:9402", "127.0.0.1", "127.0.0.1:9402", "[::1]:9402", "::1"]
        {
            assert!(is_local_name(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:9402", "127.0.0.1.evil.example", ""] {
            assert!(!is_local_name(host), "{host}");
        }
    }
}
