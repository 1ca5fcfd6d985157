//! Answers that the proxy gives by itself.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};

use super::body::ReplyBody;

/// Body of every denial, as Cilium's.
pub const ACCESS_DENIED: &str = "Access denied\r\n";

/// gRPC status codes, <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>.
const GRPC_RESOURCE_EXHAUSTED: &str = "8";
const GRPC_INTERNAL: &str = "13";
const GRPC_PERMISSION_DENIED: &str = "7";
const GRPC_UNAVAILABLE: &str = "14";

/// Whether the request is gRPC (its PROTOCOL-HTTP2 document): the client reads a status from trailers only.
/// gRPC-Web is not: its clients read HTTP statuses.
pub fn is_grpc(version: Version, headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE).filter(|_| version == Version::HTTP_2) else {
        return false;
    };
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    matches!(rest, Some([] | [b'+' | b';', ..]))
}

/// The trailers that end a gRPC answer whose head was sent before policy changed.
pub fn denied_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static(GRPC_PERMISSION_DENIED));
    let message = HeaderValue::from_static(ACCESS_DENIED.trim_ascii_end());
    trailers.insert(HeaderName::from_static("grpc-message"), message);
    trailers
}

/// A short text with `status`; for gRPC a trailers-only response that means the same.
pub fn text(status: StatusCode, text: &'static str, is_grpc: bool) -> Response<ReplyBody> {
    if is_grpc {
        return trailers_only(status, text.trim_ascii_end());
    }
    let mut response = Response::new(ReplyBody::Text(Some(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    response
}

/// Like [`text`], and the connection ends: what the client sends next cannot be trusted.
pub fn last_text(
    status: StatusCode,
    words: &'static str,
    version: Version,
    is_grpc: bool,
) -> Response<ReplyBody> {
    let mut response = text(status, words, is_grpc);
    if version != Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn trailers_only(status: StatusCode, message: &'static str) -> Response<ReplyBody> {
    let code = match status {
        StatusCode::FORBIDDEN => GRPC_PERMISSION_DENIED,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => GRPC_UNAVAILABLE,
        StatusCode::PAYLOAD_TOO_LARGE => GRPC_RESOURCE_EXHAUSTED,
        _ => GRPC_INTERNAL,
    };
    let mut response = Response::new(ReplyBody::Text(None));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static(code));
    headers.insert(HeaderName::from_static("grpc-message"), HeaderValue::from_static(message));
    response
}
