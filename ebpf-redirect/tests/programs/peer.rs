//! The short way from pod to pod, past the node's stack.

use abi::{ConnEntry, Direction, DropReason, PolicyKey, conn_flags, mark};

use crate::kernel::{A, B, IFINDEX, Kernel, PEER_IFINDEX, PEER_MAC, REMOTE, Rule, Verdict, conn};
use crate::packet::*;

const STACK: Verdict = Verdict::Pass(mark::DIRECT);

/// A packet of A to B whose IPv4 header has a checksum.
fn request(with: &Ip, v6: bool) -> Vec<u8> {
    let (src, dst) = if v6 { (A.v6, B.v6) } else { (A.v4, B.v4) };
    let mut frame = packet_with(with, src, dst, TCP, &tcp_header(1000, 80, SYN));
    if !v6 {
        let sum = checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    to_router(frame)
}

/// Addressed to the hardware address of the test run's device.
fn to_router(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].fill(0);
    frame
}

/// RFC 1071.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn an_allowed_packet_goes_straight_to_the_pod_as_a_router_would_send_it() {
    let Some(mut kernel) = Kernel::start() else { return };
    kernel.has_veth(B, PEER_IFINDEX);
    // Every value of the checksum's first octet, the carry included.
    for (v6, id) in (0..=0xff_u16).map(|high| (false, high << 8 | 0x10)).chain([(true, 0)]) {
        let frame = request(&Ip { id, ..Ip::default() }, v6);
        let outcome = kernel.expect("from_pod", &frame, Verdict::Peer);
        let mut want = frame.clone();
        want[6..12].copy_from_slice(&frame[..6]);
        want[..6].copy_from_slice(&PEER_MAC);
        want[if v6 { 21 } else { 22 }] = 63;
        if !v6 {
            assert_eq!(checksum(&outcome.packet[14..34]), 0, "{id:#x}");
            want[24..26].copy_from_slice(&outcome.packet[24..26]);
        }
        assert_eq!(outcome.packet, want);
    }
    // The connection is known, and counted once.
    assert_eq!(kernel.connection(&conn(TCP, (A.v4, 1000), (B.v4, 80))).unwrap().src_endpoint, A.id);
    assert_eq!(kernel.counter(abi::Counter::NewDirect), 2);
}

#[test]
fn what_needs_a_router_takes_the_stack() {
    let Some(mut kernel) = Kernel::start() else { return };
    for v6 in [false, true] {
        kernel.expect("from_pod", &request(&Ip::default(), v6), STACK);
    }
    kernel.has_veth(B, PEER_IFINDEX);
    kernel.has_veth(A, IFINDEX);
    let hops = |hop_limit| Ip { hop_limit, ..Ip::default() };
    for v6 in [false, true] {
        kernel.expect("from_pod", &request(&hops(1), v6), STACK);
        kernel.expect("from_pod", &request(&hops(2), v6), Verdict::Peer);
    }
    // Router alert (RFC 2113), and its like for IPv6 (RFC 2711).
    let alert = Ip { options: vec![148, 4, 0, 0], ..Ip::default() };
    kernel.expect("from_pod", &request(&alert, false), STACK);
    let alert = Ip { extensions: vec![(0, vec![0, 0, 5, 2, 0, 0, 1, 0])], ..Ip::default() };
    kernel.expect("from_pod", &request(&alert, true), STACK);
    let first = Ip { fragment: 0x2000, id: 7, ..Ip::default() };
    kernel.expect("from_pod", &request(&first, false), STACK);
    // A frame that is not the router's.
    kernel.expect("from_pod", &tcp((A.v4, 1000), (B.v4, 80), SYN), STACK);
    // To itself, and to a pod of another node.
    kernel.expect("from_pod", &to_router(tcp((A.v4, 1000), (A.v4, 80), SYN)), STACK);
    kernel.expect("from_pod", &to_router(tcp((A.v4, 1000), (REMOTE.v4, 80), SYN)), STACK);
    // The link is asked about long packets, and this one does not exist.
    let long = packet(A.v4, B.v4, TCP, &[tcp_header(1000, 80, SYN), vec![0; 1261]].concat());
    kernel.expect("from_pod", &to_router(long), STACK);
    let fits = packet(A.v4, B.v4, TCP, &[tcp_header(1000, 80, SYN), vec![0; 1240]].concat());
    kernel.expect("from_pod", &to_router(fits), Verdict::Peer);
}

#[test]
fn the_short_way_is_policed_like_the_long_one() {
    let Some(mut kernel) = Kernel::start() else { return };
    kernel.has_veth(B, PEER_IFINDEX);
    kernel.policy(B, &[(PolicyKey::ports(A.identity, Direction::Ingress, TCP, 80, 16), Rule::Allow(31))]);
    kernel.expect("from_pod", &to_router(tcp((A.v4, 1000), (B.v4, 80), SYN)), Verdict::Peer);
    let denied = Verdict::Drop(DropReason::PolicyDenied);
    kernel.expect("from_pod", &tcp((A.v4, 1000), (B.v4, 81), SYN), denied);
    assert_eq!(kernel.drops_in(DropReason::PolicyDenied, Direction::Ingress), 1);
    assert_eq!(kernel.drops_in(DropReason::PolicyDenied, Direction::Egress), 0);
    kernel.policy(A, &[]);
    kernel.next_revision();
    kernel.expect("from_pod", &tcp((A.v4, 1000), (B.v4, 80), ACK), Verdict::Drop(DropReason::PolicyDenied));
    assert_eq!(kernel.drops_in(DropReason::PolicyDenied, Direction::Egress), 1);
    // A redirected connection has no other way than the proxy.
    kernel.allow_all(A);
    let entry = ConnEntry {
        expires_ns: u64::MAX / 2,
        revision: 2,
        flags: conn_flags::REDIRECTED,
        ..ConnEntry::default()
    };
    kernel.put_connection(&conn(TCP, (A.v4, 1000), (B.v4, 80)), &entry);
    let no_proxy = Verdict::Drop(DropReason::ProxyUnavailable);
    kernel.expect("from_pod", &tcp((A.v4, 1000), (B.v4, 80), ACK), no_proxy);
}
