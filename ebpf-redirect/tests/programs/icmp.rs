//! ICMP errors belong to the connection that they are about.

use abi::{ConnEntry, Direction, DropReason, PolicyKey, conn_flags, mark};

use crate::kernel::{A, B, Kernel, Rule, Verdict, WORLD, conn};
use crate::packet::*;

const PASS: Verdict = Verdict::Pass(mark::DIRECT);
const DENIED: Verdict = Verdict::Drop(DropReason::PolicyDenied);

/// A may open connections to B and nothing else may be sent.
fn one_way() -> Option<Kernel> {
    let mut kernel = Kernel::start()?;
    kernel.policy(B, &[(PolicyKey::peer(0, Direction::Ingress), Rule::Allow(1))]);
    kernel.policy(
        A,
        &[
            (PolicyKey::ports(0, Direction::Egress, TCP, 0, 0), Rule::Allow(1)),
            (PolicyKey::ports(0, Direction::Egress, UDP, 0, 0), Rule::Allow(1)),
            (PolicyKey::lookup(0, Direction::Egress, 1, 8), Rule::Allow(1)),
        ],
    );
    Some(kernel)
}

#[test]
fn errors_about_known_connections_pass() {
    let Some(mut kernel) = one_way() else { return };
    let rows = [
        ("udp", udp((A.v4, 9), (B.v4, 53)), udp((B.v4, 53), (A.v4, 9))),
        ("tcp", tcp((A.v4, 9), (B.v4, 80), SYN), tcp((B.v4, 80), (A.v4, 9), ACK)),
        ("ping", icmp(A.v4, B.v4, 8, 0, 7), icmp(B.v4, A.v4, 0, 0, 7)),
        ("udp, v6", udp((A.v6, 9), (B.v6, 53)), udp((B.v6, 53), (A.v6, 9))),
        ("tcp, v6", tcp((A.v6, 9), (B.v6, 80), SYN), tcp((B.v6, 80), (A.v6, 9), ACK)),
    ];
    for (name, request, reply) in rows {
        let (a, b, unreachable) = if request[12] == 8 { (A.v4, B.v4, 3) } else { (A.v6, B.v6, 1) };
        let (about_request, about_reply) =
            (icmp_error(b, a, unreachable, &request), icmp_error(a, b, unreachable, &reply));
        kernel.at(B);
        assert_eq!(kernel.run("from_pod", &about_request).verdict, DENIED, "{name}: before");
        kernel.at(A);
        assert_eq!(kernel.run("from_pod", &request).verdict, PASS, "{name}");
        assert_eq!(kernel.run("from_pod", &about_reply).verdict, PASS, "{name}: about a reply");
        kernel.at(B);
        assert_eq!(kernel.run("from_pod", &about_request).verdict, PASS, "{name}: about the request");
    }
}

#[test]
fn errors_about_others_do_not() {
    let Some(mut kernel) = one_way() else { return };
    let request = udp((A.v4, 9), (B.v4, 53));
    kernel.expect("from_pod", &request, PASS);
    kernel.at(B);
    let rows = [
        ("to another than the sender", icmp_error(B.v4, WORLD, 3, &request)),
        ("about another port", icmp_error(B.v4, A.v4, 3, &udp((A.v4, 9), (B.v4, 54)))),
        ("about nothing", icmp(B.v4, A.v4, 3, 0, 0)),
        ("a redirect", icmp_error(B.v4, A.v4, 5, &request)),
    ];
    for (name, packet) in rows {
        assert_eq!(kernel.run("from_pod", &packet).verdict, DENIED, "{name}");
    }
}

#[test]
fn errors_about_the_proxys_connections_go_to_its_socket() {
    let Some(mut kernel) = one_way() else { return };
    let entry = ConnEntry {
        expires_ns: u64::MAX / 2,
        revision: 1,
        flags: conn_flags::REDIRECTED | conn_flags::REPLIED,
        ..ConnEntry::default()
    };
    kernel.put_connection(&conn(TCP, (A.v4, 9), (WORLD, 80)), &entry);
    // The client's router finds the proxy's segment too large.
    let segment = tcp((WORLD, 80), (A.v4, 9), ACK);
    kernel.expect("from_pod", &icmp_error(A.v4, WORLD, 3, &segment), Verdict::Pass(mark::TO_PROXY));
}
