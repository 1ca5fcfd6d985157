//! Connections that policy lets through unread, and bodies that are too large to be kept.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;

use abi::{DropReason, verdict_code};
use l7_proxy::wire::ConfigUpdate;

use crate::harness::{CLIENT_ENDPOINT, Proxy, endpoint, public_only, rule, with_endpoint};
use crate::upstream::Upstream;

fn allow_all() -> ConfigUpdate {
    with_endpoint(endpoint(CLIENT_ENDPOINT, 1, verdict_code::ALLOW, Vec::new()))
}

/// Speaks first, then echoes, and says goodbye when its client is done.
fn server_first(mut stream: TcpStream, _: &Mutex<Vec<u8>>) {
    let _ = stream.write_all(b"220 hello\r\n");
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        let _ = stream.write_all(&bytes[..count]);
    }
    let _ = stream.write_all(b"bye");
}

#[test]
fn server_first_and_half_close() {
    let upstream = Upstream::start_with(server_first);
    let proxy = Proxy::start(allow_all(), upstream.address);
    let mut client = proxy.connect();
    assert_eq!(client.read_until(b"\r\n"), b"220 hello\r\n");
    client.send(b"\x16\x00binary\n");
    assert_eq!(client.read_until(b"\n"), b"\x16\x00binary\n");
    client.stream.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(client.rest(), b"bye");
    let flow = proxy.flow(|flow| flow.protocol == "TCP");
    assert!(flow.forwarded && flow.rule == 7);
}

#[test]
fn a_stricter_policy_ends_it() {
    let upstream = Upstream::start_with(server_first);
    for (stricter, reason) in [
        (endpoint(CLIENT_ENDPOINT, 1, verdict_code::DENY, Vec::new()), DropReason::PolicyDeny),
        (
            endpoint(CLIENT_ENDPOINT, 1, verdict_code::REDIRECT_STRICT, vec![rule(Some("GET"), None)]),
            DropReason::StrictRedirect,
        ),
    ] {
        let proxy = Proxy::start(allow_all(), upstream.address);
        let mut client = proxy.connect();
        client.read_until(b"\r\n");
        // A revision that changes nothing for it leaves it alone.
        let same = ConfigUpdate { revision: 2, ..ConfigUpdate::default() };
        assert_eq!(proxy.agent.apply(&same).error, "");
        client.send("still here\n");
        client.read_until(b"\n");
        let update = ConfigUpdate { revision: 3, endpoints: vec![stricter], ..ConfigUpdate::default() };
        assert_eq!(proxy.agent.apply(&update).error, "");
        client.expect_reset();
        proxy.flow(|flow| flow.reason == reason as u32 && flow.revision == 3);
    }
}

/// Counts a body of any size and answers with one of the same size.
fn bulk(mut stream: TcpStream, _: &Mutex<Vec<u8>>) {
    let mut buffer = Vec::new();
    let received = Mutex::new(Vec::new());
    let mut chunk = vec![7u8; 256 << 10];
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_err() {
            return;
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let size: usize =
        text.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
    let mut left = size;
    while left > 0 {
        let count = stream.read(&mut chunk).unwrap_or(0);
        if count == 0 {
            return;
        }
        left -= count;
    }
    chunk.fill(7);
    let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").as_bytes());
    for _ in 0..size / chunk.len() {
        if stream.write_all(&chunk).is_err() {
            return;
        }
    }
    let _ = crate::upstream::next_request(&mut stream, &mut buffer, &received);
}

#[test]
fn bodies_of_any_size_pass_both_ways() {
    const SIZE: usize = 64 << 20;
    let upstream = Upstream::start_with(bulk);
    let proxy = Proxy::start(public_only(), upstream.address);
    let mut client = proxy.connect();
    client.send(format!("POST /public/x HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
    let chunk = vec![9u8; 256 << 10];
    for _ in 0..SIZE / chunk.len() {
        client.stream.write_all(&chunk).expect("it goes through");
    }
    let head = String::from_utf8(client.read_until(b"\r\n\r\n")).expect("text");
    assert!(head.contains(&format!("content-length: {SIZE}")));
    let mut chunk = chunk;
    let mut left = SIZE;
    while left > 0 {
        let count = client.stream.read(&mut chunk).expect("it comes");
        assert!(count > 0 && chunk[..count].iter().all(|byte| *byte == 7));
        left -= count;
    }
}
