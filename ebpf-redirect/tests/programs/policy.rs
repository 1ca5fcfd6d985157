//! Which policy decides, what it says, and what the event tells of it.

use abi::{Counter, Direction, DropReason, EventKind, PolicyKey, conn_flags, mark};

use crate::kernel::{
    A, B, Kernel, L4_VIP, L7_VIP, L7_VIP6, NODE, NODE6, Pod, REMOTE, Rule, Verdict, WORLD, WORLD6, conn,
};
use crate::packet::*;

const PASS: Verdict = Verdict::Pass(mark::DIRECT);
const NO_PROXY: Verdict = Verdict::Drop(DropReason::ProxyUnavailable);

fn egress(pod: Pod, port: u16) -> PolicyKey {
    PolicyKey::lookup(pod.identity, Direction::Egress, TCP, port)
}

fn ingress(pod: Pod, port: u16) -> PolicyKey {
    PolicyKey::lookup(pod.identity, Direction::Ingress, TCP, port)
}

#[test]
fn both_directions_in_one_pass() {
    use Rule::{Allow, Deny, Lenient, Strict};
    let allow = DropReason::PolicyDeny; // stands for "passes" in the table
    let rows = [
        // egress of A, ingress of B, what comes of it, rule, direction
        (Allow(21), Allow(31), allow, 21, Direction::Egress),
        (Allow(0), Allow(31), allow, 31, Direction::Ingress),
        (Deny(22), Allow(31), DropReason::PolicyDeny, 22, Direction::Egress),
        (Allow(21), Deny(32), DropReason::PolicyDeny, 32, Direction::Ingress),
        (Deny(22), Deny(32), DropReason::PolicyDeny, 22, Direction::Egress),
        (Strict(23), Allow(31), DropReason::ProxyUnavailable, 23, Direction::Egress),
        (Allow(21), Lenient(34), DropReason::ProxyUnavailable, 34, Direction::Ingress),
        (Lenient(24), Strict(33), DropReason::ProxyUnavailable, 33, Direction::Ingress),
        (Strict(23), Deny(32), DropReason::PolicyDeny, 32, Direction::Ingress),
        (Deny(22), Strict(33), DropReason::PolicyDeny, 22, Direction::Egress),
    ];
    let Some(mut kernel) = Kernel::start() else { return };
    for (number, (out, into, reason, rule, direction)) in rows.into_iter().enumerate() {
        kernel.policy(A, &[(egress(B, 80), out)]);
        kernel.policy(B, &[(ingress(A, 80), into)]);
        let allowed = !matches!(out, Deny(_) | Strict(_) | Lenient(_)) && matches!(into, Allow(_));
        let want = if allowed { PASS } else { Verdict::Drop(reason) };
        for (src, dst) in [(A.v4, B.v4), (A.v6, B.v6)] {
            let outcome = kernel.run("from_pod", &tcp((src, 1000 + number as u16), (dst, 80), SYN));
            assert_eq!(outcome.verdict, want, "row {number}");
            let event = outcome.event();
            assert_eq!((event.rule, event.direction), (rule, direction as u8), "row {number}");
            assert_eq!((event.src_identity, event.dst_identity), (A.identity, B.identity));
            assert_eq!((event.src_endpoint, event.dst_endpoint), (A.id, B.id));
            let kind = if allowed { EventKind::New } else { EventKind::Drop };
            assert_eq!(event.kind, kind as u8, "row {number}");
        }
    }
}

