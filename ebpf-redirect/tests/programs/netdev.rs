//! tcx ingress at the node's devices: what comes from elsewhere to pods of this node.

use abi::{Direction, DropReason, PolicyKey, mark};

use crate::kernel::{A, B, Kernel, L7_VIP, NODE, REMOTE, Rule, Verdict, WORLD, conn};
use crate::packet::*;

const PASS: Verdict = Verdict::Pass(mark::DIRECT);
const UNTOUCHED: Verdict = Verdict::Pass(0);

#[test]
fn only_packets_to_pods_are_judged() {
    let Some(mut kernel) = Kernel::start() else { return };
    kernel.policy(A, &[]);
    let mut broken = tcp((REMOTE.v4, 1), (A.v4, 80), SYN);
    broken[14 + 20 + 12] = 0;
    let spoofed = || Verdict::Drop(DropReason::InvalidSourceIp);
    let rows = [
        ("to the node", tcp((WORLD, 1), (NODE, 22), SYN), UNTOUCHED),
        ("through the node", tcp((WORLD, 1), (REMOTE.v4, 22), SYN), UNTOUCHED),
        ("arp", arp(WORLD, NODE), UNTOUCHED),
        ("another protocol", ethernet(0x88cc, &[0; 50]), UNTOUCHED),
        ("a VLAN of the node's", tagged(0x8100, &tcp((WORLD, 1), (A.v4, 80), SYN)), UNTOUCHED),
        (
            "fragment to the node",
            packet_with(&Ip { id: 1, fragment: 3, ..Ip::default() }, WORLD, NODE, UDP, &[0; 9]),
            UNTOUCHED,
        ),
        ("to a pod", tcp((REMOTE.v4, 1), (A.v4, 80), SYN), Verdict::Drop(DropReason::PolicyDenied)),
        ("to another pod", tcp((REMOTE.v4, 1), (B.v4, 80), SYN), PASS),
        ("to another pod, v6", tcp((REMOTE.v6, 1), (B.v6, 80), SYN), PASS),
        ("broken, to a pod", broken, Verdict::Drop(DropReason::InvalidPacket)),
        (
            "unknown protocol, to a pod",
            packet(WORLD, A.v4, 47, &[0; 9]),
            Verdict::Drop(DropReason::UnsupportedL4),
        ),
        ("a pod's address from outside", tcp((B.v4, 1), (A.v4, 80), SYN), spoofed()),
        ("the node's address from outside", tcp((NODE, 1), (A.v4, 80), SYN), spoofed()),
        ("to a virtual address", tcp((WORLD, 1), (L7_VIP, 80), SYN), Verdict::Drop(DropReason::NoService)),
    ];
    for (name, packet, want) in rows {
        let outcome = kernel.run("from_netdev", &packet);
        assert_eq!(outcome.verdict, want, "{name}: {:?}", outcome.events);
    }
}

#[test]
fn connections_in_and_out() {
    let Some(mut kernel) = Kernel::start() else { return };
    kernel.policy(A, &[(PolicyKey::peer(REMOTE.identity, Direction::Egress), Rule::Allow(21))]);
    let reply = tcp((REMOTE.v4, 80), (A.v4, 1000), SYN | ACK);
    kernel.expect("from_netdev", &reply, Verdict::Drop(DropReason::PolicyDenied));
    kernel.expect("from_pod", &tcp((A.v4, 1000), (REMOTE.v4, 80), SYN), PASS);
    kernel.expect("from_netdev", &reply, PASS);
    kernel.policy(B, &[(PolicyKey::peer(REMOTE.identity, Direction::Ingress), Rule::Allow(31))]);
    let event = kernel.expect("from_netdev", &udp((REMOTE.v4, 9), (B.v4, 53)), PASS);
    assert_eq!((event.event().rule, event.event().direction), (31, Direction::Ingress as u8));
    assert_eq!((event.event().src_identity, event.event().src_endpoint), (REMOTE.identity, 0));
    kernel.at(B);
    kernel.expect("from_pod", &udp((B.v4, 53), (REMOTE.v4, 9)), PASS);
    assert_eq!(kernel.connection(&conn(UDP, (REMOTE.v4, 9), (B.v4, 53))).unwrap().dst_endpoint, B.id);
}

#[test]
fn ingress_redirect() {
    let Some(mut kernel) = Kernel::start() else { return };
    kernel.policy(B, &[(PolicyKey::peer(0, Direction::Ingress), Rule::Strict(33))]);
    let outcome = kernel.run("from_netdev", &tcp((REMOTE.v4, 9), (B.v4, 80), SYN));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::ProxyUnavailable));
    assert_eq!(outcome.event().rule, 33);
}
