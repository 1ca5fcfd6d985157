//! Bytes both ways between two streams: TCP connections without layer 7, and upgraded ones.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use crate::control::{Control, Order};
use crate::decide::Denial;

/// Why a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both sides are done, or one is broken.
    Done,
    /// Nothing moved for too long, or the drain was over.
    Closed,
    /// Policy does not allow it any more.
    Revoked(Denial),
}

/// Relays until the end. `recheck` is asked whenever policy changes. Each direction buffers `buffer` bytes;
/// a half-closed side is passed on (RFC 9293 section 3.6).
pub async fn relay<A, B>(
    client: &mut A,
    upstream: &mut B,
    control: &Control,
    buffer: usize,
    recheck: impl Fn() -> Result<(), Denial>,
) -> End
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut client, mut upstream) = (Noted(client, control), Noted(upstream, control));
    let copy = copy_bidirectional_with_sizes(&mut client, &mut upstream, buffer, buffer);
    tokio::pin!(copy);
    loop {
        tokio::select! {
            biased;
            order = control.next_order() => match order {
                Order::Recheck => if let Err(denial) = recheck() {
                    return End::Revoked(denial);
                },
                // It may take all of the drain; then the worker closes it.
                Order::Drain | Order::EndIdle => {}
                Order::Close => return End::Closed,
            },
            outcome = &mut copy => return match outcome {
                Ok(_) => End::Done,
                Err(_broken) => End::Closed,
            },
        }
    }
}

/// A stream whose reads are signs of life.
struct Noted<'a, T>(&'a mut T, &'a Control);

impl<T: AsyncRead + Unpin> AsyncRead for Noted<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut *self.0).poll_read(cx, buf);
        if outcome.is_ready() {
            self.1.active();
        }
        outcome
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Noted<'_, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
