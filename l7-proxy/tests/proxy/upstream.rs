//! An HTTP/1 server that remembers every byte that reached it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// Answers each request by its path: `/public/close`, `/public/nothing` and so on, see `answer`.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicUsize>,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        Self::start_with(serve)
    }

    /// A server whose connections are handled by `serve`, which also gets where to remember bytes.
    pub(crate) fn start_with(serve: fn(TcpStream, &Mutex<Vec<u8>>)) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let upstream = Self {
            address: listener.local_addr().expect("an address"),
            received: Arc::default(),
            connections: Arc::default(),
        };
        let this = upstream.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (this, stream) = (this.clone(), stream.expect("a connection"));
                this.connections.fetch_add(1, SeqCst);
                std::thread::spawn(move || serve(stream, &this.received));
            }
        });
        upstream
    }

    /// Everything that arrived so far, as text.
    pub(crate) fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().expect("lock")).into_owned()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    pub(crate) fn forget(&self) {
        self.received.lock().expect("lock").clear();
    }
}

fn serve(mut stream: TcpStream, received: &Mutex<Vec<u8>>) {
    let mut buffer = Vec::new();
    while let Some(request) = next_request(&mut stream, &mut buffer, received) {
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let Some(answer) = answer(&path) else { return };
        if stream.write_all(answer.as_bytes()).is_err() || answer.contains("connection: close") {
            return;
        }
    }
}

fn answer(path: &str) -> Option<String> {
    let ok = |head: &str, body: &str| format!("HTTP/1.1 {head}\r\n\r\n{body}");
    Some(match path {
        "/public/nothing" => return None,
        "/public/close" => ok("200 OK\r\ncontent-length: 2\r\nconnection: close", "ok"),
        "/public/chunked" => {
            ok("200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum", "2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n")
        }
        "/public/switch" => ok("101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x", ""),
        "/public/hop" => {
            ok("200 OK\r\ncontent-length: 2\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=9", "ok")
        }
        "/public/head" => ok("200 OK\r\ncontent-length: 12345", ""),
        _ => ok("200 OK\r\ncontent-length: 2", "ok"),
    })
}

/// Head and body of one request as text, remembered.
pub(crate) fn next_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    received: &Mutex<Vec<u8>>,
) -> Option<String> {
    let head_end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        more(stream, buffer, received)?;
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).to_ascii_lowercase();
    let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    if head.contains("expect: 100-continue") && !head.contains("/public/refuse") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let end = loop {
        if let Some(length) = length {
            if buffer.len() >= head_end + length {
                break head_end + length;
            }
        } else if head.contains("transfer-encoding: chunked") {
            if let Some(at) = find(&buffer[head_end..], b"0\r\n")
                && let Some(end) = find(&buffer[head_end + at..], b"\r\n\r\n")
            {
                break head_end + at + end + 4;
            }
        } else {
            break head_end;
        }
        more(stream, buffer, received)?;
    };
    let request = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end);
    Some(request)
}

fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>, received: &Mutex<Vec<u8>>) -> Option<()> {
    let mut chunk = [0; 16 << 10];
    let count = stream.read(&mut chunk).ok().filter(|count| *count > 0)?;
    buffer.extend_from_slice(&chunk[..count]);
    received.lock().expect("lock").extend_from_slice(&chunk[..count]);
    Some(())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
