//! What operators and Prometheus ask, on loopback: `/ready`, `/config_dump`, `/stats` on one port,
//! `/metrics` on the other. Runs beside the workers, never on their threads.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;

/// Most connections at a time, both ports together.
const CONNECTIONS_MAX: usize = 64;
/// For a request head; also ends idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Prometheus' content type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is shown.
#[derive(Debug)]
pub struct Admin {
    pub metrics: Metrics,
    /// Set once the kernel gives connections to the listeners, cleared when the drain begins.
    pub ready: AtomicBool,
}

/// Binds a port of the admin interface. A second proxy may bind it too while the first one drains.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// Answers on `listener` until dropped.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(&admin, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            // A client that misbehaves loses its connection; nobody else needs to know.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(place);
        });
    }
}

fn answer(admin: &Admin, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n".into());
    }
    match request.uri().path() {
        "/ready" if admin.ready.load(Ordering::Relaxed) => {
            text(StatusCode::OK, "text/plain", "ready\n".into())
        }
        "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "not ready\n".into()),
        "/stats" => text(StatusCode::OK, "text/plain", admin.metrics.plain()),
        "/config_dump" => text(StatusCode::OK, "text/plain", dump(admin)),
        "/metrics" => match admin.metrics.text() {
            Ok(metrics) => text(StatusCode::OK, OPEN_METRICS, metrics),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", String::new()),
        },
        _ => text(StatusCode::NOT_FOUND, "text/plain", "try /ready, /stats, /config_dump, /metrics\n".into()),
    }
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The configuration in force, for people.
fn dump(admin: &Admin) -> String {
    use std::fmt::Write;
    let config = admin.metrics.current.load();
    let [endpoints, services, prefixes] = config.sizes();
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "revision {}\n{endpoints} endpoints, {services} services, {prefixes} prefixes",
        config.revision
    );
    let mut all: Vec<_> = config.endpoints().collect();
    all.sort_by_key(|endpoint| endpoint.id);
    for endpoint in all {
        let _ = writeln!(out, "\nendpoint {} identity {}", endpoint.id, endpoint.identity);
        for (key, entry) in &endpoint.entries {
            let _ = writeln!(out, "  {key:?} -> {entry:?}");
        }
        for rules in endpoint.rules() {
            let _ = writeln!(out, "  {rules:?}");
        }
    }
    let mut all: Vec<_> = config.services().collect();
    all.sort_by_key(|service| service.vip);
    for service in all {
        let backends: Vec<_> = service.backends.iter().map(|b| b.address.to_string()).collect();
        let _ = writeln!(out, "\nservice {} -> {}", service.vip, backends.join(", "));
    }
    out
}
