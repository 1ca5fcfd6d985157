//! HTTP/1.1 through the proxy as clients and servers use it.

use abi::{DropReason, verdict_code};
use l7_proxy::wire::{Prefix, Service};

use crate::harness::{
    CLIENT_ENDPOINT, Proxy, SERVER_ENDPOINT, endpoint, public_only, record, rule, status_of, until,
    with_endpoint,
};
use crate::upstream::Upstream;

const GET: &str = "GET /public/x HTTP/1.1\r\nHost: Web:80\r\n\r\n";

#[test]
fn allowed_and_denied_on_one_connection() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    let mut client = proxy.connect();
    for _ in 0..3 {
        client.send(GET);
        let (status, _, body) = client.response();
        assert_eq!((status, body.as_slice()), (200, &b"ok"[..]));
        client.send("DELETE /ok HTTP/1.1\r\nHost: web\r\nContent-Length: 3\r\n\r\nabc");
        let (status, head, body) = client.response();
        assert_eq!((status, body.as_slice()), (403, &b"Access denied\r\n"[..]));
        let head = head.to_ascii_lowercase();
        assert!(head.contains("content-length: 15\r\n") && head.contains("content-type: text/plain\r\n"));
    }
    assert_eq!(upstream.connections(), 1, "the upstream connection is used again");
    assert!(!upstream.received().contains("/ok"));

    let allowed = proxy.flow(|flow| flow.forwarded);
    assert_eq!(
        (allowed.method.as_str(), allowed.path.as_str(), allowed.host.as_str()),
        ("GET", "/public/x", "web:80")
    );
    assert_eq!((allowed.status, allowed.rule, allowed.revision), (200, 7, 1));
    assert_eq!((allowed.backend, allowed.protocol), (upstream.address.to_string(), "HTTP/1.1".into()));
    let denied = proxy.flow(|flow| !flow.forwarded);
    assert_eq!((denied.reason, denied.status, denied.direction), (DropReason::HttpDenied as u32, 403, 1));
    assert!(!denied.detail.is_empty());
    let metrics = proxy.metrics();
    assert!(
        metrics
            .contains("heddle_proxy_requests_total{verdict=\"denied\",method=\"DELETE\",status=\"4xx\"} 3")
    );
    assert!(metrics.contains("heddle_proxy_drops_total{reason=\"HTTP_DENIED\"} 3"));
    assert!(metrics.contains("heddle_proxy_config_revision 1"));
    assert!(proxy.admin("/stats").is_some_and(|stats| stats.contains("upstream.reused: 2")));
    assert!(proxy.admin("/config_dump").is_some_and(|dump| dump.contains("endpoint 1 identity 300")));
}

#[test]
fn the_judged_bytes_are_forwarded() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    let mut client = proxy.connect();
    client.send(
        "GET http://WEB/x/..//public/%7Ea%2f?q=%2F..//%00 HTTP/1.1\r\nHost: web\r\n\r\n\
         GET http://WEB/x/..//public/%7Ea?q=%2F..//%00 HTTP/1.1\r\nHost: Web\r\nConnection: X-Hop, keep-alive\r\n\
         X-Hop: 1\r\nKeep-Alive: 5\r\nX-Forwarded-For: 1.2.3.4\r\nTE: trailers, gzip\r\n\r\n",
    );
    assert_eq!(client.response().0, 400);
    let mut client = proxy.connect();
    client.send(
        "GET http://WEB/x/..//public/%7Ea?q=%2F..//%00 HTTP/1.1\r\nHost: Web\r\nConnection: X-Hop, keep-alive\r\n\
         X-Hop: 1\r\nKeep-Alive: 5\r\nX-Forwarded-For: 1.2.3.4\r\nTE: trailers, gzip\r\n\r\n",
    );
    assert_eq!(client.response().0, 200);
    let received = upstream.received();
    assert!(received.starts_with("GET /public/~a?q=%2F..//%00 HTTP/1.1\r\n"), "{received}");
    for (part, there) in [
        ("host: web\r\n", true),
        ("x-forwarded-for: 1.2.3.4\r\n", true),
        ("te: trailers\r\n", true),
        ("x-hop", false),
        ("keep-alive", false),
    ] {
        assert_eq!(received.contains(part), there, "{part} in {received}");
    }
}

