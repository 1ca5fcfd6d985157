//! The agent's API: HTTP/1.1 and JSON over `agent.sock`, for root. The shapes are in [`types`] and, for the
//! CNI plugin, in [`crate::cni`].
//!
//! | | |
//! |---|---|
//! | `GET /v1/status` | [`types::Status`] |
//! | `GET /v1/endpoints`, `/v1/services`, `/v1/identities`, `/v1/policies` | lists of what they say |
//! | `GET /v1/flows?last=N&follow=true&verdict=&from=&to=` | [`crate::flows::Flow`], one a line |
//! | `POST /v1/explain` | [`types::ExplainRequest`] -> what would happen, and why |
//! | `GET /v1/dns` | [`crate::dns::state::DnsState`], one a line, again on each change |
//! | `GET /v1/pods` | [`types::NodePods`], one a line, again on each change |
//! | `GET /metrics` | OpenMetrics text |
//! | `POST /v1/cni/{allocate,ready,release,check,gc}`, `GET /v1/cni/status` | for the CNI plugin |
//! | `POST /v1/pods/NAMESPACE/NAME/ready` | `{"ready": bool}`, from whoever runs the pod |
//!
//! An error is `{"error": "one sentence with the remedy"}` with a 4xx or 5xx status.

pub mod client;
mod lists;
mod routes;
mod streams;
pub mod types;

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::agent::Agent;

/// Connections served at a time; more wait.
const CONNECTIONS_MAX: usize = 256;
/// The same for metrics.
const METRICS_CONNECTIONS_MAX: usize = 16;
/// How long one connection for metrics may last.
const SCRAPE_MAX: Duration = Duration::from_secs(60);
/// How long a client has for a request's head.
const HEAD_MAX: Duration = Duration::from_secs(10);

/// Body of an answer.
pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// Whether the node polices its pods, also at layer 7.
pub(crate) fn is_enforcing(agent: &Agent) -> bool {
    lists::status(agent).enforcing
}

/// Makes a socket that only `mode` may connect to, in the place of a dead process's.
///
/// # Errors
/// Also if a living process answers there.
pub fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(_) => std::fs::remove_file(path)?,
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Serves the API for ever.
pub async fn serve(agent: Arc<Agent>, listener: UnixListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Never closed, so there is always a permit in the end.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("agent.sock: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw()) {
            tracing::warn!("agent.sock: a connection of another user is refused");
            continue;
        }
        let agent = agent.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let agent = agent.clone();
                async move { Ok::<_, Infallible>(routes::answer(&agent, request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_MAX)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!("agent.sock: {error}");
            }
            drop(permit);
        });
    }
}

/// Serves `GET /metrics` for Prometheus, for ever.
pub async fn serve_metrics(agent: Arc<Agent>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(METRICS_CONNECTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let agent = agent.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let agent = agent.clone();
                async move { Ok::<_, Infallible>(routes::metrics(&agent, request.uri().path()).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_MAX)
                .serve_connection(TokioIo::new(stream), service);
            // Who reads slower than this is no Prometheus.
            let _ = tokio::time::timeout(SCRAPE_MAX, connection).await;
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests;
