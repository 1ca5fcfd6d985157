//! Requests that ask for another protocol (RFC 9110 section 7.8), websockets above all.
//!
//! Such a request has an upstream connection of its own. Until the upstream has said 101 nothing that the
//! client sends behind the request is read; afterwards the two connections are relayed, and policy is asked
//! about the request again whenever it changes.

use std::net::SocketAddr;
use std::rc::Rc;

use abi::DropReason;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parsers::head;

use super::body::{InFlight, ReplyBody, RequestBody};
use super::forward::{ForwardError, open};
use crate::connection::{Choice, Conn};
use crate::decide::Denial;
use crate::relay::{End, relay};

/// A switch of protocols that both sides agreed on.
#[derive(Debug)]
pub struct Upgrade {
    client: OnUpgrade,
    upstream: OnUpgrade,
    target: SocketAddr,
    /// The request, for later verdicts.
    head: Parts,
    _in_flight: Option<InFlight>,
}

/// Forwards a request that asks for `protocol`. If the upstream agrees, the connection is left with the
/// [`Upgrade`] to be served once the response is written.
pub async fn forward(
    conn: &Rc<Conn>,
    choice: &Choice,
    (head, body): (Parts, RequestBody),
    protocol: HeaderValue,
    client: OnUpgrade,
) -> Result<Response<ReplyBody>, ForwardError> {
    let key = conn.upstream_key(&choice.judged);
    let remembered = head.clone();
    let mut request = Request::from_parts(head, body);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(header::UPGRADE, protocol.clone());

    let stream = open(conn, &key).await?;
    let limit = conn.worker.settings.limits.header_bytes;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(limit).handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move {
        let _ = connection.with_upgrades().await;
    });
    let mut response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(ReplyBody::http1));
    }
    if !agrees(response.headers(), &protocol) {
        return Err(ForwardError::UnwantedSwitch);
    }
    let upgrade = Upgrade {
        client,
        upstream: hyper::upgrade::on(&mut response),
        target: choice.judged.target,
        head: remembered,
        _in_flight: choice.in_flight.as_ref().map(InFlight::again),
    };
    *conn.upgrade.borrow_mut() = Some(upgrade);
    conn.control.switch();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    Ok(response.map(|_| ReplyBody::Text(None)))
}

/// Whether the upstream switches to one of the protocols that were asked for.
fn agrees(headers: &HeaderMap, asked: &HeaderValue) -> bool {
    let mut values = headers.get_all(header::UPGRADE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    asked
        .as_bytes()
        .split(|&b| b == b',')
        .any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(value.as_bytes().trim_ascii()))
}

/// Relays until an end. The client's side comes once the engine has written the 101.
pub async fn serve(conn: &Rc<Conn>, upgrade: Upgrade) {
    conn.control.may_be_silent();
    let Upgrade { client, upstream, target, head, _in_flight } = upgrade;
    let (Ok(client), Ok(upstream)) = (client.await, upstream.await) else { return };
    let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
    let recheck = || may_go_on(conn, target, &head);
    let buffer = conn.worker.settings.limits.relay_buffer;
    // Dropping both ends of a relay that did not end by itself closes them; the kernel resets them if
    // unread bytes are left.
    if let End::Revoked(denial) = relay(&mut client, &mut upstream, &conn.control, buffer, recheck).await {
        conn.drop_denied(&denial, "HTTP/1.1");
    }
}

/// Decides the request that opened this connection once more.
fn may_go_on(conn: &Conn, target: SocketAddr, head: &Parts) -> Result<(), Denial> {
    let judged = conn.rejudge(target);
    let host = head::host(&head.uri, &head.headers);
    // What rules change in the headers was changed when the request was sent.
    let mut headers = head.headers.clone();
    let path = head::path(&head.uri);
    judged.request(head.method.as_str(), path, host, &mut headers).map(drop)?;
    if conn.record.vip && conn.worker.config().service(&conn.destination).is_none() {
        let reason = DropReason::NoService;
        let direction = abi::Direction::Egress;
        return Err(Denial { reason, rule: 0, direction, why: String::new() });
    }
    Ok(())
}
