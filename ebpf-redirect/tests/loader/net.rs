//! Namespaces of a test: a node with two pods, A (client) and B (server).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use abi::{
    ABI_VERSION, Addr, Config, Direction, EndpointEntry, IpcacheEntry, IpcacheKey, PolicyEntry, PolicyKey,
    ipcache_flags, proto, verdict_code,
};
use ebpf_redirect::{Attachment, Datapath, Options, remove_pins};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, sockopt};

pub const PROXY_GID: u32 = 65534;
pub const ENDPOINT_A: u32 = 1;
pub const ENDPOINT_B: u32 = 2;
pub const IDENTITY_A: u32 = 1001;
pub const IDENTITY_B: u32 = 1002;
pub const POD_A: [&str; 2] = ["10.1.0.10", "fd00:1::10"];
pub const POD_B: [&str; 2] = ["10.1.0.20", "fd00:1::20"];
const NODE: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const BPFFS: &str = "/sys/fs/bpf";

/// For what has to work; a lost first packet comes again after a second.
pub const WAIT: Duration = Duration::from_secs(5);
/// For what must not work; long enough for a lost first packet of neighbour discovery.
pub const PATIENCE: Duration = Duration::from_millis(1500);

pub type Policy = BTreeMap<PolicyKey, PolicyEntry>;

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct Node {
    prefix: String,
    pub pin_root: PathBuf,
}

