//! A deliberately simple HTTP/1.1 client and server over sockets that a test already has: one request at a
//! time, every byte visible. Real clients (curl) and servers (nginx) stand beside it in the suites.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A response, whole.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client connection that is kept alive.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Takes over a connected socket. Reads time out after ten seconds.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Sends these bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Sends a request without body and reads the answer.
    pub fn request(&mut self, method: &str, path: &str, headers: &[&str]) -> io::Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|header| header.to_ascii_lowercase().starts_with("host:")) {
            head.push_str("Host: test\r\n");
        }
        for header in headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.send(head.as_bytes())?;
        self.response(method == "HEAD")
    }

    /// Reads one answer; 1xx answers but 101 are skipped.
    pub fn response(&mut self, is_head: bool) -> io::Result<Response> {
        loop {
            let (status, headers) = read_head(&mut self.reader)?;
            let status: u16 =
                status.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| bad(&status))?;
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let bodiless = is_head || status == 101 || status == 204 || status == 304;
            let body = if bodiless { Vec::new() } else { read_body(&mut self.reader, &headers)? };
            return Ok(Response { status, headers, body });
        }
    }
}

/// A request as a server of a test saw it.
#[derive(Debug)]
pub struct Seen {
    pub peer: SocketAddr,
    /// `GET /path HTTP/1.1`.
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Serves on `listener` from a thread, answering 200 `ok` to everything, and tells what it saw. Ends with the
/// process.
pub fn record(listener: TcpListener) -> Receiver<Seen> {
    let (seen, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = seen.clone();
            std::thread::spawn(move || {
                let Ok(peer) = stream.peer_addr() else { return };
                let mut reader = BufReader::new(stream);
                while let Ok((line, headers)) = read_head(&mut reader) {
                    let Ok(body) = read_body(&mut reader, &headers) else { return };
                    let _ = seen.send(Seen { peer, line, headers, body });
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
                    if reader.get_mut().write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    receiver
}

fn bad(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {line:?}"))
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_head(reader: &mut impl BufRead) -> io::Result<(String, Vec<(String, String)>)> {
    let start = read_line(reader)?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.split_once(':') else {
            return if line.is_empty() { Ok((start, headers)) } else { Err(bad(&line)) };
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_body(reader: &mut impl BufRead, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
    let value = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let mut body = Vec::new();
    if value("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = read_line(reader)?;
            let size =
                u64::from_str_radix(line.split(';').next().unwrap_or(""), 16).map_err(|_| bad(&line))?;
            reader.by_ref().take(size).read_to_end(&mut body)?;
            if size == 0 {
                while !read_line(reader)?.is_empty() {}
                return Ok(body);
            }
            read_line(reader)?;
        }
    }
    if let Some(length) = value("content-length").and_then(|value| value.parse().ok()) {
        reader.by_ref().take(length).read_to_end(&mut body)?;
    }
    Ok(body)
}
