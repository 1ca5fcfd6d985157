//! What must hold of each parser whatever bytes it is given. The fuzz targets run these checks on mutated
//! inputs, `parsers/tests/fuzz_corpus.rs` on the committed ones.

use std::net::{Ipv4Addr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Uri, Version};
use parsers::detect::Protocol;
use parsers::h2::FrameScale;
use parsers::http1::{Framer, Stop};

/// Inputs longer than this are cut where a check is quadratic.
const SPLIT_MAX: usize = 300;
/// Header fields that the second parser takes.
const FIELDS_MAX: usize = 100;

/// How the bytes are cut does not change what is counted.
pub(crate) fn h2(data: &[u8]) {
    let counts = |size: usize| {
        let mut scale = FrameScale::default();
        data.chunks(size).for_each(|part| scale.feed(part));
        (scale.useful, scale.control)
    };
    let whole = counts(data.len().max(1));
    for size in [1, 8, 9, 10, 23, 24, 25] {
        assert_eq!(counts(size), whole, "{size}");
    }
}

/// A canonical path is its own canonical form, has none of the spellings that servers disagree about, and
/// names the same segments as the path it was made of.
pub(crate) fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(canonical) = parsers::path::canonical(text) else { return };
    assert_eq!(parsers::path::canonical(&canonical).as_deref(), Ok(&*canonical), "not idempotent");
    // The engine's own type is stricter about some characters; what it took it must still take.
    if PathAndQuery::try_from(text).is_ok() {
        assert_eq!(PathAndQuery::try_from(&*canonical).expect("a valid target").as_str(), &*canonical);
    }
    let (path, query) = cut_query(&canonical);
    assert_eq!(query, cut_query(text).1, "the query changed");
    assert!(path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\' && b != b'#'), "{path:?}");
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let (last, inner) = segments.split_last().expect("a leading slash");
    assert!(inner.iter().all(|s| !matches!(*s, "" | "." | "..")), "{path:?}");
    assert!(!matches!(*last, "." | ".."), "{path:?}");
    assert_eq!(naive_segments(path), naive_segments(cut_query(text).0), "{text:?} became {canonical:?}");
}

fn cut_query(text: &str) -> (&str, &str) {
    text.split_at(text.find('?').unwrap_or(text.len()))
}

/// Segments as a server sees them that decodes everything and then resolves; whether a slash ends them.
fn naive_segments(path: &str) -> (Vec<Vec<u8>>, bool) {
    let mut out = Vec::new();
    let mut open = false;
    for segment in path.split('/') {
        let segment = naive_decode(segment.as_bytes());
        open = matches!(segment.as_slice(), b"" | b"." | b"..");
        match segment.as_slice() {
            b"" | b"." => {}
            b".." => {
                out.pop();
            }
            _ => out.push(segment),
        }
    }
    (out, open)
}

fn naive_decode(segment: &[u8]) -> Vec<u8> {
    let hex = |b: &u8| char::from(*b).to_digit(16).map(|d| d as u8);
    match segment {
        [b'%', high, low, rest @ ..] => {
            let byte = hex(high).zip(hex(low)).map(|(h, l)| h << 4 | l).expect("a valid encoding");
            [vec![byte], naive_decode(rest)].concat()
        }
        [byte, rest @ ..] => [vec![*byte], naive_decode(rest)].concat(),
        [] => Vec::new(),
    }
}

/// A canonical host is its own canonical form, differs from its source in case only, and is an authority.
pub(crate) fn authority(data: &[u8]) {
    let Ok(canonical) = parsers::authority::canonical(data) else { return };
    assert_eq!(parsers::authority::canonical(canonical.as_bytes()).as_deref(), Ok(&*canonical));
    assert_eq!(data.to_ascii_lowercase(), canonical.as_bytes());
    assert_eq!(Authority::try_from(&*canonical).expect("an authority").as_str(), &*canonical);
}

/// Once a protocol was told it stays what it is, however much follows.
pub(crate) fn detect(data: &[u8]) {
    let mut told = Protocol::NeedMore;
    for end in 0..=data.len().min(SPLIT_MAX) {
        let now = parsers::detect::detect(&data[..end]);
        assert!(told == Protocol::NeedMore || told == now, "{told:?} became {now:?}");
        told = now;
    }
    assert_ne!((told, data.len() > 24), (Protocol::NeedMore, true));
}

