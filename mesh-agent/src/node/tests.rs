//! The plumbing in real network namespaces: a node, a pod and a world behind it. Root only.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};

use super::*;

/// For what has to work: a lost first packet of neighbour discovery or TCP comes again after a second.
const WAIT: Duration = Duration::from_secs(4);
/// For what must not work.
const PATIENCE: Duration = Duration::from_millis(400);
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Namespaces of one test, removed at its end.
struct Net {
    prefix: String,
}

impl Net {
    /// `None`, loudly, if this is not root.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root for network namespaces");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let net = Self { prefix: format!("hdl-node{}-{number}-", std::process::id()) };
        for name in ["node", "pod", "world"] {
            run(&format!("ip netns add {}", net.name(name)));
            // Link-local addresses would be unusable for a second.
            net.within(name, || sysctl::write("ipv6/conf/default/accept_dad", "0").unwrap());
        }
        net.ip("node", "link set lo up");
        for (name, device) in [("pod", "hdlpod"), ("world", "up0")] {
            let peer = net.name(name);
            let mac = "address 02:00:00:00:00:01";
            net.ip("node", &format!("link add {device} {mac} type veth peer name eth0 netns {peer}"));
            net.ip(name, "link set lo up");
            net.ip(name, "link set eth0 up");
        }
        net.ip("node", "link set up0 up");
        // The strictest setting that a distribution has: `all` or the device's own, whichever is larger.
        net.within("node", || sysctl::write("ipv4/conf/all/rp_filter", "1").unwrap());
        for (name, device, last) in [("node", "up0", 1), ("world", "eth0", 2)] {
            net.ip(name, &format!("addr add 192.0.2.{last}/24 dev {device}"));
            net.ip(name, &format!("addr add 2001:db8::{last}/64 dev {device} nodad"));
        }
        net.ip("node", "route add default via 192.0.2.2");
        net.ip("node", "route add default via 2001:db8::2");
        net.ip("pod", "addr add 10.244.0.9/32 dev eth0");
        net.ip("pod", "addr add fd00:10:244::9/128 dev eth0 nodad");
        for gateway in [IpAddr::from(GATEWAY_V4), GATEWAY_V6.into()] {
            let mac = "lladdr 02:00:00:00:00:01";
            net.ip("pod", &format!("neigh add {gateway} {mac} dev eth0 nud permanent"));
            net.ip("pod", &format!("route add default via {gateway} dev eth0 onlink"));
        }
        // The world knows the way to pods: what protects them is the node.
        net.ip("world", "route add 10.244.0.0/24 via 192.0.2.1");
        net.ip("world", "route add fd00:10:244::/64 via 2001:db8::1");
        Some(net)
    }

    fn name(&self, namespace: &str) -> String {
        format!("{}{namespace}", self.prefix)
    }

    fn ip(&self, namespace: &str, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.name(namespace)));
    }

    /// Runs something in one of the namespaces.
    fn within<T: Send>(&self, namespace: &str, action: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name(namespace))).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                action()
            });
            thread.join().unwrap()
        })
    }

    /// Runs something async in the node's namespace.
    fn on_node<T: Send>(&self, action: impl AsyncFnOnce() -> T + Send) -> T {
        self.within("node", || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(action())
        })
    }

    fn serve(&self, namespace: &str) {
        for address in ["0.0.0.0:80", "[::]:81"] {
            let listener = self.within(namespace, || TcpListener::bind(address).unwrap());
            // Ends with the test process; its namespace with it.
            std::thread::spawn(move || {
                while let Ok((mut stream, peer)) = listener.accept() {
                    let _ = stream.write_all(peer.ip().to_string().as_bytes());
                }
            });
        }
    }

    /// Whom a server at `address` sees when one connects from `namespace`; `None` if it cannot.
    fn seen_by(&self, namespace: &str, address: IpAddr) -> Option<IpAddr> {
        self.seen_within(WAIT, namespace, address)
    }

    fn is_cut_off(&self, namespace: &str, address: IpAddr) -> bool {
        self.seen_within(PATIENCE, namespace, address).is_none()
    }

    fn seen_within(&self, wait: Duration, namespace: &str, address: IpAddr) -> Option<IpAddr> {
        let port = if address.is_ipv4() { 80 } else { 81 };
        self.within(namespace, || read_peer(TcpStream::connect_timeout(&(address, port).into(), wait).ok()?))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in ["pod", "world", "node"] {
            run(&format!("ip netns del {}", self.name(name)));
        }
    }
}

