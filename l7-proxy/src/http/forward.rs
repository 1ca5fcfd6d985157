//! Sending a judged request to its backend, on a pooled connection or a new one.

use std::rc::Rc;
use std::sync::Arc;

use abi::DropReason;
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::LocalExecutor;
use super::body::{Gate, ReplyBody, RequestBody};
use crate::connection::{Choice, Conn};
use crate::upstream::pool::{Http1, Http2, Key};
use crate::upstream::socket::{ConnectError, connect};

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("cannot connect: {0}")]
    Connect(#[from] ConnectError),
    #[error("upstream: {0}")]
    Upstream(#[from] hyper::Error),
    #[error("upstream switched to a protocol that nobody asked for")]
    UnwantedSwitch,
}

impl ForwardError {
    /// The status of the answer, RFC 9110 section 15.6.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Connect(ConnectError::TimedOut(_)) => StatusCode::GATEWAY_TIMEOUT,
            Self::Connect(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream(_) | Self::UnwantedSwitch => StatusCode::BAD_GATEWAY,
        }
    }

    /// The reason in records and metrics.
    pub fn reason(&self) -> DropReason {
        match self {
            Self::UnwantedSwitch => DropReason::ProtocolError,
            Self::Connect(_) | Self::Upstream(_) => DropReason::UpstreamUnreachable,
        }
    }
}

/// Forwards a request in the version that the client spoke: both ends think that they speak to each other.
///
/// Nothing is retried but one thing: a pooled connection that turns out closed before a byte of the request
/// was written is replaced by a new one, once.
pub async fn forward(
    conn: &Rc<Conn>,
    choice: &Choice,
    head: Parts,
    body: Incoming,
    expects_continue: bool,
) -> Result<Response<ReplyBody>, ForwardError> {
    let version = head.version;
    let mut gate = None;
    let body = if expects_continue && version != Version::HTTP_2 {
        let shut = Arc::new(Gate::default());
        gate = Some(Arc::clone(&shut));
        RequestBody::gated(body, shut, conn.worker.settings.limits.continue_wait)
    } else {
        RequestBody::new(body)
    };
    let mut request = Request::from_parts(head, body);
    if let Some(gate) = &gate {
        let opener = Arc::clone(gate);
        hyper::ext::on_informational(&mut request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                opener.open();
            }
        });
    }
    let key = conn.upstream_key(&choice.judged);
    let response = if version == Version::HTTP_2 {
        forward_http2(conn, &key, request).await
    } else {
        forward_http1(conn, &key, request).await
    }?;
    if let Some(gate) = gate {
        // A final answer before `100 Continue`: the body stays with the client.
        gate.cancel();
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(ForwardError::UnwantedSwitch);
    }
    Ok(response.map(|body| ReplyBody::Upstream(body, None)))
}

async fn forward_http1(
    conn: &Rc<Conn>,
    key: &Key,
    mut request: Request<RequestBody>,
) -> Result<Response<Incoming>, ForwardError> {
    let worker = &conn.worker;
    let keep = |sender| worker.pool.put(*key, sender, worker.clock.now(), &worker.settings.limits);
    if let Some(mut sender) = worker.pool.take(key) {
        match sender.try_send_request(request).await {
            Ok(response) => {
                worker.stats.upstream_reused.add(1);
                keep(sender);
                return Ok(response);
            }
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(error.into_error().into()),
            },
        }
    }
    // Boxed, as all that is rare: the future of every request would have room for it.
    Box::pin(async {
        let mut sender = new_http1(conn, key).await?;
        let response = sender.send_request(request).await?;
        keep(sender);
        Ok(response)
    })
    .await
}

async fn new_http1(conn: &Rc<Conn>, key: &Key) -> Result<Http1, ForwardError> {
    let stream = open(conn, key).await?;
    let limit = conn.worker.settings.limits.header_bytes;
    let (sender, connection) =
        http1::Builder::new().max_buf_size(limit).handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move {
        // Its error is that of the request on it.
        let _ = connection.await;
    });
    Ok(sender)
}

async fn forward_http2(
    conn: &Rc<Conn>,
    key: &Key,
    mut request: Request<RequestBody>,
) -> Result<Response<Incoming>, ForwardError> {
    let pool = &conn.worker.pool;
    let mut retried = false;
    loop {
        let cell = pool.shared(key, conn.worker.clock.now());
        let is_reused = cell.initialized();
        let mut sender = match cell.get_or_try_init(|| Box::pin(new_http2(conn, key))).await {
            Ok(sender) => sender.clone(),
            Err(error) => {
                pool.forget(key, &cell);
                return Err(error);
            }
        };
        match sender.try_send_request(request).await {
            Ok(response) => {
                conn.worker.stats.upstream_reused.add(is_reused.into());
                return Ok(response);
            }
            Err(mut error) => match error.take_message() {
                Some(unsent) if is_reused && !retried => {
                    pool.forget(key, &cell);
                    request = unsent;
                    retried = true;
                }
                _ => return Err(error.into_error().into()),
            },
        }
    }
}

async fn new_http2(conn: &Rc<Conn>, key: &Key) -> Result<Http2, ForwardError> {
    let stream = open(conn, key).await?;
    let limits = &conn.worker.settings.limits;
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .initial_stream_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(limits.h2_stream_window as usize)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// Connects to the backend of `key`.
pub(super) async fn open(conn: &Rc<Conn>, key: &Key) -> Result<TcpStream, ForwardError> {
    let worker = &conn.worker;
    let limits = &worker.settings.limits;
    let opened = connect(key.face, key.target, &worker.ports, limits.port_attempts, limits.connect_timeout);
    let outcome = opened.await;
    worker.stats.upstream_connect(outcome.is_ok());
    Ok(outcome?)
}
