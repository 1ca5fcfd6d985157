//! Requests that take long: ended by a change of policy, by silence, by their size, and by floods.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use abi::{DropReason, verdict_code};
use bytes::Bytes;
use http::Request;
use l7_proxy::wire::{ConfigUpdate, Prefix, Service};
use l7_proxy::{ConnectionRecord, Limits};

use crate::harness::{CLIENT_ENDPOINT, Proxy, SERVER_ENDPOINT, SOON, endpoint, public_only, record, rule};
use crate::http2::{client, echo, post, runtime, send};
use crate::upstream::Upstream;

/// Allows what `rules` say, from revision `number` on.
fn revision(number: u32, rules: &[(Option<&str>, Option<&str>)]) -> ConfigUpdate {
    let rules = rules.iter().map(|(method, path)| rule(*method, *path)).collect();
    ConfigUpdate {
        revision: number,
        endpoints: vec![endpoint(CLIENT_ENDPOINT, 1, verdict_code::REDIRECT_STRICT, rules)],
        ..ConfigUpdate::default()
    }
}

/// Answers `/public/stream` with one chunk and then waits for the end; anything else not at all.
fn slow(mut stream: TcpStream, received: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        received.lock().expect("lock").extend_from_slice(&buffer[..count]);
        if buffer.starts_with(b"GET /public/stream ") {
            let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
            stream.write_all(answer).expect("written");
        }
    }
    received.lock().expect("lock").extend_from_slice(b"|gone|");
}

