//! The life of a connection: replies, revisions, endings.

use abi::{ConnEntry, Direction, DropReason, EventKind, PolicyKey, conn_flags, conn_timeout_ns, mark};

use crate::kernel::{A, B, Kernel, L7_VIP, Rule, Verdict, WORLD, conn};
use crate::packet::*;

const PASS: Verdict = Verdict::Pass(mark::DIRECT);
const NO_PROXY: Verdict = Verdict::Drop(DropReason::ProxyUnavailable);
const CLIENT: (&str, u16) = (A.v4, 1000);
const SERVER: (&str, u16) = (B.v4, 80);

fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Seconds that an entry has left, rounded.
fn seconds_left(entry: &ConnEntry) -> u64 {
    (entry.expires_ns.saturating_sub(now_ns()) + 500_000_000) / 1_000_000_000
}

/// Lets A open connections to B, and B none: what B sends must be a reply.
fn one_way() -> Option<Kernel> {
    let mut kernel = Kernel::start()?;
    kernel.policy(B, &[(PolicyKey::peer(0, Direction::Ingress), Rule::Allow(31))]);
    kernel.policy(A, &[(PolicyKey::peer(0, Direction::Egress), Rule::Allow(21))]);
    Some(kernel)
}

/// Runs a packet at the veth of the pod that sends it.
#[track_caller]
fn from(kernel: &mut Kernel, packet: &[u8], want: Verdict) {
    let source = packet.get(26..30).unwrap();
    kernel.at(if source == [10, 1, 0, 1] { A } else { B });
    kernel.expect("from_pod", packet, want);
}

#[test]
fn replies_pass_by_the_entry() {
    let Some(mut kernel) = one_way() else { return };
    let rows = [
        (tcp(CLIENT, SERVER, SYN), tcp(SERVER, CLIENT, SYN | ACK), conn(TCP, CLIENT, SERVER)),
        (udp(CLIENT, (B.v4, 53)), udp((B.v4, 53), CLIENT), conn(UDP, CLIENT, (B.v4, 53))),
        (sctp(CLIENT, (B.v4, 53)), sctp((B.v4, 53), CLIENT), conn(SCTP, CLIENT, (B.v4, 53))),
        (icmp(A.v4, B.v4, 8, 0, 7), icmp(B.v4, A.v4, 0, 0, 7), conn(1, (A.v4, 7), (B.v4, 0))),
    ];
    for (request, reply, key) in rows {
        from(&mut kernel, &reply, Verdict::Drop(DropReason::PolicyDenied));
        from(&mut kernel, &request, PASS);
        assert_eq!(kernel.connection(&key).unwrap().flags, 0);
        from(&mut kernel, &reply, PASS);
        assert_eq!(kernel.connection(&key).unwrap().flags, conn_flags::REPLIED);
    }
    // An answer to another ping, and a reply to another port, are not replies.
    from(&mut kernel, &icmp(B.v4, A.v4, 0, 0, 8), Verdict::Drop(DropReason::PolicyDenied));
    from(&mut kernel, &udp((B.v4, 54), CLIENT), Verdict::Drop(DropReason::PolicyDenied));
    // B may not open a connection under cover of one that A opened.
    from(&mut kernel, &tcp(SERVER, CLIENT, SYN), Verdict::Drop(DropReason::PolicyDenied));
}

