//! One HTTP/1 connection to a backend, with the engine's half that moves bytes.
//!
//! While a request without a body is under way nothing else has to happen on its connection, so whoever
//! waits for the answer (later: reads its body) polls the connection itself: no task of its own, no wake-up
//! from one to the other. A request with a body may have to go on while nobody reads the answer; then
//! the connection is driven by a task until it is idle again.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::pool::Key;
use crate::http::body::RequestBody;
use crate::stream::Joined;
use crate::worker::Worker;

/// See the module.
#[derive(Debug)]
pub struct Link {
    sender: SendRequest<RequestBody>,
    connection: Connection<TokioIo<Joined>, RequestBody>,
    ended: bool,
}

/// What became of a request that was sent.
pub type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

impl Link {
    /// Of a connected stream; heads of answers may have `header_bytes`.
    pub async fn new(stream: TcpStream, header_bytes: usize) -> hyper::Result<Self> {
        let stream = TokioIo::new(Joined(stream));
        let (sender, connection) = Builder::new().max_buf_size(header_bytes).handshake(stream).await?;
        Ok(Self { sender, connection, ended: false })
    }

    /// Moves bytes as far as they go now.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        // The error of a connection is that of the request on it.
        self.ended = self.ended || Pin::new(&mut self.connection).poll(cx).is_ready();
    }

    /// Whether a request can be sent, as of the last time that it was polled. An end of the connection or an
    /// answer that nobody asked for, come since, are found before a byte of the next request is written.
    pub fn is_idle(&self) -> bool {
        !self.ended && self.sender.is_ready()
    }

    /// The same as of the bytes that have come so far.
    pub fn is_still_idle(&mut self) -> bool {
        self.poll(&mut Context::from_waker(Waker::noop()));
        self.is_idle()
    }

    /// Sends `request`, which has no body, and waits for the head of the answer.
    pub async fn exchange(&mut self, request: Request<RequestBody>) -> Sent {
        // Whatever happens to the answer happens in `poll`, on this very task, so nobody need be woken for
        // it. The task's budget must not get between the two: it would be that forgotten waker's to be woken.
        let mut sent = pin!(tokio::task::unconstrained(self.sender.try_send_request(request)));
        std::future::poll_fn(|cx| {
            if !self.ended {
                self.ended = Pin::new(&mut self.connection).poll(cx).is_ready();
            }
            sent.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
        .await
    }

    /// Sends `request` and waits for the head of the answer, while a task drives the connection until it
    /// is idle again, and then keeps it in the pool of `worker`.
    pub async fn exchange_driven(
        mut self: Box<Self>,
        worker: &Rc<Worker>,
        key: Key,
        request: Request<RequestBody>,
    ) -> Sent {
        let sent = self.sender.try_send_request(request);
        let worker = Rc::clone(worker);
        tokio::task::spawn_local(async move {
            std::future::poll_fn(|cx| {
                self.poll(cx);
                if self.ended || self.sender.is_ready() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            worker.keep(key, self);
        });
        sent.await
    }
}

/// A link whose answer is being read; goes back to the pool when dropped, if by then it is idle.
#[derive(Debug)]
pub struct Lent(Option<(Box<Link>, Key, Rc<Worker>)>);

impl Lent {
    /// `link`, on which an answer has begun.
    pub fn new(link: Box<Link>, key: Key, worker: &Rc<Worker>) -> Self {
        Self(Some((link, key, Rc::clone(worker))))
    }

    /// Moves bytes as far as they go now.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        if let Some((link, ..)) = &mut self.0 {
            link.poll(cx);
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // An answer that was not read to its end leaves a connection that is not idle: it is closed.
        if let Some((mut link, key, worker)) = self.0.take()
            && (link.is_idle() || link.is_still_idle())
        {
            worker.keep(key, link);
        }
    }
}