impl Node {
    /// Makes the namespaces and moves this thread into the node's. `None`, loudly, if this is not root.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root for network namespaces and eBPF");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("hdl-ld{}-{number}", std::process::id());
        mount_bpffs();
        let pin_root = PathBuf::from(BPFFS).join("heddle-test").join(&name).join(format!("v{ABI_VERSION}"));
        let node = Self { prefix: format!("{name}-"), pin_root };
        for namespace in ["node", "a", "b"] {
            run(&format!("ip netns add {}", node.name(namespace)));
            node.within(namespace, || write("/proc/sys/net/ipv6/conf/default/accept_dad", "0"));
            node.ip(namespace, "link set lo up");
        }
        node.enter();
        write("/proc/sys/net/ipv4/ip_forward", "1");
        write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
        node.ip("node", &format!("addr add {}/32 dev lo", NODE[0]));
        node.ip("node", &format!("addr add {}/128 dev lo", NODE[1]));
        for family in ["-4", "-6"] {
            run(&format!("ip {family} rule add pref 99 fwmark 0xa00/0xf00 lookup main"));
            run(&format!("ip {family} rule add pref 100 iif lo fwmark 0x200/0xf00 lookup main"));
            run(&format!("ip {family} rule add pref 101 fwmark 0x200/0xf00 lookup 2005"));
            run(&format!("ip {family} route add local default dev lo table 2005"));
        }
        node.add_pod("a", POD_A);
        node.add_pod("b", POD_B);
        Some(node)
    }

    fn add_pod(&self, namespace: &str, addresses: [&str; 2]) {
        let veth = format!("v{namespace}");
        run(&format!("ip link add {veth} type veth peer name eth0 netns {}", self.name(namespace)));
        self.ip("node", &format!("addr add 169.254.1.1/32 dev {veth} scope link"));
        self.ip("node", &format!("addr add fe80::1/64 dev {veth} nodad"));
        self.ip("node", &format!("link set {veth} up"));
        self.ip(namespace, "link set eth0 up");
        self.ip(namespace, &format!("addr add {}/32 dev eth0", addresses[0]));
        self.ip(namespace, &format!("addr add {}/128 dev eth0 nodad", addresses[1]));
        self.ip(namespace, "route add 169.254.1.1 dev eth0 scope link");
        self.ip(namespace, "route add default via 169.254.1.1 dev eth0");
        self.ip(namespace, "route add default via fe80::1 dev eth0");
        for address in addresses {
            self.ip("node", &format!("route add {address} dev {veth}"));
        }
    }

    fn name(&self, namespace: &str) -> String {
        format!("{}{namespace}", self.prefix)
    }

    pub fn ip(&self, namespace: &str, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.name(namespace)));
    }

    fn namespace(&self, namespace: &str) -> File {
        File::open(format!("/run/netns/{}", self.name(namespace))).unwrap()
    }

    /// Moves this thread into the node's namespace.
    pub fn enter(&self) {
        setns(self.namespace("node"), CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Runs something in one of the namespaces.
    pub fn within<T: Send>(&self, namespace: &str, action: impl FnOnce() -> T + Send) -> T {
        let file = self.namespace(namespace);
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                action()
            });
            thread.join().unwrap()
        })
    }

    pub fn options(&self) -> Options {
        Options { pin_root: self.pin_root.clone(), proxy_gid: PROXY_GID }
    }

    pub fn open(&self) -> Datapath {
        Datapath::open(&self.options()).unwrap()
    }

    /// Everything set up, with this policy for A's egress; B lets A in.
    pub fn start(&self, egress_of_a: &Policy) -> Datapath {
        self.start_with(Attachment::Tcx, egress_of_a)
    }

    pub fn start_with(&self, attachment: Attachment, egress_of_a: &Policy) -> Datapath {
        let mut datapath = Datapath::open_with(&self.options(), attachment).unwrap();
        datapath.configure(&config(1)).unwrap();
        datapath.sync_ipcache(&ipcache()).unwrap();
        datapath.set_policy(ENDPOINT_A, egress_of_a).unwrap();
        let allow_a = policy(IDENTITY_A, Direction::Ingress, verdict_code::ALLOW);
        datapath.set_policy(ENDPOINT_B, &allow_a).unwrap();
        datapath.attach_netns().unwrap();
        datapath.attach_endpoint(ifindex("va"), &self.endpoint_a()).unwrap();
        datapath.attach_endpoint(ifindex("vb"), &self.endpoint_b()).unwrap();
        datapath
    }

    pub fn endpoint_a(&self) -> EndpointEntry {
        self.described("a", endpoint(ENDPOINT_A, IDENTITY_A, POD_A))
    }

    pub fn endpoint_b(&self) -> EndpointEntry {
        self.described("b", endpoint(ENDPOINT_B, IDENTITY_B, POD_B))
    }

    /// With the pod's network namespace and hardware address.
    fn described(&self, namespace: &str, entry: EndpointEntry) -> EndpointEntry {
        let (netns_cookie, mac) = self.within(namespace, || (Datapath::netns_cookie().unwrap(), mac("eth0")));
        EndpointEntry { netns_cookie, mac, ..entry }
    }

    /// A server in pod B that answers each line with the client's address; ends with the process.
    pub fn serve(&self, port: u16) {
        for family in ["0.0.0.0", "::"] {
            let address = SocketAddr::new(family.parse().unwrap(), port);
            let listener = self.within("b", || TcpListener::from(listen(address, false)));
            std::thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    std::thread::spawn(move || echo(stream));
                }
            });
        }
    }

    /// Connects from pod A.
    pub fn connect(&self, to: &str, port: u16, wait: Duration) -> std::io::Result<TcpStream> {
        let to = SocketAddr::new(to.parse().unwrap(), port);
        let stream = self.within("a", || TcpStream::connect_timeout(&to, wait))?;
        stream.set_read_timeout(Some(WAIT))?;
        Ok(stream)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let pins = remove_pins(&self.pin_root);
        for namespace in ["a", "b", "node"] {
            run(&format!("ip netns del {}", self.name(namespace)));
        }
        if !std::thread::panicking() {
            pins.unwrap();
        }
    }
}

fn echo(mut stream: TcpStream) {
    let Ok(peer) = stream.peer_addr() else { return };
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() {
        if stream.write_all(format!("{}\n", unmapped(peer.ip())).as_bytes()).is_err() {
            return;
        }
    }
}

