//! tcx egress at a pod's veth: nothing undecided gets in.

use abi::{ConnEntry, Direction, DropReason, EventKind, PolicyKey, conn_flags, mark};

use crate::kernel::{A, B, Kernel, NODE, NODE6, REMOTE, Rule, Verdict, WORLD, conn};
use crate::packet::*;

const OPEN: Verdict = Verdict::Pass(0);
const NOT_DECIDED: Verdict = Verdict::Drop(DropReason::NotDecided);

#[test]
fn marks() {
    let Some(mut kernel) = Kernel::start() else { return };
    let syn = tcp((WORLD, 1000), (A.v4, 80), SYN);
    for bits in [mark::DIRECT, mark::UPSTREAM, mark::DIRECT | 0xf0f] {
        let outcome = kernel.run_marked("to_pod", &syn, bits);
        let ours = bits & mark::MASK == mark::DIRECT || bits & mark::MASK == mark::UPSTREAM;
        assert_eq!(ours, outcome.verdict == Verdict::Pass(bits), "{bits:#x}");
    }
    for bits in [0, mark::TO_PROXY, mark::TRANSLATED, 0x400, 0xff, 0xf00] {
        assert_eq!(kernel.run_marked("to_pod", &syn, bits).verdict, NOT_DECIDED, "{bits:#x}");
    }
}

#[test]
fn strangers() {
    let Some(mut kernel) = Kernel::start() else { return };
    let rows = [
        ("pod that passed no program", tcp((B.v4, 1), (A.v4, 80), SYN)),
        ("another node's pod", udp((REMOTE.v4, 1), (A.v4, 80))),
        ("world", tcp((WORLD, 1), (A.v4, 80), ACK)),
        ("ping", icmp(WORLD, A.v4, 8, 0, 1)),
        ("error about nothing", icmp_error(WORLD, A.v4, 3, &udp((A.v4, 9), (WORLD, 53)))),
    ];
    for (name, packet) in rows {
        assert_eq!(kernel.run("to_pod", &packet).verdict, NOT_DECIDED, "{name}");
    }
    let tagged = tagged(0x8100, &tcp((NODE, 1), (A.v4, 80), SYN));
    kernel.expect("to_pod", &tagged, Verdict::Drop(DropReason::UnsupportedL2));
}

#[test]
fn link_housekeeping() {
    let Some(mut kernel) = Kernel::start() else { return };
    let nd = |src: &str, dst: &str, icmp_type| {
        packet_with(
            &Ip { hop_limit: 255, ..Ip::default() },
            src,
            dst,
            58,
            &[&[icmp_type, 0, 0, 0][..], &[0; 20]].concat(),
        )
    };
    kernel.expect("to_pod", &arp("169.254.1.1", A.v4), OPEN);
    kernel.expect("to_pod", &nd("fe80::1", "ff02::1:ff00:1", 135), OPEN);
    kernel.expect("to_pod", &nd(NODE6, A.v6, 135), OPEN);
    kernel.expect("to_pod", &nd("fe80::1", A.v6, 136), OPEN);
}

#[test]
fn replies_from_the_node_and_from_masquerade() {
    let Some(mut kernel) = Kernel::start() else { return };
    kernel.policy(A, &[(PolicyKey::peer(0, Direction::Egress), Rule::Allow(21))]);
    for (pod, peer) in [(A.v4, NODE), (A.v4, WORLD), (A.v6, NODE6)] {
        let (client, server) = ((pod, 1000), (peer, 443));
        let reply = tcp(server, client, SYN | ACK);
        assert_ne!(kernel.run("to_pod", &reply).verdict, OPEN, "{peer}: before");
        kernel.expect("from_pod", &tcp(client, server, SYN), Verdict::Pass(mark::DIRECT));
        kernel.expect("to_pod", &reply, OPEN);
        assert_eq!(kernel.connection(&conn(TCP, client, server)).unwrap().flags, conn_flags::REPLIED);
        let error = icmp_error(peer, pod, if peer.contains(':') { 1 } else { 3 }, &tcp(client, server, ACK));
        kernel.expect("to_pod", &error, OPEN);
        // By then it is denied.
        kernel.policy(A, &[]);
        kernel.next_revision();
        let outcome = kernel.run("to_pod", &reply);
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::PolicyDenied));
        assert_eq!(outcome.event().kind, EventKind::Revoked as u8);
        assert!(kernel.connection(&conn(TCP, client, server)).is_none());
        kernel.policy(A, &[(PolicyKey::peer(0, Direction::Egress), Rule::Allow(21))]);
    }
}

#[test]
fn the_nodes_own_connections() {
    let Some(mut kernel) = Kernel::start() else { return };
    let host = |rule| [(PolicyKey::peer(abi::IDENTITY_HOST, Direction::Ingress), rule)];
    kernel.policy(A, &[]);
    let (probe, key) = (tcp((NODE, 1000), (A.v4, 80), SYN), conn(TCP, (NODE, 1000), (A.v4, 80)));
    kernel.expect("to_pod", &probe, Verdict::Drop(DropReason::PolicyDenied));
    kernel.policy(A, &host(Rule::Allow(7)));
    kernel.expect("to_pod", &probe, OPEN);
    let entry = kernel.connection(&key).unwrap();
    assert_eq!(entry.flags, conn_flags::FROM_NODE);
    assert_eq!((entry.src_identity, entry.dst_identity), (abi::IDENTITY_HOST, A.identity));
    assert_eq!((entry.src_endpoint, entry.dst_endpoint, entry.rule), (0, A.id, 7));
    // The pod may open nothing, but it may answer.
    kernel.expect("from_pod", &tcp((A.v4, 80), (NODE, 1000), SYN | ACK), Verdict::Pass(mark::DIRECT));
    kernel.expect(
        "from_pod",
        &tcp((A.v4, 80), (NODE, 1001), SYN | ACK),
        Verdict::Drop(DropReason::PolicyDenied),
    );
    kernel.expect("to_pod", &tcp((NODE, 1000), (A.v4, 80), ACK), OPEN);
    kernel.expect("to_pod", &icmp(NODE, A.v4, 8, 0, 7), OPEN);
    kernel.expect("from_pod", &icmp(A.v4, NODE, 0, 0, 7), Verdict::Pass(mark::DIRECT));
    // The proxy cannot be reached from here: closed, not open.
    kernel.policy(A, &host(Rule::Strict(8)));
    kernel.next_revision();
    kernel.expect("to_pod", &tcp((NODE, 1000), (A.v4, 80), ACK), Verdict::Drop(DropReason::StrictRedirect));
    kernel.expect("to_pod", &probe, Verdict::Drop(DropReason::ProxyUnavailable));
}

#[test]
fn the_proxys_answers_to_its_client() {
    let Some(mut kernel) = Kernel::start() else { return };
    let entry = ConnEntry {
        expires_ns: u64::MAX / 2,
        revision: 1,
        flags: conn_flags::REDIRECTED,
        ..ConnEntry::default()
    };
    kernel.put_connection(&conn(TCP, (A.v4, 1000), (WORLD, 80)), &entry);
    kernel.expect("to_pod", &tcp((WORLD, 80), (A.v4, 1000), SYN | ACK), OPEN);
    kernel.expect("to_pod", &tcp((WORLD, 80), (A.v4, 1001), SYN | ACK), NOT_DECIDED);
}
