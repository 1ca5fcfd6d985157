//! Packets to and from the proxy's sockets: resets, TIME_WAIT, upstream connections, the client as its own
//! backend.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Instant;

use abi::{Direction, ListenerSlot, mark, verdict_code};
use ebpf_redirect::ProxyMaps;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};

use super::net::*;

const PORT: u16 = 8080;

fn socket_addr(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// The proxy's listeners, marked as its other sockets are: what they answer leaves by the gate on that.
fn proxy(node: &Node) -> [TcpListener; 2] {
    let maps = ProxyMaps::open(&node.pin_root).unwrap();
    let slots = [ListenerSlot::EgressV4, ListenerSlot::EgressV6];
    [0, 1].map(|v| {
        let listener = listen(socket_addr(["0.0.0.0", "::"][v], 15001), true);
        socket::setsockopt(&listener, sockopt::Mark, &mark::UPSTREAM).unwrap();
        maps.publish_listener(slots[v], listener.as_fd()).unwrap();
        TcpListener::from(listener)
    })
}

/// A socket of the proxy towards a pod, with a client's address or the node's.
fn upstream(from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd: OwnedFd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    socket::setsockopt(&fd, sockopt::IpTransparent, &true)?;
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    socket::setsockopt(&fd, sockopt::Mark, &mark::UPSTREAM)?;
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
    let timeout = nix::sys::time::TimeVal::new(2, 0);
    socket::setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
    socket::setsockopt(&fd, sockopt::ReceiveTimeout, &timeout)?;
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(fd))
}

fn strict() -> Policy {
    policy(IDENTITY_B, Direction::Egress, verdict_code::REDIRECT_STRICT)
}

#[test]
fn a_direct_connection_is_reset_when_layer_7_is_demanded() {
    let Some(node) = Node::new() else { return };
    let mut datapath = node.start(&policy(IDENTITY_B, Direction::Egress, verdict_code::ALLOW));
    node.serve(PORT);
    let _proxy = proxy(&node);
    for v in [0, 1] {
        let mut live = node.connect(POD_B[v], PORT, WAIT).unwrap();
        assert_eq!(ask(&mut live), Some(POD_A[v].parse::<IpAddr>().unwrap()));
        datapath.set_policy(ENDPOINT_A, &strict()).unwrap();
        datapath.configure(&config(2 + v as u32 * 2)).unwrap();
        live.write_all(b"?").unwrap();
        let error = live.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{}", POD_B[v]);
        datapath.set_policy(ENDPOINT_A, &policy(IDENTITY_B, Direction::Egress, verdict_code::ALLOW)).unwrap();
        datapath.configure(&config(3 + v as u32 * 2)).unwrap();
    }
}

#[test]
fn the_same_tuple_again_while_the_proxy_has_it_in_time_wait() {
    let Some(node) = Node::new() else { return };
    let _datapath = node.start(&strict());
    let listeners = proxy(&node);
    for v in [0, 1] {
        let to = socket_addr(POD_B[v], PORT);
        for round in 0..3 {
            let start = Instant::now();
            let client = node.within("a", || {
                let from = socket_addr(POD_A[v], 40_000);
                let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
                let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
                socket::setsockopt(&fd, sockopt::ReuseAddr, &true).unwrap();
                socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
                socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
                TcpStream::from(fd)
            });
            let (accepted, peer) = listeners[v].accept().unwrap();
            assert_eq!((accepted.local_addr().unwrap(), peer.port()), (to, 40_000));
            assert!(start.elapsed().as_millis() < 500, "round {round}: {:?}", start.elapsed());
            // The proxy closes first: TIME_WAIT is its.
            drop(accepted);
            let mut client = client;
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            drop(client);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

#[test]
fn upstream_connections_bear_the_clients_address_or_the_nodes() {
    let Some(node) = Node::new() else { return };
    let mut datapath = node.start(&strict());
    let mut prefixes = ipcache();
    prefixes.insert(host("169.254.1.1"), prefixes[&host("10.1.0.1")]);
    datapath.sync_ipcache(&prefixes).unwrap();
    // Neither pod may open anything: what passes is the proxy's.
    datapath.set_policy(ENDPOINT_B, &policy(1, Direction::Ingress, verdict_code::DENY)).unwrap();
    let node_addresses = ["10.1.0.1", "fd00:1::1"];
    node.serve(PORT);
    for v in [0, 1] {
        // As the client: the replies come to an address that is not the node's.
        for port in [60_001, 62_501] {
            let mut stream = upstream(socket_addr(POD_A[v], port), socket_addr(POD_B[v], PORT)).unwrap();
            assert_eq!(ask(&mut stream), Some(POD_A[v].parse().unwrap()));
        }
        // As the node, for a backend that is its own client; any port.
        for port in [0, 61_000] {
            let mut stream =
                upstream(socket_addr(node_addresses[v], port), socket_addr(POD_B[v], PORT)).unwrap();
            assert_eq!(ask(&mut stream), Some(node_addresses[v].parse().unwrap()));
        }
        // Without the proxy's mark the same is policed.
        let plain = TcpStream::connect_timeout(&socket_addr(POD_B[v], PORT), PATIENCE);
        assert!(plain.is_err(), "the gate let a node process in");
        let counters = datapath.counters().unwrap();
        assert!(counters.drops_for(abi::DropReason::PolicyDeny) > v as u64, "{counters:?}");
    }
}

#[test]
fn a_reserved_port_in_use_by_the_proxy_is_not_the_clients() {
    let Some(node) = Node::new() else { return };
    let mut datapath = node.start(&strict());
    node.serve(PORT);
    let mut held = upstream(socket_addr(POD_A[0], 60_001), socket_addr(POD_B[0], PORT)).unwrap();
    assert!(ask(&mut held).is_some());
    // The client may go direct by now, and takes the very port.
    datapath.set_policy(ENDPOINT_A, &policy(IDENTITY_B, Direction::Egress, verdict_code::ALLOW)).unwrap();
    let collided = node.within("a", || {
        let fd = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let timeout = nix::sys::time::TimeVal::new(0, 500_000);
        socket::setsockopt(&fd, sockopt::SendTimeout, &timeout).unwrap();
        socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(socket_addr(POD_A[0], 60_001))).unwrap();
        socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(socket_addr(POD_B[0], PORT)))
    });
    assert!(collided.is_err());
    let counters = datapath.counters().unwrap();
    assert!(counters.drops_for(abi::DropReason::PortCollision) >= 1, "{counters:?}");
    assert!(ask(&mut held).is_some(), "the proxy's connection lives on");
}
