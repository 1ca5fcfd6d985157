//! HTTP/2 streams of both sides: bodies that come, bodies that go.
//!
//! The protocol's engine is used without the layer that makes both versions look alike: that one has a
//! task and two channels more for each request.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use http_body::{Body, Frame};

use super::body::{BoxError, ReplyBody, RequestBody, TooLarge};
use super::open::{Cut, Open, Waiter};
use super::{exchange, reply};
use crate::connection::Conn;
use crate::control::Clock;

/// A body that comes.
#[derive(Debug)]
pub struct H2Body {
    stream: RecvStream,
    data_done: bool,
}

impl H2Body {
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, data_done: false }
    }

    pub fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// The next frame. Asking for one is what opens the sender's window again.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails for a stream that is gone, which the next poll says.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(not_wanted(error)),
                None => self.data_done = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => not_wanted(error),
        })
    }
}

/// A reset without error asks to send no more, RFC 9113 section 8.1; what came is whole.
fn not_wanted<T>(error: h2::Error) -> Option<Result<T, h2::Error>> {
    (error.reason() != Some(Reason::NO_ERROR)).then_some(Err(error))
}

/// A body on its way, as fast as the peer takes it.
struct Sending<'a> {
    stream: &'a mut SendStream<Bytes>,
    open: Option<&'a Open>,
    waiter: Waiter,
    clock: &'a Clock,
}

/// Why a body is not sent to its end.
enum Broken {
    Cut(Cut),
    Reset(Reason),
    TooLarge,
}

const GONE: Broken = Broken::Reset(Reason::CANCEL);

impl Sending<'_> {
    /// Ready when there is no use in going on.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        if self.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(GONE);
        }
        match self.open {
            Some(open) => open.poll_cut(self.waiter, cx).map(Broken::Cut),
            None => Poll::Pending,
        }
    }

    async fn run<B>(&mut self, mut body: Pin<&mut B>) -> Result<(), Broken>
    where
        B: Body<Data = Bytes, Error = BoxError>,
    {
        loop {
            let frame = poll_fn(|cx| match self.poll_end(cx) {
                Poll::Ready(broken) => Poll::Ready(Err(broken)),
                Poll::Pending => body.as_mut().poll_frame(cx).map(Ok),
            });
            let Some(frame) = frame.await? else {
                return self.stream.send_data(Bytes::new(), true).map_err(|_| GONE);
            };
            match frame.map_err(|error| broken_by(&error))?.into_data() {
                Ok(data) => {
                    let is_last = body.is_end_stream();
                    self.data(data, is_last).await?;
                    if is_last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return self.stream.send_trailers(trailers).map_err(|_| GONE);
                }
            }
        }
    }

    async fn data(&mut self, mut data: Bytes, is_last: bool) -> Result<(), Broken> {
        if data.is_empty() {
            return if is_last { self.stream.send_data(data, true).map_err(|_| GONE) } else { Ok(()) };
        }
        while !data.is_empty() {
            self.stream.reserve_capacity(data.len());
            let room = poll_fn(|cx| {
                if let Poll::Ready(broken) = self.poll_end(cx) {
                    return Poll::Ready(Err(broken));
                }
                match self.stream.capacity() {
                    0 => self.stream.poll_capacity(cx).map(|room| room.and_then(Result::ok).ok_or(GONE)),
                    room => Poll::Ready(Ok(room)),
                }
            });
            let room = room.await?;
            if let Some(open) = self.open {
                open.moved(self.clock.now());
            }
            let part = data.split_to(room.min(data.len()));
            self.stream.send_data(part, is_last && data.is_empty()).map_err(|_| GONE)?;
        }
        Ok(())
    }
}

/// Sends the body of a request to the upstream.
pub async fn upload(body: RequestBody, stream: &mut SendStream<Bytes>, open: &Open, clock: &Clock) {
    let mut sending = Sending { stream, open: Some(open), waiter: Waiter::Upload, clock };
    match sending.run(pin!(body)).await {
        Ok(()) => {}
        Err(Broken::Reset(reason)) => stream.send_reset(reason),
        Err(Broken::Cut(_)) => stream.send_reset(Reason::CANCEL),
        Err(Broken::TooLarge) => {
            open.end(Cut::TooLarge);
            stream.send_reset(Reason::CANCEL);
        }
    }
}

fn broken_by(error: &BoxError) -> Broken {
    if error.is::<TooLarge>() { Broken::TooLarge } else { Broken::Reset(reason_of(error)) }
}

/// What the peer is told of a body that broke: what the other side said, if it speaks the same protocol.
fn reason_of(error: &BoxError) -> Reason {
    error.downcast_ref::<h2::Error>().and_then(h2::Error::reason).unwrap_or(Reason::INTERNAL_ERROR)
}

/// Serves one stream of a client.
pub async fn serve(conn: Rc<Conn>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let request = request.map(|stream| RequestBody::http2(H2Body::new(stream)));
    let response = {
        let mut answer = pin!(exchange::answer(&conn, request, None));
        poll_fn(|cx| {
            // A client that goes takes its request to the upstream with it.
            if respond.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            answer.as_mut().poll(cx).map(Some)
        })
        .await
    };
    if let Some(response) = response {
        send_reply(&conn, response, respond).await;
    }
}

async fn send_reply(conn: &Conn, response: Response<ReplyBody>, mut respond: SendResponse<Bytes>) {
    let (head, body) = response.into_parts();
    let is_end = body.is_end_stream();
    // Fails if the client has reset the stream: then nobody waits for it.
    let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), is_end) else { return };
    if is_end {
        return;
    }
    let (open, clock) = (body.open(), &*conn.worker.clock);
    let mut sending = Sending { stream: &mut stream, open: open.as_deref(), waiter: Waiter::Answer, clock };
    let outcome = sending.run(pin!(body)).await;
    match outcome {
        Ok(()) => {}
        // A gRPC client reads a status from trailers, and would take a reset for trouble on the way.
        Err(Broken::Cut(Cut::Denied(_))) if open.is_some_and(|open| open.seen.is_grpc) => {
            if stream.send_trailers(reply::denied_trailers()).is_err() {
                stream.send_reset(Reason::CANCEL);
            }
        }
        Err(Broken::Cut(_) | Broken::TooLarge) => stream.send_reset(Reason::CANCEL),
        Err(Broken::Reset(reason)) => stream.send_reset(reason),
    }
}
