//! Connect-time translation: the socket reaches a backend and believes that it reached the service.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;

use abi::{BackendEntry, ServiceEntry, ServiceKey, service_flags, verdict_code};
use abi::{Direction, DropReason};

use super::net::*;

const VIP: [&str; 2] = ["10.96.0.1", "fd00:96::1"];
const PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;

/// A cgroup below this process's own, gone with the test. Threads cannot be moved one by one in cgroup v2
/// domains, so that the hooks go to the cgroup this process is in, for the time of the test.
struct Hooked(PathBuf);

impl Hooked {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))
            .and_then(|line| line.split(' ').nth(4))
            .expect("cgroup v2 is mounted");
        let folder = PathBuf::from(root).join(format!("hdl-traffic-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        Self(folder)
    }
}

impl Drop for Hooked {
    fn drop(&mut self) {
        // Back to the root, so that the folder can go.
        let root = self.0.parent().unwrap();
        let _ = fs::write(root.join("cgroup.procs"), std::process::id().to_string());
        let _ = fs::remove_dir(&self.0);
    }
}

type Services = BTreeMap<ServiceKey, (ServiceEntry, Vec<BackendEntry>)>;

fn service(proto: u8, flags: u32, backends: bool) -> Services {
    let mut services = Services::new();
    for v in [0, 1] {
        let key = ServiceKey { addr: addr(VIP[v]), port: PORT.to_be(), proto, _pad: 0 };
        let backend = BackendEntry { addr: addr(POD_B[v]), port: BACKEND_PORT.to_be(), _pad: 0 };
        let backends = if backends { vec![backend] } else { Vec::new() };
        let id = v as u32 + 1 + u32::from(proto) * 10;
        let entry = ServiceEntry { id, count: backends.len() as u32, flags, affinity_seconds: 60 };
        services.insert(key, (entry, backends));
    }
    services
}

fn socket_addr(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

fn any(v: usize, port: u16) -> SocketAddr {
    socket_addr(["0.0.0.0", "::"][v], port)
}

#[test]
fn services_at_the_socket() {
    let Some(node) = Node::new() else { return };
    let hooked = Hooked::new();
    let allow = policy(IDENTITY_B, Direction::Egress, verdict_code::ALLOW);
    let mut datapath = node.start(&allow);
    let udp = |direction, identity| {
        let key = abi::PolicyKey::ports(identity, direction, abi::proto::UDP, 0, 0);
        let mut policy = policy(identity, direction, verdict_code::ALLOW);
        let entry = *policy.values().next().unwrap();
        policy.insert(key, entry);
        policy
    };
    datapath.set_policy(ENDPOINT_A, &udp(Direction::Egress, IDENTITY_B)).unwrap();
    datapath.set_policy(ENDPOINT_B, &udp(Direction::Ingress, IDENTITY_A)).unwrap();
    datapath.attach_cgroup(&hooked.0).unwrap();
    node.serve(BACKEND_PORT);

    // TCP; also an IPv6 socket with a mapped address.
    datapath.sync_services(&service(abi::proto::TCP, 0, true)).unwrap();
    for to in [VIP[0], VIP[1], "::ffff:10.96.0.1"] {
        let mut stream = node.connect(to, PORT, WAIT).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(stream.peer_addr().unwrap(), socket_addr(to, PORT), "getpeername shows the service");
        let client: IpAddr = POD_A[usize::from(to == VIP[1])].parse().unwrap();
        assert_eq!(ask(&mut stream), Some(client));
    }
    // Without a backend: refused at once, counted.
    datapath.sync_services(&service(abi::proto::TCP, 0, false)).unwrap();
    for to in VIP {
        let refused = node.connect(to, PORT, WAIT).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
    }
    assert!(datapath.counters().unwrap().drops_for(DropReason::NoBackend) >= 2);
    // A kept VIP stays for pods; the node's own processes are translated.
    datapath.sync_services(&service(abi::proto::TCP, service_flags::KEEP_VIP, true)).unwrap();
    // The node speaks to its pods from the address on their veth.
    let mut prefixes = ipcache();
    let node_entry = prefixes[&super::net::host("10.1.0.1")];
    prefixes.insert(super::net::host("169.254.1.1"), node_entry);
    for vip in VIP {
        let flags = abi::ipcache_flags::SERVICE_VIP;
        prefixes.insert(super::net::host(vip), abi::IpcacheEntry { flags, ..Default::default() });
    }
    datapath.sync_ipcache(&prefixes).unwrap();
    let host = policy(abi::IDENTITY_HOST, Direction::Ingress, verdict_code::ALLOW);
    datapath.set_policy(ENDPOINT_B, &host).unwrap();
    for v in [0, 1] {
        assert!(node.connect(VIP[v], PORT, PATIENCE).is_err(), "there is no proxy");
        let stream = TcpStream::connect_timeout(&socket_addr(VIP[v], PORT), WAIT).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), socket_addr(VIP[v], PORT));
    }
    assert!(datapath.counters().unwrap().drops_for(DropReason::ProxyUnavailable) >= 2);

    datapath.set_policy(ENDPOINT_B, &udp(Direction::Ingress, IDENTITY_A)).unwrap();
    datapath.sync_services(&service(abi::proto::UDP, 0, true)).unwrap();
    datagrams(&node);
    drop(datapath);
}

/// UDP, connected and not, IPv4, IPv6 and mapped.
fn datagrams(node: &Node) {
    for v in [0, 1] {
        let server = node.within("b", || UdpSocket::bind(socket_addr(POD_B[v], BACKEND_PORT)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(&buffer[..length], from);
            }
        });
    }
    let mut buffer = [0; 64];
    for (bind, to) in [(any(0, 0), VIP[0]), (any(1, 0), VIP[1]), (any(1, 0), "::ffff:10.96.0.1")] {
        let to = socket_addr(to, PORT);
        let unconnected = node.within("a", || UdpSocket::bind(bind).unwrap());
        unconnected.set_read_timeout(Some(WAIT)).unwrap();
        for round in [b"first", b"again"] {
            unconnected.send_to(round, to).unwrap();
            let (length, from) = unconnected.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&round[..], to), "the answer comes from the service");
        }
        let connected = node.within("a", || UdpSocket::bind(bind).unwrap());
        connected.set_read_timeout(Some(WAIT)).unwrap();
        connected.connect(to).unwrap();
        assert_eq!(connected.peer_addr().unwrap(), to);
        connected.send(b"hello").unwrap();
        assert_eq!(connected.recv(&mut buffer).unwrap(), 5);
    }
}