#[test]
fn lifetimes() {
    let Some(mut kernel) = one_way() else { return };
    let key = conn(TCP, CLIENT, SERVER);
    let mut step = |packet: &[u8], flags: u32, seconds: u64| {
        from(&mut kernel, packet, PASS);
        let entry = kernel.connection(&key).unwrap();
        assert_eq!((entry.flags, seconds_left(&entry)), (flags, seconds));
    };
    use conn_flags::{ASSURED, FIN_FORWARD, FIN_REVERSE, REPLIED, RST as RESET};
    const LIVE: u32 = REPLIED | ASSURED;
    step(&tcp(CLIENT, SERVER, SYN), 0, 20);
    step(&tcp(SERVER, CLIENT, SYN | ACK), REPLIED, 60);
    step(&tcp(CLIENT, SERVER, ACK), LIVE, 8000);
    step(&tcp(CLIENT, SERVER, ACK | FIN), LIVE | FIN_FORWARD, 8000);
    step(&tcp(SERVER, CLIENT, ACK | FIN), LIVE | FIN_FORWARD | FIN_REVERSE, 10);
    // The tuple is used again.
    step(&tcp(CLIENT, SERVER, SYN), 0, 20);
    step(&tcp(SERVER, CLIENT, SYN | ACK), REPLIED, 60);
    step(&tcp(SERVER, CLIENT, RST), REPLIED | RESET, 10);
    // A forged RST: the connection goes on.
    step(&tcp(CLIENT, SERVER, ACK), LIVE | RESET, 60);
}

#[test]
fn lifetimes_of_datagrams() {
    let Some(mut kernel) = one_way() else { return };
    let key = conn(UDP, CLIENT, (B.v4, 53));
    let (question, answer) = (udp(CLIENT, (B.v4, 53)), udp((B.v4, 53), CLIENT));
    let mut step = |packet: &[u8], flags: u32, seconds: u64| {
        from(&mut kernel, packet, PASS);
        let entry = kernel.connection(&key).unwrap();
        assert_eq!((entry.flags, seconds_left(&entry)), (flags, seconds));
    };
    step(&question, 0, 30);
    step(&question, 0, 30);
    step(&answer, conn_flags::REPLIED, 30);
    // A conversation, and not one question.
    step(&question, conn_flags::REPLIED | conn_flags::ASSURED, 120);
    assert_eq!(conn_timeout_ns::UDP, 30_000_000_000);
}

#[test]
fn far_from_expiry_nothing_is_written() {
    let Some(mut kernel) = one_way() else { return };
    let key = conn(UDP, CLIENT, (B.v4, 53));
    from(&mut kernel, &udp(CLIENT, (B.v4, 53)), PASS);
    let before = kernel.connection(&key).unwrap();
    from(&mut kernel, &udp(CLIENT, (B.v4, 53)), PASS);
    assert_eq!(kernel.connection(&key).unwrap(), before);
    let near = ConnEntry { expires_ns: now_ns() + 25_000_000_000, ..before };
    kernel.put_connection(&key, &near);
    from(&mut kernel, &udp(CLIENT, (B.v4, 53)), PASS);
    assert_eq!(seconds_left(&kernel.connection(&key).unwrap()), 30);
}

#[test]
fn a_lost_or_expired_entry_is_decided_as_new() {
    let Some(mut kernel) = one_way() else { return };
    let key = conn(TCP, CLIENT, SERVER);
    from(&mut kernel, &tcp(CLIENT, SERVER, ACK), PASS);
    let entry = kernel.connection(&key).unwrap();
    kernel.put_connection(&key, &ConnEntry { expires_ns: now_ns() - 20_000_000, ..entry });
    from(&mut kernel, &tcp(SERVER, CLIENT, ACK), Verdict::Drop(DropReason::PolicyDenied));
    from(&mut kernel, &tcp(CLIENT, SERVER, ACK), PASS);
    from(&mut kernel, &tcp(SERVER, CLIENT, ACK), PASS);
    // A RST ends what there is; it opens nothing.
    from(&mut kernel, &tcp((A.v4, 2000), SERVER, RST), PASS);
    assert!(kernel.connection(&conn(TCP, (A.v4, 2000), SERVER)).is_none());
}

