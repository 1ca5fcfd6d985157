//! The node's own processes as clients: Services of the cluster, and policy if `--allow-localhost policy` says so.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use conformance::http::{Connection, record};
use conformance::netns::inside;
use conformance::{Node, eventually, host};

const MANIFESTS: &str = include_str!("manifests/http.yaml");
const LIMIT: Duration = Duration::from_secs(15);
/// A Service without layer 7, in front of ports that no pod may reach.
const PLAIN: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: test}
spec:
  selector: {app: server}
  clusterIP: 10.96.1.2
  clusterIPs: [10.96.1.2, \"fd00:10:96::1:2\"]
  ports:
    - {name: tcp, port: 81, targetPort: 9090}
    - {name: udp, port: 82, targetPort: 9091, protocol: UDP}
";
/// What the node may do under `--allow-localhost policy`: GET on the web port, anything on 9090.
const HOST: &str = "
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: host, namespace: test}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEntities: [host]
      toPorts:
        - ports: [{port: \"8080\", protocol: TCP}]
          rules: {http: [{method: GET, path: \"/public/.*\"}]}
    - fromEntities: [host]
      toPorts: [{ports: [{port: \"9090\", protocol: TCP}]}]
";

/// One request of a node process on a connection of its own.
fn request(node: &Node, to: SocketAddr, method: &str, path: &str) -> std::io::Result<u16> {
    let (method, path) = (method.to_owned(), path.to_owned());
    inside(&node.netns().path(), move || {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        assert_eq!(stream.peer_addr()?, to, "the process sees whom it asked for");
        Ok(Connection::new(stream)?.request(&method, &path, &[])?.status)
    })
}

/// Where a connected UDP socket to `to` really goes, as the kernel lists it: does any go to `to` itself?
fn goes_to_the_vip(namespace: &std::path::Path, to: SocketAddr) -> bool {
    inside(namespace, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(to).unwrap();
        let IpAddr::V4(address) = to.ip() else { panic!("{to} is not IPv4") };
        let entry = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.octets()), to.port());
        std::fs::read_to_string("/proc/thread-self/net/udp").unwrap().contains(&entry)
    })
}

#[test]
fn node_processes_reach_services_and_strangers_are_left_alone() {
    if !host::privileged("node_processes_reach_services_and_strangers_are_left_alone") {
        return;
    }
    let node = Node::builder("nodesvc").file("http.yaml", &format!("{MANIFESTS}{PLAIN}")).start();
    let server = node.pod("test/server");
    for address in [IpAddr::from(server.ipv4()), server.ipv6().into()] {
        drop(record(server.listen((address, 8080))));
        drop(record(server.listen((address, 9090))));
        let echo = inside(&server.netns(), move || UdpSocket::bind((address, 9091)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((length, peer)) = echo.recv_from(&mut buffer) {
                let _ = echo.send_to(&buffer[..length], peer);
            }
        });
    }
    for (layer_7, plain) in [("10.96.1.1", "10.96.1.2"), ("fd00:10:96::1:1", "fd00:10:96::1:2")] {
        let [layer_7, plain] = [layer_7, plain].map(|vip| vip.parse::<IpAddr>().unwrap());
        let status = request(&node, (plain, 81).into(), "GET", "/");
        assert_eq!(status.expect("the plain service answers"), 200, "{plain}\n{}", node.log());
        // The node's processes do not need the proxy: not even what no HTTP rule allows.
        let status = request(&node, (layer_7, 80).into(), "DELETE", "/private");
        assert_eq!(status.expect("the layer 7 service answers"), 200, "{layer_7}\n{}", node.log());
        for connected in [true, false] {
            let answer = inside(&node.netns().path(), move || {
                let any: IpAddr = if plain.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
                let socket = UdpSocket::bind((any, 0))?;
                socket.set_read_timeout(Some(Duration::from_secs(3)))?;
                if connected {
                    socket.connect((plain, 82))?;
                    socket.send(b"x")?;
                } else {
                    socket.send_to(b"x", (plain, 82))?;
                }
                socket.recv_from(&mut [0; 8]).map(|(_, from)| from)
            });
            assert_eq!(answer.expect("an answer"), (plain, 82).into(), "from the service");
        }
    }
    // Another network namespace of the machine is none of this node's.
    let vip = SocketAddr::from(([10, 96, 1, 2], 82));
    node.world().ip("route add 10.0.0.0/8 via 192.0.2.1");
    assert!(!goes_to_the_vip(&node.netns().path(), vip), "the node's own is translated");
    assert!(goes_to_the_vip(&node.world().path(), vip), "a stranger's is not");
}

#[test]
fn policy_decides_about_node_processes_if_it_shall() {
    if !host::privileged("policy_decides_about_node_processes_if_it_shall") {
        return;
    }
    let node = Node::builder("nodepol")
        .file("http.yaml", &format!("{MANIFESTS}{PLAIN}{HOST}"))
        .arg("--allow-localhost=policy")
        .start();
    let server = node.pod("test/server");
    let client = node.pod("test/client");
    for (address, vip) in
        [(IpAddr::from(server.ipv4()), "10.96.1.1"), (server.ipv6().into(), "fd00:10:96::1:1")]
    {
        let seen = record(server.listen((address, 8080)));
        drop(record(server.listen((address, 9090))));
        drop(record(server.listen((address, 9092))));
        for target in [SocketAddr::new(address, 8080), SocketAddr::new(vip.parse().unwrap(), 80)] {
            let get = request(&node, target, "GET", "/public/a");
            assert_eq!(get.expect("GET is answered"), 200, "{target}\n{}", node.log());
            assert_eq!(request(&node, target, "POST", "/public/a").expect("a 403"), 403, "{target}");
        }
        let peers: Vec<IpAddr> = seen.try_iter().map(|request| request.peer.ip()).collect();
        let own = if address.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
        assert_eq!(peers, [own.parse::<IpAddr>().unwrap(); 2], "only what policy allows, as the node");
        assert_eq!(request(&node, (address, 9090).into(), "DELETE", "/x").expect("layer 4"), 200);
        assert!(request(&node, (address, 9092).into(), "GET", "/x").is_err(), "no rule allows it");
        // Pods are policed as before.
        assert_eq!(client.curl(&[&format!("http://{}/private", SocketAddr::new(address, 8080))]).0, 403);
    }
    let flow = eventually("the denial is a flow", LIMIT, || {
        let flows = node.json(&["flows", "--last", "100"]);
        let list = flows["flows"].as_array().cloned().unwrap_or_default();
        let denied =
            |flow: &&serde_json::Value| flow["reason"] == "HTTP_DENIED" && flow["source"]["identity"] == 1;
        list.iter().find(denied).cloned().ok_or_else(|| flows.to_string())
    });
    assert_eq!(flow["destination"]["name"], "server", "{flow}");
    // A live connection stays with the proxy and its policy.
    let target = SocketAddr::from((server.ipv4(), 8080));
    let stream = inside(&node.netns().path(), move || TcpStream::connect(target).unwrap());
    let mut connection = Connection::new(stream).unwrap();
    assert_eq!(connection.request("GET", "/public/a", &[]).unwrap().status, 200);
    node.apply("http.yaml", &format!("{MANIFESTS}{PLAIN}"));
    eventually("the connection ends or is denied", LIMIT, || {
        match connection.request("GET", "/public/a", &[]) {
            Ok(response) if response.status == 200 => Err("still allowed".to_owned()),
            _ => Ok(()),
        }
    });
}
