//! Strict HTTP/1 request framing (RFC 9112), ahead of the HTTP engine.
//!
//! The engine's parser accepts some framing that others read differently: bare LF, Content-Length beside
//! Transfer-Encoding, repeated lengths. [`Framer`] walks over the bytes of a client, knows at each of them
//! whether it belongs to a head, a body or a trailer, and stops in front of what is ambiguous. What it
//! leaves to the engine: characters of method, names and values, obs-fold, and all limits of size.

#[cfg(test)]
mod tests;

/// Longest line in bytes; far above the engine's limit for a whole head, which answers first.
pub const LINE_MAX: usize = 256 << 10;
/// Empty lines tolerated in front of a request line (RFC 9112 section 2.2 asks for one at least).
pub const LEADING_EMPTY_LINES_MAX: u8 = 4;
/// Longest chunk extension in bytes. Extensions are never forwarded.
pub const CHUNK_EXTENSION_MAX: usize = 256;

/// What a client's bytes do that no client should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("line ends with a bare LF")]
    BareLf,
    #[error("line too long")]
    LongLine,
    #[error("too many empty lines before the request line")]
    EmptyLines,
    #[error("invalid request line")]
    RequestLine,
    #[error("invalid or repeated Content-Length")]
    ContentLength,
    #[error("Transfer-Encoding other than one `chunked` in HTTP/1.1")]
    TransferEncoding,
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
    #[error("invalid chunk framing")]
    Chunk,
    #[error("forbidden trailer field")]
    Trailer,
}

/// Why [`Framer::feed`] stopped before the end of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The message before asks for another protocol (or tunnel): what follows is not to be read before
    /// [`Framer::resume`] or [`Framer::raw`] says as what.
    Hold,
    /// Nothing from here on may be used.
    Bad(Violation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a request line, after so many empty lines.
    Start(u8),
    Headers,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    /// The CRLF behind a chunk's data.
    ChunkEnd,
    Trailers,
    Hold,
    Raw,
    Bad(Violation),
}

/// What the head said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    http_11: bool,
    length: Option<u64>,
    chunked: bool,
    switches: bool,
}

/// Where in a client's stream of requests we are.
#[derive(Debug)]
pub struct Framer {
    state: State,
    head: Head,
    /// The start of a line whose end has not come yet.
    partial: Vec<u8>,
}

impl Default for Framer {
    fn default() -> Self {
        Self { state: State::Start(0), head: Head::default(), partial: Vec::new() }
    }
}

impl Framer {
    /// Walks over `bytes`; returns how many of them may be used, and why no more if that is not all.
    pub fn feed(&mut self, bytes: &[u8]) -> (usize, Option<Stop>) {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                State::Raw => return (bytes.len(), None),
                State::Hold => return (at, Some(Stop::Hold)),
                State::Bad(violation) => return (at, Some(Stop::Bad(violation))),
                State::Length(left) => {
                    let taken = span(left, rest.len());
                    at += taken;
                    self.state = match left - taken as u64 {
                        0 => self.after_message(),
                        left => State::Length(left),
                    };
                }
                State::Chunk(left) => {
                    let taken = span(left, rest.len());
                    at += taken;
                    self.state = match left - taken as u64 {
                        0 => State::ChunkEnd,
                        left => State::Chunk(left),
                    };
                }
                _ => match self.feed_line(rest) {
                    Ok(taken) => at += taken,
                    Err(violation) => {
                        self.state = State::Bad(violation);
                        return (at, Some(Stop::Bad(violation)));
                    }
                },
            }
        }
        (at, None)
    }

    /// Whether a head has begun and not ended.
    pub fn in_head(&self) -> bool {
        match self.state {
            State::Start(empty) => empty > 0 || !self.partial.is_empty(),
            State::Headers => true,
            _ => false,
        }
    }

    /// Whether bytes are withheld until somebody decides.
    pub fn is_held(&self) -> bool {
        self.state == State::Hold
    }

    /// The switch of protocols did not happen: the next bytes are a request again.
    pub fn resume(&mut self) {
        if self.state == State::Hold {
            self.state = State::Start(0);
        }
    }

    /// The protocol was switched: the next bytes are none of ours.
    pub fn raw(&mut self) {
        if self.state == State::Hold {
            self.state = State::Raw;
        }
    }

    fn after_message(&self) -> State {
        if self.head.switches { State::Hold } else { State::Start(0) }
    }

    /// Takes one line, or what there is of it, from the front of `rest`.
    fn feed_line(&mut self, rest: &[u8]) -> Result<usize, Violation> {
        let Some(end) = memchr::memchr(b'\n', rest) else {
            if self.partial.len() + rest.len() > LINE_MAX {
                return Err(Violation::LongLine);
            }
            self.partial.extend_from_slice(rest);
            return Ok(rest.len());
        };
        let (line, taken) = (&rest[..=end], end + 1);
        if self.partial.is_empty() {
            self.state = self.line(line)?;
            return Ok(taken);
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(line);
        self.state = self.line(&whole)?;
        whole.clear();
        self.partial = whole;
        Ok(taken)
    }

    fn line(&mut self, line: &[u8]) -> Result<State, Violation> {
        let line = line.strip_suffix(b"\r\n").ok_or(Violation::BareLf)?;
        match self.state {
            State::Start(empty) if line.is_empty() => {
                if empty >= LEADING_EMPTY_LINES_MAX {
                    return Err(Violation::EmptyLines);
                }
                Ok(State::Start(empty + 1))
            }
            State::Start(_) => {
                self.head = request_line(line)?;
                Ok(State::Headers)
            }
            State::Headers if line.is_empty() => Ok(match (self.head.length, self.head.chunked) {
                (_, true) => State::ChunkSize,
                (Some(length), _) if length > 0 => State::Length(length),
                _ => self.after_message(),
            }),
            State::Headers => {
                self.head.field(line)?;
                Ok(State::Headers)
            }
            State::ChunkSize => Ok(match chunk_size(line)? {
                0 => State::Trailers,
                size => State::Chunk(size),
            }),
            State::ChunkEnd if line.is_empty() => Ok(State::ChunkSize),
            State::ChunkEnd => Err(Violation::Chunk),
            State::Trailers if line.is_empty() => Ok(self.after_message()),
            State::Trailers => {
                trailer(line)?;
                Ok(State::Trailers)
            }
            // Not made of lines; `feed` never comes here with them.
            other => Ok(other),
        }
    }
}