#[test]
fn a_new_revision_decides_anew() {
    for from_client in [true, false] {
        let Some(mut kernel) = one_way() else { return };
        let key = conn(TCP, CLIENT, SERVER);
        let next = if from_client { tcp(CLIENT, SERVER, ACK) } else { tcp(SERVER, CLIENT, ACK) };
        from(&mut kernel, &tcp(CLIENT, SERVER, SYN), PASS);
        from(&mut kernel, &tcp(SERVER, CLIENT, SYN | ACK), PASS);
        // Still allowed, by another rule.
        kernel.policy(A, &[(PolicyKey::peer(0, Direction::Egress), Rule::Allow(22))]);
        from(&mut kernel, &next, PASS);
        assert_eq!(kernel.connection(&key).unwrap().rule, 21, "the old revision stands");
        kernel.next_revision();
        from(&mut kernel, &next, PASS);
        let entry = kernel.connection(&key).unwrap();
        assert_eq!((entry.rule, entry.revision), (22, 2));
        // For visibility: live ones go on.
        kernel.policy(A, &[(PolicyKey::peer(0, Direction::Egress), Rule::Lenient(23))]);
        kernel.next_revision();
        from(&mut kernel, &next, PASS);
        // Denied.
        kernel.policy(A, &[(PolicyKey::peer(0, Direction::Egress), Rule::Deny(24))]);
        kernel.next_revision();
        let outcome = kernel.run("from_pod", &next);
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::PolicyDeny));
        let event = outcome.event();
        assert_eq!((event.kind, event.rule), (EventKind::Revoked as u8, 24));
        assert_eq!(event.direction, Direction::Egress as u8);
        assert!(kernel.connection(&key).is_none());
        from(&mut kernel, &tcp(CLIENT, SERVER, ACK), Verdict::Drop(DropReason::PolicyDeny));
    }
}

#[test]
fn a_strict_redirect_ends_direct_connections() {
    for from_client in [true, false] {
        let Some(mut kernel) = one_way() else { return };
        from(&mut kernel, &tcp(CLIENT, SERVER, SYN), PASS);
        from(&mut kernel, &tcp(SERVER, CLIENT, SYN | ACK), PASS);
        kernel.policy(B, &[(PolicyKey::peer(0, Direction::Ingress), Rule::Strict(33))]);
        kernel.next_revision();
        let next = if from_client { tcp(CLIENT, SERVER, ACK) } else { tcp(SERVER, CLIENT, ACK) };
        kernel.at(if from_client { A } else { B });
        let outcome = kernel.run("from_pod", &next);
        // The listener would answer RST; there is none here.
        assert_eq!(outcome.verdict, NO_PROXY);
        let revoked = &outcome.events[0];
        assert_eq!(
            (revoked.kind, revoked.reason),
            (EventKind::Revoked as u8, DropReason::StrictRedirect as u8)
        );
        assert_eq!((revoked.rule, revoked.direction), (33, Direction::Ingress as u8));
        assert!(kernel.connection(&conn(TCP, CLIENT, SERVER)).is_none());
    }
}

#[test]
fn redirected_connections_stay_with_the_proxy() {
    let Some(mut kernel) = one_way() else { return };
    let key = conn(TCP, CLIENT, SERVER);
    let entry = ConnEntry {
        expires_ns: now_ns() + 1_000_000_000_000,
        revision: 1,
        flags: conn_flags::REDIRECTED | conn_flags::REPLIED,
        rule: 23,
        src_endpoint: A.id,
        dst_endpoint: B.id,
        ..ConnEntry::default()
    };
    kernel.put_connection(&key, &entry);
    // The rule is gone (plain allow): its packets go to the proxy as before.
    from(&mut kernel, &tcp(CLIENT, SERVER, ACK), NO_PROXY);
    kernel.next_revision();
    from(&mut kernel, &tcp(CLIENT, SERVER, ACK), NO_PROXY);
    assert_eq!(kernel.connection(&key).unwrap().revision, 2);
    // What the server sends on this tuple is left over from a direct connection: never to the client.
    from(&mut kernel, &tcp(SERVER, CLIENT, ACK), NO_PROXY);
    // The tuple is used again, after the rule: direct.
    from(&mut kernel, &tcp(CLIENT, SERVER, SYN), PASS);
    assert_eq!(kernel.connection(&key).unwrap().flags, 0);
    // A denial ends a redirected one too.
    kernel.put_connection(&key, &ConnEntry { revision: 1, ..entry });
    kernel.policy(A, &[]);
    from(&mut kernel, &tcp(CLIENT, SERVER, ACK), Verdict::Drop(DropReason::PolicyDenied));
    assert!(kernel.connection(&key).is_none());
}

