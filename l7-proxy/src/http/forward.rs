//! Sending a judged request to its backend, on a pooled connection or a new one.

use std::rc::Rc;
use std::sync::Arc;

use abi::DropReason;
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::client::conn::TrySendError;
use tokio::net::TcpStream;

use super::body::{Gate, ReplyBody, RequestBody, TooLarge};
use super::h2::{self, H2Body};
use super::open::OpenGuard;
use crate::connection::Conn;
use crate::stream::Joined;
use crate::upstream::link::{Lent, Link};
use crate::upstream::pool::{Http2, Key};
use crate::upstream::socket::{ConnectError, connect};

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("cannot connect: {0}")]
    Connect(#[from] ConnectError),
    #[error("upstream: {0}")]
    Http1(#[from] hyper::Error),
    #[error("upstream: {0}")]
    Http2(#[from] ::h2::Error),
    #[error("upstream switched to a protocol that nobody asked for")]
    UnwantedSwitch,
}

impl ForwardError {
    /// The status of the answer, RFC 9110 section 15.6.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Connect(ConnectError::TimedOut(_)) => StatusCode::GATEWAY_TIMEOUT,
            Self::Connect(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Http1(_) | Self::Http2(_) | Self::UnwantedSwitch => StatusCode::BAD_GATEWAY,
        }
    }

    /// Whether it is for a request body that goes on beyond its limit.
    pub fn is_too_large(&self) -> bool {
        let Self::Http1(error) = self else { return false };
        std::error::Error::source(error).is_some_and(|cause| cause.is::<TooLarge>())
    }

    /// The reason in records and metrics.
    pub fn reason(&self) -> DropReason {
        match self {
            Self::UnwantedSwitch => DropReason::ProtocolError,
            Self::Connect(_) | Self::Http1(_) | Self::Http2(_) => DropReason::UpstreamUnreachable,
        }
    }
}

/// Forwards a request in the version that the client spoke: both ends think that they speak to each other.
///
/// Nothing is retried but one thing: a pooled connection that turns out closed before a byte of the request
/// was written is replaced by a new one, once.
pub async fn forward(
    guard: &OpenGuard,
    head: Parts,
    mut body: RequestBody,
    expects_continue: bool,
) -> Result<Response<ReplyBody>, ForwardError> {
    let (conn, version) = (guard.conn(), head.version);
    body.limit(conn.worker.settings.limits.request_body_bytes);
    let mut gate = None;
    if expects_continue && version != Version::HTTP_2 {
        let shut = Arc::new(Gate::default());
        gate = Some(Arc::clone(&shut));
        body.hold(shut, conn.worker.settings.limits.continue_wait);
    }
    let mut request = Request::from_parts(head, body);
    if let Some(gate) = &gate {
        let opener = Arc::clone(gate);
        hyper::ext::on_informational(&mut request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                opener.open();
            }
        });
    }
    let key = conn.upstream_key(&guard.choice().judged);
    let response = if version == Version::HTTP_2 {
        forward_http2(guard, &key, request).await
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
    Ok(response)
}

async fn forward_http1(
    conn: &Rc<Conn>,
    key: &Key,
    mut request: Request<RequestBody>,
) -> Result<Response<ReplyBody>, ForwardError> {
    let worker = &conn.worker;
    if let Some(link) = worker.pool.take(key) {
        match exchange(conn, key, link, request).await {
            Ok(response) => {
                worker.stats.upstream_reused.add(1);
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
        let stream = open(conn, key).await?;
        let link = Link::new(stream, worker.settings.limits.header_bytes).await?;
        Ok(exchange(conn, key, Box::new(link), request).await.map_err(TrySendError::into_error)?)
    })
    .await
}

async fn exchange(
    conn: &Rc<Conn>,
    key: &Key,
    mut link: Box<Link>,
    request: Request<RequestBody>,
) -> Result<Response<ReplyBody>, TrySendError<Request<RequestBody>>> {
    if !request.body().is_end_stream() {
        let response = link.exchange_driven(&conn.worker, *key, request).await?;
        return Ok(response.map(ReplyBody::http1));
    }
    let response = link.exchange(request).await?;
    let lent = Lent::new(link, *key, &conn.worker);
    Ok(response.map(|body| ReplyBody::lent(body, lent)))
}

async fn forward_http2(
    guard: &OpenGuard,
    key: &Key,
    request: Request<RequestBody>,
) -> Result<Response<ReplyBody>, ForwardError> {
    let conn = guard.conn();
    let (mut sender, is_reused) = shared_http2(conn, key).await?;
    let (head, body) = request.into_parts();
    let is_end = body.is_end_stream();
    // Nothing was waited for since the connection was found to be open, so this is about the head alone.
    let (response, mut stream) = sender.send_request(Request::from_parts(head, ()), is_end)?;
    if !is_end {
        let (open, clock) = (Rc::clone(guard.open()), Arc::clone(&conn.worker.clock));
        tokio::task::spawn_local(async move { h2::upload(body, &mut stream, &open, &clock).await });
    }
    let response = response.await?;
    conn.worker.stats.upstream_reused.add(is_reused.into());
    Ok(response.map(|stream| ReplyBody::http2(H2Body::new(stream))))
}

/// The open connection of `key`, and whether it was open before. One that is closed, or that its backend
/// wants no more requests on (GOAWAY), is replaced by a new one, once.
async fn shared_http2(conn: &Rc<Conn>, key: &Key) -> Result<(Http2, bool), ForwardError> {
    let pool = &conn.worker.pool;
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
        match std::future::poll_fn(|cx| sender.poll_ready(cx)).await {
            Ok(()) => return Ok((sender, is_reused)),
            Err(_closed) if is_reused => pool.forget(key, &cell),
            Err(error) => {
                pool.forget(key, &cell);
                return Err(error.into());
            }
        }
    }
}

async fn new_http2(conn: &Rc<Conn>, key: &Key) -> Result<Http2, ForwardError> {
    let stream = open(conn, key).await?;
    let limits = &conn.worker.settings.limits;
    let (sender, connection) = ::h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(limits.h2_stream_window as usize)
        .handshake(Joined(stream))
        .await?;
    tokio::task::spawn_local(async move {
        // Its error is that of the requests on it.
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