fn read_peer(mut stream: TcpStream) -> Option<IpAddr> {
    stream.set_read_timeout(Some(WAIT)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.parse().ok()
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

fn output(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const POD: [&str; 2] = ["10.244.0.9", "fd00:10:244::9"];
const WORLD: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

fn config(masquerade: bool) -> NodeConfig {
    NodeConfig {
        pod_cidrs: vec!["10.244.0.0/24".parse().unwrap(), "fd00:10:244::/64".parse().unwrap()],
        masquerade,
        not_masqueraded: vec!["10.244.0.0/16".parse().unwrap()],
        police_node: true,
    }
}

async fn set_up(state: &std::path::Path, masquerade: bool) -> Plumbing {
    let plumbing = Plumbing::open(state.join("sysctl.json")).unwrap();
    plumbing.set_up(&config(masquerade)).await.unwrap();
    let ifindex = nix::net::if_::if_nametoindex("hdlpod").unwrap();
    for _ in 0..2 {
        plumbing.prepare_veth(ifindex, &POD.map(ip)).await.unwrap();
    }
    plumbing
}

/// Stands for the kernel programs: what comes from the pod is decided.
fn mark_packets_of_pod() {
    run("nft add table inet test");
    run("nft add chain inet test pre { type filter hook prerouting priority raw - 10; }");
    run("nft add rule inet test pre iifname hdlpod meta mark set 0x100");
}

#[test]
fn set_up_is_idempotent_and_leaves_nothing() {
    let Some(net) = Net::new() else { return };
    let state = tempfile::tempdir().unwrap();
    net.on_node(async || {
        let look = || {
            [
                output("ip -4 rule"),
                output("ip -6 rule"),
                output("ip -4 route show table all"),
                output("nft list ruleset"),
                sysctl::read("ipv4/ip_forward").unwrap().unwrap(),
                sysctl::read("ipv6/conf/all/forwarding").unwrap().unwrap(),
                sysctl::read("ipv6/conf/up0/accept_ra").unwrap().unwrap(),
            ]
        };
        let before = look();
        let plumbing = Plumbing::open(state.path().join("sysctl.json")).unwrap();
        let config = config(true);
        plumbing.set_up(&config).await.unwrap();
        let first = look();
        assert!(first[0].contains("98:\tfrom all to 10.244.0.0/24 fwmark 0/0xf00 prohibit"), "{}", first[0]);
        assert!(first[1].contains("97:\tfrom all iif lo goto 99"), "{}", first[1]);
        assert_eq!(first[5], "1");
        assert_eq!(first[6], "2", "the uplink still learns its routes");
        plumbing.set_up(&config).await.unwrap();
        assert_eq!(look(), first, "a second time changes nothing");

        // An agent that comes back with another range leaves nothing of the old one.
        let second = Plumbing::open(state.path().join("sysctl.json")).unwrap();
        let other = NodeConfig { pod_cidrs: vec!["10.9.0.0/24".parse().unwrap()], ..NodeConfig::default() };
        second.set_up(&other).await.unwrap();
        assert_eq!(
            rules::list(&second.handle).await.unwrap().len(),
            rules::wanted(&other.pod_cidrs, false).len()
        );
        assert!(!output("ip rule").contains("10.244"), "the old range is gone");
        assert!(!output("nft list ruleset").contains("heddle"), "masquerading is off");

        second.tear_down().await.unwrap();
        assert_eq!(look(), before);
        second.tear_down().await.unwrap();
    });
}

#[test]
fn undecided_packets_go_nowhere() {
    let Some(net) = Net::new() else { return };
    let state = tempfile::tempdir().unwrap();
    for namespace in ["node", "pod", "world"] {
        net.serve(namespace);
    }
    let _plumbing = net.on_node(async || set_up(state.path(), false).await);
    for v in [0, 1] {
        assert_eq!(net.seen_by("node", ip(POD[v])), Some(ip(NODE[v])), "the node reaches its pods");
        assert_eq!(net.seen_by("node", ip(WORLD[v])), Some(ip(NODE[v])), "and the world");
        assert_eq!(net.seen_by("world", ip(NODE[v])), Some(ip(WORLD[v])), "which reaches it");
        assert_eq!(net.seen_by("pod", ip(NODE[v])), Some(ip(POD[v])), "as do pods");
        assert!(net.is_cut_off("pod", ip(WORLD[v])), "an undecided packet does not leave");
        assert!(net.is_cut_off("world", ip(POD[v])), "nor does one reach a pod");
    }
}

#[test]
fn pods_reach_the_world_as_the_node() {
    let Some(net) = Net::new() else { return };
    let state = tempfile::tempdir().unwrap();
    net.serve("world");
    net.serve("pod");
    let _plumbing = net.on_node(async || set_up(state.path(), true).await);
    net.within("node", mark_packets_of_pod);
    for v in [0, 1] {
        assert_eq!(net.seen_by("pod", ip(WORLD[v])), Some(ip(NODE[v])));
        assert!(net.is_cut_off("world", ip(POD[v])), "masquerading opens no way in");
    }
}

#[test]
fn masqueraded_replies_find_the_proxy() {
    let Some(net) = Net::new() else { return };
    let state = tempfile::tempdir().unwrap();
    net.serve("world");
    let _plumbing = net.on_node(async || set_up(state.path(), true).await);
    for v in [0, 1] {
        let port = [80, 81][v];
        let seen = net.within("node", || {
            connect_as((ip(POD[v]), 60_001).into(), (ip(WORLD[v]), port).into()).and_then(read_peer)
        });
        assert_eq!(seen, Some(ip(NODE[v])), "the proxy speaks for {}", POD[v]);
    }
}

/// A connection as the proxy's upstreams make it: with the client's address, and their mark.
fn connect_as(source: SocketAddr, to: SocketAddr) -> Option<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).ok()?;
    socket::setsockopt(&fd, sockopt::IpTransparent, &true).unwrap();
    socket::setsockopt(&fd, sockopt::Mark, &abi::mark::UPSTREAM).unwrap();
    socket::setsockopt(&fd, sockopt::SendTimeout, &nix::sys::time::TimeVal::new(4, 0)).unwrap();
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(source)).unwrap();
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).ok()?;
    Some(TcpStream::from(fd))
}

