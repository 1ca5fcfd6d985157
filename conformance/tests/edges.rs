//! The edges of a node: the world before and behind its NIC, datagrams and pings, spoofed
//! sources, and processes that make way for their successors.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use conformance::http::{Connection, Seen, record};
use conformance::load::Load;
use conformance::netns::inside;
use conformance::{Node, Pod, eventually, host};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MANIFESTS: &str = conformance::manifests::HTTP;
const LIMIT: Duration = Duration::from_secs(15);
/// Only GET of /public from the client to the world, by address.
const TO_WORLD: &str = "
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out, namespace: test}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
    - toCIDR: [192.0.2.2/32, \"2001:db8::2/128\"]
      toPorts:
        - ports: [{port: \"8080\", protocol: TCP}]
          rules: {http: [{method: GET, path: \"/public/.*\"}]}
";
/// Only GET of /public from the world to the stranger, and nothing else at all.
const FROM_WORLD: &str = "
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: in, namespace: test}
spec:
  endpointSelector: {matchLabels: {app: stranger}}
  ingress:
    - fromEntities: [world]
      toPorts:
        - ports: [{port: \"8080\", protocol: TCP}]
          rules: {http: [{method: GET, path: \"/public/.*\"}]}
";
/// UDP 7000 and 7001, and echo, from the client to the server.
const DATAGRAMS: &str = "
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: datagrams, namespace: test}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: client}}]
      toPorts: [{ports: [{port: \"7000\", protocol: UDP}, {port: \"7001\", protocol: UDP}]}]
    - fromEndpoints: [{matchLabels: {app: client}}]
      icmps: [{fields: [{family: IPv4, type: 8}, {family: IPv6, type: 128}]}]
";

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("the process lives");
}

/// One request on a connection of its own, from inside a namespace.
fn request(from: &std::path::Path, to: SocketAddr, method: &str, path: &str) -> std::io::Result<u16> {
    let (method, path) = (method.to_owned(), path.to_owned());
    inside(from, move || {
        let stream = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        Ok(Connection::new(stream)?.request(&method, &path, &[])?.status)
    })
}

/// The dropped flow of a pod with this reason.
fn drop_of(node: &Node, pod: &str, reason: &str) -> serde_json::Value {
    eventually(&format!("a drop of {pod} for {reason}"), LIMIT, || {
        let flows = node.json(&["flows", "--verdict", "dropped", "--from", pod]);
        let list = flows["flows"].as_array().cloned().unwrap_or_default();
        list.into_iter().find(|flow| flow["reason"] == reason).ok_or_else(|| flows.to_string())
    })
}

#[test]
fn http_to_the_world_is_policed_and_masqueraded() {
    if !host::privileged("http_to_the_world_is_policed_and_masqueraded") {
        return;
    }
    let node = Node::builder("egress").file("http.yaml", &format!("{MANIFESTS}{TO_WORLD}")).start();
    let client = node.pod("test/client");
    let (v4, v6) = node.world_addresses();
    for (world, node_address) in [
        (IpAddr::from(v4), "192.0.2.1".parse::<IpAddr>().unwrap()),
        (v6.into(), "2001:db8::1".parse().unwrap()),
    ] {
        let target = SocketAddr::new(world, 8080);
        let seen = record(inside(&node.world().path(), move || TcpListener::bind(target).unwrap()));
        let url = format!("http://{target}/public/a");
        let (status, body) = client.curl(&[&url]);
        assert_eq!(status, 200, "{url}: {body}\n{}", node.log());
        assert_eq!(client.curl(&["-XPOST", "-d", "x", &url]).0, 403, "{url}");
        let all: Vec<Seen> = seen.try_iter().collect();
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(all[0].peer.ip(), node_address, "the world sees the node");
        let other = format!("http://{}/public/a", SocketAddr::new(world, 8081));
        assert_eq!(client.curl(&["-m", "1", &other]).0, 0, "no other port");
    }
}

#[test]
fn http_from_the_world_is_redirected_at_the_nic() {
    if !host::privileged("http_from_the_world_is_redirected_at_the_nic") {
        return;
    }
    let node = Node::builder("ingress").file("http.yaml", &format!("{MANIFESTS}{FROM_WORLD}")).start();
    let pod = node.pod("test/stranger");
    node.world().ip("route add 10.244.0.0/24 via 192.0.2.1");
    node.world().ip("-6 route add fd00:10:244::/64 via 2001:db8::1");
    let (v4, v6) = node.world_addresses();
    let world = node.world().path();
    for (address, client) in [(IpAddr::from(pod.ipv4()), IpAddr::from(v4)), (pod.ipv6().into(), v6.into())] {
        let target = SocketAddr::new(address, 8080);
        let (seen, plain) = (record(pod.listen(target)), record(pod.listen((address, 9090))));
        let status = request(&world, target, "GET", "/public/a");
        assert_eq!(status.unwrap_or_else(|e| panic!("{target}: {e}\n{}", node.log())), 200);
        assert_eq!(request(&world, target, "DELETE", "/public/a").unwrap(), 403);
        let all: Vec<Seen> = seen.try_iter().collect();
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(all[0].peer.ip(), client, "the pod sees the client");
        let denied = request(&world, (address, 9090).into(), "GET", "/public/a");
        assert_eq!(denied.expect_err("layer 4 denies").kind(), std::io::ErrorKind::TimedOut);
        assert_eq!(plain.try_iter().count(), 0);
    }
}

#[test]
fn a_killed_proxy_is_back_soon_and_nothing_passes_unpoliced() {
    /// From the SIGKILL until a request is answered again; debug builds on a busy machine are slow.
    const BACK_MAX: Duration = Duration::from_secs(10);
    if !host::privileged("a_killed_proxy_is_back_soon_and_nothing_passes_unpoliced") {
        return;
    }
    let node = Node::builder("killed").file("http.yaml", MANIFESTS).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let target = SocketAddr::from((server.ipv4(), 8080));
    let seen = record(server.listen(target));
    let load = Load::start(&client, &[target], "/public/a", 400);
    let forbidden = Load::start(&client, &[target], "/private", 100);
    std::thread::sleep(Duration::from_millis(500));
    signal(node.proxy_pid(), Signal::SIGKILL);
    let begin = Instant::now();
    eventually("requests work again", BACK_MAX, || {
        match request(&client.netns(), target, "GET", "/public/back").map_err(|e| e.to_string())? {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    println!("requests work again after {:?}", begin.elapsed());
    std::thread::sleep(Duration::from_secs(1));
    let (allowed, denied) = (load.stop(), forbidden.stop());
    println!("{} requests, {} failed", allowed.requests, allowed.failures.len());
    assert!(allowed.requests > 100 && denied.requests > 20, "{allowed:?} {denied:?}");
    let unpoliced: Vec<String> =
        seen.try_iter().map(|request| request.line).filter(|line| !line.contains("/public/")).collect();
    assert!(unpoliced.is_empty(), "{unpoliced:?}");
}

#[test]
fn a_proxy_hands_over_to_its_successor() {
    if !host::privileged("a_proxy_hands_over_to_its_successor") {
        return;
    }
    let node = Node::builder("handover").file("http.yaml", MANIFESTS).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let targets = [SocketAddr::from((server.ipv4(), 8080)), SocketAddr::from((server.ipv6(), 8080))];
    targets.iter().for_each(|target| drop(record(server.listen(*target))));
    let load = Load::start(&client, &targets, "/public/a", 400);
    let old = node.proxy_pid();
    // The supervisor would start another one in the place of the first.
    signal(node.supervisor_pid(), Signal::SIGSTOP);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = node.heddle(&["proxy", "--workers", "1"]);
    command.stdout(log.reopen().unwrap()).stderr(log.reopen().unwrap()).stdin(Stdio::null());
    let mut successor = command.spawn().unwrap();
    let log = || std::fs::read_to_string(log.path()).unwrap();
    eventually("the successor has the listeners", LIMIT, || {
        if log().contains(" ready ") { Ok(()) } else { Err(log()) }
    });
    signal(old, Signal::SIGTERM);
    eventually("the old proxy has ended", LIMIT, || {
        // A child that nobody has waited for is a zombie.
        let stat = std::fs::read_to_string(format!("/proc/{old}/stat")).unwrap_or_else(|_| ") Z".into());
        if stat.contains(") Z") { Ok(()) } else { Err(stat) }
    });
    std::thread::sleep(Duration::from_secs(1));
    let tally = load.stop();
    assert!(tally.failures.is_empty(), "{} requests: {:#?}\n{}", tally.requests, tally.failures, node.log());
    assert_eq!(client.curl(&["-XDELETE", &format!("http://{}/public/a", targets[0])]).0, 403, "{}", log());
    // And back, under the supervisor.
    signal(node.supervisor_pid(), Signal::SIGCONT);
    eventually("the supervisor's next proxy", LIMIT, || {
        let log = node.log();
        if log.matches(" ready ").count() >= 2 { Ok(()) } else { Err(log) }
    });
    signal(successor.id(), Signal::SIGTERM);
    assert!(successor.wait().unwrap().success());
    assert_eq!(client.curl(&[&format!("http://{}/public/a", targets[0])]).0, 200);
}

#[test]
fn a_new_agent_learns_what_changed_while_there_was_none() {
    if !host::privileged("a_new_agent_learns_what_changed_while_there_was_none") {
        return;
    }
    let node = Node::builder("learns").file("http.yaml", MANIFESTS).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    drop(record(server.listen((server.ipv4(), 8080))));
    let mut kept = Connection::new(client.connect((server.ipv4(), 8080)).unwrap()).unwrap();
    let mut get = |path: &str| kept.request("GET", path, &[]).map(|response| response.status).unwrap();
    assert_eq!(get("/public/a"), 200);
    let agent = node.agent_pid();
    signal(node.supervisor_pid(), Signal::SIGSTOP);
    signal(agent, Signal::SIGKILL);
    node.apply("http.yaml", &MANIFESTS.replace("/public/.*", "/other/.*"));
    assert_eq!([get("/public/a"), get("/other/a")], [200, 403], "what was in force stays in force");
    signal(node.supervisor_pid(), Signal::SIGCONT);
    eventually("the change is in force", Duration::from_secs(30), || match get("/public/a") {
        403 => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(get("/other/a"), 200, "on the connection from before");
}

/// Sends a datagram and waits for the answer.
fn exchange(pod: &Pod, to: SocketAddr) -> std::io::Result<usize> {
    inside(&pod.netns(), move || {
        let from: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(from)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.connect(to)?;
        socket.send(b"ping")?;
        socket.recv(&mut [0; 16])
    })
}

/// An echo request and the wait for its reply (RFC 792, RFC 4443 section 4).
fn ping(pod: &Pod, to: IpAddr) -> std::io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    // Type, code, checksum (that of ICMPv6 the kernel adds), identifier, number.
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, [8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1], 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, [128, 0, 0, 0, 0x12, 0x34, 0, 1], 129),
    };
    inside(&pod.netns(), move || {
        // Only its system calls count: sendto, recvfrom and the time-out are those of any datagram socket.
        let socket = UdpSocket::from(socket(family, SockType::Raw, SockFlag::empty(), protocol)?);
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.send_to(&request, (to, 0))?;
        let mut buffer = [0; 128];
        for _ in 0..100 {
            let length = socket.recv(&mut buffer)?;
            // An IPv4 raw socket shows the IP header.
            let head = if to.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
            if length >= head + 8 && buffer[head] == reply && buffer[head + 4..head + 6] == [0x12, 0x34] {
                return Ok(());
            }
        }
        Err(std::io::ErrorKind::TimedOut.into())
    })
}

#[test]
fn datagrams_and_pings_are_policed_and_errors_come_back() {
    use std::io::ErrorKind::{ConnectionRefused, TimedOut, WouldBlock};
    if !host::privileged("datagrams_and_pings_are_policed_and_errors_come_back") {
        return;
    }
    let node = Node::builder("udp").file("http.yaml", &format!("{MANIFESTS}{DATAGRAMS}")).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let stranger = node.pod("test/stranger");
    for address in [IpAddr::from(server.ipv4()), server.ipv6().into()] {
        let echo = inside(&server.netns(), move || UdpSocket::bind((address, 7000)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((length, peer)) = echo.recv_from(&mut buffer) {
                let _ = echo.send_to(&buffer[..length], peer);
            }
        });
        let silent = |result: std::io::Result<usize>| {
            let kind = result.expect_err("no answer").kind();
            assert!(matches!(kind, TimedOut | WouldBlock), "{address}: {kind:?}");
        };
        assert_eq!(exchange(&client, (address, 7000).into()).unwrap(), 4, "{address}\n{}", node.log());
        silent(exchange(&stranger, (address, 7000).into()));
        silent(exchange(&client, (address, 7002).into()));
        let refused = exchange(&client, (address, 7001).into()).expect_err("nobody listens");
        assert_eq!(refused.kind(), ConnectionRefused, "{address}: the error comes back");
        ping(&client, address).unwrap_or_else(|e| panic!("{address}: {e}\n{}", node.log()));
        ping(&stranger, address).expect_err("a stranger's ping is dropped");
    }
    drop_of(&node, "test/stranger", "POLICY_DENIED");
}

#[test]
fn a_spoofed_source_is_dropped_with_a_reason() {
    if !host::privileged("a_spoofed_source_is_dropped_with_a_reason") {
        return;
    }
    let node = Node::builder("lies").file("http.yaml", &format!("{MANIFESTS}{DATAGRAMS}")).start();
    let (client, server) = (node.pod("test/client"), node.pod("test/server"));
    let netns = client.netns().file_name().unwrap().to_string_lossy().into_owned();
    // Addresses of its own choice: the packets are real ones.
    host::ip(&format!("-n {netns} addr add 10.244.0.77/32 dev eth0"));
    host::ip(&format!("-n {netns} addr add fd00:10:244::77/128 dev eth0 nodad"));
    for (from, to) in [
        ("10.244.0.77:0", SocketAddr::from((server.ipv4(), 7000))),
        ("[fd00:10:244::77]:0", (server.ipv6(), 7000).into()),
    ] {
        let from: SocketAddr = from.parse().unwrap();
        let socket = inside(&server.netns(), move || UdpSocket::bind(to).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        inside(&client.netns(), move || UdpSocket::bind(from).unwrap().send_to(b"x", to).unwrap());
        assert!(socket.recv(&mut [0; 8]).is_err(), "{from} to {to} arrived");
    }
    drop_of(&node, "test/client", "INVALID_SOURCE_IP");
    let metrics = inside(&node.netns().path(), || {
        let stream = std::net::TcpStream::connect(("127.0.0.1", 15020)).unwrap();
        Connection::new(stream).unwrap().request("GET", "/metrics", &["Connection: close"]).unwrap().text()
    });
    let line = metrics.lines().find(|line| line.contains("INVALID_SOURCE_IP") && !line.ends_with(" 0"));
    assert!(line.is_some(), "{metrics}");
}
