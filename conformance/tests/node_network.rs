//! The node's network changes under a running agent: its addresses, and its pod ranges.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use conformance::http::record;
use conformance::netns::inside;
use conformance::{Node, eventually, host, manifests};

const LIMIT: Duration = Duration::from_secs(20);

/// Status of a GET from the node itself, under one of its addresses; 0: no answer.
fn from_node(node: &Node, source: &str, to: SocketAddr) -> u16 {
    let mut curl = node.netns().command("curl");
    curl.args(["-s", "-o", "/dev/null", "-m", "1", "-w", "%{http_code}", "--interface", source]);
    let output = curl.arg(format!("http://{to}/")).output().expect("curl runs");
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0)
}

#[test]
fn a_new_address_of_the_node_is_the_node() {
    if !host::privileged("a_new_address_of_the_node_is_the_node") {
        return;
    }
    let node = Node::builder("address").file("http.yaml", manifests::HTTP).start();
    let server = node.pod("test/server");
    drop(record(server.listen((server.ipv4(), 9090))));
    drop(record(server.listen((server.ipv6(), 9090))));
    let targets = [SocketAddr::from((server.ipv4(), 9090)), (server.ipv6(), 9090).into()];
    assert_eq!(from_node(&node, "192.0.2.1", targets[0]), 200, "probes pass\n{}", node.log());
    for (own, length, to) in [("192.0.2.77", 24, targets[0]), ("2001:db8::77", 64, targets[1])] {
        let nodad = if to.is_ipv6() { " nodad" } else { "" };
        node.netns().ip(&format!("addr add {own}/{length} dev wan0{nodad}"));
        // The server's policy names no node: only what is the node's own passes (allow-localhost).
        eventually(&format!("{own} reaches {to}"), LIMIT, || match from_node(&node, own, to) {
            200 => Ok(()),
            other => Err(format!("{other}\n{}", node.log())),
        });
        node.netns().ip(&format!("addr del {own}/{length} dev wan0"));
    }
    // An address that went away is the world's again, also where somebody else brings it.
    eventually("the old address is the world's", LIMIT, || {
        let words = ["policy", "explain", "--from", "192.0.2.77", "--to", "test/server", "--port", "9090"];
        let output = node.heddle(&words).output().expect("heddle runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.starts_with("deny") { Ok(()) } else { Err(text) }
    });
}

#[test]
fn the_metrics_address_serves_metrics_alone() {
    if !host::privileged("the_metrics_address_serves_metrics_alone") {
        return;
    }
    let get = |node: &Node, path: &str| {
        let mut curl = node.world().command("curl");
        curl.args(["-s", "--path-as-is", "-m", "2", "-w", "\n%{http_code}"])
            .arg(format!("http://192.0.2.1:15020{path}"));
        String::from_utf8_lossy(&curl.output().expect("curl runs").stdout).into_owned()
    };
    let node = Node::builder("metrics").file("http.yaml", manifests::HTTP).start();
    let page = get(&node, "/metrics");
    assert!(page.contains("heddle_policy_revision") && page.ends_with("\n200"), "{page}");
    for path in ["/", "/v1/flows", "/v1/status", "/v1/policies", "/config_dump", "/metrics/../v1/flows"] {
        let answer = get(&node, path);
        assert!(answer.ends_with("\n404") && !answer.contains("revision"), "{path}: {answer}");
    }
    drop(node);
    let node = Node::builder("metrics2").file("http.yaml", manifests::HTTP);
    let node = node.arg("--metrics-address=127.0.0.1:15020").start();
    assert!(get(&node, "/metrics").ends_with("\n000"), "restricted to the node itself");
    let mut curl = node.netns().command("curl");
    let page = curl.args(["-s", "http://127.0.0.1:15020/metrics"]).output().expect("curl runs").stdout;
    assert!(String::from_utf8_lossy(&page).contains("heddle_policy_revision"));
}

#[test]
fn pods_follow_the_ranges_of_the_node_manifest() {
    if !host::privileged("pods_follow_the_ranges_of_the_node_manifest") {
        return;
    }
    let node = Node::builder("ranges").file("http.yaml", manifests::HTTP).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    node.apply(
        "node.yaml",
        "apiVersion: v1\nkind: Node\nmetadata: {name: node}\n\
         spec: {podCIDRs: [10.77.0.0/24, \"fd00:77::/64\"]}\n",
    );
    let rules = |family: &str| {
        let mut ip = node.netns().command("ip");
        let output = ip.args([family, "rule"]).output().expect("ip runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    eventually("the new ranges are protected", LIMIT, || {
        let (v4, v6) = (rules("-4"), rules("-6"));
        if v4.contains("10.77.0.0/24") && v6.contains("fd00:77::/64") { Ok(()) } else { Err(v4 + &v6) }
    });
    node.apply(
        "late.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: late, namespace: test, labels: {app: client}}\n\
         spec:\n  containers: [{name: main, image: none, command: [sleep, infinity]}]\n",
    );
    let late = node.pod("test/late");
    assert_eq!(late.ipv4().octets()[..3], [10, 77, 0], "{late:?}");
    assert_eq!(late.ipv6().segments()[..2], [0xfd00, 0x77], "{late:?}");
    // It is policed as the others are, through the proxy too, and reaches the world as the node.
    drop(record(server.listen((server.ipv4(), 8080))));
    for pod in [&client, &late] {
        pod.becomes(&node, &format!("http://{}:8080/public/a", server.ipv4()), 200);
        pod.becomes(&node, &format!("http://{}:8080/private", server.ipv4()), 403);
    }
    let (v4, v6) = node.world_addresses();
    for (to, source) in [(IpAddr::from(v4), "192.0.2.1"), (v6.into(), "2001:db8::1")] {
        let address = SocketAddr::new(to, 8088);
        let seen = record(inside(&node.world().path(), move || TcpListener::bind(address).unwrap()));
        assert_eq!(late.curl(&[&format!("http://{address}/")]).0, 200, "{}", node.log());
        assert_eq!(seen.recv().unwrap().peer.ip().to_string(), source);
    }
}
