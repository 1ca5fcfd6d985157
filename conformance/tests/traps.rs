//! The traps of a transparent redirect, each of which once broke a real connection: TIME_WAIT on either side,
//! SYN cookies, port collisions, hairpin, the node's own processes, foreign listeners, mapped addresses, and
//! policy that changes under live connections.

use std::io::Read;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use conformance::http::{Connection, record};
use conformance::load::Load;
use conformance::netns::inside;
use conformance::{Node, Pod, eventually, host};

const MANIFESTS: &str = conformance::manifests::HTTP;
/// Lets the client use every port of the server without layer 7, beside the HTTP rules for its Service.
const PLAIN_ADMIN: &str = "
---
apiVersion: v1
kind: Pod
metadata: {name: admin, namespace: test, labels: {app: admin}}
spec:
  containers: [{name: main, image: none, command: [sleep, infinity]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: admin, namespace: test}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: admin}}, {matchLabels: {app: server}}]
";

fn start(name: &str, manifests: &str) -> (Node, Pod, Pod) {
    let node = Node::builder(name).file("http.yaml", manifests).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    (node, client, server)
}

fn both(server: &Pod, port: u16) -> [SocketAddr; 2] {
    [(server.ipv4(), port).into(), (server.ipv6(), port).into()]
}

#[test]
fn a_tuple_in_time_wait_is_used_again_at_once() {
    if !host::privileged("a_tuple_in_time_wait_is_used_again_at_once") {
        return;
    }
    let (_node, client, server) = start("timewait", MANIFESTS);
    // Twenty source ports. The proxy closes first (the request says `Connection: close`), so every tuple is
    // used again while the proxy's socket for it is in TIME_WAIT; and so are its own upstream tuples, since the
    // server closes those.
    inside(&client.netns(), || {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40019").unwrap();
    });
    for target in both(&server, 8080) {
        drop(record(server.listen(target)));
        for round in 0..300 {
            let stream = client.connect(target).unwrap_or_else(|e| panic!("{target} round {round}: {e}"));
            let mut connection = Connection::new(stream).unwrap();
            let response = connection.request("GET", "/public/a", &["Connection: close"]);
            let response = response.unwrap_or_else(|e| panic!("{target} round {round}: {e}"));
            assert_eq!(response.status, 200);
            // Wait for the proxy's FIN: whoever closes first is in TIME_WAIT.
            assert_eq!(connection.stream().read(&mut [0]).unwrap(), 0);
        }
    }
    // The client closes first: its ports are free again after a second (tcp_tw_reuse), not a minute.
    inside(&client.netns(), || {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "41000 41019").unwrap();
        std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1").unwrap();
    });
    let target = SocketAddr::from((server.ipv4(), 8080));
    for round in 0..60 {
        let stream =
            eventually("a free source port", Duration::from_secs(5), || match client.connect(target) {
                Ok(stream) => Ok(stream),
                Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => Err(error.to_string()),
                Err(error) => panic!("round {round}: {error}"),
            });
        let response = Connection::new(stream).unwrap().request("GET", "/public/a", &[]);
        assert_eq!(response.unwrap_or_else(|e| panic!("round {round}: {e}")).status, 200);
    }
}

#[test]
fn syn_cookies_work() {
    if !host::privileged("syn_cookies_work") {
        return;
    }
    let (node, client, server) = start("cookies", MANIFESTS);
    node.netns().sysctl(&["net.ipv4.tcp_syncookies=2"]);
    for target in both(&server, 8080) {
        drop(record(server.listen(target)));
        for _ in 0..50 {
            let mut connection = Connection::new(client.connect(target).expect("connect")).unwrap();
            assert_eq!(connection.request("GET", "/public/a", &[]).unwrap().status, 200);
        }
    }
}

#[test]
fn the_clients_own_connections_never_meet_the_proxys() {
    if !host::privileged("the_clients_own_connections_never_meet_the_proxys") {
        return;
    }
    let (node, _, server) = start("ports", &format!("{MANIFESTS}{PLAIN_ADMIN}"));
    let admin = node.pod("test/admin");
    let [direct, _] = both(&server, 8080);
    drop(record(server.listen(direct)));
    // By the VIP through the proxy (with this client's address as source) and directly, to one server port.
    let targets = [direct, SocketAddr::from(([10, 96, 1, 1], 80))];
    let load = Load::start(&admin, &targets, "/public/a", 400);
    std::thread::sleep(Duration::from_secs(8));
    let tally = load.stop();
    assert!(tally.failures.is_empty(), "{} requests: {:#?}", tally.requests, tally.failures);
    assert!(tally.requests > 1000, "the load ran: {} requests", tally.requests);
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    if !host::privileged("a_pod_reaches_itself_through_its_service") {
        return;
    }
    let (node, _, server) = start("hairpin", &format!("{MANIFESTS}{PLAIN_ADMIN}"));
    for (target, vip) in both(&server, 8080).into_iter().zip(["10.96.1.1", "[fd00:10:96::1:1]"]) {
        drop(record(server.listen(target)));
        let (status, body) = server.curl(&[&format!("http://{vip}/anything")]);
        assert_eq!((status, body.as_str()), (200, "ok\n"), "{vip}\n{}", node.log());
    }
}

