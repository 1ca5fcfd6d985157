//! A connection whose requests are looked at: the HTTP engine around [`exchange::handle`].

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use abi::DropReason;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::detect::{First, first};
use super::{Conn, http2, reset};
use crate::control::Order;
use crate::guard::Guard;
use crate::http::{exchange, open, upgrade};
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
    let frames = conn.worker.settings.limits.h2_control_frames;
    let guard = Guard::new(stream, Arc::clone(&conn.control), bytes, is_http1, frames);
    if !is_http1 {
        if let Err(error) = http2::serve(&conn, guard).await {
            record_http2_error(&conn, &error);
        }
        return;
    }
    if let Err(error) = serve_http1(&conn, guard).await {
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
        service_fn(move |request| exchange::answer_http1(Rc::clone(&conn), request))
    };
    let connection = http1_builder(&conn.worker.settings.limits)
        .serve_connection(TokioIo::new(guard), service)
        .with_upgrades();
    drive(conn, pin!(connection), |connection| connection.graceful_shutdown()).await
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

/// Polls the engine and obeys the worker.
async fn drive<C>(
    conn: &Conn,
    mut connection: Pin<&mut C>,
    graceful: impl Fn(Pin<&mut C>),
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    std::future::poll_fn(|cx| {
        // An order to drain needs nothing: the next answer says so.
        match obey(conn, true, cx, |order| {
            if order == Order::EndIdle {
                graceful(connection.as_mut());
            }
        }) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => connection.as_mut().poll(cx),
        }
    })
    .await
}

/// Obeys the worker; `drain` is told of [`Order::Drain`] and [`Order::EndIdle`]. Ready: the connection ends at
/// once.
pub(super) fn obey(
    conn: &Conn,
    is_http1: bool,
    cx: &mut Context<'_>,
    mut drain: impl FnMut(Order),
) -> Poll<()> {
    while let Poll::Ready(order) = conn.control.poll_order(cx) {
        match order {
            Order::Drain | Order::EndIdle => drain(order),
            // Requests are decided one by one; what must end at once is a connection whose client may not
            // speak to this destination at all any more.
            Order::Recheck => {
                if let Some(denial) = revoked(conn) {
                    conn.drop_denied(&denial, "HTTP");
                    conn.control.abort();
                    return Poll::Ready(());
                }
                let limit = conn.worker.settings.limits.stream_idle_timeout.as_secs();
                let is_cut = open::recheck(conn) | (limit > 0 && open::end_idle(conn, limit));
                // HTTP/1 has no other way to end an answer that has begun.
                if is_cut && is_http1 {
                    conn.control.abort();
                    return Poll::Ready(());
                }
            }
            Order::Close => {
                too_slow(conn);
                return Poll::Ready(());
            }
        }
    }
    Poll::Pending
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
    }
}

/// The same for HTTP/2: what the client did wrong, not that it went.
fn record_http2_error(conn: &Conn, error: &h2::Error) {
    if !error.is_io()
        && !error.is_remote()
        && error.reason().is_some_and(|reason| reason != h2::Reason::NO_ERROR)
    {
        conn.drop_protocol(DropReason::ProtocolError, 0, &error.to_string());
    }
}
