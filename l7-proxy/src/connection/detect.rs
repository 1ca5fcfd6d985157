//! The first bytes of a connection that must be HTTP.

use std::io;

use parsers::detect::{Protocol, detect};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::control::{Control, Order};

/// Room for the first bytes: most requests fit.
const FIRST_BYTES: usize = 2048;

/// What came first.
pub(super) enum First {
    Http1(Vec<u8>),
    Http2(Vec<u8>),
    Unknown,
    /// The client went, or did not say enough in time.
    Gone,
    TooSlow,
}

/// Reads until the protocol is known; the worker's time-outs bound it.
pub(super) async fn first(stream: &mut TcpStream, control: &Control) -> First {
    let mut bytes = Vec::with_capacity(FIRST_BYTES);
    loop {
        let read: io::Result<usize> = tokio::select! {
            biased;
            read = stream.read_buf(&mut bytes) => read,
            order = control.next_order() => match order {
                Order::Recheck | Order::Drain => continue,
                Order::EndIdle => return First::Gone,
                Order::Close => return First::TooSlow,
            },
        };
        if !matches!(read, Ok(1..)) {
            return First::Gone;
        }
        control.received(true);
        match detect(&bytes) {
            Protocol::NeedMore => {}
            Protocol::Http1 => return First::Http1(bytes),
            Protocol::Http2 => return First::Http2(bytes),
            Protocol::Unknown => return First::Unknown,
        }
    }
}
