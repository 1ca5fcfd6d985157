//! Bodies on their way through: frames as they come, one at a time, so that backpressure reaches the sender.

use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use http::header;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::h2::H2Body;
use super::open::{Open, OpenGuard};
use crate::upstream::link::Lent;

/// What breaks a body.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A client's request body as the upstream is sent it.
#[derive(Debug)]
pub struct RequestBody {
    inner: Source,
    /// Bytes that may still come.
    left: u64,
    /// Only for `Expect: 100-continue`.
    gate: Option<Box<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    gate: Arc<Gate>,
    timeout: Pin<Box<Sleep>>,
}

/// Where a body comes from.
#[derive(Debug)]
enum Source {
    Http1(Incoming),
    Http2(H2Body),
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Http2(body) => body.poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            // HTTP/2 has no need to know.
            Self::Http2(_) => SizeHint::default(),
        }
    }
}

impl RequestBody {
    pub fn http1(inner: Incoming) -> Self {
        Self { inner: Source::Http1(inner), left: u64::MAX, gate: None }
    }

    pub fn http2(inner: H2Body) -> Self {
        Self { inner: Source::Http2(inner), left: u64::MAX, gate: None }
    }

    /// Lets it break after `limit` bytes; 0 = never.
    pub fn limit(&mut self, limit: u64) {
        self.left = if limit == 0 { u64::MAX } else { limit };
    }

    /// Makes it pass when `gate` opens, or after `limit`: a client may have to be told to continue although
    /// the upstream does not know that it should (RFC 9110 section 10.1.1).
    pub fn hold(&mut self, gate: Arc<Gate>, limit: Duration) {
        let timeout = Box::pin(tokio::time::sleep(limit));
        self.gate = Some(Box::new(Waiting { gate, timeout }));
    }
}

/// A body went on beyond its limit.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("request body beyond the limit")]
pub struct TooLarge;

const SHUT: u8 = 0;
const OPEN: u8 = 1;
const CANCELLED: u8 = 2;

/// Holds a request body back until the upstream has said `100 Continue`. The client is then told the same
/// by the engine, when the body is first asked for.
#[derive(Debug, Default)]
pub struct Gate {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Gate {
    /// The upstream wants the body.
    pub fn open(&self) {
        self.decide(OPEN);
    }

    /// The upstream answered without it: it is never sent.
    pub fn cancel(&self) {
        self.decide(CANCELLED);
    }

    fn decide(&self, state: u8) {
        // The first decision stands.
        let _ = self.state.compare_exchange(SHUT, state, Relaxed, Relaxed);
        self.waker.wake();
    }
}

/// The upstream answered a request that expected `100 Continue` with a final status.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the upstream did not want the body")]
struct NotWanted;

impl Waiting {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NotWanted>> {
        self.gate.waker.register(cx.waker());
        match self.gate.state.load(Relaxed) {
            OPEN => Poll::Ready(Ok(())),
            CANCELLED => Poll::Ready(Err(NotWanted)),
            _ => self.timeout.as_mut().poll(cx).map(|()| {
                self.gate.open();
                Ok(())
            }),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(waiting) = &mut self.gate {
            match std::task::ready!(waiting.poll(cx)) {
                Ok(()) => self.gate = None,
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
        let frame = std::task::ready!(self.inner.poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame?;
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            self.left = self.left.checked_sub(length).ok_or(TooLarge)?;
            if let Some(trailers) = frame.trailers_mut() {
                strip_trailers(trailers);
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Fields that have no meaning in a trailer, and would have one for a server that merges trailers into its
/// headers (RFC 9110 section 6.5.1). HTTP/1 requests with them are refused before they come here.
fn strip_trailers(trailers: &mut HeaderMap) {
    for name in [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::HOST,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::AUTHORIZATION,
        header::COOKIE,
    ] {
        trailers.remove(name);
    }
}

/// Something in flight to a backend; ends when dropped.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicU32>);

impl InFlight {
    /// Counts one more in `active`.
    pub fn new(active: Arc<AtomicU32>) -> Self {
        active.fetch_add(1, Relaxed);
        Self(active)
    }

    /// Counts the same backend once more.
    pub fn again(&self) -> Self {
        Self::new(Arc::clone(&self.0))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What the client is answered with.
#[derive(Debug)]
pub enum ReplyBody {
    /// Our own few words.
    Text(Option<Bytes>),
    /// The upstream's.
    Upstream(UpstreamBody),
}

/// An upstream's answer, and what must stay while it runs.
#[derive(Debug)]
pub struct UpstreamBody {
    // Before the link: a link is idle only when nobody can read of its answer any more.
    body: Source,
    /// The connection, if the reader must drive it.
    lent: Option<Lent>,
    pub open: Option<OpenGuard>,
}

impl ReplyBody {
    /// An answer whose connection is driven by a task.
    pub fn http1(body: Incoming) -> Self {
        Self::upstream(Source::Http1(body), None)
    }

    /// An answer that comes over `lent`.
    pub fn lent(body: Incoming, lent: Lent) -> Self {
        Self::upstream(Source::Http1(body), Some(lent))
    }

    pub fn http2(body: H2Body) -> Self {
        Self::upstream(Source::Http2(body), None)
    }

    fn upstream(body: Source, lent: Option<Lent>) -> Self {
        Self::Upstream(UpstreamBody { body, lent, open: None })
    }

    /// The exchange that it answers, unless the answer is our own.
    pub fn open(&self) -> Option<Rc<Open>> {
        match self {
            Self::Text(_) => None,
            Self::Upstream(upstream) => upstream.open.as_ref().map(|guard| Rc::clone(guard.open())),
        }
    }
}

impl UpstreamBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut frame = self.body.poll_frame(cx);
        if let Some(lent) = &mut self.lent
            && frame.is_pending()
        {
            lent.poll(cx);
            frame = self.body.poll_frame(cx);
        }
        if let Some(guard) = &self.open
            && frame.is_ready()
        {
            guard.moved();
        }
        frame
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Upstream(upstream) => upstream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Upstream(upstream) => upstream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            Self::Upstream(upstream) => upstream.body.size_hint(),
        }
    }
}
