//! One request from its head to the head of its response: canonicalise, choose, decide, forward, record.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use abi::{Direction, DropReason};
use futures_util::future::Either;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use parsers::head::{self, HeadError, Wishes};

use super::body::{ReplyBody, RequestBody};
use super::forward::{self, ForwardError};
use super::open::{Cut, OpenGuard, Waiter};
use super::{reply, upgrade};
use crate::connection::{Choice, Conn};
use crate::decide::{Denial, Judged};
use crate::flows::FlowFields;
use crate::metrics::Fate;

/// What is remembered of a request, for its record and for later verdicts.
#[derive(Debug)]
pub struct Seen {
    started: Instant,
    pub version: Version,
    method: Method,
    uri: Uri,
    /// As policy sees them first, before its own changes.
    headers: HeaderMap,
    pub is_grpc: bool,
}

/// How a request ended.
#[derive(Debug)]
pub struct Verdict<'a> {
    pub fate: Fate,
    pub reason: Option<DropReason>,
    pub rule: u32,
    pub direction: Option<Direction>,
    pub detail: &'a str,
}

/// Serves one request of an HTTP/1 connection.
pub async fn answer_http1(
    conn: Rc<Conn>,
    mut request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Infallible> {
    // The guard holds back what follows a request that asks for another protocol.
    let is_held = request.version() == Version::HTTP_11
        && (request.headers().contains_key(header::UPGRADE) || request.method() == Method::CONNECT);
    let on_upgrade = is_held.then(|| hyper::upgrade::on(&mut request));
    let mut response = answer(&conn, request.map(RequestBody::http1), on_upgrade).await;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        if is_held {
            conn.control.resume();
        }
        if conn.control.is_draining() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    Ok(response)
}

/// A request that policy allows.
struct Admitted {
    guard: OpenGuard,
    head: Parts,
    body: RequestBody,
    wishes: Wishes,
    /// The rule that decided.
    rule: u32,
}

/// Serves one request. Never fails: what goes wrong becomes an answer.
///
/// No `async fn`, as [`forward`] is none: what is done at once has no room in the future of every request.
pub fn answer(
    conn: &Rc<Conn>,
    request: Request<RequestBody>,
    on_upgrade: Option<hyper::upgrade::OnUpgrade>,
) -> impl Future<Output = Response<ReplyBody>> + use<'_> {
    let admitted = admit(conn, request);
    async move {
        let (guard, rule, outcome) = match admitted {
            Err(answer) => return answer,
            Ok(Admitted { guard, head, body, wishes, rule }) => {
                let outcome = {
                    let mut forwarding = pin!(forward(&guard, (head, body), wishes, on_upgrade));
                    poll_fn(|cx| match guard.open().poll_cut(Waiter::Answer, cx) {
                        Poll::Ready(cut) => Poll::Ready(Err(cut)),
                        Poll::Pending => forwarding.as_mut().poll(cx).map(Ok),
                    })
                    .await
                };
                (guard, rule, outcome)
            }
        };
        let (seen, choice) = (&guard.open().seen, guard.choice());
        match outcome {
            Ok(Ok(response)) => {
                let verdict =
                    Verdict { fate: Fate::Forwarded, reason: None, rule, direction: None, detail: "" };
                seen.record(conn, Some(choice), response.status(), &verdict);
                finish(response, guard)
            }
            Ok(Err(error)) => fail(conn, seen, choice, rule, &error),
            Err(cut) => cut_short(conn, seen, choice, &cut),
        }
    }
}

/// What comes before a request is sent on: its head made canonical, a backend, the verdict.
///
/// # Errors
/// The answer to a request that is not sent on.
// The answer is not boxed: it is what most callers of this are after in the end.
#[expect(clippy::result_large_err)]
fn admit(conn: &Rc<Conn>, request: Request<RequestBody>) -> Result<Admitted, Response<ReplyBody>> {
    let started = Instant::now();
    let (mut head, body) = request.into_parts();
    let version = head.version;
    let wishes = head::canonicalise(&mut head, conn.destination)
        .map_err(|error| refuse(conn, &Seen::new(started, version, &head), error))?;
    let seen = Seen::new(started, version, &head);
    let choice = conn.choose().map_err(|denial| unserved(conn, &seen, &denial))?;
    let rule = decide(&choice, &mut head).map_err(|denial| deny(conn, &seen, &choice, &denial))?;
    if let Some(limit) = over_limit(conn, &head.headers) {
        return Err(too_large(conn, &seen, &choice, limit));
    }
    Ok(Admitted { guard: OpenGuard::new(conn, seen, choice), head, body, wishes, rule })
}

