//! One pod that opens all the connections it can: what it may have is bounded, and nobody else notices.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use conformance::http::{Connection, record};
use conformance::netns::inside;
use conformance::{Node, eventually, host};

/// Three pods without policy.
const MANIFESTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: flooder, namespace: test}
spec:
  containers: [{name: main, image: none, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: victim, namespace: test}
spec:
  containers: [{name: main, image: none, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: bystander, namespace: test}
spec:
  containers: [{name: main, image: none, command: [sleep, infinity]}]
";
/// More than the whole map holds, with [`PORTS`] of each.
const SOCKETS: usize = 6;
const PORTS: u16 = 59_000;
const LIMIT: Duration = Duration::from_secs(15);
/// One-way datagrams are forgotten after 30 s, and looked for every second.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// The value of a metric's first line that has all these words.
fn metric(node: &Node, words: &[&str]) -> u64 {
    let page = inside(&node.netns().path(), || {
        let stream = TcpStream::connect(("127.0.0.1", 15020)).unwrap();
        Connection::new(stream).unwrap().request("GET", "/metrics", &["Connection: close"]).unwrap().text()
    });
    let line = page.lines().find(|line| !line.starts_with('#') && words.iter().all(|w| line.contains(w)));
    let line = line.unwrap_or_else(|| panic!("{words:?}: {page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// What the status complains of for the flooder.
fn complaint(node: &Node) -> Option<String> {
    let status = node.json(&["status"]);
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let mine = problems.into_iter().find(|problem| problem["object"] == "Pod test/flooder");
    mine.map(|problem| problem["message"].to_string())
}

/// A datagram to each port, from each of several sockets.
fn flood(from: &Path, to: std::net::Ipv4Addr) {
    inside(from, move || {
        let sockets: Vec<_> = (0..SOCKETS).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect();
        for port in 1..=PORTS {
            for socket in &sockets {
                // An ICMP error of an earlier one, or a full queue, ends nothing.
                let _ = socket.send_to(b"x", (to, port));
            }
        }
    });
}

fn status_of(from: &Path, to: SocketAddr) -> std::io::Result<u16> {
    inside(from, move || {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        Ok(Connection::new(stream)?.request("GET", "/", &[])?.status)
    })
}

#[test]
fn one_pod_does_not_fill_the_nodes_connections() {
    if !host::privileged("one_pod_does_not_fill_the_nodes_connections") {
        return;
    }
    let node = Node::builder("flood").file("pods.yaml", MANIFESTS).start();
    let [flooder, victim, bystander] =
        ["flooder", "victim", "bystander"].map(|p| node.pod(&format!("test/{p}")));
    let target = SocketAddr::from((victim.ipv4(), 8080));
    drop(record(victim.listen(target)));
    assert_eq!(complaint(&node), None);
    flood(&flooder.netns(), victim.ipv4());
    // Nobody else notices: neither another pod nor the node's probes.
    for round in 0..20 {
        for from in [bystander.netns(), victim.netns(), node.netns().path()] {
            let status = status_of(&from, target);
            assert_eq!(status.as_ref().ok(), Some(&200), "round {round}, {}: {status:?}", from.display());
        }
    }
    assert!(metric(&node, &["heddle_drops", "CONNECTION_LIMIT", "egress"]) > 10_000);
    assert_eq!(metric(&node, &["heddle_drops", "CONNECTION_MAP_FULL", "egress"]), 0);
    let live = metric(&node, &["heddle_connections "]);
    assert!((50_000..=66_000).contains(&live), "a quarter of the map: {live}");
    let why = eventually("the status says so", LIMIT, || complaint(&node).ok_or_else(|| node.log()));
    assert!(why.contains("CONNECTION_LIMIT"), "{why}");
    eventually("what had no answer is forgotten", FORGOTTEN, || {
        let live = metric(&node, &["heddle_connections "]);
        if live < 1000 { Ok(()) } else { Err(format!("{live} connections")) }
    });
    eventually("and the complaint goes", LIMIT, || complaint(&node).map_or(Ok(()), Err));
    assert_eq!(status_of(&flooder.netns(), target).unwrap(), 200);
}