fn ask(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn apply(proxy: &Proxy, update: &ConfigUpdate) {
    assert_eq!(proxy.agent.apply(update).error, "");
}

#[test]
fn an_answer_under_way_ends_when_policy_denies_its_request() {
    let upstream = Upstream::start_with(slow);
    let proxy = Proxy::start(public_only(), upstream.address);
    let (mut client, mut other) = (proxy.connect(), proxy.connect());
    client.send(ask("/public/stream"));
    client.read_until(b"hello\r\n");
    // No answer has begun on this one.
    other.send(ask("/public/silent"));
    crate::harness::until("both are there", || upstream.received().contains("/public/silent"));
    // Other rules that still allow it change nothing.
    apply(&proxy, &revision(2, &[(Some("GET"), None)]));
    proxy.flow(|flow| flow.forwarded && flow.path == "/public/stream");
    apply(&proxy, &revision(3, &[(Some("POST"), None)]));
    client.expect_reset();
    let (status, head, _) = other.response();
    assert!(status == 403 && head.to_ascii_lowercase().contains("connection: close"), "{head}");
    for path in ["/public/stream", "/public/silent"] {
        let flow = proxy.flow(|flow| flow.path == path && !flow.forwarded);
        assert_eq!((flow.reason, flow.method.as_str()), (DropReason::HttpDenied as u32, "GET"), "{path}");
    }
    crate::harness::until("the server is left", || upstream.received().matches("|gone|").count() == 2);
}

#[test]
fn an_answer_through_a_service_ends_when_its_backend_is_denied() {
    let upstream = Upstream::start_with(slow);
    let vip = "127.9.9.9:80";
    let service = Service {
        name: "web".into(),
        vip: vip.into(),
        proto: 6,
        keep_vip: true,
        backends: vec![upstream.address.to_string()],
        ..Service::default()
    };
    let config = ConfigUpdate { services: vec![service], ..public_only() };
    let proxy = Proxy::start(config, vip.parse().expect("an address"));
    proxy.set_record(Some(ConnectionRecord { vip: true, dst_identity: 0, ..record() }));
    let stream = || {
        let mut client = proxy.connect();
        client.send(ask("/public/stream"));
        client.read_until(b"hello\r\n");
        client
    };
    // The request is denied at the backend's ingress, which the record of a VIP does not name.
    let only = |number: u32, path: &str| {
        let rules = vec![rule(None, Some(path))];
        let server =
            Prefix { prefix: "127.0.0.0/8".into(), identity: 301, endpoint: SERVER_ENDPOINT, flags: 0 };
        ConfigUpdate {
            revision: number,
            endpoints: vec![endpoint(SERVER_ENDPOINT, 0, verdict_code::REDIRECT_STRICT, rules)],
            ipcache: vec![server],
            ..ConfigUpdate::default()
        }
    };
    let mut client = stream();
    apply(&proxy, &only(2, "/elsewhere"));
    client.expect_reset();
    let flow = proxy.flow(|flow| flow.reason == DropReason::HttpDenied as u32 && flow.revision == 2);
    assert_eq!((flow.direction, flow.destination.as_str()), (0, vip), "ingress");
    // A service that is gone keeps no exchange.
    apply(&proxy, &only(3, "/public/.*"));
    let mut client = stream();
    let gone = vec![format!("{vip}/6")];
    apply(&proxy, &ConfigUpdate { revision: 4, removed_services: gone, ..ConfigUpdate::default() });
    client.expect_reset();
    proxy.flow(|flow| flow.reason == DropReason::NoService as u32 && flow.revision == 4);
}

#[test]
fn http2_streams_end_when_policy_denies_them_and_others_go_on() {
    let proxy = Proxy::start(public_only(), echo());
    runtime().block_on(async {
        let mut client = client(&proxy).await;
        let get = Request::post("http://a/public/plain").body(()).expect("a request");
        let grpc = post("http://a/public/grpc").body(()).expect("a request");
        let kept = post("http://a/public/kept").body(()).expect("a request");
        let mut open = Vec::new();
        for request in [get, grpc, kept] {
            let (response, mut stream) = client.send_request(request, false).expect("sent");
            stream.send_data(Bytes::from_static(b"first"), false).expect("sent");
            let mut body = response.await.expect("an answer").into_body();
            assert_eq!(body.data().await.expect("data").expect("data"), "first");
            open.push((stream, body));
        }
        apply(&proxy, &revision(2, &[(None, Some("/public/kept"))]));
        let (mut kept_stream, mut kept_body) = open.pop().expect("kept");
        let (_grpc_stream, mut grpc_body) = open.pop().expect("grpc");
        let (_plain_stream, mut plain_body) = open.pop().expect("plain");
        let plain = tokio::time::timeout(SOON, plain_body.data()).await.expect("in time");
        assert_eq!(plain.expect("an end").expect_err("a reset").reason(), Some(h2::Reason::CANCEL));
        let end = tokio::time::timeout(SOON, grpc_body.data()).await.expect("in time");
        assert!(end.is_none(), "{end:?}");
        let trailers = grpc_body.trailers().await.expect("trailers").expect("trailers");
        assert_eq!(trailers["grpc-status"], "7");
        kept_stream.send_data(Bytes::from_static(b"second"), true).expect("sent");
        assert_eq!(kept_body.data().await.expect("data").expect("data"), "second");
    });
    for path in ["/public/plain", "/public/grpc"] {
        proxy.flow(|flow| {
            flow.path == path && flow.reason == DropReason::HttpDenied as u32 && flow.revision == 2
        });
    }
}

#[test]
fn silence_ends_a_request() {
    let upstream = Upstream::start_with(slow);
    let limits = Limits { stream_idle_timeout: Duration::from_secs(1), ..Limits::default() };
    let proxy = Proxy::start_with(public_only(), upstream.address, limits.clone());
    let mut client = proxy.connect();
    client.send(ask("/public/silent"));
    assert_eq!(client.response().0, 504);
    let mut client = proxy.connect();
    client.send(ask("/public/stream"));
    client.read_until(b"hello\r\n");
    client.expect_reset();
    let proxy = Proxy::start_with(public_only(), echo(), limits);
    runtime().block_on(async {
        let mut client = crate::http2::client(&proxy).await;
        let request = Request::post("http://a/public/x").body(()).expect("a request");
        let (response, _stream) = client.send_request(request, false).expect("sent");
        let mut body = response.await.expect("an answer").into_body();
        let end = tokio::time::timeout(SOON, body.data()).await.expect("in time").expect("an end");
        assert_eq!(end.expect_err("a reset").reason(), Some(h2::Reason::CANCEL));
    });
    proxy.flow(|flow| flow.reason == DropReason::LimitExceeded as u32);
}

#[test]
fn a_request_body_has_a_limit() {
    let upstream = Upstream::start();
    let limits = Limits { request_body_bytes: 1000, ..Limits::default() };
    let proxy = Proxy::start_with(public_only(), upstream.address, limits.clone());
    let post = |framing: &str, body: &str| {
        let mut client = proxy.connect();
        client.send(format!("POST /public/x HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"));
        client.response().0
    };
    assert_eq!(post("Content-Length: 1000", &"x".repeat(1000)), 200);
    assert_eq!(post("Content-Length: 1001", &"x".repeat(1001)), 413);
    let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
    assert_eq!(post("Transfer-Encoding: chunked", &format!("{chunk}{chunk}0\r\n\r\n")), 200);
    assert_eq!(post("Transfer-Encoding: chunked", &format!("{chunk}{chunk}1\r\nx\r\n0\r\n\r\n")), 413);
    let proxy = Proxy::start_with(public_only(), echo(), limits);
    runtime().block_on(async {
        let mut client = client(&proxy).await;
        for (size, fits) in [(1000, true), (1001, false)] {
            let request = Request::post("http://a/public/x").body(()).expect("a request");
            // The echo answers at once, so one that is too long ends in a reset or in 413.
            let answer = send(&mut client, request, Some(vec![1; size])).await;
            let passed = answer.is_ok_and(|answer| answer.status == 200);
            assert_eq!(passed, fits, "{size}");
        }
    });
}

/// A frame of HTTP/2 without payload.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn floods_of_http2_control_frames_end_the_connection() {
    let proxy = Proxy::start(public_only(), echo());
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, &[])].concat();
    let ping = frame(6, 0, b"12345678");
    // PING, SETTINGS, WINDOW_UPDATE, and a type that nobody knows (RFC 9113 section 5.5).
    let floods = [ping.clone(), frame(4, 0, &[]), frame(8, 0, &[0, 0, 0, 1]), frame(200, 0, &[])];
    for (name, flood) in floods.iter().enumerate() {
        let mut client = proxy.connect();
        client.send([preface.clone(), flood.repeat(20_000)].concat());
        let answer = client.rest();
        // GOAWAY: type 7 on stream 0, then the last stream and ENHANCE_YOUR_CALM.
        let goaway = answer.windows(17).any(|w| w[3..9] == [7, 0, 0, 0, 0, 0] && w[13..17] == [0, 0, 0, 11]);
        assert!(goaway, "flood {name}: {} bytes", answer.len());
    }
    assert!(proxy.metrics().contains("heddle_proxy_http2_floods_total 4"), "{}", proxy.metrics());
    // A client that only asks now and then whether we are there stays.
    let mut client = proxy.connect();
    client.send([preface, ping.repeat(500)].concat());
    client.read_until(&frame(6, 1, b"12345678"));
    runtime().block_on(async {
        let mut client = crate::http2::client(&proxy).await;
        let request = Request::get("http://a/public/x").body(()).expect("a request");
        assert_eq!(send(&mut client, request, None).await.expect("an answer").status, 200);
    });
}
