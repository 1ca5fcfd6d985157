//! Who may hold how many connections.

use abi::{DropReason, account, connections_allowed, mark};

use crate::kernel::{A, B, Kernel, L7_VIP, NODE, Pod, REMOTE, Verdict, conn};
use crate::packet::*;

const PASS: Verdict = Verdict::Pass(mark::DIRECT);
const LIMIT: Verdict = Verdict::Drop(DropReason::ConnectionLimit);
/// Connections that the programs reckon with here.
const ROOM: u32 = 100;

fn small() -> Option<Kernel> {
    let mut kernel = Kernel::start()?;
    kernel.config.connections_max = ROOM;
    kernel.configure();
    Some(kernel)
}

/// Opens connections at `program`, each from another port, until one is refused; how many there are.
#[track_caller]
fn fill(kernel: &mut Kernel, program: &str, src: &str, dst: &str) -> u64 {
    for port in 1..=ROOM as u16 + 1 {
        match kernel.run(program, &udp((src, port), (dst, 53))).verdict {
            Verdict::Drop(DropReason::ConnectionLimit) => return port as u64 - 1,
            verdict => assert!(matches!(verdict, Verdict::Pass(_)), "{verdict:?}"),
        }
    }
    panic!("nothing ends it");
}

#[test]
fn one_pod_does_not_take_the_room_of_others() {
    let Some(mut kernel) = small() else { return };
    let first = fill(&mut kernel, "from_pod", A.v4, B.v4);
    assert_eq!(first, 24, "a quarter, less of the node's share");
    assert_eq!(kernel.opened(account::of(A.id, true)), first);
    // Live ones go on, also when they open again; a RST opens nothing and passes.
    kernel.expect("from_pod", &udp((A.v4, 1), (B.v4, 53)), PASS);
    kernel.expect("from_pod", &tcp((A.v4, 1), (B.v4, 80), RST), PASS);
    kernel.expect("from_pod", &tcp((A.v4, 1), (B.v4, 80), SYN), LIMIT);
    kernel.expect("from_pod", &icmp(A.v4, B.v4, 8, 0, 7), LIMIT);
    // The pod that was flooded opens its own, and the node reaches both.
    kernel.at(B);
    let second = fill(&mut kernel, "from_pod", B.v4, A.v4);
    assert!(second > 15, "{second}");
    // From elsewhere: its own account, so a flood from outside stops no calls of the pod.
    let third = fill(&mut kernel, "from_netdev", REMOTE.v4, A.v4);
    assert!(third > 10, "{third}");
    assert_eq!(kernel.opened(account::of(A.id, false)), third);
    assert_eq!(kernel.opened(account::TOTAL), first + second + third);
}

#[test]
fn the_rest_is_for_probes() {
    let Some(mut kernel) = small() else { return };
    for id in 100..100 + ROOM {
        let pod = Pod { id, ..A };
        kernel.allow_all(pod);
        kernel.at(pod);
        kernel.run("from_pod", &udp((A.v4, id as u16), (B.v4, 53)));
    }
    let total = kernel.opened(account::TOTAL);
    assert_eq!(connections_allowed(ROOM.into(), total), 0, "{total}");
    assert!(total < ROOM.into());
    kernel.at(B);
    kernel.expect("from_pod", &udp((B.v4, 1), (A.v4, 53)), LIMIT);
    for port in 1..=10 {
        kernel.expect("to_pod", &tcp((NODE, port), (B.v4, 80), SYN), Verdict::Pass(0));
    }
    assert_eq!(kernel.opened(account::NODE), 10);
}

#[test]
fn what_the_loader_took_off_may_be_opened_again() {
    let Some(mut kernel) = small() else { return };
    let mine = account::of(A.id, true);
    let first = fill(&mut kernel, "from_pod", A.v4, B.v4);
    for (account, count) in [(mine, 5_u64), (account::TOTAL, 5)] {
        kernel.release(account, count);
    }
    for port in 200..205 {
        kernel.expect("from_pod", &tcp((A.v4, port), (B.v4, 80), SYN), PASS);
    }
    kernel.expect("from_pod", &tcp((A.v4, 205), (B.v4, 80), SYN), LIMIT);
    assert_eq!(kernel.opened(mine), first + 5);
    // Put right to more than was ever counted: nothing is held.
    kernel.release(mine, 1000);
    kernel.expect("from_pod", &tcp((A.v4, 205), (B.v4, 80), SYN), PASS);
}

#[test]
fn an_entry_says_who_it_is_charged_to() {
    let Some(mut kernel) = Kernel::start() else { return };
    kernel.expect("from_pod", &tcp((A.v4, 1), (B.v4, 80), SYN), PASS);
    let entry = kernel.connection(&conn(TCP, (A.v4, 1), (B.v4, 80))).unwrap();
    assert_eq!(entry.account, account::of(A.id, true));
    // Again, and by another owner of the address.
    kernel.expect("from_pod", &tcp((A.v4, 1), (B.v4, 80), SYN), PASS);
    assert_eq!(kernel.opened(account::TOTAL), 1);
    let successor = Pod { id: 13, identity: 1004, ..A };
    kernel.allow_all(successor);
    kernel.at(successor);
    kernel.expect("from_pod", &tcp((A.v4, 1), (B.v4, 80), SYN), PASS);
    assert_eq!(kernel.opened(account::of(13, true)), 1);
    // What has no listener enters nothing.
    kernel.expect(
        "from_pod",
        &tcp((A.v4, 1), (L7_VIP, 80), SYN),
        Verdict::Drop(DropReason::ProxyUnavailable),
    );
    assert_eq!(kernel.opened(account::TOTAL), 2);
}