fn span(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

/// Version and method; RFC 9112 section 3. HTTP/0.9 has neither version nor a way to be told apart.
fn request_line(line: &[u8]) -> Result<Head, Violation> {
    let (rest, http_11) = if let Some(rest) = line.strip_suffix(b" HTTP/1.1") {
        (rest, true)
    } else if let Some(rest) = line.strip_suffix(b" HTTP/1.0") {
        (rest, false)
    } else {
        return Err(Violation::RequestLine);
    };
    // The engine cuts a fragment off silently; it has no place in a request target.
    if memchr::memchr(b'#', rest).is_some() {
        return Err(Violation::RequestLine);
    }
    Ok(Head { http_11, switches: rest.starts_with(b"CONNECT "), ..Head::default() })
}

impl Head {
    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        // Only three names matter here, so most lines are left after their first byte.
        let is_candidate = line.first().is_some_and(|b| matches!(b | 0x20, b'c' | b't' | b'u'));
        if !is_candidate {
            return Ok(());
        }
        let Some(colon) = memchr::memchr(b':', line) else { return Ok(()) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.chunked {
                return Err(Violation::LengthAndEncoding);
            }
            if self.length.is_some() {
                return Err(Violation::ContentLength);
            }
            self.length = Some(decimal(value).ok_or(Violation::ContentLength)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.length.is_some() {
                return Err(Violation::LengthAndEncoding);
            }
            if self.chunked || !self.http_11 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Violation::TransferEncoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") && self.http_11 {
            self.switches = true;
        }
        Ok(())
    }
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |sum, b| {
        b.is_ascii_digit().then_some(())?;
        sum.checked_mul(10)?.checked_add(u64::from(b - b'0'))
    })
}

/// `chunk-size [ chunk-ext ]`, RFC 9112 section 7.1.
fn chunk_size(line: &[u8]) -> Result<u64, Violation> {
    let (size, extension) = match memchr::memchr(b';', line) {
        Some(at) => line.split_at(at),
        None => (line, &b""[..]),
    };
    let visible = |b: &u8| matches!(b, b'\t' | b' '..=b'~');
    if size.is_empty() || extension.len() > CHUNK_EXTENSION_MAX || !extension.iter().all(visible) {
        return Err(Violation::Chunk);
    }
    size.iter()
        .try_fold(0u64, |sum, b| {
            let digit = char::from(*b).to_digit(16)?;
            sum.checked_mul(16)?.checked_add(u64::from(digit))
        })
        .ok_or(Violation::Chunk)
}

/// Fields that change framing or routing have no meaning in a trailer (RFC 9110 section 6.5.1), and a
/// server that merges trailers into its headers would be fooled by them.
fn trailer(line: &[u8]) -> Result<(), Violation> {
    const FORBIDDEN: [&[u8]; 9] = [
        b"content-length",
        b"transfer-encoding",
        b"host",
        b"connection",
        b"upgrade",
        b"te",
        b"trailer",
        b"authorization",
        b"cookie",
    ];
    let colon = memchr::memchr(b':', line).ok_or(Violation::Trailer)?;
    let name = &line[..colon];
    if FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden)) {
        return Err(Violation::Trailer);
    }
    Ok(())
}