#[test]
fn bodies_trailers_and_head() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    let mut client = proxy.connect();
    client.send(
        "POST /public/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         5;ext=1\r\nhello\r\n0\r\nX-Sum: 9\r\n\r\n",
    );
    assert_eq!(client.response().0, 200);
    let received = upstream.received();
    assert!(received.ends_with("5\r\nhello\r\n0\r\nx-sum: 9\r\n\r\n"), "{received}");

    upstream.forget();
    client
        .send("GET /public/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    assert_eq!(client.response().0, 200);
    assert!(upstream.received().ends_with("2\r\nhi\r\n0\r\n\r\n"), "{}", upstream.received());

    client.send("GET /public/chunked HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    let answer = client.read_until(b"\r\n0\r\nx-sum: 7\r\n\r\n");
    assert_eq!(status_of(&answer), Some(200));

    client.send("HEAD /public/head HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = String::from_utf8(client.read_until(b"\r\n\r\n")).expect("text");
    assert!(head.contains("content-length: 12345"), "{head}");

    client.send("GET /public/hop HTTP/1.1\r\nHost: a\r\n\r\n");
    let (status, head, _) = client.response();
    assert!(status == 200 && !head.contains("x-hop") && !head.contains("keep-alive"), "{head}");
}

#[test]
fn a_hundred_pipelined_requests() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    let mut client = proxy.connect();
    let all: String = (0..100)
        .map(|n| {
            format!("GET {}/{n} HTTP/1.1\r\nHost: a\r\n\r\n", if n % 3 == 0 { "/admin" } else { "/public" })
        })
        .collect();
    client.send(all);
    for n in 0..100 {
        assert_eq!(client.response().0, if n % 3 == 0 { 403 } else { 200 }, "{n}");
    }
    proxy.agent.wait_for_flows(100, |flow| flow.method == "GET");
}

#[test]
fn expect_continue_end_to_end() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    let head = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    };
    let mut client = proxy.connect();
    client.send(head("/public/x"));
    assert_eq!(client.read_until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello");
    assert_eq!(client.response().0, 200);
    assert!(upstream.received().ends_with("\r\n\r\nhello"));

    // A denied one is told so before it has sent its body.
    client.send(head("/admin"));
    assert_eq!(client.response().0, 403);
}

#[test]
fn old_clients() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    let answer = proxy.exchange("GET /public/x HTTP/1.0\r\n\r\n");
    let text = String::from_utf8_lossy(&answer);
    assert!(status_of(&answer) == Some(200) && text.ends_with("ok"), "{text}");
    let received = upstream.received();
    assert!(received.starts_with("GET /public/x HTTP/1.1\r\n"), "{received}");
    assert!(received.contains(&format!("host: {}\r\n", upstream.address)), "{received}");

    let answer = proxy.exchange("GET /public/chunked HTTP/1.0\r\nHost: a\r\n\r\n");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.ends_with("\r\n\r\nok") && !text.contains("chunked"), "{text}");
}