/// How the bytes arrive does not matter, and where the framer sees a head end, a second parser sees the
/// same end or an error, and no framing that could be read in two ways.
pub(crate) fn http1(data: &[u8]) {
    let data = &data[..data.len().min(SPLIT_MAX)];
    let whole = Framer::default().feed(data);
    for at in 0..=data.len() {
        let mut framer = Framer::default();
        let mut outcome = framer.feed(&data[..at]);
        if outcome.1.is_none() {
            let (taken, stop) = framer.feed(&data[at..]);
            outcome = (outcome.0 + taken, stop);
        }
        assert_eq!(outcome.1, whole.1, "split at {at}");
        match outcome.1 {
            // A line that came in pieces was let through up to the piece that ended it.
            Some(Stop::Bad(_)) => assert!(outcome.0 >= whole.0, "split at {at}"),
            _ => assert_eq!(outcome.0, whole.0, "split at {at}"),
        }
    }
    let Some(end) = first_head_end(data) else { return };
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(data) {
        Err(_) => {}
        Ok(httparse::Status::Partial) => panic!("ends at {end}, the second parser wants more"),
        Ok(httparse::Status::Complete(other)) => {
            assert_eq!(end, other, "two ends of the first head");
            let count =
                |name: &str| request.headers.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).count();
            assert!(count("content-length") + count("transfer-encoding") <= 1, "ambiguous framing");
        }
    }
}

/// Where the framer sees the first head end, if all before is fine.
fn first_head_end(data: &[u8]) -> Option<usize> {
    let mut framer = Framer::default();
    let mut begun = false;
    for (at, byte) in data.iter().enumerate() {
        if framer.feed(std::slice::from_ref(byte)).1.is_some() {
            return None;
        }
        match framer.in_head() {
            true => begun = true,
            false if begun => return Some(at + 1),
            false => {}
        }
    }
    None
}

/// A canonical head is its own canonical form: one host, a canonical path, nothing hop-by-hop.
pub(crate) fn head(data: &[u8]) {
    let Some(request) = read_head(data) else { return };
    let destination = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 80));
    let (mut parts, ()) = request.into_parts();
    let http_2 = parts.version == Version::HTTP_2;
    if parsers::head::canonicalise(&mut parts, destination).is_err() {
        return;
    }
    let host = parsers::head::host(&parts.uri, &parts.headers);
    assert_eq!(parsers::authority::canonical(host.as_bytes()).as_deref(), Ok(host));
    let hosts = parts.headers.get_all(header::HOST).iter().count();
    assert_eq!(hosts, usize::from(!http_2), "hosts in the headers");
    let path = parsers::head::path(&parts.uri);
    if path != "*" {
        assert_eq!(parsers::path::canonical(path).as_deref(), Ok(path));
    }
    for name in ["connection", "upgrade", "keep-alive", "proxy-connection", "http2-settings"] {
        assert!(!parts.headers.contains_key(name), "{name} is left");
    }
    let mut again = parts.clone();
    let wishes = parsers::head::canonicalise(&mut again, destination).expect("canonical heads are valid");
    assert!(wishes.upgrade.is_none());
    assert_eq!((&again.method, &again.uri, again.version), (&parts.method, &parts.uri, parts.version));
    assert_eq!(again.headers, parts.headers);
}

/// A head as an HTTP engine gives it: the text of an HTTP/1 head; a first byte of `2` makes it HTTP/2.
fn read_head(data: &[u8]) -> Option<Request<()>> {
    let (http_2, text) = match data {
        [b'2', rest @ ..] => (true, rest),
        other => (false, other),
    };
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut read = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(_)) = read.parse(text) else { return None };
    let mut headers = HeaderMap::new();
    for field in read.headers.iter() {
        let name = HeaderName::try_from(field.name).ok()?;
        headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::try_from(read.method?).ok()?;
    *request.uri_mut() = Uri::try_from(read.path?).ok()?;
    *request.headers_mut() = headers;
    *request.version_mut() = match (http_2, read.version?) {
        (true, _) => Version::HTTP_2,
        (false, 0) => Version::HTTP_10,
        (false, _) => Version::HTTP_11,
    };
    Some(request)
}
