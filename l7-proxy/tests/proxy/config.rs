//! Configuration: changes, refusals, and life without an agent.

use std::time::Duration;

use abi::{DropReason, verdict_code};
use l7_proxy::wire::{ConfigUpdate, Prefix};
use l7_proxy::{ConnectionRecord, Limits};

use crate::harness::{
    CLIENT_ENDPOINT, CLIENT_IDENTITY, Proxy, SERVER_ENDPOINT, SERVER_IDENTITY, endpoint, public_only, record,
    rule, status_of,
};
use crate::upstream::Upstream;

const PUBLIC: &str = "GET /public/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const ADMIN: &str = "GET /admin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn revision(number: u32, path: &str) -> ConfigUpdate {
    let rules = vec![rule(None, Some(path))];
    ConfigUpdate {
        revision: number,
        endpoints: vec![endpoint(CLIENT_ENDPOINT, 1, verdict_code::REDIRECT_STRICT, rules)],
        ..ConfigUpdate::default()
    }
}

#[test]
fn a_change_bites_at_the_next_request_of_an_open_connection() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    let mut client = proxy.connect();
    let mut get = |path: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.response().0
    };
    assert_eq!([get("/public/x"), get("/admin")], [200, 403]);
    let ack = proxy.agent.apply(&revision(2, "/admin"));
    assert_eq!((ack.revision, ack.error.as_str()), (2, ""));
    assert_eq!([get("/public/x"), get("/admin")], [403, 200]);
    let gone = ConfigUpdate { revision: 3, removed_endpoints: vec![CLIENT_ENDPOINT], ..Default::default() };
    assert_eq!(proxy.agent.apply(&gone).error, "");
    assert_eq!(client.rest(), b"");
    proxy.flow(|flow| flow.reason == DropReason::NoPolicy as u32 && flow.revision == 3);
}

#[test]
fn an_identity_that_changes_bites_at_the_next_request_of_an_open_connection() {
    let upstream = Upstream::start();
    let only_for = |identity: u32, peer: u32| {
        let mut server =
            endpoint(SERVER_ENDPOINT, 0, verdict_code::REDIRECT_STRICT, vec![rule(None, Some("/admin"))]);
        (server.l7[0].any_peer, server.l7[0].peers) = (false, vec![peer]);
        let mut client = endpoint(CLIENT_ENDPOINT, 1, verdict_code::ALLOW, Vec::new());
        client.identity = identity;
        vec![client, server]
    };
    let server = |identity| Prefix {
        prefix: "127.0.0.0/8".into(),
        identity,
        endpoint: SERVER_ENDPOINT,
        ..Prefix::default()
    };
    let first = ConfigUpdate {
        endpoints: only_for(CLIENT_IDENTITY, CLIENT_IDENTITY),
        ipcache: vec![server(SERVER_IDENTITY)],
        ..public_only()
    };
    let proxy = Proxy::start(first, upstream.address);
    proxy.set_record(Some(ConnectionRecord { dst_endpoint: SERVER_ENDPOINT, ..record() }));
    let mut client = proxy.connect();
    let mut get = |path: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.response().0
    };
    assert_eq!(get("/admin"), 200);
    // The client's labels change, and the rule stays as it is: the connection is not what it was.
    let next = |revision, endpoints| ConfigUpdate { revision, endpoints, ..ConfigUpdate::default() };
    let update = next(2, only_for(CLIENT_IDENTITY + 9, CLIENT_IDENTITY));
    assert_eq!(proxy.agent.apply(&update).error, "");
    assert_eq!(get("/admin"), 403);
    let update = next(3, only_for(CLIENT_IDENTITY, CLIENT_IDENTITY));
    assert_eq!(proxy.agent.apply(&update).error, "");
    assert_eq!(get("/admin"), 200);
}

#[test]
fn a_bad_update_is_answered_and_changes_nothing() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    let mut bad_regex = revision(2, "/admin");
    bad_regex.endpoints[0].l7[0].http[0].path = Some("(".into());
    let mut bad_port = revision(2, "/admin");
    bad_port.endpoints[0].entries[0].port = 70_000;
    let mut bad_prefix = revision(2, "/admin");
    bad_prefix.removed_prefixes = vec!["10.0.0.0/33".into()];
    for bad in [bad_regex, bad_port, bad_prefix] {
        let ack = proxy.agent.apply(&bad);
        assert!(ack.revision == 2 && !ack.error.is_empty());
        assert_eq!(status_of(&proxy.exchange(PUBLIC)), Some(200));
        assert_eq!(status_of(&proxy.exchange(ADMIN)), Some(403));
    }
    assert_eq!(proxy.agent.apply(&revision(2, "/admin")).error, "");
    assert_eq!(status_of(&proxy.exchange(ADMIN)), Some(200));
}