/// A NetworkPolicy's `ipBlock` may hold one address of a pod and not the other.
#[test]
fn a_pods_identity_is_that_of_its_address() {
    const INSIDE: u32 = abi::IDENTITY_LOCAL_FIRST + 5;
    let Some(mut kernel) = Kernel::start() else { return };
    let inside = PolicyKey::lookup(INSIDE, Direction::Ingress, TCP, 80);
    kernel.policy(B, &[(inside, Rule::Allow(31))]);
    for (v4, v6) in [(INSIDE, A.identity), (A.identity, INSIDE)] {
        kernel.at_with(A, v4, v6);
        for (identity, src, dst) in [(v4, A.v4, B.v4), (v6, A.v6, B.v6)] {
            let outcome = kernel.run("from_pod", &tcp((src, v4 as u16), (dst, 80), SYN));
            let refused = Verdict::Drop(DropReason::PolicyDenied);
            assert_eq!(outcome.verdict, if identity == INSIDE { PASS } else { refused }, "{src}");
            assert_eq!(outcome.event().src_identity, identity);
        }
    }
    // The gate: the node's own connection to such a pod names it as what it is.
    kernel.policy(A, &[(PolicyKey::peer(abi::IDENTITY_HOST, Direction::Ingress), Rule::Allow(7))]);
    kernel.at_with(A, INSIDE, A.identity);
    for (node, pod, identity) in [(NODE, A.v4, INSIDE), (NODE6, A.v6, A.identity)] {
        let outcome = kernel.run("to_pod", &tcp((node, 1000), (pod, 80), SYN));
        assert_eq!(outcome.event().dst_identity, identity, "{pod}");
    }
}

#[test]
fn default_deny_and_missing_policy() {
    let Some(mut kernel) = Kernel::start() else { return };
    let syn = tcp((A.v4, 1000), (B.v4, 80), SYN);
    kernel.policy(B, &[]);
    let event = kernel.expect("from_pod", &syn, Verdict::Drop(DropReason::PolicyDenied));
    assert_eq!((event.event().rule, event.event().direction), (0, Direction::Ingress as u8));
    kernel.no_policy(B);
    kernel.expect("from_pod", &syn, Verdict::Drop(DropReason::NoPolicy));
    kernel.allow_all(B);
    kernel.no_policy(A);
    kernel.expect("from_pod", &syn, Verdict::Drop(DropReason::NoPolicy));
    assert!(kernel.connection(&conn(TCP, (A.v4, 1000), (B.v4, 80))).is_none(), "a drop leaves no entry");
}

#[test]
fn ports_and_peers() {
    let Some(mut kernel) = Kernel::start() else { return };
    kernel.policy(
        A,
        &[
            (PolicyKey::ports(B.identity, Direction::Egress, TCP, 8080, 12), Rule::Allow(1)),
            (PolicyKey::ports(0, Direction::Egress, UDP, 53, 16), Rule::Allow(2)),
            (PolicyKey::lookup(REMOTE.identity, Direction::Egress, UDP, 53), Rule::Deny(3)),
            (PolicyKey::lookup(0, Direction::Egress, 1, 8), Rule::Allow(4)),
            (PolicyKey::lookup(0, Direction::Egress, 58, 128), Rule::Allow(5)),
            (PolicyKey::ports(0, Direction::Egress, SCTP, 0, 0), Rule::Allow(6)),
        ],
    );
    let denied = || Verdict::Drop(DropReason::PolicyDenied);
    let rows = [
        ("first of the range", tcp((A.v4, 1), (B.v4, 8080), SYN), PASS),
        ("last of the range", tcp((A.v4, 1), (B.v4, 8095), SYN), PASS),
        ("behind the range", tcp((A.v4, 1), (B.v4, 8096), SYN), denied()),
        ("other protocol", udp((A.v4, 1), (B.v4, 8080)), denied()),
        ("other peer", tcp((A.v4, 1), (WORLD, 8080), SYN), denied()),
        ("any peer", udp((A.v4, 1), (WORLD, 53)), PASS),
        ("denied peer", udp((A.v4, 1), (REMOTE.v4, 53)), Verdict::Drop(DropReason::PolicyDeny)),
        ("ping", icmp(A.v4, WORLD, 8, 0, 1), PASS),
        ("ping, v6", icmp(A.v6, WORLD6, 128, 0, 1), PASS),
        ("time stamp", icmp(A.v4, WORLD, 13, 0, 1), denied()),
        ("every SCTP port", sctp((A.v4, 1), (WORLD, 9)), PASS),
    ];
    for (name, packet, want) in rows {
        let outcome = kernel.run("from_pod", &packet);
        assert_eq!(outcome.verdict, want, "{name}: {:?}", outcome.events);
    }
}

