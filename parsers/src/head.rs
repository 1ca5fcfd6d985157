//! One canonical form of a request head, whatever version of HTTP brought it.
//!
//! [`canonicalise`] changes the head in place: afterwards it is what policy judges and what the upstream
//! is sent. Hop-by-hop fields go first (RFC 9110 section 7.6.1), so that nobody can have a header judged
//! and then removed. `x-forwarded-*` and the like stay as they are: the proxy is transparent, adds
//! nothing, and nothing in it believes them.

use std::net::SocketAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, StatusCode, Version};

use crate::authority;
use crate::path::{self, PathError};

#[cfg(test)]
mod tests;

/// Why a head is refused. [`status`](HeadError::status) is what the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("CONNECT is not supported")]
    Connect,
    #[error("invalid request target")]
    Target,
    #[error("{0}")]
    Path(#[from] PathError),
    #[error("no host")]
    NoHost,
    #[error("more than one host")]
    ManyHosts,
    #[error("invalid host")]
    Host,
    #[error("host and request target disagree")]
    HostMismatch,
    #[error("connection option names an end-to-end field")]
    ConnectionOption,
    #[error("unknown expectation")]
    Expectation,
}

impl HeadError {
    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// What the head asks for beyond an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// `Upgrade` that `Connection` speaks of: the protocol asked for.
    pub upgrade: Option<HeaderValue>,
    /// `Expect: 100-continue`.
    pub expect_continue: bool,
}

/// Brings `head` into canonical form. `destination` stands in for the host of an HTTP/1.0 request that has
/// none (RFC 9112 section 3.3). For HTTP/1 the target becomes origin-form and `Host` holds the host; for
/// HTTP/2 the target keeps its authority and `host` is gone.
pub fn canonicalise(head: &mut Parts, destination: SocketAddr) -> Result<Wishes, HeadError> {
    if head.method == Method::CONNECT {
        return Err(HeadError::Connect);
    }
    let wishes = Wishes {
        upgrade: strip_hop_by_hop(&mut head.headers, head.version)?,
        expect_continue: expects_continue(&head.headers)?,
    };
    let path = canonical_path(head)?;
    if head.version == Version::HTTP_2 {
        let authority = host_of_http2(head)?;
        head.headers.remove(header::HOST);
        if path.is_none() && authority.is_none() && head.uri.scheme() == Some(&Scheme::HTTP) {
            return Ok(wishes);
        }
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = authority.or(parts.authority);
        parts.path_and_query = path.or(parts.path_and_query);
        head.uri = Uri::from_parts(parts).map_err(|_| HeadError::Target)?;
        return Ok(wishes);
    }
    host_of_http1(head, destination)?;
    if path.is_some() || head.uri.authority().is_some() {
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        (parts.scheme, parts.authority) = (None, None);
        parts.path_and_query = path.or(parts.path_and_query);
        head.uri = Uri::from_parts(parts).map_err(|_| HeadError::Target)?;
    }
    // An HTTP/1.0 client gets its answer in 1.0 by the engine; upstream everything is 1.1.
    head.version = Version::HTTP_11;
    Ok(wishes)
}

/// The host of a canonical head.
pub fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or_default(),
    }
}

/// Path and query of a canonical head.
pub fn path(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", PathAndQuery::as_str)
}

/// The new path and query, or `None` if it is canonical already.
fn canonical_path(head: &Parts) -> Result<Option<PathAndQuery>, HeadError> {
    let target = head.uri.path_and_query().ok_or(HeadError::Target)?;
    // Asterisk-form, RFC 9112 section 3.2.4.
    if target.as_str() == "*" {
        return if head.method == Method::OPTIONS { Ok(None) } else { Err(HeadError::Target) };
    }
    // `http://host?query` has an empty path.
    if target.as_str().starts_with('?') {
        let text = format!("/{target}");
        return canonical_text(&text).map(Some);
    }
    match path::canonical(target.as_str())? {
        std::borrow::Cow::Borrowed(_) => Ok(None),
        std::borrow::Cow::Owned(text) => {
            PathAndQuery::try_from(text).map(Some).map_err(|_| HeadError::Target)
        }
    }
}

fn canonical_text(text: &str) -> Result<PathAndQuery, HeadError> {
    PathAndQuery::try_from(path::canonical(text)?.into_owned()).map_err(|_| HeadError::Target)
}