#[test]
fn a_restarted_proxy_serves_from_disk() {
    let upstream = Upstream::start();
    let mut proxy = Proxy::start(public_only(), upstream.address);
    assert_eq!(proxy.agent.apply(&revision(2, "/admin")).error, "");
    proxy.restart_without_agent();
    assert_eq!(status_of(&proxy.exchange(ADMIN)), Some(200));
    assert_eq!(status_of(&proxy.exchange(PUBLIC)), Some(403));
    assert!(proxy.metrics().contains("heddle_proxy_config_revision 2"));
}

#[test]
fn a_connection_waits_for_its_revision() {
    let upstream = Upstream::start();
    let limits = Limits { revision_wait: Duration::from_secs(5), ..Limits::default() };
    let proxy = Proxy::start_with(public_only(), upstream.address, limits);
    proxy.set_record(Some(ConnectionRecord { revision: 2, ..record() }));
    let mut client = proxy.connect();
    client.send(ADMIN);
    // Under revision 1 it would be denied.
    crate::harness::until("it is accepted", || proxy.metrics().contains("connections_open 1"));
    assert_eq!(proxy.agent.apply(&revision(2, "/admin")).error, "");
    assert_eq!(status_of(&client.rest()), Some(200));
}

#[test]
fn a_revision_that_never_comes_ends_the_connection() {
    let upstream = Upstream::start();
    let limits = Limits { revision_wait: Duration::from_millis(200), ..Limits::default() };
    let proxy = Proxy::start_with(public_only(), upstream.address, limits);
    proxy.set_record(Some(ConnectionRecord { revision: 2, ..record() }));
    let mut client = proxy.connect();
    client.send(PUBLIC);
    client.expect_reset();
    proxy.flow(|flow| flow.reason == DropReason::PolicyRevision as u32);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn what_egress_denies_ingress_cannot_allow() {
    let upstream = Upstream::start();
    let config = |egress| {
        let mut config = public_only();
        let rules = vec![rule(None, None)];
        config.endpoints = vec![
            endpoint(CLIENT_ENDPOINT, 1, egress, Vec::new()),
            endpoint(SERVER_ENDPOINT, 0, verdict_code::REDIRECT_STRICT, rules),
        ];
        config.ipcache[0].endpoint = SERVER_ENDPOINT;
        config
    };
    for (egress, passes) in [(verdict_code::ALLOW, true), (verdict_code::DENY, false)] {
        let proxy = Proxy::start(config(egress), upstream.address);
        proxy.set_record(Some(ConnectionRecord { dst_endpoint: SERVER_ENDPOINT, ..record() }));
        let mut client = proxy.connect();
        if passes {
            client.send(PUBLIC);
            assert_eq!(status_of(&client.rest()), Some(200));
        } else {
            client.expect_reset();
            let flow = proxy.flow(|flow| flow.reason == DropReason::PolicyDeny as u32);
            assert_eq!(flow.direction, 1, "egress");
        }
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn the_end_lets_requests_finish() {
    let upstream = Upstream::start_with(|mut stream, received| {
        use std::io::Write;
        let mut buffer = Vec::new();
        while crate::upstream::next_request(&mut stream, &mut buffer, received).is_some() {
            std::thread::sleep(Duration::from_millis(300));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let mut proxy = Proxy::start(public_only(), upstream.address);
    let mut idle = proxy.connect();
    idle.send("GET /public/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(idle.response().0, 200);
    let mut busy = proxy.connect();
    busy.send("GET /public/x HTTP/1.1\r\nHost: a\r\n\r\n");
    crate::harness::until("it is on its way", || upstream.received().matches("GET").count() == 2);
    proxy.begin_stop();
    assert_eq!(idle.rest(), b"");
    let answer = String::from_utf8_lossy(&busy.rest()).to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
    proxy.join();
}

#[test]
fn the_agent_hears_that_a_proxy_without_traffic_lives() {
    let upstream = Upstream::start();
    let proxy = Proxy::start(public_only(), upstream.address);
    proxy.agent.wait_for_signs_of_life(2);
}