#[test]
fn a_kept_vip_is_for_the_proxy_to_decide() {
    let Some(mut kernel) = one_way() else { return };
    let key = conn(TCP, CLIENT, (L7_VIP, 80));
    let entry = ConnEntry {
        expires_ns: now_ns() + 1_000_000_000_000,
        revision: 1,
        flags: conn_flags::REDIRECTED | conn_flags::VIP | conn_flags::REPLIED,
        src_endpoint: A.id,
        src_identity: 999,
        ..ConnEntry::default()
    };
    kernel.put_connection(&key, &entry);
    kernel.policy(A, &[]);
    kernel.next_revision();
    from(&mut kernel, &tcp(CLIENT, (L7_VIP, 80), ACK), NO_PROXY);
    let now = ConnEntry { revision: 2, src_identity: A.identity, ..entry };
    assert_eq!(kernel.connection(&key).unwrap(), now);
}

#[test]
fn a_full_map_drops_new_connections() {
    let Some(mut kernel) = Kernel::start_with(2) else { return };
    for port in [1, 2] {
        kernel.expect("from_pod", &tcp((A.v4, port), SERVER, SYN), PASS);
    }
    let full = Verdict::Drop(DropReason::ConnectionMapFull);
    kernel.expect("from_pod", &tcp((A.v4, 3), SERVER, SYN), full);
    kernel.expect("from_pod", &udp((A.v4, 3), (WORLD, 53)), Verdict::Drop(DropReason::ConnectionMapFull));
    // Those that are there live on.
    kernel.expect("from_pod", &tcp((A.v4, 1), SERVER, ACK), PASS);
}

#[test]
fn replies_to_the_proxy_that_it_no_longer_has() {
    let Some(mut kernel) = one_way() else { return };
    kernel.at(B);
    // To a reserved port and to nobody's connection: its stack would answer RST, and has no listener here.
    kernel.expect("from_pod", &tcp(SERVER, (A.v4, 60_001), SYN | ACK), NO_PROXY);
    // A pod that uses a reserved port itself is served by the entry.
    from(&mut kernel, &tcp((A.v4, 60_002), SERVER, SYN), PASS);
    from(&mut kernel, &tcp(SERVER, (A.v4, 60_002), SYN | ACK), PASS);
}

#[test]
fn a_new_revision_names_the_identities_of_now() {
    for from_client in [true, false] {
        let Some(mut kernel) = one_way() else { return };
        let key = conn(TCP, CLIENT, SERVER);
        from(&mut kernel, &tcp(CLIENT, SERVER, SYN), PASS);
        let entry = kernel.connection(&key).unwrap();
        assert_eq!((entry.src_identity, entry.dst_identity), (A.identity, B.identity));
        for (pod, identity) in [(A, 2001), (B, 2002)] {
            kernel.prefix(pod.v4, 128, identity, pod.id, abi::ipcache_flags::POD);
        }
        kernel.next_revision();
        let (pod, identity) = if from_client { (A, 2001) } else { (B, 2002) };
        kernel.at_with(pod, identity, identity);
        let next = if from_client { tcp(CLIENT, SERVER, ACK) } else { tcp(SERVER, CLIENT, ACK) };
        kernel.expect("from_pod", &next, PASS);
        let entry = kernel.connection(&key).unwrap();
        assert_eq!((entry.src_identity, entry.dst_identity, entry.revision), (2001, 2002, 2));
    }
}