/// RFC 9112 section 3.2: exactly one Host, and an absolute-form target must not contradict it (the RFC lets
/// the target win; two components that disagree about who wins is what we refuse).
fn host_of_http1(head: &mut Parts, destination: SocketAddr) -> Result<(), HeadError> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (first, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(HeadError::ManyHosts);
    }
    let (host, is_canonical) = match first {
        Some(value) => {
            let host = authority::canonical(value.as_bytes()).map_err(|_| HeadError::Host)?;
            let is_canonical = matches!(host, std::borrow::Cow::Borrowed(_));
            (host, is_canonical)
        }
        None if head.version == Version::HTTP_11 => return Err(HeadError::NoHost),
        None => (destination.to_string().into(), false),
    };
    match (head.uri.scheme(), head.uri.authority()) {
        (None, None) => {}
        (Some(scheme), Some(in_target)) if *scheme == Scheme::HTTP => {
            let in_target =
                authority::canonical(in_target.as_str().as_bytes()).map_err(|_| HeadError::Host)?;
            if in_target != host {
                return Err(HeadError::HostMismatch);
            }
        }
        // Authority-form without CONNECT, or another scheme.
        _ => return Err(HeadError::Target),
    }
    if !is_canonical {
        let value = HeaderValue::try_from(host.as_ref()).map_err(|_| HeadError::Host)?;
        head.headers.insert(header::HOST, value);
    }
    Ok(())
}

/// RFC 9113 section 8.3.1: `:authority`, or `host` instead; both must agree. Returns the authority if it has
/// to be changed.
fn host_of_http2(head: &Parts) -> Result<Option<Authority>, HeadError> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (first, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(HeadError::ManyHosts);
    }
    let from_header = match first {
        Some(value) => Some(authority::canonical(value.as_bytes()).map_err(|_| HeadError::Host)?),
        None => None,
    };
    let make = |host: &str| Authority::try_from(host).map_err(|_| HeadError::Host);
    let Some(pseudo) = head.uri.authority() else {
        return make(&from_header.ok_or(HeadError::NoHost)?).map(Some);
    };
    let canonical = authority::canonical(pseudo.as_str().as_bytes()).map_err(|_| HeadError::Host)?;
    if from_header.is_some_and(|host| host != canonical) {
        return Err(HeadError::HostMismatch);
    }
    match canonical {
        std::borrow::Cow::Borrowed(_) => Ok(None),
        std::borrow::Cow::Owned(host) => make(&host).map(Some),
    }
}

fn expects_continue(headers: &HeaderMap) -> Result<bool, HeadError> {
    let mut expectations = headers.get_all(header::EXPECT).iter();
    match (expectations.next(), expectations.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(true),
        _ => Err(HeadError::Expectation),
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Removes hop-by-hop fields, RFC 9110 section 7.6.1, but for `Transfer-Encoding`, which belongs to the
/// engine, and `TE: trailers`, which the engine speaks too. Returns a valid wish to upgrade.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, version: Version) -> Result<Option<HeaderValue>, HeadError> {
    let mut upgrade = None;
    if headers.contains_key(header::CONNECTION) {
        let options: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().cloned().collect();
        for option in options.iter().flat_map(|v| v.as_bytes().split(|&b| b == b',')) {
            let option = option.trim_ascii();
            if option.eq_ignore_ascii_case(b"upgrade") {
                if version == Version::HTTP_11 {
                    upgrade = single(headers, &header::UPGRADE);
                }
            } else if !option.is_empty() {
                remove_option(headers, option)?;
            }
        }
        headers.remove(header::CONNECTION);
    }
    // h2c by upgrade (RFC 7540 section 3.2) was removed by RFC 9113 and only smuggles; it is ignored.
    if upgrade.as_ref().is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"h2c")) {
        upgrade = None;
    }
    for name in [&header::UPGRADE, &KEEP_ALIVE, &PROXY_CONNECTION, &HTTP2_SETTINGS] {
        headers.remove(name);
    }
    if let Some(te) = headers.remove(header::TE) {
        let wants_trailers = te
            .as_bytes()
            .split(|&b| b == b',')
            .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"));
        if wants_trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
    Ok(upgrade)
}

fn single(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).cloned()
}

/// Removes the field that a connection option names; end-to-end fields must not be named.
fn remove_option(headers: &mut HeaderMap, option: &[u8]) -> Result<(), HeadError> {
    let name = HeaderName::from_bytes(option).map_err(|_| HeadError::ConnectionOption)?;
    // What has meaning to the engine or to the upstream's routing cannot be hop-by-hop.
    let is_end_to_end = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONTENT_TYPE,
        header::AUTHORIZATION,
        header::COOKIE,
        header::EXPECT,
    ]
    .contains(&name);
    if is_end_to_end {
        return Err(HeadError::ConnectionOption);
    }
    // `TE` is listed by whoever sends it, and is dealt with by itself.
    if name != header::TE {
        headers.remove(name);
    }
    Ok(())
}
