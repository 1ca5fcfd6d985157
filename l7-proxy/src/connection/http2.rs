//! HTTP/2 of a client: a task for each stream.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use abi::DropReason;
use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, Connection, Handshake};

use super::Conn;
use super::http::obey;
use crate::guard::Guard;
use crate::http::h2 as streams;
use crate::settings::Limits;

/// A connection from its preface to its end.
struct Engine {
    conn: Rc<Conn>,
    state: State,
    is_draining: bool,
}

// One of them for each connection, in its task; nothing to be gained by boxing.
#[allow(clippy::large_enum_variant)]
enum State {
    Handshake(Handshake<Guard, Bytes>),
    Serving(Connection<Guard, Bytes>),
}

pub(super) async fn serve(conn: &Rc<Conn>, guard: Guard) -> Result<(), h2::Error> {
    let state = State::Handshake(builder(&conn.worker.settings.limits).handshake(guard));
    let mut engine = pin!(Engine { conn: Rc::clone(conn), state, is_draining: false });
    std::future::poll_fn(|cx| match obey(conn, false, cx, |_| engine.drain()) {
        Poll::Ready(()) => Poll::Ready(Ok(())),
        Poll::Pending => engine.as_mut().poll(cx),
    })
    .await
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.h2_streams)
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(limits.h2_stream_window as usize)
        .max_pending_accept_reset_streams(limits.h2_pending_resets)
        .max_local_error_reset_streams(Some(limits.h2_error_resets));
    builder
}

impl Engine {
    /// Ends the connection with GOAWAY, RFC 9113 section 10.5, and does not wait for a client that does not
    /// read it.
    fn calm(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.conn.worker.stats.http2_floods.add(1);
        self.conn.drop_protocol(DropReason::LimitExceeded, 0, "too many HTTP/2 control frames");
        if let State::Serving(connection) = &mut self.state {
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            while let Poll::Ready(Some(Ok(_))) = connection.poll_accept(cx) {}
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the client to ask for no more (GOAWAY); what it has asked for is answered.
    fn drain(&mut self) {
        match &mut self.state {
            State::Serving(connection) if !self.is_draining => connection.graceful_shutdown(),
            _ => {}
        }
        self.is_draining = true;
    }
}

impl Future for Engine {
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Handshake(handshake) => {
                    let mut connection = std::task::ready!(Pin::new(handshake).poll(cx))?;
                    if this.is_draining {
                        connection.graceful_shutdown();
                    }
                    this.state = State::Serving(connection);
                }
                State::Serving(connection) => {
                    let accepted = connection.poll_accept(cx);
                    if this.conn.control.is_flooded() {
                        return this.calm(cx);
                    }
                    match std::task::ready!(accepted) {
                        Some(stream) => {
                            let (request, respond) = stream?;
                            tokio::task::spawn_local(streams::serve(Rc::clone(&this.conn), request, respond));
                        }
                        None => return Poll::Ready(Ok(())),
                    }
                }
            }
        }
    }
}