#[test]
fn an_address_that_another_pod_has_now_takes_no_connection_along() {
    let Some(mut kernel) = one_way() else { return };
    let key = conn(TCP, CLIENT, SERVER);
    let successor = crate::kernel::Pod { id: 13, identity: 1004, ..A };
    from(&mut kernel, &tcp(CLIENT, SERVER, SYN), PASS);
    kernel.prefix(A.v4, 128, successor.identity, successor.id, abi::ipcache_flags::POD);
    kernel.policy(successor, &[(PolicyKey::peer(0, Direction::Ingress), Rule::Allow(41))]);
    kernel.next_revision();
    // What the server goes on sending is no reply to the successor, and nothing lets the server open.
    from(&mut kernel, &tcp(SERVER, CLIENT, ACK), Verdict::Drop(DropReason::PolicyDenied));
    assert!(kernel.connection(&key).is_none());
    // What the successor sends on the tuple of a redirected connection never meets the proxy's socket.
    let entry = ConnEntry {
        expires_ns: now_ns() + 1_000_000_000_000,
        revision: 1,
        flags: conn_flags::REDIRECTED | conn_flags::REPLIED,
        src_endpoint: A.id,
        dst_endpoint: B.id,
        ..ConnEntry::default()
    };
    kernel.put_connection(&key, &entry);
    kernel.policy(successor, &[(PolicyKey::peer(0, Direction::Egress), Rule::Allow(42))]);
    kernel.at(successor);
    kernel.expect("from_pod", &tcp(CLIENT, SERVER, ACK), NO_PROXY);
    assert!(kernel.connection(&key).is_none());
    // A direct one is decided as new.
    kernel.put_connection(&key, &ConnEntry { flags: conn_flags::REPLIED, ..entry });
    kernel.expect("from_pod", &tcp(CLIENT, SERVER, ACK), PASS);
    let entry = kernel.connection(&key).unwrap();
    assert_eq!((entry.src_endpoint, entry.src_identity, entry.rule), (13, 1004, 42));
}

#[test]
fn revisions_wrap_around() {
    let Some(mut kernel) = one_way() else { return };
    let key = conn(TCP, CLIENT, SERVER);
    kernel.config.revision = u32::MAX;
    kernel.configure();
    from(&mut kernel, &tcp(CLIENT, SERVER, SYN), PASS);
    from(&mut kernel, &tcp(SERVER, CLIENT, SYN | ACK), PASS);
    kernel.policy(A, &[]);
    from(&mut kernel, &tcp(CLIENT, SERVER, ACK), PASS);
    kernel.config.revision = 1;
    kernel.configure();
    from(&mut kernel, &tcp(CLIENT, SERVER, ACK), Verdict::Drop(DropReason::PolicyDenied));
    assert!(kernel.connection(&key).is_none());
}

#[test]
fn a_reset_of_the_proxy_ends_its_entry() {
    let Some(mut kernel) = one_way() else { return };
    for (client, server) in [(CLIENT, SERVER), ((A.v6, 1000), (B.v6, 80))] {
        let key = conn(TCP, client, server);
        let entry = ConnEntry {
            expires_ns: now_ns() + 8_000_000_000_000,
            revision: 1,
            flags: conn_flags::REDIRECTED | conn_flags::REPLIED,
            ..ConnEntry::default()
        };
        kernel.put_connection(&key, &entry);
        kernel.at(A);
        let answer = |flags| tcp(server, client, flags);
        assert_eq!(
            kernel.run_marked("to_pod", &answer(ACK), mark::UPSTREAM).verdict,
            Verdict::Pass(mark::UPSTREAM)
        );
        assert_eq!(kernel.connection(&key).unwrap(), entry);
        kernel.run_marked("to_pod", &answer(RST | ACK), mark::UPSTREAM);
        let after = kernel.connection(&key).unwrap();
        assert_eq!(after.flags, entry.flags | conn_flags::RST);
        assert_eq!(seconds_left(&after), 10);
    }
}
