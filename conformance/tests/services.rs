//! Services, names and the way out: connect-time translation, DNS as a pod, masquerade.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use conformance::http::record;
use conformance::manifests::PLAIN;
use conformance::netns::inside;
use conformance::{Node, eventually, host};

const MANIFESTS: &str = conformance::manifests::HTTP;
/// A Service without layer 7, TCP and UDP, and a headless one.
const SERVICES: &str = "
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
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: test}
spec:
  selector: {app: server}
  clusterIP: None
  ports: [{name: tcp, port: 9090}]
";

#[test]
fn a_service_without_layer_7_is_translated_at_connect() {
    if !host::privileged("a_service_without_layer_7_is_translated_at_connect") {
        return;
    }
    let node = Node::builder("svc").file("all.yaml", &format!("{MANIFESTS}{SERVICES}{PLAIN}")).start();
    let (client, stranger) = (node.pod("test/client"), node.pod("test/stranger"));
    let server = node.pod("test/server");
    node.pod("kube-system/kube-dns");
    drop(record(server.listen((server.ipv4(), 9090))));
    drop(record(server.listen((server.ipv6(), 9090))));
    for vip in ["10.96.1.2", "[fd00:10:96::1:2]", "plain", "plain.test", "plain.test.svc.cluster.local"] {
        let url = format!("http://{vip}:81/");
        assert_eq!(client.curl(&[&url]).0, 200, "{url}\n{}", node.log());
        assert_eq!(stranger.curl(&["-m", "2", &url]).0, 0, "{url}: policy holds for the backend");
    }
    // The application still sees the address that it asked for.
    let mut curl = client.command("curl");
    curl.args(["-s", "-o", "/dev/null", "-w", "%{remote_ip}:%{remote_port}", "http://10.96.1.2:81/"]);
    let peer = curl.output().expect("curl runs").stdout;
    assert_eq!(String::from_utf8_lossy(&peer), "10.96.1.2:81");
    // A port that the Service does not have.
    assert_eq!(client.curl(&["-m", "2", "http://10.96.1.2:4444/"]).0, 0);
}

#[test]
fn datagrams_to_a_service_come_back_from_it() {
    if !host::privileged("datagrams_to_a_service_come_back_from_it") {
        return;
    }
    let node = Node::builder("udp").file("all.yaml", &format!("{MANIFESTS}{SERVICES}{PLAIN}")).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    for address in [SocketAddr::from((server.ipv4(), 9091)), SocketAddr::from((server.ipv6(), 9091))] {
        let socket = inside(&server.netns(), move || UdpSocket::bind(address).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }
    // The translation belongs to the pod's cgroup, so a process in the pod must ask: python3 is on every Debian.
    let script = "import socket,sys\nfor vip,fam in (('10.96.1.2',socket.AF_INET),('fd00:10:96::1:2',socket.AF_INET6)):\n \
                  for connected in (False,True):\n  s=socket.socket(fam,socket.SOCK_DGRAM); s.settimeout(5)\n  \
                  if connected:\n   s.connect((vip,82)); s.send(b'x'); assert s.recv(9)==b'x'; peer=s.getpeername()\n  \
                  else:\n   s.sendto(b'y',(vip,82)); data,peer=s.recvfrom(9); assert data==b'y'\n  \
                  assert peer[:2]==(vip,82),peer\nprint('good')";
    let output = client.command("python3").args(["-c", script]).output().expect("python3 runs");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("good"), "{text}\n{}", node.log());
}

#[test]
fn names_resolve_through_a_policed_dns_pod() {
    if !host::privileged("names_resolve_through_a_policed_dns_pod") {
        return;
    }
    let node = Node::builder("dns").file("all.yaml", &format!("{MANIFESTS}{SERVICES}{PLAIN}")).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let lookup = |name: &str, family: &str| {
        let output = client.command("getent").args([family, name]).output().expect("getent runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // The DNS pod may be ready a moment after the others.
    eventually("the DNS pod answers", Duration::from_secs(20), || match lookup("plain", "ahostsv4") {
        found if found.contains("10.96.1.2") => Ok(()),
        other => Err(format!("{other}\n{}", node.log())),
    });
    assert!(lookup("plain.test.svc.cluster.local", "ahostsv6").contains("fd00:10:96::1:2"));
    assert!(lookup("headless.test", "ahostsv4").contains(&server.ipv4().to_string()));
    assert_eq!(lookup("nobody.test.svc.cluster.local", "ahostsv4"), "");
    // Default deny on egress of the client: DNS is policed like everything else.
    node.apply(
        "lock.yaml",
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: lock, namespace: test}\n\
         spec: {endpointSelector: {matchLabels: {app: client}}, egress: [{toEntities: [none]}]}\n",
    );
    eventually("DNS is denied too", Duration::from_secs(20), || match lookup("plain", "ahostsv4").as_str() {
        "" => Ok(()),
        other => Err(other.to_owned()),
    });
}

#[test]
fn pods_reach_the_world_masqueraded() {
    if !host::privileged("pods_reach_the_world_masqueraded") {
        return;
    }
    let node = Node::builder("world").file("all.yaml", MANIFESTS).start();
    let client = node.pod("test/client");
    let (v4, v6) = node.world_addresses();
    for (address, source) in [(SocketAddr::from((v4, 8088)), "192.0.2.1"), ((v6, 8088).into(), "2001:db8::1")]
    {
        let listener = inside(&node.world().path(), move || TcpListener::bind(address).unwrap());
        let seen = record(listener);
        assert_eq!(client.curl(&[&format!("http://{address}/")]).0, 200, "{}", node.log());
        assert_eq!(seen.recv().unwrap().peer.ip().to_string(), source);
    }
}