/// Sends it on, as what it asks to be.
fn forward(
    guard: &OpenGuard,
    (head, body): (Parts, RequestBody),
    wishes: Wishes,
    on_upgrade: Option<hyper::upgrade::OnUpgrade>,
) -> impl Future<Output = Result<Response<ReplyBody>, ForwardError>> + use<'_> {
    match (wishes.upgrade, on_upgrade) {
        (Some(protocol), Some(on_upgrade)) => {
            // Boxed, as all that is rare: the future of every request would have room for it.
            let (conn, choice) = (guard.conn(), guard.choice());
            let forwarding = upgrade::forward(conn, choice, (head, body), protocol, on_upgrade);
            Either::Left(Box::pin(forwarding))
        }
        _ => Either::Right(forward::forward(guard, head, body, wishes.expect_continue)),
    }
}

/// The limit of request bodies, if the declared length is beyond it.
fn over_limit(conn: &Conn, headers: &HeaderMap) -> Option<u64> {
    let limit = conn.worker.settings.limits.request_body_bytes;
    let declared: u64 = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
    (limit > 0 && declared > limit).then_some(limit)
}

fn too_large(conn: &Conn, seen: &Seen, choice: &Choice, limit: u64) -> Response<ReplyBody> {
    let (status, detail) =
        (StatusCode::PAYLOAD_TOO_LARGE, format!("request body of more than {limit} bytes"));
    seen.failed(conn, Some(choice), status, DropReason::LimitExceeded, &detail);
    reply::last_text(status, "Content too large\r\n", seen.version, seen.is_grpc)
}

/// It was ended before it had an answer.
fn cut_short(conn: &Conn, seen: &Seen, choice: &Choice, cut: &Cut) -> Response<ReplyBody> {
    match cut {
        Cut::Denied(denial) => {
            deny(conn, seen, choice, denial);
            // Of its body nobody knows how much is still to come.
            reply::last_text(StatusCode::FORBIDDEN, reply::ACCESS_DENIED, seen.version, seen.is_grpc)
        }
        Cut::Idle => {
            let status = StatusCode::GATEWAY_TIMEOUT;
            seen.failed(conn, Some(choice), status, DropReason::LimitExceeded, Cut::IDLE);
            reply::last_text(status, "Timed out\r\n", seen.version, seen.is_grpc)
        }
        Cut::TooLarge => too_large(conn, seen, choice, conn.worker.settings.limits.request_body_bytes),
    }
}

/// Asks policy about a request with a canonical head.
fn decide(choice: &Choice, head: &mut Parts) -> Result<u32, Denial> {
    // Header changes must not move the host under its own verdict: it is read before they are made.
    let host = match head.uri.authority() {
        Some(_) => None,
        None => head.headers.get(header::HOST).cloned(),
    };
    let host = match (&host, head.uri.authority()) {
        (Some(value), _) => value.to_str().unwrap_or_default(),
        (None, Some(authority)) => authority.as_str(),
        (None, None) => "",
    };
    let path = head::path(&head.uri);
    choice.judged.request(head.method.as_str(), path, host, &mut head.headers)
}

/// The upstream's answer without what was meant for this hop only.
fn finish(mut response: Response<ReplyBody>, guard: OpenGuard) -> Response<ReplyBody> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        strip_response(response.headers_mut());
    }
    if let ReplyBody::Upstream(upstream) = response.body_mut() {
        guard.open().answered.set(true);
        upstream.open = Some(guard);
    }
    response
}

fn strip_response(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        // A bad option of a response only makes it keep a field more.
        let _ = head::strip_hop_by_hop(headers, Version::HTTP_2);
        headers.remove(header::CONNECTION);
    }
    // The engine frames the response anew.
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE);
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

/// The head is not one that may be judged.
fn refuse(conn: &Conn, seen: &Seen, error: HeadError) -> Response<ReplyBody> {
    let status = error.status();
    let detail = error.to_string();
    seen.failed(conn, None, status, DropReason::ProtocolError, &detail);
    let words = match status {
        StatusCode::METHOD_NOT_ALLOWED => "Method not allowed\r\n",
        StatusCode::EXPECTATION_FAILED => "Expectation failed\r\n",
        _ => "Bad request\r\n",
    };
    reply::last_text(status, words, seen.version, false)
}