#[test]
fn the_nodes_own_processes_reach_pods_without_the_proxy() {
    if !host::privileged("the_nodes_own_processes_reach_pods_without_the_proxy") {
        return;
    }
    let (node, client, server) = start("nodeproc", MANIFESTS);
    for target in both(&server, 8080) {
        drop(record(server.listen(target)));
        let status = inside(&node.netns().path(), move || {
            let stream = std::net::TcpStream::connect_timeout(&target, Duration::from_secs(5)).unwrap();
            // What no HTTP rule allows: it passes, so no proxy looked at it (allow-localhost).
            Connection::new(stream).unwrap().request("DELETE", "/private", &[]).unwrap().status
        });
        assert_eq!(status, 200);
        // And a pod that uses the node's address as its own source is not believed.
        assert_eq!(client.curl(&["-XDELETE", &format!("http://{target}/private")]).0, 403);
    }
}

#[test]
fn a_node_process_on_the_same_port_does_not_answer_pods() {
    if !host::privileged("a_node_process_on_the_same_port_does_not_answer_pods") {
        return;
    }
    let (node, client, server) = start("foreign", MANIFESTS);
    let foreign = inside(&node.netns().path(), || TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8080)).unwrap());
    let foreign = record(foreign);
    for target in both(&server, 8080) {
        let seen = record(server.listen(target));
        assert_eq!(client.curl(&[&format!("http://{target}/public/a")]).0, 200);
        assert_eq!(client.curl(&[&format!("http://{target}/private")]).0, 403);
        assert_eq!(seen.try_iter().count(), 1, "the pod answered");
    }
    assert_eq!(foreign.try_iter().count(), 0, "the node's process saw nothing");
}

#[test]
fn mapped_addresses_are_policed_as_ipv4() {
    if !host::privileged("mapped_addresses_are_policed_as_ipv4") {
        return;
    }
    let (node, client, server) = start("mapped", MANIFESTS);
    drop(record(server.listen((server.ipv4(), 8080))));
    for (address, port) in [(server.ipv4(), 8080), ([10, 96, 1, 1].into(), 80)] {
        let mapped = SocketAddr::from((address.to_ipv6_mapped(), port));
        let mut connection = Connection::new(client.connect(mapped).expect("connect")).unwrap();
        assert_eq!(connection.request("GET", "/public/a", &[]).unwrap().status, 200, "{}", node.log());
        assert_eq!(connection.request("GET", "/private", &[]).unwrap().status, 403);
    }
}

#[test]
fn a_live_direct_connection_that_now_needs_layer_7_is_reset() {
    if !host::privileged("a_live_direct_connection_that_now_needs_layer_7_is_reset") {
        return;
    }
    let plain = MANIFESTS.split("          rules:").next().unwrap();
    let (node, client, server) = start("strictly", plain);
    drop(record(server.listen((server.ipv4(), 8080))));
    let mut direct = Connection::new(client.connect((server.ipv4(), 8080)).unwrap()).unwrap();
    assert_eq!(direct.request("DELETE", "/private", &[]).unwrap().status, 200, "no layer 7 yet");
    node.apply("http.yaml", MANIFESTS);
    let url = format!("http://{}:8080/private", server.ipv4());
    eventually("the policy is in force", Duration::from_secs(10), || match client.curl(&[&url]).0 {
        403 => Ok(()),
        other => Err(other.to_string()),
    });
    // The policy is there an instant before the revision that makes live connections be decided anew.
    let end = eventually("the direct connection ends", Duration::from_secs(5), || {
        match direct.request("DELETE", "/private", &[]) {
            Ok(response) => Err(format!("still answers {}", response.status)),
            Err(end) => Ok(end),
        }
    });
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset, "{end}");
    // A second change, back, while redirected connections live: they go on.
    let mut redirected = Connection::new(client.connect((server.ipv4(), 8080)).unwrap()).unwrap();
    assert_eq!(redirected.request("GET", "/public/a", &[]).unwrap().status, 200);
    node.apply("http.yaml", plain);
    eventually("the redirected connection is allowed more", Duration::from_secs(10), || {
        match redirected.request("DELETE", "/private", &[]).map_err(|e| e.to_string())?.status {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    });
}

#[test]
fn fragments_follow_their_first_part() {
    const SIZE: usize = 4000;
    if !host::privileged("fragments_follow_their_first_part") {
        return;
    }
    let (node, _, server) = start("fragments", &format!("{MANIFESTS}{PLAIN_ADMIN}"));
    let (admin, stranger) = (node.pod("test/admin"), node.pod("test/stranger"));
    for target in both(&server, 7000) {
        let socket = inside(&server.netns(), move || UdpSocket::bind(target).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let send = |pod: &Pod, byte: u8| {
            inside(&pod.netns(), move || {
                let from: SocketAddr =
                    if target.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
                UdpSocket::bind(from).unwrap().send_to(&[byte; SIZE], target).unwrap()
            });
        };
        send(&stranger, b's');
        send(&admin, b'a');
        let mut buffer = [0; 2 * SIZE];
        let length = socket.recv(&mut buffer).expect("the allowed datagram arrives");
        assert_eq!((length, buffer[0]), (SIZE, b'a'), "whole, and the stranger's did not");
    }
}