#[test]
fn upstream_failures() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    let answer = proxy.exchange("GET /public/nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(status_of(&answer), Some(502));
    // Nothing is tried twice.
    assert_eq!(upstream.received().matches("/public/nothing").count(), 1);
    let answer = proxy.exchange("GET /public/switch HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(status_of(&answer), Some(502));
    proxy.flow(|flow| flow.status == 502 && flow.reason == DropReason::UpstreamUnreachable as u32);

    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("address");
    let proxy = Proxy::start(public_only(), closed);
    let answer = proxy.exchange("GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(status_of(&answer), Some(503));
    assert!(proxy.metrics().contains("upstream_connects_total{outcome=\"failed\"} 1"));
}

#[test]
fn a_pooled_connection_that_was_closed_is_replaced() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    let mut client = proxy.connect();
    for n in 1..=5 {
        client.send("GET /public/close HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().0, 200, "{n}");
        assert_eq!(upstream.connections(), n);
    }
}

#[test]
fn both_directions_of_one_node_are_decided() {
    let upstream = Upstream::start();
    let mut config = public_only();
    let rules = vec![rule(Some("GET"), None)];
    config.endpoints.push(endpoint(SERVER_ENDPOINT, 0, verdict_code::REDIRECT_STRICT, rules));
    let proxy = Proxy::start(config, upstream.address);
    let mut record = record();
    record.dst_endpoint = SERVER_ENDPOINT;
    proxy.set_record(Some(record));
    for (request, status) in
        [("GET /public/x", 200), ("PUT /public/x", 403), ("GET /admin", 403), ("PUT /admin", 403)]
    {
        let answer = proxy.exchange(format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        assert_eq!(status_of(&answer), Some(status), "{request}");
    }
    let ingress = proxy.flow(|flow| flow.method == "PUT" && flow.path == "/public/x");
    assert_eq!((ingress.direction, ingress.dst_endpoint), (0, SERVER_ENDPOINT));
    let egress = proxy.flow(|flow| flow.method == "GET" && flow.path == "/admin");
    assert_eq!(egress.direction, 1);
}

#[test]
fn requests_of_a_service_are_balanced_and_decided_per_backend() {
    let [first, second, denied] = [Upstream::start(), Upstream::start(), Upstream::start()];
    let mut config = public_only();
    // The endpoint of the third backend lets nobody in.
    config.endpoints.push(endpoint(SERVER_ENDPOINT, 0, verdict_code::DENY, Vec::new()));
    let vip = "127.9.9.9:80";
    let service = |backends: Vec<String>| Service {
        name: "web".into(),
        vip: vip.into(),
        proto: 6,
        keep_vip: true,
        backends,
        ..Service::default()
    };
    config.services = vec![service(vec![first.address.to_string(), second.address.to_string()])];
    let proxy = Proxy::start(config, vip.parse().expect("address"));
    let mut record = record();
    (record.vip, record.dst_identity) = (true, 0);
    proxy.set_record(Some(record));

    let mut client = proxy.connect();
    for _ in 0..200 {
        client.send(GET);
        assert_eq!(client.response().0, 200);
    }
    let shares = [&first, &second].map(|upstream| upstream.received().matches("GET ").count());
    assert!(shares.iter().all(|share| *share > 40) && shares.iter().sum::<usize>() == 200, "{shares:?}");
    let flow = proxy.flow(|flow| flow.backend == first.address.to_string());
    assert_eq!((flow.destination.as_str(), flow.dst_identity), (vip, 301));

    // The same connection gets the next set of backends with its next request.
    let update = l7_proxy::wire::ConfigUpdate {
        revision: 2,
        services: vec![service(vec![denied.address.to_string()])],
        ipcache: vec![Prefix {
            prefix: "127.0.0.1/32".into(),
            identity: 400,
            endpoint: SERVER_ENDPOINT,
            flags: 0,
        }],
        ..Default::default()
    };
    assert_eq!(proxy.agent.apply(&update).error, "");
    client.send(GET);
    assert_eq!(client.response().0, 403);
    assert_eq!(denied.connections(), 0);
    let flow = proxy.flow(|flow| flow.revision == 2);
    assert_eq!((flow.reason, flow.dst_identity), (DropReason::PolicyDeny as u32, 400));

    let update = l7_proxy::wire::ConfigUpdate {
        revision: 3,
        services: vec![service(Vec::new())],
        ..Default::default()
    };
    assert_eq!(proxy.agent.apply(&update).error, "");
    client.send(GET);
    assert_eq!(client.response().0, 503);
    proxy.connect().expect_reset();
    until("a record of it", || {
        proxy.agent.count_flows(|flow| flow.reason == DropReason::NoBackend as u32) == 2
    });
}

#[test]
fn what_policy_does_not_know_is_reset() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    proxy.set_record(None);
    proxy.connect().expect_reset();
    let good = record();
    for (bad, reason) in [
        (l7_proxy::ConnectionRecord { src_endpoint: 99, ..good }, DropReason::NoPolicy),
        (l7_proxy::ConnectionRecord { src_endpoint: 0, ..good }, DropReason::NoPolicy),
        (l7_proxy::ConnectionRecord { dst_endpoint: 99, ..good }, DropReason::NoPolicy),
        (l7_proxy::ConnectionRecord { vip: true, ..good }, DropReason::NoService),
        (l7_proxy::ConnectionRecord { revision: 2, ..good }, DropReason::PolicyRevision),
    ] {
        proxy.set_record(Some(bad));
        proxy.connect().expect_reset();
        proxy.flow(|flow| flow.reason == reason as u32);
    }
    assert!(proxy.metrics().contains("drops_total{reason=\"NO_RECORD\"} 1"));

    let config = with_endpoint(endpoint(CLIENT_ENDPOINT, 1, verdict_code::DENY, Vec::new()));
    let proxy = Proxy::start(config, upstream.address);
    proxy.connect().expect_reset();
    proxy.flow(|flow| flow.reason == DropReason::PolicyDeny as u32 && flow.rule == 7);
    assert_eq!(upstream.connections(), 0);
}
