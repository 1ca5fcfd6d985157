//! From a pod's connect() into a listener of the node, by an unprivileged process's hand.
#![allow(unsafe_code)] // giving up privileges in one thread only needs raw system calls

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use abi::{ConnKey, Direction, DropReason, EventKind, ListenerSlot, conn_flags, proto, verdict_code};
use ebpf_redirect::ProxyMaps;
use nix::libc;

use super::net::*;

const PORT: u16 = 8080;
const LISTENER: u16 = 15001;

/// The proxy's two egress listeners, published from a thread without any privilege.
fn proxy(pin_root: &Path) -> [TcpListener; 2] {
    let sockets = ["0.0.0.0", "::"].map(|any| listen(SocketAddr::new(any.parse().unwrap(), LISTENER), true));
    unprivileged(|| {
        let maps = ProxyMaps::open(pin_root).unwrap();
        for (slot, socket) in [ListenerSlot::EgressV4, ListenerSlot::EgressV6].into_iter().zip(&sockets) {
            maps.publish_listener(slot, socket.as_fd()).unwrap();
        }
    });
    sockets.map(TcpListener::from)
}

/// Runs something in a thread of uid and gid 65534 without capabilities.
fn unprivileged<T: Send>(action: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: raw system calls change this thread only, unlike the C library's functions.
            let results = unsafe {
                [
                    libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()),
                    libc::syscall(libc::SYS_setresgid, PROXY_GID, PROXY_GID, PROXY_GID),
                    libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534),
                ]
            };
            assert_eq!(results, [0; 3]);
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
            action()
        });
        thread.join().unwrap()
    })
}

fn key(client: SocketAddr, destination: SocketAddr) -> ConnKey {
    ConnKey {
        src: addr(&client.ip().to_string()),
        dst: addr(&destination.ip().to_string()),
        sport: client.port().to_be(),
        dport: destination.port().to_be(),
        proto: proto::TCP,
        _pad: [0; 3],
    }
}

#[test]
fn pods_meet_the_proxy() {
    let Some(node) = Node::new() else { return };
    let redirect = policy(IDENTITY_B, Direction::Egress, verdict_code::REDIRECT_STRICT);
    let datapath = node.start(&redirect);
    let listeners = proxy(&node.pin_root);
    for (v, listener) in listeners.iter().enumerate() {
        let mut client = node.connect(POD_B[v], PORT, WAIT).unwrap();
        client.write_all(b"x").unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        let original = SocketAddr::new(POD_B[v].parse().unwrap(), PORT);
        assert_eq!(accepted.local_addr().unwrap(), original, "the original destination");
        assert_eq!(peer.ip().to_string(), POD_A[v], "the client's own address");
        let record = unprivileged(|| {
            let maps = ProxyMaps::open(&node.pin_root).unwrap();
            assert!(maps.is_current(&node.pin_root).unwrap());
            maps.connection(&key(peer, original)).unwrap()
        });
        let record = record.expect("the program's record");
        assert_ne!(record.flags & conn_flags::REDIRECTED, 0);
        assert_eq!((record.src_identity, record.dst_identity), (IDENTITY_A, IDENTITY_B));
        assert_eq!((record.src_endpoint, record.dst_endpoint), (ENDPOINT_A, ENDPOINT_B));
        assert_eq!((record.revision, record.rule), (1, 7));
    }
    assert_eq!(datapath.counters().unwrap().new_redirected, 2);
}

#[test]
fn others_may_not_touch_the_maps() {
    let Some(node) = Node::new() else { return };
    let datapath = node.open();
    unprivileged(|| {
        let open = |name: &str| aya::maps::MapData::from_pin(node.pin_root.join("maps").join(name)).is_ok();
        assert!(open("LISTENERS"));
        for name in ["CONFIG", "ENDPOINTS", "IPCACHE", "POLICY", "SERVICES", "EVENTS", "CONNECTIONS"] {
            assert!(!open(name), "{name} can be written");
        }
        assert!(std::fs::read_dir(node.pin_root.join("links")).is_err());
    });
    drop(datapath);
    // Another group than the proxy's.
    let mut options = node.options();
    options.proxy_gid = 64_815;
    let _datapath = ebpf_redirect::Datapath::open(&options).unwrap();
    let refused = unprivileged(|| ProxyMaps::open(&node.pin_root).map(drop)).unwrap_err();
    assert!(refused.to_string().contains("maps/LISTENERS"), "{refused}");
}

#[test]
fn without_a_proxy_nothing_passes() {
    let Some(node) = Node::new() else { return };
    node.serve(PORT);
    let redirect = policy(IDENTITY_B, Direction::Egress, verdict_code::REDIRECT_STRICT);
    let mut datapath = node.start(&redirect);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut events = runtime.block_on(async { datapath.events().unwrap() });
    let [v4, v6] = proxy(&node.pin_root);
    assert!(node.connect(POD_B[0], PORT, WAIT).is_ok());
    // Its descriptors gone is what SIGKILL does to a proxy.
    drop((v4, v6));
    for v in [0, 1] {
        // A process that another test starts at this moment holds a copy of the listener until it executes.
        let end = Instant::now() + WAIT;
        while node.connect(POD_B[v], PORT, PATIENCE).is_ok() {
            assert!(Instant::now() < end, "connected without a proxy");
        }
        let dropped = runtime.block_on(async {
            loop {
                let batch = tokio::time::timeout(WAIT, events.next()).await.expect("an event").unwrap();
                // Packets of the connection before are dropped as well.
                let ours =
                    |event: &abi::Event| event.kind == EventKind::Drop as u8 && event.dst == addr(POD_B[v]);
                if let Some(event) = batch.into_iter().find(ours) {
                    return event;
                }
            }
        });
        assert_eq!(dropped.reason, DropReason::ProxyUnavailable as u8);
        assert_eq!((dropped.src, dropped.dst), (addr(POD_A[v]), addr(POD_B[v])));
        assert_eq!((dropped.src_endpoint, dropped.dst_endpoint), (ENDPOINT_A, ENDPOINT_B));
        assert_eq!(u16::from_be(dropped.dport), PORT);
    }
    let counters = datapath.counters().unwrap();
    assert!(counters.drops_for(DropReason::ProxyUnavailable) >= 2, "{counters:?}");
    // A new proxy takes over with no help.
    let [v4, _v6] = proxy(&node.pin_root);
    let _client = node.connect(POD_B[0], PORT, WAIT).unwrap();
    v4.accept().unwrap();
}