/// No backend to decide about.
fn unserved(conn: &Conn, seen: &Seen, denial: &Denial) -> Response<ReplyBody> {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    seen.failed(conn, None, status, denial.reason, &denial.why);
    reply::text(status, "No backend\r\n", seen.is_grpc)
}

fn deny(conn: &Conn, seen: &Seen, choice: &Choice, denial: &Denial) -> Response<ReplyBody> {
    let verdict = Verdict {
        fate: Fate::Denied,
        reason: Some(denial.reason),
        rule: denial.rule,
        direction: Some(denial.direction),
        detail: &denial.why,
    };
    seen.record(conn, Some(choice), StatusCode::FORBIDDEN, &verdict);
    reply::text(StatusCode::FORBIDDEN, reply::ACCESS_DENIED, seen.is_grpc)
}

/// Policy allowed it, but there is no answer.
fn fail(conn: &Conn, seen: &Seen, choice: &Choice, rule: u32, error: &ForwardError) -> Response<ReplyBody> {
    // The client broke its own request; the upstream is not to blame.
    if let Some(violation) = conn.control.violation() {
        let detail = violation.to_string();
        let status = StatusCode::BAD_REQUEST;
        seen.failed(conn, Some(choice), status, DropReason::ProtocolError, &detail);
        return reply::last_text(status, "Bad request\r\n", seen.version, false);
    }
    if error.is_too_large() {
        return too_large(conn, seen, choice, conn.worker.settings.limits.request_body_bytes);
    }
    let status = error.status();
    let detail = error.to_string();
    let verdict =
        Verdict { fate: Fate::Failed, reason: Some(error.reason()), rule, direction: None, detail: &detail };
    seen.record(conn, Some(choice), status, &verdict);
    reply::text(status, "Upstream failed\r\n", seen.is_grpc)
}

impl Seen {
    fn new(started: Instant, version: Version, head: &Parts) -> Self {
        Self {
            started,
            version,
            method: head.method.clone(),
            uri: head.uri.clone(),
            headers: head.headers.clone(),
            is_grpc: reply::is_grpc(version, &head.headers),
        }
    }

    fn host(&self) -> &str {
        head::host(&self.uri, &self.headers)
    }

    /// Asks policy once more.
    pub fn decide(&self, judged: &Judged) -> Result<(), Denial> {
        let mut headers = self.headers.clone();
        judged.request(self.method.as_str(), head::path(&self.uri), self.host(), &mut headers).map(drop)
    }

    fn failed(
        &self,
        conn: &Conn,
        choice: Option<&Choice>,
        status: StatusCode,
        reason: DropReason,
        detail: &str,
    ) {
        let reason = Some(reason);
        let verdict = Verdict { fate: Fate::Failed, reason, rule: 0, direction: None, detail };
        self.record(conn, choice, status, &verdict);
    }

    fn record(&self, conn: &Conn, choice: Option<&Choice>, status: StatusCode, verdict: &Verdict<'_>) {
        conn.worker.stats.request(verdict.fate, &self.method, status);
        self.record_at(conn, choice, status, verdict, choice.map_or(0, |choice| choice.revision));
    }

    /// A record that is not one more request, under `revision`.
    pub fn record_at(
        &self,
        conn: &Conn,
        choice: Option<&Choice>,
        status: StatusCode,
        verdict: &Verdict<'_>,
        revision: u32,
    ) {
        let stats = &conn.worker.stats;
        if let Some(reason) = verdict.reason {
            stats.dropped(reason);
        }
        conn.flow(&FlowFields {
            backend: choice.map_or("", |choice| choice.judged.text.as_str()),
            target: choice.map(|c| (c.judged.peer.identity, c.judged.peer.endpoint)),
            reason: verdict.reason,
            detail: verdict.detail,
            rule: verdict.rule,
            direction: verdict.direction,
            protocol: match self.version {
                Version::HTTP_2 if self.is_grpc => "gRPC",
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            method: self.method.as_str(),
            path: head::path(&self.uri),
            host: self.host(),
            status: status.as_u16(),
            latency: self.started.elapsed(),
            revision,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F>(_: impl Fn(Rc<Conn>, Request<Incoming>) -> F) -> usize {
        size_of::<F>()
    }

    /// It is allocated and moved for every request. What is rare is boxed, so that it has no room in it.
    #[test]
    fn the_future_of_a_request_is_small() {
        assert!(size(answer_http1) <= 3400, "{} bytes", size(answer_http1));
    }
}
