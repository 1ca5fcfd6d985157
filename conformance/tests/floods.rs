//! One pod that opens all the connections it can: what it may have is bounded, and nobody else notices; and a
//! proxy that has no descriptor left.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
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
/// User and group of the proxy.
const PROXY_ID: u32 = 64_815;
const LIMIT: Duration = Duration::from_secs(15);
/// One-way datagrams are forgotten after 30 s, and looked for every second.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Who is served waits for the silent ones before it, some of which are closed each tenth of a second.
const ROOM: Duration = Duration::from_secs(180);

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

#[test]
fn a_proxy_without_descriptors_makes_room_and_lives() {
    if !host::privileged("a_proxy_without_descriptors_makes_room_and_lives") {
        return;
    }
    let node = Node::builder("nofile").file("http.yaml", conformance::manifests::HTTP).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let target = SocketAddr::from((server.ipv4(), 8080));
    drop(record(server.listen(target)));
    client.becomes(&node, &format!("http://{target}/public/a"), 200);
    let proxy = node.proxy_pid();
    let used = std::fs::read_dir(format!("/proc/{proxy}/fd")).unwrap().count();
    let limit = format!("--nofile={0}:{0}", used + 20);
    // As its own user: root may do it in every container only to itself.
    let mut prlimit = Command::new("prlimit");
    host::run(prlimit.args(["--pid", &proxy.to_string(), &limit]).uid(PROXY_ID).gid(PROXY_ID));
    // The kernel accepts them; they say nothing.
    let idle: Vec<_> = (0..100).map(|_| client.connect(target).expect("connect")).collect();
    eventually("descriptors run out", LIMIT, || {
        let log = node.log();
        if log.contains("cannot accept") { Ok(()) } else { Err(log) }
    });
    // A newcomer waits until those before it have been closed for idleness, and is served as soon as there is a
    // descriptor for its server, too: 503 until then.
    eventually("a newcomer is served", ROOM, || {
        let connection = client.connect(target).map_err(|error| error.to_string())?;
        let mut connection = Connection::new(connection).map_err(|error| error.to_string())?;
        let answer = connection.request("GET", "/public/a", &[]).map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(answer.status.to_string()) }
    });
    assert_eq!(node.proxy_pid(), proxy, "it is the same process: {}", node.log());
    drop(idle);
}
