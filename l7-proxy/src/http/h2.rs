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

use super::body::{BoxError, ReplyBody, RequestBody};
use super::exchange;
use crate::connection::Conn;

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

/// Sends `body` to its end, as fast as the peer takes it, or resets the stream with the reason for which
/// the body broke. Returns early if the peer resets.
pub async fn send_body<B>(body: B, stream: &mut SendStream<Bytes>)
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    if let Err(reason) = try_send_body(pin!(body), stream).await {
        stream.send_reset(reason);
    }
}

async fn try_send_body<B>(mut body: Pin<&mut B>, stream: &mut SendStream<Bytes>) -> Result<(), Reason>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    loop {
        let frame = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(Err(Reason::CANCEL)),
            Poll::Pending => body.as_mut().poll_frame(cx).map(Ok),
        });
        let Some(frame) = frame.await? else {
            return stream.send_data(Bytes::new(), true).map_err(|_| Reason::CANCEL);
        };
        match frame.map_err(|error| reason_of(&error))?.into_data() {
            Ok(data) => {
                let is_last = body.is_end_stream();
                send_data(stream, data, is_last).await?;
                if is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return stream.send_trailers(trailers).map_err(|_| Reason::CANCEL);
            }
        }
    }
}

async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes, is_last: bool) -> Result<(), Reason> {
    if data.is_empty() {
        return if is_last { stream.send_data(data, true).map_err(|_| Reason::CANCEL) } else { Ok(()) };
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = poll_fn(|cx| {
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            match stream.capacity() {
                0 => stream.poll_capacity(cx).map(|room| room?.ok()),
                room => Poll::Ready(Some(room)),
            }
        });
        let room = room.await.ok_or(Reason::CANCEL)?;
        let part = data.split_to(room.min(data.len()));
        stream.send_data(part, is_last && data.is_empty()).map_err(|_| Reason::CANCEL)?;
    }
    Ok(())
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
        reply(response, respond).await;
    }
}

async fn reply(response: Response<ReplyBody>, mut respond: SendResponse<Bytes>) {
    let (head, body) = response.into_parts();
    let is_end = body.is_end_stream();
    // Fails if the client has reset the stream: then nobody waits for it.
    if let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), is_end)
        && !is_end
    {
        send_body(body, &mut stream).await;
    }
}
