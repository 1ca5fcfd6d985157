//! Requests that must never reach an upstream, whatever it would have made of them.

use std::time::Duration;

use abi::DropReason;
use l7_proxy::Limits;

use crate::harness::{Proxy, public_only, status_of, until};
use crate::upstream::Upstream;

/// Each of `cases` is answered with `status` (`None`: reset, or closed without a word) and leaves no byte at
/// the upstream.
#[track_caller]
fn refused(cases: &[(&[u8], Option<u16>)]) {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    for (case, status) in cases {
        let answer = proxy.exchange(case);
        let shown = String::from_utf8_lossy(case);
        assert_eq!(status_of(&answer), *status, "{shown:?} -> {:?}", String::from_utf8_lossy(&answer));
        assert_eq!(upstream.received(), "", "{shown:?}");
    }
    assert_eq!(upstream.connections(), 0);
    // The proxy is still there for others.
    let good = proxy.exchange("GET /public/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert_eq!(status_of(&good), Some(200));
}

fn head(line: &str, fields: &str) -> Vec<u8> {
    format!("{line}\r\nHost: a\r\nConnection: close\r\n{fields}\r\n").into_bytes()
}

#[test]
fn framing() {
    let post = "POST /public/x HTTP/1.1";
    let cases: Vec<Vec<u8>> = vec![
        head(post, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        head(post, "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        head(post, "Transfer-Encoding: chunked, identity\r\n"),
        head(post, "Transfer-Encoding: identity, chunked\r\n"),
        head(post, "Transfer-Encoding: xchunked\r\n"),
        head(post, "Transfer-Encoding: \x0bchunked\r\n"),
        head(post, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        head(post, "Transfer-Encoding : chunked\r\n"),
        head("POST /public/x HTTP/1.0", "Transfer-Encoding: chunked\r\n"),
        head(post, "Content-Length: 5\r\nContent-Length: 5\r\n"),
        head(post, "Content-Length: 5\r\nContent-Length: 6\r\n"),
        head(post, "Content-Length: +5\r\n"),
        head(post, "Content-Length: 0x5\r\n"),
        head(post, "Content-Length: -1\r\n"),
        head(post, "Content-Length: 5,5\r\n"),
        head(post, "Content-Length: 99999999999999999999\r\n"),
        head(post, "Content-Length : 5\r\n"),
        head(post, "X: a\r\n folded\r\n"),
        head(post, "X: a\nY: b\r\n"),
        head(post, "X: a\rY: b\r\n"),
        head(post, "X: a\0b\r\n"),
        head(post, "X\x01: a\r\n"),
        head(post, "X: a\x7fb\r\n"),
        head(post, ": empty name\r\n"),
        head(post, "no colon\r\n"),
        b"GET /public/x\r\n\r\n".to_vec(),
        b"GET /public/x HTTP/1.1\nHost: a\n\n".to_vec(),
        b"\nGET /public/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /public/x HTTP/3.0\r\nHost: a\r\n\r\n".to_vec(),
        b"GET  /public/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /public/x  HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET\t/public/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GE(T /public/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"garbage\r\n\r\n".to_vec(),
    ];
    let cases: Vec<_> = cases.iter().map(|case| (case.as_slice(), Some(400))).collect();
    refused(&cases);
}

#[test]
fn hosts_and_targets() {
    refused(&[
        (b"GET /public/x HTTP/1.1\r\nConnection: close\r\n\r\n", Some(400)),
        (b"GET /public/x HTTP/1.1\r\nHost:\r\n\r\n", Some(400)),
        (b"GET /public/x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Some(400)),
        (b"GET /public/x HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", Some(400)),
        (b"GET /public/x HTTP/1.1\r\nHost: a, b\r\n\r\n", Some(400)),
        (b"GET /public/x HTTP/1.1\r\nHost: u@a\r\n\r\n", Some(400)),
        (b"GET http://b/public/x HTTP/1.1\r\nHost: a\r\n\r\n", Some(400)),
        (b"GET https://a/public/x HTTP/1.1\r\nHost: a\r\n\r\n", Some(400)),
        (b"GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", Some(400)),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Some(400)),
        (b"GET public/x HTTP/1.1\r\nHost: a\r\n\r\n", Some(400)),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET /public/x HTTP/1.1\r\nHost: a\r\n\r\n", Some(405)),
        (b"GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", Some(400)),
        (b"GET /public/x HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", Some(417)),
    ]);
}

#[test]
fn paths() {
    let request = |path: &str| head(&format!("GET {path} HTTP/1.1"), "");
    let bad = [
        "/public/a%2fb",
        "/public/a%5Cb",
        "/public/a\\b",
        "/public/%00",
        "/public/%0d%0a",
        "/public/..;/admin",
        "/public/.;x/",
        "/public/%c0%ae%c0%ae/admin",
        "/public/%u002e",
        "/public/%",
        "/public/x#y",
        "/public/\u{e9}",
    ];
    let denied = [
        "/admin",
        "//admin",
        "/./admin",
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/%61dmin",
        "/Admin",
        "/public",
        "/%252e%252e/",
        "/PUBLIC/x",
        "/ok/../admin",
        "/admin;a=b",
        "/admin%3F",
        "/?/public/x",
    ];
    let cases: Vec<_> = bad
        .iter()
        .map(|path| (request(path), Some(400)))
        .chain(denied.iter().map(|path| (request(path), Some(403))))
        .collect();
    let cases: Vec<_> = cases.iter().map(|(case, status)| (case.as_slice(), *status)).collect();
    refused(&cases);
}

#[test]
fn not_http_is_reset() {
    refused(&[(b"\x16\x03\x01\x02\x00\x01\x00", None), (b"\0\0\0", None), (b"{\"json\":1}", None)]);
}

#[test]
fn too_large() {
    let fields = |count: usize, size: usize| {
        let value = "x".repeat(size);
        (0..count).map(|i| format!("X{i}: {value}\r\n")).collect::<String>()
    };
    let line = "GET /public/x HTTP/1.1";
    refused(&[
        (&head(line, &fields(1, 70_000)), Some(431)),
        (&head(line, &fields(80, 1000)), Some(431)),
        (&head(line, &fields(300, 1)), Some(431)),
        (&head(&format!("GET /public/{} HTTP/1.1", "x".repeat(70_000)), ""), Some(431)),
    ]);
}

#[test]
fn a_bad_body_breaks_its_request() {
    let chunked = "POST /public/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for rest in [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n",
        "5\r\nhello\r\n0\r\nHost: b\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "-1\r\n",
    ] {
        let upstream = Upstream::start();
        let proxy = Proxy::start(public_only(), upstream.address);
        let answer = proxy.exchange(format!("{chunked}{rest}"));
        assert_ne!(status_of(&answer), Some(200), "{rest:?}");
        // The upstream may have seen the head and good chunks, but never an end of the body.
        assert!(!upstream.received().contains("\r\n0\r\n"), "{rest:?} {:?}", upstream.received());
        proxy.flow(|flow| flow.reason == DropReason::ProtocolError as u32);
    }
}

#[test]
fn smuggled_request_behind_a_refused_one_is_not_served() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    let answer = proxy.exchange(
        "POST /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\nGET /public/y HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    assert_eq!(status_of(&answer), Some(400));
    assert_eq!(String::from_utf8_lossy(&answer).matches("HTTP/1.1").count(), 1);
    assert_eq!(upstream.received(), "");
}

#[test]
fn good_requests_before_a_bad_one_are_answered_in_turn() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    let answer = proxy.exchange(
        "GET /public/1 HTTP/1.1\r\nHost: a\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n\
         GET /public/2 HTTP/1.1\r\nHost: a\nX: y\r\n\r\nGET /public/3 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let answer = String::from_utf8_lossy(&answer);
    let statuses: Vec<_> =
        answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "403", "400"], "{answer}");
    assert!(!upstream.received().contains("/public/2") && !upstream.received().contains("/public/3"));
}

#[test]
fn slow_heads_and_silent_connections_end() {
    let upstream = Upstream::start();
    let limits = Limits {
        head_timeout: Duration::from_secs(1),
        first_byte_timeout: Duration::from_secs(2),
        ..Limits::default()
    };
    let proxy = Proxy::start_with(public_only(), upstream.address, limits);
    let mut silent = proxy.connect();
    let mut slow = proxy.connect();
    slow.send("GET /public/x HT");
    let mut second = proxy.connect();
    second.send("GET /public/x HTTP/1.1\r\nHost: a\r\n\r\nGET /pub");
    let mut idle = proxy.connect();
    idle.send("GET /public/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(idle.response().0, 200);
    assert_eq!(slow.rest(), b"");
    assert_eq!(status_of(&second.rest()), Some(200));
    assert_eq!(silent.rest(), b"");
    // What waits between two requests is not slow.
    idle.send("GET /public/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(idle.response().0, 200);
    proxy.flow(|flow| flow.detail == "head time-out" && flow.reason == DropReason::LimitExceeded as u32);
}

#[test]
fn every_octet_of_a_path_is_refused_or_judged_and_forwarded_alike() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    for octet in 1..=255u8 {
        upstream.forget();
        let path = format!("/public/a%{octet:02x}b");
        let answer = proxy.exchange(head(&format!("GET {path} HTTP/1.1"), ""));
        match status_of(&answer) {
            Some(400) => assert_eq!(upstream.received(), ""),
            Some(200) => {
                let got = upstream.received();
                let target = got.split(' ').nth(1).expect("a target").to_owned();
                assert_eq!(parsers::path::canonical(&path).as_deref(), Ok(target.as_str()));
                assert!(target.starts_with("/public/a") && target.ends_with('b'));
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    until("records", || proxy.agent.count_flows(|flow| flow.method == "GET") >= 255);
}