#[test]
fn finds_addresses_and_uplinks() {
    let Some(net) = Net::new() else { return };
    let state = tempfile::tempdir().unwrap();
    net.on_node(async || {
        let plumbing = set_up(state.path(), false).await;
        let addresses: Vec<IpAddr> =
            plumbing.addresses().await.unwrap().into_iter().map(|found| found.address).collect();
        for address in NODE {
            assert!(addresses.contains(&ip(address)), "{address} in {addresses:?}");
        }
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        let uplinks = plumbing.default_devices().await.unwrap();
        assert_eq!(uplinks.iter().map(|device| device.name.as_str()).collect::<Vec<_>>(), ["up0"]);

        let mut changes = NetworkChanges::listen().unwrap();
        run("ip addr add 192.0.2.77/32 dev up0");
        tokio::time::timeout(Duration::from_secs(2), changes.changed()).await.unwrap();
    });
}

#[test]
fn an_instance_has_its_cgroup() {
    if !nix::unistd::geteuid().is_root() || crate::layout::cgroup2_mount().is_none() {
        eprintln!("SKIPPED: needs root and cgroup v2");
        return;
    }
    let instance: crate::layout::Instance = format!("hdl-node{}", std::process::id()).parse().unwrap();
    let all = make_cgroup(&instance).unwrap();
    let root = instance.cgroup(&all);
    assert!(root.join("pods/cgroup.procs").exists());
    std::fs::create_dir(root.join("pods/one")).unwrap();
    make_cgroup(&instance).unwrap();
    remove_cgroup(&instance).unwrap();
    assert!(!root.exists());
    remove_cgroup(&instance).unwrap();
}

#[test]
fn script_of_an_empty_node_is_a_table() {
    let script = masquerade::script(&NodeConfig::default());
    assert!(script.contains("set local4 { type ipv4_addr; flags interval; auto-merge; }"), "{script}");
    let script = masquerade::script(&config(true));
    assert!(script.contains("elements = { 10.244.0.0/16, 10.244.0.0/24 };"), "{script}");
    assert!(script.contains("elements = { fd00:10:244::/64 };"), "{script}");
}
