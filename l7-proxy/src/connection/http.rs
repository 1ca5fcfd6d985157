//! A connection whose requests are looked at: the HTTP engine around [`exchange::handle`].

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;

use abi::DropReason;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::detect::{First, first};
use super::{Conn, reset};
use crate::control::Order;
use crate::guard::Guard;
use crate::http::{LocalExecutor, exchange, upgrade};
use crate::metrics::Carries;
use crate::settings::Limits;

/// Serves requests until the connection ends or becomes something else.
pub(super) async fn serve(conn: Rc<Conn>, mut stream: TcpStream) {
    let (bytes, is_http1) = match first(&mut stream, &conn.control).await {
        First::Http1(bytes) => (bytes, true),
        First::Http2(bytes) => (bytes, false),
        First::Unknown => {
            conn.drop_protocol(DropReason::ProtocolError, 0, "not HTTP");
            return reset(&stream);
        }
        First::TooSlow => return too_slow(&conn),
        First::Gone => return,
    };
    let carries = if is_http1 { Carries::Http1 } else { Carries::Http2 };
    conn.worker.stats.carries(carries);
    let guard = Guard::new(stream, Arc::clone(&conn.control), bytes, is_http1);
    let outcome = if is_http1 { serve_http1(&conn, guard).await } else { serve_http2(&conn, guard).await };
    if let Err(error) = outcome {
        record_error(&conn, &error);
    }
    let upgraded = conn.upgrade.take();
    if let Some(upgraded) = upgraded {
        upgrade::serve(&conn, upgraded).await;
    }
}

async fn serve_http1(conn: &Rc<Conn>, guard: Guard) -> hyper::Result<()> {
    let service = {
        let conn = Rc::clone(conn);
        service_fn(move |request| exchange::handle(Rc::clone(&conn), request))
    };
    let connection = http1_builder(&conn.worker.settings.limits)
        .serve_connection(TokioIo::new(guard), service)
        .with_upgrades();
    drive(conn, true, pin!(connection), |connection| connection.graceful_shutdown()).await
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // No pipeline_flush: it keeps answers, and the 400 itself, back behind bytes that do not parse.
        .max_buf_size(limits.header_bytes)
        .auto_date_header(false)
        // Ours are checked by the worker, without a timer for each head.
        .header_read_timeout(None);
    builder
}

async fn serve_http2(conn: &Rc<Conn>, guard: Guard) -> hyper::Result<()> {
    let service = {
        let conn = Rc::clone(conn);
        service_fn(move |request| exchange::handle(Rc::clone(&conn), request))
    };
    let limits = &conn.worker.settings.limits;
    let connection = http2::Builder::new(LocalExecutor)
        .max_concurrent_streams(limits.h2_streams)
        .initial_stream_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(limits.h2_stream_window as usize)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(guard), service);
    drive(conn, false, pin!(connection), |connection| connection.graceful_shutdown()).await
}

/// Polls the engine and obeys the worker.
async fn drive<C>(
    conn: &Conn,
    is_http1: bool,
    mut connection: Pin<&mut C>,
    graceful: impl Fn(Pin<&mut C>),
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    std::future::poll_fn(|cx| {
        while let std::task::Poll::Ready(order) = conn.control.poll_order(cx) {
            match order {
                // The next answer of an HTTP/1 connection says so; GOAWAY may come at any time.
                Order::Drain if is_http1 => {}
                Order::Drain | Order::EndIdle => graceful(connection.as_mut()),
                // Requests are decided one by one; what must end at once is a connection whose client
                // may not speak to this destination at all any more.
                Order::Recheck => {
                    if let Some(denial) = revoked(conn) {
                        conn.drop_denied(&denial, "HTTP");
                        return std::task::Poll::Ready(Ok(()));
                    }
                }
                Order::Close => {
                    too_slow(conn);
                    return std::task::Poll::Ready(Ok(()));
                }
            }
        }
        connection.as_mut().poll(cx)
    })
    .await
}

fn revoked(conn: &Conn) -> Option<crate::decide::Denial> {
    if conn.record.vip {
        return None;
    }
    conn.rejudge(conn.destination).verdict.clone().err()
}

fn too_slow(conn: &Conn) {
    // Idle for too long is no error; a head or first byte that does not come is.
    if let Some(detail) = conn.control.overdue(&conn.worker.settings.limits)
        && detail != "idle time-out"
    {
        conn.drop_protocol(DropReason::LimitExceeded, 0, detail);
    }
}

/// The engine has answered or ended the connection by itself; say why.
fn record_error(conn: &Conn, error: &hyper::Error) {
    let detail = match conn.control.violation() {
        Some(violation) => violation.to_string(),
        None => error.to_string(),
    };
    if error.is_parse_too_large() {
        conn.drop_protocol(DropReason::LimitExceeded, 431, &detail);
    } else if error.is_parse() || conn.control.violation().is_some() {
        conn.drop_protocol(DropReason::ProtocolError, 400, &detail);
    } else if let Some(h2) = std::error::Error::source(error).and_then(|e| e.downcast_ref::<h2::Error>())
        && !h2.is_io()
        && h2.reason().is_some_and(|reason| reason != h2::Reason::NO_ERROR)
        && !h2.is_remote()
    {
        conn.drop_protocol(DropReason::ProtocolError, 0, &detail);
    }
}