#[test]
fn redirect_without_a_proxy_leaves_no_entry() {
    let Some(mut kernel) = Kernel::start() else { return };
    kernel.policy(A, &[(PolicyKey::peer(0, Direction::Egress), Rule::Strict(7))]);
    for (src, dst) in [(A.v4, B.v4), (A.v6, B.v6)] {
        kernel.expect("from_pod", &tcp((src, 1000), (dst, 80), SYN), NO_PROXY);
        assert!(kernel.connection(&conn(TCP, (src, 1000), (dst, 80))).is_none());
        // What is in the middle is not let through either.
        kernel.expect("from_pod", &tcp((src, 1000), (dst, 80), ACK), NO_PROXY);
    }
    // There is no listener for anything but TCP.
    kernel.expect("from_pod", &udp((A.v4, 1000), (B.v4, 80)), Verdict::Drop(DropReason::UnsupportedL4));
    assert_eq!(kernel.counter(Counter::NewRedirected), 0);
}

#[test]
fn virtual_addresses() {
    let Some(mut kernel) = Kernel::start() else { return };
    let no_service = || Verdict::Drop(DropReason::NoService);
    let rows = [
        ("kept", tcp((A.v4, 1), (L7_VIP, 80), SYN), NO_PROXY),
        ("kept, v6", tcp((A.v6, 1), (L7_VIP6, 80), SYN), NO_PROXY),
        ("another port", tcp((A.v4, 1), (L7_VIP, 81), SYN), no_service()),
        ("another protocol", udp((A.v4, 1), (L7_VIP, 80)), no_service()),
        ("ping", icmp(A.v4, L7_VIP, 8, 0, 1), no_service()),
        ("not translated", tcp((A.v4, 1), (L4_VIP, 80), SYN), no_service()),
    ];
    for (name, packet, want) in rows {
        let outcome = kernel.run("from_pod", &packet);
        assert_eq!(outcome.verdict, want, "{name}");
    }
}

#[test]
fn new_connections_say_so_once() {
    let Some(mut kernel) = Kernel::start() else { return };
    let syn = tcp((A.v4, 1000), (B.v4, 80), SYN);
    let event = kernel.expect("from_pod", &syn, PASS).event().to_owned();
    assert_eq!((event.kind, event.reason, event.proto), (EventKind::New as u8, 0, TCP));
    assert_eq!((u16::from_be(event.sport), u16::from_be(event.dport)), (1000, 80));
    assert_eq!(event.revision, 1);
    assert_eq!(kernel.expect("from_pod", &syn, PASS).events, [], "a retransmission is no news");
    assert_eq!(kernel.counter(Counter::NewDirect), 1);
    let entry = kernel.connection(&conn(TCP, (A.v4, 1000), (B.v4, 80))).unwrap();
    assert_eq!((entry.flags, entry.revision, entry.rule), (0, 1, 2));
    assert_eq!((entry.src_identity, entry.dst_identity), (A.identity, B.identity));
    assert_eq!((entry.src_endpoint, entry.dst_endpoint), (A.id, B.id));
    assert_eq!(entry.flags & conn_flags::REDIRECTED, 0);
}

#[test]
fn events_have_a_budget() {
    let Some(mut kernel) = Kernel::start() else { return };
    kernel.config.events_per_second = 3;
    kernel.configure();
    let mut seen = 0;
    for port in 0..50 {
        seen += kernel.run("from_pod", &tcp((B.v4, port), (A.v4, 80), SYN)).events.len();
    }
    let left_out = kernel.counter(Counter::EventsLeftOut);
    assert_eq!(seen as u64 + left_out, 50, "what is left out is counted");
    assert!((3..40).contains(&seen), "{seen} events");
    assert_eq!(kernel.drops(DropReason::InvalidSourceIp), 50);
}
