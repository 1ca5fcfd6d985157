//! Switches to another protocol, as websockets do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;

use abi::{DropReason, verdict_code};
use l7_proxy::wire::ConfigUpdate;

use crate::harness::{CLIENT_ENDPOINT, Proxy, endpoint, public_only, rule};
use crate::upstream::{Upstream, next_request};

const ASK: &str =
    "GET /public/ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Says 101 after a moment, then echoes raw bytes.
fn switching(mut stream: TcpStream, received: &Mutex<Vec<u8>>) {
    let mut buffer = Vec::new();
    let Some(_) = next_request(&mut stream, &mut buffer, received) else { return };
    std::thread::sleep(std::time::Duration::from_millis(200));
    // Whoever was let through too early is seen here.
    received.lock().expect("lock").extend_from_slice(b"|101|");
    let _ = stream.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\nfirst",
    );
    let mut bytes = buffer;
    bytes.resize(1024, 0);
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        received.lock().expect("lock").extend_from_slice(&bytes[..count]);
        let _ = stream.write_all(&bytes[..count]);
    }
}

#[test]
fn echo_and_nothing_before_101() {
    let upstream = Upstream::start_with(switching);
    let proxy = Proxy::start(public_only(), upstream.address);
    let mut client = proxy.connect();
    client.send(format!("{ASK}early\n"));
    let (status, head, _) = client.response();
    assert_eq!(status, 101);
    let head = head.to_ascii_lowercase();
    assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
    assert_eq!(client.read_until(b"\n"), b"firstearly\n");
    client.send(b"\x00\xff\r\n\r\nGET /admin HTTP/1.1\r\n\n");
    client.read_until(b"\r\n\n");
    let received = upstream.received();
    assert!(received.contains("|101|early"), "{received:?}");
    assert!(received.contains("connection: upgrade\r\n") && received.contains("upgrade: websocket\r\n"));
}

#[test]
fn a_refused_upgrade_goes_on_as_http() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    let mut client = proxy.connect();
    // The held request behind it is served once the answer is no.
    client.send(format!(
        "{ASK}GET /public/after HTTP/1.1\r\nHost: a\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
    ));
    assert_eq!([client.response().0, client.response().0, client.response().0], [200, 200, 403]);
    // Without the connection option, and for h2c, the wish is dropped.
    upstream.forget();
    client.send("GET /public/x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.response().0, 200);
    client.send(
        "GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    );
    assert_eq!(client.response().0, 200);
    let received = upstream.received();
    assert!(!received.contains("upgrade") && !received.contains("http2-settings"), "{received}");
    // A denied one is denied, and the connection goes on.
    client.send("GET /admin HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.response().0, 403);
    client.send("GET /public/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().0, 200);
}

#[test]
fn a_stricter_policy_ends_it() {
    let upstream = Upstream::start_with(switching);
    let proxy = Proxy::start(public_only(), upstream.address);
    let mut client = proxy.connect();
    client.send(ASK);
    assert_eq!(client.response().0, 101);
    client.send("x\n");
    client.read_until(b"x\n");
    let rules = vec![rule(Some("POST"), None)];
    let stricter = endpoint(CLIENT_ENDPOINT, 1, verdict_code::REDIRECT_STRICT, rules);
    let update = ConfigUpdate { revision: 2, endpoints: vec![stricter], ..ConfigUpdate::default() };
    assert_eq!(proxy.agent.apply(&update).error, "");
    assert_eq!(client.rest(), b"");
    proxy.flow(|flow| flow.reason == DropReason::HttpDenied as u32 && flow.revision == 2);
}