/// Asks the server once; its answer, or nothing.
pub fn ask(stream: &mut TcpStream) -> Option<IpAddr> {
    stream.write_all(b"?").ok()?;
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() {
        if byte == *b"\n" {
            return String::from_utf8(line).ok()?.parse().ok();
        }
        line.extend(byte);
    }
    None
}

fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// A listening socket of one family.
pub fn listen(address: SocketAddr, transparent: bool) -> OwnedFd {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true).unwrap();
    if address.is_ipv6() {
        socket::setsockopt(&fd, sockopt::Ipv6V6Only, &true).unwrap();
    }
    if transparent {
        socket::setsockopt(&fd, sockopt::IpTransparent, &true).unwrap();
    }
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    socket::listen(&fd, Backlog::new(64).unwrap()).unwrap();
    fd
}

pub fn config(revision: u32) -> Config {
    Config {
        abi_version: ABI_VERSION,
        revision,
        node_netns_cookie: Datapath::netns_cookie().unwrap(),
        ..Config::default()
    }
}

pub fn addr(text: &str) -> Addr {
    match text.parse::<IpAddr>().unwrap() {
        IpAddr::V4(address) => Addr::v4(address.octets()),
        IpAddr::V6(address) => Addr::v6(address.octets()),
    }
}

pub fn endpoint(id: u32, identity: u32, addresses: [&str; 2]) -> EndpointEntry {
    let [ipv4, ipv6] = addresses.map(addr);
    EndpointEntry { id, identity_v4: identity, identity_v6: identity, ipv4, ipv6, ..EndpointEntry::default() }
}

pub fn host(address: &str) -> IpcacheKey {
    IpcacheKey { prefix_len: 128, addr: addr(address) }
}

pub fn ipcache() -> BTreeMap<IpcacheKey, IpcacheEntry> {
    let world = IpcacheEntry { identity: abi::IDENTITY_WORLD, ..IpcacheEntry::default() };
    let mut entries = BTreeMap::from([
        (IpcacheKey { prefix_len: 96, addr: addr("0.0.0.0") }, world),
        (IpcacheKey { prefix_len: 0, addr: Addr::v6(Ipv6Addr::UNSPECIFIED.octets()) }, world),
    ]);
    let mut add = |addresses: [&str; 2], identity, endpoint, flags| {
        for address in addresses {
            entries.insert(host(address), IpcacheEntry { identity, endpoint, flags, node: 0 });
        }
    };
    add(POD_A, IDENTITY_A, ENDPOINT_A, ipcache_flags::POD);
    add(POD_B, IDENTITY_B, ENDPOINT_B, ipcache_flags::POD);
    add(NODE, abi::IDENTITY_HOST, 0, ipcache_flags::LOCAL_NODE);
    entries
}

/// A policy of one TCP entry for every port, for peers of this identity.
pub fn policy(identity: u32, direction: Direction, verdict: u8) -> Policy {
    let key = PolicyKey::ports(identity, direction, proto::TCP, 0, 0);
    BTreeMap::from([(key, PolicyEntry { precedence: 10, rule: 7, verdict, _pad: [0; 3] })])
}

pub fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// Hardware address of a device of this thread's namespace.
fn mac(device: &str) -> [u8; 6] {
    let all = nix::ifaddrs::getifaddrs().unwrap();
    let link = |found: nix::ifaddrs::InterfaceAddress| {
        (found.interface_name == device).then(|| found.address?.as_link_addr()?.addr()).flatten()
    };
    all.filter_map(link).next().expect("a hardware address")
}

pub fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

fn write(path: &str, value: &str) {
    std::fs::write(path, value).unwrap();
}

fn mount_bpffs() {
    use nix::mount::{MsFlags, mount};
    use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
    if statfs(BPFFS).unwrap().filesystem_type() != BPF_FS_MAGIC {
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700")).unwrap();
    }
}
