//! The client's socket as the HTTP engine sees it: behind the strict [`Framer`].
//!
//! Bytes are read into the engine's own buffer, walked over there, and cut off in front of what the framer
//! refuses. The engine then finds a byte that no parser accepts, answers 400 by itself and in turn (also
//! behind pipelined requests), and the connection ends. Bytes behind a request that asks for another
//! protocol stay here until it is known what they are.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parsers::h2::FrameScale;
use parsers::http1::{Framer, Stop};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::connection::reset;
use crate::control::Control;
use crate::stream;

/// Refused by every parser that may be waiting (NUL), and the end of whatever head it waits for.
const POISON: &[u8] = b"\0\r\n\r\n";
/// Bytes that a client may send ahead of the answer to its wish for another protocol.
const HELD_MAX: usize = 64 << 10;

/// A client connection.
#[derive(Debug)]
pub struct Guard {
    stream: TcpStream,
    control: Arc<Control>,
    /// `None`: not HTTP/1, everything passes.
    framer: Option<Framer>,
    /// Read from the socket, not yet passed on; from `held_at`.
    held: Vec<u8>,
    held_at: usize,
    /// HTTP/2 only.
    load: Option<Load>,
    /// What is left of [`POISON`] to pass on, once the framer has refused.
    poison: Option<&'static [u8]>,
}

impl Guard {
    /// `first` are the bytes read so far.
    pub fn new(
        stream: TcpStream,
        control: Arc<Control>,
        first: Vec<u8>,
        is_http1: bool,
        h2_control_frames: u32,
    ) -> Self {
        let framer = is_http1.then(Framer::default);
        let load = (!is_http1).then(|| Load::new(h2_control_frames, control.now()));
        Self { stream, control, framer, load, held: first, held_at: 0, poison: None }
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Passes on what was held back before, as far as it may.
    fn read_held(&mut self, buf: &mut ReadBuf<'_>) {
        let end = self.held.len().min(self.held_at + buf.remaining());
        let bytes = &self.held[self.held_at..end];
        let (taken, stop) = match &mut self.framer {
            Some(framer) => framer.feed(bytes),
            None => {
                if let Some(load) = &mut self.load {
                    load.weigh(bytes, &self.control);
                }
                (bytes.len(), None)
            }
        };
        buf.put_slice(&bytes[..taken]);
        self.held_at += taken;
        if self.held_at == self.held.len() {
            (self.held, self.held_at) = (Vec::new(), 0);
        }
        self.stopped(stop);
    }

    /// Reads from the socket into `buf`; what must not pass yet is moved to `held`.
    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let Some(framer) = &mut self.framer else {
            if let Some(load) = &mut self.load {
                load.weigh(&buf.filled()[before..], &self.control);
            }
            self.control.received(false);
            return Poll::Ready(Ok(()));
        };
        let (taken, stop) = framer.feed(&buf.filled()[before..]);
        if let Some(Stop::Hold) = stop {
            self.held.extend_from_slice(&buf.filled()[before + taken..]);
        }
        buf.set_filled(before + taken);
        self.stopped(stop);
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, outcome: &Poll<io::Result<usize>>) {
        if let (Some(load), Poll::Ready(Ok(count))) = (&mut self.load, outcome) {
            load.answered += *count as u64;
        }
    }

    fn stopped(&mut self, stop: Option<Stop>) {
        if let Some(Stop::Bad(violation)) = stop {
            self.control.violated(violation);
            self.poison = Some(POISON);
        }
        let in_head = self.framer.as_ref().is_some_and(Framer::in_head);
        self.control.received(in_head && self.poison.is_none());
    }

    /// While held: looks for the answer, and whether the client is still there.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Continue>> {
        let Some(framer) = self.framer.as_mut().filter(|framer| framer.is_held()) else {
            return Poll::Ready(Ok(Continue::Reading));
        };
        match self.control.poll_hold(cx) {
            Poll::Ready(true) => framer.raw(),
            Poll::Ready(false) => framer.resume(),
            Poll::Pending => {
                let mut bytes = [0; 2048];
                while self.held.len() < HELD_MAX {
                    let mut buf = ReadBuf::new(&mut bytes);
                    std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
                    if buf.filled().is_empty() {
                        return Poll::Ready(Ok(Continue::End));
                    }
                    self.held.extend_from_slice(buf.filled());
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(Continue::Reading))
    }
}

/// What an HTTP/2 client has sent in this second, against what came of it.
#[derive(Debug)]
struct Load {
    scale: FrameScale,
    limit: u32,
    second: u32,
    /// Bytes written to the client.
    answered: u64,
}

/// Control frames that go with one useful frame, or one KiB of answers: acknowledgements, window updates,
/// the PINGs by which gRPC measures bandwidth.
const CONTROL_PER_USEFUL: u64 = 10;

impl Load {
    fn new(limit: u32, now: u32) -> Self {
        Self { scale: FrameScale::default(), limit, second: now, answered: 0 }
    }

    fn weigh(&mut self, bytes: &[u8], control: &Control) {
        let now = control.now();
        if now != self.second {
            (self.second, self.answered) = (now, 0);
            self.scale.reset();
        }
        self.scale.feed(bytes);
        let useful = u64::from(self.scale.useful) + (self.answered >> 10);
        if u64::from(self.scale.control) > u64::from(self.limit) + CONTROL_PER_USEFUL * useful {
            control.flooded();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.control.is_aborted() {
            reset(&self.stream);
        }
    }
}

enum Continue {
    Reading,
    End,
}

impl AsyncRead for Guard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        while buf.filled().len() == before {
            if let Some(poison) = &mut this.poison {
                let count = poison.len().min(buf.remaining());
                buf.put_slice(&poison[..count]);
                *poison = &poison[count..];
                return Poll::Ready(Ok(()));
            }
            match std::task::ready!(this.poll_held(cx))? {
                Continue::End => return Poll::Ready(Ok(())),
                Continue::Reading => {}
            }
            if this.held_at < this.held.len() {
                this.read_held(buf);
                continue;
            }
            let held = this.held.len();
            std::task::ready!(this.poll_socket(cx, buf))?;
            // The end of the client's bytes: nothing was read, held back or refused.
            let got_nothing = buf.filled().len() == before;
            if got_nothing && this.held.len() == held && this.poison.is_none() {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.control.active();
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.control.active();
        let outcome = stream::poll_write_vectored(Pin::new(&mut self.stream), cx, bufs);
        self.wrote(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
